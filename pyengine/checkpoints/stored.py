"""A tensor inside a checkpoint file, mapped and not yet read."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pyengine.errors import CheckpointError, UnsupportedError

__all__ = ["READABLE", "StoredTensor"]

# What the bytes of each readable type are to NumPy; bfloat16 is the upper half of a float32.
READABLE = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "float64": "<f8"}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint: ``data[begin:]`` seen with ``shape`` and ``strides``.

    ``strides`` count elements. Readers have checked that every element lies inside its storage and that the
    tensor has no more elements than its storage or its file has bytes. ``dtype`` is any type name; those outside
    READABLE are listed but cannot be read.
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    path: Path
    data: mmap.mmap = field(repr=False)
    begin: int

    def same_storage(self, other: StoredTensor) -> bool:
        """Whether both are the same elements of the same file, so that their values need not be compared."""
        keys = ("shape", "strides", "dtype", "path", "begin")
        return all(getattr(self, key) == getattr(other, key) for key in keys)

    def read(self, *, minus_infinity: bool = False) -> np.ndarray:
        """The values: a fresh C-contiguous float32 array, float64 rounded.

        CheckpointError if any is NaN or infinite, but for minus infinity where that is allowed.
        """
        if self.dtype not in READABLE:
            raise UnsupportedError(
                f"{self.path}: tensor {self.name}: type {self.dtype}, expected {', '.join(READABLE)}"
            )
        if 0 in self.shape:
            return np.zeros(self.shape, np.float32)
        kind = np.dtype(READABLE[self.dtype])
        span = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
        flat = np.frombuffer(self.data, kind, count=span, offset=self.begin)
        strides = tuple(stride * kind.itemsize for stride in self.strides)
        view = np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)
        if self.dtype == "bfloat16":
            wide = np.empty(self.shape, np.uint32)
            np.left_shift(view, 16, out=wide, dtype=np.uint32)
            values = wide.view(np.float32)
        else:
            with np.errstate(over="ignore"):  # beyond float32 is infinite, below
                values = np.array(view, np.float32, order="C")
        # One number instead of an array of flags: a sum over non-finite values is not finite, and a float64
        # sum of finite float32 values cannot overflow. It is minus infinity if no other kind is among them.
        self._forget_pages(span * kind.itemsize)
        with np.errstate(invalid="ignore"):
            total = values.sum(dtype=np.float64)
        if not np.isfinite(total) and not (minus_infinity and total == -np.inf):
            fine = np.isfinite(values) | (minus_infinity & (values == -np.inf))
            bad = np.unravel_index(int(np.argmin(fine)), self.shape)
            raise CheckpointError(
                f"{self.path}: tensor {self.name}: expected finite numbers, "
                f"found {values[bad]} at {[int(i) for i in bad]}"
            )
        return values

    def _forget_pages(self, size: int) -> None:
        """Tell the system that the mapped bytes just read are not needed, or they count as memory in use."""
        if hasattr(mmap, "MADV_DONTNEED"):
            start = self.begin - self.begin % mmap.PAGESIZE
            self.data.madvise(mmap.MADV_DONTNEED, start, self.begin + size - start)
