"""The kinds of tokenizers that GGUF files have, each as parts of a tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyengine.errors import UnsupportedError
from pyengine.formats.strict_json import shorten
from pyengine.importers.gguf_tokenizer.metadata import NAMED, TOKENS, Metadata, TokenType, Vocabulary
from pyengine.importers.gguf_tokenizer.splits import SPLITS

__all__ = ["KINDS", "Parts"]

_MERGES = "tokenizer.ggml.merges"
_PRE = "tokenizer.ggml.pre"
_ADD_BEGIN = "tokenizer.ggml.add_bos_token"
_ADD_END = "tokenizer.ggml.add_eos_token"
_ADD_SEPARATOR = "tokenizer.ggml.add_sep_token"

_SPACE = "\u2581"  # what SentencePiece has for a space
# Characters that are looked at while tokens are taken apart: 13 million with 262,144 tokens.
_TAKING_APART = 64 << 20
# Of these architectures' SentencePiece tokenizers, added tokens take the white space on their right with them, but for
# these few: llama.cpp, src/llama-vocab.cpp, and the original's tokenizer.json.
_STRIPPING = {"phi3": ("<unk>", "<s>", "<|endoftext|>")}


@dataclass(frozen=True)
class Parts:
    """What a kind makes of a vocabulary; dictionaries are objects of tokenizer.json.

    ``tokens``: by id, as ``model`` has them. ``begin``, ``end``: the tokens that are added to a text.
    """

    model: dict[str, Any]
    tokens: list[str]
    decoder: dict[str, Any]
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    begin: int | None = None
    end: int | None = None
    normalized: bool = False  # tokens of users are looked for in the text as the normalizer leaves it
    stripping: frozenset[str] = frozenset()  # added tokens that take the white space on their right with them


def byte_level(metadata: Metadata, vocabulary: Vocabulary) -> Parts:
    """``gpt2``: the text is split, and in each piece pairs of bytes are merged in the order of a list."""
    name = metadata.text(_PRE)
    splits = SPLITS.get(name or "")
    if splits is None:
        raise UnsupportedError(f"{metadata.where}: {_PRE}: {shorten(name)}; supported: {', '.join(SPLITS)}")
    if metadata.flag(_ADD_SEPARATOR):
        raise UnsupportedError(f"{metadata.where}: {_ADD_SEPARATOR}: a separator is not added to pairs of bytes")
    patterns = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in splits.patterns
    ]
    bytes_as_signs = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    merges = _listed_merges(metadata, vocabulary)
    return Parts(
        model=_pairs(vocabulary.tokens, merges, ignore_merges=splits.whole_words),
        tokens=vocabulary.tokens,
        decoder=bytes_as_signs,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*patterns, bytes_as_signs]},
        begin=_added(metadata, vocabulary, _ADD_BEGIN, "bos_token", splits.begin),
        end=_added(metadata, vocabulary, _ADD_END, "eos_token", False),
    )


def scored_pieces(metadata: Metadata, vocabulary: Vocabulary) -> Parts:
    """``llama``: SentencePiece, whose pairs of characters are merged by the score of what they make."""
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix") is not False
    merges = _scored_merges(metadata, vocabulary)
    return _pieces(metadata, vocabulary, merges, prefix=prefix, begin=True)


def listed_pieces(metadata: Metadata, vocabulary: Vocabulary) -> Parts:
    """``gemma4``: SentencePiece, whose pairs of characters are merged in the order of a list."""
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix") is True
    return _pieces(metadata, vocabulary, _listed_merges(metadata, vocabulary), prefix=prefix, begin=False)


def word_pieces(metadata: Metadata, vocabulary: Vocabulary) -> Parts:
    """``bert``: words are cut into the longest pieces there are; the file marks pieces that begin one."""
    plain = (TokenType.NORMAL, TokenType.UNDEFINED, TokenType.UNUSED)
    tokens = [
        token if kind not in plain else token[1:] if token.startswith(_SPACE) else f"##{token}"
        for token, kind in zip(vocabulary.tokens, vocabulary.types)
    ]
    metadata.check_tokens(tokens)
    lower = metadata.flag("tokenizer.ggml.normalizer.lowercase") is not False
    if (unknown := vocabulary.named.get("unk_token")) is None:
        metadata.fail(NAMED["unk_token"], "an id", None)
    first = "cls_token" if "cls_token" in vocabulary.named else "bos_token"
    return Parts(
        model={
            "type": "WordPiece",
            "unk_token": tokens[unknown],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: index for index, token in enumerate(tokens)},
        },
        tokens=tokens,
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": metadata.flag("tokenizer.ggml.normalizer.strip_accents"),
            "lowercase": lower,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        begin=_added(metadata, vocabulary, _ADD_BEGIN, first, True),
        end=_added(metadata, vocabulary, _ADD_SEPARATOR, "sep_token", True),
    )


# tokenizer.ggml.model -> what it stands for
KINDS: dict[str, Callable[[Metadata, Vocabulary], Parts]] = {
    "gpt2": byte_level,
    "llama": scored_pieces,
    "gemma4": listed_pieces,
    "bert": word_pieces,
}


def _pieces(
    metadata: Metadata, vocabulary: Vocabulary, merges: list[tuple[str, str]], *, prefix: bool, begin: bool
) -> Parts:
    """SentencePiece. With ``prefix`` a space is put before a text and behind an added token."""
    if metadata.flag(_ADD_SEPARATOR):
        raise UnsupportedError(f"{metadata.where}: {_ADD_SEPARATOR}: a separator is not added to pieces")
    tokens = vocabulary.tokens
    if not prefix:
        # A prefix would be put before the token of a user as well, which then is found nowhere.
        tokens = [
            token.replace(" ", _SPACE) if kind is TokenType.USER_DEFINED else token
            for token, kind in zip(tokens, vocabulary.types)
        ]
        metadata.check_tokens(tokens)
    unknown = next(iter(vocabulary.of_type(TokenType.UNKNOWN).values()), vocabulary.named.get("unk_token"))
    if unknown is None and not vocabulary.of_type(TokenType.BYTE).keys() >= {f"<0x{byte:02X}>" for byte in range(256)}:
        metadata.fail(TOKENS, "one for each of 256 bytes, or one for what is unknown", "neither")
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prefixes = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    strips = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    kept = _STRIPPING.get(metadata.text("general.architecture") or "")
    return Parts(
        model=_pairs(
            tokens, merges, unk_token=None if unknown is None else tokens[unknown], fuse_unk=True, byte_fallback=True
        ),
        tokens=tokens,
        decoder={"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strips]},
        normalizer={"type": "Sequence", "normalizers": [*prefixes, spaces]},
        begin=_added(metadata, vocabulary, _ADD_BEGIN, "bos_token", begin),
        end=_added(metadata, vocabulary, _ADD_END, "eos_token", False),
        normalized=not prefix,
        stripping=frozenset() if kept is None else frozenset(tokens).difference(kept),
    )


def _added(metadata: Metadata, vocabulary: Vocabulary, flag: str, name: str, default: bool) -> int | None:
    """The token ``name`` if it is to be added to a text, which is ``default`` where the file does not say."""
    given = metadata.flag(flag)
    if given and name not in vocabulary.named:
        metadata.fail(NAMED[name], f"an id, because {flag} is true", None)
    return vocabulary.named.get(name) if given or (given is None and default) else None


def _pairs(tokens: list[str], merges: list[tuple[str, str]], **options: Any) -> dict[str, Any]:
    """A model that merges pairs; ``options``: what its other values are not null or false for."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **options,
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": _written(merges),
    }


def _written(merges: list[tuple[str, str]]) -> list[str] | list[tuple[str, str]]:
    """As the package reads them in half of the time: in one string each, unless it would read that in another way."""
    strings = [f"{left} {right}" for left, right in merges]
    odd = any(each.count(" ") != 1 or each.startswith("#version") for each in strings)
    return merges if odd else strings


def _listed_merges(metadata: Metadata, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The merges that the file lists, the first of them first."""
    known = set(vocabulary.tokens)
    merges = []
    for rank, merge in enumerate(metadata.texts(_MERGES)):
        cut = merge.find(" ", 1)
        left, right = merge[:cut], merge[cut + 1 :]
        if cut < 0 or not known.issuperset((left, right, left + right)):
            metadata.fail(_MERGES, "two tokens that make a third", f"{merge[:40]} at {rank}")
        merges.append((left, right))
    return merges


def _scored_merges(metadata: Metadata, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """All pairs of normal tokens that make a third, the highest score of what they make first.

    Control tokens are made of no text. Of several pairs that make the same token, as transformers orders them, the one
    with the longest left part comes first.
    """
    scores = metadata.scores(len(vocabulary.tokens))
    parts = vocabulary.of_type(TokenType.NORMAL, TokenType.UNDEFINED)
    if sum(len(token) ** 2 for token in parts) > _TAKING_APART:
        longest = max(map(len, parts))
        metadata.fail(TOKENS, "tokens that can be taken apart", f"{len(parts)} of up to {longest} characters")
    return [
        (token[:cut], token[cut:])
        for token in sorted(parts, key=lambda token: -scores[parts[token]])
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in parts and token[cut:] in parts
    ]
