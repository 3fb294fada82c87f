"""Scales at every place that takes them: outputs stay, statistics follow, searches never lose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyengine.canonical import CanonicalModel
from pyengine.errors import InputError
from pyengine.importers import open_checkpoint
from pyengine.modelfile.layout import SPARSE, matrix_names
from pyengine.quantize import Calibration, convert
from pyengine.quantize.measuring.divergence import divergence
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.scaling.fold import fold, places
from pyengine.quantize.scaling.scaling import awq, equalize, smooth
from pyengine.quantize.scaling.smooth import ALPHAS
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine
from pyengine.tasks.translator import Translator

from ...checkpoints import handmade

RNG = np.random.default_rng(8)
TEXT = [(RNG.integers(3, 20, 20).tolist(), RNG.integers(3, 20, 20).tolist()) for _ in range(30)]
ACTIVATIONS = ("relu", "gelu", "swish", "tanh")


def checkpoint(directory: Path, activation: str, width: int = 32) -> Path:
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    config = handmade.marian_config(
        d_model=width, encoder_ffn_dim=64, decoder_ffn_dim=48, activation_function=activation, decoder_layers=2, **heads
    )
    tensors = handmade.marian_tensors(config)
    for name, values in tensors.items():  # as trained models have them: outputs of layers neither vanish nor explode
        tensors[name] = values / np.float32(np.sqrt(width) if values.ndim == 2 else 4)
    return handmade.write_checkpoint(directory, config, tensors)


@pytest.fixture(scope="module", params=ACTIVATIONS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CanonicalModel:
    return open_checkpoint(checkpoint(tmp_path_factory.mktemp("checkpoint") / "in", request.param))


def logits(model: CanonicalModel) -> np.ndarray:
    translator = Translator(in_memory_engine(model.config, model.generation, model.tensors), None, {})
    sources, targets = zip(*TEXT[:4], strict=True)
    return np.concatenate(list(translator.logits_iter(sources, targets)))


def untied(model: CanonicalModel) -> CanonicalModel:
    """The same model with an output layer of its own."""
    table = model.tensors["decoder.embed.weight"]
    tensors = {**model.tensors, "output.weight": replace(table, name="output.weight")}
    return replace(model, config=replace(model.config, tie_output=False), tensors=tensors)


def test_the_places_of_a_post_norm_model(model: CanonicalModel) -> None:
    names = [place.name for place in places(model.config)]
    layers = [f"encoder.layers.{i}" for i in range(2)] + [f"decoder.layers.{i}" for i in range(2)]
    expected = {f"{layer}.self_attention.v" for layer in layers}
    expected |= {f"{layer}.cross_attention.v" for layer in layers[2:]} | {"encoder.layers.1.ffn.norm"}
    expected |= {name.removesuffix("v") + "k" for name in expected if name.endswith(".v")}
    if model.config.encoder.layers[0].feed_forward.activation == "relu":
        expected |= {f"{layer}.ffn.up" for layer in layers}
    assert sorted(names) == sorted(expected)
    assert {place.name for place in places(untied(model).config)} - expected == {"decoder.layers.1.ffn.norm"}


def test_folding_leaves_outputs_equal(model: CanonicalModel) -> None:
    """The same bits with powers of two at all places at once; within rounding, but not the same, with any scales."""
    model = untied(model)
    exact = logits(model)
    generator = np.random.default_rng(3)
    doubled = scaled = model
    for place in places(model.config):
        width = model.tensors[f"{place.producers[0]}.bias"].shape[0]
        doubled = fold(doubled, place, np.exp2(generator.integers(-4, 5, width)).astype(np.float32))
        scaled = fold(scaled, place, generator.uniform(0.2, 5, width).astype(np.float32))
    np.testing.assert_array_equal(logits(doubled), exact)
    found = logits(scaled)
    np.testing.assert_allclose(found, exact, atol=2e-5 * np.abs(exact).max())
    assert not np.array_equal(found, exact)
    changed = {
        name for name in model.tensors if not np.array_equal(model.tensors[name].read(), scaled.tensors[name].read())
    }
    assert "encoder.layers.0.ffn.norm.weight" not in changed and "encoder.layers.1.ffn.norm.bias" in changed


def test_equalized_models_say_the_same(model: CanonicalModel) -> None:
    exact, found = logits(model), logits(equalize(model))
    np.testing.assert_allclose(found, exact, atol=2e-5 * np.abs(exact).max())
    v, output = (
        equalize(model).tensors[f"encoder.layers.0.self_attention.{part}.weight"].read() for part in ("v", "output")
    )
    np.testing.assert_allclose(np.abs(v).max(axis=1), np.abs(output).max(axis=0), rtol=1e-5)


@pytest.mark.parametrize("way", ["smooth", "awq"])
def test_statistics_follow_the_scales(model: CanonicalModel, way: str) -> None:
    """What is derived is what the scaled model shows when it runs; errors are never larger than before."""
    types = dict.fromkeys(matrix_names(model.config), "int4g32")
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    statistics = calibrate(engine, None, TEXT)
    if way == "smooth":
        scaled, derived, done = smooth(model, types, statistics, ALPHAS)
    else:
        scaled, derived, done = awq(model, types, statistics)
    every = [place.name for place in places(model.config) if place.consumers or way == "smooth"]
    assert [row.place for row in done] == every
    assert any(row.alpha is not None for row in done)
    for row in done:
        assert row.method == way
        assert row.error == row.error_before if row.alpha is None else row.error < row.error_before
    seen = calibrate(in_memory_engine(scaled.config, scaled.generation, scaled.tensors), None, TEXT)
    assert set(derived) == set(seen)
    for name, found in derived.items():
        for part in ("absmax", "abs_sum", "sum", "gram", "rows"):
            expected = getattr(seen[name], part)
            np.testing.assert_allclose(getattr(found, part), expected, atol=2e-4 * np.abs(expected).max(), err_msg=name)
    exact = logits(model)
    np.testing.assert_allclose(logits(scaled), exact, atol=2e-5 * np.abs(exact).max())


def test_only_what_is_rounded_is_scaled(model: CanonicalModel) -> None:
    statistics = calibrate(in_memory_engine(model.config, model.generation, model.tensors), None, TEXT)
    floats = dict.fromkeys(matrix_names(model.config), "float32")
    assert smooth(model, floats, statistics, ALPHAS)[2] == []
    some = {
        **floats,
        "decoder.layers.1.cross_attention.kv": "int8",
        "encoder.layers.0.self_attention.output": "int4g32",
    }
    expected = ["encoder.layers.0.self_attention.v", "encoder.layers.1.ffn.norm", "decoder.layers.1.cross_attention.k"]
    sparse = {**floats, "decoder.layers.1.cross_attention.kv": SPARSE}
    assert [row.place for row in smooth(model, sparse, statistics, ALPHAS)[2]] == expected[1:]
    assert [row.place for row in smooth(model, some, statistics, ALPHAS)[2]] == expected
    assert [row.place for row in awq(model, some, statistics)[2]] == expected[:1]


def outliers(directory: Path) -> Path:
    """A model with channels of values, and neurons, that are a hundred times as large as the others."""
    config = handmade.marian_config(d_model=64, encoder_ffn_dim=64, decoder_ffn_dim=64, activation_function="relu",
                                    decoder_attention_heads=2)  # fmt: skip
    marian = handmade.marian_tensors(config)
    for name, values in marian.items():
        marian[name] = values / np.float32(8 if values.ndim == 2 else 4)
        if ".v_proj." in name or ".fc1." in name:
            marian[name][3::17] *= 100
        if ".out_proj.weight" in name or ".fc2.weight" in name:
            marian[name][:, 3::17] /= 100
    return handmade.write_checkpoint(directory, config, marian)


@pytest.mark.parametrize(
    "way", [{"smooth": ALPHAS}, {"smooth": (0.5,)}, {"method": "awq"}, {"equalize": True}], ids=str
)
def test_a_model_with_outliers_is_nearer_to_itself(tmp_path: Path, way: dict) -> None:
    """End to end, through what a user calls: the KL divergence of the written model falls."""
    source = outliers(tmp_path / "in")
    weights = "int4g32" if "method" in way else "int8"
    convert(source, tmp_path / "float32", weights="float32")
    convert(source, tmp_path / "plain", weights=weights)
    if "equalize" in way:
        report = convert(source, tmp_path / "scaled", weights=weights, **way)
        assert report.scaled == ()
    else:
        calibration = Calibration(TEXT, **{"method": "absmax", **way})
        report = convert(source, tmp_path / "scaled", weights=weights, calibration=calibration)
        assert any(row.alpha is not None for row in report.scaled)
    exact = Reader.open(tmp_path / "float32")
    plain, scaled = (divergence(exact, Reader.open(tmp_path / name), TEXT).kl for name in ("plain", "scaled"))
    assert scaled < 0.8 * plain


def test_scales_where_types_are_chosen(tmp_path: Path) -> None:
    """They are searched for int4, what matrices may become, not for what they are before the choice."""
    calibration = Calibration(TEXT, "awq", max_divergence=10.0)
    report = convert(checkpoint(tmp_path / "in", "relu"), tmp_path / "out", calibration=calibration)
    assert any(row.alpha is not None for row in report.scaled)


def test_smoothing_needs_enough_text(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in", "relu")
    with pytest.raises(InputError, match="calibration needs 256 rows in every layer"):
        convert(source, tmp_path / "out", calibration=Calibration(TEXT[:3], "absmax", smooth=ALPHAS))
    assert not (tmp_path / "out").exists()
