"""What every task is: a loaded model, what it says of itself, the options that it settles, and its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, NoReturn

import numpy as np

from pyengine.canonical import ModelConfig
from pyengine.errors import OptionError, UnsupportedError
from pyengine.options import GenerationKeywords, GenerationOptions, SearchOptions
from pyengine.plan import Opened
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.scheduler import Outcome, Request, Scheduler
from pyengine.scheduling.streams import run_streams
from pyengine.tasks.engine import Engine

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BATCH_TOKENS", "Task"]

BATCH_TOKENS = 1024
"""Rows of a step, unless the caller says otherwise."""

SETTLED = 64
"""Sets of options that are settled and kept: settling its own takes a fiftieth of a short sentence's time."""


class Task(ABC):
    """Base of the tasks. about: what `info` says beside what the engine knows."""

    purpose: ClassVar[str]
    """What a model is loaded for, and by which command and calls: behind "a model to"."""

    @classmethod
    @abstractmethod
    def fits(cls, config: ModelConfig) -> bool:
        """Whether it is the task of such models."""

    def __init__(self, engine: Engine, about: dict[str, object]) -> None:
        self._engine = engine
        self._about = about
        self._resolved = lru_cache(SETTLED)(self._resolve)

    def info(self) -> dict[str, object]:
        """What is loaded and how it runs: numbers, names and sizes, ready for JSON."""
        return {
            **self._about,
            **self._engine.memory(),
            "model": self._engine.config.to_json(),
            "generation": self._engine.generation.to_json(),
        }

    def close(self) -> None:
        """Give the memory back; calls after this raise ClosedError. Closing twice is fine."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        kind = type(self).__name__
        raise UnsupportedError(
            f"a {kind} cannot be pickled or copied: its weights lie in this process. Give the other one its path, "
            f"{self._about['path']}, to call pyengine.load; threads can share a {kind}, and so can forked processes"
        )

    def _settle(self, options: GenerationOptions | None, keywords: GenerationKeywords) -> SearchOptions:
        if options is not None and keywords:
            raise OptionError(f"options and {next(iter(keywords))} were given; expected one or the other")
        if not (options is None or isinstance(options, GenerationOptions)):
            raise OptionError(f"options is a {type(options).__name__}; expected GenerationOptions")
        asked = GenerationOptions(**keywords) if options is None else options
        return self._resolved(asked, tuple(asked.spelled.items()))

    def _resolve(self, asked: GenerationOptions, spelled: tuple[tuple[str, str], ...]) -> SearchOptions:
        """`spelled`: errors call options as these callers do."""
        decoder, vocab = self._engine.config.target_side()
        return asked.resolve(self._engine.generation, vocab, decoder.max_positions)

    @contextmanager
    def _scheduler(
        self,
        budget: int,
        deadline: Deadline,
        replicas: int,
        opener: Callable[[int], Opened],
        allowed: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Iterator[Scheduler]:
        """One on a session of its own, for the thread that enters the block; what it runs ends with the block."""
        config = self._engine.config
        _, vocab = config.target_side()
        with self._engine.session(deadline, replicas, opener=opener) as session:
            own = Scheduler(
                session, vocab=vocab, budget=budget, deadline=deadline, allowed=allowed, rope_set=config.rope_set
            )
            self._engine.schedulers.add(own)
            yield own

    @contextmanager
    def _searching(
        self,
        requests: Iterable[Request],
        budget: int,
        deadline: Deadline,
        replicas: int,
        window: int | None = None,
        allowed: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Iterator[Iterator[Outcome]]:
        """What the schedulers find; the end of the block cancels the rest, whoever still refers to it."""
        opener = self._engine.opener()  # closing the model ends no call that has begun
        scheduler = partial(self._scheduler, budget, deadline, replicas, opener, allowed)
        with closing(run_streams(scheduler, replicas, requests, window, deadline)) as found:
            yield found
