"""Reading tokenizer files, all of which may be hostile: bounded, regular files only, every failure typed."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from pyengine.errors import TokenizerError
from pyengine.formats.strict_json import parse_object

# The largest tokenizer files in use (vocabularies of 256,000 pieces) have some 40 MB.
MAX_FILE_BYTES = 1 << 28


def read_bytes(path: Path) -> bytes:
    """The content of a regular file of at most ``MAX_FILE_BYTES``.

    Raises TokenizerError: missing, not a regular file (a FIFO would block forever), too large, unreadable.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise TokenizerError(f"{path}: expected a regular file, found another kind of entry")
        if status.st_size > MAX_FILE_BYTES:
            raise TokenizerError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, found {status.st_size}")
        return path.read_bytes()
    except FileNotFoundError:
        raise TokenizerError(f"{path}: this tokenizer file is missing") from None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises TokenizerError: as ``read_bytes``; anything else in it."""
    return parse_object(read_bytes(path), str(path), TokenizerError)
