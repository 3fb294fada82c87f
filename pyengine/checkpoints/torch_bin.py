"""Reader of ``pytorch_model.bin``: what torch.save writes, without torch and without running anything.

Since torch 1.6 that is a zip file; the older row of pickles is for ``torch_legacy``.

    NAME                CONTENT
    <top>/data.pkl      pickle of a dict: name -> _rebuild_tensor_v2(storage, offset, size, stride, ...)
    <top>/data/<key>    the bytes of a storage, not compressed; tensors may share one
    <top>/byteorder     "little" or "big" (files of older versions lack it: little)
    <top>/version

Source: torch/serialization.py (_save). The oldest format, a tar file, is refused by name.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyengine.checkpoints.stored import MappedTensor, StoredTensor
from pyengine.checkpoints.torch_legacy import MAGIC, open_legacy
from pyengine.checkpoints.torch_pickle import StatePickle, Storage
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.limits import PICKLE_BYTES, ZIP_DIRECTORY_BYTES
from pyengine.formats.regular_files import map_regular
from pyengine.formats.strict_json import shorten

__all__ = ["open_torch_bin"]

_STORED = 0


def open_torch_bin(path: Path) -> dict[str, StoredTensor]:
    """The tensors of the state dict in ``path`` by name; only names and shapes are read.

    What the dict has beside tensors (a step, an optimizer's state) is left out. Raises CheckpointError for a damaged or
    hostile file (a pickle that would run code among them), UnsupportedError for torch's oldest format, TorchScript and
    models that were pickled as a whole.
    """
    data = map_regular(path, CheckpointError)
    if data[: len(MAGIC)] == MAGIC:
        return open_legacy(data, path)
    if data[257:262] == b"ustar":
        raise UnsupportedError(f"{path}: torch's old tar format; save it again with torch 1.6 or newer")
    if data[:1] == b"\x80":
        raise UnsupportedError(f"{path}: a raw pickle, expected what torch.save writes; save it with that")
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
    pickle = StatePickle(data[begin:end], data, path, "data.pkl")
    state = pickle.next()
    if pickle.at != end - begin:
        raise CheckpointError(f"{path}: data.pkl: something follows the value at byte {pickle.at}")
    return pickle.tensors(state, _begins(path, f"{top}data/", members, pickle.storages))


def _begins(
    path: Path, folder: str, members: Mapping[str, tuple[int, int]], storages: Mapping[str, Storage]
) -> dict[str, int]:
    """Where the elements of each storage begin, a member of the zip each."""
    begins = {}
    for key, storage in storages.items():
        if folder + key not in members:
            raise CheckpointError(f"{path}: storage {shorten(key)} is not in the file")
        begin, end = members[folder + key]
        if storage.count * storage.item_bytes != end - begin:
            raise CheckpointError(
                f"{path}: storage {shorten(key)}: {end - begin} bytes in the file, "
                f"expected {storage.count} elements of {storage.item_bytes} bytes"
            )
        begins[key] = begin
    return begins


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
