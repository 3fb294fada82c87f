"""What peers_seq2seq.py writes and hands to the engines, and what it asks of their figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine.quantize import convert

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize(
    ("family", "changes"),
    (("bart", {"init_std": 0.1}), ("t5", {}), ("t5", {"tie_word_embeddings": False, "initializer_factor": 0.3})),
)
def test_all_engines_compute_the_same(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """By what they say of given targets, float32 and int8; and each writes as many tokens as it is told."""
    for package in ("ctranslate2", "torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed: CTranslate2's converter needs it")
    import ctranslate2
    import peers_seq2seq
    import torch
    import transformers

    checkpoint = peers_seq2seq.write_random(family, {**peers_seq2seq.TINY[family], **changes}, tmp_path / family)
    again = peers_seq2seq.write_random(family, {**peers_seq2seq.TINY[family], **changes}, tmp_path / "again")
    assert (checkpoint / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    convert(checkpoint, tmp_path / "own", weights="int8")
    peer = ctranslate2.Translator(str(peers_seq2seq.converted(checkpoint, tmp_path)), compute_type="int8")
    rng = np.random.default_rng(3)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    start, end = model.config.decoder_start_token_id, model.config.eos_token_id
    sources = [[*row, end] for row in rng.integers(4, 300, (8, 12)).tolist()]
    targets = rng.integers(4, 300, (8, 9)).tolist()
    with torch.inference_mode():
        inputs = torch.tensor([[start, *target] for target in targets])
        log_probs = model(input_ids=torch.tensor(sources), decoder_input_ids=inputs).logits.log_softmax(-1).numpy()
    places = np.arange(8)[:, None], np.arange(10), np.array([[*target, end] for target in targets])
    expected = log_probs[places]
    words = [[list(map(str, row)) for row in rows] for rows in (sources, targets)]
    theirs = np.array([result.log_probs for result in peer.score_batch(*words)])
    with pyengine.load(tmp_path / "own", task=pyengine.Translator, threads=1) as own:
        ours = np.array([result.log_probs for result in own.score(sources, targets)])
        exact: dict[str, Any] = {"min_new_tokens": 7, "max_new_tokens": 7}
        assert [own.generate(sources[0], num_beams=beams, **exact).usage.new_tokens for beams in (1, 4)] == [7, 7]
    assert expected.std() > 0.8
    assert np.abs(ours - expected).mean() < 0.02 and np.abs(theirs - expected).mean() < 0.02
    for beams in (1, 4):
        [result] = peer.translate_batch(words[0][:1], beam_size=beams, min_decoding_length=7, max_decoding_length=7)
        assert len(result.hypotheses[0]) == 7


def test_verdicts_ask_most_of_one_sentence_with_all_threads() -> None:
    from engines import PYENGINE, Setup
    from peers_seq2seq import judged
    from verdicts import Pairs, Row

    def pairs(ratio: float | None) -> Pairs:
        found = Pairs(Setup(PYENGINE, Path(), 1), None, None)
        found.ours, found.our_tokens = [1.0], [1]
        found.peer = [] if ratio is None else [ratio]
        return found

    found: dict[Row, Pairs] = {
        (1, 1, 1): pairs(1.6), (1, 4, 32): pairs(1.4), (2, 1, 1): pairs(2.9), (2, 4, 1): pairs(3.1),
        (2, 1, 32): pairs(2.1), (2, 4, 32): pairs(1.9), (2, 4, 64): pairs(None),
    }  # fmt: skip
    assert [verdict.met for verdict in judged("T5", found)] == [True, False, False, True, True, False]


def test_without_transformers_it_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peers_seq2seq

    monkeypatch.setattr(peers_seq2seq, "have_transformers", lambda: False)
    options = argparse.Namespace(work=tmp_path / "work", model=None, quick=True)
    with pytest.raises(SystemExit, match="expected them installed"):
        peers_seq2seq.run(options)
    assert not options.work.exists()
