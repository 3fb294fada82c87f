"""Operands of the products that kernels.py measures: weights in huge pages, and quantized rows."""

from __future__ import annotations

import time

import numpy as np

from pyengine import _core
from pyengine.modelfile import layout
from pyengine.pages import huge_room

__all__ = ["Int4Product", "Pair", "Product", "in_huge_pages"]


def in_huge_pages(values: np.ndarray, copies: int) -> np.ndarray:
    """[copies, ...] of the same values."""
    room = huge_room(copies * values.nbytes)
    result = np.frombuffer(room, values.dtype).reshape(copies, *values.shape)
    result[:] = values
    return result


class Product:
    """`copies` int8 matrices of K x N in huge pages, and `rows` quantized rows."""

    def __init__(self, kernels: _core.Kernels, rows: int, k: int, n: int, copies: int = 1) -> None:
        self._k = k
        self._prepare(kernels, n)
        w = np.random.default_rng(1).integers(-127, 128, (n // 16, k // 4, 16, 4), np.int8)
        self._w = in_huge_pages(w, copies)
        self._sums = np.empty(n, np.int32)
        kernels.channel_sums(self._w[0], self._sums)
        self.rows(rows)

    def _prepare(self, kernels: _core.Kernels, n: int) -> None:
        self._kernels = kernels
        self._scales, self._bias = np.full(n, 0.01, np.float32), np.ones(n, np.float32)

    def rows(self, rows: int) -> None:
        self._x = np.random.default_rng(2).integers(-127, 128, (rows, self._k), np.int8)
        self._x_scale, self._y = np.ones(rows, np.float32), np.empty((rows, len(self._bias)), np.float32)

    def seconds(self, repeat: int) -> float:
        """Of `repeat` products, the matrices in turn."""
        start = time.perf_counter()
        self._multiply(repeat)
        return time.perf_counter() - start

    def _multiply(self, repeat: int) -> None:
        self._kernels.gemm_q8(self._x, self._x_scale, self._w, self._scales, self._sums, self._y, self._bias,
                              activation="relu", repeat=repeat)  # fmt: skip


class Int4Product(Product):
    """The same with int4 weights in groups of `group` columns.

    `size`: bytes of one matrix, group scales and zero points too.
    """

    def __init__(
        self, kernels: _core.Kernels, rows: int, k: int, n: int, group: int, zero_points: bool, buffer: int = 1
    ) -> None:
        """As many matrices as `buffer` bytes hold, at least one."""
        self._k, self.size = k, n * k // 2 + n * k // group * (3 if zero_points else 2)
        self.copies = max(1, buffer // self.size)
        self._prepare(kernels, n)
        w = np.random.default_rng(1).integers(0, 256, (n // 16, k // 8, 16, 4), np.uint8)
        scales = np.full((n // 16, k // group, 16), 0.01, np.float16)
        self._w, self._group_scale = in_huge_pages(w, self.copies), in_huge_pages(scales, self.copies)
        zeros = np.random.default_rng(3).integers(0, 16, scales.shape, np.uint8)
        self._group_zero = in_huge_pages(zeros, self.copies) if zero_points else None
        self.rows(rows)

    def _multiply(self, repeat: int) -> None:
        self._kernels.gemm_q4(self._x, self._x_scale, self._w, self._scales, self._group_scale, self._y,
                              self._group_zero, self._bias, activation="relu", repeat=repeat)  # fmt: skip


class Pair:
    """`copies` matrices of K x N with lines of zeros, once with and once without them, and the same rows for both."""

    def __init__(self, kernels: _core.Kernels, rows: int, k: int, n: int, density: float, copies: int) -> None:
        self._kernels = kernels
        rng = np.random.default_rng(1)
        keep = np.repeat(np.repeat(rng.random((n // 16, k // 4)) < density, 16, axis=0), 4, axis=1)
        w = rng.integers(-127, 128, (n, k), np.int8) * keep
        lines, line_start, line_quad = layout.pack_sparse(w)
        self._dense, self._lines = in_huge_pages(layout.pack_int8(w), copies), in_huge_pages(lines, copies)
        self._start = (line_start + np.arange(copies)[:, None] * len(lines)).astype(np.int32)
        self._quad = in_huge_pages(line_quad, copies)
        # Rows at distances that are no power of two, as a session lays them.
        x = in_huge_pages(rng.integers(-127, 128, (rows, k + 64), np.int8), 1)[0]
        self._rows = x[:, :k], np.ones(rows, np.float32)
        self._channels = np.full(n, 0.01, np.float32), w.sum(axis=1, dtype=np.int32)
        self._y = in_huge_pages(np.zeros((rows, n + 16), np.float32), 1)[0][:, :n]
        self._options = {"bias": np.ones(n, np.float32), "activation": "relu"}

    def dense(self, repeat: int) -> None:
        """`repeat` products, the matrices in turn."""
        self._kernels.gemm_q8(*self._rows, self._dense, *self._channels, self._y, **self._options, repeat=repeat)

    def sparse(self, repeat: int) -> None:
        weights = self._lines, self._start, self._quad
        self._kernels.gemm_q8s(*self._rows, *weights, *self._channels, self._y, **self._options, repeat=repeat)
