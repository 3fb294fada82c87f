"""Files of sentences: complete or absent, every line once, whichever way is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyengine
from pyengine import InputError, OptionError, Translator
from pyengine.tasks import files


@pytest.fixture
def translator(int8_directory: Path) -> Translator:
    return pyengine.load(int8_directory, threads=2)


@pytest.mark.parametrize("trial", [1, 3, 256])
def test_lines_are_those_of_translate(
    translator: Translator, german: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: int
) -> None:
    monkeypatch.setattr(files, "TRIAL", trial)
    monkeypatch.setattr(files, "WINDOW", 5)
    source, target = tmp_path / "source", tmp_path / "target"
    lines = [german[0], "", *german]
    source.write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    result = translator.translate_file(source, target, beam_size=2)
    expected = translator.translate(lines, beam_size=2)
    assert target.read_text(encoding="utf-8") == "".join(f"{each.text}\n" for each in expected)
    assert result.lines == len(lines) and result.tokens == sum(len(each.ids) + 1 for each in expected)
    assert result.seconds > 0 and result.replicas * result.threads == 2
    assert {each.replicas for each in result.trials} <= {1, 2}
    if trial == 1:
        best = max(result.trials, key=lambda each: each.tokens_a_second)
        assert (result.replicas, result.threads) == (best.replicas, best.threads)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_an_empty_file(translator: Translator, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"")
    result = translator.translate_file(tmp_path / "source", tmp_path / "target")
    assert (result.lines, result.trials) == (0, ())
    assert (tmp_path / "target").read_bytes() == b""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"gut\nnicht \xff\n", "source: line 2: expected UTF-8, found an invalid byte at 6"),
        (b"gut\n" + b"lang " * 400, "line 2 of .*source"),
        (None, "source: expected a file, found nothing"),
    ],
)
def test_nothing_is_left_of_what_fails(
    translator: Translator, tmp_path: Path, content: bytes | None, message: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(InputError, match=message):
        translator.translate_file(source, target)
    assert [path.name for path in tmp_path.iterdir()] == (["source"] if content is not None else [])


def test_an_output_that_exists(translator: Translator, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("Ein Mann.\n", encoding="utf-8")
    target.write_text("old", encoding="utf-8")
    with pytest.raises(OptionError, match="target: exists; overwrite=True replaces it"):
        translator.translate_file(source, target)
    assert target.read_text(encoding="utf-8") == "old"
    assert translator.translate_file(source, target, overwrite=True).lines == 1
    assert target.read_text(encoding="utf-8") != "old"
    with pytest.raises(OptionError, match="none/target: the directory .*none does not exist"):
        translator.translate_file(source, tmp_path / "none" / "target")
