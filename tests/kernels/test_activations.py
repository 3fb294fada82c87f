"""Our own exp, tanh, erf and what is made of them, over their whole range, against float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ..oracle.reference import ACTIVATIONS
from .bounds import EXP_ERROR, TANH_ERROR, UNIT, assert_within
from .pages import attend
from .products import Product, run

ERF_ERROR = 3e-7  # absolute, as base/mathf.h states it


def activate(kernels, kind: str, x: np.ndarray) -> np.ndarray:
    """A product of 1 with x: the accumulator is x itself."""
    n = -(-len(x) // 16) * 16
    w = np.zeros((n, 1), np.float32)
    w[: len(x), 0] = x
    return run(kernels, Product(np.ones((1, 1), np.float32), w, None, None), activation=kind)[0, : len(x)]


def points(low: float, high: float) -> np.ndarray:
    """Evenly, then around 0 in all sizes, and the ends."""
    tiny = np.logspace(-38, 0, 400)
    every = np.concatenate([np.linspace(low, high, 5000), tiny, -tiny, [0.0, low, high]])
    return np.clip(every, low, high).astype(np.float32)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_same_bytes_as_the_reference(kernels, reference, kind: str) -> None:
    for x in (points(-10, 10), points(-200, 200), np.array([3e38, -3e38, -0.0, np.inf, -np.inf], np.float32)):
        assert activate(kernels, kind, x).tobytes() == activate(reference, kind, x).tobytes()


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_far_out(reference, kind: str) -> None:
    """No overflow to NaN: 0, 1, -1 or x itself."""
    got = activate(reference, kind, np.array([1e30, -1e30], np.float32))
    assert got[0] == np.float32({"tanh": 1, "sigmoid": 1}.get(kind, 1e30))
    # e^-x stops at e^88, so that the left tails of silu and quick_gelu are x e^-88 where they should be nothing.
    slack = {"silu": 1e30 * math.exp(-87.9), "quick_gelu": 1e30 * math.exp(-87.9)}.get(kind, 1e-37)
    assert_within(got[1], {"tanh": -1, "linear": np.float32(-1e30)}.get(kind, 0), slack)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_nan_stays_nan(kernels, kind: str) -> None:
    x = np.linspace(-2, 2, 21, dtype=np.float32)
    x[[0, 9, 20]] = np.nan
    np.testing.assert_array_equal(np.isnan(activate(kernels, kind, x)), np.isnan(x))


def test_exp_of_negative_arguments(reference) -> None:
    """Two keys with scores 0 and x and values 0 and 1: the result is e^x / (1 + e^x)."""
    worst = 0.0
    for x in np.concatenate([np.linspace(-87.3, 0, 700), -np.logspace(-7, 0, 50)]).astype(np.float32):
        k, v = np.array([0, x], np.float32).reshape(2, 1, 1), np.array([0, 1], np.float32).reshape(2, 1, 1)
        got = float(attend(reference, "float32", np.ones((1, 1), np.float32), k, v, 1.0)[0, 0])
        expected = math.exp(x) / (1 + math.exp(x))
        worst = max(worst, abs(got - expected) / expected)
    assert worst <= 2 * EXP_ERROR + 4 * UNIT  # in numerator and denominator


def test_exp_of_positive_arguments(reference) -> None:
    """sigmoid(-x) = 1 / (1 + e^x), which is e^-x to float32 from 20 on."""
    x = np.linspace(20, 87, 20000).astype(np.float32)
    expected = 1 / (1 + np.exp(x.astype(np.float64)))
    assert_within(activate(reference, "sigmoid", -x), expected, (EXP_ERROR + 4 * UNIT) * expected)


def test_exp_at_the_end_of_its_range(reference) -> None:
    """The smallest argument that is not cut to 0 gives a normal number, the next one exactly 0."""
    low = np.float32(-87.3365402)
    for x, normal in ((np.nextafter(low, np.float32(0)), True), (low, False)):
        _, total = reference.exp_sum(np.array([0, x], np.float32))
        assert total == 1  # e^x is far below 1's last place; what counts is that nothing faults
        k, v = np.array([0, x], np.float32).reshape(2, 1, 1), np.array([0, 1], np.float32).reshape(2, 1, 1)
        got = attend(reference, "float32", np.ones((1, 1), np.float32), k, v, 1.0)[0, 0]
        assert (got >= np.finfo(np.float32).tiny) is np.bool_(normal)
        assert got == 0 or normal


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_bounded_functions(reference, kind: str) -> None:
    """1 / (1 + e) and 1 - 2 / (e + 1), e^x with its error; d/de of either is at most 1 in e's relative error."""
    x = points(-100, 100)
    expected = ACTIVATIONS[kind](x.astype(np.float64))
    assert_within(activate(reference, kind, x), expected, TANH_ERROR)


def test_gelu(reference) -> None:
    x = points(-30, 30)
    wide = x.astype(np.float64)
    bound = np.abs(wide) / 2 * (ERF_ERROR + UNIT * np.abs(wide) * np.exp(-(wide**2) / 2)) + 4 * UNIT * np.abs(wide)
    assert_within(activate(reference, "gelu", x), ACTIVATIONS["gelu"](wide), bound)


def test_erf_over_its_range(reference) -> None:
    """From gelu(x) = x/2 (1 + erf(x / sqrt 2)) at x >= 1, where nothing cancels."""
    x = np.linspace(1, 8, 20000).astype(np.float32)
    wide = x.astype(np.float64)
    got = 2 * activate(reference, "gelu", x).astype(np.float64) / wide - 1
    expected = np.array([math.erf(value / math.sqrt(2)) for value in wide])
    assert_within(got, expected, ERF_ERROR + 8 * UNIT)


@pytest.mark.parametrize("kind", ["silu", "quick_gelu", "gelu_tanh"])
def test_products_with_x(reference, kind: str) -> None:
    """|x| times the bound of the bounded factor; its argument's rounding adds at most u |x| in the bend."""
    x = points(-80, 80)
    wide = x.astype(np.float64)
    factor = EXP_ERROR + 8 * UNIT + 16 * UNIT * np.minimum(np.abs(wide), 8)
    assert_within(activate(reference, kind, x), ACTIVATIONS[kind](wide), np.abs(wide) * factor)


# (absolute, of x): what docs/numerics.md states, where the bounds above allow for every rounding at its worst.
STATED = {
    "tanh": (2e-7, 0), "sigmoid": (2e-7, 0), "gelu": (0, 3e-7), "gelu_tanh": (0, 2e-7), "silu": (0, 2e-7),
    "quick_gelu": (0, 2e-7),
}  # fmt: skip


@pytest.mark.parametrize("kind", STATED)
def test_errors_are_those_that_the_documentation_states(reference, kind: str) -> None:
    x = np.concatenate([points(-12, 12), points(-80, 80)])
    wide = x.astype(np.float64)
    absolute, of_x = STATED[kind]
    assert_within(activate(reference, kind, x), ACTIVATIONS[kind](wide), absolute + of_x * np.abs(wide))


def test_linear_is_x_itself(kernels) -> None:
    x = np.concatenate([points(-10, 10), np.array([3e38, -3e38, np.inf, -np.inf], np.float32)])
    np.testing.assert_array_equal(activate(kernels, "linear", x), x)


def test_relu_is_exact(reference) -> None:
    x = points(-10, 10)
    np.testing.assert_array_equal(activate(reference, "relu", x), np.maximum(x, 0))
    assert not np.signbit(activate(reference, "relu", np.array([-0.0, -1.0], np.float32))).any()
