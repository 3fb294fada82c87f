"""Requests under way, and the groups that search those with the same options together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pyengine.decoding.beam import BeamSearch
from pyengine.decoding.greedy import GreedySearch
from pyengine.decoding.processors import Edits
from pyengine.decoding.sample import SampleSearch, WholeRowSearch
from pyengine.decoding.search import Found, IdPool, Rows
from pyengine.options import SearchOptions
from pyengine.plan import NO_IDS, NO_PAIRS
from pyengine.scheduling.requests import Request

__all__ = ["Group", "Running"]


@dataclass(eq=False, slots=True)
class Running:
    """A request under way.

    room              bytes of the cache that it may come to need
    sequence, memory  what its prompt runs in, and what it reads, or -1
    rope_set          the frequencies that its rows take
    ran               tokens of its prompt that have had a step
    shown             new ids of each hypothesis that were shown to whoever looks
    found             hypothesis -> what was found
    """

    index: int
    request: Request
    group: Group
    room: int
    sequence: int
    memory: int
    rope_set: int
    ran: int = 0
    shown: dict[int, int] = field(default_factory=dict)
    found: dict[int, Found] = field(default_factory=dict)

    @property
    def source(self) -> np.ndarray:
        assert self.request.source is not None  # it is encoded
        return self.request.source

    def prompt_rows(self, count: int) -> Rows:
        """The next `count` tokens of a prompt that goes on afterwards."""
        tokens = self.request.prompt[self.ran : self.ran + count]
        sequences, memories, rope_sets = (
            np.full(count, id, np.int32) for id in (self.sequence, self.memory, self.rope_set)
        )
        return Rows(NO_PAIRS, tokens, sequences, memories, NO_IDS, Edits(np.zeros(1, np.int32), NO_IDS), rope_sets)


class Group:
    """Requests with the same options, and their search."""

    def __init__(
        self, options: SearchOptions, whole: bool, sequences: IdPool, *, budget: int, most: int, vocab: int
    ) -> None:
        """`most`: requests that may come."""
        kind: type[BeamSearch | GreedySearch] = BeamSearch if options.num_beams > 1 else GreedySearch
        if options.do_sample or whole:
            kind = WholeRowSearch if whole else SampleSearch
        self.samples = kind.samples_of(options)  # hypotheses that grow by themselves
        self.rows, self.sequences = kind.rows_of(options), kind.sequences_of(options)
        slots = max(1, min(budget // self.rows, most)) * self.samples
        self.search = kind(options, sequences, slots=slots, vocab=vocab)
        self.owners: dict[int, tuple[Running, int]] = {}  # slot -> request, and which of its hypotheses
        self.members = 0  # requests, those whose prompts are running among them
