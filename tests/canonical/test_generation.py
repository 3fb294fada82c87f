"""GenerationDefaults: a strict JSON form that round-trips, and limits."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from pyengine.canonical import GenerationDefaults
from pyengine.canonical.search import OPTIONS
from pyengine.errors import ModelFileError

from ..oracle.tiny import model_config

CONFIG = model_config(source_vocab=21, target_vocab=21)
DEFAULTS = GenerationDefaults(
    decoder_start_token_id=20,
    eos_token_id=(0, 3),
    pad_token_id=None,
    max_length=32,
    num_beams=6,
    num_return_sequences=2,
    early_stopping="never",
    bad_words_ids=((20,), (1, 2)),
    suppress_tokens=(4,),
    begin_suppress_tokens=(0, 5),
    forced_bos_token_id=7,
    forced_eos_token_id=(0,),
)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_round_trips() -> None:
    assert GenerationDefaults.from_json(through_json(DEFAULTS.to_json()), "here", CONFIG) == DEFAULTS
    new = dataclasses.replace(DEFAULTS, max_new_tokens=9, min_new_tokens=0)
    assert GenerationDefaults.from_json(through_json(new.to_json()), "here", CONFIG) == new


def test_lengths_without_the_prompt_may_be_absent() -> None:
    assert not {"max_new_tokens", "min_new_tokens"} & set(DEFAULTS.to_json())


def test_what_is_absent_or_null_has_the_default_of_transformers() -> None:
    """So a directory that was written before there was an option still has a meaning."""
    said = {"decoder_start_token_id": 20, "eos_token_id": [0], "max_length": 9}
    plain = GenerationDefaults(decoder_start_token_id=20, eos_token_id=(0,), pad_token_id=None, max_length=9)
    assert GenerationDefaults.from_json(said, "here", CONFIG) == plain
    assert GenerationDefaults.from_json({**dict.fromkeys(OPTIONS), **said}, "here", CONFIG) == plain


@pytest.mark.parametrize("value", [1, None])
def test_unknown_fields(value: object) -> None:
    with pytest.raises(ModelFileError, match="here: unknown fields: 'top_z'"):
        GenerationDefaults.from_json({**DEFAULTS.to_json(), "top_z": value}, "here", CONFIG)


def test_a_model_that_writes_nothing_has_no_search() -> None:
    encoder = dataclasses.replace(CONFIG, decoder=None, target_vocab=None, share_embeddings=False, tie_output=False)
    with pytest.raises(ModelFileError, match="here: a model without a decoder"):
        GenerationDefaults.from_json(DEFAULTS.to_json(), "here", encoder)


def test_a_decoder_alone_needs_no_ids() -> None:
    layers = tuple(dataclasses.replace(layer, cross_attention=None) for layer in CONFIG.decoder.layers)
    decoder = dataclasses.replace(CONFIG.decoder, layers=layers)
    alone = dataclasses.replace(CONFIG, encoder=None, decoder=decoder, source_vocab=None, share_embeddings=False)
    said = {"max_length": 9}
    found = GenerationDefaults.from_json(said, "here", alone)
    assert (found.decoder_start_token_id, found.eos_token_id, found.bos_token_id) == (None, (), None)
    assert GenerationDefaults.from_json(through_json(found.to_json()), "here", alone) == found
    some = dataclasses.replace(found, eos_token_id=(2, 3), bos_token_id=1)
    assert GenerationDefaults.from_json(through_json(some.to_json()), "here", alone) == some
    with pytest.raises(ModelFileError, match="^here: bos_token_id"):
        GenerationDefaults.from_json({**said, "bos_token_id": 21}, "here", alone)


@pytest.mark.parametrize(
    ("name", "value"),
    (
        ("do_sample", True),
        ("logit_bias", [[21, 1.0]]),
        ("logit_bias", [[1]]),
        ("temperature", -1.0),
        ("decoder_start_token_id", 21),
        ("decoder_start_token_id", None),
        ("eos_token_id", []),
        ("eos_token_id", 0),
        ("eos_token_id", [21]),
        ("pad_token_id", -1),
        ("max_length", 1),
        ("max_length", None),
        ("min_length", -1),
        ("max_new_tokens", 0),
        ("min_new_tokens", -1),
        ("min_new_tokens", True),
        ("num_beams", 0),
        ("num_beams", 1 << 20),
        ("num_return_sequences", 7),
        ("length_penalty", float("inf")),
        ("early_stopping", "always"),
        ("early_stopping", 0),
        ("no_repeat_ngram_size", -1),
        ("repetition_penalty", 0.0),
        ("bad_words_ids", [[]]),
        ("bad_words_ids", [[21]]),
        ("bad_words_ids", [3]),
        ("suppress_tokens", [21]),
        ("begin_suppress_tokens", [True]),
        ("forced_bos_token_id", 21),
        ("forced_eos_token_id", 0),
        ("forced_eos_token_id", [-1]),
        ("renormalize_logits", 1),
    ),
)
def test_a_wrong_default_is_named(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError, match=f"^here: {'num_beams' if name == 'do_sample' else name}"):
        GenerationDefaults.from_json({**through_json(DEFAULTS.to_json()), name: value}, "here", CONFIG)
