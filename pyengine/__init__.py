"""Runs quantized Transformer models on CPUs.

>>> import pyengine
>>> translator = pyengine.load("de-en-int8", threads=2)
>>> translator.translate("Ein Mann fährt Fahrrad.", beam_size=4).text
'A man riding a bicycle.'
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
    PyengineError,
    TokenizerError,
    UnsupportedError,
)
from pyengine.options import GenerationOptions
from pyengine.results import Decoded, FileResult, Hypothesis, ScoreResult, TranslationResult, Trial
from pyengine.tasks.loading import load
from pyengine.tasks.translator import Translator
from pyengine.version import __version__

__all__ = [
    "CacheFullError",
    "CheckpointError",
    "ClosedError",
    "DeadlineError",
    "Decoded",
    "EngineError",
    "FileResult",
    "GenerationOptions",
    "Hypothesis",
    "InputError",
    "ModelFileError",
    "OptionError",
    "OutputError",
    "PyengineError",
    "ScoreResult",
    "TokenizerError",
    "TranslationResult",
    "Translator",
    "Trial",
    "UnsupportedError",
    "__version__",
    "load",
]
