"""A Hadamard matrix between what matrices read and their weights (Ashkboos et al., 2024; Chee et al., 2023).

    y = W x = (W H / h) (H x)          H H = h

A channel that is far larger than the others sets the step in which int8 rounds all of a row. Times H it is spread over
h channels, and so are the columns of weights that meet it. H is Sylvester's matrix of size h, each entry for K / h
adjacent channels, h the largest power of two that leaves at least 8 of them: the same for every matrix of K columns.

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
from pyengine.errors import OptionError

__all__ = ["meets_hadamard", "takes_hadamard", "times_hadamard", "turned"]


def _size(columns: int) -> int:
    """h for rows of so many columns."""
    size = 1
    while columns % (2 * size) == 0 and columns // (2 * size) >= 8:
        size *= 2
    return size


def times_hadamard(rows: np.ndarray) -> np.ndarray:
    """float32 [N, K] -> [N, K], each row times H."""
    size = _size(rows.shape[1])
    mixed = rows.reshape(len(rows), size, -1)
    step = 1
    while step < size:
        pairs = mixed.reshape(len(rows), size // (2 * step), 2, step, -1)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        mixed = np.stack([first + second, first - second], axis=2)
        step *= 2
    return np.ascontiguousarray(mixed.reshape(rows.shape))


def meets_hadamard(config: ModelConfig, name: str) -> bool:
    """Whether the matrix of that name, packed or not, is stored times the matrix."""
    return config.hadamard and (name != "decoder.embed" or config.tie_output)


def takes_hadamard(config: ModelConfig) -> bool:
    """Whether a model with ``config`` may have ``hadamard``: a decoder alone, whose matrices read norms."""
    return config.encoder is None and config.decoder is not None and config.decoder.placement != "post"


def turned(model: CanonicalModel, hadamard: bool) -> CanonicalModel:
    """The same model with or without the matrix; tensors are made when read. OptionError where it takes none."""
    if model.config.hadamard == hadamard:
        return model
    if not takes_hadamard(model.config):
        raise OptionError("hadamard: expected a decoder alone that reads norms of its sums, found another model")
    other = replace(model.config, hadamard=hadamard)
    tensors = dict(model.tensors)
    for name, spec in tensor_specs(other).items():
        matrix = spec.kind in ("linear", "embedding") and name.removesuffix(".weight")
        if matrix and meets_hadamard(replace(other, hadamard=True), matrix):
            tensors[name] = _multiplied(tensors[name], divide=hadamard)
    return replace(model, config=other, tensors=tensors)


def _multiplied(tensor: LazyTensor, *, divide: bool) -> LazyTensor:
    factor = np.float32(1 / _size(tensor.shape[1]) if divide else 1)
    return replace(tensor, load=lambda: times_hadamard(tensor.read()) * factor)
