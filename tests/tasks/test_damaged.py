"""Weights with NaN, as a damaged file gives them: every task says so, and how to look for the damage."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import pyengine
from pyengine import EngineError, Translator
from tests.oracle.tiny import generation, model_config, random_tensors
from tests.tasks.models import write_float32

SOURCE, TARGET = [3, 7, 0], [4, 5, 0]


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    config = model_config()
    tensors = random_tensors(config, 1)
    tensors["decoder.layers.1.ffn.down.weight"][3, 5] = float("nan")
    path = tmp_path_factory.mktemp("damaged") / "model"
    write_float32(path, config, generation(), tensors)
    return pyengine.load(path, threads=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.translate(SOURCE, num_beams=1),
        lambda model: model.translate([SOURCE] * 3, num_beams=4),
        lambda model: list(model.translate_iter([SOURCE], num_beams=2)),
        lambda model: model.score(SOURCE, TARGET),
        lambda model: model.logits(SOURCE, TARGET),
        lambda model: list(model.logits_iter([SOURCE], [TARGET])),
    ],
)
def test_every_task_is_an_error(translator: Translator, call: Callable[[Translator], object]) -> None:
    with pytest.raises(EngineError, match="the normalizer of row 0 is -?nan: .*--verify.*verify=True"):
        call(translator)
