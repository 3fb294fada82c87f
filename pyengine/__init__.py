"""Runs quantized Transformer models on CPUs.

>>> import pyengine
>>> translator = pyengine.load("de-en-int8", threads=2)
>>> translator.translate("Ein Mann fährt Fahrrad.", beam_size=4).text
'A man riding a bicycle.'
>>> generator = pyengine.load("language-int8")
>>> for piece in generator.stream("The capital of France is", max_new_tokens=16):
...     print(piece.text, end="", flush=True)
"""

from __future__ import annotations

import pyengine.cpus as _cpus  # noqa: F401 - first: it notes the CPUs before an OpenMP runtime is loaded
from pyengine.errors import (
    CacheFullError,
    CheckpointError,
    ClosedError,
    DeadlineError,
    EngineError,
    InputError,
    ModelFileError,
    OptionError,
    OutputError,
    PartialError,
    PyengineError,
    TokenizerError,
    UnsupportedError,
)
from pyengine.options import GenerationOptions
from pyengine.results import (
    Best,
    Decoded,
    Echo,
    FileResult,
    GenerationResult,
    Hypothesis,
    Piece,
    ScoreResult,
    TranslationResult,
    Trial,
    Usage,
)
from pyengine.tasks.generator import Generator
from pyengine.tasks.loading import load
from pyengine.tasks.translator import Translator
from pyengine.version import __version__

__all__ = [
    "Best",
    "CacheFullError",
    "CheckpointError",
    "ClosedError",
    "DeadlineError",
    "Decoded",
    "Echo",
    "EngineError",
    "FileResult",
    "GenerationOptions",
    "GenerationResult",
    "Generator",
    "Hypothesis",
    "InputError",
    "ModelFileError",
    "OptionError",
    "OutputError",
    "PartialError",
    "Piece",
    "PyengineError",
    "ScoreResult",
    "TokenizerError",
    "TranslationResult",
    "Translator",
    "Trial",
    "UnsupportedError",
    "Usage",
    "__version__",
    "load",
]
