"""What the commands share: how they speak of errors."""

from __future__ import annotations

import re

__all__ = ["message_of"]

_OPTIONS = {
    "max_divergence": "--max-kld",
    "max_new_tokens": "--max-decoding-length",
    "num_beams": "--beam-size",
    "target_bytes": "--target-size",
    "tensors": "--tensor",
}
"""A keyword of Python -> the option of the command line, where that is not its name with dashes."""


def message_of(error: BaseException) -> str:
    """What an error says, in one line, with options of the command line in place of keywords of Python."""
    message = str(error)
    for words in getattr(error, "keywords", ()):
        name = re.match(r"\w*", words)[0]  # type: ignore[index]
        message = message.replace(words, _OPTIONS.get(name, f"--{name.replace('_', '-')}"), 1)
    return message or "out of memory"
