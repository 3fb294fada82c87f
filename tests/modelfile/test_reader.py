"""Opening a model directory: views of the file, and a typed error for all that is not as it should be."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from random import Random
from typing import Any, Callable

import numpy as np
import pytest
import safetensors.numpy

from pyengine.canonical import HeadConfig
from pyengine.errors import ModelFileError, PyengineError
from pyengine.modelfile import open_directory, packed_specs

from ..checkpoints import handmade as checkpoints
from . import directories


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return directories.model_directory(tmp_path_factory.mktemp("original"))


@pytest.fixture
def directory(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.mark.parametrize("weights", ("int8", "float32"))
def test_what_is_read(tmp_path: Path, weights: str) -> None:
    path = directories.model_directory(tmp_path, weights)
    model = open_directory(path, verify=True)
    assert (model.path, model.weights, model.tokenizer_kind) == (path, weights, "sentencepiece")
    assert model.config.width == 12 and model.generation.max_length == 30
    assert model.created_by.startswith("pyengine ")
    assert model.bytes == sum(file.stat().st_size for file in path.iterdir())
    library = safetensors.numpy.load_file(path / "model.safetensors")
    assert list(model.tensors) == list(packed_specs(model.config, weights))
    assert model.tensors.keys() == library.keys()
    for name, values in model.tensors.items():
        assert not values.flags.writeable and values.flags.c_contiguous
        assert values.ctypes.data % 64 == 0, "the kernels load whole cache lines"
        np.testing.assert_array_equal(values, library[name])
    assert open_directory(str(path)).config == model.config


def test_a_directory_without_a_tokenizer(tmp_path: Path) -> None:
    model = open_directory(directories.model_directory(tmp_path, tokenizer=False), verify=True)
    assert model.tokenizer_kind is None


def test_arrays_outlive_the_directory(directory: Path) -> None:
    tensors = open_directory(directory).tensors
    expected = {name: values.copy() for name, values in tensors.items()}
    shutil.rmtree(directory)
    for name, values in tensors.items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the command sha256sum")
def test_sha256sum_agrees(directory: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=directory, check=True)


# What is no model directory.


def test_what_is_no_model_directory(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "missing", "nothing"), (tmp_path, "an empty directory")):
        with pytest.raises(ModelFileError, match=f"expected a model directory, found {found}"):
            open_directory(path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="expected a model directory, found a file"):
        open_directory(tmp_path / "file")
    with pytest.raises(ModelFileError, match="found no config.json in it"):
        open_directory(tmp_path)


def test_a_training_checkpoint_prints_the_command(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ModelFileError) as info:
        open_directory(path)
    assert f"pyengine quantize {path} -o OUT" in str(info.value)


Change = Callable[[dict[str, Any]], Any]
CONFIGS: dict[str, tuple[Change, str]] = {
    "another program's": (lambda c: c.update(format="other"), "format: expected 'pyengine', found 'other'"),
    "no format": (lambda c: c.pop("format"), "format: expected 'pyengine', found None"),
    "newer": (
        lambda c: c.update(version=6, created_by="pyengine 9.0"),
        "of version 6 .created by 'pyengine 9.0'., this pyengine reads version 5; update pyengine",
    ),
    "version 1": (
        lambda c: c.update(version=1, created_by="pyengine 0.1"),
        "of version 1 .created by 'pyengine 0.1'., this pyengine reads version 5; convert the checkpoint that it came "
        "from again: pyengine quantize CHECKPOINT -o .*/model --overwrite",
    ),
    "version 4": (
        lambda c: c.update(version=4),
        "of version 4 .*: pyengine quantize CHECKPOINT -o .*/model --overwrite",
    ),
    "newer in every way": (lambda c: (c.clear(), c.update(format="pyengine", version=7)), "of version 7"),
    "version 0": (lambda c: c.update(version=0), "version: expected a positive integer, found 0"),
    "version true": (lambda c: c.update(version=True), "version: expected a positive integer, found True"),
    "version as text": (lambda c: c.update(version="1"), "version: expected a positive integer, found '1'"),
    "other weights": (
        lambda c: c.update(weights="int3"),
        'weights: expected one of "float32", .*, found .int3',
    ),
    "no weights": (lambda c: c.pop("weights"), "field 'weights' is missing"),
    "weights that the file has not": (lambda c: c.update(weights="float32"), "mis-shaped|unexpected"),
    "unknown tokenizer": (lambda c: c.update(tokenizer="bpe"), "tokenizer: expected one of"),
    "tokenizer without files": (
        lambda c: c.update(tokenizer="tokenizers"),
        "a tokenizers tokenizer without tokenizer.json",
    ),
    "kv of another type": (lambda c: c.update(kv="int4"), 'kv: expected one of null, "int8", "float32"'),
    "removed that is no list": (lambda c: c.update(removed={}), "removed: expected a list"),
    "removed of something else": (
        lambda c: c.update(removed=[{"what": "hair", "place": "encoder", "removed": 1, "total": 2}]),
        r"removed\[0\]: what: expected one of",
    ),
    "more removed than there was": (
        lambda c: c.update(removed=[{"what": "layers", "place": "encoder", "removed": 2, "total": 2}]),
        r"removed\[0\]: removed: expected an integer from 1 to 1",
    ),
    "unknown field": (lambda c: c.update(extra=1), "unknown fields: 'extra'"),
    "model is a list": (lambda c: c.update(model=[]), "model: expected an object"),
    "another width": (lambda c: c["model"].update(width=24), "mis-shaped"),
    "fewer heads": (
        lambda c: c["model"]["encoder"]["self_attention"].update(heads=1, kv_heads=1),
        "mis-shaped.*encoder.layers.0.self_attention.qkv",
    ),
    "fewer heads in one layer": (
        lambda c: c["model"]["encoder"]["self_attention"].update(heads=[2, 1], kv_heads=[2, 1]),
        "4 mis-shaped: encoder.layers.1.self_attention.qkv.weight .*, encoder.layers.1.self_attention.output.weight",
    ),
    "more layers": (lambda c: c["model"]["decoder"].update(layers=2), "missing: decoder.layers.1"),
    "fewer layers": (lambda c: c["model"]["encoder"].update(layers=1), "unexpected: encoder.layers.1"),
    "another vocabulary": (lambda c: c["model"].update(source_vocab=90, target_vocab=90), "mis-shaped"),
    "huge sizes": (lambda c: c["model"].update(width=1 << 60), "width"),
    "what contradicts itself": (
        lambda c: (c["model"].update(width=0), c["model"]["decoder"].update(final_norm=True, norm="batch")),
        r"config.json: model: width: expected .*; decoder.norm: expected .*; decoder.final_norm: expected false",
    ),
    "more positions": (lambda c: c["model"]["encoder"].update(max_positions=33), r"1 mis-shaped: encoder.positions"),
    "a head that the file has not": (
        lambda c: c["model"].update(heads={"x": dataclasses.asdict(HeadConfig("cls", out=2))}),
        r"3 missing: head.x.out.weight, head.x.out.scale, head.x.out.bias$",
    ),
    "no field of heads": (lambda c: c["model"].pop("heads"), "model: field 'heads' is missing"),
    "no positions": (
        lambda c: c["model"]["encoder"].update(positions="none"), "1 unexpected: encoder.positions"
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_config(directory: Path, name: str) -> None:
    change, message = CONFIGS[name]
    directories.edit_json(directory / "config.json", change)
    with pytest.raises(ModelFileError, match=message):
        open_directory(directory)


def test_a_smaller_vocabulary_that_pads_to_the_same_size(directory: Path) -> None:
    """Shapes do not tell, but the ids in generation.json and the checksums do."""
    directories.edit_json(
        directory / "config.json", lambda c: c["model"].update(source_vocab=18, target_vocab=18)
    )
    with pytest.raises(
        ModelFileError, match="decoder_start_token_id: expected an integer from 0 to 17, found 20"
    ):
        open_directory(directory)
    with pytest.raises(ModelFileError, match="config.json: damaged"):
        open_directory(directory, verify=True)


@pytest.mark.parametrize("name", ("generation.json", "model.safetensors", "source.spm", "vocab.json"))
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    for verify in (False, True):
        with pytest.raises(ModelFileError, match=name):
            open_directory(directory, verify=verify)


@pytest.mark.parametrize(
    "name", ("config.json", "generation.json", "model.safetensors", "source.spm", "SHA256SUMS")
)
def test_a_fifo_is_refused_and_not_waited_for(directory: Path, name: str) -> None:
    (directory / name).unlink()
    os.mkfifo(directory / name)
    for verify in (False, True):
        with pytest.raises(ModelFileError, match=name):
            open_directory(directory, verify=verify)


def test_a_huge_list_of_checksums_is_not_read(directory: Path) -> None:
    os.truncate(directory / "SHA256SUMS", 1 << 40)
    with pytest.raises(ModelFileError, match="SHA256SUMS: larger than 65536 bytes"):
        open_directory(directory, verify=True)


def rewrite(directory: Path, change: Callable[[dict[str, Any]], Any], data: bytes | None = None) -> None:
    """Apply ``change`` to the header of model.safetensors; the data stays, or becomes ``data``."""
    path = directory / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    raw = json.dumps(header).encode()
    raw += b" " * (-(8 + len(raw)) % 64)
    path.write_bytes(checkpoints.safetensors_file(raw, content[8 + length :] if data is None else data))


UP = "encoder.layers.0.ffn.up"


def rename(header: dict[str, Any]) -> None:
    header["renamed"] = header.pop(f"{UP}.weight")


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a tensor by another name": (rename, f"1 missing: {UP}.weight; 1 unexpected: renamed"),
    "another type": (lambda h: h[f"{UP}.weight"].update(dtype="U8"), f"{UP}.weight is U8, expected I8"),
    "another type of the same size": (
        lambda h: h[f"{UP}.scale"].update(dtype="I32"),
        f"{UP}.scale is I32, expected F32",
    ),
    "another shape of the same size": (
        lambda h: h[f"{UP}.weight"].update(shape=[2, 3, 4, 16]),
        f"{UP}.weight .expected",
    ),
    "an offset beyond the file": (
        lambda h: h["output.bias"].update(data_offsets=[1 << 40, (1 << 40) + 128]),
        "leaves a gap",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_wrong_header(directory: Path, name: str) -> None:
    change, message = HEADERS[name]
    rewrite(directory, change)
    with pytest.raises(ModelFileError, match=message):
        open_directory(directory)


def test_all_differences_in_one_message(directory: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        rename(header)
        header["output.bias"]["dtype"] = "I32"
        header[f"{UP}.scale"]["shape"] = [2, 16]

    rewrite(directory, change)
    with pytest.raises(ModelFileError) as info:
        open_directory(directory)
    for part in (
        f"missing: {UP}.weight",
        "unexpected: renamed",
        f"mis-shaped: {UP}.scale",
        "output.bias is I32",
    ):
        assert part in str(info.value)


def test_data_that_is_not_aligned(directory: Path) -> None:
    path = directory / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    path.write_bytes(checkpoints.safetensors_file(content[8 : 8 + length] + b"    ", content[8 + length :]))
    with pytest.raises(ModelFileError, match="expected a multiple of 64"):
        open_directory(directory)


@pytest.mark.parametrize("text", ("a\x1b[2J", "a\nb", "\udc00"))
def test_text_that_cannot_be_shown(directory: Path, text: str) -> None:
    directories.edit_json(directory / "config.json", lambda config: config.update(created_by=text))
    with pytest.raises(ModelFileError, match="created_by: expected a string of printable"):
        open_directory(directory)


def overwrite(directory: Path, name: str, data: bytes) -> None:
    """Replace the first bytes of a tensor."""
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    length = struct.unpack("<Q", content[:8])[0]
    place = 8 + length + json.loads(content[8 : 8 + length])[name]["data_offsets"][0]
    content[place : place + len(data)] = data
    path.write_bytes(content)


@pytest.mark.parametrize("value", (float("nan"), float("inf"), float("-inf")))
@pytest.mark.parametrize(
    "name", ("decoder.embed.scale", "output.bias", "encoder.layers.0.ffn.norm.weight", "decoder.positions")
)
def test_a_vector_that_is_not_finite(directory: Path, name: str, value: float) -> None:
    overwrite(directory, name, struct.pack("<f", value))
    if (name, value) == ("output.bias", float("-inf")):
        assert open_directory(directory).tensors[name][0] == value  # an id that is never written
        return
    with pytest.raises(ModelFileError, match=f"{name}: expected finite values"):
        open_directory(directory)


def test_a_zero_point_that_is_no_level(tmp_path: Path) -> None:
    directory, name = directories.model_directory(tmp_path, "int4g32z"), "encoder.layers.0.ffn.up.group_zero"
    overwrite(directory, name, bytes([15]))
    open_directory(directory)
    overwrite(directory, name, bytes([16]))
    with pytest.raises(ModelFileError, match=f"{name}: expected zero points up to 15, found 16"):
        open_directory(directory)


@pytest.mark.parametrize("cut", (0, 7, 100, -1, -64))
def test_a_truncated_file(directory: Path, cut: int) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelFileError, match="truncated|empty file"):
        open_directory(directory)


# Damage, with verify=True.


def test_a_damaged_byte_anywhere_is_found(directory: Path) -> None:
    """One flipped bit at each place of the small files, and at many of the large one."""
    random = Random(4)
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        places = (
            range(len(content)) if len(content) < 2000 else sorted(random.sample(range(len(content)), 150))
        )
        for place in places:
            damaged = bytearray(content)
            damaged[place] ^= 1 << random.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(PyengineError):
                open_directory(directory, verify=True)
        path.write_bytes(content)
    open_directory(directory, verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda c: b"", "not listed: "),
        (lambda c: c[:-1], "damaged|not listed"),
        (lambda c: c + b"\n", "expected 64 hex digits"),
        (lambda c: c + b"x", "line 7: expected 64 hex digits"),
        (lambda c: c.replace(b"  ", b" *"), "expected 64 hex digits"),
        (lambda c: c.replace(b"\n", b"\r\n"), "expected 64 hex digits"),
        (lambda c: c.upper(), "expected 64 hex digits"),
        (lambda c: b"".join(reversed(c.splitlines(keepends=True))), "not sorted"),
        (lambda c: c + c.splitlines(keepends=True)[-1], "occur twice"),
        (lambda c: c + b"0" * 64 + b"  zzz\n", "listed but missing: .'zzz'"),
        (lambda c: b"0" * 64 + b"  ../model/config.json\n" + c, "expected 64 hex digits"),
    ),
)
def test_a_wrong_list_of_checksums(directory: Path, change: Callable[[bytes], bytes], message: str) -> None:
    path = directory / "SHA256SUMS"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelFileError, match=message):
        open_directory(directory, verify=True)
    open_directory(directory)


def test_files_that_are_not_listed(directory: Path) -> None:
    (directory / ".hidden").write_bytes(b"left to the operating system")
    open_directory(directory, verify=True)
    (directory / "extra.txt").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="not listed: .'extra.txt'"):
        open_directory(directory, verify=True)
    (directory / "extra.txt").unlink()
    (directory / "SHA256SUMS").unlink()
    for verify in (False, True):
        with pytest.raises(ModelFileError, match="expected a whole model directory, found no SHA256SUMS"):
            open_directory(directory, verify=verify)


def test_mutations_give_an_error_or_a_whole_model(directory: Path) -> None:
    random = Random(5)
    names = ("config.json", "generation.json", "model.safetensors")
    originals = {name: (directory / name).read_bytes() for name in names}
    refused = 0
    for _ in range(500):
        name = random.choice(names)
        content = bytearray(originals[name])
        for _ in range(random.randint(1, 3)):
            place = random.randrange(min(len(content), 4000))
            if random.random() < 0.7:
                content[place] = random.choice((0x30, 0x39, 0x22, 0x2D, random.randrange(256)))
            else:
                del content[place : place + random.randint(1, 8)]
        (directory / name).write_bytes(content)
        try:
            model = open_directory(directory)
            assert sum(int(values.view(np.uint8).sum()) for values in model.tensors.values()) >= 0
        except PyengineError:
            refused += 1
        (directory / name).write_bytes(originals[name])
    assert refused > 200
