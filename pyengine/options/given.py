"""The caller's side: options that were given, checked as far as that goes without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyengine.arguments import KEYWORDS, unknown_option
from pyengine.canonical.kinds import Length
from pyengine.canonical.search import NAMES, OPTIONS
from pyengine.errors import OptionError
from pyengine.options.keywords import GivenOptions
from pyengine.options.listing import lists_options
from pyengine.options.settled import SearchOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pyengine.canonical import GenerationDefaults
    from pyengine.options.keywords import GenerationKeywords

__all__ = ["GenerationOptions"]

DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
"""Whoever gives one of these asks for samples."""


@dataclass(frozen=True, init=False)
class GenerationOptions(GivenOptions):
    """How to search; None leaves an option to the checkpoint. OptionError on anything out of range, an unknown name, or
    an option and its alias at once.
    """

    spelled: Mapping[str, str] = field(init=False, compare=False, repr=False)
    """What was given -> by which of its names."""

    @lists_options(prompted=True)
    def __init__(self, **keywords: Unpack[GenerationKeywords]) -> None:
        """Each by one of its names."""
        spelled: dict[str, str] = {}
        values: dict[str, Any] = dict.fromkeys(OPTIONS)
        for word, value in keywords.items():
            if word not in NAMES:
                raise unknown_option(word, [*NAMES, *KEYWORDS], KEYWORDS)
            if value is None:
                continue
            name = NAMES[word]
            if name in spelled:
                both = spelled[name], word
                raise OptionError(f"{both[0]} and {word} are one option: give one of them", keywords=both)
            spelled[name] = word
            values[name] = OPTIONS[name].kind.check(word, value)
        # Being frozen, it has no attributes set; this is one update, not thirty calls of object.__setattr__.
        self.__dict__.update(values, spelled=spelled)
        self._check_pairs()

    def _check_pairs(self) -> None:
        given = {name: (word, getattr(self, name)) for name, word in self.spelled.items()}
        for name, (word, value) in given.items():
            option = OPTIONS[name]
            if option.instead_of in given:
                other, _ = given[option.instead_of]
                raise OptionError(f"{other} and {word} set the same limit: give one of them", keywords=(other, word))
            other, most = given.get(option.at_most or "", ("", None))
            if other and value > most and name == "num_return_sequences":
                if not self.samples:
                    raise self._too_few_beams(most)
            elif other and value > most:
                raise OptionError(
                    f"{word} is {value}; expected at most {other}, which is {most}", keywords=(word, other)
                )

        if self.samples and (self.num_beams or 1) > 1:
            asked = next(name for name in ("do_sample", *DRAWING) if name in given)
            words = given["num_beams"][0], given[asked][0]
            message = f"{words[0]} is {self.num_beams}, but {words[1]} asks for samples, which need no beams"
            raise OptionError(f"{message}: give one of them", keywords=words)

    def _too_few_beams(self, beams: int) -> OptionError:
        """For `num_return_sequences` of a search that is to draw no samples."""
        words = self.spelled["num_return_sequences"], self.spelled.get("num_beams", "num_beams")
        most = f"at most {words[1]}, {'which is' if self.num_beams else 'by the checkpoint'} {beams}"
        if beams == 1:
            most = f"1, all that greedy search finds, unless {words[1]} is as many"
        return OptionError(
            f"{words[0]} is {self.num_return_sequences}; expected {most}, or samples (do_sample, temperature)",
            keywords=(*words, "do_sample", "temperature"),
        )

    @property
    def samples(self) -> bool | None:
        """Whether tokens are to be drawn; None: as the checkpoint says."""
        if self.temperature == 0.0 or self.do_sample is False:
            return False
        if self.do_sample or any(name in self.spelled for name in DRAWING):
            return True
        return False if (self.num_beams or 1) > 1 else None

    def resolve(self, defaults: GenerationDefaults, target_vocab: int, max_positions: int) -> SearchOptions:
        """Fill in the checkpoint's defaults and check what depends on the model. Raises OptionError."""
        values: dict[str, Any] = {}
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if value is None:
                values[name] = option.kind.fit(getattr(defaults, name), max_positions)
                # A default of new tokens wins over one of all tokens, but not over what the caller gives.
                if option.instead_of in self.spelled:
                    values[name] = None
                continue
            if isinstance(option.kind, Length) and value > option.kind.most(max_positions):
                raise OptionError(
                    f"{self.spelled[name]} is {value}; expected at most {option.kind.most(max_positions)}: "
                    f"the model has {max_positions} positions"
                )
            values[name] = option.kind.settled(value)
        if self.samples is not None:
            values["do_sample"] = self.samples
        if values["temperature"] == 0.0:
            values["do_sample"] = False
        if values["do_sample"]:
            values["num_beams"] = 1
        elif self.num_return_sequences is None:
            values["num_return_sequences"] = min(values["num_return_sequences"], values["num_beams"])
        elif self.num_return_sequences > values["num_beams"]:
            raise self._too_few_beams(values["num_beams"])
        options = SearchOptions(
            **values,
            start=defaults.decoder_start_token_id,
            end=tuple(defaults.eos_token_id),
            max_positions=max_positions,
            spelled=self.spelled,
        )
        options.check(target_vocab)
        return options
