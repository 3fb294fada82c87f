"""Plans cut to the rows that a session takes."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.errors import InputError
from pyengine.plan import Plan
from pyengine.scheduling.slicing import run_plan, slice_plan
from tests.oracle.reference import ReferenceModel
from tests.oracle.reference_session import ReferenceSession
from tests.oracle.tiny import model_config, random_tensors

CONFIG = model_config()
MODEL = ReferenceModel(CONFIG, random_tensors(CONFIG, 3))


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def three_sentences() -> Plan:
    return Plan(
        encode_tokens=int32(3, 4, 0, 5, 0, 6, 7, 8, 0),
        encode_lengths=int32(3, 2, 4),
        encode_memories=int32(0, 1, 2),
        tokens=int32(22, 1, 2, 22, 22, 3, 4, 5),
        sequences=int32(0, 0, 0, 1, 2, 2, 2, 2),
        memories=int32(0, 0, 0, 1, 2, 2, 2, 2),
        logit_rows=int32(0, 2, 3, 7),
        top_k=3,
        exclude_offsets=int32(0, 2, 2, 3, 5),
        exclude_ids=int32(1, 4, 22, 0, 9),
        full_logits=True,
    )


@pytest.mark.parametrize("max_rows", [4, 5, 6, 7, 8])
def test_slices_do_what_the_whole_does(max_rows: int) -> None:
    plan = three_sentences()
    whole = ReferenceSession(MODEL).step(plan)
    session = ReferenceSession(MODEL, max_rows=max_rows)
    sliced = run_plan(session, plan)
    assert session.steps_run > 1
    for name in ("log_normalizer", "top_ids", "top_logits", "excluded_logits", "logits"):
        np.testing.assert_array_equal(getattr(sliced, name), getattr(whole, name), err_msg=name)
    assert session.sequences == {0: [22, 1, 2], 1: [22], 2: [22, 3, 4, 5]}


def test_a_plan_that_fits_is_one_step() -> None:
    session = ReferenceSession(MODEL)
    run_plan(session, three_sentences())
    assert session.steps_run == 1


def test_forks_and_frees_happen_once_and_first() -> None:
    session = ReferenceSession(MODEL, max_rows=4)
    run_plan(session, three_sentences())
    plan = Plan(
        forks=np.array([[2, 5]], np.int32),
        free_sequences=int32(0, 2),
        free_memories=int32(0),
        tokens=int32(6, 7, 8, 9, 10),
        sequences=int32(5, 5, 5, 1, 1),
        memories=int32(2, 2, 2, 1, 1),
        logit_rows=int32(2, 4),
        exclude_offsets=int32(0, 0, 0),
    )
    pieces = list(slice_plan(plan, 4))
    assert [len(piece.tokens) for piece in pieces] == [4, 1]
    assert [len(piece.forks) + len(piece.free_sequences) + len(piece.free_memories) for piece in pieces] == [
        4,
        0,
    ]
    result = run_plan(session, plan)
    assert session.sequences == {1: [22, 9, 10], 5: [22, 3, 4, 5, 6, 7, 8]} and set(session.memories) == {
        1,
        2,
    }
    assert result.top_ids.shape == (2, 1)


def test_a_segment_is_never_cut() -> None:
    with pytest.raises(InputError, match="a segment of 4 tokens exceeds 3 rows"):
        run_plan(ReferenceSession(MODEL, max_rows=3), three_sentences())
