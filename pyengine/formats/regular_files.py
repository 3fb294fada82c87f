"""Files that may be hostile: regular ones only (a FIFO or a device would block forever), of bounded size.

What is checked is what was opened, so that nothing can be put in its place in between.
"""

from __future__ import annotations

import mmap
import os
import stat
from functools import partial
from io import FileIO
from pathlib import Path

from pyengine.cpus import usable_cpus
from pyengine.errors import PyengineError
from pyengine.pages import HUGE_PAGE, huge_room
from pyengine.threads import side_by_side

__all__ = ["copy_regular", "map_regular", "open_regular", "read_regular", "usable_path"]

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how the text begins that git keeps in a file's place


def usable_path(path: str | Path, error: type[PyengineError]) -> Path:
    """``path``, whatever is there or is not; ``error`` where the system cannot even say what is.

    So it is for names with a NUL or a lone surrogate, for those that are too long, and in a directory that may not be
    entered. Whatever is asked of a path afterwards finds it, or finds nothing.
    """
    found = Path(path)
    try:
        os.stat(found)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as exc:
        raise error(f"{found}: cannot be a path: {_reason(exc)}") from None
    return found


def _reason(exc: OSError | ValueError) -> str:
    """Why a path or a file could not be used, in the system's words."""
    return getattr(exc, "strerror", None) or str(exc)


def open_regular(path: Path, error: type[PyengineError]) -> FileIO:
    """``path`` opened for reading, without a buffer.

    Raises ``error`` if it is missing, no regular file, or a Git LFS pointer.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # else opening a FIFO waits for a writer

    try:
        file = FileIO(path, "rb", opener=opener)
    except IsADirectoryError:
        raise error(f"{path}: expected a regular file") from None
    except (OSError, ValueError) as exc:
        if isinstance(exc, FileNotFoundError) and os.path.islink(path):
            raise error(f"{path}: a link to {os.readlink(path)!r:.80}, which is not there") from None
        raise error(f"{path}: cannot be read: {_reason(exc)}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise error(f"{path}: expected a regular file")
    if os.pread(file.fileno(), len(_LFS_POINTER), 0) == _LFS_POINTER:
        file.close()
        raise error(f"{path}: a Git LFS pointer in place of the file; `git lfs pull` fetches the file itself")
    return file


def read_regular(path: Path, error: type[PyengineError], limit: int) -> bytes:
    """The content of ``path``; ``error`` as ``open_regular``, and for more than ``limit`` bytes (``limits``)."""
    with open_regular(path, error) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise error(f"{path}: larger than {limit} bytes, the most that is read")
        try:
            return file.readall()
        except OSError as exc:
            raise error(f"{path}: cannot be read: {exc.strerror}") from None


def map_regular(path: Path, error: type[PyengineError]) -> mmap.mmap:
    """The whole of ``path`` mapped read-only; ``error`` as ``open_regular``, and for an empty file."""
    with open_regular(path, error) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise error(f"{path}: empty file")
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as exc:
            raise error(f"{path}: cannot be read: {exc.strerror}") from None


def copy_regular(path: Path, error: type[PyengineError]) -> memoryview:
    """The whole of ``path`` in memory of its own, in huge pages; ``error`` as ``map_regular``.

    Every CPU reads parts of it, so that pages come to lie near those that use them.
    """
    with open_regular(path, error) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise error(f"{path}: empty file")
        try:
            room = huge_room(size)
        except OSError as exc:
            raise error(f"{path}: no memory for {size} bytes: {exc.strerror}") from None

        cpus = usable_cpus()
        share = -(-size // cpus // HUGE_PAGE) * HUGE_PAGE

        def fill(begin: int) -> None:
            end = min(begin + share, size)
            while begin < end:
                count = os.preadv(file.fileno(), [room[begin:end]], begin)
                if count == 0:
                    raise error(f"{path}: truncated: expected {size} bytes, found {begin}")
                begin += count

        try:
            side_by_side(*(partial(fill, begin) for begin in range(0, size, share)))
        except OSError as exc:
            raise error(f"{path}: cannot be read: {exc.strerror}") from None
    return room.toreadonly()
