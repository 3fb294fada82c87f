"""The translator on the C core: recorded searches, company, threads, forks, conversions."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine import DeadlineError, ModelFileError, OptionError, Translator
from tests.oracle.cases import PLAIN
from tests.oracle.golden_generate import read_golden
from tests.oracle.reference import ReferenceModel
from tests.oracle.reference_session import ReferenceSession
from tests.oracle.tiny import (
    UNEVEN,
    Expected,
    SearchCase,
    generation,
    model_config,
    random_sources,
    random_tensors,
    search,
)
from tests.tasks.models import write_float32


@pytest.fixture(scope="module")
def int8(int8_directory: Path) -> Iterator[Translator]:
    with pyengine.load(int8_directory, threads=2) as translator:
        yield translator


@pytest.mark.parametrize(("name", "case"), list(PLAIN.items()), ids=PLAIN)
def test_float32_searches_are_those_of_transformers(name: str, case: SearchCase, tmp_path: Path) -> None:
    config = model_config(**case.config)
    write_float32(tmp_path / "m", config, generation(**case.generation), random_tensors(config, case.seed))
    with pyengine.load(tmp_path / "m", threads=1) as translator:
        prefix = [case.prefix] * len(case.sources)
        results = translator.translate(case.sources, target_prefix=prefix, **case.options)
    ends = generation(**case.generation).eos_token_id
    for theirs, result in zip(read_golden()[name], results, strict=True):
        wanted = [
            Expected(each.ids[:-1] if each.ids[-1] in ends else each.ids, each.score) for each in theirs
        ]
        assert [each.ids for each in result.hypotheses] == [each.ids for each in wanted]
        scores = [each.score for each in result.hypotheses]
        assert scores == pytest.approx([each.score for each in wanted], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_model_whose_layers_differ_is_searched_like_any_other(beams: int, tmp_path: Path) -> None:
    config, defaults, sources = model_config(**UNEVEN), generation(), random_sources(7, 6)
    tensors = random_tensors(config, 7)
    write_float32(tmp_path / "m", config, defaults, tensors)
    with pyengine.load(tmp_path / "m", threads=2) as translator:
        results = translator.translate(sources, num_beams=beams)
        assert translator.info()["model"] == config.to_json()
    reference = ReferenceSession(ReferenceModel(config, tensors))
    expected = search(reference, defaults, config, {"num_beams": beams}, sources)
    for (wanted,), result in zip(expected, results, strict=True):
        assert result.ids == tuple(id for id in wanted.ids if id != 0)
        assert result.score == pytest.approx(wanted.score, abs=1e-4)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("compute", ["int8", "float32"])
def test_the_same_bytes_alone_and_in_any_batch(
    int8_directory: Path, german: list[str], beams: int, compute: str
) -> None:
    with pyengine.load(int8_directory, threads=1, compute=compute) as translator:
        alone = [translator.translate(text, beam_size=beams, num_hypotheses=beams) for text in german]
        for budget in (1, 50, 1024, 4096):
            batch = translator.translate(
                german, beam_size=beams, num_hypotheses=beams, max_batch_tokens=budget
            )
            assert batch == alone, budget  # floats compared bit for bit
        targets = [result.ids for result in alone]
        scores = translator.score(german[:-1], targets[:-1])
        assert scores == [translator.score(*pair) for pair in zip(german[:-1], targets[:-1], strict=True)]


@pytest.mark.parametrize("kv", ["int8", "float32"])
def test_the_same_bytes_on_any_number_of_threads(int8_directory: Path, german: list[str], kv: str) -> None:
    results = []
    for threads in (1, 2, 3, 7):
        with pyengine.load(int8_directory, threads=threads, kv=kv) as translator:
            results.append((translator.translate(german), translator.logits(german[5], "A man.").tobytes()))
    assert all(result == results[0] for result in results)


def test_mapped_or_copied_weights_are_the_same(int8_directory: Path, german: list[str]) -> None:
    results = []
    for how in ("copy", "mmap"):
        with pyengine.load(int8_directory, load=how) as translator:
            about = translator.info()
            assert about["load"] == how
            assert 0 < about["weight_bytes"] < about["bytes"]
            if how == "mmap":
                assert not about["huge_page_bytes"]
            results.append(translator.translate(german))
    assert results[0] == results[1]
    for how in ("foo", None, True):
        with pytest.raises(OptionError, match='load is .*; expected "copy" or "mmap"'):
            pyengine.load(int8_directory, load=how)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_the_same_bytes_in_any_number_of_streams(int8_directory: Path, german: list[str], replicas: int) -> None:
    with pyengine.load(int8_directory, threads=3, replicas=replicas) as translator:
        assert translator.info()["replicas"] == replicas
        results = translator.translate(german, beam_size=2)
        assert list(translator.translate_iter(iter(german), beam_size=2)) == results
        assert [translator.translate(text, beam_size=2) for text in german] == results
    with pyengine.load(int8_directory, threads=1) as alone:
        assert alone.translate(german, beam_size=2) == results


def test_errors_and_timeouts_in_several_streams(int8_directory: Path, german: list[str]) -> None:
    with pyengine.load(int8_directory, threads=2, replicas=2) as translator:
        expected = translator.translate(german)
        with pytest.raises(DeadlineError):
            translator.translate(german * 20, timeout=0.005)
        stream = translator.translate_iter(iter([*german, [10**6]]))
        assert [next(stream) for _ in german] == expected
        with pytest.raises(pyengine.InputError, match=f"input {len(german) + 1}"):
            next(stream)
        closed = translator.translate_iter(iter(german))
        next(closed)
        closed.close()
        assert translator.translate(german) == expected
    for replicas in (0, 3, True, "2"):
        with pytest.raises(OptionError, match="replicas is .*; expected a whole number, 1..2, the threads"):
            pyengine.load(int8_directory, threads=2, replicas=replicas)


@pytest.mark.parametrize("replicas", [1, 2])
def test_closing_the_model_ends_no_call_that_has_begun(
    int8_directory: Path, german: list[str], replicas: int
) -> None:
    translator = pyengine.load(int8_directory, threads=2, replicas=replicas)
    expected = translator.translate(german * 20)
    results = translator.translate_iter(iter(german * 20))
    first = next(results)
    translator.close()
    assert [first, *results] == expected
    with pytest.raises(pyengine.ClosedError):
        translator.translate(german)


def test_a_prefix_is_what_would_have_been_written(int8: Translator) -> None:
    free = int8.translate("Ein Mann fährt Fahrrad.", beam_size=1)
    forced = int8.translate("Ein Mann fährt Fahrrad.", beam_size=1, target_prefix=list(free.ids[:3]))
    assert forced.ids == free.ids and forced.text == free.text


def test_scores_agree(int8: Translator, german: list[str]) -> None:
    for text in german[:8]:
        best = int8.translate(text, beam_size=1)
        scored = int8.score(text, best.text)
        if scored.ids[:-1] == best.ids:  # text -> ids is not always the inverse of ids -> text
            assert scored.total / len(scored.ids) == pytest.approx(best.score, abs=1e-5)
        logits = int8.logits(text, list(best.ids)).astype(np.float64)
        normalizers = np.log(np.exp(logits).sum(axis=1))
        by_hand = logits[np.arange(len(best.ids) + 1), [*best.ids, 0]] - normalizers
        assert int8.score(text, list(best.ids)).log_probs == pytest.approx(by_hand.tolist(), abs=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_logits_of_many_have_the_bytes_of_each(int8_directory: Path, german: list[str], threads: int) -> None:
    """Pieces of 64 rows end in the middle of targets, and targets in the middle of pieces."""
    sources = [*german[:-1], german[0]]
    targets = [*("A man rides a bike." for _ in german[:-1]), "a very long street " * 40]
    with pyengine.load(int8_directory, threads=threads) as translator:
        alone = [translator.logits(*pair).tobytes() for pair in zip(sources, targets, strict=True)]
        for budget in (1, 100, 1024):
            found = translator.logits_iter(sources, targets, max_batch_tokens=budget)
            assert [logits.tobytes() for logits in found] == alone


def test_compute_is_what_the_directory_holds(int8_directory: Path, float32_directory: Path) -> None:
    text = "Ein Mann fährt Fahrrad."
    for path, compute, kv in ((int8_directory, "int8", "int8"), (float32_directory, "float32", "float32")):
        with pyengine.load(path) as translator:
            about = translator.info()
            assert (about["weights"], about["compute"], about["kv"]) == (compute, compute, kv)
    with (
        pyengine.load(int8_directory, compute="float32") as turned,
        pyengine.load(float32_directory) as original,
    ):
        assert turned.info()["compute"] == "float32" and turned.info()["kv"] == "float32"
        assert turned.translate(text).score == pytest.approx(original.translate(text).score, abs=0.05)
        assert turned.translate(text).score != original.translate(text).score
    with pytest.raises(OptionError, match="pyengine quantize CHECKPOINT -o OUT --weights int8"):
        pyengine.load(float32_directory, compute="int8")
    for name, value in (("compute", "int4"), ("kv", 8), ("threads", 0), ("threads", 1.5)):
        with pytest.raises(OptionError, match=f"{name} is {value!r}"):
            pyengine.load(int8_directory, **{name: value})  # type: ignore[arg-type]


def test_a_training_checkpoint_by_mistake() -> None:
    checkpoint = Path(__file__).parents[2] / "examples" / "multi30k-de-en"
    with pytest.raises(ModelFileError, match=f"pyengine quantize {checkpoint} -o OUT"):
        pyengine.load(checkpoint)


def test_calls_of_several_threads_at_once(int8: Translator, german: list[str]) -> None:
    expected = int8.translate(german)
    results = []
    threads = [threading.Thread(target=lambda: results.append(int8.translate(german))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def _translate_in_child(
    translator: Translator, texts: list[str], answer: multiprocessing.SimpleQueue
) -> None:
    answer.put([result.text for result in translator.translate(texts)])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_translates(int8: Translator, german: list[str]) -> None:
    expected = [result.text for result in int8.translate(german)]
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_translate_in_child, args=(int8, german, answer))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
    assert answer.get() == expected
