"""Rows that share pages go through them together: any tiling gives the bytes of row by row, each head by itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from .memory import EDGES
from .pages import KINDS, PAGE, SPAN, STRIP, View, attend_tile, head_bytes, store
from .test_attention import TRAITS, random_heads, random_view, scale_of


def stored(kernels, kind: str, k: np.ndarray, v: np.ndarray, edge: str, sight: np.ndarray) -> list[np.ndarray | None]:
    """Pages of what the rows see; what lies before is none, and what lies behind is not there."""
    first, end = int(sight[:, 0].min()), int(sight[:, 1].max())
    pages = store(kernels, kind, k[:end], v[:end], edge, first)
    return [page if i >= first // PAGE else None for i, page in enumerate(pages)]


def one_by_one(kernels, kind: str, q: np.ndarray, pages, sight: np.ndarray, scale: float, view: View, kv: int):
    """Each row and each query head a call of its own."""
    rows, heads, d = q.shape
    group, y = heads // kv, np.empty_like(q)
    for r in range(rows):
        for h in range(heads):
            one, offset = slice(h, h + 1), h // group * head_bytes(kind, d)
            own = slice(r, r + 1)
            y[own, one] = attend_tile(
                kernels, kind, q[own, one], pages, sight[own], scale, "end", view.of_heads(one), 1, offset
            )
    return y


def causal(first: int, rows: int, before: int | None = None) -> np.ndarray:
    """A prompt's rows at positions from `first` on, that see `before` keys beside their own, or all."""
    at = np.arange(first, first + rows)
    begin = np.zeros(rows, np.int64) if before is None else np.maximum(at - before, 0)
    return np.stack([begin, at + 1, at], axis=1)


def both_ways(keys: int, rows: int, reach: int) -> np.ndarray:
    """Rows of a segment, that see `reach` keys on either side."""
    at = np.arange(rows)
    return np.stack([np.maximum(at - reach, 0), np.minimum(at + reach + 1, keys), at], axis=1)


def same(first: int, end: int, rows: int) -> np.ndarray:
    """Beams over a memory: each at a place of its own."""
    return np.stack([np.full(rows, first), np.full(rows, end), np.arange(rows) * 3], axis=1)


SIGHTS = {
    "a prompt": causal(0, 16),
    "over a page": causal(11, 13),
    "over a strip": causal(STRIP - 5, 9),
    "over a span": causal(SPAN - 6, 12),
    "later": causal(3 * STRIP + 7, 16),
    "in a window": causal(50, 16, 20),
    "in a narrow window": causal(STRIP - 7, 16, 3),
    "in a window of one": causal(STRIP - 3, 7, 0),
    "in a window over a span": causal(SPAN + 20, 16, 40),
    "in a window of spans": causal(2 * SPAN + 30, 5, SPAN),
    "a segment": both_ways(40, 16, 100),
    "a segment in windows": both_ways(90, 16, 6),
    "beams": same(0, 21, 5),
    "beams over a strip": same(0, STRIP, 4),
    "beams over spans": same(0, 2 * SPAN + 5, 4),
    "one row": same(0, 130, 1),
    "two rows": same(3, 70, 2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive) if "spans" in name else name for name in SIGHTS]
)
def test_tiles_are_rows(kernels, reference, name: str, kind: str) -> None:
    """Groups of one to eight heads, plain and with all biases; guard pages on both sides in turn."""
    sight = SIGHTS[name]
    rows, n = len(sight), int(sight[:, 1].max())
    for i, (kv, group, d) in enumerate([(1, 1, 64), (5, 1, 12), (2, 3, 20), (1, 8, 4), (3, 2, 80), (1, 2, 256)]):
        heads, edge, scale = kv * group, EDGES[i % 2], scale_of(d)
        q = np.random.default_rng(i).normal(0, 2, (rows, heads, d)).astype(np.float32)
        _, k, v = random_heads(i + n, n, kv, d, 2.0)
        for view in (View(), random_view(i, n, heads, TRAITS[1:])):
            pages = stored(reference, kind, k, v, "end", sight)
            expected = one_by_one(reference, kind, q, pages, sight, scale, view, kv)
            pages = stored(kernels, kind, k, v, edge, sight)
            got = attend_tile(kernels, kind, q, pages, sight, scale, edge, view, kv, apart=i)
            assert np.all(np.isfinite(got))
            assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_any_tiling(kernels, kind: str) -> None:
    """Rows of a prompt cut anywhere."""
    sight, rng = causal(STRIP - 9, 32, 70), np.random.default_rng(3)
    q = rng.normal(0, 2, (32, 6, 64)).astype(np.float32)
    _, k, v = random_heads(8, int(sight[-1, 1]), 2, 64, 2.0)
    view, scale = random_view(5, len(k), 6, TRAITS[1:]), scale_of(64)
    pages = stored(kernels, kind, k, v, "end", sight)
    whole = attend_tile(kernels, kind, q, pages, sight, scale, "end", view, 2)
    for _ in range(20):
        cuts = [0, *sorted(rng.choice(np.arange(1, 32), int(rng.integers(1, 12)), replace=False)), 32]
        parts = [slice(a, b) for a, b in pairwise(cuts)]
        tiles = [attend_tile(kernels, kind, q[p], pages, sight[p], scale, "start", view, 2) for p in parts]
        assert np.concatenate(tiles).tobytes() == whole.tobytes()


@pytest.mark.parametrize("q_sign", [1, -1])
@pytest.mark.parametrize("k_sign", [1, -1])
@pytest.mark.parametrize("d", [32, 92, 96, 256])
def test_int8_extremes_do_not_saturate(kernels, reference, d: int, q_sign: int, k_sign: int) -> None:
    """Whatever an instruction set adds up in 16 bits: magnitudes of four products from 254 times 127 on, which fit or
    do not in turn, all weights 255. Odd numbers of 32 bytes, the last of which may not be whole, and the most.
    """
    n, eights = STRIP + 6, -(-d // 8)
    sight, row = same(0, n, 16), np.arange(16)[:, None]
    rest = np.where(np.arange(eights) % 3 == row % 3, row, 1)
    size = np.full((16, eights, 8), 127)
    size[..., 1], size[..., 5] = rest // 2, rest - rest // 2
    size[..., 3::4] = size[..., 1::4]
    q = (q_sign * size.reshape(16, 1, -1)[..., :d]).astype(np.float32)
    k = np.full((n, 1, d), k_sign * 127, np.float32)
    v = 127.0 * np.where(np.random.default_rng(1).random((n, 1, d)) < 0.1, -1, 1).astype(np.float32)
    pages = stored(reference, "int8", k, v, "end", sight)
    expected = one_by_one(reference, "int8", q, pages, sight, scale_of(d), View(), 1)
    pages = stored(kernels, "int8", k, v, "end", sight)
    assert attend_tile(kernels, "int8", q, pages, sight, scale_of(d), "end", View(), 1).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_see_what_others_see(kernels, kind: str) -> None:
    """Keys of a prompt that only later rows see are as good as none to the others: whatever they hold, NaN too."""
    sight = causal(20, 8, 25)
    q = np.random.default_rng(1).normal(0, 2, (8, 4, 20)).astype(np.float32)
    _, k, v = random_heads(2, 28, 4, 20, 2.0)
    scale = scale_of(20)
    expected = attend_tile(kernels, kind, q, stored(kernels, kind, k, v, "end", sight), sight, scale, "end", View(), 4)
    k[27], v[27] = np.nan, np.nan
    pages = stored(kernels, kind, k, v, "end", sight)
    got = attend_tile(kernels, kind, q, pages, sight, scale, "end", View(), 4)
    assert got[:7].tobytes() == expected[:7].tobytes()
    assert np.all(np.isnan(got[7]))
