"""Folding a scale of each channel into what lies before and behind it.

Where y = W2 f(x) and x_j comes from a norm's gain or a linear layer's row, scales s > 0 change nothing:

    x_j <- x_j / s_j       the producers: gain and bias of the norm, or row and bias of the layer, divided by s
    W2[:, j] <- W2[:, j] s_j        every consumer of x

This holds exactly for f = identity and any positively homogeneous f, such as ReLU; through GELU or SiLU it does not. It
needs x to be read by the consumers alone:

    values -> output             of an attention, whose weights mix tokens and not channels; a channel of a key-value
                                 head stands behind one of each query head of its group, and has one scale
    up -> down                   of a feed-forward layer with ReLU, or with a gate, which multiplies up as it is
    a norm before a sublayer     -> what reads it: queries, keys and values, or gate and up
    the norm of a table that is narrower than the model -> the projection behind it
    the encoder's last norm      -> keys and values of all cross-attentions, unless a head reads it
    the decoder's last norm      -> the output layer, where this is no embedding table too

Keys have no consumer: they meet queries, which are multiplied instead, row by row, while keys are divided. Channels
that turn together by their position have one scale. That changes no rounding of weights, but that of cached keys.

Where a Hadamard matrix stands before the consumers (hadamard.py), they read channels that it has mixed: there is no
such place.

In a post-norm model, x = norm(x + sublayer(x)), what all but the last norms give is also added to what comes after, and
so is what a norm of a sublayer's output gives. A norm of queries or keys has no channel to itself: heads share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pyengine.canonical import (
    AttentionConfig,
    CanonicalModel,
    FeedForwardConfig,
    LazyTensor,
    ModelConfig,
    StackConfig,
)

__all__ = ["Place", "fold", "places"]

HOMOGENEOUS = ("relu", "linear")  # of canonical.config.ACTIVATIONS


@dataclass(frozen=True)
class Place:
    """Channels that can be scaled, by canonical names; ``name`` is what people call them.

    producers  layers and norms whose weight (vector, or rows of a matrix) and bias are divided
    consumers  layers whose columns are multiplied
    reader     the packed name of one of these: all of them read the same
    group, head_width   channel c of a head of so many stands behind that of each of ``group`` adjacent heads of the
                        consumers' columns
    queries    layers that meet the producers' channels: rows that are multiplied, as the consumers' columns are
    turning    of each head's first so many channels, i and i + turning / 2 have one scale
    """

    name: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    reader: str
    group: int = 1
    head_width: int = 1
    queries: tuple[str, ...] = ()
    turning: int = 0

    @property
    def between_layers(self) -> bool:
        """Whether rows of a matrix are divided and columns multiplied."""
        return bool(self.consumers) and not self.producers[0].endswith("norm")

    def columns(self, channels: np.ndarray) -> np.ndarray:
        """What belongs to each channel, at each column [K] that it stands behind."""
        if self.group == 1:
            return channels
        return np.repeat(channels.reshape(-1, 1, self.head_width), self.group, axis=1).reshape(-1)

    def channels(self, columns: np.ndarray) -> np.ndarray:
        """The largest of what belongs to the columns [K] of each channel."""
        if self.group == 1:
            return columns
        largest: np.ndarray = columns.reshape(-1, self.group, self.head_width).max(axis=1)
        return largest.reshape(-1)

    def even(self, channels: np.ndarray) -> np.ndarray:
        """The largest of what belongs to channels that have one scale, at each of them."""
        heads = channels.reshape(-1, self.head_width).copy()
        half = self.turning // 2
        heads[:, :half] = heads[:, half : self.turning] = np.maximum(heads[:, :half], heads[:, half : self.turning])
        return heads.reshape(-1)


def places(config: ModelConfig) -> list[Place]:
    """Where a model with ``config`` takes scales, in the order of use."""
    return [] if config.hadamard else list(_channels(config))


def _channels(config: ModelConfig) -> Iterator[Place]:
    for name, stack in config.stacks():
        if stack.embed_norm and config.embedding_width not in (None, config.width):
            yield _between(f"{name}.embed.norm", f"{name}.embed.project")
        for i, layer in enumerate(stack.layers):
            for part, sublayer in layer.sublayers():
                own = f"{name}.layers.{i}.{part}"
                yield from _in_sublayer(own, sublayer, before=stack.placement != "post")
                if isinstance(sublayer, AttentionConfig) and not sublayer.qk_norm:
                    yield _keys(own, sublayer, config)
        last = _last_norm(name, stack)
        if last is None:
            continue
        if name == "encoder" and config.decoder is not None and not config.heads:  # which read it, too
            cross = [f"decoder.layers.{i}.cross_attention" for i in range(len(config.decoder.layers))]
            keys_and_values = tuple(f"{attention}.{part}" for attention in cross for part in ("k", "v"))
            yield Place(last, (last,), keys_and_values, f"{cross[0]}.kv")
        elif name == "decoder" and not config.tie_output:
            yield _between(last, "output")


def _in_sublayer(name: str, sublayer: AttentionConfig | FeedForwardConfig, *, before: bool) -> Iterator[Place]:
    """Those of one; ``before``: its norm is read by nothing else."""
    readers: tuple[str, ...]
    if isinstance(sublayer, FeedForwardConfig):
        readers, packed = (("gate", "up"), "gate_up") if sublayer.gated else (("up",), "up")
    else:
        readers, packed = (("q",), "q") if name.endswith("cross_attention") else (("q", "k", "v"), "qkv")
    if before:
        norm = f"{name}.norm"
        yield Place(norm, (norm,), tuple(f"{name}.{reader}" for reader in readers), f"{name}.{packed}")
    if isinstance(sublayer, AttentionConfig):
        group = sublayer.heads // sublayer.kv_heads
        yield replace(_between(f"{name}.v", f"{name}.output"), group=group, head_width=sublayer.head_width)
    elif sublayer.gated or sublayer.activation in HOMOGENEOUS:
        yield _between(f"{name}.up", f"{name}.down")


def _keys(name: str, attention: AttentionConfig, config: ModelConfig) -> Place:
    keys, queries = f"{name}.k", f"{name}.q"
    group = attention.heads // attention.kv_heads
    turning = 0 if attention.rope is None else config.ropes[attention.rope].dims
    return Place(keys, (keys,), (), queries, group, attention.head_width, (queries,), turning)


def _last_norm(name: str, stack: StackConfig) -> str | None:
    """The norm that gives what a stack gives, if there is one."""
    if stack.placement == "post":
        return f"{name}.layers.{len(stack.layers) - 1}.ffn.norm"
    return f"{name}.norm" if stack.final_norm else None


def _between(producer: str, consumer: str) -> Place:
    return Place(producer, (producer,), (consumer,), consumer)


def fold(model: CanonicalModel, place: Place, scales: np.ndarray) -> CanonicalModel:
    """The model whose channels at ``place`` are divided by ``scales`` float32 > 0, ``Place.even`` ones.

    Tensors are made when read.
    """
    tensors = dict(model.tensors)
    for layers, divisors in ((place.producers, scales), (place.queries, 1 / place.columns(scales))):
        for part in (f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")):
            if part in tensors:
                tensors[part] = _divided(tensors[part], divisors)
    for consumer in place.consumers:
        tensors[f"{consumer}.weight"] = _multiplied(tensors[f"{consumer}.weight"], place.columns(scales))
    return replace(model, tensors=tensors)


def _divided(tensor: LazyTensor, scales: np.ndarray) -> LazyTensor:
    """Entry or row j by ``scales[j]``."""
    divisors = scales if len(tensor.shape) == 1 else scales[:, None]
    return replace(tensor, load=lambda: tensor.read() / divisors)


def _multiplied(tensor: LazyTensor, scales: np.ndarray) -> LazyTensor:
    """Column j by ``scales[j]``."""
    return replace(tensor, load=lambda: tensor.read() * scales)
