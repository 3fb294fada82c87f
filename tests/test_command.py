"""What every command does: nothing written is lost, signals leave nothing behind, options have their own names."""

from __future__ import annotations

import fcntl
import importlib.util
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

from .checkpoints import handmade
from .conftest import CHECKPOINT

ROOT = Path(__file__).resolve().parents[1]
QUANTIZE, SHORTLIST = [str(ROOT / "tools" / f"{name}.py") for name in ("quantize", "shortlist")]
COMMAND = ["-m", "pyengine"]
UNBUFFERED = {**os.environ, "PYTHONUNBUFFERED": "1"}
Run = Callable[[list[str]], int]


def loaded_shortlist_tool() -> Run:
    spec = importlib.util.spec_from_file_location("shortlist_tool_for_signals", SHORTLIST)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


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
        return loaded_shortlist_tool(), [model, "--source", str(lines), "--target", str(lines), "-o", out]
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
    "shortlist --help": [SHORTLIST, "--help"],
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


def test_options_have_the_names_of_the_command_line() -> None:
    def said(message: str, *keywords: str) -> str:
        return message_of(OptionError(message, keywords=keywords))

    assert said("/overwrite: exists; overwrite=True replaces it", "overwrite=True") == (
        "/overwrite: exists; --overwrite replaces it"
    )
    assert said("beam_size (num_beams) is 0", "beam_size (num_beams)") == "--beam-size is 0"
    assert said("max_new_tokens is 0; threads", "max_new_tokens") == "--max-decoding-length is 0; threads"
    assert message_of(MemoryError()) == "out of memory"


@pytest.mark.parametrize("writing", ["translate", "teacher data", "shortlist"], indirect=True)
@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_standard_output_as_a_file(writing: tuple[Run, list[str]], tmp_path: Path, name: str) -> None:
    """Its bytes are those of the file, and nothing else is printed; no file has that name, nor is replaced."""
    main, arguments = writing
    assert main(arguments) == 0
    out = tmp_path / "out"
    started = {"translate": COMMAND, "--teacher-data": [QUANTIZE]}
    command = next((started[word] for word in arguments if word in started), [SHORTLIST])
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
