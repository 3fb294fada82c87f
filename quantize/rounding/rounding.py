"""From float32 matrices to what a model directory stores of them, for each type of ``modelfile.layout.WEIGHTS``."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from pyengine.modelfile.layout import (
    HALVES,
    INT4,
    SPARSE,
    pack_floats,
    pack_groups,
    pack_int4,
    pack_int8,
    pack_sparse,
    pad_table,
    pad_vector,
    stack_rows,
)
from pyengine.quantize.rounding.grid import round_to_grid
from pyengine.quantize.rounding.halves import HalfMatrix, halve_rows
from pyengine.quantize.rounding.ranges import choose_grid
from pyengine.quantize.rounding.schemes import GroupedMatrix, QuantizedMatrix, Scheme, quantize_rows

__all__ = ["Rounded", "pack_parts", "round_matrix", "round_parts", "scheme_of"]

Rounded = QuantizedMatrix | GroupedMatrix | HalfMatrix | np.ndarray


def scheme_of(weights: str) -> Scheme:
    """The scheme of a type of integers."""
    return Scheme(*INT4[weights]) if weights in INT4 else Scheme()


def round_matrix(matrix: np.ndarray, weights: str, method: str = "absmax") -> Rounded:
    """A float32 matrix [N, K] rounded without calibration; itself as float32. ``method``: one of ``ranges.METHODS``.

    Raises OverflowError for a weight that is too large for the type.
    """
    if weights == "float32":
        return matrix
    if weights in HALVES:
        return halve_rows(matrix, weights)
    if weights in ("int8", SPARSE) and method == "absmax":
        return quantize_rows(matrix)
    return round_to_grid(matrix, choose_grid(matrix, scheme_of(weights), method=method))


def round_parts(parts: Sequence[np.ndarray], weights: str, method: str = "absmax") -> list[Rounded]:
    """Each of the matrices that are stacked into one by itself, as ``round_matrix``."""
    return [round_matrix(part, weights, method) for part in parts]


def pack_parts(parts: Sequence[Rounded], sparse: bool = False, form: str = "stacked") -> dict[str, np.ndarray]:
    """Matrices of one type, stacked and packed: the last parts of the packed names -> arrays, in file order.

    ``sparse``: int8 ones without the blocks of zeros. ``form``: that of the ``PackedSpec``.
    """
    first = parts[0]
    if isinstance(first, np.ndarray):
        return {"weight": pack_floats(stack_rows([part for part in parts if isinstance(part, np.ndarray)], form))}
    if isinstance(first, HalfMatrix):
        values = [part.values for part in parts if isinstance(part, HalfMatrix)]
        return {"weight": pack_floats(stack_rows(values, form))}
    rounded = [part for part in parts if isinstance(part, (QuantizedMatrix, GroupedMatrix))]
    scale = pad_vector(stack_rows([part.scale for part in rounded], form))
    q = stack_rows([part.q for part in rounded], form)
    if sparse:
        lines, starts, quads = pack_sparse(q)
        return {"weight": lines, "scale": scale, "line_start": pad_table(starts), "line_quad": pad_table(quads)}
    if isinstance(first, QuantizedMatrix):
        return {"weight": pack_int8(q), "scale": scale}
    packed = {"weight": pack_int4(q, first.group), "scale": scale}
    groups = [part for part in rounded if isinstance(part, GroupedMatrix)]
    packed["group_scale"] = pack_groups(stack_rows([part.group_scale for part in groups], form))
    zeros = [part.group_zero for part in groups if part.group_zero is not None]
    if zeros:
        packed["group_zero"] = pack_groups(stack_rows(zeros, form))
    return packed
