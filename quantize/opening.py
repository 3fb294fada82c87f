"""What can be converted: training checkpoints, and model directories, which are canonical models again when opened."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.canonical.tensors import tensor_specs
from pyengine.checkpoints.stored import READABLE
from pyengine.errors import CheckpointError, ModelFileError, OptionError
from pyengine.formats.limits import CONFIG_BYTES
from pyengine.formats.regular_files import usable_path
from pyengine.formats.strict_json import load_object
from pyengine.importers import open_checkpoint
from pyengine.importers.tokenizer_files import kept_files
from pyengine.modelfile import ModelDirectory, open_directory, packed_specs
from pyengine.modelfile.directory import CONFIG_NAME, FORMAT
from pyengine.modelfile.layout import (
    PANEL,
    PackedSpec,
    dequantize_packed,
    matrix_names,
    matrix_shapes,
    part_rows,
    unpack_values,
)
from pyengine.quantize.scaling.hadamard import meets_hadamard, times_hadamard

__all__ = ["open_model", "read_matrix", "read_model", "stored_input", "stored_matrix"]


def open_model(
    path: str | Path, *, requantize: bool = False, allow_unknown_keys: Collection[str] = ()
) -> CanonicalModel:
    """Open a training checkpoint, passing over ``allow_unknown_keys`` of its configs, or a model directory.

    Raises what ``open_checkpoint`` or ``open_directory`` raises, and OptionError for a directory with rounded weights,
    unless ``requantize``.
    """
    path = usable_path(path, CheckpointError)
    if not _is_model_directory(path):
        return open_checkpoint(path, allow_unknown_keys=allow_unknown_keys)
    directory = open_directory(path)
    if directory.rounded and not requantize:
        kinds = sorted({directory.weights, *directory.other_weights.values()})
        raise OptionError(
            f"{path}: its weights are rounded already ({', '.join(kinds)}), and rounding them again loses more than "
            "rounding the checkpoint that they came from; requantize=True does it all the same",
            keywords=("requantize=True",),
        )
    return read_model(directory)


def read_model(directory: ModelDirectory) -> CanonicalModel:
    """The model with float32 tensors, each dequantized when it is read. It keeps the directory's memory."""
    tensors: dict[str, LazyTensor] = {}
    shapes = {name: spec.shape for name, spec in tensor_specs(directory.config).items()}
    for name, spec in packed_specs(directory.config, "float32").items():
        sizes = [shapes[source] for source in spec.sources]
        for i, source in enumerate(spec.sources):
            tensors[source] = _part(directory, name, spec, source, sizes, i)
    return CanonicalModel(
        config=directory.config,
        generation=directory.generation,
        tensors={name: tensors[name] for name in shapes},
        tokenizer_kind=directory.tokenizer_kind,
        tokenizer_files=kept_files(directory.path, directory.tokenizer_kind),
        removed=directory.removed,
        kv=directory.kv,
    )


def read_matrix(directory: ModelDirectory, name: str) -> np.ndarray:
    """The matrix of a packed name, dequantized and without a Hadamard matrix: float32 [N, K].

    Raises ModelFileError if it is not finite.
    """
    matrix = _dequantized(directory, name)
    return times_hadamard(matrix) if meets_hadamard(directory.config, name) else matrix


def _dequantized(directory: ModelDirectory, name: str) -> np.ndarray:
    rows, columns = matrix_shapes(directory.config)[name]
    panels = dequantize_packed(directory.tensors, name, rows, columns)
    matrix = panels.transpose(0, 2, 1).reshape(len(panels) * PANEL, -1)[:rows, :columns]
    if not np.isfinite(matrix).all():
        raise ModelFileError(f"{directory.path}: matrix {name}: expected finite weights, found others")
    return matrix


def stored_matrix(directory: ModelDirectory, name: str) -> tuple[str, int]:
    """Type and bytes of the matrix of a packed name, its scales included."""
    size = sum(
        tensor.nbytes
        for packed, tensor in directory.tensors.items()
        if packed.rpartition(".")[0] == name and not packed.endswith(".bias")
    )
    return directory.other_weights.get(name, directory.weights), size


def stored_input(path: str | Path, model: CanonicalModel) -> tuple[dict[str, tuple[str, int]], int]:
    """Types and bytes of the matrices by packed name, and the bytes of all tensors, as ``path`` holds them.

    ``model`` is what ``open_model`` gave for it. Where a checkpoint has parts of a matrix in several types, all are
    named; what its importer computed counts as float32, so that both sides of a comparison have the same tensors.
    Raises what ``open_directory`` raises.
    """
    if _is_model_directory(Path(path)):
        directory = open_directory(path)
        matrices = {name: stored_matrix(directory, name) for name in matrix_names(directory.config)}
        return matrices, sum(tensor.nbytes for tensor in directory.tensors.values())
    sizes = {}
    for name, each in model.tensors.items():
        elements, size = READABLE[each.dtype]
        sizes[name] = math.prod(each.shape) // elements * size
    specs = packed_specs(model.config, "float32")
    matrices = {}
    for name in matrix_names(model.config):
        sources = specs[f"{name}.weight"].sources
        kinds = dict.fromkeys(model.tensors[source].dtype for source in sources)
        matrices[name] = ", ".join(kinds), sum(sizes[source] for source in sources)
    return matrices, sum(sizes.values())


def _part(
    directory: ModelDirectory, packed: str, spec: PackedSpec, name: str, shapes: list[tuple[int, ...]], i: int
) -> LazyTensor:
    """One of the tensors, of these shapes, that are stacked under a packed name: the ``i``th."""

    def load() -> np.ndarray:
        if spec.kind != "weight":
            return unpack_values(directory.tensors[packed], shapes, spec.form)[i]
        rows = part_rows([shape[0] for shape in shapes], spec.form)[i]
        matrix: np.ndarray = _dequantized(directory, packed.removesuffix(".weight"))[rows]
        return matrix

    return LazyTensor(name, shapes[i], "float32", load)


def _is_model_directory(path: Path) -> bool:
    config = path / CONFIG_NAME
    return os.path.lexists(config) and load_object(config, CheckpointError, CONFIG_BYTES).get("format") == FORMAT
