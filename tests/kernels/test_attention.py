"""Attention over pages: the same bytes on every instruction set, and softmax(scale q K^T) V within its bound."""

from __future__ import annotations

import numpy as np
import pytest

from ..oracle.attention import attention, multi_head_attention
from .bounds import EXP_ERROR, UNIT, assert_within
from .memory import EDGES, Buffer, placed
from .pages import KINDS, PAGE, attend, head_bytes, store
from .products import Product, run

DIMS = (*range(1, 11), 15, 16, 17, 31, 32, 33, 63, 64, 65, 80, 127, 128, 255, 256)
COUNTS = (*range(1, 19), 31, 32, 33, 47, 48, 49, 64, 100, 257)


def random_heads(seed: int, n: int, heads: int, d: int, size: float = 1.0):
    rng = np.random.default_rng(seed)
    q = rng.normal(0, size, (heads, d)).astype(np.float32)
    k, v = rng.normal(0, size, (2, n, heads, d)).astype(np.float32)
    return q, k, v


def scale_of(d: int) -> float:
    return float(np.float32(1) / np.sqrt(np.float32(d)))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(("heads", "d"), [*((2, d) for d in DIMS), *((heads, 32) for heads in (1, 3, 4, 5, 8, 9))])
def test_stored_tokens(kernels, heads: int, d: int, edge: str) -> None:
    """Each slot as the layout draws it, of all sizes, zeros and what is nearly zero included; no other byte changes."""
    _, k, v = random_heads(d, PAGE, heads, d, 3.0)
    k[3], v[5], k[7, 0], v[7, -1] = 0, 0, 1e-31, 1e-31
    expected = store(kernels, "int8", k, v)[0]
    page = Buffer((heads * head_bytes("int8", d),), np.uint8, edge)
    for slot in np.random.default_rng(d).permutation(PAGE):
        kernels.store(placed(k[slot], edge), placed(v[slot], edge), page.array, slot)
    assert page.array.tobytes() == expected.tobytes()
    page.assert_clean_outside()


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", DIMS)
def test_head_widths(kernels, reference, d: int, kind: str, edge: str) -> None:
    q, k, v = random_heads(d, 21, 2, d)
    got = attend(kernels, kind, q, k, v, scale_of(d), edge)
    assert got.tobytes() == attend(reference, kind, q, k, v, scale_of(d)).tobytes()


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", COUNTS)
def test_key_counts(kernels, reference, n: int, kind: str, edge: str) -> None:
    q, k, v = random_heads(n, n, 1, 20, 2.0)
    got = attend(kernels, kind, q, k, v, scale_of(20), edge)
    assert got.tobytes() == attend(reference, kind, q, k, v, scale_of(20)).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [1, 3, 4, 5, 8, 9, 16])
def test_head_counts(kernels, reference, heads: int, kind: str) -> None:
    q, k, v = random_heads(heads, 40, heads, 32, 2.0)
    got = attend(kernels, kind, q, k, v, scale_of(32))
    parts = (slice(h, h + 1) for h in range(heads))
    alone = [attend(reference, kind, q[part], k[:, part], v[:, part], scale_of(32)) for part in parts]
    assert got.tobytes() == np.concatenate(alone).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.0, 1e-3, 8.0, 30.0])
def test_flat_and_sharp_softmax(kernels, reference, size: float, kind: str) -> None:
    """Scores of 0, of hundreds, and of thousands: one key takes all, the others' e^x is 0."""
    q, k, v = random_heads(3, 50, 2, 24, size)
    got = attend(kernels, kind, q, k, v, scale_of(24))
    assert np.all(np.isfinite(got))
    assert got.tobytes() == attend(reference, kind, q, k, v, scale_of(24)).tobytes()


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)], ids=str)
def test_int8_extremes_do_not_saturate(kernels, signs: tuple[int, int]) -> None:
    """All of q, k and v at +-127: every product has its largest size. Equal keys, so that the mean comes out."""
    q = np.full((1, 256), signs[0], np.float32)
    k = np.full((40, 1, 256), signs[1], np.float32)
    v = np.full((40, 1, 256), 3 * signs[0], np.float32)
    assert_within(attend(kernels, "int8", q, k, v, scale_of(256)), v[0], 3 * 200 * UNIT)


def relative_error_of_weights(scores: np.ndarray, error_of_scores: float) -> float:
    """First-order bound of a softmax weight's relative error in pages: e^x, its argument, sums and rescaling."""
    pages = -(-len(scores) // PAGE)
    spread = scores.max() - scores.min()
    return 2 * ((pages + 1) * (EXP_ERROR + spread * UNIT + 2 * error_of_scores) + (len(scores) + 3 * pages) * UNIT)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("d", [1, 3, 16, 20, 64, 256])
def test_float32_against_float64(reference, d: int, n: int) -> None:
    q, k, v = random_heads(7 * n + d, n, 1, d)
    scale = scale_of(d)
    magnitude = scale * (np.abs(k[:, 0]) @ np.abs(q[0])).max()
    relative = relative_error_of_weights(scale * (k[:, 0] @ q[0]), (d + 1) * UNIT * magnitude)
    bound = relative * attention(q[0], k[:, 0], np.abs(v[:, 0]), scale)
    assert_within(attend(reference, "float32", q, k, v, scale)[0], attention(q[0], k[:, 0], v[:, 0], scale), bound)


def rounded(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as the cache stores them: int8 values as float64, and their scales."""
    scale = np.abs(rows).max(axis=-1, keepdims=True) * np.float32(1 / 127)
    return np.rint(rows / scale.astype(np.float64)), scale.astype(np.float64)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("d", [1, 3, 16, 20, 64, 256])
def test_int8_against_float64(reference, d: int, n: int) -> None:
    """Exact for the rounded q, k and v, but for the weights, which are off by half of 1/127 of their page's largest."""
    q, k, v = random_heads(7 * n + d, n, 1, d)
    scale = scale_of(d)
    (q_int, q_scale), (k_int, k_scale), (v_int, v_scale) = rounded(q[0]), rounded(k[:, 0]), rounded(v[:, 0])
    scores = scale * ((k_int * k_scale) @ (q_int * q_scale))
    weights = np.exp(scores - scores.max())
    expected = weights @ (v_int * v_scale) / weights.sum()

    bound = np.zeros(d)
    for page in range(0, n, PAGE):
        own = slice(page, page + PAGE)
        unit = (weights[own] * v_scale[own, 0]).max() / 127
        bound += 0.5 * (1 + 1e-4) * unit * np.abs(v_int[own]).sum(axis=0) / weights.sum()
    relative = relative_error_of_weights(scores, 5 * UNIT * np.abs(scores).max()) + 5 * UNIT
    bound += relative * (weights @ np.abs(v_int * v_scale)) / weights.sum()
    assert_within(attend(reference, "int8", q, k, v, scale)[0], expected, bound)


@pytest.mark.parametrize("d", [1, 4, 8, 64])
def test_textbook_attention(kernels, d: int) -> None:
    """All queries and keys are ones: values 1, 2, 3, 4 weigh 1/4 each and give 2.5."""
    q, k = np.ones((1, d), np.float32), np.ones((4, 1, d), np.float32)
    v = np.repeat(np.array([1, 2, 3, 4], np.float32), d).reshape(4, 1, d)
    np.testing.assert_array_equal(attend(kernels, "float32", q, k, v, scale_of(d)), np.float32(2.5))
    # int8: each weight is off by at most half of 1/127 of the largest, that of the value 4; four of them, each 1/4.
    assert_within(attend(kernels, "int8", q, k, v, scale_of(d)), np.float64(2.5), 4 * 0.5 * (4 / 127) / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_key_gives_its_value(kernels, kind: str) -> None:
    q, k, v = random_heads(1, 1, 3, 24)
    values, scales = rounded(v[0])
    expected = values * scales if kind == "int8" else v[0]
    assert_within(attend(kernels, kind, q, k, v, scale_of(24)), expected, 4 * UNIT * np.abs(v).max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_keys_does_not_matter(reference, kind: str) -> None:
    """Within one page, in float32 up to rounding: attention is a sum."""
    q, k, v = random_heads(2, 16, 1, 24)
    shuffled = np.random.default_rng(0).permutation(16)
    one, other = (attend(reference, kind, q, k[o], v[o], scale_of(24)) for o in (np.arange(16), shuffled))
    assert_within(one, other, 64 * UNIT * np.abs(v).max())


@pytest.mark.parametrize(("heads", "d"), [(1, 48), (3, 16), (4, 12), (16, 3)])
def test_multi_head_equals_its_heads_concatenated_and_projected(kernels, heads: int, d: int) -> None:
    q, k, v = random_heads(heads, 19, heads, d)
    w = np.random.default_rng(9).normal(0, 0.2, (32, 48)).astype(np.float32)
    concatenated = attend(kernels, "float32", q, k, v, scale_of(d)).reshape(1, 48)
    projected = run(kernels, Product(concatenated, w, None, None))[0]
    # Each head within its bound (test_float32_against_float64; here below 100 u), then 48 roundings.
    magnitude = np.abs(w).sum(axis=1) * np.abs(v).max()
    assert_within(projected, multi_head_attention(q, k, v, w), (100 + 48) * UNIT * magnitude)
