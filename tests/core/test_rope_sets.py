"""Frequencies that depend on a sequence's length: a sequence takes one set of them, and keeps it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pyengine import _core
from pyengine.canonical.config import ModelConfig, RopeConfig
from pyengine.errors import EngineError

from ..oracle.random_config import random_config, random_tensors
from .models import TinyModel, make_plan, new_session, step

LENGTHS = (8, 20)
SETS = len(LENGTHS) + 1
NAME = "rope.turning.frequencies"


def config_of(lengths: tuple[int, ...]) -> ModelConfig:
    """A decoder alone, of two layers: one turns by the sets, the other always in the same way."""
    config = next(
        config for config in map(random_config, range(1000))
        if config.encoder is None and config.decoder is not None and config.decoder.positions == "none"
    )  # fmt: skip
    assert config.decoder is not None
    first = config.decoder.layers[0]
    layers = tuple(
        replace(first, self_attention=replace(first.self_attention, window=None, rope=rope))
        for rope in ("turning", "plain")
    )
    ropes = {"plain": RopeConfig(6), "turning": RopeConfig(12, 1.25, lengths)}
    return replace(config, decoder=replace(config.decoder, layers=layers), ropes=ropes)


TENSORS = random_tensors(config_of(LENGTHS), 1)
CONFIG = config_of(LENGTHS)


@pytest.fixture(scope="module")
def model() -> _core.Model:
    return TinyModel.of(CONFIG, TENSORS, "int8").core("int8")


def with_one_set(rope_set: int) -> _core.Model:
    tensors = {**TENSORS, NAME: TENSORS[NAME][rope_set]}
    return TinyModel.of(config_of(()), tensors, "int8").core("int8")


def test_which_set() -> None:
    assert [CONFIG.rope_set(length) for length in (1, 8, 9, 20, 21, 1000)] == [0, 0, 1, 1, 2, 2]
    assert config_of(()).rope_set(1000) == 0


def test_each_sequence_is_that_of_a_model_with_its_set_alone(model: _core.Model) -> None:
    """All in one batch, of a prompt and of single rows, one a fork."""
    texts = np.random.default_rng(0).integers(0, 300, (SETS, 25))
    session = new_session(model)
    prompts = [(i, -1, text[:23]) for i, text in enumerate(texts)]
    step(session, rows=prompts, rope_sets=np.repeat(range(SETS), 23), logit_rows=[])
    step(session, rows=[(i, -1, [text[23]]) for i, text in enumerate(texts)], rope_sets=range(SETS), logit_rows=[])
    found = step(
        session, forks=[(i, i + SETS) for i in range(SETS)], full_logits=True,
        rows=[(i + SETS, -1, [text[24]]) for i, text in enumerate(texts)], rope_sets=range(SETS),
    ).logits  # fmt: skip
    assert found is not None
    for i, text in enumerate(texts):
        alone = step(new_session(with_one_set(i)), rows=[(0, -1, text)], logit_rows=[24], full_logits=True).logits
        assert alone is not None and found[i].tobytes() == alone[0].tobytes()
    assert len({row.tobytes() for row in found}) == SETS


def test_without_sets_in_a_plan_it_is_the_first(model: _core.Model) -> None:
    plans = make_plan(rows=[(0, -1, [1, 2])], full_logits=True), make_plan(
        rows=[(0, -1, [1, 2])], full_logits=True, rope_sets=[0, 0]
    )
    one, other = (new_session(model).step(plan).logits for plan in plans)
    assert one is not None and other is not None and one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("sequence", "sets", "message"),
    [
        (1, [3, 3], r"rope set 3 is not in \[0, 3\)"),
        (1, [-1, -1], r"rope set -1 is not in \[0, 3\)"),
        (1, [1, 2], "rope set 2 for sequence 1, which has set 1"),
        (0, [2, 2], "rope set 2 for sequence 0, which has set 1"),
        (0, [], "rope set 0 for sequence 0, which has set 1"),
        (1, [1], "arrays that belong together differ in length"),
    ],
)
def test_others_are_refused_and_change_nothing(
    model: _core.Model, sequence: int, sets: list[int], message: str
) -> None:
    session, other = new_session(model), new_session(model)
    for each in (session, other):
        step(each, rows=[(0, -1, [5, 6])], rope_sets=[1, 1])
    with pytest.raises(EngineError, match=message):
        step(session, rows=[(sequence, -1, [7, 8])], rope_sets=sets)
    found, wanted = (
        step(each, rows=[(0, -1, [7])], rope_sets=[1], full_logits=True).logits for each in (session, other)
    )
    assert found is not None and wanted is not None and found.tobytes() == wanted.tobytes()


def test_a_fork_keeps_its_parents_set_and_a_freed_sequence_none(model: _core.Model) -> None:
    session = new_session(model)
    step(session, rows=[(0, -1, [5, 6])], rope_sets=[1, 1])
    with pytest.raises(EngineError, match="rope set 2 for sequence 1, which has set 1"):
        step(session, forks=[(0, 1)], rows=[(1, -1, [7])], rope_sets=[2])
    step(session, free_sequences=[0], rows=[(0, -1, [7])], rope_sets=[2])


def test_a_model_without_sets_has_one() -> None:
    with pytest.raises(EngineError, match=r"rope set 1 is not in \[0, 1\)"):
        step(new_session(with_one_set(0)), rows=[(0, -1, [1])], rope_sets=[1])
