"""Peak memory is that of the part measured."""

import sys

import pytest
import torch

from experiments.training.meters import Meters


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
    assert meters.peak_memory_bytes - quiet == pytest.approx(big, rel=0.2)


def test_clocks_add_up_over_parts_and_errors():
    meters = Meters(torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt), meters.training():
        raise KeyboardInterrupt
    first = meters.train_seconds
    with meters.training():
        pass
    assert meters.train_seconds > first > 0
    assert meters.evaluation_seconds == 0
