"""Tiny random models and searches, with weights so large that no two candidates come near a tie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pyengine.canonical import (
    AttentionConfig,
    FeedForwardConfig,
    GenerationDefaults,
    LayerConfig,
    ModelConfig,
    StackConfig,
    tensor_specs,
)
from pyengine.decoding.search import Found
from pyengine.importers.positions import sinusoidal_positions
from pyengine.options import GenerationOptions
from pyengine.plan import Session
from pyengine.scheduling.scheduler import Request, Scheduler

__all__ = [
    "UNEVEN",
    "Expected",
    "SearchCase",
    "Sizes",
    "generation",
    "model_config",
    "random_sources",
    "random_tensors",
    "search",
]


@dataclass(frozen=True)
class Sizes:
    """Layers of a stack as (heads, feed-forward width), in a decoder (heads, feed-forward width, cross heads)."""

    layers: tuple[tuple[int, ...], ...]
    head_width: int


# Stacks whose layers differ. The heads of an attention have less or more than the width of 20 together.
UNEVEN: dict[str, Any] = {
    "width": 20,
    "encoder": Sizes(((5, 33), (1, 7), (2, 1)), head_width=4),
    "decoder": Sizes(((3, 9, 1), (1, 40, 5), (2, 100, 2)), head_width=6),
}


def model_config(**changes: Any) -> ModelConfig:
    """Post-norm encoder and decoder: two layers a stack, width 16, 23 ids, one table for both sides and the output.

    A stack may be given as `Sizes`, or as (layers, heads, ffn_width): equal layers whose heads share out the width.
    `max_positions`, `activation` and `norm_epsilon` are those of both stacks.
    """
    values: dict[str, Any] = {
        "family": "tiny",
        "width": 16,
        "encoder": (2, 2, 24),
        "decoder": (2, 4, 20),
        "source_vocab": 23,
        "target_vocab": 23,
        "embedding_scale": 4.0,
        "share_embeddings": True,
        "tie_output": True,
        **changes,
    }
    positions, epsilon = values.pop("max_positions", 40), values.pop("norm_epsilon", 1e-5)
    activation = values.pop("activation", "silu")
    for name in ("encoder", "decoder"):
        given = values[name]
        if isinstance(given, tuple):
            count, heads, ffn_width = given
            layer = (heads, ffn_width, heads) if name == "decoder" else (heads, ffn_width)
            given = Sizes((layer,) * count, values["width"] // heads)
        if isinstance(given, Sizes):
            layers = tuple(_layer(given.head_width, activation, *layer) for layer in given.layers)
            values[name] = StackConfig(layers, positions, norm_epsilon=epsilon)
    return ModelConfig(**values)


def _layer(head_width: int, activation: str, heads: int, ffn_width: int, cross: int | None = None) -> LayerConfig:
    return LayerConfig(
        AttentionConfig.plain(heads, head_width),
        FeedForwardConfig(ffn_width, activation),
        None if cross is None else AttentionConfig.plain(cross, head_width),
    )


def generation(**changes: Any) -> GenerationDefaults:
    """Start and padding 22, end 0, hypotheses of at most 20 tokens, as opus-mt checkpoints have it."""
    values: dict[str, Any] = {
        "decoder_start_token_id": 22,
        "eos_token_id": (0,),
        "pad_token_id": 22,
        "max_length": 20,
        "bad_words_ids": ((22,),),
        "forced_eos_token_id": (0,),
    }
    return GenerationDefaults(**{**values, **changes})


def random_tensors(config: ModelConfig, seed: int, std: float = 0.5) -> dict[str, np.ndarray]:
    """float32 canonical tensors: normal with deviation `std`, norms near the identity; id 0 comes often.

    Positions are sinusoids. RandomState, because NumPy promises that its stream stays the same: golden files rely on
    it.
    """
    rng = np.random.RandomState(seed)
    tensors = {}
    for name, spec in tensor_specs(config).items():
        if name.endswith(".positions"):
            tensors[name] = sinusoidal_positions(*spec.shape)
            continue
        values = rng.normal(0, std, spec.shape)
        if name.endswith("norm.weight"):
            values = 1 + 0.1 * values
        tensors[name] = values.astype(np.float32)
    tensors["output.bias"][0] += 3
    return tensors


def random_sources(seed: int, count: int, longest: int = 9) -> list[list[int]]:
    """Sentences of 1..`longest` ids from 1..21 and the end token."""
    rng = np.random.RandomState(seed)
    return [[*rng.randint(1, 22, rng.randint(1, longest + 1)).tolist(), 0] for _ in range(count)]


@dataclass(frozen=True)
class Expected:
    """A hypothesis: ids after the start token, end token included, and its score."""

    ids: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class SearchCase:
    """A search by a tiny model: its seed, and what differs from `model_config` and `generation`."""

    seed: int
    options: dict[str, Any]
    prefix: tuple[int, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    sentences: int = 4

    @property
    def sources(self) -> list[list[int]]:
        return random_sources(self.seed, self.sentences)


def search(
    session: Session,
    defaults: GenerationDefaults,
    config: ModelConfig,
    options: dict[str, Any],
    sources: Iterable[list[int]],
    prefix: Iterable[int] = (),
    budget: int = 64,
) -> list[list[Found]]:
    """Run `sources` through the scheduler; the prefix is among the ids that come back."""
    settled = GenerationOptions(**options).resolve(defaults, config.target_vocab, config.decoder.max_positions)
    scheduler = Scheduler(session, vocab=config.target_vocab, budget=budget)
    prompt = np.array([settled.start, *prefix], np.int32)
    found = scheduler.run([Request(np.array(source, np.int32), prompt, settled) for source in sources])
    return [[replace(each, ids=np.concatenate([prompt[1:], each.ids])) for each in best] for best in found]
