"""SHA256SUMS: a line "<64 hex digits>  <name>" for every other file, by name, as ``sha256sum`` writes it."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Mapping

from pyengine.errors import ModelFileError
from pyengine.formats.limits import CHECKSUMS_BYTES
from pyengine.formats.regular_files import open_regular, read_regular
from pyengine.formats.strict_json import shorten

__all__ = ["SUMS_NAME", "build_sums", "hash_file", "verify_sums"]

SUMS_NAME = "SHA256SUMS"
_LINE = re.compile(rb"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.-]*)")
_CHUNK = 1 << 20


def hash_file(path: Path) -> str:
    """The SHA-256 of a regular file, in hex; ModelFileError if it is another kind of file or unreadable."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    with open_regular(path, ModelFileError) as file:
        try:
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
        except OSError as exc:
            raise ModelFileError(f"{path}: cannot be read: {exc.strerror}") from None
    return digest.hexdigest()


def build_sums(sums: Mapping[str, str]) -> bytes:
    """The content of SHA256SUMS for name -> hex digest."""
    return b"".join(f"{sums[name]}  {name}\n".encode("ascii") for name in sorted(sums))


def verify_sums(directory: Path) -> None:
    """Check every file of ``directory`` against its SHA256SUMS; ModelFileError for any difference.

    The form is checked strictly, and files that are not listed count as damage, so that no byte of SHA256SUMS
    itself can change unnoticed. Names that begin with "." are left to the operating system.
    """
    path = directory / SUMS_NAME
    content = read_regular(path, ModelFileError, CHECKSUMS_BYTES)
    sums: dict[str, str] = {}
    for number, line in enumerate(io.BytesIO(content), start=1):
        match = _LINE.fullmatch(line.removesuffix(b"\n"))
        if not match:
            raise ModelFileError(
                f"{path}: line {number}: expected 64 hex digits and a name, found {shorten(line)}"
            )
        sums[match[2].decode("ascii")] = match[1].decode("ascii")
    if build_sums(sums) != content:
        raise ModelFileError(f"{path}: damaged: lines are not sorted, occur twice or end early")
    found = {entry.name for entry in directory.iterdir() if not entry.name.startswith(".")} - {SUMS_NAME}
    if found != sums.keys():
        missing, extra = sorted(sums.keys() - found), sorted(found - sums.keys())
        raise ModelFileError(f"{path}: listed but missing: {missing}; not listed: {extra}")
    for name, expected in sums.items():
        actual = hash_file(directory / name)
        if actual != expected:
            raise ModelFileError(f"{directory / name}: damaged: SHA-256 {actual}, expected {expected}")
