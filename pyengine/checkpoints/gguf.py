"""Reader of GGUF files: checks the header, maps the file, dequantizes a tensor when asked, with the gguf package."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.checkpoints.gguf_header import MAGIC, parse_header
from pyengine.checkpoints.safetensors import contiguous_strides
from pyengine.checkpoints.stored import READABLE, MappedTensor, StoredTensor, finite, forget_pages
from pyengine.cpus import affinity_kept
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.regular_files import map_regular

__all__ = ["GgufFile", "is_gguf", "open_gguf"]

_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_STEP = 1 << 18  # elements that are dequantized at a time: what the package makes of them stays in the cache


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file holds: values by key, and tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def is_gguf(path: Path) -> bool:
    """Whether ``path`` is a file that begins as GGUF files do."""
    if not path.is_file():  # a FIFO would wait
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def open_gguf(path: Path) -> GgufFile:
    """The content of the file; nothing but its header is read.

    CheckpointError if the file is missing, damaged or hostile; UnsupportedError for what ``parse_header`` does not
    read, and for one of several files that a model was split into.
    """
    data = map_regular(path, CheckpointError)
    metadata, entries = parse_header(data, path)
    if metadata.get("split.count", 0) not in (0, 1):
        raise UnsupportedError(
            f"{path}: one of {metadata['split.count']} files; join them with gguf-split --merge"
        )
    tensors: dict[str, StoredTensor] = {}
    for name, entry in entries.items():
        if entry.kind in _NAMES:
            strides, dtype = contiguous_strides(entry.shape), _NAMES[entry.kind]
            tensors[name] = MappedTensor(name, entry.shape, strides, dtype, path, data, entry.begin)
        else:
            tensors[name] = _BlockTensor(name, entry.shape, entry.kind, path, data, entry.begin, entry.end)
    return GgufFile(metadata, tensors)


@dataclass(frozen=True)
class _BlockTensor:
    """A ``StoredTensor`` in blocks of ``dtype``, ``data[begin:end]``."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path
    data: mmap.mmap = field(repr=False)
    begin: int
    end: int

    def same_storage(self, other: StoredTensor) -> bool:
        """See ``StoredTensor``."""
        return isinstance(other, _BlockTensor) and (self.path, self.begin) == (other.path, other.begin)

    def read(self, *, minus_infinity: bool = False) -> np.ndarray:
        """See ``StoredTensor``. Some blocks at a time, or the package would need the memory three times."""
        dequantize = _dequantize(self)
        elements, size = READABLE[self.dtype]
        values = np.empty(self.shape, np.float32)
        flat = values.reshape(-1)
        blocks = np.frombuffer(self.data, np.uint8, count=self.end - self.begin, offset=self.begin).reshape(-1, size)
        step = _STEP // elements
        with np.errstate(all="ignore"):  # what is not finite is found below
            for start in range(0, len(blocks), step):
                part = blocks[start : start + step].reshape(1, -1)
                flat[start * elements :][: part.size // size * elements] = dequantize(part)[0]
                forget_pages(self.data, self.begin + start * size, part.size)
        return finite(values, self, minus_infinity)


def _dequantize(tensor: StoredTensor) -> Callable[[np.ndarray], np.ndarray]:
    """Bytes of blocks -> float32, by the package; UnsupportedError where it is older than the type."""
    with affinity_kept():  # it imports sentencepiece
        import gguf

    try:
        kind = gguf.GGMLQuantizationType[tensor.dtype]
        gguf.dequantize(np.zeros((1, READABLE[tensor.dtype][1]), np.uint8), kind)
    except (KeyError, NotImplementedError):
        raise UnsupportedError(
            f"{tensor.path}: tensor {tensor.name}: type {tensor.dtype}, which the installed gguf package does not read"
        ) from None
    return lambda blocks: gguf.dequantize(blocks, kind)
