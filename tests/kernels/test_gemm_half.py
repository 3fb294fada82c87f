"""Products with bfloat16 and float16 weights: the bytes of float32 products with the same weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pyengine.modelfile.layout import widened
from pyengine.quantize.rounding.halves import halve_rows

from .memory import EDGES
from .products import ACTIVATIONS, SHAPES, Product, float32_product, run

KINDS = ("bfloat16", "float16")
# Rows around the tiles of 6, the 24 that are converted as they are read, and chunks of 96; columns around the steps.
MORE = (
    *((m, 70, 5) for m in (14, 18, 19, 24, 25, 95, 96, 97, 193)),
    *((m, k, 6) for m in (13, 25) for k in (1, 2, 3, 62, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300)),
)


def half_product(kind: str, seed: int, m: int, k: int, blocks: int) -> tuple[Product, Product]:
    """A product with weights in halves, and the same one in float32."""
    p = float32_product(seed, m, k, blocks)
    values = halve_rows(p.w, kind).values
    return replace(p, w=values), replace(p, w=widened(values))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("shape", (*SHAPES, *MORE), ids=str)
def test_same_bytes_as_float32(kernels, reference, shape: tuple[int, int, int], edge: str, kind: str) -> None:
    halves, floats = half_product(kind, sum(shape), *shape)
    gap = 5 if shape[0] > 1 else 0
    got = run(kernels, halves, activation="gelu", edge=edge, gap=gap)
    assert got.tobytes() == run(reference, floats, activation="gelu").tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("residual", ["none", "apart", "in place"])
@pytest.mark.parametrize("m", [8, 25])
def test_epilogues(kernels, reference, m: int, activation: str, with_bias: bool, residual: str, kind: str) -> None:
    halves, floats = half_product(kind, 7, m, 52, 5)
    changed = {"bias": halves.bias if with_bias else None, "residual": None if residual == "none" else halves.residual}
    got = run(kernels, replace(halves, **changed), activation=activation, in_place=residual == "in place")
    assert got.tobytes() == run(reference, replace(floats, **changed), activation=activation).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [(0, 1), (1, 4), (2, 7), (6, 9), (0, 9), (4, 4)], ids=str)
@pytest.mark.parametrize("m", [1, 2, 3, 6, 7, 13, 31])
def test_a_part_of_the_blocks(kernels, reference, m: int, part: tuple[int, int], kind: str) -> None:
    halves, floats = half_product(kind, 11, m, 37, 9)
    whole = run(reference, floats)
    assert run(kernels, halves, part=part).tobytes() == whole[:, 16 * part[0] : 16 * part[1]].tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 25])
def test_every_weight_counts_as_it_is(kernels, kind: str, m: int) -> None:
    """All finite halves of 65,536, subnormal ones of float16 too, times 1: NumPy's values, and torch's by the bits."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits if kind == "bfloat16" else bits.view(np.float16)
    expected = widened(values)
    normal = np.isfinite(expected) & ((np.abs(expected) >= 2.0**-126) | (expected == 0))
    values, expected = values[normal], expected[normal]
    padding = -len(values) % 16
    weights = np.concatenate([values, np.zeros(padding, values.dtype)])[:, None]
    got = run(kernels, Product(np.ones((m, 1), np.float32), weights, None, None))
    np.testing.assert_array_equal(got[:, : len(values)], np.broadcast_to(expected, (m, len(values))))
