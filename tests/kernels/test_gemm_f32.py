"""float32 products: one chain of fused multiply-adds over K, the same bytes on every instruction set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from .bounds import UNIT, assert_within
from .memory import EDGES
from .products import ACTIVATIONS, SHAPES, Product, float32_product, run


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_bytes_as_the_reference(kernels, reference, shape: tuple[int, int, int], edge: str) -> None:
    p = float32_product(sum(shape), *shape)
    gap = 5 if shape[0] > 1 else 0
    got = run(kernels, p, activation="gelu", edge=edge, gap=gap)
    assert got.tobytes() == run(reference, p, activation="gelu").tobytes()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("residual", ["none", "apart", "in place"])
def test_epilogues(kernels, reference, activation: str | None, with_bias: bool, residual: str) -> None:
    p = float32_product(7, 8, 52, 5)
    p = replace(p, bias=p.bias if with_bias else None, residual=None if residual == "none" else p.residual)
    got = run(kernels, p, activation=activation, in_place=residual == "in place")
    assert got.tobytes() == run(reference, p, activation=activation).tobytes()


@pytest.mark.parametrize("part", [(0, 1), (1, 4), (2, 7), (6, 9), (0, 9), (4, 4)], ids=str)
@pytest.mark.parametrize("m", [1, 6, 7])
def test_a_part_of_the_blocks(kernels, reference, m: int, part: tuple[int, int]) -> None:
    p = float32_product(11, m, 37, 9)
    whole = run(reference, p)
    assert run(kernels, p, part=part).tobytes() == whole[:, 16 * part[0] : 16 * part[1]].tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(reference, shape: tuple[int, int, int]) -> None:
    """K fused steps, the bias and the residual: K + 2 roundings of at most the sum of magnitudes."""
    p = float32_product(17 + sum(shape), *shape)
    x, w = p.x.astype(np.float64), p.w.astype(np.float64)
    expected = x @ w.T + p.bias + p.residual
    magnitude = np.abs(x) @ np.abs(w).T + np.abs(p.bias) + np.abs(p.residual)
    assert_within(run(reference, p), expected, (shape[1] + 2) * UNIT * magnitude)


@pytest.mark.parametrize("k", [1, 2, 17, 300])
def test_small_integers_are_exact(kernels, k: int) -> None:
    rng = np.random.default_rng(k)
    x, w = rng.integers(-9, 10, (7, k)), rng.integers(-9, 10, (80, k))
    got = run(kernels, Product(x.astype(np.float32), w.astype(np.float32), None, None))
    np.testing.assert_array_equal(got, x @ w.T)


def test_large_and_tiny_values(kernels, reference) -> None:
    """Cancellation, subnormal products and results near the largest float keep their order of summation."""
    rng = np.random.default_rng(5)
    x = (rng.normal(0, 1, (7, 40)) * 10.0 ** rng.integers(-22, 18, (7, 40))).astype(np.float32)
    w = (rng.normal(0, 1, (80, 40)) * 10.0 ** rng.integers(-22, 18, (80, 40))).astype(np.float32)
    p = Product(x, w, None, None)
    assert run(kernels, p).tobytes() == run(reference, p).tobytes()
