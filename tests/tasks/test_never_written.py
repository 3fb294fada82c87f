"""Ids whose bias is minus infinity: probability 0, in every task, type and search, as if there were no such ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine import Translator
from pyengine.quantize import Calibration, convert
from tests.checkpoints import handmade
from tests.oracle.reference import log_softmax
from tests.oracle.tiny import random_sources

VOCAB = 3000  # three chunks of the output layer
NEVER = np.r_[3, 700:720, 1024:2048, 2999]  # one chunk as a whole
SOURCES = random_sources(4, 12)


def model(directory: Path, weights: str, *, never: bool, **how: Any) -> Translator:
    special = {"eos_token_id": 0, "decoder_start_token_id": VOCAB - 1, "pad_token_id": VOCAB - 1}
    config = handmade.marian_config(vocab_size=VOCAB, **special, max_length=12)
    tensors = handmade.marian_tensors(config, seed=3)
    tensors["model.shared.weight"] *= 0.3
    if never:
        tensors["final_logits_bias"][0, NEVER] = -np.inf
    checkpoint = handmade.write_checkpoint(directory / f"checkpoint{never}", config, tensors)
    convert(checkpoint, directory / f"{weights}{never}", weights=weights, **how)
    return pyengine.load(directory / f"{weights}{never}", threads=2)


@pytest.mark.parametrize("weights", ("float32", "int8", "int4g32"))
def test_as_if_they_were_suppressed_and_the_rest_renormalized(tmp_path: Path, weights: str) -> None:
    """The same model with a finite bias, told by options of the search, which are compared with transformers."""
    suppressed = {"suppress_tokens": NEVER.tolist(), "renormalize_logits": True}
    with model(tmp_path, weights, never=True) as found, model(tmp_path, weights, never=False) as plain:
        for beams in (1, 4):
            how = {"beam_size": beams, "num_hypotheses": beams}
            theirs = plain.translate(SOURCES, **how, **suppressed)
            for ours, wanted in zip(found.translate(SOURCES, **how), theirs, strict=True):
                assert [each.ids for each in ours.hypotheses] == [each.ids for each in wanted.hypotheses]
                if beams == 1:
                    continue  # a greedy search scores by the model alone, whatever was suppressed
                scores = [each.score for each in ours.hypotheses]
                assert scores == pytest.approx([each.score for each in wanted.hypotheses], abs=1e-4)
        free = plain.translate(SOURCES, beam_size=4)
        assert {token for result in free for token in result.ids} & set(NEVER.tolist())  # else this shows nothing


def test_their_logits_and_scores(tmp_path: Path) -> None:
    source, target = SOURCES[0], [5, 3, 9, 1500, 0]
    with model(tmp_path, "int8", never=True) as found, model(tmp_path, "int8", never=False) as plain:
        logits, finite = found.logits(source, target), plain.logits(source, target)
        assert np.isneginf(logits[:, NEVER]).all()
        kept = np.setdiff1d(np.arange(VOCAB), NEVER)
        np.testing.assert_array_equal(logits[:, kept], finite[:, kept])
        result = found.score([source], [target])[0]
        wanted = log_softmax(logits.astype(np.float64))[np.arange(len(target)), target]
        np.testing.assert_allclose(result.log_probs, wanted, atol=1e-4)
        assert np.isneginf(result.log_probs).tolist() == [False, True, False, True, False]


def test_an_id_that_is_forced_is_written_all_the_same(tmp_path: Path) -> None:
    """As in transformers: what is forced has log-probability 0."""
    with model(tmp_path, "int8", never=True) as found:
        result = found.translate(SOURCES[0], forced_bos_token_id=3, beam_size=2)
        assert result.ids[0] == 3 and np.isfinite(result.score)


def test_calibration_and_measures(tmp_path: Path) -> None:
    """Biases that calibration corrects stay minus infinity, and divergences are those of the other ids."""
    from pyengine.quantize.measuring.divergence import divergence
    from pyengine.quantize.measuring.reading import Reader

    text = [(each, None) for each in random_sources(8, 90)]
    model(tmp_path, "float32", never=True).close()
    calibrated = {"weights": "int4g32", "calibration": Calibration(text), "tensors": [("lm_head", "int4g32")]}
    convert(tmp_path / "checkpointTrue", tmp_path / "int4", **calibrated)
    pairs = [(source, [5, 9, 40, 0]) for source in SOURCES]
    with Reader.open(tmp_path / "float32True") as exact, Reader.open(tmp_path / "int4") as rounded:
        found = divergence(exact, rounded, pairs)
        assert np.isneginf(next(rounded.logits(pairs[:1]))[:, NEVER]).all()
        assert 0 < found.kl < 10 and found.tokens == 4 * len(pairs)
