"""GGUF files made by hand, byte by byte, so that each can be wrong in one place."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

UINT8, INT16, UINT32, INT32, FLOAT32, BOOL, TEXT, ARRAY, UINT64 = 0, 3, 4, 5, 6, 7, 8, 9, 10


def number(kind: int, value: float) -> bytes:
    return struct.pack({0: "<B", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q"}[kind], value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def typed(kind: int, value: float | str | bytes) -> bytes:
    """A value with its type before it."""
    content = text(value) if isinstance(value, (str, bytes)) else number(kind, value)
    return struct.pack("<I", kind) + content


def array(kind: int, count: int, content: bytes) -> bytes:
    return struct.pack("<IIQ", ARRAY, kind, count) + content


def tensor(name: str, sizes: Sequence[int], kind: int, offset: int) -> bytes:
    """``sizes``: the fastest first."""
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def file(
    keys: Mapping[str, bytes],
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """A whole file; ``counts`` of tensors and keys, if they are to be lies."""
    claimed = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, *claimed)
    head += b"".join(text(key) + value for key, value in keys.items()) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data
