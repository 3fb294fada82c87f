"""What float32 rounding may do, for bounds that are derived and not guessed.

A sum of n terms in any order, fused or not, errs by at most n u sum|terms| to first order (Higham, Accuracy and
Stability of Numerical Algorithms, 2002, chapter 4); u = 2^-24 is half a unit in the last place of 1.
"""

from __future__ import annotations

import numpy as np

__all__ = ["EXP_ERROR", "TANH_ERROR", "UNIT", "assert_within", "chain"]

UNIT = 2.0**-24

# Relative error of pe_exp as base/mathf.h states it; test_activations.py holds it to that.
EXP_ERROR = 2e-7

# Absolute error of pe_tanh: that of its exponential, and four roundings; likewise.
TANH_ERROR = EXP_ERROR + 4 * UNIT


def chain(n: int) -> int:
    """The longest chain of additions in a sum of n floats in 16 lanes: within a lane, then halves onto halves."""
    return -(-n // 16) + 4


def assert_within(got: np.ndarray, expected: np.ndarray, bound: np.ndarray | float) -> None:
    """|got - expected| <= bound everywhere; says where not, and how much of the bound was used."""
    error = np.abs(np.asarray(got, np.float64) - expected)
    allowed = np.broadcast_to(np.asarray(bound, np.float64), error.shape)
    if not np.all(error <= allowed):  # also where something is NaN
        worst = np.unravel_index(np.nanargmax(np.where(np.isnan(error), np.inf, error - allowed)), error.shape)
        raise AssertionError(
            f"at {tuple(map(int, worst))}: {np.asarray(got)[worst]!r}, expected {np.asarray(expected)[worst]!r} "
            f"within {allowed[worst]:.3g}; {np.count_nonzero(~(error <= allowed))} of {error.size} are off"
        )
