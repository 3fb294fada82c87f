"""Translators over the NumPy session, and model directories for the C core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.canonical import GenerationDefaults, ModelConfig
from pyengine.errors import InputError
from pyengine.modelfile import packed_specs, write_directory
from pyengine.modelfile.layout import pack_floats, pack_values, stack_rows
from pyengine.plan import Session
from pyengine.tasks.engine import Engine
from pyengine.tasks.translator import Translator
from pyengine.text.detokenizer import Detokenizer
from tests.oracle.reference import ReferenceModel
from tests.oracle.reference_session import ReferenceSession
from tests.oracle.tiny import generation, model_config, random_tensors

__all__ = ["CONFIG", "MODEL", "LetterTokenizer", "translator", "write_float32"]

CONFIG = model_config()
MODEL = ReferenceModel(CONFIG, random_tensors(CONFIG, 5))
LETTERS = "_abcdefghijklmnopqrstu"  # id 0 ends, ids 1..21 are letters, id 22 pads


class LetterTokenizer:
    """A letter is a token."""

    source_size = target_size = 23

    def encode_source(self, text: str) -> list[int]:
        return [*self._ids(text), 0]

    def encode_target(self, text: str, *, end: bool) -> list[int]:
        return [*self._ids(text), 0] if end else self._ids(text)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(LETTERS[id] for id in ids if 0 < id < 22)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        return [[*LETTERS, "<pad>"][id] for id in ids]

    def stream(self) -> Detokenizer:
        return Detokenizer(lambda id: LETTERS[id] if 0 < id < 22 else None, [])

    def _ids(self, text: str) -> list[int]:
        unknown = set(text) - set(LETTERS)
        if unknown:
            raise InputError(f"no such letters: {''.join(sorted(unknown))}")
        return [LETTERS.index(letter) for letter in text]


def translator(
    open_session: Callable[[], Session] | None = None, *, tokenizer: Any = LetterTokenizer(), **defaults: Any
) -> Translator:
    """A translator of the tiny model; num_beams is 2 unless `defaults` say otherwise."""
    settled = generation(**{"num_beams": 2, **defaults})
    make = open_session or (lambda: ReferenceSession(MODEL))
    engine = Engine(CONFIG, settled, lambda threads: make(), keep=2)
    return Translator(engine, tokenizer, {"path": "tiny"})


def write_float32(
    path: Path, config: ModelConfig, defaults: GenerationDefaults, tensors: dict[str, np.ndarray]
) -> None:
    """A float32 model directory of canonical `tensors`, without tokenizer."""

    def packed() -> Iterable[tuple[str, np.ndarray]]:
        for name, spec in packed_specs(config, "float32").items():
            parts = [tensors[source] for source in spec.sources]
            weight = spec.kind == "weight"
            yield name, pack_floats(stack_rows(parts, spec.form)) if weight else pack_values(parts, spec.form)

    write_directory(
        path,
        config=config,
        weights="float32",
        generation=defaults,
        tensors=packed(),
        tokenizer=None,
        tokenizer_files={},
        created_by="tests",
    )
