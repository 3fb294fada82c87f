"""GPT-2. Reference: transformers 5.24.0, models/gpt2."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pyengine.canonical import AttentionConfig, FeedForwardConfig, LayerConfig, StackConfig
from pyengine.formats.strict_json import Fields
from pyengine.importers.decoder_only import FIXED, decoder_only, module_sources, table_sources
from pyengine.importers.keys import activation_of, head_width_of, layer_count, size, size_or
from pyengine.importers.table import Family, Plan, Source

__all__ = ["FAMILIES"]

_NORMS = {
    "decoder.norm": "transformer.ln_f",
    "decoder.layers.*.self_attention.norm": "transformer.h.*.ln_1",
    "decoder.layers.*.ffn.norm": "transformer.h.*.ln_2",
}


def _plan(fields: Fields) -> Plan:
    width, heads = size(fields, "n_embd"), size(fields, "n_head")
    head_width = head_width_of(width, heads, "n_head")
    scale = head_width**-0.5 if fields.flag("scale_attn_weights") else 1.0
    by_layer, tied = fields.flag("scale_attn_by_inverse_layer_idx"), fields.flag("tie_word_embeddings")
    activation = activation_of(fields, "activation_function")
    feed_forward = FeedForwardConfig(size_or(fields, "n_inner", 4 * width), activation)
    layers = tuple(
        LayerConfig(AttentionConfig(heads, heads, head_width, scale / (i + 1 if by_layer else 1)), feed_forward)
        for i in range(layer_count(fields, "n_layer"))
    )
    positions, epsilon = size(fields, "n_positions"), fields.number("layer_norm_epsilon")
    stack = StackConfig(layers, positions, norm_epsilon=epsilon, placement="pre", final_norm=True)
    config = decoder_only("gpt2", stack, {}, width=width, vocab=size(fields, "vocab_size"), tied=tied)
    sources = module_sources(_NORMS, len(layers)) | {"decoder.positions": Source(("transformer.wpe.weight",))}
    for i in range(len(layers)):
        sources |= _layer(i, width, feed_forward.width)
    return Plan(config, sources | table_sources("transformer.wte.weight", "lm_head.weight", tied))


def _layer(layer: int, width: int, ffn_width: int) -> dict[str, Source]:
    """Products are x W: a matrix is stored [in, out], that of queries, keys and values in one."""
    own, raw = f"decoder.layers.{layer}", f"transformer.h.{layer}"
    sources = _product(f"{own}.self_attention.output", f"{raw}.attn.c_proj", width, width)
    sources |= _product(f"{own}.ffn.up", f"{raw}.mlp.c_fc", width, ffn_width)
    sources |= _product(f"{own}.ffn.down", f"{raw}.mlp.c_proj", ffn_width, width)
    for place, part in enumerate("qkv"):
        sources |= _product(f"{own}.self_attention.{part}", f"{raw}.attn.c_attn", width, 3 * width, place, width)
    return sources


def _product(
    own: str, raw: str, inputs: int, outputs: int, place: int = 0, width: int | None = None
) -> dict[str, Source]:
    """All outputs of a stored product, or those of the ``place``-th part of ``width``."""
    first = place * (width or 0)
    end = outputs if width is None else first + width
    take: Callable[[np.ndarray], np.ndarray] = lambda values: values[..., first:end].T  # noqa: E731
    return {
        f"{own}.weight": Source((f"{raw}.weight",), (inputs, outputs), take),
        f"{own}.bias": Source((f"{raw}.bias",), (outputs,), take),
    }


FAMILIES = (
    Family(
        architectures=("GPT2LMHeadModel",),
        model_type="gpt2",
        title="GPT-2",
        keys={
            "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
            "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
            "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        },
        plan=_plan,
        own=("transformer.", "lm_head."),
        buffers=(".attn.bias", ".attn.masked_bias"),
        renamed={f"{name}.": f"transformer.{name}." for name in ("wte", "wpe", "h", "ln_f")},  # of the bare model
        aliases={
            "hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
        },
        fixed=FIXED,
        ignored=frozenset({
            "attn_pdrop", "embd_pdrop", "resid_pdrop", "initializer_range", "n_ctx", "summary_type",
            "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
            "n_special", "predict_special_tokens",  # of the first classes
            "reorder_and_upcast_attn",  # the order and type of a computation that is in float32 here
        }),
        checked="As transformers writes it, and as it was first published: the bare model's names, masks in the file.",
    ),
)  # fmt: skip
