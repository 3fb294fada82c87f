"""The tokens of sentences in slots: as much memory as each of them needs, whatever the longest one needs."""

from __future__ import annotations

import numpy as np

__all__ = ["Histories"]

LEAST = 64
"""Tokens that there is room for at first."""


class Histories:
    """Of each slot an int32 array [rows, capacity]: its share of one that stays, or its own, which grows by doubling.

    addresses  uintp [slots]  where the arrays lie, for the core
    capacity   int64 [slots]
    """

    def __init__(self, slots: int, rows: int) -> None:
        self._rows = rows
        self._shares = np.empty((slots, rows, LEAST), np.int32)
        self._grown: dict[int, np.ndarray] = {}
        self._homes = self._shares.ctypes.data + self._shares.strides[0] * np.arange(slots, dtype=np.uintp)
        self.addresses = self._homes.copy()
        self.capacity = np.full(slots, LEAST, np.int64)

    def __getitem__(self, slot: int) -> np.ndarray:
        return self._grown[slot] if slot in self._grown else self._shares[slot]

    @property
    def nbytes(self) -> int:
        return self._shares.nbytes + sum(array.nbytes for array in self._grown.values())

    def reserve(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        """Make room for `lengths` [n] tokens in these slots [n]."""
        for i in (lengths > self.capacity[slots]).nonzero()[0].tolist():
            slot, before = int(slots[i]), self[slots[i]]
            capacity = max(int(lengths[i]), 2 * before.shape[1])
            wider = np.empty((self._rows, capacity), np.int32)
            wider[:, : before.shape[1]] = before
            self._grown[slot], self.addresses[slot], self.capacity[slot] = wider, wider.ctypes.data, capacity

    def release(self, slots: np.ndarray) -> None:
        """Give back what these slots need no longer."""
        for slot in self._grown.keys() & set(slots.tolist()):
            del self._grown[slot]
        self.addresses[slots], self.capacity[slots] = self._homes[slots], LEAST
