"""Folding a scale of each channel into what lies before and behind it.

Where y = W2 f(x) and x_j comes from a norm's gain or a linear layer's row, scales s > 0 change nothing:

    x_j <- x_j / s_j       the producers: gain and bias of the norm, or row and bias of the layer, divided by s
    W2[:, j] <- W2[:, j] s_j        every consumer of x

This holds exactly for f = identity and any positively homogeneous f, such as ReLU; through GELU or SiLU it does not. It
needs x to be read by the consumers alone. In a post-norm model, x = norm(x + sublayer(x)), what most norms give is also
added to what comes after; left are

    values -> output             of an attention, whose weights mix tokens and not channels
    up -> down                   of a feed-forward layer with ReLU
    the encoder's last norm      -> keys and values of all cross-attentions
    the decoder's last norm      -> the output layer, where this is no embedding table too
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor, ModelConfig

__all__ = ["Place", "fold", "places"]

HOMOGENEOUS = ("relu",)  # of canonical.config.ACTIVATIONS


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
        return not self.producers[0].endswith(".norm")


def places(config: ModelConfig) -> list[Place]:
    """Where a model with ``config`` takes scales, in the order of use."""
    found: list[Place] = []
    for stack, sizes in (("encoder", config.encoder), ("decoder", config.decoder)):
        for i, layer in enumerate(sizes.layers):
            name = f"{stack}.layers.{i}"
            for part in ("self", "cross") if layer.cross_heads is not None else ("self",):
                attention = f"{name}.{part}_attention"
                found.append(_between(f"{attention}.v", f"{attention}.output"))
            if config.activation in HOMOGENEOUS:
                found.append(_between(f"{name}.ffn.up", f"{name}.ffn.down"))
        last = f"{stack}.layers.{len(sizes.layers) - 1}.ffn.norm"
        if stack == "encoder":
            cross = [f"decoder.layers.{i}.cross_attention" for i in range(len(config.decoder.layers))]
            keys_and_values = tuple(f"{attention}.{part}" for attention in cross for part in ("k", "v"))
            found.append(Place(last, (last,), keys_and_values, f"{cross[0]}.kv"))
        elif not config.tie_output:
            found.append(_between(last, "output"))
    return found


def _between(producer: str, consumer: str) -> Place:
    return Place(producer, (producer,), (consumer,), consumer)


def fold(model: CanonicalModel, place: Place, scales: np.ndarray) -> CanonicalModel:
    """The model whose channels at ``place`` are divided by ``scales`` float32 [K] > 0. Tensors are made when read."""
    tensors = dict(model.tensors)
    for producer in place.producers:
        for part in ("weight", "bias"):
            tensors[f"{producer}.{part}"] = _divided(tensors[f"{producer}.{part}"], scales)
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
