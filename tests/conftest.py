"""How tests share out the processors, and model directories of the real checkpoint, made once a process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported: threads of small products only wait

from pyengine.quantize import convert

CHECKPOINT = Path(__file__).parents[1] / "examples" / "multi30k-de-en"


# A shell that starts a job in the background, or nohup, has it ignore these; tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class _ByFile(LoadFileScheduling):
    """The tests of a file share fixtures, and those of tests/kernels count together what ran: each in one process."""

    def _split_scope(self, nodeid: str) -> str:
        path = Path(super()._split_scope(nodeid))
        return str(path.parent if path.parent.name == "kernels" else path)


@pytest.hookimpl(optionalhook=True)  # -p no:xdist does without
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    """Whatever --dist says."""
    return _ByFile(config, log)


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
