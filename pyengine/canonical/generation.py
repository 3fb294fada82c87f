"""The defaults of a model's search, with a strict JSON form."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pyengine.canonical.config import ModelConfig
from pyengine.canonical.search import OPTIONS, SearchSettings
from pyengine.errors import ModelFileError, PyengineError
from pyengine.formats.strict_json import Fields

__all__ = ["GenerationDefaults"]


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults(SearchSettings):
    """How the checkpoint asks to be searched, and the ids that a search cannot do without."""

    decoder_start_token_id: int
    eos_token_id: tuple[int, ...]
    pad_token_id: int | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to equal defaults; what is None is left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

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
        values: dict[str, Any] = {
            "decoder_start_token_id": fields.integer("decoder_start_token_id", 0, top),
            "eos_token_id": fields.integers("eos_token_id", 0, top),
            "pad_token_id": None,
        }
        if not values["eos_token_id"]:
            fields.fail("eos_token_id", "at least one id", values["eos_token_id"])
        if "pad_token_id" in said:
            values["pad_token_id"] = fields.integer("pad_token_id", 0, top)
        for name, option in OPTIONS.items():
            if name in said or option.default is dataclasses.MISSING:
                values[name] = option.kind.take(fields, name, top)
        for name in {"pad_token_id", *OPTIONS} - said:
            fields.take(name, None)
        fields.finish()
        found = cls(**values)
        if found.num_return_sequences > found.num_beams:
            limit = f"at most num_beams ({found.num_beams})"
            fields.fail("num_return_sequences", limit, found.num_return_sequences)
        return found
