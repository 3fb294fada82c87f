"""Chat templates: a conversation as the text that its model was trained on.

    >>> template = chat_template_of(head)
    >>> template.render([{"role": "user", "content": "Hello"}])
    '<|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n'
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyengine.errors import InputError, TokenizerError
from pyengine.formats.limits import JSON_DEPTH, TEMPLATE_BYTES
from pyengine.formats.regular_files import read_regular
from pyengine.formats.strict_json import shorten
from pyengine.text.settings import CONFIG_FILE, read_config, special_tokens
from pyengine.text.tokenizer import TextTokenizer

__all__ = ["TEMPLATE_FILE", "ChatTemplate", "open_chat_template"]

TEMPLATE_FILE = "chat_template.jinja"

# Noncharacters, around what is text though it looks like a special token.
_START, _END = "\ufdd0", "\ufdd1"

Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """A template in jinja, run as transformers 5.24.0 runs it, within a budget. Several threads may share one."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        path: str | Path = TEMPLATE_FILE,
        source_with_tools: str | None = None,
    ) -> None:
        """``special_tokens`` are by the names that templates call them by, ``bos_token`` and the like.

        ``source_with_tools`` is the template where there are tools, if it is another. Raises TokenizerError that names
        ``path``: this is no template.
        """
        from pyengine.text.template import Template  # jinja2 is imported by need

        self._special_tokens = dict(special_tokens)
        self._template = self._template_with_tools = Template(source, str(path))
        if source_with_tools is not None:
            self._template_with_tools = Template(source_with_tools, str(path))

    def render(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The conversation as text; it ends where the assistant's answer begins (``add_generation_prompt``).

        ``variables`` are a template's own, such as ``enable_thinking``. Raises InputError: no messages, one without a
        role or a content, or what the template refuses, in its words; TokenizerError: it fails, or takes too long.
        """
        template = self._template if tools is None else self._template_with_tools
        return template.render(
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
        if not split_special:
            rendered = self.render(messages, tools, add_generation_prompt, **variables)
            return tokenizer.encode(rendered, special=False, split_special=False)
        names = re.compile("|".join(map(re.escape, sorted(tokenizer.special_tokens, key=len, reverse=True))) or "(?!)")
        marked = _marked(_plain([messages, tools, variables]), names)
        rendered = self.render(marked[0], marked[1], add_generation_prompt, **marked[2])
        # A template may cut a text between the two marks: then each of them is nothing.
        parts = re.split(f"{_START}({names.pattern}){_END}|[{_START}{_END}]", rendered)
        return tokenizer.encode_parts([(part, i % 2 == 1) for i, part in enumerate(parts) if part])


def open_chat_template(directory: Path) -> ChatTemplate | None:
    """The template in a model directory or checkpoint, None where there is none.

    It is a file of its own, or, as it was before, a field of tokenizer_config.json: a template, or several with names,
    of which ``default`` and ``tool_use`` count. Raises TokenizerError: a file cannot be read, is too large or holds no
    template.
    """
    path = directory / TEMPLATE_FILE
    if os.path.lexists(path):
        data = read_regular(path, TokenizerError, TEMPLATE_BYTES)
        try:
            return ChatTemplate(data.decode("utf-8"), special_tokens(directory), path)
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{path}: not UTF-8 at byte {error.start}") from None
    path = directory / CONFIG_FILE
    given = read_config(directory).get("chat_template")
    if given is None:
        return None
    named = _by_name(path, given) if isinstance(given, list) else {"default": given}
    for name, source in named.items():
        if not isinstance(source, str) or len(source) > TEMPLATE_BYTES:
            raise TokenizerError(
                f"{path}: chat_template: {name}: expected a text of at most {TEMPLATE_BYTES} characters, found "
                f"{f'{len(source)}' if isinstance(source, str) else type(source).__name__}"
            )
    if "default" not in named:
        raise TokenizerError(f"{path}: chat_template: expected one named default, found {shorten(list(named))}")
    return ChatTemplate(named["default"], special_tokens(directory), path, named.get("tool_use"))


def _by_name(path: Path, given: list[Any]) -> dict[str, Any]:
    """The two that count of ``[{"name": ..., "template": ...}]``."""
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in given):
        raise TokenizerError(f"{path}: chat_template: expected templates with names, found {shorten(given)}")
    return {each["name"]: each.get("template") for each in given if each["name"] in ("default", "tool_use")}


def _checked(messages: Messages) -> list[dict[str, Any]]:
    """Messages of plain values, without those that are None, as transformers hands them to a template."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InputError(f"messages: expected a list of messages, found {type(messages).__name__}")
    if not messages:
        raise InputError("messages: expected at least one, found none")
    for number, message in enumerate(messages, 1):
        _check(message, f"message {number}")
    return [_with_reasoning(_plain(message)) for message in messages]


def _check(message: Any, name: str) -> None:
    """InputError unless it has a role and a content, without which a template would go on, or fail by no fault of its
    own: only who calls tools need say nothing. A content is text, or parts or values that the template puts into words.
    """
    if not isinstance(message, Mapping):
        raise InputError(f"{name}: expected a role and a content, found {shorten(message)}")
    role, content = message.get("role"), message.get("content")
    if not (isinstance(role, str) and role):
        found = shorten(role) if "role" in message else f"none beside {shorten(list(message))}"
        raise InputError(f'{name}: expected a role, "user" or the like, found {found}')
    if isinstance(content, (str, list, tuple, Mapping)) or (content is None and message.get("tool_calls")):
        return
    found = "none" if content is None else shorten(content)
    raise InputError(f"{name}, of role {shorten(role)}: expected a content, a text or a list of parts, found {found}")


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Without fields that are None; an assistant's reasoning by both names that templates know."""
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = next((given[name] for name in ("reasoning_content", "thinking", "reasoning") if name in given), None)
    return given if reasoning is None else {"thinking": reasoning, **given, "reasoning_content": reasoning}


def _marked(value: Any, names: re.Pattern[str]) -> Any:
    """``value`` with marks around names of special tokens in its text: these are not the template's."""
    if isinstance(value, str):
        return names.sub(rf"{_START}\g<0>{_END}", value.replace(_START, "").replace(_END, ""))
    if isinstance(value, Mapping):
        return {key: _marked(each, names) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_marked(each, names) for each in value]
    return value


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy of plain types alone, so that a template gets no object with methods of its own. Raises InputError."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth > JSON_DEPTH:
        raise InputError(f"messages: nested too deeply, in more than {JSON_DEPTH} levels")
    if isinstance(value, Mapping):
        return {_plain(key, depth + 1): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, depth + 1) for each in value]
    raise InputError(f"messages: expected text, numbers, lists and mappings, found {type(value).__name__}")
