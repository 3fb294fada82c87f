"""Units of a gated feed-forward, from columns of gate and of up in turn."""

from __future__ import annotations

import numpy as np
import pytest

from ..oracle.reference import ACTIVATIONS
from .bounds import UNIT, assert_within
from .memory import EDGES, output
from .test_activations import STATED, activate

SIZES = (*range(1, 19), 31, 32, 33, 63, 64, 65, 100, 129, 512)


def gated(kernels, x: np.ndarray, n: int, activation: str, edge: str = "end") -> np.ndarray:
    """The units of x, in whole blocks."""
    row = output(x.shape, np.float32, edge)
    row.array[:] = x
    kernels.gate(row.array, n, activation)
    row.assert_clean_outside()
    return row.array[: len(x) // 2].copy()


def random_blocks(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(gate, up, both as they lie in memory), in whole blocks."""
    rng = np.random.default_rng(n)
    both = rng.normal(0, 2, (-(-n // 16), 2, 16)).astype(np.float32)
    return both[:, 0].reshape(-1), both[:, 1].reshape(-1), both.reshape(-1)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("n", SIZES)
def test_same_bytes_as_the_reference(kernels, reference, n: int, edge: str) -> None:
    both = random_blocks(n)[2]
    for activation in ACTIVATIONS:
        got = gated(kernels, both, n, activation, edge)
        assert got.tobytes() == gated(reference, both, n, activation).tobytes(), activation


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_times_up(kernels, activation: str) -> None:
    """The activation that products compute too, and a product rounded once."""
    for n in (1, 16, 37, 512):
        gate, up, both = random_blocks(n)
        expected = activate(kernels, activation, gate) * up
        assert gated(kernels, both, n, activation).tobytes() == expected.tobytes()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n", [1, 16, 100, 512])
def test_against_float64(reference, n: int, activation: str) -> None:
    """The activation's error times up, and the product's."""
    gate, up, both = (part.astype(np.float64) for part in random_blocks(n))
    expected = ACTIVATIONS[activation](gate) * up
    absolute, of_x = STATED.get(activation, (0, 0))
    bound = (absolute + of_x * np.abs(gate)) * np.abs(up) * (1 + UNIT) + UNIT * np.abs(expected)
    got = gated(reference, both.astype(np.float32), n, activation)
    assert_within(got, expected, bound)


def test_blocks_by_hand(kernels) -> None:
    """Gates 0 ... 39, ups 100 times as large, the last block filled up with ones."""
    gate, up = np.ones(48, np.float32), np.ones(48, np.float32)
    gate[:40], up[:40] = np.arange(40), 100 * np.arange(40)
    both = np.stack([gate.reshape(3, 16), up.reshape(3, 16)], axis=1).reshape(-1)
    got = gated(kernels, both, 40, "linear")
    assert got.tolist() == [100 * i * i for i in range(40)] + 8 * [1]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_nan(kernels, activation: str) -> None:
    for at in (0, 15, 16, 32, 63, 70):
        both = random_blocks(40)[2]
        both[at] = np.nan
        assert np.isnan(gated(kernels, both, 40, activation)).nonzero()[0].tolist() == [at // 32 * 16 + at % 16]
