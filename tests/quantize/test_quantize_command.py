"""The command pyengine-quantize: its table, exit status, and one line for everything that is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from pyengine.modelfile import open_directory
from pyengine.quantize import main, packing

from ..checkpoints import handmade
from ..modelfile.directories import checkpoint_with_tokenizer, edit_json

TOOL = Path(__file__).resolve().parents[2] / "tools" / "quantize.py"


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        status = main(arguments)
    except SystemExit as exit:
        status = int(exit.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = checkpoint_with_tokenizer(tmp_path / "in"), tmp_path / "out"
    status, out, err = run([str(source), "-o", str(target)], capsys)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["tensor", "shape", "float32", "bytes", "stored", "bytes", "SNR", "dB"]
    row = next(line.split() for line in lines if line.startswith("encoder.layers.0.ffn.up.weight"))
    assert row[1:6] == ["20", "x", "12", "960", "512"] and 35 < float(row[6]) < 60
    assert "vectors" in lines[-3] and "total" in lines[-2] and "ratio" in lines[-2]
    assert lines[-1] == f"{target}: {open_directory(target).bytes:,} bytes, int8"


def test_notes_follow_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = handmade.marian_config(new_key=7, other={"a": 1})
    source, target = str(handmade.write_checkpoint(tmp_path / "in", config)), str(tmp_path / "out")
    status, out, err = run([source, "-o", target], capsys)
    assert (status, out) == (2, "") and "new_key = 7, other = {'a': 1}: unknown" in err
    assert err.endswith(" are passed over with --allow-unknown-keys new_key,other\n")
    for arguments in (["-o", target], ["--report-only"]):
        status, out, err = run([source, *arguments, "--allow-unknown-keys", "new_key, other"], capsys)
        notes = err.splitlines()
        assert status == 0 and all(note.startswith("pyengine-quantize: note: ") for note in notes)
        expected = ("new_key = 7: unknown, and passed over", "other = {'a': 1}: unknown", "no tokenizer files")
        assert len(notes) == 3 and all(part in note for part, note in zip(expected, notes))
    assert open_directory(target).tokenizer_kind is None
    assert "expected names with commas" in run([source, "-o", target, "--allow-unknown-keys", "a,,b"], capsys)[2]


def test_float32_and_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = str(checkpoint_with_tokenizer(tmp_path / "in")), str(tmp_path / "out")
    assert run([source, "-o", target], capsys)[0] == 0
    status, out, err = run([source, "-o", target, "--weights", "float32"], capsys)
    assert (status, out) == (2, "")
    assert err == f"pyengine-quantize: error: {target}: exists; --overwrite replaces it\n"
    status, out, err = run([source, "-o", target, "--weights", "float32", "--overwrite"], capsys)
    assert (status, err) == (0, "") and "exact" in out
    assert open_directory(target).weights == "float32"


def test_report_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoint_with_tokenizer(tmp_path / "in")
    status, out, err = run([str(source), "--report-only"], capsys)
    assert (status, err) == (0, "") and out.splitlines()[-1].startswith("total")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ([], "the following arguments are required: CHECKPOINT"),
        (["in"], "give either -o OUT or --report-only"),
        (["in", "-o", "out", "--report-only"], "give either -o OUT or --report-only"),
        (["in", "--report-only", "--overwrite"], "--overwrite has no meaning"),
        (["in", "-o", "out", "--weights", "int3"], "argument --weights: expected one of float32, bfloat16, "),
        (["in", "-o", "out", "--tensor", "a=int3"], "argument --tensor: expected one of float32, bfloat16, "),
        (["in", "-o", "out", "--tensor", "int8"], "argument --tensor: expected PATTERN=TYPE, found 'int8'"),
        (["in", "-o", "out", "--bits", "3"], "unrecognized arguments: --bits 3"),
        (["in", "-o", "out", "--prune", "ffn=0.2"], "--prune needs text: --calibrate FILE"),
        (["in", "--report-only", "--prune", "2:4", "--prune-method", "magnitude"], "--prune has no meaning"),
        (["in", "-o", "out", "--prune", "ffn", "--calibrate", "x"], "--prune 'ffn': expected WHAT=SHARE"),
        (["missing", "-o", "out"], "missing: expected a checkpoint directory or a GGUF file, found nothing"),
        (["in", "-o", "missing/out"], "missing/out: the directory missing does not exist"),
        (["in", "-o", "in"], "is no model directory"),
        (["in", "-o", "in", "--overwrite"], "is no model directory"),
        (["bad", "-o", "out"], "unknown to the importer"),
        (["empty", "-o", "out"], "found an empty directory"),
    ),
)
def test_one_line_for_what_is_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    handmade.write_checkpoint(tmp_path / "in")
    handmade.write_checkpoint(tmp_path / "bad", handmade.marian_config(**{"strange\nkey": 1}))
    (tmp_path / "empty").mkdir()
    status, out, err = run(arguments, capsys)
    assert (status, out) == (2, "")
    assert err.startswith("pyengine-quantize: error: ") and err.count("\n") == 1 and message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "empty", "in"]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def put(name: str, content: Any) -> Callable[[Path], Any]:
    return lambda directory: (directory / name).write_text(json.dumps(content))


TOKENIZERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (lambda d: truncate(d / "source.spm"), "source.spm: expected a SentencePiece model"),
    "a piece missing": (
        lambda d: edit_json(d / "vocab.json", lambda v: v.pop("<unk>")),
        "vocab.json: expected the ids 0 to 19 for its 20 pieces, found 20 for '<pad>'",
    ),
    "a smaller vocabulary": (
        put("vocab.json", {"</s>": 0, "<unk>": 1, "<pad>": 2}),
        "source vocabulary: expected the model's 21 pieces, found 3",
    ),
    "a larger vocabulary": (
        lambda d: edit_json(d / "vocab.json", lambda v: v.update(more=21)),
        "source vocabulary: expected the model's 21 pieces, found 22",
    ),
    "no second vocabulary": (
        put("tokenizer_config.json", {"separate_vocabs": True}),
        "target_vocab.json: cannot be read: No such file or directory",
    ),
    "another class": (put("tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"}), "tokenizer_class"),
    "a damaged tokenizer.json": (
        lambda d: ((d / "source.spm").unlink(), (d / "tokenizer.json").write_text("{}")),
        "tokenizer.json: expected a tokenizer",
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_does_not_open_is_not_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damage, message = TOKENIZERS[name]
    source = checkpoint_with_tokenizer(tmp_path / "in")
    assert run([str(source), "--report-only"], capsys)[0] == 0
    damage(source)
    for arguments in (["-o", str(tmp_path / "out")], ["--report-only"]):
        status, out, err = run([str(source), *arguments], capsys)
        assert (status, out) == (2, "")
        assert err.startswith("pyengine-quantize: error: ") and err.count("\n") == 1 and message in err
        assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_full_disk_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    source = handmade.write_checkpoint(tmp_path / "in")
    monkeypatch.setattr(os, "fsync", full)
    status, _, err = run([str(source), "-o", str(tmp_path / "out")], capsys)
    assert status == 2 and err == (
        f"pyengine-quantize: error: {tmp_path}/out/model.safetensors: cannot be written: No space left on device\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_tool_and_no_bar_in_a_log(tmp_path: Path) -> None:
    source = checkpoint_with_tokenizer(tmp_path / "in")
    command = [sys.executable, str(TOOL), str(source), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    again = subprocess.run(command, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (2, "") and again.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "status", "message"),
    ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")),
)
def test_a_signal_leaves_nothing(tmp_path: Path, number: int, status: int, message: str) -> None:
    """Ctrl-C or SIGTERM as soon as the temporary directory is there."""
    config = handmade.marian_config(
        d_model=512, encoder_attention_heads=8, decoder_attention_heads=8, encoder_layers=6
    )
    source = handmade.write_checkpoint(tmp_path / "in", config)
    command = [sys.executable, str(TOOL), str(source), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob(".out.*")):
        time.sleep(0.001)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    if process.returncode:  # else it was done before the signal came
        assert (process.returncode, out) == (status, "")
        assert err == f"pyengine-quantize: {message}\n"
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
    else:
        open_directory(tmp_path / "out", verify=True)


def test_the_handler_of_sigterm_is_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = handmade.write_checkpoint(tmp_path / "in")
    before = signal.getsignal(signal.SIGTERM)
    for arguments in ([str(source), "--report-only"], [str(tmp_path / "missing"), "--report-only"]):
        run(arguments, capsys)
        assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_than_the_main_one(tmp_path: Path) -> None:
    """Only the main thread may set a handler."""
    source, statuses = handmade.write_checkpoint(tmp_path / "in"), []
    thread = threading.Thread(target=lambda: statuses.append(main([str(source), "--report-only"])))
    thread.start()
    thread.join(60)
    assert statuses == [0]


@pytest.mark.parametrize("arguments", (["--report-only"], ["-o", "out"]))
def test_a_table_that_cannot_be_written_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    source = handmade.write_checkpoint(tmp_path / "in")
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(TOOL), str(source), *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "pyengine-quantize: error: standard output: cannot be written: No space left on device\n"


def test_too_little_memory_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    source = handmade.write_checkpoint(tmp_path / "in")
    monkeypatch.setattr(packing, "round_matrix", exhausted)
    status, out, err = run([str(source), "-o", str(tmp_path / "out")], capsys)
    assert (status, out, err) == (2, "", "pyengine-quantize: error: out of memory\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (["-m", "pyengine", "quantize"], "pyengine quantize"),
        (["-m", "pyengine.quantize"], "pyengine-quantize"),
        ([str(TOOL)], "pyengine-quantize"),
    ],
    ids=["subcommand", "module", "tool"],
)
def test_each_way_to_start_it(command: list[str], program: str, tmp_path: Path) -> None:
    """Options before the checkpoint, too; and messages call it what it was called."""
    source, target = checkpoint_with_tokenizer(tmp_path / "in"), tmp_path / "out"
    words = [sys.executable, *command, "--weights", "float32", "-o", str(target), str(source)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and open_directory(target).weights == "float32"
    again = subprocess.run(words, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"{program}: error: {target}: exists; --overwrite replaces it\n"
    misused = subprocess.run([*words, "--nonsense"], capture_output=True, text=True)
    assert misused.returncode == 2 and misused.stderr.startswith(f"{program}: error: unrecognized arguments")
