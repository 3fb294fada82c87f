"""Pages of keys and values, laid out as csrc/kernels/kernels.h draws them, in plain NumPy."""

from __future__ import annotations

import numpy as np

from .memory import Buffer, output, placed

__all__ = ["KINDS", "PAGE", "attend", "head_bytes", "store"]

KINDS = ("int8", "float32")
PAGE = 16


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


def store(kernels, kind: str, k: np.ndarray, v: np.ndarray, edge: str = "end") -> list[np.ndarray]:
    """k, v float32 [T, H, D] -> pages, each beside a guard page.

    What a page holds besides (the slots of tokens to come, the padding of values) is poison: kernels may read it,
    and it must not matter.
    """
    n, heads, d = k.shape
    size = head_bytes(kind, d)
    pages = [Buffer((heads * size,), np.uint8, edge).array for _ in range(-(-n // PAGE))]
    for t in range(n):
        for head in range(heads):
            part = pages[t // PAGE][head * size : (head + 1) * size]
            if kind == "int8":
                _store_int8(kernels, part, t % PAGE, k[t, head], v[t, head])
            else:
                _store_float32(part, t % PAGE, k[t, head], v[t, head])
    return pages


def attend(kernels, kind: str, q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, edge: str = "end"):
    """One query over all keys: q float32 [H, D], k, v [T, H, D] -> [H, D]."""
    heads, d = q.shape
    pages = store(kernels, kind, k, v, edge)
    before = [page.copy() for page in pages]
    y = output((heads, d), np.float32, edge)
    kernels.attend(kind, placed(q, edge), pages, len(k), scale, y.array)
    y.assert_clean_outside()
    last = output((1, d), np.float32, edge)  # one head by itself, behind others
    kernels.attend(kind, placed(q[-1:], edge), pages, len(k), scale, last.array, (heads - 1) * head_bytes(kind, d))
    last.assert_clean_outside()
    assert last.array.tobytes() == y.array[-1:].tobytes()
    assert all(np.array_equal(page, old) for page, old in zip(pages, before, strict=True))
    return y.array.copy()
