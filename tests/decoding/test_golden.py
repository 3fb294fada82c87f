"""Searches against what transformers' `generate` returned once, on the NumPy session."""

from __future__ import annotations

import pytest

from tests.oracle.cases import PLAIN
from tests.oracle.golden_generate import read_golden
from tests.oracle.reference import ReferenceModel
from tests.oracle.reference_session import ReferenceSession
from tests.oracle.tiny import Expected, SearchCase, generation, model_config, random_tensors, search

GOLDEN = read_golden()


def test_every_case_was_recorded() -> None:
    assert list(GOLDEN) == list(PLAIN)


@pytest.mark.parametrize(
    ("case", "expected"), list(zip(PLAIN.values(), GOLDEN.values(), strict=True)), ids=PLAIN
)
def test_same_as_recorded(case: SearchCase, expected: list[list[Expected]]) -> None:
    config = model_config(**case.config)
    session = ReferenceSession(ReferenceModel(config, random_tensors(config, case.seed)))
    found = search(session, generation(**case.generation), config, case.options, case.sources, case.prefix)
    for theirs, ours in zip(expected, found, strict=True):
        assert [tuple(each.ids.tolist()) for each in ours] == [each.ids for each in theirs]
        assert [each.score for each in ours] == pytest.approx(
            [each.score for each in theirs], abs=2e-5, rel=2e-5
        )
    assert not session.sequences and not session.memories
