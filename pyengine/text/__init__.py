"""Text to token ids and back.

    >>> tokenizer = open_tokenizer("de-en-int8", "sentencepiece")
    >>> tokenizer.decode(tokenizer.encode_target("A man rides a bike.", end=True))
    'A man rides a bike.'
"""

from __future__ import annotations

from pyengine.text.opening import TOKENIZER_KINDS, open_tokenizer, tokenizer_of
from pyengine.text.tokenizer import Tokenizer

__all__ = ["TOKENIZER_KINDS", "Tokenizer", "open_tokenizer", "tokenizer_of"]
