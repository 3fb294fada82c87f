"""Small hostile files: refused soon, or read in at most ten times the memory of the largest of their kind."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyengine.checkpoints import open_weights, torch_bin, torch_legacy, unpickle
from pyengine.errors import CheckpointError, PyengineError, TokenizerError
from pyengine.formats import limits
from pyengine.formats.strict_json import check_cost, parse_object
from pyengine.importers import open_checkpoint
from pyengine.text import open_tokenizer
from tests.checkpoints import handmade

EXAMPLE = Path(__file__).parents[2] / "examples" / "multi30k-de-en"
SMALL = 1 << 18  # a limit at which files are made that are read just so


def peak_of(read: Callable[[], Any]) -> tuple[int, Any]:
    """The most bytes that Python and NumPy had beside what there was, and the value or the error."""
    tracemalloc.start()
    try:
        value = read()
    except PyengineError as error:
        value = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, value


# JSON: (before, one item by its number, after); as many items as are accepted.
JSON: dict[str, tuple[str, Callable[[int], str], str]] = {
    "lists": ('{"a":[', lambda i: "[],", "0]}"),
    "objects": ('{"a":[', lambda i: "{},", "0]}"),
    "objects of one": ('{"a":[', lambda i: '{"":0},', "0]}"),
    "lists of one": ('{"a":[', lambda i: '["ab"],', "0]}"),
    "strings": ('{"a":[', lambda i: '"ab",', "0]}"),
    "zeros": ('{"a":[', lambda i: "0,", "0]}"),
    "numbers": ('{"a":[', lambda i: "-9.5,", "0]}"),
    "names": ("{", lambda i: f'"{i:x}":9,', '"":0}'),
    "names and texts": ("{", lambda i: f'"{i:x}":"{i:x}",', '"":0}'),
    "names and objects": ("{", lambda i: f'"{i:x}":{{"{i:x}":0}},', '"":0}'),
    "wide names": ("{", lambda i: f'"{i:x}\U0001f600":9,', '"":0}'),
    "a wide text": ('{"a":["', lambda i: "x" * 1000, '\U0001f600"]}'),
    "a wide name": ('{"', lambda i: "x" * 1000, '\U0001f600":[]}'),
    "escaped quotes": ('{"', lambda i: '\\"', '":0}'),
    "tensors": ("{", lambda i: f'"{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},', '"":0}'),
    "nested": ('{"a":' * 30, lambda i: '"ab",', '"":0' + "}" * 30),
}


def json_file(kind: str, items: int) -> bytes:
    before, item, after = JSON[kind]
    if kind == "nested":
        before += "["
        after = "0]" + "}" * 30
    return (before + "".join(map(item, range(items))) + after).encode()


@pytest.mark.parametrize("kind", JSON)
def test_json_that_is_just_accepted(kind: str) -> None:
    """By bisection, the file of the most items that is read."""
    low, high = 0, SMALL // len(JSON[kind][1](99_999).encode())
    while high - low > max(1, low // 20):
        middle = (low + high) // 2
        content = json_file(kind, middle)
        try:
            check_cost(content, sys.getsizeof(content.decode()), "place", CheckpointError, SMALL)
            low = middle
        except CheckpointError:
            high = middle
    content = json_file(kind, low)
    peak, value = peak_of(lambda: parse_object(content, "place", CheckpointError, SMALL))
    assert len(content) > 1000 and isinstance(value, dict)
    assert peak + len(content) <= limits.EXPANSION * SMALL


@pytest.mark.parametrize("kind", JSON)
def test_json_of_the_largest_size(kind: str) -> None:
    before, item, after = JSON[kind]
    content = json_file(kind, limits.CONFIG_BYTES // len(item(99_999).encode()))
    peak, value = peak_of(lambda: parse_object(content, "place", CheckpointError, limits.CONFIG_BYTES))
    assert peak + len(content) <= limits.EXPANSION * limits.CONFIG_BYTES
    if isinstance(value, Exception):
        assert "place: to parse it may take" in str(value)


def test_depth() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    assert parse_object(nested(limits.JSON_DEPTH), "place", CheckpointError, limits.CONFIG_BYTES)
    for levels in (limits.JSON_DEPTH + 1, 900, 100_000):
        with pytest.raises(CheckpointError, match="place: (JSON nested too deeply|to parse it)"):
            parse_object(nested(levels), "place", CheckpointError, limits.CONFIG_BYTES)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return handmade.write_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize("item", (b"[],", b'{"":0},'))
@pytest.mark.parametrize(
    ("name", "size"),
    (
        ("config.json", limits.CONFIG_BYTES),
        ("generation_config.json", limits.CONFIG_BYTES),
        ("pytorch_model.bin.index.json", limits.INDEX_BYTES),
        ("model.safetensors", limits.HEADER_BYTES),
        ("vocab.json", limits.VOCABULARY_BYTES),
        ("tokenizer_config.json", limits.TOKENIZER_SETTINGS_BYTES),
        ("tokenizer.json", limits.VOCABULARY_BYTES),
    ),
)
def test_files_of_the_largest_size(checkpoint: Path, name: str, size: int, item: bytes) -> None:
    content = b'{"a":[' + item * ((size - 16) // len(item)) + b"1]}"
    if name == "model.safetensors":
        content = struct.pack("<Q", len(content)) + content
    elif name.endswith("index.json"):
        (checkpoint / "model.safetensors").unlink()
    elif name == "vocab.json":
        for model in ("source.spm", "target.spm"):
            shutil.copy(EXAMPLE / model, checkpoint)
    (checkpoint / name).write_bytes(content)

    def read() -> object:
        if name in ("vocab.json", "tokenizer_config.json"):
            return open_tokenizer(checkpoint, "sentencepiece")
        return open_tokenizer(checkpoint, "tokenizers") if name == "tokenizer.json" else open_checkpoint(checkpoint)

    peak, error = peak_of(read)
    assert isinstance(error, PyengineError) and name in str(error)
    assert peak <= limits.EXPANSION * size
    os.truncate(checkpoint / name, size + 9)
    peak, error = peak_of(read)
    assert isinstance(error, PyengineError) and name in str(error)
    assert peak <= limits.EXPANSION * size


@pytest.mark.parametrize(("count", "length"), ((100_000, 1), (20, 50_000)))
def test_many_or_long_added_tokens(checkpoint: Path, count: int, length: int) -> None:
    """They become one pattern, which takes a hundred times as much."""
    tokens = [f"{number:x}" * length for number in range(count)]
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"extra_special_tokens": tokens}))
    with pytest.raises(TokenizerError, match="tokenizer_config.json: .* added tokens are too many or too long"):
        open_tokenizer(checkpoint, "sentencepiece")


def test_many_tiny_tensors(tmp_path: Path) -> None:
    """As many as a header may name, and no more; the tables that are made of them count, too."""
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    header = {f"{i:x}": entry for i in range(10_000)}
    (tmp_path / "model.safetensors").write_bytes(handmade.safetensors_file(header))
    peak, tensors = peak_of(lambda: open_weights(tmp_path))
    assert len(tensors) == 10_000 and peak <= limits.EXPANSION * limits.HEADER_BYTES // 5


@pytest.mark.parametrize("digits", (18, 19, 4000, 5000))
def test_sizes_of_many_digits(tmp_path: Path, digits: int) -> None:
    """Products of sizes, which messages show, have eight times the digits; Python writes at most 4,300."""
    size = "9" * digits
    for shape in ([size] * 8, ["1"]):
        header = f'{{"a":{{"dtype":"F32","shape":[{",".join(shape)}],"data_offsets":[0,{size}]}}}}'.encode()
        (tmp_path / "model.safetensors").write_bytes(handmade.safetensors_file(header))
        with pytest.raises(CheckpointError, match="model.safetensors: (tensor 'a'|header: not valid JSON)"):
            open_weights(tmp_path)


# Pickles

PICKLES: dict[str, Callable[[int], bytes]] = {
    "lists": lambda n: b"]" * n,
    "dicts": lambda n: b"}" * n,
    "dicts of one": lambda n: b"}K\x00Ns" * (n // 5),
    "tuples": lambda n: b"]]]\x87" * (n // 4),
    "nested tuples": lambda n: b"N" + b"\x85" * n,
    "nested lists": lambda n: b"]" * (n // 2) + b"a" * (n // 2 - 1),
    "a memo": lambda n: b"]\x94" * (n // 2),
    "a memo of one": lambda n: b"]" + b"\x94" * n,
    "a memo with gaps": lambda n: b"]" + b"".join(b"r" + struct.pack("<I", 7919 * i) for i in range(n // 5)),
    "names": lambda n: b"cab\ncd\n" * (n // 7),
    "ordered dicts": lambda n: b"ccollections\nOrderedDict\nq\x00" + b"h\x00)R" * (n // 4),
    "short texts": lambda n: b"\x8c\x02ab" * (n // 4),
    "long texts": lambda n: (b"X\xec\x03\x00\x00" + b"x" * 1000 + "\U0001f600".encode()) * (n // 1009),
    "texts and a memo": lambda n: PICKLES["long texts"](n * 9 // 10) + PICKLES["a memo"](n // 10),
    "marks": lambda n: b"(" * n,
    "shared": lambda n: b")q\x00" + b"h\x00h\x00\x86q\x00" * (n // 7),
}
FRACTION = 32  # of the limits: the same by ratio, and sooner done


@pytest.fixture
def fewer_steps(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(unpickle, "PICKLE_STEPS", limits.PICKLE_STEPS // FRACTION)
    for module in (torch_bin, torch_legacy):
        monkeypatch.setattr(module, "PICKLE_BYTES", limits.PICKLE_BYTES // FRACTION)
    return limits.PICKLE_BYTES // FRACTION


@pytest.mark.parametrize("old", (False, True))
@pytest.mark.parametrize("kind", PICKLES)
def test_pickles(tmp_path: Path, kind: str, old: bool, fewer_steps: int) -> None:
    content = b"\x80\x04" + PICKLES[kind](fewer_steps - 256) + b"."
    if old:
        parts = handmade.legacy_parts({}, {})
        content = parts["magic"] + parts["version"] + parts["system"] + content
        (tmp_path / "pytorch_model.bin").write_bytes(content)
    else:
        handmade.write_zip(tmp_path / "pytorch_model.bin", {"archive/data.pkl": content})
    assert len(content) <= fewer_steps
    peak, error = peak_of(lambda: open_weights(tmp_path))
    assert isinstance(error, CheckpointError)
    assert f"pytorch_model.bin: {'its pickles' if old else 'data.pkl'}: " in str(error)
    assert peak <= limits.EXPANSION * fewer_steps


def test_a_pickle_that_is_too_large(tmp_path: Path) -> None:
    handmade.write_zip(tmp_path / "pytorch_model.bin", {"archive/data.pkl": bytes(limits.PICKLE_BYTES + 1)})
    with pytest.raises(CheckpointError, match="data.pkl of 8388609 bytes, at most 8388608 are read"):
        open_weights(tmp_path)


def test_a_pickle_of_a_real_size(tmp_path: Path) -> None:
    """Four times the tensors of a deep encoder-decoder."""
    stored = handmade.storage("0", "FloatStorage", 1)
    items = {f"model.decoder.layers.{i}.weight": handmade.tensor(stored, 0, (1, 1), (1, 1)) for i in range(4_000)}
    members = {"archive/data.pkl": handmade.state_dict(items), "archive/data/0": bytes(4)}
    handmade.write_zip(tmp_path / "pytorch_model.bin", members)
    assert len(open_weights(tmp_path)) == 4_000


def test_a_zip_file_of_many_members(tmp_path: Path) -> None:
    count = 3 * limits.ZIP_DIRECTORY_BYTES // 47 // 2
    record = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"x"
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, len(record) * count, 0, 0)
    (tmp_path / "pytorch_model.bin").write_bytes(record * count + end)
    peak, error = peak_of(lambda: open_weights(tmp_path))
    assert "pytorch_model.bin: not a readable zip file: a directory of more than 2097152 bytes" in str(error)
    assert peak <= limits.EXPANSION * limits.ZIP_DIRECTORY_BYTES
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(10_000):
            archive.writestr(f"archive/data/{number}", b"")
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    (tmp_path / "pytorch_model.bin").write_bytes(content.getvalue())
    with pytest.raises(CheckpointError, match="data.pkl: expected tensors by name, found nothing"):
        open_weights(tmp_path)


@pytest.mark.parametrize("place", ("pieces", "added"))
def test_a_tokenizer_of_long_texts(checkpoint: Path, place: str) -> None:
    """Of which its library would make trees, a node of 300 bytes for each byte of them that no other shares."""

    def write(before: str, behind: str) -> None:
        texts = [f"{before}{number}{behind}" for number in range(1200)]
        token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        pieces = [[text, 0] for text in texts] if place == "pieces" else [["a", 0]]
        added = [{"id": i, "content": text, **token} for i, text in enumerate(texts)] if place == "added" else []
        model = {"type": "Unigram", "unk_id": 0, "vocab": pieces}
        (checkpoint / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": model}))

    write("", "x" * 2000)
    with pytest.raises(TokenizerError, match="tokenizer.json: to parse it may take 7"):
        open_tokenizer(checkpoint, "tokenizers")
    write("x" * 2000, "")
    assert open_tokenizer(checkpoint, "tokenizers").source_size


@pytest.mark.parametrize("field", (b"\x0a\x00", b"\x0a\x02\x0a\x00", b"\x0a\x80\x00", b"\xf2\x01\x00", b"\x2a\x00"))
@pytest.mark.parametrize("inside", (False, True))
def test_a_sentencepiece_model_of_tiny_fields(checkpoint: Path, field: bytes, inside: bool) -> None:
    """Refused before the library, which would parse it, sees it."""
    content = field * ((limits.SENTENCEPIECE_BYTES - 16) // len(field))
    if inside:  # of the trainer's settings
        size = len(content)
        length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
        content = b"\x12" + length + content
    for name in ("source.spm", "target.spm"):
        (checkpoint / name).write_bytes(content)
    with pytest.raises(TokenizerError, match="source.spm: to parse it may take"):
        open_tokenizer(checkpoint, "sentencepiece")
