"""``pytorch_model.bin`` as torch wrote it before 1.6: five pickles, then the bytes of storages.

    magic number, protocol version 1001, {"little_endian", ...}     three pickles
    the state dict                                                  a pickle
    keys                                                            a pickle: a list of the storages' keys, in order
    of each key: the number of its elements, 8 bytes, little-endian; and its elements

Source: torch/serialization.py (_legacy_save).
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

from pyengine.checkpoints.stored import MappedTensor, StoredTensor
from pyengine.checkpoints.torch_pickle import StatePickle, Storage
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.limits import PICKLE_BYTES
from pyengine.formats.strict_json import shorten

__all__ = ["MAGIC", "open_legacy"]

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle
_PROTOCOL = 1001


def open_legacy(data: mmap.mmap, path: Path) -> dict[str, StoredTensor]:
    """The tensors of the state dict in ``data``, which begins with MAGIC, by name; raises as ``open_torch_bin``."""
    pickles = StatePickle(data[:PICKLE_BYTES], data, path, "its pickles")
    pickles.next()
    if (version := pickles.next()) != _PROTOCOL:
        raise UnsupportedError(f"{path}: protocol version {shorten(version)}, expected {_PROTOCOL}")
    system = pickles.next()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnsupportedError(f"{path}: expected little-endian numbers, found {shorten(system)}")
    state, keys = pickles.next(), pickles.next()
    return pickles.tensors(state, _begins(data, path, pickles.at, keys, pickles.storages))


def _begins(
    data: mmap.mmap, path: Path, at: int, keys: object, storages: Mapping[str, Storage]
) -> dict[str, int]:
    """Where the elements of each storage begin; the first storage begins at byte ``at``."""
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
        raise CheckpointError(f"{path}: expected the keys of {len(storages)} storages, found {shorten(keys)}")
    begins = {}
    for key in keys:
        storage = storages[key]
        count = int.from_bytes(data[at : at + 8], "little", signed=True)
        begins[key] = at + 8
        at += 8 + storage.count * storage.item_bytes
        if at > len(data):
            raise CheckpointError(
                f"{path}: truncated: storage {shorten(key)} ends at byte {at}, the file has {len(data)}"
            )
        if count != storage.count:
            raise CheckpointError(
                f"{path}: storage {shorten(key)}: {count} elements in the file, expected {storage.count}"
            )
    if at != len(data):
        raise CheckpointError(f"{path}: something follows the last storage at byte {at}")
    return begins
