"""Write a report directory: it appears whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path

from pyengine.errors import OptionError
from pyengine.formats.limits import REPORT_BYTES
from pyengine.formats.regular_files import usable_path
from pyengine.formats.strict_json import load_object
from pyengine.quantize.report.data import FORMAT, CompressionReport
from pyengine.quantize.report.page import page
from pyengine.quantize.report.plots import require_matplotlib

__all__ = ["JSON_NAME", "PAGE_NAME", "check_report_target", "write_report"]

JSON_NAME = "report.json"
PAGE_NAME = "index.html"


def check_report_target(directory: str | Path, *, force: bool) -> None:
    """Raise OptionError if ``directory`` cannot become a report directory.

    What exists is only replaced if it is an empty directory, or a report directory and ``force`` is given.
    """
    path = usable_path(directory, OptionError)
    if not path.parent.is_dir():
        raise OptionError(f"{path}: the directory {path.parent} does not exist")
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir() or path.is_symlink():
        raise OptionError(f"{path}: exists and is not a directory")
    names = {entry.name for entry in path.iterdir()}
    if not names:
        return
    if not names <= {JSON_NAME, PAGE_NAME} or not _is_report(path / JSON_NAME):
        raise OptionError(f"{path}: exists, is not empty and is no report directory; choose another place")
    if not force:
        raise OptionError(f"{path}: exists; --force replaces it")


def _is_report(path: Path) -> bool:
    try:
        return load_object(path, OptionError, REPORT_BYTES).get("format") == FORMAT
    except OptionError:
        return False


def write_report(directory: str | Path, report: CompressionReport, *, force: bool = False) -> None:
    """Write ``directory`` with ``report.json``, for machines, and ``index.html``, for people.

    The same report gives the same bytes. Everything goes to a temporary directory beside ``directory``, which is
    renamed at the end; whatever is raised in between leaves nothing behind. Raises OptionError as
    ``check_report_target`` and ``require_matplotlib`` do and for a report that JSON cannot hold (naming the field),
    and OSError from the file system.
    """
    require_matplotlib()
    check_report_target(directory, force=force)
    data = report.to_json()
    checked = CompressionReport.from_json(data, "report", OptionError)
    contents = {
        JSON_NAME: json.dumps(data, indent=1, ensure_ascii=True) + "\n",
        PAGE_NAME: page(checked),
    }
    path = Path(os.path.abspath(directory))
    scratch = _beside(path)
    try:
        scratch.mkdir()
        for name, content in contents.items():
            (scratch / name).write_bytes(content.encode("utf-8"))
        _publish(scratch, path, force)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _beside(path: Path) -> Path:
    """A name that nothing has yet, in the directory of ``path``."""
    return path.parent / f".{path.name}.{secrets.token_hex(8)}"


def _publish(scratch: Path, path: Path, force: bool) -> None:
    """Rename the finished directory into place; an older report goes only after the new one is there."""
    check_report_target(path, force=force)
    if not (path.exists() and any(path.iterdir())):
        os.rename(scratch, path)  # fails, and removes nothing, unless there is nothing or an empty directory
        return
    old = _beside(path)
    os.rename(path, old)
    try:
        check_report_target(old, force=force)  # what was moved away, and will be removed, is what was meant
        os.rename(scratch, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
