"""Time of `import bszo` beyond that of `import torch`: `python -m scripts.maintain.import_time`.

Ten fresh interpreters time each, in turn, and the medians are printed. bszo's optimizers load at
their first use, so the time includes that use. Exit code 1 where the difference is 0.3 s or more,
or where transformers is loaded on the way.
"""

import statistics
import subprocess
import sys

REPEATS = 10
MOST_SECONDS = 0.3
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
TORCH = TIMED.format("import torch")
BSZO = TIMED.format("import torch, bszo; bszo.BSZO") + (
    "; import sys; assert 'transformers' not in sys.modules, 'bszo imports transformers'"
)


def seconds(code: str) -> float:
    """What a fresh interpreter prints for the code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip().splitlines()[-1])
    return float(done.stdout)


def main() -> int:
    pairs = [(seconds(TORCH), seconds(BSZO)) for _ in range(REPEATS)]
    torch, bszo = (statistics.median(times) for times in zip(*pairs, strict=True))
    more = statistics.median(ours - theirs for theirs, ours in pairs)
    print(
        f"import torch {torch:.2f} s, with bszo {bszo:.2f} s, difference {more:.2f} s"
        f" (medians of {REPEATS})"
    )
    return int(more >= MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
