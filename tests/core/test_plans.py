"""A plan that breaks its contract, or is too large for the cache, is refused with the reason and changes nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pyengine import _core
from pyengine.errors import CacheFullError, EngineError, OptionError
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
    "offsets of lists without segments": (
        dict(rows=[(0, 0, [1])], list_offsets=[2], list_ids=[10**9, 5]), "lists of ids without segments",
    ),
    "forks of three": (dict(forks=np.zeros((1, 3), np.int32)), "forks are pairs"),
    "lengths without memories": (dict(sources={1: [1]}, encode_memories=[]), "differ in length"),
    "tokens without sequences": (dict(rows=[(0, 0, [1])], sequences=[]), "differ in length"),
    "tokens without memories": (dict(rows=[(0, 0, [1])], memories=[0, 0]), "differ in length"),
    "offsets of fewer rows": (dict(rows=[(0, 0, [1])], exclude_offsets=[0]), "differ in length"),
    "no offsets": (dict(rows=[(0, 0, [1])], exclude_offsets=[]), "differ in length"),
    "offsets beyond the ids": (dict(rows=[(0, 0, [1])], exclude_offsets=[0, 2]), "differ in length"),
    "negative offset": (dict(rows=[(0, 0, [1])], exclude_offsets=[0, -1]), "differ in length"),
    "a head that is not there": (
        dict(sources={1: [1]}, head="words"), "head 'words': expected one of the model's (none)",
    ),
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


def going_on(session: _core.Session) -> bytes:
    """What sequence 0 gives next."""
    result = step(session, rows=[(0, 0, [4])], full_logits=True)
    assert result.logits is not None
    return result.logits.tobytes() + result.log_normalizer.tobytes()


@pytest.mark.parametrize("case", REFUSED)
def test_refused(model: _core.Model, case: str) -> None:
    plan, reason = REFUSED[case]
    session, _ = started(model)
    untouched, _ = started(model)
    forks = plan.get("forks")
    made = make_plan(**{name: value for name, value in plan.items() if name != "forks"})
    if forks is not None:
        object.__setattr__(made, "forks", np.array(forks, np.int32))
    for _ in range(3):
        with pytest.raises(EngineError, match=re.escape(reason)):
            session.step(made)
    for _ in range(2):
        assert going_on(session) == going_on(untouched)


def test_a_refused_plan_takes_no_pages(model: _core.Model) -> None:
    """The last check of all fails, in a plan that forks, frees, encodes and decodes."""
    session, _ = started(model)
    untouched, _ = started(model)
    size = session.cache_bytes
    for _ in range(100):
        with pytest.raises(EngineError, match="excluded id 23"):
            step(session, forks=[(0, 3)], free_sequences=[0], sources={1: [1] * 40}, rows=[(1, 1, [1] * 20)],
                 logit_rows=[0], exclude=[[23]])  # fmt: skip
    assert session.cache_bytes == size
    assert going_on(session) == going_on(untouched)


def bounded(model: _core.Model, pages: int) -> _core.Session:
    """A session whose cache has so many pages."""
    page = new_session(model).sequence_bytes(1)
    return new_session(model, threads=2, max_rows=ROWS, max_sequences=SEQUENCES, max_memories=MEMORIES,
                       cache_bytes=pages * page)  # fmt: skip


def test_a_plan_that_the_cache_has_no_room_for_says_what_it_needs(model: _core.Model) -> None:
    session = bounded(model, 5)
    untouched, _ = started(model)
    begin(session)  # a page for the memory, one for the sequence
    for plan, needed in (
        (dict(rows=[(1, 0, [1] * 40), (2, 0, [1] * 17)]), 5),
        (dict(sources={1: [1] * 40}, rows=[(1, 0, [1])]), 4),
        (dict(forks=[(0, 1), (0, 2)], rows=[(0, 0, [1]), (1, 0, [1]), (2, 0, [1] * 30)]), 4),
        (dict(rows=[(0, 0, [1] * 30), (1, 0, [1] * 32)]), 4),
    ):
        with pytest.raises(CacheFullError, match=f"needs {needed} more pages of 16 tokens, 3 are left") as caught:
            step(session, **plan)
        assert (caught.value.needed, caught.value.available) == (needed, 3)
        assert going_on(session) == going_on(untouched)


def test_what_a_plan_frees_it_may_use(model: _core.Model) -> None:
    """To the last page: of five, two are in use."""
    session = bounded(model, 5)
    begin(session)
    step(session, forks=[(0, 1)], rows=[(0, 0, [1]), (1, 0, [1] * 13)])  # one copies, the other keeps the page
    step(session, free_sequences=[1], rows=[(2, 0, [1] * 32)])  # one given back, two taken: the memory, 0, 2, 2
    step(session, forks=[(2, 3)], free_sequences=[2], rows=[(0, 0, [1]), (3, 0, [2])])  # full pages have moved
    with pytest.raises(CacheFullError, match="needs 1 more pages of 16 tokens, 0 are left"):
        step(session, rows=[(1, 0, [1])])
    step(session, free_sequences=[0, 0, 3, 3], free_memories=[0, 0], sources={0: [1] * 40}, rows=[(0, 0, [1] * 20)])


@pytest.mark.parametrize("seed", range(20))
def test_a_bounded_cache_gives_the_bytes_of_an_unbounded_one(model: _core.Model, seed: int) -> None:
    """Random plans: each runs alike on both, or the cache is too small for it and nothing has changed."""
    rng = np.random.default_rng(seed)
    small, large = bounded(model, 6), started(model)[0]
    begin(small)
    lengths, refused = {0: 3}, 0
    for _ in range(60):
        after = dict(lengths)
        forks, free = [], []
        unused = [i for i in range(SEQUENCES) if i not in lengths]
        if unused and lengths and rng.random() < 0.4:
            forks = [(int(rng.choice(list(lengths))), unused[0])]
            after[unused[0]] = lengths[forks[0][0]]
        if after and rng.random() < 0.4:
            free = [int(rng.choice(list(after)))]
            del after[free[0]]
        rows = []
        for sequence in range(SEQUENCES):
            count = min(int(rng.integers(1, 18)), 40 - after.get(sequence, 0))
            if rng.random() < 0.4 and count > 0 and sum(len(row[2]) for row in rows) + count <= ROWS:
                rows.append((sequence, 0, rng.integers(0, 23, count).tolist()))
                after[sequence] = after.get(sequence, 0) + count
        plan = dict(forks=forks, free_sequences=free, rows=rows, full_logits=True)
        try:
            got = step(small, **plan)
        except CacheFullError as error:
            assert error.needed > error.available >= 0
            refused += 1
            continue
        assert got.logits.tobytes() == step(large, **plan).logits.tobytes()
        lengths = after
    assert refused


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


@pytest.mark.parametrize("first", [{}, {"forks": [(0, 1)]}])
def test_long_lists_are_used_again_in_the_plan_that_frees_them(first: dict) -> None:
    """More pages than an empty list keeps room for."""
    model = TinyModel.random(max_positions=2000).core()
    session, fresh = (
        new_session(model, max_rows=1200, max_sequences=SEQUENCES, max_memories=MEMORIES) for _ in range(2)
    )
    step(session, sources={0: [1] * 1100}, rows=[(0, 0, [2] * 1100)], logit_rows=[])
    again = dict(sources={0: [3] * 1100}, rows=[(0, 0, [4] * 1100)], logit_rows=[1099], full_logits=True)
    found = step(session, **first, free_sequences=[0, 1], free_memories=[0], **again)
    wanted = step(fresh, **again)
    assert found.logits is not None and wanted.logits is not None
    assert found.logits.tobytes() == wanted.logits.tobytes()
