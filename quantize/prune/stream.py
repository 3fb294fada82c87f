"""The vectors between the layers of a stack, from what its linear layers read.

With the norm behind a sublayer a layer reads the vectors themselves. With the norm before it what is read is another
thing; there the vectors are what was looked up, and what each sublayer has added since:

    x_0 = embedding      x_i+1 = x_i + the sum of W h + b over the sublayers of layer i, or of a norm of these
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pyengine.canonical import CanonicalModel, ModelConfig
from pyengine.quantize.biases import linear
from pyengine.quantize.seeing.calibration import STATES, View
from pyengine.tasks.forcing import target_inputs
from pyengine.tasks.inputs import Sample

__all__ = ["Stream", "behind"]

OUTPUTS = {"self_attention": "output", "cross_attention": "output", "ffn": "down"}
"""Sublayer -> the layer that adds to the stream."""


def behind(config: ModelConfig, stack: str) -> str:
    """What reads the vectors that a stack gives: a packed name, or ``calibration.STATES``."""
    if stack == "decoder":
        return "output"
    return STATES if config.decoder is None else "decoder.layers.0.cross_attention.kv"


class Stream:
    """Of ``stack``, "encoder" or "decoder". ``views`` are for ``calibration.paired_inputs``."""

    def __init__(self, model: CanonicalModel, stack: str) -> None:
        self._model, self._name = model, stack
        self._stack = dict(model.config.stacks())[stack]
        self._start = None if model.generation is None else model.generation.decoder_start_token_id
        layers = range(len(self._stack.layers))
        self.views: dict[str, View]
        if self._stack.placement == "post":
            readers = (f"{stack}.layers.{i}.self_attention.qkv" for i in layers)
            self.views = {name: np.copy for name in (*readers, behind(model.config, stack))}
        else:
            names = (name for name, _ in model.config.sublayers() if name.startswith(f"{stack}."))
            self.views = {f"{name}.{OUTPUTS[name.rpartition('.')[2]]}": self._update(name) for name in names}

    def vectors(self, samples: Sequence[Sample], seen: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """float32 [rows, width] each: before every layer, and behind the last one, where no final norm is in it.

        ``seen`` is what the views kept of ``samples``.
        """
        if self._stack.placement == "post":
            return [seen[name] for name in self.views]
        vectors = [self._embedded(samples)]
        for i in range(len(self._stack.layers)):
            own = f"{self._name}.layers.{i}."
            vectors.append(vectors[-1] + sum(rows for name, rows in seen.items() if name.startswith(own)))
        return vectors

    def _update(self, sublayer: str) -> View:
        """What a sublayer adds for the rows that its last linear layer reads."""
        weight, bias = linear(self._model, f"{sublayer}.{OUTPUTS[sublayer.rpartition('.')[2]]}")

        def update(x: np.ndarray) -> np.ndarray:
            y: np.ndarray = x @ weight.T + bias
            return self._norm(f"{sublayer}.after", y) if self._stack.after_norms else y

        return update

    def _embedded(self, samples: Sequence[Sample]) -> np.ndarray:
        config, name = self._model.config, self._name
        if name == "encoder":
            texts = [sample.source for sample in samples if sample.source is not None]
        else:
            texts = [target_inputs(sample.target, self._start) for sample in samples if sample.target is not None]
        table = self._read(f"{'decoder' if config.share_embeddings else name}.embed.weight")
        x: np.ndarray = table[np.concatenate(texts)] * np.float32(config.embedding_scale)
        if self._stack.positions == "table":
            positions = self._read(f"{name}.positions")
            x += np.concatenate([positions[: len(text)] for text in texts])
        if self._stack.types:
            x += self._read(f"{name}.types")[0]
        if self._stack.embed_norm:
            x = self._norm(f"{name}.embed.norm", x)
        if config.embedding_width not in (None, config.width):
            weight, bias = linear(self._model, f"{name}.embed.project")
            x = x @ weight.T + bias
        return x

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        weight, epsilon = self._read(f"{name}.weight"), np.float32(self._stack.norm_epsilon)
        if self._stack.norm == "layer":
            x = x - x.mean(axis=1, keepdims=True)
        normed: np.ndarray = x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + epsilon) * weight
        return normed + self._read(f"{name}.bias") if self._stack.norm == "layer" else normed

    def _read(self, name: str) -> np.ndarray:
        return self._model.tensors[name].read()
