"""Beam search: transformers 5.23.0's `_beam_search`, for every sentence as if it were alone.

Processors act on log-probabilities. Of all beams' continuations, those that end and are among the best
`num_beams` compete for the finished hypotheses by score over length**length_penalty; the best `num_beams` of
the others go on.

transformers begins with `num_beams` equal rows, all but the first scored -1e9. Here the first step runs one
row, which all beams share; from then on each beam has a sequence of its own: the first child of a parent
takes over the parent's, further children fork it, and a sequence without children is freed.
"""

from __future__ import annotations

import numpy as np

from pyengine.decoding.search import Finished, Found, Search, widened
from pyengine.decoding.stopping import NEVER, can_improve, is_done
from pyengine.options import SearchOptions
from pyengine.plan import StepResult

__all__ = ["BeamSearch"]


class BeamSearch(Search):
    """B beams a sentence; arrays over slots are float64 unless said otherwise."""

    def __init__(self, options: SearchOptions, *, slots: int, vocab: int) -> None:
        super().__init__(options, slots=slots, vocab=vocab)
        beams = self.beams
        self._scores = np.zeros((slots, beams))  # of running beams: sums of log-probabilities
        self._ended = np.zeros((slots, beams), bool)
        self._ended_scores = np.zeros((slots, beams))
        self._ended_lengths = np.zeros((slots, beams), np.int32)
        self._ended_ids = np.zeros((slots, beams, 32), np.int32)

    def add(self, prompt: np.ndarray) -> int:
        slot = super().add(prompt)
        self._scores[slot] = NEVER
        self._scores[slot, 0] = 0.0
        self._ended[slot] = False
        self._ended_scores[slot] = NEVER
        return slot

    def advance(self, scores: StepResult) -> list[Finished]:
        live = self._live
        totals, parents, tokens = self._continuations(scores)
        length, maximum, prompt = self._length[live] + 1, self._maximum[live], self._prompt[live]
        self._reserve(int(length.max(initial=1)))
        ends: np.ndarray = self._ends(tokens) | (length >= maximum)[:, None]
        generated = length - prompt
        self._finish(totals, parents, tokens, ends, generated)

        running = totals + ends * NEVER
        chosen = np.argsort(-running, axis=1, kind="stable")[:, : self.beams]
        sentence = np.arange(len(live))[:, None]
        self._scores[live] = scored = running[sentence, chosen]

        flattering = self.options.early_stopping == "never" and self.options.length_penalty > 0.0
        best = scored[:, 0] / self._length_power(maximum - prompt if flattering else generated)
        ended = self._ended[live]
        improvable = can_improve(best, self._ended_scores[live], ended)
        done = is_done(self.options.early_stopping, improvable, ended, np.logical_and.reduce(ends, axis=1))
        parents, tokens = parents[sentence, chosen], tokens[sentence, chosen]
        if not np.count_nonzero(done):
            self._branch(live, parents, tokens)
            self._drop(done)
            return []
        finished = [Finished(int(slot), self._best(int(slot))) for slot in live[done]]
        going = ~done
        self._branch(live[going], parents[going], tokens[going])
        self._drop(done)
        return finished

    def _continuations(self, scores: StepResult) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best (1 + end tokens) * B continuations of n live sentences, best first; ties: lower beam.

        Returns sums of log-probabilities, parent beams and tokens, each [n, up to so many].
        """
        live, beams = self._live, self.beams
        begun = len(live) - self._fresh
        rows = np.empty((len(live), beams), np.intp)
        rows[:begun] = np.arange(begun * beams).reshape(begun, beams)
        rows[begun:] = (begun * beams + np.arange(self._fresh))[:, None]
        candidates = self._candidates(scores, normalize=True)
        width = candidates.ids.shape[1]
        totals = (candidates.values[rows] + self._scores[live][:, :, None]).reshape(len(live), -1)
        order = np.argsort(-totals, axis=1, kind="stable")[:, : (1 + len(self._end)) * beams]
        parents, ranks = np.divmod(order, width)
        sentence = np.arange(len(live))[:, None]
        return totals[sentence, order], parents, candidates.ids[rows[sentence, parents], ranks]

    def _finish(
        self,
        totals: np.ndarray,
        parents: np.ndarray,
        tokens: np.ndarray,
        ends: np.ndarray,
        generated: np.ndarray,
    ) -> None:
        """Let the best B continuations compete with the finished hypotheses where they end."""
        beams = self.beams
        # A beam that exists only because there were too few candidates (see NEVER) ends in nothing.
        just = ends[:, :beams] & (totals[:, :beams] > NEVER / 2)
        places = np.flatnonzero(just.any(axis=1))
        if not places.size:
            return
        slots, just = self._live[places], just[places]
        scored = totals[places, :beams] / self._length_power(generated[places])[:, None]
        merged = np.concatenate([self._ended_scores[slots], np.where(just, scored, -np.inf)], axis=1)
        order = np.argsort(-merged, axis=1, kind="stable")[:, :beams]
        is_new = order >= beams
        old = np.where(is_new, 0, order)
        self._ended_ids = widened(self._ended_ids, self._history.shape[-1])
        self._ended_ids[slots] = self._ended_ids[slots[:, None], old]
        self._ended_lengths[slots] = self._ended_lengths[slots[:, None], old]
        row = np.arange(len(slots))[:, None]
        self._ended_scores[slots] = merged[row, order]
        self._ended[slots] = np.concatenate([self._ended[slots], just], axis=1)[row, order]

        sentence, rank = np.nonzero(is_new)
        slot, place, source = slots[sentence], places[sentence], order[sentence, rank] - beams
        length = self._length[slot]
        self._ended_ids[slot, rank, : self._history.shape[-1]] = self._history[slot, parents[place, source]]
        self._ended_ids[slot, rank, length] = tokens[place, source]
        self._ended_lengths[slot, rank] = length + 1

    def _branch(self, slots: np.ndarray, parents: np.ndarray, tokens: np.ndarray) -> None:
        """Replace the beams of `slots` [n] by children: parent beam and new token of each, [n, B]."""
        history = self._history[slots[:, None], parents]
        history[np.arange(len(slots)), :, self._length[slots]] = tokens
        self._history[slots] = history
        self._length[slots] += 1

        held = self._sequences[slots]
        taken = held[np.arange(len(slots))[:, None], parents]
        earlier = self._beam[:, None] > self._beam
        # Beams whose parent's sequence an earlier beam has taken over.
        later = ((taken[:, :, None] == taken[:, None, :]) & earlier).any(axis=2)
        if np.count_nonzero(later):
            children = self._free_sequences.take(np.count_nonzero(later))
            self._forks = np.stack([taken[later], children], axis=1)
            self._free(held[~(held[:, :, None] == taken[:, None, :]).any(axis=2)])
            taken[later] = children
        self._sequences[slots] = taken

    def _best(self, slot: int) -> list[Found]:
        """The hypotheses of a finished sentence, best first: fewer than asked for if fewer exist."""
        wanted = range(self.options.num_return_sequences)
        hypotheses = []
        for rank in (rank for rank in wanted if self._ended[slot, rank]):
            ids = self._ended_ids[slot, rank, : self._ended_lengths[slot, rank]]
            hypotheses.append(self._found(slot, ids, float(self._ended_scores[slot, rank])))
        if not hypotheses:
            ids = self._history[slot, 0, : self._prompt[slot]]
            hypotheses.append(Found(ids[1:].copy(), -np.inf, cut=True))
        return hypotheses
