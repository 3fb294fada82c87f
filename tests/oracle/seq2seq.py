"""Families of an encoder and a decoder."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers

from pyengine.canonical.config import FeedForwardConfig, LayerConfig, ModelConfig, StackConfig, default_scale
from pyengine.importers.t5 import POSITIONS

from .family import VOCABULARY, Family, Tensors, attention, randomized, renamed, state_of

__all__ = ["bart", "byt5", "flan_t5", "m2m_100", "mbart", "mt5", "pegasus", "t5"]

# T5: cross-attention before norms, a bias by distance, no scale of scores.

REACH = 20  # beyond it all distances share a bucket
T5_SIZES: dict[str, Any] = dict(
    vocab_size=VOCABULARY, d_model=80, d_kv=12, d_ff=100, num_layers=3, num_decoder_layers=2, num_heads=5,
    relative_attention_num_buckets=12, relative_attention_max_distance=REACH, layer_norm_epsilon=1e-3,
    decoder_start_token_id=0, attn_implementation="eager",
)  # fmt: skip
T5_STACK = StackConfig(
    layers=(), max_positions=POSITIONS, norm="rms", norm_epsilon=1e-3, placement="pre", final_norm=True,
    positions="none", relative_reach=REACH,
)  # fmt: skip


def folded_bias(block: Any, bidirectional: bool) -> np.ndarray:
    """[heads, 2 reach + 1]: what the bucket of each distance adds."""
    layer = block.layer[0].SelfAttention
    buckets = layer._relative_position_bucket(
        torch.arange(-REACH, REACH + 1), bidirectional=bidirectional, num_buckets=layer.relative_attention_num_buckets,
        max_distance=layer.relative_attention_max_distance,
    )  # fmt: skip
    found: np.ndarray = layer.relative_attention_bias.weight.detach().numpy()[buckets.numpy()].T
    return found


def t5_like(model: Any, feed_forward: FeedForwardConfig, *, scaled: bool = False, tied: bool = True) -> Family:
    with torch.no_grad():
        model.shared.weight.mul_(5)
    names = {"decoder.embed": "shared"} if tied else {"decoder.embed": "shared", "output": "lm_head"}
    products = {"gate": "wi_0", "up": "wi_1"} if feed_forward.gated else {"up": "wi"}
    for side in ("encoder", "decoder"):
        names[f"{side}.norm"] = f"{side}.final_layer_norm"
        attentions = {"self_attention": "layer.0.SelfAttention", "cross_attention": "layer.1.EncDecAttention"}
        for own, theirs in list(attentions.items())[: 1 + (side == "decoder")]:
            for part, letter in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o")):
                names[f"{side}.layers.*.{own}.{part}"] = f"{side}.block.*.{theirs}.{letter}"
            names[f"{side}.layers.*.{own}.norm"] = f"{side}.block.*.{theirs.rpartition('.')[0]}.layer_norm"
        last = f"{side}.block.*.layer.{1 + (side == 'decoder')}"
        for own, theirs in (*products.items(), ("down", "wo")):
            names[f"{side}.layers.*.ffn.{own}"] = f"{last}.DenseReluDense.{theirs}"
        names[f"{side}.layers.*.ffn.norm"] = f"{last}.layer_norm"
    tensors = renamed(state_of(model), names, layers=3)
    tensors["encoder.relative"] = folded_bias(model.encoder.block[0], True)
    tensors["decoder.relative"] = folded_bias(model.decoder.block[0], False)
    if scaled:
        tensors["decoder.norm.weight"] = tensors["decoder.norm.weight"] / math.sqrt(80)
    plain = attention(5, 5, 12, scale=1.0, qkv_bias=False, output_bias=False)
    encoder = replace(T5_STACK, layers=(LayerConfig(plain, feed_forward),) * 3)
    decoder = replace(T5_STACK, layers=(LayerConfig(plain, feed_forward, plain),) * 2)
    config = ModelConfig(
        "test", 80, encoder, decoder, VOCABULARY, VOCABULARY, share_embeddings=True, tie_output=tied, output_bias=False
    )
    return Family(model, config, tensors, single=True, last=80**-0.5 if scaled else 1.0)


def t5() -> Family:
    """The first: no gates, and an output that is scaled."""
    sizes = transformers.T5Config(**T5_SIZES, feed_forward_proj="relu")
    model = randomized(transformers.T5ForConditionalGeneration(sizes))
    return t5_like(model, FeedForwardConfig(100, "relu", bias=False), scaled=True)


GATED = FeedForwardConfig(100, "gelu_tanh", gated=True, bias=False)


def flan_t5() -> Family:
    """Version 1.1 as well: gates, and an output layer of its own, as the checkpoints have it."""
    sizes = transformers.T5Config(**T5_SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    return t5_like(randomized(untied(transformers.T5ForConditionalGeneration(sizes))), GATED, tied=False)


def byt5() -> Family:
    """Three times as many layers that read as layers that write; and tied, whatever its config says."""
    sizes = transformers.T5Config(
        **{**T5_SIZES, "num_decoder_layers": 1}, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    )
    family = t5_like(randomized(transformers.T5ForConditionalGeneration(sizes)), GATED)
    decoder = family.config.decoder
    assert decoder is not None
    return replace(family, config=replace(family.config, decoder=replace(decoder, layers=decoder.layers[:1])))


def mt5() -> Family:
    """Never scaled."""
    sizes = transformers.MT5Config(**T5_SIZES, tie_word_embeddings=False)
    return t5_like(randomized(untied(transformers.MT5ForConditionalGeneration(sizes))), GATED, tied=False)


def untied(model: Any) -> Any:
    """transformers ties the output layer of such a model, whatever its config says, until it reads one that differs."""
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) / 9)
    model.all_tied_weights_keys.pop("lm_head.weight")
    return model


# The line of BART: tables of positions, biases and layer norms everywhere.

LINE_SIZES: dict[str, Any] = dict(
    vocab_size=VOCABULARY, d_model=80, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
    decoder_attention_heads=5, encoder_ffn_dim=100, decoder_ffn_dim=52, max_position_embeddings=40,
    attn_implementation="eager",
)  # fmt: skip


def line_like(model: Any, activation: str, positions: Tensors, **changes: Any) -> Family:
    """``positions``: of each stack; ``changes``: of the stacks."""
    names = {"decoder.embed": "model.shared"}
    for side in ("encoder", "decoder"):
        attentions = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}
        for own, theirs in list(attentions.items())[: 1 + (side == "decoder")]:
            for part, letter in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("output", "out_proj")):
                names[f"{side}.layers.*.{own}.{part}"] = f"model.{side}.layers.*.{theirs}.{letter}"
            names[f"{side}.layers.*.{own}.norm"] = f"model.{side}.layers.*.{theirs}_layer_norm"
        for own, theirs in (("up", "fc1"), ("down", "fc2"), ("norm", "final_layer_norm")):
            names[f"{side}.layers.*.ffn.{own}"] = f"model.{side}.layers.*.{theirs}"
        if changes.get("embed_norm"):
            names[f"{side}.embed.norm"] = f"model.{side}.layernorm_embedding"
        if changes.get("final_norm"):
            names[f"{side}.norm"] = f"model.{side}.layer_norm"
    tensors = renamed(state_of(model), names, layers=3)
    tensors |= {f"{side}.positions": values for side, values in positions.items()}
    biased = hasattr(model, "final_logits_bias")
    if biased:
        tensors["output.bias"] = model.final_logits_bias[0].numpy()
    one, other = attention(4, 4, 20), attention(5, 5, 16)
    one, other = (replace(each, scale=default_scale(each.head_width)) for each in (one, other))
    encoder = StackConfig((LayerConfig(one, FeedForwardConfig(100, activation)),) * 2, 40, **changes)
    decoder = StackConfig((LayerConfig(other, FeedForwardConfig(52, activation), other),) * 3, 40, **changes)
    scale = math.sqrt(80) if model.config.scale_embedding else 1.0
    config = ModelConfig(
        "test", 80, encoder, decoder, VOCABULARY, VOCABULARY, embedding_scale=scale, share_embeddings=True,
        tie_output=True, output_bias=biased,
    )  # fmt: skip
    return Family(model, config, tensors, single=True)


def line_model(kind: Any) -> Any:
    """Random, its output's bias too."""
    model = randomized(kind)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape, dtype=torch.float64))
    return model


def sides(model: Any) -> dict[str, Any]:
    return {"encoder": model.model.encoder, "decoder": model.model.decoder}


def learned(model: Any) -> Tensors:
    """A table's first two rows are never read."""
    return {side: stack.embed_positions.weight.detach().numpy()[2:] for side, stack in sides(model).items()}


PRE = {"placement": "pre", "final_norm": True}


def bart() -> Family:
    model = line_model(transformers.BartForConditionalGeneration(transformers.BartConfig(**LINE_SIZES)))
    return line_like(model, "gelu", learned(model), embed_norm=True)


def mbart() -> Family:
    sizes = transformers.MBartConfig(**LINE_SIZES, scale_embedding=True, decoder_start_token_id=9)
    model = line_model(transformers.MBartForConditionalGeneration(sizes))
    return line_like(model, "gelu", learned(model), embed_norm=True, **PRE)


def pegasus() -> Family:
    sizes = transformers.PegasusConfig(**LINE_SIZES, scale_embedding=True, activation_function="relu")
    model = line_model(transformers.PegasusForConditionalGeneration(sizes))
    positions = {side: stack.embed_positions.weight.detach().numpy() for side, stack in sides(model).items()}
    return line_like(model, "relu", positions, **PRE)


def m2m_100() -> Family:
    """Positions begin behind the padding token's."""
    sizes = transformers.M2M100Config(**LINE_SIZES, pad_token_id=3)
    model = line_model(transformers.M2M100ForConditionalGeneration(sizes))
    table = model.model.encoder.embed_positions.get_embedding(44, 80).numpy()[4:]
    return line_like(model, "relu", {"encoder": table, "decoder": table}, **PRE)
