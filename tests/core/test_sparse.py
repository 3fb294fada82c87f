"""Block-sparse weights: the bytes of the same weights stored dense, on every instruction set, batch and team."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pyengine import _core
from pyengine.errors import EngineError, ModelFileError
from pyengine.modelfile import layout

from .models import TinyModel, new_session, step

SIZES = {"width": 32, "encoder": (2, 2, 64), "decoder": (2, 4, 240)}  # 240: the last task has fewer blocks


def with_zeros(density: float) -> tuple[TinyModel, TinyModel]:
    """A model whose layers have blocks of zeros, dense and sparse."""
    dense = TinyModel.random("int8", **SIZES)
    rng = np.random.default_rng(4)
    packed, sparse = dict(dense.packed), dict(dense.packed)
    for name, (rows, columns) in layout.matrix_shapes(dense.config).items():
        if ".layers." in name:
            weight = packed[f"{name}.weight"].copy()
            weight[rng.random(weight.shape[:2]) >= density] = 0
            packed[f"{name}.weight"] = weight
            matrix = weight.transpose(0, 2, 1, 3).reshape(len(weight) * 16, -1)
            lines, starts, quads = layout.pack_sparse(matrix)
            sparse[f"{name}.weight"] = np.ascontiguousarray(lines)
            sparse |= {f"{name}.line_start": layout.pad_table(starts), f"{name}.line_quad": layout.pad_table(quads)}
            layout.check_lines(sparse, name, rows, columns)
    return replace(dense, packed=packed), replace(dense, packed=sparse)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("density", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("isa", _core.available_isas())
def test_the_bytes_of_dense_weights(isa: str, density: float, threads: int) -> None:
    rng = np.random.default_rng(1)
    sources = {i: rng.integers(0, 23, rng.integers(1, 30)).tolist() for i in range(9)}
    found = []
    for model in with_zeros(density):
        session = new_session(model.core(kv="int8", isa=isa), threads=threads)
        first = step(session, sources=sources, rows=[(i, i, [22]) for i in sources], full_logits=True)
        second = step(session, rows=[(i, i, [int(i)]) for i in (2, 5)], full_logits=True)
        found.append([each.logits.tobytes() for each in (first, second)])
    assert found[0] == found[1]


@pytest.mark.parametrize(("name", "message"), [("decoder.embed", "embedding tables"), ("output", "output layer")])
def test_what_is_read_by_rows_is_dense(name: str, message: str) -> None:
    model = TinyModel.random("int8", tie_output=False, share_embeddings=False)
    weight = model.packed[f"{name}.weight"]
    lines, starts, quads = layout.pack_sparse(weight.transpose(0, 2, 1, 3).reshape(len(weight) * 16, -1))
    tables = {f"{name}.line_start": layout.pad_table(starts), f"{name}.line_quad": layout.pad_table(quads)}
    with pytest.raises(EngineError, match=message):
        replace(model, packed={**model.packed, f"{name}.weight": lines, **tables}).core()


def test_a_weight_of_128_is_refused() -> None:
    _, sparse = with_zeros(0.5)
    weight = sparse.packed["decoder.layers.0.ffn.up.weight"].copy()
    weight[-1, 3, 2] = -128
    with pytest.raises(ModelFileError, match="found -128"):
        replace(sparse, packed={**sparse.packed, "decoder.layers.0.ffn.up.weight": weight}).core()


@pytest.mark.parametrize(
    ("table", "place", "value", "message"),
    [
        ("line_start", 0, 1, "line_start: expected"),
        ("line_start", 1, 10**6, "line_start: expected"),
        ("line_start", 1, -1, "line_start: expected"),
        ("line_start", 2, 10**6, "line_start: expected"),
        ("line_start", slice(0, 5), [0, 2**31 - 1, -(2**31), -1, 32], "line_start: expected"),
        ("line_quad", 0, 8, "line_quad: expected numbers below 8"),
        ("line_quad", 1, 0, "line_quad: expected numbers below 8, ascending in each panel"),
    ],
)
def test_tables_that_lie(table: str, place: int | slice, value: int | list[int], message: str) -> None:
    rng = np.random.default_rng(2)
    lines, starts, quads = layout.pack_sparse(rng.integers(1, 9, (64, 32)).astype(np.int8))
    stored = {"x.weight": lines, "x.line_start": layout.pad_table(starts), "x.line_quad": layout.pad_table(quads)}
    layout.check_lines(stored, "x", 64, 32)
    stored[f"x.{table}"][place] = value
    with pytest.raises(ValueError, match=message):
        layout.check_lines(stored, "x", 64, 32)
