"""Language models behind one small interface, this engine and its peers, each in a process of its own (engines.Worker).

    python benchmarks/language.py SETUP      # used by peers_llm.py: loads, writes, prints seconds and bytes

llama.cpp runs by llama-cpp-python's low-level calls: weights repacked, flash attention, batches that are filled in
place, the best token found by NumPy in the logits where they lie. CTranslate2 runs by `generate_batch`, the prompts'
tokens at once, and tells when the first token is there; its words are the ids (language_models.ctranslate2_directory).
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engines import CTRANSLATE2, PYENGINE, Setup

__all__ = ["LLAMA_CPP", "TOKENIZER", "Judging", "Writing", "Wrote", "fresh_command", "have_llama_cpp", "writer"]

LLAMA_CPP, TOKENIZER = "llama_cpp", "tokenizer"
BATCH = 2048
"""Tokens that llama.cpp is given at a time, its default; it takes them in parts of 512."""


def have_llama_cpp() -> bool:
    return find_spec("llama_cpp") is not None


@dataclass(frozen=True)
class Writing:
    """Prompts of ids, all at once, and how many tokens to write after each, exactly and greedily."""

    prompts: list[list[int]]
    new: int


@dataclass(frozen=True)
class Wrote:
    """Seconds until the first token of a single prompt is there, and of all; of several prompts only the latter."""

    first: float | None
    total: float


@dataclass(frozen=True)
class Judging:
    """Windows of ids, each behind a start token."""

    windows: list[list[int]]


def writer(setup: Setup) -> Callable[[Any], Any]:
    """Does jobs of writing, and of judging, whose answer is the perplexity, or the error by which it gives none."""
    engine = ENGINES[setup.engine](setup)
    return lambda job: engine.judge(job) if isinstance(job, Judging) else engine.write(job)


class _Pyengine:
    def __init__(self, setup: Setup) -> None:
        import pyengine

        self.generator = pyengine.load(setup.path, task=pyengine.Generator, threads=setup.threads)

    def write(self, job: Writing) -> Wrote:
        exact = {"num_beams": 1, "min_new_tokens": job.new, "max_new_tokens": job.new}
        start, first = time.perf_counter(), None
        if len(job.prompts) > 1:
            self.generator.generate(job.prompts, **exact)
        else:
            for _ in self.generator.stream(job.prompts[0], **exact):
                first = first or time.perf_counter() - start
        return Wrote(first, time.perf_counter() - start)

    def judge(self, job: Judging) -> float:
        found = self.generator.score(job.windows)
        return math.exp(-sum(each.total for each in found) / sum(len(each.log_probs) for each in found))

    def cache_bytes(self) -> int:
        return self.generator.info()["cache_bytes"]


class _LlamaCpp:
    def __init__(self, setup: Setup) -> None:
        import llama_cpp
        import numpy as np

        self._api, self._np, self._threads = llama_cpp, np, setup.threads
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, None)
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(setup.path).encode(), parameters)
        assert self._model, f"llama.cpp cannot load {setup.path}"
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._context: Any = None
        self._made: tuple[int, int] | None = None  # for how many sequences, and tokens of each

    def write(self, job: Writing) -> Wrote:
        count = len(job.prompts)
        self._open(count, max(map(len, job.prompts)) + job.new)
        start = time.perf_counter()
        tokens = self._read(job.prompts)
        first = time.perf_counter() - start
        lengths = [len(prompt) for prompt in job.prompts]
        for step in range(job.new - 1):
            self._run([(tokens[i], lengths[i] + step, i, True) for i in range(count)])
            tokens = [self._best(i) for i in range(count)]
        return Wrote(None if count > 1 else first, time.perf_counter() - start)

    def judge(self, job: Judging) -> float:
        np, total, places = self._np, 0.0, 0
        self._open(1, max(map(len, job.windows)))
        for window in job.windows:
            self._clear()
            for begin in range(0, len(window), 256):
                part = window[begin : begin + 256]
                self._run([(id, begin + i, 0, True) for i, id in enumerate(part)])
                after = window[begin + 1 : begin + len(part) + 1]
                for i, id in enumerate(after):
                    logits = self._logits(i).astype(np.float64)
                    top = logits.max()
                    total += top + math.log(np.exp(logits - top).sum()) - logits[id]
                places += len(after)
        return math.exp(total / places)

    def _open(self, sequences: int, tokens: int) -> None:
        """A context that is empty; the last one is kept while it fits."""
        if self._made != (sequences, tokens):
            if self._context is not None:
                self._api.llama_free(self._context)
            parameters = self._api.llama_context_default_params()
            parameters.n_ctx = sequences * (-(-tokens // 256) * 256)
            parameters.n_batch, parameters.n_seq_max = BATCH, sequences
            parameters.n_threads = parameters.n_threads_batch = self._threads
            parameters.flash_attn_type = self._api.LLAMA_FLASH_ATTN_TYPE_ENABLED
            self._context = self._api.llama_init_from_model(self._model, parameters)
            assert self._context, f"llama.cpp makes no context of {parameters.n_ctx} tokens"
            self._made = sequences, tokens
        self._clear()

    def _clear(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)

    def _read(self, prompts: list[list[int]]) -> list[int]:
        """The token after each of them."""
        rows = [
            (id, place, number, place == len(prompt) - 1)
            for number, prompt in enumerate(prompts)
            for place, id in enumerate(prompt)
        ]
        found = []
        for begin in range(0, len(rows), BATCH):
            part = rows[begin : begin + BATCH]
            self._run(part)
            found += [self._best(i) for i, row in enumerate(part) if row[3]]
        return found

    def _run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Token, position, sequence, and whether its logits are wanted, of each row."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (id, place, number, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = id, place, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, number
        code = self._api.llama_decode(self._context, batch)
        assert code == 0, f"llama_decode gives {code}"

    def _logits(self, row: int) -> Any:
        return self._np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, row), (self._vocab,))

    def _best(self, row: int) -> int:
        return int(self._logits(row).argmax())

    def cache_bytes(self) -> None:
        return None


class _CTranslate2:
    def __init__(self, setup: Setup) -> None:
        import ctranslate2

        self._generator = ctranslate2.Generator(
            str(setup.path), compute_type="int8", inter_threads=1, intra_threads=setup.threads
        )

    def write(self, job: Writing) -> Wrote:
        first, single = None, len(job.prompts) == 1

        def note(_: Any) -> bool:
            nonlocal first
            first = first or time.perf_counter() - start
            return False

        words = [list(map(str, prompt)) for prompt in job.prompts]
        exact = {"min_length": job.new, "max_length": job.new}
        start = time.perf_counter()
        found = self._generator.generate_batch(
            words, beam_size=1, include_prompt_in_result=False, callback=note if single else None, **exact
        )
        total = time.perf_counter() - start
        assert all(len(each.sequences_ids[0]) == job.new for each in found), "CTranslate2 wrote more or fewer tokens"
        return Wrote(first, total)

    def judge(self, job: Judging) -> float | str:
        total, places = 0.0, 0
        for window in job.windows:  # one at a time, as it keeps the logits of all places
            try:
                [found] = self._generator.score_batch([list(map(str, window))], max_input_length=0)
            except ValueError as error:  # of more ids than layers with a sliding window look at
                return str(error)
            total += sum(found.log_probs)
            places += len(found.log_probs)
        return math.exp(-total / places)

    def cache_bytes(self) -> None:
        return None


ENGINES = {PYENGINE: _Pyengine, LLAMA_CPP: _LlamaCpp, CTRANSLATE2: _CTranslate2}


def fresh(setup: Setup, job: Writing) -> dict[str, float | None]:
    """In this process: seconds of the import, of loading, and from there to the first token; bytes of the cache, and
    peak bytes after the job. Of the tokenizer alone only the latter."""
    from memory import peak_memory

    if setup.engine == TOKENIZER:
        import pyengine  # noqa: F401
        from pyengine.modelfile import open_head
        from pyengine.text import text_tokenizer_of

        text_tokenizer_of(open_head(setup.path))
        return {"peak": peak_memory()}
    start = time.perf_counter()
    __import__(setup.engine)
    imported = time.perf_counter()
    engine = ENGINES[setup.engine](setup)
    loaded = time.perf_counter()
    wrote = engine.write(job)
    figures = {"import": imported - start, "load": loaded - imported, "first": wrote.first}
    return {**figures, "cache": engine.cache_bytes(), "peak": peak_memory()}


def fresh_command(setup: Setup, job: Writing) -> list[str]:
    """What runs `fresh` in a process of its own, which prints its figures as JSON."""
    given = {"path": str(setup.path), "threads": setup.threads, "engine": setup.engine}
    return [sys.executable, __file__, json.dumps({"setup": given, "prompts": job.prompts, "new": job.new})]


def main() -> None:
    given = json.loads(sys.argv[1])
    setup = Setup(**{**given["setup"], "path": Path(given["setup"]["path"])})
    print(json.dumps(fresh(setup, Writing(given["prompts"], given["new"]))))


if __name__ == "__main__":
    main()
