"""Greedy search: transformers' `_sample` with `do_sample=False`.

Processors act on raw logits; a sentence ends at its first end token or at the maximum length.
"""

from __future__ import annotations

import numpy as np

from pyengine.decoding.search import Finished, Search
from pyengine.options import SearchOptions
from pyengine.plan import Ahead, StepResult

__all__ = ["GreedySearch"]


class GreedySearch(Search):
    """A score sums the model's own log-probabilities of the chosen tokens, whatever the processors did."""

    def __init__(self, options: SearchOptions, *, slots: int, vocab: int) -> None:
        super().__init__(options, slots=slots, vocab=vocab)
        self._totals = np.zeros(slots)
        self._ends_32 = self._end.astype(np.int32)

    def add(self, prompt: np.ndarray) -> int:
        slot = super().add(prompt)
        self._totals[slot] = 0.0
        return slot

    def ahead(self, most: int, seconds: float) -> Ahead | None:
        steps = self._steps_alike(most)
        return Ahead(steps, seconds, self._ends_32) if steps > 1 else None

    def advance(self, scores: StepResult) -> list[Finished]:
        live = self._live
        if scores.passed is not None:
            self._pass(*scores.passed)
        candidates = self._candidates(scores, normalize=False)
        best = np.arange(len(live)), candidates.values.argmax(axis=1)
        tokens = candidates.ids[best]
        self._totals[live] += candidates.unprocessed[best] - scores.log_normalizer
        length = self._length[live] + 1
        self._reserve(int(length.max(initial=1)))
        self._history[live, 0, length - 1] = tokens
        self._length[live] = length
        done = self._ends(tokens) | (length >= self._maximum[live])
        finished = [self._finish(slot) for slot in live[done].tolist()]
        self._drop(done)
        return finished

    def _pass(self, ids: np.ndarray, log_probs: np.ndarray) -> None:
        """Take over what rows took in steps that nobody looked at: ids, log_probs [steps, Q]."""
        live, steps = self._live, len(ids)
        for values in log_probs:  # one by one: a sum must not depend on how many steps went together
            self._totals[live] += values
        length = self._length[live]
        self._reserve(int(length.max(initial=0)) + steps + 1)
        self._history[live[:, None], 0, length[:, None] + np.arange(steps)] = ids.T
        self._length[live] = length + steps

    def _finish(self, slot: int) -> Finished:
        length = self._length[slot]
        power = self._length_power(length - self._prompt[slot])
        ids = self._history[slot, 0, :length]
        return Finished(slot, [self._found(slot, ids, float(self._totals[slot] / power))])
