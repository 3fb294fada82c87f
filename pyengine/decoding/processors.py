"""Logits processors as sparse edits: which ids a row may not take, which it must, and which are penalised.

The core returns the best candidates outside a row's edited ids, and the raw logits at those ids. So nothing
here ever sees a whole row of logits; an edit costs as much as the ids that it names. Semantics and order are
those of transformers 5.24.0's `GenerationMixin._get_logits_processor`: biases, repetition penalty (and behind it those
for tokens that were written, which transformers has not), no-repeat n-grams, bad words, minimum length, forced first
token, forced last token, suppressed tokens; the later wins where two meet. Last comes the normalization of what they
leave.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from pyengine.options import SearchOptions
from pyengine.plan import NO_IDS

__all__ = ["Candidates", "Context", "Edits", "Processors"]

# What an edit makes of a row's value at an id; where several name one id, the greatest wins.
CHANGE = 0  # biases and penalties
BAN = 1  # minus infinity
FORCE = 2  # zero, and minus infinity at every id of the row that is not forced
SUPPRESS = 3  # minus infinity, even if forced
_KINDS = 4

MOST_KEPT = 8192
"""Numbers of the bans that are the same in every row that stay from step to step, and from call to call."""


@dataclass(frozen=True, eq=False)
class Context:
    """What the edits of Q rows depend on.

    history            int [sum of length]  the rows' tokens from the start token on, end to end; None unless
                       `needs_history`
    length             int [Q]     how many of them each row has
    prompt             int [Q]     how many of those were given: start token and prefix
    minimum, maximum   int [Q]     tokens of a hypothesis, at least and at most
    """

    history: np.ndarray | None
    length: np.ndarray
    prompt: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray


@dataclass(frozen=True, eq=False)
class Edits:
    """The edited ids of Q rows, ascending in each row: row q has offsets[q] <= entry < offsets[q + 1].

    offsets int32 [Q + 1], ids int32 [E], kinds int8 [E]; None: all are bans. forced: bool [Q]; None: no row.
    What a change changes, [E] each: float64 `bias` is added, the repetition penalty applied where bool `repeated`,
    float64 `penalty` taken off; None: 0, everywhere, 0.
    """

    offsets: np.ndarray
    ids: np.ndarray
    kinds: np.ndarray | None = None
    forced: np.ndarray | None = None
    bias: np.ndarray | None = None
    repeated: np.ndarray | None = None
    penalty: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates of Q rows, in no order: int ids [Q, m], float64 values [Q, m] with and without processors.

    A place without a candidate has the value -inf; its id is 0 and means nothing.
    """

    ids: np.ndarray
    values: np.ndarray
    unprocessed: np.ndarray


class Processors:
    """The processors that `options` ask for, for a model with `vocab` target ids. For any number of threads."""

    def __init__(self, options: SearchOptions, vocab: int) -> None:
        self._options = options
        self._vocab = vocab
        self._end = np.array(options.end, np.int64)
        # A bad word that is nothing but an end token is ignored, as in NoBadWordsLogitsProcessor.
        words = [word for word in options.bad_words_ids if word not in {(end,) for end in options.end}]
        banned = [word[0] for word in words if len(word) == 1]
        self._banned = _ascending(banned)
        self._suppressed = _ascending(options.suppress_tokens)
        always = [*banned, *options.suppress_tokens]
        ends = {False: (), True: options.end}
        self._always = {short: _ascending([*always, *end]).astype(np.int32) for short, end in ends.items()}
        self._begin = _ascending(options.begin_suppress_tokens)
        self._phrases = _by_length([word for word in words if len(word) > 1])
        self._forced_end = _ascending(options.forced_eos_token_id)
        self._tiled = dict.fromkeys(self._always, Edits(np.zeros(1, np.int32), NO_IDS))  # of twice the rows there were
        self._biased = np.array([id for id, _ in options.logit_bias], np.int64)
        self._biases = np.array([bias for _, bias in options.logit_bias])
        self._counts = bool(options.presence_penalty or options.frequency_penalty)
        self.needs_history = bool(
            self._phrases or options.no_repeat_ngram_size or options.repetition_penalty != 1.0 or self._counts
        )

    def edits(self, context: Context) -> Edits:
        """The edits of each row before its next token."""
        rows = len(context.length)
        found: list[tuple[np.ndarray, np.ndarray, int]] = []
        if context.history is not None:
            self._from_history(context, found)
        forced = self._force(context, found)
        if self._begin.size:
            _cross(found, context.length == self._begin_index(context.prompt), self._begin, SUPPRESS)
        short = context.length < context.minimum
        if not found and not self._biased.size and forced is None and (short.all() or not short.any()):
            return self._same_bans(rows, bool(short.any()))
        _cross(found, short, self._end, BAN)
        everywhere = np.ones(rows, bool)
        _cross(found, everywhere, self._banned, BAN)
        _cross(found, everywhere, self._suppressed, SUPPRESS)
        _cross(found, everywhere, self._biased, CHANGE)
        return self._with_changes(context, self._combine(rows, found, forced))

    def _same_bans(self, rows: int, short: bool) -> Edits:
        """Every row has the bans that always hold, and those of end tokens if all are `short`."""
        tiled, banned = self._tiled[short], self._always[short]
        if len(tiled.offsets) <= rows:
            offsets = np.arange(2 * rows + 1, dtype=np.int32) * np.int32(len(banned))
            tiled = Edits(offsets, np.tile(banned, 2 * rows))
            if len(offsets) + len(tiled.ids) <= MOST_KEPT:
                self._tiled[short] = tiled
        return Edits(tiled.offsets[: rows + 1], tiled.ids[: rows * len(banned)])

    def apply(
        self, edits: Edits, top_ids: np.ndarray, top_values: np.ndarray, edited_values: np.ndarray
    ) -> Candidates:
        """Merge the best candidates outside the edits with those inside them that may still be taken.

        top_ids int [Q, k] (-1: none) and float64 top_values [Q, k], -inf at none; edited_values float64 [E].
        """
        ids = np.maximum(top_ids, 0)
        if edits.kinds is None:
            return Candidates(ids, top_values, top_values)
        if edits.forced is not None:
            top_values = np.where(edits.forced[:, None], -np.inf, top_values)
        row_of = np.repeat(np.arange(len(top_ids)), np.diff(edits.offsets))
        entries, processed = self._processed(edits, row_of, edited_values)
        if not entries.size:
            return Candidates(ids, top_values, top_values)
        entry_rows = row_of[entries]
        column = np.arange(len(entries)) - np.searchsorted(entry_rows, entry_rows)
        def beside(top: np.ndarray, fill: float, extra: np.ndarray) -> np.ndarray:
            block = np.full((len(top), int(column.max()) + 1), fill, top.dtype)
            block[entry_rows, column] = extra
            return np.concatenate([top, block], axis=1)

        return Candidates(
            beside(ids, 0, edits.ids[entries]),
            beside(top_values, -np.inf, processed),
            beside(top_values, -np.inf, edited_values[entries]),
        )

    def whole(self, edits: Edits, logits: np.ndarray) -> np.ndarray:
        """float64 [Q, vocab]: whole rows of raw logits after the processors."""
        values = logits.copy()
        row_of = np.repeat(np.arange(len(values)), np.diff(edits.offsets))
        values[row_of, edits.ids] = -np.inf
        if edits.kinds is not None:
            if edits.forced is not None:
                values[edits.forced] = -np.inf
            entries, processed = self._processed(edits, row_of, logits[row_of, edits.ids])
            values[row_of[entries], edits.ids[entries]] = processed
        return values

    def _processed(self, edits: Edits, row_of: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The edits that leave an id to be taken, and what they make of its value."""
        usable = edits.kinds == CHANGE
        if edits.forced is not None:
            usable &= ~edits.forced[row_of]
        entries = np.flatnonzero(usable | (edits.kinds == FORCE))
        values = values[entries]
        if edits.bias is not None:
            values = values + edits.bias[entries]
        penalty = self._options.repetition_penalty
        penalised = np.where(values < 0, values * penalty, values / penalty)
        values = penalised if edits.repeated is None else np.where(edits.repeated[entries], penalised, values)
        if edits.penalty is not None:
            values = values - edits.penalty[entries]
        assert edits.kinds is not None  # else there is nothing to process
        return entries, np.where(edits.kinds[entries] == FORCE, 0.0, values)

    def renormalize(
        self, edits: Edits, edited_values: np.ndarray, candidates: Candidates, top_k: int
    ) -> Candidates:
        """Candidates whose values are log-probabilities among all that a row may still take.

        `candidates` are what `apply` made of log-probabilities `edited_values` and of `top_k` others a row. What
        no edit names keeps its probability: in sum, what the edited ids leave of one, known to about 1e-6
        (rounding of the logits); the candidates' own sum is the better one below that. Sums run along a row
        in order, so that a row never depends on how many candidates its neighbours have.
        """
        from pyengine._core import exp, log  # converting needs no core

        count = len(candidates.ids)
        row_of = np.repeat(np.arange(count), np.diff(edits.offsets))
        rest = 1.0 - np.bincount(row_of, exp(edited_values), minlength=count)
        if edits.forced is not None:
            rest[edits.forced] = 0.0
        shares = np.cumsum(exp(candidates.values), axis=1)
        top = shares[:, top_k - 1]
        mass = np.where(rest > 1e-5, np.maximum(rest, top), top) + (shares[:, -1] - top)
        normalizer = log(mass)
        normalizer[mass == 0.0] = 0.0  # nothing may be taken: -inf stays -inf
        return Candidates(candidates.ids, candidates.values - normalizer[:, None], candidates.unprocessed)

    def _from_history(self, context: Context, found: list[tuple[np.ndarray, np.ndarray, int]]) -> None:
        history, length = context.history, context.length
        assert history is not None
        ends = np.cumsum(length)
        row_of = np.repeat(np.arange(len(length)), length)
        if self._options.repetition_penalty != 1.0 or self._counts:
            found.append((row_of, history, CHANGE))
        size = self._options.no_repeat_ngram_size
        if size > 0:
            starts = np.flatnonzero(np.arange(len(history)) <= ends[row_of] - size)  # of n-grams within a row
            for i in range(size - 1):
                # A row shorter than the n-gram has no start; the clip only keeps its index legal.
                suffix = history[np.maximum(ends - size + 1 + i, 0)]
                starts = starts[history[starts + i] == suffix[row_of[starts]]]
            found.append((row_of[starts], history[starts + size - 1], BAN))
        for prefixes, last in self._phrases:
            count = prefixes.shape[1]
            suffix = history[np.maximum(ends[:, None] - count + np.arange(count), 0)]
            matches = (suffix[:, None, :] == prefixes).all(axis=2) & (length >= count)[:, None]
            rows, words = np.nonzero(matches)
            found.append((rows, last[words], BAN))

    def _force(self, context: Context, found: list[tuple[np.ndarray, np.ndarray, int]]) -> np.ndarray | None:
        """Adds the forced tokens; returns which rows have any, None if none has."""
        if self._options.forced_bos_token_id is None and not self._forced_end.size:
            return None
        last: np.ndarray = context.length == (context.maximum - 1 if self._forced_end.size else -1)
        forced = last
        if self._options.forced_bos_token_id is not None:
            first = (context.length == 1) & ~last
            forced = first | last
            _cross(found, first, np.array([self._options.forced_bos_token_id]), FORCE)
        _cross(found, last, self._forced_end, FORCE)
        return forced if forced.any() else None

    def _begin_index(self, prompt: np.ndarray) -> np.ndarray:
        """The length at which `begin_suppress_tokens` act: the first token that is not forced."""
        if self._options.forced_bos_token_id is None:
            return prompt
        return np.where(prompt == 1, 2, prompt)

    def _combine(
        self, rows: int, found: list[tuple[np.ndarray, np.ndarray, int]], forced: np.ndarray | None
    ) -> Edits:
        keys = np.concatenate([(row * self._vocab + ids) * _KINDS + kind for row, ids, kind in found])
        keys.sort()  # not np.unique, which may be C++ (pyengine/native.py)
        places = keys // _KINDS
        strongest = np.ones(len(keys), bool)  # there may be none: processors that look for repetitions found nothing
        strongest[:-1] = places[1:] != places[:-1]
        keys, places = keys[strongest], places[strongest]
        offsets = np.searchsorted(places, np.arange(rows + 1) * self._vocab).astype(np.int32)
        return Edits(
            offsets, (places % self._vocab).astype(np.int32), (keys % _KINDS).astype(np.int8), forced
        )

    def _with_changes(self, context: Context, edits: Edits) -> Edits:
        """`edits` with what their changes change."""
        if not (self._biased.size or self._counts):
            return edits
        row_of = np.repeat(np.arange(len(context.length)), np.diff(edits.offsets))
        bias = repeated = penalty = None
        if self._biased.size:
            at = np.minimum(np.searchsorted(self._biased, edits.ids), len(self._biased) - 1)
            bias = np.where(self._biased[at] == edits.ids, self._biases[at], 0.0)
        if context.history is not None:
            owner = np.repeat(np.arange(len(context.length)), context.length)
            begins = np.cumsum(context.length) - context.length
            written = np.arange(len(owner)) - begins[owner] >= context.prompt[owner]
            places, own = row_of * self._vocab + edits.ids, owner * self._vocab + context.history
            repeated = _count(own, places) > 0
            if self._counts:
                count = _count(own[written], places)
                options = self._options
                penalty = np.where(count > 0, options.presence_penalty, 0.0) + options.frequency_penalty * count
        return replace(edits, bias=bias, repeated=repeated, penalty=penalty)


def _count(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """How often each `of` [E] is among the values."""
    values = np.sort(values)
    return np.searchsorted(values, of, side="right") - np.searchsorted(values, of, side="left")


def _ascending(ids: Iterable[int]) -> np.ndarray:
    """Each of `ids` once, int64."""
    return np.array(sorted(set(ids)), np.int64)


def _cross(
    found: list[tuple[np.ndarray, np.ndarray, int]], where: np.ndarray, ids: np.ndarray, kind: int
) -> None:
    """Adds every id of `ids` on every row of the mask `where`."""
    if ids.size and where.any():
        rows = np.flatnonzero(where)
        found.append((np.repeat(rows, len(ids)), np.tile(ids, len(rows)), kind))


def _by_length(words: list[tuple[int, ...]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Words of one length together: (all but the last tokens [n, length - 1], last tokens [n])."""
    groups: dict[int, list[tuple[int, ...]]] = {}
    for word in words:
        groups.setdefault(len(word), []).append(word)
    arrays = [np.array(group, np.int64) for group in groups.values()]
    return [(array[:, :-1], array[:, -1]) for array in arrays]
