"""The step interface: a plan goes in, the best candidates of its rows come out.

A plan says everything that one step does, in this order:

    1. forks            child sequences become copies of their parents, all read as they were before the step
    2. free_sequences   these sequences are forgotten, their ids unused again
    3. free_memories    likewise for memories
    4. encode           segments of source tokens become cross-attention memories under unused ids
    5. rows             each row is one token of one sequence; its position is the sequence's length so far

There is no padding anywhere: segments and rows are ragged and lie end to end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

__all__ = ["NO_IDS", "NO_PAIRS", "Ahead", "Holder", "Observer", "Opened", "Plan", "Session", "StepResult"]

Observer = Callable[[str, np.ndarray], None]
"""Gets the packed name of a linear layer and what it reads, float32 [rows, K], valid during the call."""


NO_IDS, NO_PAIRS = np.zeros(0, np.int32), np.zeros((0, 2), np.int32)


def _no_ids() -> np.ndarray:
    return NO_IDS


def _no_pairs() -> np.ndarray:
    return NO_PAIRS


def _no_offsets() -> np.ndarray:
    return np.zeros(1, np.int32)


@dataclass(frozen=True, eq=False)
class Ahead:
    """Leave to go on after the plan's step without asking, as long as the search would decide nothing else.

    The plan has one row a sequence, all of which ask for logits, and the edits of its rows hold in these steps, too.

    steps   how many in all, the plan's own included; a session may stop after any of them
    seconds a session stops after the first step that ends later than this
    end     int32 ids: greedy search stops at the step in which a row's best candidate is one of these
    beams   None for greedy search, where every row goes on with its best candidate; else the `_core.Beams` whose
            sentences in the slots `live`, int64, go on with all candidates, until one of them is done
    """

    steps: int
    seconds: float
    end: np.ndarray
    beams: Any = None
    live: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """What one step runs. All arrays are int32 and C-contiguous; T, S, R, Q are counts.

    forks            [n, 2]  (parent, child); the child is an id that is unused before the step
    free_sequences   [n]
    free_memories    [n]
    encode_tokens    [T]     source tokens of all segments, end to end
    encode_lengths   [S]     their lengths; sum = T <= max_rows
    encode_memories  [S]     the unused memory id that each result is kept under; -1 where there is no decoder
    encode_types     [T]     token types, or empty: all 0
    states           whether what the encoder makes of the source tokens comes back
    head             the name of the model's head that answers the segments, or None
    list_offsets     [S + 1], list_ids [list_offsets[S]]  the ids that rows of each of these memories may take,
                             ascending, at least one; empty list_offsets: any id
    tokens           [R]     decoder rows, R <= max_rows; rows of one sequence are adjacent and in order
    sequences        [R]     the sequence of each row; an id unseen so far starts empty
    memories         [R]     the memory that the row's cross-attention reads; may be encoded in this step; -1 where
                             there is no encoder
    rope_sets        [R]     the set of frequencies that the row's sequence keeps to (ModelConfig.rope_set), or empty:
                             all 0
    logit_rows       [Q]     ascending row indices that need logits
    top_k            how many candidates each of these rows returns
    exclude_offsets  [Q + 1], exclude_ids [exclude_offsets[Q]]  ids left out of a row's candidates, ascending
    full_logits      whether all logits of these rows come back as well; not of rows whose memories have lists
    ahead            further steps that the session may run, or None

    The logit rows of a step have lists, all of them or none.
    """

    forks: np.ndarray = field(default_factory=_no_pairs)
    free_sequences: np.ndarray = field(default_factory=_no_ids)
    free_memories: np.ndarray = field(default_factory=_no_ids)
    encode_tokens: np.ndarray = field(default_factory=_no_ids)
    encode_lengths: np.ndarray = field(default_factory=_no_ids)
    encode_memories: np.ndarray = field(default_factory=_no_ids)
    encode_types: np.ndarray = field(default_factory=_no_ids)
    states: bool = False
    head: str | None = None
    list_offsets: np.ndarray = field(default_factory=_no_ids)
    list_ids: np.ndarray = field(default_factory=_no_ids)
    tokens: np.ndarray = field(default_factory=_no_ids)
    sequences: np.ndarray = field(default_factory=_no_ids)
    memories: np.ndarray = field(default_factory=_no_ids)
    rope_sets: np.ndarray = field(default_factory=_no_ids)
    logit_rows: np.ndarray = field(default_factory=_no_ids)
    top_k: int = 1
    exclude_offsets: np.ndarray = field(default_factory=_no_offsets)
    exclude_ids: np.ndarray = field(default_factory=_no_ids)
    full_logits: bool = False
    ahead: Ahead | None = None


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step returns, one entry for each of the plan's Q logit rows.

    Where a row has a list, its ids take the place of the vocabulary: the normalizer sums over them, the candidates
    are among them, and the logit of an excluded id that is not on the list is -inf.

    log_normalizer   float64 [Q]     logsumexp of the row's raw logits, output bias included, nothing excluded
    top_ids          int32 [Q, k]    the k best ids that are not excluded, best first; ties: lower id first
    top_logits       float32 [Q, k]  their raw logits; where fewer than k remain, id -1 and -inf
    excluded_logits  float32 [len(exclude_ids)]  raw logits at the excluded ids
    logits           float32 [Q, vocab], or None unless the plan asked for them

    After `Plan.ahead` all of these are the last step's, and there may be

    passed    greedy search: int32 ids and float64 log-probabilities [steps, Q] that rows took in the steps before
    advanced  beam search: what `Beams.advance` found after the last step, if that is done already

    states    float32 [T, width], what the encoder made of the T source tokens; None unless the plan asked for them
    answers   float32 [S, n] of the plan's head, a row a segment, or [T, n] where it does not pool; n: its outputs,
              or else the width of what it reads last; None unless the plan named a head
    """

    log_normalizer: np.ndarray
    top_ids: np.ndarray
    top_logits: np.ndarray
    excluded_logits: np.ndarray
    logits: np.ndarray | None = None
    passed: tuple[np.ndarray, np.ndarray] | None = None
    advanced: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    states: np.ndarray | None = None
    answers: np.ndarray | None = None


class Holder(Protocol):
    """Holds sequences and memories.

    Sequence ids lie in [0, max_sequences), memory ids in [0, max_memories). What they hold has at most `max_bytes`
    bytes; a step that needs more raises CacheFullError and changes nothing.
    """

    @property
    def max_bytes(self) -> int: ...

    @property
    def max_rows(self) -> int: ...

    @property
    def max_sequences(self) -> int: ...

    @property
    def max_memories(self) -> int: ...

    def sequence_bytes(self, tokens: int) -> int:
        """Bytes that a sequence of so many tokens takes, at most."""

    def memory_bytes(self, tokens: int) -> int:
        """Bytes that the memory of a source of so many tokens takes."""

    def clear(self) -> None:
        """Free every sequence and memory."""

    def observe(self, callback: Observer | None) -> None:
        """Show every step's inputs of linear layers to `callback`; None ends it. What it raises, step() raises."""


class Session(Holder, Protocol):
    """Runs plans: what a search sees of a `_core.Session`, which is the fast one."""

    def step(self, plan: Plan) -> StepResult: ...


class Opened(Holder, Protocol):
    """A session as it is opened: it may be idle, and its steps wait for others. `_core.Session` is one."""

    @property
    def working_bytes(self) -> int: ...

    @property
    def cache_bytes(self) -> int: ...

    def step(self, plan: Plan, patience: float, since: int) -> StepResult | None:
        """None if others had the processors for `patience` seconds; `since`, of time.monotonic_ns(), is when the caller
        began to wait."""
