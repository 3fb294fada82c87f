"""GPT-NeoX (Pythia and its like). Reference: transformers 5.24.0, models/gpt_neox."""

from __future__ import annotations

import numpy as np

from pyengine.canonical import AttentionConfig, FeedForwardConfig, LayerConfig, StackConfig
from pyengine.formats.strict_json import Fields
from pyengine.importers.decoder_only import FIXED, decoder_only, module_sources, rope_sources, table_sources
from pyengine.importers.keys import activation_of, equal_layers, head_width_of, number_or_none, size
from pyengine.importers.ropes import Rope, rope_of, rope_parameters_of
from pyengine.importers.table import Family, Plan, Source

__all__ = ["FAMILIES"]

_NAMES = {
    "decoder.norm": "gpt_neox.final_layer_norm",
    "decoder.layers.*.self_attention.output": "gpt_neox.layers.*.attention.dense",
    "decoder.layers.*.self_attention.norm": "gpt_neox.layers.*.input_layernorm",
    "decoder.layers.*.ffn.up": "gpt_neox.layers.*.mlp.dense_h_to_4h",
    "decoder.layers.*.ffn.down": "gpt_neox.layers.*.mlp.dense_4h_to_h",
    "decoder.layers.*.ffn.norm": "gpt_neox.layers.*.post_attention_layernorm",
}


def _plan(fields: Fields) -> Plan:
    width, heads = size(fields, "hidden_size"), size(fields, "num_attention_heads")
    head_width = head_width_of(width, heads, "num_attention_heads")
    biased, tied = fields.flag("attention_bias"), fields.flag("tie_word_embeddings")
    attention = AttentionConfig(heads, heads, head_width, head_width**-0.5, biased, biased, rope="main")
    activation = activation_of(fields, "hidden_act")
    layer = LayerConfig(attention, FeedForwardConfig(size(fields, "intermediate_size"), activation))
    rope = _rope(fields, head_width, size(fields, "max_position_embeddings"))
    stack = StackConfig(
        equal_layers(layer, size(fields, "num_hidden_layers"), "num_hidden_layers"),
        rope.max_positions,
        norm_epsilon=fields.number("layer_norm_eps"),
        placement="parallel" if fields.flag("use_parallel_residual") else "pre",
        final_norm=True,
        positions="none",
    )
    vocab = size(fields, "vocab_size")
    config = decoder_only("gpt_neox", stack, {"main": rope}, width=width, vocab=vocab, tied=tied)
    sources = module_sources(_NAMES, len(stack.layers)) | rope_sources({"main": rope})
    for i in range(len(stack.layers)):
        sources |= _parts(i, width, heads)
    return Plan(config, sources | table_sources("gpt_neox.embed_in.weight", "lm_head.weight", tied))


def _rope(fields: Fields, head_width: int, positions: int) -> Rope:
    """The class has names of its own; exports of some versions repeat them under those of others, which it ignores."""
    share, theta = fields.number("rotary_pct"), fields.number("rotary_emb_base")
    for name, own, value in (("partial_rotary_factor", "rotary_pct", share), ("rope_theta", "rotary_emb_base", theta)):
        other = number_or_none(fields, name)
        if other not in (None, value):
            raise ValueError(f"{name} = {other:g}: the class reads {own}, which is {value:g}")
    parameters = rope_parameters_of(fields, theta, partial=share)
    return rope_of(parameters, head_width=head_width, max_positions=positions)


def _parts(layer: int, width: int, heads: int) -> dict[str, Source]:
    """Queries, keys and values: rows of one matrix, by heads and in each head by kind."""
    sources = {}
    for place, own in enumerate("qkv"):

        def take(whole: np.ndarray, place: int = place) -> np.ndarray:
            rest = whole.shape[1:]
            return whole.reshape(heads, 3, width // heads, *rest)[:, place].reshape(width, *rest)

        for part, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
            raw = f"gpt_neox.layers.{layer}.attention.query_key_value.{part}"
            sources[f"decoder.layers.{layer}.self_attention.{own}.{part}"] = Source((raw,), shape, take)
    return sources


FAMILIES = (
    Family(
        architectures=("GPTNeoXForCausalLM",),
        model_type="gpt_neox",
        title="GPT-NeoX, Pythia",
        keys={
            "vocab_size": 50432, "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
            "intermediate_size": 24576, "hidden_act": "gelu", "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5, "tie_word_embeddings": False, "use_parallel_residual": True,
            "attention_bias": True, "rotary_pct": 0.25, "rotary_emb_base": 10000.0, "rope_parameters": None,
            "rope_scaling": None, "rope_theta": None, "partial_rotary_factor": None,
            "original_max_position_embeddings": None,
        },
        plan=_plan,
        own=("gpt_neox.", "lm_head."),
        buffers=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
        renamed={"embed_out.": "lm_head."},
        fixed=FIXED,
        ignored=frozenset({
            "attention_dropout", "hidden_dropout", "classifier_dropout", "initializer_range",
            "attention_probs_dropout_prob", "hidden_dropout_prob",  # of the first class
            "is_decoder",  # which way it looks is up to the class
        }),
        checked="Parallel and sequential, with a rope of 6 of 20 dimensions.",
    ),
)  # fmt: skip
