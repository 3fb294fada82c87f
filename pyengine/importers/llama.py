"""Llama 2 and 3 (and SmolLM 2), SmolLM 3, Mistral. Reference: transformers 5.24.0, models/llama, smollm3, mistral."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pyengine.canonical import AttentionConfig
from pyengine.formats.strict_json import Fields
from pyengine.importers.decoder_only import (
    BUFFERS,
    GATED,
    OWN,
    ROPE_KEYS,
    WHOLE_HEADS,
    Sizes,
    module_sources,
    rms_stack,
    rope_sources,
    sizes_of,
    table_sources,
    whole_rope,
)
from pyengine.importers.keys import activation_of, layer_windows, size, size_or_none, window_of
from pyengine.importers.table import Family, Plan

__all__ = ["FAMILIES", "IGNORED", "KEYS", "line_plan", "sliding_window"]

_NAMES = {
    **GATED,
    **{f"decoder.layers.*.self_attention.{part}": f"model.layers.*.self_attn.{part}_proj" for part in "qkv"},
    **{f"decoder.layers.*.self_attention.{part}_norm": f"model.layers.*.self_attn.{part}_norm" for part in "qk"},
    **{f"decoder.layers.*.ffn.{part}": f"model.layers.*.mlp.{part}_proj" for part in ("gate", "up")},
}
KEYS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, **ROPE_KEYS,
}  # fmt: skip
IGNORED = frozenset({
    "attention_dropout", "initializer_range",
    "pretraining_tp",  # how products were shared out in training
})  # fmt: skip


def line_plan(
    name: str,
    fields: Fields,
    sizes: Sizes,
    attention: AttentionConfig,
    windows: Sequence[int | None],
    *,
    roped: Sequence[bool] | None = None,
    bias: bool = False,
) -> Plan:
    """Layers of the line of Llama with ``attention``, each with its window, and turned if it is ``roped`` (None: all).

    ``bias``: of the feed-forwards.
    """
    turned = [True] * sizes.layers if roped is None else roped
    rope = whole_rope(fields, sizes)
    ropes = {"main": rope} if any(turned) else {}
    sizes = sizes.turning(ropes)
    attentions = [
        replace(attention, rope="main" if turned[i] else None, window=window_of(windows[i], sizes.positions))
        for i in range(sizes.layers)
    ]
    stack = rms_stack(sizes, attentions, activation_of(fields, "hidden_act"), bias=bias)
    config = sizes.model(name, stack, ropes)
    sources = module_sources(_NAMES, sizes.layers) | rope_sources(ropes)
    return Plan(config, sources | table_sources("model.embed_tokens.weight", "lm_head.weight", sizes.tied))


def _llama(fields: Fields) -> Plan:
    sizes, biased = sizes_of(fields), fields.flag("attention_bias")
    attention = sizes.attention(qkv_bias=biased, output_bias=biased)
    return line_plan("llama", fields, sizes, attention, [None] * sizes.layers, bias=fields.flag("mlp_bias"))


def _mistral(fields: Fields) -> Plan:
    sizes = sizes_of(fields)
    window = size_or_none(fields, "sliding_window")
    return line_plan("mistral", fields, sizes, sizes.attention(), [window] * sizes.layers)


def _smollm3(fields: Fields) -> Plan:
    sizes, biased = sizes_of(fields), fields.flag("attention_bias")
    interval, roped = size(fields, "no_rope_layer_interval"), fields.take("no_rope_layers")
    if roped is None:
        roped = [int((i + 1) % interval != 0) for i in range(sizes.layers)]
    if not isinstance(roped, list) or len(roped) < sizes.layers or any(each not in (0, 1) for each in roped):
        fields.fail("no_rope_layers", f"a list of at least {sizes.layers} numbers, 0 or 1, one a layer", roped)
    window = sliding_window(fields)
    return line_plan(
        "smollm3",
        fields,
        sizes,
        sizes.attention(qkv_bias=biased, output_bias=biased),
        layer_windows(fields, sizes.layers, window, lambda i: window is not None and not roped[i]),
        roped=[bool(each) for each in roped],
        bias=fields.flag("mlp_bias"),
    )


def sliding_window(fields: Fields) -> int | None:
    """The window that "use_sliding_window" switches on."""
    window = size_or_none(fields, "sliding_window")
    return window if fields.flag("use_sliding_window") else None


_REST: dict[str, Any] = dict(fixed=WHOLE_HEADS, own=OWN, buffers=BUFFERS)

FAMILIES = (
    Family(
        architectures=("LlamaForCausalLM",),
        model_type="llama",
        title="Llama 2 and 3, SmolLM 2",
        keys={**KEYS, "attention_bias": False, "mlp_bias": False},
        plan=_llama,
        ignored=IGNORED | {"is_llama_config", "transformers.js_config", "max_sequence_length"},  # no class reads them
        checked="With all biases, six heads on two of keys and values, a width of heads of its own; and with the "
        "rope of Llama 3.1.",
        **{**_REST, "fixed": {**WHOLE_HEADS, "rope_interleaved": False}},
    ),
    Family(
        architectures=("MistralForCausalLM",),
        model_type="mistral",
        title="Mistral",
        keys={
            **KEYS, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072,
            "sliding_window": 4096,
        },
        nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        plan=_mistral,
        ignored=IGNORED,
        checked="With a window of 5, and without one.",
        **_REST,
    ),
    Family(
        architectures=("SmolLM3ForCausalLM",),
        model_type="smollm3",
        title="SmolLM 3",
        keys={
            **KEYS, "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
            "num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2000000.0,
            "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "use_sliding_window": False,
            "sliding_window": None, "no_rope_layers": None, "no_rope_layer_interval": 4, "layer_types": None,
        },
        nullable=frozenset({"num_key_value_heads"}),
        plan=_smollm3,
        ignored=IGNORED | {"max_window_layers"},  # which only Qwen reads
        checked="With a layer that does not turn and has a window, and a tied table.",
        **_REST,
    ),
)  # fmt: skip
