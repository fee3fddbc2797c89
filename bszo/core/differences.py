"""Directional derivatives from loss values.

The losses are Python floats, which have 53 bits, so that the difference of two close losses loses
nothing more to rounding.
"""


def forward_difference(f_plus: float, f_0: float, eps: float) -> float:
    """(f(theta + eps z) - f(theta)) / eps, which is z^T grad f + O(eps)."""
    return (f_plus - f_0) / eps


def central_difference(f_plus: float, f_minus: float, eps: float) -> float:
    """(f(theta + eps z) - f(theta - eps z)) / (2 eps), which is z^T grad f + O(eps^2)."""
    return (f_plus - f_minus) / (2.0 * eps)


def clipped(y: float, limit: float | None) -> float:
    """max(-limit, min(limit, y)); y itself where there is no limit."""
    return y if limit is None else max(-limit, min(limit, y))
