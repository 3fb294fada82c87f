"""Calls side by side, with and without threads to run them in."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from random import Random

import pytest

from pyengine.threads import side_by_side


@pytest.fixture
def no_threads() -> Iterator[None]:
    """The system refuses a thread whose stack is larger than any memory."""
    before = threading.stack_size(1 << 46)
    yield
    threading.stack_size(before)


def failing(message: str) -> None:
    raise ValueError(message)


def test_calls_run_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=30)
    idents = side_by_side(*[lambda: (meeting.wait(), threading.get_ident())[1]] * 3)
    assert len(set(idents)) == 3
    assert idents[-1] == threading.get_ident()


def test_results_are_in_order() -> None:
    assert side_by_side(lambda: 1, lambda: 2, lambda: 3) == [1, 2, 3]
    assert side_by_side() == []


def test_refused_threads_are_done_without(no_threads: None) -> None:
    with pytest.raises(RuntimeError):
        threading.Thread(target=int).start()
    assert side_by_side(*[threading.get_ident] * 3) == [threading.get_ident()] * 3


@pytest.mark.parametrize("threads", ["granted", "refused"])
def test_the_first_error_is_raised_when_all_are_over(threads: str, request: pytest.FixtureRequest) -> None:
    if threads == "refused":
        request.getfixturevalue("no_threads")
    over = []
    with pytest.raises(ValueError, match="first"):
        side_by_side(lambda: over.append(1), lambda: failing("first"), lambda: failing("second"))
    assert over == [1]


def test_interrupts_leave_nothing_behind() -> None:
    """Ctrl-C at any moment, from a timer: the next call runs, and is over in time."""
    random = Random(1)
    interrupted = 0

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(500):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 4e-4))
                side_by_side(*[lambda: time.sleep(1e-4)] * 2)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 30)  # a hang fails
            assert side_by_side(lambda: 1, lambda: 2) == [1, 2]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 50
