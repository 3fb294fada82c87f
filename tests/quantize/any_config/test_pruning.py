"""Heads, neurons and layers removed from any configuration: shapes agree, and what is left says what it should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pyengine.canonical import AttentionConfig, CanonicalModel, FeedForwardConfig
from pyengine.errors import OptionError
from pyengine.quantize.prune.depth import cut_layers, plan_cuts
from pyengine.quantize.prune.masks import Blocks
from pyengine.quantize.prune.model import prune_model
from pyengine.quantize.prune.sparse import sparsify
from pyengine.quantize.prune.teacher import fit_to_teacher, outputs_lost
from pyengine.quantize.seeing.text import Line

from .models import EVERY, SEEDS, START, exact, language_model, length_of, lines, random_model, spoken, values


def prunable(model: CanonicalModel) -> dict[str, float]:
    """Shares of what of the model can go."""
    shares = {"ffn": 0.25}
    for name, part in model.config.sublayers():
        stack = dict(model.config.stacks())[name.partition(".")[0]]
        shared = stack.relative_reach or stack.slopes
        if isinstance(part, AttentionConfig) and part.kv_heads > 1 and not (shared and "self" in name):
            shares["heads"] = 0.2
    return shares


def deep(seed: int) -> bool:
    """Whether a layer may go."""
    return any(len(stack.layers) > 1 for _, stack in random_model(seed).config.stacks())


def kept_rows(whole: np.ndarray, left: np.ndarray) -> list[int]:
    return [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in left]


@pytest.mark.parametrize("seed", EVERY)
def test_what_is_left_is_the_model_with_zeros_elsewhere(seed: int) -> None:
    """The oracle: the whole model, the columns of whose outputs are zero where heads and neurons went."""
    model = random_model(seed)
    found = prune_model(model, None, lines(model), reconstruct=False, **prunable(model))
    pruned = found.model
    pruned.validate()
    assert found.removed
    zeros = {}
    new = dict(pruned.config.sublayers())
    for name, part in model.config.sublayers():
        left = new[name]
        if isinstance(part, FeedForwardConfig) and isinstance(left, FeedForwardConfig):
            parts, output, width = ("gate", "up") if part.gated else ("up",), "down", part.width
            assert left == replace(part, width=left.width)
        else:
            assert isinstance(part, AttentionConfig) and isinstance(left, AttentionConfig)
            parts, output, width = ("q",), "output", part.heads * part.head_width
            assert left == replace(part, heads=left.heads, kv_heads=left.kv_heads)
            group = part.heads // part.kv_heads
            assert left.heads == group * left.kv_heads
            heads = {row // part.head_width // group for row in rows_of(model, pruned, f"{name}.q")}
            for shared in ("k", "v"):
                assert {row // part.head_width for row in rows_of(model, pruned, f"{name}.{shared}")} == heads
        kept = [rows_of(model, pruned, f"{name}.{each}") for each in parts]
        assert all(each == kept[0] for each in kept)
        matrix = model.tensors[f"{name}.{output}.weight"].read().copy()
        matrix[:, np.setdiff1d(np.arange(width), kept[0])] = 0
        zeros[f"{name}.{output}.weight"] = matrix
    text = lines(model, 2, seed=1)
    expected = exact(model, text, zeros)
    assert length_of(exact(pruned, text) - expected) < 1e-12 * length_of(expected)
    assert length_of(spoken(pruned, text) - expected) < 1e-3 * length_of(expected)


def rows_of(whole: CanonicalModel, pruned: CanonicalModel, name: str) -> list[int]:
    return kept_rows(*(each.tensors[f"{name}.weight"].read() for each in (whole, pruned)))


@pytest.mark.parametrize("seed", EVERY)
def test_what_is_left_makes_up_for_the_rest(seed: int) -> None:
    """The fit lowers each layer's error, and writes into biases that there were not."""
    model = random_model(seed)
    found = prune_model(model, None, lines(model), **prunable(model))
    found.model.validate()
    assert all(row.error_after <= row.error_before for row in found.removed)
    assert any(row.error_after < row.error_before for row in found.removed)
    parts = dict(found.model.config.sublayers())
    for row in found.removed:
        part = parts[row.layer]
        assert part.bias if isinstance(part, FeedForwardConfig) else part.output_bias
    assert set(found.lost) == {name for name, _ in model.config.stacks()}
    assert all(np.isfinite(share) for share in found.lost.values())
    assert np.isfinite(spoken(found.model, lines(model, 2))).all()


@pytest.mark.parametrize("seed", SEEDS[:9:3])
def test_a_language_model_is_pruned_as_one_with_a_start_token(seed: int) -> None:
    """Its text begins with that token; the rest is the same."""
    started, model = random_model(seed), language_model(seed)
    text = lines(started)
    own: list[Line] = [(None, [START, *target]) for _, target in text if target is not None]
    expected, found = (
        prune_model(each, None, given, **prunable(started)) for each, given in ((started, text), (model, own))
    )
    assert found.removed == expected.removed and found.removed
    for name, tensor in expected.model.tensors.items():
        np.testing.assert_array_equal(found.model.tensors[name].read(), tensor.read(), err_msg=name)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_that_is_its_own_teacher_stays(seed: int) -> None:
    model = random_model(seed)
    text = lines(model, 8)
    same = fit_to_teacher(model, model, None, text)
    expected = exact(model, text[:2])
    assert length_of(exact(same, text[:2]) - expected) < 1e-3 * length_of(expected)
    assert all(share < 1e-6 for share in outputs_lost(model, model, None, text).values())


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if deep(seed)])
def test_layers_that_go(seed: int) -> None:
    """Those that are left are those of the model, and the fit is no worse than none where it has a place."""
    model = random_model(seed)
    counts = {name: len(stack.layers) - 1 for name, stack in model.config.stacks()}
    text = lines(model)
    cuts = plan_cuts(model, None, text, counts)
    assert [(cut.stack, cut.first, cut.end) for cut in cuts] == [
        (name, 1, count + 1) for name, count in counts.items() if count
    ]
    plain, fitted = (cut_layers(model, cuts, fit=fit) for fit in (False, True))
    for each in (plain, fitted):
        each.validate()
        assert all(len(stack.layers) == 1 for _, stack in each.config.stacks())
    before = values(model)
    assert all(np.array_equal(before[name], tensor.read()) for name, tensor in plain.tensors.items())
    for cut in cuts:
        stack = dict(model.config.stacks())[cut.stack]
        if not cut.last:
            assert cut.error <= cut.error_before + 1e-6
            assert (cut.scale == 1).all() or stack.placement == "post"
            nowhere = stack.norm == "rms" and (stack.placement == "post" or stack.after_norms)
            assert (cut.shift == 0).all() if nowhere else (cut.shift != 0).any()
    assert np.isfinite(exact(fitted, text[:2])).all()


def test_shifts_of_a_cut_go_into_the_stream() -> None:
    """The oracle: what the second of two layers adds, made the same for all tokens, which a shift can stand for."""
    seed = next(
        seed for seed in range(200)
        for _, stack in random_model(seed).config.stacks()
        if stack.placement == "parallel" and len(stack.layers) == 2 and not stack.after_norms
        and random_model(seed).config.encoder is None
    )  # fmt: skip
    model = random_model(seed)
    others = {}
    for name in ("self_attention.output", "ffn.down"):
        weight = f"decoder.layers.1.{name}.weight"
        others[weight] = np.zeros_like(model.tensors[weight].read())
    constant = replace(model, tensors={
        name: replace(tensor, load=lambda name=name: others[name]) if name in others else tensor
        for name, tensor in model.tensors.items()
    })  # fmt: skip
    text = lines(model)
    small = cut_layers(constant, plan_cuts(constant, None, text, {"decoder": 1}), fit=True)
    expected = exact(constant, text[:3])
    assert length_of(exact(small, text[:3]) - expected) < 1e-4 * length_of(expected)


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_zeros(seed: int) -> None:
    model = random_model(seed)
    sparse, done = sparsify(model, Blocks(0.5), "magnitude", {})
    sparse.validate()
    assert len(done) == len({row.name for row in done}) and all(0.2 < row.share < 0.9 for row in done)
    assert np.isfinite(spoken(sparse, lines(model, 2))).all()


def test_heads_that_share_a_table_stay() -> None:
    seed = next(
        seed for seed in range(200)
        for _, stack in random_model(seed).config.stacks()
        if stack.relative_reach and random_model(seed).config.encoder is None
    )  # fmt: skip
    model = random_model(seed)
    with pytest.raises(OptionError, match="heads: expected a share that leaves some of each; 0 of 0 can go"):
        prune_model(model, None, lines(model), heads=0.5)
