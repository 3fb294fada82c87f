"""Biases where a model has none: what is fitted or corrected needs a place, and zeros change no output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from pyengine.canonical import AttentionConfig, CanonicalModel, FeedForwardConfig, LazyTensor, tensor_specs

__all__ = ["linear", "with_biases"]


def linear(model: CanonicalModel, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight [N, K] and bias [N], float32, of a layer by canonical name; zeros without a bias."""
    weight = model.tensors[f"{name}.weight"].read()
    bias = model.tensors.get(f"{name}.bias")
    return weight, np.zeros(len(weight), np.float32) if bias is None else bias.read()


def with_biases(model: CanonicalModel, layers: Iterable[str]) -> CanonicalModel:
    """The model with a bias in each of these linear layers, by canonical name ("decoder.layers.0.ffn.down").

    Zeros where there was none. The configuration has one word for the biases of queries, keys and values, and one for
    those of a feed-forward: these get them together.
    """
    sublayers, output_bias = dict(model.config.sublayers()), model.config.output_bias
    changed: dict[str, AttentionConfig | FeedForwardConfig] = {}
    for layer in layers:
        owner, _, own = layer.rpartition(".")
        part = changed.get(owner, sublayers.get(owner))
        if part is not None:  # else of an embedding, which has one
            field = "bias" if isinstance(part, FeedForwardConfig) else "output_bias" if own == "output" else "qkv_bias"
            setting: dict[str, Any] = {field: True}
            changed[owner] = replace(part, **setting)
        output_bias = output_bias or layer == "output"
    config = replace(model.config.with_sublayers(changed), output_bias=output_bias)
    if config == model.config:
        return model
    tensors = {
        name: model.tensors[name] if name in model.tensors else LazyTensor.of(name, np.zeros(spec.shape, np.float32))
        for name, spec in tensor_specs(config).items()
    }
    return replace(model, config=config, tensors=tensors)
