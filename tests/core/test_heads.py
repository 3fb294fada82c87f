"""Heads in a step: beside memories and decoder rows, in slices, watched, and where they fail.

Their values are those of tests/oracle, on any configuration: test_any_config.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from pyengine import _core
from pyengine.canonical import HeadConfig
from pyengine.errors import EngineError, InputError
from pyengine.plan import Plan
from pyengine.scheduling.slicing import run_plan

from ..canonical.configs import HEADS, encoder_only
from ..oracle import random_config
from .models import TinyModel, make_plan, new_session, step

BOTH = {"tags": HeadConfig("none", True, "relu", out=5), "words": HeadConfig("last", out="vocabulary")}
LENGTHS = (3, 17, 1, 32, 8, 2, 25, 16)


def encoder(weights: str = "int8") -> TinyModel:
    config = encoder_only(heads=HEADS)
    return TinyModel.of(config, random_config.random_tensors(config, 2), weights)


def segments(model: TinyModel, lengths: tuple[int, ...] = LENGTHS, **more: object) -> Plan:
    tokens = np.random.default_rng(len(lengths)).integers(0, model.config.source_vocab, sum(lengths))
    return make_plan(encode_tokens=tokens, encode_lengths=lengths, encode_memories=[-1] * len(lengths), **more)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("max_rows", [32, 40, 57, 103])
def test_slices_answer_as_the_whole(head: str, max_rows: int) -> None:
    """A segment cut out of a larger plan has the bytes that it has there."""
    tiny = encoder()
    plan = segments(tiny, head=head, states=True)
    whole = run_plan(new_session(tiny.core("int8")), plan)
    sliced = run_plan(new_session(tiny.core("int8"), max_rows=max_rows), plan)
    for one, other in ((whole.answers, sliced.answers), (whole.states, sliced.states)):
        assert one is not None and other is not None and one.tobytes() == other.tobytes()
    with pytest.raises(InputError, match="a segment of 32 tokens exceeds 31 rows"):
        run_plan(new_session(tiny.core("int8"), max_rows=31), plan)


def test_shapes() -> None:
    tiny = encoder("float32")
    shapes = {"classes": (len(LENGTHS), 3), "words": (sum(LENGTHS), 21), "embedding": (len(LENGTHS), 12)}
    for head, shape in shapes.items():
        answers = new_session(tiny.core()).step(segments(tiny, head=head)).answers
        assert answers is not None and answers.shape == shape and answers.flags.c_contiguous
        none = new_session(tiny.core()).step(segments(tiny, (), head=head)).answers
        assert none is not None and none.shape == (0, shape[1])
    assert new_session(tiny.core()).step(segments(tiny)).answers is None


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_beside_memories_and_rows(weights: str) -> None:
    """A head changes nothing else, even one that writes where rows are; nor do other segments and rows change it."""
    tiny = TinyModel.random(weights, seed=7, heads={**BOTH, "normed": HeadConfig("none", norm=True)})
    rows = [(0, 0, [1, 2, 3]), (1, 1, [4] * 18)]
    sources = {0: [5, 6, 7], 1: [8] * 20}
    plain = step(new_session(tiny.core()), sources=sources, rows=rows, full_logits=True, states=True)
    for head in tiny.config.heads:
        alone = step(new_session(tiny.core()), sources={0: sources[0]}, head=head).answers
        session = new_session(tiny.core(), threads=2)
        found = step(session, sources=sources, rows=rows, full_logits=True, states=True, head=head)
        for name in ("logits", "states", "log_normalizer"):
            assert getattr(found, name).tobytes() == getattr(plain, name).tobytes(), (head, name)
        assert found.answers is not None and alone is not None
        assert found.answers[: len(alone)].tobytes() == alone.tobytes(), head
        later = step(session, sources={2: sources[0]}, rows=[(0, 0, [9])], head=head).answers
        assert later is not None and later.tobytes() == alone.tobytes(), head


@pytest.mark.parametrize("head", HEADS)
def test_an_observer_sees_what_its_layers_read(head: str) -> None:
    tiny = encoder("float32")
    session, seen = new_session(tiny.core(), threads=2), {}
    session.observe(lambda name, x: seen.update({name: x.copy()}))
    result = session.step(segments(tiny, head=head, states=True))
    own = {name: x for name, x in seen.items() if name.startswith("head.")}
    layers = {"classes": ["dense", "out"], "words": ["dense", "out"], "embedding": []}
    assert list(own) == [f"head.{head}.{layer}" for layer in layers[head]]
    if head == "words":
        np.testing.assert_array_equal(own["head.words.dense"], result.states)
        assert own["head.words.out"].shape == (sum(LENGTHS), 8)
    if head == "classes":
        assert result.states is not None
        starts = np.cumsum(LENGTHS) - LENGTHS
        np.testing.assert_array_equal(own["head.classes.dense"], result.states[starts])


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("weights", ["float32", "int8", "int4g32"])
def test_nan_in_any_of_its_tensors_is_an_error(weights: str, isa: str) -> None:
    tiny = encoder(weights)
    model = tiny.core(isa=isa)
    tried = 0
    for name, array in tiny.packed.items():
        if not name.startswith("head.") or array.dtype.kind != "f":
            continue
        head, first = name.split(".")[1], (0,) * array.ndim
        before, array[first] = array[first], np.nan
        what = {"classes": "segment 0", "words": "source token 0"}[head]
        with pytest.raises(EngineError, match=f"the head's answer to {what} has -?nan"):
            new_session(model).step(segments(tiny, head=head))
        array[first] = before
        tried += 1
    assert tried >= 9
    assert new_session(model).step(segments(tiny, head="words")).answers is not None


def test_a_head_that_is_not_there() -> None:
    """The others are named; nothing has run."""
    tiny = TinyModel.random(heads=BOTH)
    session = new_session(tiny.core())
    for wrong in ("", "word", "köpfe\n", "x" * 1000, "__class__"):
        with pytest.raises(EngineError, match=r"expected one of the model's \(tags, words\)") as caught:
            step(session, sources={0: [1]}, head=wrong)
        assert len(str(caught.value)) < 200 and str(caught.value).isprintable()
    step(session, sources={0: [1]}, head="tags")  # memory 0 is not in use
