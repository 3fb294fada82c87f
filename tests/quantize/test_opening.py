"""Model directories as input: float32 ones like the checkpoint, rounded ones only when that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine.canonical import CanonicalModel, LazyTensor, tensor_specs
from pyengine.errors import CheckpointError, OptionError
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory, write_directory
from pyengine.quantize import Calibration, convert, measure
from pyengine.quantize.opening import open_model, read_model
from pyengine.quantize.packing import StoredTensor, pack_tensors
from pyengine.quantize.rounding.rounding import round_matrix

from ..canonical.configs import random_config
from ..modelfile.directories import checkpoint_with_tokenizer
from ..oracle.tiny import generation

TEXT = [(f"ein Hund {i}", f"a dog {i}") for i in range(40)]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return checkpoint_with_tokenizer(tmp_path / "checkpoint")


def files(directory: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


@pytest.mark.parametrize("weights", ["float32", "int8", "int4g32z"])
def test_a_float32_directory_gives_what_the_checkpoint_gives(checkpoint: Path, tmp_path: Path, weights: str) -> None:
    convert(checkpoint, tmp_path / "float32", weights="float32")
    convert(checkpoint, tmp_path / "direct", weights=weights)
    convert(tmp_path / "float32", tmp_path / "through", weights=weights)
    assert files(tmp_path / "through") == files(tmp_path / "direct")
    assert measure(tmp_path / "float32", weights=weights) == measure(checkpoint, weights=weights)


def test_every_tensor_comes_back(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "float32", weights="float32")
    original, again = open_checkpoint(checkpoint), open_model(tmp_path / "float32")
    again.validate()
    for field in ("config", "generation", "tokenizer_kind"):
        assert getattr(again, field) == getattr(original, field)
    assert again.tokenizer_files.keys() == original.tokenizer_files.keys()
    assert list(again.tensors) == [name for name in again.tensors if name in original.tensors]
    for name, tensor in original.tensors.items():
        np.testing.assert_array_equal(again.tensors[name].read(), tensor.read())


@pytest.mark.parametrize("weights", ["float32", "int8", "int4g32z"])
@pytest.mark.parametrize("seed", range(8))
def test_any_configuration_goes_through_a_directory(tmp_path: Path, seed: int, weights: str) -> None:
    """Gates and what they gate come apart again, as tables with edges do, and neither moves by the other's scales."""
    config = next(each for each in map(random_config, range(seed, 1000, 8)) if each.decoder is not None)
    rng = np.random.default_rng(seed)
    tensors = {
        name: LazyTensor.of(name, rng.normal(size=spec.shape).astype(np.float32))
        for name, spec in tensor_specs(config).items()
    }
    rows: list[StoredTensor] = []
    write_directory(
        tmp_path / "out", config=config, weights=weights, generation=generation(),
        tensors=pack_tensors(CanonicalModel(config, generation(), tensors), weights, {}, "absmax", rows, None, {}),
        tokenizer=None, tokenizer_files={}, created_by="tests",
    )  # fmt: skip
    directory = open_directory(tmp_path / "out", verify=True)
    assert directory.config == config
    again = read_model(directory)
    again.validate()
    for name, spec in tensor_specs(config).items():
        wanted, found = tensors[name].read(), again.tensors[name].read()
        if spec.kind in ("linear", "embedding"):
            expected = round_matrix(wanted, weights)
            wanted = expected if isinstance(expected, np.ndarray) else expected.dequantize(wanted.shape[1])
        np.testing.assert_array_equal(found, wanted, err_msg=name)


@pytest.mark.parametrize(
    ("way", "held"),
    [({}, "int8"), ({"weights": "int4g32", "tensors": [("lm_head", "float32")]}, "float32, int4g32")],
)
def test_rounded_weights_are_refused(checkpoint: Path, tmp_path: Path, way: dict, held: str) -> None:
    convert(checkpoint, tmp_path / "rounded", **way)
    for attempt in (lambda: convert(tmp_path / "rounded", tmp_path / "out"), lambda: measure(tmp_path / "rounded")):
        with pytest.raises(OptionError, match=rf"rounded already \({held}\).*requantize=True does it all the same"):
            attempt()
    assert not (tmp_path / "out").exists()
    convert(tmp_path / "rounded", tmp_path / "out", requantize=True)
    assert open_directory(tmp_path / "out").weights == "int8"


def test_int8_again_keeps_the_codes(checkpoint: Path, tmp_path: Path) -> None:
    """The largest weight of a channel is 127 steps, so that its scale comes back but for a rounding."""
    convert(checkpoint, tmp_path / "first")
    convert(tmp_path / "first", tmp_path / "second", requantize=True)
    first, second = (open_directory(tmp_path / name) for name in ("first", "second"))
    for name, tensor in first.tensors.items():
        if name.endswith("scale"):
            np.testing.assert_allclose(second.tensors[name], tensor, rtol=3e-7)
        else:
            np.testing.assert_array_equal(second.tensors[name], tensor)


def test_a_pruned_directory_remembers_and_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    ids = [([3, 4, 5, i % 9, 0], [3, i % 7, 4, 0]) for i in range(30)]
    convert(checkpoint, tmp_path / "pruned", weights="float32", calibration=Calibration(ids), prune={"heads": 0.3})
    removed = open_directory(tmp_path / "pruned").removed
    assert removed and all(each.what == "heads" and each.removed < each.total for each in removed)
    convert(tmp_path / "pruned", tmp_path / "twice", vocabulary=TEXT, kv="float32")
    again = open_directory(tmp_path / "twice", verify=True)
    assert again.removed[: len(removed)] == removed and again.kv == "float32"
    assert {each.what for each in again.removed[len(removed) :]} <= {"tokens"}
    with pyengine.load(tmp_path / "twice", threads=1) as translator:
        assert translator.info()["kv"] == "float32"
    with pyengine.load(tmp_path / "twice", threads=1, kv="int8") as translator:
        assert translator.info()["kv"] == "int8"


def test_kv_is_carried_on_unless_another_is_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "first", weights="float32", kv="int8")
    convert(tmp_path / "first", tmp_path / "second")
    convert(tmp_path / "first", tmp_path / "third", kv="float32")
    assert [open_directory(tmp_path / name).kv for name in ("second", "third")] == ["int8", "float32"]
    with pytest.raises(OptionError, match="kv: expected one of int8, float32, found 'int4'"):
        convert(checkpoint, tmp_path / "out", kv="int4")


def test_a_damaged_checkpoint_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        convert(tmp_path / "in", tmp_path / "out")


def test_neither_of_the_two(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="expected a checkpoint directory or .*, found an empty directory"):
        convert(tmp_path / "empty", tmp_path / "out")
