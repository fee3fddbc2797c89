"""How a run ends, as an exit code."""

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
        heard: whether what it said on stderr reaches whoever started the sweep; a Slurm job's is in
            a file.
    """

    def __init__(self, line: str, code: int, heard: bool = True) -> None:
        super().__init__(line, code, heard)  # all, so that a worker process can send it
        self.line, self.code, self.heard = line, code, heard
