"""Scales at every place of any configuration leave what the model says as it is, and searches find some."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.modelfile.layout import matrix_names
from pyengine.quantize.scaling.fold import fold, places
from pyengine.quantize.scaling.scaling import awq, equalize, smooth
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine

from .models import SEEDS, exact, length_of, lines, random_model, spoken


@pytest.mark.parametrize("seed", SEEDS)
def test_folding_leaves_outputs_equal(seed: int) -> None:
    """With powers of two no tensor is rounded anew, and float64 shows no difference; each place changes tensors."""
    model = random_model(seed)
    rng = np.random.RandomState(seed)
    text = lines(model, 2)
    folded, changed = model, 0
    for place in places(model.config):
        rows = folded.tensors[f"{place.producers[0]}.weight"].shape[0]
        before = folded
        folded = fold(folded, place, place.even(np.exp2(rng.randint(-3, 4, rows)).astype(np.float32)))
        different = [name for name in before.tensors if before.tensors[name] is not folded.tensors[name]]
        assert {f"{each}.weight" for each in (*place.producers, *place.consumers, *place.queries)} <= set(different)
        changed += 1
    folded.validate()
    expected = exact(model, text)
    assert length_of(exact(folded, text) - expected) < 1e-12 * length_of(expected)
    assert changed >= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_places_are_those_of_the_configuration(seed: int) -> None:
    """Every attention's values, every gate, and every norm that is read by one sublayer alone."""
    config = random_model(seed).config
    names = {place.name for place in places(config)}
    for stack, sizes in config.stacks():
        for i, layer in enumerate(sizes.layers):
            for part, each in layer.sublayers():
                name = f"{stack}.layers.{i}.{part}"
                last = i == len(sizes.layers) - 1 and part == "ffn" and sizes.placement == "post"
                assert last or (f"{name}.norm" in names) == (sizes.placement != "post")
                assert f"{name}.after" not in names
                if part != "ffn":
                    assert f"{name}.v" in names and (f"{name}.k" in names) != getattr(each, "qk_norm")
                elif getattr(each, "gated"):
                    assert f"{name}.up" in names


@pytest.mark.parametrize("way", ["smooth", "awq", "equalize"])
@pytest.mark.parametrize("seed", SEEDS[:6])
def test_searched_scales_leave_outputs_equal(seed: int, way: str) -> None:
    """What a search finds is folded; statistics that are derived are those of the scaled model."""
    model = random_model(seed)
    text = lines(model)
    if way == "equalize":
        scaled = equalize(model)
    else:
        types = dict.fromkeys(matrix_names(model.config), "int4g32")
        seen = calibrate(in_memory_engine(model.config, model.generation, model.tensors), None, text)
        if way == "smooth":
            scaled, derived, done = smooth(model, types, seen, (0.3, 0.5, 0.8))
        else:
            scaled, derived, done = awq(model, types, seen)
        every = [place.name for place in places(model.config) if place.consumers or way == "smooth"]
        assert [row.place for row in done] == every
        assert any(row.alpha is not None for row in done)
        assert all(row.error <= row.error_before for row in done)
        again = calibrate(in_memory_engine(scaled.config, scaled.generation, scaled.tensors), None, text)
        assert set(derived) == set(again)
        for name, found in derived.items():
            np.testing.assert_allclose(found.gram, again[name].gram, atol=2e-3 * np.abs(found.gram).max(), err_msg=name)
    expected = exact(model, text[:3])
    assert length_of(exact(scaled, text[:3]) - expected) < 1e-5 * length_of(expected)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_the_core_agrees(seed: int) -> None:
    model = random_model(seed)
    text = lines(model, 3)
    folded = model
    for place in places(model.config):
        rows = folded.tensors[f"{place.producers[0]}.weight"].shape[0]
        folded = fold(folded, place, np.full(rows, 2.0, np.float32))
    expected = spoken(model, text)
    np.testing.assert_array_equal(spoken(folded, text), expected)
