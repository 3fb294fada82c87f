"""Attention over pages: the same bytes on every instruction set, and softmax(s) V within its bound, for scores
s = scale q K^T that may be capped and biased, over keys of which the first may be hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ..oracle.attention import attention, biased, multi_head_attention
from .bounds import EXP_ERROR, TANH_ERROR, UNIT, assert_within
from .memory import EDGES, Buffer, placed
from .pages import KINDS, PAGE, PLAIN, SPAN, STRIP, View, attend, head_bytes, store
from .products import Product, run

DIMS = (*range(1, 11), 15, 16, 17, 31, 32, 33, 63, 64, 65, 80, 127, 128, 255, 256)
COUNTS = (*range(1, 19), 31, 32, 33, 47, 48, 49, 63, 64, 65, 100, 257)
SPANS = (SPAN - 1, SPAN, SPAN + 1, 2 * SPAN + 70)
"""Counts of keys in one span and in several."""
TRAITS = ("window", "soft_cap", "relative", "slopes")


def random_heads(seed: int, n: int, heads: int, d: int, size: float = 1.0):
    rng = np.random.default_rng(seed)
    q = rng.normal(0, size, (heads, d)).astype(np.float32)
    k, v = rng.normal(0, size, (2, n, heads, d)).astype(np.float32)
    return q, k, v


def random_view(seed: int, n: int, heads: int, traits: tuple[str, ...] = TRAITS) -> View:
    """Of n keys, with these traits; queries also lie far from all keys, and tables reach less far than keys do."""
    rng = np.random.default_rng(seed)
    reach = int(rng.choice([0, 1, 5, 16, 40]))
    values = {
        "window": {"first_key": int(rng.integers(n))},
        "soft_cap": {"soft_cap": float(rng.choice([0.5, 3.0, 50.0]))},
        "relative": {"relative": rng.normal(0, 2, (heads, 2 * reach + 1)).astype(np.float32)},
        "slopes": {"slopes": rng.normal(0, 0.1, heads).astype(np.float32)},
    }
    position = int(rng.choice([0, n // 2, n - 1, n + 100, 100_000]))
    return View(position=position, **{name: value for trait in traits for name, value in values[trait].items()})


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
@pytest.mark.parametrize("n", [*COUNTS, *SPANS])
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


def relative_error_of_weights(scores: np.ndarray, error_of_scores: float, first_key: int) -> float:
    """First-order bound of a softmax weight's relative error: e^x, its argument, sums, and rescaling in strips and
    spans, each counted as whole strips."""
    strips = -(-(first_key + len(scores)) // STRIP) - first_key // STRIP + len(scores) // SPAN + 1
    spread = scores.max() - scores.min()
    return 2 * ((strips + 1) * (EXP_ERROR + spread * UNIT + 2 * error_of_scores) + (len(scores) + 3 * strips) * UNIT)


def seen_scores(products: np.ndarray, error: float, view: View) -> tuple[np.ndarray, float]:
    """Of one head's scaled products [T] in float64: the scores of those that are seen, and the bound of their error.

    tanh does not stretch the error of its argument, which takes three roundings, and has its own; each sum is rounded.
    """
    seen = products[view.first_key :]
    distance = np.arange(view.first_key, len(products)) - view.position
    relative = np.zeros(1) if view.relative is None else view.relative[0]
    slope = 0.0 if view.slopes is None else view.slopes[0]
    if view.soft_cap:
        error += 3 * UNIT * np.abs(seen).max() + (TANH_ERROR + UNIT) * view.soft_cap
    if view.relative is not None:
        error += UNIT * np.abs(biased(seen, distance, view.soft_cap, relative, 0.0)).max()
    scores = biased(seen, distance, view.soft_cap, relative, slope)
    if view.slopes is not None:
        error += UNIT * np.abs(scores).max()
    return scores, error


def assert_float32_within(reference, q: np.ndarray, k: np.ndarray, v: np.ndarray, view: View = PLAIN) -> None:
    d, scale = q.shape[1], scale_of(q.shape[1])
    magnitude = scale * (np.abs(k[:, 0]) @ np.abs(q[0])).max()
    products = scale * (k[:, 0].astype(np.float64) @ q[0].astype(np.float64))
    scores, error = seen_scores(products, (d + 1) * UNIT * magnitude, view)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    values = v[view.first_key :, 0].astype(np.float64)
    bound = relative_error_of_weights(scores, error, view.first_key) * (weights @ np.abs(values))
    assert_within(attend(reference, "float32", q, k, v, scale, view=view)[0], weights @ values, bound)


def rounded(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as the cache stores them: int8 values as float64, and their scales."""
    scale = np.abs(rows).max(axis=-1, keepdims=True) * np.float32(1 / 127)
    return np.rint(rows / scale.astype(np.float64)), scale.astype(np.float64)


def assert_int8_within(reference, q: np.ndarray, k: np.ndarray, v: np.ndarray, view: View = PLAIN) -> None:
    """Exact for the rounded q, k and v, but for the weights, off by half of 1/255 of their strip's largest."""
    scale = scale_of(q.shape[1])
    (q_int, q_scale), (k_int, k_scale), (v_int, v_scale) = rounded(q[0]), rounded(k[:, 0]), rounded(v[:, 0])
    products = scale * ((k_int * k_scale) @ (q_int * q_scale))
    scores, error = seen_scores(products, 5 * UNIT * np.abs(products).max(), view)
    weights = np.zeros(len(k))
    weights[view.first_key :] = np.exp(scores - scores.max())
    expected = weights @ (v_int * v_scale) / weights.sum()

    bound = np.zeros(q.shape[1])
    for strip in range(0, len(k), STRIP):
        own = slice(strip, strip + STRIP)
        unit = (weights[own] * v_scale[own, 0]).max() / 255
        seen = weights[own, None] > 0  # where a weight is 0, so is what it is rounded to
        bound += 0.5 * (1 + 1e-4) * unit * np.abs(v_int[own] * seen).sum(axis=0) / weights.sum()
    relative = relative_error_of_weights(scores, error, view.first_key) + 5 * UNIT
    bound += relative * (weights @ np.abs(v_int * v_scale)) / weights.sum()
    assert_within(attend(reference, "int8", q, k, v, scale, view=view)[0], expected, bound)


WITHIN = {"float32": assert_float32_within, "int8": assert_int8_within}


@pytest.mark.parametrize("n", [*COUNTS, *SPANS])
@pytest.mark.parametrize("d", [1, 3, 16, 20, 64, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_against_float64(reference, kind: str, d: int, n: int) -> None:
    WITHIN[kind](reference, *random_heads(7 * n + d, n, 1, d))


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 65, 100, 257, SPAN + 30])
@pytest.mark.parametrize("traits", [*((trait,) for trait in TRAITS), TRAITS], ids="-".join)
@pytest.mark.parametrize("kind", KINDS)
def test_views_against_float64(reference, kind: str, traits: tuple[str, ...], n: int) -> None:
    """Scores of about 10, so that caps bend them."""
    for d in (12, 20, 80, 256):
        WITHIN[kind](reference, *random_heads(7 * n + d, n, 1, d, 3.0), random_view(n + d, n, 1, traits))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("traits", [*((trait,) for trait in TRAITS), TRAITS], ids="-".join)
@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 12), marks=pytest.mark.exhaustive)], ids=str)
def test_views_on_every_instruction_set(kernels, reference, kind: str, traits: tuple[str, ...], seeds: range) -> None:
    for seed in seeds:
        rng = np.random.default_rng(seed)
        n, heads = int(rng.choice(COUNTS if seed % 4 else SPANS)), int(rng.integers(1, 10))
        q, k, v = random_heads(seed, n, heads, int(rng.choice([1, 12, 20, 64, 80, 256])), 3.0)
        scale, view, edge = scale_of(q.shape[1]), random_view(seed, n, heads, traits), EDGES[seed % 2]
        got = attend(kernels, kind, q, k, v, scale, edge, view)
        assert np.all(np.isfinite(got))
        assert got.tobytes() == attend(reference, kind, q, k, v, scale, edge, view).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_windows_at_every_offset(kernels, reference, kind: str) -> None:
    n = 140
    q, k, v = random_heads(n, n, 2, 20, 2.0)
    for first in (*range(34), *range(47, 66), *range(n - 20, n)):
        view = View(first, position=n - 1, slopes=np.array([-1, 0.1], np.float32))
        got = attend(kernels, kind, q, k, v, scale_of(20), "end", view)
        assert got.tobytes() == attend(reference, kind, q, k, v, scale_of(20), "end", view).tobytes()
        if first % STRIP == 0:  # strips before it might as well not be there
            rest = View(position=n - 1 - first, slopes=view.slopes)
            assert got.tobytes() == attend(kernels, kind, q, k[first:], v[first:], scale_of(20), "end", rest).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("traits", [("window",), TRAITS], ids="-".join)
def test_tokens_that_are_not_seen_do_not_matter(kernels, kind: str, traits: tuple[str, ...]) -> None:
    """Poison gives the bytes that keys with the largest scores of all and huge values give."""
    for seed in range(12):
        n, behind = 20 + seed, seed % 7
        q, k, v = random_heads(seed, n + behind, 4, 12)
        view = random_view(seed, n, 4, traits)
        poisoned = attend(kernels, kind, q, k[:n], v[:n], scale_of(12), "end", view)
        for hidden in (slice(0, view.first_key), slice(n, None)):
            k[hidden], v[hidden] = 1000 * q, 1e30
        assert attend(kernels, kind, q, k, v, scale_of(12), "end", view, n).tobytes() == poisoned.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_of_everything_is_none(kernels, kind: str) -> None:
    """A window from the first key on, and biases of 0."""
    q, k, v = random_heads(5, 70, 5, 20, 2.0)
    zeros = View(0, 0.0, 69, np.zeros((5, 9), np.float32), np.zeros(5, np.float32))
    plain = attend(kernels, kind, q, k, v, scale_of(20))
    assert attend(kernels, kind, q, k, v, scale_of(20), view=zeros).tobytes() == plain.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_biases_choose_keys(kernels, kind: str) -> None:
    """Queries of zeros: only biases differ, by 200, so that one key takes all; slopes take the last one."""
    _, k, v = random_heads(4, 40, 2, 12)
    q, relative = np.zeros((2, 12), np.float32), np.zeros((2, 7), np.float32)
    relative[0, 1], relative[1, 6] = 200, 200  # 2 before the query; from 3 behind it on, all alike
    values, scales = rounded(v)
    stored = values * scales if kind == "int8" else v
    got = attend(kernels, kind, q, k, v, 1.0, view=View(position=36, relative=relative))
    assert_within(got, stored[[34, 39], [0, 1]], 4 * UNIT * np.abs(v).max())
    got = attend(kernels, kind, q, k, v, 1.0, view=View(position=7, slopes=np.array([200, -200], np.float32)))
    assert_within(got, stored[[39, 0], [0, 1]], 4 * UNIT * np.abs(v).max())


@pytest.mark.parametrize("d", [1, 4, 8, 64])
def test_textbook_attention(kernels, d: int) -> None:
    """All queries and keys are ones: values 1, 2, 3, 4 weigh 1/4 each and give 2.5."""
    q, k = np.ones((1, d), np.float32), np.ones((4, 1, d), np.float32)
    v = np.repeat(np.array([1, 2, 3, 4], np.float32), d).reshape(4, 1, d)
    np.testing.assert_array_equal(attend(kernels, "float32", q, k, v, scale_of(d)), np.float32(2.5))
    # int8: each weight is off by at most half of 1/255 of the largest, that of the value 4; four of them, each 1/4.
    assert_within(attend(kernels, "int8", q, k, v, scale_of(d)), np.float64(2.5), 4 * 0.5 * (4 / 255) / 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 15, 16, 17, 40])
def test_one_key_gives_its_value(kernels, n: int, kind: str) -> None:
    """All but the last of n are before the window."""
    q, k, v = random_heads(1, n, 3, 24)
    values, scales = rounded(v[-1])
    expected = values * scales if kind == "int8" else v[-1]
    for view in (View(n - 1), replace(random_view(n, n, 3), first_key=n - 1)):
        got = attend(kernels, kind, q, k, v, scale_of(24), view=view)
        assert_within(got, expected, 4 * UNIT * np.abs(v[-1]).max())


@pytest.mark.parametrize("kind", KINDS)
def test_flat_weights(kernels, reference, kind: str) -> None:
    """Equal scores: all weights are the largest there is, of values of either sign and all of 127."""
    for n in (40, 64, 200, SPAN + 64):
        q, k, v = np.zeros((3, 80), np.float32), np.ones((n, 3, 80), np.float32), np.ones((n, 3, 80), np.float32)
        v[:, 1] = -1
        v[::3, 2] = -1
        got = attend(kernels, kind, q, k, v, 1.0)
        assert got.tobytes() == attend(reference, kind, q, k, v, 1.0).tobytes()
        assert_within(got, v.astype(np.float64).mean(axis=0), 3 * n * UNIT)


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
