"""int8 products: exact integers, then one fused step, the same bytes on every instruction set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from .bounds import UNIT, assert_within
from .memory import EDGES, placed
from .products import ACTIVATIONS, SHAPES, Product, int8_product, pack_int8, run

MOST_COLUMNS = 65536  # the widest feed-forward layer that a ModelConfig allows


def exact(p: Product) -> np.ndarray:
    """X W^T in int64."""
    return p.x.astype(np.int64) @ p.w.astype(np.int64).T


def integers_only(x: np.ndarray, w: np.ndarray) -> Product:
    """Scales of 1 and nothing added: Y shows the accumulators."""
    ones = np.ones(len(x), np.float32), np.ones(len(w), np.float32)
    return Product(x, w, None, None, *ones)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bytes_as_the_reference(kernels, reference, shape: tuple[int, int, int], edge: str) -> None:
    p = int8_product(sum(shape), *shape)
    gap = 3 if shape[0] > 1 else 0
    got = run(kernels, p, activation="silu", edge=edge, gap=gap)
    assert got.tobytes() == run(reference, p, activation="silu").tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_accumulators_are_exact(kernels, shape: tuple[int, int, int]) -> None:
    p = int8_product(1000 + sum(shape), *shape)
    got = run(kernels, integers_only(p.x, p.w))
    np.testing.assert_array_equal(got, exact(p).astype(np.float32))


@pytest.mark.parametrize("k", [4, 5, 64, 1000, MOST_COLUMNS])
@pytest.mark.parametrize("w", [127, -127])
@pytest.mark.parametrize("x", [127, -127])
def test_extreme_values_do_not_saturate(kernels, x: int, w: int, k: int) -> None:
    """All products of one sign: pairs in 16 bits, and the flipped form's 255 * 127 * K in 32 bits, must hold."""
    p = integers_only(np.full((7, k), x, np.int8), np.full((16 * 5, k), w, np.int8))
    np.testing.assert_array_equal(run(kernels, p), np.float32(x * w * k))


@pytest.mark.parametrize("k", [8, 130, 2048])
def test_alternating_extremes_cancel(kernels, k: int) -> None:
    signs = np.where(np.arange(k) % 2, 127, -127).astype(np.int8)
    w = np.stack([signs, -signs, np.abs(signs), np.roll(signs, 1)] * 4)
    p = integers_only(np.stack([signs, np.abs(signs)]), w)
    np.testing.assert_array_equal(run(kernels, p), exact(p))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("residual", ["none", "apart", "in place"])
def test_epilogues(kernels, reference, activation: str | None, with_bias: bool, residual: str) -> None:
    p = int8_product(7, 8, 52, 5)
    p = replace(p, bias=p.bias if with_bias else None, residual=None if residual == "none" else p.residual)
    got = run(kernels, p, activation=activation, in_place=residual == "in place")
    assert got.tobytes() == run(reference, p, activation=activation).tobytes()


@pytest.mark.parametrize("part", [(0, 1), (1, 4), (2, 7), (6, 9), (0, 9), (4, 4)], ids=str)
@pytest.mark.parametrize("m", [1, 6, 7])
def test_a_part_of_the_blocks(kernels, reference, m: int, part: tuple[int, int]) -> None:
    """Tiles of several blocks must not change what a block gives, nor write beyond it."""
    p = int8_product(11, m, 36, 9)
    whole = run(reference, p)
    assert run(kernels, p, part=part).tobytes() == whole[:, 16 * part[0] : 16 * part[1]].tobytes()


@pytest.mark.parametrize("shape", [(5, 3, 1), (4, 512, 2), (3, 2048, 4)], ids=str)
def test_the_epilogue_against_float64(reference, shape: tuple[int, int, int]) -> None:
    """y = sum * (x_scale * w_scale) + b in one step: the sum is rounded, then the scale, then the result."""
    p = replace(int8_product(13, *shape), residual=None)
    scales = p.x_scale[:, None].astype(np.float64) * p.w_scale
    scaled = exact(p) * scales
    expected = scaled + p.bias
    bound = 1.01 * UNIT * (2 * np.abs(scaled) + np.abs(expected))
    assert_within(run(reference, p), expected, bound)


@pytest.mark.parametrize("k", [1, 7, 64, 512])
def test_quantized_product_against_the_floats_it_came_from(kernels, k: int) -> None:
    """|y - a w| <= sum |a| dw + |w| da + da dw, where da and dw are half a step of each rounding."""
    rng = np.random.default_rng(k)
    m, n = 5, 32
    a, w = rng.normal(0, 1, (m, k)).astype(np.float32), rng.normal(0, 1, (n, k)).astype(np.float32)
    w_scale = np.abs(w).max(axis=1) / 127
    w_q = np.rint(w / w_scale[:, None]).astype(np.int8)
    a_q, a_scale = np.zeros((m, k), np.int8), np.zeros(m, np.float32)
    for row in range(m):
        kernels.quantize(a[row], k, 0, a_q[row], a_scale[row : row + 1])
    y = run(kernels, Product(a_q, w_q, None, None, a_scale, w_scale.astype(np.float32)))
    slack = 1 + 1e-5  # the scales and the division are float32
    da, dw = a_scale[:, None] / 2 * slack, w_scale / 2 * slack
    a_sum, w_sum = np.abs(a).sum(axis=1)[:, None], np.abs(w).sum(axis=1)
    assert_within(y, a.astype(np.float64) @ w.T.astype(np.float64), a_sum * dw + w_sum * da + k * da * dw)


def test_padding_columns_add_nothing(kernels) -> None:
    """K = 5 is stored as 8: quantize pads the row with 0 flipped, the packed weights end in zeros."""
    x = placed(np.array([3, -1, 0.5, 2, -3], np.float32))
    q, scale = placed(np.zeros(8, np.int8)), placed(np.zeros(1, np.float32))
    kernels.quantize(x, 8, kernels.flip, q, scale)
    w = np.tile(np.array([1, 2, 3, 4, 5], np.int8), (16, 1))
    y = placed(np.zeros((1, 16), np.float32))
    ones = np.ones(16, np.float32)
    kernels.gemm_q8(q[None], ones[:1], placed(pack_int8(w)), ones, w.sum(axis=1, dtype=np.int32), y)
    expected = np.rint(x * np.float32(127 / 3)) @ np.array([1, 2, 3, 4, 5], np.float32)
    np.testing.assert_array_equal(y, expected)
