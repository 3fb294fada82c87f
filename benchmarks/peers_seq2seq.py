"""T5 and BART against CTranslate2 and transformers, on the same ids, in turn, each in a process of its own.

    python benchmarks/peers.py seq2seq                # BART of base size
    python benchmarks/peers.py seq2seq --model DIR    # beside it a checkpoint from Hugging Face, such as flan-T5-small

BART of base size has random weights, drawn from a fixed seed as transformers draws them when training begins: its speed
is that of a trained model. pyengine and CTranslate2 run int8, rounded without a text to calibrate on, transformers
float32. CTranslate2's converter gets ids for words, since no text goes in or out.

Sources are 31 random ids and the end token, others in every call; exactly 32 tokens are written, greedily and with 4
beams, for one sentence and for 32 in a call. CTranslate2 runs in whatever way is fastest of those that peers_mt.py
tries: MKL with packed weights or oneDNN, its instruction sets, one worker with all threads or one a thread. pyengine,
too, runs in one stream or in one a thread (column `as`). A ratio is the median over pairs of calls in turn, with the
smallest and the largest; before each call is a pause, in which the threads of the other engine, which go on waiting for
a while in a loop, have gone to sleep. CTranslate2 and transformers have pairs of their own; nothing is asked of ratios
to the latter. Without CTranslate2 it is left out; torch and transformers, which write the model, are needed.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import models
import numpy as np
from engines import TRANSFORMERS, Job, Setup, Worker, have_ctranslate2, have_transformers
from peers_mt import Bench, Extent
from report import Report, Table, Verdict, spread
from tqdm import tqdm
from verdicts import Pairs, Row

from pyengine import _core
from pyengine.modelfile import open_directory
from pyengine.quantize import convert

READ, WRITTEN = 31, 32
UNKNOWN, FIRST = 3, 4
"""Ids from `FIRST` on are drawn: those before it begin, end, fill up and stand for what is unknown."""
LONG = Extent(calls=((1, 1), (1, 32), (4, 1), (4, 32)), pairs=(5, 9), pause=0.2)
QUICK = Extent(threads=(1,), calls=((1, 1), (4, 2)), pairs=(1, 1))
ONE_THREAD, SINGLE, SEVERAL = 1.5, 3.0, 2.0
"""Times as fast as CTranslate2, at least: everywhere with one thread; one sentence, and several, with all."""

TINY: dict[str, dict[str, Any]] = {
    "bart": dict(
        d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=96, decoder_ffn_dim=96, vocab_size=300, max_position_embeddings=64, normalize_before=False,
    ),
    "t5": dict(d_model=64, d_kv=32, d_ff=96, num_layers=1, num_heads=2, vocab_size=300, decoder_start_token_id=0),
}  # fmt: skip
BASE: dict[str, Any] = dict(
    d_model=768, encoder_layers=6, decoder_layers=6, encoder_attention_heads=12, decoder_attention_heads=12,
    encoder_ffn_dim=3072, decoder_ffn_dim=3072, vocab_size=50265, max_position_embeddings=1024,
    normalize_before=False,  # as the original says; the converter asks for it
)  # fmt: skip
COLUMNS = {
    "threads": "d", "beams": "d", "sentences": "d", "tok/s": ",.0f", "CTranslate2 tok/s": ",.0f", "ratio": "",
    "as": "", "CTranslate2's best setting": "", "transformers tok/s": ",.0f", "ratio to it": "", "pairs": "d",
}  # fmt: skip


def write_random(family: str, sizes: dict[str, Any], path: Path) -> Path:
    """A checkpoint with random weights, the same on every call; no token is forced at the end of what it writes."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config)
    model.generation_config.forced_eos_token_id = None
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    return path


def converted(checkpoint: Path, work: Path) -> Path:
    """The checkpoint as CTranslate2's converter rounds it to int8, with ids for words."""
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint)
    words = {str(id): id for id in range(config.vocab_size)}
    start, end, padding = config.decoder_start_token_id, config.eos_token_id, config.pad_token_id
    named = {"bos_token": start, "eos_token": end, "pad_token": padding, "unk_token": UNKNOWN}
    tokens = {name: str(id) for name, id in named.items()}

    class Converter(TransformersConverter):
        def load_model(self, *given: Any, **named: Any) -> Any:
            model = super().load_model(*given, **named)
            # By this name it asks whether T5's outputs are scaled, which transformers 5 says by another.
            model.config.tie_word_embeddings = getattr(model.config, "scale_decoder_outputs", True)
            return model

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(get_vocab=lambda: words, convert_ids_to_tokens=str, **tokens)

    path = work / f"{checkpoint.name}-ctranslate2-{version('ctranslate2')}"
    Converter(str(checkpoint)).convert(str(path), quantization="int8", force=True)
    return path


def measure(checkpoint: Path, name: str, work: Path, extent: Extent, report: Report) -> None:
    """Adds a table and verdicts to the report."""
    own = work / f"{checkpoint.name}-int8"
    convert(checkpoint, own, weights="int8", overwrite=True)
    directory = open_directory(own)
    assert directory.generation is not None
    ends, vocab = directory.generation.eos_token_id, directory.config.target_side()[1]
    rng = np.random.default_rng(1)

    def job(beams: int, count: int) -> Job:
        rows = rng.integers(FIRST, vocab, (count, READ)).tolist()
        return Job([[[*row, ends[0]] for row in rows]], beams, WRITTEN)

    peer = converted(checkpoint, work) if have_ctranslate2() else None
    bench = Bench(own, peer, None, _core.available_isas()[-1], extent)
    table = Table(f"{name}: {READ + 1} tokens in, {WRITTEN} out, tokens written a second", COLUMNS)
    found: dict[Row, Pairs] = {}
    with tqdm(total=len(extent.threads) * len(extent.calls), desc=name, leave=False) as bar:
        for threads in extent.threads:
            ours, peers = bench.workers(threads, [replace(job(*call), length=8) for call in extent.calls])
            slow = Worker(Setup(TRANSFORMERS, checkpoint, threads))
            for beams, count in extent.calls:
                jobs = [job(beams, count) for _ in range(extent.pairs[1] + 3)]
                pairs = found[threads, beams, count] = bench.pairs((ours, peers), jobs.__getitem__, [None])
                other = bench.pairs((ours, [slow]), jobs.__getitem__, [None])
                cells = [pairs.rate, pairs.peer_rate, spread(pairs.ratios) if pairs.ratios else None]
                cells += [pairs.own_setting, pairs.peer_setting, other.peer_rate, spread(other.ratios)]
                table.rows.append([threads, beams, count, *cells, len(pairs.ours)])
                bar.update()
            for worker in itertools.chain(ours, peers, [slow]):
                worker.stop()
    report.tables.append(table)
    report.verdicts.extend(judged(name, found))


def judged(name: str, found: dict[Row, Pairs]) -> Iterable[Verdict]:
    """What is asked of the ratios to CTranslate2."""
    for (threads, beams, count), pairs in found.items():
        if pairs.ratios:
            least = ONE_THREAD if threads == 1 else SINGLE if count == 1 else SEVERAL
            value = median(pairs.ratios)
            row = f"{name}, threads {threads}, beams {beams}, sentences {count}"
            yield Verdict(f"{row}: {least:g} times CTranslate2", f"{value:.2f}", value >= least)


def add_options(made: argparse.ArgumentParser) -> None:
    models.add_options(made)
    made.add_argument("--model", type=Path, metavar="DIR", help="a checkpoint to measure, too")
    made.add_argument("--quick", action="store_true", help="a tiny T5 and a tiny BART, once: to see that it runs")


def run(options: argparse.Namespace) -> Report:
    if not have_transformers():
        raise SystemExit("peers.py seq2seq: torch and transformers write its model; expected them installed: .[bench]")
    extent, work = QUICK if options.quick else LONG, options.work
    work.mkdir(parents=True, exist_ok=True)
    kept = ("threads", "calls", "pairs", "seconds", "pause")
    settings = {key: value for key, value in asdict(extent).items() if key in kept}
    report = Report("peers-seq2seq", {**settings, "read": READ, "written": WRITTEN})
    if not have_ctranslate2():
        report.notes.append("CTranslate2 is not installed: it is left out.")
    checkpoints = {} if options.model is None else {options.model.resolve().name: options.model}
    if options.quick:
        for family, sizes in TINY.items():
            checkpoints[f"tiny {family}"] = write_random(family, sizes, work / f"tiny-{family}")
    else:
        checkpoints["BART-base"] = write_random("bart", BASE, work / "bart-base")
    for name, checkpoint in checkpoints.items():
        measure(checkpoint, name, work, extent, report)
    return report
