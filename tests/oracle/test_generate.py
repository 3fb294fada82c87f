"""Searches against transformers' `generate`, token for token and score for score."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.oracle.cases import PLAIN, mixture
from tests.oracle.marian import generate, marian_model
from tests.oracle.reference import ReferenceModel
from tests.oracle.reference_session import ReferenceSession
from tests.oracle.tiny import SearchCase, generation, model_config, random_tensors, search

# The checkpoint's lengths of new tokens, which win over its lengths of all tokens.
NEW_TOKENS = {"max_length": 5, "max_new_tokens": 7, "min_length": 1, "min_new_tokens": 4}
CASES = {
    **PLAIN,
    **{
        f"default_new_tokens_{beams}": SearchCase(
            40 + beams, {"num_beams": beams}, prefix=(4, 9, 2), generation=NEW_TOKENS
        )
        for beams in (1, 3)
    },
    **{f"mixture_{seed}": mixture(seed) for seed in range(60)},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_same_as_transformers(case: SearchCase) -> None:
    config, defaults = model_config(**case.config), generation(**case.generation)
    tensors = random_tensors(config, case.seed)
    expected = generate(marian_model(config, tensors), defaults, case)
    session = ReferenceSession(ReferenceModel(config, tensors))
    found = search(session, defaults, config, case.options, case.sources, case.prefix)
    print(f"seed {case.seed}, options {case.options}, prefix {case.prefix}")
    # What processors leave is one minus what they take: rounded logits weigh more where they take nearly all.
    bound = 1e-3 if case.options.get("renormalize_logits") else 2e-5
    for theirs, ours in zip(expected, found, strict=True):
        # transformers pads with hypotheses of score -1e9.
        real = [each for each in theirs if each.score > -1e8]
        assert [tuple(each.ids.tolist()) for each in ours] == [each.ids for each in real]
        scores = [each.score for each in ours]
        assert scores == pytest.approx([each.score for each in real], abs=bound, rel=2e-5)
