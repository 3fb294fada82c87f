"""Files of real models, which are no part of the project: ``python tests/fetch_models.py FOLDER`` fetches them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "PYENGINE_TEST_MODELS"


def real_file(name: str) -> Path:
    """The file ``name`` of that folder; without it the test is skipped."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        pytest.skip(f"needs {name}: {VARIABLE} names no folder that tests/fetch_models.py filled")
    path = Path(folder, name)
    if not path.exists():
        pytest.skip(f"needs {name}, which is not in {folder}")
    return path
