"""Layers removed: which, what is left in their place, and that the result is a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.errors import InputError, OptionError
from pyengine.modelfile import open_directory
from pyengine.quantize import Calibration, convert
from pyengine.quantize.prune.depth import cut_layers, plan_cuts
from pyengine.quantize.prune.layers import block_influence, fit_channels
from pyengine.quantize.prune.masks import Blocks
from pyengine.quantize.prune.model import prune_model
from pyengine.quantize.prune.teacher import fit_to_teacher, outputs_lost
from pyengine.quantize.seeing.calibration import in_memory_engine, paired_inputs

from ...checkpoints import handmade
from ...oracle.tiny import generation, model_config, random_sources, random_tensors

CONFIG = model_config(encoder=(4, 4, 40), decoder=(5, 4, 32))
TEXT = list(zip(random_sources(1, 60), random_sources(2, 60), strict=True))
COUNTS = {"encoder": 2, "decoder": 2}
BEHIND = {"encoder": "decoder.layers.0.cross_attention.kv", "decoder": "output"}


@pytest.fixture(scope="module")
def model() -> CanonicalModel:
    """Layers 1 and 2 of the encoder and 1 and 3 of the decoder hardly turn anything."""
    tensors = random_tensors(CONFIG, 5, 0.2)
    for layer in ("encoder.layers.1", "encoder.layers.2", "decoder.layers.1", "decoder.layers.3"):
        for name in tensors:
            if name.startswith(f"{layer}.") and name.endswith((".output.weight", ".down.weight")):
                tensors[name] = tensors[name] * np.float32(0.05)
    return canonical(tensors)


def canonical(tensors: dict[str, np.ndarray]) -> CanonicalModel:
    lazy = {name: LazyTensor(name, each.shape, "float32", lambda each=each: each) for name, each in tensors.items()}
    return CanonicalModel(CONFIG, generation(), lazy)


def vectors(model: CanonicalModel, names: list[str]) -> list[np.ndarray]:
    engine = in_memory_engine(model.config, model.generation, model.tensors, threads=1)
    chunks = [rows for _, _, (rows,) in paired_inputs([engine], None, TEXT, [dict.fromkeys(names, np.copy)])]
    return [np.concatenate([rows[name] for rows in chunks]).astype(np.float64) for name in names]


def test_the_layers_that_turn_least_go(model: CanonicalModel) -> None:
    cuts = plan_cuts(model, None, TEXT, COUNTS)
    assert [(cut.stack, cut.first, cut.end) for cut in cuts] == [
        ("encoder", 1, 3), ("decoder", 1, 2), ("decoder", 3, 4),
    ]  # fmt: skip
    before, after = vectors(model, ["decoder.layers.1.self_attention.qkv", "decoder.layers.2.self_attention.qkv"])
    assert block_influence(before, after) < 0.2


def test_the_fit_of_a_cut_is_least_squares(model: CanonicalModel) -> None:
    """The oracle: each channel by itself, through all vectors at once."""
    cut = plan_cuts(model, None, TEXT, {"encoder": 2, "decoder": 0})[0]
    x, y = vectors(model, ["encoder.layers.1.self_attention.qkv", "encoder.layers.3.self_attention.qkv"])
    for channel in range(0, CONFIG.width, 5):
        slope, offset = np.polyfit(x[:, channel], y[:, channel], 1)
        assert cut.scale[channel] == pytest.approx(slope, rel=1e-3, abs=1e-4)
        assert cut.shift[channel] == pytest.approx(offset, rel=1e-3, abs=1e-4)
    variance = np.square(y - y.mean(axis=0)).sum()
    assert cut.error_before == pytest.approx(np.square(x - y).sum() / variance, rel=1e-3)
    assert cut.error == pytest.approx(np.square(x * cut.scale + cut.shift - y).sum() / variance, rel=1e-3)
    assert cut.error < cut.error_before


def test_what_is_left_are_the_other_layers(model: CanonicalModel) -> None:
    cuts = plan_cuts(model, None, TEXT, COUNTS)
    plain, fitted = (cut_layers(model, cuts, fit=fit) for fit in (False, True))
    assert plain.config == fitted.config
    assert (len(plain.config.encoder.layers), len(plain.config.decoder.layers)) == (2, 3)
    for new, old in enumerate([0, 2, 4]):
        for part in ("ffn.up.weight", "cross_attention.norm.bias"):
            found = plain.tensors[f"decoder.layers.{new}.{part}"].read()
            np.testing.assert_array_equal(found, model.tensors[f"decoder.layers.{old}.{part}"].read())
    changed = {
        name for name in plain.tensors if not np.array_equal(plain.tensors[name].read(), fitted.tensors[name].read())
    }
    places = ("encoder.layers.0", "decoder.layers.0", "decoder.layers.1")
    assert changed == {f"{place}.ffn.norm.{part}" for place in places for part in ("weight", "bias")}
    x = vectors(model, ["encoder.layers.1.self_attention.qkv"])[0] * cuts[0].scale + cuts[0].shift
    np.testing.assert_allclose(vectors(fitted, ["encoder.layers.1.self_attention.qkv"])[0], x, atol=1e-4)


@pytest.mark.parametrize(
    "shares", [{"encoder_layers": 0.5, "decoder_layers": 0.4, "heads": 0.2}, {"decoder_layers": 0.2}]
)
def test_reconstruction_comes_nearer_to_the_whole_model(model: CanonicalModel, shares: dict[str, float]) -> None:
    """What is said to be lost is lost, and less is with the fits."""
    plain = prune_model(model, None, TEXT, reconstruct=False, **shares)
    fitted = prune_model(model, None, TEXT, **shares)
    assert plain.model.config == fitted.model.config
    assert plain.lost == plain.lost_before == fitted.lost_before
    exact = vectors(model, list(BEHIND.values()))
    for pruned in (plain, fitted):
        for found, y, stack in zip(vectors(pruned.model, list(BEHIND.values())), exact, BEHIND, strict=True):
            expected = np.square(found - y).sum() / np.square(y - y.mean(axis=0)).sum()
            assert pruned.lost[stack] == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert fitted.lost["decoder"] < plain.lost["decoder"]
    rows, fitted_rows = ([row for row in each.removed if row.what == "layers"] for each in (plain, fitted))
    assert [row.layer for row in rows] == [name.removesuffix("_layers") for name in shares if name.endswith("layers")]
    for row, fit in zip(rows, fitted_rows, strict=True):
        assert row.error_after == row.error_before == fit.error_before > fit.error_after
    assert [(each.what, each.place) for each in fitted.model.removed[: len(rows)]] == [
        ("layers", row.layer) for row in rows
    ]


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_the_end_of_a_stack_keeps_its_norm(stack: str) -> None:
    """``teacher`` fits what goes into the norm of the last layer: with another norm that would be no fit.

    The oracle: what the stack gives with that norm, and with the one before the cut scaled, both fitted alike.
    """
    tensors = random_tensors(CONFIG, 5, 0.2)
    last = len(getattr(CONFIG, stack).layers) - 1
    for name in tensors:
        if name.startswith(f"{stack}.layers.{last}.") and name.endswith((".output.weight", ".down.weight")):
            tensors[name] = tensors[name] * np.float32(0.05)
    tensors[f"{stack}.layers.{last}.ffn.norm.weight"] *= np.linspace(0.5, 2, CONFIG.width, dtype=np.float32)
    whole = canonical(tensors)
    (cut,) = plan_cuts(whole, None, TEXT, {"encoder": 0, "decoder": 0, stack: 1})
    assert (cut.first, cut.end, cut.last) == (last, last + 1, True)
    ended = cut_layers(whole, [cut], fit=True)
    for part in ("weight", "bias"):
        found = ended.tensors[f"{stack}.layers.{last - 1}.ffn.norm.{part}"].read()
        np.testing.assert_array_equal(found, tensors[f"{stack}.layers.{last}.ffn.norm.{part}"])
    x, y = vectors(whole, [f"{stack}.layers.{last}.self_attention.qkv", BEHIND[stack]])
    scale, shift = fit_channels(*(values.mean(axis=0) for values in (x, y, x * x, x * y)))
    channels = cut_layers(whole, [replace(cut, last=False, scale=scale, shift=shift)], fit=True)
    lost = [
        outputs_lost(fit_to_teacher(each, whole, None, TEXT), whole, None, TEXT)[stack] for each in (ended, channels)
    ]
    assert lost[0] < lost[1]


def test_a_stack_keeps_a_layer(model: CanonicalModel) -> None:
    message = "prune: decoder-layers: expected a share that leaves a layer of 5, found 0.95"
    with pytest.raises(OptionError, match=message):
        prune_model(model, None, TEXT, decoder_layers=0.95)
    small = prune_model(model, None, TEXT, decoder_layers=0.8).model
    assert len(small.config.decoder.layers) == 1 and small.config.encoder == model.config.encoder


def test_text_that_is_too_short(model: CanonicalModel) -> None:
    for text in (TEXT[:3], [(source, None) for source, _ in TEXT[:3]]):
        with pytest.raises(InputError, match="calibration needs 40 rows in every layer"):
            prune_model(model, None, text, encoder_layers=0.5)


def test_a_directory_with_fewer_layers(tmp_path: Path) -> None:
    source = handmade.write_checkpoint(tmp_path / "in", handmade.marian_config(encoder_layers=3, decoder_layers=2))
    ids = [tuple([min(id, 19) for id in side] for side in pair) for pair in TEXT]
    prune = {"encoder_layers": 0.34, "decoder_layers": 0.5}
    convert(source, tmp_path / "out", calibration=Calibration(ids, "absmax"), prune=prune)
    directory = open_directory(tmp_path / "out", verify=True)
    assert (len(directory.config.encoder.layers), len(directory.config.decoder.layers)) == (2, 1)
    assert [(each.what, each.place, each.removed, each.total) for each in directory.removed] == [
        ("layers", "encoder", 1, 3), ("layers", "decoder", 1, 2),
    ]  # fmt: skip
    with pyengine.load(tmp_path / "out", threads=1) as translator:
        assert len(translator.translate([3, 4, 5, 0], min_new_tokens=4, max_new_tokens=4).ids) >= 3


@pytest.mark.parametrize(
    "way", [{"weights": "int4g32"}, {"sparse": Blocks(0.5)}, {"tensors": [("*.1.ffn.up", "float32")]}]
)
def test_types_are_those_of_the_layers_that_are_left(tmp_path: Path, way: dict[str, Any]) -> None:
    """Numbers of layers are those of the directory, which opens; one that it will not have is no layer."""
    source = handmade.write_checkpoint(tmp_path / "in", handmade.marian_config(encoder_layers=3, decoder_layers=2))
    ids = [tuple([min(id, 19) for id in side] for side in pair) for pair in TEXT]
    calibration = Calibration(ids, "weighted" if way.get("weights") == "int4g32" else "absmax")
    prune = {"encoder_layers": 0.34}
    convert(source, tmp_path / "out", calibration=calibration, prune=prune, **way)
    directory = open_directory(tmp_path / "out", verify=True)
    assert len(directory.config.encoder.layers) == 2
    if "tensors" in way:
        assert directory.other_weights == {f"{stack}.layers.1.ffn.up": "float32" for stack in ("encoder", "decoder")}
    with pytest.raises(OptionError, match=r"tensors: 'encoder.layers.2.\*' matches no matrix"):
        convert(source, tmp_path / "x", calibration=calibration, prune=prune, tensors=[("encoder.layers.2.*", "int8")])
    assert not (tmp_path / "x").exists()
