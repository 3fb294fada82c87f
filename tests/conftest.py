"""How tests share out the processors, and model directories of the real checkpoint, made once a process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported: threads of small products only wait

from pyengine.quantize import convert

CHECKPOINT = Path(__file__).parents[1] / "examples" / "multi30k-de-en"


# A shell that starts a job in the background, or nohup, has it ignore these; tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in this hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file share fixtures, and those of tests/kernels count together what ran: each in one process."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder == "kernels" else item.path.stem))


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
