"""Records what transformers' `generate` returns for the searches of `cases.py`.

    python -m tests.oracle.golden_generate

writes tests/golden/generate.json: for each case, sentence and hypothesis the ids after the start token and
the score. The models are not stored: `random_tensors` makes them again. Needs torch and transformers.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.oracle.cases import PLAIN
from tests.oracle.tiny import Expected, generation, model_config, random_tensors

__all__ = ["GOLDEN", "read_golden"]

GOLDEN = Path(__file__).parents[1] / "golden" / "generate.json"


def read_golden() -> dict[str, list[list[Expected]]]:
    """Case -> sentences -> hypotheses, best first."""
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return {
        name: [[Expected(tuple(ids), score) for ids, score in sentence] for sentence in sentences]
        for name, sentences in cases.items()
    }


def main() -> None:
    from tests.oracle.marian import generate, marian_model

    found = {}
    for name, case in PLAIN.items():
        config, defaults = model_config(**case.config), generation(**case.generation)
        model = marian_model(config, random_tensors(config, case.seed))
        found[name] = [
            # transformers pads with hypotheses of score -1e9 where fewer exist.
            [(each.ids, round(each.score, 6)) for each in hypotheses if each.score > -1e8]
            for hypotheses in generate(model, defaults, case)
        ]
    rows = [f"{json.dumps(name)}: {json.dumps(sentences)}" for name, sentences in found.items()]
    GOLDEN.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
