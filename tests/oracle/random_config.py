"""Random legal configurations with awkward values, and tensors for them.

Sizes are no multiples of 16, layers differ, and traits come together that no family has: parallel layers with RMS
norms, a bias table and windows, say. Everything is drawn from RandomState, because NumPy promises that its stream stays
the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from pyengine.canonical.config import (
    ACTIVATIONS,
    AttentionConfig,
    FeedForwardConfig,
    HeadConfig,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    StackConfig,
    default_scale,
)

from .transformer import hadamard_matrix

__all__ = ["random_config", "random_tensors", "tensor_shapes"]

T = TypeVar("T")
WIDTHS = (80, 96)
HEADS = ((6, 3), (6, 2), (6, 6), (6, 1), (4, 2), (5, 5), (1, 1))  # of queries, of keys and values
HEAD_WIDTHS = (12, 20, 80)
FFN_WIDTHS = (100, 33)
VOCABULARY = 333
WINDOWS = ((5, 0), (4, 0), (0, 0), (17, 0))
LENGTHS = (8, 20)
WINDOWS_BOTH_WAYS = ((5, 5), (2, 7), (0, 3), (16, 0))


class _Draw:
    def __init__(self, seed: int) -> None:
        self._rng = np.random.RandomState(seed)

    def of(self, *values: T) -> T:
        return values[self._rng.randint(len(values))]

    def chance(self, p: float) -> bool:
        return bool(self._rng.rand() < p)


def random_config(seed: int) -> ModelConfig:
    """Decoder-only, encoder-only and encoder-decoder configurations in turn."""
    draw = _Draw(seed)
    stacks = (("decoder",), ("encoder", "decoder"), ("encoder",))[seed % 3]
    width = draw.of(*WIDTHS)
    ropes = _ropes(draw) if draw.chance(0.6) else {}
    if ropes and seed % 6 == 0:  # decoders alone
        ropes |= {name: replace(ropes[name], lengths=LENGTHS) for name in ("whole", "part")}
    both = len(stacks) == 2
    encoder = _stack(draw, ropes, causal=False, cross=False) if "encoder" in stacks else None
    decoder = _stack(draw, ropes, causal=True, cross=both) if "decoder" in stacks else None
    embedding_width = draw.of(None, None, 36)
    target_vocab = draw.of(VOCABULARY, VOCABULARY, 1100) if decoder else None  # 1024 logits are a chunk
    shared = both and draw.chance(0.5)
    tied = decoder is not None and embedding_width is None and draw.chance(0.5)
    return ModelConfig(
        family=f"random {seed}",
        width=width,
        encoder=encoder,
        decoder=decoder,
        source_vocab=None if encoder is None else target_vocab if shared else VOCABULARY,
        target_vocab=target_vocab,
        embedding_scale=math.sqrt(width) if tied else draw.of(1.0, math.sqrt(width), 0.5),
        embedding_width=embedding_width,
        share_embeddings=shared,
        tie_output=tied,
        output_bias=decoder is not None and draw.chance(0.5),
        logit_soft_cap=draw.of(None, 3.0, 30.0) if decoder else None,
        ropes=ropes,
        heads=_heads(draw, width, embedding_width) if encoder else {},
        hadamard=encoder is None and decoder is not None and decoder.placement != "post" and draw.chance(0.5),
    )


def _heads(draw: _Draw, width: int, embedding_width: int | None) -> dict[str, HeadConfig]:
    """One of each way to pool, and one that reads the table of tokens."""
    heads = {}
    for pool in ("none", "cls", "last", "mean"):
        dense, out = draw.chance(0.6), draw.of(None, 1, 3, 17)
        activation = draw.of(*ACTIVATIONS) if dense else "linear"
        labels = tuple(f"label {i}" for i in range(out)) if out and draw.chance(0.5) else ()
        problem = draw.of(None, "single_label", "multi_label", "regression") if out else None
        heads[pool] = HeadConfig(pool, dense, activation, draw.chance(0.5), out, labels, problem)
    dense = embedding_width not in (None, width) or draw.chance(0.5)
    activation = draw.of("gelu", "linear") if dense else "linear"
    heads["words"] = HeadConfig(draw.of("none", "mean"), dense, activation, draw.chance(0.5), "vocabulary")
    return heads


def _ropes(draw: _Draw) -> dict[str, RopeConfig]:
    """Of the whole of the narrowest head, and of a part of any."""
    return {
        "whole": RopeConfig(min(HEAD_WIDTHS)),
        "part": RopeConfig(draw.of(2, 6, 10), draw.of(1.0, 1.25)),
        "wide": RopeConfig(draw.of(20, 80)),
    }


def _stack(draw: _Draw, ropes: dict[str, RopeConfig], *, causal: bool, cross: bool) -> StackConfig:
    placement = draw.of("post", "pre", "pre") if cross else draw.of("post", "pre", "parallel", "parallel")
    first = _layer(draw, ropes, causal, cross)
    others = range(draw.of(0, 1, 2))
    layers = [first, *(first if draw.chance(0.3) else _layer(draw, ropes, causal, cross) for _ in others)]
    relative_reach = draw.of(0, 0, 3, 21)
    slopes = draw.chance(0.3)
    if relative_reach or slopes:  # all layers share them, head by head
        layers = [replace(layer, self_attention=_with_heads(layer.self_attention, first)) for layer in layers]
    return StackConfig(
        layers=tuple(layers),
        max_positions=draw.of(40, 70),
        norm=draw.of("layer", "rms"),
        norm_epsilon=draw.of(1e-5, 0.01, 0.1),
        placement=placement,
        after_norms=placement != "post" and draw.chance(0.4),
        embed_norm=draw.chance(0.4),
        final_norm=placement != "post" and draw.chance(0.7),
        positions=draw.of("table", "none"),
        types=draw.of(0, 0, 2),
        relative_reach=relative_reach,
        slopes=slopes,
    )


def _with_heads(attention: AttentionConfig, first: LayerConfig) -> AttentionConfig:
    return replace(attention, heads=first.self_attention.heads, kv_heads=first.self_attention.kv_heads)


def _layer(draw: _Draw, ropes: dict[str, RopeConfig], causal: bool, cross: bool) -> LayerConfig:
    attention = _attention(draw)
    fitting = [name for name, rope in ropes.items() if rope.dims <= attention.head_width]
    windows = WINDOWS if causal else WINDOWS_BOTH_WAYS
    return LayerConfig(
        self_attention=replace(
            attention,
            rope=draw.of(*fitting, None) if fitting else None,
            window=draw.of(*windows) if draw.chance(0.5) else None,
        ),
        feed_forward=FeedForwardConfig(
            draw.of(*FFN_WIDTHS), draw.of(*ACTIVATIONS), gated=draw.chance(0.5), bias=draw.chance(0.5)
        ),
        cross_attention=_attention(draw) if cross else None,
    )


def _attention(draw: _Draw) -> AttentionConfig:
    heads, kv_heads = draw.of(*HEADS)
    head_width = draw.of(*HEAD_WIDTHS)
    return AttentionConfig(
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        scale=draw.of(default_scale(head_width), 0.3),
        qkv_bias=draw.chance(0.5),
        output_bias=draw.chance(0.5),
        qk_norm=draw.chance(0.3),
        soft_cap=draw.of(None, None, 2.0, 15.0),
    )


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model: written down a second time, so that a mistake in pyengine's list cannot hide in it."""
    return dict(_shapes(config))


def _shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = config.width
    narrow = config.embedding_width or width

    def linear(name: str, outputs: int, inputs: int, bias: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (outputs, inputs)
        if bias:
            yield f"{name}.bias", (outputs,)

    def norm(name: str, size: int = width, kind: str = "rms") -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (size,)
        if kind == "layer":
            yield f"{name}.bias", (size,)

    def attention(name: str, a: AttentionConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
        queries, keys = a.heads * a.head_width, a.kv_heads * a.head_width
        yield from linear(f"{name}.q", queries, width, a.qkv_bias)
        yield from linear(f"{name}.k", keys, width, a.qkv_bias)
        yield from linear(f"{name}.v", keys, width, a.qkv_bias)
        yield from linear(f"{name}.output", width, queries, a.output_bias)
        if a.qk_norm:
            yield from norm(f"{name}.q_norm", a.head_width)
            yield from norm(f"{name}.k_norm", a.head_width)

    vocabularies = {"encoder": config.source_vocab, "decoder": config.target_vocab}
    for name, rope in config.ropes.items():
        yield f"rope.{name}.frequencies", (*([len(rope.lengths) + 1] if rope.lengths else []), rope.dims // 2)
    for side, stack in config.stacks():
        if side == "decoder" or not config.share_embeddings:
            yield f"{side}.embed.weight", (vocabularies[side] or 0, narrow)
        if narrow != width:
            yield from linear(f"{side}.embed.project", width, narrow, bias=True)
        if stack.positions == "table":
            yield f"{side}.positions", (stack.max_positions, narrow)
        if stack.types:
            yield f"{side}.types", (stack.types, narrow)
        if stack.embed_norm:
            yield from norm(f"{side}.embed.norm", narrow, stack.norm)
        if stack.relative_reach:
            yield f"{side}.relative", (stack.layers[0].self_attention.heads, 2 * stack.relative_reach + 1)
        if stack.slopes:
            yield f"{side}.slopes", (stack.layers[0].self_attention.heads,)
        if stack.final_norm:
            yield from norm(f"{side}.norm", width, stack.norm)
        for i, layer in enumerate(stack.layers):
            own = f"{side}.layers.{i}"
            yield from attention(f"{own}.self_attention", layer.self_attention)
            if layer.cross_attention is not None:
                yield from attention(f"{own}.cross_attention", layer.cross_attention)
            ffn = layer.feed_forward
            if ffn.gated:
                yield from linear(f"{own}.ffn.gate", ffn.width, width, ffn.bias)
            yield from linear(f"{own}.ffn.up", ffn.width, width, ffn.bias)
            yield from linear(f"{own}.ffn.down", width, ffn.width, ffn.bias)
            for sublayer in ("self_attention", "cross_attention", "ffn"):
                if sublayer == "cross_attention" and layer.cross_attention is None:
                    continue
                yield from norm(f"{own}.{sublayer}.norm", width, stack.norm)
                if stack.after_norms:
                    yield from norm(f"{own}.{sublayer}.after", width, stack.norm)
    if config.decoder is not None:
        if not config.tie_output:
            yield "output.weight", (config.target_vocab or 0, width)
        if config.output_bias:
            yield "output.bias", (config.target_vocab or 0,)
    for name, head in config.heads.items():
        assert config.encoder is not None
        inner = narrow if head.out == "vocabulary" and head.dense else width
        if head.dense:
            yield from linear(f"head.{name}.dense", inner, width, bias=True)
        if head.norm:
            yield from norm(f"head.{name}.norm", inner, config.encoder.norm)
        if head.out == "vocabulary":
            yield f"head.{name}.out.bias", (config.source_vocab or 0,)
        elif isinstance(head.out, int):
            yield from linear(f"head.{name}.out", head.out, inner, bias=True)


def random_tensors(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """float32 tensors that keep rows near unit variance; no gain is 1 and no bias 0."""
    rng = np.random.RandomState(seed)
    return {
        name: _values(rng, config, name, shape).astype(np.float32) for name, shape in tensor_shapes(config).items()
    }


def _values(rng: np.random.RandomState, config: ModelConfig, name: str, shape: tuple[int, ...]) -> Any:
    if name.endswith("frequencies"):  # a turn in 6 to some thousand positions
        return 1.1 * 1000.0 ** -(np.arange(shape[-1]) / shape[-1]) * rng.uniform(0.9, 1.1, shape)
    if name.endswith("slopes"):
        return rng.uniform(0.02, 0.5, shape)
    if name.endswith("norm.weight") or name.endswith("after.weight"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("embed.weight") and not config.tie_output:
        return rng.normal(0, 1 / config.embedding_scale, shape)
    if name.endswith(".weight"):
        size = np.abs(hadamard_matrix(shape[1])).sum(axis=0).max() if config.hadamard else 1
        return rng.normal(0, (1.5 if name.endswith("embed.weight") else 1.2) / math.sqrt(shape[1] * size), shape)
    return rng.normal(0, 0.5, shape)  # biases, and tables of positions, types and distances
