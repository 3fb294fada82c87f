"""Find the weights of a checkpoint directory: one file or shards named by an index, safetensors or torch."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from pyengine.checkpoints.safetensors import open_safetensors
from pyengine.checkpoints.stored import StoredTensor
from pyengine.checkpoints.torch_bin import open_torch_bin
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.limits import INDEX_BYTES
from pyengine.formats.strict_json import Fields, load_object, shorten

__all__ = ["open_weights"]

Reader = Callable[[Path], dict[str, StoredTensor]]

# In order of preference, as transformers looks for them.
_CONTAINERS: tuple[tuple[str, Reader], ...] = (
    ("model.safetensors", open_safetensors),
    ("pytorch_model.bin", open_torch_bin),
)
_FOREIGN = ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "*.ckpt.index", "*.npz", "*.gguf", "*.onnx")


def open_weights(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of the checkpoint by raw name; nothing but headers is read.

    Raises CheckpointError if there are no weights or they are damaged, UnsupportedError if they are in a
    container that cannot be read.
    """
    for name, reader in _CONTAINERS:
        if (directory / name).exists():
            return reader(directory / name)
        if (directory / f"{name}.index.json").exists():
            return _open_shards(directory, directory / f"{name}.index.json", reader)
    expected = ", ".join(f"{name} or {name}.index.json" for name, _ in _CONTAINERS)
    foreign = sorted(path.name for pattern in _FOREIGN for path in directory.glob(pattern))
    if foreign:
        raise UnsupportedError(f"{directory}: weights only in {', '.join(foreign)}; expected {expected}")
    raise CheckpointError(f"{directory}: no weights; expected {expected}")


def _open_shards(directory: Path, index: Path, reader: Reader) -> dict[str, StoredTensor]:
    fields = Fields(load_object(index, CheckpointError, INDEX_BYTES), str(index), CheckpointError)
    places = fields.take("weight_map")
    if not isinstance(places, dict) or not places:
        fields.fail("weight_map", "an object of tensor names and files", places)
    for name, file in places.items():
        # A plain name: no separator of any system, no drive, nothing above the directory.
        if not isinstance(file, str) or file in ("", ".", "..") or any(c in file for c in "/\\:\0"):
            fields.fail(f"weight_map[{shorten(name)}]", "the name of a file in this directory", file)

    tensors: dict[str, StoredTensor] = {}
    problems = []
    for file in sorted(set(places.values())):
        shard = reader(directory / file)
        wanted = {name for name, place in places.items() if place == file}
        problems += [f"{name} is not in {file}" for name in sorted(wanted - shard.keys())]
        problems += [f"{name} in {file} is not in the index" for name in sorted(shard.keys() - wanted)]
        tensors.update((name, tensor) for name, tensor in shard.items() if name in wanted)
    if problems:
        raise CheckpointError(f"{index}: {'; '.join(problems)}")
    return {name: tensors[name] for name in places}
