"""Chat templates: a conversation as the text that its model was trained on.

    >>> template = chat_template_of(head)
    >>> template.render([{"role": "user", "content": "Hello"}])
    '<|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n'
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyengine.errors import InputError, TokenizerError
from pyengine.formats.limits import TEMPLATE_BYTES
from pyengine.formats.regular_files import read_regular
from pyengine.formats.strict_json import shorten
from pyengine.text.settings import special_tokens
from pyengine.text.tokenizer import TextTokenizer

__all__ = ["TEMPLATE_FILE", "ChatTemplate", "open_chat_template"]

TEMPLATE_FILE = "chat_template.jinja"

Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """A template in jinja, run as transformers 5.24.0 runs it, within a budget. Several threads may share one."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], path: str | Path = TEMPLATE_FILE) -> None:
        """``special_tokens`` are by the names that templates call them by, ``bos_token`` and the like.

        Raises TokenizerError that names ``path``: this is no template.
        """
        from pyengine.text.template import Template  # jinja2 is imported by need

        self._special_tokens = dict(special_tokens)
        self._template = Template(source, str(path))

    def render(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The conversation as text; it ends where the assistant's answer begins (``add_generation_prompt``).

        ``variables`` are a template's own, such as ``enable_thinking``. Raises InputError: no messages, one that is no
        mapping, or what the template refuses, in its words; TokenizerError: the template fails, or takes too long.
        """
        return self._template.render(
            {
                **self._special_tokens,
                **_plain(variables),
                "messages": _checked(messages),
                "tools": _plain(tools),
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
        )

    def encode(
        self,
        tokenizer: TextTokenizer,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        split_special: bool = True,
        **variables: Any,
    ) -> list[int]:
        """The ids of what ``render`` gives. The template alone says how a conversation begins: nothing is added to it.

        ``split_special``: names of special tokens in the messages are text, those in the template are these tokens.
        """
        text = self.render(messages, tools, add_generation_prompt, **variables)
        return tokenizer.encode(text, special=False, split_special=False)


def open_chat_template(directory: Path) -> ChatTemplate | None:
    """The template in a model directory, None where there is none.

    Raises TokenizerError: a file cannot be read, is too large or no template.
    """
    path = directory / TEMPLATE_FILE
    if not os.path.lexists(path):
        return None
    data = read_regular(path, TokenizerError, TEMPLATE_BYTES)
    try:
        source = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 at byte {error.start}") from None
    return ChatTemplate(source, special_tokens(directory), path)


def _checked(messages: Messages) -> list[dict[str, Any]]:
    """Messages of plain values, without those that are None, as transformers hands them to a template."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InputError(f"messages: expected a list of messages, found {type(messages).__name__}")
    if not messages:
        raise InputError("messages: expected at least one, found none")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise InputError(f"message {number}: expected a role and a content, found {shorten(message)}")
    return [{key: value for key, value in _plain(message).items() if value is not None} for message in messages]


def _plain(value: Any) -> Any:
    """A copy of plain types alone, so that a template gets no object with methods of its own. Raises InputError."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    raise InputError(f"messages: expected text, numbers, lists and mappings, found {type(value).__name__}")
