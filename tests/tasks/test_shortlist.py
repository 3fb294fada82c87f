"""Translating with a shortlist, on the slow session and on the C core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine.errors import ModelFileError
from pyengine.shortlist import Shortlist
from pyengine.tasks.engine import Engine
from pyengine.tasks.translator import Translator
from tests.oracle.reference_session import ReferenceSession
from tests.oracle.tiny import generation, random_sources
from tests.tasks.models import CONFIG, MODEL, LetterTokenizer

VOCAB = 6001  # of the real checkpoint


def tiny(offsets: list[int], ids: list[int], frequent: list[int], **defaults: object) -> Translator:
    settled = generation(num_beams=2, **defaults)
    engine = Engine(CONFIG, settled, lambda threads: ReferenceSession(MODEL), keep=2)
    arrays = (np.array(values, np.int32) for values in (offsets, ids, frequent))
    return Translator(engine, LetterTokenizer(), {"path": "tiny"}, Shortlist(*arrays, CONFIG.target_vocab))


def some_ids(seed: int, path: Path, size: int = 60) -> Path:
    """A random shortlist of the real checkpoint."""
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.choice(VOCAB, size, replace=False)) for _ in range(VOCAB)]
    frequent = np.sort(rng.choice(VOCAB, 300, replace=False)).astype(np.int32)
    offsets = np.arange(VOCAB + 1, dtype=np.int32) * np.int32(size)
    Shortlist(offsets, np.concatenate(rows).astype(np.int32), frequent, VOCAB).write(path)
    return path


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_ids(1, tmp_path_factory.mktemp("lists") / "shortlist")


@pytest.mark.parametrize("beams", [1, 3])
def test_only_what_is_listed(beams: int) -> None:
    """Source id s allows s and s + 1, all sentences 5, and end tokens and forced ones belong to every list."""
    rows = [[s, s + 1] if s < 22 else [s] for s in range(23)]
    offsets = np.cumsum([0, *map(len, rows)]).tolist()
    translator = tiny(offsets, [id for row in rows for id in row], [5])
    for source in random_sources(3, 12):
        allowed = {5, 7, 0, *source, *(s + 1 for s in source)}
        found = translator.translate(source, num_beams=beams, num_return_sequences=beams, forced_bos_token_id=7)
        assert found.ids[0] == 7
        assert all(set(each.ids) <= allowed for each in found.hypotheses)
        assert all(np.isfinite(each.score) for each in found.hypotheses)


def test_a_list_of_nothing_but_the_end() -> None:
    result = tiny([0] * 24, [], []).translate([1, 2, 0])
    assert result.ids == () and result.finish_reason == "end"


def test_options_beside_a_shortlist() -> None:
    """Bans and penalties of ids that no list has."""
    rows = [list(range(s % 5, 22, 5)) for s in range(23)]
    offsets = np.cumsum([0, *map(len, rows)]).tolist()
    translator = tiny(offsets, [id for row in rows for id in row], [4])
    options = dict(
        bad_words_ids=[[3], [22], [4, 9]], repetition_penalty=1.3, no_repeat_ngram_size=2, renormalize_logits=True,
        min_new_tokens=3, suppress_tokens=[6],
    )  # fmt: skip
    for source in random_sources(4, 8):
        allowed = {0, 4}.union(*(rows[s] for s in source)) - {3, 6, 22}
        for beams in (1, 3):
            found = translator.translate(source, num_beams=beams, target_prefix=[21], **options)
            assert set(found.ids[1:]) <= allowed and np.isfinite(found.score)


def test_scores_and_logits_do_not_look_at_it() -> None:
    with_list, without = tiny([0] * 24, [], []), Translator(
        Engine(CONFIG, generation(), lambda threads: ReferenceSession(MODEL)), LetterTokenizer(), {}
    )
    assert with_list.score("abc", "de") == without.score("abc", "de")
    np.testing.assert_array_equal(with_list.logits("abc", "de"), without.logits("abc", "de"))


@pytest.mark.parametrize("compute", ["int8", pytest.param("float32", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("beams", [1, 4])
def test_the_same_bytes_alone_and_in_any_batch(
    int8_directory: Path, german: list[str], listed: Path, beams: int, compute: str
) -> None:
    how = {"beam_size": beams, "num_hypotheses": beams}
    with pyengine.load(int8_directory, threads=1, compute=compute, shortlist=listed) as translator:
        alone = [translator.translate(text, **how) for text in german]
        for budget in (1, 50, 4096):
            assert translator.translate(german, max_batch_tokens=budget, **how) == alone
        assert list(translator.translate_iter(iter(german), **how)) == alone
    with pyengine.load(int8_directory, threads=3, replicas=3, compute=compute, shortlist=listed) as translator:
        assert translator.translate(german, **how) == alone
    with pyengine.load(int8_directory, threads=1, compute=compute) as translator:
        assert [result.ids for result in translator.translate(german, **how)] != [result.ids for result in alone]


def test_all_ids_are_no_shortlist(int8_directory: Path, german: list[str], tmp_path: Path) -> None:
    everything = np.arange(VOCAB, dtype=np.int32)
    nothing = np.zeros(0, np.int32)
    Shortlist(np.zeros(VOCAB + 1, np.int32), nothing, everything, VOCAB).write(tmp_path / "all")
    results = []
    for shortlist in (None, tmp_path / "all"):
        with pyengine.load(int8_directory, threads=2, shortlist=shortlist) as translator:
            results.append(translator.translate(german, beam_size=3, num_hypotheses=2))
    for one, other in zip(*results, strict=True):
        assert [each.ids for each in one.hypotheses] == [each.ids for each in other.hypotheses]
        for mine, theirs in zip(one.hypotheses, other.hypotheses, strict=True):
            assert mine.score == pytest.approx(theirs.score, abs=1e-5)


def test_files(int8_directory: Path, german: list[str], listed: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("\n".join(german[:20]) + "\n", encoding="utf-8")
    with pyengine.load(int8_directory, threads=2, shortlist=listed) as translator:
        assert translator.info()["shortlist"] == str(listed)
        translator.translate_file(tmp_path / "in", tmp_path / "out")
        expected = [result.text for result in translator.translate(german[:20])]
    assert (tmp_path / "out").read_text(encoding="utf-8").splitlines() == expected


def test_another_models_shortlist_is_refused(int8_directory: Path, tmp_path: Path) -> None:
    Shortlist(np.zeros(8, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32), 9).write(tmp_path / "f")
    with pytest.raises(ModelFileError, match="source_vocab: expected 6001, as the model has, found '7'"):
        pyengine.load(int8_directory, shortlist=tmp_path / "f")
    with pytest.raises(ModelFileError, match="cannot be read"):
        pyengine.load(int8_directory, shortlist=tmp_path / "none")
