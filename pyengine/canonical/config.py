"""The shape of a Transformer, with a strict JSON form: families differ here, and nowhere behind the importers.

    ModelConfig ── StackConfig (encoder, decoder) ── LayerConfig ┬─ AttentionConfig (self, cross)
        │                                                        └─ FeedForwardConfig
        └── RopeConfig, HeadConfig, by name

Everything that reads a model relies on the limits checked here: a ``ModelConfig`` that exists is sane, so no size
computed from it overflows. Its constructor raises ValueError with all complaints; ``from_json`` raises ModelFileError.

In JSON every field is there, and no other. ``layers`` of a stack is their number; fields of their attentions and
feed-forwards are a value where all layers agree, or else a list with one a layer.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from pyengine.canonical.config_checks import ACTIVATIONS, MAX_LAYERS, MAX_POSITIONS, complaints
from pyengine.errors import ModelFileError, UnsupportedError
from pyengine.formats.strict_json import Fields, shorten

__all__ = [
    "ACTIVATIONS", "MAX_POSITIONS", "AttentionConfig", "FeedForwardConfig", "HeadConfig", "LayerConfig", "ModelConfig",
    "RopeConfig", "StackConfig", "default_scale",
]  # fmt: skip


def default_scale(head_width: int) -> float:
    """1 / sqrt(head_width), computed in float32."""
    return float(np.float32(1) / np.sqrt(np.float32(head_width)))


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions (Su et al., 2021): of each head the first ``dims`` turn, dimension i with i + dims / 2.

    The frequencies are a tensor, ``rope.NAME.frequencies`` float32 [dims / 2]; cosines and sines are multiplied by
    ``factor``. ``lengths``: ascending; sequences of up to lengths[i] tokens, that being the first that is enough, turn
    by set i of the frequencies, which are [len(lengths) + 1, dims / 2] then, and longer ones by the last.
    """

    dims: int
    factor: float = 1.0
    lengths: tuple[int, ...] = ()

    def frequencies_shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return (len(self.lengths) + 1, self.dims // 2) if self.lengths else (self.dims // 2,)


@dataclass(frozen=True)
class AttentionConfig:
    """Queries of ``heads`` heads, keys and values of ``kv_heads``, each of which serves heads / kv_heads of them.

    heads * head_width need not be the model's width. score = scale * q k; ``soft_cap``: cap * tanh(score / cap).
    ``qk_norm``: an RMS norm of each head of queries and keys, before they turn by the rope of that name.
    ``window``: how many keys before the own one and behind it are seen; None: all. A decoder's has none behind. A
    cross-attention has neither rope nor window.
    """

    heads: int
    kv_heads: int
    head_width: int
    scale: float
    qkv_bias: bool = True
    output_bias: bool = True
    qk_norm: bool = False
    rope: str | None = None
    window: tuple[int, int] | None = None
    soft_cap: float | None = None

    @classmethod
    def plain(cls, heads: int, head_width: int) -> AttentionConfig:
        """As in "Attention Is All You Need": with biases, scores over sqrt(head_width)."""
        return cls(heads, heads, head_width, default_scale(head_width))


@dataclass(frozen=True)
class FeedForwardConfig:
    """down(activation(up x)); ``gated``: down(activation(gate x) * up x)."""

    width: int
    activation: str
    gated: bool = False
    bias: bool = True


@dataclass(frozen=True)
class LayerConfig:
    """One layer; ``cross_attention`` reads what the encoder has made of the source."""

    self_attention: AttentionConfig
    feed_forward: FeedForwardConfig
    cross_attention: AttentionConfig | None = None

    def attentions(self) -> Iterator[tuple[str, AttentionConfig]]:
        """("self_attention", ...) and, if there is one, ("cross_attention", ...)."""
        yield "self_attention", self.self_attention
        if self.cross_attention is not None:
            yield "cross_attention", self.cross_attention

    def sublayers(self) -> Iterator[tuple[str, AttentionConfig | FeedForwardConfig]]:
        """``attentions``, and ("ffn", ...)."""
        yield from self.attentions()
        yield "ffn", self.feed_forward


@dataclass(frozen=True)
class StackConfig:
    """Layers of an encoder or a decoder.

    placement   "post": x = norm(x + f(x)); "pre": x = x + f(norm(x)); "parallel": x = x + attention(norm(x)) +
                feed_forward(norm'(x))
    after_norms a norm of what each f gives, too, before it is added; not with "post"
    embed_norm  a norm of the embedding, once positions and types are added; final_norm: behind the last layer, not
                with "post"
    positions   "table": a learned or computed vector a position is added to the embedding; "none"
    types       how many token types there are, each with a vector that is added; 0: none
    relative_reach  R: a bias for each head and distance j - i, cut to -R..R, is added to the scores of all
                self-attentions; 0: none
    slopes      slope * (j - i) is added to them, a slope a head (ALiBi, Press et al., 2022)
    """

    layers: tuple[LayerConfig, ...]
    max_positions: int
    norm: str = "layer"
    norm_epsilon: float = 1e-5
    placement: str = "post"
    after_norms: bool = False
    embed_norm: bool = False
    final_norm: bool = False
    positions: str = "table"
    types: int = 0
    relative_reach: int = 0
    slopes: bool = False


@dataclass(frozen=True)
class HeadConfig:
    """What is made of an encoder's last states: pool, dense, activation, norm, out, in this order.

    pool        "none": of each token; "cls": of the segment's first; "last": of its last; "mean": of the mean of all
    dense       a linear layer, as wide as the model, or, where ``out`` is "vocabulary", as the table of tokens;
                ``activation`` is that of what it gives
    norm        one of the encoder's kind and epsilon
    out         how many numbers a linear layer makes of that; "vocabulary": a logit for each of the encoder's tokens,
                by the table of tokens; None: there is no such layer
    labels      what the numbers are called, for people; none, or one each
    problem     what they are: scores of which one is right, of which any are, or values; None: something else
    """

    pool: str
    dense: bool = False
    activation: str = "linear"
    norm: bool = False
    out: int | str | None = None
    labels: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class ModelConfig:
    """An encoder, a decoder, or both.

    ``family`` says where the model came from, for people; nothing branches on it.
    ``source_vocab`` and ``target_vocab``: ids that the encoder and the decoder read; None where there is no such stack.
    ``embedding_width``: of the vectors in the tables of tokens, positions and types, and of the norm of their sum;
    where it is not ``width`` a projection follows.
    ``share_embeddings``: source and target read one table. Token vectors are multiplied by ``embedding_scale`` before
    positions are added. A decoder has an output layer; ``tie_output``: it is the target table. Without a decoder
    there is none, and ``output_bias`` says nothing.
    ``logit_soft_cap``: cap * tanh(logit / cap).
    ``hadamard``: every row that a matrix multiplies is multiplied by a Hadamard matrix first, and the tensors are the
    matrices times its inverse, the output layer among them, and so is each head of queries and keys
    (quantize/scaling/hadamard.py). Only where ``takes_hadamard``.
    ``heads``: what may be read of the encoder's states, by name.
    """

    family: str
    width: int
    encoder: StackConfig | None
    decoder: StackConfig | None
    source_vocab: int | None
    target_vocab: int | None
    embedding_scale: float = 1.0
    embedding_width: int | None = None  # None: width
    share_embeddings: bool = False
    tie_output: bool = False
    output_bias: bool = True
    logit_soft_cap: float | None = None
    hadamard: bool = False
    ropes: Mapping[str, RopeConfig] = field(default_factory=dict)
    heads: Mapping[str, HeadConfig] = field(default_factory=dict)

    def stacks(self) -> Iterator[tuple[str, StackConfig]]:
        """("encoder", ...) and ("decoder", ...), those that there are."""
        for name, stack in (("encoder", self.encoder), ("decoder", self.decoder)):
            if stack is not None:
                yield name, stack

    def sublayers(self) -> Iterator[tuple[str, AttentionConfig | FeedForwardConfig]]:
        """All attentions and feed-forwards by canonical name, ("decoder.layers.0.ffn", ...), in the order of use."""
        for name, stack in self.stacks():
            for i, layer in enumerate(stack.layers):
                yield from ((f"{name}.layers.{i}.{part}", each) for part, each in layer.sublayers())

    def with_sublayers(self, changed: Mapping[str, AttentionConfig | FeedForwardConfig]) -> ModelConfig:
        """The same with others in place of those that ``changed`` names."""
        stacks: dict[str, Any] = {}
        for name, stack in self.stacks():
            layers = []
            for i, layer in enumerate(stack.layers):
                own: dict[str, Any] = {
                    part: changed.get(f"{name}.layers.{i}.{part}", each) for part, each in layer.sublayers()
                }
                layers.append(dataclasses.replace(layer, feed_forward=own.pop("ffn"), **own))
            stacks[name] = dataclasses.replace(stack, layers=tuple(layers))
        return dataclasses.replace(self, **stacks)

    @property
    def takes_hadamard(self) -> bool:
        """Whether ``hadamard`` may be set: a decoder alone, whose matrices read what norms give."""
        return self.encoder is None and self.decoder is not None and self.decoder.placement != "post"

    def rope_set(self, length: int) -> int:
        """Which set of frequencies the rows of a sequence take (``Plan.rope_sets``) that may come to ``length`` tokens.

        One for all ropes, whose ``lengths`` agree. A sequence keeps it: keys of another have turned otherwise.
        """
        return bisect_left(next((rope.lengths for rope in self.ropes.values() if rope.lengths), ()), length)

    def source_side(self) -> tuple[StackConfig, int]:
        """The encoder, and how many ids it reads. UnsupportedError where there is none."""
        return self._side("encoder", self.encoder, self.source_vocab)

    def target_side(self) -> tuple[StackConfig, int]:
        """The decoder, and how many ids it reads and writes. UnsupportedError where there is none."""
        return self._side("decoder", self.decoder, self.target_vocab)

    def _side(self, name: str, stack: StackConfig | None, vocab: int | None) -> tuple[StackConfig, int]:
        if stack is None or vocab is None:
            raise UnsupportedError(f"the model has no {name}, without which this cannot be done")
        return stack, vocab

    def __post_init__(self) -> None:
        found = complaints(self)
        if found:
            raise ValueError("; ".join(found))

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal config."""
        values = _values(self)
        for name, stack in self.stacks():
            values[name] = _stack_to_json(stack)
        for name, each in (("ropes", self.ropes), ("heads", self.heads)):
            values[name] = {key: _values(config) for key, config in each.items()}
        return values

    @classmethod
    def from_json(cls, data: object, where: str) -> ModelConfig:
        """Read ``to_json``'s form; ModelFileError for an unknown, missing or mistyped field, and with all complaints
        for values that are out of range or do not go together."""
        fields = Fields(data, where, ModelFileError)
        stacks = {}
        for name in ("encoder", "decoder"):
            stack = fields.take(name)
            stacks[name] = None if stack is None else _stack_from_json(Fields(stack, f"{where}: {name}", fields.error))
        named = {name: _by_name(fields, name, kind) for name, kind in (("ropes", RopeConfig), ("heads", HeadConfig))}
        try:
            return _read(cls, fields, **stacks, **named)
        except ValueError as exc:
            raise ModelFileError(f"{where}: {exc}") from None


_PARTS = ("self_attention", "cross_attention", "feed_forward")


def _values(config: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, as JSON has them."""
    values = {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}
    if values.get("window") is not None:
        values["window"] = dict(zip(("before", "after"), values["window"], strict=True))
    for name in ("labels", "lengths"):
        if name in values:
            values[name] = list(values[name])
    return values


def _stack_to_json(stack: StackConfig) -> dict[str, Any]:
    values = _values(stack) | {"layers": len(stack.layers)}
    for part in _PARTS:
        each = [getattr(layer, part) for layer in stack.layers]
        values[part] = None if each[0] is None else _joined([_values(config) for config in each])
    return values


def _joined(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Objects of one layer each as one: a value where all agree, else a list."""
    each = {name: [layer[name] for layer in layers] for name in layers[0]}
    return {name: values[0] if values.count(values[0]) == len(values) else values for name, values in each.items()}


def _stack_from_json(fields: Fields) -> StackConfig:
    count = fields.integer("layers", 1, MAX_LAYERS)
    own = _each_layer(fields, "self_attention", count)
    crossed = fields.remaining().get("cross_attention", {}) is not None
    cross = _each_layer(fields, "cross_attention", count) if crossed else [fields.take("cross_attention")] * count
    layers = tuple(
        LayerConfig(
            _read(AttentionConfig, attention),
            _read(FeedForwardConfig, feed),
            None if memory is None else _read(AttentionConfig, memory),
        )
        for attention, memory, feed in zip(own, cross, _each_layer(fields, "feed_forward", count), strict=True)
    )
    return _read(StackConfig, fields, layers=layers)


def _each_layer(fields: Fields, part: str, count: int) -> list[Fields]:
    """The fields of ``part`` of each layer."""
    value = fields.take(part)
    where = f"{fields.where}.{part}"
    inner = Fields(value, where, fields.error).remaining()
    for name, given in inner.items():
        if isinstance(given, list) and len(given) != count:
            raise fields.error(f"{where}.{name}: expected {count} values, one a layer, found {len(given)}")
    layers = [
        {name: given[i] if isinstance(given, list) else given for name, given in inner.items()} for i in range(count)
    ]
    return [Fields(layer, where, fields.error) for layer in layers]


def _integer(fields: Fields, name: str) -> int:
    """Of any size: the configuration knows the limits."""
    value = fields.take(name)
    if type(value) is not int:
        fields.fail(name, "an integer", value)
    return value


def _window(fields: Fields, name: str) -> tuple[int, int]:
    inner = Fields(fields.take(name), f"{fields.where}.{name}", fields.error)
    window = _integer(inner, "before"), _integer(inner, "after")
    inner.finish()
    return window


def _outputs(fields: Fields, name: str) -> int | str:
    """A number of any size or a word: the configuration knows which."""
    value = fields.take(name)
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        fields.fail(name, "an integer or a word", value)
    known: int | str = value
    return known


def _integers(fields: Fields, name: str) -> tuple[int, ...]:
    """Of any size: the configuration knows the limits."""
    value = fields.take(name)
    if not isinstance(value, list) or any(type(each) is not int for each in value):
        fields.fail(name, "a list of integers", value)
    return tuple(value)


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    value = fields.take(name)
    if not isinstance(value, list):
        fields.fail(name, "a list of strings", value)
    each = Fields({f"{name}[{i}]": text for i, text in enumerate(value)}, fields.where, fields.error)
    return tuple(each.text(item) for item in each.remaining())


_READERS: dict[str, Callable[[Fields, str], Any]] = {  # by the annotation of a field
    "int": _integer,
    "float": lambda fields, name: fields.number(name),
    "bool": lambda fields, name: fields.flag(name),
    "str": lambda fields, name: fields.text(name),
    "tuple[int, int]": _window,
    "int | str": _outputs,
    "tuple[str, ...]": _texts,
    "tuple[int, ...]": _integers,
}
_Config = TypeVar("_Config")


def _read(kind: type[_Config], fields: Fields, **known: Any) -> _Config:
    """A dataclass of which each field is in ``fields``, but for those that are ``known``."""
    values = dict(known)
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        if each.name not in known:
            plain = str(each.type).removesuffix(" | None")
            if plain != each.type and fields.remaining().get(each.name, each) is None:
                values[each.name] = fields.take(each.name)
            else:
                values[each.name] = _READERS[plain](fields, each.name)
    fields.finish()
    return kind(**values)


def _by_name(fields: Fields, name: str, kind: type[_Config]) -> dict[str, _Config]:
    where = f"{fields.where}: {name}"
    given = Fields(fields.take(name), where, fields.error).remaining()
    return {key: _read(kind, Fields(value, f"{where}: {shorten(key)}", fields.error)) for key, value in given.items()}
