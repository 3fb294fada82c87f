"""Scores do not depend on the instruction sets that NumPy finds, of which PYENGINE_ISA knows nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .scores import SEARCHES, dispatched


def scores_in_a_process(directory: Path, **environment: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("scores.py")), str(directory)]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_scores_are_the_same_bytes_whatever_numpy_uses(int8_directory: Path) -> None:
    if not dispatched():
        pytest.skip("NumPy has nothing beyond its baseline here")
    free = scores_in_a_process(int8_directory)
    held = scores_in_a_process(int8_directory, NPY_DISABLE_CPU_FEATURES=" ".join(dispatched()))
    assert (free.pop("dispatched"), held.pop("dispatched")) == (dispatched(), [])
    assert [name for name in free if free[name] != held[name]] == []
    assert set(SEARCHES) < set(free)
