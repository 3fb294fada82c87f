"""Searches that pyengine and transformers must agree on: every option alone, and random mixtures, in which the call
sets some options and the checkpoint others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

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
_DEEP = {"encoder": (3, 4, 40), "decoder": (1, 2, 36), "activation": "gelu"}

MODELS: dict[str, dict[str, Any]] = {"": {}, "untied": _UNTIED, "deep": _DEEP}


def _case(
    seed: int,
    prefix: tuple[int, ...] = (),
    config: str = "",
    generation: dict[str, Any] | None = None,
    **options: Any,
) -> SearchCase:
    return SearchCase(seed, options, prefix, MODELS[config], generation or {})


PLAIN: dict[str, SearchCase] = {
    "greedy": _case(1, num_beams=1),
    "greedy_untied": _case(2, config="untied", num_beams=1),
    "greedy_limits": _case(3, num_beams=1, min_new_tokens=6, max_new_tokens=9),
    "greedy_repetition": _case(4, num_beams=1, repetition_penalty=1.7),
    "greedy_ngrams": _case(5, num_beams=1, no_repeat_ngram_size=2),
    "greedy_bad_words": _case(6, num_beams=1, bad_words_ids=((22,), (3, 4), (9,), (5, 5, 5), (0,))),
    "greedy_forced": _case(7, num_beams=1, forced_bos_token_id=5, max_length=6),
    "greedy_prefix": _case(8, prefix=(4, 9, 2), num_beams=1),
    "greedy_length_penalty": _case(9, num_beams=1, length_penalty=0.3),
    "beam": _case(10, num_beams=4),
    "beam_all": _case(11, num_beams=4, num_return_sequences=4),
    "beam_untied": _case(12, config="untied", num_beams=3, num_return_sequences=3),
    "beam_deep": _case(13, config="deep", num_beams=2, num_return_sequences=2),
    "beam_early": _case(14, num_beams=4, num_return_sequences=4, early_stopping=True),
    "beam_never": _case(15, num_beams=4, num_return_sequences=4, early_stopping="never"),
    "beam_never_long": _case(16, num_beams=3, early_stopping="never", length_penalty=2.0),
    "beam_no_penalty": _case(17, num_beams=3, length_penalty=0.0, num_return_sequences=3),
    "beam_short": _case(18, num_beams=3, length_penalty=-1.0, num_return_sequences=3),
    "beam_max_length": _case(19, num_beams=4, max_length=7, num_return_sequences=4),
    "beam_unforced_end": _case(
        20, generation={"forced_eos_token_id": ()}, num_beams=4, max_length=6, num_return_sequences=4
    ),
    "beam_one_token": _case(
        21, generation={"forced_eos_token_id": ()}, num_beams=3, max_new_tokens=1, num_return_sequences=3
    ),
    "beam_min_length": _case(22, num_beams=4, min_length=8, num_return_sequences=2),
    "beam_min_new_tokens": _case(23, prefix=(1, 2), num_beams=4, min_new_tokens=8),
    "beam_repetition": _case(24, num_beams=4, repetition_penalty=1.4, num_return_sequences=2),
    "beam_repetition_below": _case(25, num_beams=3, repetition_penalty=0.6, num_return_sequences=3),
    "beam_unigrams": _case(26, num_beams=3, no_repeat_ngram_size=1),
    "beam_ngrams": _case(27, num_beams=4, no_repeat_ngram_size=2, num_return_sequences=4),
    "beam_bad_words": _case(28, num_beams=4, bad_words_ids=((22,), (7, 1), (3,), (2, 2, 2), (0,))),
    "beam_suppress": _case(29, num_beams=4, suppress_tokens=(1, 5, 9), begin_suppress_tokens=(0, 2)),
    "beam_forced_bos": _case(30, num_beams=4, forced_bos_token_id=8, num_return_sequences=4),
    "beam_forced_bos_begin": _case(31, num_beams=3, forced_bos_token_id=8, begin_suppress_tokens=(8, 3)),
    "beam_prefix": _case(32, prefix=(6, 3, 11), num_beams=4, num_return_sequences=4),
    "beam_prefix_forced_bos": _case(
        33, prefix=(6,), num_beams=3, forced_bos_token_id=5, begin_suppress_tokens=(2, 3)
    ),
    "beam_two_ends": _case(34, generation={"eos_token_id": (0, 5)}, num_beams=4, num_return_sequences=4),
    "beam_renormalized": _case(
        36, generation={"renormalize_logits": True}, num_beams=4, num_return_sequences=4
    ),
    "beam_renormalized_edits": _case(
        37,
        num_beams=4,
        num_return_sequences=4,
        renormalize_logits=True,
        repetition_penalty=1.4,
        no_repeat_ngram_size=2,
        bad_words_ids=((22,), (3, 4), (9,)),
        suppress_tokens=(1, 5),
        min_length=6,
    ),
    "beam_renormalized_forced": _case(
        38, num_beams=3, num_return_sequences=3, renormalize_logits=True, forced_bos_token_id=5, max_length=6
    ),
    "greedy_renormalized": _case(39, num_beams=1, renormalize_logits=True, repetition_penalty=1.3),
    "beam_defaults": _case(
        35, generation={"num_beams": 3, "length_penalty": 0.6, "no_repeat_ngram_size": 3, "min_length": 4}
    ),
    # Steps in which processors are there and edit nothing.
    "greedy_nothing_banned": _case(
        43, generation={"bad_words_ids": ()}, num_beams=1, no_repeat_ngram_size=3
    ),
    "greedy_bad_phrase": _case(44, num_beams=1, bad_words_ids=((10, 11),)),
    "beam_nothing_banned": _case(
        45,
        generation={"bad_words_ids": (), "forced_eos_token_id": ()},
        num_beams=4,
        no_repeat_ngram_size=2,
        num_return_sequences=4,
    ),
    "beam_default_bad_phrases": _case(
        46, generation={"bad_words_ids": ((3, 4, 5), (6, 7))}, num_beams=4, min_new_tokens=4
    ),
}


def mixture(seed: int) -> SearchCase:
    """A random model, and random options of the call and of the checkpoint."""
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
    model = list(MODELS.values())[rng.randint(3)]
    defaults: dict[str, Any] = {"forced_eos_token_id": (0,) if chance(0.5) else ()}
    if chance(0.2):
        defaults["eos_token_id"] = (0, 7)
    prefix = ids(int(rng.randint(1, 4))) if chance(0.3) else ()
    if chance(0.3):
        options["renormalize_logits"] = True
    if chance(0.5):
        phrases = ((), (ids(2),), (ids(3), ids(2)), (ids(1), ids(2)))
        defaults["bad_words_ids"] = phrases[rng.randint(len(phrases))]
    for name in [name for name in sorted(options) if chance(0.4)]:
        defaults[name] = options.pop(name)
    return SearchCase(2000 + seed, options, prefix, model, defaults)
