"""model.safetensors: exact values, read when asked; every way to be damaged or hostile is its own error."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from pathlib import Path
from random import Random
from typing import Callable

import numpy as np
import pytest
import safetensors.numpy

from pyengine.checkpoints import open_weights
from pyengine.errors import CheckpointError, PyengineError, UnsupportedError

from . import handmade

VALUES = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)


def write(directory: Path, content: bytes) -> Path:
    (directory / "model.safetensors").write_bytes(content)
    return directory


@pytest.mark.parametrize("dtype", ("float32", "float16", "bfloat16", "float64"))
def test_values_are_exact(tmp_path: Path, dtype: str) -> None:
    expected = handmade.representable(VALUES, dtype)
    write(tmp_path, handmade.safetensors_bytes({"a": expected, "b": expected.T, "empty": VALUES[:0]}, dtype))
    weights = open_weights(tmp_path)
    assert list(weights) == ["a", "b", "empty"]
    assert (weights["a"].shape, weights["a"].dtype) == ((3, 5), dtype)
    for name, wanted in (("a", expected), ("b", expected.T), ("empty", VALUES[:0])):
        found = weights[name].read()
        assert found.dtype == np.float32 and found.flags.c_contiguous and found.flags.writeable
        np.testing.assert_array_equal(found, wanted)


def test_a_file_of_the_safetensors_library(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"x": VALUES}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(open_weights(tmp_path)["x"].read(), VALUES)


def test_opening_reads_no_tensor(tmp_path: Path) -> None:
    size = 1 << 34
    header = {"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    start = handmade.safetensors_file(header)
    write(tmp_path, start)
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(len(start) + size)  # sparse: takes no room
    tracemalloc.start()
    try:
        assert open_weights(tmp_path)["x"].shape == (size // 4,)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = bytes(8)
HOSTILE = {
    "empty": (b"", "empty file"),
    "seven bytes": (bytes(7), "truncated: 7 bytes"),
    "header beyond the file": (struct.pack("<Q", 100) + b"{}", "truncated: the header needs 108"),
    "header length of 2^64-1": (b"\xff" * 8 + b"{}", "header of 18446744073709551615 bytes"),
    "header above the limit": (struct.pack("<Q", 100_000_001) + b"{}", "header of 100000001 bytes"),
    "no header": (struct.pack("<Q", 0), "does not start with"),
    "a header that begins with a space": (handmade.safetensors_file(b" {}"), "does not start with"),
    "not JSON": (handmade.safetensors_file(b"{oops}"), "not valid JSON"),
    "not UTF-8": (handmade.safetensors_file(b'{"\xff": 1}'), "not UTF-8"),
    "nested very deep": (handmade.safetensors_file(b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "a number of a million digits": (
        handmade.safetensors_file(b'{"a":' + b"9" * 1_000_000 + b"}"),
        "not valid JSON|expected dtype",
    ),
    "a name twice": (handmade.safetensors_file(b'{"a": 1, "a": 2}'), "'a' occurs twice"),
    "entry is a list": (handmade.safetensors_file({"a": []}), "expected dtype, shape and data_offsets"),
    "entry without a shape": (handmade.safetensors_file({"a": {"dtype": "F32"}}), "expected dtype, shape"),
    "entry with more": (
        handmade.safetensors_file({"a": {**entry(), "x": 1}}, EIGHT),
        "expected dtype, shape",
    ),
    "unknown dtype": (handmade.safetensors_file({"a": entry("F33")}, EIGHT), "unknown dtype 'F33'"),
    "dtype is a list": (handmade.safetensors_file({"a": entry(["F32"])}, EIGHT), "unknown dtype"),
    "negative size": (handmade.safetensors_file({"a": entry(shape=[-2])}, EIGHT), "expected a shape"),
    "float size": (handmade.safetensors_file({"a": entry(shape=[2.0])}, EIGHT), "expected a shape"),
    "boolean size": (handmade.safetensors_file({"a": entry(shape=[True, 2])}, EIGHT), "expected a shape"),
    "too many dimensions": (
        handmade.safetensors_file({"a": entry(shape=[1] * 9 + [2])}, EIGHT),
        "expected a shape",
    ),
    "sizes that overflow": (
        handmade.safetensors_file({"a": entry(shape=[1 << 40, 1 << 40])}, EIGHT),
        "takes 4835703278458516698824704",
    ),
    "product that wraps to 8": (
        handmade.safetensors_file({"a": entry(shape=[(1 << 62) + 2, 4])}, EIGHT),
        "data_offsets span 8",
    ),
    "offsets reversed": (
        handmade.safetensors_file({"a": entry(offsets=[8, 0])}, EIGHT),
        "expected data_offsets",
    ),
    "one offset": (handmade.safetensors_file({"a": entry(offsets=[8])}, EIGHT), "expected data_offsets"),
    "negative offset": (
        handmade.safetensors_file({"a": entry(offsets=[-8, 0])}, EIGHT),
        "expected data_offsets",
    ),
    "span of another size": (
        handmade.safetensors_file({"a": entry(offsets=[0, 4])}, EIGHT),
        "takes 8 bytes, data_offsets span 4",
    ),
    "truncated data": (handmade.safetensors_file({"a": entry()}, bytes(7)), "truncated"),
    "bytes after the data": (
        handmade.safetensors_file({"a": entry()}, bytes(9)),
        "bytes after the last tensor",
    ),
    "overlap": (
        handmade.safetensors_file({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
        "overlaps",
    ),
    "same place": (handmade.safetensors_file({"a": entry(), "b": entry()}, EIGHT), "overlaps"),
    "gap": (
        handmade.safetensors_file({"a": entry(), "b": entry(offsets=[9, 17])}, bytes(17)),
        "leaves a gap",
    ),
    "gap at the start": (handmade.safetensors_file({"a": entry(offsets=[1, 9])}, bytes(9)), "leaves a gap"),
    "metadata of numbers": (handmade.safetensors_file({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata is a list": (handmade.safetensors_file({"__metadata__": []}), "__metadata__"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(tmp_path: Path, name: str) -> None:
    content, message = HOSTILE[name]
    with pytest.raises(CheckpointError, match=message) as info:
        open_weights(write(tmp_path, content))
    assert "model.safetensors" in str(info.value) and len(str(info.value)) < 1000


@pytest.mark.parametrize("make", (os.mkdir, os.mkfifo))
@pytest.mark.parametrize("name", ("model.safetensors", "pytorch_model.bin"))
def test_another_kind_of_entry_in_place_of_the_file(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match="expected a regular file"):
        open_weights(tmp_path)


def test_other_types_are_listed_but_not_read(tmp_path: Path) -> None:
    weights = open_weights(write(tmp_path, handmade.safetensors_bytes({"a": VALUES}, "int64")))
    with pytest.raises(UnsupportedError, match="tensor a: type I64"):
        weights["a"].read()


def test_float64_is_rounded(tmp_path: Path) -> None:
    values = np.array([1 / 3, 1 + 2.0**-24, 1 + 2.0**-23 + 2.0**-24, 1e-300, -3.4e38])
    write(tmp_path, handmade.safetensors_bytes({"a": values}, "float64"))
    np.testing.assert_array_equal(open_weights(tmp_path)["a"].read(), values.astype(np.float32))
    write(tmp_path, handmade.safetensors_bytes({"a": np.array([0, 1e39])}, "float64"))
    with pytest.raises(CheckpointError, match=r"tensor a: expected finite numbers, found inf at \[1\]"):
        open_weights(tmp_path)["a"].read()


def test_minus_infinity_where_it_is_allowed(tmp_path: Path) -> None:
    values = np.array([1, -np.inf, 2, -np.inf], np.float32)
    write(tmp_path, handmade.safetensors_bytes({"a": values, "b": np.append(values, np.nan), "c": -values}))
    weights = open_weights(tmp_path)
    np.testing.assert_array_equal(weights["a"].read(minus_infinity=True), values)
    for name, message in (("b", r"found nan at \[4\]"), ("c", r"found inf at \[1\]")):
        with pytest.raises(CheckpointError, match=message):
            weights[name].read(minus_infinity=True)


@pytest.mark.parametrize("dtype", ("float32", "float16", "bfloat16"))
@pytest.mark.parametrize("values", ((np.nan,), (np.inf,), (-np.inf,), (np.inf, -np.inf)))
def test_values_that_are_not_finite(tmp_path: Path, dtype: str, values: tuple[float, ...]) -> None:
    bad = np.ones((4, 6), np.float32)
    bad[2, 3 : 3 + len(values)] = values
    weights = open_weights(write(tmp_path, handmade.safetensors_bytes({"fine": VALUES, "bad": bad}, dtype)))
    weights["fine"].read()
    with pytest.raises(
        CheckpointError, match=r"tensor bad: expected finite numbers, found -?(nan|inf) at \[2, 3\]"
    ):
        weights["bad"].read()


def test_the_largest_values_are_finite(tmp_path: Path) -> None:
    large = np.full((64, 64), np.finfo(np.float32).max)
    weights = open_weights(write(tmp_path, handmade.safetensors_bytes({"a": large})))
    np.testing.assert_array_equal(weights["a"].read(), large)


def test_mutations_give_an_error_or_readable_tensors(tmp_path: Path) -> None:
    random = Random(1)
    original = handmade.safetensors_bytes({"a": VALUES, "b": VALUES[0], "c": VALUES[:, :2]})
    json.loads(original[8 : 8 + struct.unpack("<Q", original[:8])[0]])
    refused = 0
    for _ in range(800):
        content = bytearray(original)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(min(len(content), 260))
            action = random.randrange(4)
            if action == 0:
                content[at] = random.randrange(256)
            elif action == 1:
                content[at] ^= 1 << random.randrange(8)
            elif action == 2:
                del content[at : at + random.randint(1, 40)]
            else:
                content[at:at] = random.choice((b"9", b"-", b"0", b"]", b"[", b'"', b"e9", b"null"))
        write(tmp_path, bytes(content))
        try:
            for tensor in open_weights(tmp_path).values():
                assert (
                    tensor.dtype not in ("float32", "float16", "bfloat16")
                    or tensor.read().shape == tensor.shape
                )
        except PyengineError:
            refused += 1
    assert refused > 250
