"""Two models side by side: their matrices by packed name, and text as they read it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pyengine.canonical import ModelConfig
from pyengine.errors import InputError
from pyengine.modelfile import ModelDirectory
from pyengine.modelfile.layout import matrix_shapes
from pyengine.quantize.distortion import snr_db
from pyengine.quantize.opening import read_matrix, stored_matrix
from pyengine.tasks.inputs import Inputs
from pyengine.tasks.translator import Translator

__all__ = ["MatrixPair", "comparable", "compare_matrices", "read_pairs", "require_same_tokens"]

Text = Sequence[tuple[str, "str | None"]]  # (source, target)
Pairs = list[tuple[np.ndarray, np.ndarray]]  # int32 ids
_ROWS = 1024  # compared in float64 at a time


@dataclass(frozen=True)
class MatrixPair:
    """A matrix of two directories, its scales included: type and bytes in each, None where one does not have it.

    ``snr_db`` is 10 log10(sum A^2 / sum (A - B)^2) of the dequantized weights: infinite if they are the same, None if
    they cannot be compared, because something was pruned.
    """

    name: str
    types: tuple[str | None, str | None]
    bytes: tuple[int | None, int | None]
    snr_db: float | None


def compare_matrices(a: ModelDirectory, b: ModelDirectory) -> Iterator[MatrixPair]:
    """The matrices of ``a`` in file order, then those that only ``b`` has.

    Raises ModelFileError for weights that are not finite, naming them.
    """
    shapes = (matrix_shapes(a.config), matrix_shapes(b.config))
    for name in {**shapes[0], **shapes[1]}:
        left, right = (
            stored_matrix(each, name) if name in known else (None, None) for each, known in zip((a, b), shapes)
        )
        snr = _snr(a, b, name) if comparable(a.config, b.config, name) else None
        yield MatrixPair(name, (left[0], right[0]), (left[1], right[1]), snr)


def comparable(a: ModelConfig, b: ModelConfig, name: str) -> bool:
    """Whether the matrix of that packed name is the same one in both models, and has the same shape."""
    shapes = [matrix_shapes(config).get(name) for config in (a, b)]
    return shapes[0] == shapes[1] and _depth(a, name) == _depth(b, name)


def _depth(config: ModelConfig, name: str) -> int:
    """Layers of the stack that a matrix is in: where some were removed, the others have moved."""
    side, *inside = name.split(".")
    return len(dict(config.stacks())[side].layers) if inside[:1] == ["layers"] else 0


def _snr(a: ModelDirectory, b: ModelDirectory, name: str) -> float:
    left, right = read_matrix(a, name), read_matrix(b, name)
    signal = noise = 0.0
    for start in range(0, len(left), _ROWS):
        block = left[start : start + _ROWS].astype(np.float64)
        signal += float((block**2).sum())
        noise += float(((block - right[start : start + _ROWS]) ** 2).sum())
    return -math.inf if noise and not signal else snr_db(signal, noise)


def read_pairs(translator: Translator, inputs: Inputs, text: Text, first: int = 1) -> tuple[Pairs, Text]:
    """The pairs as ids, sources cut to fit, and as text; where there is no target, the model's greedy translation.

    ``inputs`` are the translator's, ``first`` is the number of the first line. Raises InputError, naming the line.
    """
    sources = []
    for number, (source, _) in enumerate(text, first):
        sources.append(inputs.source(source, truncate=True, name=f"the source of line {number}").ids)
        if not len(sources[-1]):
            raise InputError(f"the source of line {number} is empty; expected text")
    waiting = [ids for ids, (_, target) in zip(sources, text) if target is None]
    greedy = iter(translator.translate(waiting, num_beams=1, num_return_sequences=1))
    pairs, filled = [], []
    for number, (ids, (source, target)) in enumerate(zip(sources, text), first):
        if target is None:
            found = next(greedy)
            pairs.append((ids, inputs.target(found.ids, f"the translation of line {number}")))
            filled.append((source, found.text))
        else:
            pairs.append((ids, inputs.target(target, f"the target of line {number}")))
            filled.append((source, target))
    return pairs, filled


def require_same_tokens(a: Inputs, b: Inputs, text: Text) -> None:
    """Raise InputError, naming the line, unless two models read texts (source, target) as the same tokens."""
    for number, (source, target) in enumerate(text, 1):
        name = f"line {number}"
        sources = [each.source(source, truncate=True, name=name).ids for each in (a, b)]
        targets = [each.prefix(target, name) for each in (a, b)]
        if not (np.array_equal(sources[0], sources[1]) and np.array_equal(targets[0], targets[1])):
            raise InputError(f"{name}: expected models of one vocabulary, found two that read it as different tokens")
