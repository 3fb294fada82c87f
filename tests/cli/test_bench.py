"""`pyengine bench`: every setting is measured, and slow int8 is said to be slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyengine import load
from pyengine.cli import bench, main


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "PAIRS", 1)
    monkeypatch.setattr(bench, "WRITTEN", 4)


def test_int8_against_float32(int8_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "-m", str(int8_directory), "--threads", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compute"] == "int8" and found["weight_bytes"] > 0 and found["load_seconds"] > 0
    settings = [(each["threads"], each["beams"], each["batch"]) for each in found["figures"]]
    assert settings == [(t, b, n) for t in (1, 2) for b in (1, 4) for n in (1, 8, 32)]
    for each in found["figures"]:
        assert each["ratio_low"] <= each["ratio"] <= each["ratio_high"]
        assert each["tokens_a_second"] > 0 and each["float32_tokens_a_second"] > 0


def test_random_sentences_have_no_padding(int8_directory: Path) -> None:
    with load(int8_directory) as translator:
        generation = translator.info()["generation"]
        assert isinstance(generation, dict)
        sentences = bench._sentences(translator, None, 1000, 0)
    drawn = {token for sentence in sentences for token in sentence}
    assert len(drawn) > 5000 and generation["pad_token_id"] not in drawn


def test_a_float32_directory_and_sentences_of_a_file(
    float32_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.write_text("Ein Mann fährt Fahrrad.\n\nZwei Hunde.\n", encoding="utf-8")
    assert main(["bench", "-m", str(float32_directory), "--threads", "1", "--data", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "no int8 to compare with" in printed and "int8/float32" not in printed
    assert len(printed.splitlines()) == 2 + 1 + 6


def test_slow_int8_is_a_warning(
    int8_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = bench.Figures(1, 4, 8, 10.0, 1.0, 20.0, 0.5, 0.4, 0.6)
    monkeypatch.setattr(bench, "_measure", lambda *arguments: slow)
    assert main(["bench", "-m", str(int8_directory), "--threads", "1"]) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert warnings[0] == "pyengine: warning: int8 is not faster than float32 with 1 threads, 4 beams, 8 sentences"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"\n\n", "expected sentences"), (b"a\xff", "invalid byte at 1")],
)
def test_unusable_data(
    int8_directory: Path, tmp_path: Path, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data"
    if content is not None:
        path.write_bytes(content)
    assert main(["bench", "-m", str(int8_directory), "--data", str(path)]) == 2
    assert message in capsys.readouterr().err
