"""A Hadamard matrix between rows and weights: the model says the same, and int8 rounds it better."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.linalg import hadamard

import pyengine
from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.errors import OptionError
from pyengine.modelfile import open_directory
from pyengine.quantize import Calibration, convert
from pyengine.quantize.cli import main
from pyengine.quantize.measuring.comparison import compare_matrices
from pyengine.quantize.measuring.divergence import StateError
from pyengine.quantize.opening import read_model
from pyengine.quantize.prune.masks import Blocks
from pyengine.quantize.report.comparison import comparison_report
from pyengine.quantize.scaling.fold import places
from pyengine.quantize.scaling.hadamard import times_hadamard, with_hadamard
from pyengine.quantize.seeing.text import Line
from pyengine.tasks.inputs import Sample

from ...oracle.transformer import Transformer
from ..any_config.models import SEEDS, exact, forced, language_model, length_of, lines, random_model, spoken, values

DECODERS = [seed for seed in (*SEEDS, 42) if random_model(seed).config.takes_hadamard]
OTHERS = [seed for seed in SEEDS if seed not in DECODERS][:3]
TIED, UNTIED = 42, 3


def with_outliers(model: CanonicalModel) -> CanonicalModel:
    """Two channels of all norms are 40 times the others, and the columns that read them as much smaller."""
    tensors = dict(model.tensors)
    for place in places(model.config):
        if place.name.endswith("norm"):
            for name in place.producers:
                gain = model.tensors[f"{name}.weight"].read().copy()
                gain[[3, 50]] *= 40
                tensors[f"{name}.weight"] = LazyTensor.of(f"{name}.weight", gain)
            for name in place.consumers:
                matrix = model.tensors[f"{name}.weight"].read().copy()
                matrix[:, [3, 50]] /= 40
                tensors[f"{name}.weight"] = LazyTensor.of(f"{name}.weight", matrix)
    return replace(model, tensors=tensors)


@pytest.mark.parametrize("columns", [1, 8, 16, 33, 80, 96, 576])
def test_times_hadamard(columns: int) -> None:
    """Sylvester's, exact on small integers, and its own inverse but for its size."""
    size = {1: 1, 8: 1, 16: 1, 33: 1, 80: 4, 96: 4, 576: 32}[columns]
    rows = np.random.RandomState(1).randint(-9, 9, (5, columns)).astype(np.float32)
    matrix = np.kron(hadamard(size), np.eye(columns // size))
    assert (times_hadamard(rows) == rows @ matrix).all()
    assert (times_hadamard(times_hadamard(rows)) == size * rows).all()


@pytest.mark.parametrize("seed", DECODERS)
def test_the_model_says_the_same(seed: int) -> None:
    """By NumPy in float64, and by the core in float32; without it again the tensors are those that they were."""
    model = random_model(seed)
    text = lines(model, 4)
    mixed = with_hadamard(model, True)
    expected = exact(model, text)
    assert length_of(exact(mixed, text) - expected) < 1e-6 * length_of(expected)
    assert length_of(spoken(mixed, text) - expected) < 1e-5 * length_of(expected)
    back = with_hadamard(mixed, False)
    assert back.config == model.config
    for name, tensor in values(model).items():
        np.testing.assert_allclose(back.tensors[name].read(), tensor, rtol=0, atol=1e-6 * np.abs(tensor).max())


@pytest.mark.parametrize("seed", OTHERS)
def test_other_models_take_none(seed: int, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="hadamard: expected a decoder alone"):
        convert(random_model(seed), tmp_path / "model", hadamard=True)
    convert(random_model(seed), tmp_path / "model")
    assert not open_directory(tmp_path / "model").config.hadamard


@pytest.mark.parametrize("seed", [TIED, UNTIED])
def test_outliers_round_better(seed: int, tmp_path: Path) -> None:
    """The default of int8: weights, rows and cache lose a fraction of what they lose without."""
    model = with_outliers(random_model(seed))
    ids = [each for _, each in lines(model, 4)]
    lost = {}
    for mixed in (None, False):
        convert(model, tmp_path / f"{mixed}", hadamard=mixed)
        with pyengine.load(tmp_path / f"{mixed}") as found:
            got = np.concatenate([found.logits(each) for each in ids])  # type: ignore[union-attr]
        expected = np.concatenate([exact_logits(model, each) for each in ids])
        lost[mixed] = length_of(got - expected) / length_of(expected)
    assert lost[None] < 0.7 * lost[False]


def exact_logits(model: CanonicalModel, ids: object) -> np.ndarray:
    return Transformer(model.config, values(model)).decode(ids)  # type: ignore[arg-type]


def calibrated(text: list[Line], **how: object) -> Calibration:
    return Calibration(text, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, True),
        ({"weights": "float32"}, False),
        ({"weights": "int4g32"}, False),
        ({"tensors": [("*.ffn.*", "int4g32")]}, False),
        ({"tensors": [("*.ffn.*", "float32")]}, True),
        ({"tensors": [("*", "float32")]}, False),
        ({"equalize": True}, False),
        ({"sparse": Blocks(0.5), "sparse_method": "magnitude"}, False),
        ({"sparse": Blocks(0.5), "sparse_method": "magnitude", "hadamard": True}, True),
        ({"weights": "int4g32", "hadamard": True}, True),
    ],
)
def test_when_it_is_chosen(how: dict[str, Any], expected: bool, tmp_path: Path) -> None:
    report = convert(language_model(UNTIED), tmp_path / "model", **how)
    assert report.hadamard == open_directory(tmp_path / "model").config.hadamard == expected
    with pyengine.load(tmp_path / "model") as loaded:
        assert np.isfinite(loaded.logits([5, 6, 7])).all()  # type: ignore[union-attr]


def test_scales_of_channels_exclude_it(tmp_path: Path) -> None:
    model = language_model(UNTIED)
    for more in ({"smooth": (0.5,), "method": "absmax"}, {"method": "awq"}):
        calibration = calibrated(lines(model, 40), **more)
        weights = "int4g32" if more["method"] == "awq" else "int8"
        assert not convert(model, tmp_path / "model", weights=weights, calibration=calibration, overwrite=True).hadamard
        with pytest.raises(OptionError, match="hadamard: expected neither smooth nor awq"):
            convert(model, tmp_path / "other", weights=weights, calibration=calibration, hadamard=True)


def test_gptq_chooses_it(tmp_path: Path) -> None:
    text = lines(language_model(UNTIED), 40)
    for weights, more in (("int4g32", {}), ("int8", {"max_divergence": 1.0})):
        report = convert(
            language_model(UNTIED), tmp_path / weights, weights=weights, calibration=calibrated(text, **more)
        )
        assert report.hadamard


@pytest.mark.parametrize("way", ["equalize", "prune", "gptq"])
def test_what_goes_by_channels_comes_before(way: str, tmp_path: Path) -> None:
    """The same model comes of it, in float32, as without the matrix; of GPTQ one that is about as near."""
    model = language_model(UNTIED)
    text = lines(model, 40)
    how: dict[str, Any] = {"weights": "int4g32" if way == "gptq" else "float32"}
    how |= {"equalize": {"equalize": True}, "gptq": {"calibration": calibrated(text)},
            "prune": {"prune": {"ffn": 0.3}, "calibration": calibrated(text, method="absmax")}}[way]  # fmt: skip
    said = []
    for mixed in (False, True):
        report = convert(model, tmp_path / f"{mixed}", hadamard=mixed, **how)
        assert report.hadamard == mixed and bool(report.removed) == (way == "prune")
        said.append(spoken(read_model(open_directory(tmp_path / f"{mixed}")), text[:3]))
    expected = spoken(model, text[:3])
    if way == "gptq":
        assert length_of(said[1] - expected) < 1.5 * length_of(said[0] - expected)
    else:
        assert length_of(said[1] - said[0]) < 1e-4 * length_of(said[0])


def test_a_directory_with_it_can_be_pruned(tmp_path: Path) -> None:
    model = language_model(UNTIED)
    convert(model, tmp_path / "int8")
    how: dict[str, Any] = {"prune": {"ffn": 0.3}, "calibration": calibrated(lines(model, 40), method="absmax")}
    pruned = convert(tmp_path / "int8", tmp_path / "pruned", requantize=True, **how)
    assert pruned.hadamard and sum(row.removed for row in pruned.removed) > 0


def test_float32_of_what_is_stored(tmp_path: Path) -> None:
    """Rounded weights computed in float32: those that the directory has, with the matrix taken out."""
    convert(random_model(TIED), tmp_path / "one")
    stored = with_hadamard(read_model(open_directory(tmp_path / "one")), False)
    ids = lines(random_model(TIED), 1)[0][1]
    with pyengine.load(tmp_path / "one", compute="float32", kv="float32") as loaded:
        found = loaded.logits(ids)  # type: ignore[union-attr]
    assert length_of(found - exact_logits(stored, ids)) < 1e-5 * length_of(found)


def test_a_large_matrix_is_held_twice_at_most() -> None:
    rows = np.ones((20_000, 96), np.float32)
    tracemalloc.start()
    try:
        times_hadamard(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * rows.nbytes


def test_rounding_again_keeps_every_code(tmp_path: Path) -> None:
    convert(random_model(TIED), tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "two", requantize=True)
    first, second = ((tmp_path / each / "model.safetensors").read_bytes() for each in ("one", "two"))
    assert first == second
    convert(tmp_path / "one", tmp_path / "plain", requantize=True, weights="float32")
    text = lines(random_model(TIED), 3)
    stored, plain = (read_model(open_directory(tmp_path / each)) for each in ("one", "plain"))
    assert stored.config.hadamard and not plain.config.hadamard
    assert length_of(spoken(stored, text) - spoken(plain, text)) < 1e-5 * length_of(spoken(plain, text))


def test_a_comparison_is_of_the_matrices_themselves(tmp_path: Path) -> None:
    convert(random_model(TIED), tmp_path / "float32", weights="float32")
    convert(random_model(TIED), tmp_path / "int8")
    pairs = list(compare_matrices(open_directory(tmp_path / "float32"), open_directory(tmp_path / "int8")))
    assert len(pairs) > 5 and all(pair.snr_db is not None and 30 < pair.snr_db < 60 for pair in pairs)


def test_a_report_says_so(tmp_path: Path) -> None:
    """And shows matrices as they were: those of the checkpoint, rounded."""
    pytest.importorskip("matplotlib")
    convert(random_model(TIED), tmp_path / "model", weights="float32")
    report = "--report", str(tmp_path / "page")
    assert main([str(tmp_path / "model"), "-o", str(tmp_path / "out"), *report]) == 0
    written = json.loads((tmp_path / "page" / "report.json").read_text("utf-8"))
    assert any("Hadamard" in note for note in written["notes"])
    assert all(layer["snr_db"] > 30 for layer in written["layers"])


def test_a_report_of_moved_scales_shows_none(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    convert(random_model(UNTIED), tmp_path / "model", weights="float32")
    notes = []
    for more in ("--hadamard", "--no-hadamard"):
        report = "--report", str(tmp_path / more), "--overwrite"
        assert main([str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--equalize", more, *report]) == 0
        notes.append(json.loads((tmp_path / more / "report.json").read_text("utf-8"))["notes"])
    assert all(any("Scales of channels were moved" in note for note in each) for each in notes)


def test_a_comparison_measures_plain_matrices_on_plain_rows(tmp_path: Path) -> None:
    """Outlier channels of A are those of the model, whether A's rows are mixed or not."""
    pytest.importorskip("matplotlib")
    model = with_outliers(random_model(UNTIED))
    found = []
    for mixed in (False, True):
        convert(model, tmp_path / f"{mixed}", weights="float32", hadamard=mixed)
        convert(model, tmp_path / f"int8 {mixed}", hadamard=mixed)
        a, b = (open_directory(tmp_path / f"{name}{mixed}") for name in ("", "int8 "))
        text = lines(model, 6)
        samples = [Sample(None, np.array(forced(target), np.int32)) for _, target in text]
        nothing = StateError(0.0, 1.0, 1)
        pairs = list(compare_matrices(a, b))
        report = comparison_report(a, b, pairs, text, samples, nothing, command="", isa="")
        found.append({layer.name: (layer.output_error, layer.outliers) for layer in report.layers})
    assert found[0].keys() == found[1].keys()
    for name, (error, channels) in found[0].items():
        other, others = found[1][name]
        assert [each.channel for each in channels] == [each.channel for each in others], name


def test_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(random_model(UNTIED), tmp_path / "model", weights="float32")
    for more, expected in (((), True), (("--no-hadamard",), False)):
        assert main([str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--overwrite", *more]) == 0
        assert ("--no-hadamard leaves them" in capsys.readouterr().out) == expected
        config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
        assert config["model"]["hadamard"] == expected
    assert main([str(tmp_path / "model"), "--report-only"]) == 0
    assert "--no-hadamard leaves them" in capsys.readouterr().out
