"""The state dict that torch pickles: name -> _rebuild_tensor_v2(storage, offset, size, stride, ...).

The bytes of storages lie elsewhere in the file: ``torch_bin`` and ``torch_legacy`` say where.

Source: torch/serialization.py (persistent_id), torch/_utils.py (_rebuild_tensor_v2).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyengine.checkpoints.stored import MappedTensor, StoredTensor
from pyengine.checkpoints.unpickle import Global, Machine, ObjectRefused, PickleError
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.strict_json import shorten

__all__ = ["StatePickle", "Storage"]

MAX_DIMENSIONS = 8
MAX_SIZE = (1 << 63) - 1

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
class Storage:
    """``count`` elements of ``item_bytes`` bytes, under the ``key`` that the file has for them."""

    key: str
    dtype: str
    count: int
    item_bytes: int


@dataclass(frozen=True)
class _Tensor:
    storage: Storage
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements


class StatePickle:
    """Pickles of the file ``path`` that follow one another in ``pickled``, and the ``storages`` they refer to, by key.

    ``data`` is the whole file, ``member`` what of it is unpickled, for messages. Raises CheckpointError for all that is
    wrong, and UnsupportedError for objects of classes.
    """

    def __init__(self, pickled: bytes, data: mmap.mmap, path: Path, member: str) -> None:
        self._data = data
        self._path = path
        self._where = f"{path}: {member}"
        self._machine = Machine(pickled, self._construct, self._persistent)
        self.storages: dict[str, Storage] = {}

    @property
    def at(self) -> int:
        """Bytes that have been read."""
        return self._machine.at

    def next(self) -> Any:
        """The value of the next pickle."""
        try:
            return self._machine.next()
        except ObjectRefused as exc:
            raise UnsupportedError(
                f"{self._where}: an object of class {shorten(str(exc))}: a whole pickled model, or the state of a "
                "training, which only code from the file could build. Where you trust it, load it with torch and write "
                "a checkpoint with model.save_pretrained(DIR)"
            ) from None
        except PickleError as exc:
            raise CheckpointError(f"{self._where}: {exc}") from None

    def tensors(self, state: Any, begins: Mapping[str, int]) -> dict[str, StoredTensor]:
        """The tensors by name of the state dict ``state``; what else is in it (a step, an optimizer) is left out.

        ``begins``: the byte of the file at which each storage begins, by key.
        """
        if not isinstance(state, dict):
            raise CheckpointError(f"{self._where}: expected a dict of tensors, found {type(state).__name__}")
        found: dict[str, StoredTensor] = {}
        for name, value in state.items():
            if type(name) is str and isinstance(value, _Tensor):
                begin = begins[value.storage.key] + value.offset * value.storage.item_bytes
                source = (value.storage.dtype, self._path, self._data, begin)
                found[name] = MappedTensor(name, value.shape, value.strides, *source)
        if not found:
            names = ", ".join(shorten(name) for name in list(state)[:8])
            raise CheckpointError(
                f"{self._where}: expected tensors by name, found {f'only {names}' if names else 'nothing'}"
                f"{_within(state)}"
            )
        return found

    def _persistent(self, token: Any) -> Storage:
        parts = token if type(token) is tuple else ()
        if len(parts) == 4 and parts[0] == "module" and isinstance(parts[1], Global):
            raise ObjectRefused(str(parts[1]))  # torch 1.5 and older: a class, and its source code
        # torch 1.5 and older add what a storage is a view of, which since torch 0.4 is nothing.
        if len(parts) not in (5, 6) or parts[0] != "storage" or parts[5:] not in ((), (None,)):
            raise PickleError(f"unknown persistent id {shorten(token)}")
        kind, key, count = parts[1], parts[2], parts[4]
        if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in _STORAGES:
            raise PickleError(f"unknown storage type {kind if isinstance(kind, Global) else shorten(kind)}")
        if type(key) is not str or type(count) is not int or not 0 <= count <= MAX_SIZE:
            raise PickleError(f"a storage {shorten(key)} of {shorten(count)} elements")
        dtype, item_bytes = _STORAGES[kind.name]
        storage = Storage(key, dtype, count, item_bytes)
        if self.storages.setdefault(key, storage) != storage:
            raise PickleError(f"storage {shorten(key)} has two types or sizes")
        return storage

    def _construct(self, function: Global, args: tuple[Any, ...]) -> Any:
        """What REDUCE may build: an ordered dict, a tensor, a parameter (which is its tensor)."""
        name = str(function)
        if name == "collections.OrderedDict" and args == ():
            return {}
        if name == "torch._utils._rebuild_tensor_v2" and len(args) in (6, 7):
            return self._tensor(*args[:4])
        if name == "torch._utils._rebuild_parameter" and len(args) == 3 and isinstance(args[0], _Tensor):
            return args[0]
        raise PickleError(f"{name} with {len(args)} arguments is not allowed; only tensors are built")

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
        if not isinstance(storage, Storage):
            raise PickleError("a tensor without a storage")
        numbers = [offset, *shape, *strides] if type(shape) is tuple and type(strides) is tuple else [None]
        sane = all(type(x) is int and 0 <= x <= MAX_SIZE for x in numbers)
        if not sane or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
            raise PickleError(
                f"a tensor of size {shorten(shape)}, stride {shorten(strides)} and offset {shorten(offset)}"
            )
        elements = math.prod(shape)
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides)) if elements else 0
        # Strides of 0, of a tensor that was expanded, must not make a large tensor of a small file.
        most = max(storage.count, len(self._data))
        if offset + span > storage.count or elements > most:
            raise PickleError(
                f"a tensor of size {list(shape)}, stride {list(strides)} and offset {offset} "
                f"does not fit a storage of {storage.count} elements in a file of {len(self._data)} bytes"
            )
        return _Tensor(storage, offset, shape, strides)


def _within(state: dict[Any, Any]) -> str:
    """What to say where tensors lie one level deeper."""
    for name, value in state.items():
        if isinstance(value, dict) and any(isinstance(each, _Tensor) for each in value.values()):
            return f"; tensors lie inside {shorten(name)}: save that alone, torch.save(saved[{shorten(name)}], FILE)"
    return ""
