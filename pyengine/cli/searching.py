"""The options of a search on the command line: every one that its task has, by each of its names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from pyengine.canonical.search import NAMES, OPTIONS, options_of

__all__ = ["add_search_options"]


def add_search_options(parser: argparse.ArgumentParser, *, prompted: bool) -> None:
    """What is given stands in `search` of the namespace, as keywords for a task; `prompted`: it goes on with a prompt.
    """
    parser.set_defaults(search={})
    groups: dict[str, Any] = {}
    for option in options_of(prompted=prompted):
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        groups[option.group].add_argument(
            *(f"--{name.replace('_', '-')}" for name in option.names),
            action=_Given,
            metavar=option.kind.metavar,
            default=argparse.SUPPRESS,
            help=f"{option.line} ({option.kind.words})",
        )


class _Given(argparse.Action):
    """Keeps a value under the name by which it was given. OptionError, not argparse's, for one that is wrong."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        assert option_string is not None
        name = option_string.removeprefix("--").replace("-", "_")
        value = OPTIONS[NAMES[name]].kind.read(option_string, str(values))
        namespace.search = {**namespace.search, name: value}
