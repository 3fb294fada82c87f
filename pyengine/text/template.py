"""A chat template in jinja's sandbox."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pyengine.errors import InputError, TokenizerError

__all__ = ["Template"]


class _Refusal(Exception):
    """What a template says of messages that it does not take."""


class Template:
    """A template, compiled. ``where``: what messages of errors name."""

    def __init__(self, source: str, where: str) -> None:
        """Raises TokenizerError: this is no template."""
        self._where = where
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise TokenizerError(f"{where}: expected a chat template: {error!s:.200}") from error

    def render(self, variables: dict[str, Any]) -> str:
        """Raises InputError: the template refuses the messages; TokenizerError: it fails, or takes too long."""
        try:
            return self._template.render(variables)
        except _Refusal as refusal:
            raise InputError(f"the chat template refuses these messages: {refusal}") from None
        except Exception as error:
            raise TokenizerError(f"{self._where}: the chat template fails: {error!s:.200}") from error


class _Generation(jinja2.ext.Extension):
    """``{% generation %}``, which marks what an assistant wrote: its text is there as it is."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: jinja2.runtime.Macro) -> str:
        return caller()


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise _Refusal(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
