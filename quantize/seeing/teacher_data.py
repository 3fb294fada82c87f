"""Data to train a smaller model on: a corpus, and what a model translates it to.

Sequence-level knowledge distillation: Kim and Rush, arXiv:1606.07947. The teacher computes in float32 and searches as
its own defaults say, beams included.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pyengine.errors import InputError, OptionError, UnsupportedError
from pyengine.formats.regular_files import usable_path
from pyengine.output import Target, check_new_file, new_file, scratch_directory
from pyengine.quantize.opening import open_model
from pyengine.quantize.seeing.calibration import in_memory_engine
from pyengine.tasks.translator import Translator
from pyengine.text import tokenizer_of

__all__ = ["TeacherData", "write_teacher_data"]


@dataclass(frozen=True)
class TeacherData:
    """What was written: ``pairs``; ``left_out``: lines without a source or a translation; tokens of these a second."""

    pairs: int
    left_out: int
    tokens_a_second: float


def write_teacher_data(
    checkpoint: str | Path,
    corpus: str | Path,
    output: Target,
    *,
    overwrite: bool = False,
    allow_unknown_keys: Collection[str] = (),
) -> TeacherData:
    """Translate ``corpus``, UTF-8, a source a line; ``output`` gets lines of source, tab, translation, in that order.

    It is the form that ``text.load_text`` reads, so lines without a source, or for which the model has nothing to say,
    are left out. ``checkpoint``: a training checkpoint, whose ``allow_unknown_keys`` are passed over, or a model
    directory. ``output`` appears when it is complete. Raises OptionError if it exists, unless it is a regular file and
    ``overwrite`` is given; OutputError if it cannot be written; InputError, naming the line, for a corpus that is not
    such a file or a source that the model cannot take; UnsupportedError for a model that does not translate, or without
    a tokenizer; and what ``open_model`` and ``open_tokenizer`` raise.
    """
    corpus = usable_path(corpus, InputError)
    beside = Path(output).parent if isinstance(output, (str, Path)) else None
    _check_sources(corpus)
    check_new_file(output, overwrite=overwrite)
    if isinstance(output, (str, Path)) and Path(output).exists() and Path(output).samefile(corpus):
        raise OptionError(f"{output}: expected another file than the corpus")
    model = open_model(checkpoint, requantize=True, allow_unknown_keys=allow_unknown_keys)
    if model.config.encoder is None or model.config.decoder is None:
        raise UnsupportedError(f"{checkpoint}: expected a model with an encoder and a decoder, which translates")
    with model.laid_out() as laid:
        tokenizer = tokenizer_of(laid)
    if tokenizer is None:
        raise UnsupportedError(f"{checkpoint}: expected a model with tokenizer files, found none")
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    with new_file(output, overwrite=overwrite) as file, scratch_directory(beside) as scratch:
        translations = scratch / "translations"
        with Translator(engine, tokenizer, {}) as teacher:
            result = teacher.translate_file(corpus, translations)
        left_out = _join(corpus, translations, file)
    return TeacherData(result.lines - left_out, left_out, result.tokens / result.seconds)


def _check_sources(corpus: Path) -> None:
    """Before anything takes long: whether each line is a source."""
    if not corpus.is_file():
        raise InputError(f"{corpus}: expected a file, found {'a directory' if corpus.is_dir() else 'nothing'}")
    number = 0
    with open(corpus, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{corpus}: line {number}: expected UTF-8, found an invalid byte at {error.start}"
                ) from None
            if "\t" in text:
                raise InputError(f"{corpus}: line {number}: expected a source alone, found a tab")
    if not number:
        raise InputError(f"{corpus}: expected lines of text, found an empty file")


def _join(corpus: Path, translations: Path, pairs: BinaryIO) -> int:
    """Write the pairs that have both sides; returns the number of the others."""
    left_out = 0
    with (
        open(corpus, encoding="utf-8", newline="\n") as sources,
        open(translations, encoding="utf-8", newline="\n") as targets,
    ):
        for source, target in zip(sources, targets, strict=True):
            if source.strip() and target.strip():
                pairs.write((source.rstrip("\r\n") + "\t" + target.replace("\t", " ")).encode())
            else:
                left_out += 1
    return left_out
