"""Logged losses: what a replay gives an optimizer in place of a closure."""

from bszo.errors import TrajectoryError


class LoggedLosses:
    """A closure that returns the losses of one logged step, one a call.

    Args:
        left: the losses in reverse order; each call takes the last one off.
        step: number of the step, for messages.

    Raises:
        TrajectoryError: from a call, when no loss is left.
    """

    def __init__(self, left: list[float], step: int) -> None:
        self.left, self.step = left, step

    def __call__(self) -> float:
        if not self.left:
            raise TrajectoryError(
                f"step {self.step}: the method asks for more losses than the run took"
            )
        return self.left.pop()

    def rest(self, count: int) -> list[list[float]]:
        """All losses that are left, as those of `count` passes of equally many examples.

        Raises:
            TrajectoryError: so many passes have not taken them.
        """
        rest, self.left = self.left[::-1], []
        size, over = divmod(len(rest), count)
        if over or not size:
            raise TrajectoryError(
                f"step {self.step}: {len(rest)} losses are left, which {count} passes of equally"
                " many examples do not take"
            )
        return [rest[i * size : (i + 1) * size] for i in range(count)]

    def loss_and_slope(self) -> tuple[float, float]:
        """What a forward-mode pass found (see `bszo.perturb.LossOracle.slope`)."""
        return self(), self()
