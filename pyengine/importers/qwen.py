"""Qwen 2 (and 2.5) and Qwen 3. Reference: transformers 5.24.0, models/qwen2 and models/qwen3."""

from __future__ import annotations

from pyengine.canonical import AttentionConfig
from pyengine.formats.strict_json import Fields
from pyengine.importers.decoder_only import BUFFERS, OWN, WHOLE_HEADS, Sizes, sizes_of
from pyengine.importers.keys import layer_windows
from pyengine.importers.llama import IGNORED, KEYS, line_plan, sliding_window
from pyengine.importers.table import Family, Plan

__all__ = ["FAMILIES"]

_KEYS = {
    **KEYS, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
    "max_position_embeddings": 32768, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
    "layer_types": None,
}  # fmt: skip
_NULLABLE = frozenset({"num_key_value_heads", "sliding_window"})


def _qwen2(fields: Fields) -> Plan:
    sizes = sizes_of(fields)
    return _plan("qwen2", fields, sizes, sizes.attention(qkv_bias=True))


def _qwen3(fields: Fields) -> Plan:
    sizes, biased = sizes_of(fields), fields.flag("attention_bias")
    return _plan("qwen3", fields, sizes, sizes.attention(qkv_bias=biased, output_bias=biased, qk_norm=True))


def _plan(name: str, fields: Fields, sizes: Sizes, attention: AttentionConfig) -> Plan:
    window = sliding_window(fields)
    first = fields.integer("max_window_layers", 0, 1 << 31)  # the first layer with a window
    windows = layer_windows(fields, sizes.layers, window, lambda i: window is not None and i >= first)
    return line_plan(name, fields, sizes, attention, windows)


FAMILIES = (
    Family(
        architectures=("Qwen2ForCausalLM",),
        model_type="qwen2",
        title="Qwen 2 and 2.5",
        keys=_KEYS,
        nullable=_NULLABLE,
        plan=_qwen2,
        own=OWN,
        buffers=BUFFERS,
        fixed={**WHOLE_HEADS, "use_mrope": False},
        ignored=IGNORED,
        checked="With a window in the second of two layers, and a width of heads that the class has no key for.",
    ),
    Family(
        architectures=("Qwen3ForCausalLM",),
        model_type="qwen3",
        title="Qwen 3",
        keys={**_KEYS, "head_dim": 128, "attention_bias": False},
        nullable=_NULLABLE,
        plan=_qwen3,
        own=OWN,
        buffers=BUFFERS,
        fixed=WHOLE_HEADS,
        ignored=IGNORED,
        checked="With a window in the second of two layers.",
    ),
)
