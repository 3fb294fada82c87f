"""What models of two stacks have in common: which stored table stands for which, and the names of the line of BART."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyengine.canonical import AttentionConfig, FeedForwardConfig, LayerConfig, ModelConfig, StackConfig
from pyengine.formats.strict_json import Fields
from pyengine.importers.keys import activation_of, equal_layers, head_width_of, size
from pyengine.importers.table import Source

__all__ = [
    "FIXED", "LINE_ALIASES", "LINE_IGNORED", "LINE_KEYS", "LINE_OWN", "LINE_TABLES", "Tables", "embedding_scale",
    "layer_sources", "line_stacks", "output_bias", "table_sources",
]  # fmt: skip

# Keys of every config class, which mean another kind of model.
FIXED: Mapping[str, Any] = {
    "is_encoder_decoder": True, "is_decoder": False, "add_cross_attention": False, "tie_encoder_decoder": False,
    "pruned_heads": {},
}  # fmt: skip

# The line of BART: classes that are copies of it, with keys and tensors of the same names.
LINE_KEYS: Mapping[str, Any] = {
    "vocab_size": 50265, "max_position_embeddings": 1024, "d_model": 1024,
    "encoder_layers": 12, "encoder_ffn_dim": 4096, "encoder_attention_heads": 16,
    "decoder_layers": 12, "decoder_ffn_dim": 4096, "decoder_attention_heads": 16,
    "activation_function": "gelu", "scale_embedding": False, "tie_word_embeddings": True,
}  # fmt: skip
LINE_ALIASES: Mapping[str, str] = {  # attribute_map of the config classes
    "num_attention_heads": "encoder_attention_heads",
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
}
LINE_IGNORED = frozenset({
    "activation_dropout", "attention_dropout", "classif_dropout", "classifier_dropout", "decoder_layerdrop",
    "dropout", "encoder_layerdrop", "init_std", "total_flos", "cross_attention_hidden_size", "output_past",
    "add_bias_logits",       # final_logits_bias is added if it is there
    "extra_pos_embeddings",  # tables of positions have as many rows as they have
})  # fmt: skip
LINE_OWN = ("model.encoder.layers.", "model.decoder.layers.", "model.shared.", "lm_head.")

# Canonical name -> raw name, below "encoder.layers.0." and "model.encoder.layers.0." and the like.
_SELF = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "output": "out_proj"}
_LAYER = {
    **{f"self_attention.{name}": f"self_attn.{raw}" for name, raw in _SELF.items()},
    "self_attention.norm": "self_attn_layer_norm",
    **{f"cross_attention.{name}": f"encoder_attn.{raw}" for name, raw in _SELF.items()},
    "cross_attention.norm": "encoder_attn_layer_norm",
    "ffn.up": "fc1",
    "ffn.down": "fc2",
    "ffn.norm": "final_layer_norm",
}


@dataclass(frozen=True)
class Tables:
    """Raw names of tables of tokens: the one that the stacks share, their own, and that of the output layer."""

    shared: str
    encoder: str
    decoder: str
    output: str


LINE_TABLES = Tables(
    "model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"
)


def table_sources(config: ModelConfig, names: Tables) -> dict[str, Source]:
    """Where the tables come from, each best of all from its own name.

    transformers ties the output layer to the target's table, and with shared embeddings both tables to one, unless a
    checkpoint holds several of them with different values: then each keeps its own. Before version 5 the shared table
    was one module, so exports may hold it alone even if the output layer is not tied.
    """
    tied, shared = config.tie_output, config.share_embeddings

    def table(own: str) -> Source:
        others: tuple[str, ...] = ()
        if tied and shared:
            others = (names.shared, names.output, names.decoder, names.encoder)
        elif shared and own != names.output:
            others = (names.shared, names.decoder, names.encoder)
        elif tied and own != names.encoder:
            others = (names.decoder, names.output)
        return Source((own, *others))

    return {
        "encoder.embed.weight": table(names.encoder),
        "decoder.embed.weight": table(names.decoder),
        "output.weight": table(names.output),
    }


def line_stacks(
    fields: Fields, width: int, positions: int, **changes: Any
) -> tuple[StackConfig, StackConfig]:
    """Encoder and decoder of the line of BART, whose classes know no other epsilon of norms than the default."""
    activation = activation_of(fields, "activation_function")

    def stack(name: str) -> StackConfig:
        heads = size(fields, f"{name}_attention_heads")
        attention = AttentionConfig.plain(heads, head_width_of(width, heads, f"{name}_attention_heads"))
        feed_forward = FeedForwardConfig(size(fields, f"{name}_ffn_dim"), activation)
        layer = LayerConfig(attention, feed_forward, attention if name == "decoder" else None)
        count = size(fields, f"{name}_layers")
        return StackConfig(equal_layers(layer, count, f"{name}_layers"), positions, **changes)

    return stack("encoder"), stack("decoder")


def embedding_scale(fields: Fields, width: int) -> float:
    """By which vectors of tokens are multiplied."""
    return math.sqrt(width) if fields.flag("scale_embedding") else 1.0


def layer_sources(config: ModelConfig) -> dict[str, Source]:
    """Layers of the line of BART, and the norms around them."""
    sources = {}
    for name, stack in config.stacks():
        numbers = range(len(stack.layers))
        modules = {f"layers.{i}.{own}": f"layers.{i}.{raw}" for i in numbers for own, raw in _LAYER.items()}
        if stack.embed_norm:
            modules["embed.norm"] = "layernorm_embedding"
        if stack.final_norm:
            modules["norm"] = "layer_norm"
        for own, raw in modules.items():
            for part in ("weight", "bias"):
                sources[f"{name}.{own}.{part}"] = Source((f"model.{name}.{raw}.{part}",))
    return sources


def output_bias(vocab: int) -> dict[str, Source]:
    """Zero where it is not stored."""
    default = lambda: np.zeros(vocab, np.float32)  # noqa: E731
    return {"output.bias": Source(("final_logits_bias",), (1, vocab), lambda values: values[0], default)}
