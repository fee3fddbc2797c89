"""Drift of tensors, by hand."""

import math

import pytest
import torch

from experiments.training.drift import changed, drift


def test_drift_is_the_relative_distance_over_all_tensors():
    before = [torch.tensor([3.0, 0.0]), torch.tensor([0.0])]
    now = [torch.tensor([3.0, 4.0]), torch.tensor([0.0])]
    assert drift(now, before) == pytest.approx(4 / 3)
    assert changed(now, before) == pytest.approx(1 / 3)


def test_sixteen_bits_are_summed_in_float64():
    before = [torch.ones(4096, dtype=torch.bfloat16)]
    assert drift([before[0] * 2], before) == 1.0  # a sum in bfloat16 would stay at 256


def test_from_zero():
    zero, one = [torch.zeros(2)], [torch.ones(2)]
    assert drift(zero, zero) == 0.0 and drift(one, zero) == math.inf
    assert changed(one, zero) == 1.0
