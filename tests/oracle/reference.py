"""The post-norm encoder-decoder Transformer in plain NumPy, from canonical tensors.

The first oracle: in float64 it proves the algebra of the C core, in float32 it stands in for it. Every
function takes one sentence, without batch, cache or padding, and recomputes whole prefixes.

Shapes: T source tokens, U target tokens, W = config.width, V = config.target_vocab.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pyengine.canonical import AttentionConfig, ModelConfig

__all__ = ["ReferenceModel", "log_softmax"]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (0.5 * (1 + _erf(x / math.sqrt(2)))).astype(x.dtype),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "linear": lambda x: x,
}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class ReferenceModel:
    """Computes in `dtype`; `tensors` holds every canonical tensor as an array."""

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, np.ndarray], dtype: type = np.float64
    ) -> None:
        self.config = config
        self.dtype = dtype
        self._tensors = {name: np.asarray(tensor, dtype) for name, tensor in tensors.items()}

    def encode(self, source: np.ndarray) -> np.ndarray:
        """int [T] -> [T, W]: the memory that the decoder's cross-attention reads."""
        x = self._embed("encoder", source)
        for layer in range(len(self.config.encoder.layers)):
            name = f"encoder.layers.{layer}"
            x = self._add_norm(
                x, self._attention(f"{name}.self_attention", x, x), f"{name}.self_attention.norm"
            )
            x = self._add_norm(x, self._ffn(f"{name}.ffn", x), f"{name}.ffn.norm")
        return x

    def decode(self, target: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """int [U], [T, W] -> logits [U, V], row i from target tokens 0..i."""
        x = self._embed("decoder", target)
        for layer in range(len(self.config.decoder.layers)):
            name = f"decoder.layers.{layer}"
            attended = self._attention(f"{name}.self_attention", x, x, causal=True)
            x = self._add_norm(x, attended, f"{name}.self_attention.norm")
            attended = self._attention(f"{name}.cross_attention", x, memory)
            x = self._add_norm(x, attended, f"{name}.cross_attention.norm")
            x = self._add_norm(x, self._ffn(f"{name}.ffn", x), f"{name}.ffn.norm")
        return self._logits(x)

    def _logits(self, x: np.ndarray) -> np.ndarray:
        table = self._tensors["decoder.embed.weight" if self.config.tie_output else "output.weight"]
        return x @ table.T + self._tensors["output.bias"]

    def _embed(self, stack: str, ids: np.ndarray) -> np.ndarray:
        table = self._tensors[f"{'decoder' if self.config.share_embeddings else stack}.embed.weight"]
        positions = self._tensors[f"{stack}.positions"][: len(ids)]
        return table[ids] * self.dtype(self.config.embedding_scale) + positions

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]

    def _ffn(self, name: str, x: np.ndarray) -> np.ndarray:
        stack, _, layer, _ = name.split(".")
        activation = getattr(self.config, stack).layers[int(layer)].feed_forward.activation
        return self._linear(f"{name}.down", ACTIVATIONS[activation](self._linear(f"{name}.up", x)))

    def _add_norm(self, x: np.ndarray, update: np.ndarray, name: str) -> np.ndarray:
        y = x + update
        centred = y - y.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        epsilon = getattr(self.config, name.partition(".")[0]).norm_epsilon
        normed = centred / np.sqrt(variance + self.dtype(epsilon))
        return normed * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]

    def _heads(self, name: str, part: str, rows: np.ndarray) -> np.ndarray:
        """[n, W] -> [heads, n, d]: queries, keys or values of an attention, by head."""
        stack, _, layer, attention = name.split(".")
        own: AttentionConfig = getattr(getattr(self.config, stack).layers[int(layer)], attention)
        return self._linear(f"{name}.{part}", rows).reshape(len(rows), own.heads, own.head_width).transpose(1, 0, 2)

    def _attention(self, name: str, x: np.ndarray, memory: np.ndarray, causal: bool = False) -> np.ndarray:
        """softmax(Q K^T / sqrt(d)) V for each head, heads concatenated and projected; d is a head's width."""
        q, k, v = (self._heads(name, part, rows) for part, rows in (("q", x), ("k", memory), ("v", memory)))
        scores = q @ k.transpose(0, 2, 1) / self.dtype(math.sqrt(q.shape[2]))
        if causal:
            scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, self.dtype(-np.inf))
        weights = np.exp(log_softmax(scores))
        mixed = (weights @ v).transpose(1, 0, 2).reshape(len(x), -1)
        return self._linear(f"{name}.output", mixed)
