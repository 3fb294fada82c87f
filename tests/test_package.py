"""The names that the package exports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

import pyengine
from pyengine import errors
from pyengine.cli import main


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


SLOW = ("pyengine._core", "scipy", "tqdm", "sentencepiece", "tokenizers", "matplotlib", "torch", "transformers")
"""What nobody should wait for who does not use it."""


def loaded(program: str) -> list[str]:
    """Those of SLOW that a program imports."""
    code = f"import sys\n{program}\nprint([name for name in {SLOW} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stderr)


def test_importing_waits_for_nothing_slow() -> None:
    assert loaded("import pyengine") == []


@pytest.mark.parametrize("command", ["", "quantize", "translate", "info", "bench", "compare", "shortlist"])
def test_help_waits_for_nothing_slow(command: str) -> None:
    words = [*command.split(), "--help"]
    assert loaded(f"from pyengine.cli import main\ntry:\n    main({words})\nexcept SystemExit:\n    pass") == []


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.findall(r"^    (\w+)", capsys.readouterr().out, re.MULTILINE)
    assert listed == [
        "quantize", "translate", "generate", "chat", "perplexity", "info", "bench", "compare", "shortlist",
    ]  # fmt: skip
