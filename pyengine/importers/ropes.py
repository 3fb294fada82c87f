"""Rotary positions as transformers names them: "rope_parameters" of config.json to frequencies.

Frequencies are what transformers 5 computes in float32 (``modeling_rope_utils``), in its order of operations, where
``x / tensor`` is x times the rounded reciprocal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyengine.canonical import RopeConfig
from pyengine.canonical.config_checks import MAX_POSITIONS, MAX_ROPE_SETS
from pyengine.formats.strict_json import Fields, shorten
from pyengine.importers.powers import powers

__all__ = ["Rope", "rope_of", "rope_parameters_of"]

_LARGEST_ANGLE = 2.0**24  # of which the core knows cosine and sine
_STEPS = 8  # sets of dynamic frequencies up to the next multiple of the context
_ORIGINAL = "original_max_position_embeddings"


@dataclass(frozen=True)
class Rope:
    """One of a model's ``ropes``, and what makes the tensor ``rope.NAME.frequencies`` of it.

    ``max_positions``: how many the model may have: "max_position_embeddings", or more where frequencies follow length.
    """

    config: RopeConfig
    frequencies: Callable[[], np.ndarray]
    max_positions: int


def rope_parameters_of(fields: Fields, default_theta: float, *, partial: float | None = None) -> dict[str, Any]:
    """Take the keys that say how positions turn, as one object in the form of transformers 5's "rope_parameters".

    These are "rope_parameters" or its older form "rope_scaling", which has priority, and what they may lack:
    "rope_theta", or else ``default_theta``; "partial_rotary_factor", or else ``partial``; and
    "original_max_position_embeddings", which has priority where it stands outside. For all layers alike.
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
    original = fields.take(_ORIGINAL, None)
    if original is not None and found["rope_type"] not in ("default", "linear", "dynamic"):
        found[_ORIGINAL] = original
    return found


def rope_of(parameters: Mapping[str, Any], *, head_width: int, max_positions: int) -> Rope:
    """The rope of ``parameters``, transformers 5's "rope_parameters" of one kind of layer.

    ``head_width``: of which the first part turns, all of it without a "partial_rotary_factor".
    ``max_positions``: "max_position_embeddings". ValueError names the key that is wrong.
    """
    given = {key: value for key, value in parameters.items() if value is not None}
    kind = given.pop("rope_type", "default")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"rope_type = {shorten(kind)}; supported: {', '.join(_KINDS)}")
    turn = _Turn(given, head_width, max_positions)
    with np.errstate(all="ignore"):  # what is not finite is refused
        found = _KINDS[kind](turn)
    turn.finish()
    frequencies = found.sets if len(found.sets) > 1 else found.sets[0]
    if not (np.isfinite(frequencies).all() and np.abs(frequencies).max() * found.max_positions <= _LARGEST_ANGLE):
        reach = f"beyond {_LARGEST_ANGLE:g} in {found.max_positions} positions"
        raise ValueError(f"{', '.join(parameters)}: expected smaller angles, found some {reach}")
    return Rope(RopeConfig(turn.dims, found.factor, found.lengths), lambda: frequencies, found.max_positions)


class _Turn:
    """Keys of "rope_parameters", taken by name and type: ValueError for those that are missing, wrong or left over."""

    def __init__(self, values: dict[str, Any], head_width: int, max_positions: int) -> None:
        self._values = values
        self.max_positions = max_positions
        self.theta = self.number("rope_theta")
        self.dims = int(head_width * self.number("partial_rotary_factor", 1.0))
        if self.dims % 2 or not 2 <= self.dims <= head_width:
            raise ValueError(f"partial_rotary_factor: expected an even number of dimensions, found {self.dims}")

    def number(self, name: str, default: float | None = None) -> float:
        """A positive one."""
        value = self._values.pop(name, default)
        if type(value) not in (int, float) or not 0 < value <= 1e30:
            raise ValueError(f"{name}: expected a positive number, found {shorten(value)}")
        return float(value)

    def numbers(self, name: str) -> np.ndarray:
        """float32, one for each frequency."""
        value = self._values.pop(name, None)
        if not isinstance(value, list) or len(value) != self.dims // 2:
            raise ValueError(f"{name}: expected {self.dims // 2} numbers, found {shorten(value)}")
        for each in value:
            if type(each) not in (int, float) or not 1e-6 <= each <= 1e30:
                raise ValueError(f"{name}: expected positive numbers, found {shorten(each)}")
        return np.array(value, np.float32)

    def optional(self, name: str) -> float | None:
        return self.number(name) if name in self._values else None

    def flag(self, name: str, default: bool) -> bool:
        value = self._values.pop(name, default)
        if type(value) is not bool:
            raise ValueError(f"{name}: expected true or false, found {shorten(value)}")
        return value

    def original(self) -> int:
        """For how many positions the model was trained first."""
        value = self._values.pop(_ORIGINAL, self.max_positions)
        if type(value) is not int or not 2 <= value <= 1 << 31:
            raise ValueError(f"{_ORIGINAL}: expected an integer of at least 2, found {shorten(value)}")
        return value

    def powers(self, base: float | None = None) -> np.ndarray:
        """base^(2 i / dims), float32 [dims / 2], by default of theta."""
        exponents = np.arange(0, self.dims, 2, dtype=np.float32) / np.float32(self.dims)
        return powers(self.theta if base is None else base, exponents)

    def finish(self) -> None:
        if self._values:
            raise ValueError(f"{', '.join(map(shorten, self._values))}: not of this rope_type")


@dataclass(frozen=True)
class _Found:
    """sets float32 [sets, dims / 2], and the rest as RopeConfig and Rope have it."""

    sets: np.ndarray
    max_positions: int
    factor: float = 1.0
    lengths: tuple[int, ...] = ()


def _alike(turn: _Turn, frequencies: np.ndarray, factor: float = 1.0) -> _Found:
    """The same for sequences of every length."""
    return _Found(frequencies[None], turn.max_positions, factor)


def _default(turn: _Turn) -> _Found:
    return _alike(turn, 1 / turn.powers())


def _linear(turn: _Turn) -> _Found:
    return _alike(turn, 1 / turn.powers() / np.float32(turn.number("factor")))


def _dynamic(turn: _Turn) -> _Found:
    """NTK (bloc97 and emozilla, 2023): a larger base for longer sequences, up to ``factor`` times the context.

    transformers' base follows every token. Here it follows the length that a sequence may come to, in steps of an
    eighth of the context, so that keys stay what they are: at those lengths the frequencies are transformers'.
    """
    factor, context = turn.number("factor"), turn.max_positions
    if turn.dims == 2:
        raise ValueError("partial_rotary_factor: expected more than 2 dimensions for the rope_type dynamic")
    most = min(int(max(factor, 1) * context), max(MAX_POSITIONS, context))
    steps = min(math.ceil((most / context - 1) * _STEPS), MAX_ROPE_SETS - 1, most - context)
    lengths = [context + (most - context) * i // steps for i in range(1, steps + 1)]
    power = turn.dims / (turn.dims - 2)
    bases = [turn.theta * (factor * context / context - (factor - 1)) ** power]
    for length in lengths:  # of a tensor, in float32, but for the power
        grown = np.float32(factor) * np.float32(length) / np.float32(context) - np.float32(factor - 1)
        bases.append(float(np.float32(float(grown) ** power) * np.float32(turn.theta)))
    sets = np.stack([1 / turn.powers(base) for base in bases])
    return _Found(sets, most, lengths=tuple([context, *lengths][:-1]) if steps else ())


def _yarn(turn: _Turn) -> _Found:
    """Peng et al., 2023: fast turns stay, slow ones are stretched, those between a mixture."""
    original, dims = turn.original(), turn.dims
    factor = turn.optional("factor") or turn.max_positions / original
    own, m, m_all = (turn.optional(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    whole = turn.flag("truncate", True)
    if turn.theta <= 1:
        raise ValueError(f"rope_theta: expected more than 1 for the rope_type yarn, found {turn.theta:g}")

    def scale(m: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0

    def dimension(turns: float) -> float:
        """The one that turns so often in the original context."""
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(turn.theta))

    attention = own or (scale(m) / scale(m_all) if m and m_all else scale(1.0))
    low, high = dimension(turn.number("beta_fast", 32.0)), dimension(turn.number("beta_slow", 1.0))
    if whole:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(dims // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = 1 - np.clip(ramp, 0, 1)
    slow, fast = 1 / (np.float32(factor) * turn.powers()), 1 / turn.powers()
    return _alike(turn, slow * (1 - kept) + fast * kept, attention)


def _longrope(turn: _Turn) -> _Found:
    """Ding et al., 2024: a divisor of each frequency, others for sequences longer than the original context."""
    original = turn.original()
    factor = turn.optional("factor") or turn.max_positions / original
    attention = turn.optional("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short, long = (1 / (turn.numbers(f"{name}_factor") * turn.powers()) for name in ("short", "long"))
    if original >= turn.max_positions:
        return _alike(turn, short, attention)
    return _Found(np.stack([short, long]), turn.max_positions, attention, (original,))


def _llama3(turn: _Turn) -> _Found:
    """Fast turns stay, slow ones are stretched, those between a mixture, by their wavelengths (Llama 3.1, 2024)."""
    original = turn.original()
    factor, slowest, fastest = (turn.number(name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    if slowest == fastest:
        raise ValueError(f"high_freq_factor: expected another than low_freq_factor, found {fastest:g} for both")
    fast = 1 / turn.powers()
    wavelengths = 1 / fast * np.float32(2 * math.pi)
    is_slow = wavelengths > np.float32(original / slowest)
    is_fast = wavelengths < np.float32(original / fastest)
    found = np.where(is_slow, fast / np.float32(factor), fast)
    share = (1 / wavelengths * np.float32(original) - np.float32(slowest)) / np.float32(fastest - slowest)
    mixed = (1 - share) * found / np.float32(factor) + share * found
    return _alike(turn, np.where(is_fast | is_slow, found, mixed))


_KINDS: Mapping[str, Callable[[_Turn], _Found]] = {
    "default": _default, "linear": _linear, "dynamic": _dynamic, "yarn": _yarn, "longrope": _longrope,
    "su": _longrope, "llama3": _llama3,
}  # fmt: skip
