"""Options: what is refused, and what None becomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyengine.errors import OptionError
from pyengine.options import GenerationOptions
from tests.oracle.tiny import generation


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0; expected a whole number, 1..256"),
        ({"num_beams": 1.5}, "num_beams"),
        ({"num_beams": True}, "num_beams"),
        ({"num_beams": "4"}, "num_beams"),
        ({"max_length": 1}, "max_length is 1; expected a whole number, at least 2"),
        ({"max_decoding_length": 0}, "max_decoding_length is 0; expected a whole number, at least 1"),
        ({"min_length": -1}, "min_length"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; expected a number, -100..100"),
        ({"length_penalty": "x"}, "length_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; expected a number, 1e-06..1e"),
        ({"early_stopping": "often"}, "early_stopping is 'often'; expected True, False or \"never\""),
        ({"early_stopping": 1}, "early_stopping"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size"),
        ({"suppress_tokens": [-1]}, "suppress_tokens is -1"),
        ({"bad_words_ids": [[]]}, "bad_words_ids holds an empty sequence"),
        ({"bad_words_ids": [3, 4]}, "bad_words_ids holds 3; expected sequences of ids"),
        ({"bad_words_ids": np.array(3)}, "bad_words_ids holds 3; expected sequences of ids"),
        ({"forced_bos_token_id": "a"}, "forced_bos_token_id"),
        ({"beam_size": 2, "num_beams": 2}, "beam_size and num_beams are one option"),
        ({"num_beams": 2, "beam_size": 2}, "num_beams and beam_size are one option"),
        (
            {"beam_size": 2, "num_hypotheses": 3},
            "num_hypotheses is 3; expected at most beam_size, which is 2, or samples",
        ),
        (
            {"num_beams": 1, "num_return_sequences": 3},
            r"num_return_sequences is 3; expected 1, all that greedy search finds, unless num_beams is as many, or "
            r"samples \(do_sample, temperature\)",
        ),
        ({"num_beams": 2, "top_p": 0.9}, "num_beams is 2, but top_p asks for samples"),
        ({"num_beams": 2, "do_sample": True}, "num_beams is 2, but do_sample asks for samples"),
        ({"logit_bias": {-1: 2.0}}, "logit_bias is -1"),
        ({"logit_bias": {1: "x"}}, "logit_bias is 'x'"),
        ({"logit_bias": [1, 2]}, "logit_bias is \\[1, 2\\]; expected numbers by ids"),
        ({"max_length": 9, "max_new_tokens": 9}, "max_length and max_new_tokens set the same limit"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens"),
        ({"beamsize": 2}, "beamsize: no such option; did you mean beam_size?"),
        ({"forced_token_id": 2}, "did you mean forced_bos_token_id or forced_eos_token_id?"),
        ({"num_beams": np.bool_(True)}, "num_beams"),
        ({"num_beams": np.array([4])}, "num_beams"),
        ({"num_beams": 10**5000}, "num_beams.* is an integer of 16610 bits; expected a whole number, 1..256"),
        ({"length_penalty": True}, "length_penalty is True"),
        ({"length_penalty": np.bool_(True)}, "length_penalty is .*True.*; expected a number"),
        ({"early_stopping": np.array(["never", "x"])}, "early_stopping"),
        ({"early_stopping": "yes"}, "early_stopping"),
        ({"renormalize_logits": "no"}, "renormalize_logits is 'no'; expected True or False"),
        ({"renormalize_logits": 0}, "renormalize_logits is 0"),
        ({"forced_bos_token_id": [5]}, "forced_bos_token_id is \\[5\\]; expected a whole number"),
        ({"suppress_tokens": [True]}, "suppress_tokens is True"),
    ],
)
def test_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        GenerationOptions(**keywords)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"num_hypotheses": 3},
            "num_hypotheses is 3; expected at most num_beams, by the checkpoint 2, or samples",
        ),
        ({"max_length": 42}, "max_length is 42; expected at most 41: the model has 40 positions"),
        ({"max_new_tokens": 41}, "max_new_tokens is 41; expected at most 40"),
        ({"min_length": 100000}, "min_length is 100000; expected at most 41: the model has 40 positions"),
        ({"min_new_tokens": 41}, "min_new_tokens is 41; expected at most 40: the model has 40 positions"),
        ({"suppress_tokens": [23]}, "suppress_tokens holds 23; expected ids below 23"),
        ({"bad_words_ids": [[3, 99]]}, "bad_words_ids holds 99"),
        ({"forced_bos_token_id": 23}, "forced_bos_token_id holds 23"),
        ({"forced_eos_token_id": (0, 23)}, "forced_eos_token_id holds 23"),
        ({"suppress_tokens": (5, 0)}, r"forced_eos_token_id forces \[0\], which suppress_tokens suppresses"),
        ({"suppress_tokens": (5,), "forced_bos_token_id": 5}, r"forced_bos_token_id forces \[5\]"),
    ],
)
def test_refused_by_the_model(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        GenerationOptions(**keywords).resolve(generation(num_beams=2), 23, 40)


def test_none_leaves_it_to_the_checkpoint() -> None:
    defaults = generation(num_beams=3, length_penalty=0.7, early_stopping="never", num_return_sequences=2)
    settled = GenerationOptions(**{"beam_size": None, "num_beams": None}).resolve(
        defaults, 23, 40
    )
    assert (settled.num_beams, settled.num_return_sequences) == (3, 2)
    assert (settled.length_penalty, settled.early_stopping) == (0.7, "never")
    assert settled.start == 22 and settled.end == (0,)
    assert settled.bad_words_ids == ((22,),) and settled.forced_eos_token_id == (0,)


def test_fewer_beams_than_the_checkpoint_returns_hypotheses() -> None:
    settled = GenerationOptions(num_beams=1).resolve(generation(num_beams=4, num_return_sequences=4), 23, 40)
    assert settled.num_return_sequences == 1


def test_what_the_checkpoint_forces_can_be_switched_off() -> None:
    defaults = generation(forced_bos_token_id=3)
    off = GenerationOptions(forced_bos_token_id=(), forced_eos_token_id=(), bad_words_ids=())
    settled = off.resolve(defaults, 23, 40)
    assert settled.forced_bos_token_id is None
    assert settled.forced_eos_token_id == () and settled.bad_words_ids == ()
    assert GenerationOptions(forced_eos_token_id=4).forced_eos_token_id == (4,)


def test_limits_count_the_prompt_as_transformers_does() -> None:
    def limits(**options: int) -> tuple[int, int]:
        return GenerationOptions(**options).resolve(generation(), 23, 40).length_limits(3)

    assert limits() == (0, 20)
    assert limits(max_length=9, min_length=4) == (4, 9)
    assert limits(max_new_tokens=9, min_new_tokens=4) == (7, 12)


def test_a_default_length_beyond_the_positions_is_lowered() -> None:
    assert GenerationOptions().resolve(generation(max_length=500), 23, 40).max_length == 41
    settled = GenerationOptions().resolve(generation(max_new_tokens=500), 23, 40)
    assert settled.length_limits(1) == (0, 41) and settled.length_limits(7) == (0, 41)
    settled.check_lengths(7)


def test_default_lengths_without_the_prompt() -> None:
    """They win over those with the prompt, as in transformers; what the caller gives wins over both."""
    defaults = generation(max_length=9, max_new_tokens=12, min_length=8, min_new_tokens=2)

    def limits(**options: int) -> tuple[int, int]:
        return GenerationOptions(**options).resolve(defaults, 23, 40).length_limits(4)

    assert limits() == (6, 16)
    assert limits(max_length=11) == (6, 11)
    assert limits(max_new_tokens=3) == (6, 7)
    assert limits(min_length=5) == (5, 16)
    assert limits(min_new_tokens=1) == (5, 16)


@pytest.mark.parametrize(
    ("keywords", "prompt", "message"),
    [
        (
            {"min_new_tokens": 10, "max_length": 10},
            1,
            "min_new_tokens is 10, but max_length is 10; with the start token, hypotheses would have "
            "at least 11 and at most 10 tokens",
        ),
        ({"min_new_tokens": 7, "max_length": 10}, 4, "with start token and target_prefix"),
        ({"min_length": 10, "max_new_tokens": 8}, 1, "min_length is 10, but max_new_tokens is 8"),
        ({"min_length": 21}, 1, "min_length is 21, but max_length is 20"),
        ({"max_length": 2}, 1, "min_length is 3, but max_length is 2"),
        ({"max_new_tokens": 38}, 6, "max_new_tokens is 38; expected at most 35 with the target_prefix"),
        ({"min_new_tokens": 36}, 6, "min_new_tokens is 36; expected at most 35 with the target_prefix"),
    ],
)
def test_lengths_that_exclude_each_other(keywords: dict[str, Any], prompt: int, message: str) -> None:
    settled = GenerationOptions(**keywords).resolve(generation(min_length=3), 23, 40)
    with pytest.raises(OptionError, match=message):
        settled.check_lengths(prompt)


def test_lengths_of_the_checkpoint_that_exclude_each_other_are_its_own_affair() -> None:
    settled = GenerationOptions().resolve(generation(min_length=30, max_length=20), 23, 40)
    settled.check_lengths(1)
    assert settled.length_limits(1) == (30, 20)
    GenerationOptions(min_new_tokens=8, max_new_tokens=8).resolve(generation(), 23, 40).check_lengths(3)


def test_numbers_of_numpy_are_numbers() -> None:
    """As integers, and as arrays without axes; what comes out is Python's."""
    plain = GenerationOptions(
        num_beams=3,
        num_return_sequences=2,
        length_penalty=0.5,
        early_stopping=True,
        max_length=9,
        min_length=2,
        no_repeat_ngram_size=3,
        repetition_penalty=2.0,
        bad_words_ids=((1, 2), (3,)),
        suppress_tokens=(4,),
        begin_suppress_tokens=(5,),
        forced_bos_token_id=6,
        forced_eos_token_id=7,
        renormalize_logits=False,
    )
    values = {name: value for name, value in vars(plain).items() if name != "spelled" and value is not None}

    def converted(value: Any, as_number: Any) -> Any:
        if isinstance(value, tuple):
            return [converted(each, as_number) for each in value]
        return value if value == "never" else as_number(value)

    for as_number in (np.array, lambda value: np.array(value)[()]):
        given = GenerationOptions(**{name: converted(value, as_number) for name, value in values.items()})
        assert given == plain and repr(given) == repr(plain)
    assert GenerationOptions(length_penalty=np.float32(0.5), num_beams=np.uint8(3)).length_penalty == 0.5
    arrays = GenerationOptions(bad_words_ids=np.array([[1, 2]]), suppress_tokens=np.array([4, 5]))
    assert (arrays.bad_words_ids, arrays.suppress_tokens) == (((1, 2),), (4, 5))
    assert GenerationOptions(forced_bos_token_id=np.array([])).forced_bos_token_id == ()


def test_a_length_penalty_gives_finite_scores() -> None:
    """Of the call, and of the checkpoint."""
    for penalty in (-100, 100):
        GenerationOptions(length_penalty=penalty).resolve(generation(), 23, 512)
        for options, defaults in ((GenerationOptions(length_penalty=penalty), generation()), (
            GenerationOptions(),
            generation(length_penalty=penalty),
        )):
            with pytest.raises(OptionError, match=f"length_penalty is {penalty}; expected -93..93: the model has 1024"):
                options.resolve(defaults, 23, 1024)


@pytest.mark.parametrize(
    ("defaults", "keywords", "drawn"),
    [
        ({}, {}, False),
        ({}, {"temperature": 0.7}, True),
        ({}, {"top_p": 1.0, "num_return_sequences": 3}, True),
        ({}, {"top_k": 5, "do_sample": False}, False),
        ({}, {"seed": 7}, False),
        ({}, {"temperature": 0.0, "top_p": 0.5}, False),
        ({"do_sample": True}, {}, True),
        ({"do_sample": True}, {"num_beams": 1}, True),
        ({"do_sample": True}, {"num_beams": 4}, False),
        ({"do_sample": True, "temperature": 0.5}, {"temperature": 0}, False),
        ({"num_beams": 4}, {"do_sample": True, "num_return_sequences": 9}, True),
    ],
)
def test_who_asks_for_samples_gets_them(defaults: dict[str, Any], keywords: dict[str, Any], drawn: bool) -> None:
    settled = GenerationOptions(**keywords).resolve(generation(**defaults), 23, 40)
    assert settled.do_sample == drawn
    assert settled.num_beams == 1 or not drawn
    assert settled.num_return_sequences == keywords.get("num_return_sequences", 1)


def test_options_that_differ_in_the_seed_go_together() -> None:
    one, other = (GenerationOptions(top_k=3, seed=seed).resolve(generation(), 23, 40) for seed in (1, 2))
    assert one == other and hash(one) == hash(other) and (one.seed, other.seed) == (1, 2)
    assert GenerationOptions(seed=1) != GenerationOptions(seed=2)
