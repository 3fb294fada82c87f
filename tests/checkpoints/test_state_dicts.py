"""What lies in the pickle of a pytorch_model.bin: expanded tensors, what is no tensor, whole models."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from pyengine.checkpoints import open_weights
from pyengine.errors import CheckpointError, UnsupportedError

from . import handmade

VALUES = np.arange(24, dtype=np.float32).reshape(4, 6) - 7


def write(directory: Path, content: dict[str, bytes]) -> Path:
    handmade.write_zip(directory / "pytorch_model.bin", content)
    return directory


def members(items: dict[str, bytes]) -> dict[str, bytes]:
    """An archive with VALUES in storage 0."""
    return {"archive/data.pkl": handmade.state_dict(items), "archive/data/0": handmade.encode(VALUES, "float32")}


def test_expanded_tensors(tmp_path: Path) -> None:
    stored = handmade.storage("0", "FloatStorage", 24)
    items = {
        "one number": handmade.tensor(stored, 3, (1, 40), (0, 0)),
        "rows alike": handmade.tensor(stored, 6, (5, 6), (0, 1)),
        "columns alike": handmade.tensor(stored, 0, (4, 50), (6, 0)),
    }
    weights = open_weights(write(tmp_path, members(items)))
    expected = (np.full((1, 40), VALUES[0, 3]), VALUES[[1] * 5], VALUES[:, [0] * 50])
    for name, wanted in zip(items, expected):
        np.testing.assert_array_equal(weights[name].read(), wanted)


OPTIMIZER = {
    "state": {0: {"step": 7, "exp_avg": None}},
    "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.98), "params": [0]}],
}


def plain(value: object) -> bytes:
    """The opcodes of a plain value, without a memo, which would be that of the file."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=2)
    pickler.fast = True
    pickler.dump(value)
    return stream.getvalue()[2:-1]


def test_what_is_no_tensor_is_left_out(tmp_path: Path) -> None:
    a = handmade.tensor(handmade.storage("0", "FloatStorage", 24), 0, (4, 6), (6, 1))
    inside = b"}" + handmade.text("exp_avg") + a + b"s"
    items = {"step": plain(5), "a": a, "optimizer": plain(OPTIMIZER), "state": inside, "loss": plain(0.5)}
    weights = open_weights(write(tmp_path, members(items)))
    assert list(weights) == ["a"]
    np.testing.assert_array_equal(weights["a"].read(), VALUES)


def test_weights_one_level_deeper_are_pointed_at(tmp_path: Path) -> None:
    """transformers finds none of them and starts from random numbers."""
    a = handmade.tensor(handmade.storage("0", "FloatStorage", 24), 0, (4, 6), (6, 1))
    items = {"epoch": plain(5), "model_state_dict": b"}" + handmade.text("a") + a + b"s"}
    with pytest.raises(CheckpointError, match=r"found only 'epoch', 'model_state_dict'; .*saved\['model_state_dict'\]"):
        open_weights(write(tmp_path, members(items)))


MODEL = "transformers.models.marian.modeling_marian\nMarianMTModel\n"
PICKLED_MODELS = {
    "protocol 2": b"\x80\x02c" + MODEL.encode() + b")\x81}" + handmade.text("training") + b"\x89sb.",
    "protocol 4": b"\x80\x04" + b"".join(handmade.text(part) for part in MODEL.split()) + b"\x93)\x81}b.",
    "inside a dict": b"\x80\x02}" + handmade.text("model") + b"c" + MODEL.encode() + b")\x81}bs.",
}


@pytest.mark.parametrize("name", PICKLED_MODELS)
def test_a_whole_pickled_model(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"MarianMTModel.*: a whole pickled model.*save_pretrained\(DIR\)"):
        open_weights(write(tmp_path, {"archive/data.pkl": PICKLED_MODELS[name]}))
