"""Reader of ``pytorch_model.bin``: torch.save's zip format, without torch and without running anything.

    NAME                CONTENT
    <top>/data.pkl      pickle of a dict: name -> _rebuild_tensor_v2(storage, offset, size, stride, ...)
    <top>/data/<key>    the bytes of a storage, not compressed; tensors may share one
    <top>/byteorder     "little" or "big" (files of older versions lack it: little)
    <top>/version

Source: torch/serialization.py (_save), torch/_utils.py (_rebuild_tensor_v2). The older formats, a tar file
and a row of raw pickles, are refused by name.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyengine.checkpoints.stored import StoredTensor
from pyengine.checkpoints.unpickle import Global, Machine, PickleError
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.limits import PICKLE_BYTES, ZIP_DIRECTORY_BYTES
from pyengine.formats.regular_files import map_regular
from pyengine.formats.strict_json import shorten

__all__ = ["open_torch_bin"]

MAX_DIMENSIONS = 8
MAX_SIZE = (1 << 63) - 1
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STORED = 0

# torch's class of a storage -> type name, bytes of an element
_STORAGES = {
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "DoubleStorage": ("float64", 8),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}


@dataclass(frozen=True)
class _Storage:
    dtype: str
    begin: int  # byte in the file
    count: int  # elements
    item_bytes: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements


def open_torch_bin(path: Path) -> dict[str, StoredTensor]:
    """The tensors of the state dict in ``path`` by name; only names and shapes are read.

    Raises CheckpointError for a damaged or hostile file (a pickle that would run code among them),
    UnsupportedError for torch's older formats and for TorchScript.
    """
    data = map_regular(path, CheckpointError)
    _refuse_old_formats(data, path)
    members = _members(data, path)
    tops = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(tops) != 1:
        raise CheckpointError(f"{path}: expected one data.pkl in a directory of the zip, found {len(tops)}")
    top = tops[0].removesuffix("data.pkl")
    if f"{top}constants.pkl" in members:
        raise UnsupportedError(f"{path}: a TorchScript archive, expected a state dict written by torch.save")
    if f"{top}byteorder" in members:
        begin, end = members[f"{top}byteorder"]
        order = bytes(data[begin : min(end, begin + 16)])
        if order != b"little":
            raise UnsupportedError(f"{path}: byte order {order!r}, expected b'little'")
    begin, end = members[f"{top}data.pkl"]
    if end - begin > PICKLE_BYTES:
        raise CheckpointError(f"{path}: data.pkl of {end - begin} bytes, at most {PICKLE_BYTES} are read")
    state = _state_dict(bytes(data[begin:end]), top, members, path)
    return {name: _stored(name, tensor, path, data) for name, tensor in state.items()}


def _refuse_old_formats(data: mmap.mmap, path: Path) -> None:
    if data[257:262] == b"ustar":
        raise UnsupportedError(f"{path}: torch's old tar format; save it again with torch 1.6 or newer")
    if data[:1] == b"\x80":
        legacy = data[: len(_LEGACY_MAGIC)] == _LEGACY_MAGIC
        kind = "torch's old format of raw pickles" if legacy else "a raw pickle"
        raise UnsupportedError(f"{path}: {kind}, not a zip file; save it again with torch 1.6 or newer")


def _members(data: mmap.mmap, path: Path) -> dict[str, tuple[int, int]]:
    """Name -> [begin, end) of every member's bytes: stored as they are, inside the file, none overlapping."""
    try:
        # From the mapping itself, so that what is checked is what will be read.
        with zipfile.ZipFile(io.BufferedReader(_MapFile(data))) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, OverflowError, struct.error) as exc:
        raise CheckpointError(f"{path}: not a readable zip file: {exc}") from None
    members: dict[str, tuple[int, int]] = {}
    spans = []
    for info in infos:
        where = f"{path}: member {shorten(info.orig_filename)}"
        if info.orig_filename in members:
            raise CheckpointError(f"{where}: occurs twice")
        if info.compress_type != _STORED or info.flag_bits & 0x1 or info.compress_size != info.file_size:
            raise CheckpointError(f"{where}: compressed or encrypted; torch.save stores members as they are")
        start = info.header_offset
        local = data[start : start + 30] if 0 <= start <= len(data) else b""
        if len(local) != 30 or local[:4] != b"PK\x03\x04":
            raise CheckpointError(f"{where}: no member begins at byte {start}")
        begin = start + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        end = begin + info.file_size
        if end > len(data):
            raise CheckpointError(f"{where}: truncated: ends at byte {end}, the file has {len(data)}")
        members[info.orig_filename] = (begin, end)
        spans.append((start, end, where))
    spans.sort()
    for (_, end, _), (start, _, where) in zip(spans, spans[1:]):
        if start < end:
            raise CheckpointError(f"{where}: overlaps the member before it")
    return members


class _MapFile(io.RawIOBase):
    """A mapping as a raw file, for ``zipfile`` to read the directory of; closing it leaves the mapping open."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._left = ZIP_DIRECTORY_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        if base + offset < 0:
            raise OSError("a position before the start of the file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        chunk = self._data[self._at : self._at + len(buffer)]
        self._left -= len(chunk)
        if self._left < 0:
            raise OSError(f"a directory of more than {ZIP_DIRECTORY_BYTES} bytes, the most that is read")
        buffer[: len(chunk)] = chunk
        self._at += len(chunk)
        return len(chunk)


def _state_dict(
    pickled: bytes, top: str, members: dict[str, tuple[int, int]], path: Path
) -> dict[str, _Tensor]:
    def persistent(token: Any) -> _Storage:
        if type(token) is not tuple or len(token) != 5 or token[0] != "storage":
            raise PickleError(f"unknown persistent id {shorten(token)}")
        _, kind, key, _, count = token
        if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in _STORAGES:
            raise PickleError(f"unknown storage type {kind}")
        dtype, item_bytes = _STORAGES[kind.name]
        if type(key) is not str or f"{top}data/{key}" not in members:
            raise PickleError(f"storage {shorten(key)} is not in the file")
        begin, end = members[f"{top}data/{key}"]
        if type(count) is not int or count * item_bytes != end - begin:
            raise PickleError(
                f"storage {key}: {end - begin} bytes in the file, "
                f"expected {shorten(count)} elements of {item_bytes} bytes"
            )
        return _Storage(dtype, begin, count, item_bytes)

    try:
        state = Machine(pickled, _construct, persistent).run()
    except PickleError as exc:
        raise CheckpointError(f"{path}: data.pkl: {exc}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: data.pkl: expected a dict of tensors, found {type(state).__name__}")
    for name, value in state.items():
        if type(name) is not str or not isinstance(value, _Tensor):
            kind = type(value).__name__.lstrip("_")
            raise CheckpointError(f"{path}: data.pkl: expected tensors by name, {shorten(name)} is {kind}")
    return state


def _construct(function: Global, args: tuple[Any, ...]) -> Any:
    """What REDUCE may build: an ordered dict, a tensor, a parameter (which is its tensor)."""
    name = str(function)
    if name == "collections.OrderedDict" and args == ():
        return {}
    if name == "torch._utils._rebuild_tensor_v2" and len(args) in (6, 7):
        return _tensor(*args[:4])
    if name == "torch._utils._rebuild_parameter" and len(args) == 3 and isinstance(args[0], _Tensor):
        return args[0]
    raise PickleError(f"{name} with {len(args)} arguments is not allowed; only tensors are built")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise PickleError("a tensor without a storage")
    numbers = [offset, *shape, *strides] if type(shape) is tuple and type(strides) is tuple else [None]
    sane = all(type(x) is int and 0 <= x <= MAX_SIZE for x in numbers)
    if not sane or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise PickleError(
            f"a tensor of size {shorten(shape)}, stride {shorten(strides)} and offset {shorten(offset)}"
        )
    elements = math.prod(shape)
    span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides)) if elements else 0
    # The second condition: strides of 0 must not make a large tensor of a small file.
    if offset + span > storage.count or elements > storage.count:
        raise PickleError(
            f"a tensor of size {list(shape)}, stride {list(strides)} and offset {offset} "
            f"does not fit a storage of {storage.count} elements"
        )
    return _Tensor(storage, offset, shape, strides)


def _stored(name: str, tensor: _Tensor, path: Path, data: mmap.mmap) -> StoredTensor:
    storage = tensor.storage
    begin = storage.begin + tensor.offset * storage.item_bytes
    return StoredTensor(name, tensor.shape, tensor.strides, storage.dtype, path, data, begin)
