"""Other engines behind one small interface; they are imported when one is made, since torch takes seconds."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["PeerOutput", "Transformers", "have_transformers"]


def have_transformers() -> bool:
    return find_spec("torch") is not None and find_spec("transformers") is not None


@dataclass(frozen=True)
class PeerOutput:
    """Ids without start token and padding, end token included; sum of log-probabilities over their number."""

    ids: list[int]
    score: float


class Transformers:
    """A Marian checkpoint in transformers with torch, float32."""

    def __init__(self, path: Path, *, threads: int) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self._torch = torch
        # By default it takes the stored type, and then rounds even the position table to it.
        self._model = transformers.MarianMTModel.from_pretrained(path, dtype=torch.float32).eval()
        self.end = self._model.config.eos_token_id
        self.start = self.padding = self._model.config.pad_token_id

    def in_float64(self) -> Transformers:
        """The same weights, computed with in float64."""
        other = copy.copy(self)
        other._model = copy.deepcopy(self._model).double()
        return other

    def translate(self, batch: list[list[int]], beams: int, **options: Any) -> list[list[int]]:
        """What `generate` returns, without start token and padding."""
        return [self._strip(row) for row in self._generate(batch, beams, **options).tolist()]

    def translate_scored(self, batch: list[list[int]], beams: int) -> list[PeerOutput]:
        """`translate` with scores; `generate` has none for greedy search, so those are summed up here."""
        wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": beams == 1}
        found = self._generate(batch, beams, **wanted)
        ids = [self._strip(row) for row in found.sequences.tolist()]
        if beams > 1:
            scores = found.sequences_scores.tolist()
        else:
            chosen = found.sequences[:, 1:, None]
            log_probs = self._torch.stack(found.logits, 1).double().log_softmax(-1).gather(2, chosen)
            totals = zip(ids, log_probs[:, :, 0].tolist(), strict=True)
            scores = [sum(values[: len(row)]) / len(row) for row, values in totals]
        return [PeerOutput(row, score) for row, score in zip(ids, scores, strict=True)]

    def log_probs(self, source: list[int], target: list[int]) -> list[float]:
        """Of each token of `target`, given `source` and the tokens before it."""
        torch = self._torch
        with torch.inference_mode():
            inputs = torch.tensor([[self.start, *target[:-1]]])
            logits = self._model(input_ids=torch.tensor([source]), decoder_input_ids=inputs).logits[0]
            return logits.double().log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)].tolist()

    def _generate(self, batch: list[list[int]], beams: int, **options: Any) -> Any:
        torch = self._torch
        longest = max(map(len, batch))
        ids = torch.tensor([row + [self.padding] * (longest - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        with torch.inference_mode():
            return self._model.generate(ids, attention_mask=mask, num_beams=beams, do_sample=False, **options)

    def _strip(self, row: list[int]) -> list[int]:
        row = row[1:]
        return row[: row.index(self.end) + 1] if self.end in row else [id for id in row if id != self.padding]
