"""Sparse edits against the same rules applied to whole rows, one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.decoding.processors import Context, Processors
from pyengine.options import GenerationOptions, SearchOptions
from tests.oracle.cases import PLAIN, mixture
from tests.oracle.tiny import generation

VOCAB = 23


def settled(options: dict[str, object], **defaults: object) -> SearchOptions:
    return GenerationOptions(**options).resolve(generation(**defaults), VOCAB, 40)


def dense(
    row: np.ndarray, ids: list[int], prompt: int, limits: tuple[int, int], options: SearchOptions
) -> np.ndarray:
    """The rules in transformers' order on one row of values; minus infinity: not to be taken."""
    row = row.copy()
    for id, bias in options.logit_bias:
        row[id] += bias
    for id in set(ids):
        penalty = options.repetition_penalty
        row[id] = row[id] * penalty if row[id] < 0 else row[id] / penalty
    for id in ids[prompt:]:
        row[id] -= options.frequency_penalty
    for id in set(ids[prompt:]):
        row[id] -= options.presence_penalty
    size = options.no_repeat_ngram_size
    if size:
        for i in range(len(ids) - size + 1):
            if ids[i : i + size - 1] == ids[len(ids) - size + 1 :]:
                row[ids[i + size - 1]] = -np.inf
    for word in options.bad_words_ids:
        if word not in {(end,) for end in options.end} and ids[len(ids) - len(word) + 1 :] == list(word[:-1]):
            row[word[-1]] = -np.inf
    if len(ids) < limits[0]:
        row[list(options.end)] = -np.inf
    if options.forced_bos_token_id is not None and len(ids) == 1:
        row[:] = -np.inf
        row[options.forced_bos_token_id] = 0
    if options.forced_eos_token_id and len(ids) == limits[1] - 1:
        row[:] = -np.inf
        row[list(options.forced_eos_token_id)] = 0
    row[list(options.suppress_tokens)] = -np.inf
    begin = prompt + (prompt == 1 and options.forced_bos_token_id is not None)
    if len(ids) == begin:
        row[list(options.begin_suppress_tokens)] = -np.inf
    return row


def sparse(rows: np.ndarray, context: Context, processors: Processors, k: int) -> list[dict[int, float]]:
    """Candidates of each row as the searches see them: id -> value."""
    edits = processors.edits(context)
    top_ids = np.full((len(rows), k), -1)
    top_values = np.full((len(rows), k), -np.inf)
    edited = np.zeros(len(edits.ids))
    for q, row in enumerate(rows):
        span = slice(edits.offsets[q], edits.offsets[q + 1])
        assert np.all(np.diff(edits.ids[span]) > 0)
        edited[span] = row[edits.ids[span]]
        allowed = np.setdiff1d(np.arange(VOCAB), edits.ids[span])
        best = allowed[np.argsort(-row[allowed], kind="stable")[:k]]
        top_ids[q, : len(best)], top_values[q, : len(best)] = best, row[best]
    found = processors.apply(edits, top_ids, top_values, edited)
    return [
        {int(id): value for id, value in zip(ids, values, strict=True) if value > -np.inf}
        for ids, values in zip(found.ids, found.values, strict=True)
    ]


CHANGES: tuple[dict[str, object], ...] = (
    {},
    {"logit_bias": {0: 2.5, 5: -1.0, 22: 3.0}},
    {"presence_penalty": 0.7, "frequency_penalty": -0.4},
    {"logit_bias": {4: -2.0}, "repetition_penalty": 1.7, "frequency_penalty": 0.9},
)
CASES = [*PLAIN.values(), *(mixture(seed) for seed in range(60))]


@pytest.mark.parametrize("count", [1, 24])
@pytest.mark.parametrize("number", range(len(CASES)))
def test_edits_do_what_the_rules_say(number: int, count: int) -> None:
    """Of one row, too, in which processors may find nothing to edit."""
    case = CASES[number]
    options = settled({**case.options, **CHANGES[number % len(CHANGES)]}, **case.generation)
    rng = np.random.default_rng(number)
    prompt = rng.integers(1, 4, count)
    length = prompt + rng.integers(0, 9, count)
    # Few different ids, so that n-grams and bad words do occur.
    tokens = rng.integers(0, 6, (count, int(length.max()))) + rng.integers(0, 2) * 3
    minimum, maximum = np.array([options.length_limits(int(n)) for n in prompt]).T
    length = np.minimum(length, maximum - 1)
    rows = rng.normal(0, 3, (count, VOCAB))
    processors = Processors(options, VOCAB)
    history = np.concatenate([row[:n] for row, n in zip(tokens, length, strict=True)])
    context = Context(history if processors.needs_history else None, length, prompt, minimum, maximum)
    k = 5
    whole = processors.whole(processors.edits(context), rows)
    for q, found in enumerate(sparse(rows, context, processors, k)):
        ids = tokens[q, : length[q]].tolist()
        expected = dense(rows[q], ids, int(prompt[q]), (int(minimum[q]), int(maximum[q])), options)
        best = [int(id) for id in np.argsort(-expected, kind="stable")[:k] if expected[id] > -np.inf]
        assert sorted(found, key=lambda id: -found[id])[: len(best)] == best
        assert [found[id] for id in best] == pytest.approx(expected[best].tolist())
        assert whole[q].tolist() == pytest.approx(expected.tolist())


def test_no_edits_but_bans_need_no_history() -> None:
    processors = Processors(settled({}), VOCAB)
    edits = processors.edits(
        Context(None, np.array([2, 5]), np.array([1, 1]), np.array([0, 0]), np.array([20, 20]))
    )
    assert not processors.needs_history
    assert edits.offsets.tolist() == [0, 1, 2] and edits.ids.tolist() == [22, 22]
    assert edits.kinds is None and edits.forced is None


def test_a_forced_token_that_is_suppressed_is_not_taken() -> None:
    processors = Processors(settled({"forced_eos_token_id": (0, 7), "suppress_tokens": (7,)}), VOCAB)
    context = Context(None, np.array([19]), np.array([1]), np.array([0]), np.array([20]))
    assert sparse(np.ones((1, VOCAB)), context, processors, 3) == [{0: 0.0}]
