"""Files and directories that appear when they are complete, or not at all.

What is written lies under a temporary name beside its place, and is renamed when all of it is on disk. A link is
followed: what it points to is written. A file or directory that is replaced keeps its mode and, where the process may
do that, its owner; a new one gets what the umask leaves.
"""

from __future__ import annotations

import io
import os
import secrets
import select
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Union

from pyengine.errors import OptionError, OutputError, PyengineError
from pyengine.formats.regular_files import usable_path

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "CheckedFile", "Target", "check_new_directory", "check_new_file", "create_file", "new_directory", "new_file",
    "scratch_directory",
]  # fmt: skip

Target = Union[str, Path, BinaryIO]
"""Where a file is written: its path, or a file that is open, which takes what there is of it at once."""

_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
_LONGEST_NAME = 200  # bytes of a name that a temporary one repeats: 255 are the most that file systems take


class CheckedFile(io.FileIO):
    """A descriptor to write to: each write is of all bytes, whether it blocks or not, or an OutputError.

    The error names the file as ``shown``. A pipe that nobody reads is a BrokenPipeError, as ever.
    """

    def __init__(self, descriptor: int, shown: object, closefd: bool = True) -> None:
        super().__init__(descriptor, "wb", closefd=closefd)
        self._shown = shown

    def write(self, data: ReadableBuffer) -> int:
        """The number of bytes, which is that of ``data``."""
        left = memoryview(data).cast("B")
        size = len(left)
        with _named(self._shown):
            while len(left):
                count = super().write(left)
                if count is None:  # a pipe that does not block, and is full
                    waiting = select.poll()
                    waiting.register(self.fileno(), select.POLLOUT)
                    waiting.poll()
                else:
                    left = left[count:]
        return size

    def sync(self) -> None:
        """Return when all of it is on disk."""
        with _named(self._shown):
            os.fsync(self.fileno())


@contextmanager
def _named(shown: object) -> Iterator[None]:
    """OSErrors of the system as OutputErrors that name the file."""
    try:
        yield
    except (PyengineError, BrokenPipeError):
        raise
    except OSError as error:
        raise OutputError(f"{shown}: cannot be written: {error.strerror or error}") from error


@contextmanager
def create_file(path: Path, shown: object = None, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A new file that is on disk when the block ends well. Raises OutputError, which names it as ``shown``."""
    shown = path if shown is None else shown
    with _named(shown):
        raw = CheckedFile(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), shown)
    try:
        file = io.BufferedWriter(raw)
        yield file
        file.flush()
        raw.sync()
    finally:
        raw.close()  # what failed is not tried again


def check_new_file(target: Target, *, overwrite: bool) -> None:
    """Raise OptionError if ``target`` cannot become a file.

    What exists is only replaced if it is a regular file and ``overwrite`` is given.
    """
    if isinstance(target, (str, Path)):
        _file_place(target, target, overwrite)


@contextmanager
def new_file(target: Target, *, overwrite: bool, shown: object = None) -> Iterator[BinaryIO]:
    """A file that becomes ``target`` when the block ends well, and vanishes if not; or ``target``, if it is open.

    Raises OptionError as ``check_new_file`` does, and OutputError from the file system; both name it as ``shown``.
    """
    if not isinstance(target, (str, Path)):
        yield target
        target.flush()
        return
    shown = target if shown is None else shown
    place, before = _file_place(target, shown, overwrite)
    scratch = _beside(place)
    try:
        # Nobody may read what is written before, if he may not after.
        with create_file(scratch, shown, 0o666 if before is None else stat.S_IMODE(before.st_mode)) as file:
            _keep(file.fileno(), before)
            yield file
        _file_place(place, shown, overwrite)  # it may have taken a while
        with _named(shown):
            os.replace(scratch, place)
            _sync_folder(place.parent)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise


def check_new_directory(path: str | Path, *, overwrite: bool, kind: str, ours: Callable[[Path], bool]) -> None:
    """Raise OptionError if ``path`` cannot become a directory.

    What exists is only replaced if it is an empty directory, or one that is ``ours`` and ``overwrite`` is given.
    ``kind``: how such a directory is called.
    """
    _directory_place(path, path, overwrite, kind, ours)


@contextmanager
def new_directory(
    path: str | Path, *, overwrite: bool, kind: str, ours: Callable[[Path], bool]
) -> Iterator[Path]:
    """A directory to fill (by ``create_file``) that becomes ``path`` when the block ends well, and vanishes if not.

    Raises OptionError as ``check_new_directory`` does, and OutputError, naming ``path``, from the file system.
    """
    place, _ = _directory_place(path, path, overwrite, kind, ours)
    scratch = _beside(place)
    try:
        with _named(path):
            scratch.mkdir()
        yield scratch
        _, before = _directory_place(place, path, overwrite, kind, ours)  # it may have taken a while
        with _named(path):
            _keep(scratch, before)
            if before is None or not any(place.iterdir()):
                os.rename(scratch, place)  # fails, and removes nothing, unless there is nothing or an empty directory
                old = None
            else:
                old = _beside(place)
                _exchange(scratch, place, old, lambda: _directory_place(old, path, overwrite, kind, ours))
            _sync_folder(place.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    if old is not None:
        _remove(old, path)


@contextmanager
def scratch_directory(parent: Path | None = None) -> Iterator[Path]:
    """A directory of our own that goes when the block ends, in ``parent`` or where the system has such. OutputError."""
    with _named("temporary directory"):
        path = _beside((parent or Path(tempfile.gettempdir())) / "pyengine")
    try:
        with _named(path):
            path.mkdir(0o700)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A name that nothing has yet, in the directory of ``path``.

    A name only, so that whoever makes the file or directory can be inside a ``try`` that removes it.
    """
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
    return path.with_name(f".{name}.{secrets.token_hex(8)}")


def _file_place(path: str | Path, shown: object, overwrite: bool) -> tuple[Path, os.stat_result | None]:
    """Where ``path`` leads to, and what is there."""
    place, found = _place(path, shown)
    if found is not None and not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
        raise OptionError(f"{shown}: expected a regular file or nothing, found {kind}")
    if found is not None and not overwrite:
        raise OptionError(f"{shown}: exists; overwrite=True replaces it", keywords=("overwrite=True",))
    return place, found


def _directory_place(
    path: str | Path, shown: object, overwrite: bool, kind: str, ours: Callable[[Path], bool]
) -> tuple[Path, os.stat_result | None]:
    """Where ``path`` leads to, and what is there."""
    place, found = _place(path, shown)
    if found is None:
        return place, None
    if not stat.S_ISDIR(found.st_mode):
        raise OptionError(f"{shown}: exists and is not a directory")
    if os.path.ismount(place):
        raise OptionError(f"{shown}: a file system is mounted there, so it cannot be replaced; choose a place in it")
    with _named(shown):
        if not any(place.iterdir()):
            return place, found
    if not ours(place):
        raise OptionError(f"{shown}: exists, is not empty and is no {kind} directory; choose another place")
    if not overwrite:
        raise OptionError(f"{shown}: exists; overwrite=True replaces it", keywords=("overwrite=True",))
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"{shown}: cannot be replaced: no permission to remove what is in it")
    return place, found


def _place(path: str | Path, shown: object) -> tuple[Path, os.stat_result | None]:
    usable_path(path, OptionError)
    with _named(shown):
        place = Path(os.path.realpath(path))
        try:
            return place, os.stat(place)
        except FileNotFoundError:
            pass
        parent = place.parent if os.path.islink(path) else Path(path).parent
        if not parent.is_dir():
            raise OptionError(f"{shown}: the directory {parent} does not exist")
    return place, None


def _keep(new: int | Path, before: os.stat_result | None) -> None:
    """Give what is new the owner and the mode of what it replaces."""
    if before is not None:
        with suppress(PermissionError):  # another's, or a file system that has neither
            os.chown(new, before.st_uid, before.st_gid)
        with suppress(PermissionError):
            os.chmod(new, stat.S_IMODE(before.st_mode))


def _exchange(new: Path, place: Path, old: Path, check: Callable[[], object]) -> None:
    """Move ``place`` away to ``old`` and ``new`` there, or neither. ``check`` looks at what was moved away."""
    try:
        os.rename(place, old)
        check()
        os.rename(new, place)
    except BaseException:
        if old.exists() and not place.exists():
            os.rename(old, place)
        raise


def _remove(old: Path, shown: object) -> None:
    try:
        shutil.rmtree(old)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"{shown}: is written, but what it replaced cannot be removed and lies in {old}: {reason}"
        ) from error


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
