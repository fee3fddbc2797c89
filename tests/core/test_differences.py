"""Differences of a cubic, whose errors are known in closed form, and their quantum."""

import pytest

from bszo.core import central_difference, forward_difference


def cubic(x: float) -> float:
    return 2.0 + 3.0 * x + 5.0 * x**2 + 7.0 * x**3


@pytest.mark.parametrize("eps", [0.5, 0.25, 2.0**-7])
def test_their_errors_are_the_taylor_terms(eps: float) -> None:
    """At 0: f' = 3, f''/2 = 5, f'''/6 = 7; powers of two make the arithmetic all but exact."""
    f_0, f_plus, f_minus = cubic(0.0), cubic(eps), cubic(-eps)
    assert forward_difference(f_plus, f_0, eps) == pytest.approx(
        3.0 + 5.0 * eps + 7.0 * eps**2, rel=1e-12
    )
    assert central_difference(f_plus, f_minus, eps) == pytest.approx(3.0 + 7.0 * eps**2, rel=1e-12)


def test_signs() -> None:
    assert forward_difference(1.0, 2.0, 0.5) == -2.0
    assert central_difference(1.0, 2.0, 0.5) == -1.0


def test_no_16_bit_quantum_and_no_overflow() -> None:
    """Losses near 0.7 apart by 1e-6 at eps 1e-4: bfloat16 would say 0 or 39, float16's range ends
    at 65504."""
    assert forward_difference(0.7 + 1e-6, 0.7, 1e-4) == pytest.approx(1e-2, rel=1e-9)
    assert forward_difference(60.0, 0.0, 1e-4) == pytest.approx(6e5)
