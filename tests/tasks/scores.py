"""What test_same_scores.py runs in processes of their own:  python scores.py DIRECTORY

Prints, as one line of JSON, which instruction sets NumPy may use here, and ids and scores of a few searches.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[2]))  # last: an installed pyengine goes first

import pyengine  # noqa: E402

SENTENCES = [
    "Ein Mann fährt Fahrrad.", "Zwei Hunde spielen im Schnee.", "Ja.",
    "Eine Frau in einem roten Kleid steht auf der Straße und wartet auf den Bus.",
    "Drei Kinder laufen am Strand entlang, während ihre Eltern unter einem Sonnenschirm sitzen und lesen.",
]  # fmt: skip
PENALTIES = (0.6, 1.3, -0.5)
SEARCHES: dict[str, dict[str, Any]] = {
    **{f"beams, {penalty}": dict(num_beams=4, num_return_sequences=4, length_penalty=penalty) for penalty in PENALTIES},
    "never": dict(num_beams=3, early_stopping="never", length_penalty=0.6),
    # What is suppressed is probable, so that there is much to make up for.
    **{f"renormalized, {penalty}": dict(num_beams=8, num_return_sequences=8, renormalize_logits=True,
       suppress_tokens=[*range(3, 300, 2)], repetition_penalty=penalty) for penalty in (1.0, 1.05, 1.5)},
}  # fmt: skip
LONGEST = 64


def dispatched() -> list[str]:
    """The instruction sets beyond its baseline that NumPy's functions choose from in this process."""
    found: list[str] = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return found


def main(directory: str) -> None:
    found: dict[str, Any] = {"dispatched": dispatched()}
    with pyengine.load(directory, threads=1) as translator:
        for name, options in SEARCHES.items():
            results = translator.translate(SENTENCES, **options)
            hypotheses = [each for result in results for each in result.hypotheses]
            found[name] = [[each.ids, each.score.hex()] for each in hypotheses]
        for penalty in PENALTIES:
            found[f"greedy, {penalty}"] = [
                translator.translate(
                    "Ja.", num_beams=1, length_penalty=penalty, min_new_tokens=length, max_new_tokens=length
                ).hypotheses[0].score.hex()
                for length in range(1, LONGEST + 1)
            ]
        scored = translator.score(SENTENCES, ["A man is riding a bike."] * len(SENTENCES))
        found["score"] = [each.total.hex() for each in scored]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
