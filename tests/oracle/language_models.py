"""Language models: a decoder alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pyengine.canonical.config import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    StackConfig,
)

from .family import VOCABULARY, Family, Tensors, attention, decoder_only, randomized, renamed, state_of

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
    tie_word_embeddings=False, bos_token_id=1, eos_token_id=[2, 7], pad_token_id=0,
)  # fmt: skip
LLAMA_STACK = StackConfig(
    layers=(), max_positions=40, norm="rms", norm_epsilon=1e-3, placement="pre", final_norm=True, positions="none"
)


def llama_like(
    model: Any,
    *attentions: AttentionConfig,
    bias: bool = False,
    names: dict[str, str] = LLAMA,
    rope: RopeConfig = RopeConfig(20),
    **changes: Any,
) -> Family:
    """``attentions``: of both layers, or of each."""
    feed_forward = FeedForwardConfig(100, "silu", gated=True, bias=bias)
    layers = tuple(LayerConfig(each, feed_forward) for each in attentions)
    stack = replace(LLAMA_STACK, layers=layers if len(layers) == 2 else layers * 2)
    config = decoder_only(model.config.hidden_size, stack, ropes={"main": rope}, **changes)
    tensors = renamed(state_of(model), names)
    tensors["rope.main.frequencies"] = model.model.rotary_emb.inv_freq.numpy()
    return Family(model, config, tensors, single=True)


def llama() -> Family:
    sizes = transformers.LlamaConfig(**LLAMA_SIZES, attention_bias=True, mlp_bias=True)
    return llama_like(
        randomized(transformers.LlamaForCausalLM(sizes)), attention(6, 2, 20, rope="main"), bias=True
    )


PLAIN = attention(6, 2, 20, rope="main", qkv_bias=False, output_bias=False)
LAST = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}


def llama3() -> Family:
    """With the rope of Llama 3.1."""
    turn = {
        "rope_type": "llama3", "rope_theta": 50.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 20,
    }  # fmt: skip
    return llama_like(
        randomized(transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA_SIZES, rope_parameters=turn))), PLAIN
    )


def mistral() -> Family:
    sizes = transformers.MistralConfig(**LLAMA_SIZES, sliding_window=5)
    return llama_like(randomized(transformers.MistralForCausalLM(sizes)), replace(PLAIN, window=(4, 0)))


def qwen2() -> Family:
    """A width of heads that the class has no key for, and a window in the second layer."""
    model = randomized(transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**LLAMA_SIZES, **LAST)))
    plain = replace(PLAIN, qkv_bias=True)
    return llama_like(model, plain, replace(plain, window=(4, 0)))


def qwen3() -> Family:
    model = randomized(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**LLAMA_SIZES, **LAST)))
    plain = replace(PLAIN, qk_norm=True)
    return llama_like(model, plain, replace(plain, window=(4, 0)))


def smollm3() -> Family:
    """The second layer does not turn, and has a window."""
    sizes = transformers.SmolLM3Config(
        **{**LLAMA_SIZES, "tie_word_embeddings": True}, no_rope_layer_interval=2, use_sliding_window=True,
        sliding_window=5,
    )  # fmt: skip
    names = {own: theirs for own, theirs in LLAMA.items() if own != "output"}
    still = replace(PLAIN, rope=None, window=(4, 0))
    model = randomized(transformers.SmolLM3ForCausalLM(sizes))
    return llama_like(model, PLAIN, still, names=names, tie_output=True)


def phi3() -> Family:
    """Parts of whole matrices, and rope of a part of each head."""
    sizes = transformers.Phi3Config(
        **LLAMA_SIZES, sliding_window=5,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.625},
    )  # fmt: skip
    return phi_like(randomized(transformers.Phi3ForCausalLM(sizes)), replace(PLAIN, window=(4, 0)), RopeConfig(12))


def phi4() -> Family:
    """With other frequencies for texts of more than 8 tokens."""
    turn = {
        "rope_type": "longrope", "rope_theta": 100.0, "partial_rotary_factor": 0.625,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7], "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
        "original_max_position_embeddings": 8,
    }  # fmt: skip
    sizes = transformers.Phi3Config(
        **{**LLAMA_SIZES, "tie_word_embeddings": True, "hidden_size": 120}, original_max_position_embeddings=8,
        rope_parameters=turn,
    )  # fmt: skip
    model = randomized(transformers.Phi3ForCausalLM(sizes))
    frequencies, scale = zip(*(ROPE_INIT_FUNCTIONS["longrope"](sizes, seq_len=n) for n in (8, 9)), strict=True)
    names = {own: theirs for own, theirs in LLAMA.items() if own != "output"}
    family = phi_like(model, PLAIN, RopeConfig(12, scale[0], (8,)), names=names, tie_output=True)
    family.tensors["rope.main.frequencies"] = np.stack([each.numpy() for each in frequencies])
    return family


def phi_like(model: Any, plain: AttentionConfig, rope: RopeConfig, **changes: Any) -> Family:
    family = llama_like(model, plain, rope=rope, **changes)
    state = state_of(model)
    for i in range(2):
        own, theirs = f"decoder.layers.{i}", f"model.layers.{i}"
        q, k, v = np.split(state[f"{theirs}.self_attn.qkv_proj.weight"], [120, 160])
        gate, up = np.split(state[f"{theirs}.mlp.gate_up_proj.weight"], 2)
        for name, part in (("q", q), ("k", k), ("v", v)):
            family.tensors[f"{own}.self_attention.{name}.weight"] = part
        family.tensors.update({f"{own}.ffn.gate.weight": gate, f"{own}.ffn.up.weight": up})
    return family


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
        attn_implementation="eager", bos_token_id=1, eos_token_id=2,
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
    return neox_like(parallel=True)


def gpt_neox_sequential() -> Family:
    return neox_like(parallel=False)


def neox_like(*, parallel: bool) -> Family:
    sizes = transformers.GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=80, num_hidden_layers=2, num_attention_heads=4, intermediate_size=100,
        hidden_act="gelu", layer_norm_eps=1e-3, max_position_embeddings=40, use_parallel_residual=parallel,
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
    placement = "parallel" if parallel else "pre"
    stack = StackConfig(
        (layer, layer), 40, norm_epsilon=1e-3, placement=placement, final_norm=True, positions="none"
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
