"""The table of tensors that a model consists of: name, shape and kind, all derived from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Mapping

from pyengine.canonical.config import AttentionConfig, FeedForwardConfig, HeadConfig, ModelConfig, StackConfig

__all__ = ["TensorSpec", "mismatches", "tensor_specs"]

Specs = Iterator[tuple[str, "TensorSpec"]]


@dataclass(frozen=True)
class TensorSpec:
    """Shape and kind of a tensor.

    kind "linear": [out, in], y = W x; "embedding": [vocab, width], a row a token; "vector": [n], a bias or a norm's;
    "table": numbers that are looked up by position, distance, type or head, never rounded
    """

    shape: tuple[int, ...]
    kind: str


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> Specs:
    yield f"{name}.weight", TensorSpec((outputs, inputs), "linear")
    if bias:
        yield f"{name}.bias", TensorSpec((outputs,), "vector")


def _norm(name: str, width: int, kind: str) -> Specs:
    yield f"{name}.weight", TensorSpec((width,), "vector")
    if kind == "layer":
        yield f"{name}.bias", TensorSpec((width,), "vector")


def _sublayer_norms(name: str, width: int, stack: StackConfig) -> Specs:
    yield from _norm(f"{name}.norm", width, stack.norm)
    if stack.after_norms:
        yield from _norm(f"{name}.after", width, stack.norm)


def _attention(name: str, attention: AttentionConfig, width: int, stack: StackConfig) -> Specs:
    inner, kv_inner = attention.heads * attention.head_width, attention.kv_heads * attention.head_width
    for part, outputs in (("q", inner), ("k", kv_inner), ("v", kv_inner)):
        yield from _linear(f"{name}.{part}", outputs, width, attention.qkv_bias)
    if attention.qk_norm:
        for part in ("q_norm", "k_norm"):
            yield from _norm(f"{name}.{part}", attention.head_width, "rms")
    yield from _linear(f"{name}.output", width, inner, attention.output_bias)
    yield from _sublayer_norms(name, width, stack)


def _feed_forward(name: str, feed_forward: FeedForwardConfig, width: int, stack: StackConfig) -> Specs:
    for part in ("gate", "up") if feed_forward.gated else ("up",):
        yield from _linear(f"{name}.{part}", feed_forward.width, width, feed_forward.bias)
    yield from _linear(f"{name}.down", width, feed_forward.width, feed_forward.bias)
    yield from _sublayer_norms(name, width, stack)


def _embedding(name: str, stack: StackConfig, config: ModelConfig) -> Specs:
    """All but the table of tokens."""
    width = config.embedding_width or config.width
    if stack.positions == "table":
        yield f"{name}.positions", TensorSpec((stack.max_positions, width), "table")
    if stack.types:
        yield f"{name}.types", TensorSpec((stack.types, width), "table")
    if stack.embed_norm:
        yield from _norm(f"{name}.embed.norm", width, stack.norm)
    if width != config.width:
        yield from _linear(f"{name}.embed.project", config.width, width, bias=True)


def _stack(name: str, stack: StackConfig, config: ModelConfig) -> Specs:
    yield from _embedding(name, stack, config)
    heads = stack.layers[0].self_attention.heads
    if stack.relative_reach:
        yield f"{name}.relative", TensorSpec((heads, 2 * stack.relative_reach + 1), "table")
    if stack.slopes:
        yield f"{name}.slopes", TensorSpec((heads,), "table")
    for i, layer in enumerate(stack.layers):
        for part, attention in layer.attentions():
            yield from _attention(f"{name}.layers.{i}.{part}", attention, config.width, stack)
        yield from _feed_forward(f"{name}.layers.{i}.ffn", layer.feed_forward, config.width, stack)
    if stack.final_norm:
        yield from _norm(f"{name}.norm", config.width, stack.norm)


def _head(name: str, head: HeadConfig, config: ModelConfig, encoder: StackConfig) -> Specs:
    width, tied = config.width, head.out == "vocabulary"
    if head.dense:
        width = (config.embedding_width or width) if tied else width
        yield from _linear(f"{name}.dense", width, config.width, bias=True)
    if head.norm:
        yield from _norm(f"{name}.norm", width, encoder.norm)
    if isinstance(head.out, int):
        yield from _linear(f"{name}.out", head.out, width, bias=True)
    elif tied and config.source_vocab is not None:
        yield f"{name}.out.bias", TensorSpec((config.source_vocab,), "vector")


def tensor_specs(config: ModelConfig) -> dict[str, TensorSpec]:
    """Every tensor of a model with ``config``, by name, in the order in which the model uses them."""
    specs = {
        f"rope.{name}.frequencies": TensorSpec(rope.frequencies_shape(), "table") for name, rope in config.ropes.items()
    }
    width = config.embedding_width or config.width
    vocabularies = {"encoder": config.source_vocab, "decoder": config.target_vocab}
    for name, stack in config.stacks():
        vocab = vocabularies[name]
        if vocab is not None and not (name == "encoder" and config.share_embeddings):
            specs[f"{name}.embed.weight"] = TensorSpec((vocab, width), "embedding")
        specs.update(_stack(name, stack, config))
        if name == "encoder":
            for head_name, head in config.heads.items():
                specs.update(_head(f"head.{head_name}", head, config, stack))
    if config.target_vocab is not None:
        output = dict(_linear("output", config.target_vocab, config.width, config.output_bias))
        if config.tie_output:
            del output["output.weight"]
        specs.update(output)
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
