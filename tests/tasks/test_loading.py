"""Loading where the system gives no threads or no memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyengine
from pyengine import EngineError, Translator

TEXT = "Ein Mann fährt mit dem Fahrrad durch die Stadt."


@pytest.fixture
def no_threads() -> Iterator[None]:
    """The system refuses a thread whose stack is larger than any memory."""
    before = threading.stack_size(1 << 46)
    yield
    threading.stack_size(before)


def text_of(translator: Translator) -> str | None:
    with translator:
        return translator.translate(TEXT).text


@pytest.mark.parametrize("how", ["copy", "mmap"])
def test_a_model_loads_without_threads(how: str, int8_directory: Path, no_threads: None) -> None:
    with pytest.raises(RuntimeError):
        threading.Thread(target=int).start()
    found = text_of(pyengine.load(int8_directory, threads=1, load=how))
    assert found == text_of(pyengine.load(int8_directory, threads=1))


def test_memory_that_is_not_there_is_an_error_of_ours(
    int8_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise MemoryError

    monkeypatch.setattr("pyengine.tasks.loading.tokenizer_of", refuse)
    with pytest.raises(EngineError, match=r"int8: out of memory while it was opened"):
        pyengine.load(int8_directory, threads=1)
