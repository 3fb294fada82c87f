"""The benchmarks' own C files, compiled when they are needed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

__all__ = ["compiled"]


def compiled(source: str, folder: Path, *flags: str) -> Path:
    """A program, or whatever the flags ask for, of the file `source` beside this one, by the build's compiler."""
    target = folder / Path(source).stem
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    path = Path(__file__).with_name(source)
    subprocess.run([*compiler, "-O2", str(path), "-o", str(target), *flags], check=True)
    return target
