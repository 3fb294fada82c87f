"""Writes down what the tables of `pyengine/importers/` say, for people: `docs/models.md`.

    python tools/write_models.py           after a change of a family
    python tools/write_models.py --check   says what is not as it would be written
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tree import ROOT, report

from pyengine.importers import FAMILIES
from pyengine.importers.table import IGNORED, Family

PAGE = "docs/models.md"
HEAD = """\
# Models

Written by `tools/write_models.py` from the tables of `pyengine/importers/`: which checkpoints of Hugging Face
`pyengine quantize` reads, and what becomes of each key of their config.json. Sharded or in one file, safetensors or
`.bin`. A key is

- honoured: any legal value does what it does in transformers 5.24.0; where it is absent it has the default of
  transformers' config class, which stands beside it, and so it has where it is null, unless null is said to be a value
  of its own;
- fixed: at this value, or refused by name;
- without effect: on what the model computes.

Every other key is refused by name, unless `allow_unknown_keys` names it. Keys of a search that old config.json files
carry, and generation_config.json, are those of [api.md](api.md).
"""
CHECKS = """\
## What was checked of each

By `tests/oracle` against transformers 5.24.0, with tiny random checkpoints of awkward sizes (a
width of 96 or 80, heads of 12 to 20 numbers, a vocabulary of 333) as `save_pretrained` writes them:

- configuration and tensors are those of a map of names that is written by hand a second time;
- float32 logits of the engine at all positions of texts of 1, 16, 17, 33 and 39 tokens: within 1e-4 of the largest;
- 24 greedy ids after each of 64 prompts: equal; 12 of a search with 4 beams, too, and scores within 1e-3;
- of an encoder with a decoder: logits of targets of 1 to 40 tokens after sources of 40 to 1; 12 ids of 64 sources,
  greedy and with 4 beams: equal, and scores within 1e-4;
- every key at other legal values: logits follow transformers, or the key is refused by name;
- every default, every fixed value and the list of keys: those of transformers' config class.
"""


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def section(family: Family) -> str:
    parts = [f"## {family.title}\n", f"`{family.architectures[0]}`, `model_type` \"{family.model_type}\".\n"]
    if family.nested is not None:
        parts.append(filled(f"The keys stand in `{family.nested}`."))
    rows = "".join(f"| `{key}` | {default(family, key)} |\n" for key in family.keys)
    parts.append(f"| honoured | where it is absent |\n|-|-|\n{rows}")
    fixed = ", ".join(f"`{key}` {value(only)}" for key, only in family.fixed.items())
    parts.append(filled(f"Fixed: {fixed}."))
    if family.ignored:
        parts.append(filled(f"Without effect: {code(sorted(family.ignored))}."))
    if family.aliases:
        others = ", ".join(f"`{alias}` for `{key}`" for alias, key in family.aliases.items())
        parts.append(filled(f"Other names of keys: {others}."))
    if family.renamed:
        others = ", ".join(f"`{begin}` for `{known}`" for begin, known in family.renamed.items())
        parts.append(filled(f"Other beginnings of tensors' names: {others}."))
    if family.buffers:
        parts.append(filled(f"Passed over: tensors of old files that a formula gives, {code(family.buffers)}."))
    parts.append(filled(f"Checked: {family.checked}"))
    return "\n".join(parts)


def default(family: Family, key: str) -> str:
    own = "; null is a value of its own" if key in family.nullable else ""
    return value(family.keys[key]) + own


def value(of: Any) -> str:
    return "nothing" if of is None else json.dumps(of)


def page() -> str:
    ignored = filled(f"Without effect in every family: {code(sorted(IGNORED))}, and keys that begin with `_`.")
    return "\n".join([HEAD, ignored, CHECKS, *map(section, FAMILIES)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the tree")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    file = options.root / PAGE
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    problems = []
    if options.check and before != page():
        problems.append(f"{PAGE}: is not what tools/write_models.py writes")
    elif before != page():
        file.write_text(page(), encoding="utf-8")
    report("models", problems)


if __name__ == "__main__":
    main()
