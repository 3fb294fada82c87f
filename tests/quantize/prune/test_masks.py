"""Scores by their formulas, patterns against choices made one by one."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.errors import OptionError
from pyengine.quantize.prune.gram import inverse_factor
from pyengine.quantize.prune.masks import Blocks, NOfM, RowShare, magnitude_scores, obs_scores, wanda_scores

from .layers import gram, inputs, weights

SHAPES = ((1, 1), (3, 7), (16, 4), (17, 9), (40, 130))


def test_scores() -> None:
    x, w = inputs(0, 50, 12), weights(1, 5, 12)
    np.testing.assert_array_equal(magnitude_scores(w), np.abs(w))
    np.testing.assert_allclose(wanda_scores(w, gram(x)), np.abs(w) * np.linalg.norm(x, axis=0), rtol=1e-5)
    inverse = np.linalg.inv(gram(x))
    np.testing.assert_allclose(
        obs_scores(w, inverse_factor(gram(x), 1e-12)), np.square(w) / np.diagonal(inverse), rtol=1e-4
    )


def test_an_obs_score_is_what_removing_one_weight_costs() -> None:
    x, w = inputs(2, 60, 6).astype(np.float64), weights(3, 1, 6)
    for k, score in enumerate(obs_scores(w, inverse_factor(gram(x), 1e-12))[0]):
        rest = np.delete(x, k, axis=1)
        best = np.linalg.lstsq(rest, x @ w[0], rcond=None)[0]
        assert score == pytest.approx(np.square(rest @ best - x @ w[0]).sum(), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", (0.0, 0.3, 0.5, 1.0))
def test_a_share_of_each_row(shape: tuple[int, int], share: float) -> None:
    scores = np.random.default_rng(4).integers(0, 5, shape).astype(np.float32)  # with equal ones
    keep = RowShare(share).keep(scores)
    kept = shape[1] - round(share * shape[1])
    for row, mask in zip(scores, keep):
        best = sorted(range(len(row)), key=lambda k: (-row[k], k))[:kept]
        assert sorted(np.flatnonzero(mask)) == sorted(best)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n", "m"), ((1, 1), (1, 4), (2, 4), (4, 8)))
def test_n_of_m(shape: tuple[int, int], n: int, m: int) -> None:
    scores = np.random.default_rng(5).integers(0, 5, shape).astype(np.float32)
    keep = NOfM(n, m).keep(scores)
    for row, mask in zip(scores, keep):
        for start in range(0, shape[1], m):
            group = range(start, min(start + m, shape[1]))
            best = sorted(group, key=lambda k: (-row[k], k))[:n]
            assert [k for k in group if mask[k]] == sorted(best)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", (0.0, 0.3, 1.0))
def test_blocks(shape: tuple[int, int], share: float) -> None:
    scores = np.random.default_rng(6).integers(0, 9, shape).astype(np.float32)
    corners = [(n, k) for n in range(0, shape[0], 16) for k in range(0, shape[1], 4)]
    sums = [scores[n : n + 16, k : k + 4].sum() for n, k in corners]
    best = sorted(range(len(sums)), key=lambda i: (-sums[i], i))[: len(sums) - round(share * len(sums))]
    wanted = np.zeros(shape, bool)
    for n, k in (corners[i] for i in best):
        wanted[n : n + 16, k : k + 4] = True
    np.testing.assert_array_equal(Blocks(share).keep(scores), wanted)


def test_what_is_no_pattern() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(OptionError, match="share: expected a number from 0 to 1"):
            RowShare(share)
        with pytest.raises(OptionError, match="share"):
            Blocks(share)
    for n, m in ((0, 4), (5, 4)):
        with pytest.raises(OptionError, match=f"found {n} of {m}"):
            NOfM(n, m)
