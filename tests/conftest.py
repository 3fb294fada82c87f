"""Model directories of the real checkpoint, made once a run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pyengine.quantize import convert

CHECKPOINT = Path(__file__).parents[1] / "examples" / "multi30k-de-en"


# A shell that starts a job in the background, or nohup, has it ignore these; tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def int8_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """German to English in int8."""
    path = tmp_path_factory.mktemp("models") / "int8"
    convert(CHECKPOINT, path, weights="int8")
    return path


@pytest.fixture(scope="session")
def float32_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in float32."""
    path = tmp_path_factory.mktemp("models") / "float32"
    convert(CHECKPOINT, path, weights="float32")
    return path


@pytest.fixture(scope="session")
def german() -> list[str]:
    """64 sentences of different lengths, an empty one among them."""
    text = "ein Mann fährt mit dem Rad über eine Brücke und zwei Kinder spielen am Strand mit einem Ball"
    words = text.split()
    sentences = [" ".join(words[i % 7 : i % 7 + 1 + i * 5 % 12]).capitalize() + "." for i in range(63)]
    return [*sentences, ""]
