"""Reader of ``model.safetensors``: checks the header, maps the file, reads a tensor when asked."""

from __future__ import annotations

from pathlib import Path

from pyengine.checkpoints.stored import MappedTensor, StoredTensor
from pyengine.errors import CheckpointError
from pyengine.formats.regular_files import map_regular
from pyengine.formats.safetensors_header import parse_header

__all__ = ["open_safetensors"]

_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of the file by name. CheckpointError if the file is missing, damaged or hostile."""
    data = map_regular(path, CheckpointError)
    return {
        name: MappedTensor(
            name=name,
            shape=entry.shape,
            strides=contiguous_strides(entry.shape),
            dtype=_NAMES.get(entry.dtype, entry.dtype),
            path=path,
            data=data,
            begin=entry.begin,
        )
        for name, entry in parse_header(data, str(path), CheckpointError).items()
    }


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a C-contiguous array of ``shape``."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
