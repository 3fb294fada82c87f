"""What tasks that write texts have in common: how they are asked, run and listened to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pyengine.arguments import flag
from pyengine.decoding.search import Found, Process
from pyengine.errors import OptionError
from pyengine.formats.strict_json import shorten
from pyengine.options import GenerationKeywords, SearchOptions
from pyengine.plan import Opened
from pyengine.results import Echo, GenerationResult, Piece
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.scheduler import Request
from pyengine.tasks.continuations import Asked, continuation
from pyengine.tasks.engine import Engine
from pyengine.tasks.task import Task
from pyengine.tasks.writing import Words, Writer, watch

__all__ = ["Author", "How"]


@dataclass(frozen=True)
class How:
    """What a call says of all of its texts."""

    stop: tuple[str, ...]
    processor: Process | None
    truncate: bool


class Author(Task):
    """The part of a task that writes, whatever it reads before. words: of the texts, None without a tokenizer."""

    def __init__(self, engine: Engine, words: Words | None, about: dict[str, object]) -> None:
        super().__init__(engine, about)
        self._words = words

    def _how(self, stop: Any, processor: Any, truncate: Any) -> How:
        stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, (list, tuple)) else (None,)
        if not all(isinstance(each, str) and each for each in stops):
            raise OptionError(f"stop is {shorten(stop)}; expected a string, or strings, that are not empty")
        if stops and self._words is None:
            raise OptionError("stop is for texts, but the model has no tokenizer")
        if not (processor is None or callable(processor)):
            raise OptionError(f"processor is {shorten(processor)}; expected a function of ids and logits")
        return How(stops, processor, flag("truncate", truncate))

    def _settled(self, options: Any, keywords: GenerationKeywords, count: int, one: bool) -> list[SearchOptions]:
        """The options of each of `count` texts."""
        if one or not isinstance(options, (list, tuple)):
            return [self._settle(options, keywords)] * count
        if len(options) != count:
            raise OptionError(f"options: expected one, or one for each of {count} prompts, found {len(options)}")
        return [self._settle(each, keywords) for each in options]

    def _asked(
        self, source: np.ndarray | None, prompt: np.ndarray, truncated: bool, settled: SearchOptions, how: How
    ) -> Asked:
        """`source` and `prompt`: of a `Request`; `truncated`: whether something was cut."""
        if settled.num_beams > 1 and (how.stop or how.processor is not None):
            raise OptionError(
                f"num_beams is {settled.num_beams}; expected 1 with {'stop' if how.stop else 'a processor'}",
                keywords=("num_beams", "stop"),
            )
        look = None
        if how.stop and self._words is not None:
            look = watch(partial(Writer, self._words, prompt, how.stop))
        return Asked(Request(source, prompt, settled, look, how.processor), truncated, how.stop)

    def _run(self, asked: list[Asked], budget: int, deadline: Deadline) -> list[GenerationResult | Exception]:
        opener = self._engine.opener()  # closing the model ends no call that has begun
        replicas = min(self._engine.replicas, max(1, len(asked)))
        requests = [each.request for each in asked]
        with self._searching(requests, budget, deadline, replicas, allowed=self._allowed(requests)) as found:
            outcomes = list(found)
        return [
            each if isinstance(each, Exception) else self._result(own, each, self._echo(own, deadline, opener))
            for own, each in zip(asked, outcomes, strict=True)
        ]

    def _stream(self, asked: Asked, budget: int, limit: float | None) -> Iterator[Piece]:
        if asked.request.options.num_return_sequences > 1:
            raise OptionError("num_return_sequences is more than 1; expected 1: stream gives one text as it is written")
        writer = None if self._words is None else Writer(self._words, asked.request.prompt, asked.stop)
        if writer is not None and asked.request.watch is not None:
            asked = replace(asked, request=replace(asked.request, watch=lambda _, ids: writer.push(ids.tolist())))
        return self._pieces(asked, writer, budget, limit)

    def _pieces(
        self, asked: Asked, writer: Writer | None, budget: int, limit: float | None
    ) -> Iterator[Piece]:
        deadline = Deadline(limit)
        opener = self._engine.opener()
        echo = self._echo(asked, deadline, opener)
        before = "" if echo is None or echo.decoded is None else echo.decoded.text
        with (
            self._scheduler(budget, deadline, 1, opener, self._allowed([asked.request])) as scheduler,
            closing(scheduler.events([asked.request])) as events,
        ):
            for event in events:
                if event.error is not None:
                    raise event.error
                ids, result = event.ids.tolist(), None
                text, before = before, ""
                if writer is not None:
                    if asked.request.watch is None:
                        writer.push(ids)
                    text += writer.take()
                if event.found is not None:
                    result = self._result(asked, [event.found], echo)
                    ids = ids[: len(ids) - len(event.found.ids) + len(result.ids)]
                    text += "" if writer is None else writer.finish()
                with deadline.held():
                    yield Piece(text, tuple(ids), result)

    def _allowed(self, requests: Iterable[Request]) -> Callable[[np.ndarray], np.ndarray] | None:
        """What gives the ids that a source may become; None: all."""
        return None

    def _echo(self, asked: Asked, deadline: Deadline, opener: Callable[[int], Opened]) -> Echo | None:
        """What the texts go on with, if it is to be among them."""
        return None

    def _result(self, asked: Asked, found: list[Found], echo: Echo | None) -> GenerationResult:
        return continuation(asked, found, echo, self._words, self._engine.generation.eos_token_id)
