"""Buffers between pages that nobody may touch, and memory that shows where it was written.

    | no access |  0xff 0xff ... |  the array  | no access |        edge="end": an over-read faults
    | no access |  the array  |  ... 0xff 0xff | no access |        edge="start": so does an under-read

All memory around an array, and between its rows, holds 0xff: a NaN for whoever reads it as a float, and still
0xff unless a kernel wrote where it must not.
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

__all__ = ["EDGES", "Buffer", "output", "placed"]

EDGES = ("end", "start")
POISON = 0xFF
_PROT_NONE = 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def _protect(address: int) -> None:
    if _libc.mprotect(address, mmap.PAGESIZE, _PROT_NONE):
        raise OSError(ctypes.get_errno(), "mprotect")


class Buffer:
    """An array [..., n] whose rows lie `ld` elements apart, with a guard page on either side."""

    def __init__(self, shape: tuple[int, ...], dtype: type, edge: str = "end", ld: int | None = None) -> None:
        item = np.dtype(dtype).itemsize
        if ld is None:
            strides = np.empty(shape, dtype).strides
        else:
            strides = (ld * item, item)
        # The last row ends where its last element does, not `ld` elements on.
        size = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + item
        inner = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        mapping = mmap.mmap(-1, inner + 2 * mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        self._raw = np.frombuffer(mapping, np.uint8, inner, mmap.PAGESIZE)
        self._raw[:] = POISON
        self._offset = inner - size if edge == "end" else 0
        self._dtype, self._strides = np.dtype(dtype), strides
        self.array = self._view(self._raw, shape)
        _protect(address)
        _protect(address + mmap.PAGESIZE + inner)

    def _view(self, raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.ndarray(shape, self._dtype, raw, self._offset, self._strides)

    def assert_clean_outside(self, part: tuple[slice, ...] = (slice(None),)) -> None:
        """Nothing outside array[part] was written."""
        rest = self._raw.copy()
        self._view(rest, self.array.shape)[part].view(np.uint8)[...] = POISON
        written = np.flatnonzero(rest != POISON) - self._offset
        assert len(written) == 0, f"written at bytes {written[:8]} from the array's start, {len(written)} in all"


def placed(values: np.ndarray, edge: str = "end", ld: int | None = None) -> np.ndarray:
    """A copy of `values` beside a guard page; of nothing, nothing."""
    if values.size == 0:
        return values.copy()
    buffer = Buffer(values.shape, values.dtype.type, edge, ld)
    buffer.array[...] = values
    return buffer.array


def output(shape: tuple[int, ...], dtype: type, edge: str = "end", ld: int | None = None) -> Buffer:
    """Poisoned memory for a result."""
    return Buffer(shape, dtype, edge, ld)
