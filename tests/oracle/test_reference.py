"""The NumPy forward pass against transformers', for every activation and every way to share tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.oracle.marian import marian_model
from tests.oracle.reference import ACTIVATIONS, ReferenceModel
from tests.oracle.tiny import model_config, random_tensors

UNTIED = {"source_vocab": 31, "share_embeddings": False, "tie_output": False}
CONFIGS: dict[str, dict[str, Any]] = {
    **{activation: {"activation": activation} for activation in ACTIVATIONS},
    "unscaled": {"embedding_scale": 1.0},
    "untied": UNTIED,
    "two_tables": {**UNTIED, "tie_output": True},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_logits_are_those_of_transformers(changes: dict[str, Any]) -> None:
    config = model_config(**changes)
    tensors = random_tensors(config, seed=7)
    source, target = np.array([3, 17, 4, 21, 9, 0]), np.array([22, 5, 5, 1, 19, 8, 2])
    with torch.no_grad():
        output = marian_model(config, tensors)(
            input_ids=torch.tensor(source[None]), decoder_input_ids=torch.tensor(target[None])
        )
    model = ReferenceModel(config, tensors)
    logits = model.decode(target, model.encode(source))
    np.testing.assert_allclose(logits, output.logits[0].numpy(), atol=2e-5, rtol=2e-5)
    single = ReferenceModel(config, tensors, np.float32)
    np.testing.assert_allclose(single.decode(target, single.encode(source)), logits, atol=2e-5, rtol=2e-5)
