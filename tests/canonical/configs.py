"""Configurations of every trait, at random: legal ones of which no family has the mixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pyengine.canonical import (
    AttentionConfig,
    FeedForwardConfig,
    HeadConfig,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    StackConfig,
)
from pyengine.canonical.config import ACTIVATIONS

__all__ = ["HEADS", "decoder_only", "encoder_only", "random_config"]

# A classifier of three labels, a masked language model, and an embedding.
HEADS = {
    "classes": HeadConfig("cls", True, "tanh", out=3, labels=("no", "perhaps", "yes"), problem="single_label"),
    "words": HeadConfig("none", True, "gelu", norm=True, out="vocabulary"),
    "embedding": HeadConfig("mean"),
}


def encoder_only(**changes: Any) -> ModelConfig:
    """As BERT is built: token types, a norm of the embedding, a table that is narrower than the model."""
    layer = LayerConfig(AttentionConfig.plain(3, 4), FeedForwardConfig(20, "gelu"))
    stack = StackConfig((layer,) * 2, 32, norm_epsilon=1e-12, embed_norm=True, types=2)
    values: dict[str, Any] = {
        "family": "tiny", "width": 12, "encoder": stack, "decoder": None, "source_vocab": 21, "target_vocab": None,
        "embedding_width": 8, **changes,
    }  # fmt: skip
    return ModelConfig(**values)


def decoder_only(**changes: Any) -> ModelConfig:
    """As language models are built: norms before, rotary positions, grouped heads, gates, windows in every second."""
    plain = AttentionConfig(6, 2, 20, 0.25, qkv_bias=False, output_bias=False)
    wide, local = replace(plain, qk_norm=True, rope="far"), replace(plain, rope="near", window=(4, 0), soft_cap=50.0)
    layers = tuple(LayerConfig(each, FeedForwardConfig(100, "silu", gated=True, bias=False)) for each in (wide, local))
    stack = StackConfig(
        layers, 131072, norm="rms", norm_epsilon=1e-6, placement="pre", after_norms=True, final_norm=True,
        positions="none",
    )  # fmt: skip
    values: dict[str, Any] = {
        "family": "tiny", "width": 80, "encoder": None, "decoder": stack, "source_vocab": None, "target_vocab": 333,
        "tie_output": True, "output_bias": False, "logit_soft_cap": 30.0,
        "ropes": {"far": RopeConfig(20, lengths=(4096, 8192)), "near": RopeConfig(10, 1.25)}, **changes,
    }  # fmt: skip
    return ModelConfig(**values)


def random_config(seed: int) -> ModelConfig:
    """Any stacks, any traits that go together, layers that differ."""
    rng = np.random.default_rng(seed)

    def chance(p: float = 0.5) -> bool:
        return bool(rng.random() < p)

    def one(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    encoder, decoder = one((True, False), (False, True), (True, True))
    both = encoder and decoder
    lengths = one((), (20,), (7, 8, 30)) if not encoder else ()
    ropes = {
        name: RopeConfig(one(2, 6, 12), one(1.0, 1.5), one((), lengths)) for name in ("near", "far")[: rng.integers(3)]
    }

    def attention(heads: int, own: bool, causal: bool) -> AttentionConfig:
        return AttentionConfig(
            heads, heads // one(1, heads), one(12, 20, 80), float(rng.random() + 0.1), chance(), chance(), chance(),
            rope=one(None, *ropes) if own else None,
            window=one(None, (int(rng.integers(9)), 0 if causal else int(rng.integers(9)))) if own else None,
            soft_cap=one(None, 50.0),
        )  # fmt: skip

    def stack(causal: bool) -> StackConfig:
        placement = one("post", "pre") if causal and both else one("post", "pre", "parallel")
        later, heads = placement != "post", one(2, 6)
        shared = chance()
        layers = tuple(
            LayerConfig(
                attention(heads if shared else one(1, 3, 6), True, causal),
                FeedForwardConfig(one(1, 33, 100), one(*ACTIVATIONS), chance(), chance()),
                attention(one(1, 6), False, False) if causal and both else None,
            )
            for _ in range(rng.integers(1, 4))
        )
        return StackConfig(
            layers, one(40, 131072), one("layer", "rms"), one(1e-5, 1e-12), placement, later and chance(), chance(),
            later and chance(), one("table", "none"), one(0, 2), one(0, 5) if shared else 0, shared and chance(),
        )  # fmt: skip

    width, share = one(80, 96), bool(both and chance())
    narrow = chance(0.2)
    source = 333 if encoder else None
    return ModelConfig(
        family="random", width=width, encoder=stack(False) if encoder else None,
        decoder=stack(True) if decoder else None, source_vocab=source,
        target_vocab=(333 if share else one(50, 333)) if decoder else None, embedding_scale=one(1.0, width**0.5),
        embedding_width=20 if narrow else None, share_embeddings=share,
        tie_output=bool(decoder) and not narrow and chance(), output_bias=chance(),
        logit_soft_cap=one(None, 30.0) if decoder else None, ropes=ropes,
        heads=dict(list(HEADS.items())[: rng.integers(4)]) if encoder else {},
    )  # fmt: skip
