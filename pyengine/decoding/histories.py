"""The tokens of sentences in slots: as much memory as each of them needs, whatever the longest one needs."""

from __future__ import annotations

import numpy as np

__all__ = ["Histories"]

LEAST = 64
"""Tokens that there is room for at first."""


class Histories:
    """Of each slot an int32 array [rows, capacity]: its share of one that stays, or its own, which grows by doubling.

    With `values`, each slot has float64 [capacity] as well: of each token of its first row.

    addresses, value_addresses  uintp [slots]  where the arrays lie, for the core; of values there may be none
    capacity   int64 [slots]
    """

    def __init__(self, slots: int, rows: int, *, values: bool = False) -> None:
        self._rows = rows
        self._shares = np.empty((slots, rows, LEAST), np.int32)
        self._values = np.empty((slots if values else 0, LEAST))
        self._grown: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
        self._homes, self._value_homes = (
            each.__array_interface__["data"][0] + each.strides[0] * np.arange(len(each), dtype=np.uintp)
            for each in (self._shares, self._values)
        )
        self.addresses, self.value_addresses = self._homes.copy(), self._value_homes.copy()
        self.capacity = np.full(slots, LEAST, np.int64)

    def __getitem__(self, slot: int) -> np.ndarray:
        return self._grown[slot][0] if slot in self._grown else self._shares[slot]

    def values(self, slot: int) -> np.ndarray:
        """float64 [capacity]."""
        grown = self._grown[slot][1] if slot in self._grown else None
        return self._values[slot] if grown is None else grown

    @property
    def nbytes(self) -> int:
        """May be asked by other threads meanwhile."""
        grown = (array for pair in list(self._grown.values()) for array in pair if array is not None)
        return self._shares.nbytes + self._values.nbytes + sum(array.nbytes for array in grown)

    def reserve(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        """Make room for `lengths` [n] tokens in these slots [n]."""
        if not len(lengths) or lengths.max() <= LEAST:  # most calls
            return
        for i in (lengths > self.capacity[slots]).nonzero()[0].tolist():
            slot, before = int(slots[i]), self[slots[i]]
            capacity = max(int(lengths[i]), 2 * before.shape[1])
            wider = np.empty((self._rows, capacity), np.int32)
            wider[:, : before.shape[1]] = before
            values = None
            if len(self._values):
                values = np.empty(capacity)
                values[: before.shape[1]] = self.values(slot)
                self.value_addresses[slot] = values.ctypes.data
            self._grown[slot], self.addresses[slot], self.capacity[slot] = (wider, values), wider.ctypes.data, capacity

    def release(self, slots: np.ndarray) -> None:
        """Give back what these slots need no longer."""
        for slot in self._grown.keys() & set(slots.tolist()) if self._grown else ():
            del self._grown[slot]
            self.addresses[slot], self.capacity[slot] = self._homes[slot], LEAST
            if len(self._values):
                self.value_addresses[slot] = self._value_homes[slot]
