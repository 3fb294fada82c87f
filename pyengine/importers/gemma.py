"""Gemma 2, and Gemma 3 for text. Reference: transformers 5.24.0, models/gemma2 and models/gemma3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pyengine.canonical import AttentionConfig
from pyengine.formats.strict_json import Fields, shorten
from pyengine.importers.decoder_only import (
    OWN,
    ROPE_KEYS,
    WHOLE_HEADS,
    Sizes,
    module_sources,
    rms_stack,
    rope_of_whole_heads,
    rope_sources,
    sizes_of,
    table_sources,
    whole_rope,
)
from pyengine.importers.keys import activation_of, layer_windows, number_or_none, size, size_or_none, window_of
from pyengine.importers.ropes import Rope
from pyengine.importers.table import Family, Plan, Source

__all__ = ["FAMILIES"]

_MATRICES = {
    **{f"decoder.layers.*.self_attention.{part}": f"model.layers.*.self_attn.{part}_proj" for part in "qkv"},
    "decoder.layers.*.self_attention.output": "model.layers.*.self_attn.o_proj",
    **{f"decoder.layers.*.ffn.{part}": f"model.layers.*.mlp.{part}_proj" for part in ("gate", "up", "down")},
}
_NORMS = {
    "decoder.norm": "model.norm",
    "decoder.layers.*.self_attention.norm": "model.layers.*.input_layernorm",
    **{f"decoder.layers.*.self_attention.{part}_norm": f"model.layers.*.self_attn.{part}_norm" for part in "qk"},
    "decoder.layers.*.self_attention.after": "model.layers.*.post_attention_layernorm",
    "decoder.layers.*.ffn.norm": "model.layers.*.pre_feedforward_layernorm",
    "decoder.layers.*.ffn.after": "model.layers.*.post_feedforward_layernorm",
}


def _plus_one(values: np.ndarray) -> np.ndarray:
    """Norms of Gemma multiply by 1 + w."""
    return values + np.float32(1)


def _sources(sizes: Sizes, ropes: Mapping[str, Rope]) -> dict[str, Source]:
    return (
        module_sources(_MATRICES, sizes.layers)
        | module_sources(_NORMS, sizes.layers, _plus_one)
        | rope_sources(ropes)
        | table_sources("model.embed_tokens.weight", "lm_head.weight", sizes.tied)
    )


def _attention(fields: Fields, sizes: Sizes) -> AttentionConfig:
    biased, scalar = fields.flag("attention_bias"), fields.number("query_pre_attn_scalar", 1e-9, 1e9)
    return sizes.attention(qkv_bias=biased, output_bias=biased, scale=scalar**-0.5)


def _plan(
    name: str,
    fields: Fields,
    sizes: Sizes,
    attentions: Sequence[AttentionConfig],
    windows: Sequence[int | None],
    ropes: Mapping[str, Rope],
) -> Plan:
    """``attentions`` and their ``windows``, one a layer."""
    sizes = sizes.turning(ropes)
    attentions = [
        replace(each, window=window_of(window, sizes.positions))
        for each, window in zip(attentions, windows, strict=True)
    ]
    stack = rms_stack(sizes, attentions, activation_of(fields, "hidden_activation"), after_norms=True)
    cap = number_or_none(fields, "final_logit_softcapping")
    scale = math.sqrt(sizes.width)
    config = sizes.model(name, stack, ropes, embedding_scale=scale, logit_soft_cap=cap)
    return Plan(config, _sources(sizes, ropes))


def _gemma2(fields: Fields) -> Plan:
    sizes = sizes_of(fields)
    window = size_or_none(fields, "sliding_window")
    cap = number_or_none(fields, "attn_logit_softcapping")
    plain = replace(_attention(fields, sizes), rope="main", soft_cap=cap)
    windows = layer_windows(fields, sizes.layers, window, lambda i: i % 2 == 0)
    ropes = {"main": whole_rope(fields, sizes)}
    return _plan("gemma2", fields, sizes, [plain] * sizes.layers, windows, ropes)


def _gemma3(fields: Fields) -> Plan:
    sizes = sizes_of(fields)
    window, pattern = size_or_none(fields, "sliding_window"), size(fields, "sliding_window_pattern")
    plain = replace(_attention(fields, sizes), qk_norm=True)
    windows = layer_windows(fields, sizes.layers, window, lambda i: (i + 1) % pattern != 0)
    attentions = [replace(plain, rope="full" if each is None else "local") for each in windows]
    ropes = _ropes(fields, sizes)
    used = {name: ropes[name] for name in ropes if any(each.rope == name for each in attentions)}
    return _plan("gemma3", fields, sizes, attentions, windows, used)


def _ropes(fields: Fields, sizes: Sizes) -> dict[str, Rope]:
    """Of layers with a window and of the others: "rope_parameters" by kind of layer, or the older keys."""
    parameters, scaling = fields.take("rope_parameters") or {}, fields.take("rope_scaling") or {}
    kinds = {"sliding_attention": ("local", "rope_local_base_freq"), "full_attention": ("full", "rope_theta")}
    thetas = {kind: fields.number(key) for kind, (_, key) in kinds.items()}
    for key, value in (("rope_parameters", parameters), ("rope_scaling", scaling)):
        if not isinstance(value, dict):
            fields.fail(key, "an object", value)
    for kind in parameters:
        if kind not in kinds:
            raise ValueError(f"rope_parameters: {shorten(kind)}; supported: {', '.join(kinds)}")
    ropes = {}
    for kind, (name, _) in kinds.items():
        own = parameters.get(kind) or {}
        if not isinstance(own, dict):
            fields.fail(f"rope_parameters: {kind}", "an object", own)
        own = {"rope_theta": thetas[kind], **own, **(scaling if kind == "full_attention" else {})}
        try:
            ropes[name] = rope_of_whole_heads(own, sizes)
        except ValueError as exc:
            raise ValueError(f"rope_parameters and rope_scaling: {kind}: {exc}") from None
    return ropes


_KEYS = {
    "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "attention_bias": False,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "layer_types": None, "final_logit_softcapping": 30.0,
}  # fmt: skip
_FIXED = {**WHOLE_HEADS, "use_bidirectional_attention": False}
_IGNORED = frozenset({
    "attention_dropout", "initializer_range",
    "hidden_act",  # of an older class; hidden_activation counts
})  # fmt: skip

_GEMMA3 = Family(
    architectures=("Gemma3ForCausalLM",),
    model_type="gemma3_text",
    title="Gemma 3 (text)",
    keys={
        **_KEYS, "vocab_size": 262208, "max_position_embeddings": 131072, "final_logit_softcapping": None,
        "sliding_window_pattern": 6, "rope_parameters": None, "rope_scaling": None, "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
    },
    nullable=frozenset({"sliding_window"}),
    plan=_gemma3,
    own=OWN,
    fixed=_FIXED,
    ignored=_IGNORED | {"attn_logit_softcapping"},  # stored by the class, and read nowhere
    checked="With a rope for the layer with a window and a linear one of another base for the other.",
)  # fmt: skip

FAMILIES = (
    Family(
        architectures=("Gemma2ForCausalLM",),
        model_type="gemma2",
        title="Gemma 2",
        keys={**_KEYS, **ROPE_KEYS, "attn_logit_softcapping": 50.0},
        nullable=frozenset({"sliding_window", "final_logit_softcapping", "attn_logit_softcapping"}),
        plan=_gemma2,
        own=OWN,
        fixed=_FIXED,
        ignored=_IGNORED,
        checked="With a window in the first of two layers, and caps so low that scores and logits reach them.",
    ),
    _GEMMA3,
    replace(
        _GEMMA3,
        architectures=("Gemma3ForConditionalGeneration",),
        model_type="gemma3",
        title="Gemma 3 (the text model of one that reads images)",
        nested="text_config",
        renamed={
            "model.language_model.": "model.", "language_model.model.": "model.", "language_model.lm_head.": "lm_head.",
        },
        ignored=_GEMMA3.ignored | {
            "vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index",
        },
        checked="Logits of texts, with names of tensors as versions 4 and 5 write them; the model of images is passed "
        "over.",
    ),
)  # fmt: skip
