"""How tensors are packed in a model directory: names, shapes and the order of elements.

A matrix W [N, K] (a linear layer y = W x, or an embedding, a row a token) is cut into panels of 16 rows; rows
and columns are padded with zeros to multiples of 16 and 4.

    int8      weight I8  [N/16, K/4, 16, 4]   weight[b, g, j, i] = q[16b + j, 4g + i]
              scale  F32 [N]                  W[n, k] = q[n, k] * scale[n]

              panel b, in memory (64 bytes a line):
                  row 16b  k 0..3 | row 16b+1  k 0..3 | ... | row 16b+15  k 0..3
                  row 16b  k 4..7 | row 16b+1  k 4..7 | ...

    int8b     weight      I8  [lines, 16, 4]  the lines of int8 that are not all zero, panel by panel; at least one
              scale       F32 [N]
              line_start  I32 [N/16 + 1]      panel b has lines [line_start[b], line_start[b + 1])
              line_quad   U16 [lines]         g of each line, ascending in a panel

    int4      weight U8  [N/16, K/8, 16, 4]   weight[b, l, j, i] = q[16b + j, 8l + i] + 16 q[16b + j, 8l + 4 + i]
              K padded to whole groups of 32, 64 or 128 columns
              scale        F32 [N]
              group_scale  F16 [P, K/group, 16]   of row 16b + j and group g: [b, g, j]; P is N/16 rounded up to 2
              group_zero   U8  [P, K/group, 16]   where there are zero points, 0 to 15: P is N/16 rounded up to 4
                  W[n, k] = scale[n] * group_scale[n, g] * (q[n, k] - group_zero[n, g]), or, without them, q[n, k] - 8

    float32   weight F32 [N/16, K, 16]        weight[b, k, j] = W[16b + j, k]
    bfloat16  weight BF16 [N/16, K, 16]       likewise; to NumPy uint16, the upper halves of float32
    float16   weight F16 [N/16, K, 16]        likewise

Biases and norms are F32 [N]. Layers that read the same input are one matrix, stacked along N before padding; the rows
of a gate and of what it gates alternate, 16 of each, both padded to whole panels. Tables (of positions, say) are F32,
rows one after the other; a row of a relative bias has its first value 16 times more before it and its last 16 behind.
Every tensor's size is a multiple of 64 bytes, so with aligned data each one is aligned; the tables of lines are padded
with zeros to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np

from pyengine.canonical import ModelConfig, TensorSpec, tensor_specs

__all__ = [
    "DTYPES",
    "FLOATS",
    "HALVES",
    "INT4",
    "SPARSE",
    "WEIGHTS",
    "PackedSpec",
    "check_lines",
    "dequantize_packed",
    "matrix_names",
    "matrix_shapes",
    "pack_floats",
    "pack_groups",
    "pack_int4",
    "pack_int8",
    "pack_sparse",
    "pack_values",
    "packed_specs",
    "pad_table",
    "pad_vector",
    "padded_shape",
    "part_rows",
    "round_up",
    "stack_rows",
    "unpack_sparse",
    "unpack_values",
    "widened",
]

# Types of a matrix: "int4g64z" is int4 in groups of 64 columns, with zero points.
INT4 = {f"int4g{group}{zeros}": (group, bool(zeros)) for group in (32, 64, 128) for zeros in ("", "z")}
SPARSE = "int8b"  # int8 in blocks of 16 channels by 4 columns, of which those of zeros are not stored
HALVES = {"bfloat16": "BF16", "float16": "F16"}  # type -> safetensors' name
FLOATS = ("float32", *HALVES)  # computed in float32, each weight as it is
WEIGHTS = (*FLOATS, "int8", SPARSE, *INT4)
DTYPES: dict[str, np.dtype[Any]] = {  # by safetensors' names
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F32": np.dtype("<f4"),
}
PANEL = 16  # rows of a panel
GROUP = 4  # columns that lie together
EDGE = 16  # values on either side of a row of a relative bias, so that a vector may be loaded anywhere in it


@dataclass(frozen=True)
class PackedSpec:
    """One tensor of model.safetensors, and the canonical tensors that it holds.

    kind "weight": packed rows of matrices; "scale": what belongs to each of those rows; "vector": values, one a row;
    "table": rows of values. form "stacked": sources one behind the other; "alternating": 16 rows of each in turn;
    "edged": each row of a table with EDGE more of its first value before it and of its last behind.
    """

    dtype: str  # as safetensors writes it, a key of DTYPES
    shape: tuple[int, ...]
    kind: str
    sources: tuple[str, ...]
    form: str = "stacked"


def round_up(n: int, multiple: int) -> int:
    """``n`` rounded up to a multiple."""
    return -(-n // multiple) * multiple


# Matrices that read the same are one: the last two names of a part -> the last one of the whole.
_FUSED = {
    **dict.fromkeys(("self_attention.q", "self_attention.k", "self_attention.v"), "qkv"),
    **dict.fromkeys(("cross_attention.k", "cross_attention.v"), "kv"),
    **dict.fromkeys(("ffn.gate", "ffn.up"), "gate_up"),
}


def _groups(canonical: Mapping[str, TensorSpec]) -> dict[str, list[str]]:
    """Packed name -> names of its parts, in the order of use; a part has weight, bias or both, or is a table."""
    groups: dict[str, list[str]] = {}
    for name, spec in canonical.items():
        part = name if spec.kind == "table" else name.rpartition(".")[0]
        owner, _, own = part.rpartition(".")
        fused = _FUSED.get(f"{owner.rpartition('.')[2]}.{own}")
        if fused == "gate_up" and f"{owner}.gate.weight" not in canonical:
            fused = None
        parts = groups.setdefault(f"{owner}.{fused}" if fused else part, [])
        if part not in parts:
            parts.append(part)
    return groups


def packed_specs(
    config: ModelConfig,
    weights: str,
    other_weights: Mapping[str, str] | None = None,
    lines: Mapping[str, int] | None = None,
) -> dict[str, PackedSpec]:
    """Every tensor of model.safetensors for ``config``, in file order.

    ``weights`` is the type of all matrices, one of WEIGHTS, but for those that ``other_weights`` names: packed name
    without ".weight" -> type. ``lines`` are those of each SPARSE matrix.
    """
    canonical = tensor_specs(config)
    specs: dict[str, PackedSpec] = {}
    for name, parts in _groups(canonical).items():
        form = "alternating" if name.endswith(".gate_up") else "stacked"
        if name in canonical:
            edged = name.endswith(".relative")
            rows, columns = (1, *canonical[name].shape)[-2:]
            size = round_up(rows * (columns + 2 * EDGE * edged), PANEL)
            specs[name] = PackedSpec("F32", (size,), "table", (name,), "edged" if edged else "stacked")
            continue
        sources = tuple(f"{part}.weight" for part in parts if f"{part}.weight" in canonical)
        shapes = [canonical[source].shape for source in sources]
        if sources and canonical[sources[0]].kind == "vector":
            rows = round_up(stacked_rows([shape[0] for shape in shapes], form), PANEL)
            specs[f"{name}.weight"] = PackedSpec("F32", (rows,), "vector", sources, form)
        elif sources:
            shape = (stacked_rows([shape[0] for shape in shapes], form), shapes[0][1])
            kind = (other_weights or {}).get(name, weights)
            for part, (dtype, packed) in _matrix(kind, *shape, (lines or {}).get(name, 0)).items():
                role = "weight" if part == "weight" else "scale"
                specs[f"{name}.{part}"] = PackedSpec(dtype, packed, role, sources, form)
        sources = tuple(f"{part}.bias" for part in parts if f"{part}.bias" in canonical)
        if sources:
            rows = round_up(stacked_rows([canonical[source].shape[0] for source in sources], form), PANEL)
            specs[f"{name}.bias"] = PackedSpec("F32", (rows,), "vector", sources, form)
    return specs


def matrix_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """The packed name, without ".weight", and [N, K] of every matrix, in file order: its parts stacked, not padded."""
    canonical = tensor_specs(config)
    return {
        name.removesuffix(".weight"): (
            stacked_rows([canonical[source].shape[0] for source in spec.sources], spec.form),
            canonical[spec.sources[0]].shape[1],
        )
        for name, spec in packed_specs(config, "float32").items()
        if spec.kind == "weight"
    }


def matrix_names(config: ModelConfig) -> list[str]:
    """The packed names of all matrices, without ".weight", in file order."""
    return list(matrix_shapes(config))


def stacked_rows(counts: Sequence[int], form: str) -> int:
    """Rows of parts of so many rows, stacked in a ``PackedSpec.form``."""
    return sum(round_up(count, PANEL) if form == "alternating" else count for count in counts)


def part_rows(counts: Sequence[int], form: str) -> list[np.ndarray]:
    """int64 [count] each: which rows of the stacked matrix are those of each part."""
    if form == "alternating":
        return [
            row // PANEL * PANEL * len(counts) + i * PANEL + row % PANEL for i, row in enumerate(map(np.arange, counts))
        ]
    ends = np.cumsum(counts)
    return [np.arange(end - count, end) for count, end in zip(counts, ends, strict=True)]


def stack_rows(parts: Sequence[np.ndarray], form: str = "stacked") -> np.ndarray:
    """Arrays stacked along their first axis in a ``PackedSpec.form``; zeros between them, where they are padded."""
    if form != "alternating":
        return np.concatenate(parts) if len(parts) > 1 else parts[0]
    counts = [len(part) for part in parts]
    stacked = np.zeros((stacked_rows(counts, form), *parts[0].shape[1:]), parts[0].dtype)
    for rows, part in zip(part_rows(counts, form), parts, strict=True):
        stacked[rows] = part
    return stacked


def pack_values(parts: Sequence[np.ndarray], form: str = "stacked") -> np.ndarray:
    """float32 sources of a vector or a table -> float32 [n rounded up to 16], zeros behind."""
    if form == "edged":
        return pad_vector(np.pad(parts[0], ((0, 0), (EDGE, EDGE)), mode="edge").reshape(-1))
    return pad_vector(stack_rows(parts, form).reshape(-1))


def unpack_values(packed: np.ndarray, shapes: Sequence[tuple[int, ...]], form: str = "stacked") -> list[np.ndarray]:
    """The sources, of these shapes, that ``pack_values`` has packed."""
    if form == "edged":
        rows, columns = shapes[0]
        edged = packed[: rows * (columns + 2 * EDGE)].reshape(rows, -1)
        return [np.ascontiguousarray(edged[:, EDGE:-EDGE])]
    if form == "alternating":
        return [packed[rows] for rows in part_rows([shape[0] for shape in shapes], form)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    ends = np.cumsum(sizes)
    return [packed[end - size : end].reshape(shape) for size, end, shape in zip(sizes, ends, shapes, strict=True)]


def _matrix(weights: str, rows: int, columns: int, lines: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The parts of a matrix [rows, columns] of a type, of so many ``lines`` if it is SPARSE: name -> (dtype, shape)."""
    rows, quads = padded_shape(rows, columns)
    panels = rows // PANEL
    if weights == "float32":
        return {"weight": ("F32", (panels, quads, PANEL))}
    if weights in HALVES:
        return {"weight": (HALVES[weights], (panels, quads, PANEL))}
    if weights == "int8":
        return {"weight": ("I8", (panels, quads // GROUP, PANEL, GROUP)), "scale": ("F32", (rows,))}
    if weights == SPARSE:
        return {
            "weight": ("I8", (lines, PANEL, GROUP)),
            "scale": ("F32", (rows,)),
            "line_start": ("I32", (round_up(panels + 1, 16),)),
            "line_quad": ("U16", (round_up(lines, 32),)),
        }
    group, zero_points = INT4[weights]
    groups = round_up(columns, group) // group
    parts = {
        "weight": ("U8", (panels, groups * group // (2 * GROUP), PANEL, GROUP)),
        "scale": ("F32", (rows,)),
        "group_scale": ("F16", (round_up(panels, 2), groups, PANEL)),
    }
    return parts | {"group_zero": ("U8", (round_up(panels, 4), groups, PANEL))} if zero_points else parts


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

    At least one line, and K at most 65,536, as in the products.
    """
    packed = pack_int8(matrix)
    used = np.asarray(packed.any(axis=(2, 3)))
    used[0, 0] |= not used.any()
    panels, quads = np.nonzero(used)
    counts = np.bincount(panels, minlength=len(packed))
    line_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return packed[panels, quads], line_start, quads.astype(np.uint16)


def pad_table(table: np.ndarray) -> np.ndarray:
    """A table of lines with zeros behind, up to a multiple of 64 bytes."""
    padded = np.zeros(round_up(len(table), 64 // table.itemsize), table.dtype)
    padded[: len(table)] = table
    return padded


def unpack_sparse(lines: np.ndarray, line_start: np.ndarray, line_quad: np.ndarray, columns: int) -> np.ndarray:
    """What ``pack_sparse`` gave of a matrix of so many columns, as ``pack_int8`` gives it: [N/16, K/4, 16, 4]."""
    panels = len(line_start) - 1
    packed = np.zeros((panels, round_up(columns, GROUP) // GROUP, PANEL, GROUP), np.int8)
    packed[np.repeat(np.arange(panels), np.diff(line_start)), line_quad] = lines
    return packed


def check_lines(stored: Mapping[str, np.ndarray], name: str, rows: int, columns: int) -> None:
    """ValueError unless the tables of a SPARSE matrix [rows, columns] say where in it each of its lines lies."""
    panels, quads = (size // step for size, step in zip(padded_shape(rows, columns), (PANEL, GROUP), strict=True))
    count = len(stored[f"{name}.weight"])
    starts = stored[f"{name}.line_start"][: panels + 1].astype(np.int64)  # so that no difference wraps around
    columns_of = stored[f"{name}.line_quad"][:count].astype(np.int64)
    if starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
        raise ValueError(f"{name}.line_start: expected {panels + 1} ascending numbers from 0 to {count}")
    place = np.repeat(np.arange(panels), np.diff(starts)) * quads + columns_of
    if (columns_of >= quads).any() or (np.diff(place) <= 0).any():
        raise ValueError(f"{name}.line_quad: expected numbers below {quads}, ascending in each panel")


def pack_int4(matrix: np.ndarray, group: int) -> np.ndarray:
    """uint8 [N, K] of values 0..15 -> uint8 [N/16, K/8, 16, 4], K padded to whole groups of ``group`` columns."""
    padded = _padded(matrix, group)
    rows, columns = padded.shape
    halves = padded.reshape(rows // PANEL, PANEL, columns // (2 * GROUP), 2, GROUP).transpose(3, 0, 2, 1, 4)
    lines: np.ndarray = halves[0] | halves[1] << 4
    return lines


def pack_groups(values: np.ndarray) -> np.ndarray:
    """float16 or uint8 [N, G] -> [N/16 rounded up to 2 or 4, G, 16], zeros behind."""
    rows, groups = values.shape
    padded = np.zeros((round_up(rows, 4 // values.itemsize * PANEL), groups), values.dtype)
    padded[:rows] = values
    return padded.reshape(-1, PANEL, groups).transpose(0, 2, 1)


def pack_floats(matrix: np.ndarray) -> np.ndarray:
    """float32, float16 or uint16 (bfloat16) [N, K] -> [N/16, K, 16], a view of the padded matrix, made contiguous
    when it is stored.
    """
    padded = _padded(matrix)
    rows, columns = padded.shape
    return padded.reshape(rows // PANEL, PANEL, columns).transpose(0, 2, 1)


def widened(values: np.ndarray) -> np.ndarray:
    """float32, float16 or uint16 (bfloat16) -> float32, each value exactly."""
    if values.dtype != np.uint16:
        return values.astype(np.float32, copy=False)
    wide: np.ndarray = np.left_shift(values, 16, dtype=np.uint32).view(np.float32)
    return wide


def pad_vector(vector: np.ndarray) -> np.ndarray:
    """float32 [n] -> [n rounded up to 16], zeros behind."""
    padded = np.zeros(round_up(vector.shape[0], PANEL), np.float32)
    padded[: vector.shape[0]] = vector
    return padded


def dequantize_packed(stored: Mapping[str, np.ndarray], name: str, rows: int, columns: int) -> np.ndarray:
    """The matrix ``name`` [rows, columns] of packed tensors, of any type -> float32 [N/16, K, 16]: what a float32
    directory would hold.
    """
    weight = stored[f"{name}.weight"]
    if f"{name}.line_start" in stored:
        starts = stored[f"{name}.line_start"][: round_up(rows, PANEL) // PANEL + 1]
        weight = unpack_sparse(weight, starts, stored[f"{name}.line_quad"][: len(weight)], columns)
    if weight.dtype in (np.float32, np.float16, np.uint16):
        return widened(weight)
    panels, depth = len(weight), round_up(columns, GROUP)
    scale = stored[f"{name}.scale"].reshape(panels, 1, PANEL)
    if weight.dtype == np.int8:
        values: np.ndarray = np.multiply(
            weight.transpose(0, 1, 3, 2).reshape(panels, depth, PANEL), scale, order="C"
        )
        return values
    steps = stored[f"{name}.group_scale"][:panels].astype(np.float32)
    zeros = stored.get(f"{name}.group_zero")
    halves = np.stack([weight & 15, weight >> 4], axis=2)  # [N/16, K/8, 2, 16, 4]
    levels = halves.transpose(0, 1, 2, 4, 3).reshape(*steps.shape[:2], -1, PANEL).astype(np.float32)
    levels -= 8 if zeros is None else zeros[:panels, :, None]
    levels *= steps[:, :, None]
    result = levels.reshape(panels, -1, PANEL)[:, :depth] * scale
    result[:, columns:] = 0  # what stands in the padding of int4 means nothing
    return np.ascontiguousarray(result)
