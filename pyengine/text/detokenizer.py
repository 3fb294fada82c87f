"""Text of token ids that come one by one: only whole characters, and joined the text of all ids at once.

A decoder of the tokenizers package is a chain of stages, each of which makes a list of tokens of another. Here a stage
takes one token and gives those that nothing behind it can change any more; the rest it keeps. So a token costs the
same however long the text has become. A chain with a stage that is not known here gives its text at the end.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from pyengine.text.tokenizer import clean_up_spaces

__all__ = ["CleanUp", "Detokenizer", "StageMaker", "Stripped", "stages_of"]


# Bytes that are printable characters stand for themselves, others for those from 256 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(byte): byte for byte in _PRINTABLE}
_BYTES |= {chr(256 + i): byte for i, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)}


class Stage(Protocol):
    """A step of decoding; a new one a text."""

    def push(self, token: str) -> Iterable[str]: ...
    def finish(self) -> Iterable[str]: ...


StageMaker = Callable[[], Stage]


class Detokenizer:
    """The text of one sequence of ids."""

    def __init__(self, token_of: Callable[[int], str | None], stages: Sequence[Stage]) -> None:
        """``token_of`` gives an id's token, None where it has no text; it may raise InputError."""
        self._token_of = token_of
        self._stages = stages

    def push(self, index: int) -> str:
        """The text that is certain now that ``index`` follows: whole characters, often none.

        Raises InputError: an id outside the vocabulary.
        """
        token = self._token_of(index)
        tokens: list[str] = [] if token is None else [token]
        for stage in self._stages:
            tokens = [made for each in tokens for made in stage.push(each)]
        return "".join(tokens)

    def finish(self) -> str:
        """The rest of the text; bytes that make no character are U+FFFD. Nothing may be pushed after it."""
        tokens: list[str] = []
        for stage in self._stages:
            tokens = [made for each in tokens for made in stage.push(each)]
            tokens.extend(stage.finish())
        return "".join(tokens)


def stages_of(spec: Mapping[str, Any] | None, whole: Callable[[list[str]], str], clean_up: bool) -> list[StageMaker]:
    """The stages of a decoder as the package writes it (``spec``, None: none), and of cleaning up after it.

    ``whole`` decodes all tokens of a text at once, for decoders that are not known here.
    """
    flat = [{"type": "Join"}] if spec is None else _flat(spec)
    stages: list[StageMaker] = []
    fused = False  # the tokens from here on are parts of one
    for each in flat:
        stage = _FUSED.get(each["type"], _unknown)(each) if fused else _STAGES.get(each["type"], _unknown)(each)
        if stage is None:
            stages = [lambda: _Whole(whole)]
            break
        fused = fused or each["type"] in ("Fuse", "ByteLevel")
        stages.append(stage)
    return [*stages, CleanUp] if clean_up else stages


def _flat(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [part for each in spec["decoders"] for part in _flat(each)] if spec["type"] == "Sequence" else [spec]


class _Each:
    """Each token by itself, the first in another way."""

    def __init__(self, first: Callable[[str], str], rest: Callable[[str], str]) -> None:
        self._change, self._rest = first, rest

    def push(self, token: str) -> Iterable[str]:
        changed = self._change(token)
        self._change = self._rest
        return (changed,)

    def finish(self) -> Iterable[str]:
        return ()


class _ByteFallback:
    """A run of ``<0xE4>`` is UTF-8 as a whole, or each of its bytes is U+FFFD: so only its end tells."""

    _BYTE = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, token: str) -> Iterable[str]:
        byte = self._BYTE.fullmatch(token)
        if byte is None:
            return (*self.finish(), token)
        self._run.append(int(byte[1], 16))
        return ()

    def finish(self) -> Iterable[str]:
        run, self._run = self._run, bytearray()
        try:
            return (run.decode("utf-8"),) if run else ()
        except UnicodeDecodeError:
            return ("\ufffd",) * len(run)


class _ByteLevel:
    """Characters stand for bytes, and the bytes of all tokens are UTF-8."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> Iterable[str]:
        try:
            data = bytes([_BYTES[character] for character in token])
        except KeyError:  # an added token
            data = token.encode("utf-8")
        return (self._decoder.decode(data),)

    def finish(self) -> Iterable[str]:
        return (self._decoder.decode(b"", final=True),)


class _StripStart:
    """Drops up to ``most`` of one character at the start of the text."""

    def __init__(self, character: str, most: int) -> None:
        self._character, self._most = character, most

    def push(self, token: str) -> Iterable[str]:
        kept = token
        while self._most and kept.startswith(self._character):
            kept = kept[1:]
            self._most -= 1
        if kept:
            self._most = 0
        return (kept,)

    def finish(self) -> Iterable[str]:
        return ()


class CleanUp:
    """``clean_up_spaces``, which looks for a space and what is in the three characters behind it.

    So the text can be cut behind four characters that are no spaces.
    """

    _WORD = re.compile(r".*[^ ]{4}", re.DOTALL)

    def __init__(self) -> None:
        self._held: list[str] = []
        self._tail = ""  # the last three characters

    def push(self, token: str) -> Iterable[str]:
        word = self._WORD.match(self._tail + token)
        end = word.end() - len(self._tail) if word else 0
        self._tail = (self._tail + token)[-3:]
        if end <= 0:
            self._held.append(token)
            return ()
        text = "".join((*self._held, token[:end]))
        self._held = [token[end:]]
        return (clean_up_spaces(text),)

    def finish(self) -> Iterable[str]:
        return (clean_up_spaces("".join(self._held)),)


class Stripped:
    """Without white space at both ends of the text."""

    def __init__(self) -> None:
        self._held = ""  # white space that may be the end
        self._begun = False

    def push(self, token: str) -> Iterable[str]:
        text = self._held + token if self._begun else token.lstrip()
        kept = text.rstrip()
        self._held = text[len(kept) :]
        self._begun = self._begun or bool(kept)
        return (kept,) if kept else ()

    def finish(self) -> Iterable[str]:
        return ()


class _Whole:
    def __init__(self, decode: Callable[[list[str]], str]) -> None:
        self._decode = decode
        self._tokens: list[str] = []

    def push(self, token: str) -> Iterable[str]:
        self._tokens.append(token)
        return ()

    def finish(self) -> Iterable[str]:
        return (self._decode(self._tokens),)


def _replace(spec: Mapping[str, Any]) -> StageMaker | None:
    pattern, content = spec["pattern"].get("String"), spec["content"]
    return None if not pattern else _each(lambda token: token.replace(pattern, content))


def _replace_character(spec: Mapping[str, Any]) -> StageMaker | None:
    """In a text that comes in parts: a pattern of several characters might lie across them."""
    return _replace(spec) if len(spec["pattern"].get("String") or "") == 1 else None


def _strip(spec: Mapping[str, Any]) -> StageMaker | None:
    content, start, stop = spec["content"], spec["start"], spec["stop"]
    return None if stop else _each(lambda token: "".join(_StripStart(content, start).push(token)))


def _strip_fused(spec: Mapping[str, Any]) -> StageMaker | None:
    content, start, stop = spec["content"], spec["start"], spec["stop"]
    return None if stop else lambda: _StripStart(content, start)


def _metaspace(spec: Mapping[str, Any]) -> StageMaker:
    mark, first = spec["replacement"], " " if spec["prepend_scheme"] == "never" else ""
    return lambda: _Each(lambda token: token.replace(mark, first), lambda token: token.replace(mark, " "))


def _word_piece(spec: Mapping[str, Any]) -> StageMaker:
    prefix = spec["prefix"]

    def clean(token: str) -> str:
        return clean_up_spaces(token) if spec["cleanup"] else token

    return lambda: _Each(
        clean, lambda token: clean(token[len(prefix) :] if token.startswith(prefix) else " " + token)
    )


def _each(change: Callable[[str], str]) -> StageMaker:
    return lambda: _Each(change, change)


def _unknown(_: Mapping[str, Any]) -> StageMaker | None:
    return None


def _as_it_is(_: Mapping[str, Any]) -> StageMaker:
    return _each(str)


_STAGES: dict[str, Callable[[Mapping[str, Any]], StageMaker | None]] = {
    "Join": lambda _: lambda: _Each(str, lambda token: " " + token),
    "Replace": _replace,
    "Strip": _strip,
    "Metaspace": _metaspace,
    "WordPiece": _word_piece,
    "ByteFallback": lambda _: _ByteFallback,
    "ByteLevel": lambda _: _ByteLevel,
    "Fuse": _as_it_is,
}
_FUSED: dict[str, Callable[[Mapping[str, Any]], StageMaker | None]] = {
    "Strip": _strip_fused,
    "Replace": _replace_character,
    "Fuse": _as_it_is,
}
