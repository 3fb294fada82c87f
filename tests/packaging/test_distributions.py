"""What the sdist holds, and which wheels would be built."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("csrc", "docs", "examples", "benchmarks", "pyengine", "quantize", "tests", "tools")
ALONE = ("setup.py", "pyproject.toml", "README.md", "CHANGELOG.md", "Dockerfile", ".ci/run")
MADE = {"__pycache__", ".pytest_cache"}


def test_the_sdist_has_tools_examples_and_tests(tmp_path: Path) -> None:
    pytest.importorskip("Cython")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    packed = set(next(tmp_path.glob("*/SOURCES.txt")).read_text(encoding="utf-8").splitlines())
    files = {path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    source = {
        path.as_posix()
        for path in files
        if path.suffix != ".so" and not MADE & set(path.parts) and path.parts[:2] != ("pyengine", "quantize")
    }
    assert source | set(ALONE) <= packed
    assert not [name for name in packed if name.endswith((".so", ".pyc")) or name.startswith("pyengine/quantize")]


def test_wheels_for_both_c_libraries_and_machines() -> None:
    pytest.importorskip("cibuildwheel")
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", "linux", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {tuple(line.split("-")) for line in done.stdout.split()}
    kinds = {f"{libc}_{machine}" for libc in ("manylinux", "musllinux") for machine in ("x86_64", "aarch64")}
    assert set(itertools.product(("cp310", "cp311", "cp312", "cp313"), kinds)) <= found
    assert {kind for _, kind in found} == kinds
    assert not [python for python, _ in found if python.endswith("t")]  # without the GIL: untested
