"""A pruned model: what goes, what the rest makes up for, and that it loads and translates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.errors import InputError, OptionError
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory
from pyengine.quantize import Calibration, convert
from pyengine.quantize.prune.model import PrunedModel, Removed, prune_model
from pyengine.quantize.prune.teacher import fit_to_teacher
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine, paired_inputs

from ...canonical.configs import decoder_only
from ...checkpoints import handmade
from ...oracle.tiny import generation, model_config, random_sources, random_tensors

CONFIG = model_config(encoder=(2, 4, 80), decoder=(2, 4, 64))
TEXT = list(zip(random_sources(1, 60), random_sources(2, 60), strict=True))
SHARES = {"ffn": 0.3, "heads": 0.3}


def tiny(seed: int = 5) -> CanonicalModel:
    tensors = random_tensors(CONFIG, seed, 0.2)
    lazy = {name: LazyTensor(name, each.shape, "float32", lambda each=each: each) for name, each in tensors.items()}
    return CanonicalModel(CONFIG, generation(), lazy)


def outputs(model: CanonicalModel, text: list[tuple[list[int], list[int]]]) -> np.ndarray:
    """What the output layer reads, summed over rows: float64 [width]."""
    engine = in_memory_engine(model.config, model.generation, model.tensors, threads=1)
    return calibrate(engine, None, text)["output"].sum


@pytest.fixture(scope="module")
def pruned() -> tuple[CanonicalModel, list[Removed]]:
    found = prune_model(tiny(), None, TEXT, **SHARES)
    return found.model, found.removed


def test_as_much_goes_as_was_asked_for(pruned: tuple[CanonicalModel, list[Removed]]) -> None:
    model, rows = pruned
    model.validate()  # tensors have the shapes of the new configuration
    layers = [*model.config.encoder.layers, *model.config.decoder.layers]
    attentions = [attention for layer in layers for _, attention in layer.attentions()]
    heads = [attention.heads for attention in attentions]
    neurons = [layer.feed_forward.width for layer in layers]
    assert (sum(heads), min(heads) >= 1) == (24 - round(0.3 * 24), True)
    assert (sum(neurons), min(neurons) >= 16) == (288 - 16 * round(0.3 * 288 / 16), True)
    assert all(width % 16 == 0 for width in neurons)
    assert sum(row.removed for row in rows if row.what == "heads") == 24 - sum(heads)
    assert sum(row.removed for row in rows if row.what == "neurons") == 288 - sum(neurons)
    assert {attention.head_width for attention in attentions} == {4}


def test_rows_of_what_is_left_are_those_of_the_model(pruned: tuple[CanonicalModel, list[Removed]]) -> None:
    model, rows = pruned
    whole = tiny()
    for row in rows:
        names = ("up",) if row.what == "neurons" else ("q", "k", "v")
        places = []
        for name in (f"{row.layer}.{part}" for part in names):
            old, new = (each.tensors[f"{name}.weight"].read() for each in (whole, model))
            places.append([int(np.flatnonzero((old == line).all(axis=1))[0]) for line in new])
            biases = [each.tensors[f"{name}.bias"].read() for each in (whole, model)]
            assert np.array_equal(biases[0][places[-1]], biases[1])
        assert all(place == places[0] for place in places) and places[0] == sorted(set(places[0]))


def test_the_fit_lowers_the_error(pruned: tuple[CanonicalModel, list[Removed]]) -> None:
    model, rows = pruned
    cut_alone = prune_model(tiny(), None, TEXT, reconstruct=False, **SHARES)
    plain, plain_rows = cut_alone.model, cut_alone.removed
    assert plain.config == model.config
    assert [(row.layer, row.removed, row.error_before) for row in rows] == [
        (row.layer, row.removed, row.error_after) for row in plain_rows
    ]
    assert all(0 < row.error_after < row.error_before for row in rows)
    exact, fitted, cut = (outputs(each, TEXT) for each in (tiny(), model, plain))
    assert np.linalg.norm(fitted - exact) < np.linalg.norm(cut - exact)


@pytest.mark.parametrize("reconstruct", (True, False))
def test_the_reported_error_is_that_of_the_outputs(reconstruct: bool) -> None:
    """The oracle: the outputs of a layer that is not the last of its stack, which is fitted to more than its own."""
    pruned = prune_model(tiny(), None, TEXT, ffn=0.3, reconstruct=reconstruct)
    model = pruned.model
    first = next(row for row in pruned.removed if ".layers.0." in row.layer)
    name = f"{first.layer}.down"
    engine = in_memory_engine(CONFIG, generation(), tiny().tensors, threads=1)
    seen = calibrate(engine, None, TEXT, reservoir=10**6)[name]
    up = [each.tensors[f"{first.layer}.up.weight"].read() for each in (tiny(), model)]
    kept = [int(np.flatnonzero((up[0] == line).all(axis=1))[0]) for line in up[1]]
    old, new = (each.tensors[f"{name}.weight"].read() for each in (tiny(), model))
    shift = model.tensors[f"{name}.bias"].read() - tiny().tensors[f"{name}.bias"].read()
    exact = seen.rows @ old.T
    found = np.square(seen.rows[:, kept] @ new.T + shift - exact).sum() / np.square(exact - exact.mean(axis=0)).sum()
    np.testing.assert_allclose(first.error_after, found, rtol=1e-3)


def test_the_end_of_a_stack_is_fitted_to_the_whole_model() -> None:
    """The oracle: its vectors before the norm, of both models. A model that is its own teacher stays as it is."""
    whole = tiny()
    plain = prune_model(whole, None, TEXT, reconstruct=False, **SHARES).model
    fitted = fit_to_teacher(plain, whole, None, TEXT)
    for stack in ("encoder", "decoder"):
        layer = f"{stack}.layers.1.ffn"
        exact, before, after = (last_vectors(model, layer) for model in (whole, plain, fitted))
        assert np.square(after - exact).sum() < np.square(before - exact).sum() / 2
    same = fit_to_teacher(whole, whole, None, TEXT)
    for name, tensor in whole.tensors.items():
        np.testing.assert_allclose(same.tensors[name].read(), tensor.read(), atol=1e-5)


def last_vectors(model: CanonicalModel, layer: str) -> np.ndarray:
    """What the layer adds to its inputs, and these: float32 [rows, width]."""
    engine = in_memory_engine(model.config, model.generation, model.tensors, threads=1)
    views = dict.fromkeys((f"{layer}.up", f"{layer}.down"), np.copy)
    ((_, _, (seen,)),) = paired_inputs([engine], None, TEXT, [views])
    weight, bias = (model.tensors[f"{layer}.down.{kind}"].read() for kind in ("weight", "bias"))
    return seen[f"{layer}.up"] + seen[f"{layer}.down"] @ weight.T + bias


def test_nothing_to_remove_is_the_same_model() -> None:
    model = tiny()
    for shares in ({}, {"ffn": 0.01}):  # less than half of 16 neurons
        assert prune_model(model, None, TEXT, **shares) == PrunedModel(model, [], {}, {})


@pytest.mark.parametrize(
    ("shares", "message"),
    (
        ({"ffn": 1.0}, "ffn: expected a share of at least 0 and less than 1, found 1.0"),
        ({"heads": -0.1}, "heads: expected a share"),
        ({"heads": float("nan")}, "heads: expected a share"),
        ({"ffn": 0.9}, "neurons: expected a share that leaves some of each; 224 of 288 can go, not 0.9"),
        ({"heads": 0.8}, "heads: expected a share that leaves some of each; 18 of 24 can go, not 0.8"),
    ),
)
def test_shares_that_cannot_be(shares: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        prune_model(tiny(), None, TEXT, **shares)


def test_text_that_is_too_short() -> None:
    with pytest.raises(InputError, match="calibration needs 80 rows in every layer"):
        prune_model(tiny(), None, TEXT[:2], ffn=0.3)


@pytest.mark.parametrize("weights", ("float32", "int8", "int4g32"))
def test_a_pruned_directory_loads_and_translates(weights: str, tmp_path: Path) -> None:
    config = handmade.marian_config(encoder_ffn_dim=48, decoder_ffn_dim=64)
    source = handmade.write_checkpoint(tmp_path / "in", config)
    whole = open_checkpoint(source).config
    method = "gptq" if weights == "int4g32" else "absmax"
    ids = [tuple([min(id, 19) for id in side] for side in pair) for pair in TEXT]
    prune = {"ffn": 0.4, "heads": 0.3}
    made = convert(source, tmp_path / "out", weights=weights, calibration=Calibration(ids, method), prune=prune)
    assert made.removed
    found = open_directory(tmp_path / "out", verify=True).config
    widths = [[layer.feed_forward.width for stack in (each.encoder, each.decoder) for layer in stack.layers]
              for each in (whole, found)]  # fmt: skip
    assert sum(widths[1]) < sum(widths[0])
    with pyengine.load(tmp_path / "out", threads=1) as translator:
        assert len(translator.translate([3, 4, 5, 0], min_new_tokens=4, max_new_tokens=4).ids) >= 3


def test_layers_of_a_stack_that_there_is_not() -> None:
    with pytest.raises(OptionError, match="prune: encoder-layers: the model has no encoder"):
        prune_model(CanonicalModel(decoder_only(), generation(), {}), None, TEXT, encoder_layers=0.5)


def test_what_convert_refuses_before_it_reads(tmp_path: Path) -> None:
    for prune, message in (({"ffn": 0.2}, "expected text"), ({"layers": 0.1}, "found 'layers'"), ({"ffn": 1}, "ffn")):
        with pytest.raises(OptionError, match=message):
            text = None if message == "expected text" else Calibration([("a", "b")])
            convert(tmp_path / "missing", tmp_path / "out", prune=prune, calibration=text)
