"""What a model thinks of tokens, its own or given ones, as results say it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol, TypedDict

import numpy as np

from pyengine.decoding.search import Found
from pyengine.results import Best, ScoreResult

__all__ = ["Opinions", "best_pairs", "opinions", "score_result"]


class Pieces(Protocol):
    """Of a tokenizer."""

    def pieces(self, ids: Iterable[int]) -> list[str]: ...


class Opinions(TypedDict):
    """Fields of `Hypothesis`."""

    log_probs: tuple[float, ...] | None
    best: tuple[Best, ...] | None


def opinions(found: Found) -> Opinions:
    log_probs = None if found.log_probs is None else tuple(found.log_probs.tolist())
    best = None
    if found.best is not None:
        before, after = best_pairs(*found.best[:2]), best_pairs(*found.best[2:])
        best = tuple(Best(*each) for each in zip(before, after, strict=True))
    return {"log_probs": log_probs, "best": best}


def score_result(ids: np.ndarray, log_probs: np.ndarray, tokenizer: Pieces | None, truncated: bool) -> ScoreResult:
    """Of given tokens [n], one log-probability each."""
    own, values = ids.tolist(), log_probs.tolist()
    return ScoreResult(
        ids=tuple(own),
        tokens=None if tokenizer is None else tuple(tokenizer.pieces(own)),
        log_probs=tuple(values),
        total=math.fsum(values),
        truncated=truncated,
    )


def best_pairs(ids: np.ndarray, log_probs: np.ndarray) -> list[tuple[tuple[int, float], ...]]:
    """Of each place; an id of -1 stands for none."""
    rows = zip(ids.tolist(), log_probs.tolist(), strict=True)
    return [tuple(pair for pair in zip(*row, strict=True) if pair[0] >= 0) for row in rows]
