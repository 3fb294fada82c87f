"""`examples/chat.py` streams, generates, samples and chats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..tasks.language import write_language_model

SCRIPT = Path(__file__).parents[2] / "examples" / "chat.py"


def test_it_runs(tmp_path: Path) -> None:
    model = write_language_model(tmp_path / "model")
    done = subprocess.run([sys.executable, SCRIPT, model], check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("The capital of France is") and "\n> What is the capital of France?\n" in done.stdout
    assert sum(line.startswith("[") and line.endswith(" tokens]") for line in lines) == 1
