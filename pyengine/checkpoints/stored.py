"""A tensor inside a checkpoint file, mapped and not yet read."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from pyengine.checkpoints.gguf_header import TYPES
from pyengine.errors import CheckpointError, UnsupportedError

__all__ = ["NUMBERS", "READABLE", "MappedTensor", "StoredTensor", "finite", "forget_pages"]

# What the bytes of plain numbers are to NumPy; bfloat16 is the upper half of a float32.
NUMBERS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "float64": "<f8"}
# Elements of a block of each readable type, and its bytes.
READABLE: dict[str, tuple[int, int]] = {
    **{name: (1, np.dtype(kind).itemsize) for name, kind in NUMBERS.items()},
    **{name: (elements, size) for name, elements, size in TYPES.values() if elements > 1},
}


class StoredTensor(Protocol):
    """One tensor of a checkpoint, of whatever container. ``dtype`` is any type name; READABLE ones can be read."""

    @property
    def name(self) -> str:
        """What the checkpoint calls it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy has it."""

    @property
    def dtype(self) -> str:
        """How it is stored."""

    @property
    def path(self) -> Path:
        """The file."""

    def same_storage(self, other: StoredTensor) -> bool:
        """Whether both are the same elements of the same file, so that their values need not be compared."""

    def read(self, *, minus_infinity: bool = False) -> np.ndarray:
        """The values: a fresh C-contiguous float32 array, float64 rounded.

        CheckpointError if any is NaN or infinite, but for minus infinity where that is allowed; UnsupportedError for a
        type that cannot be read.
        """


@dataclass(frozen=True)
class MappedTensor:
    """A ``StoredTensor`` of plain numbers: ``data[begin:]`` seen with ``shape`` and ``strides``.

    ``strides`` count elements. Readers have checked that every element lies inside its storage and that the
    tensor has no more elements than its storage or its file has bytes.
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    path: Path
    data: mmap.mmap = field(repr=False)
    begin: int

    def same_storage(self, other: StoredTensor) -> bool:
        """See ``StoredTensor``."""
        keys = ("shape", "strides", "dtype", "path", "begin")
        return isinstance(other, MappedTensor) and all(getattr(self, key) == getattr(other, key) for key in keys)

    def read(self, *, minus_infinity: bool = False) -> np.ndarray:
        """See ``StoredTensor``."""
        if self.dtype not in NUMBERS:
            known = ", ".join(NUMBERS)
            raise UnsupportedError(f"{self.path}: tensor {self.name}: type {self.dtype}, expected {known}")
        if 0 in self.shape:
            return np.zeros(self.shape, np.float32)
        kind = np.dtype(NUMBERS[self.dtype])
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
        forget_pages(self.data, self.begin, span * kind.itemsize)
        return finite(values, self, minus_infinity)


def finite(values: np.ndarray, tensor: StoredTensor, minus_infinity: bool) -> np.ndarray:
    """``values`` as they are; CheckpointError, naming ``tensor``, as ``StoredTensor.read``."""
    # One number instead of an array of flags: a sum over non-finite values is not finite, and a float64
    # sum of finite float32 values cannot overflow. It is minus infinity if no other kind is among them.
    with np.errstate(invalid="ignore"):
        total = values.sum(dtype=np.float64)
    if not np.isfinite(total) and not (minus_infinity and total == -np.inf):
        fine = np.isfinite(values) | (minus_infinity & (values == -np.inf))
        bad = np.unravel_index(int(np.argmin(fine)), values.shape)
        raise CheckpointError(
            f"{tensor.path}: tensor {tensor.name}: expected finite numbers, "
            f"found {values[bad]} at {[int(i) for i in bad]}"
        )
    return values


def forget_pages(data: mmap.mmap, begin: int, size: int) -> None:
    """Tell the system that the mapped bytes just read are not needed, or they count as memory in use."""
    if hasattr(mmap, "MADV_DONTNEED"):
        start = begin - begin % mmap.PAGESIZE
        data.madvise(mmap.MADV_DONTNEED, start, begin + size - start)
