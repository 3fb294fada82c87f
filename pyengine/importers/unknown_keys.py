"""Keys of a config that no importer knows: refused, or passed over where the caller has named them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyengine.errors import UnsupportedError
from pyengine.formats.strict_json import shorten

__all__ = ["pass_over"]

_LISTED = 8


def pass_over(
    path: Path, unknown: Mapping[str, Any], allowed: Collection[str], lacking: Sequence[str] = ()
) -> tuple[str, ...]:
    """A note for each of the ``unknown`` keys of ``path``. UnsupportedError if any is not ``allowed``.

    ``lacking``: what known keys ask for and the engine lacks, an error too, which is told in the same message.
    """
    refused = [key for key in unknown if key not in allowed]
    if refused:
        found = ", ".join(f"{_shown(key)} = {shorten(unknown[key])}" for key in refused[:_LISTED])
        more = f" and {len(refused) - _LISTED} others" if len(refused) > _LISTED else ""
        names = ",".join(_shown(key) for key in refused[:_LISTED])
        how = f"keys that change no result are passed over with allow_unknown_keys {names}"
        message = "; ".join([*lacking, f"{found}{more}: unknown to the importer; {how}"])
        raise UnsupportedError(f"{path}: {message}", keywords=("allow_unknown_keys",))
    if lacking:
        raise UnsupportedError(f"{path}: {'; '.join(lacking)}")
    return tuple(f"{path}: {_shown(key)} = {shorten(unknown[key])}: unknown, and passed over" for key in unknown)


def _shown(key: str) -> str:
    return key if key.replace(".", "_").isidentifier() and len(key) <= 80 else shorten(key)
