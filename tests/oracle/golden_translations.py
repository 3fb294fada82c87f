"""Records what transformers makes of the test set with the real checkpoint, in float32.

    python -m tests.oracle.golden_translations

writes tests/golden/translations.npz: for greedy search and for 4 beams the CRC-32 of each sentence's ids, the
end token included, uint32 [1000], and for 4 beams the scores, float32 [1000]. Needs torch and transformers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

__all__ = ["CHECKPOINT", "GOLDEN", "crc", "sentences"]

CHECKPOINT = Path(__file__).parents[2] / "examples" / "multi30k-de-en"
GOLDEN = Path(__file__).parents[1] / "golden" / "translations.npz"
BATCH = 50


def crc(ids: Iterable[int]) -> int:
    """CRC-32 of ids as little-endian int32."""
    return zlib.crc32(np.array(list(ids), "<i4").tobytes())


def sentences(language: str) -> list[str]:
    """The 1,000 lines of test_2016_flickr in "de" or "en"."""
    return (CHECKPOINT / f"test_2016_flickr.{language}").read_text(encoding="utf-8").splitlines()


def main() -> None:
    import torch
    import transformers

    tokenizer = transformers.MarianTokenizer.from_pretrained(CHECKPOINT)
    model = transformers.MarianMTModel.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    lines = sentences("de")
    found: dict[str, list[float]] = {"greedy": [], "beam": [], "scores": []}
    for name, beams in (("greedy", 1), ("beam", 4)):
        for start in range(0, len(lines), BATCH):
            batch = tokenizer(lines[start : start + BATCH], return_tensors="pt", padding=True)
            output = model.generate(
                **batch, num_beams=beams, return_dict_in_generate=True, output_scores=True
            )
            for sequence in output.sequences.tolist():
                found[name].append(crc(sequence[1 : sequence.index(0) + 1]))
            if beams > 1:
                found["scores"] += output.sequences_scores.tolist()
    np.savez_compressed(
        GOLDEN,
        greedy=np.array(found["greedy"], np.uint32),
        beam=np.array(found["beam"], np.uint32),
        scores=np.array(found["scores"], np.float32),
    )


if __name__ == "__main__":
    main()
