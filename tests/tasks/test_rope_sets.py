"""Ropes that have several sets of frequencies: a request keeps to the one of the length that it may come to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pyengine.canonical import GenerationDefaults, ModelConfig
from pyengine.quantize.seeing.calibration import in_memory_engine
from pyengine.tasks.generator import Generator
from tests.oracle.random_config import random_config, random_tensors

SEED = 0
CONFIG = random_config(SEED)
TENSORS = random_tensors(CONFIG, SEED)
[LENGTHS] = {rope.lengths for rope in CONFIG.ropes.values() if rope.lengths}
SEARCH = GenerationDefaults(max_length=60, bos_token_id=0)


def generator(config: ModelConfig, tensors: dict[str, np.ndarray]) -> Generator:
    return Generator(in_memory_engine(config, SEARCH, tensors, threads=1), None, {"path": "tiny"})


WHOLE = generator(CONFIG, TENSORS)


def with_one_set(rope_set: int) -> Generator:
    """The same model, every sequence of which takes this set."""
    names = {f"rope.{name}.frequencies" for name, rope in CONFIG.ropes.items() if rope.lengths}
    ropes = {name: replace(rope, lengths=()) for name, rope in CONFIG.ropes.items()}
    tensors = {name: each[rope_set] if name in names else each for name, each in TENSORS.items()}
    return generator(replace(CONFIG, ropes=ropes), tensors)


ONE = [with_one_set(rope_set) for rope_set in range(len(LENGTHS) + 1)]
PROMPT = [5, 6, 7, 8]


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"temperature": 1.5, "seed": 3, "num_return_sequences": 2}])
def test_a_request_keeps_to_its_set(how: dict[str, float]) -> None:
    # The last token is never read, so that one more than the length is written.
    counts = [1, LENGTHS[0] - 3, LENGTHS[0] - 2, LENGTHS[1] - 3, LENGTHS[1] - 2, 40]
    sets = [0, 0, 1, 1, 2, 2]
    found = []
    for count, rope_set in zip(counts, sets, strict=True):
        found.append(WHOLE.generate(PROMPT, max_new_tokens=count, **how))  # type: ignore[arg-type]
        assert found[-1] == ONE[rope_set].generate(PROMPT, max_new_tokens=count, **how)  # type: ignore[arg-type]
    assert any(one.generate(PROMPT, max_new_tokens=40, **how) != found[-1] for one in ONE)  # type: ignore[arg-type]


def test_side_by_side_and_in_chunks() -> None:
    """Of prompts, one of which is longer than a step."""
    prompts = [PROMPT, list(range(9, 39)), PROMPT[:1]]
    expected = [WHOLE.generate(each, max_new_tokens=9) for each in prompts]
    assert WHOLE.generate(prompts, max_new_tokens=9, max_batch_tokens=8) == expected
    assert expected[1] == ONE[2].generate(prompts[1], max_new_tokens=9)


def test_given_texts() -> None:
    for length, rope_set in ((1, 0), (LENGTHS[0], 0), (LENGTHS[0] + 1, 1), (LENGTHS[1] + 1, 2)):
        ids = [int(id) for id in np.random.RandomState(length).randint(4, 333, length)]
        assert WHOLE.logits(ids).tobytes() == ONE[rope_set].logits(ids).tobytes()
        assert WHOLE.score(ids) == ONE[rope_set].score(ids)
