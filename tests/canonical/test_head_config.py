"""HeadConfig: its JSON form, and what contradicts itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Callable

import pytest

from pyengine.canonical import HeadConfig, ModelConfig
from pyengine.errors import ModelFileError

from .configs import HEADS, decoder_only, encoder_only


def test_the_form_of_a_head() -> None:
    heads = encoder_only(heads=HEADS).to_json()["heads"]
    assert list(heads) == ["classes", "words", "embedding"]
    assert heads["classes"] == {
        "pool": "cls", "dense": True, "activation": "tanh", "norm": False, "out": 3, "labels": ["no", "perhaps", "yes"],
        "problem": "single_label",
    }  # fmt: skip
    assert (heads["words"]["out"], heads["embedding"]["out"]) == ("vocabulary", None)


def head(name: str = "classes", **changes: Any) -> Callable[[], ModelConfig]:
    return lambda: encoder_only(heads={**HEADS, name: replace(HEADS.get(name, HEADS["embedding"]), **changes)})


REFUSED: dict[str, tuple[Callable[[], ModelConfig], str]] = {
    "heads without an encoder": (
        lambda: decoder_only(heads=HEADS), "heads: expected none, there is no encoder whose states they could read",
    ),
    "too many heads": (
        lambda: encoder_only(heads={f"h{i}": HeadConfig("cls") for i in range(65)}),
        "heads: expected at most 64, found 65",
    ),
    "a head without a name": (head(""), "heads: expected names of up to 32 letters, digits and _, other than 'layers'"),
    "a head of a path": (head("../x"), "digits and _, other than 'layers', found '../x'"),
    "a head of a line": (head("a\nb"), r"digits and _, other than 'layers', found 'a\nb'"),
    "a head of another alphabet": (head("köpfe"), "digits and _, other than 'layers', found 'köpfe'"),
    "a head of two": (head("a.b"), "digits and _, other than 'layers', found 'a.b'"),
    "a head with a long name": (head("x" * 33), "digits and _, other than 'layers', found 'xxx"),
    "a head called as layers are": (head("layers"), "digits and _, other than 'layers', found 'layers'"),
    "an unknown pool": (head(pool="max"), "heads.classes.pool: expected one of none, cls, last, mean, found 'max'"),
    "an unknown activation": (head(activation="mish"), "heads.classes.activation: expected one of relu, gelu"),
    "an activation of nothing": (
        head(dense=False), "heads.classes.activation: expected linear, there is no dense layer, found 'tanh'",
    ),
    "no outputs": (head(out=0), "heads.classes.out: expected an integer from 1 to 2097152, found 0"),
    "too many outputs": (
        head(out=10**5000), "heads.classes.out: expected an integer from 1 to 2097152, found an integer",
    ),
    "outputs of no number": (head(out="words"), "heads.classes.out: expected one of vocabulary, found 'words'"),
    "a table that is too narrow": (
        head("words", dense=False, activation="linear"),
        "heads.words.out: expected a number, there is no dense layer before the table of width 8",
    ),
    "fewer labels than outputs": (
        head(labels=("a", "b")), "heads.classes.labels: expected none or one for each output (3), found 2",
    ),
    "labels of a vocabulary": (
        head("words", labels=("a",)),
        "heads.words.labels: expected none or one for each output ('vocabulary'), found 1",
    ),
    "an unknown problem": (
        head(problem="hard"),
        "heads.classes.problem: expected one of single_label, multi_label, regression, found 'hard'",
    ),
    "a problem without outputs": (
        head("embedding", problem="regression"), "heads.embedding.problem: expected none, there are no labels' scores",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_itself_is_refused_by_name(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ValueError) as info:
        make()
    assert message in str(info.value) and str(info.value).isprintable()


def test_all_complaints_in_one_message() -> None:
    data = encoder_only(heads=HEADS).to_json()
    data["heads"]["classes"].update(pool="max", out=0)
    data["heads"]["words"].update(problem="regression")
    data["heads"]["a b"] = data["heads"].pop("embedding")
    with pytest.raises(ModelFileError) as info:
        ModelConfig.from_json(json.loads(json.dumps(data)), "here")
    for part in (
        "here: heads: expected names", "heads.classes.pool: ", "heads.classes.out: ", "heads.classes.labels: ",
        "heads.words.problem: ",
    ):  # fmt: skip
        assert part in str(info.value)


@pytest.mark.parametrize("label", ["a\nb", "\x1b[2J", "\ud800", 3, None])
def test_labels_are_texts_that_can_be_shown(label: object) -> None:
    data = encoder_only(heads=HEADS).to_json()
    data["heads"]["classes"]["labels"] = ["no", label, "yes"]
    with pytest.raises(ModelFileError, match=r"here: heads: 'classes': labels\[1\]: expected a string of printable"):
        ModelConfig.from_json(json.loads(json.dumps(data)), "here")
