"""Beam search step by step, on scores made up for the purpose."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.decoding.beam import BeamSearch
from pyengine.decoding.search import Finished, Found, IdPool, Start
from pyengine.options import GenerationOptions
from pyengine.plan import StepResult
from tests.oracle.reference import ReferenceModel
from tests.oracle.reference_session import ReferenceSession
from tests.oracle.tiny import generation, model_config, random_tensors, search

VOCAB = 12


def beam_search(beams: int = 2, slots: int = 2, **options: object) -> BeamSearch:
    defaults = generation(decoder_start_token_id=11, bad_words_ids=(), forced_eos_token_id=())
    settled = GenerationOptions(num_beams=beams, **options).resolve(defaults, VOCAB, 40)
    return BeamSearch(settled, IdPool(2 * beams * slots), slots=slots, vocab=VOCAB)


def begin(beams: BeamSearch, *prompts: list[int]) -> None:
    ids = beams._pool.take(len(prompts)).tolist()
    beams.add([Start(np.array(prompt), 0, id, 10 + id) for id, prompt in zip(ids, prompts, strict=True)])


def scored(*rows: dict[int, float]) -> StepResult:
    """A result whose rows have these log-probabilities, and no others."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), -1, np.int32)
    values = np.full((len(rows), width), -np.inf, np.float32)
    for q, row in enumerate(rows):
        best = sorted(row, key=lambda id: (-row[id], id))
        ids[q, : len(best)], values[q, : len(best)] = best, [row[id] for id in best]
    return StepResult(np.zeros(len(rows)), ids, values, np.zeros(0, np.float32))


def step(beams: BeamSearch, *rows: dict[int, float]) -> list[Finished]:
    plan = beams.rows()
    assert len(plan.logit_rows) == len(rows)
    return beams.advance(scored(*rows))


def test_first_step_has_one_row_then_one_a_beam() -> None:
    beams = beam_search(beams=3)
    begin(beams, [11])
    assert beams.rows().tokens.tolist() == [11]
    beams.advance(scored({3: -1, 4: -2, 5: -3, 6: -4}))
    rows = beams.rows()
    assert rows.tokens.tolist() == [3, 4, 5]
    # The first child keeps its parent's sequence; the others fork it.
    assert rows.sequences.tolist() == [0, 1, 2]
    assert rows.forks.tolist() == [[0, 1], [0, 2]] and beams.released().tolist() == []


def test_a_sequence_without_children_is_freed_after_the_forks() -> None:
    beams = beam_search()
    begin(beams, [11])
    step(beams, {3: -1, 4: -1.5, 5: -9})
    step(beams, {6: -1, 7: -1.1}, {8: -5, 9: -6})
    rows = beams.rows()
    assert rows.tokens.tolist() == [6, 7]
    assert rows.forks.tolist() == [[0, 2]]  # id 1 is in use until after the forks
    assert beams.released().tolist() == [1]
    assert rows.sequences.tolist() == [0, 2]


def test_a_prompt_is_several_rows_of_which_the_last_needs_logits() -> None:
    beams = beam_search()
    begin(beams, [11, 4, 5])
    begin(beams, [11])
    rows = beams.rows()
    assert rows.tokens.tolist() == [11, 4, 5, 11]
    assert rows.sequences.tolist() == [0, 0, 0, 1] and rows.memories.tolist() == [10, 10, 10, 11]
    assert rows.logit_rows.tolist() == [2, 3]


def test_ties_go_to_the_lower_beam_and_the_lower_id() -> None:
    beams = beam_search()
    begin(beams, [11])
    step(beams, {5: -1, 3: -1, 4: -1})
    assert beams.rows().tokens.tolist() == [3, 4]
    beams.advance(scored({6: -1, 7: -1}, {8: -1, 9: -1}))
    assert beams.rows().tokens.tolist() == [6, 7]


def test_score_counts_the_end_token() -> None:
    beams = beam_search(early_stopping=True, num_return_sequences=2)
    begin(beams, [11])
    assert step(beams, {0: -0.5, 3: -1, 4: -3}) == []
    (finished,) = step(beams, {0: -0.1, 5: -1}, {0: -5, 5: -6})
    first, second = finished.hypotheses
    assert (first.ids.tolist(), first.score) == ([0], -0.5)
    assert second.ids.tolist() == [3, 0] and abs(second.score - (-1.1 / 2)) < 1e-6
    assert beams.live == 0 and beams.released().tolist() == [0, 1]


def test_an_end_below_the_best_beams_is_ignored() -> None:
    beams = beam_search(early_stopping=True)
    begin(beams, [11])
    step(beams, {3: -1, 4: -2, 0: -3})
    assert not beams._beams.ended.any()


def test_fewer_hypotheses_where_fewer_exist() -> None:
    config = model_config()
    session = ReferenceSession(ReferenceModel(config, random_tensors(config, 1)))
    only_five = {
        "num_beams": 4,
        "num_return_sequences": 4,
        "suppress_tokens": tuple(i for i in range(23) if i not in (0, 5)),
    }
    (found,) = search(session, generation(), config, {**only_five, "max_new_tokens": 2}, [[4, 0]])
    assert [each.ids.tolist() for each in found] in ([[0], [5, 0]], [[5, 0], [0]])
    (found,) = search(
        session,
        generation(forced_eos_token_id=()),
        config,
        {"num_beams": 2, "suppress_tokens": tuple(range(23))},
        [[4, 0]],
    )
    assert [(each.ids.tolist(), each.score) for each in found] == [([], -np.inf)]
    assert not session.sequences


@pytest.mark.parametrize("penalty", [-100.0, -9.0, 30.0, 100.0])
def test_a_hypothesis_is_better_than_none_whatever_its_score(penalty: float) -> None:
    """Also below the -1e9 that transformers takes for none, which gave an empty text with a score of minus infinity."""
    config = model_config()
    session = ReferenceSession(ReferenceModel(config, random_tensors(config, 1)))
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 12}

    def found(penalty: float) -> list[Found]:
        return search(session, generation(), config, {**options, "length_penalty": penalty}, [[4, 9, 0]])[0]

    hypotheses = found(penalty)
    scores = [each.score for each in hypotheses]
    assert len(hypotheses) == 3 and np.isfinite(scores).all() and scores == sorted(scores, reverse=True)
    assert all(len(each.ids) and each.score < 0 for each in hypotheses)
    if penalty < 0:  # every token makes a score worse by far
        lengths = [len(each.ids) for each in hypotheses]
        assert lengths == sorted(lengths) and lengths[0] == min(len(each.ids) for each in found(-1.0))


def test_a_repetition_penalty_makes_no_hypothesis_vanish() -> None:
    """A million times a log-probability, for each of 30 tokens."""
    config = model_config()
    session = ReferenceSession(ReferenceModel(config, random_tensors(config, 1)))
    options = {
        "num_beams": 2,
        "repetition_penalty": 1e6,
        "suppress_tokens": tuple(range(2, 23)),
        "min_new_tokens": 30,
        "max_new_tokens": 31,
    }
    [[best]] = search(session, generation(forced_eos_token_id=()), config, options, [[4, 9, 0]])
    assert len(best.ids) >= 30 and -np.inf < best.score < -1e6


def test_slots_are_used_again() -> None:
    config = model_config()
    session = ReferenceSession(ReferenceModel(config, random_tensors(config, 2)), max_memories=2)
    found = search(
        session, generation(), config, {"num_beams": 3}, [[4, 0], [5, 0], [6, 7, 0], [8, 0]], budget=6
    )
    assert len(found) == 4
