"""Checkpoints in the forms that people have: transformers loads each, and the importer's model computes the same.

The old forms are written by torch itself. Where transformers finds no weights (wrappers' prefixes), ours are compared
with those that were saved.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import save_file

import pyengine
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.importers import open_checkpoint
from pyengine.quantize import convert

from .test_import_oracle import check, logits_of, random_model

State = dict[str, Any]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def bin_of(change: Callable[[State], Any] = lambda state: state, **how: Any) -> Callable[[Path, Any], None]:
    """A pytorch_model.bin of what ``change`` makes of the state dict."""
    return lambda directory, model: torch.save(change(model.state_dict()), directory / "pytorch_model.bin", **how)


OLD = {"_use_new_zipfile_serialization": False}
TRAINING = {
    "step": 5,
    "epoch": 0.5,
    "optimizer": {
        "state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.ones(3)}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.98), "amsgrad": False, "foreach": None, "params": [0]}],
    },
    "optimizer.state.1": torch.ones(4),
    "rng": torch.get_rng_state(),
}


def strided(state: State) -> State:
    """Columns of a wider matrix, every second row, a transposed matrix, and one number for a whole vector."""
    for name in [name for name in state if name.endswith("_proj.weight")]:
        values = state[name]
        rows, columns = values.shape
        wide = torch.zeros(2 * rows, columns + 2)
        state[name] = values.t().contiguous().t() if ".q_proj" in name else wide[::2, 1:-1].copy_(values)
        assert not state[name].is_contiguous()
    name = "model.encoder.layers.0.fc1.bias"
    state[name] = torch.full((1,), 0.3).expand(state[name].shape)
    state["final_logits_bias"] = torch.zeros(1, 1).expand(1, 17)
    return state


def indexed(file: str, change: Callable[[State, dict[str, str]], None]) -> Callable[[Path, Any], None]:
    """A safetensors ``file``, and an index that ``change`` may alter, as it may the tensors."""

    def save(directory: Path, model: Any) -> None:
        state = {name: values.clone() for name, values in model.state_dict().items()}
        index = dict.fromkeys(state, file)
        change(state, index)
        (directory / file).parent.mkdir(exist_ok=True)
        save_file(state, directory / file, metadata={"format": "pt"})
        (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))

    return save


FORMS: dict[str, Callable[[Path, Any], None]] = {
    "before torch 1.6": bin_of(**OLD),
    "before torch 1.6, half": bin_of(lambda state: {name: each.half() for name, each in state.items()}, **OLD),
    "before torch 1.6, parameters": bin_of(
        lambda state: {name: torch.nn.Parameter(each) for name, each in state.items()}, **OLD
    ),
    "before torch 1.6, views": bin_of(strided, **OLD),
    "before torch 1.6, of a training": bin_of(lambda state: {**TRAINING, **state}, **OLD),
    "views": bin_of(strided),
    "of a training": bin_of(lambda state: {**state, **TRAINING}),
    "float64": bin_of(lambda state: {name: each.double() for name, each in state.items()}),
    "float64 in safetensors": lambda directory, model: model.double().save_pretrained(directory),
    "minus infinity": bin_of(
        lambda state: {**state, "final_logits_bias": state["final_logits_bias"].clone().index_fill_(
            1, torch.tensor([3, 4, 9]), -torch.inf
        )}
    ),
    "an index that names more": indexed("a.safetensors", lambda state, index: state.pop("lm_head.weight")),
    "an index that names less": indexed(
        "a.safetensors", lambda state, index: [index.pop(name) for name in list(state)[1:]]
    ),
    "shards in a folder": indexed("shards/a.safetensors", lambda state, index: None),
}  # fmt: skip


def save(directory: Path, form: Callable[[Path, Any], None], **changes: Any) -> Any:
    model = random_model(**changes)
    model.save_pretrained(directory)
    (directory / "model.safetensors").unlink()
    form(directory, model)
    return model


@pytest.mark.parametrize("name", FORMS)
def test_every_form(tmp_path: Path, name: str) -> None:
    save(tmp_path, FORMS[name])
    original = transformers.MarianMTModel.from_pretrained(tmp_path).float().eval()
    expected = logits_of(original)
    assert np.isfinite(expected).all() == (name != "minus infinity")
    check(open_checkpoint(tmp_path), expected, **({"atol": 5e-3} if "half" in name else {}))


@pytest.mark.parametrize("prefix", ("module.", "_orig_mod.", "module._orig_mod."))
@pytest.mark.parametrize("how", ({}, OLD), ids=("zip", "old"))
def test_prefixes_of_wrappers(tmp_path: Path, prefix: str, how: dict[str, bool]) -> None:
    model = save(tmp_path, bin_of(lambda state: {prefix + name: each for name, each in state.items()}, **how))
    check(open_checkpoint(tmp_path), logits_of(model))


@pytest.mark.parametrize("how", ({}, OLD), ids=("zip", "old"))
def test_a_whole_model_is_refused_by_its_class(tmp_path: Path, how: dict[str, bool]) -> None:
    save(tmp_path, lambda directory, model: torch.save(model, directory / "pytorch_model.bin", **how))
    with pytest.raises(UnsupportedError, match=r"MarianMTModel': a whole pickled model.*save_pretrained\(DIR\)"):
        open_checkpoint(tmp_path)


def test_weights_inside_a_dict_are_pointed_at(tmp_path: Path) -> None:
    save(tmp_path, bin_of(lambda state: {"model_state_dict": state, "step": 5}))
    with pytest.raises(CheckpointError, match="tensors lie inside 'model_state_dict'"):
        open_checkpoint(tmp_path)


def _written(ids: Any) -> list[int]:
    """What is between the start and the end token."""
    return list(takewhile(lambda each: each != 0, ids[1:].tolist()))


SOURCES = [[3, 7, 1, 14, 0], [2, 5, 0], [8, 8, 11, 6, 4, 0]]


@pytest.mark.parametrize("beams", (1, 3))
def test_ids_of_minus_infinity_have_the_scores_of_transformers(tmp_path: Path, beams: int) -> None:
    save(tmp_path / "in", FORMS["minus infinity"])
    original = transformers.MarianMTModel.from_pretrained(tmp_path / "in").eval()
    convert(tmp_path / "in", tmp_path / "float32", weights="float32")
    options = {"num_beams": beams, "max_length": 12, "num_return_sequences": beams}
    with pyengine.load(tmp_path / "float32") as translator:
        found = translator.translate(SOURCES, **options)
    for source, result in zip(SOURCES, found, strict=True):
        wanted = original.generate(
            torch.tensor([source]), **options, output_scores=True, return_dict_in_generate=True
        )
        assert [list(each.ids) for each in result.hypotheses] == [_written(ids) for ids in wanted.sequences]
        if beams > 1:
            scores = [each.score for each in result.hypotheses]
            assert scores == pytest.approx(wanted.sequences_scores.tolist(), abs=1e-4)


@pytest.mark.parametrize("key", ("forced_bos_token_id", "decoder_start_token_id", "forced_eos_token_id"))
def test_lists_of_one_id(tmp_path: Path, key: str) -> None:
    random_model().save_pretrained(tmp_path)
    given = json.loads((tmp_path / "generation_config.json").read_text())
    written = {}
    for name, value in (("id", 5), ("list", [5])):
        (tmp_path / "generation_config.json").write_text(json.dumps({**given, key: value}))
        convert(tmp_path, tmp_path / name, weights="float32")
        with pyengine.load(tmp_path / name) as translator:
            written[name] = translator.translate(SOURCES[0], num_beams=1, max_length=12).ids
    original = transformers.MarianMTModel.from_pretrained(tmp_path).eval()
    theirs = _written(original.generate(torch.tensor(SOURCES[:1]), max_length=12)[0])
    assert list(written["list"]) == list(written["id"]) == theirs
