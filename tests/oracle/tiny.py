"""Tiny random models, large enough in their weights that no two candidates come near a tie."""

from __future__ import annotations

import numpy as np

from pyengine.canonical.config import GenerationDefaults, ModelConfig, StackConfig
from pyengine.canonical.tensors import tensor_specs

__all__ = ["defaults", "model_config", "random_tensors"]


def model_config(**changes: object) -> ModelConfig:
    """Two layers a stack, width 16, 23 ids, one table for both sides and the output."""
    values: dict[str, object] = {
        "family": "tiny",
        "width": 16,
        "encoder": StackConfig(layers=2, heads=2, ffn_width=24),
        "decoder": StackConfig(layers=2, heads=4, ffn_width=20),
        "source_vocab": 23,
        "target_vocab": 23,
        "max_positions": 40,
        "activation": "silu",
        "embedding_scale": 4.0,
        "norm_epsilon": 1e-5,
        "share_embeddings": True,
        "tie_output": True,
    }
    return ModelConfig(**{**values, **changes})  # type: ignore[arg-type]


def defaults(**changes: object) -> GenerationDefaults:
    """Start and padding 22, end 0, hypotheses of at most 20 tokens."""
    values: dict[str, object] = {
        "decoder_start_token_id": 22,
        "eos_token_id": (0,),
        "pad_token_id": 22,
        "max_length": 20,
        "bad_words_ids": ((22,),),
        "forced_eos_token_id": (0,),
    }
    return GenerationDefaults(**{**values, **changes})  # type: ignore[arg-type]


def random_tensors(config: ModelConfig, seed: int, std: float = 0.5) -> dict[str, np.ndarray]:
    """float32 canonical tensors: normal with deviation `std`, norms near the identity."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, spec in tensor_specs(config).items():
        values = rng.normal(0, std, spec.shape)
        if name.endswith("norm.weight"):
            values = 1 + 0.1 * values
        tensors[name] = values.astype(np.float32)
    return tensors
