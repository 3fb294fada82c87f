"""The functions that scores are made of (csrc/base/mathd.h), against Python's decimals of 50 digits."""

from __future__ import annotations

import decimal
import hashlib
import math
from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
import pytest

from pyengine import _core

ERROR = 0.65  # ulp, as base/mathd.h states it
LENGTHS = np.arange(1, 131_073)


def errors(found: np.ndarray, exact: Callable[[Decimal], Decimal], values: Sequence[float]) -> list[float]:
    """In units of the last place of the exact value."""
    with decimal.localcontext() as context:
        context.prec = 50
        expected = [exact(Decimal(value)) for value in values]
        return [
            float(abs(Decimal(ours) - theirs)) / math.ulp(float(theirs))
            for ours, theirs in zip(found.tolist(), expected, strict=True)
        ]


def test_exp() -> None:
    rng = np.random.default_rng(1)
    values = [*rng.uniform(-708, 709.7, 500), *rng.uniform(-1, 1, 500), *rng.uniform(-1, 1, 50) * 1e-9, -708.39, 709.78]
    assert max(errors(_core.exp(values), Decimal.exp, values)) < ERROR
    special = _core.exp([0.0, -0.0, -708.4, -np.inf, 709.8, np.inf, np.nan])
    assert special[:6].tolist() == [1, 1, 0, 0, np.inf, np.inf] and np.isnan(special[6])


def test_log() -> None:
    rng = np.random.default_rng(2)
    near_one = 1 + rng.uniform(-1, 1, 300) * 10.0 ** -rng.integers(0, 16, 300)
    values = [*rng.uniform(0.5, 2, 300), *near_one[near_one != 1], *10.0 ** rng.uniform(-320, 308, 300), math.sqrt(2)]
    assert max(errors(_core.log(values), Decimal.ln, values)) < ERROR
    special = _core.log([1.0, 0.0, np.inf, -1.0, np.nan])
    assert special[:3].tolist() == [0, -np.inf, np.inf] and np.isnan(special[3:]).all()


@pytest.mark.parametrize("exponent", [0.6, 1.3, -0.5, 1e-9, -49.5, 54.3])
def test_power(exponent: float) -> None:
    values = [*np.random.default_rng(3).integers(1, 131_073, 200).tolist(), *range(1, 100), 0.75, 1e-3]
    found = _core.power(values, exponent)
    assert max(errors(found, lambda base: (base.ln() * Decimal(exponent)).exp(), values)) < ERROR


def test_powers_that_a_double_can_hold_are_exact() -> None:
    """So a length_penalty of 1 divides by the length itself, and one of 0 by 1."""
    lengths = LENGTHS.astype(np.float64)
    assert np.array_equal(_core.power(LENGTHS, 1.0), lengths)
    assert np.array_equal(_core.power(LENGTHS, 0.0), np.ones(len(LENGTHS)))
    assert np.array_equal(_core.power(LENGTHS, 2.0), lengths * lengths)
    assert np.array_equal(_core.power(lengths * lengths, 0.5), lengths)
    assert np.array_equal(_core.power(2.0 ** np.arange(40), -3.0), 0.125 ** np.arange(40))


def test_shapes() -> None:
    assert _core.exp(np.zeros((2, 3))).tolist() == [[1.0] * 3] * 2
    assert _core.log(np.ones((4, 2))[:, 0]).tolist() == [0.0] * 4
    assert _core.power(9, 0.5) == 3.0 and _core.exp(np.zeros((2, 0))).shape == (2, 0)


def test_every_build_has_the_same_bytes() -> None:
    """Whatever the compiler, its options and the machine."""
    values = np.random.default_rng(4).integers(1, 2**53, 20_000) / 2**50
    found = (_core.exp(-8 * values), _core.log(values), _core.power(values, -1.7))
    digest = hashlib.sha256(b"".join(array.tobytes() for array in found)).hexdigest()
    assert digest[:16] == "f276ca7995a0c93b"
