"""Layers of different shapes: what was removed is gone, and a model that never needed it gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from pyengine import _core
from pyengine.canonical.config import LayerConfig, ModelConfig, StackConfig
from pyengine.canonical.tensors import tensor_specs
from pyengine.errors import EngineError

from ..oracle.tiny import random_tensors
from .models import COMPUTE, TinyModel, model_config, new_session, step

FULL = model_config(
    width=20, encoder=(2, 5, 33), decoder=(3, 5, 40), source_vocab=50, target_vocab=50, max_positions=64
)

# (heads, cross heads, neurons) that stay, a layer
Kept = list[tuple[list[int], list[int], list[int]]]
KEPT: dict[str, Kept] = {
    "encoder": [([1, 4], [], list(range(2, 33))), ([0, 1, 2, 3, 4], [], [5])],
    "decoder": [
        ([3], [0, 1, 2, 3, 4], list(range(0, 40, 2))),
        ([0, 1, 2, 3], [2, 4], list(range(40))),
        ([0, 2, 4], [1], [0, 17, 39]),
    ],
}


def rows_of(config: ModelConfig, kept: Mapping[str, Kept]) -> dict[str, np.ndarray]:
    """Name of a part -> bool: which rows of its q, k, v or up, and so columns of its output or down, stay."""
    rows = {}
    for name, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        for i, (layer, (heads, cross, neurons)) in enumerate(zip(stack.layers, kept[name], strict=True)):
            for part, own, count in (("self", heads, layer.heads), ("cross", cross, layer.cross_heads or 0)):
                stays = np.isin(np.arange(count), own)
                rows[f"{name}.layers.{i}.{part}_attention"] = np.repeat(stays, stack.head_width)
            rows[f"{name}.layers.{i}.ffn"] = np.isin(np.arange(layer.ffn_width), neurons)
    return rows


def pruned_config(config: ModelConfig, kept: Mapping[str, Kept]) -> ModelConfig:
    stacks = {}
    for name, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        sizes = [(len(heads), len(neurons), len(cross) or None) for heads, cross, neurons in kept[name]]
        stacks[name] = StackConfig(tuple(LayerConfig(*size) for size in sizes), stack.head_width)
    return replace(config, **stacks)


def silenced_and_pruned(weights: str, seed: int) -> tuple[TinyModel, TinyModel]:
    """The full model, where some heads have values of zero and some neurons an input of zero; without these."""
    full = random_tensors(FULL, seed)
    pruned = dict(full)
    for part, stays in rows_of(FULL, KEPT).items():
        names = ("q", "k", "v", "output") if part.endswith("attention") else ("up", "down")
        *inputs, output = (f"{part}.{name}" for name in names)
        if f"{output}.weight" not in full:
            continue  # an encoder has no cross-attention
        for kind in ("weight", "bias"):
            full[f"{inputs[-1]}.{kind}"][~stays] = 0
            for name in inputs:
                pruned[f"{name}.{kind}"] = full[f"{name}.{kind}"][stays]
        full[f"{output}.weight"][:, ~stays] = 0  # read zeros only, but a row's scale would depend on them
        pruned[f"{output}.weight"] = full[f"{output}.weight"][:, stays]
    config = pruned_config(FULL, KEPT)
    for name, spec in tensor_specs(config).items():
        assert pruned[name].shape == spec.shape
    return TinyModel.of(FULL, full, weights), TinyModel.of(config, pruned, weights)


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize(("weights", "kv"), [pair for pair in COMPUTE if pair[0] in ("float32", "int8")])
def test_what_adds_nothing_can_go(weights: str, kv: str, isa: str) -> None:
    """Heads whose values are zero and neurons that stay silent: without them not a byte of the logits changes.

    Not so with int4, whose groups of columns shift.
    """
    rng = np.random.default_rng(2)
    sources = {i: rng.integers(0, 50, n) for i, n in enumerate((1, 9, 33))}
    rows = [(i, i, rng.integers(0, 50, n)) for i, n in enumerate((20, 1, 34))]
    results = []
    for tiny in silenced_and_pruned(weights, seed=31):
        for threads in (1, 3):
            session = new_session(tiny.core(kv, isa=isa), threads=threads)
            logits = step(session, sources=sources, rows=rows, full_logits=True).logits
            assert logits is not None
            results.append(logits.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("kv", ["float32", "int8"])
def test_the_cache_holds_the_heads_that_are_left(kv: str) -> None:
    """A page has room for all heads of the stack, of self-attention or of cross-attention, whichever has more."""

    def page_bytes(*layers: tuple[int, int]) -> int:
        stack = StackConfig(tuple(LayerConfig(heads, 8, cross) for heads, cross in layers), head_width=64)
        session = new_session(TinyModel.random(decoder=stack).core(kv))
        step(session, sources={0: [1]}, rows=[(0, 0, [1])])
        return session.cache_bytes

    assert page_bytes((8, 8), (8, 8), (8, 8), (8, 8)) == page_bytes((1, 5), (15, 5), (9, 2), (7, 3))
    assert page_bytes((8, 8), (8, 8), (8, 8), (8, 8)) == page_bytes((8, 32))
    assert page_bytes((8, 32)) != page_bytes((8, 31))


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        (StackConfig((LayerConfig(2, 8, 2),), 256), None),
        (dict(layers=(LayerConfig(0, 8, 2),), head_width=8), "an attention of 0 heads"),
        (dict(layers=(LayerConfig(2, 8, 0),), head_width=8), "an attention of 0 heads"),
        (dict(layers=(LayerConfig(2, 8, -1),), head_width=8), "an attention of -1 heads"),
        (dict(layers=(LayerConfig(2, 8, 2),), head_width=257), "a head of width 257"),
        (dict(layers=(LayerConfig(2, 8, 2),), head_width=0), "a head of width 0"),
        (dict(layers=(LayerConfig(2, 1 << 40, 2),), head_width=8), "a width of 1099511627776"),
        (dict(layers=(LayerConfig(2, 8, 1 << 40),), head_width=8), "a width of 8796093022208"),
    ],
    ids=str,
)
def test_sizes_that_the_core_refuses(stack: StackConfig | dict, reason: str | None) -> None:
    """Whatever the configuration lets through, which here is everything."""
    if isinstance(stack, StackConfig):
        assert TinyModel.random(decoder=stack).core().kv == "float32"
        return
    unchecked = object.__new__(StackConfig)
    for name, value in stack.items():
        object.__setattr__(unchecked, name, value)
    tiny = TinyModel.random()
    with pytest.raises(EngineError, match=reason):
        TinyModel(replace(tiny.config, decoder=unchecked), tiny.weights, tiny.packed, tiny.floats).core()
