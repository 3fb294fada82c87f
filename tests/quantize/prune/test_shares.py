"""A budget over layers against every way to split it, and against the greedy one where that is exact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pyengine.errors import OptionError
from pyengine.quantize.prune.shares import split_removals


@pytest.mark.parametrize("seed", range(10))
def test_no_split_costs_less(seed: int) -> None:
    random = np.random.default_rng(seed)
    curves = [np.cumsum(random.random(n) ** 3).tolist() for n in random.integers(1, 6, 4)]
    for total in range(sum(len(curve) - 1 for curve in curves) + 1):
        counts = split_removals(curves, total)
        assert sum(counts) == total

        def loss(split: tuple[int, ...]) -> float:
            return sum(curve[n] for curve, n in zip(curves, split))

        splits = itertools.product(*(range(len(curve)) for curve in curves))
        assert loss(tuple(counts)) <= min(loss(split) for split in splits if sum(split) == total) + 1e-12


def test_convex_curves_are_split_by_the_cheapest_next_step() -> None:
    random = np.random.default_rng(11)
    steps = [np.sort(random.random(8)) for _ in range(5)]
    curves = [np.concatenate([[0.0], np.cumsum(step)]) for step in steps]
    cheapest = sorted((cost, layer) for layer, step in enumerate(steps) for cost in step)[:17]
    wanted = [sum(layer == i for _, layer in cheapest) for i in range(5)]
    assert split_removals(curves, 17) == wanted


def test_equal_layers_and_none() -> None:
    assert split_removals([[0.0, 1.0, 2.0]] * 3, 3) == split_removals([[0.0, 1.0, 2.0]] * 3, 3) == [2, 1, 0]
    assert split_removals([], 0) == []
    assert split_removals([[0.0], [0.0, 3.0]], 1) == [0, 1]


def test_what_cannot_be_split() -> None:
    with pytest.raises(OptionError, match="total: expected 0 to 2 steps, found 3"):
        split_removals([[0.0, 1.0], [0.0, 1.0]], 3)
    for curves in ([[]], [[0.0, float("nan")]]):
        with pytest.raises(OptionError, match="curves: expected finite losses"):
            split_removals(curves, 0)
