"""Trim a vocabulary to the tokens that a corpus uses: fewer rows to store, and to multiply by at every step.

A model keeps the tokens of its own tokenizer that occur in the text, those that the tokenizer and the search need,
and their logits to the last bit. What changes is that all others cannot be read (they become the unknown token, or
are cut in other pieces) or written (their share of the probability goes to the rest). A greedy search writes the
same as before wherever it wrote kept tokens only; so the text should hold translations by the model itself, as ids:
a model may spell a word in other pieces than its tokenizer would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pyengine.canonical import CanonicalModel, GenerationDefaults, LazyTensor, Removal
from pyengine.canonical.search import OPTIONS
from pyengine.errors import InputError, OptionError, TokenizerError, UnsupportedError
from pyengine.quantize.vocabulary.files import TokenizerFiles, open_files, write_files
from pyengine.text import Tokenizer, open_tokenizer, tokenizer_of

__all__ = ["KeptTokens", "TrimmedVocabulary", "trim_vocabulary"]

Sentence = str | Sequence[int] | np.ndarray  # a text, or the ids that stand for it
Pair = tuple["Sentence | None", "Sentence | None"]  # source and target; None for the stack that there is not
Ids = Sequence[int] | np.ndarray | None

_SOURCE_TABLES = ("encoder.embed.weight",)
_TARGET_TABLES = ("decoder.embed.weight", "output.weight", "output.bias")


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """The old id, int64, of each new one in a trimmed vocabulary; none of a stack that there is not."""

    source: np.ndarray
    target: np.ndarray

    def hold(self, source: Ids, target: Ids) -> bool:
        """Whether all of these old ids were kept."""
        both = ((source, self.source), (target, self.target))
        return all(bool(np.isin(ids, kept).all()) for ids, kept in both if ids is not None)

    def renumbered(self, source: Ids, target: Ids) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The new ids, int32, of old ones that were kept."""
        return _new_ids(self.source, source), _new_ids(self.target, target)


def _new_ids(kept: np.ndarray, old: Ids) -> np.ndarray | None:
    if old is None:
        return None
    order = np.argsort(kept)  # new ids need not ascend with old ones
    return order[np.searchsorted(kept, old, sorter=order)].astype(np.int32)


@dataclass(frozen=True)
class TrimmedVocabulary:
    """``model`` with fewer rows; ``source_ids`` and ``target_ids``, int64: the old id of each new one."""

    model: CanonicalModel
    source_ids: np.ndarray
    target_ids: np.ndarray


def trim_vocabulary(
    model: CanonicalModel, text: Iterable[Pair], directory: Path
) -> TrimmedVocabulary:
    """Keep of ``model`` what the pairs of ``text``, source and target, need; either may be given as token ids.

    A model with one stack has one vocabulary, and no text of the other.

    The tokenizer files of the new model are written to ``directory``, an empty one that has to stay until the model
    has been written. Tensors are read when asked for, as before. Raises OptionError: ``directory`` is not empty;
    InputError: no text, or an id outside the vocabulary; UnsupportedError: no tokenizer, or one of a kind that cannot
    be trimmed; and what ``open_tokenizer`` raises.
    """
    with model.laid_out() as laid:
        return _trimmed(laid, text, directory)


def _trimmed(model: CanonicalModel, text: Iterable[Pair], directory: Path) -> TrimmedVocabulary:
    tokenizer = tokenizer_of(model)
    if tokenizer is None or model.tokenizer_kind is None:
        raise UnsupportedError("vocabulary: expected a model with tokenizer files, found none")
    if not directory.is_dir() or any(directory.iterdir()):
        raise OptionError(f"{directory}: expected an empty directory")
    config, home = model.config, model.path
    sizes = {"source": config.source_vocab, "target": config.target_vocab}
    source, target = _used(tokenizer, text)
    places = {name: home / name for name in model.tokenizer_files}
    files = open_files(model.tokenizer_kind, places)
    beyond = max(files.special, default=0)  # a tokenizer.json opens whatever ids stand in it
    first = next(size for size in sizes.values() if size is not None)
    if beyond >= first:
        raise TokenizerError(f"{home}: expected special ids below the model's {first}, found {beyond}")
    target |= _named(model.generation)
    if files.separate and not config.share_embeddings and config.source_vocab and config.target_vocab:
        source_ids, target_ids = _separate(files, source, target, config.source_vocab, config.target_vocab)
    else:
        ids = sorted(files.closure(source | target | files.special | files.target_special))
        source_ids, target_ids = ([i for i in ids if size is not None and i < size] for size in sizes.values())
    write_files(files, places, source_ids or target_ids, target_ids or source_ids, directory)
    _check(tokenizer, directory, model.tokenizer_kind, source_ids, target_ids)
    rows = {name: np.array(source_ids) for name in _SOURCE_TABLES}
    tied = (name for name, head in config.heads.items() if head.out == "vocabulary")
    rows.update((f"head.{name}.out.bias", np.array(source_ids)) for name in tied)
    rows.update((name, np.array(target_ids)) for name in _TARGET_TABLES)
    trimmed = CanonicalModel(
        config=replace(config, source_vocab=len(source_ids) or None, target_vocab=len(target_ids) or None),
        generation=_renumbered(model.generation, {old: new for new, old in enumerate(target_ids)}),
        tensors={
            name: _selected(tensor, rows[name]) if name in rows else tensor
            for name, tensor in model.tensors.items()
        },
        tokenizer_kind=model.tokenizer_kind,
        tokenizer_files={path.name: path for path in sorted(directory.iterdir())},
        removed=(*model.removed, *_removed(sizes, source_ids, target_ids)),
    )
    trimmed.validate()
    return TrimmedVocabulary(trimmed, np.array(source_ids), np.array(target_ids))


def _removed(sizes: Mapping[str, int | None], source_ids: list[int], target_ids: list[int]) -> Iterator[Removal]:
    for side, kept in (("source", source_ids), ("target", target_ids)):
        total = sizes[side]
        if total is not None and len(kept) < total:
            yield Removal("tokens", side, total - len(kept), total)


def _used(tokenizer: Tokenizer, text: Iterable[Pair]) -> tuple[set[int], set[int]]:
    """The source and the target ids of all pairs."""
    source: set[int] = set()
    target: set[int] = set()
    for first, second in text:
        if first is not None:
            source.update(tokenizer.encode_source(first) if isinstance(first, str) else map(int, first))
        if second is not None:
            target.update(tokenizer.encode_target(second, end=True) if isinstance(second, str) else map(int, second))
    if not source and not target:
        raise InputError("text: expected pairs of lines, found none")
    for side, ids, size in (("source", source, tokenizer.source_size), ("target", target, tokenizer.target_size)):
        outside = [i for i in (min(ids, default=0), max(ids, default=0)) if not 0 <= i < size]
        if outside:
            raise InputError(f"text: expected {side} ids from 0 to {size - 1}, found {outside[0]}")
    return source, target


def _named(generation: GenerationDefaults | None) -> Set[int]:
    """Ids that the search may write by itself; those that it must not write need not be there."""
    if generation is None:
        return frozenset()
    begins = (generation.decoder_start_token_id, generation.bos_token_id, generation.forced_bos_token_id)
    single = (*begins, generation.pad_token_id)
    several = (*generation.eos_token_id, *generation.forced_eos_token_id)
    return {i for i in (*single, *several) if i is not None}


def _renumbered(generation: GenerationDefaults | None, number: Mapping[int, int]) -> GenerationDefaults | None:
    if generation is None:
        return None

    def new(id: int | None) -> int | None:
        return None if id is None else number[id]

    return replace(
        generation,
        decoder_start_token_id=new(generation.decoder_start_token_id),
        eos_token_id=tuple(number[i] for i in generation.eos_token_id),
        pad_token_id=new(generation.pad_token_id),
        bos_token_id=new(generation.bos_token_id),
        **{name: option.kind.renumbered(getattr(generation, name), number) for name, option in OPTIONS.items()},
    )


def _separate(
    files: TokenizerFiles, source: set[int], target: set[int], source_size: int, target_size: int
) -> tuple[list[int], list[int]]:
    """Old ids in their new order, of two vocabularies.

    The source's ids of special tokens stand for these in the target, too, where the target has so many ids: those
    come first in both. The others must not get an id that the target has, so that they come last in the source,
    behind ids that are kept for no other reason if there are too few.
    """
    low = {i for i in files.special if i < target_size}
    high = files.special - low
    target_ids = [*sorted(low), *sorted((target | files.target_special) - low)]
    rest = source - files.special
    if high:
        spare = (i for i in range(source_size) if i not in rest and i not in files.special)
        while len(low) + len(rest) < len(target_ids):
            rest.add(next(spare))
    return [*sorted(low), *sorted(rest), *sorted(high)], target_ids


def _selected(tensor: LazyTensor, rows: np.ndarray) -> LazyTensor:
    return replace(tensor, shape=(len(rows), *tensor.shape[1:]), load=lambda: tensor.read()[rows])


def _check(
    old: Tokenizer, directory: Path, kind: str, source_ids: Sequence[int], target_ids: Sequence[int]
) -> None:
    """TokenizerError unless the new files open, and give each id its old piece."""
    sizes = {"source_vocab": len(source_ids) or None, "target_vocab": len(target_ids) or None}
    new, kept = open_tokenizer(directory, kind, **sizes), target_ids or source_ids
    for number, (piece, wanted) in enumerate(zip(new.pieces(range(len(kept))), old.pieces(kept))):
        if piece != wanted:
            raise TokenizerError(f"{directory}: id {number}: expected the piece {wanted!r:.80}, found {piece!r:.80}")
