"""Folding a scale of each channel into what lies before and behind it.

Where y = W2 f(x) and x_j comes from a norm's gain or a linear layer's row, scales s > 0 change nothing:

    x_j <- x_j / s_j       the producers: gain and bias of the norm, or row and bias of the layer, divided by s
    W2[:, j] <- W2[:, j] s_j        every consumer of x

This holds exactly for f = identity and any positively homogeneous f, such as ReLU; through GELU or SiLU it does not. It
needs x to be read by the consumers alone. In a post-norm model, x = norm(x + sublayer(x)), what most norms give is also
added to what comes after; left are

    values -> output             of an attention, whose weights mix tokens and not channels, with as many heads of both
    up -> down                   of a feed-forward layer with ReLU, or with a gate, which multiplies up as it is
    the encoder's last norm      -> keys and values of all cross-attentions
    the decoder's last norm      -> the output layer, where this is no embedding table too
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor, ModelConfig, StackConfig

__all__ = ["Place", "fold", "places"]

HOMOGENEOUS = ("relu", "linear")  # of canonical.config.ACTIVATIONS


@dataclass(frozen=True)
class Place:
    """Channels that can be scaled, by canonical names; ``name`` is what people call them.

    producers  layers and norms whose weight (vector, or rows of a matrix) and bias are divided
    consumers  layers whose columns are multiplied
    reader     the packed name of one of these: all of them read the same
    """

    name: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    reader: str

    @property
    def between_layers(self) -> bool:
        """Whether rows of a matrix are divided, and not the gain of a norm."""
        return not self.producers[0].endswith("norm")


def places(config: ModelConfig) -> list[Place]:
    """Where a model with ``config`` takes scales, in the order of use."""
    found: list[Place] = []
    for name, stack in config.stacks():
        for i, layer in enumerate(stack.layers):
            for part, attention in layer.attentions():
                if attention.kv_heads == attention.heads:
                    whole = f"{name}.layers.{i}.{part}"
                    found.append(_between(f"{whole}.v", f"{whole}.output"))
            if layer.feed_forward.gated or layer.feed_forward.activation in HOMOGENEOUS:
                whole = f"{name}.layers.{i}.ffn"
                found.append(_between(f"{whole}.up", f"{whole}.down"))
        last = _last_norm(name, stack)
        if last is None:
            continue
        if name == "encoder" and config.decoder is not None and not config.heads:  # which read it, too
            cross = [f"decoder.layers.{i}.cross_attention" for i in range(len(config.decoder.layers))]
            keys_and_values = tuple(f"{attention}.{part}" for attention in cross for part in ("k", "v"))
            found.append(Place(last, (last,), keys_and_values, f"{cross[0]}.kv"))
        elif name == "decoder" and not config.tie_output:
            found.append(_between(last, "output"))
    return found


def _last_norm(name: str, stack: StackConfig) -> str | None:
    """The norm that gives what a stack gives, if there is one."""
    if stack.placement == "post":
        return f"{name}.layers.{len(stack.layers) - 1}.ffn.norm"
    return f"{name}.norm" if stack.final_norm else None


def _between(producer: str, consumer: str) -> Place:
    return Place(producer, (producer,), (consumer,), consumer)


def fold(model: CanonicalModel, place: Place, scales: np.ndarray) -> CanonicalModel:
    """The model whose channels at ``place`` are divided by ``scales`` float32 [K] > 0. Tensors are made when read."""
    tensors = dict(model.tensors)
    for producer in place.producers:
        for part in (f"{producer}.weight", f"{producer}.bias"):
            if part in tensors:
                tensors[part] = _divided(tensors[part], scales)
    for consumer in place.consumers:
        tensors[f"{consumer}.weight"] = _multiplied(tensors[f"{consumer}.weight"], scales)
    return replace(model, tensors=tensors)


def _divided(tensor: LazyTensor, scales: np.ndarray) -> LazyTensor:
    """Entry or row j by ``scales[j]``."""
    divisors = scales if len(tensor.shape) == 1 else scales[:, None]
    return replace(tensor, load=lambda: tensor.read() / divisors)


def _multiplied(tensor: LazyTensor, scales: np.ndarray) -> LazyTensor:
    """Column j by ``scales[j]``."""
    return replace(tensor, load=lambda: tensor.read() * scales)
