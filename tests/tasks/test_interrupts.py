"""Calls that end before their time, of both tasks: the next call gives the right bytes, and no session is lost."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

import pyengine
from pyengine import DeadlineError
from pyengine.plan import Plan, Session, StepResult
from pyengine.scheduling.slicing import run_plan
from tests.tasks.interrupts import Work
from tests.tasks.language import END, write_language_model

SECONDS = 300  # a hang fails
TASKS = ("translate", "generate")


@pytest.fixture(scope="module")
def language_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("language") / "words")


@pytest.fixture(scope="module", params=TASKS)
def directory(request: pytest.FixtureRequest, int8_directory: Path, language_directory: Path) -> Path:
    return int8_directory if request.param == "translate" else language_directory


@pytest.fixture(scope="module")
def work(directory: Path) -> Iterator[Work]:
    with pyengine.load(directory, threads=2) as task:
        how = {} if isinstance(task, pyengine.Translator) else {"suppress_tokens": END}
        yield Work(task, max_new_tokens=20, repetition_penalty=1.1, **how)  # one step at a time


@pytest.mark.parametrize(("replicas", "second"), [(1, 0.0), (1, 1e-3), (2, 2e-4), (2, 5e-3)])
def test_the_call_after_an_interrupt_is_right(directory: Path, replicas: int, second: float) -> None:
    """Any number of them, at any moment."""
    script = Path(__file__).with_name("interrupts.py")  # by its path: no ./pyengine may hide the installed one
    command = [sys.executable, str(script), str(directory), str(replicas), str(second), "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr


def test_no_code_runs_when_a_session_or_a_scheduler_ends(work: Work, german: list[str]) -> None:
    """A weak reference with a callback loses an interrupt that comes within it; and the dead are not kept."""
    engine = work.task._engine
    for _ in range(5):
        work.do(german[:2])
    pieces = work.pieces(german)
    next(pieces)
    alive = [*engine._sessions.there(), *engine.schedulers.there()]
    assert len(alive) >= 2
    assert all(reference.__callback__ is None for each in alive for reference in weakref.getweakrefs(each))
    pieces.close()  # type: ignore[attr-defined]
    del alive, pieces
    gc.collect()  # Python 3.10 leaves a cycle
    assert engine.schedulers.there() == []
    work.do(german[:1])
    assert len(engine.schedulers._references) == 1


def steps_of(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> list[int]:
    """How many steps have begun, in one item, and `before` is told of each."""
    count = [0]

    def run(session: Session, plan: Plan) -> StepResult:
        count[0] += 1
        before(count[0])
        return run_plan(session, plan)

    monkeypatch.setattr("pyengine.scheduling.scheduler.run_plan", run)
    return count


@pytest.mark.parametrize("beams", [1, 2])
def test_ctrl_c_between_steps(work: Work, german: list[str], monkeypatch: pytest.MonkeyPatch, beams: int) -> None:
    """The signal comes right before the fifth step; the call ends there."""
    expected = work.do(german, num_beams=beams)
    sessions = work.task.info()["sessions"]
    with monkeypatch.context() as patched:
        steps = steps_of(patched, lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None)
        with pytest.raises(KeyboardInterrupt):
            work.do(german * 5, num_beams=beams)
    assert steps == [5]
    assert work.do(german, num_beams=beams) == expected and work.task.info()["sessions"] == sessions


def test_ctrl_c_during_a_step(work: Work, german: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From a thread, which runs while the core computes without the lock of the interpreter."""
    expected = work.do(german)
    stepping = threading.Event()

    def interrupt() -> None:
        stepping.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with monkeypatch.context() as patched:
        steps_of(patched, lambda step: stepping.set())
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            work.do(german * 500)
    thread.join()
    assert work.do(german) == expected


def test_an_iterator_that_is_interrupted_or_closed(
    work: Work, german: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives its session back, and no step runs any more."""
    expected = list(work.pieces(german))
    sessions = work.task.info()["sessions"]
    with monkeypatch.context() as patched:
        steps = steps_of(patched, lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 4 else None)
        with pytest.raises(KeyboardInterrupt):
            for _ in work.pieces(german * 3):
                pass
        assert steps == [4]
        pieces = work.pieces(german)
        assert [next(pieces)] == expected[:1]
        begun = steps[0]
        pieces.close()  # type: ignore[attr-defined]
        assert list(pieces) == [] and steps == [begun]
    for count in range(3):
        assert list(islice(work.pieces(german), count)) == expected[:count]
    assert list(work.pieces(german)) == expected and work.task.info()["sessions"] == sessions


def test_time_is_up_within_a_step(work: Work, german: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No other step begins."""
    expected, pieces = work.do(german), list(work.pieces(german))
    now = [0.0]

    def passes(step: int) -> None:
        now[0] += 10.0 if step == 3 else 0.0

    with monkeypatch.context() as patched:
        patched.setattr("pyengine.scheduling.deadline.time.monotonic", lambda: now[0])
        for call in (lambda: work.do(german * 5, timeout=5.0), lambda: list(work.pieces(german * 5, timeout=5.0))):
            with patched.context() as counted:
                steps = steps_of(counted, passes)
                with pytest.raises(DeadlineError, match="timeout: the call was not done after 5 seconds"):
                    call()
            assert steps == [3]
    assert work.do(german) == expected and list(work.pieces(german)) == pieces


def test_too_little_time(work: Work, german: list[str]) -> None:
    expected = work.do(german)
    for timeout in (1e-9, 0.02):
        with pytest.raises(DeadlineError):
            work.do(german * 500, timeout=timeout)
    assert work.do(german, timeout=60) == expected
