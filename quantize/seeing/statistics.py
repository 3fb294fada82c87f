"""What the inputs x [K] of a linear layer look like, gathered a few rows at a time.

Count, max|x_j|, E|x_j|, E[x_j], the Gram matrix X^T X, and a reservoir: rows kept as a sample. All of it can be
stored as arrays and taken up again, and two of them merge.

The reservoir holds the rows with the smallest keys; a key is a hash (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014) of the seed and the row's place in the stream. So it depends neither on how rows
were cut into calls nor on interruptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy

import numpy as np

from pyengine.canonical import ModelConfig
from pyengine.errors import InputError
from pyengine.formats.strict_json import shorten

__all__ = ["InputStatistics", "inputs_of"]

_GRAM_ROWS = 1024  # summed in float32 before they are added in float64
_SUMS = ("absmax", "abs_sum", "sum", "gram", "rows", "keys")


class InputStatistics:
    """Statistics of inputs of ``columns`` values; ``reservoir`` rows are kept, chosen by ``seed``.

    count     rows seen
    absmax    float32 [K]
    gram      float64 [K, K]: sum of x x^T, from float32 products of 1,024 rows
    rows      float32 [min(count, reservoir), K]: the sample, in order of its keys
    """

    def __init__(self, columns: int, *, reservoir: int = 512, seed: int = 0) -> None:
        self.columns, self.reservoir, self.seed = columns, reservoir, seed
        self.count = 0
        self.absmax = np.zeros(columns, np.float32)
        self.abs_sum = np.zeros(columns)
        self.sum = np.zeros(columns)
        self.gram = np.zeros((columns, columns))
        self.rows = np.zeros((0, columns), np.float32)
        self.keys = np.zeros(0, np.uint64)

    @property
    def mean(self) -> np.ndarray:
        """E[x_j], float64 [K]; zeros before the first row."""
        return self.sum / max(1, self.count)

    @property
    def mean_abs(self) -> np.ndarray:
        """E|x_j|, float64 [K]."""
        return self.abs_sum / max(1, self.count)

    @property
    def second_moment(self) -> np.ndarray:
        """E[x_j^2], float64 [K]."""
        return np.diag(self.gram) / max(1, self.count)

    def add(self, x: np.ndarray, *, name: str = "inputs") -> None:
        """Take in rows float32 [rows, K]. Raises InputError, and takes in none, if one is not finite.

        ``name`` is how the error calls them: the layer and the sample.
        """
        if x.ndim != 2 or x.shape[1] != self.columns:
            raise InputError(f"{name}: expected rows of {self.columns} values, found shape {list(x.shape)}")
        if not np.isfinite(x).all():
            row, column = np.argwhere(~np.isfinite(x))[0]
            raise InputError(f"{name}: expected finite numbers, found {x[row, column]} at [{row}, {column}]")
        if not len(x):
            return
        magnitudes = np.abs(x)
        np.maximum(self.absmax, magnitudes.max(axis=0), out=self.absmax)
        self.abs_sum += magnitudes.sum(axis=0, dtype=np.float64)
        self.sum += x.sum(axis=0, dtype=np.float64)
        for start in range(0, len(x), _GRAM_ROWS):
            block = x[start : start + _GRAM_ROWS]
            self.gram += block.T @ block
        self._keep(x, _keys(self.seed, self.count, len(x)))
        self.count += len(x)

    def merge(self, other: InputStatistics) -> None:
        """Take in what ``other`` has seen; its seed should be another, or the two samples are of the same places.

        Raises InputError if it is of inputs of another size.
        """
        if other.columns != self.columns:
            raise InputError(f"statistics: expected rows of {self.columns} values, found {other.columns}")
        np.maximum(self.absmax, other.absmax, out=self.absmax)
        self.abs_sum += other.abs_sum
        self.sum += other.sum
        self.gram += other.gram
        self._keep(other.rows, other.keys)
        self.count += other.count

    def divided(self, scales: np.ndarray) -> InputStatistics:
        """Of the same inputs, each x_j divided by ``scales[j]``, float32 [K] > 0."""
        made = copy(self)
        made.absmax, made.rows = self.absmax / scales, self.rows / scales
        wide = scales.astype(np.float64)
        made.abs_sum, made.sum, made.gram = self.abs_sum / wide, self.sum / wide, self.gram / np.outer(wide, wide)
        return made

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays (not copies), for ``from_state``."""
        numbers = np.array([self.columns, self.reservoir, self.seed, self.count], np.int64)
        return {"numbers": numbers, **{name: getattr(self, name) for name in _SUMS}}

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> InputStatistics:
        """As it was when ``state()`` was called. Raises InputError if an array is missing or of another shape."""
        missing = [name for name in ("numbers", *_SUMS) if name not in state]
        if missing:
            raise InputError(f"statistics: expected the array {missing[0]}, found {sorted(state)}")
        numbers = state["numbers"]
        if numbers.shape != (4,) or not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 0:
            raise InputError(f"statistics.numbers: expected four integers from 0, found {shorten(numbers.tolist())}")
        columns, reservoir, seed, count = numbers.tolist()
        kept = min(count, reservoir)
        shapes = ((columns,), (columns,), (columns,), (columns, columns), (kept, columns), (kept,))
        for name, shape in zip(_SUMS, shapes):
            if state[name].shape != shape:
                raise InputError(
                    f"statistics.{name}: expected shape {list(shape)}, found {list(state[name].shape)}"
                )
        made = cls(columns, reservoir=reservoir, seed=seed)
        made.count = count
        for name in _SUMS:
            setattr(made, name, state[name].astype(getattr(made, name).dtype))
        return made

    def _keep(self, x: np.ndarray, keys: np.ndarray) -> None:
        """Of the sample and the rows ``x`` with ``keys``, those with the smallest keys."""
        if len(self.keys) == self.reservoir:
            new = keys < self.keys[-1] if self.reservoir else np.zeros(len(keys), bool)
            x, keys = x[new], keys[new]
        every = np.concatenate([self.keys, keys])
        first = np.argsort(every, kind="stable")[: self.reservoir]
        self.keys = every[first]
        self.rows = np.concatenate([self.rows, x])[first]


def inputs_of(
    statistics: Mapping[str, InputStatistics], config: ModelConfig, name: str
) -> InputStatistics | None:
    """What the matrix of that packed name reads, by statistics of ``calibration.calibrate``; None if it is only looked
    up in. A table that is the output layer, too, reads what that does."""
    return statistics.get("output" if name == "decoder.embed" and config.tie_output else name)


def _keys(seed: int, start: int, count: int) -> np.ndarray:
    """uint64 [count]: splitmix64 of places ``start`` and on in the stream of ``seed``."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    base = _mix(np.array([seed], np.uint64) * golden)
    return _mix(base + (np.arange(start, start + count, dtype=np.uint64) + np.uint64(1)) * golden)


def _mix(z: np.ndarray) -> np.ndarray:
    """A permutation of the 64-bit integers that looks like chance; products wrap."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return z
