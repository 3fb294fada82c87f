"""Rotary positions of one head."""

from __future__ import annotations

import numpy as np
import pytest

from .bounds import UNIT, assert_within
from .memory import EDGES, output, placed

HALVES = (*range(1, 19), 20, 24, 31, 32, 33, 40, 48, 64, 128)


def turn(kernels, x: np.ndarray, cosines: np.ndarray, sines: np.ndarray, edge: str = "end") -> np.ndarray:
    head = output(x.shape, np.float32, edge)
    head.array[:] = x
    kernels.turn(head.array, 2 * len(cosines), placed(cosines, edge), placed(sines, edge))
    head.assert_clean_outside()
    return head.array.copy()


def random_head(half: int, rest: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [2 half + rest], cosines and sines [half] of any angles."""
    rng = np.random.default_rng(half)
    angle = rng.uniform(-4, 4, half)
    return tuple(part.astype(np.float32) for part in (rng.normal(0, 2, 2 * half + rest), np.cos(angle), np.sin(angle)))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("half", HALVES)
def test_same_bytes_as_the_reference(kernels, reference, half: int, edge: str) -> None:
    for rest in (0, 1, 12):
        head = random_head(half, rest)
        got = turn(kernels, *head, edge=edge)
        assert got.tobytes() == turn(reference, *head).tobytes()
        assert got[2 * half :].tobytes() == head[0][2 * half :].tobytes()


@pytest.mark.parametrize("half", HALVES)
def test_against_float64(reference, half: int) -> None:
    """Multiplied as complex numbers: two products and their sum, each rounded."""
    x, cosines, sines = random_head(half)
    wide = x.astype(np.float64)
    turned = (wide[:half] + 1j * wide[half:]) * (cosines.astype(np.float64) + 1j * sines)
    expected = np.concatenate([turned.real, turned.imag])
    c, s = np.abs(np.tile(cosines, 2)), np.abs(np.tile(sines, 2))
    terms = np.abs(wide) * c + np.abs(np.roll(wide, half)) * s
    assert_within(turn(reference, x, cosines, sines), expected, UNIT * (terms + np.abs(expected)) * (1 + UNIT))


def test_every_operation_is_rounded(kernels) -> None:
    """NumPy's float32 is the definition: a fused multiply-add would keep what a product's rounding loses."""
    x, c, s = random_head(64)
    a, b = x[:64], x[64:]
    expected = np.concatenate([a * c - b * s, b * c + a * s])
    assert turn(kernels, x, c, s).tobytes() == expected.tobytes()


def test_a_right_angle(kernels) -> None:
    """(1, 3) and (2, 4), each by 90 degrees; what is behind them stays."""
    x = np.array([1, 2, 3, 4, 9], np.float32)
    zeros, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
    assert turn(kernels, x, zeros, ones).tolist() == [-3, -4, 1, 2, 9]
    assert turn(kernels, x, ones, zeros).tolist() == x.tolist()


@pytest.mark.parametrize("half", [1, 7, 8, 16, 20])
def test_nan_stays_nan(kernels, half: int) -> None:
    for part in range(3):
        head = random_head(half)
        head[part][half - 1] = np.nan
        assert np.isnan(turn(kernels, *head)).nonzero()[0].tolist() == [half - 1, 2 * half - 1]
