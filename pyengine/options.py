"""What a caller may ask of a translation, and what a search is finally told.

`TranslationOptions` is the caller's side: validated when constructed, None where the checkpoint decides.
`SearchOptions` is the search's side: every value settled, checked against the model's vocabulary and
positions. Names and meanings are those of transformers' `GenerationConfig`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from pyengine.arguments import KEYWORDS, flag, real, unknown_option, whole
from pyengine.canonical.generation import MAX_BEAMS
from pyengine.errors import OptionError
from pyengine.formats.strict_json import shorten

if TYPE_CHECKING:
    from pyengine.canonical import GenerationDefaults

__all__ = ["ALIASES", "SearchOptions", "TranslationKeywords", "TranslationOptions"]

ALIASES = {
    "beam_size": "num_beams",
    "num_hypotheses": "num_return_sequences",
    "max_decoding_length": "max_new_tokens",
    "min_decoding_length": "min_new_tokens",
}
"""CTranslate2's name of an option -> its name here, where the two differ."""


LARGEST_POWER = 280
"""Decimal digits of length**length_penalty at most: a score is a sum of log-probabilities over it, in a float64."""

LENGTHS = ("max_length", "max_new_tokens", "min_length", "min_new_tokens")


class TranslationKeywords(TypedDict, total=False):
    """The keywords that the tasks take for `TranslationOptions`, aliases included."""

    num_beams: int | None
    beam_size: int | None
    num_return_sequences: int | None
    num_hypotheses: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    max_length: int | None
    max_new_tokens: int | None
    max_decoding_length: int | None
    min_length: int | None
    min_new_tokens: int | None
    min_decoding_length: int | None
    no_repeat_ngram_size: int | None
    repetition_penalty: float | None
    bad_words_ids: tuple[tuple[int, ...], ...] | list[list[int]] | None
    suppress_tokens: tuple[int, ...] | list[int] | None
    begin_suppress_tokens: tuple[int, ...] | list[int] | None
    forced_bos_token_id: int | tuple[()] | None
    forced_eos_token_id: int | tuple[int, ...] | None
    renormalize_logits: bool | None


@dataclass(frozen=True)
class TranslationOptions:
    """How to search; None leaves an option to the checkpoint. OptionError on anything out of range.

    num_beams              beams a sentence, 1..256; 1 is greedy search
    num_return_sequences   hypotheses returned, 1..num_beams
    length_penalty         exponent p of score = sum of log-probabilities / length**p, -100..100 up to 630 positions
    early_stopping         True: stop when num_beams hypotheses ended; False: when none is likely to get
                           better; "never": when none can get better
    max_length             tokens of a hypothesis at most, start token and prefix counted, >= 2
    max_new_tokens         the same without start token and prefix, >= 1; not together with max_length
    min_length             no end token before this many tokens, start token and prefix counted
    min_new_tokens         the same without start token and prefix; not together with min_length
    no_repeat_ngram_size   no n-gram of this size occurs twice; 0: off
    repetition_penalty     1e-6..1e6; above 1 makes tokens that occurred less likely
    bad_words_ids          sequences of ids that never occur
    suppress_tokens        ids that never occur
    begin_suppress_tokens  ids that do not occur first
    forced_bos_token_id    the first id after the start token; (): none
    forced_eos_token_id    the last id where max_length cuts; (): none
    renormalize_logits     beam search: log-probabilities of the ids that the options above leave
    """

    num_beams: int | None = None
    num_return_sequences: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    forced_bos_token_id: int | tuple[()] | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    renormalize_logits: bool | None = None

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> TranslationOptions:
        """Names or aliases; an unknown name, or an option and its alias at once, is an OptionError."""
        known = [field.name for field in dataclasses.fields(cls)]
        settled: dict[str, Any] = {}
        spelled: dict[str, str] = {}
        for given, value in keywords.items():
            name = ALIASES.get(given, given)
            if name not in known:
                raise unknown_option(given, [*known, *ALIASES, *KEYWORDS], KEYWORDS)
            if value is None:
                continue
            if name in spelled:
                raise OptionError(f"{spelled[name]} and {given} are one option: give one of them")
            spelled[name] = given
            settled[name] = value
        return cls(**settled)

    def __post_init__(self) -> None:
        self._whole("num_beams", 1, MAX_BEAMS)
        self._whole("num_return_sequences", 1, MAX_BEAMS)
        self._whole("max_length", 2)
        self._whole("max_new_tokens", 1)
        self._whole("min_length", 0)
        self._whole("min_new_tokens", 0)
        self._whole("no_repeat_ngram_size", 0)
        self._real("length_penalty", -100.0, 100.0)
        self._real("repetition_penalty", 1e-6, 1e6)
        if not (isinstance(self.early_stopping, str) and self.early_stopping == "never"):
            self._flag("early_stopping", 'True, False or "never"')
        self._flag("renormalize_logits")
        self._ids("suppress_tokens")
        self._ids("begin_suppress_tokens")
        self._words("bad_words_ids")
        if _as_tuple(self.forced_bos_token_id) == ():
            object.__setattr__(self, "forced_bos_token_id", ())
        else:
            self._whole("forced_bos_token_id", 0)
        if self.forced_eos_token_id is not None:
            object.__setattr__(self, "forced_eos_token_id", _as_tuple(self.forced_eos_token_id))
            self._ids("forced_eos_token_id")
        self._check_pairs()

    def _check_pairs(self) -> None:
        for pair in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            if all(getattr(self, name) is not None for name in pair):
                raise OptionError(f"{pair[0]} and {pair[1]} set the same limit: give one of them")
        for low, high in (
            ("num_return_sequences", "num_beams"),
            ("min_length", "max_length"),
            ("min_new_tokens", "max_new_tokens"),
        ):
            a, b = getattr(self, low), getattr(self, high)
            if a is not None and b is not None and a > b:
                raise OptionError(
                    f"{_both_names(low)} is {a}; expected at most {_both_names(high)}, which is {b}"
                )

    def _whole(self, name: str, low: int, high: int | None = None) -> None:
        value = getattr(self, name)
        if value is not None:
            object.__setattr__(self, name, whole(_both_names(name), value, low, high))

    def _real(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is None:
            return
        number = real(value)
        if number is None or not low <= number <= high:
            raise OptionError(f"{name} is {shorten(value)}; expected a number, {low:g}..{high:g}")
        object.__setattr__(self, name, number)

    def _flag(self, name: str, expected: str = "True or False") -> None:
        value = getattr(self, name)
        if value is not None:
            object.__setattr__(self, name, flag(name, value, expected))

    def _ids(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None:
            object.__setattr__(self, name, _id_tuple(name, value))

    def _words(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        words = tuple(_id_tuple(name, word) for word in _as_tuple(value))
        if not all(words):
            raise OptionError(f"{name} holds an empty sequence")
        object.__setattr__(self, name, words)

    def resolve(self, defaults: GenerationDefaults, target_vocab: int, max_positions: int) -> SearchOptions:
        """Fill in the checkpoint's defaults and check what depends on the model. Raises OptionError."""

        def given(name: str) -> Any:
            value = getattr(self, name)
            return getattr(defaults, name) if value is None else value

        beams = given("num_beams")
        returned = self.num_return_sequences
        if returned is None:
            returned = min(defaults.num_return_sequences, beams)
        elif returned > beams:
            raise OptionError(
                f"num_hypotheses is {returned}; expected at most beam_size, by the checkpoint {beams}"
            )
        for name, most in (
            ("max_length", max_positions + 1),
            ("min_length", max_positions + 1),
            ("max_new_tokens", max_positions),
            ("min_new_tokens", max_positions),
        ):
            limit = getattr(self, name)
            if limit is not None and limit > most:
                raise OptionError(
                    f"{name} is {limit}; expected at most {most}: the model has {max_positions} positions"
                )
        forced_bos = given("forced_bos_token_id")
        options = SearchOptions(
            start=defaults.decoder_start_token_id,
            end=tuple(defaults.eos_token_id),
            num_beams=beams,
            num_return_sequences=returned,
            length_penalty=given("length_penalty"),
            early_stopping=given("early_stopping"),
            max_length=min(given("max_length"), max_positions + 1),
            # A default of new tokens wins over one of all tokens, but not over what the caller gives.
            max_new_tokens=given("max_new_tokens") if self.max_length is None else None,
            min_length=given("min_length"),
            min_new_tokens=given("min_new_tokens") if self.min_length is None else None,
            max_positions=max_positions,
            given_lengths=frozenset(name for name in LENGTHS if getattr(self, name) is not None),
            no_repeat_ngram_size=given("no_repeat_ngram_size"),
            repetition_penalty=given("repetition_penalty"),
            bad_words_ids=given("bad_words_ids"),
            suppress_tokens=given("suppress_tokens"),
            begin_suppress_tokens=given("begin_suppress_tokens"),
            forced_bos_token_id=None if forced_bos == () else forced_bos,
            forced_eos_token_id=given("forced_eos_token_id") or (),
            renormalize_logits=given("renormalize_logits"),
        )
        options.check(target_vocab)
        return options


@dataclass(frozen=True)
class SearchOptions:
    """`TranslationOptions` with every value settled. `end` holds the end tokens, `start` the start token.

    Limits of new tokens win over those of all tokens; `given_lengths` names those that the caller gave.
    """

    start: int
    end: tuple[int, ...]
    num_beams: int
    num_return_sequences: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    max_length: int
    max_new_tokens: int | None
    min_length: int
    min_new_tokens: int | None
    max_positions: int
    given_lengths: frozenset[str]
    no_repeat_ngram_size: int
    repetition_penalty: float
    bad_words_ids: tuple[tuple[int, ...], ...]
    suppress_tokens: tuple[int, ...]
    begin_suppress_tokens: tuple[int, ...]
    forced_bos_token_id: int | None
    forced_eos_token_id: tuple[int, ...]
    renormalize_logits: bool

    @property
    def always(self) -> frozenset[int]:
        """Ids that every hypothesis may need, whatever its sentence: end tokens and forced ones."""
        first = () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
        return frozenset((*self.end, *first, *self.forced_eos_token_id))

    def length_limits(self, prompt: int) -> tuple[int, int]:
        """(min, max) tokens of a hypothesis whose first `prompt` tokens, start token counted, are given."""
        low = self.min_length if self.min_new_tokens is None else self.min_new_tokens + prompt
        high = self.max_length if self.max_new_tokens is None else self.max_new_tokens + prompt
        # The last token is never read, so there can be one more than there are positions.
        return low, min(high, self.max_positions + 1)

    def check_lengths(self, prompt: int) -> None:
        """OptionError if the caller gave lengths that no hypothesis after `prompt` tokens can have.

        Lengths of the checkpoint that exclude each other mean what they mean in transformers: the maximum
        cuts.
        """
        most = max(self.max_positions + 1 - prompt, 0)
        for name in ("max_new_tokens", "min_new_tokens"):
            if name in self.given_lengths and getattr(self, name) > most:
                raise OptionError(
                    f"{name} is {getattr(self, name)}; expected at most {most} with the target_prefix of "
                    f"{prompt - 1} tokens: the model has {self.max_positions} positions"
                )
        least, limit = self.length_limits(prompt)
        low = "min_length" if self.min_new_tokens is None else "min_new_tokens"
        high = "max_length" if self.max_new_tokens is None else "max_new_tokens"
        if least > limit and self.given_lengths & {low, high}:
            counted = "the start token" if prompt == 1 else "start token and target_prefix"
            raise OptionError(
                f"{low} is {getattr(self, low)}, but {high} is {getattr(self, high)}; with {counted}, "
                f"hypotheses would have at least {least} and at most {limit} tokens",
                keywords=tuple(self.given_lengths & {low, high}),
            )

    def check(self, target_vocab: int) -> None:
        """OptionError unless every id lies in [0, target_vocab), what is forced may be taken, and scores are finite."""
        steepest = math.floor(LARGEST_POWER / math.log10(max(self.max_positions, 2)))
        if abs(self.length_penalty) > steepest:
            raise OptionError(
                f"length_penalty is {self.length_penalty:g}; expected -{steepest}..{steepest}: the model has "
                f"{self.max_positions} positions, and scores of so many tokens would be no finite numbers"
            )
        words = [id for word in self.bad_words_ids for id in word]
        bos = () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
        for name, ids in (
            ("bad_words_ids", words),
            ("suppress_tokens", self.suppress_tokens),
            ("begin_suppress_tokens", self.begin_suppress_tokens),
            ("forced_bos_token_id", bos),
            ("forced_eos_token_id", self.forced_eos_token_id),
        ):
            for id in ids:
                if id >= target_vocab:
                    raise OptionError(
                        f"{name} holds {id}; expected ids below {target_vocab}, the target vocabulary"
                    )
            if name.startswith("forced") and ids and set(ids) <= set(self.suppress_tokens):
                raise OptionError(f"{name} forces {sorted(ids)}, which suppress_tokens suppresses")


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)):
        return (value,)
    try:
        return tuple(value)
    except TypeError:
        return (value,)


def _id_tuple(name: str, value: Any) -> tuple[int, ...]:
    return tuple(whole(name, id, 0) for id in _as_tuple(value))


def _both_names(name: str) -> str:
    """The option's name, and its alias where it has one."""
    alias = next((alias for alias, target in ALIASES.items() if target == name), None)
    return f"{alias} ({name})" if alias else name
