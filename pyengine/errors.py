"""Every error that pyengine raises on purpose.

    PyengineError
    ├── CheckpointError      a training checkpoint that cannot be read: missing, truncated, hostile
    ├── UnsupportedError     a checkpoint or a caller asks for something that the engine does not have
    ├── ModelFileError       a model directory that is damaged, incomplete, of a newer version, or no such thing
    ├── TokenizerError       tokenizer files that are missing, damaged or do not match the model
    ├── OptionError          an option out of range, unknown, or in conflict with another   (also a ValueError)
    ├── InputError           text or token ids that the model cannot take                   (also a ValueError)
    ├── OutputError          a file or directory that cannot be written: a full disk, no permission (also an OSError)
    ├── DeadlineError        a call ran past its ``timeout``                                (also a TimeoutError)
    ├── PartialError         some of a list could not be answered; it has the results of the others
    ├── ClosedError          a model was used after ``close()``
    └── EngineError          the C core failed: out of memory, scores that are not finite, or an instruction set
        │                    this CPU lacks
        └── CacheFullError   a step needs more of the key-value cache than ``cache_bytes`` leaves

A message names the file, tensor or option, what was expected and what was found. It may be printed wherever it comes
from: what would act on a terminal is escaped, and a long one cut (`printing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyengine.printing import printable

__all__ = [
    "CacheFullError",
    "CheckpointError",
    "ClosedError",
    "DeadlineError",
    "EngineError",
    "InputError",
    "ModelFileError",
    "OptionError",
    "OutputError",
    "PartialError",
    "PyengineError",
    "TokenizerError",
    "UnsupportedError",
]


class PyengineError(Exception):
    """The base of all errors of this package.

    ``keywords``: parts of the message that name keywords of Python, such as "overwrite=True", for a program whose users
    know them by other names.
    """

    def __init__(self, message: str = "", *, keywords: tuple[str, ...] = ()) -> None:
        super().__init__(printable(message))
        self.keywords = keywords


class CheckpointError(PyengineError):
    """A training checkpoint cannot be read."""


class UnsupportedError(PyengineError):
    """A checkpoint or a caller asks for something that the engine does not have."""


class ModelFileError(PyengineError):
    """A model directory is damaged, incomplete, of a newer version, or no model directory at all."""


class TokenizerError(PyengineError):
    """Tokenizer files are missing, damaged, or do not match the model."""


class OptionError(PyengineError, ValueError):
    """An option is out of range, unknown, or in conflict with another.

    The message about the value of a keyword begins with its name, "threads is 0; expected ...".
    """


class InputError(PyengineError, ValueError):
    """Text or token ids that the model cannot take."""


class OutputError(PyengineError, OSError):
    """A file or directory cannot be written. Its ``__cause__`` is what the system said, if it said something."""


class DeadlineError(PyengineError, TimeoutError):
    """A call ran past its ``timeout``; nothing of it was returned."""


class PartialError(PyengineError):
    """Some of a list failed while they ran: by a processor that raised, or by themselves too large for ``cache_bytes``.

    ``results``: one for each of the list, in order, None for those; ``errors``: place in the list, from 0 -> what was
    raised. The first of them is the ``__cause__``.
    """

    def __init__(self, results: Sequence[Any], errors: Mapping[int, Exception]) -> None:
        place, first = min(errors.items())
        others = f", and {len(errors) - 1} more," if len(errors) > 1 else ""
        what = f"number {place + 1} of {len(results)}{others} failed"
        message = f"{what}: {type(first).__name__}: {first}; results has the others'"
        super().__init__(message, keywords=getattr(first, "keywords", ()))
        self.results = list(results)
        self.errors = dict(errors)
        self.__cause__ = first

    def __reduce__(self) -> tuple[Any, ...]:
        """To be pickled; what an exception does by itself is to be made of its message alone."""
        return type(self), (self.results, self.errors), self.__dict__


class ClosedError(PyengineError):
    """A model was used after it was closed."""


class EngineError(PyengineError):
    """The C core failed: out of memory, scores that are not finite, or an instruction set that this CPU lacks."""


class CacheFullError(EngineError):
    """A step needs more pages of 16 tokens than the key-value cache may have; nothing was changed by it."""

    def __init__(self, needed: int, available: int) -> None:
        super().__init__(
            f"the key-value cache is full: a step needs {needed} more pages of 16 tokens, {available} are left; "
            "give a larger cache_bytes, or fewer beams or tokens",
            keywords=("cache_bytes",),
        )
        self.needed = needed
        self.available = available

    def __reduce__(self) -> tuple[Any, ...]:
        """As that of PartialError."""
        return type(self), (self.needed, self.available), self.__dict__
