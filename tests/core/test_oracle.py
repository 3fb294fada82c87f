"""Whole models on the C core against NumPy in float64.

float32: the same algebra in NumPy's float32 gives the size of rounding errors for each model; the core, which only
sums in another order, stays within eight times that: how NumPy sums is up to the CPU. (Measured: 0.9 to 4.5 times.)

int8: the oracle rounds where the core rounds (tests/oracle/quantized.py). Then either nothing but float32 rounding is
left, and that is so for most logits; or a value fell on the other side of an edge between two int8 steps, which
moves results by less than quantization as a whole does: by less than half of it, where two independent roundings
would differ by sqrt(2) times it. (Measured: mostly below 1 %, at most 29 %.)
"""

from __future__ import annotations

import numpy as np
import pytest

from pyengine import _core

from ..oracle.quantized import QuantizedReference
from ..oracle.reference import ACTIVATIONS, ReferenceModel
from .models import COMPUTE, UNEVEN, TinyModel, new_session, step

UNIT = 2.0**-24

APART = {"share_embeddings": False, "tie_output": False}
SHAPES = {
    "width 12": dict(
        width=12, encoder=(2, 3, 10), decoder=(2, 4, 7), source_vocab=5, target_vocab=9, **APART
    ),
    "width 20, 3000 ids": dict(
        width=20, encoder=(1, 5, 33), decoder=(3, 1, 20), source_vocab=30, target_vocab=3000,
        share_embeddings=False,
    ),
    "heads of 1": dict(
        width=6, encoder=(2, 6, 5), decoder=(1, 6, 1), source_vocab=30, target_vocab=1025, **APART
    ),
    "width 64, 1024 ids": dict(
        width=64, encoder=(1, 4, 128), decoder=(2, 8, 96), source_vocab=1024, target_vocab=1024,
        tie_output=False,
    ),
    "width 66": dict(
        width=66, encoder=(1, 2, 70), decoder=(1, 1, 66), source_vocab=2047, target_vocab=2047
    ),
    "one head of 256": dict(width=256, encoder=(1, 1, 64), decoder=(1, 1, 64)),
    "layers that differ": dict(UNEVEN, source_vocab=90, target_vocab=1100, **APART),
    "one id": dict(source_vocab=1, target_vocab=1),
}  # fmt: skip
SOURCE_LENGTHS, TARGET_LENGTHS = (1, 5, 17, 33), (20, 1, 35, 18)


class Case:
    """Ragged sources and targets for a model, and all logits of the targets by each computation."""

    def __init__(self, tiny: TinyModel, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        config = tiny.config
        self.tiny = tiny
        self.sources = {i: rng.integers(0, config.source_vocab, n) for i, n in enumerate(SOURCE_LENGTHS)}
        self.rows = [(i, i, rng.integers(0, config.target_vocab, n)) for i, n in enumerate(TARGET_LENGTHS)]

    def oracle(self, model: ReferenceModel) -> np.ndarray:
        parts = [model.decode(tokens, model.encode(self.sources[memory])) for _, memory, tokens in self.rows]
        return np.concatenate(parts)

    def core(self, kv: str, **options: object) -> np.ndarray:
        session = new_session(self.tiny.core(kv, **options))
        logits = step(session, sources=self.sources, rows=self.rows, full_logits=True).logits
        assert logits is not None
        return logits

    def check(self, kv: str) -> None:
        tiny = self.tiny
        got = self.core(kv)
        exact = self.oracle(ReferenceModel(tiny.config, tiny.floats))
        in_float32 = self.oracle(ReferenceModel(tiny.config, tiny.floats, np.float32))
        rounding = 8 * np.abs(in_float32 - exact).max() + 8 * UNIT * np.abs(exact).max()
        if (tiny.weights, kv) == ("float32", "float32"):
            assert np.abs(got - exact).max() <= rounding
            return
        activations = tiny.weights != "float32"
        rounded = QuantizedReference(tiny.config, tiny.floats, activations=activations, cache=kv == "int8")
        error = got - self.oracle(rounded)
        assert np.median(np.abs(error)) <= rounding
        assert np.sqrt(np.mean(error**2)) <= 0.5 * np.sqrt(np.mean((got - exact) ** 2)) + rounding


@pytest.mark.parametrize(("weights", "kv"), COMPUTE)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str, weights: str, kv: str) -> None:
    # Of one id all rows are alike: with most seeds some value lies just on an edge, and moves them all.
    Case(TinyModel.random(weights, seed=5, **SHAPES[shape])).check(kv)


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str, weights: str) -> None:
    Case(TinyModel.random(weights, seed=4, activation=activation)).check(weights)


@pytest.mark.parametrize("changes", [{"embedding_scale": 1.0}, {"norm_epsilon": 0.1}], ids=str)
def test_other_numbers_of_the_config(changes: dict[str, float]) -> None:
    Case(TinyModel.random(seed=5, **changes)).check("float32")


@pytest.mark.parametrize(("weights", "kv"), COMPUTE)
@pytest.mark.parametrize("shape", ["width 12", "width 20, 3000 ids", "width 66", "layers that differ"])
def test_every_instruction_set_gives_the_same_bytes(shape: str, weights: str, kv: str) -> None:
    case = Case(TinyModel.random(weights, seed=6, activation="gelu", **SHAPES[shape]))
    results = {isa: case.core(kv, isa=isa).tobytes() for isa in _core.available_isas()}
    assert len(set(results.values())) == 1, list(results)


def test_a_zero_row_of_weights_and_an_unused_id() -> None:
    """An int8 row of zeros has scale 0: its logit is its bias, and nothing divides by it."""
    tiny = TinyModel.random("int8", seed=7, tie_output=False)
    floats, packed = dict(tiny.floats), dict(tiny.packed)
    weight, scale = packed["output.weight"].copy(), packed["output.scale"].copy()
    weight[0, :, 5], scale[5] = 0, 0
    floats["output.weight"][5] = 0
    case = Case(TinyModel(tiny.config, "int8", packed | {"output.weight": weight, "output.scale": scale}, floats))
    case.check("int8")
    np.testing.assert_array_equal(case.core("int8")[:, 5], floats["output.bias"][5])
