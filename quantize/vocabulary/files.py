"""The files of a tokenizer with fewer tokens: what ``trim`` keeps is written here, what it must keep found.

A vocab.json is filtered and renumbered, and the .spm files stay as they are: a piece that is not in
vocab.json is the unknown token. Of a tokenizer.json the vocabulary is filtered, of BPE the merges, too; words of
kept tokens are cut as before, because what is removed took no part in cutting them:

    Unigram              the best path has kept pieces only; the lowest score stays, of which the unknown's is made
    WordPiece, WordLevel the longest match at each place is a kept one
    BPE                  all that a kept token is merged from is kept, so that no other merge ever came to it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pyengine.errors import TokenizerError, UnsupportedError
from pyengine.formats.limits import TOKENIZER_SETTINGS_BYTES, VOCABULARY_BYTES
from pyengine.formats.regular_files import read_regular
from pyengine.formats.strict_json import load_object, shorten
from pyengine.output import create_file
from pyengine.text.sentencepiece import TARGET_VOCABULARY_FILE, VOCABULARY_FILE, added_tokens
from pyengine.text.settings import ADDED_TOKENS_FILE, CONFIG_FILE, read_settings
from pyengine.text.tokenizer_json import TOKENIZER_FILE
from pyengine.text.vocabulary import read_vocabulary

__all__ = ["TokenizerFiles", "open_files", "write_files"]

_Number = Mapping[int, int]  # old id -> new id


class TokenizerFiles(Protocol):
    """What differs between the kinds of tokenizers. Ids are old ones.

    ``separate``: source and target have vocabularies of their own. ``special``: ids that must stay, of the source
    where they are separate; ``target_special``: those of the target.
    """

    separate: bool
    special: frozenset[int]
    target_special: frozenset[int]

    def closure(self, ids: set[int]) -> set[int]:
        """``ids``, and those without which the tokenizer would not come to them."""

    def changed(self, source: _Number, target: _Number) -> dict[str, Any]:
        """The JSON content of files that change, by name."""


def open_files(kind: str, files: Mapping[str, Path]) -> TokenizerFiles:
    """The ``files`` of a tokenizer that ``open_tokenizer`` has opened; UnsupportedError if it cannot be trimmed."""
    return (_PieceFiles if kind == "sentencepiece" else _JsonFiles)(files)


def write_files(
    trimmed: TokenizerFiles, files: Mapping[str, Path], source: Sequence[int], target: Sequence[int], directory: Path
) -> None:
    """Write ``files`` to ``directory`` with the ids ``source`` and ``target`` only, in this order."""
    source_number = {old: new for new, old in enumerate(source)}
    changed = trimmed.changed(source_number, {old: new for new, old in enumerate(target)})
    changed.update(_settings(files, source_number))
    for name, path in files.items():
        if name in changed:
            content = (json.dumps(changed[name], indent=1) + "\n").encode("ascii")
        else:
            content = read_regular(path, TokenizerError, VOCABULARY_BYTES)
        with create_file(directory / name) as file:
            file.write(content)


def _settings(files: Mapping[str, Path], number: _Number) -> dict[str, Any]:
    """The files beside a vocabulary that have ids in them, with new ones; removed tokens are gone."""
    # Beside a tokenizer.json nothing has checked these files, nor reads ids in them.
    changed = {}
    if CONFIG_FILE in files:
        config = load_object(files[CONFIG_FILE], TokenizerError, TOKENIZER_SETTINGS_BYTES)
        table = config.get("added_tokens_decoder")
        if isinstance(table, dict):
            written = {str(old): str(new) for old, new in number.items()}
            kept = {written[old]: token for old, token in table.items() if old in written}
            config["added_tokens_decoder"] = kept
            changed[CONFIG_FILE] = config
    if ADDED_TOKENS_FILE in files:
        table = load_object(files[ADDED_TOKENS_FILE], TokenizerError, TOKENIZER_SETTINGS_BYTES)
        kept = {token: old for token, old in table.items() if isinstance(old, int) and old in number}
        changed[ADDED_TOKENS_FILE] = {token: number[old] for token, old in kept.items()}
    return changed


class _PieceFiles:
    """See ``TokenizerFiles``: source.spm, target.spm, vocab.json, target_vocab.json."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        directory = files[VOCABULARY_FILE].parent
        settings = read_settings(directory)
        required = (settings.unknown, settings.end)
        source = read_vocabulary(directory / VOCABULARY_FILE, required)
        self.separate = settings.separate_vocabularies
        added = added_tokens(directory, settings, source)
        self.special = frozenset(added) | {source.ids[token] for token in required}
        self._vocabularies = {VOCABULARY_FILE: source.pieces}
        self.target_special: frozenset[int] = frozenset()
        if self.separate:
            target = read_vocabulary(directory / TARGET_VOCABULARY_FILE, required)
            contents = (*settings.special, *(token.content for token in added.values()))
            self.target_special = frozenset(target.ids[token] for token in contents if token in target.ids)
            self._vocabularies[TARGET_VOCABULARY_FILE] = target.pieces

    def closure(self, ids: set[int]) -> set[int]:
        """See ``TokenizerFiles``."""
        return ids

    def changed(self, source: _Number, target: _Number) -> dict[str, Any]:
        """See ``TokenizerFiles``."""
        numbers = {VOCABULARY_FILE: source, TARGET_VOCABULARY_FILE: target}
        return {name: _filtered(name, pieces, numbers[name]) for name, pieces in self._vocabularies.items()}


def _filtered(name: str, pieces: Sequence[str], number: _Number) -> dict[str, int]:
    """The content of a vocab.json; ids behind it are those of added tokens and have to stay behind it."""
    kept = {piece: number[old] for old, piece in enumerate(pieces) if old in number}
    if max(kept.values()) >= len(kept):
        raise UnsupportedError(
            f"{name}: cannot trim separate vocabularies whose special tokens have ids beyond the source's"
        )
    return dict(sorted(kept.items(), key=lambda item: item[1]))


class _JsonFiles:
    """See ``TokenizerFiles``: tokenizer.json, one vocabulary for both sides."""

    separate = False
    target_special: frozenset[int] = frozenset()

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._path = files[TOKENIZER_FILE]
        self._content = load_object(self._path, TokenizerError, VOCABULARY_BYTES)
        self._model = self._content["model"]
        self._kind = self._model.get("type")
        if self._kind == "Unigram":
            self._ids = {piece: i for i, (piece, _) in enumerate(self._model["vocab"])}
        elif self._kind in ("WordPiece", "WordLevel", "BPE"):
            self._ids = dict(self._model["vocab"])
        else:
            known = "Unigram, WordPiece, WordLevel and BPE"
            raise UnsupportedError(f"{self._path}: model: {shorten(self._kind)}: only {known} can be trimmed")
        self._merges = [_pair(merge) for merge in self._model.get("merges", ())]
        self.special = frozenset(self._required())

    def _required(self) -> Iterator[int]:
        yield from (token["id"] for token in self._content.get("added_tokens") or ())
        for holder, key in self._other_ids():
            yield holder[key]
        if self._model.get("byte_fallback"):
            names = (f"<0x{byte:02X}>" for byte in range(256))
            yield from (self._ids[name] for name in names if name in self._ids)
        if self._kind == "Unigram":
            scores = [score for _, score in self._model["vocab"]]
            yield scores.index(min(scores))
        elif self._model.get("unk_token") is not None:
            yield from (self._ids[piece] for piece in (self._model["unk_token"],) if piece in self._ids)
        elif self._kind == "BPE":  # nothing stands for what no piece covers: a byte or character would be lost
            yield from (i for piece, i in self._ids.items() if len(piece) == 1)

    def closure(self, ids: set[int]) -> set[int]:
        """See ``TokenizerFiles``."""
        prefix = len(self._model.get("continuing_subword_prefix") or "")
        parts: dict[int, list[int]] = {}
        for left, right in self._merges:
            merged = self._ids[left + right[prefix:]]
            parts.setdefault(merged, []).extend((self._ids[left], self._ids[right]))
        found, new = set(ids), list(ids)
        while new:
            missing = set(parts.get(new.pop(), ())) - found
            found |= missing
            new.extend(missing)
        return found

    def changed(self, source: _Number, target: _Number) -> dict[str, Any]:
        """See ``TokenizerFiles``. May be called once: the content is changed in place."""
        number = target
        kept = {piece: number[i] for piece, i in self._ids.items() if i in number}
        if self._kind == "Unigram":
            self._model["vocab"] = [entry for i, entry in enumerate(self._model["vocab"]) if i in number]
        else:
            self._model["vocab"] = kept
        if self._kind == "BPE":
            prefix = len(self._model.get("continuing_subword_prefix") or "")
            self._model["merges"] = [
                [left, right]
                for left, right in self._merges
                if left in kept and right in kept and left + right[prefix:] in kept
            ]
        for holder, key in [*self._other_ids(), *((token, "id") for token in self._content.get("added_tokens") or ())]:
            holder[key] = number[holder[key]]
        return {TOKENIZER_FILE: self._content}

    def _other_ids(self) -> Iterator[tuple[Any, Any]]:
        """(container, key) of each id outside the vocabulary and the added tokens."""
        if self._model.get("unk_id") is not None:
            yield self._model, "unk_id"
        if self._content.get("padding"):
            yield self._content["padding"], "pad_id"
        waiting: list[Any] = [self._content.get("post_processor")]
        while waiting:
            step = waiting.pop()
            kind = step.get("type") if step else None
            if kind == "Sequence":
                waiting += step["processors"]
            elif kind == "TemplateProcessing":
                for token in step["special_tokens"].values():
                    yield from ((token["ids"], i) for i in range(len(token["ids"])))
            elif kind in ("BertProcessing", "RobertaProcessing"):
                yield from ((step[name], 1) for name in ("sep", "cls"))
            elif kind not in (None, "ByteLevel"):
                raise UnsupportedError(f"{self._path}: post_processor: {shorten(kind)}: cannot be renumbered")


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """A merge is a list of two pieces or, in older files, a text with one space."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
