"""Weights in half of float32's bits, computed in float32: to nearest, ties to even.

    bfloat16   8 bits of exponent, 7 of fraction: the upper half of a float32; what it lacks is precision
    float16    5 and 10: nothing beyond 65,504, and less precise below 2^-14

Weights of a checkpoint of that type are kept as they are, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyengine.modelfile.layout import widened

__all__ = ["HalfMatrix", "halve_rows"]

_BLOCK_BYTES = 1 << 18  # of float32


@dataclass(frozen=True)
class HalfMatrix:
    """values float16, or uint16 (bfloat16) [N, K]; ``signal`` and ``noise``: the sums of W^2 and of (W - values)^2."""

    values: np.ndarray
    signal: float
    noise: float

    def dequantize(self, columns: int) -> np.ndarray:
        """The weights as they count, float32 [N, columns]."""
        return widened(self.values[:, :columns])


def halve_rows(matrix: np.ndarray, weights: str) -> HalfMatrix:
    """Round a finite float32 matrix [N, K] to "bfloat16" or "float16".

    Raises OverflowError, naming the weight, for one that becomes infinite.
    """
    values = np.empty(matrix.shape, np.uint16 if weights == "bfloat16" else np.float16)
    signal = noise = 0.0
    step = max(1, _BLOCK_BYTES // (4 * matrix.shape[1]))
    for start in range(0, len(matrix), step):
        block = np.ascontiguousarray(matrix[start : start + step])
        rounded = _upper_halves(block) if weights == "bfloat16" else _float16(block)
        exact, found = block.astype(np.float64), widened(rounded).astype(np.float64)
        if not np.isfinite(found).all():
            raise OverflowError(f"expected weights that {weights} holds, found {block[~np.isfinite(found)][0]:g}")
        values[start : start + step] = rounded
        signal += float(np.square(exact).sum())
        noise += float(np.square(exact - found).sum())
    return HalfMatrix(values, signal, noise)


def _float16(block: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return block.astype(np.float16)


def _upper_halves(block: np.ndarray) -> np.ndarray:
    """float32 -> uint16, the nearest bfloat16: a half and, where the upper half is odd, one bit more carry into it."""
    bits = block.view(np.uint32)
    upper: np.ndarray = (bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)
    return upper.astype(np.uint16)
