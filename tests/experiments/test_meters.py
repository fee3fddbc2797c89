"""Peak memory and time are those of the part measured."""

import resource
import sys
import time
from pathlib import Path

import pytest
import torch

from experiments.training.meters import Meters
from experiments.training.resident import resident_now


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux can reset the peak resident set"
)
def test_peak_memory_sees_what_is_gone_again_and_forgets_what_was_before():
    big = 200 << 20
    meters = Meters(torch.device("cpu"))
    before = torch.ones(big, dtype=torch.uint8)
    del before
    with meters.training():
        pass
    quiet = meters.peak_memory_bytes
    with meters.training():
        held = torch.ones(big, dtype=torch.uint8)
        del held
    assert quiet is not None and meters.peak_memory_bytes is not None
    assert (peak := meters.peak_memory_bytes) - quiet == pytest.approx(big, rel=0.2)
    with meters.training():
        pass
    assert meters.peak_memory_bytes == peak  # of all parts


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="the system counts no pages")
def test_the_resident_set_is_that_of_the_system_s_pages():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert resident_now() == pytest.approx(pages * resource.getpagesize(), rel=0.01)


def test_clocks_add_up_over_parts_and_errors():
    meters = Meters(torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt), meters.training():
        raise KeyboardInterrupt
    first = meters.train_seconds
    with meters.training():
        pass
    assert meters.train_seconds > first > 0
    assert meters.evaluation_seconds == 0


def test_a_step_is_in_milliseconds_and_a_slow_first_one_does_not_count():
    meters = Meters(torch.device("cpu"))
    with meters.step():
        time.sleep(0.02)
    assert 20 <= meters.step_ms[0] < 20_000
    meters.step_ms = [100.0, 1.0, 1.0]
    assert meters.median_step_ms == 1.0
