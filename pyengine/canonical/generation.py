"""The defaults of a model's search, with a strict JSON form."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pyengine.canonical.config import MAX_POSITIONS, ModelConfig
from pyengine.errors import ModelFileError, PyengineError
from pyengine.formats.strict_json import Fields

__all__ = ["MAX_BEAMS", "GenerationDefaults"]

MAX_BEAMS = 256


@dataclass(frozen=True)
class GenerationDefaults:
    """How the checkpoint asks to be searched; names and meanings as in transformers' GenerationConfig.

    ``max_length`` and ``min_length`` count the start token and a target prefix; ``max_new_tokens`` and
    ``min_new_tokens``, which win over them, do not, and are absent from JSON where None.
    ``bad_words_ids`` are sequences that must not be produced, ``suppress_tokens`` single ids,
    ``begin_suppress_tokens`` ids that must not come first.
    ``renormalize_logits``: what the other options leave of a token's distribution sums to one again.
    """

    decoder_start_token_id: int
    eos_token_id: tuple[int, ...]
    pad_token_id: int | None
    max_length: int
    min_length: int = 0
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False  # False, True or "never"
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] | None = None
    renormalize_logits: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to equal defaults."""
        values = dataclasses.asdict(self)
        for name in ("max_new_tokens", "min_new_tokens"):
            if values[name] is None:
                del values[name]
        return values

    @classmethod
    def from_json(
        cls, data: object, where: str, config: ModelConfig, error: type[PyengineError] = ModelFileError
    ) -> GenerationDefaults:
        """Read ``to_json``'s form for a model with ``config``; whatever is wrong raises ``error``.

        Every id must lie in the target vocabulary.
        """
        fields = Fields(data, where, error)
        if config.target_vocab is None:
            raise error(f"{where}: a model without a decoder writes nothing, expected no defaults of a search")
        top = config.target_vocab - 1

        def optional_id(name: str) -> int | None:
            value = fields.take(name)
            if value is not None and (type(value) is not int or not 0 <= value <= top):
                fields.fail(name, f"null or an integer from 0 to {top}", value)
            return value

        def optional_length(name: str, low: int) -> int | None:
            return fields.integer(name, low, MAX_POSITIONS) if name in fields.remaining() else None

        values: dict[str, Any] = {
            "decoder_start_token_id": fields.integer("decoder_start_token_id", 0, top),
            "eos_token_id": fields.integers("eos_token_id", 0, top),
            "pad_token_id": optional_id("pad_token_id"),
            "max_length": fields.integer("max_length", 2, MAX_POSITIONS + 1),
            "min_length": fields.integer("min_length", 0, MAX_POSITIONS),
            "max_new_tokens": optional_length("max_new_tokens", 1),
            "min_new_tokens": optional_length("min_new_tokens", 0),
            "num_beams": fields.integer("num_beams", 1, MAX_BEAMS),
            "num_return_sequences": fields.integer("num_return_sequences", 1, MAX_BEAMS),
            "length_penalty": fields.number("length_penalty", -100.0, 100.0),
            "early_stopping": fields.choice("early_stopping", (False, True, "never")),
            "no_repeat_ngram_size": fields.integer("no_repeat_ngram_size", 0, MAX_POSITIONS),
            "repetition_penalty": fields.number("repetition_penalty", 1e-6, 1e6),
            "suppress_tokens": fields.integers("suppress_tokens", 0, top),
            "begin_suppress_tokens": fields.integers("begin_suppress_tokens", 0, top),
            "forced_bos_token_id": optional_id("forced_bos_token_id"),
            "renormalize_logits": fields.flag("renormalize_logits"),
        }
        if not values["eos_token_id"]:
            fields.fail("eos_token_id", "at least one id", values["eos_token_id"])
        if values["num_return_sequences"] > values["num_beams"]:
            limit = f"at most num_beams ({values['num_beams']})"
            fields.fail("num_return_sequences", limit, values["num_return_sequences"])
        forced = fields.take("forced_eos_token_id")
        if forced is not None:
            inner = Fields({"forced_eos_token_id": forced}, where, error)
            forced = inner.integers("forced_eos_token_id", 0, top)
        values["forced_eos_token_id"] = forced
        words = fields.take("bad_words_ids")
        if not isinstance(words, (list, tuple)):
            fields.fail("bad_words_ids", "a list of lists of ids", words)
        named = {f"bad_words_ids[{i}]": word for i, word in enumerate(words)}
        inner = Fields(named, where, error)
        values["bad_words_ids"] = tuple(inner.integers(name, 0, top) for name in named)
        if () in values["bad_words_ids"]:
            fields.fail("bad_words_ids", "lists of at least one id", words)
        fields.finish()
        return cls(**values)
