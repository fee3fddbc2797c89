"""Memory that is freed stays with the process that asks for it, and with no other."""

import os
import subprocess
import sys

import pytest

from bszo.allocator import CHOSEN, _of_glibc

needs_glibc = pytest.mark.skipif(_of_glibc("mallopt") is None, reason="no glibc here")

# as a forward pass does: pieces of 3 MB, written, all freed before the next pass
PASSES = """
import resource
from bszo.allocator import give_back_freed_memory, keep_freed_memory
from experiments.training.resident import resident_now

def faults(passes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(passes):
        pieces = [bytearray(3 << 20) for _ in range(8)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(10))
print(keep_freed_memory())
faults(1)
print(faults(10))
held = resident_now()
give_back_freed_memory()
print(held - resident_now())
"""


def run(**variables: str) -> list[str]:
    clean = {k: v for k, v in os.environ.items() if k not in (*CHOSEN, "GLIBC_TUNABLES")}
    command = [sys.executable, "-c", PASSES]
    return subprocess.check_output(command, env=clean | variables, text=True).split()


@needs_glibc
def test_a_pass_takes_the_pages_of_the_one_before() -> None:
    before, kept, after, given_back = run()
    assert int(before) > 1_000  # of ten passes of 6,144 pages of 4 KB
    assert kept == "True"
    assert int(after) < 100
    assert int(given_back) > 20 * 2**20  # of the 24 MB of a pass


@needs_glibc
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072"),
    ],
)
def test_what_the_user_has_set_stays(name: str, value: str) -> None:
    _, kept, after, _ = run(**{name: value})
    assert kept == "False"
    assert int(after) > 1_000
