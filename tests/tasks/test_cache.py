"""A cache of so many bytes: the same translations and scores, and an error where a sentence alone is too large."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyengine


@pytest.mark.parametrize("beams", [1, 3])
def test_a_bounded_cache_gives_the_same_results(int8_directory: Path, german: list[str], beams: int) -> None:
    options = {"num_beams": beams, "max_new_tokens": 30}
    with pyengine.load(int8_directory, threads=2) as free:
        wanted = free.translate(german, **options)
        targets = [result.ids for result in wanted]
        scores = free.score(german[:-1], targets[:-1])
        assert free.info()["cache_bytes"] > 1 << 20
    with pyengine.load(int8_directory, threads=2, cache_bytes=400_000) as bounded:
        assert bounded.translate(german, **options) == wanted
        assert bounded.score(german[:-1], targets[:-1]) == scores
        about = bounded.info()
        assert 0 < about["cache_bytes"] <= 400_000
        assert about["sessions"] == 1 and about["working_bytes"] > 0
        stream = bounded.translate_iter(iter(german), **options)
        next(stream)
        assert bounded.info()["history_bytes"] > 0
        stream.close()  # type: ignore[attr-defined]


def test_a_sentence_that_alone_is_too_large(int8_directory: Path) -> None:
    with pyengine.load(int8_directory, threads=1, cache_bytes=30_000) as tiny:
        with pytest.raises(pyengine.CacheFullError, match="needs . more pages of 16 tokens, . are left"):
            tiny.translate("Ein Mann fährt mit dem Rad über eine Brücke, und Kinder spielen am Strand.", num_beams=4)
        assert tiny.translate("") == tiny.translate("")


@pytest.mark.parametrize("value", [0, -1, 1.5, "1G", True])
def test_what_is_no_size(int8_directory: Path, value: object) -> None:
    with pytest.raises(pyengine.OptionError, match="cache_bytes is "):
        pyengine.load(int8_directory, cache_bytes=value)  # type: ignore[arg-type]
