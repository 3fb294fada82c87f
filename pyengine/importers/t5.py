"""T5, T5 1.1 with flan-T5, mT5 and ByT5. Reference: transformers 5.24.0, models/t5 and models/mt5."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pyengine.canonical import AttentionConfig, FeedForwardConfig, LayerConfig, ModelConfig, StackConfig
from pyengine.formats.strict_json import Fields, shorten
from pyengine.importers.encoder_decoder import FIXED, Tables, table_sources
from pyengine.importers.keys import activation_by_name, equal_layers, size, size_or
from pyengine.importers.table import Family, Plan, Source

__all__ = ["FAMILIES"]

POSITIONS = 4096
"""Of a model that knows tokens by their distance alone: any number would do, and a step has room for a text of them."""

_ATTENTION = {"q": "q", "k": "k", "v": "v", "output": "o"}
_TABLES = Tables("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


def _plan(fields: Fields, scaled: bool) -> Plan:
    """``scaled``: what the decoder gives is multiplied by width^-1/2 before the output layer."""
    width, heads, head_width = size(fields, "d_model"), size(fields, "num_heads"), size(fields, "d_kv")
    buckets, reach = size(fields, "relative_attention_num_buckets"), size(fields, "relative_attention_max_distance")
    if buckets < 4:
        raise ValueError(f"relative_attention_num_buckets: expected at least 4, two for each side, found {buckets}")
    if reach <= buckets // 2:
        expected = f"expected more than {buckets // 2}, half of the buckets"
        raise ValueError(f"relative_attention_max_distance: {expected}, found {reach}")
    attention = AttentionConfig(heads, heads, head_width, 1.0, qkv_bias=False, output_bias=False)
    activation, gated = _activation(fields)
    feed_forward = FeedForwardConfig(size(fields, "d_ff"), activation, gated, bias=False)
    count = size(fields, "num_layers")
    encoder = StackConfig(
        equal_layers(LayerConfig(attention, feed_forward), count, "num_layers"),
        POSITIONS,
        norm="rms",
        norm_epsilon=fields.number("layer_norm_epsilon"),
        placement="pre",
        final_norm=True,
        positions="none",
        relative_reach=reach,
    )
    count = size_or(fields, "num_decoder_layers", count)
    layers = equal_layers(LayerConfig(attention, feed_forward, attention), count, "num_decoder_layers")
    vocab = size(fields, "vocab_size")
    config = ModelConfig(
        "t5", width, encoder, replace(encoder, layers=layers), vocab, vocab, share_embeddings=True, tie_output=True,
        output_bias=False,
    )  # fmt: skip
    sources = table_sources(config, _TABLES)
    for name, stack in config.stacks():
        sources |= _stack(name, stack, buckets)
    if scaled:
        factor = np.float32(width**-0.5)
        norm = sources["decoder.norm.weight"]
        sources["decoder.norm.weight"] = replace(norm, take=lambda values: values * factor)
    return Plan(config, sources)


def _activation(fields: Fields) -> tuple[str, bool]:
    """What "feed_forward_proj" says, unless the config says more of it: the activation, and whether it gates."""
    kind, _, rest = (word := fields.text("feed_forward_proj")).partition("-")
    if rest and kind != "gated":
        raise ValueError(f'feed_forward_proj = {shorten(word)}: expected an activation, or "gated-" and an activation')
    plain = "gelu_new" if word == "gated-gelu" else rest or kind
    gated, name = fields.take("is_gated_act"), fields.take("dense_act_fn")
    if gated not in (None, True, False):
        fields.fail("is_gated_act", "true or false", gated)
    if not (name is None or isinstance(name, str)):
        fields.fail("dense_act_fn", "a string", name)
    key = "feed_forward_proj" if name is None else "dense_act_fn"
    return activation_by_name(plain if name is None else name, key), bool(rest) if gated is None else gated


def _stack(name: str, stack: StackConfig, buckets: int) -> dict[str, Source]:
    layer = stack.layers[0]
    attentions = {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention"}
    modules = {"norm": "final_layer_norm"}
    for i in range(len(stack.layers)):
        for place, (part, _) in enumerate(layer.sublayers()):
            own, raw = f"layers.{i}.{part}", f"block.{i}.layer.{place}"
            modules[f"{own}.norm"] = f"{raw}.layer_norm"
            if part == "ffn":
                products = {"gate": "wi_0", "up": "wi_1"} if layer.feed_forward.gated else {"up": "wi"}
                each = {**products, "down": "wo"}
                modules |= {f"{own}.{product}": f"{raw}.DenseReluDense.{each[product]}" for product in each}
            else:
                modules |= {f"{own}.{key}": f"{raw}.{attentions[part]}.{_ATTENTION[key]}" for key in _ATTENTION}
    sources = {f"{name}.{own}.weight": Source((f"{name}.{raw}.weight",)) for own, raw in modules.items()}
    reach = stack.relative_reach
    both = name == "encoder"
    sources[f"{name}.relative"] = Source(
        (f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
        (buckets, layer.self_attention.heads),
        lambda values: values[[_bucket(distance, buckets, reach, both) for distance in range(-reach, reach + 1)]].T,
    )
    return sources


def _bucket(distance: int, buckets: int, most: int, both: bool) -> int:
    """The bucket of a key so many places behind the query's, as in Raffel et al. (2020), section 2.1.

    Half of the buckets are for a distance each, the other half for ranges that grow, up to ``most``. ``both``: keys
    behind the query have as many of their own; else they count as the query's own place. In float32 as torch computes
    it, whose logarithms are cut to integers.
    """
    first = 0
    if both:
        buckets //= 2
        first = buckets if distance > 0 else 0
    size = abs(distance) if both else max(-distance, 0)
    exact = buckets // 2
    if size < exact:
        return first + size
    share = np.float32(math.log(np.float32(size) / np.float32(exact))) / np.float32(math.log(most / exact))
    return first + min(exact + int(share * np.float32(buckets - exact)), buckets - 1)


def _t5(fields: Fields) -> Plan:
    scaled, said = fields.flag("tie_word_embeddings"), fields.take("scale_decoder_outputs")
    if said not in (None, True, False):
        fields.fail("scale_decoder_outputs", "true or false", said)
    return _plan(fields, scaled if said is None else said)


_KEYS = {
    "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_decoder_layers": None,
    "num_heads": 8, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6, "feed_forward_proj": "relu", "is_gated_act": None, "dense_act_fn": None,
}  # fmt: skip
_OWN = ("encoder.", "decoder.", "shared.", "lm_head.")
# A table of the cross-attention that old files hold and nothing reads.
_BUFFERS = (".EncDecAttention.relative_attention_bias.weight",)
_ALIASES = {
    "hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers", "head_dim": "d_kv",
}  # fmt: skip
_IGNORED = frozenset({
    "dropout_rate", "classifier_dropout", "initializer_factor", "output_past", "prefix", "n_positions",
})  # fmt: skip

FAMILIES = (
    Family(
        architectures=("T5ForConditionalGeneration", "T5WithLMHeadModel"),
        model_type="t5",
        title="T5, T5 1.1, flan-T5, ByT5",
        keys={**_KEYS, "tie_word_embeddings": True, "scale_decoder_outputs": None},
        plan=_t5,
        own=_OWN,
        buffers=_BUFFERS,
        aliases=_ALIASES,
        fixed=FIXED,
        ignored=_IGNORED,
        tokens={"pad_token_id": 0, "eos_token_id": 1},
        checked="Scaled and not, tied and not, gated and not, with stacks of other depths; every bucket of a distance. "
        "A real checkpoint (flan-T5-small): ids of 60 inputs of five tasks.",
    ),
    Family(
        architectures=("MT5ForConditionalGeneration",),
        model_type="mt5",
        title="mT5",
        keys={**_KEYS, "vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6,
              "feed_forward_proj": "gated-gelu"},
        plan=lambda fields: _plan(fields, False),
        own=_OWN,
        buffers=_BUFFERS,
        aliases=_ALIASES,
        fixed=FIXED,
        ignored=_IGNORED | {"tie_word_embeddings", "scale_decoder_outputs"},  # the class overrules both
        tokens={"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
        checked="With an output layer of its own.",
    ),
)  # fmt: skip
