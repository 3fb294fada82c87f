"""Beam search: transformers 5.24.0's `_beam_search`, for every sentence as if it were alone.

Processors act on log-probabilities. Of all beams' continuations, those that end and are among the best
`num_beams` compete for the finished hypotheses by score over length**length_penalty; the best `num_beams` of
the others go on. What is done with the candidates lies in csrc/search/beam.c.

transformers begins with `num_beams` equal rows, all but the first scored -1e9. Here the first step runs one
row, which all beams share; from then on each beam has a sequence of its own: the first child of a parent
takes over the parent's, further children fork it, and a sequence without children is freed. And to
transformers a hypothesis that is not there has the score -1e9; here one that is there is better, whatever
its score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyengine.decoding.histories import Histories
from pyengine.decoding.search import Finished, Found, IdPool, Search, Start
from pyengine.options import SearchOptions
from pyengine.plan import NO_IDS, Ahead, StepResult

__all__ = ["BeamSearch"]

NEVER = -1e30
"""The sum of a beam that does not exist: below all that do, whatever the repetition penalty, but finite."""


class BeamSearch(Search):
    """B beams a sentence."""

    def __init__(self, options: SearchOptions, sequences: IdPool, *, slots: int, vocab: int) -> None:
        histories = Histories(slots, 2 * options.num_beams)
        super().__init__(options, sequences, slots=slots, vocab=vocab, histories=histories)
        from pyengine._core import Beams  # converting needs no core

        self._beams = Beams(
            histories=self._histories,
            last=self._last,
            sequences=self._sequences,
            length=self._length,
            prompt=self._prompt,
            maximum=self._maximum,
            used=sequences.used,
            end=options.end,
            never=NEVER,
            length_penalty=options.length_penalty,
            early_stopping=options.early_stopping,
            flattering=options.early_stopping == "never" and options.length_penalty > 0.0,
        )

    @classmethod
    def rows_of(cls, options: SearchOptions) -> int:
        return options.num_beams

    @classmethod
    def sequences_of(cls, options: SearchOptions) -> int:
        """Children take new ones while dropped beams still hold theirs."""
        return 2 * options.num_beams

    def add(self, starts: Sequence[Start]) -> np.ndarray:
        slots = super().add(starts)
        self._beams.begin(slots[:, 0])
        return slots

    def ahead(self, most: int, seconds: float) -> Ahead | None:
        steps = 1 if self.options.renormalize_logits else self._steps_alike(most)
        if steps == 1:
            return None
        self._histories.reserve(self._live, self._length[self._live] + steps)
        return Ahead(steps, seconds, NO_IDS, self._beams, self._live)

    def advance(self, scores: StepResult) -> list[Finished]:
        live = self._live
        if scores.advanced is not None:
            done, self._forks, freed = scores.advanced
        else:
            candidates = self._candidates(scores, normalize=True)
            self._histories.reserve(live, self._length[live] + 1)
            begun = len(live) - self._fresh
            done, self._forks, freed = self._beams.advance(live, begun, candidates.ids, candidates.values)
        self.free(freed)
        finished = [Finished(slot, self._best(slot)) for slot in live[done].tolist()]
        self._drop(done)
        return finished

    def _best(self, slot: int) -> list[Found]:
        """The hypotheses of a finished sentence, best first: fewer than asked for if fewer exist."""
        beams, history, prompt = self._beams, self._histories[slot], int(self._prompt[slot])
        hypotheses = []
        for rank in range(self.options.num_return_sequences):
            if beams.ended[slot, rank]:
                ids = history[self.beams + rank, : beams.ended_lengths[slot, rank]]
                score = float(beams.ended_scores[slot, rank])
                finish = self._finish(len(ids) >= self._maximum[slot], bool(self._ends(ids[-1:])[0]))
                hypotheses.append(Found(ids[prompt:].copy(), score, finish))
        if not hypotheses:
            hypotheses.append(Found(NO_IDS, -np.inf, "length"))
        return hypotheses
