"""An observed session: what each linear layer reads is what NumPy computes, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pyengine import _core
from pyengine.errors import EngineError
from pyengine.plan import Ahead, Plan

from ..oracle.recording import RecordingReference
from .models import TinyModel, make_plan, new_session, step

CHANGES = dict(
    width=20, encoder=(2, 5, 33), decoder=(2, 2, 40), source_vocab=90, target_vocab=300, share_embeddings=False,
    tie_output=False, max_positions=64,
)  # fmt: skip
THREADS = (1, 2, 3, 7)

Seen = list[tuple[str, np.ndarray]]


def sentences(count: int, seed: int = 0, longest: int = 40) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, (count, 2))
    return [(rng.integers(0, 90, s), rng.integers(0, 300, t)) for s, t in lengths]


def plan_of(pairs: list[tuple[np.ndarray, np.ndarray]], **more: object) -> Plan:
    sources = {i: source for i, (source, _) in enumerate(pairs)}
    rows = [(i, i, target) for i, (_, target) in enumerate(pairs)]
    return make_plan(sources=sources, rows=rows, **more)  # type: ignore[arg-type]


def watch(session: _core.Session, plan: Plan) -> Seen:
    seen: Seen = []
    session.observe(lambda name, x: seen.append((name, x.copy())))
    session.step(plan)
    session.observe(None)
    session.clear()
    return seen


def to_bytes(seen: Seen) -> list[tuple[str, tuple[int, ...], bytes]]:
    return [(name, x.shape, x.tobytes()) for name, x in seen]


@pytest.mark.parametrize("changes", [CHANGES, {}], ids=["apart", "tied"])
@pytest.mark.parametrize("threads", [1, 3])
def test_it_sees_what_numpy_computes(threads: int, changes: dict[str, object]) -> None:
    """Every layer once, in the order of use; float32 rounding is all that differs."""
    tiny = TinyModel.random(seed=3, std=0.2, **changes)
    pairs = [(s % 23, t % 23) for s, t in sentences(9, longest=30)]
    seen = watch(new_session(tiny.core(), threads=threads, max_rows=512), plan_of(pairs))
    exact, rough = (RecordingReference(tiny.config, tiny.floats, dtype) for dtype in (np.float64, np.float32))
    for source, target in pairs:
        exact.run(source, target)
        rough.run(source, target)
    encoder = [name for name, _ in seen if name.startswith("encoder") or name.endswith("cross_attention.kv")]
    assert [name for name, _ in seen[: len(encoder)]] == encoder
    assert seen[-1][0] == "output" and len({name for name, _ in seen}) == len(seen)
    assert {name for name, _ in seen} == set(exact.seen)
    for name, x in seen:
        wanted = np.concatenate(exact.seen[name])
        error = np.abs(np.concatenate(rough.seen[name]) - wanted).max()  # of float32 in another order
        assert x.shape == wanted.shape and x.dtype == np.float32
        assert np.abs(x - wanted).max() <= 8 * error + 1e-12, name


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_same_bytes_on_any_number_of_threads_and_in_any_batch(weights: str) -> None:
    """A plan of many short rows would go through the stacks in groups."""
    model = TinyModel.random(weights, seed=11, **CHANGES).core()
    pairs = sentences(60, 1, longest=30)
    together = [
        watch(new_session(model, threads=threads, max_rows=2048), plan_of(pairs)) for threads in THREADS
    ]
    assert all(to_bytes(seen) == to_bytes(together[0]) for seen in together)
    alone: dict[str, list[np.ndarray]] = {}
    session = new_session(model)
    for pair in pairs:
        for name, x in watch(session, plan_of([pair])):
            alone.setdefault(name, []).append(x)
    for name, x in together[0]:
        assert np.concatenate(alone[name]).tobytes() == x.tobytes(), name


@pytest.mark.parametrize("threads", THREADS)
def test_observing_changes_no_result(threads: int) -> None:
    model = TinyModel.random("int8", seed=11, **CHANGES).core("int8")
    session = new_session(model, threads=threads, max_rows=2048)
    plan = plan_of(sentences(60, 2, longest=30), full_logits=True, top_k=3)
    before = session.step(plan)
    session.clear()
    session.observe(lambda name, x: None)
    during = session.step(plan)
    assert before.logits is not None and during.logits is not None
    assert during.logits.tobytes() == before.logits.tobytes()
    assert during.top_ids.tobytes() == before.top_ids.tobytes()


def test_rows_with_lists_show_the_output_layer() -> None:
    model = TinyModel.random(seed=4, **CHANGES).core()
    pairs = sentences(3, 4)
    session = new_session(model, threads=2)
    wanted = watch(session, plan_of(pairs))
    assert to_bytes(watch(session, plan_of(pairs, lists=[[1, 5], [2, 7, 9], [3]]))) == to_bytes(wanted)
    asked = watch(session, plan_of(pairs, logit_rows=[1, 4]))
    assert asked[-1][0] == "output" and asked[-1][1].tobytes() == wanted[-1][1][[1, 4]].tobytes()
    assert [name for name, _ in watch(session, plan_of(pairs, logit_rows=[]))] == [name for name, _ in wanted[:-1]]


def test_steps_ahead_are_seen_one_by_one() -> None:
    model = TinyModel.random(seed=4, **CHANGES).core()
    source = np.arange(1, 8)
    ahead = Ahead(steps=3, seconds=60, end=np.zeros(0, np.int32))
    plan = plan_of([(source, np.array([5]))])
    seen = watch(new_session(model), plan)
    steps = watch(new_session(model), replace(plan, ahead=ahead))
    assert to_bytes(steps[: len(seen)]) == to_bytes(seen)
    assert [name for name, _ in steps].count("output") == 3


def test_the_view_is_read_only_and_keeps_its_memory() -> None:
    session = new_session(TinyModel.random(seed=4, **CHANGES).core())
    views: list[np.ndarray] = []
    session.observe(lambda name, x: views.append(x))
    session.step(plan_of(sentences(2)))
    with pytest.raises(ValueError, match="read-only"):
        views[0][0, 0] = 1
    del session
    assert all(np.isfinite(view).all() for view in views)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_surfaces_once_from_step(error: type[BaseException], threads: int) -> None:
    model = TinyModel.random(seed=4, **CHANGES).core()
    session = new_session(model, threads=threads)
    calls = []

    def fail(name: str, x: np.ndarray) -> None:
        calls.append(name)
        if len(calls) == 2:
            raise error("enough")

    session.observe(fail)
    plan = plan_of(sentences(3))
    with pytest.raises(error, match="enough"):
        session.step(plan)
    assert len(calls) == 2
    session.clear()
    assert session.step(plan).top_ids.tobytes() == new_session(model).step(plan).top_ids.tobytes()
    assert len(calls) > 2


@pytest.mark.parametrize("act", [lambda s: s.clear(), lambda s: s.observe(None), lambda s: step(s)])
def test_a_callback_cannot_use_its_session(act) -> None:
    session = new_session(TinyModel.random(seed=4, **CHANGES).core())
    session.observe(lambda name, x: act(session))
    with pytest.raises(EngineError, match="by two threads at once"):
        session.step(plan_of(sentences(1)))
