"""A Hadamard matrix between rows and weights: the model says the same, and int8 rounds it better."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

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
from pyengine.quantize.opening import read_model
from pyengine.quantize.scaling.fold import places
from pyengine.quantize.scaling.hadamard import takes_hadamard, times_hadamard, turned

from ..any_config.models import SEEDS, exact, language_model, length_of, lines, random_model, spoken, values

DECODERS = [seed for seed in (*SEEDS, 42) if takes_hadamard(random_model(seed).config)]
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
    size = {1: 1, 8: 1, 16: 2, 33: 1, 80: 8, 96: 8, 576: 64}[columns]
    rows = np.random.RandomState(1).randint(-9, 9, (5, columns)).astype(np.float32)
    matrix = np.kron(hadamard(size), np.eye(columns // size))
    assert (times_hadamard(rows) == rows @ matrix).all()
    assert (times_hadamard(times_hadamard(rows)) == size * rows).all()


@pytest.mark.parametrize("seed", DECODERS)
def test_the_model_says_the_same(seed: int) -> None:
    """By NumPy in float64, and by the core in float32; without it again the tensors are those that they were."""
    model = random_model(seed)
    text = lines(model, 4)
    mixed = turned(model, True)
    expected = exact(model, text)
    assert length_of(exact(mixed, text) - expected) < 1e-6 * length_of(expected)
    assert length_of(spoken(mixed, text) - expected) < 1e-5 * length_of(expected)
    back = turned(mixed, False)
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
    from ...oracle.transformer import Transformer

    return Transformer(model.config, values(model)).decode(ids)  # type: ignore[arg-type]


def test_what_goes_by_channels_goes_without(tmp_path: Path) -> None:
    """Scales, zeros and int4 choose plain weights; pruning and what makes ranges alike come before the matrix."""
    model = language_model(UNTIED)
    text = lines(model, 40)
    calibration = Calibration(text)
    for name, how, expected in (
        ("int8", {}, True),
        ("int4", {"weights": "int4g32", "calibration": calibration}, False),
        ("float32", {"weights": "float32"}, False),
        ("smooth", {"calibration": replace(calibration, smooth=(0.5,))}, False),
        ("equalize", {"equalize": True}, False),
        ("both", {"equalize": True, "hadamard": True}, True),
        ("pruned", {"prune": {"ffn": 0.3}, "calibration": replace(calibration, method="absmax")}, True),
    ):
        report = convert(model, tmp_path / name, **how)  # type: ignore[arg-type]
        assert report.hadamard == open_directory(tmp_path / name).config.hadamard == expected, name
    pruned = convert(tmp_path / "int8", tmp_path / "pruned later", requantize=True, calibration=calibration,
                     prune={"ffn": 0.3})  # fmt: skip
    assert pruned.hadamard and sum(row.removed for row in pruned.removed) > 0


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


def test_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(random_model(UNTIED), tmp_path / "model", weights="float32")
    for more, expected in (((), True), (("--no-hadamard",), False)):
        assert main([str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--overwrite", *more]) == 0
        assert ("--no-hadamard leaves them" in capsys.readouterr().out) == expected
        config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
        assert config["model"]["hadamard"] == expected
    assert main([str(tmp_path / "model"), "--report-only"]) == 0
    assert "--no-hadamard leaves them" in capsys.readouterr().out
