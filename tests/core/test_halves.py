"""Weights in bfloat16 and float16 on the C core: the bytes of float32 models with the same weights."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine import _core
from pyengine.modelfile.layout import widened

from .models import TinyModel, make_plan, new_session
from .test_any_config import Case, Encoded
from .test_lists import CHANGES, run, sentences, to_bytes

KINDS = ("bfloat16", "float16")
DECODERS, ENCODERS = (0, 1, 4, 6), (1, 2, 4)  # of random_config: every kind of stack, tied tables and not


def in_float32(tiny: TinyModel) -> TinyModel:
    return TinyModel.of(tiny.config, tiny.floats, "float32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kv", ["float32", "int8"])
@pytest.mark.parametrize("seed", DECODERS)
def test_logits(seed: int, kv: str, kind: str) -> None:
    halves, floats = Case(seed, kind), Case(seed, kind)
    floats.tiny = in_float32(halves.tiny)
    expected = [logits.tobytes() for logits in floats.core(kv)]
    for isa in _core.available_isas():
        assert [logits.tobytes() for logits in halves.core(kv, isa)] == expected, isa


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", ENCODERS)
def test_states_and_answers(seed: int, kind: str) -> None:
    halves, floats = Encoded(seed, kind), Encoded(seed, kind)
    floats.tiny = in_float32(halves.tiny)
    for head in (None, *halves.tiny.config.heads):
        expected = [each.tobytes() for each in floats.core("float32", head=head)]
        assert [each.tobytes() for each in halves.core("float32", head=head, threads=3)] == expected, head


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_lists(tied: bool, kind: str) -> None:
    """Rows of the output layer are gathered into slots, which stay as slots go and come."""
    tiny = TinyModel.random(kind, seed=21, **{**CHANGES, "tie_output": tied})
    sessions = [new_session(each.core("float32"), threads=2) for each in (tiny, in_float32(tiny))]
    for seed in range(3):
        batch = sentences(6, seed)
        for session in sessions:
            session.clear()
        found, expected = (to_bytes(run(session, batch, exclude=[3, 700])) for session in sessions)
        assert found == expected


@pytest.mark.parametrize("kind", KINDS)
def test_subnormal_weights_count_as_those_of_float32(kind: str) -> None:
    """Those of float16 are normal numbers of float32; those of bfloat16 count as zero, as float32's do."""
    tiny = TinyModel.random(kind, seed=3)
    packed, dtype = dict(tiny.packed), {"bfloat16": np.uint16, "float16": np.float16}[kind]
    for name, tensor in packed.items():
        if tensor.dtype == dtype:
            bits = tensor.view(np.uint16).copy()
            bits.flat[::3] &= 0x807F if kind == "bfloat16" else 0x83FF
            packed[name] = bits.view(dtype)
    wide = {name: widened(tensor) for name, tensor in packed.items()}
    plan = make_plan(sources={0: [1, 2, 3]}, rows=[(0, 0, [1, 4, 2, 5])], full_logits=True)
    models = TinyModel(tiny.config, kind, packed, {}), TinyModel(tiny.config, "float32", wide, {})
    for isa in _core.available_isas():
        found, expected = (new_session(each.core(isa=isa)).step(plan).logits for each in models)
        assert found is not None and expected is not None
        assert found.tobytes() == expected.tobytes(), isa
        assert np.isfinite(found).all()
