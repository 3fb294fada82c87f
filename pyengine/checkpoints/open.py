"""Find the weights of a checkpoint directory: one file or shards named by an index, safetensors or torch."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
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

    Names are those of the model: what torch.compile and data-parallel wrappers put into them is taken out. Raises
    CheckpointError if there are no weights or they are damaged, UnsupportedError if they are in a container that
    cannot be read.
    """
    for name, reader in _CONTAINERS:
        # A link to nothing is there as well: it is damaged, and reading it says so.
        if os.path.lexists(directory / name):
            return _unwrapped(reader(directory / name), directory / name)
        index = directory / f"{name}.index.json"
        if os.path.lexists(index):
            return _unwrapped(_open_shards(directory, index, reader), index)
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
        if not isinstance(file, str) or not _lies_inside(file):
            fields.fail(f"weight_map[{shorten(name)}]", "the name of a file in this directory", file)

    # As in transformers the files say what there is. The index says where, of what is in several.
    holders: dict[str, dict[str, StoredTensor]] = {}
    for file in sorted(set(places.values())):
        for name, tensor in reader(directory / file).items():
            holders.setdefault(name, {})[file] = tensor
    tensors = {}
    for name, by_file in holders.items():
        file = places.get(name)
        if file not in by_file:
            file, *others = by_file
            if others:
                found = f"in {file} and {others[0]}"
                raise CheckpointError(f"{index}: tensor {shorten(name)} is {found}, expected one file")
        tensors[name] = by_file[file]
    return tensors


def _lies_inside(file: str) -> bool:
    """Whether ``file`` can only be below the directory that it is joined to: no root, drive or "..", of any system."""
    path = PurePosixPath(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not set(file) & set("\\:\0")


def _unwrapped(tensors: dict[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    """``tensors`` by the names that they had before torch.compile ("_orig_mod.") or DataParallel ("module.")."""
    plain: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        parts = [part for part in name.split(".") if part != "_orig_mod"]
        while len(parts) > 1 and parts[0] == "module":
            del parts[0]
        short = ".".join(parts)
        if short in plain:
            raise CheckpointError(f"{path}: tensors {plain[short].name} and {name}: expected one of them")
        plain[short] = tensor
    return plain
