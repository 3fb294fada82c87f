"""GGUF files: what the package writes is read as the package reads it, and damaged or hostile files are refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import _type_traits

from pyengine.checkpoints.gguf import is_gguf, open_gguf
from pyengine.checkpoints.gguf_header import TYPES
from pyengine.errors import CheckpointError, PyengineError, UnsupportedError
from pyengine.formats import limits

from . import gguf_bytes as by_hand
from .gguf_bytes import ARRAY, BOOL, FLOAT32, INT16, TEXT, UINT8, UINT32, UINT64, array, tensor, text, typed

BLOCKS = [name for name, elements, _ in TYPES.values() if elements > 1]


def test_the_types_are_those_that_the_package_dequantizes() -> None:
    plain = {"F32", "F16", "F64"}
    assert {name for name, _, _ in TYPES.values()} == {kind.name for kind in _type_traits} | plain
    for number, (name, elements, size) in TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (elements, size)


def blocks_of(kind: gguf.GGMLQuantizationType, rows: int, columns: int) -> np.ndarray:
    """Random bytes of ``rows`` that dequantize to finite numbers."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(7)
    raw = generator.integers(0, 256, (rows * columns // elements, size), np.uint8)
    for _ in range(100):
        bad = ~np.isfinite(gguf.dequantize(raw, kind)).all(1)
        if not bad.any():
            break
        raw[bad] = generator.integers(0, 256, (bad.sum(), size), np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_blocks_of_every_type(tmp_path: Path, name: str) -> None:
    """More of them than are dequantized at a time."""
    kind = gguf.GGMLQuantizationType[name]
    raw = blocks_of(kind, 1030, 256)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "test")
    writer.add_tensor("before", np.arange(3, dtype=np.float32))
    writer.add_tensor("blocks", raw, raw_dtype=kind)
    write(writer)
    found = open_gguf(tmp_path / "x.gguf").tensors["blocks"]
    assert (found.dtype, found.shape) == (name, (1030, 256))
    values = found.read()
    assert values.dtype == np.float32 and values.tobytes() == gguf.dequantize(raw, kind).tobytes()


def test_plain_numbers(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "test")
    half = gguf.quantize(values, gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("a", values)
    writer.add_tensor("b", values.astype(np.float16))
    writer.add_tensor("c", half, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("d", values.astype(np.float64) + 1e-12)
    write(writer)
    tensors = open_gguf(tmp_path / "x.gguf").tensors
    assert [tensor.dtype for tensor in tensors.values()] == ["float32", "float16", "bfloat16", "float64"]
    np.testing.assert_array_equal(tensors["a"].read(), values)
    np.testing.assert_array_equal(tensors["b"].read(), values.astype(np.float16))
    np.testing.assert_array_equal(tensors["c"].read(), gguf.dequantize(half, gguf.GGMLQuantizationType.BF16))
    np.testing.assert_array_equal(tensors["d"].read(), values)
    assert tensors["a"].same_storage(tensors["a"]) and not tensors["a"].same_storage(tensors["b"])


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_values_of_every_type(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for name, value in (("uint8", 200), ("int8", -3), ("uint16", 60_000), ("int16", -300), ("uint32", 1 << 31)):
        getattr(writer, f"add_{name}")(name, value)
    for name, value in (("int32", -70_000), ("uint64", 1 << 63), ("int64", -(1 << 40)), ("float64", 0.1)):
        getattr(writer, f"add_{name}")(name, value)
    writer.add_float32("float32", 1e-5)
    writer.add_bool("bool", True)
    writer.add_string("text", "ä\n😀")
    writer.add_array("texts", ["a", "", "ö"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.25])
    writer.add_array("flags", [True, False])
    writer.add_custom_alignment(64)
    writer.add_tensor("a", np.ones(3, np.float32))
    write(writer)
    found = open_gguf(tmp_path / "x.gguf").metadata
    assert {key: value for key, value in found.items() if not key.startswith("general.")} == {
        "uint8": 200, "int8": -3, "uint16": 60_000, "int16": -300, "uint32": 1 << 31, "int32": -70_000,
        "uint64": 1 << 63, "int64": -(1 << 40), "float64": 0.1, "float32": 1e-5, "bool": True, "text": "ä\n😀",
        "texts": ["a", "", "ö"], "numbers": [1, -2, 3], "floats": [0.5, -1.25], "flags": [True, False],
    }  # fmt: skip
    assert found["bool"] is True and found["general.architecture"] == "llama"


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    bad = np.ones(32, np.float32)
    bad[5] = np.nan
    blocks = np.zeros((2, 34), np.uint8)
    blocks[1, :2] = np.array([np.inf], np.float16).view(np.uint8)
    blocks[1, 2] = 1
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "test")
    writer.add_tensor("a", bad)
    writer.add_tensor("b", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    write(writer)
    tensors = open_gguf(tmp_path / "x.gguf").tensors
    with pytest.raises(CheckpointError, match=r"x.gguf: tensor a: expected finite numbers, found nan at \[5\]"):
        tensors["a"].read()
    with pytest.raises(CheckpointError, match=r"x.gguf: tensor b: expected finite numbers, found inf at \[1, 0\]"):
        tensors["b"].read()


def test_what_begins_like_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"GGUF")
    (tmp_path / "y").write_bytes(b"GGU")
    assert is_gguf(tmp_path / "x")
    assert not is_gguf(tmp_path / "y") and not is_gguf(tmp_path) and not is_gguf(tmp_path / "z")


# Damaged and hostile files

ONE = {"a": typed(UINT32, 1)}
F32, Q8_0 = 0, 8
WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"GGUF", "truncated: its version ends at byte 8, the file has 4"),
    "another file": (b"GGML" + bytes(40), "not a GGUF file"),
    "version 1": (by_hand.file(ONE, version=1), "GGUF of version 1; expected version 2 or 3"),
    "version 4": (by_hand.file(ONE, version=4), "GGUF of version 4"),
    "big-endian": (by_hand.file(ONE, version=3 << 24), "a big-endian GGUF file"),
    "a lie about keys": (by_hand.file(ONE, counts=(0, 2)), "key 1 is empty"),
    "too many keys": (by_hand.file(ONE, counts=(0, 1 << 40)), "1099511627776 keys, at most 10000 are read"),
    "too many tensors": (by_hand.file(ONE, counts=(1 << 63, 1)), "9223372036854775808 tensors, at most 50000"),
    "a long key": (by_hand.file({}, [b"\xff" * 8], counts=(0, 1)), "truncated: key 0 ends at byte 18446744"),
    "a long text": (by_hand.file({"a": b"\x08\0\0\0" + b"\xff" * 7 + b"\0"}), "truncated: key 'a' ends at byte"),
    "a text of bytes": (by_hand.file({"a": typed(TEXT, b"\xff\xfe")}), "key 'a': expected UTF-8"),
    "a key twice": (
        by_hand.file({"a": typed(UINT32, 1) + text("a") + typed(UINT32, 2)}, counts=(0, 2)),
        "key 1 occurs twice: 'a'",
    ),
    "a type of a value": (by_hand.file({"a": b"\x0d\0\0\0"}), "key 'a': type 13 of a value is unknown"),
    "a nested array": (by_hand.file({"a": array(ARRAY, 1, bytes(40))}), "key 'a': an array of type 9"),
    "an unknown array": (by_hand.file({"a": array(99, 1, bytes(40))}), "key 'a': an array of type 99"),
    "a long array": (by_hand.file({"a": array(UINT64, 1 << 61, b"")}), "key 'a': arrays of more than 4000000 elements"),
    "a short array": (by_hand.file({"a": array(UINT64, 1 << 20, b"")}), "truncated: key 'a' ends at byte"),
    "a boolean": (by_hand.file({"a": typed(BOOL, 2)}), "key 'a': expected true or false, found 2"),
    "an alignment": (by_hand.file({"general.alignment": typed(UINT32, 12)}), "general.alignment: expected a power of"),
    "no alignment": (by_hand.file({"general.alignment": typed(UINT32, 0)}), "general.alignment: expected a power of"),
    "an alignment of text": (by_hand.file({"general.alignment": typed(TEXT, "32")}), "general.alignment: expected"),
    "a tensor twice": (by_hand.file({}, [tensor("t", [8], F32, 0)] * 2, bytes(64)), "tensor 't' occurs twice"),
    "no dimension": (by_hand.file({}, [tensor("t", [], F32, 0)], bytes(64)), "tensor 't': 0 dimensions"),
    "five dimensions": (by_hand.file({}, [tensor("t", [1] * 5, F32, 0)], bytes(64)), "tensor 't': 5 dimensions"),
    "a size of 0": (by_hand.file({}, [tensor("t", [3, 0], F32, 0)], bytes(64)), r"tensor 't': .*found \[3, 0\]"),
    "a truncated tensor": (by_hand.file({}, [tensor("t", [17], F32, 0)], bytes(64)), "tensor 't': truncated: F32"),
    "a huge tensor": (by_hand.file({}, [tensor("t", [1 << 63] * 4, F32, 0)], bytes(64)), "tensor 't': truncated: F32"),
    "an offset": (by_hand.file({}, [tensor("t", [1], F32, 32)], bytes(64)), "tensor 't': lies at 32 .* expected 0"),
    "an overlap": (
        by_hand.file({}, [tensor("s", [16], F32, 0), tensor("t", [1], F32, 32)], bytes(96)),
        "tensor 't': lies at 32 of the data, expected 64",
    ),
    "a part of a block": (by_hand.file({}, [tensor("t", [33], Q8_0, 0)], bytes(96)), "'t': rows of 33 elements"),
    "a type of a tensor": (by_hand.file({}, [tensor("t", [32], 4, 0)], bytes(96)), "tensor 't': type 4; supported: "),
    "integers": (by_hand.file({}, [tensor("t", [32], 26, 0)], bytes(128)), "tensor 't': type 26; supported: F32"),
    "one of several": (by_hand.file({"split.count": typed(UINT32, 3)}), "one of 3 files; .*--merge"),
}


@pytest.mark.parametrize("name", WRONG)
def test_damaged_files(tmp_path: Path, name: str) -> None:
    content, message = WRONG[name]
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises((CheckpointError, UnsupportedError), match=f"x.gguf: .*{message}"):
        open_gguf(tmp_path / "x.gguf")


def whole_file() -> bytes:
    keys = {
        "general.architecture": typed(TEXT, "llama"), "general.alignment": typed(UINT32, 64),
        "f": typed(FLOAT32, 0.5), "b": typed(BOOL, 1), "n": array(INT16, 3, bytes(6)),
        "t": array(TEXT, 2, text("ab") + text("c")),
    }  # fmt: skip
    tensors = [tensor("blk.0.a", [32, 2], Q8_0, 0), tensor("b", [5], F32, 128)]
    return by_hand.file(keys, tensors, bytes(128 + 20), alignment=64)


def test_every_truncation(tmp_path: Path) -> None:
    content = whole_file()
    (tmp_path / "x.gguf").write_bytes(content)
    assert len(open_gguf(tmp_path / "x.gguf").tensors) == 2
    for end in range(1, len(content)):
        (tmp_path / "x.gguf").write_bytes(content[:end])
        with pytest.raises(CheckpointError, match="x.gguf"):
            open_gguf(tmp_path / "x.gguf")


def peak_of(read: Callable[[], object]) -> int:
    """The most bytes that Python and NumPy had beside what there was; errors are fine."""
    tracemalloc.start()
    try:
        read()
    except PyengineError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def test_every_changed_byte(tmp_path: Path) -> None:
    """Whatever a byte of the header becomes, there is a typed error or a file, and no memory for a lie."""
    content = whole_file()

    def read() -> None:
        for stored in open_gguf(tmp_path / "x.gguf").tensors.values():
            stored.read()

    (tmp_path / "x.gguf").write_bytes(content)
    read()  # imports the package
    for at in range(len(content) - 148):
        for value in (1, 255):
            changed = bytearray(content)
            changed[at] = value
            (tmp_path / "x.gguf").write_bytes(changed)
            assert peak_of(read) < 1 << 19


ITEMS: dict[str, tuple[int, bytes]] = {
    "empty texts": (TEXT, text("")), "texts": (TEXT, text("ab")), "wide texts": (TEXT, text("a\U0001f600")),
    "bytes": (UINT8, b"\xff"), "short numbers": (INT16, b"\xff\x7f"), "long numbers": (UINT64, b"\xff" * 8),
}  # fmt: skip


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch) -> int:
    """By which limits are divided: the same by ratio, and sooner done."""
    share = 64
    for name in ("HEADER_BYTES", "ELEMENTS", "KEYS", "TENSORS"):
        limit = getattr(limits, f"GGUF_{name}") // share
        monkeypatch.setattr(f"pyengine.checkpoints.gguf_header.GGUF_{name}", limit)
    return share


@pytest.mark.parametrize("name", ITEMS)
def test_memory_of_arrays(tmp_path: Path, smaller: int, name: str) -> None:
    """As many elements as are read, in a header as large as is read."""
    kind, item = ITEMS[name]
    count = min(limits.GGUF_ELEMENTS // smaller, (limits.GGUF_HEADER_BYTES // smaller - 100) // len(item))
    (tmp_path / "x.gguf").write_bytes(by_hand.file({"a": array(kind, count, item * count)}))
    peak = peak_of(lambda: open_gguf(tmp_path / "x.gguf"))
    assert peak <= limits.EXPANSION * limits.GGUF_HEADER_BYTES // smaller


def test_memory_of_keys_and_tensors(tmp_path: Path, smaller: int) -> None:
    count = limits.GGUF_TENSORS // smaller
    keys = {f"{i:x}": typed(UINT64, (1 << 63) + i) for i in range(1, limits.GGUF_KEYS // smaller)}
    keys["general.alignment"] = typed(UINT32, 1)
    tensors = [tensor(f"{i:x}", [1, 1, 1, 1], F32, 4 * i) for i in range(count)]
    (tmp_path / "x.gguf").write_bytes(by_hand.file(keys, tensors, bytes(4 * count), alignment=1))
    found = []
    peak = peak_of(lambda: found.append(open_gguf(tmp_path / "x.gguf")))
    assert len(found[0].tensors) == count
    assert peak <= limits.EXPANSION * limits.GGUF_HEADER_BYTES // smaller


def test_a_header_that_is_too_large(tmp_path: Path) -> None:
    size = limits.GGUF_HEADER_BYTES
    with open(tmp_path / "x.gguf", "wb") as file:
        file.write(by_hand.file({"a": b"\x08\0\0\0" + size.to_bytes(8, "little")}))
        file.truncate(size + 100)
    with pytest.raises(CheckpointError, match="key 'a': in a header of more than 67108864 bytes"):
        open_gguf(tmp_path / "x.gguf")
