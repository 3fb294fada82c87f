"""What every command does: nothing written is lost, signals leave nothing behind, options have their own names."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import pyengine.cli
import pyengine.quantize
from pyengine import OptionError
from pyengine.command import message_of, run_command
from pyengine.output import CheckedFile, new_file
from pyengine.quantize.report.data import FORMAT

from .checkpoints import handmade
from .conftest import CHECKPOINT

ROOT = Path(__file__).resolve().parents[1]
QUANTIZE = str(ROOT / "tools" / "quantize.py")
COMMAND = ["-m", "pyengine"]
UNBUFFERED = {**os.environ, "PYTHONUNBUFFERED": "1"}
Run = Callable[[list[str]], int]


@pytest.fixture(params=["translate", "quantize", "teacher data", "shortlist", "compare"])
def writing(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Run, list[str]]:
    """Each command that writes files, and arguments with which it does."""
    out, model = str(tmp_path / "out"), str(request.getfixturevalue("int8_directory"))
    lines, pairs = tmp_path / "lines", tmp_path / "pairs"
    lines.write_text("Ein Hund.\n", encoding="utf-8")
    pairs.write_text("Ein Hund.\tA dog.\n", encoding="utf-8")
    if request.param == "translate":
        return pyengine.cli.main, ["translate", "-m", model, "--input", str(lines), "--output", out]
    if request.param == "compare":
        return pyengine.cli.main, ["compare", model, model, "--data", str(pairs), "--report", out]
    if request.param == "shortlist":
        return pyengine.cli.main, ["shortlist", model, "--source", str(lines), "--target", str(lines), "-o", out]
    if request.param == "quantize":
        return pyengine.quantize.main, [str(handmade.write_checkpoint(tmp_path / "in")), "-o", out]
    return pyengine.quantize.main, [str(CHECKPOINT), "--teacher-data", out, "--corpus", str(lines)]


def test_signals_leave_nothing_of_any_command(
    writing: tuple[Run, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that comes when all is written but not in its place; and another one, while it is removed."""
    main, arguments = writing
    before, seen = sorted(tmp_path.iterdir()), []

    def signalled(file: CheckedFile) -> None:
        seen.append(sorted(tmp_path.iterdir()))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CheckedFile, "sync", signalled)
    remove, unlink = pyengine.output.shutil.rmtree, Path.unlink

    def second(call: Callable[..., None]) -> Callable[..., None]:
        def removing(*arguments: object, **options: object) -> None:
            os.kill(os.getpid(), signal.SIGHUP)
            call(*arguments, **options)

        return removing

    monkeypatch.setattr(pyengine.output.shutil, "rmtree", second(remove))
    monkeypatch.setattr(Path, "unlink", second(unlink))
    assert main(arguments) == 143
    assert len(seen) == 1 and len(seen[0]) > len(before)
    assert sorted(tmp_path.iterdir()) == before
    assert capsys.readouterr().err.endswith(": terminated\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_has_a_status_of_its_own(
    tmp_path: Path, number: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def run() -> None:
        with new_file(tmp_path / "file", overwrite=False):
            os.kill(os.getpid(), number)

    assert run_command("program", run) == status
    assert re.fullmatch(r"program: [a-z ]+\n", capsys.readouterr().err)
    assert not any(tmp_path.iterdir())
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_a_signal_that_the_process_was_told_to_ignore(tmp_path: Path) -> None:
    """By nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_command("program", lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_was_swallowed_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A destructor swallows exceptions: after the time for cleaning up another signal counts again."""
    monkeypatch.setattr("pyengine.command._GRACE", 0.0)

    def run() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            pass
        os.kill(os.getpid(), signal.SIGHUP)

    assert run_command("program", run) == 129


PRINTING = {
    "translate": [*COMMAND, "translate", "-m", "{model}", "Ein Hund."],
    "info": [*COMMAND, "info", "{model}"],
    "info --json": [*COMMAND, "info", "{model}", "--json"],
    "--help": [*COMMAND, "translate", "--help"],
    "--version": [*COMMAND, "--version"],
    "quantize": [QUANTIZE, "{model}", "--requantize", "--report-only"],
    "quantize --help": [QUANTIZE, "--help"],
    "quantize --list-methods": [QUANTIZE, "--list-methods"],
    "shortlist --help": [*COMMAND, "shortlist", "--help"],
}


@pytest.mark.parametrize("command", PRINTING)
def test_a_full_disk_is_an_error(int8_directory: Path, command: str) -> None:
    words = [sys.executable, *(word.format(model=int8_directory) for word in PRINTING[command])]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=UNBUFFERED, timeout=120)
    error = done.stderr.decode()
    assert done.returncode == 2 and error.count("\n") == 1
    assert error.endswith(": error: standard output: cannot be written: No space left on device\n")


def test_a_disk_that_fills_up_in_a_line(tmp_path: Path) -> None:
    """The system writes what it has room for, and says no to the rest only."""
    shell = f"ulimit -f 1; exec {sys.executable} {QUANTIZE} --help > {tmp_path}/help"
    done = subprocess.run(["bash", "-c", shell], stderr=subprocess.PIPE, env=UNBUFFERED, timeout=60)
    assert done.returncode == 2 and b"standard output: cannot be written: File too large" in done.stderr
    assert (tmp_path / "help").stat().st_size == 1024


def test_a_pipe_that_does_not_block() -> None:
    """It takes a page at a time, and says that it is full."""
    expected = subprocess.run([sys.executable, QUANTIZE, "--help"], stdout=subprocess.PIPE, timeout=60).stdout
    read, write = os.pipe()
    os.set_blocking(write, False)
    assert fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096) < len(expected)
    with subprocess.Popen([sys.executable, QUANTIZE, "--help"], stdout=write, env=UNBUFFERED) as process:
        os.close(write)
        with open(read, "rb") as pipe:
            assert pipe.read() == expected
        assert process.wait(timeout=60) == 0


def test_every_byte_arrives_through_a_pipe_that_does_not_block() -> None:
    content, found = os.urandom(1 << 20), []
    read, write = os.pipe()
    os.set_blocking(write, False)

    def reading() -> None:
        with open(read, "rb") as pipe:
            found.append(pipe.read())

    thread = threading.Thread(target=reading)
    thread.start()
    with CheckedFile(write, "pipe") as file:
        assert file.write(content) == len(content)
    thread.join(60)
    assert found == [content]


SPOKEN = {
    "translate": [
        (["--beam-size", "0"], "--beam-size is 0; expected a whole number, 1..256"),
        (["--length-penalty", "1000"], "--length-penalty is 1000.0; expected a number"),
        (["--max-decoding-length", "0"], "--max-decoding-length is 0; expected a whole number, at least 1"),
        (["--max-decoding-length", "300"], "--max-decoding-length is 300; expected at most 256: the model has 256"),
        (["--max-batch-tokens", "0"], "--max-batch-tokens is 0; expected"),
        (["--compute", "int2"], "--compute is 'int2'; expected"),
        (["--threads", "0"], "--threads is 0; expected"),
        (["--load", "slowly"], "--load is 'slowly'; expected"),
        (["Hund " * 300], "input 2 has 301 tokens; the model has 256 positions (--truncate cuts it)"),
    ],
    "translate a file": [
        (["--output", "{0}/long"], "long: exists; --overwrite replaces it"),
        (["--input", "{0}/long"], "line 1 of {0}/long has 301 tokens; the model has 256 positions (--truncate cuts"),
    ],
    "compare": [
        (["--report", "{0}/report"], "report: exists; --overwrite replaces it"),
        (["--threads", "-1"], "--threads is -1; expected"),
    ],
    "quantize": [
        (["-o", "{model}"], "{model}: exists; --overwrite replaces it"),
        (["{model}"], "--requantize does it all the same"),
        (["--tensor", "x=int8"], "--tensor: 'x' matches no matrix"),
        (["--tensor", "lm_head=int3"], "--tensor: expected one of float32, bfloat16"),
        (["--vocabulary", "{0}/lines"], "--vocabulary: expected a translation behind a tab in every line"),
        (["--prune", "ffn=2", "--calibrate", "{0}/lines"], "--prune: ffn: expected a share of at least 0"),
        (["--prune", "decoder-layers=0.99", "--calibrate", "{0}/lines"], "--prune: decoder-layers: expected a share"),
        (["--prune", "blocks=2", "--calibrate", "{0}/lines"], "--prune blocks: expected a share between 0 and 1"),
    ],
}


@pytest.mark.parametrize("command", SPOKEN)
def test_options_have_the_names_of_the_command_line(
    int8_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    model, at = str(int8_directory), str(tmp_path)
    (tmp_path / "lines").write_text("Ein Hund.\n", encoding="utf-8")
    (tmp_path / "long").write_text("Hund " * 300 + "\n", encoding="utf-8")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text('{{"format": "{}"}}'.format(FORMAT))
    start = {
        "translate": ["translate", "-m", model, "Hund"],
        "translate a file": ["translate", "-m", model, "--input", f"{at}/lines", "--output", f"{at}/new"],
        "compare": ["compare", model, model, "--data", f"{at}/lines"],
        "quantize": ["-o", f"{at}/new"],
    }
    main = pyengine.quantize.main if command == "quantize" else pyengine.cli.main
    for options, message in SPOKEN[command]:
        words = [word.format(at, model=model) for word in options]
        if command == "quantize" and words[0] != model:
            words.insert(0, str(CHECKPOINT))
        try:
            status = main([*start[command], *words])
        except SystemExit as exit:
            status = int(exit.code or 0)
        error = capsys.readouterr().err
        assert status == 2 and message.format(at, model=model) in error, error


def test_names_that_are_no_options_stay() -> None:
    """A file may have the name of a keyword, and a keyword may have no option here."""
    for message in ("overwrite: exists", "threads: the directory x does not exist", "task is 3; expected", ""):
        assert message_of(OptionError(message)) == (message or "out of memory")
    error = OptionError("/overwrite: exists; overwrite=True replaces it", keywords=("overwrite=True",))
    assert message_of(error) == "/overwrite: exists; --overwrite replaces it"
    error = OptionError("min_length is 5, but max_new_tokens is 3", keywords=("max_new_tokens",))
    assert message_of(error) == "--min-length is 5, but --max-new-tokens is 3"
    assert message_of(MemoryError()) == "out of memory"


@pytest.mark.parametrize("writing", ["translate", "teacher data", "shortlist"], indirect=True)
@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_standard_output_as_a_file(writing: tuple[Run, list[str]], tmp_path: Path, name: str) -> None:
    """Its bytes are those of the file, and nothing else is printed; no file has that name, nor is replaced."""
    main, arguments = writing
    assert main(arguments) == 0
    out = tmp_path / "out"
    command = COMMAND if main is pyengine.cli.main else [QUANTIZE]
    words = [sys.executable, *command, *(name if word == str(out) else word for word in arguments)]
    before = os.lstat("/dev/stdout")
    with open(tmp_path / "redirected", "wb") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.PIPE, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and done.stderr
    assert (tmp_path / "redirected").read_bytes() == out.read_bytes()
    assert os.lstat("/dev/stdout") == before and not (tmp_path / "-").exists()


def test_a_directory_cannot_be_written_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pyengine.quantize.main(["in", "-o", "-"])
    assert "a directory cannot be written to standard output" in capsys.readouterr().err
