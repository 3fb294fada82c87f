"""What the commands print: one line an error, nothing that a terminal would act on, whatever a file is called."""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pyengine import cli, quantize
from pyengine.console import note, say
from pyengine.errors import CheckpointError, DeadlineError, OptionError, PyengineError
from tests.checkpoints import handmade

ROOT = Path(__file__).parents[1]
HOSTILE = "\x1b]0;owned\x07\x9b31m\r\n\u202e"
ESCAPED = r"\x1b]0;owned\x07\x9b31m\r\n\u202e"

Main = Callable[[list[str]], int]


def shortlist(arguments: list[str]) -> int:
    return cli.main(["shortlist", *arguments])


def said(main: Main, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    try:
        status = main(arguments)
    except SystemExit as exit:
        assert isinstance(exit.code, int)
        status = exit.code
    out, err = capsys.readouterr()
    line = err.removesuffix("\n")
    assert status == 2 and not out and line.isprintable() and len(line) <= 2000
    return line


@pytest.mark.parametrize("size", (1, 3_000_000))
def test_tensor_names_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int) -> None:
    config = handmade.marian_config()
    name = HOSTILE + "x" * size

    def checkpoint(kind: str) -> str:
        tensors = {**handmade.marian_tensors(config), kind + name: np.zeros(1, np.float32)}
        return str(handmade.write_checkpoint(tmp_path / kind, config, tensors))

    line = said(quantize.main, [checkpoint("lm_head."), "--report-only"], capsys)
    assert line.startswith("pyengine-quantize: error: ") and "1 unexpected: " in line and ESCAPED in line
    assert quantize.main([checkpoint("other"), "--report-only"]) == 0
    line, _ = capsys.readouterr().err.splitlines()
    assert line.startswith("pyengine-quantize: note: ") and "1 tensors of no layer or table" in line
    assert line.isprintable() and len(line) <= 2000


def test_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / HOSTILE)
    asked: list[tuple[Main, list[str]]] = [
        (cli.main, ["info", path]),
        (cli.main, ["translate", "-m", path, "x"]),
        (cli.main, ["bench", "-m", str(tmp_path), "--data", path]),
        (cli.main, ["compare", path, path, "--data", path]),
        (quantize.main, [path, "--report-only"]),
        (quantize.main, [str(tmp_path), "-o", f"{path}/out"]),
        (shortlist, [path, "--source", path, "--target", path, "-o", str(tmp_path / "out")]),
    ]
    for main, arguments in asked:
        assert ESCAPED in said(main, arguments, capsys)


@pytest.mark.parametrize("main", (cli.main, quantize.main, shortlist))
def test_arguments(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    words = {cli.main: ["info", "x"], quantize.main: ["x"], shortlist: [*"x --source x --target x -o x".split()]}[main]
    assert f"unrecognized arguments: --{ESCAPED}" in said(main, [*words, f"--{HOSTILE}"], capsys)
    assert "unrecognized arguments: --xxx" in said(main, [*words, "--" + "x" * 100_000], capsys)


@pytest.mark.parametrize("error", (PyengineError, CheckpointError, OptionError, DeadlineError))
def test_errors_may_be_printed_wherever_they_come_from(error: type[PyengineError]) -> None:
    assert str(error(f"{HOSTILE}: name it")) == f"{ESCAPED}: name it"
    message = str(error("a" * 3_000_000 + HOSTILE * 1_000 + ": go on so"))
    assert 1900 < len(message) <= 2000 and message.startswith("aaa") and message.endswith(": go on so")


def test_a_stream_that_lacks_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, write in (("stdout", say), ("stderr", note)):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, "ascii", write_through=True))
        write("tür: \x1b")
        assert raw.getvalue() == rb"t\xfcr: \x1b" + b"\n"
    monkeypatch.setattr(sys, "stderr", None)
    note("to nowhere")


def test_nothing_else_prints() -> None:
    files = [*(ROOT / "pyengine").rglob("*.py"), *(ROOT / "quantize").rglob("*.py")]
    assert len(files) > 100
    printing = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and path.name != "console.py":
                called = ast.unparse(node.func)
                if called in ("print", "sys.stdout.write", "sys.stderr.write"):
                    printing.append(f"{path}:{node.lineno}")
    assert not printing
