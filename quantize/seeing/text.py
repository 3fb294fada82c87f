"""Text to calibrate, measure or choose tokens on: read from a file, and what of it a model can take.

A line is a source, a tab and its translation for a model that reads a source and writes a target; for one with an
encoder or a decoder alone it is a text that this one reads, a decoder behind the token that begins one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyengine.canonical import GenerationDefaults, ModelConfig
from pyengine.errors import InputError
from pyengine.formats.regular_files import usable_path
from pyengine.tasks.inputs import Inputs, Sample, Sentence
from pyengine.text import Tokenizer

__all__ = [
    "Line", "Skipped", "Text", "begin_of", "inputs_for", "is_blank", "load_text", "read_samples", "sides",
    "usable_text",
]  # fmt: skip

Line = tuple["Sentence | None", "Sentence | None"]
"""Source and target as texts or ids. Where there are both stacks, a target that is None is left to the model; the text
of a model with one stack stands alone, on either side.
"""
Text = Sequence[Line]


class Skipped:
    """Why lines are not used, counted."""

    def __init__(self, config: ModelConfig) -> None:
        self._empty = "without a source or a target" if _has_both(config) else "without text"
        self.blank = 0
        self.long = 0

    def __str__(self) -> str:
        """ "" if there are none."""
        reasons = [
            f"{count} {'line' if count == 1 else 'lines'} {why}"
            for count, why in ((self.blank, self._empty), (self.long, "too long for the model"))
            if count
        ]
        return f"text: {' and '.join(reasons)} skipped" if reasons else ""


def load_text(path: str | Path) -> list[tuple[str, str | None]]:
    """The lines of a UTF-8 file as (source, target); a target follows a tab, and is None where there is no tab.

    Entry i is line i + 1; either side may be blank, and what further tabs mean the model decides (``sides``). Raises
    InputError for a file that is empty or cannot be read, and for a line that is not UTF-8.
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
        source, tab, target = line.decode("utf-8").partition("\t")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: expected UTF-8, found an invalid byte at {error.start}") from None
    return source, target if tab else None


def usable_text(
    text: Text, config: ModelConfig, generation: GenerationDefaults | None, tokenizer: Tokenizer | None
) -> tuple[list[Line], Skipped]:
    """The lines of ``text`` whose sides the model can take, each on its own side, and what of the others there was.

    A text for a decoder alone that is longer than its positions comes in pieces, as ids. Raises InputError, naming the
    line, for ids or texts that it cannot read, and if nothing is left.
    """
    inputs = inputs_for(config, generation, tokenizer)
    ends = () if generation is None else generation.eos_token_id
    kept: list[Line] = []
    skipped = Skipped(config)
    for number, line in enumerate(text, 1):
        source, target = sides(config, line, number)
        if any(side is not None and is_blank(side) for side in (source, target)):
            skipped.blank += 1
            continue
        if target is not None and config.encoder is None:
            pieces = inputs.pieces(target, f"line {number}")
            kept += [(None, target)] if len(pieces) == 1 else [(None, piece) for piece in pieces]
            continue
        long = False
        if source is not None:
            long = inputs.source(source, truncate=True, name=_name(config, "source", number)).truncated
        if target is not None and config.decoder is not None:
            ids = inputs.prefix(target, _name(config, "target", number))
            ended = len(ids) > 0 and ids[-1] in ends
            long = long or len(ids) + (not ended) > config.decoder.max_positions
        if long:
            skipped.long += 1
        else:
            kept.append((source, target))
    if not kept:
        raise InputError(f"{skipped}, none is left" if text else "text: expected lines, found none")
    return kept, skipped


def inputs_for(config: ModelConfig, generation: GenerationDefaults | None, tokenizer: Tokenizer | None) -> Inputs:
    """What reads text for a model; ids are taken as they are, padding and all."""
    return Inputs(config, () if generation is None else generation.eos_token_id, tokenizer)


def begin_of(config: ModelConfig, generation: GenerationDefaults | None) -> int | None:
    """The token that comes before a text of a decoder alone, unless the engine puts a start token there itself."""
    if config.encoder is not None or generation is None or generation.decoder_start_token_id is not None:
        return None
    return generation.bos_token_id


def read_samples(
    inputs: Inputs, config: ModelConfig, text: Text, first: int = 1, *, begin: int | None = None
) -> list[Sample]:
    """Ids of each line, sources cut to fit; a target that is left to the model is None.

    ``inputs`` are the model's, ``first`` is the number of the first line, ``begin`` what ``begin_of`` says: it comes
    before texts, not before ids. Raises InputError, naming the line.
    """
    samples = []
    for number, line in enumerate(text, first):
        source, target = sides(config, line, number)
        ids = None
        if source is not None:
            ids = inputs.source(source, truncate=True, name=_name(config, "source", number)).ids
            if not len(ids):
                raise InputError(f"{_name(config, 'source', number)} is empty; expected text or token ids")
        given = None if target is None else inputs.target(target, _name(config, "target", number))
        if given is not None and begin is not None and isinstance(target, str) and given[0] != begin:
            given = np.append(np.int32(begin), given)
        samples.append(Sample(ids, given))
    return samples


def sides(config: ModelConfig, line: Line, number: int) -> Line:
    """Source and target, for a model with one stack the one that it has, tabs and all. InputError for any other number
    of texts.
    """
    if _has_both(config):
        if line[0] is None:
            raise InputError(f"line {number}: expected a source, found none")
        if isinstance(line[1], str) and "\t" in line[1]:
            tabs = line[1].count("\t") + 1
            raise InputError(f"line {number}: expected a source, or source, tab, target; found {tabs} tabs")
        return line
    if isinstance(line[0], str) and isinstance(line[1], str):
        line = f"{line[0]}\t{line[1]}", None
    texts = [side for side in line if side is not None]
    if len(texts) != 1:
        reader = "a decoder" if config.encoder is None else "an encoder"
        raise InputError(f"line {number}: expected one text, for a model with {reader} alone, found {len(texts)}")
    return (None, texts[0]) if config.encoder is None else (texts[0], None)


def _has_both(config: ModelConfig) -> bool:
    return config.encoder is not None and config.decoder is not None


def _name(config: ModelConfig, side: str, number: int) -> str:
    return f"the {side} of line {number}" if _has_both(config) else f"line {number}"


def is_blank(sentence: Sentence) -> bool:
    """Whether there is nothing to read."""
    return not (sentence.strip() if isinstance(sentence, str) else len(sentence))
