"""Tiny GGUF files of checkpoints of transformers, converted as llama.cpp's conversion/ does it, with the gguf package.

Names are the package's (``tensor_mapping``); permutations are written here, and undone by moving indices along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Config = Mapping[str, Any]
Tensors = dict[str, np.ndarray]
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA, "smollm3": gguf.MODEL_ARCH.SMOLLM3, "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3, "gemma2": gguf.MODEL_ARCH.GEMMA2, "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3, "gpt2": gguf.MODEL_ARCH.GPT2, "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
}  # fmt: skip


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """llama.py, ``permute``."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def stored(model_type: str, config: Config, name: str, values: np.ndarray) -> np.ndarray:
    """Rows and columns as GGUF has them."""
    if model_type in ("llama", "smollm3") and (".q_proj." in name or ".k_proj." in name):
        heads = "num_attention_heads" if ".q_proj." in name else "num_key_value_heads"
        return permuted(values, config[heads])
    if model_type == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        return values.T
    if model_type == "gpt_neox" and ".query_key_value." in name:
        parts = values.reshape(config["num_attention_heads"], 3, -1, *values.shape[1:])
        return np.concatenate([parts[:, i].reshape(-1, *values.shape[1:]) for i in range(3)])
    return values


def write_metadata(writer: gguf.GGUFWriter, model_type: str, config: Config) -> None:
    def key(*names: str) -> Any:
        return next(config[name] for name in names if name in config)

    writer.add_block_count(key("num_hidden_layers", "n_layer"))
    writer.add_context_length(key("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(key("hidden_size", "n_embd"))
    writer.add_feed_forward_length(key("intermediate_size", "n_inner"))
    writer.add_head_count(key("num_attention_heads", "n_head"))
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_head_count_kv(config["num_key_value_heads"])
    else:
        writer.add_layer_norm_eps(key("layer_norm_eps", "layer_norm_epsilon"))
    if model_type not in ("gpt2", "gpt_neox", "phi3"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if model_type in ("llama", "smollm3"):
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(config["head_dim"])
    if "rope_theta" in config:
        writer.add_rope_freq_base(config["rope_theta"])
    if model_type in ("gemma2", "gemma3_text", "phi3"):
        writer.add_sliding_window(config["sliding_window"])
    if model_type == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if model_type == "phi3":
        share = config["partial_rotary_factor"]
        writer.add_rope_dimension_count(int(share * config["hidden_size"]) // config["num_attention_heads"])
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
    if model_type == "gpt_neox":
        head_width = config["hidden_size"] // config["num_attention_heads"]
        writer.add_rope_dimension_count(int(config["rotary_pct"] * head_width))
        writer.add_parallel_residual(config["use_parallel_residual"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])


Encode = Callable[[np.ndarray], tuple[np.ndarray, gguf.GGMLQuantizationType]]


def as_type(kind: gguf.GGMLQuantizationType) -> Encode:
    """Matrices in ``kind``; random bytes where the package cannot quantize."""

    def encode(values: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
        if values.ndim == 1:
            return values.astype(np.float32), gguf.GGMLQuantizationType.F32
        try:
            return gguf.quantize(values, kind), kind
        except NotImplementedError:
            return random_blocks(kind, *values.shape), kind

    return encode


def random_blocks(kind: gguf.GGMLQuantizationType, rows: int, columns: int) -> np.ndarray:
    """Random bytes that dequantize to finite numbers."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(7)
    raw = generator.integers(0, 256, (rows * columns // elements, size), np.uint8)
    with np.errstate(all="ignore"):
        while (bad := ~np.isfinite(gguf.dequantize(raw, kind)).all(1)).any():
            raw[bad] = generator.integers(0, 256, (bad.sum(), size), np.uint8)
    return raw.reshape(rows, -1)


def write_gguf(
    path: Path,
    model_type: str,
    config: Config,
    tensors: Tensors,
    encode: Encode = as_type(gguf.GGMLQuantizationType.F32),
    change: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
) -> Tensors:
    """Write the file, and return the tensors as transformers would have to have them for the same values.

    ``change``: what to add to it.
    """
    architecture = ARCHITECTURES[model_type]
    names = gguf.get_tensor_name_map(architecture, config.get("num_hidden_layers", config.get("n_layer")))
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type("model")
    write_metadata(writer, model_type, config)
    same = {}
    for name, values in tensors.items():
        moved = stored(model_type, config, name, values)
        shift = np.float32(model_type.startswith("gemma") and name.endswith("norm.weight"))
        data, kind = encode(moved + shift)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), data, raw_dtype=kind)
        back = np.empty(values.size, np.float32)
        places = stored(model_type, config, name, np.arange(values.size).reshape(values.shape))
        back[places.reshape(-1)] = gguf.dequantize(data, kind).reshape(-1) - shift
        same[name] = back.reshape(values.shape)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return same
