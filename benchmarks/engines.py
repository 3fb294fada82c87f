"""This engine and its peers behind one small interface, each in a process of its own.

An engine is imported when it is opened: torch takes seconds, and environment variables must come first.

    python benchmarks/engines.py SETUP      # used by peers_mt.py: loads, translates, prints seconds and bytes
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = [
    "CTRANSLATE2", "PYENGINE", "TRANSFORMERS", "Job", "PeerOutput", "Setup", "Transformers", "Worker",
    "have_ctranslate2", "have_transformers", "translator",
]  # fmt: skip

PYENGINE, CTRANSLATE2, TRANSFORMERS = "pyengine", "ctranslate2", "transformers"

Sentences = list[list[int]] | list[str]


def have_transformers() -> bool:
    return find_spec("torch") is not None and find_spec("transformers") is not None


def have_ctranslate2() -> bool:
    return find_spec("ctranslate2") is not None and have_transformers()  # its converter needs both


@dataclass(frozen=True)
class Setup:
    """An engine and how it runs: `workers` streams of `threads` each, on one copy of the weights.

    `tokenizer`: where CTranslate2 finds the checkpoint's SentencePiece models.
    """

    engine: str
    path: Path
    threads: int
    workers: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Job:
    """Batches of sentences, one call each. `length`: tokens to write, exactly; None: to the end."""

    batches: list[Sentences]
    beams: int
    length: int | None = None
    limit: int | None = None
    """CTranslate2's max_batch_size; None: the sentences of a call over its workers."""


@dataclass(frozen=True)
class Done:
    """Of a job: its time, the tokens written, end tokens included, and the texts if texts went in."""

    seconds: float
    tokens: int
    texts: list[str]


Opener = Callable[[Setup], Callable[[Any], Any]]
"""Loads an engine; what it gives does jobs."""


class Worker:
    """An engine in a process of its own, which does the jobs that what `opener` gives does."""

    def __init__(self, setup: Setup, opener: Opener | None = None) -> None:
        """`opener`, by default `translator`, is a function of a module."""
        context = multiprocessing.get_context("spawn")
        self.setup = setup
        self._pipe, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote, setup, opener or translator), daemon=True)
        self._process.start()
        remote.close()

    def run(self, job: Any) -> Any:
        self._pipe.send(job)
        return self._pipe.recv()

    def stop(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Any, setup: Setup, opener: Opener) -> None:
    os.environ.update(setup.environment)
    do = opener(setup)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(do(job))


def translator(setup: Setup) -> Callable[[Job], Done]:
    """Does jobs of translation."""
    return partial(_timed, _open(setup))


Translate = Callable[[Sentences, Job], tuple[int, list[str]]]
"""Translates one batch: tokens written, texts."""


def _timed(translate: Translate, job: Job) -> Done:
    tokens, texts = 0, []
    start = time.perf_counter()
    for batch in job.batches:
        count, found = translate(batch, job)
        tokens += count
        texts += found
    return Done(time.perf_counter() - start, tokens, texts)


def _open(setup: Setup) -> Translate:
    openers = {PYENGINE: _open_pyengine, CTRANSLATE2: _open_ctranslate2, TRANSFORMERS: _open_transformers}
    return openers[setup.engine](setup)


def _open_pyengine(setup: Setup) -> Translate:
    import pyengine

    translator = pyengine.load(setup.path, threads=setup.threads * setup.workers, replicas=setup.workers)

    def translate(batch: Sentences, job: Job) -> tuple[int, list[str]]:
        exact = {"min_new_tokens": job.length, "max_new_tokens": job.length}
        results = translator.translate(batch, num_beams=job.beams, **exact)
        tokens = sum(job.length or len(result.ids) + 1 for result in results)  # ids come without the end token
        return tokens, [result.text for result in results if isinstance(batch[0], str)]

    return translate


def _open_ctranslate2(setup: Setup) -> Translate:
    import ctranslate2

    translator = ctranslate2.Translator(
        str(setup.path), compute_type="int8", inter_threads=setup.workers, intra_threads=setup.threads
    )
    vocabulary = json.loads((setup.path / "shared_vocabulary.json").read_text(encoding="utf-8"))
    source = target = None
    if setup.tokenizer is not None:
        import sentencepiece

        source, target = (
            sentencepiece.SentencePieceProcessor(model_file=str(setup.tokenizer / f"{side}.spm"))
            for side in ("source", "target")
        )

    def translate(batch: Sentences, job: Job) -> tuple[int, list[str]]:
        texts = isinstance(batch[0], str)
        if texts:
            pieces = [[*words, "</s>"] for words in source.encode(batch, out_type=str)]
        else:
            pieces = [[vocabulary[id] for id in sentence] for sentence in batch]
        lengths = {"min_decoding_length": job.length, "max_decoding_length": job.length} if job.length else {}
        found = translator.translate_batch(
            pieces,
            beam_size=job.beams,
            max_batch_size=job.limit or -(-len(batch) // setup.workers),
            **lengths,
        )
        written = [result.hypotheses[0] for result in found]
        tokens = sum(job.length or len(words) + 1 for words in written)
        return tokens, [target.decode(words) for words in written] if texts else []

    return translate


def _open_transformers(setup: Setup) -> Translate:
    peer = Transformers(setup.path, threads=setup.threads)

    def translate(batch: Sentences, job: Job) -> tuple[int, list[str]]:
        exact = {"min_new_tokens": job.length, "max_new_tokens": job.length} if job.length else {}
        found = peer.translate(batch, job.beams, **exact)
        return sum(job.length or len(ids) for ids in found), []

    return translate


@dataclass(frozen=True)
class PeerOutput:
    """Ids without start token and padding, end token included; sum of log-probabilities over their number."""

    ids: list[int]
    score: float


class Transformers:
    """A checkpoint of an encoder and a decoder in transformers with torch, float32."""

    def __init__(self, path: Path, *, threads: int) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self._torch = torch
        # By default it takes the stored type, and then rounds even the position table to it.
        opened = transformers.AutoModelForSeq2SeqLM.from_pretrained
        self._model = opened(path, dtype=torch.float32).eval()
        self.end = self._model.config.eos_token_id
        self.start = self.padding = self._model.config.pad_token_id

    def in_float64(self) -> Transformers:
        """The same weights, computed with in float64."""
        other = copy.copy(self)
        other._model = copy.deepcopy(self._model).double()
        return other

    def translate(self, batch: list[list[int]], beams: int, **options: Any) -> list[list[int]]:
        """What `generate` returns, without start token and padding."""
        return [self._strip(row) for row in self._generate(batch, beams, **options).tolist()]

    def translate_scored(self, batch: list[list[int]], beams: int) -> list[PeerOutput]:
        """`translate` with scores; `generate` has none for greedy search, so those are summed up here."""
        wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": beams == 1}
        found = self._generate(batch, beams, **wanted)
        ids = [self._strip(row) for row in found.sequences.tolist()]
        if beams > 1:
            scores = found.sequences_scores.tolist()
        else:
            chosen = found.sequences[:, 1:, None]
            log_probs = self._torch.stack(found.logits, 1).double().log_softmax(-1).gather(2, chosen)
            totals = zip(ids, log_probs[:, :, 0].tolist(), strict=True)
            scores = [sum(values[: len(row)]) / len(row) for row, values in totals]
        return [PeerOutput(row, score) for row, score in zip(ids, scores, strict=True)]

    def log_probs(self, source: list[int], target: list[int]) -> list[float]:
        """Of each token of `target`, given `source` and the tokens before it."""
        torch = self._torch
        with torch.inference_mode():
            inputs = torch.tensor([[self.start, *target[:-1]]])
            logits = self._model(input_ids=torch.tensor([source]), decoder_input_ids=inputs).logits[0]
            return logits.double().log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)].tolist()

    def _generate(self, batch: list[list[int]], beams: int, **options: Any) -> Any:
        torch = self._torch
        longest = max(map(len, batch))
        ids = torch.tensor([row + [self.padding] * (longest - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        with torch.inference_mode():
            return self._model.generate(ids, attention_mask=mask, num_beams=beams, do_sample=False, **options)

    def _strip(self, row: list[int]) -> list[int]:
        row = row[1:]
        return row[: row.index(self.end) + 1] if self.end in row else [id for id in row if id != self.padding]


def fresh(setup: Setup, first: Job, job: Job) -> dict[str, float]:
    """In this process: seconds of the import, and of loading up to the first translation; peak bytes after `job`."""
    from memory import peak_memory

    start = time.perf_counter()
    os.environ.update(setup.environment)
    __import__(setup.engine)
    imported = time.perf_counter()
    translate = _open(setup)
    _timed(translate, first)
    loaded = time.perf_counter()
    _timed(translate, job)
    return {"import": imported - start, "load": loaded - imported, "peak": peak_memory()}


def main() -> None:
    given = json.loads(sys.argv[1])
    setup = given["setup"]
    setup["path"], setup["tokenizer"] = Path(setup["path"]), Path(setup["tokenizer"])
    print(json.dumps(fresh(Setup(**setup), Job(**given["first"]), Job(**given["job"]))))


if __name__ == "__main__":
    main()
