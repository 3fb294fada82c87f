"""How tensors are packed in a model directory: names, shapes and the order of elements.

A matrix W [N, K] (a linear layer y = W x, or an embedding, a row a token) is cut into panels of 16 rows; rows
and columns are padded with zeros to multiples of 16 and 4.

    int8      weight I8  [N/16, K/4, 16, 4]   weight[b, g, j, i] = q[16b + j, 4g + i]
              scale  F32 [N]                  W[n, k] = q[n, k] * scale[n]

              panel b, in memory (64 bytes a line):
                  row 16b  k 0..3 | row 16b+1  k 0..3 | ... | row 16b+15  k 0..3
                  row 16b  k 4..7 | row 16b+1  k 4..7 | ...

    sparse    lines       I8  [lines, 16, 4]  the lines of int8 that are not all zero, panel by panel
              line_start  I32 [N/16 + 1]      panel b has lines [line_start[b], line_start[b + 1])
              line_quad   U16 [lines]         g of each line, ascending in a panel
    int4      weight U8  [N/16, K/8, 16, 4]   weight[b, l, j, i] = q[16b + j, 8l + i] + 16 q[16b + j, 8l + 4 + i]
              K padded to whole groups of 32, 64 or 128 columns; their scales: csrc/kernels/kernels.h

    float32   weight F32 [N/16, K, 16]        weight[b, k, j] = W[16b + j, k]

Biases and norms are F32 [N]. Layers that read the same input are one matrix, stacked along N before padding.
Every tensor's size is a multiple of 64 bytes, so with aligned data each one is aligned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator

import numpy as np

from pyengine.canonical import ModelConfig, tensor_specs

__all__ = [
    "DTYPES",
    "WEIGHTS",
    "PackedSpec",
    "dequantize_packed",
    "pack_float32",
    "pack_int4",
    "pack_int8",
    "pack_sparse",
    "packed_specs",
    "pad_vector",
    "padded_shape",
    "round_up",
    "unpack_sparse",
]

WEIGHTS = ("float32", "int8")
DTYPES: dict[str, np.dtype[Any]] = {"I8": np.dtype(np.int8), "F32": np.dtype("<f4")}  # by safetensors' names
PANEL = 16  # rows of a panel
GROUP = 4  # columns that lie together


@dataclass(frozen=True)
class PackedSpec:
    """One tensor of model.safetensors, and the canonical tensors that it holds, stacked.

    kind "weight": packed rows of matrices; "scale": a scale for each of those rows; "vector": values.
    """

    dtype: str  # as safetensors writes it: "I8" or "F32"
    shape: tuple[int, ...]
    kind: str
    sources: tuple[str, ...]


def round_up(n: int, multiple: int) -> int:
    """``n`` rounded up to a multiple."""
    return -(-n // multiple) * multiple


def _groups(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(packed name, canonical names of its parts) in the order of use; a part has weight, bias or both."""

    def attention(name: str, fused: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for parts in fused:
            yield f"{name}.{parts}", tuple(f"{name}.{part}" for part in parts)
        yield f"{name}.output", (f"{name}.output",)
        yield f"{name}.norm", (f"{name}.norm",)

    def stack(name: str, layers: int, cross: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield f"{name}.embed", (f"{name}.embed",)
        for i in range(layers):
            layer = f"{name}.layers.{i}"
            yield from attention(f"{layer}.self_attention", ("qkv",))
            if cross:
                yield from attention(f"{layer}.cross_attention", ("q", "kv"))
            for part in ("up", "down", "norm"):
                yield f"{layer}.ffn.{part}", (f"{layer}.ffn.{part}",)

    yield from stack("encoder", config.encoder.layers, cross=False)
    yield from stack("decoder", config.decoder.layers, cross=True)
    yield "output", ("output",)


def packed_specs(config: ModelConfig, weights: str) -> dict[str, PackedSpec]:
    """Every tensor of model.safetensors for ``config``, in file order. ``weights`` is "int8" or "float32"."""
    canonical = tensor_specs(config)
    specs: dict[str, PackedSpec] = {}
    for name, parts in _groups(config):
        sources = tuple(f"{part}.weight" for part in parts if f"{part}.weight" in canonical)
        if sources and canonical[sources[0]].kind == "vector":
            rows = round_up(sum(canonical[source].shape[0] for source in sources), PANEL)
            specs[f"{name}.weight"] = PackedSpec("F32", (rows,), "vector", sources)
        elif sources:
            stacked = sum(canonical[source].shape[0] for source in sources)
            rows, columns = padded_shape(stacked, canonical[sources[0]].shape[1])
            if weights == "int8":
                shape: tuple[int, ...] = (rows // PANEL, columns // GROUP, PANEL, GROUP)
                specs[f"{name}.weight"] = PackedSpec("I8", shape, "weight", sources)
                specs[f"{name}.scale"] = PackedSpec("F32", (rows,), "scale", sources)
            else:
                shape = (rows // PANEL, columns, PANEL)
                specs[f"{name}.weight"] = PackedSpec("F32", shape, "weight", sources)
        sources = tuple(f"{part}.bias" for part in parts if f"{part}.bias" in canonical)
        if sources:
            rows = round_up(sum(canonical[source].shape[0] for source in sources), PANEL)
            specs[f"{name}.bias"] = PackedSpec("F32", (rows,), "vector", sources)
    return specs


def padded_shape(rows: int, columns: int) -> tuple[int, int]:
    """The shape of a matrix [rows, columns] with its padding."""
    return round_up(rows, PANEL), round_up(columns, GROUP)


def _padded(matrix: np.ndarray, columns: int = GROUP) -> np.ndarray:
    """Rows padded to whole panels, columns to a multiple of ``columns``."""
    shape = (round_up(matrix.shape[0], PANEL), round_up(matrix.shape[1], columns))
    if matrix.shape == shape:
        return matrix
    padded = np.zeros(shape, matrix.dtype)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded


def pack_int8(matrix: np.ndarray) -> np.ndarray:
    """int8 [N, K] -> [N/16, K/4, 16, 4], a view of the padded matrix, made contiguous when it is stored."""
    padded = _padded(matrix)
    rows, columns = padded.shape
    return padded.reshape(rows // PANEL, PANEL, columns // GROUP, GROUP).transpose(0, 2, 1, 3)


def pack_sparse(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 [N, K] -> lines int8 [lines, 16, 4], line_start int32 [N/16 + 1], line_quad uint16 [lines].

    K is at most 65,536, as in the products.
    """
    packed = pack_int8(matrix)
    panels, quads = np.nonzero(packed.any(axis=(2, 3)))
    counts = np.bincount(panels, minlength=len(packed))
    line_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return packed[panels, quads], line_start, quads.astype(np.uint16)


def unpack_sparse(lines: np.ndarray, line_start: np.ndarray, line_quad: np.ndarray, columns: int) -> np.ndarray:
    """What ``pack_sparse`` gave of a matrix of so many columns, as ``pack_int8`` gives it: [N/16, K/4, 16, 4]."""
    panels = len(line_start) - 1
    packed = np.zeros((panels, round_up(columns, GROUP) // GROUP, PANEL, GROUP), np.int8)
    packed[np.repeat(np.arange(panels), np.diff(line_start)), line_quad] = lines
    return packed


def pack_int4(matrix: np.ndarray, group: int) -> np.ndarray:
    """uint8 [N, K] of values 0..15 -> uint8 [N/16, K/8, 16, 4], K padded to whole groups of ``group`` columns."""
    padded = _padded(matrix, group)
    rows, columns = padded.shape
    halves = padded.reshape(rows // PANEL, PANEL, columns // (2 * GROUP), 2, GROUP).transpose(3, 0, 2, 1, 4)
    return halves[0] | halves[1] << 4


def pack_float32(matrix: np.ndarray) -> np.ndarray:
    """float32 [N, K] -> [N/16, K, 16], a view of the padded matrix, made contiguous when it is stored."""
    padded = _padded(matrix)
    rows, columns = padded.shape
    return padded.reshape(rows // PANEL, PANEL, columns).transpose(0, 2, 1)


def pad_vector(vector: np.ndarray) -> np.ndarray:
    """float32 [n] -> [n rounded up to 16], zeros behind."""
    padded = np.zeros(round_up(vector.shape[0], PANEL), np.float32)
    padded[: vector.shape[0]] = vector
    return padded


def dequantize_packed(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int8 [N/16, K/4, 16, 4] and scale [N] -> float32 [N/16, K, 16], what a float32 directory would hold."""
    panels, groups = weight.shape[:2]
    result = np.empty((panels, groups, GROUP, PANEL), np.float32)
    np.multiply(weight.transpose(0, 1, 3, 2), scale.reshape(panels, 1, 1, PANEL), out=result)
    return result.reshape(panels, groups * GROUP, PANEL)
