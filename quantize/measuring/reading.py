"""A model that reads text without a search: what two models are compared by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from pyengine.canonical import CanonicalModel
from pyengine.modelfile import open_directory
from pyengine.quantize.seeing.calibration import in_memory_engine
from pyengine.quantize.seeing.text import Text, begin_of, inputs_for, read_samples
from pyengine.scheduling.deadline import Deadline
from pyengine.tasks.engine import Engine, open_engine
from pyengine.tasks.forcing import source_states, target_log_probs, target_logits
from pyengine.tasks.inputs import Sample
from pyengine.text import Tokenizer, tokenizer_of

__all__ = ["Reader"]

ROWS = 1024  # of a step


class Reader:
    """Says what a model expects of each token of given targets, or what its encoder makes of texts.

    Text is (source, target) of each line, as texts or ids, see ``text.usable_text``; no target is left to the model.
    Methods raise InputError, naming the line, for what the model cannot read.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer | None = None, isa: str = "") -> None:
        """Of ``engine``, which ``close`` closes and which runs with the instruction set ``isa``."""
        self.engine, self.tokenizer, self.isa = engine, tokenizer, isa
        self.config = engine.config
        generation = None if self.config.decoder is None else engine.generation
        self.inputs = inputs_for(self.config, generation, tokenizer)
        self._begin = begin_of(self.config, generation)

    @classmethod
    def open(cls, path: str | Path, *, threads: int | Literal["auto"] = "auto") -> Reader:
        """Of a model directory, as ``pyengine.load`` runs it. Raises what that raises."""
        directory = open_directory(path, copy=True)
        engine, settings = open_engine(directory, threads=threads)
        return cls(engine, tokenizer_of(directory), str(settings["isa"]))

    @classmethod
    def of(cls, model: CanonicalModel, tokenizer: Tokenizer | None = None) -> Reader:
        """Of a model in memory, computing in float32."""
        return cls(in_memory_engine(model.config, model.generation, model.tensors), tokenizer)

    def samples(self, text: Text, first: int = 1) -> list[Sample]:
        """Ids of each line, see ``text.read_samples``."""
        return read_samples(self.inputs, self.config, text, first, begin=self._begin)

    def logits(self, text: Text) -> Iterator[np.ndarray]:
        """Of each line, float32 [T, vocab]: raw logits before each of the target's T tokens, its end token included."""
        start = self.engine.generation.decoder_start_token_id
        with self.engine.session(Deadline(), 1) as session:
            yield from target_logits(
                session, self.config, self.samples(text), start, budget=min(ROWS, session.max_rows), deadline=Deadline()
            )

    def log_probs(self, text: Text) -> list[np.ndarray]:
        """Of each line, float64 [T]: the log-probability of each of the target's tokens, its end token included."""
        start = self.engine.generation.decoder_start_token_id
        with self.engine.session(Deadline(), 1) as session:
            budget = min(ROWS, session.max_rows)
            samples = self.samples(text)
            return target_log_probs(session, self.config, samples, start, budget=budget, deadline=Deadline())

    def states(self, text: Text) -> Iterator[np.ndarray]:
        """Of each line, float32 [S, width]: what an encoder without a decoder makes of the S tokens."""
        with self.engine.session(Deadline(), 1) as session:
            budget = min(ROWS, session.max_rows)
            yield from source_states(session, self.samples(text), budget=budget, deadline=Deadline())

    def perplexity(self, text: Text, shares: float = 0.0) -> float:
        """e to the mean negative log-probability of a token of the targets, end tokens included.

        ``shares``: the sum over these of ln of the share of the probability that is to be taken for all of it.
        """
        found = self.log_probs(text)
        total = sum(math.fsum(each.tolist()) for each in found)
        return math.exp((shares - total) / sum(map(len, found)))

    def close(self) -> None:
        """Give the memory back."""
        self.engine.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
