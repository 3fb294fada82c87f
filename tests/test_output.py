"""Whatever writes a file or a directory: complete or absent, through links, with the mode of what was there."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine import OptionError, OutputError
from pyengine.output import new_directory, new_file, scratch_directory
from pyengine.quantize import convert
from pyengine.quantize.report import write_report
from pyengine.quantize.seeing.state import load_state, save_state
from pyengine.quantize.seeing.statistics import InputStatistics
from pyengine.quantize.seeing.teacher_data import write_teacher_data
from pyengine.shortlist import Shortlist

from .checkpoints import handmade
from .conftest import CHECKPOINT
from .quantize.report.test_report import a_plain_report

Write = Callable[[Path, bool], object]
MANY = 20_000  # ids of a shortlist, and columns of a state: more bytes than a buffer has


def shortlist(path: Path, overwrite: bool) -> None:
    many = np.arange(MANY, dtype=np.int32)
    Shortlist(np.zeros(9, np.int32), many[:0], many, MANY).write(path, overwrite=overwrite)


def state(path: Path, overwrite: bool) -> None:
    assert overwrite  # it is always replaced
    gathered = InputStatistics(4)
    gathered.add(np.ones((3, 4), np.float32))
    save_state(path, {"model": "x" * MANY}, 3, {"layer": gathered})


@pytest.fixture(params=["translation", "shortlist", "state", "teacher data"])
def write(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Each writer of a file."""
    if request.param in ("shortlist", "state"):
        return {"shortlist": shortlist, "state": state}[request.param]
    lines = tmp_path_factory.mktemp("lines") / "lines"
    lines.write_text("Ein Mann.\n", encoding="utf-8")
    if request.param == "teacher data":
        return lambda path, overwrite: write_teacher_data(CHECKPOINT, lines, path, overwrite=overwrite)
    model = request.getfixturevalue("int8_directory")

    def translation(path: Path, overwrite: bool) -> None:
        with pyengine.load(model, threads=1) as translator:
            translator.translate_file(lines, path, overwrite=overwrite)

    return translation


def model_directory(path: Path, overwrite: bool) -> None:
    checkpoint = path.parent / "checkpoint"
    if not checkpoint.exists():
        handmade.write_checkpoint(checkpoint)
    convert(checkpoint, path, overwrite=overwrite)


def report_directory(path: Path, overwrite: bool) -> None:
    write_report(path, a_plain_report(), overwrite=overwrite)


@pytest.fixture(params=["model", "report"])
def write_folder(request: pytest.FixtureRequest) -> Write:
    """Each writer of a directory."""
    return {"model": model_directory, "report": report_directory}[request.param]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@contextmanager
def mask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Files cannot grow beyond ``size`` bytes: a disk that is full, for this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_keeps_its_mode_and_a_new_one_has_the_umask(write: Write, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with mask(0o027):
        write(target, True)
        assert mode(target) == 0o640
        target.write_bytes(b"old")
        target.chmod(0o664)
        write(target, True)
    assert mode(target) == 0o664 and target.stat().st_size > 3 and names(tmp_path) == ["target"]


def test_links_are_followed(write: Write, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    for target in (tmp_path / "place" / "old", tmp_path / "place" / "new"):
        link = tmp_path / target.name
        link.symlink_to(target)
        if target.name == "old":
            target.write_bytes(b"old")
        write(link, True)
        assert link.is_symlink() and target.stat().st_size > 3
    assert names(tmp_path / "place") == ["new", "old"]


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a directory", "a loop"])
def test_what_is_no_regular_file_is_refused(write: Write, tmp_path: Path, kind: str) -> None:
    target, message = tmp_path / "target", f"target: expected a regular file or nothing, found {kind}"
    if kind == "a FIFO":
        os.mkfifo(target)
    elif kind == "a device":
        target.symlink_to("/dev/null")
    elif kind == "a directory":
        target.mkdir()
    else:
        target.symlink_to(target)
        message = "target: cannot be a path: Too many levels of symbolic links"
    before = os.lstat(target)
    with pytest.raises((OptionError, OutputError), match=message):
        write(target, True)
    assert os.lstat(target).st_ino == before.st_ino and names(tmp_path) == ["target"]


@pytest.mark.parametrize("path", ["none/target", "file/target", "n" * 256, "nul\0", "sur\ud800"])
def test_places_that_cannot_be_written(write: Write, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((OptionError, OutputError), match="none does not exist|cannot be (written|a path)"):
        write(tmp_path / path, True)
    assert names(tmp_path) == ["file"]


def test_a_name_may_be_as_long_as_the_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    shortlist(path, False)
    assert names(tmp_path) == [path.name]


def test_a_full_disk_names_the_file_and_leaves_what_was_there(write: Write, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    message = "(target|translations): cannot be written: File too large"
    with full_at(2), pytest.raises(OutputError, match=message) as caught:
        write(target, True)
    assert isinstance(caught.value, OSError) and caught.value.__cause__.errno == 27
    assert target.read_bytes() == b"old" and names(tmp_path) == ["target"]


def test_what_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "target"
    with pytest.raises(OptionError, match="target: exists; overwrite=True replaces it"):
        with new_file(path, overwrite=False) as file:
            file.write(b"new")
            path.write_bytes(b"precious")
    assert path.read_bytes() == b"precious" and names(tmp_path) == ["target"]


def test_a_state_that_was_written_is_read_back(tmp_path: Path) -> None:
    state(tmp_path / "state", True)
    assert load_state(tmp_path / "state", {"model": "x" * MANY})[0] == 3


def test_a_directory_keeps_its_mode(write_folder: Write, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o2771)
    with mask(0o077):
        for _ in range(2):  # an empty one, then one that is replaced
            write_folder(target, True)
            assert mode(target) == 0o2771


def test_links_to_directories_are_followed(write_folder: Write, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    for _ in range(2):
        write_folder(tmp_path / "link", True)
    assert (tmp_path / "link").is_symlink() and set(names(tmp_path)) <= {"checkpoint", "link", "target"}


def test_a_full_disk_names_the_file_of_a_directory(write_folder: Write, tmp_path: Path) -> None:
    target = tmp_path / "target"
    write_folder(target, False)
    before = {entry: entry.read_bytes() for entry in target.iterdir()}
    with full_at(300), pytest.raises(OutputError, match=r"target/[a-z.]+: cannot be written: File too large"):
        write_folder(target, True)
    assert {entry: entry.read_bytes() for entry in target.iterdir()} == before
    assert set(names(tmp_path)) <= {"checkpoint", "target"}


def test_a_directory_that_cannot_be_removed(
    write_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is in its place, and the error says where the old one lies."""
    target = tmp_path / "target"
    write_folder(target, False)
    inode, remove = target.stat().st_ino, shutil.rmtree

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if path.stat().st_ino == inode:
            raise PermissionError(1, "Operation not permitted")
        remove(path, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    message = "target: is written, but what it replaced cannot be removed and lies in"
    with pytest.raises(OutputError, match=message) as caught:
        write_folder(target, True)
    [old] = tmp_path.glob(".target.*")
    assert str(old) in str(caught.value) and names(old) == names(target)


def test_a_directory_that_cannot_be_moved(write_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither before the work, where that can be seen, nor after it, is anything lost."""
    target = tmp_path / "target"
    write_folder(target, False)
    inode = target.stat().st_ino

    def busy(*_: Any) -> None:
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as changed:
        changed.setattr(os, "rename", busy)
        with pytest.raises(OutputError, match="target: cannot be written: Device or resource busy"):
            write_folder(target, True)
    with monkeypatch.context() as changed:
        changed.setattr(os.path, "ismount", lambda path: True)
        with pytest.raises(OptionError, match="target: a file system is mounted there"):
            write_folder(target, True)
    with monkeypatch.context() as changed:
        changed.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(OutputError, match="target: cannot be replaced: no permission to remove what is in it"):
            write_folder(target, True)
    assert target.stat().st_ino == inode and set(names(tmp_path)) <= {"checkpoint", "target"}


@pytest.mark.parametrize("moves", [1, 2])
def test_an_interrupt_between_two_renames_moves_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    target, rename, done = tmp_path / "target", os.rename, []
    report_directory(target, False)
    inode = target.stat().st_ino

    def interrupted(source: Path, place: Path) -> None:
        done.append(source)
        if len(done) <= moves - 1 or len(done) > moves:
            rename(source, place)
        elif moves == 1:  # it was done when the signal came
            rename(source, place)
            raise KeyboardInterrupt
        else:  # it was not
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report_directory(target, True)
    assert target.stat().st_ino == inode and names(tmp_path) == ["target"]


def test_blocks_that_never_ran_leave_nothing(tmp_path: Path) -> None:
    """As when a signal comes between entering and the first line: the generator is closed."""
    how: dict[str, Any] = {"overwrite": False, "kind": "model", "ours": lambda path: False}
    for opener in (
        lambda: new_file(tmp_path / "file", overwrite=False),
        lambda: new_directory(tmp_path / "folder", **how),
        lambda: scratch_directory(tmp_path),
    ):
        opened = opener()
        opened.__enter__()
        assert len(names(tmp_path)) == 1
        del opened
        assert names(tmp_path) == []


def test_errors_are_pickled_with_what_they_carry() -> None:
    for kind in (OptionError, OutputError):
        error = kind("x: exists; overwrite=True replaces it", keywords=("overwrite=True",))
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.keywords) == (kind, str(error), error.keywords)
