"""Each option of the table on every way to a search: keyword, alias, command line, checkpoint, page, help."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pyengine
from pyengine import GenerationOptions, Generator, OptionError, Translator
from pyengine.canonical import GenerationDefaults
from pyengine.canonical.search import NAMES, OPTIONS, Option
from pyengine.cli.searching import add_search_options
from pyengine.importers import open_checkpoint
from pyengine.options import GenerationKeywords, SearchOptions

from .checkpoints import handmade
from .oracle.tiny import generation

ROOT = Path(__file__).resolve().parents[1]
VOCAB, POSITIONS = 21, 32
IDS = {"decoder_start_token_id": 20, "eos_token_id": 0, "pad_token_id": 20}


class Example(NamedTuple):
    """A value that differs from the default, as Python gives it, as a word, and as it is settled; and wrong ones."""

    value: Any
    word: str
    settled: Any
    wrong: tuple[tuple[Any, str], ...]
    """Of Python and of the command line."""


EXAMPLES = {
    "num_beams": Example(6, "6", 6, ((0, "257"), (2.5, "2.5"))),
    "num_return_sequences": Example(2, "2", 2, ((-1, "0"), ("2", "two"))),
    "length_penalty": Example(2, "2", 2.0, ((101, "-101"), ("x", "nan"))),
    "early_stopping": Example("never", "never", "never", ((1, "1"), ("often", "True"))),
    "renormalize_logits": Example(True, "true", True, ((1, "yes"), ("no", "no"))),
    "do_sample": Example(True, "true", True, ((1, "1"), ("no", "no"))),
    "temperature": Example(0.5, "0.5", 0.5, ((-1, "-1"), ("x", "x"))),
    "top_k": Example(9, "9", 9, ((-1, "-1"), (2.5, "2.5"))),
    "top_p": Example(0.5, "0.5", 0.5, ((1.5, "1.5"), ("x", "nan"))),
    "min_p": Example(0.5, "0.5", 0.5, ((-0.5, "-0.5"), ("x", "nan"))),
    "typical_p": Example(0.5, "0.5", 0.5, ((0, "0"), ("x", "2"))),
    "seed": Example(7, "7", 7, ((-1, "-1"), (1.5, "1.5"))),
    "logprobs": Example(3, "3", 3, ((-1, "1001"), ("x", "x"))),
    "echo": Example(True, "true", True, ((1, "1"), ("no", "no"))),
    "max_length": Example(17, "17", 17, ((1, "1"), ("x", "x"))),
    "max_new_tokens": Example(5, "5", 5, ((0, "0"), (True, "1e3"))),
    "min_length": Example(3, "3", 3, ((-1, "-1"), (1.0, ""))),
    "min_new_tokens": Example(2, "2", 2, ((-1, "-1"), ("1", "0x1"))),
    "repetition_penalty": Example(1.5, "1.5", 1.5, ((0, "0"), ([1.0], "1,5"))),
    "presence_penalty": Example(0.5, "0.5", 0.5, ((101, "-101"), ("x", "x"))),
    "frequency_penalty": Example(-0.5, "-0.5", -0.5, ((101, "-101"), ("x", "x"))),
    "no_repeat_ngram_size": Example(3, "3", 3, ((-1, "-1"), (10**30, "1" * 30))),
    "logit_bias": Example(
        [[20, 1.5], [3, -2.0]], "20:1.5,3:-2", ((3, -2.0), (20, 1.5)), (([[1]], "1"), ([[1, 2000]], "1:2000"))
    ),
    "bad_words_ids": Example([[20], [1, 2]], "20 1,2", ((20,), (1, 2)), (([[]], "1,,2"), ([["a"]], "a"))),
    "suppress_tokens": Example([4, 5], "4,5", (4, 5), (([-1], "-1"), ("4", "4;5"))),
    "begin_suppress_tokens": Example(4, "4", (4,), (([True], "1.0"), ("", ""))),
    "forced_bos_token_id": Example(7, "7", 7, (([7], "7,8"), (-1, "x"))),
    "forced_eos_token_id": Example(0, "0", (0,), (([None], "0,"), ("x", "x"))),
}
WITHOUT_ECHO = (
    Translator.translate, Translator.translate_iter, Translator.translate_file, Generator.chat, Generator.chat_stream,
)  # fmt: skip
EACH = [pytest.param(option, id=name) for name, option in OPTIONS.items()]


def settled(**keywords: Any) -> SearchOptions:
    return GenerationOptions(**keywords).resolve(generation(num_beams=4), 23, POSITIONS)


def on_the_command_line(*words: str) -> dict[str, Any]:
    """The keywords that they stand for."""
    parser = argparse.ArgumentParser()
    add_search_options(parser, prompted=True)
    search: dict[str, Any] = parser.parse_args(words).search
    return search


def test_every_option_has_an_example() -> None:
    assert list(EXAMPLES) == list(OPTIONS) == [each.name for each in dataclasses.fields(GenerationOptions)][:-1]


@pytest.mark.parametrize("option", EACH)
def test_keywords_and_words_of_the_command_line(option: Option) -> None:
    """By each name, with the same value; giving both is an error that has them as they were given."""
    example = EXAMPLES[option.name]
    for name in option.names:
        found = settled(**{name: example.value})
        assert getattr(found, option.name) == example.settled and found.spelled == {option.name: name}
        assert type(getattr(found, option.name)) is type(example.settled)
        spoken = f"--{name.replace('_', '-')}"
        keywords = on_the_command_line(spoken, example.word)
        assert list(keywords) == [name] and settled(**keywords) == found
        assert GenerationOptions(**{name: example.value}) == GenerationOptions(**{option.name: example.value})
    for alias in option.aliases:
        message = f"{option.name} and {alias} are one option: give one of them"
        both = option.name, alias
        with pytest.raises(OptionError, match=f"^{message}$") as caught:
            GenerationOptions(**dict.fromkeys(both, example.value))
        assert caught.value.keywords == both


@pytest.mark.parametrize("option", EACH)
def test_wrong_values(option: Option) -> None:
    """The error begins with the name that was given."""
    for value, word in EXAMPLES[option.name].wrong:
        for name in option.names:
            with pytest.raises(OptionError, match=f"^{name} (is|holds) "):
                GenerationOptions(**{name: value})
            spoken = f"--{name.replace('_', '-')}"
            with pytest.raises(OptionError, match=f"^{spoken} is .*; expected "):
                on_the_command_line(f"{spoken}={word}")


@pytest.mark.parametrize("option", EACH)
def test_defaults_of_a_checkpoint(option: Option, tmp_path: Path) -> None:
    """From generation_config.json, through a directory's JSON, to a search that was told nothing."""
    example = EXAMPLES[option.name]
    beams = 1 if option.name == "do_sample" else 4
    said = json.loads(json.dumps({**IDS, "num_beams": beams, "max_length": 20, option.name: example.value}))
    directory = handmade.write_checkpoint(tmp_path, handmade.marian_config(), generation_config=said)
    model = open_checkpoint(directory)
    assert getattr(model.generation, option.name) == example.settled
    stored = json.loads(json.dumps(model.generation.to_json()))
    assert GenerationDefaults.from_json(stored, "here", model.config) == model.generation
    found = GenerationOptions().resolve(model.generation, VOCAB, POSITIONS)
    assert getattr(found, option.name) == example.settled and found.spelled == {}
    absent = {name: value for name, value in stored.items() if name != option.name}
    if option.default is not dataclasses.MISSING:
        assert getattr(GenerationDefaults.from_json(absent, "here", model.config), option.name) == option.default


@pytest.mark.parametrize("option", [each for each in OPTIONS.values() if each.kind.metavar in ("ID", "IDS")])
def test_ids_of_a_checkpoint_are_taken_away(option: Option) -> None:
    """By () and by none; the id has to be of the vocabulary."""
    name, example = option.name, EXAMPLES[option.name]
    defaults = generation(**{name: example.settled})
    assert on_the_command_line(f"--{name.replace('_', '-')}", "none") == {name: ()}
    found = getattr(GenerationOptions(**{name: ()}).resolve(defaults, 23, POSITIONS), name)
    assert found == (None if name == "forced_bos_token_id" else ())
    beyond = [[23]] if name == "bad_words_ids" else 23
    with pytest.raises(OptionError, match=f"^{name} holds 23; expected ids below 23"):
        GenerationOptions(**{name: beyond}).resolve(defaults, 23, POSITIONS)


def test_signatures_and_help_list_the_options() -> None:
    """Those that the call has: a prompt alone can be echoed."""
    assert list(NAMES) == list(GenerationKeywords.__annotations__)
    prompted = GenerationOptions.__init__, Generator.generate, Generator.stream
    for call in (*prompted, *WITHOUT_ECHO):
        parameters = inspect.signature(call).parameters
        listed = [name for name in parameters if name in NAMES]
        assert listed == [name for name in NAMES if call in prompted or name != "echo"]
        assert not any(each.kind is each.VAR_KEYWORD for each in parameters.values())
        shown = pydoc.plain(pydoc.render_doc(call))
        for option in OPTIONS.values():
            line = f"{' or '.join(option.names)} +{re.escape(option.line)}"
            assert (re.search(line, shown) is not None) == (call in prompted or option.name != "echo"), option.name


def test_what_is_written_down_is_the_table() -> None:
    """The types of keywords and the page; the help of the command line."""
    command = [sys.executable, str(ROOT / "tools" / "write_options.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "options: 0 problems\n"), done
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = {}
    for name in ("translate", "chat", "generate"):
        command = [sys.executable, "-m", "pyengine", name, "--help"]
        shown[name] = " ".join(subprocess.run(command, capture_output=True, text=True).stdout.split())
    for option in OPTIONS.values():
        assert f"| `{option.name}` | " in page and option.line in page
        spoken = ", ".join(f"--{name.replace('_', '-')}" for name in option.names)
        line = f"{spoken} {option.kind.metavar} {option.line}"
        # Before Python 3.13 each name has what it takes.
        once = {name: each.replace(f" {option.kind.metavar}, --", ", --") for name, each in shown.items()}
        found = [name for name, each in once.items() if line in each]
        assert found == (["generate"] if option.name == "echo" else list(shown)), spoken


def test_a_stale_table_is_found(tmp_path: Path) -> None:
    for name in ("docs/api.md", "pyengine/options/keywords.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("num_beams", "beams"), encoding="utf-8")
    command = [sys.executable, str(ROOT / "tools" / "write_options.py"), str(tmp_path)]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.endswith("options: 2 problems\n")
    assert subprocess.run(command).returncode == 0
    assert subprocess.run([*command, "--check"]).returncode == 0


def test_options_of_a_call_can_be_kept_and_changed() -> None:
    options = pyengine.GenerationOptions(beam_size=4, max_new_tokens=9)
    assert dataclasses.replace(options, num_beams=2) == GenerationOptions(num_beams=2, max_decoding_length=9)
    assert hash(options) == hash(GenerationOptions(num_beams=4, max_new_tokens=9))
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.num_beams = 3  # type: ignore[misc]
    assert eval(repr(options), vars(pyengine)) == options
