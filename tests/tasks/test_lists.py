"""Some of a list fail while they run: the others go on, and a PartialError has their results. Of every task alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine import CacheFullError, Generator, InputError, PartialError
from pyengine.scheduling.deadline import Deadline
from tests.tasks.language import END

PROMPTS = ["the sea", "stones and no end of it", "a", "it"]
HOW: dict[str, Any] = {"max_new_tokens": 6, "suppress_tokens": [END]}


def prompt_ids(generator: Generator, prompt: str) -> tuple[int, ...]:
    echo = generator.generate(prompt, echo=True, max_new_tokens=1).prompt
    assert echo is not None
    return echo.ids


def room(task: pyengine.Generator | pyengine.Translator, rows: int, tokens: int, source: int = 0) -> int:
    """Bytes of the cache that so many sequences of so many tokens take, at most."""
    with task._engine.session(Deadline()) as session:
        return rows * session.sequence_bytes(tokens) + (session.memory_bytes(source) if source else 0)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_processor_that_raises(directory: Path, generator: Generator, replicas: int, samples: int) -> None:
    own = prompt_ids(generator, PROMPTS[1])

    def process(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        if tuple(ids[: len(own)].tolist()) == own and len(ids) > len(own) + 3:
            raise KeyError("mine")
        return logits

    how = {**HOW, "max_new_tokens": 20, "seed": 1, "top_k": 5, "num_return_sequences": samples}
    wanted = generator.generate(PROMPTS, **how)
    with pyengine.load(directory, task=Generator, threads=2, replicas=replicas) as other:
        said = r"^number 2 of 4 failed: KeyError: 'mine'; results has the others'$"
        with pytest.raises(PartialError, match=said) as caught:
            other.generate(PROMPTS, processor=process, **how)
        found = caught.value
        assert found.results == [wanted[0], None, *wanted[2:]] and list(found.errors) == [1]
        assert isinstance(found.errors[1], KeyError) and found.__cause__ is found.errors[1]
        with pytest.raises(KeyError, match="mine"):
            other.generate(PROMPTS[1], processor=process, **how)
        with pytest.raises(PartialError, match="^number 1 of 1 failed"):
            other.generate(PROMPTS[1:2], processor=process, **how)
        assert other.generate(PROMPTS, **how) == wanted


def test_a_processor_that_always_raises(generator: Generator) -> None:
    def process(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        raise ValueError(len(ids))

    with pytest.raises(PartialError, match="^number 1 of 4, and 3 more, failed: ValueError: ") as caught:
        generator.generate(PROMPTS, processor=process)
    assert caught.value.results == [None] * 4 and list(caught.value.errors) == [0, 1, 2, 3]
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(PartialError) as caught:
        generator.chat([messages, messages], processor=process)
    assert list(caught.value.errors) == [0, 1]


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"top_k": 4, "seed": 3, "num_return_sequences": 3}])
def test_a_prompt_that_is_too_large_for_the_cache(
    directory: Path, generator: Generator, replicas: int, how: dict[str, int]
) -> None:
    long = list(range(4, 66))
    wanted = generator.generate(PROMPTS, **HOW, **how)
    rows = max(how.get(name, 1) for name in ("num_beams", "num_return_sequences"))
    longest = max(len(prompt_ids(generator, each)) for each in PROMPTS) + HOW["max_new_tokens"]
    most = room(generator, rows, longest)
    with pyengine.load(directory, task=Generator, threads=2, replicas=replicas, cache_bytes=most) as tiny:
        for place in (0, 2, 4):
            prompts = [*PROMPTS[:place], long, *PROMPTS[place:]]
            for budget in (16, 1024):
                with pytest.raises(PartialError, match=f"^number {place + 1} of 5 failed: CacheFullError: ") as caught:
                    tiny.generate(prompts, max_batch_tokens=budget, **HOW, **how)
                assert caught.value.results == [*wanted[:place], None, *wanted[place:]]
        with pytest.raises(CacheFullError):
            tiny.generate(long, **HOW, **how)
        assert tiny.generate(PROMPTS, **HOW, **how) == wanted


def test_a_text_that_is_too_large_to_be_judged(directory: Path, generator: Generator) -> None:
    long = list(range(4, 66))
    with pyengine.load(directory, task=Generator, threads=1, cache_bytes=room(generator, 1, 16)) as tiny:
        with pytest.raises(PartialError, match="^number 2 of 3 failed: CacheFullError") as caught:
            tiny.score(["the sea", long, "a"])
        assert caught.value.results == [generator.score("the sea"), None, generator.score("a")]
        with pytest.raises(CacheFullError):
            tiny.score(long)
        with pytest.raises(CacheFullError):
            tiny.perplexity(long)


def test_a_sentence_that_is_too_large_for_the_cache(int8_directory: Path, german: list[str]) -> None:
    short, long = "Ein Mann.", "Ein Mann fährt mit dem Rad über eine Brücke, und Kinder spielen am Strand. " * 3
    how = {"num_beams": 2, "max_new_tokens": 8}
    with pyengine.load(int8_directory, threads=1) as free:
        wanted = free.translate(short, **how)
        score = free.score(short, wanted.ids)
        most = room(free, 2, 9, 8)
    with pyengine.load(int8_directory, threads=1, cache_bytes=most) as tiny:
        with pytest.raises(PartialError, match="^number 2 of 3 failed: CacheFullError") as caught:
            tiny.translate([short, long, short], **how)
        assert caught.value.results == [wanted, None, wanted]
        found = tiny.translate_iter([short, long, short], **how)
        assert next(found) == wanted
        with pytest.raises(CacheFullError):
            next(found)
        with pytest.raises(PartialError, match="^number 1 of 2 failed: CacheFullError") as caught:
            tiny.score([long, short], [wanted.ids, wanted.ids])
        assert caught.value.results == [None, score]


def test_what_can_be_seen_before_is_raised_before(generator: Generator) -> None:
    """Nothing runs then."""
    def never(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        raise AssertionError

    with pytest.raises(InputError, match="prompt 2: expected token ids"):
        generator.generate(["a", [-1]], processor=never)
