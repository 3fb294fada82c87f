"""Tables of positions that a formula gives: checkpoints need not hold them, model directories do."""

from __future__ import annotations

import math

import numpy as np

from pyengine.importers.table import Source

__all__ = ["sinusoidal", "sinusoidal_from", "sinusoidal_positions"]

MOST_VALUES = 1 << 26  # that a formula gives, a quarter of a gigabyte: no file bounds them


def sinusoidal_positions(count: int, width: int) -> np.ndarray:
    """Position vectors [count, width], float32: sin(pos * 10000^(-2j/width)) for j < width/2, then cosines.

    Computed in float64. "Attention Is All You Need", section 3.5, with sines and cosines apart instead of
    interleaved, as transformers' MarianSinusoidalPositionalEmbedding has them. ``width`` is even.
    """
    half = np.arange(width // 2, dtype=np.float64)
    angles = np.arange(count, dtype=np.float64)[:, None] / np.power(10000.0, 2.0 * half / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def sinusoidal(count: int, width: int, *names: str) -> Source:
    """A table of these; one that is stored under ``names`` must hold the same. ValueError: there are none such."""
    _check(count, width)
    return Source(names, default=lambda: sinusoidal_positions(count, width), constant="sinusoidal positions")


def sinusoidal_from(first: int, count: int, width: int) -> Source:
    """A table of those of tensor2tensor, from position ``first`` on, which no file holds. ValueError: there are none.

    sin(pos * 10000^(-j/(width/2 - 1))) for j < width/2, then cosines. Angles are float32, as transformers'
    M2M100SinusoidalPositionalEmbedding has them: at the thousandth position they are off by what float32 is.
    """
    _check(count, width)
    if width < 4:
        raise ValueError(f"expected a width of at least 4 for these sinusoidal positions, found {width}")

    def table() -> np.ndarray:
        exponents = np.arange(width // 2, dtype=np.float32) * np.float32(-math.log(10000) / (width // 2 - 1))
        frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
        angles = np.arange(first, first + count, dtype=np.float32)[:, None] * frequencies
        exact = angles.astype(np.float64)
        return np.concatenate([np.sin(exact), np.cos(exact)], axis=1).astype(np.float32)

    return Source((), default=table)


def _check(count: int, width: int) -> None:
    if width % 2:
        raise ValueError(f"expected an even width for sinusoidal positions (half sines, half cosines), found {width}")
    if count * width > MOST_VALUES:
        most = MOST_VALUES // width
        raise ValueError(f"max_positions: expected at most {most} for a width of {width}, found {count}")
