"""Marian, as Hugging Face exports it (opus-mt and its like). Reference: transformers 5.24.0, models/marian."""

from __future__ import annotations

import math

import numpy as np

from pyengine.canonical import AttentionConfig, FeedForwardConfig, LayerConfig, ModelConfig, StackConfig
from pyengine.formats.strict_json import Fields
from pyengine.importers.positions import sinusoidal
from pyengine.importers.keys import WHOLE, activation_of, equal_layers, head_width_of, size_or
from pyengine.importers.table import Family, Plan, Source

__all__ = ["FAMILY"]

# Canonical name -> raw name, below "encoder.layers.0." and "model.encoder.layers.0." and the like.
_SELF = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "output": "out_proj"}
_NAMES = {
    **{f"self_attention.{name}": f"self_attn.{raw}" for name, raw in _SELF.items()},
    "self_attention.norm": "self_attn_layer_norm",
    **{f"cross_attention.{name}": f"encoder_attn.{raw}" for name, raw in _SELF.items()},
    "cross_attention.norm": "encoder_attn_layer_norm",
    "ffn.up": "fc1",
    "ffn.down": "fc2",
    "ffn.norm": "final_layer_norm",
}
_SHARED = "model.shared.weight"
_ENCODER_TABLE, _DECODER_TABLE = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
_OUTPUT_TABLE = "lm_head.weight"


def _plan(fields: Fields) -> Plan:
    width = fields.integer("d_model", *WHOLE)
    positions = fields.integer("max_position_embeddings", *WHOLE)
    activation = activation_of(fields, "activation_function")

    def stack(name: str) -> StackConfig:
        heads = fields.integer(f"{name}_attention_heads", *WHOLE)
        attention = AttentionConfig.plain(heads, head_width_of(width, heads, f"{name}_attention_heads"))
        feed_forward = FeedForwardConfig(fields.integer(f"{name}_ffn_dim", *WHOLE), activation)
        layer = LayerConfig(attention, feed_forward, attention if name == "decoder" else None)
        count = fields.integer(f"{name}_layers", *WHOLE)
        return StackConfig(equal_layers(layer, count, f"{name}_layers"), positions)  # the class knows no other epsilon

    source_vocab = fields.integer("vocab_size", *WHOLE)
    target_vocab = size_or(fields, "decoder_vocab_size", source_vocab)
    shared = fields.flag("share_encoder_decoder_embeddings")
    if shared and source_vocab != target_vocab:
        fields.fail("decoder_vocab_size", f"{source_vocab}, the vocab_size of the table that they share", target_vocab)
    config = ModelConfig(
        family="marian",
        width=width,
        encoder=stack("encoder"),
        decoder=stack("decoder"),
        source_vocab=source_vocab,
        target_vocab=target_vocab,
        embedding_scale=math.sqrt(width) if fields.flag("scale_embedding") else 1.0,
        share_embeddings=shared,
        tie_output=fields.flag("tie_word_embeddings"),
    )
    return Plan(config, _sources(config))


def _sources(config: ModelConfig) -> dict[str, Source]:
    _, target_vocab = config.target_side()
    sources = {
        "encoder.embed.weight": _table(config, _ENCODER_TABLE),
        "decoder.embed.weight": _table(config, _DECODER_TABLE),
        "output.weight": _table(config, _OUTPUT_TABLE),
        "output.bias": Source(
            ("final_logits_bias",),
            (1, target_vocab),
            take=lambda values: values[0],
            default=lambda: np.zeros(target_vocab, np.float32),
        ),
    }
    for name, stack in config.stacks():
        table = f"model.{name}.embed_positions.weight"
        sources[f"{name}.positions"] = sinusoidal(stack.max_positions, config.width, table)
        for i in range(len(stack.layers)):
            for own, raw in _NAMES.items():
                for part in ("weight", "bias"):
                    whole = f"{name}.layers.{i}"
                    sources[f"{whole}.{own}.{part}"] = Source((f"model.{whole}.{raw}.{part}",))
    return sources


def _table(config: ModelConfig, own: str) -> Source:
    """transformers ties lm_head to the target table, and with share_encoder_decoder_embeddings both tables to
    "shared", unless a checkpoint holds several of them with different values: then each keeps its own. Before
    version 5 the shared table was one module, so exports may hold it alone even if lm_head is not tied.
    """
    tied, shared = config.tie_output, config.share_embeddings
    others: tuple[str, ...] = ()
    if tied and shared:
        others = (_SHARED, _OUTPUT_TABLE, _DECODER_TABLE, _ENCODER_TABLE)
    elif shared and own != _OUTPUT_TABLE:
        others = (_SHARED, _DECODER_TABLE, _ENCODER_TABLE)
    elif tied and own != _ENCODER_TABLE:
        others = (_DECODER_TABLE, _OUTPUT_TABLE)
    return Source((own, *others))


FAMILY = Family(
    architectures=("MarianMTModel",),
    model_type="marian",
    title="Marian (opus-mt and its like)",
    keys={
        "vocab_size": 58101, "decoder_vocab_size": None, "max_position_embeddings": 1024, "d_model": 1024,
        "encoder_layers": 12, "encoder_ffn_dim": 4096, "encoder_attention_heads": 16,
        "decoder_layers": 12, "decoder_ffn_dim": 4096, "decoder_attention_heads": 16,
        "activation_function": "gelu", "scale_embedding": False, "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
    },
    own=("model.encoder.layers.", "model.decoder.layers.", "model.shared.", "lm_head."),
    plan=_plan,
    aliases={  # attribute_map of MarianConfig
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    },
    fixed={
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
        "static_position_embeddings": True,
        "do_blenderbot_90_layernorm": False,
        "is_encoder_decoder": True,
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_encoder_decoder": False,
        "pruned_heads": {},
        "prefix": "",
    },
    ignored=frozenset({
        "activation_dropout", "attention_dropout", "classif_dropout", "classifier_dropout", "decoder_layerdrop",
        "dropout", "encoder_layerdrop", "init_std", "total_flos", "cross_attention_hidden_size", "output_past",
        "add_bias_logits",       # final_logits_bias is added if it is there
        "extra_pos_embeddings",  # only for learned positions, which static_position_embeddings rules out
    }),
    checked="Every activation, all ways to tie and share tables, old exports, a real checkpoint (multi30k-de-en); ids "
    "and scores of whole translations.",
)  # fmt: skip
