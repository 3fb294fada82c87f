"""The packed layout: its definition element by element, packing and unpacking, the table of tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyengine.canonical import ModelConfig, tensor_specs
from pyengine.modelfile.layout import (
    INT4,
    dequantize_packed,
    pack_floats,
    pack_int4,
    pack_int8,
    pack_sparse,
    pack_values,
    packed_specs,
    pad_vector,
    part_rows,
    round_up,
    stack_rows,
    unpack_sparse,
    unpack_values,
)

from pyengine.quantize.rounding.rounding import pack_parts, round_matrix

from ..canonical.configs import HEADS, decoder_only, encoder_only, random_config
from ..oracle.tiny import model_config
from .unpack import unpack_float32, unpack_int8

SIZES = ((1, 1), (1, 4), (15, 3), (16, 4), (17, 5), (31, 7), (32, 8), (33, 64), (100, 30))


def config(share: bool = True, tie: bool = True) -> ModelConfig:
    sizes: dict[str, Any] = dict(width=12, encoder=(1, 2, 20), decoder=(2, 3, 9), source_vocab=21, target_vocab=21)
    return model_config(**sizes, max_positions=32, share_embeddings=share, tie_output=tie)


def matrices(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(rows * 1000 + columns)
    small = random.integers(-127, 128, (rows, columns)).astype(np.int8)
    return small, random.standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_the_place_of_every_element(rows: int, columns: int) -> None:
    small, large = matrices(rows, columns)
    packed8, packed32 = pack_int8(small), pack_floats(large)
    assert packed8.shape == (round_up(rows, 16) // 16, round_up(columns, 4) // 4, 16, 4)
    assert packed32.shape == (round_up(rows, 16) // 16, round_up(columns, 4), 16)
    for b, g, j, i in np.ndindex(*packed8.shape):
        inside = 16 * b + j < rows and 4 * g + i < columns
        assert packed8[b, g, j, i] == (small[16 * b + j, 4 * g + i] if inside else 0)
        assert packed32[b, 4 * g + i, j] == (large[16 * b + j, 4 * g + i] if inside else 0)



@pytest.mark.parametrize("group", (32, 64, 128))
@pytest.mark.parametrize(("rows", "columns"), (*SIZES, (17, 129)))
def test_the_place_of_every_nibble(rows: int, columns: int, group: int) -> None:
    values = np.random.default_rng(rows * 1000 + columns).integers(0, 16, (rows, columns)).astype(np.uint8)
    packed = pack_int4(values, group)
    assert packed.dtype == np.uint8
    assert packed.shape == (round_up(rows, 16) // 16, round_up(columns, group) // 8, 16, 4)
    padded = np.zeros((round_up(rows, 16), round_up(columns, group)), np.uint8)
    padded[:rows, :columns] = values
    for b, line, j, i in np.ndindex(*packed.shape):
        assert packed[b, line, j, i] & 15 == padded[16 * b + j, 8 * line + i]
        assert packed[b, line, j, i] >> 4 == padded[16 * b + j, 8 * line + 4 + i]

@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_unpacking_is_the_inverse(rows: int, columns: int) -> None:
    small, large = matrices(rows, columns)
    found = unpack_int8(pack_int8(small), rows, columns)
    np.testing.assert_array_equal(found, small)
    assert found.dtype == np.int8 and found.flags.c_contiguous
    found = unpack_float32(pack_floats(large), rows, columns)
    np.testing.assert_array_equal(found, large)
    assert found.dtype == np.float32 and found.flags.c_contiguous


@pytest.mark.parametrize("weights", INT4)
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_dequantizing_packed_int4_is_packing_dequantized(rows: int, columns: int, weights: str) -> None:
    matrix = np.random.default_rng(3).normal(size=(rows, columns)).astype(np.float32)
    rounded = round_matrix(matrix, weights)
    stored = {f"x.{part}": np.ascontiguousarray(array) for part, array in pack_parts([rounded]).items()}
    found = dequantize_packed(stored, "x", rows, columns)
    np.testing.assert_array_equal(found, pack_floats(rounded.dequantize(columns)))
    assert np.abs(found - pack_floats(matrix)).max() < 0.5  # steps of about a seventh of the largest of some 100
    assert found.dtype == np.float32 and found.flags.c_contiguous


@pytest.mark.parametrize("density", (0.0, 0.3, 1.0))
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_sparse_lines_are_those_of_int8_that_are_not_zero(rows: int, columns: int, density: float) -> None:
    small, _ = matrices(rows, columns)
    packed = np.ascontiguousarray(pack_int8(small))
    packed[np.random.default_rng(2).random(packed.shape[:2]) >= density] = 0
    lines, line_start, line_quad = pack_sparse(unpack_int8(packed, rows, columns))
    assert (lines.dtype, line_start.dtype, line_quad.dtype) == (np.int8, np.int32, np.uint16)
    expected = [(b, g) for b, g in np.ndindex(*packed.shape[:2]) if packed[b, g].any()] or [(0, 0)]
    assert [(b, g) for b in range(len(packed)) for g in line_quad[line_start[b] : line_start[b + 1]]] == expected
    assert len(lines) == line_start[-1] == len(expected) and lines.flags.c_contiguous
    for line, place in zip(lines, expected, strict=True):
        np.testing.assert_array_equal(line, packed[place])
    np.testing.assert_array_equal(unpack_sparse(lines, line_start, line_quad, columns), packed)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_dequantizing_packed_is_packing_dequantized(rows: int, columns: int) -> None:
    small, _ = matrices(rows, columns)
    scale = np.random.default_rng(1).random(rows).astype(np.float32)
    expected = pack_floats(small * scale[:, None])
    stored = {"x.weight": np.ascontiguousarray(pack_int8(small)), "x.scale": pad_vector(scale)}
    found = dequantize_packed(stored, "x", rows, columns)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32 and found.flags.c_contiguous


@pytest.mark.parametrize("n", (1, 15, 16, 17))
def test_padded_vectors(n: int) -> None:
    vector = np.arange(1, n + 1, dtype=np.float32)
    padded = pad_vector(vector)
    assert padded.shape == (round_up(n, 16),) and padded.dtype == np.float32
    np.testing.assert_array_equal(padded[:n], vector)
    assert not padded[n:].any()


@pytest.mark.parametrize("weights", ("int8", "float32"))
@pytest.mark.parametrize("seed", range(20))
def test_every_canonical_tensor_is_packed_once(weights: str, seed: int) -> None:
    model = random_config(seed)
    specs = packed_specs(model, weights)
    sources = [source for spec in specs.values() if spec.kind != "scale" for source in spec.sources]
    assert sorted(sources) == sorted(tensor_specs(model))
    scales = [name for name, spec in specs.items() if spec.kind == "scale"]
    matrices = [name for name, spec in specs.items() if spec.kind == "weight"]
    assert scales == ([name.replace(".weight", ".scale") for name in matrices] if weights == "int8" else [])
    for name, spec in specs.items():
        size = int(np.prod(spec.shape)) * {"I8": 1, "F32": 4}[spec.dtype]
        assert size % 64 == 0, name


def test_rows_of_gate_and_up_alternate() -> None:
    """16 of each in turn; where there are fewer, zeros: 20 rows are two blocks of each."""
    gate, up = np.full((20, 3), 1), np.full((20, 3), 2)
    stacked = stack_rows([gate, up], "alternating")
    expected = [1] * 16 + [2] * 16 + [1] * 4 + [0] * 12 + [2] * 4 + [0] * 12
    np.testing.assert_array_equal(stacked, np.repeat(np.array(expected)[:, None], 3, axis=1))


@pytest.mark.parametrize("form", ("stacked", "alternating"))
@pytest.mark.parametrize("count", (1, 16, 20, 33))
def test_parts_are_found_again(form: str, count: int) -> None:
    parts = [np.random.default_rng(i).normal(size=(count, 5)).astype(np.float32) for i in range(2)]
    stacked = stack_rows(parts, form)
    for part, rows in zip(parts, part_rows([count, count], form), strict=True):
        np.testing.assert_array_equal(stacked[rows], part)
    vectors = [part[:, 0] for part in parts]
    for vector, found in zip(vectors, unpack_values(pack_values(vectors, form), [(count,)] * 2, form), strict=True):
        np.testing.assert_array_equal(found, vector)


def test_a_relative_bias_has_edges() -> None:
    """A vector of 16 may be loaded where only one of its values is inside."""
    table = np.arange(1, 11, dtype=np.float32).reshape(2, 5)
    packed = pack_values([table], "edged")
    assert packed.shape == (round_up(2 * 37, 16),) and packed.dtype == np.float32
    for row, values in enumerate(packed[: 2 * 37].reshape(2, 37)):
        np.testing.assert_array_equal(values, [table[row, 0]] * 16 + table[row].tolist() + [table[row, 4]] * 16)
    np.testing.assert_array_equal(unpack_values(packed, [(2, 5)], "edged")[0], table)


def test_names_and_order() -> None:
    expected = [
        "encoder.positions",
        "encoder.layers.0.self_attention.qkv",
        "encoder.layers.0.self_attention.output",
        "encoder.layers.0.self_attention.norm",
        "encoder.layers.0.ffn.up",
        "encoder.layers.0.ffn.down",
        "encoder.layers.0.ffn.norm",
        "decoder.embed",
        "decoder.positions",
    ]
    for i in range(2):
        expected += [f"decoder.layers.{i}.self_attention.{part}" for part in ("qkv", "output", "norm")]
        expected += [f"decoder.layers.{i}.cross_attention.{part}" for part in ("q", "kv", "output", "norm")]
        expected += [f"decoder.layers.{i}.ffn.{part}" for part in ("up", "down", "norm")]
    expected.append("output")

    def groups(model: ModelConfig, weights: str = "int8") -> list[str]:
        specs = packed_specs(model, weights)
        return list(dict.fromkeys(n if s.kind == "table" else n.rpartition(".")[0] for n, s in specs.items()))

    assert groups(config()) == groups(config(tie=False)) == groups(config(), "float32") == expected
    assert groups(config(share=False)) == ["encoder.embed", *expected]
    parts = [name for name in packed_specs(config(), "int8") if name.startswith(("output", "decoder.embed"))]
    assert parts == ["decoder.embed.weight", "decoder.embed.scale", "output.bias"]
    untied = [name for name in packed_specs(config(tie=False), "int8") if name.startswith("output")]
    assert untied == ["output.weight", "output.scale", "output.bias"]


def test_shapes() -> None:
    specs = packed_specs(config(), "int8")
    qkv = specs["encoder.layers.0.self_attention.qkv.weight"]
    assert qkv.shape == (3, 3, 16, 4)  # 36 rows in three panels, stacked before padding
    assert qkv.sources == tuple(f"encoder.layers.0.self_attention.{part}.weight" for part in "qkv")
    assert specs["encoder.layers.0.self_attention.qkv.bias"].shape == (48,)
    assert specs["decoder.layers.0.ffn.down.weight"].shape == (1, 3, 16, 4)  # K = 9 in three groups
    assert specs["decoder.layers.0.ffn.norm.weight"].shape == (16,)
    assert specs["output.bias"].shape == (32,)
    assert packed_specs(config(), "float32")["decoder.layers.0.ffn.down.weight"].shape == (1, 12, 16)
    assert specs["encoder.positions"].shape == (32 * 12,)


def test_names_and_shapes_of_a_decoder_alone() -> None:
    specs = packed_specs(decoder_only(), "int8")
    layer = "decoder.layers.0"
    names = [name.removeprefix(f"{layer}.") for name in specs if name.startswith(layer)]
    assert names == [
        "self_attention.qkv.weight", "self_attention.qkv.scale", "self_attention.q_norm.weight",
        "self_attention.k_norm.weight", "self_attention.output.weight", "self_attention.output.scale",
        "self_attention.norm.weight", "self_attention.after.weight", "ffn.gate_up.weight", "ffn.gate_up.scale",
        "ffn.down.weight", "ffn.down.scale", "ffn.norm.weight", "ffn.after.weight",
    ]  # fmt: skip
    assert specs[f"{layer}.self_attention.qkv.weight"].shape == (13, 20, 16, 4)  # 120 + 40 + 40 rows
    gate_up = specs[f"{layer}.ffn.gate_up.weight"]
    assert gate_up.shape == (14, 20, 16, 4) and gate_up.form == "alternating"  # 7 panels each, of 100 rows
    assert gate_up.sources == (f"{layer}.ffn.gate.weight", f"{layer}.ffn.up.weight")
    assert specs["rope.near.frequencies"].shape == (16,) and specs["rope.far.frequencies"].shape == (32,)
    assert [name for name in specs if ".layers." not in name] == [
        "rope.far.frequencies", "rope.near.frequencies", "decoder.embed.weight", "decoder.embed.scale",
        "decoder.norm.weight",
    ]  # fmt: skip


def test_names_and_shapes_of_heads() -> None:
    """A tied output is its bias alone."""
    config = encoder_only(heads=HEADS)

    def found(weights: str) -> dict[str, tuple[int, ...]]:
        specs = packed_specs(config, weights)
        return {name.removeprefix("head."): s.shape for name, s in specs.items() if name.startswith("head.")}

    vectors = {"classes.dense.bias": (16,), "classes.out.bias": (16,), "words.dense.bias": (16,),
               "words.norm.weight": (16,), "words.norm.bias": (16,), "words.out.bias": (32,)}  # fmt: skip
    matrices = ("classes.dense", "classes.out", "words.dense")
    assert found("float32") == {**vectors, **{f"{name}.weight": (1, 12, 16) for name in matrices}}
    int8 = {"weight": (1, 3, 16, 4), "scale": (16,)}
    assert found("int8") == {**vectors, **{f"{name}.{part}": int8[part] for name in matrices for part in int8}}
    int4 = {"weight": (1, 4, 16, 4), "scale": (16,), "group_scale": (2, 1, 16)}
    assert found("int4g32") == {**vectors, **{f"{name}.{part}": int4[part] for name in matrices for part in int4}}


def test_names_and_shapes_of_an_encoder_alone() -> None:
    encoder = replace(encoder_only().encoder, relative_reach=5, slopes=True)
    specs = packed_specs(encoder_only(encoder=encoder), "float32")
    found = {name: spec.shape for name, spec in specs.items() if ".layers." not in name}
    assert found == {
        "encoder.embed.weight": (2, 8, 16),
        "encoder.positions": (256,),
        "encoder.types": (16,),
        "encoder.embed.norm.weight": (16,),
        "encoder.embed.norm.bias": (16,),
        "encoder.embed.project.weight": (1, 8, 16),
        "encoder.embed.project.bias": (16,),
        "encoder.relative": (round_up(3 * 43, 16),),
        "encoder.slopes": (16,),
    }
