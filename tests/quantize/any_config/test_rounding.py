"""Rounding the matrices of any configuration: by GPTQ, with biases that take up the mean error, and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyengine.canonical import tensor_specs
from pyengine.modelfile import open_directory
from pyengine.modelfile.layout import matrix_names, packed_specs
from pyengine.quantize import Calibration, convert
from pyengine.quantize.biases import with_biases
from pyengine.quantize.measuring.divergence import divergence, state_error
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.measuring.mixed import measure_sensitivity
from pyengine.quantize.packing import StoredTensor, pack_tensors
from pyengine.quantize.rounding.by_inputs import round_calibrated
from pyengine.quantize.rounding.gptq import gptq
from pyengine.quantize.rounding.grid import round_to_grid
from pyengine.quantize.rounding.ranges import choose_grid
from pyengine.quantize.rounding.rounding import scheme_of
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine
from pyengine.quantize.seeing.statistics import inputs_of

from .models import EVERY, SEEDS, exact, lines, random_model, values


@pytest.mark.parametrize("weights", ["int8", "int4g32", "int4g64z"])
@pytest.mark.parametrize("seed", SEEDS[:6])
def test_gptq_with_an_identity_hessian_is_rounding(seed: int, weights: str) -> None:
    for name, matrix in values(random_model(seed)).items():
        if matrix.ndim == 2 and name.endswith(".weight"):
            grid = choose_grid(matrix, scheme_of(weights))
            found, plain = gptq(matrix, grid, np.eye(matrix.shape[1])), round_to_grid(matrix, grid)
            np.testing.assert_array_equal(found.q, plain.q)


@pytest.mark.parametrize("seed", SEEDS)
def test_biases_of_zeros_change_nothing(seed: int) -> None:
    """Every linear layer has one then; an embedding is none."""
    model = random_model(seed)
    layers = [
        name.removesuffix(".weight") for name, spec in tensor_specs(model.config).items() if spec.kind == "linear"
    ]
    if model.config.decoder is not None:
        layers.append("output")
    biased = with_biases(model, layers)
    biased.validate()
    assert {f"{layer}.bias" for layer in layers} <= set(biased.tensors)
    text = lines(model, 2)
    np.testing.assert_array_equal(exact(biased, text), exact(model, text))
    assert with_biases(biased, layers) is biased


@pytest.mark.parametrize("seed", EVERY)
def test_biases_take_up_the_mean_error(seed: int) -> None:
    """In every layer that text passes, whether or not it had a bias."""
    model = random_model(seed)
    seen = calibrate(in_memory_engine(model.config, model.generation, model.tensors), None, lines(model))
    types = dict.fromkeys(matrix_names(model.config), "int4g32")
    changed, rounded = round_calibrated(model, types, seen, "gptq")
    changed.validate()
    specs = packed_specs(model.config, "float32")
    for name, parts in rounded.items():
        inputs = inputs_of(seen, model.config, name)
        for source, part in zip(specs[f"{name}.weight"].sources, parts, strict=True):
            if inputs is None:
                assert "embed" in name or name.startswith("head.")
                continue
            layer = "output" if name == "decoder.embed" else source.removesuffix(".weight")
            matrix = model.tensors[source].read()
            old = model.tensors[f"{layer}.bias"].read() if f"{layer}.bias" in model.tensors else 0.0
            new = changed.tensors[f"{layer}.bias"].read()
            mean = part.dequantize(matrix.shape[1]).astype(np.float64) @ inputs.mean + new - matrix @ inputs.mean - old
            assert np.abs(mean).max() < 1e-5 * (np.abs(new).max() + 1)


@pytest.mark.parametrize("way", ["float32", "int8", "int4", "smooth", "pruned", "chosen"])
@pytest.mark.parametrize("seed", SEEDS[:6])
def test_what_is_written_is_near_the_model(seed: int, way: str, tmp_path: Path) -> None:
    model = random_model(seed)
    text = lines(model, 30)
    last = "encoder_layers" if model.config.decoder is None else "decoder_layers"
    prune = {"ffn": 0.2, **({last: 0.5} if len(dict(model.config.stacks())[last[:7]].layers) > 1 else {})}
    ways: dict[str, dict[str, object]] = {
        "float32": {"weights": "float32"},
        "int8": {},
        "int4": {"weights": "int4g32", "calibration": Calibration(text, "gptq")},
        "smooth": {"calibration": Calibration(text, "absmax", smooth=(0.4, 0.6))},
        "pruned": {"weights": "float32", "calibration": Calibration(text, "absmax"), "prune": prune},
        "chosen": {"calibration": Calibration(text, "weighted", max_divergence=1.0)},
    }
    report = convert(model, tmp_path / "out", **ways[way])  # type: ignore[arg-type]
    directory = open_directory(tmp_path / "out", verify=True)
    assert (directory.generation is None) == (model.config.decoder is None)
    assert bool(report.scaled) == (way == "smooth") and bool(report.choices) == (way == "chosen")
    assert (report.recovered is not None) == (way == "pruned") == bool(directory.removed)
    with Reader.of(model) as original, Reader.open(tmp_path / "out") as found:
        if model.config.decoder is None:
            error = state_error(original, found, text)
            assert error.tokens == sum(len(source) for source, _ in text if source is not None)
            distance, alike = error.error, error.cosine
        else:
            moved = divergence(original, found, text)
            assert moved.tokens == sum(len(target) for _, target in text if target is not None)
            distance, alike = moved.kl, moved.top1
    if way == "float32":
        assert distance < 1e-9 and alike > 0.9999
    else:
        assert 0 < distance < 2 and alike > 0.1
        assert way in ("pruned", "int4", "chosen") or distance < 0.05


@pytest.mark.parametrize("kind", ["int4g32", "int4g64z", "int8"])
@pytest.mark.parametrize("seed", SEEDS[:3])
def test_sizes_to_choose_by_count_the_biases_that_rounding_adds(seed: int, kind: str) -> None:
    model, text = random_model(seed), lines(random_model(seed))
    seen = calibrate(in_memory_engine(model.config, model.generation, model.tensors), None, text)
    types = dict.fromkeys(matrix_names(model.config), kind)
    expected = measure_sensitivity(model, None, text, seen, types)
    rounded, done = round_calibrated(model, types, seen, "weighted")
    rows: list[StoredTensor] = []
    for _ in pack_tensors(rounded, kind, {}, "absmax", rows, None, done):
        pass
    found, before = (sum(row.stored_bytes for row in rows), expected.rest)
    matrices = sum(row.stored_bytes for row in rows if row.kind == "matrix")
    assert found <= before + sum(each[kind].bytes for each in expected.units.values())
    assert found == before + matrices if kind == "int8" else found >= before + matrices
