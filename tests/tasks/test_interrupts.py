"""After any number of interrupts, at any moment, the next call gives the right bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 300  # a hang fails


@pytest.mark.parametrize(("replicas", "second"), [(1, 0.0), (1, 1e-3), (2, 2e-4), (2, 5e-3)])
def test_the_call_after_an_interrupt_is_right(int8_directory: Path, replicas: int, second: float) -> None:
    script = Path(__file__).with_name("interrupts.py")
    command = [sys.executable, str(script), str(int8_directory), str(replicas), str(second), "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
