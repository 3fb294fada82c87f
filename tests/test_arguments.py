"""Keywords that a call does not have: what is said of them."""

from __future__ import annotations

import inspect
import re

import pytest

from pyengine import Generator, Translator, load
from pyengine.arguments import KEYWORDS
from pyengine.canonical.search import NAMES
from pyengine.errors import OptionError
from pyengine.foreign import FOREIGN
from pyengine.options import GenerationOptions

FOREIGN_NAMES = """
batch_size max_batch_size compute_type inter_threads intra_threads device device_index
max_queued_batches flash_attention tensor_parallel batch_type asynchronous
patience coverage_penalty disable_unk suppress_sequences end_token return_end_token prefix_bias_beta max_input_length
use_vmap return_scores return_attention return_alternatives replace_unknowns callback num_beam_groups diversity_penalty
penalty_alpha use_cache max_time stopping_criteria logits_processor streamer generation_config output_scores
return_dict_in_generate pad_token_id eos_token_id decoder_start_token_id decoder_input_ids forced_decoder_ids
force_words_ids constraints sequence_bias guidance_scale encoder_no_repeat_ngram_size encoder_repetition_penalty
attention_mask input_ids padding truncation return_tensors skip_special_tokens device_map torch_dtype load_in_8bit
quantization_config low_cpu_mem_usage attn_implementation trust_remote_code revision cache_dir src_lang tgt_lang
"""


@pytest.mark.parametrize("name", FOREIGN_NAMES.split())
def test_names_of_other_libraries_get_advice(name: str) -> None:
    """And no name of another meaning that looks like them: batch_size is not beam_size."""
    for call in (lambda: GenerationOptions(**{name: 1}), lambda: load("nowhere", **{name: 1})):
        with pytest.raises(OptionError, match=f"^{name}: no such option here; ") as caught:
            call()
        assert "did you mean" not in str(caught.value)


def test_advice_names_what_there_is() -> None:
    """What looks like an option or a call of ours in the advice is one; no foreign name is an option here."""
    ours = {*NAMES, *KEYWORDS} | {"load", "score", "logits", "stream", "translate_iter"} | {
        "GenerationOptions", "DeadlineError"
    }  # fmt: skip
    for advice in FOREIGN.values():
        assert set(re.findall(r"\b\w+_\w+\b|\b\w+(?==)", advice)) <= ours, advice
    assert not FOREIGN.keys() & ours


def test_keywords_are_those_of_the_calls() -> None:
    tasks = [each for task in (Translator, Generator) for each in inspect.getmembers(task, inspect.isfunction)]
    calls = [(name, function) for name, function in tasks if name[0] != "_"]
    taken: dict[str, set[str]] = {}
    for call, function in [*calls, ("pyengine.load", load)]:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in NAMES:
                taken.setdefault(parameter.name, set()).add(call)
    assert {name: set(re.split(", | and ", text)) for name, text in KEYWORDS.items()} == taken


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("threads", "threads: no such option here; it is one of pyengine.load"),
        ("overwrite", "overwrite: no such option here; it is one of translate_file"),
        ("max_lenght", "max_lenght: no such option; did you mean max_length?"),
        ("max_batch_token", "did you mean max_batch_tokens?"),
        ("verbose", "verbose: no such option$"),
        ("target_suffix", "target_suffix: no such option$"),
        ("max_decoding_steps", "max_decoding_steps: no such option$"),
    ],
)
def test_what_is_said_of_an_unknown_name(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        GenerationOptions(**{name: 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("beam_size", "beam_size: no such option here; it is one of translate, translate_iter, translate_file, gen"),
        ("num_beams", "num_beams: no such option here; it is one of translate"),
        ("thread", "thread: no such option; did you mean threads?"),
    ],
)
def test_what_load_says_of_an_unknown_name(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load("nowhere", **{name: 1})
