"""What a configuration means, shown on the families that have its traits: every hidden state and logit, by
transformers' own code and by tests/oracle/transformer.py, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from .families import FAMILIES, LENGTH, SOURCE, VOCABULARY, Family
from .transformer import ACTIVATIONS, Transformer


def compare(found: np.ndarray, expected: Any, single: bool) -> None:
    expected = expected[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=(1e-6 if single else 1e-12) * np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_state_and_logit(family: Callable[[], Family]) -> None:
    case = family()
    rng = np.random.RandomState(1)
    source, types = rng.randint(0, VOCABULARY, SOURCE), rng.randint(0, 2, SOURCE)
    ids = rng.randint(0, VOCABULARY, LENGTH)
    oracle = Transformer(case.config, case.tensors)
    given: dict[str, Any] = {"output_hidden_states": True}
    states: dict[str, list[np.ndarray]] = {}
    if case.config.encoder is not None:
        given["input_ids"] = torch.tensor(source)[None]
        if case.config.encoder.types:
            given["token_type_ids"] = torch.tensor(types)[None]
        states["encoder"] = oracle.states("encoder", source, types=types)
    memory = states["encoder"][-1] if states else None
    if case.config.decoder is not None:
        given["input_ids" if memory is None else "decoder_input_ids"] = torch.tensor(ids)[None]
        states["decoder"] = oracle.states("decoder", ids, memory)
    with torch.no_grad():
        output = case.model(**given)
    for side, found in states.items():
        expected = output.hidden_states if len(states) == 1 else getattr(output, f"{side}_hidden_states")
        assert len(found) == len(expected)
        last = case.last if side == "decoder" else 1.0
        for own, theirs in zip(found, (*expected[:-1], expected[-1] * last), strict=True):
            compare(own, theirs, case.single)
    if case.config.decoder is not None:
        compare(oracle.decode(ids, memory), output.logits, case.single)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    theirs = {"gelu_tanh": "gelu_pytorch_tanh"}.get(name, name)
    x = torch.linspace(-9, 9, 201, dtype=torch.float64)
    expected = transformers.activations.ACT2FN[theirs](x).numpy()
    np.testing.assert_allclose(ACTIVATIONS[name](x.numpy()), expected, atol=1e-12)
