"""`pyengine shortlist`: which ids translate which, by a text; the same file each time; one line for what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine.cli import main
from pyengine.modelfile import open_directory
from pyengine.shortlist import Shortlist
from pyengine.text import open_tokenizer

TOOL = Path(__file__).resolve().parents[2] / "tools" / "shortlist.py"
PAIRS = [
    ("der Hund", "the dog"), ("der Mann", "the man"), ("die Frau", "the woman"), ("ein Hund", "a dog"),
    ("ein Mann", "a man"), ("eine Frau", "a woman"), ("ein Kind", "a child"), ("das Kind", "the child"),
]  # fmt: skip


def write(path: Path, pairs: list[tuple[str, str]]) -> list[str]:
    for name, lines in zip(("de", "en"), zip(*pairs, strict=True), strict=True):
        path.with_name(f"{path.name}.{name}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["--source", f"{path}.de", "--target", f"{path}.en"]


def test_obvious_pairs(int8_directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["shortlist", str(int8_directory), *write(tmp_path / "text", PAIRS), "-o", str(out), "--frequent", "2"]
    assert main([*arguments, "--candidates", "1", "--iterations", "10"]) == 0
    config = open_directory(int8_directory).config
    shortlist = Shortlist.open(out, config.source_vocab, config.target_vocab)
    sizes = {"source_vocab": config.source_vocab, "target_vocab": config.target_vocab}
    tokenizer = open_tokenizer(int8_directory, "sentencepiece", **sizes)
    for german, english in (("Hund", "dog"), ("Mann", "man"), ("Frau", "woman"), ("Kind", "child"), ("der", "the")):
        token, *rest = tokenizer.encode_source(german)[:-1]
        assert not rest
        row = shortlist.ids[shortlist.offsets[token] : shortlist.offsets[token + 1]].tolist()
        assert set(row) == {token, *tokenizer.encode_target(english, end=False)}
    ends = tokenizer.encode_target("", end=True)
    assert set(ends) <= set(shortlist.frequent.tolist()) and len(shortlist.frequent) == 2
    first = out.read_bytes()
    assert main([*arguments, "--candidates", "1", "--iterations", "10", "--overwrite"]) == 0
    assert out.read_bytes() == first
    with pyengine.load(int8_directory, threads=1, shortlist=out) as translator:
        allowed = shortlist.lists([0])(np.array(tokenizer.encode_source("ein Hund"), np.int32))
        assert set(translator.translate("ein Hund").ids) <= set(allowed.tolist())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--source": "{0}/none"}, "none: cannot be read: No such file or directory"),
        ({"--source": "{0}/short"}, "short has 1 lines, but {0}/text.en has 8; expected as many"),
        ({"--source": "{0}/blank"}, "{0}/blank and {0}/text.en: expected sentences, found none"),
        ({"--source": "{0}/bytes"}, "{0}/bytes: expected UTF-8, found an invalid byte at 1"),
        ({"-o": "{0}/short"}, "{0}/short: exists; --overwrite replaces it"),
        ({"-o": "{0}/none/out"}, "{0}/none/out: the directory {0}/none does not exist"),
        ({"--frequent": "0"}, "--frequent is 0; expected at least 1"),
        ({"--candidates": "many"}, "argument --candidates: invalid int value"),
    ],
)
def test_one_line_for_what_is_wrong(
    int8_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    message: str,
) -> None:
    words = write(tmp_path / "text", PAIRS)
    (tmp_path / "short").write_text("Hund\n", encoding="utf-8")
    (tmp_path / "blank").write_text(" \n" * 8, encoding="utf-8")
    (tmp_path / "bytes").write_bytes(b"a\xff\n")
    options = {**dict(zip(words[::2], words[1::2], strict=True)), "-o": str(tmp_path / "out")}
    options |= {name: value.format(tmp_path) for name, value in changes.items()}
    before = sorted(path.name for path in tmp_path.iterdir())
    try:
        status = main(["shortlist", str(int8_directory), *(word for pair in options.items() for word in pair)])
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert status == 2 and not captured.out
    assert lines[-1].startswith(("pyengine: error: ", "pyengine shortlist: error: "))
    assert message.format(tmp_path) in lines[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = write(tmp_path / "text", PAIRS)
    assert main(["shortlist", str(tmp_path), *words, "-o", str(tmp_path / "out")]) == 2
    assert "expected a model directory" in capsys.readouterr().err


def test_the_tool_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(TOOL), str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pyengine shortlist: error: ") and "--source" in done.stderr
