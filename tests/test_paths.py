"""What can be no path, as an argument of all that takes one: an error of ours that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pyengine
from pyengine import PyengineError, Translator, cli, quantize
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory
from pyengine.quantize import convert
from pyengine.quantize.pipeline import measure
from pyengine.quantize.report import check_report_target
from pyengine.quantize.seeing.teacher_data import write_teacher_data
from pyengine.quantize.seeing.text import load_text
from pyengine.shortlist import Shortlist
from pyengine.text import open_tokenizer
from tests.conftest import CHECKPOINT

NO_PATHS = {
    "a\0b": r"a\x00b: cannot be a path: ",
    "a\ud800b": r"a\ud800b: cannot be a path: ",
    "x" * 300: f"{'x' * 300}: cannot be a path: File name too long",
    "d/" * 3000 + "x": "cannot be a path: File name too long",
}
SOURCE = CHECKPOINT / "test_2016_flickr.de"


@pytest.fixture(scope="module")
def model(int8_directory: Path) -> Translator:
    return pyengine.load(int8_directory, threads=1)


Call = Callable[[Path, Translator, Path], object]

CALLS: dict[str, Call] = {  # of the path, a model and its directory
    "load": lambda path, model, directory: pyengine.load(path),
    "load, as text": lambda path, model, directory: pyengine.load(str(path)),
    "load, shortlist": lambda path, model, directory: pyengine.load(directory, shortlist=path),
    "translate_file, source": lambda path, model, directory: model.translate_file(path, path.parent / "out"),
    "translate_file, target": lambda path, model, directory: model.translate_file(SOURCE, path),
    "open_directory": lambda path, model, directory: open_directory(path),
    "open_checkpoint": lambda path, model, directory: open_checkpoint(path),
    "open_tokenizer": lambda path, model, directory: open_tokenizer(path, "sentencepiece"),
    "Shortlist.open": lambda path, model, directory: Shortlist.open(path, 9, 9),
    "convert, checkpoint": lambda path, model, directory: convert(path, path.parent / "out"),
    "convert, output": lambda path, model, directory: convert(CHECKPOINT, path),
    "measure": lambda path, model, directory: measure(path),
    "load_text": lambda path, model, directory: load_text(path),
    "check_report_target": lambda path, model, directory: check_report_target(path, overwrite=True),
    "write_teacher_data, corpus": lambda path, model, directory: write_teacher_data(directory, path, SOURCE),
    "write_teacher_data, output": lambda path, model, directory: write_teacher_data(directory, SOURCE, path),
}


@pytest.mark.parametrize("name", NO_PATHS)
@pytest.mark.parametrize("call", CALLS)
def test_calls(tmp_path: Path, model: Translator, int8_directory: Path, call: str, name: str) -> None:
    with pytest.raises(PyengineError) as caught:
        CALLS[call](tmp_path / name, model, int8_directory)
    assert NO_PATHS[name] in str(caught.value) and str(caught.value).isprintable()
    assert not any(tmp_path.iterdir())


COMMANDS = {
    "translate": "translate -m {path} x",
    "translate --shortlist": "translate -m {model} --shortlist {path} x",
    "translate --input": "translate -m {model} --input {path} --output {empty}/out",
    "translate --output": "translate -m {model} --input {text} --output {path}",
    "info": "info {path}",
    "bench": "bench -m {path}",
    "bench --data": "bench -m {model} --data {path}",
    "compare A": "compare {path} {model} --data {text}",
    "compare B": "compare {model} {path} --data {text}",
    "compare --data": "compare {model} {model} --data {path}",
    "compare --report": "compare {model} {model} --data {text} --report {path}",
    "quantize": "{path} -o {empty}/out",
    "quantize -o": "{checkpoint} -o {path}",
    "quantize --report": "{checkpoint} -o {empty}/out --report {path}",
    "quantize --calibrate": "{checkpoint} -o {empty}/out --weights int4 --calibrate {path}",
    "quantize --resume": "{checkpoint} -o {empty}/out --weights int4 --calibrate {text} --resume {path}",
    "quantize --vocabulary": "{checkpoint} -o {empty}/out --vocabulary {path}",
    "quantize --corpus": "{checkpoint} --teacher-data {empty}/out --corpus {path}",
    "quantize --teacher-data": "{checkpoint} --teacher-data {path} --corpus {text}",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(
    tmp_path: Path, int8_directory: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, message = list(NO_PATHS.items())[0]
    places = {"path": tmp_path / name, "model": int8_directory, "checkpoint": CHECKPOINT, "text": SOURCE}
    main = quantize.main if command.startswith("quantize") else cli.main
    assert main([word.format(**places, empty=tmp_path) for word in COMMANDS[command].split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ("translate -m x --threads {digits} x", "argument --threads: invalid threads value: '999"),
        ("translate -m x --beam-size {digits} x", "--beam-size is '999"),
        ("compare x x --data x --limit {digits}", "argument --limit: invalid int value: '999"),
        ("x -o y --calibrate z --target-size {digits}", "argument --target-size: expected a size of at most"),
        ("x -o y --calibrate z --target-size {digits}GB", "argument --target-size: expected a size of at most"),
        ("x -o y --prune {digits}:4 --calibrate z", ":4: expected one of blocks, weights or N:M"),
        ("x -o y --prune 2:{digits} --calibrate z", "99: expected one of blocks, weights or N:M"),
    ),
)
def test_numbers_of_many_digits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    main = quantize.main if arguments.startswith("x") else cli.main
    words = arguments.format(digits="9" * 5000).split()
    try:
        status = main(words)
    except SystemExit as exit:
        status = exit.code  # type: ignore[assignment]
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1 and len(error) <= 2001
