"""What callers hand in: arrays of every shape, padding, pieces, and what is no boolean."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine import InputError, OptionError, UnsupportedError
from pyengine.errors import PyengineError
from tests.tasks.models import translator

END, PAD = 0, 22


def test_arrays_are_lists() -> None:
    tiny = translator()
    expected = tiny.translate(["abc", "kde"])
    for given in (
        np.array(["abc", "kde"]),
        np.array(["abc", "kde"], object),
        np.array([[1, 2, 3, 0], [11, 4, 5, 0]]),
        list(np.array(["abc", "kde"])),
    ):
        assert tiny.translate(given) == expected
    assert tiny.translate(np.array(["abc", "kde"]), target_prefix=np.array(["d", "e"])) == tiny.translate(
        ["abc", "kde"], target_prefix=["d", "e"]
    )
    assert tiny.score(np.array(["abc"]), np.array(["de"])) == tiny.score(["abc"], ["de"])
    for dtype in (float, np.int32, str, object):
        assert tiny.translate(np.array([], dtype)) == []
    assert tiny.translate(np.zeros((0, 7), np.int64)) == [] and tiny.score(np.array([]), np.array([])) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.array(5), "expected text, token ids or a list of these, found ndarray"),
        (np.array("abc"), "found ndarray"),
        (["abc", np.array(5)], "input 2: expected text or token ids, found ndarray"),
        ([True, False], r"expected token ids \(integers\), found \[True, False\]"),
        ([[3, True, 0]], "input 1: expected token ids"),
        (np.array([True, False]), "expected token ids"),
        ([10**5000, 0], "found an integer of 16610 bits"),
        (np.zeros((1, 2, 3), int), "input 1: expected token ids"),
        (np.array([b"abc"]), "input 1: expected text or token ids, found bytes_"),
        ([["a", "b"]], "input 1: expected text or token ids, found a list of str; words and pieces are joined"),
        (["\u2581Ein", "\u2581Mann"], "input 1 is '\u2581Ein', a piece of a text; give the text itself"),
        ("\u2581Ein \u2581Mann", "the input is '\u2581Ein \u2581Mann', a piece"),
    ],
)
def test_what_is_no_sentence(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        translator().translate(source)
    if isinstance(source, list) and len(source) == 1:
        with pytest.raises(InputError, match=message):
            list(translator().translate_iter(source))


def test_pads_behind_an_end_token_are_cut() -> None:
    tiny = translator()
    padded = np.array([[1, 2, 3, END, PAD, PAD], [1, 2, 3, 4, 5, END]])
    assert tiny.translate(padded) == tiny.translate(["abc", "abcde"])
    assert list(tiny.translate_iter(padded)) == tiny.translate(["abc", "abcde"])
    targets = np.array([[4, END, PAD], [5, 6, END]])
    assert tiny.score(padded, targets) == tiny.score(["abc", "abcde"], ["d", "ef"])
    np.testing.assert_array_equal(tiny.logits(padded[0], targets[0]), tiny.logits("abc", "d"))
    long = [*[1] * 39, END, *[PAD] * 20]  # as long as the model allows
    assert not tiny.translate(long, truncate=True).truncated


@pytest.mark.parametrize("ids", [[1, 2, PAD, PAD], [PAD, 1, END], [1, PAD, 2, END], [PAD, PAD], [1, END, PAD, 2]])
def test_other_pads_are_refused(ids: list[int]) -> None:
    tiny = translator()
    for call in (
        lambda: tiny.translate(ids),
        lambda: tiny.score("abc", ids),
        lambda: tiny.translate("abc", target_prefix=ids),
    ):
        with pytest.raises(InputError, match=f"the padding token 22 at place {ids.index(PAD) + 1} of {len(ids)}"):
            call()


def test_padding_by_the_end_token_leaves_one() -> None:
    tiny = translator(pad_token_id=END)
    assert tiny.translate([1, 2, 3, END, END, END]) == tiny.translate("abc")
    assert tiny.translate([1, 2, 3, END]) == tiny.translate("abc")


@pytest.mark.parametrize("wrong", ["no", 0, 1, None, "", np.array([True])])
def test_booleans_are_booleans(wrong: Any, tmp_path: Path) -> None:
    tiny = translator()
    source = tmp_path / "in"
    source.write_text("abc\n")
    for name, call in {
        "truncate": (
            lambda: tiny.translate("abc", truncate=wrong),
            lambda: tiny.translate_iter(["abc"], truncate=wrong),
            lambda: tiny.translate_file(source, tmp_path / "out", truncate=wrong),
            lambda: tiny.score("abc", "d", truncate=wrong),
        ),
        "overwrite": (lambda: tiny.translate_file(source, tmp_path / "out", overwrite=wrong),),
        "verify": (lambda: pyengine.load("nowhere", verify=wrong),),
    }.items():
        for each in call:
            with pytest.raises(OptionError, match=f"^{name} is .*; expected True or False"):
                each()
    assert not (tmp_path / "out").exists()
    assert tiny.translate("abc", truncate=np.True_) == tiny.translate("abc")


def test_numbers_of_calls_may_be_numpys() -> None:
    tiny = translator()
    expected = tiny.translate(["abc"], num_beams=3)
    found = tiny.translate(["abc"], num_beams=np.int64(3), max_batch_tokens=np.int16(64), timeout=np.float32(60))
    assert found == expected
    assert tiny.translate(["abc"], num_beams=np.array(3), timeout=np.int64(60)) == expected
    for wrong in (True, "4", np.nan, -np.inf, np.array([3.0]), 10**5000):
        with pytest.raises(OptionError, match="timeout is .*; expected seconds, more than 0"):
            tiny.translate("abc", timeout=wrong)


def test_a_translator_cannot_be_pickled_and_says_what_to_do() -> None:
    for call in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UnsupportedError, match="be pickled or copied: .* its path, tiny, to call pyengine.load"):
            call(translator())
    assert issubclass(UnsupportedError, PyengineError)
    result = translator().translate("abc")
    assert pickle.loads(pickle.dumps(result)) == result
