"""NaN anywhere in the weights reaches the normalizer, where a step ends in an error, whatever rounds on the way."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine import _core
from pyengine.errors import EngineError
from pyengine.options import GenerationOptions
from pyengine.scheduling.scheduler import Request, Scheduler

from ..oracle.tiny import generation
from .models import COMPUTE, TinyModel, new_session, step

SOURCE = (3, 7, 0)
ROWS = [(0, 0, (22, 0, 5))]
HALF_NAN = 0x7E00


def nan_in(array: np.ndarray) -> float | int | None:
    """What is NaN in it; None: it holds integers, which are never."""
    return {"f": np.nan, "u": HALF_NAN if array.dtype == np.uint16 else None}.get(array.dtype.kind)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize(("weights", "kv"), COMPUTE)
def test_nan_in_any_tensor_is_an_error(weights: str, kv: str, isa: str, activation: str) -> None:
    tiny = TinyModel.random(
        weights, share_embeddings=False, tie_output=False, encoder=(1, 2, 40), decoder=(1, 2, 40), activation=activation
    )
    model = tiny.core(kv, isa)
    silent = []
    for name, array in tiny.packed.items():
        bad = nan_in(array)
        if bad is None:
            continue
        first = (0,) * array.ndim
        before, array[first] = array[first], bad
        try:
            step(new_session(model), sources={0: SOURCE}, rows=ROWS)
            silent.append(name)
        except EngineError as error:
            assert "the normalizer of row" in str(error) and "--verify" in str(error)
        array[first] = before
    assert silent == []
    assert np.isfinite(step(new_session(model), sources={0: SOURCE}, rows=ROWS).log_normalizer).all()


def with_nan_at_token(token: int) -> _core.Model:
    """Its embedding alone is NaN: the first step in which it is read fails."""
    tiny = TinyModel.random(share_embeddings=False, tie_output=False)
    table = tiny.packed["decoder.embed.weight"]
    table[token // 16, :, token % 16] = np.nan
    return tiny.core()


def test_other_sequences_go_on_afterwards() -> None:
    session = new_session(with_nan_at_token(5))
    with pytest.raises(EngineError, match="the normalizer of row 2 is -?nan"):
        step(session, sources={0: SOURCE}, rows=ROWS)
    found = step(session, rows=[(1, 0, (22, 0))])
    assert np.isfinite(found.log_normalizer).all()


@pytest.mark.parametrize("beams", [1, 3])
def test_steps_ahead_stop(beams: int) -> None:
    """The core meets NaN in the middle of a run of steps that Python does not see."""
    defaults = generation(bad_words_ids=(), forced_eos_token_id=())
    options = GenerationOptions(num_beams=beams, min_new_tokens=15, max_new_tokens=16, suppress_tokens=(0,))
    settled = options.resolve(defaults, 23, 40)
    requests = [Request(np.array(SOURCE, np.int32), np.array([settled.start], np.int32), settled)]

    def found(model: _core.Model) -> list[int]:
        scheduler = Scheduler(new_session(model), vocab=23, budget=64)
        [[best, *_]] = scheduler.run(requests)
        return best.ids.tolist()

    tiny = TinyModel.random(share_embeddings=False, tie_output=False)
    late = found(tiny.core())[8]
    with pytest.raises(EngineError, match="the normalizer of row"):
        found(with_nan_at_token(late))


def test_minus_infinity_in_a_bias_is_none() -> None:
    """Ids that can never be taken are no fault, not even where all ids of a tile are such."""
    tiny = TinyModel.random(share_embeddings=False, tie_output=False, target_vocab=2060)
    tiny.packed["output.bias"][1024:2060] = -np.inf
    session = new_session(tiny.core())
    found = step(session, sources={0: SOURCE}, rows=[(0, 0, (22,))], full_logits=True)
    expected = found.logits[0, :1024].astype(np.float64)
    assert found.log_normalizer[0] == pytest.approx(np.log(np.exp(expected).sum()), abs=1e-5)
    listed = step(session, sources={1: SOURCE}, rows=[(1, 1, (22,))], lists=[range(3, 2060, 2)])
    assert listed.log_normalizer[0] == pytest.approx(np.log(np.exp(expected[3::2]).sum()), abs=1e-5)
    tiny.packed["output.bias"][7] = np.inf
    with pytest.raises(EngineError, match="the normalizer of row 0 is"):
        step(session, sources={2: SOURCE}, rows=[(2, 2, (22,))])
