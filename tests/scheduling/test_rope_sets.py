"""Requests of any length, each with the frequencies that its own length asks for."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine import _core
from pyengine.canonical import GenerationDefaults
from pyengine.options import GenerationOptions
from pyengine.scheduling.scheduler import Request, Scheduler
from tests.core.models import TinyModel, new_session
from tests.core.test_rope_sets import CONFIG, TENSORS, with_one_set
from tests.scheduling.test_requests import plain

OPTIONS = [{}, {"num_beams": 2}, {"do_sample": True, "seed": 3, "num_return_sequences": 2}, {"top_k": 100, "seed": 1}]


def found(model: _core.Model, requests: list[Request], budget: int, one: bool) -> list[object]:
    assert CONFIG.target_vocab is not None
    rope_set = (lambda length: 0) if one else CONFIG.rope_set
    scheduler = Scheduler(new_session(model), vocab=CONFIG.target_vocab, budget=budget, rope_set=rope_set)
    return [plain(each) for each in scheduler.run(requests)]


@pytest.mark.parametrize("budget", [6, 100])
def test_each_is_that_of_a_model_with_its_frequencies_alone(budget: int) -> None:
    """Whose lengths are 8 and 20: a last token is not read, so that 3 and 6 tokens stay with the first set."""
    assert CONFIG.decoder is not None and CONFIG.target_vocab is not None
    rng, requests, sets = np.random.default_rng(0), [], []
    defaults = GenerationDefaults(max_length=CONFIG.decoder.max_positions)
    for number, (prompt, new) in enumerate([(3, 6), (3, 7), (9, 12), (9, 13), (1, 2), (15, 3), (2, 20)] * 3):
        given = {"max_new_tokens": new, "min_new_tokens": new, **OPTIONS[number % len(OPTIONS)]}
        options = GenerationOptions(**given).resolve(defaults, CONFIG.target_vocab, CONFIG.decoder.max_positions)
        requests.append(Request(None, rng.integers(0, CONFIG.target_vocab, prompt).astype(np.int32), options))
        sets.append(CONFIG.rope_set(prompt + new - 1))
    assert sets[:7] == [0, 1, 1, 2, 0, 1, 2]
    together = found(TinyModel.of(CONFIG, TENSORS, "int8").core("int8"), requests, budget, one=False)
    for rope_set in range(3):
        own = [request for request, each in zip(requests, sets, strict=True) if each == rope_set]
        alone = found(with_one_set(rope_set), own, 1000, one=True)
        assert [each for each, its in zip(together, sets, strict=True) if its == rope_set] == alone
