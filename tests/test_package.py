"""The names that the package exports."""

from __future__ import annotations

import subprocess
import sys

import pyengine
from pyengine import errors


def test_all_names_exist_and_are_sorted() -> None:
    assert pyengine.__all__ == sorted(pyengine.__all__)
    assert all(hasattr(pyengine, name) for name in pyengine.__all__)
    modules = {
        "arguments",
        "canonical",
        "cli",
        "command",
        "console",
        "cpus",
        "decoding",
        "foreign",
        "formats",
        "modelfile",
        "native",
        "options",
        "output",
        "pages",
        "plan",
        "printing",
        "results",
        "scheduling",
        "shortlist",
        "threads",
    }
    modules |= {"checkpoints", "errors", "importers", "quantize", "tasks", "text", "version", "annotations"}
    public = {name for name in vars(pyengine) if not name.startswith("_")} - modules
    assert public == set(pyengine.__all__) - {"__version__"}


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) <= set(pyengine.__all__)


def test_importing_needs_neither_the_core_nor_a_framework() -> None:
    modules = ("pyengine._core", "torch", "transformers")
    code = f"import sys, pyengine; print([name for name in {modules} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
