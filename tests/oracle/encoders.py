"""Families with an encoder."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import transformers

from pyengine.canonical.config import FeedForwardConfig, LayerConfig, ModelConfig, StackConfig

from .family import VOCABULARY, Family, attention, encoder_only, randomized, renamed, state_of
from .language_models import GATED, LLAMA_STACK

__all__ = ["BERT_SIZES", "bert", "bert_like", "electra", "t5"]

def bert_like(model: Any, prefix: str, width: int, **changes: Any) -> Family:
    theirs = f"{prefix}encoder.layer.*"
    state = state_of(model)
    tensors = renamed(state, {
        "encoder.embed": f"{prefix}embeddings.word_embeddings",
        "encoder.embed.norm": f"{prefix}embeddings.LayerNorm",
        "encoder.embed.project": f"{prefix}embeddings_project",
        "encoder.layers.*.self_attention.q": f"{theirs}.attention.self.query",
        "encoder.layers.*.self_attention.k": f"{theirs}.attention.self.key",
        "encoder.layers.*.self_attention.v": f"{theirs}.attention.self.value",
        "encoder.layers.*.self_attention.output": f"{theirs}.attention.output.dense",
        "encoder.layers.*.self_attention.norm": f"{theirs}.attention.output.LayerNorm",
        "encoder.layers.*.ffn.up": f"{theirs}.intermediate.dense",
        "encoder.layers.*.ffn.down": f"{theirs}.output.dense",
        "encoder.layers.*.ffn.norm": f"{theirs}.output.LayerNorm",
    })  # fmt: skip
    tensors["encoder.positions"] = state[f"{prefix}embeddings.position_embeddings.weight"]
    tensors["encoder.types"] = state[f"{prefix}embeddings.token_type_embeddings.weight"]
    layer = LayerConfig(attention(4, 4, width // 4), FeedForwardConfig(100, "gelu"))
    stack = StackConfig((layer, layer), 40, norm_epsilon=1e-3, embed_norm=True, types=2)
    return Family(model, encoder_only(width, stack, **changes), tensors)


BERT_SIZES: dict[str, Any] = dict(
    vocab_size=VOCABULARY, hidden_size=80, num_hidden_layers=2, num_attention_heads=4, intermediate_size=100,
    max_position_embeddings=40, layer_norm_eps=1e-3, attn_implementation="eager",
)  # fmt: skip


def bert() -> Family:
    return bert_like(randomized(transformers.BertModel(transformers.BertConfig(**BERT_SIZES))), "", 80)


def electra() -> Family:
    model = transformers.ElectraModel(transformers.ElectraConfig(**BERT_SIZES, embedding_size=36))
    return bert_like(randomized(model), "", 80, embedding_width=36)


# T5: cross-attention before norms, and a bias by distance.


def folded_bias(block: Any, bidirectional: bool, reach: int) -> np.ndarray:
    """[heads, 2 reach + 1]: what the bucket of each distance adds."""
    layer = block.layer[0].SelfAttention
    buckets = layer._relative_position_bucket(
        torch.arange(-reach, reach + 1), bidirectional=bidirectional, num_buckets=layer.relative_attention_num_buckets,
        max_distance=layer.relative_attention_max_distance,
    )  # fmt: skip
    return layer.relative_attention_bias.weight.detach().numpy()[buckets.numpy()].T


def t5() -> Family:
    reach = 20  # beyond it all distances share a bucket
    sizes = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=80, d_kv=12, d_ff=100, num_layers=2, num_decoder_layers=2, num_heads=5,
        relative_attention_num_buckets=12, relative_attention_max_distance=reach, layer_norm_epsilon=1e-3,
        feed_forward_proj="gated-gelu", tie_word_embeddings=True, decoder_start_token_id=0,
    )  # fmt: skip
    model = randomized(transformers.T5ForConditionalGeneration(sizes))
    with torch.no_grad():
        model.shared.weight.mul_(5)
    names = {"decoder.embed": "shared"}
    for side in ("encoder", "decoder"):
        names[f"{side}.norm"] = f"{side}.final_layer_norm"
        attentions = {"self_attention": "layer.0.SelfAttention", "cross_attention": "layer.1.EncDecAttention"}
        for own, theirs in list(attentions.items())[: 1 + (side == "decoder")]:
            for part, letter in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o")):
                names[f"{side}.layers.*.{own}.{part}"] = f"{side}.block.*.{theirs}.{letter}"
            names[f"{side}.layers.*.{own}.norm"] = f"{side}.block.*.{theirs.rpartition('.')[0]}.layer_norm"
        last = f"{side}.block.*.layer.{1 + (side == 'decoder')}"
        for own, theirs in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
            names[f"{side}.layers.*.ffn.{own}"] = f"{last}.DenseReluDense.{theirs}"
        names[f"{side}.layers.*.ffn.norm"] = f"{last}.layer_norm"
    tensors = renamed(state_of(model), names)
    tensors["encoder.relative"] = folded_bias(model.encoder.block[0], True, reach)
    tensors["decoder.relative"] = folded_bias(model.decoder.block[0], False, reach)
    tensors["output.weight"] = tensors["decoder.embed.weight"] / math.sqrt(80)
    plain = attention(5, 5, 12, scale=1.0, qkv_bias=False, output_bias=False)
    encoder = replace(
        LLAMA_STACK, layers=(LayerConfig(plain, GATED),) * 2, max_positions=64, relative_reach=reach
    )
    decoder = replace(encoder, layers=(LayerConfig(plain, GATED, plain),) * 2)
    config = ModelConfig(
        "test", 80, encoder, decoder, VOCABULARY, VOCABULARY, share_embeddings=True, output_bias=False
    )
    return Family(model, config, tensors, single=True)
