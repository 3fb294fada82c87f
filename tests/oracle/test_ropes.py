"""Cosines and sines of rotary positions beside transformers', for every scaling: within a unit in the last place."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyengine import _core
from pyengine.canonical import ModelConfig
from pyengine.importers.ropes import Rope, rope_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding  # noqa: E402
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding  # noqa: E402

from .family import VOCABULARY, attention, randomized  # noqa: E402
from .language_models import LLAMA_SIZES, llama_like  # noqa: E402
from .transformer import Transformer  # noqa: E402

POSITIONS = 8192
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": np.linspace(1, 1.2, 48).tolist(),
    "long_factor": np.geomspace(1, 40, 48).tolist(), "original_max_position_embeddings": 4096,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}

# parameters, head width, max_position_embeddings
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "SmolLM2": ({"rope_type": "default", "rope_theta": 1e5}, 64, 8192),
    "Llama 2": ({"rope_type": "default", "rope_theta": 1e4}, 128, 4096),
    "Qwen3": ({"rope_type": "default", "rope_theta": 1e6}, 128, 40960),
    "Gemma, near": ({"rope_type": "default", "rope_theta": 1e4}, 256, 32768),
    "Gemma, far": ({"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}, 256, 131072),
    "linear by an odd factor": ({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.7}, 80, 4096),
    "Llama 3.1": (LLAMA3, 128, 131072),
    "Llama 3.2": ({**LLAMA3, "factor": 32.0}, 64, 131072),
    "yarn": (YARN, 128, 32768),
    "yarn, factors": ({**YARN, "mscale": 1.2, "mscale_all_dim": 0.7, "beta_fast": 24.0, "beta_slow": 2.0}, 64, 32768),
    "yarn, attention": ({**YARN, "attention_factor": 1.3, "truncate": False}, 64, 32768),
    "yarn, no context": ({"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0}, 128, 4096),
    "dynamic": ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, 128, 8192),
    "dynamic, longer": ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, 64, 2048),
    "dynamic, by an odd factor": ({"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.3}, 256, 4000),
    "a quarter": ({"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}, 128, 8192),
    "a quarter by yarn": ({**YARN, "partial_rotary_factor": 0.25}, 256, 32768),
    "Phi-3.5": (LONG, 96, 131072),
    "Phi-4-mini": ({**LONG, "partial_rotary_factor": 0.75}, 128, 131072),
    "longrope, factors": ({**LONG, "factor": 5.0, "attention_factor": 1.1}, 96, 131072),
}


def theirs(parameters: dict[str, Any], head_width: int, max_positions: int, positions: int) -> list[np.ndarray]:
    """Cosines and sines, float32 [positions, dims / 2] each."""
    kind_of_rope = parameters["rope_type"]
    is_phi = kind_of_rope == "longrope" or (kind_of_rope == "default" and "partial_rotary_factor" in parameters)
    kind, rotary = (
        (transformers.Phi3Config, Phi3RotaryEmbedding) if is_phi else (transformers.LlamaConfig, LlamaRotaryEmbedding)
    )
    sizes: dict[str, Any] = {"original_max_position_embeddings": 4096} if is_phi else {}
    config = kind(
        hidden_size=head_width * 2, num_attention_heads=2, max_position_embeddings=max_positions,
        rope_parameters=dict(parameters), **sizes,
    )  # fmt: skip
    with torch.no_grad():
        both = rotary(config)(torch.zeros(1), torch.arange(positions)[None])
    return [each[0, :, : each.shape[-1] // 2].numpy() for each in both]


def ours(rope: Rope, rope_set: int, positions: int) -> list[np.ndarray]:
    frequencies = np.atleast_2d(rope.frequencies())[rope_set]
    cosines, sines = (np.empty((positions, len(frequencies)), np.float32) for _ in range(2))
    for position in range(positions):
        _core.angles(position, frequencies, rope.config.factor, cosines[position], sines[position])
    return [cosines, sines]


def units_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many floats further it is from one to the other."""
    ordered = (each.view(np.int32).astype(np.int64) for each in (one, other))
    return np.abs(np.subtract(*(np.where(each < 0, -(each & 0x7FFFFFFF), each) for each in ordered)))


@pytest.mark.parametrize("name", CASES)
def test_positions_to_8191(name: str) -> None:
    """Of sequences of every length at which the frequencies are transformers', and, but for dynamic ones, of 8,192."""
    parameters, head_width, max_positions = CASES[name]
    rope = rope_of(parameters, head_width=head_width, max_positions=max_positions)
    lengths = rope.config.lengths
    known = {*lengths, rope.max_positions} if parameters["rope_type"] == "dynamic" else {*lengths, POSITIONS}
    for length in sorted(length for length in known if length <= POSITIONS):
        both = theirs(parameters, head_width, max_positions, length), ours(rope, bisect_left(lengths, length), length)
        for expected, found in zip(*both, strict=True):
            units = units_between(found, expected)
            assert units.max() <= 1, length


BY_LENGTH: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope", "rope_theta": 50.0, "short_factor": [1.1] * 10, "factor": 3.0,
        "long_factor": np.linspace(1, 9, 10).tolist(), "original_max_position_embeddings": 20,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 50.0, "factor": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("name", BY_LENGTH)
def test_logits_of_texts_on_both_sides_of_the_boundary(name: str) -> None:
    """A model of 40 positions: of 20 and 21 tokens the one kind's frequencies differ, beyond 40 the other's."""
    parameters = BY_LENGTH[name]
    rope = rope_of(parameters, head_width=20, max_positions=40)
    model = randomized(
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA_SIZES, rope_parameters=dict(parameters)))
    )
    case = llama_like(model, attention(6, 2, 20, rope="main", qkv_bias=False, output_bias=False))
    config: ModelConfig = replace(case.config, ropes={"main": rope.config})
    oracle = Transformer(config, {**case.tensors, "rope.main.frequencies": rope.frequencies()})
    ids = np.random.RandomState(1).randint(0, VOCABULARY, 80)
    seen = set()
    for length in {"longrope": (7, 20, 21, 39), "dynamic": (7, 40, 45, 60, 80)}[name]:
        with torch.no_grad():
            expected = model(torch.tensor(ids[:length])[None]).logits[0].numpy()
        found = oracle.decode(ids[:length])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        seen.add(config.rope_set(length))
    assert len(seen) > 1
