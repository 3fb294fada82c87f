"""The safetensors container: parse and build its header.

    OFFSET  SIZE  DESCRIPTION
    0       8     N, length of the header, unsigned little-endian
    8       N     JSON object: name -> {"dtype", "shape", "data_offsets": [begin, end)}, maybe "__metadata__";
                  may end in spaces
    8+N     ...   data; offsets count from here; tensors follow each other without gaps to the end of the file

Source: https://github.com/huggingface/safetensors (README, "Format"). Limits as there, but for the size of the header
(``limits``): it starts with "{", no gap, no overlap, nothing after the last tensor.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Mapping

from pyengine.errors import PyengineError
from pyengine.formats.limits import HEADER_BYTES
from pyengine.formats.strict_json import parse_object, shorten

__all__ = ["DTYPE_BYTES", "Entry", "build_header", "parse_header", "parse_with_metadata"]

MAX_DIMENSIONS = 8
MAX_SIZE = (1 << 63) - 1

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: ``file[begin:end]``, with offsets from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _sizes(value: Any) -> tuple[int, ...] | None:
    """``value`` as a tuple of integers from 0 to MAX_SIZE, or None."""
    if not isinstance(value, list) or any(type(x) is not int or not 0 <= x <= MAX_SIZE for x in value):
        return None
    return tuple(value)


def _entry(name: str, raw: Any, base: int, where: str, error: type[PyengineError]) -> Entry:
    where = f"{where}: tensor {shorten(name)}"
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise error(f"{where}: expected dtype, shape and data_offsets, found {shorten(raw)}")
    dtype = raw["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise error(f"{where}: unknown dtype {shorten(dtype)}")
    shape = _sizes(raw["shape"])
    if shape is None or len(shape) > MAX_DIMENSIONS:
        found = shorten(raw["shape"])
        raise error(f"{where}: expected a shape of at most {MAX_DIMENSIONS} sizes, found {found}")
    offsets = _sizes(raw["data_offsets"])
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise error(f"{where}: expected data_offsets [begin, end], found {shorten(raw['data_offsets'])}")
    begin, end = offsets
    size = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != size:
        raise error(f"{where}: {dtype} {list(shape)} takes {size} bytes, data_offsets span {end - begin}")
    return Entry(dtype, shape, base + begin, base + end)


def parse_header(data: Any, where: str, error: type[PyengineError]) -> dict[str, Entry]:
    """Check the whole header of a safetensors file against the file and return its tensors by name.

    ``data`` is the file as a sliceable buffer of bytes (an ``mmap``, say). After this no entry reaches
    outside the file, no two overlap and no byte of the data belongs to no tensor. Raises ``error`` naming
    ``where``.
    """
    return parse_with_metadata(data, where, error)[0]


def parse_with_metadata(
    data: Any, where: str, error: type[PyengineError]
) -> tuple[dict[str, Entry], dict[str, str]]:
    """As ``parse_header``, and the strings of ``__metadata__``."""
    total = len(data)
    if total < 8:
        raise error(f"{where}: truncated: {total} bytes, a safetensors file has at least 8")
    length = int.from_bytes(data[:8], "little")
    if length > HEADER_BYTES:
        raise error(f"{where}: header of {length} bytes, at most {HEADER_BYTES} are read")
    base = 8 + length
    if base > total:
        raise error(f"{where}: truncated: the header needs {base} bytes, the file has {total}")
    if length == 0 or data[8:9] != b"{":
        raise error(f"{where}: not a safetensors file: the header does not start with '{{'")
    raw = parse_object(bytes(data[8:base]), f"{where}: header", error, HEADER_BYTES)
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise error(f"{where}: __metadata__: expected an object of strings, found {shorten(metadata)}")

    entries = {name: _entry(name, value, base, where, error) for name, value in raw.items()}
    position = base
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            kind = "overlaps the tensor before it" if entry.begin < position else "leaves a gap before it"
            found = f"begins at {entry.begin}, expected {position}"
            raise error(f"{where}: tensor {shorten(name)} {kind}: {found}")
        position = entry.end
    if position != total:
        kind = "truncated" if position > total else "has bytes after the last tensor"
        raise error(f"{where}: {kind}: tensors end at byte {position}, the file has {total}")
    return entries, metadata


def build_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str], align: int
) -> bytes:
    """The bytes before the data for ``tensors`` (name -> dtype, shape), laid out in the order given.

    Padded with spaces so that the data starts at a multiple of ``align`` bytes.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    text += b" " * (-(8 + len(text)) % align)
    return len(text).to_bytes(8, "little") + text
