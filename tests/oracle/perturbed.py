"""How far float32 may move a result: the Transformer in float64, every operation moved by what its rounding may do.

A sum of n products in float32, in whatever order, is off by at most about sqrt(n) u times the sum of their magnitudes
(Higham and Mary, 2019: roundings are as good as independent); functions have the errors of docs/numerics.md. Each value
is moved by all of that, up or down as a seed says. A correct core is hardly ever that far off anywhere, so it ends
nearer to the unmoved result; and what carries errors on, gains and depth, does so here as there. Nothing in it is
fitted to what the core does. (Measured: NumPy in float32 ends within 8 % of it, the core within 24 %.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pyengine.canonical.config import AttentionConfig, ModelConfig

from .transformer import Transformer, hadamard_matrix

__all__ = ["PerturbedTransformer", "float32_bound", "float32_bounds"]

UNIT = 2.0**-24
ACTIVATION = 16 * UNIT  # of values up to 1; relative beyond: erf is good to 3e-7, times x / 2 where it matters
EXP = TANH = 4 * UNIT
LANES = 16  # in which sums over a row run
STRIP = 64  # keys, after which sums so far are scaled anew


class PerturbedTransformer(Transformer):
    """``seed`` says which values go up and which down."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray], seed: int) -> None:
        super().__init__(config, tensors)
        self._rng = np.random.RandomState(seed)

    def _moved(self, y: np.ndarray, by: np.ndarray | float) -> np.ndarray:
        return y + (self._rng.randint(0, 2, y.shape) * 2 - 1) * by

    def _linear(self, name: str, x: np.ndarray, weight: str | None = None) -> np.ndarray:
        magnitudes = np.abs(super()._read(x)) @ np.abs(self._tensors[f"{weight or name}.weight"]).T
        magnitudes += np.abs(self._tensors.get(f"{name}.bias", 0))
        return self._moved(super()._linear(name, x, weight), rounding(x.shape[-1] + 2) * magnitudes)

    def _mixed(self, x: np.ndarray) -> np.ndarray:
        """Sums of up to 2^12 values, step by step."""
        return self._moved(super()._mixed(x), rounding(12) * (np.abs(x) @ np.abs(hadamard_matrix(x.shape[-1]))))

    def _add(self, x: np.ndarray, update: np.ndarray) -> np.ndarray:
        return self._moved(super()._add(x, update), rounding(2) * (np.abs(x) + np.abs(update)))

    def _mean(self, x: np.ndarray) -> np.ndarray:
        return self._moved(super()._mean(x), rounding(len(x) + 1) * np.abs(x).mean(axis=0, keepdims=True))

    def _layer_norm(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
        y = super()._layer_norm(x, weight, bias, epsilon)
        mean = np.abs(x).mean(axis=-1, keepdims=True)  # all of which may go where deviations are small
        deviation = np.sqrt(x.var(axis=-1, keepdims=True) + epsilon)
        magnitudes = np.abs(weight) * (np.abs(x) + mean) / deviation + np.abs(bias)
        return self._moved(y, rounding(x.shape[-1] // LANES + 8) * magnitudes)

    def _rms(self, x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
        y = super()._rms(x, weight, epsilon)
        return self._moved(y, rounding(x.shape[-1] // LANES + 8) * np.abs(y))

    def _activate(self, activation: str, x: np.ndarray) -> np.ndarray:
        y = super()._activate(activation, x)
        exact = activation in ("relu", "linear")
        return y if exact else self._moved(y, ACTIVATION * np.maximum(np.abs(y), 1))

    def _turn(self, rope: str, x: np.ndarray) -> np.ndarray:
        half, factor = self.config.ropes[rope].dims // 2, self.config.ropes[rope].factor
        pair = np.abs(x[..., :half]) + np.abs(x[..., half : 2 * half])
        magnitudes = np.concatenate([pair, pair, np.zeros_like(x[..., 2 * half :])], axis=-1)
        return self._moved(super()._turn(rope, x), rounding(4) * factor * magnitudes)

    def _scores(self, attention: AttentionConfig, q: np.ndarray, k: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Also for the exponential of each: what moves a score by a little moves that as much, relatively."""
        magnitudes = np.abs(q) @ np.abs(k).swapaxes(1, 2) * attention.scale + np.abs(bias)
        by = rounding(q.shape[-1] + 4) * magnitudes + TANH * (attention.soft_cap or 0) + EXP
        return self._moved(super()._scores(attention, q, k, bias), by)

    def _mix(self, scores: np.ndarray, v: np.ndarray) -> np.ndarray:
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        magnitudes = weights @ np.abs(v) / weights.sum(axis=-1, keepdims=True)
        return self._moved(super()._mix(scores, v), rounding(v.shape[1] + v.shape[1] // STRIP + 4) * magnitudes)

    def _cap_logits(self, logits: np.ndarray) -> np.ndarray:
        return self._moved(super()._cap_logits(logits), TANH * (self.config.logit_soft_cap or 0))


def float32_bounds(
    config: ModelConfig, tensors: Mapping[str, np.ndarray], run: Callable[[Transformer], Sequence[np.ndarray]]
) -> list[float]:
    """How far values of each array of ``run`` (what a test looks at, of a model) may be off where they are float32."""
    exact, moved = run(Transformer(config, tensors)), run(PerturbedTransformer(config, tensors, seed=0))
    return [float(np.abs(a - b).max()) for a, b in zip(moved, exact, strict=True)]


def float32_bound(
    config: ModelConfig, tensors: Mapping[str, np.ndarray], run: Callable[[Transformer], Sequence[np.ndarray]]
) -> float:
    """The same, for a value of any of them."""
    return max(float32_bounds(config, tensors, run))


def rounding(additions: int) -> float:
    """What so many roundings may do, relative to the sum of magnitudes."""
    return UNIT * float(np.sqrt(additions))
