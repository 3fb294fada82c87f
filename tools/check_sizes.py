"""Sizes: a source file has at most 400 lines, never more than 500; no committed file is large.

With ``--wheel`` a built wheel is checked too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tree import ROOT, SOURCES, project_files, report

LINES_WARNED, LINES_ALLOWED = 400, 500
FILE_BYTES = 1_500_000
WHEEL_BYTES = 8_000_000
# The one real checkpoint, committed once.
LARGE_FILES = {"examples/multi30k-de-en/model.safetensors"}


def check(root: Path, files: list[str]) -> list[str]:
    problems = []
    for path in files:
        content = (root / path).read_bytes()
        if len(content) > FILE_BYTES and path not in LARGE_FILES:
            problems.append(f"{path}: {len(content)} bytes, more than {FILE_BYTES}")
        lines = content.count(b"\n")
        if path.endswith(SOURCES) and lines > LINES_ALLOWED:
            problems.append(f"{path}: {lines} lines, more than {LINES_ALLOWED}")
        elif path.endswith(SOURCES) and lines > LINES_WARNED:
            print(f"warning: {path}: {lines} lines, more than {LINES_WARNED}")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the tree to check")
    parser.add_argument("--wheel", type=Path, help="a built wheel")
    options = parser.parse_args()
    problems = check(options.root, project_files(options.root))
    size = options.wheel.stat().st_size if options.wheel else 0
    if size > WHEEL_BYTES:
        problems.append(f"{options.wheel.name}: {size} bytes, more than {WHEEL_BYTES}")
    report("sizes", problems)


if __name__ == "__main__":
    main()
