"""The real checkpoint in float32 finds what transformers found once, on the whole test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pyengine
from tests.oracle.golden_translations import GOLDEN, crc, sentences


@pytest.mark.parametrize(("name", "beams"), [("beam", 4), pytest.param("greedy", 1, marks=pytest.mark.exhaustive)])
def test_float32_translates_as_transformers_does(float32_directory: Path, name: str, beams: int) -> None:
    """The same ids for at least 995 of 1,000 sentences, and the same scores where the ids agree."""
    golden = np.load(GOLDEN)
    with pyengine.load(float32_directory) as translator:
        results = translator.translate(sentences("de"), beam_size=beams)
    same = np.array([crc([*result.ids, 0]) for result in results], np.uint32) == golden[name]
    assert same.sum() >= 995, np.flatnonzero(~same)
    if beams > 1:
        scores = np.array([result.score for result in results])
        np.testing.assert_allclose(scores[same], golden["scores"][same], atol=1e-3)
