"""The command `compare`: its figures are those of their formulas, and what cannot be compared is one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine.canonical import CanonicalModel, LazyTensor, tensor_specs
from pyengine.cli import main
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory
from pyengine.quantize import convert, pipeline
from pyengine.quantize.divergence import divergence

from ..checkpoints import handmade

EXAMPLE = Path(__file__).parents[2] / "examples" / "multi30k-de-en"
PAIRS = [("Ein Hund.", "A dog."), ("Zwei Kinder spielen.", "Two children are playing."), ("Ein Mann.", "A man.")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS), encoding="utf-8")
    return path


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["compare", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def error_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["compare", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def pruned(target: Path, monkeypatch: pytest.MonkeyPatch, *, layers: int, width: int) -> Path:
    """The example with fewer decoder layers, and fewer neurons in the first encoder layer."""
    model = open_checkpoint(EXAMPLE)
    encoder, decoder = model.config.encoder, model.config.decoder
    narrow = (replace(encoder.layers[0], ffn_width=width), *encoder.layers[1:])
    stacks = {"encoder": replace(encoder, layers=narrow), "decoder": replace(decoder, layers=decoder.layers[:layers])}
    config = replace(model.config, **stacks)
    tensors = {}
    for name, spec in tensor_specs(config).items():
        values = model.tensors[name].read()[tuple(slice(size) for size in spec.shape)]
        tensors[name] = LazyTensor(name, spec.shape, "float32", lambda values=values: values)
    smaller: CanonicalModel = replace(model, config=config, tensors=tensors)
    monkeypatch.setattr(pipeline, "open_model", lambda path, requantize: smaller)
    convert(EXAMPLE, target)
    monkeypatch.undo()
    return target


def test_figures(
    float32_directory: Path, int8_directory: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(capsys, float32_directory, int8_directory, "--data", data)
    with pyengine.load(float32_directory) as a, pyengine.load(int8_directory) as b:
        expected = divergence(a, b, PAIRS)
    figures = (found["kl_divergence"], found["top1_agreement"], found["tokens"])
    assert figures == (expected.kl, expected.top1, expected.tokens) and expected.kl > 0
    assert found["bytes"] == [open_directory(each).bytes for each in (float32_directory, int8_directory)]
    assert found["ratio"] == found["bytes"][1] / found["bytes"][0]


def test_matrices_are_those_of_the_conversion(
    float32_directory: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For every type, the rounding error that the conversion told is found in what was written."""
    tensors = [("encoder.layers.0.*", "int8"), ("encoder.layers.1.*", "int4g32m"), ("decoder.layers.1.*", "float32")]
    report = convert(EXAMPLE, tmp_path / "mixed", weights="int4g64", tensors=tensors, method="mse")
    told = {row.name.removesuffix(".weight"): row for row in report.tensors if row.kind == "matrix"}
    found = compared(capsys, float32_directory, tmp_path / "mixed", "--data", data)
    assert [each["name"] for each in found["matrices"]] == list(told)
    assert {each["types"][1] for each in found["matrices"]} == {"int8", "int4g32m", "float32", "int4g64"}
    for each in found["matrices"]:
        row = told[each["name"]]
        exact = each["types"][1] == "float32"
        assert each["types"][0] == "float32" and each["bytes"][1] == row.stored_bytes and each["same"] == exact
        assert each["snr_db"] == (None if exact else pytest.approx(row.snr_db, abs=1e-3))


def test_a_model_and_itself(int8_directory: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, int8_directory, int8_directory, "--data", data)
    assert (found["kl_divergence"], found["top1_agreement"], found["ratio"]) == (0.0, 1.0, 1.0)
    assert all(each["same"] and each["snr_db"] is None for each in found["matrices"])


def test_greedy_translations_take_the_place_of_targets(
    float32_directory: Path, int8_directory: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pyengine.load(float32_directory) as a, pyengine.load(int8_directory) as b:
        texts = [PAIRS[0][0], PAIRS[1][0]]
        results = a.translate(texts, num_beams=1, num_return_sequences=1)
        pairs = [(texts[0], PAIRS[0][1]), (texts[1], [*results[1].ids])]
        expected = divergence(a, b, pairs)
    data.write_text(f"{texts[0]}\t{PAIRS[0][1]}\n{texts[1]}\nnot read\n", encoding="utf-8")
    found = compared(capsys, float32_directory, int8_directory, "--data", data, "--limit", 2)
    assert (found["kl_divergence"], found["tokens"]) == (expected.kl, expected.tokens)


def test_what_was_pruned_is_not_compared(
    int8_directory: Path,
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = pruned(tmp_path / "pruned", monkeypatch, layers=1, width=512)
    rows = {each["name"]: each for each in compared(capsys, int8_directory, target, "--data", data)["matrices"]}
    narrow = {"encoder.layers.0.ffn.up", "encoder.layers.0.ffn.down"}
    for name, row in rows.items():
        assert row["same"] == (name not in narrow and not name.startswith("decoder.layers.")), name
        assert (row["types"][1] is None) == (row["bytes"][1] is None) == name.startswith("decoder.layers.1.")
    assert main(["compare", str(int8_directory), str(target), "--data", str(data)]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["encoder.layers.0.ffn.up"][1:] == ["int8", "int8", "266,240", "133,120", "-"]
    assert lines["decoder.layers.1.ffn.up"][1:] == ["int8", "-", "266,240", "-", "-"]
    assert lines["decoder.embed"][-1] == "same"


def test_errors_are_one_line(
    int8_directory: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, none = (int8_directory, int8_directory), tmp_path / "none"
    assert f"{none}: expected a model directory, found nothing" in error_line(capsys, none, none, "--data", data)
    assert f"{none}: expected" in error_line(capsys, int8_directory, none, "--data", data)
    assert f"{none}: cannot be read" in error_line(capsys, *both, "--data", none)
    assert "--limit is 0; expected" in error_line(capsys, *both, "--data", data, "--limit", 0)
    assert "convert it first" in error_line(capsys, EXAMPLE, int8_directory, "--data", data)
    for content, message in ((b"", "found an empty file"), (b"a\n\n", "line 2: expected a source, found none"),
                             (b"a\tb\tc\n", "found 2 tabs"), (b"a\n\xff\n", "line 2: expected UTF-8")):  # fmt: skip
        data.write_bytes(content)
        assert message in error_line(capsys, *both, "--data", data)
    done = subprocess.run(
        [sys.executable, "-m", "pyengine", "compare", *map(str, both)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "arguments are required: --data" in done.stderr and done.stderr.count("\n") == 1


def test_other_vocabularies(
    int8_directory: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(handmade.write_checkpoint(tmp_path / "in"), tmp_path / "other")
    assert "expected the vocabulary of" in error_line(capsys, int8_directory, tmp_path / "other", "--data", data)
    shutil.copytree(int8_directory, tmp_path / "swapped")
    names = json.loads((int8_directory / "vocab.json").read_text())
    names["▁Hund"], names["▁Kinder"] = names["▁Kinder"], names["▁Hund"]
    (tmp_path / "swapped" / "vocab.json").write_text(json.dumps(names))
    message = error_line(capsys, int8_directory, tmp_path / "swapped", "--data", data)
    assert "line 1: expected models of one vocabulary" in message


def test_weights_that_are_not_finite(
    float32_directory: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(float32_directory, tmp_path / "bad")
    path = tmp_path / "bad" / "model.safetensors"
    values = np.fromfile(path, np.uint8)
    values[-200_000:-199_996] = np.frombuffer(np.float32([np.nan]).tobytes(), np.uint8)
    values.tofile(path)
    assert "finite" in error_line(capsys, float32_directory, tmp_path / "bad", "--data", data)
