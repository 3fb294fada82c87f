"""How the commands speak: what they print goes through here, so that no text of a file reaches a terminal raw.

Not through here go translations, which are the answer itself, and progress bars, which show no text of a file. What a
model writes token by token does: to a terminal without what one would act on, to anything else as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import NoReturn, TextIO

from pyengine.printing import harmless, printable

__all__ = ["ERROR", "Parser", "note", "say", "say_json", "write"]

ERROR = 2  # the exit status after one


def say(*lines: str) -> None:
    """Write lines to standard output, each escaped and cut as `printable` does. OSError of the system."""
    _write(sys.stdout, *lines)


def say_json(value: object) -> None:
    """Write JSON to standard output, whole: it is ASCII, with nothing that a terminal would act on."""
    print(json.dumps(value, indent=2))


def write(text: str) -> None:
    """Write text of a model to standard output, at once and in UTF-8; to a terminal as `harmless` gives it."""
    shown = harmless(text) if sys.stdout.isatty() else text
    sys.stdout.flush()
    sys.stdout.buffer.write(shown.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def note(line: str) -> None:
    """Write a line to standard error, as `say`; to nowhere where there is none."""
    if sys.stderr is not None:  # print would take standard output for it
        _write(sys.stderr, line)


def _write(file: TextIO, *lines: str) -> None:
    text = "\n".join(map(printable, lines))
    encoding = file.encoding or "utf-8"  # of a locale that may lack the characters of a path
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)


class Parser(argparse.ArgumentParser):
    """Reports a bad command line in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        note(f"{self.prog}: error: {message} (see {self.prog} --help)")
        self.exit(ERROR)
