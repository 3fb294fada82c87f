"""Scales of keys against queries: channels of keys that stand out, evened at the queries' expense.

    s_j = max|k_j|^a / max|q_j|^(1-a)           k_j <- k_j / s_j     q_j <- q_j s_j

The cache rounds the keys of a token and a head by one scale, and so are queries rounded: a channel that is large in
every key leaves the others few levels. "SmoothAttention" (Lin et al., arXiv:2405.04532), with the exponent of a few
whose scores are nearest. Rotation by positions is left out of the search: what turns together has one scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyengine.quantize.rounding.schemes import quantize_rows
from pyengine.quantize.scaling.fold import Place
from pyengine.quantize.scaling.smooth import ScaleSearch, smoothing_scales

__all__ = ["search_key_scales"]


def search_key_scales(place: Place, queries: np.ndarray, keys: np.ndarray, alphas: Sequence[float]) -> ScaleSearch:
    """The scales of key channels float32 [C] with the least error of scores; ties to the earlier.

    ``queries`` float32 [R, C * group] and ``keys`` float32 [R', C] are a sample of what the layers give.
    """
    heads = keys.shape[1] // place.head_width
    largest_keys = place.even(np.abs(keys).max(axis=0))
    largest_queries = place.even(place.channels(np.abs(queries).max(axis=0)))

    def by_head(x: np.ndarray) -> np.ndarray:
        """[heads, rows, head_width], the rows of all query heads of a group together."""
        split = x.reshape(len(x), heads, -1, place.head_width)
        return split.transpose(1, 2, 0, 3).reshape(heads, -1, place.head_width)

    def scores(q: np.ndarray, k: np.ndarray) -> np.ndarray:
        found: np.ndarray = q @ k.transpose(0, 2, 1)
        return found

    exact = scores(by_head(queries), by_head(keys))
    power = float(np.square(exact, dtype=np.float64).sum())

    def error_of(scales: np.ndarray) -> float:
        q, k = (_rounded(by_head(x)) for x in (queries * place.columns(scales), keys / scales))
        noise = float(np.square(scores(q, k) - exact, dtype=np.float64).sum())
        return noise / power if power > 0 else 0.0

    ones = np.ones(keys.shape[1], np.float32)
    before = error_of(ones)
    best = ScaleSearch(ones, None, before, before)
    for alpha in alphas:
        scales = smoothing_scales(largest_keys, largest_queries, alpha)
        error = error_of(scales)
        if error < best.error:
            best = ScaleSearch(scales, alpha, error, before)
    return best


def _rounded(x: np.ndarray) -> np.ndarray:
    """Each row of a head to int8 by itself, as the cache has it: float32, of the same shape."""
    rows = x.reshape(-1, x.shape[-1])
    return quantize_rows(rows).dequantize(x.shape[-1]).reshape(x.shape)
