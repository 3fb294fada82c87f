"""The command line as a process: lines, statuses, messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import pyengine

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
        return [result.text or "" for result in translator.translate(LINES, beam_size=2)]


def test_arguments(int8_directory: Path, expected: list[str]) -> None:
    done = run("translate", "-m", int8_directory, "--beam-size", 2, *LINES)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "".join(f"{line}\n" for line in expected)


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


def test_invalid_utf_8(int8_directory: Path, expected: list[str]) -> None:
    done = run(
        "translate", "-m", int8_directory, "--beam-size", 2, input=LINES[0].encode() + b"\nab\xff\nMann\n"
    )
    assert error_line(done) == "pyengine: error: standard input, line 2: invalid UTF-8 at byte 3: 0xff"
    assert done.stdout.decode() == expected[0] + "\n"  # whole lines, and none after the error


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
            "argument --beam-size: invalid int value",
        ),
        (["translate", "-m", "{model}", "--beam-size", "0", "x"], "beam_size (num_beams) is 0; expected"),
        (["translate", "-m", "{model}", "--max-batch-tokens", "0", "x"], "max_batch_tokens is 0; expected"),
        (["translate", "-m", "{model}", "--compute", "int2", "x"], "compute is 'int2'; expected"),
        (["translate", "-m", "{model}", "--threads", "0", "x"], "threads is 0; expected"),
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
        assert f"python tools/quantize.py {checkpoint} -o OUT" in error_line(run(*arguments))


def test_info(int8_directory: Path) -> None:
    done = run("info", int8_directory)
    rows = dict(line.split(maxsplit=1) for line in done.stdout.decode().splitlines())
    assert rows["weights"] == "int8" and rows["model.width"] == "256" and rows["verified"] == "no"
    about = json.loads(run("info", int8_directory, "--json", "--verify").stdout)
    assert about["verified"] and about["model"]["encoder"]["layers"] == 4
    assert about["generation"]["eos_token_id"] == [0]


def test_info_verify_finds_a_damaged_byte(int8_directory: Path, tmp_path: Path) -> None:
    for file in int8_directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = bytearray((tmp_path / "model.safetensors").read_bytes())
    tensors[-100] ^= 1
    (tmp_path / "model.safetensors").write_bytes(tensors)
    assert run("info", tmp_path).returncode == 0
    assert "model.safetensors" in error_line(run("info", tmp_path, "--verify"))


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
        assert process.stderr.read() == b""


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
