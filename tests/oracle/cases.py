"""Searches that pyengine and transformers must agree on: every option alone, and random mixtures."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyengine.canonical.config import StackConfig
from tests.oracle.tiny import SearchCase

__all__ = ["PLAIN", "mixture"]

_UNTIED = {
    "source_vocab": 31,
    "target_vocab": 23,
    "share_embeddings": False,
    "tie_output": False,
    "activation": "relu",
    "embedding_scale": 1.0,
}
_DEEP = {"encoder": StackConfig(3, 4, 40), "decoder": StackConfig(1, 2, 36), "activation": "gelu"}

PLAIN: dict[str, SearchCase] = {
    "greedy": SearchCase(1, {"num_beams": 1}),
    "greedy_untied": SearchCase(2, {"num_beams": 1}, config=_UNTIED),
    "greedy_limits": SearchCase(3, {"num_beams": 1, "min_new_tokens": 6, "max_new_tokens": 9}),
    "greedy_repetition": SearchCase(4, {"num_beams": 1, "repetition_penalty": 1.7}),
    "greedy_ngrams": SearchCase(5, {"num_beams": 1, "no_repeat_ngram_size": 2}),
    "greedy_bad_words": SearchCase(6, {"num_beams": 1, "bad_words_ids": ((22,), (3, 4), (9,), (5, 5, 5), (0,))}),
    "greedy_forced": SearchCase(7, {"num_beams": 1, "forced_bos_token_id": 5, "max_length": 6}),
    "greedy_prefix": SearchCase(8, {"num_beams": 1}, prefix=(4, 9, 2)),
    "greedy_length_penalty": SearchCase(9, {"num_beams": 1, "length_penalty": 0.3}),
    "beam": SearchCase(10, {"num_beams": 4}),
    "beam_all": SearchCase(11, {"num_beams": 4, "num_return_sequences": 4}),
    "beam_untied": SearchCase(12, {"num_beams": 3, "num_return_sequences": 3}, config=_UNTIED),
    "beam_deep": SearchCase(13, {"num_beams": 2, "num_return_sequences": 2}, config=_DEEP),
    "beam_early": SearchCase(14, {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True}),
    "beam_never": SearchCase(15, {"num_beams": 4, "num_return_sequences": 4, "early_stopping": "never"}),
    "beam_never_long": SearchCase(16, {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0}),
    "beam_no_penalty": SearchCase(17, {"num_beams": 3, "length_penalty": 0.0, "num_return_sequences": 3}),
    "beam_short": SearchCase(18, {"num_beams": 3, "length_penalty": -1.0, "num_return_sequences": 3}),
    "beam_max_length": SearchCase(19, {"num_beams": 4, "max_length": 7, "num_return_sequences": 4}),
    "beam_unforced_end": SearchCase(
        20, {"num_beams": 4, "max_length": 6, "num_return_sequences": 4}, generation={"forced_eos_token_id": None}
    ),
    "beam_one_token": SearchCase(
        21, {"num_beams": 3, "max_new_tokens": 1, "num_return_sequences": 3}, generation={"forced_eos_token_id": None}
    ),
    "beam_min_length": SearchCase(22, {"num_beams": 4, "min_length": 8, "num_return_sequences": 2}),
    "beam_min_new_tokens": SearchCase(23, {"num_beams": 4, "min_new_tokens": 8}, prefix=(1, 2)),
    "beam_repetition": SearchCase(24, {"num_beams": 4, "repetition_penalty": 1.4, "num_return_sequences": 2}),
    "beam_repetition_below": SearchCase(25, {"num_beams": 3, "repetition_penalty": 0.6, "num_return_sequences": 3}),
    "beam_unigrams": SearchCase(26, {"num_beams": 3, "no_repeat_ngram_size": 1}),
    "beam_ngrams": SearchCase(27, {"num_beams": 4, "no_repeat_ngram_size": 2, "num_return_sequences": 4}),
    "beam_bad_words": SearchCase(28, {"num_beams": 4, "bad_words_ids": ((22,), (7, 1), (3,), (2, 2, 2), (0,))}),
    "beam_suppress": SearchCase(29, {"num_beams": 4, "suppress_tokens": (1, 5, 9), "begin_suppress_tokens": (0, 2)}),
    "beam_forced_bos": SearchCase(30, {"num_beams": 4, "forced_bos_token_id": 8, "num_return_sequences": 4}),
    "beam_forced_bos_begin": SearchCase(
        31, {"num_beams": 3, "forced_bos_token_id": 8, "begin_suppress_tokens": (8, 3)}
    ),
    "beam_prefix": SearchCase(32, {"num_beams": 4, "num_return_sequences": 4}, prefix=(6, 3, 11)),
    "beam_prefix_forced_bos": SearchCase(
        33, {"num_beams": 3, "forced_bos_token_id": 5, "begin_suppress_tokens": (2, 3)}, prefix=(6,)
    ),
    "beam_two_ends": SearchCase(
        34, {"num_beams": 4, "num_return_sequences": 4}, generation={"eos_token_id": (0, 5)}
    ),
    "beam_defaults": SearchCase(
        35, {}, generation={"num_beams": 3, "length_penalty": 0.6, "no_repeat_ngram_size": 3, "min_length": 4}
    ),
}  # fmt: skip


def mixture(seed: int) -> SearchCase:
    """A random model with random options."""
    rng = np.random.RandomState(1000 + seed)

    def chance(p: float) -> bool:
        return bool(rng.rand() < p)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(int(id) for id in rng.choice(np.arange(1, 22), count, replace=False))

    beams = int(rng.choice([1, 2, 3, 4]))
    options: dict[str, Any] = {"num_beams": beams, "num_return_sequences": int(rng.randint(1, beams + 1))}
    if chance(0.5):
        options["length_penalty"] = float(rng.choice([-0.5, 0.0, 0.4, 0.6, 1.5, 2.0]))
    if chance(0.5):
        options["early_stopping"] = (True, "never")[rng.randint(2)]
    if chance(0.3):
        options["no_repeat_ngram_size"] = int(rng.randint(1, 4))
    if chance(0.3):
        options["repetition_penalty"] = float(rng.choice([0.8, 1.2, 1.5, 2.0]))
    if chance(0.4):
        options["bad_words_ids"] = ((22,), ids(1), ids(2), ids(2), ids(3))
    if chance(0.2):
        options["suppress_tokens"] = ids(2)
    if chance(0.2):
        options["begin_suppress_tokens"] = ids(2)
    if chance(0.2):
        options["forced_bos_token_id"] = ids(1)[0]
    if chance(0.3):
        options[("min_length", "min_new_tokens")[rng.randint(2)]] = int(rng.randint(1, 9))
    options[("max_length", "max_new_tokens")[rng.randint(2)]] = int(rng.randint(8, 16))
    model = ({}, _UNTIED, _DEEP)[rng.randint(3)]
    defaults: dict[str, Any] = {"forced_eos_token_id": (0,) if chance(0.5) else None}
    if chance(0.2):
        defaults["eos_token_id"] = (0, 7)
    prefix = ids(int(rng.randint(1, 4))) if chance(0.3) else ()
    return SearchCase(2000 + seed, options, prefix, model, defaults)
