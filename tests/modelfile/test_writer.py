"""Writing a model directory: whole or not at all, and never over something else."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest

from pyengine.errors import ModelFileError, OptionError, TokenizerError
from pyengine.modelfile import open_directory, packed_specs, write_directory

from . import directories

DTYPES = {"I8": np.int8, "F32": np.float32}
Pairs = list[tuple[str, np.ndarray]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arguments of write_directory for a tiny model."""
    model = open_directory(directories.model_directory(tmp_path_factory.mktemp("parts")))
    names = ("source.spm", "target.spm", "vocab.json")
    return {
        "config": model.config,
        "weights": model.weights,
        "generation": model.generation,
        "tensors": list(model.tensors.items()),
        "tokenizer": "sentencepiece",
        "tokenizer_files": {name: model.path / name for name in names},
        "created_by": "pyengine test",
    }


def test_what_is_written_is_read_back(parts: dict[str, Any], tmp_path: Path) -> None:
    size = write_directory(tmp_path / "out", **parts)
    model = open_directory(tmp_path / "out", verify=True)
    assert (model.config, model.generation, model.created_by) == (
        parts["config"],
        parts["generation"],
        "pyengine test",
    )
    assert model.bytes == size
    for name, values in parts["tensors"]:
        np.testing.assert_array_equal(model.tensors[name], values)
    for name, source in parts["tokenizer_files"].items():
        assert (tmp_path / "out" / name).read_bytes() == source.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_tokenizer_files_that_are_made(parts: dict[str, Any], tmp_path: Path) -> None:
    files = {**parts["tokenizer_files"], "made.json": b"{}"}
    write_directory(tmp_path / "out", **{**parts, "tokenizer_files": files})
    assert (tmp_path / "out" / "made.json").read_bytes() == b"{}"
    assert open_directory(tmp_path / "out", verify=True).tokenizer_kind == "sentencepiece"


def test_the_same_model_gives_the_same_bytes(parts: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_directory(tmp_path / name, **parts)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_permissions_follow_the_mask(parts: dict[str, Any], tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_directory(tmp_path / "out", **parts)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "out" / "config.json").stat().st_mode) == 0o640


def test_an_empty_directory_is_filled(parts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_directory(tmp_path / "out", **parts)
    open_directory(tmp_path / "out")


def test_overwrite_replaces_a_model_directory(parts: dict[str, Any], tmp_path: Path) -> None:
    write_directory(tmp_path / "out", **parts)
    (tmp_path / "out" / "old").write_bytes(b"x")
    with pytest.raises(OptionError, match="out: exists; overwrite=True replaces it"):
        write_directory(tmp_path / "out", **parts)
    assert (tmp_path / "out" / "old").exists()
    write_directory(tmp_path / "out", overwrite=True, **parts)
    assert not (tmp_path / "out" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_else_is_ever_replaced(parts: dict[str, Any], tmp_path: Path) -> None:
    other, file, link = tmp_path / "other", tmp_path / "file", tmp_path / "link"
    other.mkdir()
    (other / "config.json").write_text('{"format": "else"}')
    file.write_bytes(b"precious")
    link.symlink_to("other")
    for path, message in (
        (other, "no model directory"),
        (file, "not a directory"),
        (link, "no model directory"),
        (tmp_path / "a" / "b", "does not exist"),
    ):
        for overwrite in (False, True):
            with pytest.raises(OptionError, match=message):
                write_directory(path, overwrite=overwrite, **parts)
    assert file.read_bytes() == b"precious" and [path.name for path in other.iterdir()] == ["config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "other"]


@pytest.mark.parametrize("overwrite", (False, True))
@pytest.mark.parametrize("existing", (True, False))
def test_files_that_appear_meanwhile_are_kept(
    parts: dict[str, Any], tmp_path: Path, overwrite: bool, existing: bool
) -> None:
    """In a target that was absent or empty when the packing began."""
    out = tmp_path / "out"
    if existing:
        out.mkdir()

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        yield from parts["tensors"]
        out.mkdir(exist_ok=True)
        (out / "precious").write_bytes(b"x")

    with pytest.raises(OptionError, match="out: exists, is not empty and is no model directory"):
        write_directory(out, overwrite=overwrite, **{**parts, "tensors": tensors()})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_a_model_that_appears_meanwhile_is_kept(parts: dict[str, Any], tmp_path: Path) -> None:
    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        yield from parts["tensors"]
        write_directory(tmp_path / "out", **parts)
        (tmp_path / "out" / "first").write_bytes(b"x")

    with pytest.raises(OptionError, match="out: exists; overwrite=True replaces it"):
        write_directory(tmp_path / "out", **{**parts, "tensors": tensors()})
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "first").exists()


def test_a_target_with_a_fifo_is_not_waited_for(parts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "config.json")
    with pytest.raises(OptionError, match="no model directory"):
        write_directory(tmp_path / "out", overwrite=True, **parts)


def interrupted(pairs: Pairs, after: int, error: type[BaseException]) -> Iterator[tuple[str, np.ndarray]]:
    yield from pairs[:after]
    raise error("stop")


@pytest.mark.parametrize("error", (KeyboardInterrupt, MemoryError, OSError, GeneratorExit))
@pytest.mark.parametrize("existing", (True, False))
def test_whatever_is_raised_leaves_nothing(
    parts: dict[str, Any], tmp_path: Path, error: type[BaseException], existing: bool
) -> None:
    if existing:
        write_directory(tmp_path / "out", **parts)
    tensors = interrupted(parts["tensors"], 5, error)
    with pytest.raises(error):
        write_directory(tmp_path / "out", overwrite=True, **{**parts, "tensors": tensors})
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if existing else [])
    if existing:
        open_directory(tmp_path / "out", verify=True)


def test_what_is_left_of_a_writer_that_was_killed_does_not_open(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a file has been written, the list of checksums too, before it has its name."""
    states, sync = [], os.fsync

    def look(descriptor: int) -> None:
        sync(descriptor)
        for folder in tmp_path.glob(".out.*"):
            if not (folder / "SHA256SUMS").exists():
                states.append(sum(1 for _ in folder.iterdir()))
                with pytest.raises(ModelFileError):
                    open_directory(folder)

    monkeypatch.setattr(os, "fsync", look)
    write_directory(tmp_path / "out", **parts)
    assert states == [1, 2, 3, 4, 5, 6, 7] == list(range(1, len(list((tmp_path / "out").iterdir())) + 1))


def test_a_missing_tokenizer_file_leaves_nothing(parts: dict[str, Any], tmp_path: Path) -> None:
    files = {**parts["tokenizer_files"], "vocab.json": tmp_path / "missing"}
    with pytest.raises(TokenizerError, match="missing: cannot be read: No such file"):
        write_directory(tmp_path / "out", **{**parts, "tokenizer_files": files})
    with pytest.raises(ModelFileError, match="a tokenizers tokenizer without tokenizer.json"):
        write_directory(tmp_path / "out", **{**parts, "tokenizer": "tokenizers"})
    assert not any(tmp_path.iterdir())


def wrong(pairs: Pairs) -> dict[str, Pairs]:
    name, values = pairs[1]  # a matrix
    return {
        "too few": pairs[:-1],
        "too many": [*pairs, ("extra", values)],
        "another order": [pairs[1], pairs[0], *pairs[2:]],
        "another shape": [pairs[0], (name, values[:, :1]), *pairs[2:]],
        "another type": [pairs[0], (name, values.astype(np.int16)), *pairs[2:]],
    }


@pytest.mark.parametrize("name", ("too few", "too many", "another order", "another shape", "another type"))
def test_tensors_that_do_not_fit_the_table(parts: dict[str, Any], tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match="model.safetensors: expected"):
        write_directory(tmp_path / "out", **{**parts, "tensors": wrong(parts["tensors"])[name]})
    assert not any(tmp_path.iterdir())


def test_any_memory_layout_is_stored_in_order(parts: dict[str, Any], tmp_path: Path) -> None:
    specs = packed_specs(parts["config"], parts["weights"])
    pairs = []
    for name, spec in specs.items():
        count = int(np.prod(spec.shape))
        reverse = np.arange(count).astype(DTYPES[spec.dtype]).reshape(spec.shape[::-1])
        pairs.append((name, reverse.transpose()))
    write_directory(tmp_path / "out", **{**parts, "tensors": pairs})
    tensors = open_directory(tmp_path / "out").tensors
    for name, values in pairs:
        np.testing.assert_array_equal(tensors[name], values)
