"""Real GGUF files, as packages carry them, against transformers' own reading of them, in float32."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # by which transformers reads GGUF files

from pyengine.importers import open_checkpoint

from ..core.models import TinyModel, new_session, step
from ..real_models import real_file
from .checkpoints import floats, random_ids, theirs_by

MODELS = ("smollm2.gguf", "gemma3.gguf")


@pytest.mark.parametrize("name", MODELS)
def test_logits(name: str) -> None:
    path = real_file(name)
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
