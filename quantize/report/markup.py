"""HTML from Python values: what is not ``Markup`` is escaped, and whatever is opened is closed."""

from __future__ import annotations

from html import escape

__all__ = ["Markup", "join", "shown", "tag"]

_VOID = {"meta", "wbr"}


class Markup(str):
    """Text that is HTML already."""


def shown(text: str) -> str:
    """``text`` with U+FFFD for what cannot be shown: control characters, lone surrogates, changes of direction."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def join(*children: str) -> Markup:
    """The children one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else escape(shown(child)) for child in children))


def tag(name: str, /, *children: str, **attributes: str) -> Markup:
    """An element without its empty attributes; ``_`` in a name is ``-``, and a last one is dropped (``class_``)."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(shown(value))}"' for key, value in attributes.items() if value
    )
    return Markup(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(*children)}</{name}>")
