"""The GGUF container: what a file says before its tensors' bytes, checked against the file.

    OFFSET  SIZE  DESCRIPTION
    0       4     "GGUF"
    4       4     version, 2 or 3; all numbers are unsigned and little-endian unless their type says otherwise
    8       8     T, the number of tensors
    16      8     K, the number of keys
    24      ...   K times: a text (length of 8 bytes, UTF-8), a type of 4 bytes, a value
                  T times: a text, D of 4 bytes, D sizes of 8 (the fastest first), a type of 4, an offset of 8
    ...     ...   padding to a multiple of "general.alignment" (32), from where offsets count
    ...     ...   tensors in that order, each padded to such a multiple

A value is a number, a text, or an array: the type of its elements, of 4 bytes, and their number, of 8; they are no
arrays. A tensor is in blocks, along its fastest dimension (``TYPES``).

Source: llama.cpp, docs of ggml (gguf.md) and ggml/src/gguf.cpp, whose checks these are. Nothing is believed: before
anything is made of a count or a length, the file must have bytes for it, and ``limits`` bound what these may become.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.limits import GGUF_ELEMENTS, GGUF_HEADER_BYTES, GGUF_KEYS, GGUF_TENSORS
from pyengine.formats.strict_json import shorten

__all__ = ["MAGIC", "TYPES", "Entry", "parse_header"]

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4

# Number -> name, elements and bytes of a block: all that the gguf package dequantizes, and plain numbers.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_FLOAT, _BOOL, _TEXT, _ARRAY = 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: ``file[begin:end]``, in blocks of ``kind``; ``shape`` as NumPy has it, slowest first."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(data: mmap.mmap, path: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """The values by key, and the tensors by name, of a GGUF file.

    Values are of Python: a number of float32 is the shortest decimal that rounds to it, as whoever wrote it had it.
    After this no tensor reaches outside the file and no two overlap. CheckpointError for a damaged or hostile file,
    UnsupportedError for a version, byte order or type of tensor that is not read.
    """
    cursor = _Cursor(data, path)
    if cursor.bytes(4, "its start") != MAGIC:
        raise CheckpointError(f"{path}: not a GGUF file: it does not start with {MAGIC.decode()}")
    version = cursor.number("<I", "its version")
    if version not in _VERSIONS:
        kind = "a big-endian GGUF file" if version & 0xFFFF == 0 else f"GGUF of version {version}"
        raise UnsupportedError(f"{path}: {kind}; expected version 2 or 3, little-endian")
    tensors = cursor.count(GGUF_TENSORS, "tensors")
    keys = cursor.count(GGUF_KEYS, "keys")
    metadata: dict[str, Any] = {}
    for index in range(keys):
        key = cursor.text(f"key {index}")
        if not key or key in metadata:
            raise CheckpointError(f"{path}: key {index} {f'occurs twice: {shorten(key)}' if key else 'is empty'}")
        metadata[key] = cursor.value(f"key {shorten(key)}")
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(f"{path}: general.alignment: expected a power of two, found {shorten(alignment)}")
    infos = {}
    for index in range(tensors):
        name = cursor.text(f"the name of tensor {index}")
        if name in infos:
            raise CheckpointError(f"{path}: tensor {shorten(name)} occurs twice")
        infos[name] = cursor.tensor(f"tensor {shorten(name)}")
    return metadata, _placed(infos, _padded(cursor.at, alignment), alignment, len(data), path)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _placed(
    infos: dict[str, tuple[int, tuple[int, ...], int]], base: int, alignment: int, total: int, path: Path
) -> dict[str, Entry]:
    """The tensors, which must follow one another from ``base`` on, as their writer pads them."""
    entries: dict[str, Entry] = {}
    position = 0
    for name, (number, shape, offset) in infos.items():
        where = f"{path}: tensor {shorten(name)}"
        kind, elements, size = TYPES[number]
        if shape[-1] % elements:
            raise CheckpointError(f"{where}: rows of {shape[-1]} elements, expected blocks of {elements} ({kind})")
        if offset != position:
            raise CheckpointError(f"{where}: lies at {offset} of the data, expected {position}")
        begin = base + offset
        end = begin + math.prod(shape) // elements * size
        if end > total:
            raise CheckpointError(
                f"{where}: truncated: {kind} {list(shape)} ends at byte {end}, the file has {total}"
            )
        entries[name] = Entry(kind, shape, begin, end)
        position = _padded(end - base, alignment)
    return entries


class _Cursor:
    """Reads a header from its start to its end; whatever it reads is there, or CheckpointError says what is not."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.at = 0
        self._data = data
        self._path = path
        self._elements = GGUF_ELEMENTS

    def bytes(self, count: int, what: str) -> bytes:
        """The next ``count`` bytes."""
        end = self.at + count
        if end > len(self._data):
            raise CheckpointError(f"{self._path}: truncated: {what} ends at byte {end}, the file has {len(self._data)}")
        if end > GGUF_HEADER_BYTES:
            raise CheckpointError(f"{self._path}: {what}: in a header of more than {GGUF_HEADER_BYTES} bytes")
        self.at, begin = end, self.at
        return self._data[begin:end]

    def number(self, form: str, what: str) -> Any:
        """The next number, of a form of ``struct``."""
        return struct.unpack(form, self.bytes(struct.calcsize(form), what))[0]

    def count(self, limit: int, what: str) -> int:
        """The next count of what, at most ``limit``."""
        found: int = self.number("<Q", f"the number of {what}")
        if found > limit:
            raise CheckpointError(f"{self._path}: {found} {what}, at most {limit} are read")
        return found

    def text(self, what: str) -> str:
        """The next text."""
        raw = self.bytes(self.number("<Q", what), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise CheckpointError(f"{self._path}: {what}: expected UTF-8, found {shorten(exc.object)}") from None

    def value(self, what: str) -> Any:
        """The next value, with its type before it."""
        kind = self.number("<I", what)
        if kind == _TEXT:
            return self.text(what)
        if kind in _NUMBERS:
            return self._numbers(kind, 1, what)[0] if kind != _FLOAT else self._shortest(what)
        if kind != _ARRAY:
            raise CheckpointError(f"{self._path}: {what}: type {kind} of a value is unknown")
        kind, count = self.number("<I", what), self.number("<Q", what)
        self._elements -= count
        if self._elements < 0:
            raise CheckpointError(f"{self._path}: {what}: arrays of more than {GGUF_ELEMENTS} elements in all")
        if kind == _TEXT:
            return [self.text(what) for _ in range(count)]
        if kind not in _NUMBERS:
            raise CheckpointError(f"{self._path}: {what}: an array of type {kind}, expected numbers or texts")
        return self._numbers(kind, count, what)

    def _numbers(self, kind: int, count: int, what: str) -> list[Any]:
        form = np.dtype(_NUMBERS[kind])
        values = np.frombuffer(self.bytes(count * form.itemsize, what), form)
        if kind == _BOOL:
            if values.size and values.max() > 1:
                raise CheckpointError(f"{self._path}: {what}: expected true or false, found {values.max()}")
            values = values.astype(bool)
        numbers: list[Any] = values.tolist()
        return numbers

    def _shortest(self, what: str) -> float:
        return float(str(np.float32(self.number("<f", what))))

    def tensor(self, what: str) -> tuple[int, tuple[int, ...], int]:
        """Of the next tensor, behind its name: the number of its type, its shape, its offset."""
        count = self.number("<I", what)
        if not 1 <= count <= _MAX_DIMENSIONS:
            raise CheckpointError(f"{self._path}: {what}: {count} dimensions, expected 1 to {_MAX_DIMENSIONS}")
        sizes = struct.unpack(f"<{count}Q", self.bytes(8 * count, what))
        if 0 in sizes:
            raise CheckpointError(f"{self._path}: {what}: expected sizes from 1 on, found {list(sizes)}")
        number, offset = self.number("<I", what), self.number("<Q", what)
        if number not in TYPES:
            known = ", ".join(name for name, _, _ in TYPES.values())
            raise UnsupportedError(f"{self._path}: {what}: type {number}; supported: {known}")
        return number, sizes[::-1], offset
