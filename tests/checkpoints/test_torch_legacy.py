"""pytorch_model.bin from before torch 1.6: exact values; files that are damaged or hostile."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from random import Random

import numpy as np
import pytest

from pyengine.checkpoints import open_weights
from pyengine.errors import CheckpointError, PyengineError, UnsupportedError

from . import handmade

VALUES = np.arange(24, dtype=np.float32).reshape(4, 6) - 7


def parts(**changes: bytes) -> dict[str, bytes]:
    """A file with one storage of 24 numbers and two views of it, changed in some of its parts."""
    stored = handmade.storage("94120", "FloatStorage", 24, view=b"N")
    items = {
        "a": handmade.tensor(stored, 0, (4, 6), (6, 1)),
        "b": handmade.tensor(stored, 6, (6, 2), (1, 6)),
    }
    return {**handmade.legacy_parts(items, {"94120": handmade.encode(VALUES, "float32")}), **changes}


def write(directory: Path, content: dict[str, bytes]) -> Path:
    (directory / "pytorch_model.bin").write_bytes(b"".join(content.values()))
    return directory


def test_tensors_share_a_storage_through_strides(tmp_path: Path) -> None:
    weights = open_weights(write(tmp_path, parts()))
    np.testing.assert_array_equal(weights["a"].read(), VALUES)
    np.testing.assert_array_equal(weights["b"].read(), VALUES[1:3].T)


def keys(*names: object) -> bytes:
    return pickle.dumps(list(names), protocol=2)


def numbers(count: int, data: bytes) -> bytes:
    return struct.pack("<q", count) + data


DATA = handmade.encode(VALUES, "float32")
DAMAGED: dict[str, tuple[dict[str, bytes], type[PyengineError], str]] = {
    "another version": ({"version": b"\x80\x02M\xea\x03."}, UnsupportedError, "protocol version 1002, expected 1001"),
    "big-endian": (
        {"system": pickle.dumps({"little_endian": False}, protocol=2)}, UnsupportedError, "expected little-endian"
    ),
    "nothing of the system": ({"system": b"\x80\x02N."}, UnsupportedError, "expected little-endian"),
    "a state that is no dict": ({"state": b"\x80\x02]."}, CheckpointError, "keys of 0 storages"),
    "no dict, no storage": (
        {"state": b"\x80\x02].", "keys": keys(), "storages": b""},
        CheckpointError,
        "expected a dict of tensors, found list",
    ),
    "keys that are no list": ({"keys": b"\x80\x02N."}, CheckpointError, "keys of 1 storages, found None"),
    "no key": ({"keys": keys()}, CheckpointError, "keys of 1 storages"),
    "another key": ({"keys": keys("7")}, CheckpointError, "keys of 1 storages"),
    "a key twice": ({"keys": keys("94120", "94120")}, CheckpointError, "keys of 1 storages"),
    "a key that is a number": ({"keys": keys(94120)}, CheckpointError, "keys of 1 storages"),
    "another number of elements": (
        {"storages": numbers(23, DATA)}, CheckpointError, "23 elements in the file, expected 24"
    ),
    "a negative number of elements": ({"storages": numbers(-1, DATA)}, CheckpointError, "-1 elements in the file"),
    "too few bytes": ({"storages": numbers(24, DATA[:-1])}, CheckpointError, "truncated: storage '94120' ends at byte"),
    "too many bytes": ({"storages": numbers(24, DATA + b"x")}, CheckpointError, "something follows the last storage"),
    "no storages": ({"storages": b""}, CheckpointError, "truncated"),
    "nothing behind the state": ({"keys": b"", "storages": b""}, CheckpointError, "its pickles: truncated"),
    "a storage beyond any file": (
        {"state": handmade.state_dict({"a": handmade.storage("94120", "FloatStorage", 1 << 62, view=b"N")})},
        CheckpointError,
        "truncated: storage '94120' ends at byte",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file(tmp_path: Path, name: str) -> None:
    changes, error, message = DAMAGED[name]
    with pytest.raises(error, match=f"pytorch_model.bin: .*{message}"):
        open_weights(write(tmp_path, parts(**changes)))


@pytest.mark.parametrize("part", ("system", "state", "keys"))
def test_no_function_is_called(tmp_path: Path, part: str) -> None:
    target = tmp_path / "made"
    content = parts(**{part: handmade.bomb(2, os.mkdir, str(target))})
    with pytest.raises(CheckpointError, match="is not allowed; only tensors are built"):
        open_weights(write(tmp_path, content))
    assert not target.exists()


def test_a_whole_pickled_model(tmp_path: Path) -> None:
    """torch put the source of each class before its objects."""
    name = "ctransformers.modeling_marian\nMarianMTModel\n"
    kind = b"(" + handmade.text("module") + name.encode() + handmade.text("marian.py") + handmade.text("class") + b"tQ"
    with pytest.raises(UnsupportedError, match="MarianMTModel.*: a whole pickled model"):
        open_weights(write(tmp_path, parts(state=b"\x80\x02" + kind + b")\x81}b.")))


def test_a_shard(tmp_path: Path) -> None:
    handmade.write_legacy(tmp_path / "one.bin", {"a": VALUES})
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "one.bin"}}')
    np.testing.assert_array_equal(open_weights(tmp_path)["a"].read(), VALUES)


def test_mutations_give_an_error_or_readable_tensors(tmp_path: Path) -> None:
    random = Random(2)
    original = b"".join(parts().values())
    refused = 0
    for _ in range(800):
        content = bytearray(original)
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(content))
            content[at] = random.choice((0, 255, content[at] ^ (1 << random.randrange(8)), random.randrange(256)))
        if random.random() < 0.2:
            del content[random.randrange(len(content)) :]
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        try:
            for tensor in open_weights(tmp_path).values():
                assert tensor.read().shape == tensor.shape
        except PyengineError:
            refused += 1
    assert refused > 250
