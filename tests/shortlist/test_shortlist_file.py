"""The shortlist's file: what is written is read, and what is damaged is named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pyengine.errors import ModelFileError
from pyengine.shortlist import Shortlist

SOURCE, TARGET = 4, 10
TENSORS = {
    "offsets": np.array([0, 2, 2, 5, 6], np.int32),
    "ids": np.array([3, 8, 1, 2, 9, 0], np.int32),
    "frequent": np.array([0, 5], np.int32),
}
METADATA = {"format": "pyengine-shortlist", "version": "1", "source_vocab": "4", "target_vocab": "10"}


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def save(path: Path, tensors: dict | None = None, metadata: dict | None = None) -> Path:
    changed = {**TENSORS, **(tensors or {})}
    stored = {name: tensor for name, tensor in changed.items() if tensor is not None}
    head = {name: value for name, value in {**METADATA, **(metadata or {})}.items() if value is not None}
    safetensors.numpy.save_file(stored, path, metadata=head)
    return path


def opened(path: Path) -> Shortlist:
    return Shortlist.open(path, SOURCE, TARGET)


def test_lists(tmp_path: Path) -> None:
    of = opened(save(tmp_path / "f")).lists([7])
    cases = (([], [0, 5, 7]), ([1], [0, 5, 7]), ([0, 2, 0], [0, 1, 2, 3, 5, 7, 8, 9]), ([3], [0, 5, 7]))
    for source, expected in cases:
        found = of(np.array(source, np.int32))
        assert found.dtype == np.int32 and found.tolist() == expected


def test_what_is_written_is_read(tmp_path: Path) -> None:
    first = opened(save(tmp_path / "first"))
    size = first.write(tmp_path / "second")
    second = opened(tmp_path / "second")
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(getattr(second, name), tensor)
        np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "second")[name], tensor)
    second.write(tmp_path / "third")
    assert (tmp_path / "second").read_bytes() == (tmp_path / "third").read_bytes()
    assert size == (tmp_path / "second").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second", "third"]


def test_nothing_listed(tmp_path: Path) -> None:
    empty = {"offsets": np.zeros(5, np.int32), "ids": int32(), "frequent": int32()}
    assert opened(save(tmp_path / "f", empty)).lists([0])(int32(1, 2)).tolist() == [0]


DAMAGED = {
    "no format": (None, {"format": None}, "format: expected 'pyengine-shortlist', found None"),
    "a newer version": (None, {"version": "2"}, "version: expected 1, found '2'"),
    "another source": (None, {"source_vocab": "5"}, "source_vocab: expected 4, as the model has, found '5'"),
    "another target": (None, {"target_vocab": "9"}, "target_vocab: expected 10, as the model has, found '9'"),
    "a tensor less": ({"frequent": None}, None, "expected the tensors offsets, ids, frequent, found"),
    "a tensor more": ({"more": int32(1)}, None, "expected the tensors offsets, ids, frequent, found"),
    "int64": ({"ids": TENSORS["ids"].astype(np.int64)}, None, "tensor ids: expected I32 of one dimension, found I64"),
    "two dimensions": ({"frequent": int32(0, 5).reshape(1, 2)}, None, "tensor frequent: expected I32 of one dimension"),
    "a scalar": ({"frequent": np.array(1, np.int32)}, None, "tensor frequent: expected I32 of one dimension"),
    "too few offsets": ({"offsets": int32(0, 2, 5, 6)}, None, "tensor offsets: expected 5 of them, found 4"),
    "no offsets": ({"offsets": int32()}, None, "tensor offsets: expected 5 of them, found 0"),
    "offsets from 1": ({"offsets": int32(1, 2, 2, 5, 6)}, None, "tensor offsets: expected to ascend from 0 to 6"),
    "offsets that fall": ({"offsets": int32(0, 5, 2, 5, 6)}, None, "tensor offsets: expected to ascend from 0 to 6"),
    "offsets too far": ({"offsets": int32(0, 2, 2, 5, 7)}, None, "tensor offsets: expected to ascend from 0 to 6"),
    "negative offsets": ({"offsets": int32(0, -2, 2, 5, 6)}, None, "tensor offsets: expected to ascend from 0 to 6"),
    "an id too large": ({"ids": int32(3, 8, 1, 2, 10, 0)}, None, "tensor ids: expected ids from 0 to 9, found 10"),
    "a negative id": ({"frequent": int32(-1, 5)}, None, "tensor frequent: expected ids from 0 to 9, found -1"),
    "ids that fall": ({"ids": int32(3, 8, 1, 9, 2, 0)}, None, "tensor ids: expected ids that ascend within a list"),
    "an id twice": ({"ids": int32(3, 3, 1, 2, 9, 0)}, None, "within a list, found 3 after 3"),
    "frequent ids that fall": ({"frequent": int32(5, 0)}, None, "tensor frequent: expected ids that ascend"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged(case: str, tmp_path: Path) -> None:
    tensors, metadata, message = DAMAGED[case]
    path = save(tmp_path / "f", tensors, metadata)
    with pytest.raises(ModelFileError, match=f"^{re.escape(str(path))}: .*{re.escape(message)}"):
        opened(path)


def test_every_truncation(tmp_path: Path) -> None:
    data = save(tmp_path / "f").read_bytes()
    for end in range(len(data)):
        (tmp_path / "cut").write_bytes(data[:end])
        with pytest.raises(ModelFileError, match="cut: "):
            opened(tmp_path / "cut")
    with pytest.raises(ModelFileError, match="cannot be read"):
        opened(tmp_path / "none")
    with pytest.raises(ModelFileError, match="expected a regular file"):
        opened(tmp_path)
