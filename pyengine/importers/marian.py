"""Marian, as Hugging Face exports it (opus-mt and its like): tables of config keys and tensor names.

Reference: transformers 5.23.0, models/marian; how it ties tables is described at ``_candidates``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor, ModelConfig, StackConfig
from pyengine.canonical.tensors import mismatches, sinusoidal_positions
from pyengine.checkpoints import StoredTensor
from pyengine.checkpoints.stored import READABLE
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.strict_json import Fields, shorten
from pyengine.importers.generation import GENERATION_KEYS, read_generation
from pyengine.importers.tokenizer_files import find_tokenizer
from pyengine.importers.unknown_keys import pass_over

__all__ = ["import_marian"]

_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
_NORM_EPSILON = 1e-5  # torch.nn.LayerNorm's default; MarianConfig has no key for it

# Keys that change the forward pass, at the only value that the engine (and transformers' Marian) implements.
_FIXED: dict[str, Any] = {
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
    "do_blenderbot_90_layernorm": False,
    "is_encoder_decoder": True,
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "prefix": "",
}
# attribute_map of MarianConfig: other names of keys.
_ALIASES = {
    "num_attention_heads": "encoder_attention_heads",
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
}
# Training, bookkeeping, and how transformers computes and what it returns. Keys that begin with "_" too.
_IGNORED = frozenset({
    "activation_dropout", "attention_dropout", "classif_dropout", "classifier_dropout", "decoder_layerdrop",
    "dropout", "encoder_layerdrop", "gradient_checkpointing", "init_std", "total_flos",
    "architectures", "dtype", "finetuning_task", "id2label", "label2id", "model_type", "name_or_path",
    "num_labels", "problem_type", "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype",
    "transformers_version", "unk_token_id",
    "attn_implementation", "chunk_size_feed_forward", "cross_attention_hidden_size", "output_past",
    "return_dict", "tf_legacy_loss", "torchscript", "use_bfloat16",
    "add_bias_logits",       # final_logits_bias is added if it is there
    "extra_pos_embeddings",  # only for learned positions, which static_position_embeddings rules out
})  # fmt: skip


def import_marian(
    path: Path, raw: dict[str, Any], weights: Mapping[str, StoredTensor], allowed: Collection[str]
) -> CanonicalModel:
    """The model in the checkpoint directory ``path`` with config.json ``raw`` and tensors ``weights``.

    Unknown keys are passed over if they are ``allowed``.
    """
    settings, unknown = _read_settings(path / "config.json", raw)
    notes = pass_over(path / "config.json", unknown, allowed)
    weights, others = _used(weights)
    if others:
        listed = ", ".join(shorten(name) for name in others[:8]) + (", ..." if len(others) > 8 else "")
        notes += (f"{path}: {len(others)} tensors of no layer or table passed over: {listed}",)
    _check_names(path, settings, weights)
    tables = _find_tables(settings, weights)
    config = _model_config(path / "config.json", settings, tables)
    _check_positions(weights)
    tokenizer, files = find_tokenizer(path)
    generation, more = read_generation(path, raw, config, allowed)
    return CanonicalModel(
        config=config,
        generation=generation,
        tensors=_canonical_tensors(config, tables, weights),
        tokenizer=tokenizer,
        tokenizer_files=files,
        notes=notes + more,
    )


@dataclass(frozen=True)
class _Settings:
    """The keys of config.json that say what the model is, with MarianConfig's names and defaults."""

    vocab_size: int
    decoder_vocab_size: int
    d_model: int
    encoder: StackConfig
    decoder: StackConfig
    max_position_embeddings: int
    activation_function: str
    scale_embedding: bool
    share_encoder_decoder_embeddings: bool
    tie_word_embeddings: bool


def _read_settings(path: Path, raw: Mapping[str, Any]) -> tuple[_Settings, dict[str, Any]]:
    """The settings, and the keys that are unknown."""
    given = {key: value for key, value in raw.items() if value is not None}
    for alias, key in _ALIASES.items():
        value = given.pop(alias, None)
        if value is not None and given.setdefault(key, value) != value:
            raise CheckpointError(
                f"{path}: {key} is {shorten(given[key])} and its other name {alias} is {shorten(value)}"
            )
    fields = Fields(given, str(path), CheckpointError)
    limit = 1 << 31

    width = fields.integer("d_model", 1, limit, 1024)

    def stack(name: str, cross: bool) -> StackConfig:
        layers = fields.integer(f"{name}_layers", 1, limit, 12)
        heads = fields.integer(f"{name}_attention_heads", 1, limit, 16)
        ffn_width = fields.integer(f"{name}_ffn_dim", 1, limit, 4096)
        try:
            return StackConfig.uniform(layers, heads, ffn_width, width=width, cross=cross)
        except ValueError as exc:
            raise UnsupportedError(f"{path}: {name}.{exc}") from None

    vocab_size = fields.integer("vocab_size", 1, limit, 58101)
    settings = _Settings(
        vocab_size=vocab_size,
        decoder_vocab_size=fields.integer("decoder_vocab_size", 1, limit, vocab_size),
        d_model=width,
        encoder=stack("encoder", cross=False),
        decoder=stack("decoder", cross=True),
        max_position_embeddings=fields.integer("max_position_embeddings", 1, limit, 1024),
        activation_function=fields.text("activation_function", "gelu"),
        scale_embedding=fields.flag("scale_embedding", False),
        share_encoder_decoder_embeddings=fields.flag("share_encoder_decoder_embeddings", True),
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
    )
    unknown = {}
    for key, value in fields.remaining().items():
        if key in _FIXED:
            if type(value) is not type(_FIXED[key]) or value != _FIXED[key]:
                only = shorten(_FIXED[key])
                raise UnsupportedError(f"{path}: {key} = {shorten(value)}: the engine has only {only}")
        elif key not in _IGNORED and key not in GENERATION_KEYS and not key.startswith("_"):
            unknown[key] = value
    if settings.activation_function not in _ACTIVATIONS:
        raise UnsupportedError(
            f"{path}: activation_function = {shorten(settings.activation_function)}; "
            f"supported: {', '.join(_ACTIVATIONS)}"
        )
    if settings.share_encoder_decoder_embeddings and settings.decoder_vocab_size != vocab_size:
        raise CheckpointError(
            f"{path}: share_encoder_decoder_embeddings with a vocab_size of {vocab_size} "
            f"and a decoder_vocab_size of {settings.decoder_vocab_size}"
        )
    return settings, unknown


# Raw name -> canonical name, below "model.encoder.layers.0." and the like.
_ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "output"}
_LAYER = {
    **{f"self_attn.{raw}": f"self_attention.{name}" for raw, name in _ATTENTION.items()},
    "self_attn_layer_norm": "self_attention.norm",
    "fc1": "ffn.up",
    "fc2": "ffn.down",
    "final_layer_norm": "ffn.norm",
}
_CROSS = {
    **{f"encoder_attn.{raw}": f"cross_attention.{name}" for raw, name in _ATTENTION.items()},
    "encoder_attn_layer_norm": "cross_attention.norm",
}


def _layer_names(encoder_layers: int, decoder_layers: int) -> Iterator[tuple[str, str]]:
    """(raw name, canonical name) of every tensor inside the layers."""
    for stack, layers, table in (
        ("encoder", encoder_layers, _LAYER),
        ("decoder", decoder_layers, {**_LAYER, **_CROSS}),
    ):
        for i in range(layers):
            for raw, name in table.items():
                for part in ("weight", "bias"):
                    yield f"model.{stack}.layers.{i}.{raw}.{part}", f"{stack}.layers.{i}.{name}.{part}"


def _layer_shape(name: str, settings: _Settings) -> tuple[int, ...]:
    """The shape of a tensor inside the layers, by canonical name."""
    stack = settings.encoder if name.startswith("encoder.") else settings.decoder
    ffn_width = stack.layers[0].ffn_width  # that of all, in a checkpoint
    outputs = ffn_width if ".ffn.up." in name else settings.d_model
    inputs = ffn_width if ".ffn.down." in name else settings.d_model
    return (outputs,) if name.endswith(".bias") or ".norm." in name else (outputs, inputs)


_SHARED = "model.shared.weight"
_ENCODER_TABLE = "model.encoder.embed_tokens.weight"
_DECODER_TABLE = "model.decoder.embed_tokens.weight"
_OUTPUT_TABLE = "lm_head.weight"
_OUTPUT_BIAS = "final_logits_bias"
_POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")


def _candidates(settings: _Settings, table: str) -> tuple[str, ...]:
    """Where ``table`` may be found, best first.

    transformers ties lm_head to the target table, and with share_encoder_decoder_embeddings both tables to
    "shared", unless a checkpoint holds several of them with different values: then each keeps its own. Before
    version 5 the shared table was one module, so exports may hold it alone even if lm_head is not tied.
    """
    tied, shared = settings.tie_word_embeddings, settings.share_encoder_decoder_embeddings
    group: tuple[str, ...] = ()
    if tied and shared:
        group = (_SHARED, _OUTPUT_TABLE, _DECODER_TABLE, _ENCODER_TABLE)
    elif shared:
        group = () if table == _OUTPUT_TABLE else (_SHARED, _DECODER_TABLE, _ENCODER_TABLE)
    elif tied:
        group = () if table == _ENCODER_TABLE else (_DECODER_TABLE, _OUTPUT_TABLE)
    return (table, *group)


@dataclass(frozen=True)
class _Tables:
    """The three roles of a vocabulary table; roles that are tied hold the same object."""

    source: StoredTensor
    target: StoredTensor
    output: StoredTensor


def _used(weights: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], list[str]]:
    """Tensors of layers and tables, and the names of all others, such as an optimizer's, which no result depends on.

    Those of layers or of an output layer that the config does not ask for stay: it must be wrong.
    """
    own = ("model.encoder.layers.", "model.decoder.layers.", "lm_head.")
    names = {_SHARED, _ENCODER_TABLE, _DECODER_TABLE, _OUTPUT_BIAS, *_POSITIONS}
    used = {name: tensor for name, tensor in weights.items() if name in names or name.startswith(own)}
    return used, [name for name in weights if name not in used]


def _check_names(path: Path, settings: _Settings, weights: Mapping[str, StoredTensor]) -> None:
    """Compare raw names and shapes with what ``settings`` ask for: one error for all that is wrong."""
    width, source, target = settings.d_model, settings.vocab_size, settings.decoder_vocab_size
    names = _layer_names(len(settings.encoder.layers), len(settings.decoder.layers))
    expected = {raw: _layer_shape(name, settings) for raw, name in names}
    for table, rows in ((_ENCODER_TABLE, source), (_DECODER_TABLE, target), (_OUTPUT_TABLE, target)):
        places = _candidates(settings, table)
        if not any(name in weights for name in places):
            expected[places[1] if len(places) > 1 else table] = (rows, width)
    optional = {
        _ENCODER_TABLE: (source, width),
        _DECODER_TABLE: (target, width),
        _OUTPUT_TABLE: (target, width),
        _OUTPUT_BIAS: (1, target),
        **{name: (settings.max_position_embeddings, width) for name in _POSITIONS},
    }
    if settings.share_encoder_decoder_embeddings:
        optional[_SHARED] = (source, width)
    expected.update((name, shape) for name, shape in optional.items() if name in weights)
    problem = mismatches(expected, {name: tensor.shape for name, tensor in weights.items()})
    if problem:
        raise CheckpointError(f"{path}: the tensors do not match config.json: {problem}")
    wrong = [f"{name} ({tensor.dtype})" for name, tensor in weights.items() if tensor.dtype not in READABLE]
    if wrong:
        known = ", ".join(READABLE)
        raise UnsupportedError(f"{path}: tensors of a type other than {known}: {', '.join(wrong)}")


def _find_tables(settings: _Settings, weights: Mapping[str, StoredTensor]) -> _Tables:
    def find(table: str) -> StoredTensor:
        return next(weights[name] for name in _candidates(settings, table) if name in weights)

    source, target, output = find(_ENCODER_TABLE), find(_DECODER_TABLE), find(_OUTPUT_TABLE)
    if settings.share_encoder_decoder_embeddings and _same(source, target):
        source = target
    if settings.tie_word_embeddings and _same(output, target):
        output = target
    return _Tables(source, target, output)


def _same(a: StoredTensor, b: StoredTensor) -> bool:
    return a is b or a.same_storage(b) or (a.shape == b.shape and np.array_equal(a.read(), b.read()))


def _model_config(path: Path, settings: _Settings, tables: _Tables) -> ModelConfig:
    try:
        return ModelConfig(
            family="marian",
            width=settings.d_model,
            encoder=settings.encoder,
            decoder=settings.decoder,
            source_vocab=settings.vocab_size,
            target_vocab=settings.decoder_vocab_size,
            max_positions=settings.max_position_embeddings,
            activation=_ACTIVATIONS[settings.activation_function],
            embedding_scale=math.sqrt(settings.d_model) if settings.scale_embedding else 1.0,
            norm_epsilon=_NORM_EPSILON,
            share_embeddings=tables.source is tables.target,
            tie_output=tables.output is tables.target,
        )
    except ValueError as exc:
        raise UnsupportedError(f"{path}: {exc}") from None


def _check_positions(weights: Mapping[str, StoredTensor]) -> None:
    """Stored position tables must be the sinusoids that the engine computes."""
    for name in _POSITIONS:
        if name not in weights:
            continue
        stored = weights[name]
        # Half a step of the stored type at 1, and for float32 room for another library's sine.
        bound = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(stored.dtype, 1e-6)
        difference = np.abs(stored.read() - sinusoidal_positions(*stored.shape)).max()
        if not difference <= bound:
            raise UnsupportedError(
                f"{stored.path}: tensor {name}: expected sinusoidal positions, "
                f"found values that differ by up to {difference:.3g}"
            )


def _canonical_tensors(
    config: ModelConfig, tables: _Tables, weights: Mapping[str, StoredTensor]
) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}

    def add(name: str, stored: StoredTensor) -> None:
        tensors[name] = LazyTensor(name, stored.shape, stored.dtype, stored.read)

    if not config.share_embeddings:
        add("encoder.embed.weight", tables.source)
    add("decoder.embed.weight", tables.target)
    if not config.tie_output:
        add("output.weight", tables.output)
    bias = weights.get(_OUTPUT_BIAS)
    tensors["output.bias"] = LazyTensor(
        "output.bias",
        (config.target_vocab,),
        bias.dtype if bias else "float32",
        (lambda: _read_bias(bias)) if bias else (lambda: np.zeros(config.target_vocab, np.float32)),
    )
    for raw, name in _layer_names(len(config.encoder.layers), len(config.decoder.layers)):
        add(name, weights[raw])
    return tensors


def _read_bias(stored: StoredTensor) -> np.ndarray:
    """float32 [target_vocab]; minus infinity for ids that are never written."""
    bias = stored.read(minus_infinity=True)[0]
    if np.isneginf(bias).all():
        raise CheckpointError(f"{stored.path}: tensor {stored.name}: expected a finite number for some id, found none")
    return bias
