"""From a checkpoint to a model directory: every value in its place, in little memory."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine.canonical import tensor_specs
from pyengine.errors import CheckpointError, OptionError
from pyengine.importers import open_checkpoint
from pyengine.modelfile import ModelDirectory, open_directory, packed_specs
from pyengine.modelfile.layout import dequantize_packed
from pyengine.quantize import convert, measure

from ..checkpoints import handmade
from ..modelfile.unpack import unpack_float32, unpack_int8

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "multi30k-de-en"
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "separate": {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False},
    "odd sizes": {"d_model": 18, "encoder_attention_heads": 3, "decoder_ffn_dim": 31, "vocab_size": 37},
}


def checkpoint(directory: Path, **changes: Any) -> Path:
    config = handmade.marian_config(**changes)
    tensors = handmade.marian_tensors(config)
    table = tensors["model.shared.weight"]
    if config.get("tie_word_embeddings") is False:
        tensors["lm_head.weight"] = table + 1
    if config.get("share_encoder_decoder_embeddings") is False:
        del tensors["model.shared.weight"]
        tensors["model.encoder.embed_tokens.weight"] = table + 2
        tensors["model.decoder.embed_tokens.weight"] = table + 3
    return handmade.write_checkpoint(directory, config, tensors)


def unpacked(model: ModelDirectory) -> dict[str, np.ndarray]:
    """The canonical tensors in a model directory, dequantized; padding must be zero."""
    canonical = tensor_specs(model.config)
    result = {}
    for name, spec in packed_specs(model.config, model.weights).items():
        if spec.kind == "scale":
            continue
        packed = model.tensors[name]
        if spec.kind == "table":
            shape = canonical[name].shape
            assert not packed[math.prod(shape) :].any()
            result[name] = packed[: math.prod(shape)].reshape(shape)
            continue
        rows = sum(canonical[source].shape[0] for source in spec.sources)
        if spec.kind == "vector":
            whole, padding = packed[:rows], packed[rows:]
        else:
            columns = canonical[spec.sources[0]].shape[1]
            if model.weights == "int8":
                scale = model.tensors[name.replace(".weight", ".scale")]
                whole = unpack_int8(packed, rows, columns) * scale[:rows, None]
                padding = scale[rows:]
                packed = dequantize_packed(model.tensors, name.removesuffix(".weight"), rows, columns)
            else:
                whole = unpack_float32(packed, rows, columns)
                padding = np.zeros(1)
            panels, depth = packed.shape[:2]
            full = unpack_float32(packed, 16 * panels, depth)
            full[:rows, :columns] = 0
            assert not full.any()
        assert not padding.any()
        start = 0
        for source in spec.sources:
            end = start + canonical[source].shape[0]
            result[source] = whole[start:end]
            start = end
    return result


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_keeps_every_value(tmp_path: Path, variant: str) -> None:
    source = checkpoint(tmp_path / "in", **VARIANTS[variant])
    convert(source, tmp_path / "out", weights="float32")
    found = unpacked(open_directory(tmp_path / "out", verify=True))
    model = open_checkpoint(source)
    assert found.keys() == model.tensors.keys()
    for name, tensor in model.tensors.items():
        np.testing.assert_array_equal(found[name], tensor.read(), err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_int8_keeps_every_value_within_half_a_step(tmp_path: Path, variant: str) -> None:
    source = checkpoint(tmp_path / "in", **VARIANTS[variant])
    convert(source, tmp_path / "out")
    opened = open_directory(tmp_path / "out", verify=True)
    found = unpacked(opened)
    for name, tensor in open_checkpoint(source).tensors.items():
        wanted = tensor.read()
        if tensor_specs(opened.config)[name].kind in ("vector", "table"):
            np.testing.assert_array_equal(found[name], wanted, err_msg=name)
        else:
            step = np.abs(wanted).max(axis=1, keepdims=True) / 127
            assert (np.abs(found[name] - wanted) <= step * 0.501).all(), name


def test_the_report(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in")
    report = convert(source, tmp_path / "out")
    model = open_directory(tmp_path / "out")
    assert report.directory_bytes == model.bytes
    assert report.stored_bytes == sum(values.nbytes for values in model.tensors.values())
    assert report.float32_bytes == sum(
        4 * math.prod(t.shape) for t in open_checkpoint(source).tensors.values()
    )
    rows = {row.name: row for row in report.tensors}
    up = rows["encoder.layers.0.ffn.up.weight"]
    assert (up.kind, up.shape, up.float32_bytes) == ("matrix", (20, 12), 960)
    assert up.stored_bytes == 2 * 3 * 64 + 4 * 32
    wanted = open_checkpoint(source).tensors["encoder.layers.0.ffn.up.weight"].read().astype(np.float64)
    noise = np.square(unpacked(model)["encoder.layers.0.ffn.up.weight"] - wanted).sum()
    assert up.snr_db == pytest.approx(10 * np.log10(np.square(wanted).sum() / noise), abs=0.01)
    assert rows["encoder.layers.0.self_attention.qkv.weight"].shape == (36, 12)
    assert rows["output.bias"].kind == "vector" and rows["output.bias"].snr_db == math.inf
    only = measure(source)
    assert only.tensors == report.tensors and only.directory_bytes == 0
    assert all(row.snr_db == math.inf for row in measure(source, weights="float32").tensors)


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = measure(checkpoint(tmp_path), progress=lambda done, total: steps.append((done, total)))
    assert steps == sorted(steps) and len(steps) == len(report.tensors)
    assert steps[-1] == (report.float32_bytes, report.float32_bytes)


@pytest.mark.parametrize("weights", ("int8", "float32"))
def test_peak_memory_is_two_of_the_largest_tensors(tmp_path: Path, weights: str) -> None:
    """The whole model is more than ten of the largest tensor; two of them and 2 MB are enough."""
    changes = dict(
        d_model=512, encoder_layers=3, decoder_layers=1, encoder_attention_heads=8, decoder_attention_heads=8
    )
    source = checkpoint(tmp_path / "in", **changes, encoder_ffn_dim=3072, decoder_ffn_dim=3072)
    largest = 4 * 3072 * 512
    assert measure(source).float32_bytes > 10 * largest
    tracemalloc.start()
    try:
        convert(source, tmp_path / "out", weights=weights)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * largest + (2 << 20)


def test_a_value_that_is_not_finite_leaves_nothing(tmp_path: Path) -> None:
    config = handmade.marian_config()
    tensors = handmade.marian_tensors(config)
    name = "model.decoder.layers.0.fc2.weight"
    tensors[name][3, 4] = np.inf
    source = handmade.write_checkpoint(tmp_path / "in", config, tensors)
    with pytest.raises(
        CheckpointError, match=rf"tensor {name}: expected finite numbers, found inf at \[3, 4\]"
    ):
        convert(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_conversion_without_data_needs_no_engine(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in")
    code = (
        f"import sys; from pyengine.quantize import convert; convert({str(source)!r}, {str(tmp_path / 'out')!r}); "
        "print([name for name in ('pyengine._core', 'pyengine.quantize.seeing.calibration') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_target_is_checked_first(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"x")
    with pytest.raises(OptionError, match="out: exists and is not a directory"):
        convert(tmp_path / "missing", tmp_path / "out")


def test_the_example(tmp_path: Path) -> None:
    report = convert(EXAMPLE, tmp_path / "int8")
    model = open_directory(tmp_path / "int8", verify=True)
    assert model.config.source_vocab == 6001 and model.generation.num_beams == 4
    assert model.tokenizer_kind == "sentencepiece"
    assert min(row.snr_db for row in report.tensors) > 40
    float32 = convert(EXAMPLE, tmp_path / "float32", weights="float32")
    assert report.directory_bytes < 0.3 * float32.directory_bytes
