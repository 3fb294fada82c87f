"""Convert a checkpoint tensor by tensor: read, quantize, pack, store, forget.

At any time one matrix is held in float32 and, beside it, its packed form; nothing else that grows with the
model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from pyengine.canonical import CanonicalModel
from pyengine.importers import open_checkpoint
from pyengine.modelfile.layout import (
    PackedSpec,
    pack_float32,
    pack_int8,
    packed_specs,
    pad_vector,
    padded_shape,
)
from pyengine.modelfile.writer import check_target, write_directory
from pyengine.quantize.schemes import quantize_rows
from pyengine.text import open_tokenizer
from pyengine.version import __version__

__all__ = ["Report", "TensorReport", "convert", "measure"]

Progress = Callable[[int, int], None]  # (bytes of float32 tensors done, of all)


@dataclass(frozen=True)
class TensorReport:
    """A packed matrix (its scales included) or vector: bytes in float32 and as stored, signal to noise.

    ``shape`` is that of the stacked sources, without padding. ``snr_db`` is
    10 log10(sum W^2 / sum (W - W')^2), infinite if nothing was rounded.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    float32_bytes: int
    stored_bytes: int
    snr_db: float


@dataclass(frozen=True)
class Report:
    """All tensors of a conversion, and the size of the model directory (0 if none was written)."""

    weights: str
    tensors: tuple[TensorReport, ...]
    directory_bytes: int

    @property
    def float32_bytes(self) -> int:
        """Bytes of all tensors in float32, without padding."""
        return sum(tensor.float32_bytes for tensor in self.tensors)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors as stored, padding included."""
        return sum(tensor.stored_bytes for tensor in self.tensors)


def convert(
    checkpoint: str | Path,
    output: str | Path,
    *,
    weights: str = "int8",
    force: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write the model directory ``output`` from the training checkpoint ``checkpoint``.

    ``weights`` is "int8" or "float32"; ``force`` replaces an existing model directory. Raises what
    ``open_checkpoint``, ``open_tokenizer`` and ``write_directory`` raise; whatever is raised, nothing is left
    behind.
    """
    check_target(output, force=force)
    model = _open(checkpoint)
    rows: list[TensorReport] = []
    size = write_directory(
        output,
        config=model.config,
        weights=weights,
        generation=model.generation,
        tensors=_pack(model, weights, rows, progress),
        tokenizer=model.tokenizer,
        tokenizer_files=model.tokenizer_files,
        created_by=f"pyengine {__version__}",
        force=force,
    )
    return Report(weights, tuple(rows), size)


def measure(checkpoint: str | Path, *, weights: str = "int8", progress: Progress | None = None) -> Report:
    """What ``convert`` would report, without writing anything."""
    model = _open(checkpoint)
    rows: list[TensorReport] = []
    for _, array in _pack(model, weights, rows, progress):
        del array  # as in the writer: the next tensor is made without this one beside it
    return Report(weights, tuple(rows), 0)


def _open(checkpoint: str | Path) -> CanonicalModel:
    """The checkpoint, with a tokenizer that opens: else the model directory could be written and not used."""
    model = open_checkpoint(checkpoint)
    if model.tokenizer is not None:
        sizes = {"source_vocab": model.config.source_vocab, "target_vocab": model.config.target_vocab}
        open_tokenizer(checkpoint, model.tokenizer, **sizes)
    return model


def _pack(
    model: CanonicalModel, weights: str, rows: list[TensorReport], progress: Progress | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every packed tensor in file order; append a row for each to ``rows`` as it is done."""
    specs = packed_specs(model.config, weights)
    total = sum(4 * math.prod(tensor.shape) for tensor in model.tensors.values())
    done = 0
    for name, spec in specs.items():
        if spec.kind == "scale":
            continue  # yielded with its weight
        shapes = [model.tensors[source].shape for source in spec.sources]
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        noise = 0.0
        signal = 1.0
        stored = 0
        for part, array, signal, noise in _pack_one(model, name, spec):
            stored += array.nbytes
            yield part, array
            del array
        rows.append(
            TensorReport(
                name=name,
                kind="matrix" if spec.kind == "weight" else "vector",
                shape=shape,
                float32_bytes=4 * math.prod(shape),
                stored_bytes=stored,
                snr_db=10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf,
            )
        )
        done += rows[-1].float32_bytes
        if progress:
            progress(done, total)


def _pack_one(
    model: CanonicalModel, name: str, spec: PackedSpec
) -> Iterator[tuple[str, np.ndarray, float, float]]:
    """Yield (packed name, array, signal, noise) of one tensor and of its scales."""
    tensors = [model.tensors[source] for source in spec.sources]
    if spec.kind == "vector":
        yield name, pad_vector(np.concatenate([tensor.read() for tensor in tensors])), 1.0, 0.0
    elif spec.dtype == "F32":
        stacked = sum(tensor.shape[0] for tensor in tensors)
        matrix = np.zeros(padded_shape(stacked, tensors[0].shape[1]), np.float32)
        start = 0
        for tensor in tensors:
            rows, columns = tensor.shape
            matrix[start : start + rows, :columns] = tensor.read()
            start += rows
        yield name, pack_float32(matrix), 1.0, 0.0
    else:
        parts = [quantize_rows(tensor.read()) for tensor in tensors]
        signal, noise = sum(part.signal for part in parts), sum(part.noise for part in parts)
        scale = pad_vector(np.concatenate([part.scale for part in parts]))
        packed = pack_int8(np.concatenate([part.q for part in parts]) if len(parts) > 1 else parts[0].q)
        del parts
        yield name, packed, signal, noise
        yield f"{name.removesuffix('.weight')}.scale", scale, signal, noise
