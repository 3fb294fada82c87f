"""When a beam search is over: transformers 5.23.0's `_check_early_stop_heuristic` for each sentence alone."""

from __future__ import annotations

from typing import Literal

import numpy as np

__all__ = ["NEVER", "can_improve", "is_done"]

NEVER = -1e9
"""The score of a hypothesis that does not exist: below all that do, but finite, as in transformers."""


def can_improve(best_running: np.ndarray, ended_scores: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """Whether a running beam may still beat the worst of the hypotheses that ended.

    best_running  float [n]     each sentence's best running beam, over the length that flatters it most
    ended_scores  float [n, B]  scores of its hypotheses, NEVER where there is none
    ended         bool [n, B]   which there are
    Returns bool [n]; always true while fewer than B ended.
    """
    worst = np.where(ended.all(axis=1), ended_scores.min(axis=1), NEVER)
    improvable: np.ndarray = best_running > worst
    return improvable


def is_done(
    early_stopping: bool | Literal["never"], improvable: np.ndarray, ended: np.ndarray, exhausted: np.ndarray
) -> np.ndarray:
    """bool [n]: nothing can improve, or enough ended and that is enough, or no candidate can go on."""
    done: np.ndarray = ~improvable | exhausted
    if early_stopping is True:
        done |= ended.all(axis=1)
    return done
