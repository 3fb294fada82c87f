"""Tables of positions that a formula gives: checkpoints need not hold them, model directories do."""

from __future__ import annotations

import numpy as np

from pyengine.importers.table import Source

__all__ = ["sinusoidal", "sinusoidal_positions"]

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
    if width % 2:
        raise ValueError(f"expected an even width for sinusoidal positions (half sines, half cosines), found {width}")
    if count * width > MOST_VALUES:
        most = MOST_VALUES // width
        raise ValueError(f"max_positions: expected at most {most} for a width of {width}, found {count}")
    return Source(names, default=lambda: sinusoidal_positions(count, width), constant="sinusoidal positions")
