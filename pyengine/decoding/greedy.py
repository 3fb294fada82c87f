"""Greedy search: transformers' `_sample` with `do_sample=False`.

Processors act on raw logits; a sentence ends at its first end token or at the maximum length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyengine.decoding.search import Finished, Search
from pyengine.options import SearchOptions
from pyengine.plan import Ahead, StepResult

__all__ = ["GreedySearch"]


class GreedySearch(Search):
    """A score sums the model's own log-probabilities of the chosen tokens, whatever the processors did."""

    def __init__(self, options: SearchOptions, *, slots: int, vocab: int) -> None:
        super().__init__(options, slots=slots, vocab=vocab, rows=1)
        from pyengine._core import power, write_tokens  # converting needs no core

        self._power, self._write_tokens = power, write_tokens
        self._totals = np.zeros(slots)
        self._ends_32 = self._end.astype(np.int32)

    def add(self, prompts: Sequence[np.ndarray]) -> np.ndarray:
        slots = super().add(prompts)
        self._totals[slots] = 0.0
        return slots

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
        self._write(tokens[:, None])
        done = self._ends(tokens) | (self._length[live] >= self._maximum[live])
        finished = self._finish(live[done]) if done.any() else []
        self._drop(done)
        return finished

    def _pass(self, ids: np.ndarray, log_probs: np.ndarray) -> None:
        """Take over what rows took in steps that nobody looked at: ids, log_probs [steps, Q]."""
        for values in log_probs:  # one by one: a sum must not depend on how many steps went together
            self._totals[self._live] += values
        self._write(ids.T)

    def _write(self, tokens: np.ndarray) -> None:
        """Every sentence goes on with int tokens [n, m]."""
        live = self._live
        if tokens.shape[1]:
            length = self._length[live]
            self._histories.reserve(live, length + tokens.shape[1])
            self._write_tokens(self._histories, live, length, tokens)
            self._length[live] += tokens.shape[1]
            self._last[live, 0] = tokens[:, -1]

    def _finish(self, slots: np.ndarray) -> list[Finished]:
        lengths = self._length[slots]
        scores = self._totals[slots] / self._power(lengths - self._prompt[slots], self.options.length_penalty)
        return [
            Finished(slot, [self._found(slot, self._histories[slot][0, :length], score)])
            for slot, length, score in zip(slots.tolist(), lengths.tolist(), scores.tolist(), strict=True)
        ]
