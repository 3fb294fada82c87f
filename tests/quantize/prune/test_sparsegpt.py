"""Compensation against its definition, one weight after another, and never worse than a mask alone."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.errors import OptionError
from pyengine.quantize.prune.gram import inverse_factor, ridge_step, row_errors
from pyengine.quantize.prune.masks import Blocks, NOfM, Pattern, RowShare, obs_scores
from pyengine.quantize.prune.sparsegpt import prune_sparse

from .layers import gram, inputs, weights

PATTERNS: tuple[Pattern, ...] = (RowShare(0.5), NOfM(2, 4), NOfM(3, 10), Blocks(0.3))
SHAPES = ((5, 9), (20, 64), (33, 150), (16, 260))


def test_the_factor_is_that_of_the_inverse() -> None:
    h = gram(inputs(0, 100, 20))
    factor = inverse_factor(h, 1e-3)
    damped = h + 1e-3 * np.trace(h) / 20 * np.eye(20)
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(20), atol=1e-9)
    np.testing.assert_array_equal(factor, np.triu(factor))
    singular = gram(inputs(1, 5, 20))
    assert np.isfinite(inverse_factor(singular, 1e-20)).all()  # with more damping than was asked for
    assert np.isfinite(inverse_factor(np.zeros((3, 3)), 0.01)).all()


def test_what_is_no_gram() -> None:
    for bad, message in (
        (np.ones((2, 3)), r"a square matrix, found shape \[2, 3\]"),
        (np.full((2, 2), np.nan), "finite numbers"),
        (-np.eye(2) + 2 * np.eye(2)[::-1], "positive semidefinite"),
    ):
        with pytest.raises(OptionError, match=f"gram: expected .*{message}"):
            inverse_factor(bad, 0.01)
        with pytest.raises(OptionError, match=f"gram: expected .*{message}"):
            ridge_step(bad, bad, 0.01)
    with pytest.raises(OptionError, match="damping: expected a positive number, found 0"):
        inverse_factor(np.eye(2), 0)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fit", (False, True))
def test_never_worse_than_the_mask_alone(pattern: Pattern, shape: tuple[int, int], fit: bool) -> None:
    for count in (10 * shape[1], shape[1] // 2):  # a singular gram, too
        w, h = weights(2, *shape), gram(inputs(3, count, shape[1]))
        found = prune_sparse(w, h, pattern, fit=fit)
        assert found.weight.dtype == np.float32 and not found.weight[~found.keep].any()
        errors, masked = row_errors(w - found.weight, h), row_errors(w * ~found.keep, h)
        assert (errors <= masked).all()
        energy = row_errors(w, h).sum()
        assert found.error == pytest.approx(errors.sum() / energy)
        assert found.masked_error == pytest.approx(masked.sum() / energy)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_mask_has_the_pattern(pattern: Pattern) -> None:
    found = prune_sparse(weights(4, 40, 256), gram(inputs(5, 500, 256)), pattern)
    step = pattern.span or 128
    for start in range(0, 256, step):
        piece = found.keep[:, start : start + step]
        np.testing.assert_array_equal(piece, pattern.keep(piece.astype(np.float32)))


@pytest.mark.parametrize("pattern", (RowShare(0.5), Blocks(0.5), NOfM(2, 4)), ids=str)
def test_each_column_is_made_up_for_by_those_behind_it(pattern: Pattern) -> None:
    """The same by least squares: what is behind column k is fitted anew each time that a weight goes."""
    rows, columns = 17, 12
    w, h = weights(6, rows, columns), gram(inputs(7, 200, columns))
    found = prune_sparse(w, h, pattern, damping=1e-3, fit=False)
    damped = h + 1e-3 * np.trace(h) / columns * np.eye(columns)
    for n in range(rows):
        row = w[n].astype(np.float64)
        for k in np.flatnonzero(~found.keep[n]):
            behind = slice(k + 1, columns)
            row[behind] += row[k] * np.linalg.solve(damped[behind, behind], damped[behind, k])
            row[k] = 0.0
        masked = w[n] * found.keep[n]
        if row_errors(row[None] - w[n], h) <= row_errors(masked[None] - w[n], h):
            np.testing.assert_allclose(found.weight[n], row, rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(found.weight[n], masked)


@pytest.mark.parametrize("pattern", (RowShare(0.5), Blocks(0.5), NOfM(2, 4)), ids=str)
def test_the_fit_is_the_best_for_its_mask(pattern: Pattern) -> None:
    w, x = weights(6, 17, 24), inputs(7, 200, 24)
    found = prune_sparse(w, gram(x), pattern, damping=1e-9)
    best = np.zeros(w.shape)
    for row, kept, whole in zip(best, found.keep, w):
        row[kept] = np.linalg.lstsq(x[:, kept], x @ whole, rcond=None)[0]
    errors, least = (row_errors(weight - w.astype(np.float64), gram(x)) for weight in (found.weight, best))
    np.testing.assert_allclose(errors, least, rtol=5e-3)
    assert found.error < prune_sparse(w, gram(x), pattern, damping=1e-9, fit=False).error


def test_better_than_any_mask_on_correlated_inputs() -> None:
    w, x = weights(8, 64, 128), inputs(9, 1000, 128, rank=60) + inputs(10, 1000, 128) / 30
    h = gram(x)
    pattern = RowShare(0.5)
    best = pattern.keep(obs_scores(w, inverse_factor(h, 0.01)))
    assert prune_sparse(w, h, pattern).error < 0.5 * row_errors(w * ~best, h).sum() / row_errors(w, h).sum()


def test_nothing_to_remove_changes_nothing() -> None:
    w, h = weights(11, 20, 140), gram(inputs(12, 300, 140))
    for pattern in (RowShare(0.0), NOfM(4, 4), Blocks(0.0)):
        found = prune_sparse(w, h, pattern)
        assert found.keep.all() and found.error == 0.0
        np.testing.assert_array_equal(found.weight, w)


def test_inputs_that_are_always_zero_go_first() -> None:
    x = inputs(13, 300, 32)
    x[:, ::2] = 0
    w = weights(14, 16, 32)
    found = prune_sparse(w, gram(x), RowShare(0.5), damping=1e-9)
    np.testing.assert_array_equal(found.keep, np.arange(32) % 2 == 1 + np.zeros((16, 1)))
    assert found.error == 0.0
