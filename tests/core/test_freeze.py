"""Results have the bytes that they had: see freeze.py, which writes them anew where a commit moves them on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyengine import _core
from pyengine.quantize import convert

from . import freeze

FROZEN = json.loads(freeze.FROZEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("names", list(freeze.each_logits()), ids=", ".join)
def test_logits(names: tuple[str, str, str]) -> None:
    expected = dict.fromkeys(_core.available_isas(), FROZEN["logits"][", ".join(names)])
    assert {isa: freeze.logits(*names, isa=isa) for isa in expected} == expected


@pytest.mark.parametrize("weights", freeze.WEIGHTS)
def test_translations(weights: str, tmp_path: Path) -> None:
    convert(freeze.CHECKPOINT, tmp_path / "model", weights=weights)
    for beams in (1, 4):
        assert freeze.translations(tmp_path / "model", beams) == FROZEN["translations"][f"{weights}, beams {beams}"]
