"""Any legal configuration in plain NumPy: the definition of what each of its fields means.

In float64 it proves the algebra of the C core. Every function takes one text, without batch, cache or padding, and
recomputes whole prefixes. Sources: Vaswani et al., 2017; pre-norm: Xiong et al., 2020; RMS norm: Zhang and Sennrich,
2019; gates: Shazeer, 2020; relative bias: Raffel et al., 2020; rotary positions: Su et al., 2021; slopes: Press et al.,
2022; grouped heads: Ainslie et al., 2023.

Shapes: n rows (tokens of the text), m rows of memory, W = config.width, H heads of width D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.linalg import hadamard
from scipy.special import erf, expit

from pyengine.canonical.config import AttentionConfig, FeedForwardConfig, LayerConfig, ModelConfig, StackConfig

__all__ = ["ACTIVATIONS", "Transformer", "hadamard_matrix"]

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * expit(1.702 * x),
    "silu": lambda x: x * expit(x),
    "tanh": np.tanh,
    "sigmoid": expit,
    "linear": lambda x: x,
}


def hadamard_matrix(width: int) -> np.ndarray:
    """[K, K], what ``ModelConfig.hadamard`` means: entries of 1 and -1 for each power of two, at most K / 16."""
    size = max(2**i for i in range(17) if width % 2**i == 0 and (i == 0 or width >= 16 * 2**i))
    return np.kron(hadamard(size), np.eye(width // size))


def soft_cap(x: np.ndarray, cap: float | None) -> np.ndarray:
    return x if cap is None else cap * np.tanh(x / cap)


class Transformer:
    """Computes in ``dtype``; ``tensors`` holds every canonical tensor as an array."""

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, np.ndarray], dtype: type[np.floating] = np.float64
    ) -> None:
        self.config = config
        self.dtype = dtype
        self._tensors = {name: np.asarray(tensor, dtype) for name, tensor in tensors.items()}

    def encode(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        """ids [n], their token types (None: all 0) -> [n, W]: the memory that a cross-attention reads."""
        return self.states("encoder", ids, types=types)[-1]

    def decode(self, ids: Sequence[int], memory: np.ndarray | None = None) -> np.ndarray:
        """ids [n], memory [m, W] or None -> logits [n, vocabulary], row i of tokens 0..i."""
        x = self.states("decoder", ids, memory)[-1]
        logits = self._linear("output", x, "decoder.embed" if self.config.tie_output else "output")
        return self._cap_logits(logits)

    def answer(self, name: str, x: np.ndarray) -> np.ndarray:
        """What a head makes of an encoded segment [n, W]: [n, outputs], or [1, outputs] where it pools."""
        head, encoder = self.config.heads[name], self.config.encoder
        assert encoder is not None
        x = {"none": x, "cls": x[:1], "last": x[-1:], "mean": self._mean(x)}[head.pool]
        if head.dense:
            x = self._activate(head.activation, self._linear(f"head.{name}.dense", x))
        if head.norm:
            x = self._norm(encoder, f"head.{name}.norm", x)
        if head.out is None:
            return x
        table = "decoder.embed" if self.config.share_embeddings else "encoder.embed"
        return self._linear(f"head.{name}.out", x, table if head.out == "vocabulary" else None)

    def states(
        self,
        stack_name: str,
        ids: Sequence[int],
        memory: np.ndarray | None = None,
        types: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """[n, W] each: what goes into every layer, and what the stack gives."""
        stack: StackConfig = getattr(self.config, stack_name)
        states = [self._embed(stack_name, stack, np.asarray(ids), types)]
        for i, layer in enumerate(stack.layers):
            states.append(self._layer(stack_name, i, stack, layer, states[-1], memory))
        if stack.final_norm:
            states[-1] = self._norm(stack, f"{stack_name}.norm", states[-1])
        return states

    # Layers.

    def _embed(
        self, stack_name: str, stack: StackConfig, ids: np.ndarray, types: Sequence[int] | None
    ) -> np.ndarray:
        table = "decoder" if self.config.share_embeddings else stack_name
        vectors = self._tensors[f"{table}.embed.weight"][ids]
        if self.config.hadamard and self.config.tie_output:
            vectors = self._mixed(vectors)
        x = vectors * self.config.embedding_scale
        if stack.positions == "table":
            x = self._add(x, self._tensors[f"{stack_name}.positions"][: len(ids)])
        if stack.types:
            x = self._add(x, self._tensors[f"{stack_name}.types"][np.zeros(len(ids), int) if types is None else types])
        if stack.embed_norm:
            x = self._norm(stack, f"{stack_name}.embed.norm", x)
        if self.config.embedding_width not in (None, self.config.width):
            x = self._linear(f"{stack_name}.embed.project", x)
        return x

    def _layer(
        self,
        stack_name: str,
        index: int,
        stack: StackConfig,
        layer: LayerConfig,
        x: np.ndarray,
        memory: np.ndarray | None,
    ) -> np.ndarray:
        name = f"{stack_name}.layers.{index}"

        def self_attention(y: np.ndarray) -> np.ndarray:
            return self._self_attention(stack_name, index, stack, layer.self_attention, y)

        def cross_attention(y: np.ndarray) -> np.ndarray:
            assert layer.cross_attention is not None and memory is not None
            return self._cross_attention(f"{name}.cross_attention", stack, layer.cross_attention, y, memory)

        def feed_forward(y: np.ndarray) -> np.ndarray:
            return self._feed_forward(f"{name}.ffn", layer.feed_forward, y)

        sublayers = {f"{name}.self_attention": self_attention}
        if layer.cross_attention is not None:
            sublayers[f"{name}.cross_attention"] = cross_attention
        sublayers[f"{name}.ffn"] = feed_forward
        start = x
        for own, f in sublayers.items():
            if stack.placement == "post":
                x = self._norm(stack, f"{own}.norm", self._add(x, f(x)))
                continue
            read = start if stack.placement == "parallel" else x
            update = f(self._norm(stack, f"{own}.norm", read))
            if stack.after_norms:
                update = self._norm(stack, f"{own}.after", update)
            x = self._add(x, update)
        return x

    def _self_attention(
        self, stack_name: str, index: int, stack: StackConfig, attention: AttentionConfig, x: np.ndarray
    ) -> np.ndarray:
        name = f"{stack_name}.layers.{index}.self_attention"
        positions = np.arange(len(x))
        distance = positions[None, :] - positions[:, None]  # j - i: from query i to key j
        seen = distance <= 0 if stack_name == "decoder" else np.ones_like(distance, bool)
        if attention.window is not None:
            before, after = attention.window
            seen &= (-before <= distance) & (distance <= after)
        bias = np.zeros((1, len(x), len(x)), self.dtype)
        if stack.relative_reach:
            reach = stack.relative_reach
            bias = bias + self._tensors[f"{stack_name}.relative"][:, np.clip(distance, -reach, reach) + reach]
        if stack.slopes:
            bias = bias + self._tensors[f"{stack_name}.slopes"][:, None, None] * distance.astype(self.dtype)
        q, k, v = self._queries_keys_values(name, stack, attention, x, x)
        if attention.rope is not None:
            q, k = self._turn(attention.rope, q), self._turn(attention.rope, k)
        if self.config.hadamard:
            q, k = self._mixed(q), self._mixed(k) / np.abs(hadamard_matrix(attention.head_width)[0]).sum()
        return self._attend(name, attention, q, k, v, bias, seen)

    def _cross_attention(
        self, name: str, stack: StackConfig, attention: AttentionConfig, x: np.ndarray, memory: np.ndarray
    ) -> np.ndarray:
        q, k, v = self._queries_keys_values(name, stack, attention, x, memory)
        shape = (len(x), len(memory))
        return self._attend(name, attention, q, k, v, np.zeros((1, *shape), self.dtype), np.ones(shape, bool))

    def _queries_keys_values(
        self, name: str, stack: StackConfig, attention: AttentionConfig, x: np.ndarray, memory: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """q [H, n, D], k and v [kv heads, m, D]."""

        def by_head(part: str, rows: np.ndarray) -> np.ndarray:
            return self._linear(f"{name}.{part}", rows).reshape(len(rows), -1, attention.head_width).swapaxes(0, 1)

        q, k, v = by_head("q", x), by_head("k", memory), by_head("v", memory)
        if attention.qk_norm:
            q = self._rms(q, self._tensors[f"{name}.q_norm.weight"], stack.norm_epsilon)
            k = self._rms(k, self._tensors[f"{name}.k_norm.weight"], stack.norm_epsilon)
        return q, k, v

    def _attend(
        self,
        name: str,
        attention: AttentionConfig,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        bias: np.ndarray,
        seen: np.ndarray,
    ) -> np.ndarray:
        """Adjacent heads of queries share a head of keys and values; bias [H or 1, n, m], seen [n, m]."""
        group = attention.heads // attention.kv_heads
        k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
        scores = np.where(seen, self._scores(attention, q, k, bias), -np.inf)
        mixed = self._mix(scores.astype(self.dtype), v).swapaxes(0, 1)
        return self._linear(f"{name}.output", mixed.reshape(len(mixed), -1))

    def _feed_forward(self, name: str, feed_forward: FeedForwardConfig, x: np.ndarray) -> np.ndarray:
        up = self._linear(f"{name}.up", x)
        if feed_forward.gated:
            wide = self._activate(feed_forward.activation, self._linear(f"{name}.gate", x)) * up
        else:
            wide = self._activate(feed_forward.activation, up)
        return self._linear(f"{name}.down", wide)

    # Operations, which subclasses round or move.

    def _linear(self, name: str, x: np.ndarray, weight: str | None = None) -> np.ndarray:
        """W x + b; ``weight``: the name that W has where it is not ``name``."""
        y = self._read(x) @ self._tensors[f"{weight or name}.weight"].T
        bias = self._tensors.get(f"{name}.bias")
        return y if bias is None else y + bias

    def _read(self, x: np.ndarray) -> np.ndarray:
        """Rows as a matrix meets them."""
        return self._mixed(x) if self.config.hadamard else x

    def _mixed(self, x: np.ndarray) -> np.ndarray:
        return x @ hadamard_matrix(x.shape[-1]).astype(self.dtype)

    def _add(self, x: np.ndarray, update: np.ndarray) -> np.ndarray:
        return x + update

    def _mean(self, x: np.ndarray) -> np.ndarray:
        return x.mean(axis=0, keepdims=True)

    def _norm(self, stack: StackConfig, name: str, x: np.ndarray) -> np.ndarray:
        weight = self._tensors[f"{name}.weight"]
        if stack.norm == "rms":
            return self._rms(x, weight, stack.norm_epsilon)
        return self._layer_norm(x, weight, self._tensors[f"{name}.bias"], stack.norm_epsilon)

    def _layer_norm(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * weight + bias

    def _rms(self, x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * weight

    def _activate(self, activation: str, x: np.ndarray) -> np.ndarray:
        return ACTIVATIONS[activation](x)

    def _turn(self, rope: str, x: np.ndarray) -> np.ndarray:
        """x [heads, n, D], row t by t times the frequencies of texts of n, a product that is rounded to float32."""
        half = self.config.ropes[rope].dims // 2
        frequencies = self._tensors[f"rope.{rope}.frequencies"].astype(np.float32)
        if self.config.ropes[rope].lengths:
            frequencies = frequencies[self.config.rope_set(x.shape[1])]
        angle = (np.arange(x.shape[1], dtype=np.float32)[:, None] * frequencies).astype(np.float64)
        cos, sin = ((f(angle) * self.config.ropes[rope].factor).astype(self.dtype) for f in (np.cos, np.sin))
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)

    def _scores(self, attention: AttentionConfig, q: np.ndarray, k: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """[H, n, m]"""
        return soft_cap(q @ k.swapaxes(1, 2) * attention.scale, attention.soft_cap) + bias

    def _mix(self, scores: np.ndarray, v: np.ndarray) -> np.ndarray:
        """scores [H, n, m], v [H, m, D] -> softmax(scores) v [H, n, D]."""
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True) @ v

    def _cap_logits(self, logits: np.ndarray) -> np.ndarray:
        return soft_cap(logits, self.config.logit_soft_cap)
