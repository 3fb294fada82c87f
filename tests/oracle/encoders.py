"""Families with an encoder."""

from __future__ import annotations

from typing import Any

import transformers

from pyengine.canonical.config import FeedForwardConfig, LayerConfig, StackConfig

from .family import VOCABULARY, Family, attention, encoder_only, randomized, renamed, state_of

__all__ = ["BERT_SIZES", "bert", "bert_like", "electra"]


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
