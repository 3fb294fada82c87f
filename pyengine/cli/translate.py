"""`pyengine translate`: texts given as arguments, or lines of standard input, to lines of standard output."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable
from typing import Any

from pyengine.canonical.kinds import Ids
from pyengine.canonical.search import NAMES
from pyengine.cli.answers import answer_line
from pyengine.cli.lines import LineReader
from pyengine.cli.searching import add_search_options
from pyengine.cli.ways import add_ways, loaded_with
from pyengine.command import target_of
from pyengine.console import note
from pyengine.errors import OptionError
from pyengine.options import GenerationOptions
from pyengine.results import TranslationResult
from pyengine.tasks.loading import load
from pyengine.tasks.translator import Translator

__all__ = ["add_command"]

STDIN = 0


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "translate",
        help="translate texts, or lines of standard input",
        description="Translates each TEXT, or each line of standard input, to one line of standard output. "
        "Input has to be UTF-8: a file is checked before anything is written; what comes through a pipe is "
        "answered line by line, up to a line that is invalid. Where --num-hypotheses is given, each "
        "hypothesis has a line of its own, behind the number of its text and a tab. Options of the search that are not "
        "given are the checkpoint's.",
    )
    parser.add_argument("-m", "--model", required=True, metavar="DIR", help="model directory")
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    _add_files(parser)
    ways = add_ways(parser, "for all TEXTs, a file, or lines that came together")
    ways.add_argument(
        "--shortlist", metavar="FILE", help="of pyengine shortlist: take only ids that it lists (default: any)"
    )
    add_search_options(parser, prompted=False)
    parser.set_defaults(run=run)


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is read and written")
    group.add_argument("--input", metavar="FILE", help="translate this file, in the way that measures best ...")
    group.add_argument(
        "--output", metavar="FILE", help="... into this one, which appears when it is complete; - is standard output"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    group.add_argument("--truncate", action="store_true", help="cut texts that are too long for the model")
    group.add_argument("--source", metavar="CODE", help="language of the texts, of a model that is told: eng_Latn")
    group.add_argument("--target", metavar="CODE", help="language of the translations (all: pyengine info)")
    prefix = group.add_mutually_exclusive_group()
    prefix.add_argument("--target-prefix", metavar="TEXT", help="what every translation begins with ...")
    prefix.add_argument("--target-prefix-ids", metavar="IDS", help="... or its token ids, such as 3,4")
    group.add_argument("--scores", action="store_true", help="write each one's score and a tab before it")
    group.add_argument(
        "--json", action="store_true", help="write a JSON object a text, with all hypotheses, their scores and tokens"
    )


def run(options: argparse.Namespace) -> None:
    """Write a line for each text, in order and flushed, as soon as it is there."""
    if (options.input is None) != (options.output is None) or (options.texts and options.input is not None):
        raise OptionError("--input and --output go together, without TEXT")
    if options.input is not None and options.replicas is not None:
        raise OptionError("--replicas is for TEXT and standard input; --input takes as many as measure best")
    GenerationOptions(**options.search)  # checks them before a model is loaded
    keywords = {**options.search, **_other_keywords(options)}
    render = _render(options)
    how = {"shortlist": options.shortlist, **loaded_with(options)}
    with load(options.model, task=Translator, **how) as translator:
        if options.input is not None:
            _translate_file(translator, options, render, keywords)
            return
        results = _translated(translator, options.texts, keywords)
        for number, result in enumerate(results, 1):
            if result.truncated:
                note(f"pyengine: warning: text {number} was cut to fit the model")
            # UTF-8, whatever the locale.
            sys.stdout.buffer.write(render(number, result).encode("utf-8") + b"\n")
            sys.stdout.buffer.flush()


def _other_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Those of translate, translate_iter and translate_file that are no options of the search."""
    prefix = options.target_prefix
    if options.target_prefix_ids is not None:
        prefix = Ids().read("--target-prefix-ids", options.target_prefix_ids)
    return {
        "source": options.source,
        "target": options.target,
        "target_prefix": prefix,
        "max_batch_tokens": options.max_batch_tokens,
        "truncate": options.truncate,
        "timeout": options.timeout,
    }


def _translate_file(
    translator: Translator,
    options: argparse.Namespace,
    render: Callable[[int, TranslationResult], str],
    keywords: dict[str, Any],
) -> None:
    target = target_of(options.output)
    done = translator.translate_file(options.input, target, overwrite=options.overwrite, render=render, **keywords)
    rate = f"{done.tokens / done.seconds:,.0f} a second"
    note(f"{done.lines:,} lines, {done.tokens:,} tokens in {done.seconds:.1f} s ({rate})")
    for trial in done.trials:
        chosen = " <- chosen" if trial.replicas == done.replicas and len(done.trials) > 1 else ""
        way = f"{trial.replicas} streams of {trial.threads} threads"
        note(f"{way}: {trial.tokens_a_second:,.0f} tokens a second{chosen}")


def _translated(translator: Translator, texts: list[str], keywords: dict[str, Any]) -> Iterable[TranslationResult]:
    if texts:  # all or nothing
        prefix = keywords.pop("target_prefix")
        prefixes = None if prefix is None else [prefix] * len(texts)
        return translator.translate(texts, target_prefix=prefixes, **keywords)
    translator.translate_iter((), **keywords)  # checks them before the first line comes
    return itertools.chain.from_iterable(
        translator.translate_iter(batch, **keywords) for batch in LineReader(STDIN).batches()
    )


def _render(options: argparse.Namespace) -> Callable[[int, TranslationResult], str]:
    """What is written of a text: the best line, or one a hypothesis where their number was given, or an object."""
    several = any(NAMES[name] == "num_return_sequences" for name in options.search)

    def columns(number: int, result: TranslationResult) -> str:
        lines = []
        for each in result.hypotheses if several else result.hypotheses[:1]:
            score = [f"{each.score:.6f}"] if options.scores else []
            lines.append("\t".join([*([str(number)] if several else []), *score, " ".join(each.text.splitlines())]))
        return "\n".join(lines)

    if options.json and options.scores:
        raise OptionError("--json has the scores: leave --scores out")
    return (lambda _, result: answer_line(result)) if options.json else columns
