"""A file of sentences into a file of translations, in the way that measures best on its first lines."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyengine.errors import InputError
from pyengine.formats.regular_files import usable_path
from pyengine.output import Target, check_new_file, new_file
from pyengine.results import FileResult, TranslationResult, Trial

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["text_line", "translate_lines"]

TRIAL, ROUNDS = 256, 2
"""Lines of a trial, and trials of each way."""
WINDOW = 2048

Translate = Callable[[int, list[str], int], list[TranslationResult]]
"""Translates lines, the first of which has this number, in so many streams."""


def text_line(number: int, result: TranslationResult) -> str:
    """The best text, in one line whatever the model wrote."""
    return " ".join(result.text.splitlines())


def translate_lines(
    source: Path,
    target: Target,
    translate: Translate,
    render: Callable[[int, TranslationResult], str],
    *,
    ways: list[int],
    threads: int,
    overwrite: bool,
) -> FileResult:
    """Translate `source`, UTF-8, a sentence a line, into `target`, which appears when it is complete (`new_file`).

    `render`: what is written of the line with this number, without its end.
    `ways`: numbers of streams to choose from, each with its share of the `threads`. Every line is translated once:
    the trials are of different lines.
    """
    source = usable_path(source, InputError)
    check_new_file(target, overwrite=overwrite)
    if not source.is_file():
        raise InputError(f"{source}: expected a file, found {'a directory' if source.is_dir() else 'nothing'}")
    start = time.perf_counter()
    rates: dict[int, list[float]] = {way: [] for way in ways}

    def best() -> int:
        return max(ways, key=lambda way: max(rates[way], default=0.0))

    lines = tokens = 0
    with new_file(target, overwrite=overwrite) as file, _progress(source) as bar:
        waiting = _lines(source, bar)
        trials = ways * ROUNDS if len(ways) > 1 else []
        for trial in itertools.chain(trials, itertools.repeat(None)):
            chunk = list(itertools.islice(waiting, WINDOW if trial is None else TRIAL))
            if not chunk:
                break
            way = trial or best()
            began = time.perf_counter()
            results = translate(lines + 1, chunk, way)
            written = sum(len(result.ids) + 1 for result in results)
            rates[way].append(written / (time.perf_counter() - began))
            file.writelines(render(number, each).encode() + b"\n" for number, each in enumerate(results, lines + 1))
            lines, tokens = lines + len(chunk), tokens + written
    seconds = time.perf_counter() - start
    measured = tuple(Trial(way, max(1, threads // way), max(found)) for way, found in rates.items() if found)
    return FileResult(lines, tokens, seconds, best(), max(1, threads // best()), measured)


def _progress(source: Path) -> tqdm[Any]:
    """Shown on a terminal, after a second."""
    from tqdm import tqdm  # not at the top: most programs never show it

    total = source.stat().st_size
    return tqdm(total=total, unit="B", unit_scale=True, disable=None, delay=1, leave=False)


def _lines(source: Path, bar: tqdm[Any]) -> Iterator[str]:
    """The lines without their ends. InputError for what is not UTF-8."""
    try:
        with open(source, "rb") as file:
            for number, line in enumerate(file, 1):
                bar.update(len(line))
                yield line.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: line {number}: expected UTF-8, found an invalid byte at {error.start}") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}") from None
