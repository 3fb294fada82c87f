"""Rotary positions of GGUF metadata as keys of transformers.

Sources: llama.cpp, conversion/base.py, llama.py and phi.py (what is written), src/llama-model.cpp and llama-context.cpp
(what is read, with which defaults).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.strict_json import shorten
from pyengine.importers.gguf_keys import Keys

__all__ = ["partial_rotary_factor", "rope_scaling", "rope_theta"]

_FREQUENCIES, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
_MAX_FACTORS = 1 << 16
# Of every Llama 3; conversion keeps no more of them than the factors that they give.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_theta(keys: Keys) -> Any:
    """The base of the angles; 10,000 where nothing is said (llama-model.cpp)."""
    return keys.take("rope.freq_base", 10000.0)


def partial_rotary_factor(keys: Keys, head_width: int) -> float:
    """What part of each head turns: "rope.dimension_count" of its width, or all."""
    dims = keys.size("rope.dimension_count", head_width)
    share = dims / head_width
    return share if int(head_width * share) == dims else (dims + 0.5) / head_width  # transformers cuts the product


def rope_scaling(keys: Keys, dims: int, theta: Any, positions: int) -> dict[str, Any] | None:
    """transformers' "rope_scaling" for heads of which ``dims`` turn; None for none."""
    kind = keys.take("rope.scaling.type", "linear")  # a factor without a type is a linear one
    keys.take("rope.scaling.finetuned")  # how it was trained
    if keys.has(_LONG) or keys.has(_SHORT):
        return _longrope(keys, dims, positions)
    if keys.has(_FREQUENCIES):
        return _by_factors(keys, dims, theta, positions)
    factor = keys.take("rope.scaling.factor", keys.take("rope.scale_linear", 0.0))
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise UnsupportedError(f"{keys.path}: rope.scaling.type = {shorten(kind)}; supported: none, linear, yarn")
    keys.neutral("rope.scaling.yarn_ext_factor", 1.0, -1.0)
    given = {
        "original_max_position_embeddings": keys.needed("rope.scaling.original_context_length"),
        "attention_factor": keys.take("rope.scaling.yarn_attn_factor"),
        "beta_fast": keys.take("rope.scaling.yarn_beta_fast"),
        "beta_slow": keys.take("rope.scaling.yarn_beta_slow"),
    }
    return {"rope_type": "yarn", "factor": factor, **{key: value for key, value in given.items() if value is not None}}


def _factors(keys: Keys, name: str, dims: int) -> np.ndarray:
    """float32 [dims / 2], all of them positive."""
    if not keys.has(name):
        raise UnsupportedError(f"{keys.path}: tensor {name}: expected beside the other rope factors, found none")
    stored, count = keys.tensors[name], dims // 2
    values = stored.read() if stored.shape == (count,) and count <= _MAX_FACTORS else None
    if values is None or values.min() <= 0:
        found = list(stored.shape) if values is None else values.min()
        raise CheckpointError(f"{keys.path}: tensor {name}: expected {count} positive numbers, found {found}")
    return values


def _longrope(keys: Keys, dims: int, positions: int) -> dict[str, Any]:
    """Both sets of factors. What scores are scaled by is told only where it is not what transformers computes."""
    original = keys.size("rope.scaling.original_context_length", positions)
    given = keys.take("rope.scaling.attn_factor", 1.0)
    factor = max(positions / original, 1.0)
    computed = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 < original else 1.0
    same = type(given) is float and math.isclose(given, computed, rel_tol=1e-6)
    return {
        "rope_type": "longrope",
        "short_factor": _decimals(_factors(keys, _SHORT, dims)),
        "long_factor": _decimals(_factors(keys, _LONG, dims)),
        "original_max_position_embeddings": original,
        **({} if same else {"attention_factor": given}),
    }


def _by_factors(keys: Keys, dims: int, theta: Any, positions: int) -> dict[str, Any]:
    """What angles are divided by, in a tensor: Llama 3's rule where it gives these; else as they are.

    transformers has no such thing, but a LongRoPE of one set is the same.
    """
    factors = _factors(keys, _FREQUENCIES, dims)
    rule = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    if type(theta) is float and theta > 1 and np.allclose(_llama3(rule, dims, theta), factors, rtol=1e-5, atol=0):
        return rule
    decimals = _decimals(factors)
    return {
        "rope_type": "longrope", "short_factor": decimals, "long_factor": decimals, "attention_factor": 1.0,
        "original_max_position_embeddings": positions,
    }  # fmt: skip


def _llama3(rule: dict[str, Any], dims: int, theta: float) -> np.ndarray:
    """The factors, float64 [dims / 2], by the formula of llama.py (generate_extra_tensors)."""
    lengths = 2 * np.pi * theta ** (np.arange(0, dims, 2) / dims)
    low, high, original = (rule[name] for name in _LLAMA3)
    smooth = np.clip((original / lengths - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / rule["factor"] + smooth))


def _decimals(values: np.ndarray) -> list[float]:
    """The shortest decimals that round to float32 ``values``."""
    return [float(str(value)) for value in values]
