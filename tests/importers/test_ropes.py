"""rope_parameters of config.json, old and new: what they ask for, and what is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyengine.errors import CheckpointError
from pyengine.formats.strict_json import Fields
from pyengine.importers.powers import powers
from pyengine.importers.ropes import rope_of, rope_parameters_of


def parameters_of(**keys: Any) -> dict[str, Any]:
    return rope_parameters_of(Fields(keys, "config.json", CheckpointError), 1e4)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"rope_type": "default", "rope_theta": 1e4}),
        ({"rope_theta": 5e5}, {"rope_type": "default", "rope_theta": 5e5}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_type": "linear", "rope_theta": 5e5, "factor": 2},
        ),
        (
            {"rope_theta": 7.0, "rope_parameters": {"rope_type": "linear", "rope_theta": 8.0, "factor": 2}},
            {"rope_type": "linear", "rope_theta": 8.0, "factor": 2},
        ),
        (
            {"rope_scaling": {"type": "a", "rope_type": "b"}, "rope_parameters": {"rope_type": "c"}},
            {"rope_type": "b", "rope_theta": 1e4},
        ),
        ({"partial_rotary_factor": 0.5}, {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
    ],
)  # fmt: skip
def test_old_keys_are_merged(keys: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parameters_of(**keys) == expected


def test_a_part_of_a_head_turns() -> None:
    rope = rope_of({"rope_theta": 16.0, "partial_rotary_factor": 0.25}, head_width=16, max_positions=40)
    assert rope.config.dims == 4
    np.testing.assert_array_equal(rope.frequencies(), np.array([1, 0.25], np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_type": "axial"}, "rope_type = 'axial'"),
        ({"rope_theta": 0}, "rope_theta: expected a positive number, found 0"),
        ({"rope_theta": True}, "rope_theta: expected a positive number, found True"),
        ({"partial_rotary_factor": 0.2}, "partial_rotary_factor: expected an even number"),
        ({"partial_rotary_factor": 1.2}, "partial_rotary_factor: expected an even number"),
        ({"mrope_section": [1, 2]}, "'mrope_section': not of this rope_type"),
        ({"rope_type": "linear"}, "factor: expected a positive number, found None"),
    ],
)
def test_others_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as info:
        rope_of({"rope_theta": 1e4, **changes}, head_width=16, max_positions=40)
    assert message in str(info.value)


SHORT = {"rope_type": "longrope", "short_factor": [1] * 8, "long_factor": [2] * 8}
LLAMA3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_type": "yarn", "factor": 2, "beta_fast": "2"}, "beta_fast: expected a positive number, found '2'"),
        ({"rope_type": "yarn", "factor": 2, "truncate": 1}, "truncate: expected true or false, found 1"),
        ({"rope_type": "yarn", "factor": 2, "rope_theta": 1.0}, "rope_theta: expected more than 1"),
        ({"rope_type": "yarn", "short_factor": [1]}, "'short_factor': not of this rope_type"),
        ({**SHORT, "short_factor": [1] * 7}, "short_factor: expected 8 numbers, found [1, 1"),
        ({**SHORT, "long_factor": [1] * 7 + [0]}, "long_factor: expected positive numbers, found 0"),
        ({**SHORT, "long_factor": None}, "long_factor: expected 8 numbers, found None"),
        ({**SHORT, "original_max_position_embeddings": 1}, "original_max_position_embeddings: expected an integer"),
        ({**SHORT, "short_factor": [1e-6] * 8}, "found some beyond 1.67772e+07 in 40 positions"),
        ({**LLAMA3, "high_freq_factor": 1}, "high_freq_factor: expected another than low_freq_factor"),
        ({"rope_type": "dynamic", "factor": 2, "partial_rotary_factor": 0.125}, "expected more than 2 dimensions"),
        ({"rope_type": "dynamic"}, "factor: expected a positive number, found None"),
    ],
)
def test_of_scalings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as info:
        rope_of({"rope_theta": 1e4, **changes}, head_width=16, max_positions=40)
    assert message in str(info.value)


def test_the_context_that_was_trained_first_stands_inside_or_outside() -> None:
    inside = {"type": "llama3", "original_max_position_embeddings": 7}
    assert parameters_of(rope_scaling=inside)["original_max_position_embeddings"] == 7
    outside = parameters_of(rope_scaling=inside, original_max_position_embeddings=9)
    assert outside["original_max_position_embeddings"] == 9
    assert "original_max_position_embeddings" not in parameters_of(original_max_position_embeddings=9)


def test_frequencies_by_length() -> None:
    """Sets of longrope are for up to the original context and beyond; dynamic ones reach ``factor`` times as far."""
    original = {"original_max_position_embeddings": 30}
    rope = rope_of({"rope_theta": 1e4, **SHORT, **original}, head_width=16, max_positions=40)
    short, long = rope.frequencies()
    assert rope.config.lengths == (30,) and rope.max_positions == 40
    np.testing.assert_array_equal(short, 2 * long)
    never = rope_of({"rope_theta": 1e4, **SHORT}, head_width=16, max_positions=40)
    assert never.config.lengths == () and never.frequencies().shape == (8,)
    rope = rope_of({"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}, head_width=16, max_positions=40)
    assert rope.config.lengths == (40, 45, 50, 55, 60, 65, 70, 75) and rope.max_positions == 80
    slower = np.diff(rope.frequencies()[:, -1])
    assert rope.frequencies().shape == (9, 8) and (slower < 0).all()
    far = rope_of({"rope_theta": 1e4, "rope_type": "dynamic", "factor": 99.0}, head_width=16, max_positions=40)
    assert len(far.config.lengths) == 63 and far.max_positions == 3960
    for factor, lengths in ((1.0, ()), (0.5, ()), (1.05, (40,))):
        rope = rope_of({"rope_theta": 1e4, "rope_type": "dynamic", "factor": factor}, head_width=16, max_positions=40)
        assert rope.config.lengths == lengths


def test_powers() -> None:
    """torch's, of 32 exponents, at some of which float64 rounds otherwise; and of a rest, which float64 makes."""
    exponents = np.arange(0, 66, 2, dtype=np.float32) / np.float32(96)
    found, rounded = powers(1e4, exponents), np.power(1e4, exponents.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(np.nonzero(found != rounded)[0], [20])
    assert found[20] == np.nextafter(rounded[20], np.float32(0 if found[20] < rounded[20] else 1e9))
