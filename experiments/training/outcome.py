"""Outcomes of a run and their exit codes."""

EXIT_CODES = {
    "ok": 0,
    "crashed": 1,
    "diverged": 3,
    "out_of_memory": 4,
    "busy": 5,
    "interrupted": 130,
}


class RunFailed(Exception):
    """One run of a sweep did not end well; the others go on.

    Args:
        line: what happened.
        code: the exit code for it.
        already_printed: whether the line has reached whoever started the sweep. What a Slurm job
            prints goes to a file, so that the sweep has to print it.
    """

    def __init__(self, line: str, code: int, already_printed: bool = True) -> None:
        super().__init__(line, code, already_printed)  # all, so that a worker process can send it
        self.line, self.code, self.already_printed = line, code, already_printed
