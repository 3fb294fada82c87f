"""The command line as a process: lines, statuses, messages."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine import InputError, _core
from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.cli.lines import PATIENCE, LineReader
from pyengine.quantize import convert
from pyengine.shortlist import Shortlist

from ..canonical.configs import HEADS
from ..oracle.tiny import generation, model_config, random_tensors

COMMAND = [sys.executable, "-m", "pyengine"]
LINES = ["Ein Mann fährt Fahrrad.", "", "Zwei Hunde spielen im Schnee.", "Eine Frau singt."]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, timeout=120, **options)


def error_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that a failed command writes to standard error."""
    assert done.returncode == 2
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(scope="module")
def expected(int8_directory: Path) -> list[str]:
    with pyengine.load(int8_directory) as translator:
        return [result.text for result in translator.translate(LINES, beam_size=2)]


def test_arguments(int8_directory: Path, expected: list[str]) -> None:
    done = run("translate", "-m", int8_directory, "--beam-size", 2, *LINES)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "".join(f"{line}\n" for line in expected)


def test_a_text_of_several_lines_is_worth_a_warning(int8_directory: Path) -> None:
    done = run("translate", "-m", int8_directory, "Ein Mann\nEine Frau")
    assert done.returncode == 0 and done.stdout.count(b"\n") == 1
    assert done.stderr.startswith(b"pyengine: warning: 'Ein Mann\\nEine Frau' has 2 lines and was read as one sentence")
    assert done.stderr.count(b"\n") == 1


def test_a_shortlist(int8_directory: Path, tmp_path: Path) -> None:
    """One that allows the end token alone."""
    nothing, offsets = np.zeros(0, np.int32), np.zeros(6002, np.int32)
    Shortlist(offsets, nothing, nothing, 6001).write(tmp_path / "list")
    done = run("translate", "-m", int8_directory, "--shortlist", tmp_path / "list", *LINES)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\n" * len(LINES), b"")


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""], ids=["lf", "crlf", "none"])
def test_lines(int8_directory: Path, expected: list[str], ending: str) -> None:
    lines = "\r\n".join(LINES) if ending == "\r\n" else "\n".join(LINES)
    done = run("translate", "-m", int8_directory, "--beam-size", 2, input=(lines + ending).encode())
    assert done.returncode == 0
    assert done.stdout.decode() == "".join(f"{line}\n" for line in expected)


def test_nothing_in_nothing_out(int8_directory: Path) -> None:
    done = run("translate", "-m", int8_directory, input=b"")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_file(int8_directory: Path, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("\n".join(LINES), encoding="utf-8")
    with open(tmp_path / "lines", "rb") as file:
        done = run("translate", "-m", int8_directory, "--beam-size", 2, stdin=file)
    assert done.stdout.decode().splitlines() == expected


def test_utf_8_whatever_the_locale(int8_directory: Path, expected: list[str]) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run(
        "translate", "-m", int8_directory, "--beam-size", 2, input="\n".join(LINES).encode(), env=environment
    )
    assert done.stdout.decode("utf-8").splitlines() == expected


def test_answers_a_program_that_waits(int8_directory: Path, expected: list[str]) -> None:
    """Each line is answered before the next is written."""
    command = [*COMMAND, "translate", "-m", str(int8_directory), "--beam-size", "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        for line, answer in zip(LINES, expected, strict=True):
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().decode() == answer + "\n"
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_a_batch_ends_by_the_time_that_it_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line comes before the reader's patience ends, and takes 6 ms by a clock that stands still else."""
    read, write = os.pipe()
    now = 0.0

    def wait(*arguments: object) -> tuple[list[int], list[int], list[int]]:
        nonlocal now
        now += 0.006
        if arguments[-1] == PATIENCE:  # else it begins a batch
            os.write(write, b"line\n")
        return [read], [], []

    monkeypatch.setattr("pyengine.cli.lines.monotonic", lambda: now)
    monkeypatch.setattr("pyengine.cli.lines.select.select", wait)
    os.write(write, b"first\n")
    batches = LineReader(read).batches()
    assert [len(list(next(batches))) for _ in range(3)] == [9, 9, 9]
    os.close(write)
    os.close(read)


def test_a_steady_writer_is_answered(int8_directory: Path) -> None:
    """It writes on until it sees an answer, without a pause that would end a batch, and not as much as a batch."""
    command = [*COMMAND, "translate", "-m", str(int8_directory), "--beam-size", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b"Ein Hund.\n")
        process.stdin.flush()
        process.stdout.readline()  # it is running
        written = 0
        while not select.select([process.stdout], [], [], 0.004)[0] and written < 1000:
            process.stdin.write(b"Ein Hund.\n")
            process.stdin.flush()
            written += 1
        assert written < 1000
        process.stdin.close()
        assert process.stdout.read().count(b"\n") == written
        assert process.wait(timeout=60) == 0


def test_invalid_utf_8(int8_directory: Path, expected: list[str]) -> None:
    done = run(
        "translate", "-m", int8_directory, "--beam-size", 2, input=LINES[0].encode() + b"\nab\xff\nMann\n"
    )
    assert error_line(done) == "pyengine: error: standard input, line 2: invalid UTF-8 at byte 3: 0xff"
    assert done.stdout.decode() == expected[0] + "\n"  # whole lines, and none after the error


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
def test_invalid_utf_8_in_a_file(int8_directory: Path, tmp_path: Path, far: bool) -> None:
    """It is found before anything is written."""
    good = "Ein Hund.\n".encode() * (20_000 if far else 1)
    (tmp_path / "lines").write_bytes(b"skipped\xff\n" + good + "fä\xc3".encode("latin-1") + b"\nMann\n")
    with open(tmp_path / "lines", "rb") as file:
        os.lseek(file.fileno(), 9, os.SEEK_SET)
        done = run("translate", "-m", int8_directory, stdin=file)
    number = good.count(b"\n") + 1
    message = f"standard input, line {number}: invalid UTF-8 at byte 2: 0xe4"
    assert error_line(done) == f"pyengine: error: {message}" and done.stdout == b""


def test_every_place_of_invalid_utf_8_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass finds what reading the lines finds, wherever chunks end."""
    monkeypatch.setattr("pyengine.cli.lines.CHUNK", 3)
    text = "aä\n\n€😀z\nb".encode()
    for cut in [*range(len(text)), None]:
        for bad in (b"\xff", b"\xe2\x82", b"\xf0\x9f\x98\n", b"\xc3"):
            data = text if cut is None else text[:cut] + bad + text[cut:]
            (tmp_path / "lines").write_bytes(data)
            found = []
            for kind in ("file", "pipe"):
                read, write = os.pipe()
                os.write(write, data)
                os.close(write)
                with open(tmp_path / "lines", "rb") as file, open(read, "rb") as pipe:
                    reader = LineReader((file if kind == "file" else pipe).fileno())
                    try:
                        found.append([line for batch in reader.batches() for line in batch])
                    except InputError as error:
                        found.append(str(error))
            assert found[0] == found[1], data


def test_closed_output(int8_directory: Path) -> None:
    for command in (f"translate -m {int8_directory} Hund", f"info {int8_directory}"):
        shell = f"{sys.executable} -m pyengine {command} >&-"
        done = subprocess.run(shell, shell=True, stderr=subprocess.PIPE, timeout=120)
        done.stdout = b""
        assert error_line(done) == "pyengine: error: standard output is closed"


def test_help_says_when_lines_are_checked() -> None:
    text = " ".join(run("translate", "--help").stdout.decode().split())
    assert "a file is checked before anything is written" in text


def test_arguments_are_translated_all_or_none(int8_directory: Path) -> None:
    done = run("translate", "-m", int8_directory, "Ein Hund.", "Hund " * 300)
    assert "input 2 has 301 tokens" in error_line(done) and done.stdout == b""


def test_closed_input_and_full_output(int8_directory: Path) -> None:
    shell = f"{sys.executable} -m pyengine translate -m {int8_directory}"
    assert "Bad file descriptor" in error_line(
        subprocess.run(f"{shell} <&-", shell=True, capture_output=True, timeout=120)
    )
    assert "No space left" in error_line(
        subprocess.run(f"{shell} Hund > /dev/full", shell=True, stderr=subprocess.PIPE, timeout=120)
    )


def test_too_long(int8_directory: Path) -> None:
    long = "Hund " * 300
    done = run("translate", "-m", int8_directory, long)
    assert "input 1 has 301 tokens; the model has 256 positions" in error_line(done) and done.stdout == b""
    done = run("translate", "-m", int8_directory, "--truncate", "--max-decoding-length", 3, "Hund", long)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2
    assert done.stderr == b"pyengine: warning: text 2 was cut to fit the model\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["translate", "x"], "arguments are required: -m/--model"),
        (
            ["translate", "-m", "{model}", "--beam-size", "many", "x"],
            "--beam-size is 'many'; expected a whole number, 1..256",
        ),
        (["translate", "-m", "{model}", "--beam-size", "0", "x"], "--beam-size is 0; expected"),
        (["translate", "-m", "{model}", "--max-batch-tokens", "0", "x"], "--max-batch-tokens is 0; expected"),
        (["translate", "-m", "{model}", "--compute", "int2", "x"], "--compute is 'int2'; expected"),
        (["translate", "-m", "{model}", "--threads", "0", "x"], "--threads is 0; expected"),
        (["translate", "-m", "{model}", "--threads", "all", "x"], "argument --threads: invalid threads value"),
        (["translate", "-m", "{model}", "--input", "x"], "--input and --output go together"),
        (["translate", "-m", "{model}", "--load", "slowly", "x"], "--load is 'slowly'; expected"),
        (["translate", "-m", "{model}", "--shortlist", "{empty}/none", "x"], "none: cannot be read"),
        (["translate", "-m", "{empty}", "x"], "expected a model directory, found an empty directory"),
        (["translate", "-m", "{empty}/none", "x"], "expected a model directory, found nothing"),
        (["info", "{empty}"], "expected a model directory, found an empty directory"),
        (["fly"], "invalid choice: 'fly'"),
        ([], "arguments are required: COMMAND"),
    ],
)
def test_errors_are_one_line(
    int8_directory: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run(*(word.format(model=int8_directory, empty=tmp_path) for word in arguments))
    assert message in error_line(done) and done.stdout == b""


def test_a_training_checkpoint_prints_the_command() -> None:
    checkpoint = Path(__file__).parents[2] / "examples" / "multi30k-de-en"
    for arguments in (("translate", "-m", checkpoint, "x"), ("info", checkpoint)):
        assert f"pyengine quantize {checkpoint} -o OUT" in error_line(run(*arguments))


def test_info(int8_directory: Path) -> None:
    done = run("info", int8_directory)
    rows = dict(line.split(maxsplit=1) for line in done.stdout.decode().splitlines())
    assert rows["weights"] == "int8" and rows["model.width"] == "256" and rows["verified"] == "no"
    about = json.loads(run("info", int8_directory, "--json", "--verify").stdout)
    assert about["verified"] and about["model"]["encoder"]["layers"] == 4
    assert about["generation"]["eos_token_id"] == [0]


def test_info_says_what_would_run_it_and_why_nothing_better(int8_directory: Path) -> None:
    about = json.loads(run("info", int8_directory, "--json").stdout)
    best = _core.available_isas()[-1]
    assert about["isa"] == best
    assert about["better_isas"] == {name: why for name, why in _core.instruction_sets().items() if why}
    lowered = run("info", int8_directory, env={**os.environ, "PYENGINE_ISA": "ref"}).stdout.decode()
    rows = dict(line.split(maxsplit=1) for line in lowered.splitlines())
    assert rows["isa"] == "ref"
    if best != "ref":
        assert rows[f"better_isas.{best}"] == "PYENGINE_ISA asks for ref"


def test_info_shows_heads(tmp_path: Path) -> None:
    config = model_config(heads=HEADS)
    tensors = {name: LazyTensor.of(name, values) for name, values in random_tensors(config, 1).items()}
    convert(CanonicalModel(config, generation(), tensors), tmp_path / "model")
    done = run("info", tmp_path / "model", "--verify")
    rows = dict(line.split(maxsplit=1) for line in done.stdout.decode().splitlines())
    assert rows["model.heads.classes.labels"] == '["no", "perhaps", "yes"]'
    assert (rows["model.heads.words.out"], rows["model.heads.embedding.pool"]) == ("vocabulary", "mean")
    about = json.loads(run("info", tmp_path / "model", "--json").stdout)
    assert about["model"]["heads"] == config.to_json()["heads"]


def test_info_verify_finds_a_damaged_byte(int8_directory: Path, tmp_path: Path) -> None:
    for file in int8_directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = bytearray((tmp_path / "model.safetensors").read_bytes())
    tensors[-100] ^= 1
    (tmp_path / "model.safetensors").write_bytes(tensors)
    assert run("info", tmp_path).returncode == 0
    assert "model.safetensors" in error_line(run("info", tmp_path, "--verify"))


def test_info_opens_the_tokenizer(int8_directory: Path, tmp_path: Path) -> None:
    """A directory whose sums are right, and whose tokenizer is not."""
    for file in int8_directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "source.spm").write_bytes(b"no model")
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    sums = [line.split("  ") for line in lines]
    digest = hashlib.sha256(b"no model").hexdigest()
    changed = [f"{digest if name == 'source.spm' else old}  {name}\n" for old, name in sums]
    (tmp_path / "SHA256SUMS").write_text("".join(changed))
    for arguments in (("info", tmp_path), ("info", tmp_path, "--verify")):
        assert "source.spm" in error_line(run(*arguments))


def test_info_escapes_control_characters(int8_directory: Path, tmp_path: Path) -> None:
    strange = tmp_path / "a\x1b[31m\nb"
    strange.mkdir()
    for file in int8_directory.iterdir():
        (strange / file.name).write_bytes(file.read_bytes())
    done = run("info", strange)
    assert done.returncode == 0 and b"\x1b" not in done.stdout
    assert "a\\x1b[31m\\nb" in done.stdout.decode()
    done = run("info", strange, "--json")
    assert b"\x1b" not in done.stdout and json.loads(done.stdout)["path"] == str(strange)
    assert "\x1b" not in error_line(run("info", strange / "none"))


def test_ctrl_c(int8_directory: Path) -> None:
    command = [*COMMAND, "translate", "-m", str(int8_directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b"Ein Hund.\n")
        process.stdin.flush()
        process.stdout.readline()  # it is running
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == b"pyengine: interrupted\n"


def test_a_signal_that_interrupts_no_read() -> None:
    """Python's handlers run in the main thread; a signal that another thread got, or that came just before the read,
    does not wake it."""
    read, write = os.pipe()
    caught, late = threading.Event(), threading.Event()

    def interrupt() -> None:
        time.sleep(0.2)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not caught.wait(30):
            late.set()
            os.write(write, b"line\n")

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        next(LineReader(read).batches())
    caught.set()
    thread.join()
    assert not late.is_set()
    os.close(read)
    os.close(write)


def test_a_broken_pipe_is_quiet(int8_directory: Path) -> None:
    command = [*COMMAND, "translate", "-m", str(int8_directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b"Ein Hund.\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        time.sleep(0.1)
        process.stdin.write(b"Ein Hund.\n" * 50)
        process.stdin.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == b""


def test_version() -> None:
    assert run("--version").stdout.decode() == f"pyengine {pyengine.__version__}\n"
