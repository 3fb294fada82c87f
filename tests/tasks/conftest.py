"""A small language model for the tests of tasks; a file that needs another has fixtures of its own by these names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pyengine
from pyengine import Generator
from tests.tasks.language import write_language_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("language") / "words")


@pytest.fixture(scope="module")
def generator(directory: Path) -> Iterator[Generator]:
    with pyengine.load(directory, task=Generator, threads=1) as found:
        yield found
