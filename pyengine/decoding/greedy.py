"""Greedy search: transformers' `_sample` with `do_sample=False`.

Processors act on raw logits; a sentence ends at its first end token or at the maximum length.
"""

from __future__ import annotations

import numpy as np

from pyengine.decoding.search import Finished, Search
from pyengine.options import SearchOptions
from pyengine.plan import StepResult

__all__ = ["GreedySearch"]


class GreedySearch(Search):
    """A score sums the model's own log-probabilities of the chosen tokens, whatever the processors did."""

    def __init__(self, options: SearchOptions, *, slots: int, vocab: int) -> None:
        super().__init__(options, slots=slots, vocab=vocab)
        self._totals = np.zeros(slots)

    def add(self, prompt: np.ndarray) -> int:
        slot = super().add(prompt)
        self._totals[slot] = 0.0
        return slot

    def advance(self, scores: StepResult) -> list[Finished]:
        live = self._live
        candidates = self._candidates(scores, normalize=False)
        best = np.arange(len(live)), candidates.values.argmax(axis=1)
        tokens = candidates.ids[best]
        self._totals[live] += candidates.unprocessed[best] - scores.log_normalizer
        self._reserve(int(self._length[live].max(initial=0)) + 1)
        self._history[live, 0, self._length[live]] = tokens
        self._length[live] += 1
        done = self._ends(tokens) | (self._length[live] >= self._maximum[live])
        powers = self._length_power(self._length[live] - self._prompt[live])
        finished = []
        for place in np.flatnonzero(done):
            slot = int(live[place])
            ids = self._history[slot, 0, : self._length[slot]]
            finished.append(
                Finished(slot, [self._found(slot, ids, float(self._totals[slot] / powers[place]))])
            )
        self._drop(done)
        return finished
