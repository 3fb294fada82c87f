"""A plan that breaks its contract is refused with the reason, and leaves the session empty and usable."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pyengine import _core
from pyengine.errors import EngineError, OptionError
from pyengine.plan import StepResult

from .models import TinyModel, make_plan, new_session, step

ROWS, SEQUENCES, MEMORIES = 64, 4, 3

# name of the case: (the plan, what the message says). The model has 23 ids and 40 positions; memory 0 and sequence 0,
# with 3 tokens, are in use.
REFUSED: dict[str, tuple[dict, str]] = {
    "fork of an unused sequence": (dict(forks=[(1, 2)]), "sequence 1 is not in use"),
    "fork into a used sequence": (dict(forks=[(0, 0)]), "sequence 0 is already in use"),
    "two forks into one": (dict(forks=[(0, 1), (0, 1)]), "sequence 1 is already in use"),
    "fork from out of range": (dict(forks=[(-1, 1)]), "sequence -1 is not in [0, 4)"),
    "fork to out of range": (dict(forks=[(0, 4)]), "sequence 4 is not in [0, 4)"),
    "free a sequence out of range": (dict(free_sequences=[4]), "sequence 4 is not in [0, 4)"),
    "free a negative sequence": (dict(free_sequences=[0, -1]), "sequence -1 is not in [0, 4)"),
    "free a memory out of range": (dict(free_memories=[3]), "memory 3 is not in [0, 3)"),
    "encode into a used memory": (dict(sources={0: [1]}), "memory 0 is already in use"),
    "encode out of range": (dict(sources={3: [1]}), "memory 3 is not in [0, 3)"),
    "encode into a negative memory": (dict(sources={-1: [1]}), "memory -1 is not in [0, 3)"),
    "encode twice into one": (
        dict(encode_tokens=[1, 2], encode_lengths=[1, 1], encode_memories=[1, 1]), "memory 1 is already in use",
    ),
    "source token too large": (dict(sources={1: [5, 23]}), "source token 23 is not in [0, 23)"),
    "source token negative": (dict(sources={1: [-1]}), "source token -1 is not in [0, 23)"),
    "empty segment": (dict(sources={1: []}), "a segment of 0 tokens"),
    "negative segment": (
        dict(encode_tokens=[1], encode_lengths=[2, -1], encode_memories=[1, 2]), "a segment of -1 tokens",
    ),
    "segment beyond the positions": (dict(sources={1: [1] * 41}), "a segment of 41 tokens; the model has 40"),
    "segments that do not add up": (
        dict(encode_tokens=[1, 2, 3], encode_lengths=[1, 1], encode_memories=[1, 2]),
        "segments of 2 tokens in all, but 3 source tokens",
    ),
    "too many source tokens": (
        dict(sources={1: [1] * 40, 2: [1] * 25}), "65 source tokens in a step of at most 64 rows",
    ),
    "too many rows": (
        dict(rows=[(1, 0, [1] * 40), (2, 0, [1] * 25)]), "65 rows in a step of at most 64",
    ),
    "sequence out of range": (dict(rows=[(4, 0, [1])]), "sequence 4 is not in [0, 4)"),
    "sequence negative": (dict(rows=[(-1, 0, [1])]), "sequence -1 is not in [0, 4)"),
    "memory not in use": (dict(rows=[(0, 1, [1])]), "memory 1 is not in use"),
    "memory out of range": (dict(rows=[(0, 3, [1])]), "memory 3 is not in [0, 3)"),
    "memory freed in this step": (dict(free_memories=[0], rows=[(0, 0, [1])]), "memory 0 is not in use"),
    "token too large": (dict(rows=[(0, 0, [1, 23])]), "token 23 is not in [0, 23)"),
    "token negative": (dict(rows=[(0, 0, [-5])]), "token -5 is not in [0, 23)"),
    "beyond the positions": (
        dict(rows=[(0, 0, [1] * 38)]), "sequence 0 would have 41 tokens; the model has 40 positions",
    ),
    "rows that are not adjacent": (
        dict(rows=[(0, 0, [1]), (1, 0, [1]), (0, 0, [1])]), "the rows of sequence 0 are not adjacent",
    ),
    "logit rows out of order": (dict(rows=[(0, 0, [1, 2])], logit_rows=[1, 0]), "logit row 0 is out of order"),
    "a logit row twice": (dict(rows=[(0, 0, [1, 2])], logit_rows=[1, 1]), "logit row 1 is out of order"),
    "logit row out of range": (dict(rows=[(0, 0, [1, 2])], logit_rows=[2]), "logit row 2 is out of order or range"),
    "negative logit row": (dict(rows=[(0, 0, [1, 2])], logit_rows=[-1]), "logit row -1 is out of order or range"),
    "logits of no rows": (dict(logit_rows=[0]), "logits of 1 rows of 0"),
    "excluded ids out of order": (dict(rows=[(0, 0, [1])], exclude=[[3, 2]]), "excluded id 2 is out of order"),
    "an excluded id twice": (dict(rows=[(0, 0, [1])], exclude=[[3, 3]]), "excluded id 3 is out of order"),
    "excluded id too large": (dict(rows=[(0, 0, [1])], exclude=[[3, 23]]), "excluded id 23 is out of order or range"),
    "excluded id negative": (dict(rows=[(0, 0, [1])], exclude=[[-1]]), "excluded id -1 is out of order or range"),
    "offsets that do not start at 0": (
        dict(rows=[(0, 0, [1])], exclude_offsets=[1, 2], exclude_ids=[3, 4]), "do not ascend at row 0",
    ),
    "offsets that descend": (
        dict(rows=[(0, 0, [1, 2])], exclude_offsets=[0, 2, 1], exclude_ids=[3]), "do not ascend at row 0",
    ),
    "offsets far beyond the ids": (
        dict(rows=[(0, 0, [1, 2])], exclude_offsets=[0, 1 << 30, 1], exclude_ids=[3]), "do not ascend at row 0",
    ),
    "forks of three": (dict(forks=np.zeros((1, 3), np.int32)), "forks are pairs"),
    "lengths without memories": (dict(sources={1: [1]}, encode_memories=[]), "differ in length"),
    "tokens without sequences": (dict(rows=[(0, 0, [1])], sequences=[]), "differ in length"),
    "tokens without memories": (dict(rows=[(0, 0, [1])], memories=[0, 0]), "differ in length"),
    "offsets of fewer rows": (dict(rows=[(0, 0, [1])], exclude_offsets=[0]), "differ in length"),
    "no offsets": (dict(rows=[(0, 0, [1])], exclude_offsets=[]), "differ in length"),
    "offsets beyond the ids": (dict(rows=[(0, 0, [1])], exclude_offsets=[0, 2]), "differ in length"),
    "negative offset": (dict(rows=[(0, 0, [1])], exclude_offsets=[0, -1]), "differ in length"),
    "negative top_k": (dict(rows=[(0, 0, [1])], top_k=-1), "differ in length"),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> _core.Model:
    return TinyModel.random("int8", seed=31).core("int8")


def started(model: _core.Model) -> tuple[_core.Session, StepResult]:
    """A session with memory 0 and sequence 0, and the result of that step."""
    session = new_session(model, threads=2, max_rows=ROWS, max_sequences=SEQUENCES, max_memories=MEMORIES)
    return session, begin(session)


def begin(session: _core.Session) -> StepResult:
    return step(session, sources={0: [4, 5, 6, 7]}, rows=[(0, 0, [1, 2, 3])], full_logits=True)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(model: _core.Model, case: str) -> None:
    plan, reason = REFUSED[case]
    session, first = started(model)
    forks = plan.get("forks")
    made = make_plan(**{name: value for name, value in plan.items() if name != "forks"})
    if forks is not None:
        object.__setattr__(made, "forks", np.array(forks, np.int32))
    for _ in range(3):
        with pytest.raises(EngineError, match=re.escape(reason)):
            session.step(made)
        again = begin(session)  # the ids are unused, and sequence 0 starts at position 0
        assert again.logits is not None and first.logits is not None
        assert again.logits.tobytes() == first.logits.tobytes()


def test_a_refused_plan_gives_its_pages_back(model: _core.Model) -> None:
    """The last check of all fails, when pages for everything have been taken."""
    session, _ = started(model)
    size = session.cache_bytes
    for _ in range(1000):
        with pytest.raises(EngineError, match="excluded id 23"):
            step(session, sources={1: [1] * 40}, rows=[(1, 1, [1] * 20)], logit_rows=[0], exclude=[[23]])
    assert session.cache_bytes == size


def test_an_array_of_another_type_is_refused_before_anything_runs(model: _core.Model) -> None:
    session, _ = started(model)
    made = make_plan(rows=[(0, 0, [1])])
    object.__setattr__(made, "tokens", made.tokens.astype(np.int64))
    with pytest.raises(ValueError, match="Buffer dtype mismatch"):
        session.step(made)
    step(session, rows=[(0, 0, [1])])  # sequence 0 and memory 0 are still there


def test_what_is_allowed(model: _core.Model) -> None:
    """Empty plans; freeing what is not in use; all positions; all ids of a session."""
    session, _ = started(model)
    empty = step(session)
    assert empty.top_ids.shape == (0, 1) and empty.logits is None
    assert step(session, full_logits=True).logits.shape == (0, 23)
    step(session, free_sequences=[3, 3, 0, 0], free_memories=[2, 2, 0, 0])
    step(session, sources={0: [1] * 40}, rows=[(0, 0, [1] * 40)])
    step(session, sources={1: [2], 2: [3]}, rows=[(1, 1, [1]), (2, 2, [1]), (3, 0, [1])])


@pytest.mark.parametrize("name", ["threads", "max_rows", "max_sequences", "max_memories"])
@pytest.mark.parametrize("value", [0, -1, 1 << 31])
def test_sizes_of_a_session_out_of_range(model: _core.Model, name: str, value: int) -> None:
    with pytest.raises(OptionError, match=name):
        new_session(model, **{name: value})


def test_a_session_needs_a_model() -> None:
    with pytest.raises(TypeError, match="model"):
        new_session(None)  # type: ignore[arg-type]
