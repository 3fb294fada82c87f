"""What language models of one stack have in common: keys of their configs, where their tensors lie, and ropes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyengine.canonical import AttentionConfig, FeedForwardConfig, LayerConfig, ModelConfig, StackConfig
from pyengine.formats.strict_json import Fields, shorten
from pyengine.importers.keys import head_width_of, layer_count, size, size_or, size_or_none
from pyengine.importers.ropes import Rope, rope_of, rope_parameters_of
from pyengine.importers.table import Source

__all__ = [
    "BUFFERS", "FIXED", "GATED", "OWN", "ROPE_KEYS", "WHOLE_HEADS", "Sizes", "decoder_only", "module_sources",
    "rms_stack", "rope_of_whole_heads", "rope_sources", "sizes_of", "table_sources", "whole_rope",
]  # fmt: skip

# Keys of every config class, which mean another kind of model or of attention.
FIXED: Mapping[str, Any] = {
    "is_encoder_decoder": False, "add_cross_attention": False, "is_causal": True, "pruned_heads": {},
}  # fmt: skip
# Of classes that turn whole heads: rope_of_whole_heads says the same of what stands inside of "rope_parameters".
WHOLE_HEADS: Mapping[str, Any] = {**FIXED, "partial_rotary_factor": 1.0}
ROPE_KEYS: Mapping[str, Any] = {
    "rope_parameters": None, "rope_scaling": None, "rope_theta": 10000.0, "original_max_position_embeddings": None,
}  # fmt: skip
# How the names of tensors of the line of Llama begin, and how those end that a formula gives.
OWN = ("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head.")
BUFFERS = (".rotary_emb.inv_freq",)
# Canonical name -> raw name of a gated feed-forward and of what is around the layers, "*" a layer's number.
GATED = {
    "decoder.norm": "model.norm",
    "decoder.layers.*.self_attention.norm": "model.layers.*.input_layernorm",
    "decoder.layers.*.self_attention.output": "model.layers.*.self_attn.o_proj",
    "decoder.layers.*.ffn.down": "model.layers.*.mlp.down_proj",
    "decoder.layers.*.ffn.norm": "model.layers.*.post_attention_layernorm",
}


@dataclass(frozen=True)
class Sizes:
    """What the config classes of the line of Llama say under the same keys."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    ffn_width: int
    positions: int
    vocab: int
    epsilon: float
    tied: bool

    def turning(self, ropes: Mapping[str, Rope]) -> Sizes:
        """With as many positions as its ``ropes`` allow."""
        return replace(self, positions=min((rope.max_positions for rope in ropes.values()), default=self.positions))

    def model(self, family: str, stack: StackConfig, ropes: Mapping[str, Rope], **changes: Any) -> ModelConfig:
        """``decoder_only`` of this width and vocabulary."""
        return decoder_only(family, stack, ropes, width=self.width, vocab=self.vocab, tied=self.tied, **changes)

    def attention(self, **changes: Any) -> AttentionConfig:
        """Without biases, scores over sqrt(head_width)."""
        values = {"scale": self.head_width**-0.5, "qkv_bias": False, "output_bias": False, **changes}
        return AttentionConfig(self.heads, self.kv_heads, self.head_width, **values)


def sizes_of(fields: Fields) -> Sizes:
    """Take them. A width of heads that is null is what they share out; as many keys as queries where that is null."""
    width, heads = size(fields, "hidden_size"), size(fields, "num_attention_heads")
    head_width = size_or_none(fields, "head_dim")
    return Sizes(
        width=width,
        layers=layer_count(fields, "num_hidden_layers"),
        heads=heads,
        kv_heads=size_or(fields, "num_key_value_heads", heads),
        head_width=head_width_of(width, heads, "num_attention_heads") if head_width is None else head_width,
        ffn_width=size(fields, "intermediate_size"),
        positions=size(fields, "max_position_embeddings"),
        vocab=size(fields, "vocab_size"),
        epsilon=fields.number("rms_norm_eps"),
        tied=fields.flag("tie_word_embeddings"),
    )


def rms_stack(
    sizes: Sizes, attentions: Sequence[AttentionConfig], activation: str, *, bias: bool = False, **changes: Any
) -> StackConfig:
    """Pre-norm layers with gates, and a norm behind them."""
    feed_forward = FeedForwardConfig(sizes.ffn_width, activation, gated=True, bias=bias)
    return StackConfig(
        tuple(LayerConfig(attention, feed_forward) for attention in attentions),
        sizes.positions,
        norm="rms",
        norm_epsilon=sizes.epsilon,
        placement="pre",
        final_norm=True,
        positions="none",
        **changes,
    )


def decoder_only(
    family: str,
    stack: StackConfig,
    ropes: Mapping[str, Rope],
    *,
    width: int,
    vocab: int,
    tied: bool,
    **changes: Any,
) -> ModelConfig:
    """A decoder that reads nothing but its own tokens, with an output layer that has no bias."""
    return ModelConfig(
        family,
        width,
        encoder=None,
        decoder=stack,
        source_vocab=None,
        target_vocab=vocab,
        tie_output=tied,
        output_bias=False,
        ropes={name: rope.config for name, rope in ropes.items()},
        **changes,
    )


def whole_rope(fields: Fields, sizes: Sizes) -> Rope:
    """The rope of classes with one for all layers that turn whole heads."""
    return rope_of_whole_heads(rope_parameters_of(fields, ROPE_KEYS["rope_theta"]), sizes)


def rope_of_whole_heads(parameters: Mapping[str, Any], sizes: Sizes) -> Rope:
    """``rope_of``, and ValueError for a part of them."""
    share = parameters.get("partial_rotary_factor", 1.0)
    if share != 1.0:
        raise ValueError(f"partial_rotary_factor = {shorten(share)}: the engine has only 1.0 for this architecture")
    return rope_of(parameters, head_width=sizes.head_width, max_positions=sizes.positions)


def rope_sources(ropes: Mapping[str, Rope]) -> dict[str, Source]:
    """Their frequencies, which no file has."""
    return {f"rope.{name}.frequencies": Source((), default=rope.frequencies) for name, rope in ropes.items()}


def module_sources(
    names: Mapping[str, str], layers: int, take: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, Source]:
    """Weights and biases of modules by canonical name, as they are or as ``take`` makes them."""
    return {
        f"{own.replace('*', str(i))}.{part}": Source((f"{raw.replace('*', str(i))}.{part}",), take=take)
        for own, raw in names.items()
        for i in range(layers if "*" in own else 1)
        for part in ("weight", "bias")
    }


def table_sources(embedding: str, output: str, tied: bool) -> dict[str, Source]:
    """The table of tokens and the output layer; where they are tied, either stands for both."""
    return {
        "decoder.embed.weight": Source((embedding, output) if tied else (embedding,)),
        "output.weight": Source((output, embedding) if tied else (output,)),
    }
