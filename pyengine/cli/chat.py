"""`pyengine chat`: a conversation on a terminal, or through a pipe."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyengine.cli.generate import add_stop
from pyengine.cli.searching import add_search_options
from pyengine.cli.ways import add_ways, loaded_with
from pyengine.command import message_of
from pyengine.console import note, write
from pyengine.errors import DeadlineError, InputError, OutputError, PyengineError
from pyengine.options import GenerationOptions
from pyengine.tasks.generator import Generator
from pyengine.tasks.loading import load

__all__ = ["add_command"]

YOURS = "> "


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "chat",
        help="talk with a language model",
        description="Answers each line of standard input, with the lines and answers before it in mind. Ctrl-C stops "
        "an answer; the end of the input (Ctrl-D) ends the conversation. Options of the search that are not given are "
        "the checkpoint's.",
    )
    parser.add_argument("-m", "--model", required=True, metavar="DIR", help="model directory")
    group = parser.add_argument_group("what is read and written")
    group.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    add_stop(group)
    group.add_argument("--truncate", action="store_true", help="keep the end of a conversation that is too long")
    add_ways(parser, "for each answer", many=False)
    add_search_options(parser, prompted=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    GenerationOptions(**options.search)  # checks them before a model is loaded
    keywords = {
        **options.search,
        "stop": options.stop,
        "truncate": options.truncate,
        "timeout": options.timeout,
        "max_batch_tokens": options.max_batch_tokens,
    }
    messages = [] if options.system is None else [{"role": "system", "content": options.system}]
    with load(options.model, task=Generator, **loaded_with(options)) as generator, _interruptible():
        generator.chat_template  # a model that has none is an error before anything is asked
        while True:
            try:
                line = _line()
                if line is None:
                    return
                if line.strip():
                    messages += _turn(generator, messages, line, keywords)
            except OutputError:
                raise
            except PyengineError as error:
                if not sys.stdin.isatty():  # a program counts on an answer to each line
                    raise
                note(f"pyengine: error: {message_of(error)}")


def _turn(
    generator: Generator, messages: list[dict[str, str]], line: str, keywords: dict[str, Any]
) -> list[dict[str, str]]:
    """What is said, and the answer to it."""
    said = {"role": "user", "content": line}
    return [said, {"role": "assistant", "content": _answer(generator, [*messages, said], keywords)}]


def _answer(generator: Generator, messages: list[dict[str, str]], keywords: dict[str, Any]) -> str:
    """What was written of the answer until it ended, or until Ctrl-C or the time limit."""
    written: list[str] = []
    remarks = []
    try:
        for piece in generator.chat_stream(messages, **keywords):
            written.append(piece.text)
            write(piece.text)
            if piece.result is not None and piece.result.truncated:
                remarks.append("the beginning of the conversation was cut to fit the model")
            if piece.result is not None and piece.result.finish_reason == "length":
                remarks.append("the answer was cut where its length, or the model's positions, end")
    except KeyboardInterrupt:
        pass
    except DeadlineError as error:
        remarks.append(message_of(error))
    except PyengineError:
        if any(written):
            write("\n")
        raise
    write("\n")
    for remark in remarks:
        note(f"pyengine: note: {remark}")
    return "".join(written)


def _line() -> str | None:
    """The next line without its end, asked for on a terminal; None at the end of the input."""
    asks = sys.stdin.isatty() and sys.stdout.isatty()
    while True:
        try:
            if asks:
                write(YOURS)
            line = sys.stdin.buffer.readline()
        except KeyboardInterrupt:
            write("\n")
            continue
        if not line:
            return None
        try:
            return line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input: expected UTF-8, found an invalid byte at {error.start}") from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Every Ctrl-C counts, however soon it comes after another."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
