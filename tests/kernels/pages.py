"""Pages of keys and values, laid out as csrc/kernels/kernels.h draws them, in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .memory import Buffer, output, placed

__all__ = ["KINDS", "PAGE", "PLAIN", "SPAN", "STRIP", "View", "attend", "head_bytes", "store"]

KINDS = ("int8", "float32")
PAGE = 16
STRIP, SPAN = 4 * PAGE, 64 * PAGE


@dataclass(frozen=True)
class View:
    """What a query sees, as in pe_attend: keys from `first_key` on, their scores capped and biased."""

    first_key: int = 0
    soft_cap: float = 0.0  # 0: none
    position: int = 0  # of the query
    relative: np.ndarray | None = None  # float32 [H, 2 reach + 1], by distance
    slopes: np.ndarray | None = None  # float32 [H]

    def of_last_head(self) -> View:
        one = slice(-1, None)
        relative = None if self.relative is None else self.relative[one]
        return replace(self, relative=relative, slopes=None if self.slopes is None else self.slopes[one])

    def arguments(self, edge: str) -> dict[str, object]:
        """Keywords of Kernels.attend; beyond reach the table goes on for a page at either end."""
        tables = {"relative": self.relative, "slopes": self.slopes}
        if self.relative is not None:
            tables["relative"] = np.pad(self.relative, ((0, 0), (PAGE, PAGE)), mode="edge")
        there = {name: placed(table, edge) for name, table in tables.items() if table is not None}
        return {"first_key": self.first_key, "soft_cap": self.soft_cap, "position": self.position, **there}


PLAIN = View()


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def head_bytes(kind: str, d: int) -> int:
    """Bytes of one head of one page."""
    if kind == "int8":
        return _up(d, 4) * 16 + _up(d, 16) * 16 + 2 * PAGE * 4
    return d * PAGE * 4 + PAGE * _up(d, 16) * 4


def _store_int8(kernels, part: np.ndarray, slot: int, key: np.ndarray, value: np.ndarray) -> None:
    d = len(key)
    d4, d16 = _up(d, 4), _up(d, 16)
    keys = part[: d4 * 16].view(np.int8).reshape(d4 // 4, PAGE, 4)
    values = part[d4 * 16 : (d4 + d16) * 16].view(np.int8).reshape(4, d16, 4)
    scales = part[(d4 + d16) * 16 :].view(np.float32).reshape(2, PAGE)
    q = np.empty(d4, np.int8)
    kernels.quantize(key, d4, kernels.flip, q, scales[0, slot:])
    keys[:, slot] = q.reshape(-1, 4)
    kernels.quantize(value, d, 0, q, scales[1, slot:])
    values[slot // 4, :d, slot % 4] = q[:d]


def _store_float32(part: np.ndarray, slot: int, key: np.ndarray, value: np.ndarray) -> None:
    d = len(key)
    floats = part.view(np.float32)
    floats[: d * PAGE].reshape(d, PAGE)[:, slot] = key
    floats[d * PAGE :].reshape(PAGE, _up(d, 16))[slot, :d] = value


def store(
    kernels, kind: str, k: np.ndarray, v: np.ndarray, edge: str = "end", first_key: int = 0
) -> list[np.ndarray]:
    """k, v float32 [T, H, D] -> pages of tokens from `first_key` on, each beside a guard page.

    What a page holds besides (the slots of other tokens, the padding of values) is poison: kernels may read it, and it
    must not matter. As floats, scales too, it is NaN.
    """
    n, heads, d = k.shape
    size = head_bytes(kind, d)
    pages = [Buffer((heads * size,), np.uint8, edge).array for _ in range(-(-n // PAGE))]
    for t in range(first_key, n):
        for head in range(heads):
            part = pages[t // PAGE][head * size : (head + 1) * size]
            if kind == "int8":
                _store_int8(kernels, part, t % PAGE, k[t, head], v[t, head])
            else:
                _store_float32(part, t % PAGE, k[t, head], v[t, head])
    return pages


def attend(
    kernels,
    kind: str,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    edge: str = "end",
    view: View = PLAIN,
    n_keys: int | None = None,
) -> np.ndarray:
    """One query over keys: q float32 [H, D], k, v [T, H, D] -> [H, D].

    What is not seen is poison, and pages before the view are none at all. With `n_keys`, the tokens from there on are
    not seen, but they are stored, as are those in the view's first page: these must not matter either.
    """
    heads, d = q.shape
    pages = store(kernels, kind, k, v, edge, view.first_key if n_keys is None else 0)
    if n_keys is None:
        n_keys = len(k)
    before = [page.copy() for page in pages]
    given = [page if i >= view.first_key // PAGE else None for i, page in enumerate(pages)]
    y = output((heads, d), np.float32, edge)
    kernels.attend(kind, placed(q, edge), given, n_keys, scale, y.array, **view.arguments(edge))
    y.assert_clean_outside()
    last = output((1, d), np.float32, edge)  # one head by itself, behind others
    offset = (heads - 1) * head_bytes(kind, d)
    own = view.of_last_head().arguments(edge)
    kernels.attend(kind, placed(q[-1:], edge), given, n_keys, scale, last.array, offset, **own)
    last.assert_clean_outside()
    assert last.array.tobytes() == y.array[-1:].tobytes()
    assert all(np.array_equal(page, old) for page, old in zip(pages, before, strict=True))
    return y.array.copy()
