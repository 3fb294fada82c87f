"""--teacher-data: the teacher's own translations beside their sources, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyengine
from pyengine.errors import InputError, OptionError, UnsupportedError
from pyengine.quantize import convert, main
from pyengine.quantize.seeing.teacher_data import write_teacher_data
from pyengine.quantize.seeing.text import load_text

from ...checkpoints import handmade

EXAMPLE = Path(__file__).parents[3] / "examples" / "multi30k-de-en"
SOURCES = (EXAMPLE / "test_2016_flickr.de").read_text(encoding="utf-8").splitlines()[:12]


def corpus(directory: Path, content: str | bytes) -> Path:
    path = directory / "corpus.de"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_what_the_float32_model_says_with_its_own_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [*SOURCES[:5], "", *SOURCES[5:]]
    source, out = corpus(tmp_path, "\n".join(lines) + "\n"), tmp_path / "pairs.tsv"
    assert main([str(EXAMPLE), "--teacher-data", str(out), "--corpus", str(source)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: 12 pairs, ") and "1 lines without a source or a translation left out" in printed
    convert(EXAMPLE, tmp_path / "float32", weights="float32")
    with pyengine.load(tmp_path / "float32") as teacher:
        expected = [(line, result.text) for line, result in zip(SOURCES, teacher.translate(SOURCES), strict=True)]
    assert load_text(out) == expected
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus.de", "float32", "pairs.tsv"]
    with pytest.raises(OptionError, match="pairs.tsv: exists; overwrite=True replaces it"):
        write_teacher_data(EXAMPLE, source, out)
    again = write_teacher_data(tmp_path / "float32", source, out, overwrite=True)
    assert (again.pairs, again.left_out, load_text(out)) == (12, 1, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected lines of text, found an empty file"),
        (b"ein Hund\nein\tHund\n", "line 2: expected a source alone, found a tab"),
        (b"ein Hund\n\xff\n", "line 2: expected UTF-8, found an invalid byte at 0"),
        (None, "expected a file, found nothing"),
        (b"ein Hund " * 600, "line 1"),
    ],
)
def test_a_corpus_that_is_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    source = tmp_path / "corpus.de" if content is None else corpus(tmp_path, content)
    with pytest.raises(InputError, match=message):
        write_teacher_data(EXAMPLE, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_corpus_is_not_overwritten(tmp_path: Path) -> None:
    source = corpus(tmp_path, "ein Hund\n")
    with pytest.raises(OptionError, match="expected another file than the corpus"):
        write_teacher_data(EXAMPLE, source, source, overwrite=True)
    assert source.read_text() == "ein Hund\n"


def test_lines_of_blanks_are_left_out(tmp_path: Path) -> None:
    """Those of Unicode, too: what is written can be read."""
    made = write_teacher_data(EXAMPLE, corpus(tmp_path, f"{SOURCES[0]}\n\u2003\u3000\n"), tmp_path / "out")
    assert (made.pairs, made.left_out, len(load_text(tmp_path / "out"))) == (1, 1, 1)


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    model = handmade.write_checkpoint(tmp_path / "in")
    with pytest.raises(UnsupportedError, match="expected a model with tokenizer files, found none"):
        write_teacher_data(model, corpus(tmp_path, "ein Hund\n"), tmp_path / "out")


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyengine.quantize.seeing.teacher_data._join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_teacher_data(EXAMPLE, corpus(tmp_path, SOURCES[0]), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["corpus.de"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher-data", "x"], "--teacher-data and --corpus go together"),
        (["--corpus", "x", "-o", "y"], "--teacher-data and --corpus go together"),
        (["--teacher-data", "x", "--corpus", "y", "-o", "z"], "--teacher-data converts nothing: --output"),
        (["--teacher-data", "x", "--corpus", "y", "--kv", "int8"], "--teacher-data converts nothing: --kv"),
        (["--teacher-data", "x", "--corpus", "y", "--prune", "2:4"], "--teacher-data converts nothing: --prune"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["in", *arguments])
    assert exit.value.code == 2 and message in capsys.readouterr().err
