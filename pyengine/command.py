"""What the commands share: exit status, signals, what standard output loses, sizes, and how they speak of errors.

Exit status: 0; 2 after an error, with one line on standard error; 141 when the reader of the output went away; 130
after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP, with nothing half written left.
"""

from __future__ import annotations

import argparse
import io
import math
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyengine.canonical.search import NAMES
from pyengine.console import ERROR, note, say
from pyengine.errors import OptionError, PyengineError
from pyengine.output import CheckedFile, Target

__all__ = ["beside", "message_of", "run_command", "size", "target_of"]

_STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_BROKEN_PIPE = 141
_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
_GRACE = 5.0
"""Seconds that a signal gives to the cleaning up, which others may not interrupt."""

_OPTIONS = {
    "allow_unknown_keys": "--allow-unknown-keys",
    "cache_bytes": "--cache-bytes",
    "compute": "--compute",
    "kv": "--kv",
    "load": "--load",
    "max_batch_tokens": "--max-batch-tokens",
    "max_divergence": "--max-kld",
    "overwrite": "--overwrite",
    "prune": "--prune",
    "replicas": "--replicas",
    "requantize": "--requantize",
    "sparse": "--prune",
    "stop": "--stop",
    "target_bytes": "--target-size",
    "target_prefix": "--target-prefix",
    "tensors": "--tensor",
    "threads": "--threads",
    "timeout": "--timeout",
    "truncate": "--truncate",
    "vocabulary": "--vocabulary",
    "window": "--window",
    **{name: f"--{name.replace('_', '-')}" for name in NAMES},
}
"""A keyword of Python -> the option of the command line that sets it."""
_LARGEST_SIZE = 1e15
_ABOUT = re.compile(r"\w+(?= is )")
"""What an OptionError begins with that is about the value of a keyword: its name."""


def run_command(program: str, run: Callable[[], None]) -> int:
    """Run a command and return its exit status; warnings and errors are lines that begin with ``program``."""

    def warn(message: Warning | str, *_: object, **__: object) -> None:
        note(f"{program}: warning: {message}")

    if sys.stdout is None:  # else the next file that is opened would take its place
        note(f"{program}: error: standard output is closed")
        return ERROR
    try:
        with _signals_as_exceptions(), _checked_output(), warnings.catch_warnings():
            warnings.showwarning = warn
            run()
    except BrokenPipeError:
        return _BROKEN_PIPE
    except (PyengineError, OSError, MemoryError) as error:
        note(f"{program}: error: {message_of(error)}")
        return ERROR
    except (_Stopped, KeyboardInterrupt) as error:
        number = error.number if isinstance(error, _Stopped) else signal.SIGINT
        note(f"{program}: {_SIGNALS[number]}")
        return 128 + number
    return 0


def target_of(path: str | Path) -> Target:
    """Where a command writes a file: "-" and "/dev/stdout" are standard output, whatever lies under such a name."""
    return sys.stdout.buffer if str(path) in _STANDARD_OUTPUT else path


def beside(target: Target) -> Callable[[str], None]:
    """How a command says what it wrote: on standard output, unless that is where it wrote."""
    return say if isinstance(target, (str, Path)) else note


def message_of(error: BaseException) -> str:
    """What an error says, with options of the command line in place of keywords of Python."""
    message = str(error)
    about = _ABOUT.match(message) if isinstance(error, OptionError) else None
    for words in dict.fromkeys((*([about[0]] if about else []), *getattr(error, "keywords", ()))):
        option = _OPTIONS.get(words.partition("=")[0])
        message = message.replace(words, option or words, 1)
    return message or "out of memory"


def size(text: str) -> int:
    """ "60MB" -> bytes, for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMG]?)B?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected a size such as 60MB, found {text!r}")
    found = float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]]
    if found > _LARGEST_SIZE:
        raise argparse.ArgumentTypeError(f"expected a size of at most {_LARGEST_SIZE:.0f} bytes, found {text!r}")
    return round(found)


class _Stopped(BaseException):
    """A signal came that asks the process to end."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Signals that end a process raise, so that what is half written is removed; but those that it was told to ignore.

    In the main thread only: no other may set a handler, nor would it get the exception.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -math.inf

    def stop(number: int, frame: Any) -> None:
        nonlocal last
        if time.monotonic() - last > _GRACE:
            last = time.monotonic()
            raise KeyboardInterrupt if number == signal.SIGINT else _Stopped(signal.Signals(number))

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def _checked_output() -> Iterator[None]:
    """Standard output that loses nothing, whatever PYTHONUNBUFFERED says: written whole, or an error that names it.

    Only the process's own: where a caller has put another in its place, that stays.
    """
    before = sys.stdout
    if before is not sys.__stdout__ or before is None:
        yield
        return
    before.flush()
    raw = CheckedFile(before.fileno(), "standard output", closefd=False)
    how: dict[str, Any] = {"encoding": before.encoding, "line_buffering": before.line_buffering}
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), errors="backslashreplace", **how)
    try:
        try:
            yield
        except SystemExit:  # after --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    finally:
        raw.close()  # what failed is not tried again, nor reported twice where the buffer before it is forgotten
        sys.stdout = before
