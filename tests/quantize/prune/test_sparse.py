"""Zeros by pattern, from the command to the translation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine import _core
from pyengine.errors import ModelFileError, OptionError
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory
from pyengine.modelfile.layout import SPARSE, matrix_names
from pyengine.quantize import Calibration, convert, main
from pyengine.quantize.measuring.divergence import divergence
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.opening import read_model
from pyengine.quantize.prune.masks import Blocks, NOfM, RowShare
from pyengine.quantize.prune.sparse import SPARSE_METHODS, pattern_of, sparsify
from pyengine.quantize.rounding.ranges import METHODS as RANGES
from pyengine.quantize.rounding.rounding import round_matrix
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine

from ...checkpoints import handmade
from ...modelfile.directories import edit_json

RNG = np.random.default_rng(6)
TEXT = [(RNG.integers(3, 20, 20).tolist(), RNG.integers(3, 20, 20).tolist()) for _ in range(40)]
LAYER = "encoder.layers.0.ffn.up"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    config = handmade.marian_config(d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=48, **heads)
    tensors = handmade.marian_tensors(config)
    scaled = {name: values / np.float32(6 if values.ndim == 2 else 4) for name, values in tensors.items()}
    return handmade.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "in", config, scaled)


@pytest.mark.parametrize("method", SPARSE_METHODS)
@pytest.mark.parametrize("pattern", [Blocks(0.5), RowShare(0.5), NOfM(2, 4)], ids=str)
def test_half_of_the_weights_of_every_layer(checkpoint: Path, pattern, method: str) -> None:
    model = open_checkpoint(checkpoint)
    statistics = calibrate(in_memory_engine(model.config, model.generation, model.tensors), None, TEXT)
    found, rows = sparsify(model, pattern, method, statistics)
    assert [row.name for row in rows] == [name for name in matrix_names(model.config) if ".layers." in name]
    for row in rows:
        assert row.share == pytest.approx(0.5, abs=0.02) and 0 < row.error <= row.error_before < 1
    assert method != "sparsegpt" or all(row.error < row.error_before for row in rows)
    up = found.tensors[f"{LAYER}.weight"].read()
    if isinstance(pattern, NOfM):
        assert ((up.reshape(-1, 4) != 0).sum(axis=1) <= 2).all()
    if isinstance(pattern, Blocks):
        blocks = (up != 0).reshape(4, 16, 8, 4).any(axis=(1, 3))
        assert blocks.mean() == pytest.approx(0.5, abs=0.05)
    for name in ("decoder.embed.weight", f"{LAYER}.bias"):
        np.testing.assert_array_equal(found.tensors[name].read(), model.tensors[name].read())


def test_a_directory_with_blocks(checkpoint: Path, tmp_path: Path) -> None:
    """Smaller, whole again when it is read, and it says what its dense form says."""
    calibration = Calibration(TEXT, "absmax")
    report = convert(checkpoint, tmp_path / "sparse", calibration=calibration, sparse=Blocks(0.5))
    convert(checkpoint, tmp_path / "dense")
    sparse, dense = (open_directory(tmp_path / name, verify=True) for name in ("sparse", "dense"))
    assert set(sparse.other_weights.values()) == {SPARSE} and sparse.weights == "int8"
    assert len(report.masked) == len(sparse.lines) == len(sparse.other_weights)
    small, large = (
        sum(array.nbytes for name, array in each.tensors.items() if ".layers." in name) for each in (sparse, dense)
    )
    assert small < 0.75 * large
    whole = read_model(sparse)
    whole.validate()
    assert np.count_nonzero(whole.tensors[f"{LAYER}.weight"].read()) <= 64 * 32 * 0.55
    convert(tmp_path / "sparse", tmp_path / "float32", weights="float32", requantize=True)
    with Reader.open(tmp_path / "float32") as exact, Reader.open(tmp_path / "sparse") as rounded:
        assert divergence(exact, rounded, TEXT[:8]).kl < 1e-3
    with pyengine.load(tmp_path / "float32") as exact:
        with pyengine.load(tmp_path / "sparse", compute="float32") as floats:
            (one,), (other,) = (list(each.logits_iter([TEXT[0][0]], [TEXT[0][1]])) for each in (exact, floats))
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_the_translations_of_dense_weights(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isa: str
) -> None:
    """The same zeros in float32, and those rounded to dense int8: equal texts and scores, alone and in company."""
    monkeypatch.setenv("PYENGINE_ISA", isa)
    zeros = {"sparse": Blocks(0.5), "sparse_method": "magnitude"}
    convert(checkpoint, tmp_path / "zeros", weights="float32", **zeros)
    convert(tmp_path / "zeros", tmp_path / "dense")
    convert(checkpoint, tmp_path / "sparse", **zeros)
    sources, found = [source[: 1 + 3 * i] for i, (source, _) in enumerate(TEXT[:7])], []
    for name in ("dense", "sparse"):
        assert bool(open_directory(tmp_path / name).lines) == (name == "sparse")
        for threads in (1, 3):
            with pyengine.load(tmp_path / name, threads=threads) as translator:
                many = translator.translate(sources, num_beams=3, max_new_tokens=12, num_return_sequences=2)
                alone = [translator.translate(one, num_beams=3, max_new_tokens=12) for one in sources]
            found.append([[(each.ids, each.score) for each in results] for results in (many, alone)])
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("method", ["absmax", "percentile"])
def test_blocks_are_rounded_by_the_method_asked_for(checkpoint: Path, tmp_path: Path, method: str) -> None:
    convert(checkpoint, tmp_path / "out", method=method, sparse=Blocks(0.5), sparse_method="magnitude")
    pruned, _ = sparsify(open_checkpoint(checkpoint), Blocks(0.5), "magnitude", {})
    rounded = {kind: round_matrix(pruned.tensors[f"{LAYER}.weight"].read(), "int8", kind) for kind in RANGES}
    scale = open_directory(tmp_path / "out").tensors[f"{LAYER}.scale"][: len(rounded[method].scale)]
    np.testing.assert_array_equal(scale, rounded[method].scale)
    assert (rounded["absmax"].scale != rounded["percentile"].scale).any()


def test_sparsegpt_is_nearer_than_the_smallest_weights(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "float32", weights="float32")
    convert(checkpoint, tmp_path / "magnitude", sparse=Blocks(0.3), sparse_method="magnitude")
    convert(checkpoint, tmp_path / "sparsegpt", sparse=Blocks(0.3), calibration=Calibration(TEXT, "absmax"))
    exact = Reader.open(tmp_path / "float32")
    small, gpt = (divergence(exact, Reader.open(tmp_path / name), TEXT).kl for name in ("magnitude", "sparsegpt"))
    assert gpt < small


DAMAGES = {
    "no count": (lambda c: c["lines"].pop(LAYER), f"field '{LAYER}' is missing"),
    "too many": (lambda c: c["lines"].update({LAYER: 10**6}), f"{LAYER}: expected an integer from 1 to"),
    "another count": (lambda c: c["lines"].update({LAYER: 3}), "the tensors do not match"),
    "of a dense one": (lambda c: c["lines"].update({"decoder.embed": 3}), "unknown fields: 'decoder.embed'"),
    "of a table": (lambda c: c["other_weights"].update({"decoder.embed": SPARSE}), f"decoder.embed cannot be {SPARSE}"),
    "no object": (lambda c: c.update(lines=[1]), "lines: expected an object"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_counts(checkpoint: Path, tmp_path: Path, name: str) -> None:
    change, message = DAMAGES[name]
    convert(checkpoint, tmp_path / "out", sparse=Blocks(0.5), sparse_method="magnitude")
    edit_json(tmp_path / "out" / "config.json", change)
    with pytest.raises(ModelFileError, match=message):
        open_directory(tmp_path / "out")


def test_damaged_tables(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "out", sparse=Blocks(0.5), sparse_method="magnitude")
    path = tmp_path / "out" / "model.safetensors"
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    begin = json.loads(content[8 : 8 + size])[f"{LAYER}.line_quad"]["data_offsets"][0]
    content[8 + size + begin + 1] = 0xFF
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"{LAYER}.line_quad: expected numbers below 8"):
        open_directory(tmp_path / "out")


@pytest.mark.parametrize(
    ("what", "share", "message"),
    [("hair", 0.5, "expected one of blocks, weights or N:M"), ("blocks", 1.0, "blocks: expected a share between"),
     ("4:2", 0.0, "n of m: expected"), ("weights", 0.0, "weights: expected a share")],
)  # fmt: skip
def test_patterns_that_are_none(what: str, share: float, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pattern_of(what, share)


def test_what_is_refused_before_any_work(tmp_path: Path) -> None:
    text = Calibration(TEXT, target_bytes=1)
    for attempt, message in (
        ({"sparse_method": "largest", "calibration": Calibration(TEXT)}, "sparse_method: expected one of magnitude"),
        ({"calibration": text}, "int4, which cannot have zeros"),
    ):
        with pytest.raises(OptionError, match=message):
            convert(tmp_path / "missing", tmp_path / "out", sparse=Blocks(0.5), **attempt)


def test_int4_cannot_keep_zeros(checkpoint: Path, tmp_path: Path) -> None:
    for attempt in ({"weights": "int4g32"}, {"tensors": [(LAYER, "int4g32")]}):
        with pytest.raises(OptionError, match="zeros need layers that are not int4, but encoder"):
            convert(checkpoint, tmp_path / "out", sparse=Blocks(0.5), sparse_method="magnitude", **attempt)
    assert not (tmp_path / "out").exists()


def test_the_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(checkpoint), "--prune-method", "magnitude"]
    assert main([*words, "-o", str(tmp_path / "blocks"), "--prune", "blocks=0.5"]) == 0
    printed = capsys.readouterr()
    assert "zeros: 50% of" in printed.out and "the model will not run faster" not in printed.err
    for setting, why in (
        ("weights=0.5", "single weights and N:M"),
        ("2:4", "single weights and N:M"),
        ("blocks=0.1", "pays from 25% of them on"),
        ("blocks=0.5 --weights float32", "skipped with --weights int8 only"),
    ):
        assert main([*words, "-o", str(tmp_path / "x"), "--overwrite", "--prune", *setting.split()]) == 0
        assert "the model will not run faster: " in (err := capsys.readouterr().err) and why in err
    for wrong, message in (
        (["--prune", "weights"], "expected WHAT=SHARE"),
        (["--prune", "2:4", "--prune", "blocks=0.5"], "expected one kind of zeros"),
        (["--prune", "2:4=0.9"], "expected WHAT=SHARE, such as ffn=0.25, or N:M"),
        (["--prune", "blocks=2"], "blocks: expected a share between 0 and 1"),
        (["--prune", "blocks=0.5", "--prune-method", "wanda"], "--prune needs text"),
        (["--prune-method", "magnitude"], "--prune-method has a meaning with --prune blocks"),
    ):
        with pytest.raises(SystemExit):
            main([*words, "-o", str(tmp_path / "y"), *wrong])
        assert message in capsys.readouterr().err
