"""The table of tensors that a model consists of: name, shape and kind, all derived from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Mapping

import numpy as np

from pyengine.canonical.config import ModelConfig, StackConfig

__all__ = ["TensorSpec", "mismatches", "sinusoidal_positions", "tensor_specs"]


@dataclass(frozen=True)
class TensorSpec:
    """Shape and kind of a tensor.

    kind "linear": [out, in], y = W x; "embedding": [vocab, width]; "vector": [n].
    """

    shape: tuple[int, ...]
    kind: str


def _linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, TensorSpec]]:
    yield f"{name}.weight", TensorSpec((outputs, inputs), "linear")
    yield f"{name}.bias", TensorSpec((outputs,), "vector")


def _norm(name: str, width: int) -> Iterator[tuple[str, TensorSpec]]:
    yield f"{name}.weight", TensorSpec((width,), "vector")
    yield f"{name}.bias", TensorSpec((width,), "vector")


def _attention(name: str, inner: int, width: int) -> Iterator[tuple[str, TensorSpec]]:
    """``inner``: heads times their width."""
    for part in ("q", "k", "v"):
        yield from _linear(f"{name}.{part}", inner, width)
    yield from _linear(f"{name}.output", width, inner)
    yield from _norm(f"{name}.norm", width)


def _stack(name: str, stack: StackConfig, width: int) -> Iterator[tuple[str, TensorSpec]]:
    for i, sizes in enumerate(stack.layers):
        layer = f"{name}.layers.{i}"
        yield from _attention(f"{layer}.self_attention", sizes.heads * stack.head_width, width)
        if sizes.cross_heads is not None:
            yield from _attention(f"{layer}.cross_attention", sizes.cross_heads * stack.head_width, width)
        yield from _linear(f"{layer}.ffn.up", sizes.ffn_width, width)
        yield from _linear(f"{layer}.ffn.down", width, sizes.ffn_width)
        yield from _norm(f"{layer}.ffn.norm", width)


def tensor_specs(config: ModelConfig) -> dict[str, TensorSpec]:
    """Every tensor of a model with ``config``, by name, in the order in which the model uses them."""
    specs: dict[str, TensorSpec] = {}
    if not config.share_embeddings:
        specs["encoder.embed.weight"] = TensorSpec((config.source_vocab, config.width), "embedding")
    specs.update(_stack("encoder", config.encoder, config.width))
    specs["decoder.embed.weight"] = TensorSpec((config.target_vocab, config.width), "embedding")
    specs.update(_stack("decoder", config.decoder, config.width))
    if not config.tie_output:
        specs["output.weight"] = TensorSpec((config.target_vocab, config.width), "linear")
    specs["output.bias"] = TensorSpec((config.target_vocab,), "vector")
    return specs


def mismatches(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """All that is missing, extra or mis-shaped in ``found`` (name -> shape) in one line; "" if nothing is."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    wrong = [
        f"{name} (expected {list(shape)}, found {list(found[name])})"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    parts = [("missing", missing), ("unexpected", extra), ("mis-shaped", wrong)]
    return "; ".join(f"{len(names)} {title}: {', '.join(names)}" for title, names in parts if names)


def sinusoidal_positions(count: int, width: int) -> np.ndarray:
    """Position vectors [count, width], float32: sin(pos * 10000^(-2j/width)) for j < width/2, then cosines.

    Computed in float64. "Attention Is All You Need", section 3.5, with sines and cosines apart instead of
    interleaved, as transformers' MarianSinusoidalPositionalEmbedding has them. ``width`` is even.
    """
    half = np.arange(width // 2, dtype=np.float64)
    angles = np.arange(count, dtype=np.float64)[:, None] / np.power(10000.0, 2.0 * half / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
