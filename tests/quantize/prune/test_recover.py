"""Recovery is least squares against the teacher, keeps the mask, and never makes a row worse."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.quantize.prune.recover import TeacherStatistics, recover

from .layers import inputs, weights


def teach(x: np.ndarray, y: np.ndarray) -> TeacherStatistics:
    statistics = TeacherStatistics(x.shape[1], y.shape[1])
    for start in range(0, len(x), 7):
        statistics.add(x[start : start + 7], y[start : start + 7])
    return statistics


def errors(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return np.square(x.astype(np.float64) @ weight.T + bias - y).sum(axis=0)


@pytest.mark.parametrize("count", (3, 30, 300))
@pytest.mark.parametrize("masked", (False, True))
def test_never_worse(count: int, masked: bool) -> None:
    x, w, b = inputs(0, count, 20), weights(1, 9, 20), weights(2, 1, 9)[0]
    y = (x @ weights(3, 9, 20).T + inputs(4, count, 9)).astype(np.float64)
    keep = weights(5, 9, 20) > 0 if masked else None
    w = w if keep is None else w * keep
    for ridge in (1e-6, 1e-2, 100.0):
        found = recover(w, b, teach(x, y), keep=keep, ridge=ridge)
        before, after = errors(x, y, w, b), errors(x, y, found.weight, found.bias)
        assert (after <= before * (1 + 1e-6) + 1e-9 * np.square(y).sum()).all()
        variance = np.square(y - y.mean(axis=0)).sum()
        assert found.error_before == pytest.approx(before.sum() / variance, rel=1e-5)
        assert found.error == pytest.approx(after.sum() / variance, rel=1e-4, abs=1e-8)
        assert found.error <= found.error_before
        assert keep is None or not found.weight[~keep].any()


def test_it_is_least_squares_with_an_intercept() -> None:
    x, w, b = inputs(6, 200, 10), weights(7, 4, 10), np.zeros(4, np.float32)
    y = x @ weights(8, 4, 10).T + 5 + inputs(9, 200, 4)
    keep = weights(10, 4, 10) > -0.5
    found = recover(w * keep, b, teach(x, y), keep=keep, ridge=1e-12)
    for n in range(4):
        design = np.concatenate([x[:, keep[n]], np.ones((200, 1))], axis=1).astype(np.float64)
        best = np.linalg.lstsq(design, y[:, n], rcond=None)[0]
        np.testing.assert_allclose(found.weight[n, keep[n]], best[:-1], rtol=1e-3, atol=1e-3)
        assert found.bias[n] == pytest.approx(best[-1], rel=1e-3)


def test_a_teacher_that_agrees_changes_nothing() -> None:
    x, w = inputs(11, 100, 10).round(1), weights(12, 4, 10).round(1)
    b = np.arange(4, dtype=np.float32)
    found = recover(w, b, teach(x, x.astype(np.float64) @ w.T + b))
    np.testing.assert_allclose(found.weight, w, atol=1e-5)
    np.testing.assert_allclose(found.bias, b, atol=1e-4)
    assert found.error < 1e-9


def test_rows_that_keep_nothing_get_the_mean() -> None:
    x, y = inputs(13, 50, 6), inputs(14, 50, 3)
    nothing = np.zeros((3, 6), bool)
    found = recover(nothing.astype(np.float32), np.zeros(3, np.float32), teach(x, y), keep=nothing)
    assert not found.weight.any() and found.error == pytest.approx(1.0)
    np.testing.assert_allclose(found.bias, y.mean(axis=0), rtol=1e-4)
