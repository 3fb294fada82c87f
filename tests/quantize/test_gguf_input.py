"""A GGUF file is converted like any checkpoint, and a report tells what it held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pyengine.modelfile import open_directory
from pyengine.quantize import Calibration, convert, main
from pyengine.quantize.opening import open_model, read_model, stored_input

from ..importers.gguf_files import Encode, as_type, write_gguf
from ..importers.test_gguf import CONFIGS, raw_tensors


def write(path: Path, kind: str) -> Path:
    config = CONFIGS["qwen3"]
    write_gguf(path, "qwen3", config, raw_tensors("qwen3", config), as_type(gguf.GGMLQuantizationType[kind]))
    return path


def test_from_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", "Q4_0")
    for kind in ("float32", "int8"):
        assert main([str(path), "-o", str(tmp_path / kind), "--weights", kind]) == 0
    again = open_model(tmp_path / "float32")
    for name, tensor in open_model(path).tensors.items():
        np.testing.assert_array_equal(again.tensors[name].read(), tensor.read(), err_msg=name)
    assert open_directory(tmp_path / "int8", verify=True).weights == "int8"


def test_types_and_bytes_of_what_was_stored(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", "Q6_K")
    matrices, size = stored_input(path, open_model(path))
    assert matrices["decoder.layers.0.ffn.down"] == ("Q6_K", 256 * 210)
    frequencies = 128 // 2 * 4  # which the importer has computed
    data = sum(tensor.n_bytes for tensor in gguf.GGUFReader(path).tensors)
    assert size == data + frequencies


def test_a_damaged_one_leaves_nothing_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", "Q8_0")
    path.write_bytes(path.read_bytes()[:-100])
    assert main([str(path), "-o", str(tmp_path / "out")]) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["x.gguf"]


def on_a_grid(zero_points: bool) -> Encode:
    """Matrices in blocks of 32 whose codes use all levels, with a step that is a half: Q4_1 with minima that are whole
    steps, or Q4_0."""
    generator = np.random.default_rng(3)

    def encode(values: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
        if values.ndim == 1:
            return values.astype(np.float32), gguf.GGMLQuantizationType.F32
        shape = (values.shape[0], values.shape[1] // 32)
        codes = generator.integers(0, 16, (*shape, 32), np.uint8)
        codes[..., 3], codes[..., 20] = 0, 15
        steps = (generator.integers(1, 128, shape) / 4096).astype(np.float16)
        head = [steps, (-steps * generator.integers(0, 16, shape)).astype(np.float16)]
        parts = [each[..., None].view(np.uint8) for each in (head if zero_points else head[:1])]
        blocks = np.concatenate([*parts, codes[..., :16] | codes[..., 16:] << 4], axis=-1)
        return blocks.reshape(len(blocks), -1), gguf.GGMLQuantizationType["Q4_1" if zero_points else "Q4_0"]

    return encode


@pytest.mark.parametrize("method", ("absmax", "mse", "gptq"))
@pytest.mark.parametrize("kind", ("int4g32", "int4g32z"))
def test_weights_that_lie_on_a_grid_keep_every_bit(kind: str, method: str, tmp_path: Path) -> None:
    """Blocks of Q4_0, and those of Q4_1 whose minima are whole steps, are groups of 32 exactly."""
    config = CONFIGS["qwen3"]
    path = tmp_path / "x.gguf"
    write_gguf(path, "qwen3", config, raw_tensors("qwen3", config), on_a_grid(kind.endswith("z")))
    how: dict[str, Any] = {"method": method}
    if method == "gptq":
        rng = np.random.default_rng(5)
        how = {"calibration": Calibration([(None, rng.integers(3, 23, 20).tolist()) for _ in range(60)], method)}
    convert(path, tmp_path / "out", weights=kind, tensors=[("*", kind)], **how)
    directory = open_directory(tmp_path / "out")
    again = read_model(directory).tensors
    assert {directory.weights, *directory.other_weights.values()} == {kind}
    for name, tensor in open_model(path).tensors.items():
        np.testing.assert_array_equal(again[name].read(), tensor.read(), err_msg=name)
