"""Grids: what the codes of a matrix mean, apart from the codes.

A grid holds the scales as they will be stored, so whoever rounds (plain rounding, GPTQ, a refit) rounds for what
is stored:

    W[n, k] ~ step[n, g] * (q - zero[n, g])        low <= q <= high
    q = clip(rint(W[n, k] / step[n, g]) + zero[n, g], low, high)

    int8 rows          step = scale                 one group, zero 0, q in -127..127
    int4 symmetric     step = scale * group_scale   zero 8, q in 0..15
    int4, zero points  step = scale * group_scale   zero in 0..15, q in 0..15
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

import numpy as np

from pyengine.quantize.rounding.schemes import GroupedMatrix, QuantizedMatrix, Scheme

__all__ = ["Grid", "blocks", "grid_of", "grouped", "round_to_grid", "rows_grid", "store_groups"]

_CACHED = 1 << 16  # elements of float32: 256 KiB, so that what a block needs stays in a core's cache


@dataclass(frozen=True)
class Grid:
    """scale float32 [N]; for int4 group_scale float16 [N, G], and with zero points group_zero uint8 [N, G]."""

    scheme: Scheme
    scale: np.ndarray
    group_scale: np.ndarray | None = None
    group_zero: np.ndarray | None = None

    @property
    def low(self) -> int:
        """The smallest code."""
        return 0 if self.scheme.group else -127

    @property
    def high(self) -> int:
        """The largest code."""
        return 15 if self.scheme.group else 127

    def steps(self) -> np.ndarray:
        """float32 [N, G]; negative or 0 too."""
        if self.group_scale is None:
            return self.scale[:, None]
        return self.scale[:, None] * self.group_scale.astype(np.float32)

    def zeros(self) -> np.ndarray:
        """The codes of the weight 0, float32 [N, G]."""
        if self.group_zero is not None:
            return self.group_zero.astype(np.float32)
        groups = 1 if self.group_scale is None else self.group_scale.shape[1]
        return np.full((len(self.scale), groups), 8 if self.scheme.group else 0, np.float32)

    def rows(self, start: int, stop: int) -> Grid:
        """The grid of some rows."""
        groups = [None if part is None else part[start:stop] for part in (self.group_scale, self.group_zero)]
        return Grid(self.scheme, self.scale[start:stop], *groups)

    def round(self, matrix: np.ndarray) -> np.ndarray:
        """Codes [N, K], as float32, of a float32 matrix [N, K]; a group whose step is 0 gets its zero."""
        steps = self.steps()
        codes = grouped(matrix, self.scheme) / np.where(steps == 0, np.float32(np.inf), steps)[:, :, None]
        np.rint(codes, out=codes)
        codes += self.zeros()[:, :, None]
        np.clip(codes, self.low, self.high, out=codes)
        return codes.reshape(len(matrix), -1)[:, : matrix.shape[1]]

    def values(self, codes: np.ndarray) -> np.ndarray:
        """The weights, float32 [N, K], that codes [N, K] of any type stand for."""
        levels: np.ndarray = grouped(codes.astype(np.float32), self.scheme) - self.zeros()[:, :, None]
        levels *= self.steps()[:, :, None]
        return levels.reshape(len(codes), -1)[:, : codes.shape[1]]

    def matrix(self, codes: np.ndarray, original: np.ndarray) -> QuantizedMatrix | GroupedMatrix:
        """The quantized matrix of ``codes`` [N, K], measured against ``original`` float32 [N, K]."""
        rows, columns = original.shape
        q = np.zeros((rows, self.scheme.padded(columns)), np.uint8 if self.scheme.group else np.int8)
        q[:, :columns] = codes
        signal = noise = 0.0
        for start, stop in blocks(rows, columns):
            block = original[start:stop].astype(np.float64)
            signal += float(np.square(block).sum())
            noise += float(np.square(block - self.rows(start, stop).values(codes[start:stop])).sum())
        if self.group_scale is None:
            return QuantizedMatrix(q, self.scale, signal, noise)
        return GroupedMatrix(
            q, self.scale, self.group_scale, self.group_zero, self.scheme.group, signal, noise
        )


def blocks(rows: int, columns: int, elements: int = _CACHED) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of rows with that many elements; as a rule they fit the cache."""
    step = max(1, elements // columns)
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def grouped(matrix: np.ndarray, scheme: Scheme) -> np.ndarray:
    """[N, K] as [N, G, group], with zeros behind K; a view where nothing has to be added."""
    rows, columns = matrix.shape
    padded = scheme.padded(columns)
    if padded != columns:
        wide = np.zeros((rows, padded), matrix.dtype)
        wide[:, :columns] = matrix
        matrix = wide
    return matrix.reshape(rows, -1, scheme.group or padded)


def rows_grid(scale: np.ndarray) -> Grid:
    """The grid of int8 rows with these scales [N]."""
    return Grid(Scheme(), scale.astype(np.float32))


def store_groups(scheme: Scheme, step: np.ndarray, zero: np.ndarray | None) -> Grid:
    """The grid of int4 groups with these steps, float32 [N, G], as halves times a power of two a row, and zeros.

    Dividing by a power of two is exact, so steps that are halves, as in files of llama.cpp, stay what they are.
    """
    largest = np.abs(step).max(axis=1)
    scale = np.where(largest == 0, np.float32(0), np.ldexp(np.float32(1), np.frexp(largest)[1] - 1))
    divisor = np.where(scale == 0, np.float32(np.inf), scale)[:, None]
    return Grid(scheme, scale, (step / divisor).astype(np.float16), None if zero is None else zero.astype(np.uint8))


def grid_of(quantized: QuantizedMatrix | GroupedMatrix) -> Grid:
    """The grid of a quantized matrix."""
    if isinstance(quantized, QuantizedMatrix):
        return rows_grid(quantized.scale)
    scheme = Scheme(quantized.group, quantized.group_zero is not None)
    return Grid(scheme, quantized.scale, quantized.group_scale, quantized.group_zero)


def round_to_grid(matrix: np.ndarray, grid: Grid) -> QuantizedMatrix | GroupedMatrix:
    """Plain rounding: each weight of a finite float32 matrix [N, K] to the nearest level."""
    codes = np.empty(matrix.shape, np.int16)
    for start, stop in blocks(*matrix.shape):
        codes[start:stop] = grid.rows(start, stop).round(matrix[start:stop])
    return grid.matrix(codes, matrix)
