"""Products with block-sparse int8 weights: the bytes of the dense int8 product on the matrix with its zeros."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from .memory import EDGES
from .products import ACTIVATIONS, SHAPES, Product, int8_product, run, thinned

DENSITIES = (0.0, 0.1, 0.5, 1.0)
MOST_COLUMNS = 65536

# Rows through every tile and every remainder of one, and row distances that share sets of a cache.
TALL = (
    *((m, 24, 3) for m in (*range(14, 31), 36, 37, 47, 48, 49, 60, 61, 72, 96)),
    *((m, k, 2) for k in (2048, 4096) for m in (7, 8, 9, 15, 16, 17, 29, 33)),
    (25, 40, 35),
    *((m, k, 12) for k in (4, 60, 64, 65, 132) for m in (24, 53)),  # whose rows are packed where few lines are zero
    *((m, k, 5) for k in (4096, 4100) for m in (24, 50)),  # the most columns that are, and more
)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("density", [0.0, 0.5, *(pytest.param(d, marks=pytest.mark.exhaustive) for d in (0.1, 1.0))])
@pytest.mark.parametrize("shape", (*SHAPES, *TALL), ids=str)
def test_same_bytes_as_the_dense_reference(kernels, reference, shape, density: float, edge: str) -> None:
    p = thinned(int8_product(sum(shape), *shape), density)
    gap = 3 if shape[0] > 1 and shape[1] < 2048 else 0
    got = run(kernels, p, activation="silu", edge=edge, gap=gap, sparse=True)
    assert got.tobytes() == run(reference, p, activation="silu").tobytes()


@pytest.mark.parametrize("m", [1, 4, 24])
@pytest.mark.parametrize("columns", [4, 5, 64, 1000, MOST_COLUMNS])
@pytest.mark.parametrize("w", [127, -127])
@pytest.mark.parametrize("x", [127, -127])
def test_extreme_values_do_not_saturate(kernels, x: int, w: int, columns: int, m: int) -> None:
    """All products of one sign, and in the second block only the last line, whose number must hold in 16 bits."""
    weights = np.full((32, columns), w, np.int8)
    weights[16:, : (columns - 1) // 4 * 4] = 0
    ones = np.ones(m, np.float32), np.ones(32, np.float32)
    p = Product(np.full((m, columns), x, np.int8), weights, None, None, *ones)
    expected = np.float32(x) * weights.sum(axis=1, dtype=np.int64)
    np.testing.assert_array_equal(run(kernels, p, sparse=True), np.tile(expected, (m, 1)).astype(np.float32))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("residual", ["none", "apart", "in place"])
@pytest.mark.parametrize("m", [1, 8, 31])
def test_epilogues(kernels, reference, activation: str | None, with_bias: bool, residual: str, m: int) -> None:
    p = thinned(int8_product(7, m, 52, 5), 0.5)
    p = replace(p, bias=p.bias if with_bias else None, residual=None if residual == "none" else p.residual)
    got = run(kernels, p, activation=activation, in_place=residual == "in place", sparse=True)
    assert got.tobytes() == run(reference, p, activation=activation).tobytes()


@pytest.mark.parametrize("part", [(0, 1), (1, 4), (2, 7), (6, 9), (0, 9), (4, 4), (3, 35), (18, 36)], ids=str)
@pytest.mark.parametrize("m", [1, 7, 24, 31])
def test_a_part_of_the_blocks(kernels, reference, m: int, part: tuple[int, int]) -> None:
    p = thinned(int8_product(11, m, 36, 36), 0.5)
    whole = run(reference, p)
    assert run(kernels, p, part=part, sparse=True).tobytes() == whole[:, 16 * part[0] : 16 * part[1]].tobytes()


@pytest.mark.parametrize("density", DENSITIES)
def test_a_row_gives_the_same_alone_and_in_any_company(kernels, density: float) -> None:
    p = thinned(int8_product(17, 61, 260, 9), density)
    whole = run(kernels, p, sparse=True)
    for rows in (slice(0, 1), slice(60, 61), slice(3, 5), slice(7, 20), slice(20, 44), slice(1, 61)):
        some = replace(p, x=p.x[rows], x_scale=p.x_scale[rows], residual=p.residual[rows])
        assert run(kernels, some, sparse=True).tobytes() == whole[rows].tobytes()
