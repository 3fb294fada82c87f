"""The core and the operating system: forks after threads, multiprocessing, and no memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyengine.errors import EngineError

from .models import SANITIZED, TinyModel, new_session

SECONDS = 180  # a hang fails; the scenarios take a second or two

linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")


def run(scenario: str) -> dict:
    """What the scenario of processes.py printed."""
    command = [sys.executable, str(Path(__file__).with_name("processes.py")), scenario]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"}  # of fork beside threads
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@linux
def test_a_child_forked_after_threads_has_its_own() -> None:
    found = run("fork_after_threads")
    expected = found.pop("expected")
    assert found == dict.fromkeys(["loaded before", "loaded in the child", "grandchild", "parent"], expected)


def test_a_session_goes_on_in_a_child() -> None:
    found = run("fork_with_a_session")
    assert found["child"] == found["parent"]


def test_a_child_answers_whoever_used_the_openmp_runtime_before() -> None:
    found = run("fork_after_openmp")
    assert found["child"] == found["parent"]


@linux
def test_where_the_system_refuses_threads_a_step_runs_on_those_that_there_are() -> None:
    found = run("no_threads")
    assert found["found"] == found["expected"]
    assert found["threads"] < 8


def test_multiprocessing_forked_and_spawned() -> None:
    found = run("pools")
    assert found["fork"] == found["spawn"] == [found["expected"]] * 4


@linux
@pytest.mark.skipif(SANITIZED, reason="the address sanitizer reserves terabytes and aborts where malloc fails")
def test_out_of_memory_is_an_error_and_leaves_a_usable_session() -> None:
    assert run("out_of_memory") == {"created": "out of memory", "filled": "out of memory", "works again": True}


@pytest.mark.skipif(SANITIZED, reason="the address sanitizer aborts where malloc fails")
def test_a_size_that_overflows_is_out_of_memory() -> None:
    most = (1 << 31) - 1
    with pytest.raises(EngineError, match="out of memory"):
        new_session(TinyModel.random().core(), max_rows=most, max_sequences=most, max_memories=most)
