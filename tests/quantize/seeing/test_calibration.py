"""Calibration: the statistics are those of NumPy's activations, and nothing but text and model changes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine.errors import InputError, OptionError
from pyengine.quantize.seeing import calibration
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine
from pyengine.quantize.seeing.statistics import InputStatistics
from pyengine.tasks.engine import Engine
from pyengine.tasks.translator import Translator

from ...oracle.recording import RecordingReference
from ...oracle.tiny import generation, model_config, random_sources, random_tensors
from ...tasks.models import LetterTokenizer

CONFIG = model_config()
TENSORS = random_tensors(CONFIG, 5, 0.2)
TEXT = list(zip(random_sources(1, 50), random_sources(2, 50), strict=True))
Bytes = dict[str, dict[str, bytes]]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that fifty lines are many blocks, steps and chunks; a state after each chunk."""
    monkeypatch.setattr(calibration, "BLOCK_ROWS", 32)
    monkeypatch.setattr(calibration, "BATCH_ROWS", 70)
    monkeypatch.setattr(calibration, "CHUNK_LINES", 8)
    monkeypatch.setattr(calibration, "SAVE_SECONDS", 0.0)


def engine(threads: int = 1, tensors: dict[str, np.ndarray] = TENSORS, **defaults: Any) -> Engine:
    return in_memory_engine(CONFIG, generation(**defaults), tensors, threads=threads)


def to_bytes(statistics: dict[str, InputStatistics]) -> Bytes:
    return {
        layer: {name: array.tobytes() for name, array in each.state().items()} for layer, each in statistics.items()
    }


def forced(target: list[int]) -> np.ndarray:
    """What the decoder reads: start token 22, then the target without its end."""
    return np.array([22, *target[:-1]])


def recorded(text: list[tuple[list[int], list[int]]], dtype: type = np.float64) -> dict[str, np.ndarray]:
    model = RecordingReference(CONFIG, TENSORS, dtype)
    for source, target in text:
        model.run(np.array(source), forced(target))
    return {name: np.concatenate(seen) for name, seen in model.seen.items()}


def test_the_statistics_are_those_of_numpy() -> None:
    found = calibrate(engine(), None, TEXT, reservoir=16)
    exact, rough = recorded(TEXT), recorded(TEXT, np.float32)
    assert set(found) == set(exact)
    assert list(found)[0] == "encoder.layers.0.self_attention.qkv" and list(found)[-1] == "output"
    for name, each in found.items():
        x = exact[name]
        error = 8 * np.abs(rough[name] - x).max() + 1e-9  # of one value: float32 in another order
        assert each.count == len(x)
        assert np.abs(each.absmax - np.abs(x).max(axis=0)).max() <= error
        assert np.abs(each.sum - x.sum(axis=0)).max() <= len(x) * error
        assert np.abs(each.abs_sum - np.abs(x).sum(axis=0)).max() <= len(x) * error
        # A product of two values, and float32 sums of 32 of them.
        assert np.abs(each.gram - x.T @ x).max() <= 3 * len(x) * np.abs(x).max() * (error + 1e-6 * np.abs(x).max())
        nearest = np.abs(each.rows[:, None] - x[None]).max(axis=2).min(axis=1)
        assert each.rows.shape == (16, x.shape[1]) and nearest.max() <= error


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_byte(threads: int) -> None:
    assert to_bytes(calibrate(engine(threads), None, TEXT)) == to_bytes(calibrate(engine(), None, TEXT))


@pytest.mark.parametrize("rows", [1, 40, 1000])
def test_steps_change_no_byte(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    wanted = to_bytes(calibrate(engine(), None, TEXT))
    monkeypatch.setattr(calibration, "BATCH_ROWS", rows)
    assert to_bytes(calibrate(engine(), None, TEXT)) == wanted


def test_missing_targets_are_greedy_translations() -> None:
    model = engine()
    results = Translator(model, None, {}).translate([source for source, _ in TEXT], num_beams=1)
    complete = [(source, [*result.ids, 0]) for (source, _), result in zip(TEXT, results, strict=True)]
    half = [(source, target if i % 2 else None) for i, (source, target) in enumerate(complete)]
    none = [(source, None) for source, _ in complete]
    wanted = to_bytes(calibrate(model, None, complete))
    assert to_bytes(calibrate(model, None, half)) == to_bytes(calibrate(model, None, none)) == wanted


def test_texts_go_through_the_tokenizer() -> None:
    tokenizer = LetterTokenizer()
    texts = [("abc", "de"), ("f", "ghi")]
    ids = [(tokenizer.encode_source(source), tokenizer.encode_target(target, end=True)) for source, target in texts]
    assert to_bytes(calibrate(engine(), tokenizer, texts)) == to_bytes(calibrate(engine(), None, ids))


@pytest.mark.parametrize("targets", [True, False])
def test_going_on_gives_the_same_bytes(tmp_path: Path, targets: bool) -> None:
    text = TEXT if targets else [(source, None) for source, _ in TEXT]
    wanted = to_bytes(calibrate(engine(), None, text, state=tmp_path / "whole"))
    steps: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        steps.append((done, total))
        if done in (16, 40):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            calibrate(engine(), None, text, state=tmp_path / "state", progress=stop)
    found = calibrate(engine(2), None, text, state=tmp_path / "state", progress=stop)
    assert to_bytes(found) == wanted
    assert steps == [(done, 50) for done in (8, 16, 24, 32, 40, 48, 50)]
    assert (tmp_path / "state").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "whole"]
    again = calibrate(engine(), None, text, state=tmp_path / "state", progress=stop)
    assert to_bytes(again) == wanted and steps[-1] == (50, 50) and len(steps) == 7


def test_states_are_written_now_and_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a minute between two of them, only the last one is written here."""
    monkeypatch.setattr(calibration, "SAVE_SECONDS", 60.0)
    present: list[bool] = []
    path = tmp_path / "state"
    calibrate(engine(), None, TEXT, state=path, progress=lambda done, total: present.append(path.exists()))
    assert present == [False] * 6 + [True]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    calibrate(engine(), None, TEXT, state=tmp_path / "state")
    yield tmp_path / "state"


def test_a_state_of_another_calibration_is_refused(state: Path) -> None:
    other = {**TENSORS, "decoder.layers.1.ffn.up.weight": TENSORS["decoder.layers.1.ffn.up.weight"] + 0.01}
    for args, options, what in (
        ((engine(), None, TEXT[:-1]), {}, r"differs in lines \(expected 49, found 50\), text \("),
        ((engine(), None, [*TEXT[:-1], ([3, 0], [4, 0])]), {}, r"differs in text \(expected \w+, found \w+\);"),
        ((engine(tensors=other), None, TEXT), {}, r"differs in weights \(expected \w+, found \w+\);"),
        ((engine(max_length=19), None, TEXT), {}, r"differs in generation.max_length \(expected 19, found 20\);"),
        ((engine(), None, TEXT), {"seed": 7}, r"differs in seed \(expected 7, found 0\); remove it"),
        ((engine(), None, TEXT), {"reservoir": 7}, r"differs in reservoir \(expected 7, found 512\);"),
    ):
        before = state.read_bytes()
        with pytest.raises(OptionError, match=what):
            calibrate(*args, state=state, **options)
        assert state.read_bytes() == before


DAMAGED = {  # what is put in the place of what in the header
    "no gram": (b'"output/gram"', b'"output/gray"'),
    "numbers of another type": (b'"output/numbers":{"dtype":"I64"', b'"output/numbers":{"dtype":"F64"'),
    "no lines": (b'"done"', b'"gone"'),
    "lines of another type": (b'"done":{"dtype":"I64"', b'"done":{"dtype":"F64"'),
}


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "directory", *DAMAGED])
def test_a_damaged_state_is_refused(state: Path, damage: str) -> None:
    content = state.read_bytes()
    if damage == "directory":
        state.unlink()
        state.mkdir()
    elif damage in ("cut", "text", "empty"):
        state.write_bytes({"cut": content[: len(content) // 2], "text": b"hello\n", "empty": b""}[damage])
    else:
        old, new = DAMAGED[damage]
        assert content.count(old) == 1
        state.write_bytes(content.replace(old, new))
    with pytest.raises(InputError, match="state: expected the state of a calibration, found something else: "):
        calibrate(engine(), None, TEXT, state=state)


def test_a_state_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="missing/state: the directory .*missing does not exist"):
        calibrate(engine(), None, TEXT, state=tmp_path / "missing" / "state")


@pytest.mark.parametrize(
    ("tensor", "layer", "line"),
    [
        ("encoder.layers.0.self_attention.v.bias", "encoder.layers.0.self_attention.output", 1),
        ("decoder.layers.1.ffn.up.bias", "decoder.layers.1.ffn.down", 1),
    ],
)
def test_values_that_are_not_finite_have_a_layer_and_a_line(tensor: str, layer: str, line: int) -> None:
    broken = TENSORS[tensor].copy()
    broken[3] = np.inf
    message = rf"input of {layer}, line {line} of the text: expected finite numbers, found "
    with pytest.raises(InputError, match=message):
        calibrate(engine(tensors={**TENSORS, tensor: broken}), None, TEXT)


@pytest.mark.parametrize("bad", [0, 7, 8, 23, 49])
@pytest.mark.parametrize("side", [0, 1])
def test_the_line_is_that_of_the_token(bad: int, side: int) -> None:
    """Id 21 has an embedding that is no number, and occurs in one line only."""
    config = model_config(share_embeddings=False)
    tensors = random_tensors(config, 5, 0.2)
    tensors["encoder.embed.weight" if side == 0 else "decoder.embed.weight"][21, 2] = np.nan
    text = [([i % 20 + 1 for i in s[:-1]] + [0], [i % 20 + 1 for i in t[:-1]] + [0]) for s, t in TEXT]
    text[bad] = ([21, 0], [5, 0]) if side == 0 else ([5, 0], [4, 21, 0])
    model = in_memory_engine(config, generation(), tensors, threads=2)
    layer = ("encoder" if side == 0 else "decoder") + r"\.layers\.0\.self_attention\.qkv"
    with pytest.raises(InputError, match=rf"input of {layer}, line {bad + 1} of the text: .* found nan in column 2"):
        calibrate(model, None, text)


def test_a_short_text_says_how_much_is_needed() -> None:
    rows = min(sum(len(side) for side in sides) for sides in zip(*TEXT, strict=True))
    assert min(each.count for each in calibrate(engine(), None, TEXT, needed=rows).values()) == rows
    for text in (TEXT, [(source, None) for source, _ in TEXT]):
        message = r"needs 9000 rows in every layer, but the text of 50 lines gives \d+; about"
        with pytest.raises(InputError, match=message):
            calibrate(engine(), None, text, needed=9000)
    with pytest.raises(InputError, match=f"gives {rows}; about 51 lines like these are enough"):
        calibrate(engine(), None, TEXT, needed=rows + 1)
    sources = [([*([3] * 20), 0], None)] * 4  # known before anything runs; how long translations are is not
    with pytest.raises(InputError, match=r"needs 84 rows in every layer, but the text of 4 lines gives \d+;"):
        calibrate(engine(max_length=3), None, sources, needed=84)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ([], "calibration needs text, found none"),
        ([([3, 0], [4]), ([], [4])], "the source of line 2 is empty"),
        ([([3, 0], [4]), ([3, 99], [4])], "the source of line 2: "),
        ([([3, 0], [4] * 41)], "the target of line 1 has 42 tokens; the model has 40 positions"),
        ([("abc", "d")], "the source of line 1 is text, but the model has no tokenizer"),
    ],
)
def test_text_that_the_model_cannot_take(text: list[Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        calibrate(engine(), None, text)


def test_sources_that_are_too_long_are_cut() -> None:
    long, cut = [*([3] * 50), 0], [*([3] * 39), 0]
    assert to_bytes(calibrate(engine(), None, [(long, [4, 0])])) == to_bytes(calibrate(engine(), None, [(cut, [4, 0])]))


def test_an_engine_in_memory_is_that_of_its_tensors() -> None:
    tensors = {name: tensor.copy() for name, tensor in TENSORS.items()}
    model = Translator(in_memory_engine(CONFIG, generation(), tensors), None, {})
    source, target = TEXT[0]
    wanted = RecordingReference(CONFIG, TENSORS)
    logits = wanted.decode(forced(target), wanted.encode(np.array(source)))
    before = model.logits(source, target)
    assert np.abs(before - logits).max() < 1e-4
    for tensor in tensors.values():
        tensor[...] = 0  # it has copies
    assert model.logits(source, target).tobytes() == before.tobytes()


def test_an_engine_in_memory_checks_its_tensors() -> None:
    missing = {name: tensor for name, tensor in TENSORS.items() if name != "output.bias"}
    with pytest.raises(InputError, match="1 missing: output.bias"):
        engine(tensors=missing)
    with pytest.raises(InputError, match=r"1 mis-shaped: output.bias \(expected \[23\], found \[22\]\)"):
        engine(tensors={**TENSORS, "output.bias": np.zeros(22, np.float32)})
    with pytest.raises(OptionError, match="threads is 0"):
        engine(0)
