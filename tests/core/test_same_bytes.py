"""A result does not depend on company: threads, batch, chunks, forks and the history of the session change no byte."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pyengine.plan import StepResult
from pyengine.scheduling.slicing import run_plan

from .models import COMPUTE, UNEVEN, TinyModel, make_plan, new_session, step

CHANGES = dict(source_vocab=90, target_vocab=2100, share_embeddings=False, max_positions=64)
EVEN = dict(width=20, encoder=(2, 5, 33), decoder=(2, 2, 40))
MODELS = [(*compute, EVEN) for compute in COMPUTE] + [(*compute, UNEVEN) for compute in (COMPUTE[0], COMPUTE[3])]


def name_of(weights: str, kv: str, stacks: dict) -> str:
    return f"weights {weights}, kv {kv}" + (", layers that differ" if stacks is UNEVEN else "")


@pytest.fixture(scope="module", params=MODELS, ids=[name_of(*one) for one in MODELS])
def model(request: pytest.FixtureRequest):
    weights, kv, stacks = request.param
    return TinyModel.random(weights, seed=11, **CHANGES, **stacks).core(kv)


def sentences(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(source, target) of 1 to 40 tokens each."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 41, (count, 2))
    return [(rng.integers(0, 90, s), rng.integers(0, 2100, t)) for s, t in lengths]


def to_bytes(result: StepResult) -> tuple[bytes, ...]:
    assert result.logits is not None
    arrays = (result.log_normalizer, result.top_ids, result.top_logits, result.logits)
    return tuple(np.concatenate(list(array)).tobytes() if array.ndim > 1 else array.tobytes() for array in arrays)


def batch(session, pairs: list[tuple[np.ndarray, np.ndarray]]) -> StepResult:
    """All sentences at once, in as many steps as the session's rows make of it."""
    sources = {i: source for i, (source, _) in enumerate(pairs)}
    rows = [(i, i, target) for i, (_, target) in enumerate(pairs)]
    return run_plan(session, make_plan(sources=sources, rows=rows, top_k=3, full_logits=True))


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads(model, threads: int) -> None:
    pairs = sentences(12)
    assert to_bytes(batch(new_session(model, threads=threads), pairs)) == to_bytes(batch(new_session(model), pairs))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("weights", "kv", "stacks"), MODELS, ids=[name_of(*one) for one in MODELS])
def test_a_text_longer_than_a_slab(weights: str, kv: str, stacks: dict, threads: int) -> None:
    """Slabs of its rows against all of them together, which is how an observer is shown them."""
    model = TinyModel.random(weights, seed=12, **{**CHANGES, "max_positions": 450}, **stacks).core(kv)
    rng = np.random.default_rng(3)
    long, short = (rng.integers(0, 90, 450), rng.integers(0, 2100, 450)), (rng.integers(0, 90, 9), np.array([7, 8]))
    observed = new_session(model, max_rows=1024)
    observed.observe(lambda name, x: None)
    expected = to_bytes(batch(observed, [long, short]))
    assert to_bytes(batch(new_session(model, threads=threads, max_rows=1024), [long, short])) == expected


@pytest.mark.parametrize("threads", [1, 3])
def test_alone_or_in_a_batch_of_64(model, threads: int) -> None:
    pairs = sentences(64, 1)
    together = batch(new_session(model, threads=threads, max_rows=2560), pairs)
    ends = np.cumsum([len(target) for _, target in pairs])
    alone = new_session(model)
    for i, (source, target) in enumerate(pairs):
        alone.clear()
        own = slice(ends[i] - len(target), ends[i])
        expected = batch(alone, [(source, target)])
        assert expected.logits is not None and together.logits is not None
        assert together.logits[own].tobytes() == expected.logits.tobytes()
        assert together.log_normalizer[own].tobytes() == expected.log_normalizer.tobytes()
        assert together.top_ids[own].tobytes() == expected.top_ids.tobytes()
        assert together.top_logits[own].tobytes() == expected.top_logits.tobytes()


@pytest.mark.parametrize("max_rows", [40, 41, 64, 100])
def test_cut_into_steps(model, max_rows: int) -> None:
    """Small steps cut targets anywhere."""
    pairs = sentences(10, 2)
    whole = batch(new_session(model, max_rows=500), pairs)
    assert to_bytes(batch(new_session(model, max_rows=max_rows), pairs)) == to_bytes(whole)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 50, 64])
def test_prefill_equals_single_steps(model, n: int) -> None:
    rng = np.random.default_rng(n)
    source, target = rng.integers(0, 90, 21), rng.integers(0, 2100, n)
    at_once = step(new_session(model), sources={0: source}, rows=[(0, 0, target)], full_logits=True, top_k=2)
    session = new_session(model)
    step(session, sources={0: source})
    for i, token in enumerate(target):
        one = step(session, rows=[(0, 0, [token])], full_logits=True, top_k=2)
        assert one.logits is not None and at_once.logits is not None
        assert one.logits[0].tobytes() == at_once.logits[i].tobytes()
        assert one.log_normalizer[0] == at_once.log_normalizer[i]
        assert one.top_ids[0].tobytes() == at_once.top_ids[i].tobytes()


def test_rows_without_logits_change_nothing(model) -> None:
    pairs = sentences(3, 3)
    session = new_session(model)
    full = batch(session, pairs)
    session.clear()
    rows = [(i, i, target) for i, (_, target) in enumerate(pairs)]
    wanted = [0, 3, len(full.log_normalizer) - 1]
    some = step(
        session, sources={i: s for i, (s, _) in enumerate(pairs)}, rows=rows, logit_rows=wanted, full_logits=True
    )
    assert some.logits is not None and full.logits is not None
    assert some.logits.tobytes() == full.logits[wanted].tobytes()


def test_a_used_session_is_like_a_new_one(model) -> None:
    """Pages come back with what was in them: after other sentences, after clear(), under other ids."""
    pairs = sentences(6, 4)
    expected = to_bytes(batch(new_session(model), pairs))
    session = new_session(model)
    for seed in (5, 6):
        batch(session, sentences(20, seed))
        session.clear()
    assert to_bytes(batch(session, pairs)) == expected
    everything = list(range(6))
    sources = {60 - i: source for i, (source, _) in enumerate(pairs)}
    rows = [(70 - i, 60 - i, target) for i, (_, target) in enumerate(pairs)]
    other = make_plan(
        sources=sources, rows=rows, top_k=3, full_logits=True, free_sequences=everything, free_memories=everything
    )
    assert to_bytes(session.step(other)) == expected


def test_sentences_that_share_a_memory(model) -> None:
    """Beams read one memory; each gets what it would get alone."""
    rng = np.random.default_rng(8)
    source, targets = rng.integers(0, 90, 19), rng.integers(0, 2100, (5, 7))
    rows = [(i, 0, target) for i, target in enumerate(targets)]
    together = step(new_session(model), sources={0: source}, rows=rows, full_logits=True)
    assert together.logits is not None
    for i, target in enumerate(targets):
        alone = step(new_session(model), sources={0: source}, rows=[(0, 0, target)], full_logits=True)
        assert alone.logits is not None
        assert together.logits[7 * i : 7 * i + 7].tobytes() == alone.logits.tobytes()


def test_python_threads_with_a_session_each(model) -> None:
    """One model, several callers: what each gets is what it would get alone."""
    work = [sentences(8, 20 + i) for i in range(4)]
    expected = [to_bytes(batch(new_session(model), pairs)) for pairs in work]
    found: list[list[tuple[bytes, ...]]] = [[] for _ in work]

    def translate(caller: int) -> None:
        session = new_session(model, threads=1 + caller % 3)
        for _ in range(5):
            session.clear()
            found[caller].append(to_bytes(batch(session, work[caller])))

    callers = [threading.Thread(target=translate, args=(i,)) for i in range(len(work))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [[one] * 5 for one in expected]
