"""Mixed precision: a type for each unit of a model, under a budget of bytes or of error.

    minimise  sum_i g_i e_i(t_i)     subject to  sum_i b_i(t_i) <= B            (or the two sums the other way round)

for units i (layers whose types may differ), types t with bytes b and error e, and weights g. By Lagrange: for a price
lambda each unit takes the type with the least g e + lambda b on its own. As lambda falls, units step along their lower
convex hulls, so the sweep over all lambda is: every hull step of every unit, in the order of its gain per byte.
Shoham and Gersho ("Efficient bit allocation for an arbitrary set of quantizers", 1988).

The sweep ends where a step does not fit. What is left of the budget is then spent greedily: on the change of one unit,
or of one at the expense of another, that helps most, until none fits. The result is within the largest change of one
unit of the optimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Mapping

import numpy as np

from pyengine.errors import OptionError

__all__ = ["Candidate", "Choice", "least_bytes", "least_error"]


@dataclass(frozen=True)
class Candidate:
    """What a type costs a unit: bytes, and an error in any unit that adds up over units."""

    bytes: int
    error: float


@dataclass(frozen=True)
class Choice:
    """The type of each unit, the sum of bytes, and the sum of weighted errors."""

    types: dict[str, str]
    bytes: int
    error: float


Units = Mapping[str, Mapping[str, Candidate]]  # unit -> type -> what it costs
_Option = tuple[float, float, str]  # (cost, value, type): what is limited, and what is to be small


def least_error(units: Units, budget: int, *, weights: Mapping[str, float] | None = None) -> Choice:
    """Types with little weighted error (weights default to 1) in at most ``budget`` bytes.

    Raises OptionError, saying how small it can be, if no choice fits.
    """
    options = {
        unit: [(float(c.bytes), _weight(weights, unit) * c.error, t) for t, c in types.items()]
        for unit, types in units.items()
    }
    found = _allocate(options, float(budget))
    if found is None:
        smallest = sum(min(c.bytes for c in types.values()) for types in units.values())
        raise OptionError(
            f"size: expected at least {smallest:,} bytes, the smallest possible, found {budget:,}"
        )
    return _choice(units, found, weights)


def least_bytes(units: Units, budget: float, *, weights: Mapping[str, float] | None = None) -> Choice:
    """Types with few bytes whose weighted errors (weights default to 1) add up to at most ``budget``.

    Raises OptionError, saying how small the error can be, if no choice fits.
    """
    options = {
        unit: [(_weight(weights, unit) * c.error, float(c.bytes), t) for t, c in types.items()]
        for unit, types in units.items()
    }
    found = _allocate(options, budget)
    if found is None:
        smallest = sum(min(cost for cost, _, _ in unit) for unit in options.values())
        raise OptionError(
            f"error: expected at least {smallest:.6g}, the smallest possible, found {budget:.6g}"
        )
    return _choice(units, found, weights)


def _weight(weights: Mapping[str, float] | None, unit: str) -> float:
    return 1.0 if weights is None else weights[unit]


def _choice(units: Units, types: dict[str, str], weights: Mapping[str, float] | None) -> Choice:
    chosen = {unit: units[unit][name] for unit, name in types.items()}
    error = math.fsum(_weight(weights, unit) * candidate.error for unit, candidate in chosen.items())
    return Choice(types, sum(candidate.bytes for candidate in chosen.values()), error)


def _allocate(options: dict[str, list[_Option]], limit: float) -> dict[str, str] | None:
    """The type of each unit, with a small sum of values at a sum of costs within ``limit``; None if none fits."""
    hulls = {unit: _hull(unit_options) for unit, unit_options in options.items()}
    chosen = {unit: hull[0] for unit, hull in hulls.items()}
    if _cost(chosen) > limit:
        return None
    steps = [
        ((to[1] - at[1]) / (to[0] - at[0]), place, unit, to)
        for place, (unit, hull) in enumerate(hulls.items())
        for at, to in zip(hull, hull[1:])
    ]
    for _, _, unit, to in sorted(steps, key=lambda step: step[:2]):
        changed = {**chosen, unit: to}
        if _cost(changed) > limit:
            break
        chosen = changed
    _spend(options, chosen, limit)
    return {unit: option[2] for unit, option in chosen.items()}


def _cost(chosen: dict[str, _Option]) -> float:
    """Rounded once, so that what a choice was found to cost, in whatever order, is enough to be chosen again."""
    return math.fsum(cost for cost, _, _ in chosen.values())


def _hull(options: list[_Option]) -> list[_Option]:
    """The lower convex hull, from the least cost to the least value; slopes are negative and rise."""
    hull: list[_Option] = []
    for option in sorted(options, key=lambda option: option[:2]):
        if hull and option[1] >= hull[-1][1]:
            continue  # costs more, and is no better
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(a: _Option, b: _Option) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _spend(options: dict[str, list[_Option]], chosen: dict[str, _Option], limit: float) -> None:
    """Change one unit or two at a time to what lowers the value most and fits, until nothing does."""
    # The first move is none at all: with it, a pair is a single change.
    moves = [("", (0.0, 0.0, ""))] + [(unit, option) for unit, held in options.items() for option in held]
    cost, value = (np.array([option[i] for _, option in moves]) for i in (0, 1))
    owner = np.array([list(options).index(unit) if unit else -1 for unit, _ in moves])
    apart = owner[:, None] != owner[None, :]
    smallest_gain = 1e-12 * sum(abs(option[1]) for option in chosen.values())  # below it is rounding
    while True:
        at = np.array([chosen.get(unit, option)[:2] for unit, option in moves])
        cost_change, gain = cost - at[:, 0], at[:, 1] - value
        room = limit - _cost(chosen)
        gains = np.where(
            apart & (np.add.outer(cost_change, cost_change) <= room), np.add.outer(gain, gain), 0
        )
        best = np.unravel_index(np.argmax(gains), gains.shape)
        if not gains[best] > smallest_gain:
            return
        for move in best:
            if move:
                chosen[moves[move][0]] = moves[move][1]
