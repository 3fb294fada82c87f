"""Random MarianMTModels of transformers and their canonical tensors, mapped here a second time, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import transformers

from pyengine.canonical.config import ModelConfig, StackConfig

__all__ = ["canonical", "random_marian"]


def random_marian(seed: int, *, std: float = 0.5, **changes: Any) -> transformers.MarianMTModel:
    """A tiny MarianMTModel in float32 whose every parameter is normal with deviation `std`; norms near identity."""
    values: dict[str, Any] = dict(
        vocab_size=23, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=20, max_position_embeddings=40,
        activation_function="swish", scale_embedding=True, pad_token_id=22, eos_token_id=0,
        decoder_start_token_id=22, forced_eos_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.MarianMTModel(transformers.MarianConfig(**{**values, **changes})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" in name:
                continue
            noise = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(1 + 0.1 * noise if "layer_norm.weight" in name else noise)
        model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape, generator=generator) * std)
    return model


def canonical(model: transformers.MarianMTModel) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """The same model as pyengine knows it."""
    c = model.config
    config = ModelConfig(
        family="marian",
        width=c.d_model,
        encoder=StackConfig(c.encoder_layers, c.encoder_attention_heads, c.encoder_ffn_dim),
        decoder=StackConfig(c.decoder_layers, c.decoder_attention_heads, c.decoder_ffn_dim),
        source_vocab=c.vocab_size,
        target_vocab=c.decoder_vocab_size,
        max_positions=c.max_position_embeddings,
        activation={"swish": "silu", "gelu_new": "gelu_tanh"}.get(c.activation_function, c.activation_function),
        embedding_scale=math.sqrt(c.d_model) if c.scale_embedding else 1.0,
        norm_epsilon=1e-5,
        share_embeddings=True,
        tie_output=True,
    )
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors = {
        "decoder.embed.weight": state["model.shared.weight"],
        "output.bias": state["final_logits_bias"][0],
    }
    parts = {
        "self_attention.norm": "self_attn_layer_norm",
        "cross_attention.norm": "encoder_attn_layer_norm",
        "ffn.up": "fc1",
        "ffn.down": "fc2",
        "ffn.norm": "final_layer_norm",
    }
    for ours, theirs in (("self_attention", "self_attn"), ("cross_attention", "encoder_attn")):
        parts |= {f"{ours}.{p}": f"{theirs}.{p}_proj" for p in "qkv"} | {f"{ours}.output": f"{theirs}.out_proj"}
    for side, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        for layer in range(stack.layers):
            for ours, theirs in parts.items():
                if side == "encoder" and ours.startswith("cross"):
                    continue
                for end in ("weight", "bias"):
                    tensors[f"{side}.layers.{layer}.{ours}.{end}"] = state[f"model.{side}.layers.{layer}.{theirs}.{end}"]
    return config, tensors
