"""The search's side: every option has a value, checked against the model's vocabulary and positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyengine.canonical.search import OPTIONS, SearchSettings
from pyengine.errors import OptionError

__all__ = ["SearchOptions"]

_LENGTHS = ("max_length", "max_new_tokens", "min_length", "min_new_tokens")

LARGEST_POWER = 280
"""Decimal digits of length**length_penalty at most: a score is a sum of log-probabilities over it, in a float64."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SearchSettings):
    """`GenerationOptions` with every value settled. `end` holds the end tokens, `start` a start token or None.

    Limits of new tokens win over those of all tokens. spelled: what the caller gave -> by which of its names. Options
    that differ in nothing but `spelled` and the seed are equal: their requests are searched together.
    """

    start: int | None
    end: tuple[int, ...]
    max_positions: int
    spelled: Mapping[str, str] = field(compare=False)

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
        if self.spelled.keys().isdisjoint(_LENGTHS):
            return
        most = max(self.max_positions + 1 - prompt, 0)
        for name in self.spelled.keys() & {"max_new_tokens", "min_new_tokens"}:
            if getattr(self, name) > most:
                raise OptionError(
                    f"{self.spelled[name]} is {getattr(self, name)}; expected at most {most} with the target_prefix "
                    f"of {prompt - 1} tokens: the model has {self.max_positions} positions",
                    keywords=("target_prefix",),
                )
        least, limit = self.length_limits(prompt)
        low = "min_length" if self.min_new_tokens is None else "min_new_tokens"
        high = "max_length" if self.max_new_tokens is None else "max_new_tokens"
        if least > limit and self.spelled.keys() & {low, high}:
            counted = "the start token" if prompt == 1 else "start token and target_prefix"
            words = [self._called(name) for name in (low, high)]
            raise OptionError(
                f"{words[0]} is {getattr(self, low)}, but {words[1]} is {getattr(self, high)}; with {counted}, "
                f"hypotheses would have at least {least} and at most {limit} tokens",
                keywords=(*words, "target_prefix"),
            )

    def _called(self, name: str) -> str:
        """As the caller called it."""
        return self.spelled.get(name, name)

    def check(self, target_vocab: int) -> None:
        """OptionError unless every id lies in [0, target_vocab), what is forced may be taken, and scores are finite."""
        steepest = math.floor(LARGEST_POWER / math.log10(max(self.max_positions, 2)))
        if abs(self.length_penalty) > steepest:
            raise OptionError(
                f"{self._called('length_penalty')} is {self.length_penalty:g}; expected -{steepest}..{steepest}: the "
                f"model has {self.max_positions} positions, and scores of so many tokens would be no finite numbers"
            )
        for name, option in OPTIONS.items():
            word, ids = self._called(name), option.kind.ids(getattr(self, name))
            for id in ids:
                if id >= target_vocab:
                    message = f"{word} holds {id}; expected ids below {target_vocab}, the target vocabulary"
                    raise OptionError(message, keywords=(word,))
            if name.startswith("forced") and ids and set(ids) <= set(self.suppress_tokens):
                suppress = self._called("suppress_tokens")
                message = f"{word} forces {sorted(ids)}, which {suppress} suppresses"
                raise OptionError(message, keywords=(word, suppress))
