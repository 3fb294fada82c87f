"""The Transformer with the roundings of int8 computation, made explicit: whatever the C core stores in int8 is rounded
here in the same way (docs/numerics.md), everything else is exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pyengine.canonical.config import AttentionConfig, ModelConfig

from .transformer import Transformer

__all__ = ["RoundedTransformer", "round_rows"]

LEVELS = 127
STRIP = 64  # keys, at absolute positions, whose weights share a scale
WEIGHT_LEVELS = 255  # weights are never negative


def steps_of(x: np.ndarray) -> np.ndarray:
    """[..., n] -> [..., 1]: the step between int8 values of each row."""
    return np.abs(x).max(axis=-1, keepdims=True) / LEVELS


def divide(x: np.ndarray, step: np.ndarray) -> np.ndarray:
    """x / step, 0 where a row of zeros has step 0."""
    return np.divide(x, step, out=np.zeros_like(x), where=step > 0)


def round_rows(x: np.ndarray) -> np.ndarray:
    step = steps_of(x)
    return np.rint(divide(x, step)) * step


class RoundedTransformer(Transformer):
    """``tensors`` hold the weights as dequantized.

    ``activations``: rows that linear layers read are rounded; ``cache``: queries, keys and values, a head at a time,
    and the weights of the values.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, np.ndarray],
        dtype: type[np.floating] = np.float64,
        *,
        activations: bool,
        cache: bool,
    ) -> None:
        super().__init__(config, tensors, dtype)
        self._round_activations = activations
        self._round_cache = cache

    def _read(self, x: np.ndarray) -> np.ndarray:
        x = super()._read(x)
        return round_rows(x) if self._round_activations else x

    def _scores(self, attention: AttentionConfig, q: np.ndarray, k: np.ndarray, bias: np.ndarray) -> np.ndarray:
        if self._round_cache:
            q, k = round_rows(q), round_rows(k)
        return super()._scores(attention, q, k, bias)

    def _mix(self, scores: np.ndarray, v: np.ndarray) -> np.ndarray:
        if not self._round_cache:
            return super()._mix(scores, v)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        step = steps_of(v)  # [H, m, 1]
        integers = np.rint(divide(v, step))
        total = np.zeros((*scores.shape[:2], v.shape[2]), self.dtype)
        for start in range(0, v.shape[1], STRIP):
            strip = slice(start, start + STRIP)
            scaled = weights[:, :, strip] * step[:, None, strip, 0]
            unit = scaled.max(axis=-1, keepdims=True) / WEIGHT_LEVELS
            total = total + np.rint(divide(scaled, unit)) @ integers[:, strip] * unit
        return total / weights.sum(axis=-1, keepdims=True)
