"""Text to calibrate, measure or choose tokens on: read from a file, and what of it a model can take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyengine.canonical import GenerationDefaults, ModelConfig
from pyengine.errors import InputError
from pyengine.formats.regular_files import usable_path
from pyengine.tasks.inputs import Inputs, Sentence
from pyengine.text import Tokenizer

__all__ = ["Skipped", "load_text", "usable_text"]

Pair = tuple[Sentence, "Sentence | None"]  # source and target, which may be left to the model


class Skipped:
    """Why lines are not used, counted."""

    def __init__(self) -> None:
        self.blank = 0
        self.long = 0

    def __str__(self) -> str:
        """ "" if there are none."""
        reasons = [
            f"{count} {'line' if count == 1 else 'lines'} {why}"
            for count, why in ((self.blank, "without a source or a target"), (self.long, "too long for the model"))
            if count
        ]
        return f"text: {' and '.join(reasons)} skipped" if reasons else ""


def load_text(path: str | Path) -> list[tuple[str, str | None]]:
    """The lines of a UTF-8 file as (source, target); a target follows a tab, and is None where there is no tab.

    Entry i is line i + 1; either side may be blank. Raises InputError for a file that is empty or cannot be read, and
    for a line that is not UTF-8 or has more than one tab.
    """
    path = usable_path(path, InputError)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not content:
        raise InputError(f"{path}: expected lines of text, found an empty file")
    return [
        _parse_line(line.rstrip(b"\r"), f"{path}: line {number}")
        for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), 1)
    ]


def _parse_line(line: bytes, name: str) -> tuple[str, str | None]:
    try:
        source, *targets = line.decode("utf-8").split("\t")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: expected UTF-8, found an invalid byte at {error.start}") from None
    if len(targets) > 1:
        raise InputError(f"{name}: expected a source, or source, tab, target; found {len(targets)} tabs")
    return source, targets[0] if targets else None


def usable_text(
    text: Sequence[Pair], config: ModelConfig, generation: GenerationDefaults, tokenizer: Tokenizer | None
) -> tuple[list[Any], Skipped]:
    """The pairs of ``text`` whose sides the model can take, and what of the others there was.

    Raises InputError, naming the line, for ids or texts that it cannot read, and if nothing is left.
    """
    inputs = Inputs(config, generation.eos_token_id, tokenizer)
    kept, skipped = [], Skipped()
    for number, (source, target) in enumerate(text, 1):
        if _blank(source) or target is not None and _blank(target):
            skipped.blank += 1
            continue
        long = inputs.source(source, truncate=True, name=f"the source of line {number}").truncated
        if target is not None:
            ids = inputs.prefix(target, f"the target of line {number}")
            ended = len(ids) > 0 and ids[-1] in generation.eos_token_id
            long = long or len(ids) + (not ended) > config.target_side()[0].max_positions
        if long:
            skipped.long += 1
        else:
            kept.append((source, target))
    if not kept:
        raise InputError(f"{skipped}, none is left" if text else "text: expected lines, found none")
    return kept, skipped


def _blank(sentence: Sentence) -> bool:
    return not (sentence.strip() if isinstance(sentence, str) else len(sentence))
