"""Models of random configurations, text for them, and what they say, by NumPy in float64 and by the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyengine.canonical import CanonicalModel, GenerationDefaults, LazyTensor
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.seeing.text import Line

from ...oracle.random_config import random_config, random_tensors
from ...oracle.transformer import Transformer

__all__ = [
    "END", "EVERY", "SEEDS", "START", "exact", "forced", "language_model", "length_of", "lines", "random_model",
    "spoken", "values",
]  # fmt: skip

SEEDS = range(24)  # decoders, both stacks and encoders in turn
EVERY = [pytest.param(seed, marks=pytest.mark.exhaustive) if seed >= 5 else seed for seed in SEEDS]
"""Of what takes long."""
START, END, LINES = 3, 2, 20


def random_model(seed: int) -> CanonicalModel:
    config = replace(random_config(seed), hadamard=False)  # which conversions choose
    if seed % 2:
        config = replace(config, heads={})  # what they read takes no scales
    tensors = {name: LazyTensor.of(name, each) for name, each in random_tensors(config, seed).items()}
    search = GenerationDefaults(
        decoder_start_token_id=START, eos_token_id=(END,), pad_token_id=None, max_length=30
    )
    return CanonicalModel(config, None if config.decoder is None else search, tensors)


def language_model(seed: int = 0) -> CanonicalModel:
    """A decoder alone whose texts begin with START, which nothing but the text says."""
    model = random_model(seed)
    assert model.config.encoder is None and model.generation is not None
    return replace(model, generation=replace(model.generation, decoder_start_token_id=None, bos_token_id=START))


def lines(model: CanonicalModel, count: int = LINES, seed: int = 0) -> list[Line]:
    """Ids of `count` lines of 25 to 32 tokens a side, None for a stack that there is not."""
    rng = np.random.RandomState(seed)

    def side(vocab: int | None, end: list[int]) -> list[int] | None:
        return None if vocab is None else [*rng.randint(4, vocab, rng.randint(24, 32)).tolist(), *end]

    return [(side(model.config.source_vocab, []), side(model.config.target_vocab, [END])) for _ in range(count)]


def values(model: CanonicalModel) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in model.tensors.items()}


def forced(target: Any) -> list[int]:
    """What the decoder reads."""
    return [START, *target[:-1]]


def exact(model: CanonicalModel, text: list[Line], others: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """Logits or states of all lines, float64 [rows, values], with `others` in place of some of the model's tensors."""
    oracle = Transformer(model.config, {**values(model), **(others or {})})
    found = []
    for source, target in text:
        memory = None if source is None else oracle.encode(source)  # type: ignore[arg-type]
        if target is not None:
            found.append(oracle.decode(forced(target), memory))
        elif memory is not None:
            found.append(memory)
    return np.concatenate(found)


def spoken(model: CanonicalModel, text: list[Line]) -> np.ndarray:
    """The same by the core, in float32."""
    with Reader.of(model) as reader:
        found = reader.states(text) if model.config.decoder is None else reader.logits(text)
        return np.concatenate(list(found))


def length_of(x: np.ndarray) -> float:
    return float(np.linalg.norm(x))
