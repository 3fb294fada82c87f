"""Which file of a checkpoint is read, and checkpoints in several files named by an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine.checkpoints import open_weights
from pyengine.errors import CheckpointError, UnsupportedError

from . import handmade

A, B, C = (np.full((2, 3), value, np.float32) for value in (1, 2, 3))
NAMES = {
    "model.safetensors": ("one.safetensors", "two.safetensors"),
    "pytorch_model.bin": ("one.bin", "two.bin"),
}
CONTAINERS = tuple(NAMES)


def write_shard(path: Path, tensors: dict[str, np.ndarray]) -> None:
    if path.suffix == ".bin":
        handmade.write_torch(path, tensors)
    else:
        path.write_bytes(handmade.safetensors_bytes(tensors))


def write_index(directory: Path, container: str, weight_map: Any) -> None:
    content = {"metadata": {"total_size": 72}, "weight_map": weight_map}
    (directory / f"{container}.index.json").write_text(json.dumps(content))


def shards(directory: Path, container: str) -> dict[str, str]:
    one, two = NAMES[container]
    write_shard(directory / one, {"a": A, "c": C})
    write_shard(directory / two, {"b": B})
    return {"a": one, "b": two, "c": one}


@pytest.mark.parametrize("container", CONTAINERS)
def test_tensors_of_all_shards(tmp_path: Path, container: str) -> None:
    write_index(tmp_path, container, shards(tmp_path, container))
    weights = open_weights(tmp_path)
    assert sorted(weights) == ["a", "b", "c"]
    for name, wanted in zip("abc", (A, B, C)):
        np.testing.assert_array_equal(weights[name].read(), wanted)


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_files_say_what_there_is(tmp_path: Path, container: str) -> None:
    """As in transformers: an index may name a tied tensor that no file has, and miss or misplace others."""
    one, two = NAMES[container]
    shards(tmp_path, container)
    write_index(tmp_path, container, {"a": one, "b": one, "d": two})
    weights = open_weights(tmp_path)
    assert sorted(weights) == ["a", "b", "c"]
    np.testing.assert_array_equal(weights["b"].read(), B)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_tensor_in_two_files(tmp_path: Path, container: str) -> None:
    one, two = NAMES[container]
    write_shard(tmp_path / one, {"a": A, "b": B})
    write_shard(tmp_path / two, {"a": C, "c": C})
    for file, wanted in ((one, A), (two, C)):
        write_index(tmp_path, container, {"a": file, "b": one, "c": two})
        np.testing.assert_array_equal(open_weights(tmp_path)["a"].read(), wanted)
    write_index(tmp_path, container, {"b": one, "c": two})
    with pytest.raises(CheckpointError, match=f"index.json: tensor 'a' is in {one} and {two}, expected one file"):
        open_weights(tmp_path)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("folder", ("shards", "a/b", "./shards"))
def test_shards_in_a_folder(tmp_path: Path, container: str, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    places = shards(tmp_path / folder, container)
    write_index(tmp_path, container, {name: f"{folder}/{file}" for name, file in places.items()})
    weights = open_weights(tmp_path)
    for name, wanted in zip("abc", (A, B, C)):
        np.testing.assert_array_equal(weights[name].read(), wanted)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "file",
    (
        "../one", "/etc/passwd", "sub/../../one", "sub/..", "..", ".", "", "..\\one", "C:one", "one\0", 7, None, ["one"]
    ),
)  # fmt: skip
def test_a_shard_outside_the_directory(tmp_path: Path, container: str, file: Any) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    write_index(inside, container, {**shards(inside, container), "x": file})
    with pytest.raises(
        CheckpointError, match=r"weight_map\['x'\]: expected the name of a file in this directory"
    ):
        open_weights(inside)


def test_a_link_of_a_download_cache(tmp_path: Path) -> None:
    """Hugging Face's cache keeps the bytes elsewhere and links to them."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    write_shard(tmp_path / "blobs" / "0f", {"a": A})
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/0f")
    np.testing.assert_array_equal(open_weights(tmp_path / "snapshot")["a"].read(), A)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", ("{}", "{}.index.json"))
def test_a_link_to_nothing_is_no_absence(tmp_path: Path, container: str, name: str) -> None:
    """A cache that was cleaned in part: other weights are not taken in place of those that were meant."""
    write_shard(tmp_path / "pytorch_model.bin.old", {"a": A})
    (tmp_path / name.format(container)).symlink_to("../blobs/0f")
    if container == "model.safetensors":
        (tmp_path / "pytorch_model.bin.old").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=f"{name.format(container)}: a link to '../blobs/0f', which is not there"):
        open_weights(tmp_path)


@pytest.mark.parametrize("prefix", ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."))
def test_names_without_wrappers(tmp_path: Path, prefix: str) -> None:
    write_shard(tmp_path / "model.safetensors", {f"{prefix}model.a": A, f"{prefix}model.layer._orig_mod.b": B})
    weights = open_weights(tmp_path)
    assert list(weights) == ["model.a", "model.layer.b"]
    np.testing.assert_array_equal(weights["model.layer.b"].read(), B)
    assert weights["model.a"].name == f"{prefix}model.a"  # as the file has it, for messages
    write_shard(tmp_path / "model.safetensors", {f"{prefix}a": A, "a": B})
    with pytest.raises(CheckpointError, match=f"tensors {prefix}a and a: expected one of them"):
        open_weights(tmp_path)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_missing_shard(tmp_path: Path, container: str) -> None:
    write_index(tmp_path, container, shards(tmp_path, container))
    (tmp_path / NAMES[container][1]).unlink()
    with pytest.raises(CheckpointError, match=f"{NAMES[container][1]}: cannot be read: No such file"):
        open_weights(tmp_path)


@pytest.mark.parametrize("weight_map", ([], {}, "x", None))
def test_an_index_without_a_map(tmp_path: Path, weight_map: Any) -> None:
    write_index(tmp_path, "model.safetensors", weight_map)
    with pytest.raises(CheckpointError, match="weight_map: expected an object"):
        open_weights(tmp_path)


@pytest.mark.parametrize("content", (b"", b"[]", b"{", b"\xff", b'{"a": 1, "a": 2}'))
def test_an_index_that_is_no_object(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="model.safetensors.index.json"):
        open_weights(tmp_path)


def test_safetensors_win_over_torch(tmp_path: Path) -> None:
    write_shard(tmp_path / "pytorch_model.bin", {"a": A})
    write_index(tmp_path, "model.safetensors", shards(tmp_path, "model.safetensors"))
    assert sorted(open_weights(tmp_path)) == ["a", "b", "c"]
    write_shard(tmp_path / "model.safetensors", {"b": B})
    assert list(open_weights(tmp_path)) == ["b"]


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights; expected model.safetensors or"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "name", ("tf_model.h5", "flax_model.msgpack", "model.npz", "m.gguf", "rust_model.ot")
)
def test_weights_of_another_container(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UnsupportedError, match=f"weights only in {name}"):
        open_weights(tmp_path)
