"""The tokens of sentences in slots: as much memory as each of them needs, whatever the longest one needs."""

from __future__ import annotations

import numpy as np

__all__ = ["Histories"]

LEAST = 32
"""Tokens that there is room for at first."""


class Histories:
    """Of each slot an int32 array [rows, capacity], which grows by doubling; [rows, 0] where nothing lives there.

    addresses  uintp [slots]  where the arrays lie, for the core; 0 where there is nothing
    capacity   int64 [slots]
    """

    def __init__(self, slots: int, rows: int) -> None:
        self._rows = rows
        self._nothing = np.zeros((rows, 0), np.int32)
        self._arrays = [self._nothing] * slots
        self.addresses = np.zeros(slots, np.uintp)
        self.capacity = np.zeros(slots, np.int64)

    def __getitem__(self, slot: int) -> np.ndarray:
        return self._arrays[slot]

    @property
    def nbytes(self) -> int:
        return int(self.capacity.sum()) * self._rows * self._nothing.itemsize

    def reserve(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        """Make room for `lengths` [n] tokens in these slots [n]."""
        for i in np.flatnonzero(lengths > self.capacity[slots]).tolist():
            slot, before = int(slots[i]), self._arrays[slots[i]]
            capacity = max(int(lengths[i]), 2 * before.shape[1], LEAST)
            wider = np.zeros((self._rows, capacity), np.int32)
            wider[:, : before.shape[1]] = before
            self._arrays[slot], self.addresses[slot], self.capacity[slot] = wider, wider.ctypes.data, capacity

    def append(self, slots: np.ndarray, lengths: np.ndarray, tokens: np.ndarray) -> None:
        """Write tokens [n, m] behind the first `lengths` [n] ones of the first rows of these slots."""
        ends = lengths + tokens.shape[1]
        self.reserve(slots, ends)
        for slot, begin, end, some in zip(slots.tolist(), lengths.tolist(), ends.tolist(), tokens, strict=True):
            self._arrays[slot][0, begin:end] = some

    def release(self, slots: np.ndarray) -> None:
        for slot in slots.tolist():
            self._arrays[slot] = self._nothing
        self.addresses[slots] = self.capacity[slots] = 0
