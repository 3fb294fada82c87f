"""The rows of several searches in one plan, and each one's part of what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pyengine.decoding.search import Rows, Search
from pyengine.plan import NO_IDS, NO_PAIRS, StepResult

__all__ = ["join", "split"]


def join(parts: Sequence[Rows], more: Rows | None) -> dict[str, Any]:
    """Parts of a plan: the rows of each search, one after the other, and `more` that ask for nothing."""
    rows = [*parts, *([] if more is None else [more])]
    if len(rows) == 1:
        [own] = rows
        forks, tokens, sequences, memories = own.forks, own.tokens, own.sequences, own.memories
        logit_rows, offsets, ids, rope_sets = own.logit_rows, own.edits.offsets, own.edits.ids, own.rope_sets
    else:
        forks = np.concatenate([NO_PAIRS, *(each.forks for each in rows)])
        tokens, sequences, memories = (
            np.concatenate([getattr(each, name) for each in rows]) for name in ("tokens", "sequences", "memories")
        )
        logit_rows = np.concatenate(_ascending([each.logit_rows for each in rows], [len(each.tokens) for each in rows]))
        excluded = [len(each.edits.ids) for each in rows]
        ends = _ascending([each.edits.offsets[1:] for each in rows], excluded)
        offsets = np.concatenate([np.zeros(1, np.int32), *ends])
        ids = np.concatenate([each.edits.ids for each in rows])
        rope_sets = NO_IDS
        if any(len(each.rope_sets) for each in rows):
            sets = (each.rope_sets if len(each.rope_sets) else np.zeros_like(each.tokens) for each in rows)
            rope_sets = np.concatenate([NO_IDS, *sets])
    return {
        "forks": forks,
        "tokens": tokens,
        "sequences": sequences,
        "memories": memories,
        "rope_sets": rope_sets,
        "logit_rows": logit_rows,
        "exclude_offsets": offsets,
        "exclude_ids": ids,
    }


def _ascending(parts: Sequence[np.ndarray], sizes: Sequence[int]) -> list[np.ndarray]:
    """Each part, which counts from its own beginning, counted from that of the first."""
    begins = np.cumsum([0, *sizes[:-1]], dtype=np.int32)
    return [part + begin for part, begin in zip(parts, begins, strict=True)]


def split(result: StepResult, searches: Sequence[Search], parts: Sequence[Rows]) -> Iterator[StepResult]:
    """Of each search, what its own rows alone would have brought."""
    if len(parts) == 1:
        yield result
        return
    row = excluded = 0
    for search, part in zip(searches, parts, strict=True):
        rows, ids = slice(row, row + len(part.logit_rows)), slice(excluded, excluded + len(part.edits.ids))
        row, excluded = rows.stop, ids.stop
        yield StepResult(
            log_normalizer=result.log_normalizer[rows],
            top_ids=np.ascontiguousarray(result.top_ids[rows, : search.top_k]),
            top_logits=np.ascontiguousarray(result.top_logits[rows, : search.top_k]),
            excluded_logits=result.excluded_logits[ids],
            logits=None if result.logits is None else result.logits[rows],
        )
