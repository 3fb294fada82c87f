"""Crews: steps that wait for their turn, and how many threads the governor lets go on."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from pyengine import _core
from pyengine.errors import OptionError

from .models import TinyModel, make_plan

START = make_plan(sources={0: [1, 2, 3]}, rows=[(0, 0, [4, 5])], full_logits=True)
SIZES = {"max_rows": 64, "max_sequences": 4, "max_memories": 4}


def test_a_step_that_finds_all_crews_at_work_comes_back_empty_handed_and_leaves_the_session_as_it_was() -> None:
    model, crews = TinyModel.random().core(), _core.Crews(1, places=2)
    sessions = [_core.Session(model, crews, **SIZES) for _ in range(3)]
    wanted = sessions[2].step(START).logits
    sessions[2].clear()
    inside, go_on = threading.Semaphore(0), threading.Event()

    def hold(name: str, x: np.ndarray) -> None:
        inside.release()
        go_on.wait()

    threads = []
    for session in sessions[:2]:
        session.observe(hold)
        threads.append(threading.Thread(target=session.step, args=(START,)))
        threads[-1].start()
        inside.acquire()
    assert sessions[2].step(START, 0.0) is None
    assert sessions[2].step(START, 0.01) is None
    with pytest.raises(TypeError):
        sessions[2].step(START, "long")
    waiting = threading.Thread(target=lambda: results.append(sessions[2].step(START).logits))
    results: list[np.ndarray] = []
    waiting.start()
    go_on.set()
    for thread in [*threads, waiting]:
        thread.join()
    assert np.array_equal(results[0], wanted)


@pytest.mark.parametrize("began", [(0, 0, 0, 0), (30, 10, 40, 20)], ids=["in the order of the calls", "of their waits"])
def test_who_began_to_wait_first_comes_first(began: tuple[int, ...]) -> None:
    """Whenever the call comes, where `since` says more: Python looks at deadlines and signals every tenth of a second,
    and comes again."""
    model, crews = TinyModel.random().core(), _core.Crews(1)
    first, order = _core.Session(model, crews, **SIZES), []
    inside, go_on = threading.Event(), threading.Event()
    first.observe(lambda name, x: (inside.set(), go_on.wait()))
    threads = [threading.Thread(target=first.step, args=(START,))]
    threads[0].start()
    inside.wait()
    for number, since in enumerate(began):
        session = _core.Session(model, crews, **SIZES)
        session.observe(lambda name, x, number=number: order.append(number))
        threads.append(threading.Thread(target=session.step, args=(START, 60.0, since)))
        threads[-1].start()
        while crews.waiting <= number:
            time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join()
    assert list(dict.fromkeys(order)) == sorted(range(4), key=lambda number: began[number])


@pytest.mark.parametrize(("threads", "places"), [(0, 1), (257, 1), (-1, 1), (1, 0)])
def test_impossible_crews(threads: int, places: int) -> None:
    with pytest.raises(OptionError, match="expected 1 to 256"):
        _core.Crews(threads, places)


class Times:
    """Steps of `seconds` each, whose barriers take so large a share of every thread's time."""

    def __init__(self, threads: int) -> None:
        self.governor = _core.Governor(threads)
        self.now = 0.0

    def run(self, seconds: float, share: float, step: float = 2e-4) -> list[int]:
        """The threads of each step."""
        threads, end = [], self.now + seconds
        while self.now < end:
            threads.append(self.governor.choose(self.now))
            self.now += step
            waited = 0.0 if threads[-1] == 1 else threads[-1] * step * share
            self.governor.learn(self.now, threads[-1], step, waited)
        return threads


@pytest.mark.parametrize("threads", [1, 2, 3, 16, 256])
def test_a_team_that_seldom_waits_goes_on(threads: int) -> None:
    assert set(Times(threads).run(1.0, share=0.2)) == {threads}


def test_a_hiccup_is_no_reason() -> None:
    times = Times(2)
    for _ in range(50):
        assert set(times.run(0.02, share=0.1) + times.run(0.0002, share=0.9)) == {2}


@pytest.mark.parametrize("step", [2e-4, 1e-3, 2.5e-3, 5e-3, 0.1])
def test_steps_of_any_length_leave_the_processors_to_others(step: float) -> None:
    """Trials become rare, whether a step is shorter than a window or longer than many."""
    threads = Times(2).run(20.0, share=0.5, step=step)
    assert threads.count(2) * step < 1.0


def test_a_team_that_waits_more_than_it_saves_goes_on_with_one_thread_within_milliseconds() -> None:
    threads = Times(2).run(10.0, share=0.5)
    assert threads.count(2) < 200  # of 50,000: the first milliseconds, and a trial now and then
    assert 2 in threads[100:]


def test_many_threads_are_halved_until_those_that_go_on_pay() -> None:
    times = Times(16)
    assert set(times.run(0.002, share=0.9)) == {16}
    assert times.run(0.004, share=0.9)[-1] == 8
    assert set(times.run(0.004, share=0.1)) == {8}


def test_when_the_neighbour_is_gone_all_threads_come_back_and_stay() -> None:
    times = Times(4)
    times.run(20.0, share=0.9)
    after = times.run(10.0, share=0.05)
    assert after[0] == 1 and set(after[len(after) // 2 :]) == {4}
    assert times.run(0.05, share=0.9)[-1] < 4
    assert times.run(1.0, share=0.05)[-1] == 4, "the pause did not become short again"


def test_threads_that_never_come_are_no_longer_waited_for() -> None:
    governor = _core.Governor(2)
    steps = 0
    while governor.choose(steps * 1e-3) == 2:
        steps += 1
        governor.learn(steps * 1e-3, 1, 1e-3, 2.5e-4)
    assert 8 <= steps <= 16  # milliseconds lost; a thread that is late once is no reason
