"""`pyengine generate`, `chat` and `perplexity`: what they write is what Python's calls return."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyengine
from pyengine import Generator
from pyengine.cli import main
from pyengine.modelfile import open_head
from pyengine.results import Piece
from pyengine.text import text_tokenizer_of

from ..tasks.language import write_language_model
from ..tasks.test_lists import room

PROMPTS = ["the sea", "stones"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("language") / "words", max_new_tokens=9)


@pytest.fixture(scope="module")
def generator(directory: Path) -> Iterator[Generator]:
    with pyengine.load(directory, task=Generator, threads=1) as found:
        yield found


@pytest.fixture
def written(capsysbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Runs a command and returns what it wrote."""

    def run(*words: object) -> str:
        status = main([*map(str, words)])
        found = capsysbinary.readouterr()
        assert status == 0, found.err
        return found.out.decode("utf-8")

    return run


@pytest.fixture
def error(capsysbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Runs a command, which fails, and returns the line that it says."""

    def run(*words: object) -> str:
        assert main([*map(str, words)]) == 2
        [line] = capsysbinary.readouterr().err.decode().splitlines()
        return line

    return run


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_prompt(directory: Path, generator: Generator, written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = generator.generate("the sea").text
    assert written("generate", "-m", directory, "the sea") == f"{expected}\n"
    give(monkeypatch, b"the sea\n")
    assert written("generate", "-m", directory) == f"{expected}\n"
    expected = generator.generate("the sea", max_new_tokens=20, stop=expected[3:6]).text
    stop = generator.generate("the sea").text[3:6]
    assert written("generate", "-m", directory, "the sea", "--stop", stop, "--max-tokens", 20) == f"{expected}\n"


def test_several_prompts_and_hypotheses(directory: Path, generator: Generator, written: Any) -> None:
    results = generator.generate(PROMPTS)
    assert written("generate", "-m", directory, *PROMPTS) == "".join(f"{each.text}\n" for each in results)
    several = generator.generate("the sea", num_beams=3, num_return_sequences=2)
    out = written("generate", "-m", directory, "the sea", "--num-beams", 3, "--num-return-sequences", 2)
    assert out == "".join(f"{each.text}\n" for each in several.hypotheses)


def test_json(directory: Path, generator: Generator, written: Any) -> None:
    lines = written("generate", "-m", directory, "--json", *PROMPTS, "--seed", 3, "--temperature", 2).splitlines()
    results = generator.generate(PROMPTS, seed=3, temperature=2)
    for line, result in zip(lines, results, strict=True):
        found = json.loads(line)
        assert found["usage"] == {"prompt_tokens": result.usage.prompt_tokens, "new_tokens": result.usage.new_tokens}
        [hypothesis] = found["hypotheses"]
        assert (hypothesis["text"], tuple(hypothesis["ids"])) == (result.text, result.ids)
        assert (hypothesis["finish_reason"], hypothesis["score"]) == (result.finish_reason, result.score)


def test_perplexity(directory: Path, generator: Generator, written: Any, error: Any, tmp_path: Path) -> None:
    text = "the sea and the stones, " * 20
    (tmp_path / "text").write_text(text, encoding="utf-8")
    words = ["perplexity", "-m", directory, tmp_path / "text"]
    assert written(*words) == f"perplexity: {generator.perplexity(text):.4f}\n"
    found = json.loads(written(*words, "--window", 16, "--json"))
    assert found == {"perplexity": generator.perplexity(text, window=16)}
    assert "--window is 1; expected a whole number, 2.." in error(*words, "--window", 1)
    (tmp_path / "bad").write_bytes(b"ab\xff")
    assert "expected UTF-8, found an invalid byte at 2" in error("perplexity", "-m", directory, tmp_path / "bad")
    assert "cannot be read" in error("perplexity", "-m", directory, tmp_path / "none")


def test_the_type_of_the_cache(directory: Path, generator: Generator, written: Any, tmp_path: Path) -> None:
    text = "the sea and the stones, " * 20
    (tmp_path / "text").write_text(text, encoding="utf-8")
    with pyengine.load(directory, task=Generator, threads=1, kv="int8") as other:
        expected = other.perplexity(text)
    assert f"{expected:.4f}" != f"{generator.perplexity(text):.4f}"
    words = ["perplexity", "-m", directory, tmp_path / "text"]
    assert written(*words, "--kv", "int8") == f"perplexity: {expected:.4f}\n"
    assert written(*words, "--kv", "float32") == written(*words)


def test_the_size_of_the_cache(
    directory: Path, generator: Generator, written: Any, error: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of 16 tokens, which is too small for each of these; of many, which changes nothing."""
    (tmp_path / "text").write_text("the sea and the stones, " * 20, encoding="utf-8")
    small = room(generator, 1, 16)
    full = "the key-value cache is full: a step needs"
    for words in (
        ["generate", "-m", directory, "the sea", "--min-new-tokens", 20, "--max-new-tokens", 20],
        ["chat", "-m", directory, "--min-new-tokens", 20, "--max-new-tokens", 20],
        ["perplexity", "-m", directory, tmp_path / "text", "--window", 30],
    ):
        give(monkeypatch, b"the sea\n")
        said = error(*words, "--cache-bytes", small)
        assert full in said and "give a larger --cache-bytes" in said
        give(monkeypatch, b"the sea\n")
        unbounded = written(*words)
        give(monkeypatch, b"the sea\n")
        assert written(*words, "--cache-bytes", "1MB") == unbounded


def test_a_model_of_another_kind(directory: Path, int8_directory: Path, error: Any, tmp_path: Path) -> None:
    for words in (["translate", "-m", directory, "a"], ["bench", "-m", directory]):
        said = error(*words)
        assert "expected a model to translate with" in said and "pyengine generate" in said
    for words in (["chat", "-m", int8_directory], ["perplexity", "-m", int8_directory, Path(__file__)]):
        said = error(*words)
        assert "expected a model to generate text with" in said and "pyengine translate" in said
    (tmp_path / "text").write_text("a\n", encoding="utf-8")
    both = ["--source", tmp_path / "text", "--target", tmp_path / "text", "-o", tmp_path / "list"]
    assert "expected a model that translates, found one with a single stack" in error("shortlist", directory, *both)


def test_one_that_reads_before_it_writes(int8_directory: Path, written: Any) -> None:
    """The same as `translate` of one sentence; several, as objects."""
    words = ["-m", int8_directory, "Zwei Hunde."]
    assert written("generate", *words) == written("translate", *words)
    [line] = written("generate", *words, "--json", "--beam-size", "4").splitlines()
    assert json.loads(line)["usage"]["prompt_tokens"] > 2


def test_wrong_options(directory: Path, error: Any) -> None:
    for words, message in (
        (["--temperature", "-1"], "--temperature is -1"),
        (["--stop", ""], "--stop is ['']; expected a string, or strings, that are not empty"),
        (["--timeout", "0"], "--timeout is 0"),
        (["--kv", "int4"], "--kv is 'int4'; expected \"int8\" or \"float32\""),
        (["--cache-bytes", "0"], "--cache-bytes is 0; expected a whole number, 1.."),
        (["--stop", "x", "--num-beams", "2"], "--num-beams is 2; expected 1 with --stop"),
        (["--max-length", "2"], "--max-length is 2; expected more than the 5 tokens of the prompt"),
    ):
        assert message in error("generate", "-m", directory, "the sea", *words)


def test_a_conversation(
    directory: Path, generator: Generator, written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, b"a\n\nthe sea\n")
    messages: list[dict[str, str]] = [{"role": "system", "content": "on"}]
    expected = ""
    for line in ("a", "the sea"):
        messages.append({"role": "user", "content": line})
        answer = generator.chat(messages, max_new_tokens=4).text
        messages.append({"role": "assistant", "content": answer})
        expected += f"{answer}\n"
    assert written("chat", "-m", directory, "--system", "on", "--max-new-tokens", 4) == expected


def test_a_conversation_longer_than_the_model(
    directory: Path, generator: Generator, error: Any, monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:  # fmt: skip
    line = "the sea " * 60
    give(monkeypatch, f"{line}\n".encode())
    assert "positions (--truncate keeps its end)" in error("chat", "-m", directory)
    give(monkeypatch, f"{line}\n".encode())
    assert main(["chat", "-m", str(directory), "--truncate", "--max-new-tokens", "4", "--suppress-tokens", "1"]) == 0
    expected = generator.chat(
        [{"role": "user", "content": line.strip("\n")}], truncate=True, max_new_tokens=4, suppress_tokens=[1]
    )
    found = capsysbinary.readouterr()
    assert expected.truncated and found.out.decode() == f"{expected.text}\n"
    assert b"pyengine: note: the beginning of the conversation was cut to fit the model" in found.err


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


FAULTS = [
    pyengine.EngineError("scores that are not finite"),
    pyengine.CacheFullError(3, 1),
    pyengine.TokenizerError("the chat template fails"),
    pyengine.OptionError("max_length is 3; expected more"),
    pyengine.InputError("no such role"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: type(each).__name__)
def test_a_turn_that_fails(
    directory: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Somebody at a terminal may go on, without it; a program is told by the exit status."""
    asked: list[list[str]] = []

    def stream(self: Generator, messages: list[dict[str, str]], **keywords: Any) -> Iterator[Piece]:
        asked.append([each["content"] for each in messages])
        yield Piece("so", (1,))
        if messages[-1]["content"] == "b":
            raise fault

    monkeypatch.setattr(Generator, "chat_stream", stream)
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"a\nb\n\xff\nc\n")))
    assert main(["chat", "-m", str(directory)]) == 0
    found = capsysbinary.readouterr()
    assert found.out == b"so\nso\nso\n" and asked == [["a"], ["a", "so", "b"], ["a", "so", "c"]]
    first, second = found.err.decode().splitlines()
    assert first.startswith("pyengine: error: ") and second.endswith("expected UTF-8, found an invalid byte at 0")
    give(monkeypatch, b"a\nb\nc\n")
    assert main(["chat", "-m", str(directory)]) == 2
    found = capsysbinary.readouterr()
    assert found.out == b"so\nso\n" and found.err.decode().splitlines() == [first]


def test_output_that_fails_ends_a_conversation(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: str) -> None:
        raise pyengine.OutputError("standard output: cannot be written")

    monkeypatch.setattr("pyengine.cli.chat.write", fails)
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"a\nb\n")))
    assert main(["chat", "-m", str(directory)]) == 2


def test_a_model_without_a_template(tmp_path: Path, error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"a\nb\n")))
    path = write_language_model(tmp_path / "ids", words=False)
    assert f"{path}: the model has no chat template" in error("chat", "-m", path)


def test_what_the_system_says_stays(
    directory: Path, generator: Generator, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    line = "the sea " * 60
    give(monkeypatch, f"{line}\n".encode())
    words = ["--system", "be brief", "--truncate", "--max-new-tokens", "4"]
    assert main(["chat", "-m", str(directory), *words]) == 0
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": line}]
    expected = generator.chat(messages, truncate=True, max_new_tokens=4)
    assert expected.truncated and capsysbinary.readouterr().out.decode() == f"{expected.text}\n"
    other = generator.chat([{**messages[0], "content": "be long!"}, messages[1]], truncate=True, logprobs=1)
    assert other.hypotheses[0].log_probs != expected.hypotheses[0].log_probs


def test_echo(directory: Path, generator: Generator, written: Any) -> None:
    words = ["generate", "-m", directory, "the sea", "--echo", "true"]
    result = generator.generate("the sea", echo=True, logprobs=2)
    assert result.prompt is not None and result.text.startswith("the sea")
    assert written(*words) == f"{result.text}\n"
    [found] = [json.loads(line) for line in written(*words, "--json", "--logprobs", "2").splitlines()]
    assert found["hypotheses"][0]["text"] == result.text and found["prompt"]["text"] == "the sea"
    assert tuple(found["prompt"]["log_probs"]) == result.prompt.log_probs
    best = [[tuple(pair) for pair in pairs] for pairs in found["prompt"]["best"]]
    assert best == [list(pairs) for pairs in result.prompt.best or ()]


def test_an_answer_that_takes_too_long(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    give(monkeypatch, b"a\nb\n")
    assert main(["chat", "-m", str(directory), "--timeout", "1e-9"]) == 0
    found = capsysbinary.readouterr()
    assert found.out == b"\n\n" and found.err.count(b"pyengine: note: --timeout: the call was not done after") == 2


def test_ctrl_c_stops_the_answer(directory: Path, written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice in a moment; what was written stays in the conversation."""
    asked: list[list[str]] = []

    def stream(self: Generator, messages: list[dict[str, str]], **keywords: Any) -> Iterator[Piece]:
        asked.append([each["content"] for each in messages])
        yield Piece("so", (1,))
        os.kill(os.getpid(), 2)
        time.sleep(5)
        yield Piece("never", (1,))

    monkeypatch.setattr(Generator, "chat_stream", stream)
    give(monkeypatch, b"a\nb\n")
    assert written("chat", "-m", directory) == "so\nso\n"
    assert asked == [["a"], ["a", "so", "b"]]


def test_a_terminal(directory: Path) -> None:
    """Nothing that a model writes acts on it; Ctrl-C at the prompt ends nothing; Ctrl-D does."""
    tokenizer = text_tokenizer_of(open_head(directory))
    assert tokenizer is not None
    [escape] = tokenizer.encode("\x1b")
    ours, theirs = pty.openpty()
    options = ["--max-new-tokens", "3", "--logit-bias", f"{escape}:1000"]
    command = [sys.executable, "-m", "pyengine", "chat", "-m", str(directory), *options]
    pipes: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        os.close(theirs)

        def until(mark: bytes) -> bytes:
            found = b""
            while not found.endswith(mark):
                found += os.read(ours, 4096)
            return found

        until(b"> ")
        process.send_signal(2)
        until(b"\n> ")
        os.write(ours, b"the sea\n")
        shown = until(b"> ").decode("utf-8")
        os.write(ours, b"\x04")
        assert process.wait(timeout=60) == 0
    assert "\r\n\\x1b\\x1b\\x1b\r\n" in shown and "\x1b" not in shown
