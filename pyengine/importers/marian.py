"""Marian, as Hugging Face exports it (opus-mt and its like). Reference: transformers 5.24.0, models/marian."""

from __future__ import annotations

from pyengine.canonical import ModelConfig
from pyengine.formats.strict_json import Fields
from pyengine.importers.encoder_decoder import (
    FIXED,
    LINE_ALIASES,
    LINE_IGNORED,
    LINE_KEYS,
    LINE_OWN,
    LINE_TABLES,
    embedding_scale,
    layer_sources,
    line_stacks,
    output_bias,
    table_sources,
)
from pyengine.importers.keys import size, size_or
from pyengine.importers.positions import sinusoidal
from pyengine.importers.table import Family, Plan

__all__ = ["FAMILY"]


def _plan(fields: Fields) -> Plan:
    width, positions = size(fields, "d_model"), size(fields, "max_position_embeddings")
    encoder, decoder = line_stacks(fields, width, positions)
    source_vocab = size(fields, "vocab_size")
    target_vocab = size_or(fields, "decoder_vocab_size", source_vocab)
    shared = fields.flag("share_encoder_decoder_embeddings")
    if shared and source_vocab != target_vocab:
        fields.fail("decoder_vocab_size", f"{source_vocab}, the vocab_size of the table that they share", target_vocab)
    config = ModelConfig(
        family="marian",
        width=width,
        encoder=encoder,
        decoder=decoder,
        source_vocab=source_vocab,
        target_vocab=target_vocab,
        embedding_scale=embedding_scale(fields, width),
        share_embeddings=shared,
        tie_output=fields.flag("tie_word_embeddings"),
    )
    sources = table_sources(config, LINE_TABLES) | layer_sources(config) | output_bias(target_vocab)
    for name, stack in config.stacks():
        table = f"model.{name}.embed_positions.weight"
        sources[f"{name}.positions"] = sinusoidal(stack.max_positions, width, table)
    return Plan(config, sources)


FAMILY = Family(
    architectures=("MarianMTModel",),
    model_type="marian",
    title="Marian (opus-mt and its like)",
    keys={
        **LINE_KEYS, "vocab_size": 58101, "decoder_vocab_size": None, "share_encoder_decoder_embeddings": True,
    },
    plan=_plan,
    own=LINE_OWN,
    aliases=LINE_ALIASES,
    fixed={
        **FIXED,
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
        "static_position_embeddings": True,
        "do_blenderbot_90_layernorm": False,
        "prefix": "",
    },
    ignored=LINE_IGNORED,
    checked="Every activation, all ways to tie and share tables, old exports, a real checkpoint (multi30k-de-en); ids "
    "and scores of whole translations.",
)  # fmt: skip
