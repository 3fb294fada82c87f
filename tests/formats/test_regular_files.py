"""Reading and mapping: regular files only, without waiting for anybody."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

import pytest

from pyengine.errors import ModelFileError
from pyengine.formats.regular_files import copy_regular, map_regular, open_regular, read_regular
from pyengine.pages import HUGE_PAGE


def read(path: Path, error: type[ModelFileError]) -> bytes:
    return read_regular(path, error, 1 << 20)


READERS: tuple[Callable[..., Any], ...] = (open_regular, read, map_regular, copy_regular)


def test_what_is_read(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"content")
    link.symlink_to(path)
    for name in (path, link):
        assert read(name, ModelFileError) == b"content"
        assert map_regular(name, ModelFileError)[:] == b"content"
        assert copy_regular(name, ModelFileError) == b"content"
        with open_regular(name, ModelFileError) as file:
            assert file.read() == b"content"


@pytest.mark.parametrize("read", READERS)
def test_other_kinds_are_refused(tmp_path: Path, read: Callable[..., Any]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "directory").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(ModelFileError, match=f"{path.name}: expected a regular file"):
            read(path, ModelFileError)
    with pytest.raises(ModelFileError, match="missing: cannot be read: No such file"):
        read(tmp_path / "missing", ModelFileError)


def test_sizes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert read(path, ModelFileError) == b""
    for load in (map_regular, copy_regular):
        with pytest.raises(ModelFileError, match="file: empty file"):
            load(path, ModelFileError)
    path.write_bytes(b"1234")
    assert read_regular(path, ModelFileError, 4) == b"1234"
    with pytest.raises(ModelFileError, match="file: larger than 3 bytes"):
        read_regular(path, ModelFileError, 3)


@pytest.mark.parametrize("extra", [-1, 0, 1, HUGE_PAGE])
def test_a_copy_has_every_byte_and_outlives_the_file(tmp_path: Path, extra: int) -> None:
    path = tmp_path / "file"
    content = os.urandom(HUGE_PAGE + extra)
    path.write_bytes(content)
    copied = copy_regular(path, ModelFileError)
    os.truncate(path, 0)
    assert copied == content and copied.readonly


def test_a_file_that_shrinks_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    read = os.preadv

    def shrink(*arguments: Any) -> int:
        os.truncate(path, 400)
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", shrink)
    with pytest.raises(ModelFileError, match="file: truncated: expected 1000 bytes, found 400"):
        copy_regular(path, ModelFileError)
