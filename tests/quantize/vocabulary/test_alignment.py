"""Aligning by IBM model 1: against loops over sentences, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

import pyengine
from pyengine.quantize.vocabulary import alignment


def test_alignment_is_model_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against loops over sentences, however the text is cut into blocks."""
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.integers(0, 9, n).tolist() for n in rng.integers(1, 7, 2)) for _ in range(40)]
    table = np.ones((9, 9))
    for _ in range(4):
        counts = np.zeros((9, 9))
        for left, right in pairs:
            for word in right:
                shares = np.array([table[other, word] for other in left])
                for other, share in zip(left, shares / shares.sum(), strict=True):
                    counts[other, word] += share
        table = counts / counts.sum(axis=1, keepdims=True)
    sides = [alignment.Side.of(side) for side in zip(*pairs, strict=True)]
    for size in (1, 30, 4_000_000):
        monkeypatch.setattr(alignment, "BLOCK_PAIRS", size)
        keys, found = alignment.align(*sides, 9, 4)
        np.testing.assert_allclose(found, table.ravel()[keys], atol=1e-12)
        assert len(keys) == np.count_nonzero(counts)


def test_long_sentences_count_but_are_not_aligned() -> None:
    pairs = [([1], [2]), ([3] * 201, [4]), ([3], [4] * 201)]
    options = dict(candidates=5, frequent=9, iterations=2, always=[0], one_vocabulary=False)
    made = alignment.build_shortlist(pairs, (6, 7), **options)
    assert made.offsets.tolist() == [0, 0, 1, 1, 1, 1, 1] and made.ids.tolist() == [2]
    assert made.frequent.tolist() == [0, 2, 4]
    with pytest.raises(pyengine.InputError, match="more than 200 tokens"):
        alignment.build_shortlist(pairs[1:], (6, 7), **options)
