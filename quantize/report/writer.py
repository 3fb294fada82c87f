"""Write a report directory: it appears whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from pyengine.errors import OptionError
from pyengine.formats.limits import REPORT_BYTES
from pyengine.formats.strict_json import load_object
from pyengine.output import check_new_directory, create_file, new_directory
from pyengine.quantize.report.data import FORMAT, CompressionReport
from pyengine.quantize.report.page import page
from pyengine.quantize.report.plots import require_matplotlib

__all__ = ["JSON_NAME", "PAGE_NAME", "check_report_target", "write_report"]

JSON_NAME = "report.json"
PAGE_NAME = "index.html"


def check_report_target(directory: str | Path, *, overwrite: bool) -> None:
    """Raise OptionError if ``directory`` cannot become a report directory.

    What exists is only replaced if it is an empty directory, or a report directory and ``overwrite`` is given.
    """
    check_new_directory(directory, overwrite=overwrite, kind="report", ours=_is_report)


def _is_report(path: Path) -> bool:
    if not {entry.name for entry in path.iterdir()} <= {JSON_NAME, PAGE_NAME}:
        return False
    try:
        return load_object(path / JSON_NAME, OptionError, REPORT_BYTES).get("format") == FORMAT
    except OptionError:
        return False


def write_report(directory: str | Path, report: CompressionReport, *, overwrite: bool = False) -> None:
    """Write ``directory`` with ``report.json``, for machines, and ``index.html``, for people.

    The same report gives the same bytes. It appears when it is complete, see ``output.new_directory``. Raises
    OptionError as ``check_report_target`` and ``require_matplotlib`` do and for a report that JSON cannot hold (naming
    the field), and OutputError from the file system.
    """
    require_matplotlib()
    check_report_target(directory, overwrite=overwrite)
    data = report.to_json()
    checked = CompressionReport.from_json(data, "report", OptionError)
    contents = {
        JSON_NAME: json.dumps(data, indent=1, ensure_ascii=True) + "\n",
        PAGE_NAME: page(checked),
    }
    with new_directory(directory, overwrite=overwrite, kind="report", ours=_is_report) as scratch:
        for name, content in contents.items():
            with create_file(scratch / name, Path(directory) / name) as file:
                file.write(content.encode("utf-8"))
