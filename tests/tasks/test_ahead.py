"""Steps that run without coming back to Python give what steps one by one give, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine import EngineError, Translator, _core
from pyengine.decoding.histories import Histories
from pyengine.plan import Ahead
from pyengine.scheduling import scheduler
from pyengine.tasks import engine
from tests.core.models import TinyModel, make_plan, new_session
from tests.tasks.test_shortlist import some_ids

CASES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    "beams": {"num_beams": 4, "num_return_sequences": 4},
    "two beams, early": {"num_beams": 2, "early_stopping": True},
    "never": {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0},
    "cut": {"num_beams": 1, "max_new_tokens": 5},
    "beams, cut": {"num_beams": 4, "max_new_tokens": 5},
    "at least": {"num_beams": 1, "min_new_tokens": 20, "max_new_tokens": 24},
    "beams, at least": {"num_beams": 4, "min_new_tokens": 20, "max_new_tokens": 24},
    "forced end": {"num_beams": 1, "max_new_tokens": 12, "forced_eos_token_id": 5},
    "forced first": {"num_beams": 2, "forced_bos_token_id": 7, "begin_suppress_tokens": [9]},
    "no repeats": {"num_beams": 2, "no_repeat_ngram_size": 2},
    "renormalized": {"num_beams": 2, "renormalize_logits": True},
}


@pytest.fixture(scope="module")
def translator(int8_directory: Path) -> Iterator[Translator]:
    with pyengine.load(int8_directory, threads=1) as translator:
        yield translator


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("steps", "seconds"),
    [
        (100_000, 0.001),
        pytest.param(4, 60.0, marks=pytest.mark.exhaustive),
        pytest.param(100_000, 60.0, marks=pytest.mark.exhaustive),
        pytest.param(100_000, 0.0, marks=pytest.mark.exhaustive),
    ],
)
def test_translations_are_those_of_single_steps(
    translator: Translator, german: list[str], name: str, steps: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(scheduler, "SECONDS_AHEAD", seconds)
    for ahead in (1, steps):
        monkeypatch.setattr(scheduler, "STEPS_AHEAD", ahead)
        found.append([translator.translate(text, **CASES[name]) for text in (german[0], german[:3], german)])
    assert found[0] == found[1]  # floats compared bit for bit


@pytest.mark.parametrize("beams", [1, 4])
def test_with_a_shortlist(
    int8_directory: Path, german: list[str], beams: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = some_ids(2, tmp_path / "shortlist")
    found = []
    with pyengine.load(int8_directory, threads=1, shortlist=listed) as translator:
        for ahead in (1, 100_000):
            monkeypatch.setattr(scheduler, "STEPS_AHEAD", ahead)
            found.append([translator.translate(text, num_beams=beams) for text in (german[0], german[:5])])
    assert found[0] == found[1]


def test_they_come_back_seldom(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    monkeypatch.setattr(scheduler, "SECONDS_AHEAD", 60.0)
    step = engine._LentSession.step
    monkeypatch.setattr(engine._LentSession, "step", lambda self, plan: steps.append(plan) or step(self, plan))
    for beams in (1, 4):
        steps.clear()
        translator.translate(["Ein Mann."] * 8, num_beams=beams, min_new_tokens=60, max_new_tokens=60)
        assert len(steps) < 6


def test_they_come_back_in_time(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    step = engine._LentSession.step
    monkeypatch.setattr(engine._LentSession, "step", lambda self, plan: steps.append(plan) or step(self, plan))
    monkeypatch.setattr(scheduler, "SECONDS_AHEAD", 0.0)
    for beams in (1, 4):
        steps.clear()
        translator.translate("Ein Mann.", num_beams=beams, min_new_tokens=60, max_new_tokens=60)
        assert len(steps) == 60


def test_a_plan_with_two_rows_of_a_sequence_cannot_go_ahead() -> None:
    model = TinyModel.random("float32", 1)
    session = new_session(model.core())
    plan = make_plan(sources={0: [1, 0]}, rows=[(0, 0, [2, 1])], logit_rows=[1])
    with pytest.raises(EngineError, match="one row a sequence"):
        session.step(replace(plan, ahead=Ahead(4, 60.0, np.zeros(1, np.int32))))


@pytest.mark.parametrize(("slot", "steps"), [(0, 64), (2, 2), (-1, 2)], ids=["no room", "no such slot", "negative"])
def test_beams_go_ahead_only_where_they_have_room(slot: int, steps: int) -> None:
    session = new_session(TinyModel.random("float32", 1).core())
    histories, numbers = Histories(2, 2), np.ones(2, np.int32)
    beams = _core.Beams(
        histories=histories, last=numbers[:, None], sequences=numbers[:, None], length=numbers, prompt=numbers,
        maximum=numbers, used=np.zeros(4, bool), end=(0,), never=-1e9, length_penalty=1.0, early_stopping=False,
        flattering=False,
    )  # fmt: skip
    plan = make_plan(sources={0: [1, 0]}, rows=[(0, 0, [2])], top_k=2)
    ahead = Ahead(steps, 60.0, np.zeros(0, np.int32), beams, np.array([slot]))
    with pytest.raises(EngineError, match="room in their histories"):
        session.step(replace(plan, ahead=ahead))
