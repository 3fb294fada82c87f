"""The configuration of a model and the defaults of its search, with strict JSON forms.

Everything that reads a model relies on the limits checked here: a ``ModelConfig`` that exists is sane, so no
size computed from it overflows. A constructor raises ValueError; ``from_json`` raises ModelFileError.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from pyengine.errors import ModelFileError, PyengineError
from pyengine.formats.strict_json import Fields

__all__ = ["ACTIVATIONS", "MAX_BEAMS", "GenerationDefaults", "LayerConfig", "ModelConfig", "StackConfig"]

# "gelu" is x * Phi(x) with erf, "gelu_tanh" its tanh approximation, "silu" x * sigmoid(x).
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid")

MAX_WIDTH = 16384
MAX_FFN_WIDTH = 65536
MAX_HEAD_WIDTH = 256
MAX_LAYERS = 256
MAX_VOCAB = 1 << 21
MAX_POSITIONS = 1 << 20
MAX_BEAMS = 256


def _check(name: str, value: int, high: int) -> None:
    if not 1 <= value <= high:
        raise ValueError(f"{name}: expected an integer from 1 to {high}, found {value}")


def head_width_of(width: int, heads: int) -> int:
    """What ``heads`` heads of a ``width`` have each; ValueError if they do not share it out evenly."""
    if heads < 1 or width % heads:
        raise ValueError(f"heads: {heads} does not divide width {width}")
    if width // heads > MAX_HEAD_WIDTH:
        raise ValueError(
            f"heads: {heads} heads in width {width} are {width // heads} wide, at most {MAX_HEAD_WIDTH} are supported"
        )
    return width // heads


@dataclass(frozen=True)
class LayerConfig:
    """One layer: heads of its self-attention and, in a decoder, of its cross-attention; width of its feed-forward."""

    heads: int
    ffn_width: int
    cross_heads: int | None = None


@dataclass(frozen=True)
class StackConfig:
    """One stack of layers, encoder or decoder. A head has the same width in all of them.

    heads * head_width need not be the model's width: what an attention reads and adds to has the model's width,
    its queries, keys and values have heads * head_width.
    """

    layers: tuple[LayerConfig, ...]
    head_width: int

    def __post_init__(self) -> None:
        _check("layers", len(self.layers), MAX_LAYERS)
        _check("head_width", self.head_width, MAX_HEAD_WIDTH)
        for i, layer in enumerate(self.layers):
            _check(f"ffn_width of layer {i}", layer.ffn_width, MAX_FFN_WIDTH)
            _check(f"heads of layer {i}", layer.heads, MAX_WIDTH // self.head_width)
            if layer.cross_heads is not None:
                _check(f"cross_heads of layer {i}", layer.cross_heads, MAX_WIDTH // self.head_width)

    @classmethod
    def uniform(cls, layers: int, heads: int, ffn_width: int, *, width: int, cross: bool) -> StackConfig:
        """``layers`` equal layers whose heads share out ``width``; ``cross``: of a decoder."""
        _check("layers", layers, MAX_LAYERS)
        layer = LayerConfig(heads, ffn_width, heads if cross else None)
        return cls((layer,) * layers, head_width_of(width, heads))

    def to_json(self) -> dict[str, Any]:
        """{layers, heads, ffn_width, head_width}; where layers differ a list for each of their numbers."""
        first, count = self.layers[0], len(self.layers)
        values: dict[str, Any] = {"layers": count, "heads": first.heads, "ffn_width": first.ffn_width}
        if self.layers != (first,) * count or first.cross_heads not in (None, first.heads):
            values["heads"] = [layer.heads for layer in self.layers]
            values["ffn_width"] = [layer.ffn_width for layer in self.layers]
            if first.cross_heads is not None:
                values["cross_heads"] = [layer.cross_heads for layer in self.layers]
        return {**values, "head_width": self.head_width}

    @classmethod
    def from_json(cls, data: object, where: str, width: int, cross: bool) -> StackConfig:
        """Read ``to_json``'s form; ModelFileError, or ValueError for heads that do not fit.

        Equal layers without ``head_width`` share out ``width``: directories from before layers could differ.
        """
        fields = Fields(data, where, ModelFileError)
        count = fields.integer("layers", 1, MAX_LAYERS)

        def one_each(name: str, high: int) -> tuple[int, ...]:
            values = fields.integers(name, 1, high)
            if len(values) != count:
                fields.fail(name, f"{count} numbers, one a layer", list(values))
            return values

        if isinstance(fields.remaining().get("heads"), list):
            heads = one_each("heads", MAX_WIDTH)
            cross_heads = one_each("cross_heads", MAX_WIDTH) if cross else (None,) * count
            ffn_widths = one_each("ffn_width", MAX_FFN_WIDTH)
            head_width = fields.integer("head_width", 1, MAX_HEAD_WIDTH)
        else:
            heads = (fields.integer("heads", 1, MAX_WIDTH),) * count
            cross_heads = heads if cross else (None,) * count
            ffn_widths = (fields.integer("ffn_width", 1, MAX_FFN_WIDTH),) * count
            stated = "head_width" in fields.remaining()
            head_width = fields.integer("head_width", 1, MAX_HEAD_WIDTH) if stated else head_width_of(width, heads[0])
        fields.finish()
        return cls(tuple(map(LayerConfig, heads, ffn_widths, cross_heads)), head_width)


@dataclass(frozen=True)
class ModelConfig:
    """A post-norm encoder-decoder Transformer: x = norm(x + sublayer(x)), sinusoidal positions.

    ``family`` says where the model came from, for people; nothing branches on it.
    ``share_embeddings``: source and target read one table. ``tie_output``: the output layer is the target
    table. Token vectors are multiplied by ``embedding_scale`` before the positions are added.
    """

    family: str
    width: int
    encoder: StackConfig
    decoder: StackConfig
    source_vocab: int
    target_vocab: int
    max_positions: int
    activation: str
    embedding_scale: float
    norm_epsilon: float
    share_embeddings: bool
    tie_output: bool

    def __post_init__(self) -> None:
        _check("width", self.width, MAX_WIDTH)
        _check("source_vocab", self.source_vocab, MAX_VOCAB)
        _check("target_vocab", self.target_vocab, MAX_VOCAB)
        _check("max_positions", self.max_positions, MAX_POSITIONS)
        if self.width % 2:
            raise ValueError(f"width: expected an even number (half sines, half cosines), found {self.width}")
        if any(layer.cross_heads is not None for layer in self.encoder.layers):
            raise ValueError("encoder.cross_heads: expected none, an encoder has no cross-attention")
        if any(layer.cross_heads is None for layer in self.decoder.layers):
            raise ValueError("decoder.cross_heads: expected a number for every layer")
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation: expected one of {known}, found {self.activation!r}")
        if not (math.isfinite(self.embedding_scale) and self.embedding_scale > 0):
            raise ValueError(f"embedding_scale: expected a positive number, found {self.embedding_scale}")
        if not 0 < self.norm_epsilon < 1:
            raise ValueError(f"norm_epsilon: expected a number between 0 and 1, found {self.norm_epsilon}")
        if self.share_embeddings and self.source_vocab != self.target_vocab:
            raise ValueError(
                f"share_embeddings: one table for vocabularies of {self.source_vocab} and {self.target_vocab}"
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal config."""
        stacks = {"encoder": self.encoder.to_json(), "decoder": self.decoder.to_json()}
        return {field.name: stacks.get(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, data: object, where: str) -> ModelConfig:
        """Read ``to_json``'s form; ModelFileError for an unknown, missing, mistyped or out-of-range field."""
        fields = Fields(data, where, ModelFileError)

        width = fields.integer("width", 1, MAX_WIDTH)

        def stack(name: str, cross: bool) -> StackConfig:
            try:
                return StackConfig.from_json(fields.take(name), f"{where}: {name}", width, cross)
            except ValueError as exc:
                raise ModelFileError(f"{where}: {name}.{exc}") from None

        values: dict[str, Any] = {
            "family": fields.text("family"),
            "width": width,
            "encoder": stack("encoder", cross=False),
            "decoder": stack("decoder", cross=True),
            "source_vocab": fields.integer("source_vocab", 1, MAX_VOCAB),
            "target_vocab": fields.integer("target_vocab", 1, MAX_VOCAB),
            "max_positions": fields.integer("max_positions", 1, MAX_POSITIONS),
            "activation": fields.choice("activation", ACTIVATIONS),
            "embedding_scale": fields.number("embedding_scale", 0.0),
            "norm_epsilon": fields.number("norm_epsilon", 0.0, 1.0),
            "share_embeddings": fields.flag("share_embeddings"),
            "tie_output": fields.flag("tie_output"),
        }
        fields.finish()
        try:
            return cls(**values)
        except ValueError as exc:
            raise ModelFileError(f"{where}: {exc}") from None


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
