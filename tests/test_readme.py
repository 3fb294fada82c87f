"""Every line of the README's "Use" runs as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.tasks.language import write_language_model

ROOT = Path(__file__).resolve().parents[1]
USE = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Use\n")[2].partition("\n## ")[0]
LINES = re.findall(r"```sh\n(.*?)```", USE, re.DOTALL)[0].splitlines()
TRANSLATION, LANGUAGE = re.findall(r"```python\n(.*?)```", USE, re.DOTALL)
BENCH = "pyengine bench "


def run(clone: Path, command: list[str]) -> str:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = subprocess.run(command, cwd=clone, env={**os.environ, "PATH": path}, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the examples in which all lines but the benchmark ran, in order; and what each printed.

    The test set is cut to 20 sentences.
    """
    clone = tmp_path_factory.mktemp("clone")
    for path in (ROOT / "examples").rglob("*"):
        copy = clone / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.name.startswith("test_2016_flickr."):
            copy.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:20]) + "\n", encoding="utf-8")
        elif path.is_file():
            copy.symlink_to(path)
    return clone, {line: run(clone, ["sh", "-c", line]) for line in LINES if not line.startswith(BENCH)}


def test_the_command_line(printed: tuple[Path, dict[str, str]]) -> None:
    clone, outputs = printed
    assert outputs[LINES[1]] == "A man riding a bicycle.\n"
    assert len((clone / "lines.en").read_text(encoding="utf-8").splitlines()) == 20
    assert {"quantize", "translate", "info", "compare"} <= {line.split()[1] for line in outputs}


def test_translation(printed: tuple[Path, dict[str, str]]) -> None:
    found = run(printed[0], [sys.executable, "-c", TRANSLATION]).splitlines()
    assert found[0].startswith("A man riding a bicycle. ")
    assert found[1:] == (printed[0] / "lines.en").read_text(encoding="utf-8").splitlines()


def test_language_models(tmp_path: Path) -> None:
    """With a tiny model under the name of the real one."""
    (tmp_path / "smollm2-int8").symlink_to(write_language_model(tmp_path / "language"))
    (tmp_path / "text.txt").write_text("the sea is a stone\n" * 30, encoding="utf-8")
    found = run(tmp_path, [sys.executable, "-c", LANGUAGE])
    assert "Usage(" in found
    assert float(found.splitlines()[-1]) > 1


@pytest.mark.exhaustive
def test_the_benchmark(printed: tuple[Path, dict[str, str]]) -> None:
    lines = [line for line in LINES if line.startswith(BENCH)]
    assert lines and all("int8/float32" in run(printed[0], ["sh", "-c", line]) for line in lines)
