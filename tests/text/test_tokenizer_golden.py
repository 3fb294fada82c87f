"""Token ids and texts of the original tokenizer, recorded by ``python -m tests.oracle.golden_tokens``."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from pyengine.text import Tokenizer, open_tokenizer

from .odd_lines import COUNT, odd_lines

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "multi30k-de-en"
GOLDEN = ROOT / "tests" / "golden" / "tokens.npz"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(MODEL, "sentencepiece", source_vocab=6001, target_vocab=6001)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def crc_of_text(text: str) -> int:
    return zlib.crc32(text.encode("utf-8"))


def crc_of_ids(ids: list[int]) -> int:
    return zlib.crc32(np.array(ids, "<i4").tobytes())


def sentences(language: str) -> list[str]:
    """The test set beside the checkpoint."""
    return (MODEL / f"test_2016_flickr.{language}").read_text(encoding="utf-8").removesuffix("\n").split("\n")


def test_the_lines_are_those_that_were_recorded(golden: dict[str, np.ndarray]) -> None:
    lines = odd_lines()
    assert len(lines) == COUNT == len(golden["lengths"])
    assert [crc_of_text(line) for line in lines] == golden["line_crc"].tolist()


def test_odd_lines_are_as_recorded(tokenizer: Tokenizer, golden: dict[str, np.ndarray]) -> None:
    expected = np.split(golden["ids"], np.cumsum(golden["lengths"])[:-1])
    for number, line in enumerate(odd_lines()):
        ids = expected[number].tolist()
        assert tokenizer.encode_source(line) == ids, f"line {number}: {line!a}"
        # source.spm and target.spm are the same model here, and so are the ids.
        assert tokenizer.encode_target(line, end=True) == ids
        assert tokenizer.encode_target(line, end=False) == ids[:-1]
        assert crc_of_text(tokenizer.decode(ids)) == golden["text_crc"][number], f"line {number}: {line!a}"


def test_the_test_set_is_as_recorded(tokenizer: Tokenizer, golden: dict[str, np.ndarray]) -> None:
    source, target = sentences("de"), sentences("en")
    assert len(source) == len(target) == len(golden["source_crc"]) == 1000
    for number, line in enumerate(source):
        assert crc_of_ids(tokenizer.encode_source(line)) == golden["source_crc"][number], line
    for number, line in enumerate(target):
        ids = tokenizer.encode_target(line, end=True)
        assert crc_of_ids(ids) == golden["target_crc"][number], line
        assert crc_of_text(tokenizer.decode(ids)) == golden["target_text_crc"][number], line
