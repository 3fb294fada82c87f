"""The defaults of a model's search, with a strict JSON form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyengine.canonical.config import ModelConfig
from pyengine.canonical.search import OPTIONS, SearchSettings
from pyengine.errors import ModelFileError, PyengineError
from pyengine.formats.strict_json import Fields

__all__ = ["GenerationDefaults"]


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults(SearchSettings):
    """How the checkpoint asks to be searched, and the ids that have a part in it.

    decoder_start_token_id  what a target begins with; None, of a decoder alone: a prompt begins as it is given
    eos_token_id            what ends a hypothesis; of a decoder alone there may be none
    bos_token_id            what the tokenizer's texts begin with, if anything
    prefixes                what texts begin with for which the checkpoint was trained, by the names of these tasks: for
                            people, who write them
    """

    decoder_start_token_id: int | None = None
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    prefixes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to equal defaults; what is None is left out."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None and (value or name != "prefixes")}

    @classmethod
    def from_json(
        cls, data: object, where: str, config: ModelConfig, error: type[PyengineError] = ModelFileError
    ) -> GenerationDefaults:
        """Read ``to_json``'s form for a model with ``config``; whatever is wrong raises ``error``.

        What is absent or null has transformers' default. Every id must lie in the target vocabulary.
        """
        fields = Fields(data, where, error)
        if config.target_vocab is None:
            raise error(f"{where}: a model without a decoder writes nothing, expected no defaults of a search")
        top = config.target_vocab - 1
        said = {name for name, value in fields.remaining().items() if value is not None}
        needed = set() if config.encoder is None else {"decoder_start_token_id", "eos_token_id"}
        values: dict[str, Any] = {}
        for name in ("decoder_start_token_id", "pad_token_id", "bos_token_id"):
            if name in said | needed:
                values[name] = fields.integer(name, 0, top)
        if "eos_token_id" in said | needed:
            values["eos_token_id"] = fields.integers("eos_token_id", 0, top)
        if "eos_token_id" in needed and not values["eos_token_id"]:
            fields.fail("eos_token_id", "at least one id", values["eos_token_id"])
        for name, option in OPTIONS.items():
            if name in said or option.default is dataclasses.MISSING:
                values[name] = option.kind.take(fields, name, top)
        for name in {"decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id", *OPTIONS} - said:
            fields.take(name, None)
        given = Fields(fields.take("prefixes", {}), f"{where}: prefixes", error)
        values["prefixes"] = {name: given.text(name) for name in given.remaining()}
        fields.finish()
        found = cls(**values)
        if found.num_return_sequences > found.most_sequences:
            limit = f"at most num_beams ({found.num_beams})"
            fields.fail("num_return_sequences", limit, found.num_return_sequences)
        if found.do_sample and found.num_beams > 1:
            fields.fail("num_beams", "1 with do_sample", found.num_beams)
        return found
