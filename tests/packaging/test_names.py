"""The name on the package index, which is not the name that is imported."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from pyengine.version import DISTRIBUTION, __version__

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def test_the_project_has_the_name_that_messages_tell_to_install() -> None:
    text = PROJECT.read_text(encoding="utf-8")
    assert re.findall(r'^name = "(.*)"$', text, re.MULTILINE) == [DISTRIBUTION]
    assert version(DISTRIBUTION) == __version__
