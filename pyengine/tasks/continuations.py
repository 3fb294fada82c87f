"""A prompt as the scheduler runs it, and what its hypotheses become for the caller."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pyengine.decoding.search import Found
from pyengine.results import Decoded, Echo, GenerationResult, Hypothesis, Usage
from pyengine.scheduling.scheduler import Request
from pyengine.tasks.opinions import opinions
from pyengine.tasks.writing import Words, Writer

__all__ = ["Asked", "continuation"]


@dataclass(frozen=True, eq=False)
class Asked:
    """A request, and what is known of it when its hypotheses are there."""

    request: Request
    truncated: bool
    stop: tuple[str, ...]


def continuation(
    asked: Asked, found: list[Found], echo: Echo | None, tokenizer: Words | None, ends: Collection[int]
) -> GenerationResult:
    """`ends`: the model's end tokens, which are left out."""
    hypotheses = tuple(_hypothesis(asked, each, echo, tokenizer, ends) for each in found)
    read = asked.request.prompt if asked.request.source is None else asked.request.source
    usage = Usage(len(read), sum(len(each.ids) for each in hypotheses))
    return GenerationResult(hypotheses, usage, echo)


def _hypothesis(
    asked: Asked, found: Found, echo: Echo | None, tokenizer: Words | None, ends: Collection[int]
) -> Hypothesis:
    ids = found.ids.tolist()
    if found.finish == "end" and ids and ids[-1] in ends:
        ids.pop()
    decoded, finish = None, found.finish
    if tokenizer is not None:
        writer = Writer(tokenizer, asked.request.prompt, asked.stop)
        writer.push(ids)
        writer.finish()
        before = "" if echo is None or echo.decoded is None else echo.decoded.text
        decoded = Decoded(before + writer.text, tuple(tokenizer.pieces(ids)))
        if writer.stopped:  # perhaps by characters that only the end of the text has told
            finish = "stop"
    return Hypothesis(
        ids=tuple(ids),
        score=found.score,
        finish_reason=finish,
        truncated=asked.truncated,
        decoded=decoded,
        **opinions(found),
    )
