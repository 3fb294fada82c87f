"""What `pyengine/canonical/search.py` says, for type checkers; written by tools/write_options.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

__all__ = ["GenerationKeywords", "GivenOptions"]


class GenerationKeywords(TypedDict, total=False):
    """The options that the tasks take as keywords, by all of their names."""

    num_beams: int | None
    beam_size: int | None
    num_return_sequences: int | None
    num_hypotheses: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    renormalize_logits: bool | None
    do_sample: bool | None
    temperature: float | None
    sampling_temperature: float | None
    top_k: int | None
    sampling_topk: int | None
    top_p: float | None
    sampling_topp: float | None
    min_p: float | None
    typical_p: float | None
    seed: int | None
    logprobs: int | None
    echo: bool | None
    max_length: int | None
    max_new_tokens: int | None
    max_decoding_length: int | None
    max_tokens: int | None
    min_length: int | None
    min_new_tokens: int | None
    min_decoding_length: int | None
    repetition_penalty: float | None
    repeat_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    no_repeat_ngram_size: int | None
    logit_bias: Mapping[int, float] | None
    bad_words_ids: Sequence[Sequence[int]] | None
    suppress_tokens: int | Sequence[int] | None
    begin_suppress_tokens: int | Sequence[int] | None
    forced_bos_token_id: int | tuple[()] | None
    forced_eos_token_id: int | Sequence[int] | None


@dataclass(frozen=True)
class GivenOptions:
    """The options by their names; None where the checkpoint decides."""

    num_beams: int | None = None
    num_return_sequences: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    renormalize_logits: bool | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    logprobs: int | None = None
    echo: bool | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    logit_bias: tuple[tuple[int, float], ...] | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    forced_bos_token_id: int | tuple[()] | None = None
    forced_eos_token_id: tuple[int, ...] | None = None
