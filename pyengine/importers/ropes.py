"""Rotary positions as transformers names them: "rope_parameters" of config.json to frequencies.

Frequencies are what transformers 5 computes in float32 (``modeling_rope_utils``), in its order of operations. Powers
are rounded from float64: NumPy's float32 ones differ between machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyengine.canonical import RopeConfig
from pyengine.formats.strict_json import Fields, shorten

__all__ = ["Rope", "rope_of", "rope_parameters_of"]


@dataclass(frozen=True)
class Rope:
    """One of a model's ``ropes``, and what makes the tensor ``rope.NAME.frequencies`` of it."""

    config: RopeConfig
    frequencies: Callable[[], np.ndarray]


def rope_parameters_of(
    fields: Fields, default_theta: float, *, partial: float | None = None
) -> dict[str, Any]:
    """Take the keys that say how positions turn, as one object in the form of transformers 5's ``rope_parameters``.

    These are "rope_parameters" or its older form "rope_scaling", which has priority, and what they may lack:
    "rope_theta", or else ``default_theta``; "partial_rotary_factor", or else ``partial``. For all layers alike.
    """
    scaling, parameters = fields.take("rope_scaling", None), fields.take("rope_parameters", None)
    key = "rope_scaling" if scaling else "rope_parameters"
    found = dict(Fields(scaling or parameters or {}, f"{fields.where}: {key}", fields.error).remaining())
    kind = found.pop("type", "default")
    found.setdefault("rope_type", kind)
    found.setdefault("rope_theta", fields.take("rope_theta", default_theta))
    share = fields.take("partial_rotary_factor", partial)
    if share is not None:
        found.setdefault("partial_rotary_factor", share)
    original = fields.take("original_max_position_embeddings", None)
    if original is not None and found["rope_type"] not in ("default", "linear", "dynamic"):
        found["original_max_position_embeddings"] = original
    return found


def rope_of(parameters: Mapping[str, Any], *, head_width: int, max_positions: int) -> Rope:
    """The rope of ``parameters``, transformers 5's "rope_parameters" of one kind of layer.

    ``head_width``: of which the first part turns, all of it without a "partial_rotary_factor".
    ``max_positions``: "max_position_embeddings". ValueError names the key that is wrong.
    """
    keys = _Keys({key: value for key, value in parameters.items() if value is not None})
    kind = keys.take("rope_type", "default")
    if kind not in _KINDS:
        raise ValueError(f"rope_type = {shorten(kind)}; supported: {', '.join(_KINDS)}")
    theta = keys.positive("rope_theta")
    dims = int(head_width * keys.positive("partial_rotary_factor", 1.0))
    if dims % 2 or not 2 <= dims <= head_width:
        raise ValueError(f"partial_rotary_factor: expected an even number of dimensions to turn, found {dims}")
    frequencies = _KINDS[kind](keys, theta, dims)
    keys.finish()
    return Rope(RopeConfig(dims), lambda: frequencies)


class _Keys:
    """Those of ``rope_parameters``: ValueError names one that is missing, wrong or left over."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def take(self, name: str, default: Any = None) -> Any:
        return self._values.pop(name, default)

    def positive(self, name: str, default: float | None = None) -> float:
        value = self.take(name, default)
        if type(value) not in (int, float) or not 0 < value <= 1e30:
            raise ValueError(f"{name}: expected a positive number, found {shorten(value)}")
        return float(value)

    def finish(self) -> None:
        if self._values:
            raise ValueError(f"{', '.join(map(shorten, self._values))}: not of this rope_type")


def _powers(theta: float, dims: int) -> np.ndarray:
    """theta^(2 i / dims), float32 [dims / 2]."""
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return np.power(np.float64(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)


def _default(keys: _Keys, theta: float, dims: int) -> np.ndarray:
    return np.float32(1) / _powers(theta, dims)


def _linear(keys: _Keys, theta: float, dims: int) -> np.ndarray:
    return _default(keys, theta, dims) / np.float32(keys.positive("factor"))


_KINDS: Mapping[str, Callable[[_Keys, float, int], np.ndarray]] = {"default": _default, "linear": _linear}
