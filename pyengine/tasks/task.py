"""What every task is: a loaded model, what it says of itself, the options that it settles, and its end."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from pyengine.errors import OptionError, UnsupportedError
from pyengine.options import GenerationKeywords, GenerationOptions, SearchOptions
from pyengine.tasks.engine import Engine
from pyengine.text import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Task"]


class Task:
    """Base of the tasks. about: what `info` says beside what the engine knows."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer | None, about: dict[str, object]) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._about = about

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
        decoder, vocab = self._engine.config.target_side()
        return asked.resolve(self._engine.generation, vocab, decoder.max_positions)
