"""A GGUF file is converted like any checkpoint, and a report tells what it held."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from pyengine.modelfile import open_directory
from pyengine.quantize import main
from pyengine.quantize.opening import open_model, stored_input

from ..importers.gguf_files import as_type, write_gguf
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
