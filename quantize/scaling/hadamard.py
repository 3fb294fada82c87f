"""A Hadamard matrix between what matrices read and their weights (Ashkboos et al., 2024; Chee et al., 2023).

    y = W x = (W H / h) (H x)          H H = h

A channel that is far larger than the others sets the step in which int8 rounds all of a row. Times H it is spread over
h channels, and so are the columns of weights that meet it. H is Sylvester's matrix of size h, each entry for K / h
adjacent channels, h the largest power of two that leaves at least 16 of them: the same for every matrix of K columns.

The engine multiplies rows by H, additions alone, before it rounds them (docs/numerics.md); weights are divided by h,
which changes no bit. Heads of queries and keys are multiplied as well, once they have turned by their positions: scores
stay, and cached keys round better. The vectors of a table that is the output layer as well are W H / h, and times H
again what they were.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor, ModelConfig
from pyengine.canonical.tensors import tensor_specs

__all__ = ["meets_hadamard", "times_hadamard", "with_hadamard"]

_ROWS = 1024  # at a time: beside a large matrix there is no other of its size


def hadamard_size(columns: int) -> int:
    """h for rows of so many columns: as ``pe_hadamard_size`` of csrc/kernels/kernels.h."""
    size = 1
    while columns % (2 * size) == 0 and columns // (2 * size) >= 16:
        size *= 2
    return size


def times_hadamard(rows: np.ndarray) -> np.ndarray:
    """float32 [N, K] -> [N, K], each row times H."""
    size = hadamard_size(rows.shape[1])
    mixed = np.array(rows, np.float32, order="C")
    for start in range(0, len(mixed), _ROWS):
        part = mixed[start : start + _ROWS]
        step = 1
        while step < size:
            pairs = part.reshape(len(part), size // (2 * step), 2, step, -1)
            first, second = pairs[:, :, 0], pairs[:, :, 1]
            difference = first - second
            first += second
            second[...] = difference
            step *= 2
    return mixed


def meets_hadamard(config: ModelConfig, name: str) -> bool:
    """Whether the matrix of that name, packed or not, is stored times the matrix."""
    return config.hadamard and (name != "decoder.embed" or config.tie_output)


def with_hadamard(model: CanonicalModel, wanted: bool) -> CanonicalModel:
    """The same model with or without the matrix; tensors are made when read."""
    if model.config.hadamard == wanted:
        return model
    other = replace(model.config, hadamard=wanted)
    tensors = dict(model.tensors)
    for name, spec in tensor_specs(other).items():
        matrix = spec.kind == "linear" or spec.kind == "embedding" and other.tie_output
        if matrix:
            tensors[name] = _multiplied(tensors[name], divide=wanted)
    return replace(model, config=other, tensors=tensors)


def _multiplied(tensor: LazyTensor, *, divide: bool) -> LazyTensor:
    factor = np.float32(1 / hadamard_size(tensor.shape[1]) if divide else 1)

    def load() -> np.ndarray:
        mixed = times_hadamard(tensor.read())
        mixed *= factor
        return mixed

    return replace(tensor, load=load)
