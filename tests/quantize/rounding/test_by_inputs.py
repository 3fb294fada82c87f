"""int4 by calibration: what is written, and what it is measured against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine.errors import InputError
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory
from pyengine.quantize import Calibration, convert
from pyengine.quantize.measuring.distortion import output_error
from pyengine.quantize.measuring.divergence import divergence
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.rounding.by_inputs import CALIBRATED, round_calibrated, rows_needed
from pyengine.quantize.rounding.rounding import round_matrix
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine
from pyengine.quantize.types import resolve_types

from ...checkpoints import handmade

EXAMPLE = Path(__file__).parents[3] / "examples" / "multi30k-de-en"
LAYER = "encoder.layers.0.ffn.up"


def read(name: str) -> list[str]:
    return (EXAMPLE / name).read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    return list(zip(read("test_2016_flickr.de"), read("test_2016_flickr.en"), strict=True))


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rounded")
    ways = {"float32": {"weights": "float32"}, "absmax": {"weights": "int4g64"}}
    ways |= {name: {"weights": "int4g64", "calibration": Calibration(pairs[:400], name)} for name in CALIBRATED}
    for name, way in ways.items():
        convert(EXAMPLE, folder / name, **way)  # type: ignore[arg-type]
    return {name: folder / name for name in ways}


@pytest.mark.exhaustive
def test_calibration_moves_the_distributions_less(directories: dict[str, Path], pairs: list[tuple[str, str]]) -> None:
    held_out = pairs[600:640]
    exact = Reader.open(directories["float32"])
    kl = {name: divergence(exact, Reader.open(path), held_out).kl for name, path in directories.items()}
    assert kl["float32"] == 0
    assert kl["gptq"] < 2 / 3 * kl["absmax"]


@pytest.mark.exhaustive
def test_only_int4_and_biases_differ_from_plain_rounding(directories: dict[str, Path]) -> None:
    plain, best = (open_directory(directories[name]) for name in ("absmax", "gptq"))
    assert plain.other_weights == best.other_weights == {"decoder.embed": "int8"}
    assert list(plain.tensors) == list(best.tensors)
    same = {name for name in plain.tensors if np.array_equal(plain.tensors[name], best.tensors[name])}
    assert {"decoder.embed.weight", "decoder.embed.scale"} <= same
    assert not any(name.endswith("group_scale") for name in same)


@pytest.mark.parametrize("method", CALIBRATED)
def test_the_output_error_of_each_matrix(method: str, pairs: list[tuple[str, str]]) -> None:
    model = open_checkpoint(EXAMPLE)
    types = {LAYER: "int4g32z", "decoder.embed": "int4g64"}
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    ids = [(np.arange(i, i + 20, dtype=np.int32), np.arange(2 * i, 2 * i + 20, dtype=np.int32)) for i in range(60)]
    statistics = calibrate(engine, None, ids)
    changed, rounded = round_calibrated(model, types, statistics, method)
    assert set(rounded) == set(types)
    for name, source, seen in ((LAYER, f"{LAYER}.weight", LAYER), ("decoder.embed", "decoder.embed.weight", "output")):
        matrix, gram = model.tensors[source].read(), statistics[seen].gram
        (part,) = rounded[name]
        plain = round_matrix(matrix, types[name]).dequantize(matrix.shape[1])
        assert output_error(matrix, part.dequantize(matrix.shape[1]), gram) < output_error(matrix, plain, gram)
    differ = {
        name for name in model.tensors if not np.array_equal(model.tensors[name].read(), changed.tensors[name].read())
    }
    assert differ == {f"{LAYER}.bias", "output.bias"}


def test_how_much_text_gptq_needs(tmp_path: Path) -> None:
    model = open_checkpoint(EXAMPLE)
    types = dict.fromkeys(("encoder.layers.0.ffn.down", LAYER), "int4g64")
    assert rows_needed(model, types, "gptq") == 1024
    assert rows_needed(model, types, "weighted") == 256
    assert rows_needed(model, {LAYER: "int8"}, "gptq") == 1
    with pytest.raises(InputError, match="calibration needs 1024 rows in every layer"):
        convert(EXAMPLE, tmp_path / "out", weights="int4g64", calibration=Calibration([("Ein Hund.", "A dog.")]))
    assert not list(tmp_path.iterdir())


def test_types_of_patterns(tmp_path: Path) -> None:
    config = open_checkpoint(handmade.write_checkpoint(tmp_path / "in")).config
    assert resolve_types(config, "int8") == {}
    assert set(resolve_types(config, "int4g64").values()) == {"int8"}
    types = resolve_types(config, "int8", [("encoder.*.ffn.*", "int4g32"), ("*.q", "float32"), ("lm_head", "int4g64z")])
    assert types["encoder.layers.0.ffn.up"] == "int4g32"
    assert types["encoder.layers.0.self_attention.qkv"] == "float32"  # by one of its parts
    assert [kind for name, kind in types.items() if name in ("output", "decoder.embed")] == ["int4g64z"]
    with pytest.raises(pyengine.OptionError, match="'nothing.*' matches no matrix; there are"):
        resolve_types(config, "int8", [("nothing.*", "int8")])
    with pytest.raises(pyengine.OptionError, match="expected one of float32, .* found 'int5'"):
        resolve_types(config, "int8", [("*", "int5")])
