"""rope_parameters of config.json, old and new: what they ask for, and what is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyengine.errors import CheckpointError
from pyengine.formats.strict_json import Fields
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
    np.testing.assert_array_equal(rope.frequencies(), np.float32([1, 0.25]))


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
