"""The estimators P1 to P4: exact expectations over their laws, from the formulas as printed."""

import math

import pytest

from bszo.core import Law, drawn, forward_difference, geometric, outcomes, zipf

MU = 0.1
LAWS = {
    "geometric": geometric(MU, 0.5, 6),
    "geometric, flat": geometric(MU, 0.8, 3),
    "zipf": zipf(MU, 3.5, 6),
}
ESTIMATORS = ("p1", "p2", "p3", "p4")


def f(a: float) -> float:
    """Smooth along the line, with a derivative of 2 at 0, a curvature and more."""
    return 3.0 + math.sin(2.0 * a) + 1.5 * a * a + math.exp(-a) + a


def value(weights: dict[float, float]) -> float:
    return sum(w * f(a) for a, w in weights.items())


def mean(estimator: str, law: Law, power: int = 1) -> float:
    """The expectation of a power of the estimate, by enumeration of what may be drawn."""
    total = 0.0
    for n, p in enumerate(law.probabilities):
        found = outcomes(estimator, law, n)
        total += p * sum(value(weights) ** power for weights in found) / len(found)
    return total


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_mean_is_the_forward_difference_at_the_least_length(estimator: str, law: Law) -> None:
    least = law.lengths[-1]
    wanted = forward_difference(f(least), f(0.0), least)
    assert mean(estimator, law) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_longer_sum_loses_the_bias(estimator: str) -> None:
    """f' = 2 cos 0 - exp 0 + 1 = 2; the bias is f''/2 = 2 times the least length."""
    for terms in (2, 8, 16):
        law = geometric(MU, 0.5, terms)
        bias = mean(estimator, law) - 2.0
        assert bias == pytest.approx(2.0 * MU / 2**terms, rel=0.03)


def test_laws_are_the_printed_ones() -> None:
    law = geometric(MU, 0.25, 3)
    assert law.lengths == pytest.approx((MU, MU / 4, MU / 16, MU / 64))
    assert law.probabilities == pytest.approx((16 / 21, 4 / 21, 1 / 21))
    law, zeta = zipf(MU, 4.0, 3), math.pi**4 / 90
    tails = [zeta, zeta - 1, zeta - 1 - 1 / 16, zeta - 1 - 1 / 16 - 1 / 81]
    assert law.lengths == pytest.approx([MU * tail / zeta for tail in tails])
    harmonic = 1 + 1 / 16 + 1 / 81
    assert law.probabilities == pytest.approx((1 / harmonic, 1 / 16 / harmonic, 1 / 81 / harmonic))


def test_the_second_summand_is_the_same_for_every_term() -> None:
    """On a parabola it is -(mu_1 - mu_{N+1}) f''/2 whatever n is: P4 has no variance there."""
    law = geometric(MU, 0.5, 5)
    for n in range(5):
        (weights,) = outcomes("p4", law, n)
        estimate = sum(w * (7.0 + 2.0 * a + 3.0 * a * a) for a, w in weights.items())
        assert estimate == pytest.approx(2.0 + 3.0 * law.lengths[-1], rel=1e-11)


@pytest.mark.parametrize(
    ("estimator", "counts"),
    [("p4", [{3}, {4}]), ("p3", [{2, 3}, {2, 3}]), ("p2", [{2}, {2}]), ("p1", [{1}, {1}])],
)
def test_the_losses_that_are_taken(estimator: str, counts: list[set[int]]) -> None:
    """At the first term mu_n is mu_1, which P4 takes once; where it is the only one, not at all."""
    law = geometric(MU, 0.5, 4)
    assert [{len(w) for w in outcomes(estimator, law, n)} for n in (0, 1)] == counts
    assert outcomes("p4", geometric(1.0, 0.5, 1), 0) == [{0.0: -2.0, 0.5: 2.0}]


def test_numbers_draw_terms_and_parts_by_their_shares() -> None:
    law = geometric(MU, 0.5, 2)  # 2/3 and 1/3
    for u, v, n, part in ((0.0, 0.0, 0, 0), (0.66, 0.49, 0, 0), (0.67, 0.5, 1, 1)):
        assert drawn("p3", law, u, v) == outcomes("p3", law, n)[part]
    assert law.term(1 - 2.0**-53) == 1


def test_bad_laws_are_refused() -> None:
    for make, shape, terms in (
        (geometric, 1.0, 4),
        (geometric, 0.0, 4),
        (geometric, 0.5, 0),
        (zipf, 1.0, 4),
        (zipf, 2.0, 0),
    ):
        with pytest.raises(ValueError, match=r"valid$"):
            make(MU, shape, terms)
