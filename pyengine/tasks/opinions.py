"""What a model thought of the tokens that it wrote, as results say it."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from pyengine.decoding.search import Found
from pyengine.results import Best

__all__ = ["Opinions", "opinions"]


class Opinions(TypedDict):
    """Fields of `Hypothesis`."""

    log_probs: tuple[float, ...] | None
    best: tuple[Best, ...] | None


def opinions(found: Found) -> Opinions:
    log_probs = None if found.log_probs is None else tuple(found.log_probs.tolist())
    best = None
    if found.best is not None:
        before, after = _pairs(*found.best[:2]), _pairs(*found.best[2:])
        best = tuple(Best(*each) for each in zip(before, after, strict=True))
    return {"log_probs": log_probs, "best": best}


def _pairs(ids: np.ndarray, log_probs: np.ndarray) -> list[tuple[tuple[int, float], ...]]:
    """Of each place; an id of -1 stands for none."""
    rows = zip(ids.tolist(), log_probs.tolist(), strict=True)
    return [tuple(pair for pair in zip(*row, strict=True) if pair[0] >= 0) for row in rows]
