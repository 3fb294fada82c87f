"""Mixed precision: against every choice there is, on small cases."""

from __future__ import annotations

import itertools
from typing import Iterator

import numpy as np
import pytest

from pyengine.errors import OptionError
from pyengine.quantize.measuring.budget import Candidate, Choice, least_bytes, least_error

UNITS = {
    "embed": {"int4": Candidate(50, 0.09), "int8": Candidate(100, 0.001), "float32": Candidate(400, 0.0)},
    "qkv": {"int4": Candidate(15, 0.05), "int8": Candidate(30, 0.001), "float32": Candidate(120, 0.0)},
}


def random_units(seed: int, count: int = 5, types: int = 4) -> dict[str, dict[str, Candidate]]:
    """Some of whose types are worth nothing: larger and worse than others."""
    generator = np.random.default_rng(seed)
    return {
        f"unit{i}": {
            f"type{j}": Candidate(int(generator.integers(1, 100)), float(generator.exponential()))
            for j in range(types)
        }
        for i in range(count)
    }


def every_choice(
    units: dict[str, dict[str, Candidate]], weights: dict[str, float]
) -> Iterator[tuple[int, float]]:
    for chosen in itertools.product(*(types.values() for types in units.values())):
        yield sum(c.bytes for c in chosen), sum(weights[unit] * c.error for unit, c in zip(units, chosen))


def check(choice: Choice, units: dict[str, dict[str, Candidate]], weights: dict[str, float]) -> None:
    """The sums are those of the types."""
    assert list(choice.types) == list(units)
    chosen = {unit: units[unit][name] for unit, name in choice.types.items()}
    assert choice.bytes == sum(c.bytes for c in chosen.values())
    assert choice.error == pytest.approx(sum(weights[unit] * c.error for unit, c in chosen.items()))


@pytest.mark.parametrize("seed", range(40))
def test_against_every_choice(seed: int) -> None:
    """Within the budget, within the largest change of one unit of the optimum, and usually the optimum itself."""
    units = random_units(seed)
    weights = {
        unit: float(w) for unit, w in zip(units, np.random.default_rng(seed + 99).uniform(0.5, 2, len(units)))
    }
    choices = list(every_choice(units, weights))
    jump_error = max(
        weights[unit] * (max(c.error for c in types.values()) - min(c.error for c in types.values()))
        for unit, types in units.items()
    )
    jump_bytes = max(
        max(c.bytes for c in types.values()) - min(c.bytes for c in types.values())
        for types in units.values()
    )
    sizes = sorted(size for size, _ in choices)
    for budget in (sizes[0], sizes[len(sizes) // 10], sizes[len(sizes) // 2], sizes[-1]):
        choice = least_error(units, budget, weights=weights)
        check(choice, units, weights)
        assert choice.bytes <= budget
        optimum = min(error for size, error in choices if size <= budget)
        assert optimum - 1e-9 <= choice.error <= optimum + jump_error
        if budget == sizes[-1]:
            assert choice.error == pytest.approx(optimum)
    errors = sorted(error for _, error in choices)
    for limit in (errors[0] + 1e-9, errors[len(errors) // 10], errors[len(errors) // 2], errors[-1]):
        choice = least_bytes(units, limit, weights=weights)
        check(choice, units, weights)
        assert choice.error <= limit + 1e-12
        optimum = min(size for size, error in choices if error <= limit)
        assert optimum <= choice.bytes <= optimum + jump_bytes


@pytest.mark.parametrize("seed", range(10))
def test_the_prices_of_lagrange_are_optimal(seed: int) -> None:
    """For any price, the choice of each unit on its own is optimal at the size it has; so must ours be."""
    units = random_units(seed)
    ones = dict.fromkeys(units, 1.0)
    for price in np.geomspace(1e-4, 1, 30):
        picked = {
            unit: min(types.values(), key=lambda c: c.error + price * c.bytes)
            for unit, types in units.items()
        }
        size = sum(c.bytes for c in picked.values())
        choice = least_error(units, size)
        assert choice.error == pytest.approx(sum(c.error for c in picked.values()))
        assert choice.error == pytest.approx(min(e for s, e in every_choice(units, ones) if s <= size))


def test_the_error_of_a_choice_is_a_budget_for_it() -> None:
    """However the sums of its parts would round in another order."""
    for seed in range(200):
        errors = np.random.default_rng(seed).exponential(size=(9, 2)) * 1e-9
        units = {
            f"unit{i}": {"small": Candidate(10, max(pair)), "large": Candidate(20 + i, min(pair))}
            for i, pair in enumerate(errors.tolist())
        }
        smallest = least_error(units, 10 * len(units))
        assert least_bytes(units, smallest.error).types == smallest.types


def test_a_rising_budget_and_weights() -> None:
    errors = [least_error(UNITS, budget).error for budget in (65, 80, 115, 130, 520)]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0
    assert least_error(UNITS, 115).types == {"embed": "int8", "qkv": "int4"}
    assert least_error(UNITS, 115, weights={"embed": 0.01, "qkv": 1}).types["qkv"] == "int8"
    assert least_error(UNITS, 115) == least_error(UNITS, 115)


def test_what_is_impossible_says_what_is_possible() -> None:
    with pytest.raises(
        OptionError, match="size: expected at least 65 bytes, the smallest possible, found 64"
    ):
        least_error(UNITS, 64)
    units = {name: {t: c for t, c in types.items() if t != "float32"} for name, types in UNITS.items()}
    with pytest.raises(
        OptionError, match="error: expected at least 0.002, the smallest possible, found 0.001"
    ):
        least_bytes(units, 0.001)
