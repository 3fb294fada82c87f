"""What the checkers share: the files of a tree, and how findings are told."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (".py", ".pyi", ".pyx", ".pxi", ".pxd", ".c", ".h")


def project_files(root: Path) -> list[str]:
    """Paths relative to ``root``, with ``/``: what git tracks, or every file where there is no repository."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        names = listed.stdout.rstrip("\0").split("\0")
    else:
        names = [path.relative_to(root).as_posix() for path in root.rglob("*")]
    return sorted(name for name in names if (root / name).is_file())


def report(name: str, problems: list[str]) -> NoReturn:
    """Print the problems and how many; exit status 1 if there are any."""
    print("\n".join([*problems, f"{name}: {len(problems)} problems"]))
    sys.exit(1 if problems else 0)


def run_check(name: str, check: Callable[[Path, list[str]], list[str]]) -> NoReturn:
    """Run ``check`` over the tree named on the command line, this project by default."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the tree to check")
    root = parser.parse_args().root.resolve()
    report(name, check(root, project_files(root)))
