"""What makes families of transformers out of their classes: random parameters, names that change, configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyengine.canonical.config import AttentionConfig, ModelConfig, StackConfig

__all__ = [
    "LENGTH", "SOURCE", "VOCABULARY", "Family", "Tensors", "attention", "decoder_only", "encoder_only", "randomized",
    "renamed", "state_of",
]  # fmt: skip

torch.set_num_threads(1)  # tiny products: more threads only wait for each other

VOCABULARY, SOURCE, LENGTH = 333, 33, 39
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Family:
    """A model of transformers, and the same as a configuration and tensors."""

    model: Any
    config: ModelConfig
    tensors: Tensors
    single: bool = False  # whether transformers has parts of it (norms, softmax, angles) in float32 whatever one asks
    last: float = 1.0  # by which the decoder's last states are multiplied here, and there behind them


def randomized(model: Any) -> Any:
    """In float64, with every parameter moved, but those that a formula gives: no gain is 1 and no bias 0."""
    model = model.eval().double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if each.requires_grad):
            scale = 0.3 if parameter.ndim == 1 else 1 / math.sqrt(parameter.shape[-1])
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)
    return model


def state_of(model: Any) -> Tensors:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def renamed(state: Mapping[str, np.ndarray], names: Mapping[str, str], layers: int = 2) -> Tensors:
    """``names``: canonical module -> theirs, ``*`` a layer's number; weights, and biases where there are some."""
    tensors = {}
    for own, theirs in names.items():
        for i in range(layers if "*" in own else 1):
            for part in ("weight", "bias"):
                value = state.get(f"{theirs.replace('*', str(i))}.{part}")
                if value is not None:
                    tensors[f"{own.replace('*', str(i))}.{part}"] = value
    assert tensors
    return tensors


def attention(heads: int, kv_heads: int, head_width: int, **changes: Any) -> AttentionConfig:
    return AttentionConfig(heads, kv_heads, head_width, **{"scale": head_width**-0.5, **changes})


def decoder_only(width: int, stack: StackConfig, **changes: Any) -> ModelConfig:
    values: dict[str, Any] = dict(source_vocab=None, target_vocab=VOCABULARY, output_bias=False)
    return ModelConfig("test", width, encoder=None, decoder=stack, **{**values, **changes})


def encoder_only(width: int, stack: StackConfig, **changes: Any) -> ModelConfig:
    return ModelConfig("test", width, stack, None, VOCABULARY, None, output_bias=False, **changes)
