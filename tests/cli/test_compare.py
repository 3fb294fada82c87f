"""The command `compare`: its figures are those of their formulas, and what cannot be compared is one line."""

from __future__ import annotations

import json
import shlex
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
from pyengine.cli import compare, main
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory
from pyengine.quantize import convert, pipeline
from pyengine.quantize.measuring.divergence import divergence, token_divergence
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.opening import read_matrix, read_model
from pyengine.quantize.report import CompressionReport, comparison
from pyengine.quantize.seeing.calibration import in_memory_engine, paired_inputs
from pyengine.text import tokenizer_of
from pyengine.version import DISTRIBUTION

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
    first = replace(encoder.layers[0], feed_forward=replace(encoder.layers[0].feed_forward, width=width))
    narrow = (first, *encoder.layers[1:])
    stacks = {"encoder": replace(encoder, layers=narrow), "decoder": replace(decoder, layers=decoder.layers[:layers])}
    config = replace(model.config, **stacks)
    tensors = {}
    for name, spec in tensor_specs(config).items():
        values = model.tensors[name].read()[tuple(slice(size) for size in spec.shape)]
        tensors[name] = LazyTensor(name, spec.shape, "float32", lambda values=values: values)
    smaller: CanonicalModel = replace(model, config=config, tensors=tensors)
    monkeypatch.setattr(pipeline, "open_model", lambda path, **how: smaller)
    convert(EXAMPLE, target)
    monkeypatch.undo()
    return target


def test_figures(
    float32_directory: Path, int8_directory: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(capsys, float32_directory, int8_directory, "--data", data)
    with Reader.open(float32_directory) as a, Reader.open(int8_directory) as b:
        expected = divergence(a, b, PAIRS)
    figures = (found["kl_divergence"], found["top1_agreement"], found["tokens"])
    assert figures == (expected.kl, expected.top1, expected.tokens) and expected.kl > 0
    assert found["bytes"] == [open_directory(each).bytes for each in (float32_directory, int8_directory)]
    assert found["ratio"] == found["bytes"][1] / found["bytes"][0]


def test_matrices_are_those_of_the_conversion(
    float32_directory: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For every type, the rounding error that the conversion told is found in what was written."""
    tensors = [("encoder.layers.0.*", "int8"), ("encoder.layers.1.*", "int4g32z"), ("decoder.layers.1.*", "float32")]
    report = convert(EXAMPLE, tmp_path / "mixed", weights="int4g64", tensors=tensors, method="mse")
    told = {row.name.removesuffix(".weight"): row for row in report.tensors if row.kind == "matrix"}
    found = compared(capsys, float32_directory, tmp_path / "mixed", "--data", data)
    assert [each["name"] for each in found["matrices"]] == list(told)
    assert {each["types"][1] for each in found["matrices"]} == {"int8", "int4g32z", "float32", "int4g64"}
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
    texts = [PAIRS[0][0], PAIRS[1][0]]
    with pyengine.load(float32_directory) as translator:
        results = translator.translate(texts, num_beams=1, num_return_sequences=1)
    with Reader.open(float32_directory) as a, Reader.open(int8_directory) as b:
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


def test_the_page_has_what_is_printed(
    float32_directory: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    convert(EXAMPLE, tmp_path / "int4", weights="int4g64", method="mse", tensors=[("encoder.layers.0.*", "float32")])
    words = [float32_directory, tmp_path / "int4", "--data", data, "--report", tmp_path / "page"]
    printed = compared(capsys, *words)
    before = {each.name: each.read_bytes() for each in (tmp_path / "page").iterdir()}
    assert compared(capsys, *words, "--overwrite") == printed
    after = {each.name: each.read_bytes().replace(b" --overwrite", b"") for each in (tmp_path / "page").iterdir()}
    assert sorted(before) == ["index.html", "report.json"] and after == before

    report = CompressionReport.from_json(json.loads(before["report.json"]), "report.json")
    assert report.models == (str(float32_directory), str(tmp_path / "int4"))
    assert shlex.split(report.command) == ["pyengine", "compare", *map(str, words), "--json"]
    assert [report.bytes_before, report.bytes_after] == printed["bytes"]
    for layer, row in zip(report.layers, printed["matrices"], strict=True):
        assert (layer.name, layer.snr_db, layer.comparable) == (row["name"], row["snr_db"], True)
        assert [layer.type_before, layer.type_after] == row["types"]
        assert [layer.bytes_before, layer.bytes_after] == row["bytes"]
        assert layer.output_error == 0 if row["same"] else 0 < layer.output_error < 0.1

    found = report.end_to_end
    with pyengine.load(float32_directory) as a, pyengine.load(tmp_path / "int4") as b:
        kl = [token_divergence(a.logits(*pair), b.logits(*pair)) for pair in PAIRS]
    figures = (printed["kl_divergence"], printed["top1_agreement"], printed["tokens"])
    assert (found.kl_divergence, found.top1_agreement, found.tokens) == figures
    every = np.sort(np.concatenate(kl))
    assert (found.kl_quantiles[0], found.kl_quantiles[-1]) == (every[0], every[-1])
    for place in (10, 50, 99):  # the least value that so many tokens stay within
        assert found.kl_quantiles[place] in every
        assert (every <= found.kl_quantiles[place]).mean() >= place / 100
    worst = sorted(range(3), key=lambda index: -kl[index].mean())
    assert [each.line for each in found.lines] == [index + 1 for index in worst]
    assert [each.kl_divergence for each in found.lines] == [kl[index].mean() for index in worst]
    assert [each.source for each in found.lines] == [PAIRS[index][0] for index in worst]


def test_output_errors_are_those_of_the_text(
    int8_directory: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the products themselves, of the inputs that A shows with its weights as floats."""
    pytest.importorskip("matplotlib")
    convert(EXAMPLE, tmp_path / "int4", weights="int4g64", method="mse")
    compared(capsys, int8_directory, tmp_path / "int4", "--data", data, "--report", tmp_path / "page")
    report = json.loads((tmp_path / "page" / "report.json").read_text("utf-8"))
    a, b = open_directory(int8_directory), open_directory(tmp_path / "int4")
    model, layer = read_model(a), "decoder.layers.1.cross_attention.kv"
    tokenizer = tokenizer_of(a)
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    [(_, _, [seen])] = paired_inputs([engine], tokenizer, PAIRS, [{layer: np.copy}])
    engine.close()
    x, left, right = (each.astype(np.float64) for each in (seen[layer], read_matrix(a, layer), read_matrix(b, layer)))
    expected = ((x @ (left - right).T) ** 2).sum() / ((x @ left.T) ** 2).sum()
    [row] = [each for each in report["layers"] if each["name"] == layer]
    assert row["output_error"] == pytest.approx(expected, rel=1e-4)


def test_layers_are_measured_on_the_first_lines(
    float32_directory: Path,
    int8_directory: Path,
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(comparison, "_MEASURED", 2)
    words = (float32_directory, int8_directory, "--data", data)
    compared(capsys, *words, "--report", tmp_path / "all")
    compared(capsys, *words, "--report", tmp_path / "two", "--limit", 2)
    every, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("all", "two"))
    assert every["layers"] == two["layers"] and every["end_to_end"] != two["end_to_end"]
    assert "the first 2 lines" in every["notes"][0] and two["notes"] == []


def test_the_page_of_what_was_pruned(
    int8_directory: Path,
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    target = pruned(tmp_path / "pruned", monkeypatch, layers=1, width=512)
    for pair, page in (((int8_directory, target), "there"), ((target, int8_directory), "back")):
        compared(capsys, *pair, "--data", data, "--report", tmp_path / page)
        report = CompressionReport.from_json(json.loads((tmp_path / page / "report.json").read_text()), "report.json")
        rows = {layer.name: layer for layer in report.layers}
        gone = rows["decoder.layers.1.ffn.up"]
        side = (gone.type_before, gone.bytes_before) if page == "back" else (gone.type_after, gone.bytes_after)
        assert side == ("absent", 0) and gone.shape == (1024, 256)
        for name in ("decoder.layers.1.ffn.up", "decoder.layers.0.ffn.up", "encoder.layers.0.ffn.up"):
            assert not rows[name].comparable and rows[name].snr_db is rows[name].output_error is None
        assert rows["encoder.layers.1.ffn.up"].comparable


def test_the_page_of_a_model_and_itself(int8_directory: Path, tmp_path: Path, data: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ["compare", int8_directory, int8_directory, "--data", data, "--report", tmp_path / "page"]
    assert main([str(each) for each in words]) == 0
    report = json.loads((tmp_path / "page" / "report.json").read_text())
    assert set(report["end_to_end"]["kl_quantiles"]) == {0.0} and report["end_to_end"]["lines"] == []
    assert all(each["comparable"] and not each["output_error"] for each in report["layers"])


def test_errors_of_the_report_come_first(
    int8_directory: Path,
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(compare, "open_directory", lambda path: pytest.fail("work was begun"))
    words = (int8_directory, int8_directory, "--data", data)
    assert "--overwrite is for --report" in error_line(capsys, *words, "--overwrite")
    assert "no report directory" in error_line(capsys, *words, "--report", int8_directory)
    assert "does not exist" in error_line(capsys, *words, "--report", tmp_path / "none" / "page")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert f"pip install '{DISTRIBUTION}[report]'" in error_line(capsys, *words, "--report", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_errors_are_one_line(
    int8_directory: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, none = (int8_directory, int8_directory), tmp_path / "none"
    assert f"{none}: expected a model directory, found nothing" in error_line(capsys, none, none, "--data", data)
    assert f"{none}: expected" in error_line(capsys, int8_directory, none, "--data", data)
    assert f"{none}: cannot be read" in error_line(capsys, *both, "--data", none)
    assert "--limit is 0; expected" in error_line(capsys, *both, "--data", data, "--limit", 0)
    assert "convert it first" in error_line(capsys, EXAMPLE, int8_directory, "--data", data)
    for content, message in ((b"", "found an empty file"), (b"\n\n", "2 lines without a source or a target"),
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
