"""Two models side by side: their matrices by packed name, and text as they read it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pyengine.canonical import ModelConfig
from pyengine.errors import InputError
from pyengine.modelfile import ModelDirectory
from pyengine.modelfile.layout import matrix_shapes
from pyengine.quantize.measuring.distortion import snr_db
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.opening import read_matrix, stored_matrix
from pyengine.quantize.seeing.text import Line, Text, sides
from pyengine.tasks.inputs import Sample
from pyengine.tasks.translator import Translator

__all__ = ["MatrixPair", "comparable", "compare_matrices", "read_whole", "require_same_tokens"]

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


def read_whole(reader: Reader, text: Text, first: int = 1) -> tuple[list[Sample], Text]:
    """The lines as ids, sources cut to fit, and as text; where a target is left to the model, its greedy translation.

    ``first`` is the number of the first line. Raises InputError, naming the line.
    """
    samples = reader.samples(text, first)
    if reader.config.decoder is None or all(sample.target is not None for sample in samples):
        return samples, text
    translator = Translator(reader.engine, reader.tokenizer, {})
    waiting = [source for source, target in samples if source is not None and target is None]
    greedy = iter(translator.translate(waiting, num_beams=1, num_return_sequences=1))
    filled: list[Line] = []
    for i, (sample, line) in enumerate(zip(samples, text, strict=True)):
        if sample.target is None:
            found = next(greedy)
            samples[i] = Sample(sample.source, reader.inputs.target(found.ids, f"the translation of line {first + i}"))
            line = line[0], found.text
        filled.append(line)
    return samples, filled


def require_same_tokens(a: Reader, b: Reader, text: Text) -> None:
    """Raise InputError, naming the line, unless two models read ``text``, all of it there, as the same tokens."""
    for number, line in enumerate(text, 1):
        name = f"line {number}"
        source, target = sides(a.config, line, number)
        ids = [(a.inputs.prefix(target, name), b.inputs.prefix(target, name))]
        if source is not None:
            one, other = (each.inputs.source(source, truncate=True, name=name).ids for each in (a, b))
            ids.append((one, other))
        if not all(np.array_equal(one, other) for one, other in ids):
            raise InputError(f"{name}: expected models of one vocabulary, found two that read it as different tokens")
