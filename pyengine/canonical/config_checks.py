"""What a configuration must keep to: limits, so that no size computed from one overflows, and what goes with what."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from pyengine.formats.strict_json import shorten

if TYPE_CHECKING:
    from pyengine.canonical.config import AttentionConfig, FeedForwardConfig, HeadConfig, ModelConfig, StackConfig

__all__ = ["ACTIVATIONS", "MAX_LAYERS", "MAX_POSITIONS", "complaints"]

# "gelu" is x * Phi(x) with erf, "gelu_tanh" its tanh approximation, "quick_gelu" x * sigmoid(1.702 x), "silu"
# x * sigmoid(x), "linear" x.
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh", "sigmoid", "linear")
NORMS = ("layer", "rms")
PLACEMENTS = ("post", "pre", "parallel")
POSITIONS = ("table", "none")
POOLS = ("none", "cls", "last", "mean")
PROBLEMS = ("single_label", "multi_label", "regression")

MAX_WIDTH = 16384
MAX_FFN_WIDTH = 65536
MAX_HEAD_WIDTH = 256
MAX_LAYERS = 256
MAX_VOCAB = 1 << 21
MAX_POSITIONS = 1 << 20
MAX_TYPES = 1024
MAX_WINDOWS = 8  # groups of pages of the core's cache
SMALLEST, LARGEST = 2.0**-126, 3.4e38  # of float32
MAX_ROPES = 8
MAX_ROPE_SETS = 64  # of frequencies of one
MAX_HEADS = 64
MAX_NAME = 32

Complaint = tuple[str, str]  # (field, what is wrong with it)


def complaints(config: ModelConfig) -> list[str]:
    """All that is wrong with a configuration, each by the path of its field; empty if nothing is."""
    found = [*_sizes(config), *_stacks(config), *_output(config), *_hadamard(config), *_ropes(config), *_heads(config)]
    for name, stack in config.stacks():
        decoder = name == "decoder"
        found += [(f"{name}.{field}", wrong) for field, wrong in _stack(stack)]
        found += _layers(config, name, stack, causal=decoder, cross=decoder and config.encoder is not None)
    return [f"{field}: {wrong}" for field, wrong in found]


def _within(field: str, value: int, low: int, high: int) -> Iterator[Complaint]:
    if not low <= value <= high:
        yield field, f"expected an integer from {low} to {high}, found {shorten(value)}"


def _one_of(field: str, value: str, known: tuple[str, ...]) -> Iterator[Complaint]:
    if value not in known:
        yield field, f"expected one of {', '.join(known)}, found {shorten(value)}"


def _positive(field: str, value: float | None) -> Iterator[Complaint]:
    """None is no complaint: there is no such thing then. The core computes in float32."""
    if value is not None and not (math.isfinite(value) and SMALLEST <= value <= LARGEST):
        yield field, f"expected a positive number, found {shorten(value)}"


def _sizes(config: ModelConfig) -> Iterator[Complaint]:
    yield from _within("width", config.width, 1, MAX_WIDTH)
    if config.embedding_width is not None:
        yield from _within("embedding_width", config.embedding_width, 1, MAX_WIDTH)
    yield from _positive("embedding_scale", config.embedding_scale)


def _stacks(config: ModelConfig) -> Iterator[Complaint]:
    """Which stacks there are, and whether vocabularies and what they share go with that."""
    if config.encoder is None and config.decoder is None:
        yield "encoder", "expected an encoder, a decoder or both, found none"
    for field, vocab, stack in (
        ("source_vocab", config.source_vocab, config.encoder),
        ("target_vocab", config.target_vocab, config.decoder),
    ):
        if stack is None and vocab is not None:
            yield field, f"expected none, there is no stack that reads it, found {shorten(vocab)}"
        elif stack is not None and vocab is None:
            yield field, f"expected an integer from 1 to {MAX_VOCAB}, found none"
        elif vocab is not None:
            yield from _within(field, vocab, 1, MAX_VOCAB)
    if config.share_embeddings and None in (config.encoder, config.decoder):
        yield "share_embeddings", "expected an encoder and a decoder to share one table, found one of them"
    elif config.share_embeddings and config.source_vocab != config.target_vocab:
        sizes = f"{shorten(config.source_vocab)} and {shorten(config.target_vocab)}"
        yield "share_embeddings", f"expected one size of the vocabularies, found {sizes}"


def _hadamard(config: ModelConfig) -> Iterator[Complaint]:
    if config.hadamard and not config.takes_hadamard:
        yield "hadamard", 'expected false but for a decoder alone whose placement is not "post"'


def _output(config: ModelConfig) -> Iterator[Complaint]:
    yield from _positive("logit_soft_cap", config.logit_soft_cap)
    if config.decoder is None:
        if config.tie_output:
            yield "tie_output", "expected false, a model without a decoder has no output layer"
        if config.logit_soft_cap is not None:
            yield "logit_soft_cap", "expected none, a model without a decoder has no output layer"
    elif config.tie_output and config.embedding_width not in (None, config.width):
        yield "tie_output", f"expected false, the table has a width of {config.embedding_width}, not {config.width}"


def _is_name(name: str) -> bool:
    """Whether it may be a part of tensors' names, where "layers" tells those of layers."""
    return name.isascii() and name.isidentifier() and len(name) <= MAX_NAME and name != "layers"


def _names(field: str, names: Collection[str], most: int) -> Iterator[Complaint]:
    if len(names) > most:
        yield field, f"expected at most {most}, found {len(names)}"
    for name in names:
        if not _is_name(name):
            expected = f"expected names of up to {MAX_NAME} letters, digits and _, other than 'layers'"
            yield field, f"{expected}, found {shorten(name)}"


def _ropes(config: ModelConfig) -> Iterator[Complaint]:
    yield from _names("ropes", config.ropes, MAX_ROPES)
    for name, rope in config.ropes.items():
        if not _is_name(name):
            continue
        yield from _within(f"ropes.{name}.dims", rope.dims, 2, MAX_HEAD_WIDTH)
        if rope.dims % 2:
            yield f"ropes.{name}.dims", f"expected an even number, found {rope.dims}"
        yield from _positive(f"ropes.{name}.factor", rope.factor)
        yield from ((f"ropes.{name}.lengths", wrong) for wrong in _lengths(rope.lengths))
    if len({rope.lengths for rope in config.ropes.values() if rope.lengths}) > 1:
        yield "ropes", "expected the same lengths of all ropes that have any: a sequence keeps to one set"


def _lengths(lengths: tuple[int, ...]) -> Iterator[str]:
    if len(lengths) >= MAX_ROPE_SETS:
        yield f"expected at most {MAX_ROPE_SETS - 1}, found {len(lengths)}"
    limits = (0, *lengths, MAX_POSITIONS)
    if any(one >= next_one for one, next_one in zip(limits, limits[1:], strict=False)):
        yield f"expected integers from 1 on that ascend, below {MAX_POSITIONS}, found {shorten(lengths)}"


def _heads(config: ModelConfig) -> Iterator[Complaint]:
    yield from _names("heads", config.heads, MAX_HEADS)
    if config.heads and config.encoder is None:
        yield "heads", "expected none, there is no encoder whose states they could read"
    for name, head in config.heads.items():
        if _is_name(name):
            yield from ((f"heads.{name}.{field}", wrong) for field, wrong in _head(config, head))


def _head(config: ModelConfig, head: HeadConfig) -> Iterator[Complaint]:
    yield from _one_of("pool", head.pool, POOLS)
    yield from _one_of("activation", head.activation, ACTIVATIONS)
    if not head.dense and head.activation != "linear":
        yield "activation", f"expected linear, there is no dense layer, found {shorten(head.activation)}"
    if isinstance(head.out, str):
        yield from _one_of("out", head.out, ("vocabulary",))
        if not head.dense and config.embedding_width not in (None, config.width):
            found = shorten(config.embedding_width)
            yield "out", f"expected a number, there is no dense layer before the table of width {found}"
    elif head.out is not None:
        yield from _within("out", head.out, 1, MAX_VOCAB)
    if head.labels and len(head.labels) != head.out:
        yield "labels", f"expected none or one for each output ({shorten(head.out)}), found {len(head.labels)}"
    if head.problem is not None:
        yield from _one_of("problem", head.problem, PROBLEMS)
        if not isinstance(head.out, int):
            yield "problem", f"expected none, there are no labels' scores, found {shorten(head.problem)}"


def _stack(stack: StackConfig) -> Iterator[Complaint]:
    yield from _within("layers", len(stack.layers), 1, MAX_LAYERS)
    yield from _within("max_positions", stack.max_positions, 1, MAX_POSITIONS)
    yield from _one_of("norm", stack.norm, NORMS)
    if not SMALLEST <= stack.norm_epsilon < 1:
        yield "norm_epsilon", f"expected a number between 0 and 1, found {shorten(stack.norm_epsilon)}"
    yield from _one_of("placement", stack.placement, PLACEMENTS)
    yield from _one_of("positions", stack.positions, POSITIONS)
    yield from _within("types", stack.types, 0, MAX_TYPES)
    yield from _within("relative_reach", stack.relative_reach, 0, MAX_POSITIONS)
    for field in ("after_norms", "final_norm"):
        if stack.placement == "post" and getattr(stack, field):
            yield field, 'expected false, the placement "post" normalizes every sum'
    windows = {layer.self_attention.window for layer in stack.layers}
    if len(windows) > MAX_WINDOWS:
        yield "self_attention.window", f"expected at most {MAX_WINDOWS} different windows, found {len(windows)}"
    heads = {layer.self_attention.heads for layer in stack.layers}
    for field in ("relative_reach", "slopes"):
        if getattr(stack, field) and len(heads) > 1:
            found = ", ".join(shorten(each) for each in sorted(heads))
            yield field, f"expected as many heads in all self-attentions, which share them, found {found}"


def _layers(
    config: ModelConfig, name: str, stack: StackConfig, *, causal: bool, cross: bool
) -> Iterator[Complaint]:
    """What is wrong in the same way in several layers is said once."""
    wrong: dict[Complaint, list[int]] = {}
    for i, layer in enumerate(stack.layers):
        found = [*_attention(config, "self_attention", layer.self_attention)]
        found += _causal(layer.self_attention) if causal else _both_ways(config, layer.self_attention)
        if layer.cross_attention is not None:
            found += _attention(config, "cross_attention", layer.cross_attention)
            found += _cross(stack, layer.cross_attention)
        if cross and layer.cross_attention is None:
            found.append(("cross_attention", "expected one in each layer, the decoder of an encoder-decoder"))
        if not cross and layer.cross_attention is not None:
            reason = "there is no encoder" if name == "decoder" else "an encoder reads nothing but its own"
            found.append(("cross_attention", f"expected none, {reason}"))
        for complaint in [*found, *_feed_forward(layer.feed_forward)]:
            wrong.setdefault(complaint, []).append(i)
    for (field, text), layers in wrong.items():
        more = f" (and in {len(layers) - 1} more layers)" if len(layers) > 1 else ""
        yield f"{name}.layers.{layers[0]}.{field}", text + more


def _attention(config: ModelConfig, name: str, attention: AttentionConfig) -> Iterator[Complaint]:
    heads, kv_heads, head_width = attention.heads, attention.kv_heads, attention.head_width
    wrong = [
        *_within(f"{name}.heads", heads, 1, MAX_WIDTH),
        *_within(f"{name}.kv_heads", kv_heads, 1, MAX_WIDTH),
        *_within(f"{name}.head_width", head_width, 1, MAX_HEAD_WIDTH),
    ]
    yield from wrong
    if not wrong and heads % kv_heads:
        yield f"{name}.kv_heads", f"expected a divisor of the {heads} heads, found {kv_heads}"
    if not wrong and heads * head_width > MAX_WIDTH:
        yield f"{name}.heads", f"expected at most {MAX_WIDTH // head_width} of a width of {head_width}, found {heads}"
    yield from _positive(f"{name}.scale", attention.scale)
    yield from _positive(f"{name}.soft_cap", attention.soft_cap)
    if attention.rope is not None:
        rope = config.ropes.get(attention.rope)
        if rope is None:
            known = ", ".join(map(shorten, config.ropes)) or "none"
            yield f"{name}.rope", f"expected one of the ropes ({known}), found {shorten(attention.rope)}"
        elif rope.dims > head_width:
            yield f"{name}.rope", f"expected at most {head_width} dims, a head's width, found {rope.dims}"
    if attention.window is not None:
        before, after = attention.window
        if not (0 <= before < MAX_POSITIONS and 0 <= after < MAX_POSITIONS):
            found = f"{shorten(before)} before and {shorten(after)} behind"
            yield f"{name}.window", f"expected the own key and 0 to {MAX_POSITIONS - 1} on a side of it, found {found}"


def _causal(attention: AttentionConfig) -> Iterator[Complaint]:
    if attention.window is not None and attention.window[1] > 0:
        yield "self_attention.window", f"expected no keys behind a decoder's own, found {shorten(attention.window[1])}"


def _both_ways(config: ModelConfig, attention: AttentionConfig) -> Iterator[Complaint]:
    rope = None if attention.rope is None else config.ropes.get(attention.rope)
    if rope is not None and rope.lengths:
        yield "self_attention.rope", f"expected one without lengths, of an encoder, found {shorten(attention.rope)}"


def _cross(stack: StackConfig, attention: AttentionConfig) -> Iterator[Complaint]:
    """Keys of a cross-attention have no place that could be told from the query's."""
    if stack.placement == "parallel":
        yield "cross_attention", 'expected none with the placement "parallel"'
    if attention.rope is not None:
        yield "cross_attention.rope", f"expected none, found {shorten(attention.rope)}"
    if attention.window is not None:
        yield "cross_attention.window", f"expected none, found {shorten(attention.window)}"


def _feed_forward(feed_forward: FeedForwardConfig) -> Iterator[Complaint]:
    yield from _within("feed_forward.width", feed_forward.width, 1, MAX_FFN_WIDTH)
    yield from _one_of("feed_forward.activation", feed_forward.activation, ACTIVATIONS)
