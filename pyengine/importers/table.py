"""Reading a checkpoint by the table of its family: keys of config.json, raw names of tensors, and what is tied.

A family says what it honours; all else is refused unless its table says that it changes nothing. What is wrong with
keys comes in one message, and what is wrong with tensors in another. What is passed over is told in notes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor, ModelConfig, TensorSpec, tensor_specs
from pyengine.canonical.tensors import mismatches
from pyengine.checkpoints import StoredTensor
from pyengine.checkpoints.stored import NUMBERS, READABLE
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.strict_json import Fields, shorten
from pyengine.importers.generation import GENERATION_KEYS, read_generation
from pyengine.importers.unknown_keys import pass_over

__all__ = ["IGNORED", "Family", "Plan", "RawCheckpoint", "Source", "import_checkpoint"]

_LISTED = 8  # tensors in a note

# Training, bookkeeping, how transformers computes and what it returns: of every family. Keys that begin with "_", too.
IGNORED = frozenset({
    "architectures", "dtype", "finetuning_task", "id2label", "label2id", "model_type", "name_or_path", "num_labels",
    "problem_type", "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype", "transformers_version",
    "unk_token_id", "attn_implementation", "chunk_size_feed_forward", "return_dict", "tf_legacy_loss", "torchscript",
    "use_bfloat16", "gradient_checkpointing",
})  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where a canonical tensor comes from.

    names     raw names that may hold it, best first. The second one is that of a table that several tensors share:
              where none is there, this is missing
    shape     of the raw tensor, if it is another than that of the canonical one
    take      what makes the canonical values of the raw ones, float32
    default   the values where no name is there; None: there must be one
    constant  where stored values must be those of ``default``, what these are, for people
    """

    names: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    take: Callable[[np.ndarray], np.ndarray] | None = None
    default: Callable[[], np.ndarray] | None = None
    constant: str = ""

    def find(self, weights: Mapping[str, StoredTensor]) -> StoredTensor | None:
        """The best of the stored tensors."""
        return next((weights[name] for name in self.names if name in weights), None)


@dataclass(frozen=True)
class Plan:
    """What a family makes of its keys: the configuration, and the source of each tensor.

    Where ``config`` shares embeddings or ties the output layer, tables may do so: there are sources of all of them, and
    those whose stored values differ stay apart.
    """

    config: ModelConfig
    sources: Mapping[str, Source]


@dataclass(frozen=True)
class Family:
    """A family of models, by the names that transformers gives to its classes and keys.

    architectures, model_type   of config.json, by which it is known
    title     what people call the models
    keys      those that are honoured, with the defaults of the config class
    nullable  of these, where null is a value of its own and not the default; also where the default is None
    plan      takes all of them out of the fields; ValueError for values that the engine lacks
    own       how names of the model's own tensors begin: one of these that the configuration does not ask for is an
              error. Others, such as an optimizer's, are passed over
    buffers   how names of tensors end that old files hold and a formula gives: passed over
    renamed   other beginnings of names -> those that ``plan`` knows
    nested    the key whose object holds those of the language model, if they are not beside it
    aliases   other names of keys: alias -> key
    fixed     keys that change the forward pass, at the only value that is implemented
    ignored   keys that change nothing, besides those of all families
    tokens    what the config class says of tokens that begin and end a search, where config.json does not
    checked   what tests of transformers' own models show beside what they show of each family, for docs/models.md
    """

    architectures: tuple[str, ...]
    model_type: str
    title: str
    keys: Mapping[str, Any]
    plan: Callable[[Fields], Plan]
    own: tuple[str, ...]
    nullable: frozenset[str] = frozenset()
    buffers: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    nested: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    tokens: Mapping[str, int] = field(default_factory=dict)
    checked: str = ""


@dataclass(frozen=True)
class RawCheckpoint:
    """What there is to import, whatever it was read from.

    path     the directory or file
    place    the file that ``config`` came out of, for people
    config   as in config.json
    weights  by the names of transformers' classes
    tokenizer_kind, tokenizer_files  of ``CanonicalModel``
    """

    path: Path
    place: Path
    config: Mapping[str, Any]
    weights: Mapping[str, StoredTensor]
    tokenizer_kind: str | None
    tokenizer_files: Mapping[str, Path | bytes]


def import_checkpoint(family: Family, raw: RawCheckpoint, allowed: Collection[str]) -> CanonicalModel:
    """The model in a checkpoint of ``family``. Unknown keys are passed over if they are ``allowed``."""
    path, keys = raw.path, raw.config
    if family.nested is not None:
        inner = Fields(keys.get(family.nested), f"{raw.place}: {family.nested}", CheckpointError)
        keys = {**{key: value for key, value in keys.items() if key != family.nested}, **inner.remaining()}
    plan, notes = _read_keys(family, raw.place, keys, allowed)
    weights, others = _used(family, plan, _renamed(family, raw.weights))
    if others:
        listed = ", ".join(shorten(name) for name in others[:_LISTED]) + (", ..." if len(others) > _LISTED else "")
        notes += (f"{path}: {len(others)} tensors of no layer or table passed over: {listed}",)
    _check_tensors(path, plan, weights)
    config = _tied(plan, weights)
    tensors = {
        name: _tensor(name, spec, plan.sources[name], weights) for name, spec in tensor_specs(config).items()
    }
    generation, more = read_generation(path, raw.place, {**family.tokens, **keys}, config, allowed)
    files = raw.tokenizer_kind, raw.tokenizer_files
    return CanonicalModel(config, generation, tensors, *files, notes=notes + more)


def _read_keys(
    family: Family, path: Path, raw: Mapping[str, Any], allowed: Collection[str]
) -> tuple[Plan, tuple[str, ...]]:
    """What the keys ask for, and notes of those that are passed over."""
    given = {key: value for key, value in raw.items() if value is not None or key in family.nullable}
    for alias, key in family.aliases.items():
        value = given.pop(alias, None)
        if value is not None and given.setdefault(key, value) != value:
            raise CheckpointError(
                f"{path}: {key} is {shorten(given[key])} and its other name {alias} is {shorten(value)}"
            )
    fields = Fields({**family.keys, **given}, str(path), CheckpointError)
    lacking = _other_values(family, fields)
    try:
        plan = family.plan(fields)
    except ValueError as exc:  # which keys it would have taken is not known
        raise UnsupportedError(f"{path}: {'; '.join([*lacking, str(exc)])}") from None
    return plan, pass_over(path, _unknown(family, fields), allowed, lacking)


def _other_values(family: Family, fields: Fields) -> list[str]:
    """Keys that are fixed, at other values; all that are fixed are taken."""
    lacking = []
    for key, only in family.fixed.items():
        value = fields.take(key, only)
        if type(value) is not type(only) or value != only:
            lacking.append(f"{key} = {shorten(value)}: the engine has only {shorten(only)}")
    return lacking


def _unknown(family: Family, fields: Fields) -> dict[str, Any]:
    known = GENERATION_KEYS | IGNORED | family.ignored
    return {key: value for key, value in fields.remaining().items() if key not in known and key[:1] != "_"}


def _renamed(family: Family, weights: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """``weights`` by the names that the plan knows; CheckpointError where two are called the same then."""
    plain: dict[str, StoredTensor] = {}
    for name, tensor in weights.items():
        begin = next((begin for begin in family.renamed if name.startswith(begin)), "")
        known = family.renamed.get(begin, "") + name.removeprefix(begin)
        if known in plain:
            raise CheckpointError(f"{tensor.path}: tensors {plain[known].name} and {name}: expected one of them")
        plain[known] = tensor
    return plain


def _used(
    family: Family, plan: Plan, weights: Mapping[str, StoredTensor]
) -> tuple[dict[str, StoredTensor], list[str]]:
    """The model's own tensors, and the names of all others, which no result depends on."""
    names = {name for source in plan.sources.values() for name in source.names}
    own = {name for name in weights if name.startswith(family.own) and not name.endswith(family.buffers)}
    used = {name: tensor for name, tensor in weights.items() if name in names or name in own}
    return used, [name for name in weights if name not in used]


def _check_tensors(path: Path, plan: Plan, weights: Mapping[str, StoredTensor]) -> None:
    """Compare raw names and shapes with what the plan asks for: one error for all that is wrong."""
    expected: dict[str, tuple[int, ...]] = {}
    missing: dict[str, tuple[int, ...]] = {}
    for name, spec in tensor_specs(replace(plan.config, share_embeddings=False, tie_output=False)).items():
        source = plan.sources[name]
        shape = source.shape or spec.shape
        if source.find(weights) is None and source.default is None:
            missing.setdefault(source.names[:2][-1], shape)
        expected.update((raw, shape) for raw in source.names if raw in weights)
    found = {name: tensor.shape for name, tensor in weights.items()}
    problem = mismatches({**missing, **expected}, found)
    if problem:
        raise CheckpointError(f"{path}: the tensors do not match the configuration: {problem}")
    wrong = [f"{name} ({tensor.dtype})" for name, tensor in weights.items() if tensor.dtype not in READABLE]
    if wrong:
        known = ", ".join(NUMBERS)
        raise UnsupportedError(f"{path}: tensors of a type other than {known}: {', '.join(wrong)}")
    for source in plan.sources.values():
        stored = source.find(weights)
        if source.constant and source.default is not None and stored is not None:
            _check_constant(stored, source.default(), source.constant)


def _check_constant(stored: StoredTensor, values: np.ndarray, what: str) -> None:
    # Half a step of the stored type at 1, and for float32 room for another library's sine.
    bound = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(stored.dtype, 1e-6)
    difference = np.abs(stored.read() - values).max()
    if not difference <= bound:
        raise UnsupportedError(
            f"{stored.path}: tensor {stored.name}: expected {what}, found values that differ by up to {difference:.3g}"
        )


def _tied(plan: Plan, weights: Mapping[str, StoredTensor]) -> ModelConfig:
    """The configuration with one table for two roles only where what is stored for them is the same."""
    config = plan.config

    def same(one: str, other: str) -> bool:
        a, b = plan.sources[one].find(weights), plan.sources[other].find(weights)
        assert a is not None and b is not None  # as _check_tensors has seen, and below
        return a.same_storage(b) or (a.shape == b.shape and np.array_equal(a.read(), b.read()))

    share = config.share_embeddings and same("encoder.embed.weight", "decoder.embed.weight")
    tie = config.tie_output and same("output.weight", "decoder.embed.weight")
    return replace(config, share_embeddings=share, tie_output=tie)


def _tensor(name: str, spec: TensorSpec, source: Source, weights: Mapping[str, StoredTensor]) -> LazyTensor:
    stored = source.find(weights)
    if source.default is not None and (stored is None or source.constant):
        return LazyTensor(name, spec.shape, "float32", source.default)
    assert stored is not None
    read: Callable[[], np.ndarray] = stored.read if name != "output.bias" else partial(_read_bias, stored)
    take = source.take
    return LazyTensor(name, spec.shape, stored.dtype, read if take is None else lambda: take(read()))


def _read_bias(stored: StoredTensor) -> np.ndarray:
    """Of the output layer: minus infinity for ids that are never written."""
    bias = stored.read(minus_infinity=True)
    if np.isneginf(bias).all():
        raise CheckpointError(f"{stored.path}: tensor {stored.name}: expected a finite number for some id, found none")
    return bias
