"""What a GGUF file's architecture is to transformers: its class, keys and names, and what the metadata leave out.

Sources, beside those of ``gguf_names`` and ``gguf_ropes``: the gguf package's ``constants`` (Keys) and transformers'
integrations/ggml.py (GGUF_CONFIG_MAPPING) for keys; llama.cpp's src/models/*.cpp (``load_arch_hparams``) for what is
not in the metadata:

    gemma2, gemma3  a window in all layers but each 2nd or 6th; the 27B models divide scores by the root of
                    width / heads, the others by that of a head's width; angles of layers with a window have a base
                    of 10,000 (gemma3; src/llama-hparams.h)
    smollm3         each 4th layer does not turn
    all             without output.weight the table of tokens is the output layer, too
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyengine.importers import gguf_names as names
from pyengine.importers.gguf_keys import Keys
from pyengine.importers.gguf_names import Names, Take, heads_joined, rows_in_halves
from pyengine.importers.gguf_ropes import partial_rotary_factor, rope_scaling, rope_theta

__all__ = ["ARCHITECTURES", "Architecture"]

_SIZES = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size", "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
}  # fmt: skip
_RMS = {**_SIZES, "attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_GPT2 = {
    "context_length": "n_positions", "embedding_length": "n_embd", "block_count": "n_layer",
    "feed_forward_length": "n_inner", "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}  # fmt: skip
_WIDEST_GEMMAS = {"gemma2": 46, "gemma3": 62}  # layers of the 27B models, by which llama.cpp knows them, too


@dataclass(frozen=True)
class Architecture:
    """One value of "general.architecture".

    name    transformers' class
    keys    of metadata -> of config.json; all must be there
    names   of tensors
    config  the other keys of config.json, out of those of the metadata and what ``keys`` gave
    takes   what undoes llama.cpp's conversion of values, by module, for the whole config
    """

    name: str
    keys: Mapping[str, str]
    names: Names
    config: Callable[[Keys, dict[str, Any]], dict[str, Any]]
    takes: Callable[[dict[str, Any]], Mapping[str, Take]] = lambda config: {}


def _line(keys: Keys, config: dict[str, Any]) -> dict[str, Any]:
    """Of the line of Llama: heads, and one rope for all layers."""
    heads, positions = config["num_attention_heads"], config["max_position_embeddings"]
    head_width = keys.size("attention.key_length", max(config["hidden_size"] // heads, 1))
    if keys.size("attention.value_length", head_width) != head_width:
        keys.fail("attention.value_length", f"{head_width}, as of keys", "another")
    theta, share = rope_theta(keys), partial_rotary_factor(keys, head_width)
    return {
        "num_key_value_heads": keys.size("attention.head_count_kv", heads),
        "head_dim": head_width,
        "rope_theta": theta,
        "rope_scaling": rope_scaling(keys, int(head_width * share), theta, positions),
        **({"partial_rotary_factor": share} if share != 1 else {}),
    }


def _biased(keys: Keys, config: dict[str, Any]) -> dict[str, Any]:
    """The same, where attention may have biases."""
    return {**_line(keys, config), "attention_bias": keys.has("blk.0.attn_q.bias")}


def _llama(keys: Keys, config: dict[str, Any]) -> dict[str, Any]:
    """Mistral, too: its window is in no file."""
    keys.neutral("tensor_data_layout", "Meta AI original pth")
    return {**_biased(keys, config), "mlp_bias": keys.has("blk.0.ffn_gate.bias")}


def _smollm3(keys: Keys, config: dict[str, Any]) -> dict[str, Any]:
    return {**_llama(keys, config), "no_rope_layer_interval": 4}


def _phi3(keys: Keys, config: dict[str, Any]) -> dict[str, Any]:
    """A window of 0 is none."""
    found = _line(keys, config)
    scaling, positions = found["rope_scaling"], config["max_position_embeddings"]
    key = "original_max_position_embeddings"
    original = scaling.get(key) if scaling else None
    if original is None:
        original = keys.size("rope.scaling.original_context_length", positions)
    return {**found, key: original, "sliding_window": keys.take("attention.sliding_window") or None}


def _gemma(keys: Keys, config: dict[str, Any], name: str, window: int | None, pattern: Any) -> dict[str, Any]:
    found = _biased(keys, config)
    width, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
    window = keys.take("attention.sliding_window", window) or None
    pattern = keys.take("attention.sliding_window_pattern", pattern)
    if type(pattern) is int and pattern >= 0:
        slides = [pattern == 0 or i % pattern < pattern - 1 for i in range(layers)]
    elif isinstance(pattern, list) and len(pattern) == layers and all(each in (0, 1) for each in pattern):
        slides = [bool(each) for each in pattern]
    else:
        keys.fail("attention.sliding_window_pattern", f"a number, or {layers} flags, one a layer", pattern)
    kinds = ("full_attention", "sliding_attention")
    return {
        **found,
        "sliding_window": window,
        "layer_types": [kinds[window is not None and each] for each in slides],
        "query_pre_attn_scalar": width / heads if layers == _WIDEST_GEMMAS[name] else found["head_dim"],
    }


def _gemma2(keys: Keys, config: dict[str, Any]) -> dict[str, Any]:
    return {
        **_gemma(keys, config, "gemma2", 4096, 2),
        "attn_logit_softcapping": keys.take("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": keys.take("final_logit_softcapping", 30.0),
    }


def _gemma3(keys: Keys, config: dict[str, Any]) -> dict[str, Any]:
    """The rope of ``_line`` is that of layers without a window."""
    return {
        **_gemma(keys, config, "gemma3", None, 6),
        "rope_local_base_freq": keys.take("rope.freq_base_swa", 10000.0),
        "final_logit_softcapping": keys.take("final_logit_softcapping"),
    }


def _gpt2(keys: Keys, config: dict[str, Any]) -> dict[str, Any]:
    """Older files hold the table of tokens a second time."""
    keys.neutral("attention.head_count_kv", config["n_head"])
    return {"tie_word_embeddings": True}


def _neox(keys: Keys, config: dict[str, Any]) -> dict[str, Any]:
    heads, positions = config["num_attention_heads"], config["max_position_embeddings"]
    keys.neutral("attention.head_count_kv", heads)
    head_width = max(config["hidden_size"] // heads, 1)
    theta, share = rope_theta(keys), partial_rotary_factor(keys, head_width)
    return {
        "rotary_pct": share,
        "rotary_emb_base": theta,
        "rope_scaling": rope_scaling(keys, int(head_width * share), theta, positions),
        "use_parallel_residual": keys.needed("use_parallel_residual"),
    }


def _paired(config: dict[str, Any]) -> Mapping[str, Take]:
    """Rows of queries and keys."""
    return {
        "blk.*.attn_q": rows_in_halves(config["num_attention_heads"]),
        "blk.*.attn_k": rows_in_halves(config["num_key_value_heads"]),
    }


def _less_one(values: np.ndarray) -> np.ndarray:
    """Norms are stored as what they multiply by."""
    return values - np.float32(1)


def _norms_less_one(config: dict[str, Any]) -> Mapping[str, Take]:
    return {module: _less_one for module in names.GEMMA3 if module.endswith("_norm")}


def _products(config: dict[str, Any]) -> Mapping[str, Take]:
    """Matrices of products x W, stored [out, in] as all others."""
    modules = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
    return {f"blk.*.{module}.weight": np.transpose for module in modules}


def _joined(config: dict[str, Any]) -> Mapping[str, Take]:
    return {"blk.*.attn_qkv": heads_joined(config["num_attention_heads"])}


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", _RMS, names.LLAMA, _llama, _paired),
    "smollm3": Architecture("SmolLM3ForCausalLM", _RMS, names.LLAMA, _smollm3, _paired),
    "qwen2": Architecture("Qwen2ForCausalLM", _RMS, names.LLAMA, _line),
    "qwen3": Architecture("Qwen3ForCausalLM", _RMS, names.QWEN3, _biased),
    "gemma2": Architecture("Gemma2ForCausalLM", _RMS, names.GEMMA2, _gemma2, _norms_less_one),
    "gemma3": Architecture("Gemma3ForCausalLM", _RMS, names.GEMMA3, _gemma3, _norms_less_one),
    "phi3": Architecture("Phi3ForCausalLM", _RMS, names.PHI3, _phi3),
    "gpt2": Architecture("GPT2LMHeadModel", _GPT2, names.GPT2, _gpt2, _products),
    "gptneox": Architecture(
        "GPTNeoXForCausalLM", {**_SIZES, "attention.layer_norm_epsilon": "layer_norm_eps"}, names.NEOX, _neox, _joined
    ),
}
