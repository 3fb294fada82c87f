"""The oracle itself: against the Transformer of 2017 written down before, on what no family has, and how much a
comparison with it shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyengine.canonical.config import ModelConfig, StackConfig
from pyengine.canonical.tensors import tensor_specs

from . import tiny
from .perturbed import float32_bound
from .quantized import QuantizedReference
from .random_config import random_config, random_tensors, tensor_shapes
from .reference import ReferenceModel
from .rounded import RoundedTransformer, round_rows
from .transformer import Transformer

SEEDS = (*range(24), 42)  # 42: a table that is the output layer, times a Hadamard matrix
EVEN = {"encoder": (2, 4, 24), "decoder": (2, 4, 20)}  # heads of 4: their scale is exact in float32
MARIAN: dict[str, dict[str, Any]] = {
    "equal layers": EVEN,
    "nothing shared": {**EVEN, "source_vocab": 31, "share_embeddings": False, "tie_output": False},
    "layers that differ": tiny.UNEVEN,
}


def results(model: Transformer, seed: int = 0) -> list[np.ndarray]:
    """Logits of a text, or the states of a source where there is no decoder."""
    rng = np.random.RandomState(seed)
    config = model.config
    memory = None if config.source_vocab is None else model.encode(rng.randint(0, config.source_vocab, 21))
    if config.target_vocab is None:
        assert memory is not None
        return [memory]
    return [model.decode(rng.randint(0, config.target_vocab, 39), memory)]


def both_ways(config: ModelConfig, own: Transformer, other: ReferenceModel) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(1)
    source, target = rng.randint(0, config.source_vocab, 33), rng.randint(0, config.target_vocab, 35)
    return own.decode(target, own.encode(source)), other.decode(target, other.encode(source))


@pytest.mark.parametrize("name", MARIAN)
def test_the_transformer_of_2017(name: str) -> None:
    config = tiny.model_config(**MARIAN[name])
    tensors = tiny.random_tensors(config, 7)
    found, expected = both_ways(config, Transformer(config, tensors), ReferenceModel(config, tensors))
    scale = 1e-6 if name == "layers that differ" else 1e-12
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * np.abs(expected).max())


@pytest.mark.parametrize("cache", [False, True])
def test_the_roundings_of_int8(cache: bool) -> None:
    config = tiny.model_config(**EVEN)
    tensors = tiny.random_tensors(config, 7)
    kinds = {"activations": True, "cache": cache}
    own, other = RoundedTransformer(config, tensors, **kinds), QuantizedReference(config, tensors, **kinds)
    found, expected = both_ways(config, own, other)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_random_configurations_have_every_trait() -> None:
    """A list of tensors written down twice agrees, and no trait is left out by the seeds that tests use."""
    seen: set[tuple[str, object]] = set()
    for seed in SEEDS:
        config = random_config(seed)
        assert tensor_shapes(config) == {name: spec.shape for name, spec in tensor_specs(config).items()}
        seen |= set(traits(config))
    for name in ("placement", "norm", "positions", "after_norms", "embed_norm", "final_norm", "slopes", "qk_norm"):
        assert len({value for trait, value in seen if trait == name}) > 1, name
    for name in ("types", "relative", "embedding_width", "cap", "logit cap", "window", "rope", "group"):
        assert len({bool(value) for trait, value in seen if trait == name}) == 2, name
    assert {(True, True), (True, False)} <= {value for trait, value in seen if trait == "hadamard"}
    assert {value for trait, value in seen if trait == "stacks"} == {"encoder", "decoder", "encoder decoder"}
    assert len({value for trait, value in seen if trait == "activation"}) == 8
    assert ("mixed", True) in seen  # parallel with RMS norms, a bias table and windows


def traits(config: ModelConfig) -> Iterator[tuple[str, object]]:
    yield "stacks", " ".join(name for name, _ in config.stacks())
    yield "embedding_width", config.embedding_width
    yield "logit cap", config.logit_soft_cap
    yield "hadamard", (config.hadamard, config.tie_output)
    for _, stack in config.stacks():
        for name in ("placement", "norm", "positions", "after_norms", "embed_norm", "final_norm", "slopes", "types"):
            yield name, getattr(stack, name)
        yield "relative", stack.relative_reach
        for layer in stack.layers:
            yield "activation", layer.feed_forward.activation
            yield "gated", layer.feed_forward.gated
            yield "window", layer.self_attention.window
            yield "rope", layer.self_attention.rope
            for _, attention in layer.attentions():
                yield "qk_norm", attention.qk_norm
                yield "cap", attention.soft_cap
                yield "group", attention.heads != attention.kv_heads
        windows = any(layer.self_attention.window for layer in stack.layers)
        yield "mixed", (stack.placement, stack.norm) == ("parallel", "rms") and stack.relative_reach > 0 and windows


@pytest.mark.parametrize(("before", "after"), [(2, 3), (0, 1), (4, 0)])
def test_a_window_both_ways(before: int, after: int) -> None:
    """One layer: a token reaches the rows that have it in their window, and no other."""
    config = random_config(2)
    assert config.encoder is not None
    layer = config.encoder.layers[0]
    layer = replace(layer, self_attention=replace(layer.self_attention, window=(before, after)))
    config = replace(config, encoder=replace(config.encoder, layers=(layer,)))
    model = Transformer(config, random_tensors(config, 2))
    ids = np.arange(20)
    changed = ids.copy()
    changed[9] = 300
    moved = (model.encode(ids) != model.encode(changed)).any(axis=1)
    np.testing.assert_array_equal(np.nonzero(moved)[0], np.arange(9 - after, 9 + before + 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_comparison_shows(seed: int) -> None:
    """float32 stays within the bound, and any field that is read wrongly leads out of it."""
    config = random_config(seed)
    tensors = random_tensors(config, seed)
    (exact,) = results(Transformer(config, tensors))
    bound = float32_bound(config, tensors, results)
    (single,) = results(Transformer(config, tensors, np.float32))
    assert np.abs(single - exact).max() < bound < 1e-3 * np.abs(exact).max()
    for name, wrong in misread(config):
        (found,) = results(Transformer(wrong, tensors))
        assert np.abs(found - exact).max() > bound, name


def misread(config: ModelConfig) -> Iterator[tuple[str, ModelConfig]]:
    """The configuration with one field of one layer or stack read wrongly, for which the same tensors do."""
    if config.logit_soft_cap is not None:
        yield "logit_soft_cap", replace(config, logit_soft_cap=None)
    for side, stack in config.stacks():
        for name, other in misread_stack(stack, side == "decoder"):
            yield f"{side} {name}", replace(config, **{side: other})


def misread_stack(stack: StackConfig, causal: bool) -> Iterator[tuple[str, StackConfig]]:
    for name in ("after_norms", "embed_norm", "final_norm", "slopes", "relative_reach", "types"):
        if getattr(stack, name):
            yield name, replace(stack, **{name: 0})
    if stack.norm_epsilon > 1e-3:  # less is nothing beside a variance of 1
        yield "norm_epsilon", replace(stack, norm_epsilon=3 * stack.norm_epsilon)
    if stack.positions == "table":
        yield "positions", replace(stack, positions="none")
    if stack.placement == "parallel":
        yield "placement", replace(stack, placement="pre")
    for i, layer in enumerate(stack.layers):

        def with_layer(**changes: Any) -> StackConfig:
            layers = (*stack.layers[:i], replace(layer, **changes), *stack.layers[i + 1 :])  # noqa: B023
            return replace(stack, layers=layers)

        for part, attention in layer.attentions():
            if attention.window != (0, 0):  # a softmax of one score
                yield f"{i} {part} scale", with_layer(**{part: replace(attention, scale=1.05 * attention.scale)})
            for name in ("soft_cap", "rope", "window"):
                matters = getattr(attention, name) is not None and (name == "window" or attention.window != (0, 0))
                if matters:
                    yield f"{i} {part} {name}", with_layer(**{part: replace(attention, **{name: None})})
            if attention.qk_norm and attention.window != (0, 0):
                yield f"{i} {part} qk_norm", with_layer(**{part: replace(attention, qk_norm=False)})
        if layer.self_attention.window is not None:
            before, after = layer.self_attention.window
            wider = replace(layer.self_attention, window=(before + 1, after))
            yield f"{i} window", with_layer(self_attention=wider)
        other = {"gelu": "gelu_tanh", "gelu_tanh": "gelu", "silu": "quick_gelu"}.get(
            layer.feed_forward.activation, "silu"
        )
        yield f"{i} activation", with_layer(feed_forward=replace(layer.feed_forward, activation=other))


@pytest.mark.parametrize("seed", [0, 3, 4, 5])
def test_int8_in_float32(seed: int) -> None:
    """Roundings are where the core has them in either precision: what is left of the difference is float32's."""
    config = random_config(seed)
    tensors = random_tensors(config, seed)
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and name.endswith("weight"):
            tensors[name] = round_rows(tensor)
    kinds = {"activations": True, "cache": True}
    ids = [5, 7]  # so few that nothing comes near an edge between two steps
    found, expected = (
        model.encode(ids) if config.decoder is None else model.decode(ids, np.ones((3, config.width), dtype))
        for dtype, model in ((d, RoundedTransformer(config, tensors, d, **kinds)) for d in (np.float32, np.float64))
    )
    assert 0 < np.abs(found - expected).max() < float32_bound(config, tensors, results)
