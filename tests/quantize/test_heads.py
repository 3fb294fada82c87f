"""Heads of a canonical model through a conversion: rounded as linear layers are, and left alone by scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyengine import _core
from pyengine.canonical import CanonicalModel, HeadConfig, LazyTensor
from pyengine.modelfile import open_directory
from pyengine.quantize import convert
from pyengine.quantize.scaling.fold import fold, places

from ..canonical.configs import HEADS
from ..core.models import TinyModel, new_session, step
from ..oracle.tiny import generation, model_config, random_tensors

CONFIG = model_config(heads={**HEADS, "tags": HeadConfig("none", norm=True, out=5)}, activation="relu")
SOURCES = {0: [3, 4, 5, 6], 1: [7] * 20}


def canonical(seed: int = 3) -> CanonicalModel:
    tensors = {name: LazyTensor.of(name, values) for name, values in random_tensors(CONFIG, seed).items()}
    return CanonicalModel(CONFIG, generation(), tensors)


def answers(model: _core.Model) -> dict[str, bytes]:
    found = {head: step(new_session(model), sources=SOURCES, head=head).answers for head in CONFIG.heads}
    return {head: each.tobytes() for head, each in found.items() if each is not None}


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_directory_answers_as_the_tensors_do(tmp_path: Path, weights: str) -> None:
    convert(canonical(), tmp_path / "model", weights=weights)
    opened = open_directory(tmp_path / "model", verify=True)
    tiny = TinyModel.of(CONFIG, random_tensors(CONFIG, 3), weights)
    assert answers(_core.Model(opened.config, opened.tensors, kv="float32")) == answers(tiny.core())


def test_types_of_matrices(tmp_path: Path) -> None:
    """int4 unless named; a tied output has the type of its table."""
    report = convert(canonical(), tmp_path / "model", weights="int4g32", tensors=[("head.classes.*", "float32")])
    opened = open_directory(tmp_path / "model", verify=True)
    assert {name: kind for name, kind in opened.other_weights.items() if name.startswith("head.")} == {
        "head.classes.dense": "float32", "head.classes.out": "float32",
    }  # fmt: skip
    assert opened.other_weights["decoder.embed"] == "int8"
    rows = {row.name: row for row in report.tensors}
    assert rows["head.tags.out.weight"].kind == "matrix" and 10 < rows["head.tags.out.weight"].snr_db < 40
    assert rows["head.classes.out.weight"].snr_db == np.inf
    assert len(answers(_core.Model(opened.config, opened.tensors, kv="int8"))) == len(CONFIG.heads)


def test_scales_of_channels_change_no_answer() -> None:
    """The encoder's last norm is read by heads beside the cross-attentions, and so takes none."""
    model = canonical()
    names = [place.name for place in places(CONFIG)]
    assert "encoder.layers.1.ffn.norm" not in names and "encoder.layers.1.ffn.up" in names
    assert "encoder.layers.1.ffn.norm" in [place.name for place in places(model_config())]
    doubled = model
    for place in places(CONFIG):
        width = model.tensors[f"{place.producers[0]}.bias"].shape[0]
        doubled = fold(doubled, place, np.exp2(np.arange(width) % 7 - 3).astype(np.float32))
    found = TinyModel.of(CONFIG, {name: tensor.read() for name, tensor in doubled.tensors.items()}, "float32")
    assert answers(found.core()) == answers(TinyModel.of(CONFIG, random_tensors(CONFIG, 3), "float32").core())
