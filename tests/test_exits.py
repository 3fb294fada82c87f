"""The interpreter ends while daemon threads tokenize, translate and load: without an abort, a hang or a word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.text.test_tokenizer_json import marian_like, save

SECONDS = 60  # a hang fails


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer.json."""
    return save(marian_like(), tmp_path_factory.mktemp("whole"))


def run(calls: str, model: Path, whole: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(__file__).with_name("exits.py")), calls, str(model), str(whole)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.parametrize("calls", ["tokenize", "load", "translate"])
def test_the_end_waits_for_calls_of_daemon_threads(calls: str, int8_directory: Path, whole: Path) -> None:
    done = run(calls, int8_directory, whole)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_a_call_that_comes_too_late_is_refused_where_it_is_waited_for(int8_directory: Path, whole: Path) -> None:
    done = run("late", int8_directory, whole)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("the interpreter is ending") == 2
