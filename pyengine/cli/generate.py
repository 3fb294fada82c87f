"""`pyengine generate`: prompts, and how they go on, written while a model writes it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pyengine.cli.answers import answer_line
from pyengine.cli.searching import add_search_options
from pyengine.cli.ways import add_ways, loaded_with
from pyengine.console import note, write
from pyengine.errors import InputError
from pyengine.options import GenerationOptions
from pyengine.results import GenerationResult
from pyengine.tasks.generator import Generator
from pyengine.tasks.loading import load

__all__ = ["add_command", "add_stop"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "generate",
        help="let a language model go on with a prompt, or another one write what it makes of a text",
        description="Writes how each PROMPT goes on, without the prompt; a model with an encoder, such as one that "
        "summarizes, reads it and writes a text of its own. One alone is written as the model writes it; of several "
        "each ends with a line feed. Without PROMPT all of standard input is one, but for a line feed at its end. "
        "Options of the search that are not given are the checkpoint's; where it has no length either, 256 new tokens.",
    )
    parser.add_argument("-m", "--model", required=True, metavar="DIR", help="model directory")
    parser.add_argument("prompts", nargs="*", metavar="PROMPT")
    group = parser.add_argument_group("what is read and written")
    add_stop(group)
    group.add_argument(
        "--special-tokens", action="store_true",
        help="names of special tokens in a PROMPT are these tokens, as an encoder always reads them",
    )  # fmt: skip
    group.add_argument(
        "--truncate", action="store_true", help="of a PROMPT that is too long keep the end, an encoder the beginning"
    )
    group.add_argument(
        "--json", action="store_true", help="write a JSON object a PROMPT, with all hypotheses, their scores and tokens"
    )
    add_ways(parser, "for all PROMPTs together")
    add_search_options(parser, prompted=True)
    parser.set_defaults(run=run)


def add_stop(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="where a text ends, before it; may be repeated"
    )


def run(options: argparse.Namespace) -> None:
    GenerationOptions(**options.search)  # checks them before a model is loaded
    keywords: dict[str, Any] = {
        **options.search,
        "stop": options.stop,
        "truncate": options.truncate,
        "timeout": options.timeout,
        "max_batch_tokens": options.max_batch_tokens,
    }
    prompts = options.prompts or [_standard_input()]
    with load(options.model, **loaded_with(options)) as generator:
        if isinstance(generator, Generator):
            keywords["split_special_tokens"] = not options.special_tokens
        if len(prompts) == 1 and not options.json and not _several(options.search):
            for piece in generator.stream(prompts[0], **keywords):
                write(piece.text)
            assert piece.result is not None  # of the last piece
            write("\n")
            _remark(1, piece.result)
            return
        results = generator.generate(prompts, **keywords)
        for number, result in enumerate(results, 1):
            texts = [answer_line(result)] if options.json else [each.text for each in result.hypotheses]
            write("".join(f"{text}\n" for text in texts))
            _remark(number, result)


def _several(search: dict[str, Any]) -> bool:
    """Whether more than one hypothesis is asked for."""
    return (GenerationOptions(**search).num_return_sequences or 1) > 1


def _remark(number: int, result: GenerationResult) -> None:
    if result.truncated:
        note(f"pyengine: warning: prompt {number} was cut to fit the model")


def _standard_input() -> str:
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: expected UTF-8, found an invalid byte at {error.start}") from None
