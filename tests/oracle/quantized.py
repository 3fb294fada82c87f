"""The reference model with the roundings of int8 computation, made explicit in float64.

Every value that the C core stores in int8 is rounded here in the same way, everything else is exact. What remains
between the two is float32 rounding, and values that it carries over the edge between two int8 steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pyengine.canonical.config import ModelConfig

from .reference import ReferenceModel

__all__ = ["QuantizedReference", "round_rows"]

STRIP = 64  # tokens whose attention weights share a scale


def round_rows(x: np.ndarray) -> np.ndarray:
    """Each row (last axis) to multiples of its largest magnitude / 127."""
    step = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.rint(np.divide(x, step, out=np.zeros_like(x), where=step > 0)) * step


class QuantizedReference(ReferenceModel):
    """`tensors` hold the weights as dequantized; int8 rows of activations, int8 keys and values where asked for."""

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, np.ndarray], *, activations: bool, cache: bool
    ) -> None:
        super().__init__(config, tensors, np.float64)
        self._round_activations = activations
        self._round_cache = cache

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return super()._linear(name, round_rows(x) if self._round_activations else x)

    def _logits(self, x: np.ndarray) -> np.ndarray:
        return super()._logits(round_rows(x) if self._round_activations else x)

    def _attention(self, name: str, x: np.ndarray, memory: np.ndarray, causal: bool = False) -> np.ndarray:
        if not self._round_cache:
            return super()._attention(name, x, memory, causal)
        parts = (("q", x), ("k", memory), ("v", memory))
        q, k, v = (round_rows(self._heads(name, part, rows)) for part, rows in parts)
        heads, _, d = q.shape
        mixed = np.zeros((len(x), heads, d))
        for row in range(len(x)):
            seen = row + 1 if causal else len(memory)
            for head in range(heads):
                scores = k[head, :seen] @ q[head, row] / np.sqrt(d)
                weights = np.exp(scores - scores.max())
                mixed[row, head] = self._mix(weights, v[head, :seen]) / weights.sum()
        return self._linear(f"{name}.output", mixed.reshape(len(x), heads * d))

    @staticmethod
    def _mix(weights: np.ndarray, v: np.ndarray) -> np.ndarray:
        """weights [T], rounded v [T, d] -> sum, a strip's weights times value scales in 0..255 of their largest."""
        scale = np.abs(v).max(axis=1) / 127
        total = np.zeros(v.shape[1])
        for strip in range(0, len(v), STRIP):
            own = slice(strip, strip + STRIP)
            scaled = weights[own] * scale[own]
            if scaled.max() > 0:
                unit = scaled.max() / 255
                integers = np.divide(v[own], scale[own, None], where=scale[own, None] > 0, out=np.zeros_like(v[own]))
                total += unit * (np.rint(scaled / unit) @ integers)
        return total
