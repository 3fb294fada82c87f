"""Types chosen by sensitivity: budgets are kept, what is fixed stays, and more bytes never cost expected divergence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyengine.errors import OptionError
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory
from pyengine.quantize import Calibration, convert
from pyengine.quantize.measuring.mixed import CANDIDATES, Sensitivity, choose_types, measure_sensitivity
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine

from ...checkpoints import handmade

RNG = np.random.default_rng(4)
TEXT = [(RNG.integers(3, 20, 20).tolist(), RNG.integers(3, 20, 20).tolist()) for _ in range(20)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough that groups of 128 columns are smaller than int8."""
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    config = handmade.marian_config(d_model=128, encoder_ffn_dim=256, decoder_ffn_dim=256, **heads)
    return handmade.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "in", config)


@pytest.fixture(scope="module")
def sensitivity(checkpoint: Path) -> Sensitivity:
    model = open_checkpoint(checkpoint)
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    return measure_sensitivity(model, None, TEXT[:4], calibrate(engine, None, TEXT), {})


def bytes_of(sensitivity: Sensitivity, kind: str) -> int:
    return sensitivity.rest + sum(types[kind].bytes for types in sensitivity.units.values())


def test_int8_errs_least_and_every_matrix_matters(sensitivity: Sensitivity) -> None:
    for types in sensitivity.units.values():
        assert set(types) == set(CANDIDATES)
        assert types["int8"].error == min(candidate.error for candidate in types.values())
    assert all(weight >= 0 for weight in sensitivity.weights.values()) and any(sensitivity.weights.values())


def test_budgets_are_kept(sensitivity: Sensitivity) -> None:
    smallest = sensitivity.rest + sum(min(c.bytes for c in types.values()) for types in sensitivity.units.values())
    largest = bytes_of(sensitivity, "int8")
    expected = np.inf
    for budget in np.linspace(smallest, largest, 6).astype(int):
        found = choose_types(sensitivity, int(budget))
        assert found.bytes <= budget and found.error <= expected
        expected = found.error
    assert choose_types(sensitivity, largest).types == dict.fromkeys(sensitivity.units, "int8")
    few = choose_types(sensitivity, max_divergence=choose_types(sensitivity, smallest).error)
    assert few.bytes == smallest
    with pytest.raises(OptionError, match=f"target_bytes: expected at least {smallest:,} bytes"):
        choose_types(sensitivity, smallest - 1)
    with pytest.raises(OptionError, match="max_divergence: expected at least .*, the smallest, found 1e-12"):
        choose_types(sensitivity, max_divergence=1e-12)


def test_what_is_fixed_stays(checkpoint: Path, sensitivity: Sensitivity) -> None:
    model, name = open_checkpoint(checkpoint), next(iter(sensitivity.units))
    statistics = calibrate(in_memory_engine(model.config, model.generation, model.tensors), None, TEXT)
    fixed = measure_sensitivity(model, None, TEXT[:4], statistics, {name: "int4g128", "other": "int8"})
    assert fixed.units[name].keys() == {"int4g128"} and len(fixed.units) == len(sensitivity.units)
    found = choose_types(fixed, bytes_of(sensitivity, "int8"))
    assert found.types.pop(name) == "int4g128" and set(found.types.values()) == {"int8"}


def test_a_directory_of_chosen_types(checkpoint: Path, sensitivity: Sensitivity, tmp_path: Path) -> None:
    budget = (bytes_of(sensitivity, "int4g64") + bytes_of(sensitivity, "int8")) // 2
    wish = Calibration(TEXT, "weighted", target_bytes=budget)
    convert(checkpoint, tmp_path / "out", tensors=[("*.ffn.up", "int8")], calibration=wish)
    made = open_directory(tmp_path / "out", verify=True)
    assert sum(tensor.nbytes for tensor in made.tensors.values()) <= budget
    assert "encoder.layers.0.ffn.up" not in made.other_weights and made.weights == "int8"
