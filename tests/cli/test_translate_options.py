"""What `pyengine translate` takes is what Python's calls take, and what it writes is what they return."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyengine
from pyengine import TranslationResult, Translator
from pyengine.cli import main

LINES = ["Ein Mann fährt Fahrrad.", "", "Zwei Hunde spielen im Schnee."]
SEARCHES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "beams": (["--num-beams", "3"], {"num_beams": 3}),
    "CTranslate2's names": (
        ["--beam-size", "3", "--max-decoding-length", "4", "--min-decoding-length", "2"],
        {"num_beams": 3, "max_new_tokens": 4, "min_new_tokens": 2},
    ),
    "shortened": (["--num-b", "2", "--length-p", "-1"], {"num_beams": 2, "length_penalty": -1.0}),
    "stopping": (["--num-beams", "2", "--early-stopping", "never"], {"num_beams": 2, "early_stopping": "never"}),
    "tokens": (
        ["--suppress-tokens", "5,6", "--bad-words-ids", "7 8,9", "--no-repeat-ngram-size=2", "--max-length", "9"],
        {"suppress_tokens": [5, 6], "bad_words_ids": [[7], [8, 9]], "no_repeat_ngram_size": 2, "max_length": 9},
    ),
    "forced": (["--forced-bos-token-id", "40", "--forced-eos-token-id", "none"],
               {"forced_bos_token_id": 40, "forced_eos_token_id": ()}),
}  # fmt: skip


@pytest.fixture(scope="module")
def translator(int8_directory: Path) -> Translator:
    return pyengine.load(int8_directory)


@pytest.fixture
def lines(int8_directory: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Runs the command and returns the lines that it wrote."""

    def run(*words: object) -> list[str]:
        status = main(["translate", "-m", str(int8_directory), *map(str, words)])
        found = capsysbinary.readouterr()
        assert status == 0, found.err
        return found.out.decode("utf-8").split("\n")[:-1]

    return run


@pytest.fixture
def error(int8_directory: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Runs the command, which fails and writes nothing, and returns what it says."""

    def run(*words: object) -> str:
        status = main(["translate", "-m", str(int8_directory), *map(str, words)])
        found = capsysbinary.readouterr()
        assert status == 2 and found.out == b"" and found.err.count(b"\n") == 1
        return found.err.decode("utf-8").removeprefix("pyengine: error: ").rstrip("\n")

    return run


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_that_of_python(lines: Any, translator: Translator, name: str) -> None:
    words, keywords = SEARCHES[name]
    assert lines(*words, *LINES) == [result.text for result in translator.translate(LINES, **keywords)]


def from_lines(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    """Standard input is a pipe with these lines."""
    read, write = os.pipe()
    os.write(write, "".join(f"{text}\n" for text in texts).encode())
    os.close(write)
    monkeypatch.setattr("pyengine.cli.translate.STDIN", read)


@pytest.mark.parametrize("way", ["texts", "lines", "file"])
def test_n_best_and_scores(
    lines: Any, translator: Translator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    """An empty text has one hypothesis."""
    given: list[object] = [*LINES] if way == "texts" else []
    from_lines(monkeypatch, *LINES)
    if way == "file":
        (tmp_path / "in").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
        given = ["--input", tmp_path / "in", "--output", "-"]
    for spelled in ("--num-return-sequences", "--num-hypotheses"):
        from_lines(monkeypatch, *LINES)
        found = lines("--beam-size", 3, spelled, 2, "--scores", *given)
        results = translator.translate(LINES, num_beams=3, num_return_sequences=2)
        assert [len(each.hypotheses) for each in results] == [2, 1, 2]
        assert found == [
            f"{number}\t{each.score:.6f}\t{each.text}"
            for number, result in enumerate(results, 1)
            for each in result.hypotheses
        ]
    from_lines(monkeypatch, *LINES)
    numbered = lines("--num-beams", 3, "--num-hypotheses", 1, *given)
    assert numbered == [f"{number}\t{result.text}" for number, result in enumerate(results, 1)]
    from_lines(monkeypatch, *LINES)
    assert lines("--num-beams", 3, "--scores", *given) == [f"{each.score:.6f}\t{each.text}" for each in results]


def as_json(result: TranslationResult) -> dict[str, Any]:
    names = ("text", "score", "finish_reason", "ids", "tokens")
    hypotheses = [{name: getattr(each, name) for name in names} for each in result.hypotheses]
    found: dict[str, Any] = json.loads(json.dumps({"truncated": result.truncated, "hypotheses": hypotheses}))
    return found


@pytest.mark.parametrize("way", ["texts", "file"])
def test_json(lines: Any, translator: Translator, tmp_path: Path, way: str) -> None:
    texts = [*LINES, "Hund " * 300]
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in texts), encoding="utf-8")
    given = texts if way == "texts" else ["--input", tmp_path / "in", "--output", "-"]
    how = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 12}
    found = lines("--json", "--truncate", "--num-beams", 2, "--num-hypotheses", 2, "--max-new-tokens", 12, *given)
    assert all(line.isascii() for line in found)
    assert [json.loads(line) for line in found] == [
        as_json(each) for each in translator.translate(texts, truncate=True, **how)
    ]


def test_json_has_no_infinity(lines: Any) -> None:
    """Where bans leave nothing."""
    everything = ",".join(map(str, range(6001)))
    [line] = lines("--json", "--suppress-tokens", everything, "--forced-eos-token-id", "none", "Hund")
    score = json.loads(line, parse_constant=pytest.fail)["hypotheses"][0]["score"]
    assert score is None


def test_a_prefix(lines: Any, translator: Translator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As text and as ids, of texts, lines and a file."""
    texts = [LINES[0], LINES[2]]
    expected = [each.text for each in translator.translate_iter(texts, target_prefix="A woman")]
    ids = translator.score(texts[0], "A woman").ids[:-1]
    assert all(text.startswith("A woman") for text in expected)
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in texts), encoding="utf-8")
    for given in (["--target-prefix", "A woman"], ["--target-prefix-ids", ",".join(map(str, ids))]):
        assert lines(*given, *texts) == expected
        from_lines(monkeypatch, *texts)
        assert lines(*given) == expected
        assert lines(*given, "--input", tmp_path / "in", "--output", "-") == expected


def test_replicas(lines: Any, translator: Translator, error: Any, tmp_path: Path) -> None:
    many = [f"{number} {LINES[2]}" for number in range(40)]
    expected = [each.text for each in translator.translate(many, beam_size=2)]
    seen = []
    load = sys.modules["pyengine.cli.translate"].load  # type: ignore[attr-defined]

    def noted(*arguments: Any, **keywords: Any) -> Any:
        seen.append(keywords["replicas"])
        return load(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyengine.cli.translate.load", noted)
        assert lines("--threads", 2, "--replicas", 2, "--beam-size", 2, *many) == expected
    assert seen == [2]
    assert "--replicas is 0; expected" in error("--replicas", 0, "x")
    message = "--replicas is for TEXT and standard input"
    assert message in error("--replicas", 2, "--input", tmp_path / "in", "--output", tmp_path / "out")


def test_the_cache(lines: Any, error: Any, int8_directory: Path) -> None:
    with pyengine.load(int8_directory, threads=1, kv="float32") as other:
        expected = [result.text for result in other.translate(LINES)]
    assert lines("--kv", "float32", "--cache-bytes", "2MB", *LINES) == expected
    assert "give a larger --cache-bytes, or fewer" in error("--cache-bytes", "30kB", "Ein Mann auf einer Brücke. " * 9)
    assert error("--kv", "int4", "x") == '--kv is \'int4\'; expected "int8" or "float32"'


def test_a_timeout(error: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of texts or a file is written, and nothing of lines of which none was done."""
    (tmp_path / "in").write_text(f"{LINES[0]}\n" * 200, encoding="utf-8")
    message = "--timeout: the call was not done after 1e-05 seconds"
    assert error("--timeout", "1e-5", *LINES) == message
    from_lines(monkeypatch, *LINES)
    assert error("--timeout", "1e-5") == message
    assert error("--timeout", "1e-5", "--input", tmp_path / "in", "--output", tmp_path / "out") == message
    assert not (tmp_path / "out").exists()
    assert error("--timeout", "0", "x") == "--timeout is 0.0; expected seconds, more than 0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num-beams 0", "--num-beams is 0; expected a whole number, 1..256"),
        ("--beam-size 0", "--beam-size is 0; expected a whole number, 1..256"),
        ("--beam-size 2 --num-beams 2", "--beam-size and --num-beams are one option: give one of them"),
        ("--num-hypotheses 9 --beam-size 2", "--num-hypotheses is 9; expected at most --beam-size, which is 2"),
        ("--num-hypotheses 9", "--num-hypotheses is 9; expected at most --num-beams, by the checkpoint 4"),
        ("--early-stopping True", "--early-stopping is 'True'; expected true, false or never"),
        ("--max-length 5 --max-new-tokens 5", "--max-length and --max-new-tokens set the same limit: give one of them"),
        ("--max-decoding-length 300", "--max-decoding-length is 300; expected at most 256: the model has 256"),
        ("--min-new-tokens 9 --max-length 5", "--min-new-tokens is 9, but --max-length is 5; with the start token"),
        ("--suppress-tokens 9000", "--suppress-tokens holds 9000; expected ids below 6001, the target vocabulary"),
        ("--suppress-tokens 7 --forced-bos-token-id 7", "--forced-bos-token-id forces [7], which --suppress-tokens"),
        ("--forced-bos-token-id 3,4", "--forced-bos-token-id is '3,4'; expected a token id, such as 3, or none"),
        ("--length-penalty x", "--length-penalty is 'x'; expected a number, -100..100"),
        ("--target-prefix-ids 1,x", "--target-prefix-ids is '1,x'; expected token ids, such as 3,4, or none"),
        ("--target-prefix-ids 9000", "--target-prefix: expected"),
        ("--max-new-tokens 2 --target-prefix-ids 5,6 --max-length 3", "--max-length and --max-new-tokens set"),
        ("--max-length 3 --target-prefix-ids 5,6", "--target-prefix of input 1 has 2 tokens; hypotheses may have 2"),
        ("--json --scores", "--json has the scores: leave --scores out"),
    ],
)
def test_wrong_values_in_the_words_of_the_command_line(error: Any, words: str, message: str) -> None:
    found = error(*words.split(), "Hund")
    assert found.startswith(message), found


@pytest.mark.parametrize("words", ["--num-hypotheses 9", "--timeout -1", "--target-prefix-ids 99999"])
def test_options_are_checked_before_a_line_comes(int8_directory: Path, words: str) -> None:
    command = [sys.executable, "-m", "pyengine", "translate", "-m", str(int8_directory), *words.split()]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith(b"pyengine: error: ") and not done.stdout


def test_an_option_that_there_is_not(capsys: pytest.CaptureFixture[str], int8_directory: Path) -> None:
    with pytest.raises(SystemExit):
        main(["translate", "-m", str(int8_directory), "--diversity-penalty", "1", "x"])
    assert re.search(r"unrecognized arguments: --diversity-penalty", capsys.readouterr().err)
