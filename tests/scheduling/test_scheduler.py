"""Continuous batching: order, company, budget, cancelling."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pyengine.decoding.search import Found
from pyengine.errors import DeadlineError, InputError
from pyengine.options import GenerationOptions, SearchOptions
from pyengine.plan import Plan, StepResult
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.scheduler import Request, Scheduler
from tests.oracle.reference import ReferenceModel
from tests.oracle.reference_session import ReferenceSession
from tests.oracle.tiny import generation, model_config, random_sources, random_tensors

CONFIG = model_config()
MODEL = ReferenceModel(CONFIG, random_tensors(CONFIG, 5))
SOURCES = random_sources(5, 24)
START = np.array([22], np.int32)


class Watched(ReferenceSession):
    """Remembers the rows of each step, and calls `before` ahead of each."""

    def __init__(self, before: Any = lambda number: None, **limits: int) -> None:
        super().__init__(MODEL, **limits)
        self.before = before
        self.rows: list[int] = []

    def step(self, plan: Plan, patience: float = 0.0, since: int = 0) -> StepResult:
        self.before(len(self.rows))
        self.rows.append(len(plan.encode_tokens) + len(plan.tokens))
        return super().step(plan)


def scheduler(session: ReferenceSession, budget: int = 48, deadline: Deadline | None = None) -> Scheduler:
    return Scheduler(session, vocab=CONFIG.target_vocab, budget=budget, deadline=deadline)


def settled(**options: Any) -> SearchOptions:
    return GenerationOptions(**options).resolve(generation(), CONFIG.target_vocab, CONFIG.decoder.max_positions)


def requests(sources: list[list[int]], **options: Any) -> list[Request]:
    own = settled(**options)
    return [Request(np.array(source, np.int32), START, own) for source in sources]


def plain(results: list[list[Found]]) -> list[list[tuple[list[int], float, str]]]:
    return [[(each.ids.tolist(), each.score, each.finish) for each in found] for found in results]


@pytest.mark.parametrize(
    "options", [{"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 3}], ids=["greedy", "beam"]
)
def test_a_result_does_not_depend_on_its_company(options: dict[str, Any]) -> None:
    alone = [plain(list(scheduler(Watched()).run(requests([source], **options))))[0] for source in SOURCES]
    for budget, window in ((1, None), (20, 3), (48, None), (64, 5), (1000, None)):
        session = Watched()
        together = list(scheduler(session, budget=budget).run(requests(SOURCES, **options), window))
        assert plain(together) == alone, (budget, window)
        assert not session.sequences and not session.memories


def test_a_step_keeps_to_the_budget_and_the_batch_stays_full() -> None:
    session = Watched()
    list(scheduler(session, budget=40).run(requests(SOURCES, num_beams=2)))
    assert max(session.rows) <= 40
    assert min(session.rows[:5]) > 25  # while sentences wait


def test_one_sentence_may_need_more_than_the_budget() -> None:
    session = Watched()
    assert len(list(scheduler(session, budget=2).run(requests(SOURCES[:3], num_beams=4)))) == 3
    assert len(session.rows) > 3


def test_long_sentences_go_first() -> None:
    session = Watched()
    list(scheduler(session, budget=1).run(requests([[3, 0], [3, 4, 5, 6, 0], [3, 4, 0]])))
    assert session.rows[0] == 5 + 1


def test_sessions_with_few_ids() -> None:
    session = Watched(max_sequences=8, max_memories=3)
    assert len(list(scheduler(session, budget=1000).run(requests(SOURCES, num_beams=2)))) == len(SOURCES)


def test_an_empty_source_needs_no_step() -> None:
    session = Watched()
    found = list(scheduler(session).run(requests([[], [3, 0], [], []], num_beams=2), window=2))
    assert plain(found)[0] == [([], 0.0, "end")] and plain(found)[2:] == [[([], 0.0, "end")]] * 2
    assert plain(found)[1][0][0]
    session = Watched()
    assert len(list(scheduler(session).run(requests([[], []], num_beams=2)))) == 2 and not session.rows


def test_no_requests() -> None:
    assert list(scheduler(Watched()).run([])) == []


def test_reads_no_more_than_the_windows_ahead() -> None:
    read = 0

    def endless() -> Iterator[Request]:
        nonlocal read
        for source in SOURCES * 1000:
            read += 1
            yield requests([source], num_beams=2)[0]

    session = Watched()
    results = scheduler(session, budget=16).run(endless(), window=10)
    assert read == 0
    for number, _ in zip(range(200), results, strict=False):
        assert read <= number + 40
    results.close()
    assert read < 300 and not session.sequences and not session.memories


def test_an_error_of_the_input_comes_after_the_results_before_it() -> None:
    def broken() -> Iterator[Request]:
        yield from requests(SOURCES[:7], num_beams=2)
        raise InputError("the eighth")

    results = scheduler(Watched()).run(broken(), window=4)
    assert plain([next(results) for _ in range(7)]) == plain(
        list(scheduler(Watched()).run(requests(SOURCES[:7], num_beams=2)))
    )
    with pytest.raises(InputError, match="the eighth"):
        next(results)


@pytest.mark.parametrize("step", [0, 1, 4])
def test_an_interrupt_leaves_the_session_empty_and_usable(step: int) -> None:
    def interrupt(number: int) -> None:
        if number == step:
            raise KeyboardInterrupt

    session = Watched(interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(scheduler(session).run(requests(SOURCES, num_beams=2)))
    assert not session.sequences and not session.memories
    session.before = lambda number: None
    again = list(scheduler(session).run(requests(SOURCES, num_beams=2)))
    assert plain(again) == plain(list(scheduler(Watched()).run(requests(SOURCES, num_beams=2))))


def test_the_deadline_is_checked_between_steps() -> None:
    session = Watched(lambda number: time.sleep(0.02))
    with pytest.raises(DeadlineError, match="timeout: the call was not done after 0.03 seconds"):
        list(scheduler(session, deadline=Deadline(0.03)).run(requests(SOURCES, num_beams=2)))
    assert 1 <= len(session.rows) <= 3
    assert not session.sequences and not session.memories
