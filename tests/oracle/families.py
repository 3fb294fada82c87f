"""Families that transformers runs, as tiny random models in float64 and as configurations and tensors of ours.

The maps of names are written by hand, here only, so that no importer's mistake can hide in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers

from pyengine.canonical.config import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    StackConfig,
)

__all__ = ["FAMILIES", "LENGTH", "SOURCE", "VOCABULARY", "Family"]

torch.set_num_threads(1)  # tiny products: more threads only wait for each other

VOCABULARY, SOURCE, LENGTH = 333, 33, 39
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Family:
    """A model of transformers, and the same as a configuration and tensors."""

    model: Any
    config: ModelConfig
    tensors: Tensors
    single: bool = False  # whether transformers has parts of it (norms, softmax, angles) in float32 whatever one asks


def randomized(model: Any) -> Any:
    """In float64, with every parameter moved: no gain is 1 and no bias 0."""
    model = model.eval().double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else 1 / math.sqrt(parameter.shape[-1])
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)
    return model


def state_of(model: Any) -> Tensors:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def renamed(state: Mapping[str, np.ndarray], names: Mapping[str, str], layers: int = 2) -> Tensors:
    """``names``: canonical module -> theirs, ``*`` a layer's number; weights, and biases where there are some."""
    tensors = {}
    for own, theirs in names.items():
        for i in range(layers if "*" in own else 1):
            for part in ("weight", "bias"):
                value = state.get(f"{theirs.replace('*', str(i))}.{part}")
                if value is not None:
                    tensors[f"{own.replace('*', str(i))}.{part}"] = value
    assert tensors
    return tensors


def attention(heads: int, kv_heads: int, head_width: int, **changes: Any) -> AttentionConfig:
    return AttentionConfig(heads, kv_heads, head_width, **{"scale": head_width**-0.5, **changes})


def decoder_only(width: int, stack: StackConfig, **changes: Any) -> ModelConfig:
    values: dict[str, Any] = dict(source_vocab=None, target_vocab=VOCABULARY, output_bias=False)
    return ModelConfig("test", width, encoder=None, decoder=stack, **{**values, **changes})


def encoder_only(width: int, stack: StackConfig, **changes: Any) -> ModelConfig:
    return ModelConfig("test", width, stack, None, VOCABULARY, None, output_bias=False, **changes)


# The line of Llama: RMS norms, rotary positions, grouped heads, gates.

LLAMA = {
    "decoder.embed": "model.embed_tokens",
    "decoder.norm": "model.norm",
    "output": "lm_head",
    **{f"decoder.layers.*.self_attention.{part}": f"model.layers.*.self_attn.{part}_proj" for part in "qkv"},
    "decoder.layers.*.self_attention.output": "model.layers.*.self_attn.o_proj",
    "decoder.layers.*.self_attention.q_norm": "model.layers.*.self_attn.q_norm",
    "decoder.layers.*.self_attention.k_norm": "model.layers.*.self_attn.k_norm",
    "decoder.layers.*.self_attention.norm": "model.layers.*.input_layernorm",
    **{f"decoder.layers.*.ffn.{part}": f"model.layers.*.mlp.{part}_proj" for part in ("gate", "up", "down")},
    "decoder.layers.*.ffn.norm": "model.layers.*.post_attention_layernorm",
}
LLAMA_SIZES: dict[str, Any] = dict(
    vocab_size=VOCABULARY, hidden_size=96, intermediate_size=100, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, head_dim=20, rms_norm_eps=1e-3, max_position_embeddings=40, attn_implementation="eager",
    tie_word_embeddings=False,
)  # fmt: skip
LLAMA_STACK = StackConfig(
    layers=(), max_positions=40, norm="rms", norm_epsilon=1e-3, placement="pre", final_norm=True, positions="none"
)


def llama_like(
    model: Any, self_attention: AttentionConfig, *, bias: bool = False, activation: str = "silu"
) -> Family:
    layer = LayerConfig(self_attention, FeedForwardConfig(100, activation, gated=True, bias=bias))
    config = decoder_only(96, replace(LLAMA_STACK, layers=(layer, layer)), ropes={"main": RopeConfig(20)})
    tensors = renamed(state_of(model), LLAMA)
    tensors["rope.main.frequencies"] = model.model.rotary_emb.inv_freq.numpy()
    return Family(model, config, tensors, single=True)


def llama() -> Family:
    sizes = transformers.LlamaConfig(**LLAMA_SIZES, attention_bias=True, mlp_bias=True)
    return llama_like(
        randomized(transformers.LlamaForCausalLM(sizes)), attention(6, 2, 20, rope="main"), bias=True
    )


def mistral() -> Family:
    sizes = transformers.MistralConfig(**LLAMA_SIZES, sliding_window=5)
    plain = attention(6, 2, 20, rope="main", window=(4, 0), qkv_bias=False, output_bias=False)
    return llama_like(randomized(transformers.MistralForCausalLM(sizes)), plain)


def qwen3() -> Family:
    sizes = transformers.Qwen3Config(**LLAMA_SIZES)
    plain = attention(6, 2, 20, rope="main", qk_norm=True, qkv_bias=False, output_bias=False)
    return llama_like(randomized(transformers.Qwen3ForCausalLM(sizes)), plain)


# Gemma: norms on both sides of a sublayer, windows, caps.

GEMMA = {
    **{own: theirs for own, theirs in LLAMA.items() if own != "output"},
    "decoder.layers.*.self_attention.after": "model.layers.*.post_attention_layernorm",
    "decoder.layers.*.ffn.norm": "model.layers.*.pre_feedforward_layernorm",
    "decoder.layers.*.ffn.after": "model.layers.*.post_feedforward_layernorm",
}
GEMMA_SIZES: dict[str, Any] = {
    **LLAMA_SIZES, "tie_word_embeddings": True, "query_pre_attn_scalar": 37, "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"], "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
GEMMA_ATTENTION = dict(qkv_bias=False, output_bias=False, scale=37**-0.5)
GATED = FeedForwardConfig(100, "gelu_tanh", gated=True, bias=False)


def gemma_tensors(model: Any) -> Tensors:
    tensors = renamed(state_of(model), GEMMA)
    return {name: 1 + t if "norm." in name or "after." in name else t for name, t in tensors.items()}


def gemma_like(layers: tuple[LayerConfig, ...], **changes: Any) -> ModelConfig:
    stack = replace(LLAMA_STACK, layers=layers, after_norms=True)
    return decoder_only(96, stack, embedding_scale=math.sqrt(96), tie_output=True, **changes)


def gemma2() -> Family:
    sizes = transformers.Gemma2Config(**GEMMA_SIZES, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)
    model = randomized(transformers.Gemma2ForCausalLM(sizes))
    plain = attention(6, 2, 20, rope="main", soft_cap=2.0, **GEMMA_ATTENTION)
    layers = tuple(LayerConfig(replace(plain, window=window), GATED) for window in ((4, 0), None))
    tensors = gemma_tensors(model)
    tensors["rope.main.frequencies"] = model.model.rotary_emb.inv_freq.numpy()
    config = gemma_like(layers, logit_soft_cap=3.0, ropes={"main": RopeConfig(20)})
    return Family(model, config, tensors, single=True)


def gemma3() -> Family:
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
    }
    sizes = transformers.Gemma3TextConfig(**GEMMA_SIZES, rope_parameters=ropes)
    model = randomized(transformers.Gemma3ForCausalLM(sizes))
    plain = attention(6, 2, 20, qk_norm=True, **GEMMA_ATTENTION)
    local, full = replace(plain, rope="local", window=(4, 0)), replace(plain, rope="full")
    config = gemma_like(
        (LayerConfig(local, GATED), LayerConfig(full, GATED)), ropes={"local": RopeConfig(20), "full": RopeConfig(20)}
    )
    tensors = gemma_tensors(model)
    rotary = model.model.rotary_emb
    tensors["rope.local.frequencies"] = rotary.sliding_attention_inv_freq.numpy()
    tensors["rope.full.frequencies"] = rotary.full_attention_inv_freq.numpy()
    assert not np.array_equal(tensors["rope.local.frequencies"], tensors["rope.full.frequencies"])
    return Family(model, config, tensors, single=True)


# Layer norms.


def gpt2() -> Family:
    sizes = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=40, n_embd=80, n_layer=2, n_head=4, n_inner=100, layer_norm_epsilon=1e-3,
        attn_implementation="eager",
    )  # fmt: skip
    model = randomized(transformers.GPT2LMHeadModel(sizes))
    state = state_of(model)
    tensors = {
        **renamed(state, {
            "decoder.embed": "transformer.wte", "decoder.norm": "transformer.ln_f",
            "decoder.layers.*.self_attention.norm": "transformer.h.*.ln_1",
            "decoder.layers.*.ffn.norm": "transformer.h.*.ln_2",
        }),
        "decoder.positions": state["transformer.wpe.weight"],
    }  # fmt: skip
    for i in range(2):
        own, theirs = f"decoder.layers.{i}", f"transformer.h.{i}"
        for part in ("weight", "bias"):  # their products are x W: W is stored [in, out]
            qkv = np.split(state[f"{theirs}.attn.c_attn.{part}"].T, 3)
            tensors |= {f"{own}.self_attention.{name}.{part}": t for name, t in zip("qkv", qkv, strict=True)}
            tensors[f"{own}.self_attention.output.{part}"] = state[f"{theirs}.attn.c_proj.{part}"].T
            tensors[f"{own}.ffn.up.{part}"] = state[f"{theirs}.mlp.c_fc.{part}"].T
            tensors[f"{own}.ffn.down.{part}"] = state[f"{theirs}.mlp.c_proj.{part}"].T
    layer = LayerConfig(attention(4, 4, 20), FeedForwardConfig(100, "gelu_tanh"))
    stack = StackConfig((layer, layer), 40, norm_epsilon=1e-3, placement="pre", final_norm=True)
    return Family(model, decoder_only(80, stack, tie_output=True), tensors)


def split_by_head(state: Tensors, theirs: str, heads: int, own: str) -> Tensors:
    """[heads, q k v, D] along the rows."""
    tensors = {}
    for part in ("weight", "bias"):
        whole = state[f"{theirs}.{part}"]
        parts = whole.reshape(heads, 3, -1, *whole.shape[1:])
        for i, name in enumerate("qkv"):
            tensors[f"{own}.{name}.{part}"] = parts[:, i].reshape(-1, *whole.shape[1:])
    return tensors


def gpt_neox() -> Family:
    sizes = transformers.GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=80, num_hidden_layers=2, num_attention_heads=4, intermediate_size=100,
        hidden_act="gelu", layer_norm_eps=1e-3, max_position_embeddings=40, use_parallel_residual=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.3},
        attn_implementation="eager",
    )  # fmt: skip
    model = randomized(transformers.GPTNeoXForCausalLM(sizes))
    state = state_of(model)
    theirs = "gpt_neox.layers.*"
    tensors = renamed(state, {
        "decoder.embed": "gpt_neox.embed_in", "decoder.norm": "gpt_neox.final_layer_norm", "output": "lm_head",
        "decoder.layers.*.self_attention.output": f"{theirs}.attention.dense",
        "decoder.layers.*.self_attention.norm": f"{theirs}.input_layernorm",
        "decoder.layers.*.ffn.up": f"{theirs}.mlp.dense_h_to_4h",
        "decoder.layers.*.ffn.down": f"{theirs}.mlp.dense_4h_to_h",
        "decoder.layers.*.ffn.norm": f"{theirs}.post_attention_layernorm",
    })  # fmt: skip
    for i in range(2):
        whole = f"gpt_neox.layers.{i}.attention.query_key_value"
        tensors |= split_by_head(state, whole, 4, f"decoder.layers.{i}.self_attention")
    tensors["rope.main.frequencies"] = model.gpt_neox.rotary_emb.inv_freq.numpy()
    layer = LayerConfig(attention(4, 4, 20, rope="main"), FeedForwardConfig(100, "gelu"))
    stack = StackConfig(
        (layer, layer), 40, norm_epsilon=1e-3, placement="parallel", final_norm=True, positions="none"
    )
    return Family(model, decoder_only(80, stack, ropes={"main": RopeConfig(6)}), tensors, single=True)


def bloom() -> Family:
    sizes = transformers.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=80, n_layer=2, n_head=4, layer_norm_epsilon=1e-3, attn_implementation="eager"
    )
    model = randomized(transformers.BloomForCausalLM(sizes))
    state = state_of(model)
    theirs = "transformer.h.*"
    tensors = renamed(state, {
        "decoder.embed": "transformer.word_embeddings", "decoder.norm": "transformer.ln_f",
        "decoder.embed.norm": "transformer.word_embeddings_layernorm",
        "decoder.layers.*.self_attention.output": f"{theirs}.self_attention.dense",
        "decoder.layers.*.self_attention.norm": f"{theirs}.input_layernorm",
        "decoder.layers.*.ffn.up": f"{theirs}.mlp.dense_h_to_4h",
        "decoder.layers.*.ffn.down": f"{theirs}.mlp.dense_4h_to_h",
        "decoder.layers.*.ffn.norm": f"{theirs}.post_attention_layernorm",
    })  # fmt: skip
    for i in range(2):
        whole = f"transformer.h.{i}.self_attention.query_key_value"
        tensors |= split_by_head(state, whole, 4, f"decoder.layers.{i}.self_attention")
    tensors["decoder.slopes"] = 2.0 ** (-2 * np.arange(1, 5))
    layer = LayerConfig(attention(4, 4, 20), FeedForwardConfig(320, "gelu_tanh"))
    stack = StackConfig(
        (layer, layer), 40, norm_epsilon=1e-3, placement="pre", embed_norm=True, final_norm=True, positions="none",
        slopes=True,
    )  # fmt: skip
    return Family(model, decoder_only(80, stack, tie_output=True), tensors, single=True)


# Encoders.


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


FAMILIES: tuple[Callable[[], Family], ...] = (
    llama, mistral, qwen3, gemma2, gemma3, gpt2, gpt_neox, bloom, bert, electra, t5,
)  # fmt: skip
