"""What families read out of keys of config.json: sizes, heads, activations, and which layers have windows."""

from __future__ import annotations

from collections.abc import Callable

from pyengine.canonical import LayerConfig
from pyengine.canonical.config_checks import MAX_HEAD_WIDTH, MAX_LAYERS
from pyengine.formats.strict_json import Fields, shorten

__all__ = [
    "WHOLE", "activation_by_name", "activation_of", "equal_layers", "head_width_of", "layer_count", "layer_windows",
    "number_or_none", "size", "size_or", "size_or_none", "window_of",
]  # fmt: skip

WHOLE = (1, 1 << 31)  # of a size in config.json: what the engine takes of these is for ModelConfig to say

_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "linear",
}


def size(fields: Fields, name: str) -> int:
    """A size of at least 1."""
    return fields.integer(name, *WHOLE)


def size_or_none(fields: Fields, name: str) -> int | None:
    """The same; null stays None."""
    value = fields.take(name)
    return None if value is None else Fields({name: value}, fields.where, fields.error).integer(name, *WHOLE)


def size_or(fields: Fields, name: str, default: int) -> int:
    """The same; null is ``default``."""
    found = size_or_none(fields, name)
    return default if found is None else found


def number_or_none(fields: Fields, name: str) -> float | None:
    """A number; null stays None."""
    value = fields.take(name)
    return None if value is None else Fields({name: value}, fields.where, fields.error).number(name)


def layer_count(fields: Fields, name: str) -> int:
    """How many layers there are; ValueError, naming the key, for more than there may be."""
    count = size(fields, name)
    _check_layers(count, name)
    return count


def _check_layers(count: int, name: str) -> None:
    if count > MAX_LAYERS:
        raise ValueError(f"{name}: expected an integer from 1 to {MAX_LAYERS}, found {count}")


def layer_windows(
    fields: Fields, count: int, window: int | None, slides: Callable[[int], bool]
) -> list[int | None]:
    """The ``window`` of those of ``count`` layers that have one: by "layer_types", or where that is null by ``slides``.

    ValueError if some have one and there is none.
    """
    words = fields.take("layer_types")
    kinds = ("full_attention", "sliding_attention")
    if words is None:
        words = [kinds[slides(i)] for i in range(count)]
    if not isinstance(words, list) or len(words) != count:
        fields.fail("layer_types", f"a list of {count} words, one a layer", words)
    for word in words:
        if word not in kinds:
            raise ValueError(f"layer_types: {shorten(word)}; supported: {', '.join(kinds)}")
    if window is None and kinds[1] in words:
        raise ValueError(f"layer_types: {kinds[1]}, and no sliding_window, or use_sliding_window is false")
    return [window if word == kinds[1] else None for word in words]


def window_of(size: int | None, positions: int) -> tuple[int, int] | None:
    """The window of a key that counts the own token; none where it is no less than all positions."""
    return None if size is None or size >= positions else (size - 1, 0)


def head_width_of(width: int, heads: int, name: str) -> int:
    """What ``heads`` heads of a ``width`` have each; ValueError, naming them, if they do not share it out evenly."""
    if width % heads:
        raise ValueError(f"{name}: {heads} heads do not divide a width of {width}")
    if width // heads > MAX_HEAD_WIDTH:
        found = f"{width // heads} in a width of {width}"
        raise ValueError(f"{name}: expected heads of a width of at most {MAX_HEAD_WIDTH}, found {found}")
    return width // heads


def equal_layers(layer: LayerConfig, count: int, name: str) -> tuple[LayerConfig, ...]:
    """``count`` equal layers; ValueError, naming them, for more than there may be."""
    _check_layers(count, name)
    return (layer,) * count


def activation_of(fields: Fields, name: str) -> str:
    """The canonical name of an activation of transformers; ValueError, naming its key, for others."""
    return activation_by_name(fields.text(name), name)


def activation_by_name(found: str, key: str) -> str:
    """The same of an activation that ``key`` has named."""
    if found not in _ACTIVATIONS:
        raise ValueError(f"{key} = {shorten(found)}; supported: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[found]
