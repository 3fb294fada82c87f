"""ModelConfig: a strict JSON form that round-trips, and every limit, by the name of the field that breaks it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Callable

import pytest

from pyengine.canonical import (
    AttentionConfig,
    LayerConfig,
    ModelConfig,
    RopeConfig,
    StackConfig,
    default_scale,
    tensor_specs,
)
from pyengine.errors import ModelFileError

from ..oracle.tiny import UNEVEN, model_config
from .configs import HEADS, decoder_only, encoder_only, random_config

CONFIG = model_config()


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("seed", range(40))
def test_random_configs_round_trip(seed: int) -> None:
    config = random_config(seed)
    assert ModelConfig.from_json(through_json(config.to_json()), "here") == config


@pytest.mark.parametrize("seed", range(9))
def test_sublayers_by_name(seed: int) -> None:
    """All that there are, by the names of their tensors; one can be another, and nothing else changes."""
    config = random_config(seed)
    found = dict(config.sublayers())
    names = [name.rpartition(".norm.")[0] for name in tensor_specs(config) if name.endswith(".norm.weight")]
    assert list(found) == [name for name in names if ".layers." in name]
    assert config.with_sublayers({}) == config
    last = list(found)[-1]
    other = config.with_sublayers({last: replace(found[last], bias=not found[last].bias)})
    assert {name for name, each in other.sublayers() if each != found[name]} == {last}
    assert other.with_sublayers({last: found[last]}) == config


def test_round_trips() -> None:
    for config in (CONFIG, model_config(**UNEVEN), encoder_only(), encoder_only(heads=HEADS), decoder_only()):
        assert ModelConfig.from_json(through_json(config.to_json()), "here") == config


def test_the_form_of_a_stack() -> None:
    """A value where all layers agree, else a list with one a layer; a window is an object, and so no list."""
    stack = decoder_only().to_json()["decoder"]
    assert stack["layers"] == 2 and stack["cross_attention"] is None
    attention = stack["self_attention"]
    assert (attention["heads"], attention["kv_heads"], attention["qk_norm"]) == (6, 2, [True, False])
    assert attention["window"] == [None, {"before": 4, "after": 0}]
    assert stack["feed_forward"] == {"width": 100, "activation": "silu", "gated": True, "bias": False}
    alike = decoder_only(decoder=replace(decoder_only().decoder, layers=decoder_only().decoder.layers[1:])).to_json()
    assert alike["decoder"]["self_attention"]["window"] == {"before": 4, "after": 0}
    assert alike["encoder"] is None and alike["ropes"]["near"] == {"dims": 10, "factor": 1.25, "lengths": []}


def test_the_default_scale_is_that_of_float32() -> None:
    assert default_scale(64) == 0.125 and default_scale(48) == float.fromhex("0x1.279a740000000p-3")


# Fields in JSON.

Path = tuple[str, ...]


def paths(data: dict[str, Any], before: Path = ()) -> list[Path]:
    found: list[Path] = []
    for name, value in data.items():
        found += [(*before, name)] + (paths(value, (*before, name)) if isinstance(value, dict) else [])
    return found


def inside(data: dict[str, Any], path: Path) -> dict[str, Any]:
    for name in path:
        data = data[name]
    return data


WHOLE = {"decoder": decoder_only().to_json(), "encoder": encoder_only(heads=HEADS).to_json()}  # all fields are in these


@pytest.mark.parametrize("kind", WHOLE)
def test_no_field_may_be_missing_or_of_another_type(kind: str) -> None:
    for path in paths(WHOLE[kind]):
        refuses(through_json(WHOLE[kind]), path)


def refuses(data: dict[str, Any], path: Path) -> None:
    owner = inside(data, path[:-1])
    for wrong in ({"a": 1}, "1\n", 10**400, [{}] * 2):
        owner[path[-1]] = wrong
        with pytest.raises(ModelFileError, match="^here"):
            ModelConfig.from_json(through_json(data), "here")
    del owner[path[-1]]
    if path[:-1] not in (("ropes",), ("heads",)):
        with pytest.raises(ModelFileError, match=f"^here.*field '{path[-1]}' is missing"):
            ModelConfig.from_json(data, "here")


@pytest.mark.parametrize(
    ("kind", "path"),
    (
        ("decoder", ()), ("decoder", ("decoder",)), ("decoder", ("decoder", "self_attention")),
        ("decoder", ("decoder", "feed_forward")), ("decoder", ("ropes", "far")), ("encoder", ("heads", "words")),
    ),
)  # fmt: skip
def test_unknown_fields(kind: str, path: Path) -> None:
    data = through_json(WHOLE[kind])
    inside(data, path)["novel"] = 1
    with pytest.raises(ModelFileError, match="^here.*unknown fields: 'novel'"):
        ModelConfig.from_json(data, "here")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    (
        ("decoder.layers", 0, "decoder: layers: expected an integer from 1 to 256, found 0"),
        ("decoder.layers", 257, "decoder: layers: expected an integer from 1 to 256, found 257"),
        ("decoder.layers", True, "decoder: layers: expected an integer"),
        ("decoder.layers", 3, "decoder.self_attention.qk_norm: expected 3 values, one a layer, found 2"),
        ("decoder.self_attention.heads", [6], "decoder.self_attention.heads: expected 2 values, one a layer, found 1"),
        ("decoder.self_attention.heads", [], "decoder.self_attention.heads: expected 2 values"),
        ("decoder.self_attention.heads", [6, 6.0], "decoder.self_attention: heads: expected an integer, found 6.0"),
        ("decoder.self_attention.heads", [[6, 6]] * 2, r"decoder.self_attention: heads: expected an integer, found \["),
        ("decoder.self_attention.heads", True, "decoder.self_attention: heads: expected an integer, found True"),
        ("decoder.self_attention.window", 4, "decoder.self_attention.window: expected an object, found 4"),
        ("decoder.self_attention.window", {"before": 1}, "decoder.self_attention.window: field 'after' is missing"),
        ("decoder.self_attention", None, "decoder.self_attention: expected an object, found None"),
        ("decoder.feed_forward", None, "decoder.feed_forward: expected an object, found None"),
        ("decoder.norm", "batch", "decoder.norm: expected one of layer, rms, found 'batch'"),
        ("family", "\x1b[2J", "family: expected a string of printable"),
        ("embedding_scale", float("nan"), "embedding_scale: expected a number"),
    ),
)
def test_a_wrong_field_is_named(path: str, value: Any, message: str) -> None:
    data = through_json(decoder_only().to_json())
    *parents, name = path.split(".")
    inside(data, tuple(parents))[name] = value
    with pytest.raises(ModelFileError, match=f"^here: {message}"):
        ModelConfig.from_json(data, "here")


# What may not be.


def of_stack(config: ModelConfig, **changes: Any) -> dict[str, Any]:
    name, stack = list(config.stacks())[-1]
    return {name: replace(stack, **changes)}


def of_layers(config: ModelConfig, part: str, **changes: Any) -> dict[str, Any]:
    name, stack = list(config.stacks())[-1]
    layers = tuple(replace(each, **{part: replace(getattr(each, part), **changes)}) for each in stack.layers)
    return {name: replace(stack, layers=layers)}


def attention(**changes: Any) -> Callable[[], ModelConfig]:
    return lambda: decoder_only(**of_layers(decoder_only(), "self_attention", **changes))


def feed_forward(**changes: Any) -> Callable[[], ModelConfig]:
    return lambda: decoder_only(**of_layers(decoder_only(), "feed_forward", **changes))


def stack(**changes: Any) -> Callable[[], ModelConfig]:
    return lambda: decoder_only(**of_stack(decoder_only(), **changes))


def model(**changes: Any) -> Callable[[], ModelConfig]:
    return lambda: decoder_only(**changes)


def post(**changes: Any) -> Callable[[], ModelConfig]:
    return lambda: replace(CONFIG, **of_stack(CONFIG, **changes))


def cross(**changes: Any) -> Callable[[], ModelConfig]:
    return lambda: replace(CONFIG, **of_layers(CONFIG, "cross_attention", **changes))


BOTH = "(and in 1 more layers)"
REFUSED: dict[str, tuple[Callable[[], ModelConfig], str]] = {
    "width 0": (model(width=0), "width: expected an integer from 1 to 16384, found 0"),
    "width too large": (model(width=16385), "width: expected an integer from 1 to 16384, found 16385"),
    "width of many digits": (model(width=10**5000), "width: expected an integer from 1 to 16384, found an integer"),
    "embedding width": (model(embedding_width=0), "embedding_width: expected an integer from 1 to 16384, found 0"),
    "embedding scale 0": (model(embedding_scale=0.0), "embedding_scale: expected a positive number, found 0.0"),
    "embedding scale nan": (model(embedding_scale=float("nan")), "embedding_scale: expected a positive number"),
    "no stack": (
        model(decoder=None, target_vocab=None, tie_output=False, logit_soft_cap=None),
        "encoder: expected an encoder, a decoder or both, found none",
    ),
    "a vocabulary too many": (model(source_vocab=5), "source_vocab: expected none, there is no stack that reads it"),
    "no vocabulary": (model(target_vocab=None), "target_vocab: expected an integer from 1 to 2097152, found none"),
    "vocabulary 0": (model(target_vocab=0), "target_vocab: expected an integer from 1 to 2097152, found 0"),
    "vocabulary too large": (model(target_vocab=(1 << 21) + 1), "target_vocab: expected an integer from 1 to 2097152"),
    "one stack shares": (model(share_embeddings=True), "share_embeddings: expected an encoder and a decoder"),
    "tables of two sizes share": (
        lambda: replace(CONFIG, source_vocab=5),
        "share_embeddings: expected one size of the vocabularies, found 5 and 23",
    ),
    "a narrow table as output": (
        model(embedding_width=8),
        "tie_output: expected false, the table has a width of 8, not 80",
    ),
    "an encoder with a tied output": (
        lambda: encoder_only(tie_output=True),
        "tie_output: expected false, a model without",
    ),
    "an encoder with capped logits": (
        lambda: encoder_only(logit_soft_cap=3.0),
        "logit_soft_cap: expected none, a model",
    ),
    "a cap of 0": (model(logit_soft_cap=0.0), "logit_soft_cap: expected a positive number, found 0.0"),
    "an odd rotary width": (
        model(ropes={"far": RopeConfig(19), "near": RopeConfig(10)}),
        "ropes.far.dims: expected an even number, found 19",
    ),
    "a rotary width of 0": (
        model(ropes={"far": RopeConfig(0), "near": RopeConfig(10)}),
        "ropes.far.dims: expected an integer",
    ),
    "more rotary dims than a head has": (
        model(ropes={"far": RopeConfig(22), "near": RopeConfig(10)}),
        "decoder.layers.0.self_attention.rope: expected at most 20 dims, a head's width, found 22",
    ),
    "a factor of 0": (
        model(ropes={"far": RopeConfig(20, 0.0), "near": RopeConfig(10)}),
        "ropes.far.factor: expected a positive",
    ),
    **{
        f"lengths {lengths}": (
            model(ropes={"far": RopeConfig(20, lengths=lengths), "near": RopeConfig(10)}),
            f"ropes.far.lengths: expected integers from 1 on that ascend, below 1048576, found {lengths}",
        )
        for lengths in ((0,), (7, 7), (9, 8), (1 << 20,))
    },
    "too many lengths": (
        model(ropes={"far": RopeConfig(20, lengths=tuple(range(1, 65))), "near": RopeConfig(10)}),
        "ropes.far.lengths: expected at most 63, found 64",
    ),
    "lengths that differ": (
        model(ropes={"far": RopeConfig(20, lengths=(5,)), "near": RopeConfig(10, lengths=(6,))}),
        "ropes: expected the same lengths of all ropes that have any",
    ),
    "too many ropes": (model(ropes={f"r{i}": RopeConfig(4) for i in range(9)}), "ropes: expected at most 8, found 9"),
    "a rope with a bad name": (model(ropes={"../x": RopeConfig(4)}), "ropes: expected names of up to 32 letters"),
    "a rope that is not there": (
        attention(rope="lost"), f"self_attention.rope: expected one of the ropes ('far', 'near'), found 'lost' {BOTH}"
    ),
    "no layers": (stack(layers=()), "decoder.layers: expected an integer from 1 to 256, found 0"),
    "too many layers": (
        stack(layers=decoder_only().decoder.layers * 129),
        "decoder.layers: expected an integer from 1 to 256",
    ),
    "no positions": (stack(max_positions=0), "decoder.max_positions: expected an integer from 1 to 1048576, found 0"),
    "too many positions": (
        stack(max_positions=(1 << 20) + 1),
        "decoder.max_positions: expected an integer from 1 to 1048576",
    ),
    "an unknown norm": (stack(norm="batch"), "decoder.norm: expected one of layer, rms, found 'batch'"),
    "an unknown placement": (
        stack(placement="mid"),
        "decoder.placement: expected one of post, pre, parallel, found 'mid'",
    ),
    "unknown positions": (stack(positions="rope"), "decoder.positions: expected one of table, none, found 'rope'"),
    "epsilon 0": (stack(norm_epsilon=0.0), "decoder.norm_epsilon: expected a number between 0 and 1, found 0.0"),
    "epsilon 1": (stack(norm_epsilon=1.0), "decoder.norm_epsilon: expected a number between 0 and 1, found 1.0"),
    "types below 0": (stack(types=-1), "decoder.types: expected an integer from 0 to 1024, found -1"),
    "reach below 0": (
        stack(relative_reach=-1),
        "decoder.relative_reach: expected an integer from 0 to 1048576, found -1",
    ),
    "post with norms after": (post(after_norms=True), 'decoder.after_norms: expected false, the placement "post"'),
    "post with a last norm": (post(final_norm=True), 'decoder.final_norm: expected false, the placement "post"'),
    "parallel with cross-attention": (
        post(placement="parallel"), 'decoder.layers.0.cross_attention: expected none with the placement "parallel"'
    ),
    "heads 0": (attention(heads=0), f"self_attention.heads: expected an integer from 1 to 16384, found 0 {BOTH}"),
    "key-value heads 0": (
        attention(kv_heads=0),
        "self_attention.kv_heads: expected an integer from 1 to 16384, found 0",
    ),
    "heads that do not group": (
        attention(kv_heads=4),
        "self_attention.kv_heads: expected a divisor of the 6 heads, found 4",
    ),
    "heads fewer than of keys": (
        attention(kv_heads=12),
        "self_attention.kv_heads: expected a divisor of the 6 heads, found 12",
    ),
    "a head of width 0": (
        attention(head_width=0),
        "self_attention.head_width: expected an integer from 1 to 256, found 0",
    ),
    "a head wider than 256": (
        attention(head_width=257),
        "self_attention.head_width: expected an integer from 1 to 256, found 257",
    ),
    "heads too wide together": (
        attention(heads=1024, head_width=20), "self_attention.heads: expected at most 819 of a width of 20, found 1024"
    ),
    "scale 0": (attention(scale=0.0), "self_attention.scale: expected a positive number, found 0.0"),
    "scale infinite": (attention(scale=float("inf")), "self_attention.scale: expected a positive number, found inf"),
    "a soft cap of 0": (attention(soft_cap=0.0), "self_attention.soft_cap: expected a positive number, found 0.0"),
    "a window of 0": (
        attention(window=(-1, 0)),
        "self_attention.window: expected the own key and 0 to 1048575 on a side",
    ),
    "a window of what follows": (
        attention(window=(4, 1)),
        "self_attention.window: expected no keys behind a decoder's own",
    ),
    "a window without end": (attention(window=(1 << 20, 0)), "self_attention.window: expected the own key and 0 to"),
    "a rope with lengths in an encoder": (
        lambda: replace(
            encoder_only(ropes={"r": RopeConfig(4, lengths=(8,))}),
            **of_layers(encoder_only(), "self_attention", rope="r"),
        ),
        "self_attention.rope: expected one without lengths, of an encoder, found 'r'",
    ),
    "a rope of a memory": (
        lambda: replace(CONFIG, ropes={"r": RopeConfig(4)}, **of_layers(CONFIG, "cross_attention", rope="r")),
        "cross_attention.rope: expected none, found 'r'",
    ),
    "a window of a memory": (cross(window=(1, 0)), "cross_attention.window: expected none, found (1, 0)"),
    "a feed-forward of width 0": (
        feed_forward(width=0),
        "feed_forward.width: expected an integer from 1 to 65536, found 0",
    ),
    "a feed-forward too wide": (feed_forward(width=65537), "feed_forward.width: expected an integer from 1 to 65536"),
    "an unknown activation": (feed_forward(activation="mish"), "feed_forward.activation: expected one of relu, gelu"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_itself_is_refused_by_name(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ValueError) as info:
        make()
    assert message in str(info.value)


@pytest.mark.parametrize(("field", "value"), (("relative_reach", 4), ("slopes", True)))
def test_what_layers_share_wants_as_many_heads(field: str, value: Any) -> None:
    few, many = (LayerConfig(AttentionConfig.plain(n, 4), CONFIG.encoder.layers[0].feed_forward) for n in (2, 4))
    with pytest.raises(ValueError, match=f"encoder.{field}: expected as many heads in all self-attentions.*found 2, 4"):
        replace(CONFIG, encoder=StackConfig((few, many), 40, **{field: value}))
    assert replace(CONFIG, encoder=StackConfig((few, few), 40, **{field: value}))


def test_where_cross_attention_belongs() -> None:
    encoder, decoder = CONFIG.encoder, CONFIG.decoder
    with pytest.raises(ValueError, match="encoder.layers.0.cross_attention: expected none, an encoder reads nothing"):
        replace(CONFIG, encoder=decoder)
    with pytest.raises(ValueError, match="decoder.layers.0.cross_attention: expected one in each layer"):
        replace(CONFIG, decoder=encoder)
    with pytest.raises(ValueError, match="decoder.layers.1.cross_attention: expected one in each layer[^(]*$"):
        replace(CONFIG, decoder=replace(decoder, layers=(decoder.layers[0], encoder.layers[0])))
    alone = dict(encoder=None, source_vocab=None, share_embeddings=False)
    with pytest.raises(ValueError, match="decoder.layers.0.cross_attention: expected none, there is no encoder"):
        replace(CONFIG, **alone)
    assert replace(CONFIG, **alone, decoder=replace(decoder, layers=encoder.layers))


def test_all_complaints_in_one_message() -> None:
    data = through_json(decoder_only().to_json())
    data.update(width=0, source_vocab=3)
    data["ropes"]["far"]["dims"] = 21
    data["decoder"].update(norm="batch", max_positions=-1)
    data["decoder"]["self_attention"].update(heads=[6, 5], head_width=300)
    data["decoder"]["feed_forward"]["activation"] = "mish"
    with pytest.raises(ModelFileError) as info:
        ModelConfig.from_json(data, "here")
    message = str(info.value)
    for part in (
        "here: width: ", "source_vocab: ", "ropes.far.dims: ", "decoder.max_positions: ", "decoder.norm: ",
        f"decoder.layers.0.self_attention.head_width: expected an integer from 1 to 256, found 300 {BOTH}",
        f"decoder.layers.0.feed_forward.activation: expected one of relu, gelu, gelu_tanh, quick_gelu, silu, tanh, "
        f"sigmoid, linear, found 'mish' {BOTH}",
    ):  # fmt: skip
        assert part in message
    assert "\n" not in message


def test_a_hadamard_matrix_is_for_decoders_that_read_norms() -> None:
    alone = replace(decoder_only(), hadamard=True)
    assert alone.takes_hadamard and alone.decoder is not None
    for refused in (
        lambda: replace(CONFIG, hadamard=True),
        lambda: replace(encoder_only(), hadamard=True),
        lambda: replace(alone, decoder=replace(alone.decoder, placement="post", after_norms=False, final_norm=False)),
    ):
        with pytest.raises(ValueError, match="hadamard: expected false but for a decoder alone"):
            refused()


def test_more_different_windows_than_groups_of_pages_are_refused() -> None:
    config = decoder_only()
    assert config.decoder is not None
    first = config.decoder.layers[0]
    layers = tuple(replace(first, self_attention=replace(first.self_attention, window=(i, 0))) for i in range(9))
    with pytest.raises(ValueError, match="decoder.self_attention.window: expected at most 8 different windows"):
        replace(config, decoder=replace(config.decoder, layers=layers))
