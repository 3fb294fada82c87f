"""Defaults of the search: generation_config.json or an old config.json; what the engine lacks is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyengine.canonical import GenerationDefaults
from pyengine.errors import CheckpointError, ModelFileError, UnsupportedError
from pyengine.importers import open_checkpoint
from pyengine.importers.generation import read_generation

from ..checkpoints import handmade
from ..oracle.random_config import random_config

DECODER = random_config(0)
POSITIONS = DECODER.target_side()[0].max_positions
IDS = {"decoder_start_token_id": 20, "eos_token_id": 0, "pad_token_id": 20}


def new(directory: Path, *, config: dict[str, Any] | None = None, **generation: Any) -> GenerationDefaults:
    """From a generation_config.json."""
    files = {"generation_config": generation}
    return open_checkpoint(
        handmade.write_checkpoint(directory, handmade.marian_config(**(config or {})), **files)
    ).generation


def old(directory: Path, **changes: Any) -> GenerationDefaults:
    """From config.json alone."""
    return open_checkpoint(handmade.write_checkpoint(directory, handmade.marian_config(**changes))).generation


def test_the_defaults_of_transformers(tmp_path: Path) -> None:
    assert new(tmp_path, **IDS, max_length=20) == GenerationDefaults(
        decoder_start_token_id=20, eos_token_id=(0,), pad_token_id=20, max_length=20
    )


def test_every_key(tmp_path: Path) -> None:
    found = new(
        tmp_path,
        **{**IDS, "eos_token_id": [0, 1]},
        max_length=17,
        min_length=3,
        num_beams=6,
        num_return_sequences=2,
        length_penalty=2,
        early_stopping="never",
        no_repeat_ngram_size=3,
        repetition_penalty=1.5,
        bad_words_ids=[[20], [1, 2]],
        suppress_tokens=[4],
        begin_suppress_tokens=[0],
        forced_bos_token_id=7,
        forced_eos_token_id=0,
        renormalize_logits=True,
    )
    assert found == GenerationDefaults(
        decoder_start_token_id=20,
        eos_token_id=(0, 1),
        pad_token_id=20,
        max_length=17,
        min_length=3,
        num_beams=6,
        num_return_sequences=2,
        length_penalty=2.0,
        early_stopping="never",
        no_repeat_ngram_size=3,
        repetition_penalty=1.5,
        bad_words_ids=((20,), (1, 2)),
        suppress_tokens=(4,),
        begin_suppress_tokens=(0,),
        forced_bos_token_id=7,
        forced_eos_token_id=(0,),
        renormalize_logits=True,
    )


def test_a_list_of_one_id_is_that_id(tmp_path: Path) -> None:
    names = ("decoder_start_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id", "eos_token_id")
    plain, listed = ({**IDS, "forced_bos_token_id": 7, "forced_eos_token_id": 0} for _ in range(2))
    listed.update({name: [listed[name]] for name in names})
    assert new(tmp_path, **listed) == new(tmp_path, **plain) == old(tmp_path / "old", **listed, max_length=None)
    # From config.json, too, where generation_config.json has none.
    assert new(tmp_path, config={**plain, "decoder_start_token_id": [20]}).decoder_start_token_id == 20


def test_a_link_to_nothing_is_no_absence(tmp_path: Path) -> None:
    """config.json would give other defaults."""
    directory = handmade.write_checkpoint(tmp_path, handmade.marian_config(num_beams=4))
    (directory / "generation_config.json").symlink_to("../blobs/0f")
    with pytest.raises(CheckpointError, match="generation_config.json: a link to '../blobs/0f', which is not there"):
        open_checkpoint(directory)


def test_an_old_config_gives_the_defaults(tmp_path: Path) -> None:
    found = old(tmp_path, num_beams=4, bad_words_ids=[[20]], forced_eos_token_id=0, max_length=31)
    assert (found.num_beams, found.bad_words_ids, found.forced_eos_token_id) == (4, ((20,),), (0,))
    assert found.max_length == 31


def test_generation_config_alone_counts(tmp_path: Path) -> None:
    """As in transformers, except that ids which are missing come from config.json."""
    found = new(
        tmp_path, config={"num_beams": 4, "do_sample": True, "max_length": 9}, max_length=11, eos_token_id=3
    )
    assert (found.num_beams, found.max_length, found.eos_token_id) == (1, 11, (3,))
    assert (found.decoder_start_token_id, found.pad_token_id) == (20, 20)


@pytest.mark.parametrize(
    ("given", "expected"),
    (
        ({}, 32),
        ({"max_length": 512}, 33),
        ({"max_length": 33}, 33),
        ({"max_length": 32}, 32),
        ({"max_new_tokens": 5}, 32),
        ({"max_new_tokens": 5, "max_length": 30}, 30),
    ),
)
def test_the_longest_output(tmp_path: Path, given: dict[str, int], expected: int) -> None:
    assert new(tmp_path, **IDS, **given).max_length == expected


def test_lengths_without_the_prompt(tmp_path: Path) -> None:
    found = new(tmp_path, **IDS, max_new_tokens=5, min_new_tokens=3, max_length=30, min_length=2)
    assert (found.max_new_tokens, found.min_new_tokens) == (5, 3)
    assert (found.max_length, found.min_length) == (30, 2)
    found = new(tmp_path, **IDS, max_new_tokens=500, min_new_tokens=500)
    assert (found.max_new_tokens, found.min_new_tokens) == (32, 32)  # a prefix of none fills the positions
    found = new(tmp_path, **IDS)
    assert (found.max_new_tokens, found.min_new_tokens, found.min_length) == (None, None, 0)


def test_null_is_the_default(tmp_path: Path) -> None:
    keys = dict.fromkeys(
        ("num_beams", "max_length", "bad_words_ids", "constraints", "unheard_of", "do_sample")
    )
    assert new(tmp_path, **IDS, **keys) == new(tmp_path, **IDS)


LACKING = (
    ("num_beam_groups", 2, 1),
    ("top_h", 0.5, None),
    ("epsilon_cutoff", 0.1, 0.0),
    ("penalty_alpha", 0.6, 0.0),
    ("constraints", [{}], []),
    ("force_words_ids", [[1]], []),
    ("encoder_no_repeat_ngram_size", 3, 0),
    ("encoder_repetition_penalty", 1.2, 1.0),
    ("sequence_bias", [[[1], 2.0]], {}),
    ("diversity_penalty", 0.5, 0.0),
    ("exponential_decay_length_penalty", [5, 1.1], None),
    ("guidance_scale", 3.0, 1),
    ("stop_strings", ["x"], []),
    ("max_time", 3.0, None),
    ("forced_decoder_ids", [[1, 2]], []),
    ("force_bos_token_to_be_generated", True, False),
    ("watermarking_config", {"bias": 2}, None),
    ("token_healing", True, False),
    ("prompt_lookup_num_tokens", 3, None),
    ("dola_layers", "high", None),
)


@pytest.mark.parametrize(("key", "value", "neutral"), LACKING)
def test_what_the_engine_lacks_is_named(tmp_path: Path, key: str, value: Any, neutral: Any) -> None:
    for read in (new, old):
        with pytest.raises(UnsupportedError, match=f"{key} = .*the engine does not have this"):
            read(tmp_path / read.__name__, **IDS, **{key: value})
        read(tmp_path / read.__name__, **IDS, **{key: neutral})


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    message = "generation_config.json: new_trick = 3, other = {}: unknown .* allow_unknown_keys new_trick,other$"
    with pytest.raises(UnsupportedError, match=message):
        new(tmp_path, **IDS, new_trick=3, other={})
    new(
        tmp_path,
        **IDS,
        _from_model_config=True,
        transformers_version="5",
        use_cache=True,
        top_k=50,
        temperature=0.9,
    )


def test_unknown_keys_that_are_named_are_passed_over(tmp_path: Path) -> None:
    files = {"generation_config": {**IDS, "new_trick": 3, "other": {}}}
    directory = handmade.write_checkpoint(tmp_path, handmade.marian_config(a_new_key=[1]), **files)
    for some, left in ((("new_trick", "other"), "a_new_key"), (("a_new_key", "other"), "new_trick")):
        with pytest.raises(UnsupportedError, match=f"{left} = .*allow_unknown_keys {left}$"):
            open_checkpoint(directory, allow_unknown_keys=some)
    model = open_checkpoint(directory, allow_unknown_keys=("new_trick", "a_new_key", "other", "not_there"))
    assert model.generation == GenerationDefaults(
        decoder_start_token_id=20, eos_token_id=(0,), pad_token_id=20, max_length=32
    )
    assert [note.rpartition("/")[2] for note in model.notes[:3]] == [
        "config.json: a_new_key = [1]: unknown, and passed over",
        "generation_config.json: new_trick = 3: unknown, and passed over",
        "generation_config.json: other = {}: unknown, and passed over",
    ]
    # What is known and lacking cannot be passed over.
    handmade.write_checkpoint(tmp_path, generation_config={**IDS, "num_beam_groups": 2})
    with pytest.raises(UnsupportedError, match="num_beam_groups = 2: the engine does not have this"):
        open_checkpoint(directory, allow_unknown_keys=("num_beam_groups",))


@pytest.mark.parametrize(
    ("given", "name"),
    (
        ({"decoder_start_token_id": 21}, "decoder_start_token_id"),
        ({"decoder_start_token_id": [20, 20]}, "decoder_start_token_id"),
        ({"decoder_start_token_id": []}, "decoder_start_token_id"),
        ({"decoder_start_token_id": [[20]]}, "decoder_start_token_id"),
        ({"forced_bos_token_id": [7, 8]}, "forced_bos_token_id"),
        ({"pad_token_id": [21]}, "pad_token_id"),
        ({"eos_token_id": 21}, "eos_token_id"),
        ({"eos_token_id": []}, "eos_token_id"),
        ({"eos_token_id": "0"}, "eos_token_id"),
        ({"bad_words_ids": [[58100]]}, "bad_words_ids"),
        ({"bad_words_ids": [58100]}, "bad_words_ids"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": 2.0}, "num_beams"),
        ({"max_length": -3}, "max_length"),
        ({"max_length": "long"}, "max_length"),
        ({"min_new_tokens": True}, "min_new_tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"early_stopping": "sometimes"}, "early_stopping"),
        ({"length_penalty": "x"}, "length_penalty"),
        ({"forced_eos_token_id": [99]}, "forced_eos_token_id"),
    ),
)
def test_wrong_values_are_named(tmp_path: Path, given: dict[str, Any], name: str) -> None:
    with pytest.raises(CheckpointError, match=f"generation_config.json: {name}"):
        new(tmp_path, **{**IDS, **given})


@pytest.mark.parametrize("key", ("decoder_start_token_id", "eos_token_id"))
def test_ids_that_are_nowhere(tmp_path: Path, key: str) -> None:
    with pytest.raises(CheckpointError, match=f"config.json: {key}"):
        old(tmp_path, **{key: None})


@pytest.mark.parametrize(
    ("said", "lengths"),
    [
        ({}, (POSITIONS, min(256, POSITIONS))),  # else it would go on to the end of the context
        ({"max_length": 30}, (30, None)),
        ({"max_new_tokens": 9}, (POSITIONS, 9)),
    ],
)
def test_lengths_of_a_decoder_alone(tmp_path: Path, said: dict[str, int], lengths: tuple[int, int | None]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    found, _ = read_generation(tmp_path, tmp_path, {}, DECODER, ())
    assert (found.max_length, found.max_new_tokens) == lengths


def test_prefixes_of_tasks_are_offered(tmp_path: Path) -> None:
    """Whatever else their entries say: they change nothing."""
    tasks = {
        "summarization": {"prefix": "summarize: ", "num_beams": 7},
        "translation": {"prefix": 3},
        "long": {"prefix": "x" * 1001},
        "empty": {"prefix": ""},
        "none": None,
    }
    found = new(tmp_path / "new", config={"task_specific_params": tasks}, **IDS, max_length=20)
    assert found.prefixes == {"summarization": "summarize: "} and found.num_beams == 1
    again = GenerationDefaults.from_json(found.to_json(), "here", open_checkpoint(tmp_path / "new").config)
    assert again == found
    assert "prefixes" not in new(tmp_path / "plain", **IDS, max_length=20).to_json()
    with pytest.raises(ModelFileError, match="prefixes: a: expected a string"):
        GenerationDefaults.from_json({**found.to_json(), "prefixes": {"a": 1}}, "here", DECODER)
