"""BART and its line: mBART, mBART-50, Pegasus, M2M100 and NLLB. Reference: transformers 5.24.0, models/bart, mbart,
pegasus and m2m_100."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
from pyengine.importers.keys import size
from pyengine.importers.positions import sinusoidal, sinusoidal_from
from pyengine.importers.table import Family, Plan, Source

__all__ = ["FAMILIES"]

_OFFSET = 2  # rows of a learned table before the first position
# Of classes whose layers begin with their norms.
_PRE: dict[str, Any] = {"placement": "pre", "final_norm": True}
# What the first class for all of these had keys for, and now each has its own value of.
_NORMS = ("normalize_before", "normalize_embedding", "add_final_layer_norm", "static_position_embeddings")


def _model(
    name: str, fields: Fields, positions: Callable[[int, int, str], Source], *, bias: bool = True, **changes: Any
) -> Plan:
    """``positions``: the source of a table for so many, of that width, below the raw name of a stack."""
    width, count, vocab = size(fields, "d_model"), size(fields, "max_position_embeddings"), size(fields, "vocab_size")
    encoder, decoder = line_stacks(fields, width, count, **changes)
    config = ModelConfig(
        name,
        width,
        encoder,
        decoder,
        vocab,
        vocab,
        embedding_scale=embedding_scale(fields, width),
        share_embeddings=True,
        tie_output=fields.flag("tie_word_embeddings"),
        output_bias=bias,
    )
    sources = table_sources(config, LINE_TABLES) | layer_sources(config)
    for stack, _ in config.stacks():
        sources[f"{stack}.positions"] = positions(count, width, f"model.{stack}.embed_positions")
    return Plan(config, sources | (output_bias(vocab) if bias else {}))


def _learned(count: int, width: int, name: str) -> Source:
    return Source((f"{name}.weight",), (count + _OFFSET, width), lambda values: values[_OFFSET:])


def _computed(count: int, width: int, name: str) -> Source:
    return sinusoidal(count, width, f"{name}.weight")


def _m2m(fields: Fields) -> Plan:
    first = fields.integer("pad_token_id", 0, 1 << 20) + 1
    return _model("m2m_100", fields, lambda count, width, _: sinusoidal_from(first, count, width), bias=False, **_PRE)


def _fixed(*norms: bool) -> dict[str, Any]:
    """``norms``: whether the class has what the keys of _NORMS name."""
    others = {"do_blenderbot_90_layernorm": False}
    return {**FIXED, **dict(zip(_NORMS, norms, strict=True)), **others}


def _family(kind: str, title: str, plan: Callable[[Fields], Plan], fixed: dict[str, Any], **changes: Any) -> Family:
    values: dict[str, Any] = {"keys": LINE_KEYS, "model_type": kind.lower(), **changes}
    return Family(
        architectures=(f"{kind}ForConditionalGeneration",),
        title=title,
        plan=plan,
        own=LINE_OWN,
        aliases=LINE_ALIASES,
        fixed=fixed,
        ignored=LINE_IGNORED | {"prefix"},  # of pipelines
        **values,
    )


FAMILIES = (
    _family(
        "Bart", "BART", lambda fields: _model("bart", fields, _learned, embed_norm=True),
        _fixed(False, True, False, False), tokens={
            "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
        checked="Norms behind their sublayers, learned positions, an output with a bias.",
    ),
    _family(
        "MBart", "mBART, mBART-50", lambda fields: _model("mbart", fields, _learned, embed_norm=True, **_PRE),
        _fixed(True, True, True, False),
        tokens={"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": 2},
        checked="Norms before their sublayers, behind the tables, and behind the last layer.",
    ),
    _family(
        "Pegasus", "Pegasus", lambda fields: _model("pegasus", fields, _computed, **_PRE),
        _fixed(True, False, True, True),
        tokens={"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1},
        checked="Positions that a formula gives and the file holds; scaled embeddings.",
    ),
    _family(
        "M2M100", "M2M100, NLLB (dense)", _m2m, _fixed(True, False, True, True), model_type="m2m_100",
        keys={
            **LINE_KEYS, "vocab_size": 128112, "activation_function": "relu", "scale_embedding": True,
            "pad_token_id": 1,
        },
        tokens={"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
        checked="Positions that a formula gives and no file holds, from the one behind the padding token's id on; a "
        "padding token inside of a text, which has none of them in transformers, has its own here.",
    ),
)  # fmt: skip
