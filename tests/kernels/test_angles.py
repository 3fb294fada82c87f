"""Cosines and sines of rotary positions: float32 angles, as in training, and from there on no error to speak of."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from pyengine import _core

from .memory import EDGES, output, placed

DIGEST = "29f60c11680da4870bfa7f0a664303f00757db2dcf037194f21cd002e3d4466e"  # of test_the_same_bytes_on_every_machine
POSITIONS = (0, 1, 2, 3, 15, 16, 17, 1000, 4097, 8191, 32767, 100_003, 131_071, (1 << 20) - 1)


def angles(position: int, frequencies: np.ndarray, factor: float = 1.0, edge: str = "end") -> np.ndarray:
    """float32 [2, n]: cosines, sines."""
    cosines, sines = (output(frequencies.shape, np.float32, edge) for _ in range(2))
    _core.angles(position, placed(frequencies, edge), factor, cosines.array, sines.array)
    cosines.assert_clean_outside()
    sines.assert_clean_outside()
    return np.stack([cosines.array, sines.array])


def frequencies_of(base: float, dims: int) -> np.ndarray:
    return (1 / base ** (np.arange(0, dims, 2) / dims)).astype(np.float32)


def assert_rounded(got: np.ndarray, angle: np.ndarray, factor: float = 1.0) -> None:
    """`got` holds the floats next to the exact cosines and sines: half a unit in the last place, a hair more."""
    for found, function in zip(got, (math.cos, math.sin), strict=True):
        expected = np.array([function(value) for value in angle.tolist()]) * float(np.float32(factor))
        unit = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
        assert np.max(np.abs(found - expected) / unit, initial=0) <= 0.5 + 1e-5


@pytest.mark.parametrize("factor", [1.0, 1.190238])
@pytest.mark.parametrize(("base", "dims"), [(1e4, 64), (1e4, 20), (5e5, 128), (1e6, 256)])
def test_positions_of_models(base: float, dims: int, factor: float) -> None:
    frequencies = frequencies_of(base, dims)
    for position in POSITIONS:
        angle = np.float32(position) * frequencies
        assert angle.dtype == np.float32
        assert_rounded(angles(position, frequencies, factor), angle, factor)


def test_every_size_of_angle() -> None:
    """Also negative ones, up to the largest."""
    rng = np.random.default_rng(0)
    angle = (np.exp2(rng.uniform(-30, 24, 20_000)) * rng.choice([-1, 1], 20_000)).astype(np.float32)
    angle = np.concatenate([angle, np.array([0, 2**20, 2**24, -(2**24)], np.float32)])
    assert_rounded(angles(1, angle), angle)


def test_next_to_multiples_of_a_right_angle() -> None:
    """There one of both is nearly nothing: all its digits come from the reduction of the angle."""
    multiples = np.concatenate([np.arange(1, 5000), np.random.default_rng(1).integers(5000, 2**24 / 1.6, 10_000)])
    angle = (multiples * (math.pi / 2)).astype(np.float32)
    assert_rounded(angles(1, angle), angle)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 17])
def test_writes_no_more_than_it_is_asked_for(n: int, edge: str) -> None:
    frequencies = frequencies_of(1e4, 2 * n)
    assert_rounded(angles(37, frequencies, edge=edge), np.float32(37) * frequencies)


def test_no_turn_at_position_0() -> None:
    np.testing.assert_array_equal(angles(0, frequencies_of(1e4, 64)), np.repeat([[1], [0]], 32, axis=1))


def test_what_is_no_angle_is_nan() -> None:
    nothing = np.array([np.nan, np.inf, -np.inf, np.nextafter(np.float32(2**24), np.float32(np.inf)), 1e38], np.float32)
    assert np.isnan(angles(1, nothing)).all()
    assert np.isnan(angles(3, np.array([3e38], np.float32))).all()


def test_the_same_bytes_on_every_machine() -> None:
    """No function of a library stands in between. These bytes may only change on purpose: texts change with them."""
    frequencies = np.float32(1) / np.arange(1, 33, dtype=np.float32)
    found = [angles(position, frequencies).tobytes() for position in range(0, 1 << 20, 1009)]
    assert hashlib.sha256(b"".join(found)).hexdigest() == DIGEST
