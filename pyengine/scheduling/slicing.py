"""Plans of any size on a session that takes so many rows at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyengine.errors import InputError
from pyengine.plan import Plan, Session, StepResult

__all__ = ["run_plan", "slice_plan"]


def run_plan(session: Session, plan: Plan) -> StepResult:
    """Run `plan`, in several steps where it has more rows than the session takes at once."""
    limit = session.max_rows
    if len(plan.encode_tokens) <= limit and len(plan.tokens) <= limit:
        return session.step(plan)
    results = [session.step(piece) for piece in slice_plan(plan, limit)]
    return StepResult(
        log_normalizer=np.concatenate([result.log_normalizer for result in results]),
        top_ids=np.concatenate([result.top_ids for result in results]),
        top_logits=np.concatenate([result.top_logits for result in results]),
        excluded_logits=np.concatenate([result.excluded_logits for result in results]),
        logits=np.concatenate([result.logits for result in results]) if plan.full_logits else None,
        states=_joined([result.states for result in results]),
        answers=_joined([result.answers for result in results]),
    )


def _joined(parts: list[np.ndarray | None]) -> np.ndarray | None:
    """Of the steps that gave any: those with segments."""
    given = [part for part in parts if part is not None]
    return np.concatenate(given) if given else None


def slice_plan(plan: Plan, max_rows: int) -> Iterator[Plan]:
    """Split `plan` into plans of at most `max_rows` encoder and decoder rows that together do the same.

    Segments attend to themselves both ways and so are never cut: InputError for one of more than `max_rows`.
    """
    forks, free_sequences, free_memories = plan.forks, plan.free_sequences, plan.free_memories
    for begin, end, first, last in _encode_slices(plan, max_rows):
        lists = plan.list_offsets[first : last + 1]
        yield Plan(
            forks=forks,
            free_sequences=free_sequences,
            free_memories=free_memories,
            encode_tokens=plan.encode_tokens[begin:end],
            encode_lengths=plan.encode_lengths[first:last],
            encode_memories=plan.encode_memories[first:last],
            encode_types=plan.encode_types[begin:end],
            states=plan.states,
            head=plan.head,
            list_offsets=lists - lists[:1],
            list_ids=plan.list_ids[lists[0] : lists[-1]] if len(lists) else plan.list_ids,
            top_k=plan.top_k,
            full_logits=plan.full_logits,
        )
        forks, free_sequences, free_memories = forks[:0], free_sequences[:0], free_memories[:0]
    for start in range(0, len(plan.tokens), max_rows):
        stop = min(start + max_rows, len(plan.tokens))
        first, last = np.searchsorted(plan.logit_rows, [start, stop])
        offsets = plan.exclude_offsets[first : last + 1]
        yield Plan(
            forks=forks,
            free_sequences=free_sequences,
            free_memories=free_memories,
            tokens=plan.tokens[start:stop],
            sequences=plan.sequences[start:stop],
            memories=plan.memories[start:stop],
            rope_sets=plan.rope_sets[start:stop],
            logit_rows=plan.logit_rows[first:last] - np.int32(start),
            top_k=plan.top_k,
            exclude_offsets=offsets - offsets[0],
            exclude_ids=plan.exclude_ids[offsets[0] : offsets[-1]],
            full_logits=plan.full_logits,
        )
        forks, free_sequences, free_memories = forks[:0], free_sequences[:0], free_memories[:0]


def _encode_slices(plan: Plan, max_rows: int) -> Iterator[tuple[int, int, int, int]]:
    """Whole segments, as many as fit `max_rows`: the tokens [begin, end) and segments [first, last) of each slice."""
    ends = np.cumsum(plan.encode_lengths)
    first = 0
    while first < len(ends):
        begin = ends[first] - plan.encode_lengths[first]
        last = int(np.searchsorted(ends, begin + max_rows, side="right"))
        if last == first:
            raise InputError(
                f"a segment of {plan.encode_lengths[first]} tokens exceeds {max_rows} rows, the most"
            )
        yield int(begin), int(ends[last - 1]), first, last
        first = last
