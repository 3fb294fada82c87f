"""Which weights to keep: scores of single weights, and patterns that choose by score.

    magnitude   |w|
    wanda       |w| * ||x_k||                   "A Simple and Effective Pruning Approach for Large Language Models"
    OBS         w^2 / [H^-1]_kk                 "Optimal Brain Surgeon", H the Gram matrix of the inputs

A pattern says where zeros may lie. A mask is bool [N, K], true where a weight stays. Of equal scores the first
stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pyengine.errors import OptionError

__all__ = [
    "Blocks",
    "NOfM",
    "Pattern",
    "RowShare",
    "magnitude_scores",
    "obs_scores",
    "wanda_scores",
]

BLOCK_ROWS = 16
BLOCK_COLUMNS = 4


def magnitude_scores(weight: np.ndarray) -> np.ndarray:
    """|w|, [N, K]."""
    scores: np.ndarray = np.abs(weight)
    return scores


def wanda_scores(weight: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """|w| * sqrt(gram[k, k]), float64 [N, K]; comparable within a row."""
    scores: np.ndarray = np.abs(weight) * np.sqrt(np.diagonal(gram))
    return scores


def obs_scores(weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """w^2 / [H^-1]_kk, float64 [N, K], for ``factor`` U with U^T U = H^-1.

    The error that removing w alone costs when all others make up for it; comparable within a matrix.
    """
    scores: np.ndarray = np.square(weight, dtype=np.float64) / np.square(factor).sum(axis=0)
    return scores


class Pattern(Protocol):
    """Where zeros may lie, and how many."""

    @property
    def span(self) -> int | None:
        """Columns of one choice; None: as many as there are."""

    def keep(self, scores: np.ndarray) -> np.ndarray:
        """The mask, bool [N, K], that keeps the highest of ``scores`` [N, K]."""


@dataclass(frozen=True)
class RowShare:
    """Any weight may go: ``share`` of each row, rounded to whole weights."""

    share: float
    span = None

    def __post_init__(self) -> None:
        _check_share(self.share)

    def keep(self, scores: np.ndarray) -> np.ndarray:
        """See ``Pattern``."""
        kept = scores.shape[1] - round(self.share * scores.shape[1])
        return _highest(scores, kept)


@dataclass(frozen=True)
class NOfM:
    """``n`` of each ``m`` adjacent columns stay; of a shorter last group at most ``n``."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise OptionError(f"n of m: expected 1 <= n <= m, found {self.n} of {self.m}")

    @property
    def span(self) -> int:
        """See ``Pattern``."""
        return self.m

    def keep(self, scores: np.ndarray) -> np.ndarray:
        """See ``Pattern``."""
        rows, columns = scores.shape
        padded = _padded(scores, 1, self.m, -np.inf)
        return _highest(padded.reshape(-1, self.m), self.n).reshape(rows, -1)[:, :columns]


@dataclass(frozen=True)
class Blocks:
    """``share`` of all blocks of 16 rows and 4 columns go: a block is a 64-byte line of packed int8 weights.

    Blocks at the edges may be smaller and count as whole ones, as they do in the file. A block's score is the sum
    of its weights'.
    """

    share: float
    span = None

    def __post_init__(self) -> None:
        _check_share(self.share)

    def keep(self, scores: np.ndarray) -> np.ndarray:
        """See ``Pattern``."""
        rows, columns = scores.shape
        padded = _padded(scores, BLOCK_ROWS, BLOCK_COLUMNS, 0.0)
        tiles = padded.reshape(-(-rows // BLOCK_ROWS), BLOCK_ROWS, -(-columns // BLOCK_COLUMNS), BLOCK_COLUMNS)
        sums = tiles.sum(axis=(1, 3), dtype=np.float64)
        kept = _highest(sums.reshape(1, -1), sums.size - round(self.share * sums.size)).reshape(sums.shape)
        return kept.repeat(BLOCK_ROWS, axis=0).repeat(BLOCK_COLUMNS, axis=1)[:rows, :columns]


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise OptionError(f"share: expected a number from 0 to 1, found {share}")


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """True at the ``count`` highest of each row; of equal ones the first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    keep = np.zeros(scores.shape, bool)
    np.put_along_axis(keep, order, True, axis=1)
    return keep


def _padded(scores: np.ndarray, rows: int, columns: int, value: float) -> np.ndarray:
    """``scores`` up to multiples of ``rows`` and ``columns``, filled with ``value``."""
    missing = (-scores.shape[0] % rows, -scores.shape[1] % columns)
    return np.pad(scores, ((0, missing[0]), (0, missing[1])), constant_values=value)
