"""Schemes of rounding weights, W [N, K].

int8 rows: symmetric, a scale for each output channel n:

    scale[n] = max_k |W[n, k]| / 127          q[n, k] = rint(W[n, k] / scale[n]) in [-127, 127]
    W[n, k] ~ q[n, k] * scale[n]              |error| <= scale[n] / 2

-128 is not used, so that a product of two such numbers never saturates an instruction that negates.

int4 groups: ``group`` adjacent columns share a step, q is 0..15:

    symmetric      W[n, k] ~ scale[n] * group_scale[n, g] * (q[n, k] - 8)
    zero points    W[n, k] ~ scale[n] * group_scale[n, g] * (q[n, k] - group_zero[n, g])    group_zero is 0..15

Group scales are halves. scale[n] is the power of two below the largest step of the channel, so the group scales lie
below 2, in half's normal range, and steps that are halves themselves are kept exactly. A symmetric step may be
negative: the levels -8..7 are lopsided, and the sign turns the long side to where the group's largest weight lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyengine.errors import OptionError

__all__ = ["GROUPS", "GroupedMatrix", "QuantizedMatrix", "Scheme", "quantize_rows"]

GROUPS = (32, 64, 128)
_BLOCK_BYTES = 1 << 18  # of float32: what is held beside matrix and result is a few times this


@dataclass(frozen=True)
class Scheme:
    """int8 rows (``group`` 0), or int4 groups of 32, 64 or 128 columns, symmetric or with zero points.

    Raises OptionError for another group, and for zero points of int8 rows.
    """

    group: int = 0
    zero_points: bool = False

    def __post_init__(self) -> None:
        if self.group and self.group not in GROUPS:
            raise OptionError(f"group: expected 0 for int8 rows, or one of {GROUPS}, found {self.group}")
        if self.zero_points and not self.group:
            raise OptionError("zero points: expected int4 groups, found int8 rows")

    def padded(self, columns: int) -> int:
        """``columns`` rounded up to a multiple of the group."""
        return -(-columns // self.group) * self.group if self.group else columns


@dataclass(frozen=True)
class QuantizedMatrix:
    """q int8 [N, K], scale float32 [N]; ``signal`` and ``noise``: the sums of W^2 and of (W - q*scale)^2."""

    q: np.ndarray
    scale: np.ndarray
    signal: float
    noise: float

    def dequantize(self, columns: int) -> np.ndarray:
        """The weights as they count, float32 [N, columns]."""
        weights: np.ndarray = self.q[:, :columns] * self.scale[:, None]
        return weights


@dataclass(frozen=True)
class GroupedMatrix:
    """q uint8 [N, Kp], scale float32 [N], group_scale float16 [N, Kp/group], group_zero uint8 the same or None.

    Kp is K rounded up to the group, and the padding stands for any weights: that of x is zeros. ``signal`` and
    ``noise`` as in QuantizedMatrix.
    """

    q: np.ndarray
    scale: np.ndarray
    group_scale: np.ndarray
    group_zero: np.ndarray | None
    group: int
    signal: float
    noise: float

    def dequantize(self, columns: int) -> np.ndarray:
        """The weights as they count, float32 [N, columns]."""
        levels = self.q.reshape(len(self.q), -1, self.group).astype(np.float32)
        levels -= 8 if self.group_zero is None else self.group_zero[:, :, None]
        levels *= self.group_scale[:, :, None].astype(np.float32)
        levels *= self.scale[:, None, None]
        return levels.reshape(len(self.q), -1)[:, :columns]


def quantize_rows(matrix: np.ndarray) -> QuantizedMatrix:
    """Round a finite float32 matrix [N, K] to int8, symmetrically, with a scale a row (0 for zeros)."""
    rows, columns = matrix.shape
    q = np.empty((rows, columns), np.int8)
    scale = np.empty(rows, np.float32)
    signal = noise = 0.0
    step = max(1, _BLOCK_BYTES // (4 * columns))
    for start in range(0, rows, step):
        block = matrix[start : start + step]
        scales = (np.abs(block).max(axis=1) / np.float32(127)).astype(np.float32)
        # A row of zeros, or so small that the scale is 0 in float32, becomes zeros.
        quotient = np.divide(block, scales[:, None], out=np.zeros_like(block), where=scales[:, None] != 0)
        rounded = np.clip(np.rint(quotient, out=quotient), -127, 127, out=quotient)
        q[start : start + step] = rounded
        scale[start : start + step] = scales
        error = block - rounded * scales[:, None].astype(np.float64)
        signal += float(np.square(block, dtype=np.float64).sum())
        noise += float(np.square(error).sum())
    return QuantizedMatrix(q, scale, signal, noise)
