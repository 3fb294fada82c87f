"""Products with int4 weights: exact integers in each group, then fused steps, the same bytes on every machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from .bounds import UNIT, assert_within
from .memory import EDGES
from .products import ACTIVATIONS, SHAPES, Product, int4_product, run

GROUPS = (32, 64, 128)
# Around whole groups and around the columns that a tile expands at a time; rows around what one panel serves.
EDGES_OF_K = (1, 31, 32, 33, 64, 96, 127, 128, 129, 160, 192, 255, 256, 257, 384, 416)
SHAPES_Q4 = (*SHAPES, *((7, k, 4) for k in EDGES_OF_K), *((m, 160, 5) for m in (95, 96, 97, 192, 193, 200)))
SCALE = np.float16(0.5)


def dequantized(p: Product) -> np.ndarray:
    """W / w_scale in float64 [N, K], by the definition."""
    columns = np.arange(p.w.shape[1]) // p.group
    scale = p.group_scale.astype(np.float64)[:, columns]
    return scale * (p.w.astype(np.float64) - (8 if p.group_zero is None else p.group_zero[:, columns]))


def plain(x: np.ndarray, q: np.ndarray, group: int, zero: int | None = None) -> Product:
    """Scales of 1/2 and nothing added: each group adds half an integer, so that Y is exact."""
    n, groups = len(q), -(-q.shape[1] // group)
    group_zero = None if zero is None else np.full((n, groups), zero, np.uint8)
    ones = np.ones(len(x), np.float32), np.ones(n, np.float32)
    return Product(x, q, None, None, *ones, group, np.full((n, groups), SCALE), group_zero)


@pytest.mark.parametrize("zero_points", [False, True], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", SHAPES_Q4, ids=str)
def test_same_bytes_as_the_reference(
    kernels, reference, shape: tuple[int, int, int], group: int, zero_points: bool
) -> None:
    p = int4_product(sum(shape), *shape, group, zero_points)
    expected = run(reference, p, activation="silu").tobytes()
    for edge in EDGES:
        got = run(kernels, p, activation="silu", edge=edge, gap=3 if shape[0] > 1 else 0)
        assert got.tobytes() == expected, edge


@pytest.mark.parametrize("zero_points", [False, True], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", [(5, 3, 1), (4, 512, 2), (3, 2048, 4), (1, 8192, 1)], ids=str)
def test_the_reference_against_float64(reference, shape: tuple[int, int, int], group: int, zero_points: bool) -> None:
    """Each of the G fused steps rounds a sum of at most sum |terms|; then the scale and the result are rounded."""
    p = replace(int4_product(13 + sum(shape), *shape, group, zero_points), residual=None)
    scales = p.x_scale[:, None].astype(np.float64) * p.w_scale
    expected = p.x.astype(np.float64) @ dequantized(p).T * scales + p.bias
    size = np.abs(p.x.astype(np.float64)) @ np.abs(dequantized(p)).T * scales
    steps = p.group_scale.shape[1] + 2
    assert_within(run(reference, p), expected, 1.01 * UNIT * (steps * size + np.abs(expected)))


@pytest.mark.parametrize("zero", [None, 0, 15])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("q", [0, 15])
@pytest.mark.parametrize("x", [127, -127])
@pytest.mark.parametrize("m", [1, 9])
def test_extreme_values_do_not_saturate(kernels, m: int, x: int, q: int, group: int, zero: int | None) -> None:
    """All products of one sign over K = 8,192: 8 pairs in 16 bits, and all sums below 2^24, must hold."""
    k = 8192
    p = plain(np.full((m, k), x, np.int8), np.full((80, k), q, np.uint8), group, zero)
    np.testing.assert_array_equal(run(kernels, p), np.float32(x * (q - (8 if zero is None else zero)) * k / 2))


@pytest.mark.parametrize("m", [1, 9])
@pytest.mark.parametrize("shift", [0, 1])
def test_every_value_at_every_place(kernels, m: int, shift: int) -> None:
    """One column of X at a time is not zero: Y shows each q, low nibbles and high ones, and each zero point."""
    k, n = 64, 64
    q = ((np.arange(n)[:, None] * 7 + np.arange(k) * 3 + shift) % 16).astype(np.uint8)
    zero = ((np.arange(n)[:, None] * 5 + np.arange(k // 32) * 3 + shift) % 16).astype(np.uint8)
    for group_zero, expected in ((None, q - 8.0), (zero, q - np.repeat(zero, 32, axis=1).astype(float))):
        products = (replace(plain(np.tile(x, (m, 1)), q, 32), group_zero=group_zero) for x in np.eye(k, dtype=np.int8))
        got = np.stack([run(kernels, p)[-1] for p in products])
        np.testing.assert_array_equal(got, expected.T / 2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("residual", ["none", "apart", "in place"])
@pytest.mark.parametrize("m", [8, 10])
def test_epilogues(kernels, reference, m: int, activation: str | None, with_bias: bool, residual: str) -> None:
    p = int4_product(7, m, 52, 5, 32, with_bias)
    p = replace(p, bias=p.bias if with_bias else None, residual=None if residual == "none" else p.residual)
    got = run(kernels, p, activation=activation, in_place=residual == "in place")
    assert got.tobytes() == run(reference, p, activation=activation).tobytes()


@pytest.mark.parametrize("part", [(0, 1), (1, 4), (2, 7), (6, 9), (0, 9), (4, 4)], ids=str)
@pytest.mark.parametrize("m", [1, 6, 11])
def test_a_part_of_the_blocks(kernels, reference, m: int, part: tuple[int, int]) -> None:
    """Tiles of several blocks must not change what a block gives, nor write beyond it."""
    p = int4_product(11, m, 200, 9, 64, True)
    whole = run(reference, p)
    assert run(kernels, p, part=part).tobytes() == whole[:, 16 * part[0] : 16 * part[1]].tobytes()


@pytest.mark.parametrize("zero_points", [False, True], ids=["symmetric", "zero points"])
@pytest.mark.parametrize("group", GROUPS)
def test_a_row_alone_is_the_row_among_others(kernels, group: int, zero_points: bool) -> None:
    p = int4_product(3, 97, 300, 6, group, zero_points)
    among = run(kernels, p, activation="gelu")
    for count in (1, 2, 5, 8, 9, 96):
        some = replace(p, x=p.x[:count], x_scale=p.x_scale[:count], residual=p.residual[:count])
        assert run(kernels, some, activation="gelu").tobytes() == among[:count].tobytes(), count


@pytest.mark.parametrize("m", [1, 9])
def test_every_half_is_its_float(kernels, m: int) -> None:
    """All finite halves as scales, subnormal ones too."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    scale = halves[np.isfinite(halves)].reshape(-1, 64).T
    for first in range(0, scale.shape[1], 8):
        some = np.s_[:, first : first + 8]
        k = 32 * scale[some].shape[1]
        x, q = np.zeros((1, k), np.int8), np.full((64, k), 9, np.uint8)
        for group in range(k // 32):
            x[:] = 0
            x[0, 32 * group] = 1
            p = plain(np.tile(x, (m, 1)), q, 32)
            p = replace(p, group_scale=scale[some])
            np.testing.assert_array_equal(run(kernels, p)[-1], scale[:, first + group].astype(np.float32))
