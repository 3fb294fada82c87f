"""pytorch_model.bin: exact values through any strides; archives that are damaged, hostile or old."""

from __future__ import annotations

import io
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from random import Random
from typing import Callable

import numpy as np
import pytest

from pyengine.checkpoints import open_weights
from pyengine.errors import CheckpointError, PyengineError, UnsupportedError

from . import handmade

VALUES = np.arange(24, dtype=np.float32).reshape(4, 6) - 7


def members(items: dict[str, bytes], storages: dict[str, bytes]) -> dict[str, bytes]:
    return {
        "archive/data.pkl": handmade.state_dict(items),
        **{f"archive/data/{key}": content for key, content in storages.items()},
    }


def one(
    offset: int = 0, shape: tuple[int, ...] = (4, 6), strides: tuple[int, ...] = (6, 1)
) -> dict[str, bytes]:
    """An archive with one storage of 24 numbers and one view of it."""
    stored = handmade.storage("0", "FloatStorage", 24)
    return members(
        {"a": handmade.tensor(stored, offset, shape, strides)}, {"0": handmade.encode(VALUES, "float32")}
    )


def write(directory: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    handmade.write_zip(directory / "pytorch_model.bin", content, compression)
    return directory


@pytest.mark.parametrize("write_file", [handmade.write_torch, handmade.write_legacy], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("dtype", ("float32", "float16", "bfloat16", "float64"))
def test_values_are_exact(tmp_path: Path, dtype: str, write_file: Callable[..., None]) -> None:
    write_file(tmp_path / "pytorch_model.bin", {"a": VALUES, "b": VALUES[0], "empty": VALUES[:0]}, dtype)
    weights = open_weights(tmp_path)
    assert list(weights) == ["a", "b", "empty"]
    assert (weights["a"].shape, weights["a"].dtype) == ((4, 6), dtype)
    for name, wanted in (("a", VALUES), ("b", VALUES[0]), ("empty", VALUES[:0])):
        found = weights[name].read()
        assert found.dtype == np.float32 and found.flags.c_contiguous
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("top", ("archive", "pytorch_model", "a b"))
def test_any_top_directory_and_no_byteorder(tmp_path: Path, top: str) -> None:
    content = {name.replace("archive", top): value for name, value in one().items()}
    np.testing.assert_array_equal(open_weights(write(tmp_path, content))["a"].read(), VALUES)


def test_tensors_share_a_storage_through_strides(tmp_path: Path) -> None:
    stored = handmade.storage("0", "FloatStorage", 24)
    items = {
        "all": handmade.tensor(stored, 0, (4, 6), (6, 1)),
        "transposed": handmade.tensor(stored, 0, (6, 4), (1, 6)),
        "column": handmade.tensor(stored, 2, (4,), (6,)),
        "every other": handmade.tensor(stored, 1, (2, 3), (12, 2)),
        "scalar": handmade.tensor(stored, 23, (), ()),
        "same": handmade.tensor(stored, 0, (4, 6), (6, 1)),
    }
    weights = open_weights(write(tmp_path, members(items, {"0": handmade.encode(VALUES, "float32")})))
    expected = (VALUES, VALUES.T, VALUES[:, 2], VALUES[::2, 1::2], VALUES[3, 5], VALUES)
    for name, wanted in zip(items, expected):
        np.testing.assert_array_equal(weights[name].read(), wanted)
    assert weights["all"].same_storage(weights["same"]) and not weights["all"].same_storage(
        weights["transposed"]
    )


def test_parameters_are_their_tensors(tmp_path: Path) -> None:
    plain = handmade.tensor(handmade.storage("0", "FloatStorage", 24), 0, (4, 6), (6, 1))
    wrapped = b"ctorch._utils\n_rebuild_parameter\n(" + plain + b"\x88" + handmade.ORDERED_DICT + b"tR"
    content = members({"a": wrapped}, {"0": handmade.encode(VALUES, "float32")})
    np.testing.assert_array_equal(open_weights(write(tmp_path, content))["a"].read(), VALUES)


def test_a_value_that_is_not_finite_is_named(tmp_path: Path) -> None:
    bad = VALUES.copy()
    bad[1, 4] = np.nan
    handmade.write_torch(tmp_path / "pytorch_model.bin", {"a": bad})
    with pytest.raises(CheckpointError, match=r"tensor a: expected finite numbers, found nan at \[1, 4\]"):
        open_weights(tmp_path)["a"].read()


# Views that do not fit, and numbers that are no sizes.


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    (
        (1, (4, 6), (6, 1)),
        (24, (1,), (1,)),
        (1 << 62, (1,), (1,)),
        (0, (4, 7), (7, 1)),
        (0, (4, 6), (7, 1)),
        (0, (2, 2), (1 << 62, 1)),
        (0, (1 << 40,), (0,)),  # 4 TB of one number
        (0, (50, 50), (0, 0)),  # more than the file has bytes
        (25, (0,), (1,)),
        (-1, (4,), (1,)),
        (23, (4,), (-1,)),
        (0, (-4, -6), (6, 1)),
        (0, (4, 6), (6,)),
        (0, (1,) * 9, (1,) * 9),
    ),
)
def test_a_view_outside_its_storage(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    with pytest.raises(CheckpointError, match="does not fit a storage of 24|a tensor of size"):
        open_weights(write(tmp_path, one(offset, shape, strides)))


PICKLES: dict[str, tuple[bytes, str]] = {
    "a view of nothing": (handmade.tensor(b"N", 0, (1,), (1,)), "a tensor without a storage"),
    "a size that is no number": (
        handmade.tensor(handmade.storage("0", "FloatStorage", 24), 0, b"G\x3f\xf0\0\0\0\0\0\0\x85", (1,)),
        r"a tensor of size \(1.0,\)",
    ),
    "storage that is missing": (
        handmade.tensor(handmade.storage("7", "FloatStorage", 24), 0, (1,), (1,)),
        "storage '7' is not in the file",
    ),
    "storage outside data/": (
        handmade.tensor(handmade.storage("../data.pkl", "FloatStorage", 24), 0, (1,), (1,)),
        "is not in the file",
    ),
    "storage of another size": (
        handmade.tensor(handmade.storage("0", "FloatStorage", 25), 0, (1,), (1,)),
        "96 bytes in the file, expected 25",
    ),
    "storage of another type": (
        handmade.tensor(handmade.storage("0", "DoubleStorage", 24), 0, (1,), (1,)),
        "expected 24 elements of 8",
    ),
    "storage of an unknown type": (
        handmade.tensor(handmade.storage("0", "QInt8Storage", 24), 0, (1,), (1,)),
        "unknown storage type torch.QInt8Storage",
    ),
    "another persistent id": (handmade.text("x") + b"Q", "unknown persistent id 'x'"),
    "storage of two sizes": (
        b"(" + b"".join(handmade.storage("0", "FloatStorage", count) for count in (24, 12)) + b"t",
        "storage '0' has two types or sizes",
    ),
    "storage that is a view": (
        handmade.tensor(handmade.storage("0", "FloatStorage", 24, view=b"K\x01"), 0, (1,), (1,)),
        "unknown persistent id",
    ),
    "a number and no tensor": (b"K\x01", "expected tensors by name, found only 'a'$"),
    "a dict and no tensor": (b"}", "expected tensors by name, found only 'a'$"),
    "a sparse tensor": (
        b"ctorch._utils\n_rebuild_sparse_tensor\n)R",
        "torch._utils._rebuild_sparse_tensor with 0 arguments is not allowed",
    ),
    "an ordered dict of arguments": (b"ccollections\nOrderedDict\nK\x01\x85R", "not allowed"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_of_something_else(tmp_path: Path, name: str) -> None:
    value, message = PICKLES[name]
    with pytest.raises(CheckpointError, match=message):
        open_weights(write(tmp_path, members({"a": value}, {"0": handmade.encode(VALUES, "float32")})))


def test_something_behind_the_pickle(tmp_path: Path) -> None:
    content = one()
    content["archive/data.pkl"] += b"N"
    with pytest.raises(CheckpointError, match="data.pkl: something follows the value"):
        open_weights(write(tmp_path, content))


def test_a_pickle_that_is_no_dict(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a dict of tensors, found list"):
        open_weights(write(tmp_path, {"archive/data.pkl": b"\x80\x02]."}))


# Archives.


def overlapping(content: bytes) -> bytes:
    """The second member's entry in the central directory points into the first member."""
    at = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", at + 4)
    return content[: second + 42] + struct.pack("<I", 4) + content[second + 46 :]


def sized(content: bytes, size: int) -> bytes:
    """Every entry of the central directory claims ``size`` bytes."""
    at = content.index(b"PK\x01\x02")
    while at >= 0:
        content = content[: at + 20] + struct.pack("<II", size, size) + content[at + 28 :]
        at = content.find(b"PK\x01\x02", at + 4)
    return content


def flagged(content: bytes) -> bytes:
    at = content.index(b"PK\x01\x02")
    return content[: at + 8] + b"\x01\x00" + content[at + 10 :]


def repeated(content: bytes) -> bytes:
    return content.replace(b"archive/data/0", b"archive/data/1")


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda c: b"", "empty file"),
    "not a zip file": (lambda c: b"hello" * 100, "not a readable zip file"),
    "truncated": (lambda c: c[: len(c) // 2], "not a readable zip file"),
    "without its start": (lambda c: c[40:], "no member begins|not a readable zip file"),
    "overlapping members": (overlapping, "no member begins|overlaps"),
    "members beyond the file": (lambda c: sized(c, 1 << 30), "truncated"),
    "zip64 sizes without their field": (lambda c: sized(c, 0xFFFFFFFF), "truncated|not a readable zip file"),
    "encrypted": (flagged, "compressed or encrypted"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_archive(tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    path = write(tmp_path, one()) / "pytorch_model.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        open_weights(tmp_path)


def test_a_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    handmade.write_zip(path, {**one(), "archive/data/1": b"other"})
    path.write_bytes(path.read_bytes().replace(b"archive/data/1", b"archive/data/0"))
    with pytest.raises(CheckpointError, match="occurs twice"):
        open_weights(tmp_path)


def test_members_that_share_their_bytes(tmp_path: Path) -> None:
    """Both entries point at one local header: as good as an overlap."""
    path = tmp_path / "pytorch_model.bin"
    handmade.write_zip(path, {**one(), "archive/data/1": b"other"})
    content = path.read_bytes()
    first = content.index(b"PK\x01\x02")
    starts = [at for at in range(first, len(content)) if content[at : at + 4] == b"PK\x01\x02"]
    zero = content[starts[1] + 42 : starts[1] + 46]
    path.write_bytes(content[: starts[2] + 42] + zero + content[starts[2] + 46 :])
    with pytest.raises(CheckpointError, match="overlaps"):
        open_weights(tmp_path)


def test_a_compressed_archive(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="data.pkl'?: compressed or encrypted"):
        open_weights(write(tmp_path, one(), zipfile.ZIP_DEFLATED))


def test_a_zip_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("archive/data.pkl", "w") as file:
            for _ in range(100):
                file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="compressed"):
            open_weights(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("names", "found"),
    (
        (("archive/version",), 0),
        (("a/data.pkl", "b/data.pkl"), 2),
        (("a/b/data.pkl",), 0),
        (("data.pkl",), 0),
    ),
)
def test_where_the_pickle_is(tmp_path: Path, names: tuple[str, ...], found: int) -> None:
    with pytest.raises(CheckpointError, match=f"expected one data.pkl .*, found {found}"):
        open_weights(write(tmp_path, {name: b"\x80\x02}." for name in names}))


def test_a_large_pickle_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="data.pkl of 67108865 bytes"):
        open_weights(write(tmp_path, {"archive/data.pkl": bytes((64 << 20) + 1)}))


# Formats that are refused by name.


def test_the_old_tar_format(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "pytorch_model.bin", "w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo("pickle")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"\x80\x02}."))
    with pytest.raises(UnsupportedError, match="torch's old tar format"):
        open_weights(tmp_path)


def test_a_raw_pickle(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04}.")
    with pytest.raises(UnsupportedError, match="a raw pickle, expected what torch.save writes"):
        open_weights(tmp_path)


def test_torchscript(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="TorchScript"):
        open_weights(write(tmp_path, {**one(), "archive/constants.pkl": b"\x80\x02)."}))


def test_big_endian(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="byte order b'big'"):
        open_weights(write(tmp_path, {**one(), "archive/byteorder": b"big"}))


def test_mutations_give_an_error_or_readable_tensors(tmp_path: Path) -> None:
    random = Random(2)
    path = tmp_path / "pytorch_model.bin"
    handmade.write_torch(path, {"a": VALUES, "b": VALUES[0]})
    original = path.read_bytes()
    refused = 0
    for _ in range(800):
        content = bytearray(original)
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(content))
            content[at] = random.choice(
                (0, 255, content[at] ^ (1 << random.randrange(8)), random.randrange(256))
            )
        if random.random() < 0.2:
            del content[random.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            for tensor in open_weights(tmp_path).values():
                assert tensor.read().shape == tensor.shape
        except PyengineError:
            refused += 1
    assert refused > 250
