"""How a text is split before byte-level pairs are merged: what the names of ``tokenizer.ggml.pre`` stand for.

The patterns are those of the original tokenizers' files ("pre_tokenizer" in tokenizer.json), and where these have steps
of other kinds, patterns that split alike. What a name says beyond its patterns is llama.cpp's (src/llama-vocab.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SPLITS", "Splits"]


@dataclass(frozen=True)
class Splits:
    """Each pattern cuts the pieces that those before it left: what it finds, and what lies between, are pieces.

    ``whole_words``: a piece that is a token stays one, whatever the merges say. ``begin``: the begin token is added
    where the file does not say.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    begin: bool = False


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _plain(letters: str, digits: str, others: str) -> str:
    """Contractions, letters with the sign before them, digits, other signs with the line ends behind them, spaces."""
    return rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{letters}|{digits}| ?{others}[\r\n]*|{_SPACES}"


_WORDS_OF_3_DIGITS = _plain(r"\p{L}+", r"\p{N}{1,3}", r"[^\s\p{L}\p{N}]+")
_WORDS_OF_1_DIGIT = _plain(r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]+")
_WORDS_WITH_MARKS = _plain(r"[\p{L}\p{M}]+", r"\p{N}", r"[^\s\p{L}\p{M}\p{N}]+")

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(digits: str, after: str) -> str:
    """Words whose capitals stand at their start or are all of it, with what may follow them."""
    sign = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{sign}{_UPPER}*{_LOWER}+{after}|{sign}{_UPPER}+{_LOWER}*{after}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


# Letters of alphabets that have capitals.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-"
    "\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_PUNCTUATION = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
_EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

_ROWS: tuple[tuple[str, Splits], ...] = (
    ("gpt-2 phi-2 mpt olmo jais exaone4", Splits((_WORDS,))),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b", Splits((r"\p{N}", _WORDS))),
    ("llama-bpe llama3 llama-v3 falcon3 pixtral", Splits((_WORDS_OF_3_DIGITS,), whole_words=True, begin=True)),
    ("smaug-bpe dbrx", Splits((_WORDS_OF_3_DIGITS,))),
    ("qwen2 deepseek-r1-qwen megrez stablelm2", Splits((_WORDS_OF_1_DIGIT,))),
    ("qwen35", Splits((_WORDS_WITH_MARKS,))),
    ("tekken", Splits((_cased(r"\p{N}", ""),), whole_words=True, begin=True)),
    ("gpt-4o", Splits((_cased(r"\p{N}{1,3}", f"{_CONTRACTIONS}?"),))),
    (
        "deepseek-llm",
        Splits((r"[\r\n]", rf"\s?[{_CASED_LETTERS}]+", _PUNCTUATION, r"\s+$", _EAST_ASIAN, r"\p{N}+")),
    ),
    ("deepseek-coder", Splits((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}"))),
    ("falcon", Splits((r"[\p{P}\$\+<=>\^~\|`]+", _WORDS, "[0-9][0-9][0-9]"))),
)

SPLITS: dict[str, Splits] = {name: splits for names, splits in _ROWS for name in names.split()}
