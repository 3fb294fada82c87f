"""First mistakes: what else a path may be is said by whoever opens it, with what to do about it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine.cli import main as engine_main
from pyengine.errors import CheckpointError, ModelFileError, PyengineError
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory
from pyengine.quantize import convert
from pyengine.quantize import main as quantize_main

from ..checkpoints import handmade
from ..modelfile.directories import checkpoint_with_tokenizer, model_directory

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0f" * 32 + b"\nsize 298000000\n"
CTRANSLATE2 = b"\x06\0\0\0\x10\0TransformerSpec\0\x07\0\0\0"  # how its model.bin begins


def file(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def directory(**files: bytes) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("__", ".")).write_bytes(content)

    return make


def torch_file(path: Path) -> None:
    handmade.write_torch(path, {"a": np.ones(3, np.float32)})


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "found nothing$"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "found a link to nothing"),
    "an empty directory": (directory(), "found an empty directory"),
    "another directory": (directory(readme=b"x"), "found no config.json in it$"),
    "another file": (file(b"hello"), "found a file$"),
    "a directory of GGUF files": (
        directory(readme=b"x", model__gguf=b"GGUF"),
        "found no config.json in it but 'model.gguf', a GGUF file; .*: pyengine quantize .*x/model.gguf -o OUT$",
    ),
    "a CTranslate2 model": (
        directory(model__bin=CTRANSLATE2, config__json=b'{"bos_token": "<s>"}', shared_vocabulary__json=b"[]"),
        "found a CTranslate2 model, .*begin with what it was made of",
    ),
    "an old CTranslate2 model": (directory(model__bin=CTRANSLATE2), "found a CTranslate2 model"),
    "a Git LFS pointer": (file(POINTER), "found a Git LFS pointer.* `git lfs pull`"),
    "a file of torch.save": (torch_file, r"found a file of torch.save; .*save_pretrained\(DIR\)"),
    "a pickle": (file(pickle.dumps([])), "found a file of torch.save"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_both_sides_say_what_was_found(tmp_path: Path, name: str) -> None:
    make, message = MISTAKES[name]
    make(tmp_path / "x")
    with pytest.raises(CheckpointError, match=f"x: expected a checkpoint directory or a GGUF file, {message}"):
        open_checkpoint(tmp_path / "x")
    with pytest.raises(ModelFileError, match=f"x: expected a model directory, {message}"):
        pyengine.load(tmp_path / "x")


def test_a_gguf_file_is_to_be_converted(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(ModelFileError, match="found a GGUF file; .*: pyengine quantize .*x.gguf -o OUT$"):
        pyengine.load(tmp_path / "x.gguf")
    with pytest.raises(CheckpointError, match="x.gguf: truncated: "):
        open_checkpoint(tmp_path / "x.gguf")


def test_the_commands_say_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch_file(tmp_path / "model.pt")
    assert quantize_main([str(tmp_path / "model.pt"), "-o", str(tmp_path / "out")]) == 2
    assert engine_main(["translate", "-m", str(tmp_path / "model.pt"), "x"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all("found a file of torch.save" in error for error in errors)


@pytest.mark.parametrize("name", ("Helsinki-NLP/opus-mt-de-en", "google/flan-t5_small.v2"))
def test_the_name_of_a_model_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    message = f"^{name}: expected .*`hf download {name} --local-dir DIR`.* converted: pyengine quantize DIR -o OUT$"
    for read in (open_checkpoint, pyengine.load):
        with pytest.raises(PyengineError, match=message):
            read(name)
        for other in (f"../{name}", f"/{name}", f"{name}/x", "opus"):  # no such names: paths
            with pytest.raises(PyengineError, match="found nothing$"):
                read(other)


@pytest.mark.parametrize("name", ("pytorch_model.bin", "model.safetensors", "config.json"))
def test_a_file_of_the_directory(tmp_path: Path, name: str) -> None:
    handmade.write_checkpoint(tmp_path / "x")
    torch_file(tmp_path / "x" / "pytorch_model.bin")
    for read in (open_checkpoint, pyengine.load):
        with pytest.raises(PyengineError, match=f"{name}: expected .*found a file; give its directory, {tmp_path}/x$"):
            read(tmp_path / "x" / name)


@pytest.mark.parametrize("name", ("config.json", "generation_config.json", "model.safetensors", "source.spm"))
def test_a_git_lfs_pointer_in_place_of_a_file(tmp_path: Path, name: str) -> None:
    checkpoint = checkpoint_with_tokenizer(tmp_path / "x")
    (checkpoint / name).write_bytes(POINTER)
    with pytest.raises(PyengineError, match=f"{name}: a Git LFS pointer in place of the file; `git lfs pull` fetches"):
        convert(checkpoint, tmp_path / "out")


def test_a_git_lfs_pointer_in_a_model_directory(tmp_path: Path) -> None:
    path = model_directory(tmp_path)
    (path / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(ModelFileError, match="model.safetensors: a Git LFS pointer in place of the file"):
        open_directory(path)


def test_a_training_checkpoint_is_to_be_converted(tmp_path: Path) -> None:
    handmade.write_checkpoint(tmp_path / "x")
    with pytest.raises(ModelFileError, match="a training checkpoint, .*convert it first"):
        pyengine.load(tmp_path / "x")
    (tmp_path / "x" / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ModelFileError, match="a training checkpoint"):
        pyengine.load(tmp_path / "x")
