"""What may be drawn, and how probable it is, against transformers' own warpers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyengine import _core

torch = pytest.importorskip("torch")
warpers = pytest.importorskip("transformers.generation.logits_process")

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


def theirs(row: np.ndarray, rules: dict[str, Any]) -> np.ndarray:
    """float64 [vocab] probabilities, in the order of `_get_logits_processor`."""
    chain: list[Any] = [warpers.TemperatureLogitsWarper(rules["temperature"])]
    if rules["top_k"]:
        chain.append(warpers.TopKLogitsWarper(rules["top_k"]))
    if rules["top_p"] < 1.0:
        chain.append(warpers.TopPLogitsWarper(rules["top_p"]))
    if rules["min_p"]:
        chain.append(warpers.MinPLogitsWarper(rules["min_p"]))
    if rules["typical_p"] < 1.0:
        chain.append(warpers.TypicalLogitsWarper(rules["typical_p"]))
    scores = torch.tensor(row)[None]
    for each in chain:
        scores = each(torch.zeros((1, 1), dtype=torch.long), scores)
    probabilities: np.ndarray = scores.softmax(dim=-1)[0].numpy()
    return probabilities


def random_rules(rng: np.random.Generator) -> dict[str, Any]:
    rules = {
        "temperature": float(rng.choice([0.3, 0.7, 1.0, 1.9])),
        "top_k": int(rng.choice([0, 1, 5, 50, 400])),
        "top_p": float(rng.choice([1.0, 0.0, 0.3, 0.9, 0.99])),
        "min_p": float(rng.choice([0.0, 0.05, 0.4, 1.0])),
        "typical_p": float(rng.choice([1.0, 0.2, 0.9])),
    }
    return {name: value if rng.random() < 0.6 else OFF[name] for name, value in rules.items()}


@pytest.mark.parametrize("seed", range(8))
def test_kept_tokens_and_probabilities(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(60):
        row = rng.normal(0, rng.choice([0.5, 2.0, 6.0]), int(rng.choice([1, 2, 30, 1000])))
        row[rng.random(len(row)) < rng.choice([0.0, 0.5])] = -np.inf
        row[rng.integers(len(row))] = 1.0
        rules = random_rules(rng)
        expected = theirs(row, rules)
        places, found = _core.Lottery(**rules).kept(row)
        whole = np.zeros(len(row))
        whole[places] = found
        assert set(places.tolist()) == set(np.flatnonzero(expected > 0).tolist()), rules
        assert np.abs(whole - expected).max() < 1e-6, rules
