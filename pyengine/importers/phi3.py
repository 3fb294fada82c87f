"""Phi-3 and Phi-4-mini. Reference: transformers 5.24.0, models/phi3."""

from __future__ import annotations

import numpy as np

from pyengine.formats.strict_json import Fields, shorten
from pyengine.importers.decoder_only import (
    BUFFERS,
    FIXED,
    GATED,
    OWN,
    ROPE_KEYS,
    Sizes,
    module_sources,
    rms_stack,
    rope_sources,
    sizes_of,
    table_sources,
)
from pyengine.importers.keys import activation_of, size_or_none, window_of
from pyengine.importers.llama import KEYS
from pyengine.importers.ropes import rope_of, rope_parameters_of
from pyengine.importers.table import Family, Plan, Source

__all__ = ["FAMILIES"]


def _plan(fields: Fields) -> Plan:
    sizes = sizes_of(fields)
    parameters = rope_parameters_of(fields, ROPE_KEYS["rope_theta"])
    if parameters["rope_type"] == "yarn":  # as some older files call it
        parameters["rope_type"] = "longrope"
    if parameters["rope_type"] not in ("default", "longrope", "su"):
        raise ValueError(f"rope_type = {shorten(parameters['rope_type'])}; supported: default, longrope")
    ropes = {"main": rope_of(parameters, head_width=sizes.head_width, max_positions=sizes.positions)}
    sizes = sizes.turning(ropes)
    window = window_of(size_or_none(fields, "sliding_window"), sizes.positions)
    attentions = [sizes.attention(rope="main", window=window)] * sizes.layers
    stack = rms_stack(sizes, attentions, activation_of(fields, "hidden_act"))
    sources = module_sources(GATED, sizes.layers) | rope_sources(ropes)
    for i in range(sizes.layers):
        sources |= _parts(sizes, i)
    sources |= table_sources("model.embed_tokens.weight", "lm_head.weight", sizes.tied)
    return Plan(sizes.model("phi3", stack, ropes), sources)


def _parts(sizes: Sizes, layer: int) -> dict[str, Source]:
    """Queries, keys and values are rows of one matrix; gate and up of another, the gate first."""
    queries, keys = sizes.heads * sizes.head_width, sizes.kv_heads * sizes.head_width
    wholes = {
        "self_attn.qkv_proj": {"self_attention.q": queries, "self_attention.k": keys, "self_attention.v": keys},
        "mlp.gate_up_proj": {"ffn.gate": sizes.ffn_width, "ffn.up": sizes.ffn_width},
    }
    sources = {}
    for raw, parts in wholes.items():
        shape, first = (sum(parts.values()), sizes.width), 0
        for own, rows in parts.items():

            def take(whole: np.ndarray, first: int = first, end: int = first + rows) -> np.ndarray:
                return whole[first:end]

            sources[f"decoder.layers.{layer}.{own}.weight"] = Source(
                (f"model.layers.{layer}.{raw}.weight",), shape, take
            )
            first += rows
    return sources


FAMILIES = (
    Family(
        architectures=("Phi3ForCausalLM",),
        model_type="phi3",
        title="Phi-3, Phi-4-mini",
        keys={
            **KEYS, "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "sliding_window": None,
            "partial_rotary_factor": None, "original_max_position_embeddings": 4096,
        },
        plan=_plan,
        own=OWN,
        buffers=BUFFERS,
        fixed={
            **FIXED, "attention_bias": False, "mlp_bias": False, "lm_head_bias": False, "full_attn_mod": 1,
            "interpolate_factor": 1,
        },
        ignored=frozenset({
            "attention_dropout", "initializer_range", "embd_pdrop", "resid_pdrop",
            "auto_map",  # code beside the first exports, of the class that transformers has now
        }),
        checked="With a rope of 12 of 20 dimensions and a window of 5; with LongRoPE, on both sides of the "
        "original context.",
    ),
)  # fmt: skip
