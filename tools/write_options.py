"""Writes down what `pyengine/canonical/search.py` says of the options of a search, where it is read without being run:
the keywords for type checkers (`pyengine/options/keywords.py`) and the table of `docs/api.md`.

    python tools/write_options.py           after a change of an option
    python tools/write_options.py --check   says what is not as it would be written
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

from tree import ROOT, report

from pyengine.canonical.search import OPTIONS, Option

KEYWORDS = '''"""What `pyengine/canonical/search.py` says, for type checkers; written by tools/write_options.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

__all__ = ["GenerationKeywords", "GivenOptions"]


class GenerationKeywords(TypedDict, total=False):
    """The options that the tasks take as keywords, by all of their names."""

{keywords}


@dataclass(frozen=True)
class GivenOptions:
    """The options by their names; None where the checkpoint decides."""

{fields}
'''
MARKS = "<!-- options: written by tools/write_options.py -->\n", "<!-- end of options -->\n"


def keywords() -> str:
    """The text of keywords.py."""
    typed = [f"    {name}: {each.kind.accepts} | None" for each in OPTIONS.values() for name in each.names]
    fields = [f"    {each.name}: {each.kind.gives} | None = None" for each in OPTIONS.values()]
    return KEYWORDS.format(keywords="\n".join(typed), fields="\n".join(fields))


def page(text: str) -> str:
    """`text` of docs/api.md with the table of today between its marks."""
    heads = "| option | other names | values | default of transformers | |", "|-|-|-|-|-|"
    table = "".join(f"{row}\n" for row in (*heads, *map(_row, OPTIONS.values())))
    return re.sub(f"(?s)(?<={MARKS[0]}).*(?={MARKS[1]})", lambda _: table, text)


def _row(option: Option) -> str:
    cells = [
        f"`{option.name}`",
        ", ".join(f"`{alias}`" for alias in option.aliases),
        option.kind.values,
        _default(option),
        option.line,
    ]
    return " ".join(["|", *(f"{cell} |" if cell else "|" for cell in cells)])


def _default(option: Option) -> str:
    """Nothing where the default is that there is none."""
    if option.default is dataclasses.MISSING or option.default in (None, ()):
        return ""
    return f"{option.default}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the tree")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    problems = []
    for path, written in (("pyengine/options/keywords.py", lambda _: keywords()), ("docs/api.md", page)):
        file = options.root / path
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        after = written(before)
        if options.check and after != before:
            problems.append(f"{path}: is not what tools/write_options.py writes")
        elif after != before:
            file.write_text(after, encoding="utf-8")
    report("options", problems)


if __name__ == "__main__":
    main()
