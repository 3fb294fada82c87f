"""Fits over what rows keep, against factorizations, and Gram matrices that rounding has made a little indefinite."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.errors import OptionError
from pyengine.quantize.prune.gram import fit_support, ridge_step

from ..layers import gram, inputs, weights


def indefinite(columns: int, lowest: float) -> np.ndarray:
    """Eigenvalues of about 1, but for one of ``lowest``."""
    directions, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((columns, columns)))
    return directions @ np.diag([lowest, *np.ones(columns - 1)]) @ directions.T


def test_the_steps_are_those_of_a_factorization_a_row() -> None:
    residual, full = weights(7, 40).astype(np.float64), gram(inputs(300, 40))
    keep = np.random.default_rng(2).random(residual.shape) < 0.6
    keep[0], keep[1] = True, False
    ridge = 0.01
    found = fit_support(residual, full, keep, ridge)
    damped = full + ridge * np.trace(full) / 40 * np.eye(40)
    for step, row, kept in zip(found, residual, keep, strict=True):
        assert not step[~kept].any()
        if kept.any():
            expected = np.linalg.solve(damped[np.ix_(kept, kept)], row[kept])
            np.testing.assert_allclose(step[kept], expected, rtol=1e-2, atol=3e-3 * np.abs(expected).max())


def test_more_damping_where_a_little_is_not_enough() -> None:
    residual, full = weights(20, 30).astype(np.float64), indefinite(30, -0.05)
    found = fit_support(residual, full, np.ones(residual.shape, bool), 0.01)
    expected = ridge_step(residual, full, 0.01)
    np.testing.assert_allclose(found, expected, atol=3e-3 * np.abs(expected).max())


def test_no_damping_repairs_a_negative_matrix() -> None:
    with pytest.raises(OptionError, match="positive semidefinite"):
        fit_support(np.ones((1, 3)), -np.eye(3), np.ones((1, 3), bool), 0.01)
