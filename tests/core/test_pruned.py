"""Layers of different shapes: what was removed is gone, and a model that never needed it gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from pyengine import _core
from pyengine.canonical import ModelConfig, tensor_specs

from ..oracle.tiny import Sizes, random_tensors
from .models import COMPUTE, TinyModel, model_config, new_session, step

CHANGES = dict(width=20, source_vocab=50, target_vocab=50, max_positions=64)
FULL = model_config(encoder=(2, 5, 33), decoder=(3, 5, 40), **CHANGES)

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
    for name, stack in config.stacks():
        for i, (layer, (heads, cross, neurons)) in enumerate(zip(stack.layers, kept[name], strict=True)):
            for (part, attention), own in zip(layer.attentions(), (heads, cross)):
                stays = np.isin(np.arange(attention.heads), own)
                rows[f"{name}.layers.{i}.{part}"] = np.repeat(stays, attention.head_width)
            rows[f"{name}.layers.{i}.ffn"] = np.isin(np.arange(layer.feed_forward.width), neurons)
    return rows


def pruned_sizes(kept: Mapping[str, Kept]) -> dict[str, Sizes]:
    return {
        name: Sizes(tuple((len(heads), len(neurons), *[len(cross)] * bool(cross)) for heads, cross, neurons in each), 4)
        for name, each in kept.items()
    }


def silenced_and_pruned(weights: str, seed: int) -> tuple[TinyModel, TinyModel]:
    """The full model, where some heads have values of zero and some neurons an input of zero; without these."""
    full = random_tensors(FULL, seed)
    pruned = dict(full)
    for part, stays in rows_of(FULL, KEPT).items():
        names = ("q", "k", "v", "output") if part.endswith("attention") else ("up", "down")
        *inputs, output = (f"{part}.{name}" for name in names)
        for kind in ("weight", "bias"):
            full[f"{inputs[-1]}.{kind}"][~stays] = 0
            for name in inputs:
                pruned[f"{name}.{kind}"] = full[f"{name}.{kind}"][stays]
        full[f"{output}.weight"][:, ~stays] = 0  # read zeros only, but a row's scale would depend on them
        pruned[f"{output}.weight"] = full[f"{output}.weight"][:, stays]
    config = model_config(**CHANGES, **pruned_sizes(KEPT))
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
        sizes = Sizes(tuple((heads, 8, cross) for heads, cross in layers), head_width=64)
        session = new_session(TinyModel.random(decoder=sizes).core(kv))
        step(session, sources={0: [1]}, rows=[(0, 0, [1])])
        return session.cache_bytes

    assert page_bytes((8, 8), (8, 8), (8, 8), (8, 8)) == page_bytes((1, 5), (15, 5), (9, 2), (7, 3))
    assert page_bytes((8, 8), (8, 8), (8, 8), (8, 8)) == page_bytes((8, 32))
    assert page_bytes((8, 32)) != page_bytes((8, 31))


def test_the_widest_heads() -> None:
    assert TinyModel.random(decoder=Sizes(((2, 8, 2),), head_width=256)).core().kv == "float32"
