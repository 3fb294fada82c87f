"""The options of a search: each is written once, here.

An entry has the type and the default that a checkpoint's value has, what values there are (`kinds`), what the option
does in a line, and its names: transformers', and those that CTranslate2 and other engines have instead. Checks,
keywords, aliases, defaults of a checkpoint and of a model directory, the command line, `help()` and the page of the
documentation come from it; `tools/write_options.py` writes down what type checkers and readers need to see
(`pyengine/options/keywords.py` and the table of docs/api.md).
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

from pyengine.canonical.config import MAX_POSITIONS
from pyengine.canonical.kinds import Biases, Ids, Kind, Length, OneId, OneOf, Phrases, Real, Whole

__all__ = ["MAX_BEAMS", "NAMES", "OPTIONS", "Option", "SearchSettings", "options_of"]

MAX_BEAMS = 256

SEARCH, SAMPLING, LENGTHS, TOKENS = "search", "sampling", "lengths", "which tokens may occur"

MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class Option:
    """What an entry says. default: of transformers, MISSING where a checkpoint has to say it.

    at_most     another option, whose value bounds this one's
    instead_of  another option that sets the same limit in another way: only one of them may be given
    prompted    of calls that go on with a prompt alone: other tasks list it nowhere, and refuse it
    """

    name: str
    default: Any
    kind: Kind
    line: str
    group: str
    aliases: tuple[str, ...] = ()
    at_most: str | None = None
    instead_of: str | None = None
    prompted: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def _option(
    default: Any, kind: Kind, line: str, group: str, aliases: tuple[str, ...] = (), compare: bool = True, **more: Any
) -> Any:
    said = {"kind": kind, "line": line, "group": group, "aliases": aliases, **more}
    return field(default=default, compare=compare, metadata=said)


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """A value for each option. Meanings are those of transformers' `GenerationConfig`."""

    num_beams: int = _option(
        1, Whole(1, MAX_BEAMS), "beams of a sentence; 1 is greedy search", SEARCH, ("beam_size",)
    )
    num_return_sequences: int = _option(
        1, Whole(1, MAX_BEAMS), "hypotheses returned: samples, or at most as many as beams, best first", SEARCH,
        ("num_hypotheses",), at_most="num_beams",
    )  # fmt: skip
    length_penalty: float = _option(
        1.0, Real(-100.0, 100.0), "exponent of the length by which a score is divided", SEARCH
    )
    early_stopping: bool | Literal["never"] = _option(
        False, OneOf((True, False, "never")),
        "end when as many as beams have ended (true), no better one is likely (false), or possible (never)", SEARCH,
    )  # fmt: skip
    renormalize_logits: bool = _option(
        False, OneOf((True, False)), "beam search: what other options leave of a distribution sums to one again", SEARCH
    )
    do_sample: bool = _option(
        False, OneOf((True, False)), "draw tokens by their probability; so does any of the five below that is given",
        SAMPLING,
    )  # fmt: skip
    temperature: float = _option(
        1.0, Real(0.0, 1e6), "by which logits are divided; 0: the best token, always", SAMPLING,
        ("sampling_temperature",),
    )  # fmt: skip
    top_k: int = _option(50, Whole(0), "draw among so many best tokens; 0: off", SAMPLING, ("sampling_topk",))
    top_p: float = _option(
        1.0, Real(0.0, 1.0), "draw among the best tokens that have this probability together; 1: off", SAMPLING,
        ("sampling_topp",),
    )  # fmt: skip
    min_p: float = _option(
        0.0, Real(0.0, 1.0), "draw among tokens at least as probable as this share of the best one", SAMPLING
    )
    typical_p: float = _option(
        1.0, Real(1e-6, 1.0), "draw among the tokens nearest to the entropy that have this probability; 1: off",
        SAMPLING,
    )  # fmt: skip
    seed: int | None = _option(
        None, Whole(0, MAX_SEED), "the same seed, the same samples; none: others each time", SAMPLING, compare=False
    )
    logprobs: int = _option(
        0, Whole(0, 1000), "so many best tokens come with each that is written, without beams; 0: none", SEARCH
    )
    echo: bool = _option(
        False, OneOf((True, False)),
        "a language model's text begins with its prompt, which comes with its own log-probabilities if logprobs asks",
        SEARCH, compare=False, prompted=True,
    )  # fmt: skip
    max_length: int = _option(
        MISSING, Length(2, start=True), "tokens of a hypothesis at most, start token and prefix counted", LENGTHS
    )
    max_new_tokens: int | None = _option(
        None, Length(1), "tokens of a hypothesis at most, without start token and prefix", LENGTHS,
        ("max_decoding_length", "max_tokens"), instead_of="max_length",
    )  # fmt: skip
    min_length: int = _option(
        0, Length(0, start=True), "tokens of a hypothesis at least, start token and prefix counted", LENGTHS,
        at_most="max_length",
    )  # fmt: skip
    min_new_tokens: int | None = _option(
        None, Length(0), "tokens of a hypothesis at least, without start token and prefix", LENGTHS,
        ("min_decoding_length",), at_most="max_new_tokens", instead_of="min_length",
    )  # fmt: skip
    repetition_penalty: float = _option(
        1.0, Real(1e-6, 1e6), "above 1 makes tokens that occurred less likely; 1: off", TOKENS, ("repeat_penalty",)
    )
    presence_penalty: float = _option(
        0.0, Real(-100.0, 100.0), "taken off the logits of tokens that were written before", TOKENS
    )
    frequency_penalty: float = _option(
        0.0, Real(-100.0, 100.0), "taken off the logits of tokens each time that they were written before", TOKENS
    )
    no_repeat_ngram_size: int = _option(
        0, Whole(0, MAX_POSITIONS), "no sequence of so many tokens occurs twice; 0: off", TOKENS
    )
    logit_bias: tuple[tuple[int, float], ...] = _option((), Biases(), "what is added to the logits of tokens", TOKENS)
    bad_words_ids: tuple[tuple[int, ...], ...] = _option((), Phrases(), "sequences of tokens that never occur", TOKENS)
    suppress_tokens: tuple[int, ...] = _option((), Ids(), "tokens that never occur", TOKENS)
    begin_suppress_tokens: tuple[int, ...] = _option((), Ids(), "tokens that do not occur first", TOKENS)
    forced_bos_token_id: int | None = _option(None, OneId(), "the first token after the start token", TOKENS)
    forced_eos_token_id: tuple[int, ...] = _option((), Ids(), "the last token where the maximum length cuts", TOKENS)

    @property
    def most_sequences(self) -> int:
        """Hypotheses that there can be at most."""
        return MAX_BEAMS if self.do_sample else self.num_beams


def _entry(each: dataclasses.Field[Any]) -> Option:
    return Option(name=each.name, default=each.default, **each.metadata)


OPTIONS = {each.name: _entry(each) for each in dataclasses.fields(SearchSettings)}
"""Name -> option."""

NAMES = {name: option.name for option in OPTIONS.values() for name in option.names}
"""Name or alias -> name."""


def options_of(*, prompted: bool) -> list[Option]:
    """Those of calls that go on with a prompt, or of the others."""
    return [option for option in OPTIONS.values() if prompted or not option.prompted]
