"""bfloat16 and float16 as types of stored weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyengine.canonical import CanonicalModel, LazyTensor, tensor_specs
from pyengine.errors import OptionError
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory
from pyengine.modelfile.layout import FLOATS, widened
from pyengine.quantize import Calibration, convert, main, measure
from pyengine.quantize.opening import open_model
from pyengine.quantize.prune.masks import Blocks
from pyengine.quantize.rounding.halves import halve_rows

from ..checkpoints import handmade
from .any_config.models import language_model, lines, random_model

KINDS = ("bfloat16", "float16")


def checkpoint(path: Path, dtype: str) -> Path:
    """One whose tensors are of that type."""
    config = handmade.marian_config()
    tensors = {
        name: handmade.representable(values.astype(np.float32), dtype)
        for name, values in handmade.marian_tensors(config).items()
    }
    handmade.write_checkpoint(path, config, tensors)
    (path / "model.safetensors").write_bytes(handmade.safetensors_bytes(tensors, dtype))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_that_type_is_kept_bit_by_bit(tmp_path: Path, kind: str) -> None:
    source = checkpoint(tmp_path / "in", kind)
    report = convert(source, tmp_path / "out", weights=kind)
    assert all(np.isinf(row.snr_db) for row in report.tensors)
    again = open_model(tmp_path / "out")
    for name, tensor in open_checkpoint(source).tensors.items():
        assert again.tensors[name].read().tobytes() == tensor.read().tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_matrices_are_halved_and_nothing_else(tmp_path: Path, seed: int, kind: str) -> None:
    """Through the directory and back: matrices to the nearest, vectors and tables as they are; and again no change."""
    model = random_model(seed)
    convert(model, tmp_path / "out", weights=kind)
    directory = open_directory(tmp_path / "out", verify=True)
    assert directory.weights == kind and not directory.rounded and not directory.config.hadamard
    again = open_model(tmp_path / "out")
    for name, spec in tensor_specs(model.config).items():
        wanted, found = model.tensors[name].read(), again.tensors[name].read()
        if spec.kind in ("linear", "embedding"):
            wanted = widened(halve_rows(wanted, kind).values)
        assert found.tobytes() == wanted.tobytes(), name
    convert(tmp_path / "out", tmp_path / "again", weights=kind)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again")]
    assert files[0] == files[1]


@pytest.mark.parametrize("kind", KINDS)
def test_to_the_nearest_and_ties_to_even(kind: str) -> None:
    """By the neighbours among all halves that there are."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    known = np.unique(widened(bits if kind == "bfloat16" else bits.view(np.float16)))
    known = known[np.isfinite(known)].astype(np.float64)
    rng = np.random.default_rng(1)
    exact = (rng.normal(size=4000) * 10.0 ** rng.integers(-9, 5, 4000)).astype(np.float32)
    exact = exact[np.abs(exact) < 65000]
    middles = ((known[1:] + known[:-1]) / 2).astype(np.float32)
    ties = middles[np.isin(middles.astype(np.float64), (known[1:] + known[:-1]) / 2)]
    values = np.concatenate([exact, ties, known.astype(np.float32), np.float32([0.0])])
    found = halve_rows(values[None], kind)
    after = np.clip(np.searchsorted(known, values), 1, len(known) - 1)
    below, above = known[after - 1], known[after]
    got = widened(found.values)[0].astype(np.float64)
    nearest = np.minimum(np.abs(values - below), np.abs(values - above))
    np.testing.assert_array_equal(np.abs(got - values), nearest)
    tied = (values - below == above - values) & (below != above)
    assert tied.sum() > 30000 and not (found.values.view(np.uint16)[0][tied] & 1).any()
    assert found.signal == pytest.approx(np.square(values, dtype=np.float64).sum())
    assert found.noise == pytest.approx(np.square(got - values).sum())


# The largest value, and half a step more, the first float32 that becomes infinite, as IEEE 754 rounds.
ENDS = {"float16": (65504.0, 65520.0), "bfloat16": ((2 - 2.0**-7) * 2.0**127, (2 - 2.0**-8) * 2.0**127)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_too_large_is_named(tmp_path: Path, kind: str) -> None:
    name, model = "decoder.layers.0.ffn.down.weight", random_model(1)
    largest, beyond = map(np.float32, ENDS[kind])

    def with_last(value: np.float32) -> CanonicalModel:
        weight = model.tensors[name].read().copy()
        weight[-1, -1] = value
        return replace(model, tensors={**model.tensors, name: LazyTensor.of(name, weight)})

    for value in (largest, np.nextafter(beyond, np.float32(0))):
        convert(with_last(-value), tmp_path / "out", weights=kind, overwrite=True)
        assert open_model(tmp_path / "out").tensors[name].read()[-1, -1] == -largest
    message = f"weights: tensor {name}: expected weights that {kind} holds, found -"
    with pytest.raises(OptionError, match=message):
        convert(with_last(-beyond), tmp_path / "other", weights=kind)
    with pytest.raises(OptionError, match=message):
        measure(with_last(-beyond), weights=kind)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    source = checkpoint(tmp_path / "in", kind)
    out = tmp_path / "out"
    assert main([str(source), "-o", str(out), "--weights", kind, "--tensor", "lm_head=int8", "--equalize"]) == 0
    assert f"bytes, {kind}" in capsys.readouterr().out
    assert open_directory(out, verify=True).other_weights == {"decoder.embed": "int8"}
    with pytest.raises(SystemExit):
        main([str(source), "-o", str(tmp_path / "x"), "--weights", kind, "--smooth", "auto"])
    assert "--smooth has a meaning where weights are rounded" in capsys.readouterr().err
    assert main([str(source), "--report-only", "--weights", kind]) == 0
    assert "exact" in capsys.readouterr().out


def test_zeros_are_kept_and_not_skipped(tmp_path: Path) -> None:
    model = random_model(0)
    report = convert(model, tmp_path / "out", weights="bfloat16", sparse=Blocks(0.5), sparse_method="magnitude")
    directory = open_directory(tmp_path / "out")
    assert report.masked and not directory.lines and not directory.other_weights
    again = open_model(tmp_path / "out").tensors
    weights = [each.read() for name, each in again.items() if ".ffn." in name and name.endswith(".weight")]
    zeros = sum(np.count_nonzero(weight == 0) for weight in weights if weight.ndim == 2)
    assert zeros > 0.3 * sum(weight.size for weight in weights if weight.ndim == 2)


def test_a_hadamard_matrix_only_if_it_is_asked_for(tmp_path: Path) -> None:
    """It would change the bits that a checkpoint of that type has."""
    model = language_model()
    for number, (types, asked, taken) in enumerate(
        (("bfloat16", None, False), ("bfloat16", True, True), ("int8", None, True), ("int8 and float16", None, False))
    ):
        others = [("lm_head", "float16")] if " " in types else []
        out = tmp_path / str(number)
        convert(model, out, weights=types.split()[0], tensors=others, hadamard=asked)
        assert open_directory(out).config.hadamard == taken, types


def test_types_that_are_fixed_stay_when_others_are_chosen(tmp_path: Path) -> None:
    model = random_model(1)
    whole = measure(model, weights="int8").stored_bytes
    text = lines(model)
    fixed = [("lm_head", "bfloat16"), ("decoder.layers.0.ffn.down", "float32")]
    convert(model, tmp_path / "out", tensors=fixed, calibration=Calibration(text, target_bytes=3 * whole))
    others = open_directory(tmp_path / "out").other_weights
    assert {kind for kind in others.values() if kind in FLOATS} == {"bfloat16", "float32"}
    assert others["decoder.layers.0.ffn.down"] == "float32"
