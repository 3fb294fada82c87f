"""Memories with lists of ids: their rows are answered over the list, whatever other lists there are or have been."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pyengine import _core
from pyengine.errors import EngineError
from pyengine.plan import StepResult
from pyengine.scheduling.slicing import run_plan

from ..oracle.reference import ReferenceModel
from ..oracle.reference_session import ReferenceSession
from .models import TinyModel, make_plan, new_session, step

VOCAB = 2100
CHANGES = dict(
    width=20, encoder=(1, 5, 33), decoder=(2, 2, 40), source_vocab=90, target_vocab=VOCAB,
    share_embeddings=False, max_positions=64,
)  # fmt: skip
SIZES = (1, 2, 15, 16, 17, 300, 1023, 1024, 1025, 2048, VOCAB)

Sentence = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Source, target, list."""


@pytest.fixture(scope="module", params=["float32", "int8"])
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return TinyModel.random(request.param, seed=21, **CHANGES)


@pytest.fixture(scope="module")
def model(tiny: TinyModel) -> _core.Model:
    return tiny.core(tiny.weights)


def sentences(count: int, seed: int, longest: int = 1500) -> list[Sentence]:
    """Lists share some ids, as those of a shortlist do."""
    rng = np.random.default_rng(seed)
    common = rng.choice(VOCAB, 40, replace=False)
    made = []
    for s, t in rng.integers(1, 12, (count, 2)):
        own = rng.choice(VOCAB, rng.integers(1, longest), replace=False)
        made.append((rng.integers(0, 90, s), rng.integers(0, VOCAB, t), np.union1d(common, own)))
    return made


def run(session, batch: Sequence[Sentence], exclude: Sequence[int] = (), top_k: int = 5) -> StepResult:
    sources = {i: source for i, (source, _, _) in enumerate(batch)}
    rows = [(i, i, target) for i, (_, target, _) in enumerate(batch)]
    each = [exclude] * sum(len(target) for _, target, _ in batch)
    plan = make_plan(sources=sources, rows=rows, lists=[ids for _, _, ids in batch], exclude=each, top_k=top_k)
    return run_plan(session, plan)


def to_bytes(result: StepResult, rows: slice = slice(None), excluded: int = 0) -> tuple[bytes, ...]:
    span = slice(None) if rows.stop is None else slice(rows.start * excluded, rows.stop * excluded)
    arrays = (result.log_normalizer[rows], result.top_ids[rows], result.top_logits[rows], result.excluded_logits[span])
    return tuple(array.tobytes() for array in arrays)


@pytest.mark.parametrize("size", SIZES)
def test_a_list_is_the_vocabulary(model: _core.Model, size: int) -> None:
    """Logits are those of the whole vocabulary, to the byte."""
    rng = np.random.default_rng(size)
    ids = np.sort(rng.choice(VOCAB, size, replace=False))
    source, target = rng.integers(0, 90, 7), rng.integers(0, VOCAB, 4)
    logits = step(new_session(model), sources={0: source}, rows=[(0, 0, target)], full_logits=True).logits
    assert logits is not None
    best = np.argsort(-logits[:, ids], axis=1, kind="stable")
    excluded = np.union1d([0, 5, VOCAB - 1], ids[best[0, :2]])
    listed = np.isin(excluded, ids)
    result = run(new_session(model, threads=2), [(source, target, ids)], exclude=excluded, top_k=8)
    for row, values in enumerate(logits):
        wide = values[ids].astype(np.float64)
        normalizer = np.log(np.exp(wide - wide.max()).sum()) + wide.max()
        assert result.log_normalizer[row] == pytest.approx(normalizer, abs=2e-6)
        allowed = [ids[i] for i in best[row] if ids[i] not in excluded][:8]
        assert result.top_ids[row].tolist() == allowed + [-1] * (8 - len(allowed))
        np.testing.assert_array_equal(result.top_logits[row, : len(allowed)], values[allowed])
        assert np.all(result.top_logits[row, len(allowed) :] == -np.inf)
        found = result.excluded_logits[row * len(excluded) : (row + 1) * len(excluded)]
        np.testing.assert_array_equal(found, np.where(listed, values[excluded], -np.inf))


def test_against_the_oracle() -> None:
    tiny = TinyModel.random("float32", seed=22, **CHANGES)
    batch = sentences(5, 1)
    got = run(new_session(tiny.core("float32"), threads=2), batch, exclude=[3, 700])
    expected = run(ReferenceSession(ReferenceModel(tiny.config, tiny.floats)), batch, exclude=[3, 700])
    np.testing.assert_allclose(got.log_normalizer, expected.log_normalizer, atol=1e-4)
    np.testing.assert_allclose(got.top_logits, expected.top_logits, atol=1e-4)
    np.testing.assert_allclose(got.excluded_logits, expected.excluded_logits, atol=1e-4)
    assert np.mean(got.top_ids == expected.top_ids) > 0.95  # else a tie


def test_all_ids_give_what_no_list_gives(model: _core.Model) -> None:
    batch = [(source, target, np.arange(VOCAB)) for source, target, _ in sentences(6, 2)]
    listed = run(new_session(model), batch, exclude=[7])
    sources = {i: source for i, (source, _, _) in enumerate(batch)}
    rows = [(i, i, target) for i, (_, target, _) in enumerate(batch)]
    each = [[7]] * len(listed.log_normalizer)
    whole = step(new_session(model), sources=sources, rows=rows, exclude=each, top_k=5)
    assert to_bytes(listed)[1:] == to_bytes(whole)[1:]
    np.testing.assert_allclose(listed.log_normalizer, whole.log_normalizer, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_alone_or_in_company(model: _core.Model, threads: int) -> None:
    batch = sentences(24, 3)
    together = run(new_session(model, threads=threads, max_rows=300), batch, exclude=[3, 9, 700])
    ends = np.cumsum([len(target) for _, target, _ in batch])
    alone = new_session(model)
    for end, sentence in zip(ends, batch, strict=True):
        alone.clear()
        own = slice(end - len(sentence[1]), end)
        assert to_bytes(together, own, 3) == to_bytes(run(alone, [sentence], exclude=[3, 9, 700]))


def test_every_instruction_set_gives_the_same_bytes(tiny: TinyModel) -> None:
    batch = sentences(5, 4)
    results = {isa: to_bytes(run(new_session(tiny.core(isa=isa)), batch)) for isa in _core.available_isas()}
    assert len(set(results.values())) == 1, list(results)


def test_cut_into_steps(model: _core.Model) -> None:
    batch = sentences(12, 5)
    whole = to_bytes(run(new_session(model), batch))
    for max_rows in (12, 20, 31):
        assert to_bytes(run(new_session(model, max_rows=max_rows), batch)) == whole


def test_lists_come_and_go(model: _core.Model) -> None:
    """Slots are taken, given back and taken again; what a sentence gets stays what it gets alone."""
    rng = np.random.default_rng(6)
    batch = sentences(40, 6, longest=200)
    alone = [to_bytes(run(new_session(model), [sentence])) for sentence in batch]
    session, fork = new_session(model, threads=2), 60
    live: dict[int, int] = {}  # memory -> sentence
    for i in range(len(batch)):
        freed = [memory for memory in live if rng.random() < 0.3]
        for memory in freed:
            del live[memory]
        memory = min(set(range(10)) - set(live) - {9}, default=9)
        if memory in live:
            freed.append(memory)
        live[memory] = i
        source, target, ids = batch[i]
        plan = make_plan(
            sources={memory: source}, lists=[ids], free_memories=freed, free_sequences=[*freed, fork],
            rows=[(memory, memory, target)], top_k=5,
        )  # fmt: skip
        assert to_bytes(session.step(plan)) == alone[i]
        held = np.unique(np.concatenate([batch[sentence][2] for sentence in live.values()]))
        assert session.list_slots[0] == len(held) <= session.list_slots[1]
        # Any live memory again, by a sequence of its own.
        other = int(rng.choice(list(live)))
        again = step(session, rows=[(fork, other, batch[live[other]][1])], top_k=5)
        assert to_bytes(again) == alone[live[other]]
    session.clear()
    assert session.list_slots == (0, 0)


def test_the_product_stays_short(model: _core.Model) -> None:
    """One sentence after many: no more rows of the output layer than it has ids."""
    session = new_session(model)
    batch = sentences(20, 7, longest=100)
    run(session, batch)
    assert session.list_slots[0] > 700
    for sentence in batch:
        session.clear()
        run(session, [sentence])
        assert session.list_slots == (len(sentence[2]),) * 2


def test_forks_of_a_sequence(model: _core.Model) -> None:
    source, _, ids = sentences(1, 8)[0]
    session = new_session(model)
    step(session, sources={0: source}, lists=[ids], rows=[(0, 0, [1, 2])])
    both = step(session, forks=[(0, 1)], rows=[(0, 0, [3]), (1, 0, [3])], top_k=4)
    assert both.top_ids[0].tobytes() == both.top_ids[1].tobytes()
    assert both.log_normalizer[0] == both.log_normalizer[1]


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (dict(lists=[[1, 2], []]), "the offsets of lists do not ascend at segment 1"),
        (dict(lists=[[2, 1], [1]]), "id 1 of a list is out of order or range"),
        (dict(lists=[[1, 1], [1]]), "id 1 of a list is out of order or range"),
        (dict(lists=[[1], [VOCAB]]), "id 2100 of a list is out of order or range"),
        (dict(lists=[[-1], [1]]), "id -1 of a list is out of order or range"),
        (dict(list_offsets=[1, 1, 2], list_ids=[1, 2]), "the offsets of lists do not ascend at segment 0"),
        (dict(list_offsets=[0, 3, 2], list_ids=[1, 2]), "the offsets of lists do not ascend at segment 0"),
        (dict(list_offsets=[0, 1 << 30, 2], list_ids=[1, 2]), "the offsets of lists do not ascend at segment 0"),
        (dict(list_offsets=[0, 1], list_ids=[1]), "differ in length"),
        (dict(list_offsets=[0, 1, 3], list_ids=[1, 2]), "differ in length"),
        (dict(list_offsets=[0, 1, -1], list_ids=[]), "differ in length"),
        (dict(list_ids=[1]), "differ in length"),
        (dict(lists=[[1], [2]], full_logits=True), "full logits of rows with lists"),
        (dict(lists=[[1], [2]], rows=[(0, 0, [1]), (1, 5, [1])]), "rows with lists and of rows without"),
        (dict(lists=[list(range(2000)), [2]], exclude=[[VOCAB], []]), "excluded id 2100"),
    ],
    ids=str,
)
def test_refused(model: _core.Model, plan: dict, reason: str) -> None:
    """The reason is named, no list is left behind, and what the plan would have gathered is gathered when it comes."""
    batch = sentences(3, 9)
    expected = to_bytes(run(new_session(model), batch))
    session = new_session(model)
    for _ in range(3):
        step(session, sources={5: [1, 2]})
        with pytest.raises(EngineError, match=reason):
            step(session, **{"sources": {0: [1], 1: [2]}, "rows": [(0, 0, [1]), (1, 1, [1])], **plan})
        assert session.list_slots == (0, 0)
        assert to_bytes(run(session, batch)) == expected
        session.clear()


def test_rows_without_logits_may_have_lists_or_none(model: _core.Model) -> None:
    session = new_session(model)
    step(session, sources={0: [1]})
    step(session, sources={1: [2]}, lists=[[4, 5]], rows=[(0, 0, [1]), (1, 1, [1])], logit_rows=[1])
    result = step(session, rows=[(0, 0, [1]), (1, 1, [1])], logit_rows=[0], full_logits=True)
    assert result.logits is not None
