"""What stands in a closure's place during a replay."""

from bszo.errors import TrajectoryError


class Logged:
    """() -> the next loss of one logged step.

    Args:
        left: the step's numbers, the next one last; they are taken off.
        step: its number, for messages.

    Raises:
        TrajectoryError: from a call: there is none left.
    """

    def __init__(self, left: list[float], step: int) -> None:
        self.left, self.step = left, step

    def __call__(self) -> float:
        if not self.left:
            raise TrajectoryError(
                f"step {self.step}: the method asks for more losses than the run took"
            )
        return self.left.pop()

    def loss_and_slope(self) -> tuple[float, float]:
        """What a forward-mode pass found (`bszo.perturb.LossOracle.slope`)."""
        return self(), self()
