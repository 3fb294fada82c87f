"""Text to token ids and back.

    >>> tokenizer = open_tokenizer("de-en-int8", "sentencepiece")
    >>> tokenizer.decode(tokenizer.encode_target("A man rides a bike.", end=True))
    'A man rides a bike.'
"""

from __future__ import annotations

from pyengine.text.chat import ChatTemplate
from pyengine.text.languages import Languages, MultilingualTokenizer
from pyengine.text.opening import (
    TOKENIZER_KINDS,
    chat_template_of,
    open_tokenizer,
    text_tokenizer_of,
    tokenizer_of,
)
from pyengine.text.tokenizer import Stream, TextTokenizer, Tokenizer

__all__ = [
    "TOKENIZER_KINDS",
    "ChatTemplate",
    "Languages",
    "MultilingualTokenizer",
    "Stream",
    "TextTokenizer",
    "Tokenizer",
    "chat_template_of",
    "open_tokenizer",
    "text_tokenizer_of",
    "tokenizer_of",
]
