"""What layers of any configuration read, and the vectors between them, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.canonical import CanonicalModel
from pyengine.errors import InputError
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.prune.stream import Stream, behind
from pyengine.quantize.seeing import calibration
from pyengine.quantize.seeing.calibration import STATES, calibrate, in_memory_engine, paired_inputs
from pyengine.quantize.seeing.text import Line

from ...oracle.transformer import Transformer
from ...tasks.models import LetterTokenizer
from .models import END, SEEDS, forced, language_model, lines, random_model, values

# Of the parts that are one matrix, that whose input stands for it.
FUSED = {"self_attention.q": "qkv", "cross_attention.k": "kv", "ffn.gate": "gate_up"}
READ_WITH = ("self_attention.k", "self_attention.v", "cross_attention.v")


class Recording(Transformer):
    """`seen`: packed name -> inputs [rows, K] of each call."""

    seen: dict[str, list[np.ndarray]]

    def _linear(self, name: str, x: np.ndarray, weight: str | None = None) -> np.ndarray:
        stem, _, part = name.rpartition(".")
        key = f"{stem.rpartition('.')[2]}.{part}"
        gated = key == "ffn.up" and f"{stem}.gate.weight" in self._tensors
        if key not in READ_WITH and not gated:
            packed = f"{stem}.{FUSED.get(key, part)}" if stem else name
            self.seen.setdefault(packed, []).append(self._read(x))
        return super()._linear(name, x, weight)


def recorded(model: CanonicalModel, text: list[Line]) -> dict[str, np.ndarray]:
    oracle = Recording(model.config, values(model))
    oracle.seen = {}
    for source, target in text:
        memory = None if source is None else oracle.encode(source)  # type: ignore[arg-type]
        if target is not None:
            oracle.decode(forced(target), memory)
    return {name: np.concatenate(rows) for name, rows in oracle.seen.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_statistics_are_those_of_numpy(seed: int) -> None:
    model = random_model(seed)
    text = lines(model, 6)
    found = calibrate(in_memory_engine(model.config, model.generation, model.tensors), None, text)
    expected = recorded(model, text)
    assert set(found) == set(expected)
    for name, each in found.items():
        x = expected[name]
        assert each.count == len(x)
        np.testing.assert_allclose(each.mean, x.mean(axis=0), atol=1e-4 * np.abs(x).max(), err_msg=name)
        np.testing.assert_allclose(each.gram, x.T @ x, atol=1e-3 * np.abs(x.T @ x).max(), err_msg=name)


@pytest.mark.parametrize("seed", SEEDS)
def test_vectors_between_layers(seed: int) -> None:
    """With norms before and behind, from tables of any kind; what a final norm makes of the last ones is not theirs."""
    model = random_model(seed)
    text = lines(model, 4)
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    oracle = Transformer(model.config, values(model))
    for name, stack in model.config.stacks():
        stream = Stream(model, name)
        ((_, samples, (seen,)),) = paired_inputs([engine], None, text, [stream.views])
        found = stream.vectors(samples, seen)
        expected = []
        for source, target in text:
            reads = name == "decoder" and source is not None
            memory = oracle.encode(source) if reads else None  # type: ignore[arg-type]
            ids = source if name == "encoder" else forced(target)
            expected.append(oracle.states(name, ids, memory))  # type: ignore[arg-type]
        places = [np.concatenate(each) for each in zip(*expected, strict=True)]
        assert len(found) == len(places) == len(stack.layers) + 1
        for x, y in list(zip(found, places, strict=True))[: -1 if stack.final_norm else None]:
            np.testing.assert_allclose(x, y, atol=1e-4 * np.abs(y).max())


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_what_a_stack_gives(seed: int) -> None:
    """With the final norm: what the output layer, the cross-attentions or nothing in the model reads."""
    model = random_model(seed)
    text = lines(model, 3)
    oracle = Transformer(model.config, values(model))
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    for name, _ in model.config.stacks():
        reader = behind(model.config, name)
        assert (reader == STATES) == (model.config.decoder is None)
        ((_, _, (seen,)),) = paired_inputs([engine], None, text, [{reader: np.copy}])
        expected = []
        for source, target in text:
            memory = None if source is None else oracle.encode(source)  # type: ignore[arg-type]
            if name == "decoder":
                expected.append(oracle.states(name, forced(target), memory)[-1])
            elif memory is not None:
                expected.append(memory)
        y = np.concatenate(expected)
        np.testing.assert_allclose(seen[reader], y, atol=1e-4 * np.abs(y).max())


def test_long_texts_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a bounded number of rows, a line at least, which together are the whole."""
    model = random_model(1)  # both stacks
    text, stream = lines(model, 6), Stream(model, "decoder")
    engine = in_memory_engine(model.config, model.generation, model.tensors)

    def parts() -> list[tuple[int, list[np.ndarray]]]:
        found = paired_inputs([engine], None, text, [stream.views])
        return [(done, stream.vectors(samples, seen)) for done, samples, (seen,) in found]

    ((_, whole),) = parts()
    for most, ends in ((70, [2, 4, 6]), (1, [1, 2, 3, 4, 5, 6])):
        monkeypatch.setattr(calibration, "CHUNK_ROWS", most)
        cut = parts()
        assert [done for done, _ in cut] == ends
        for i, x in enumerate(whole):
            np.testing.assert_allclose(np.concatenate([vectors[i] for _, vectors in cut]), x, rtol=1e-5, atol=1e-5)


def test_a_language_model_reads_what_it_would_behind_a_start_token() -> None:
    """Texts get the token in front, ids are as they are, and the rows are those of a model with a start token."""
    model, started = language_model(), random_model(0)
    text = [(None, "abca"), (None, "bd"), (None, "acdc")]
    found, expected = (
        calibrate(in_memory_engine(model.config, each.generation, model.tensors), LetterTokenizer(), text)
        for each in (model, started)
    )
    for name, each in found.items():
        assert each.count == expected[name].count == 16  # letters, the tokenizer's end and the model's
        np.testing.assert_array_equal(each.gram, expected[name].gram)
    [sample] = Reader.of(model).samples([(None, [5, 6, END])])
    assert sample.target is not None and sample.target.tolist() == [5, 6, END]


@pytest.mark.parametrize("bad", range(4))
def test_the_line_is_that_of_the_token_where_no_start_token_is(bad: int) -> None:
    model = language_model()
    table = model.tensors["decoder.embed.weight"].read().copy()
    table[9, 2] = np.nan
    tensors = {**model.tensors, "decoder.embed.weight": table}
    text = [(None, [4, 9 if i == bad else 5, 6, END][-i - 2 :]) for i in range(4)]
    text[0] = (None, [9 if bad == 0 else 5, 6, END])
    with pytest.raises(InputError, match=f"line {bad + 1} of the text"):
        calibrate(in_memory_engine(model.config, model.generation, tensors), None, text)
