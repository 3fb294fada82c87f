"""The C core, bound: conversions, one call with the GIL released, a status turned into an exception."""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uintptr_t

import os

import numpy as np

from pyengine.errors import CacheFullError, EngineError, ModelFileError, OptionError
from pyengine.plan import StepResult

__all__ = [
    "Beams", "Crews", "Lottery", "Model", "Session", "available_isas", "default_isa", "exp",
    "instruction_sets", "log", "power", "uniforms", "write_tokens",
]


def instruction_sets(most=None):
    """The instruction sets that there are kernels for, the best last, and why this machine does not run one, or None.

    `most`: the best that is asked about; where AMX may run, its registers are asked for, which a sandbox may punish.
    """
    cdef int count
    cdef const char *name = NULL
    encoded = None if most is None else most.encode()
    if encoded is not None:
        name = encoded
    cdef const pe_isa *isas = pe_isa_list(name, &count)
    return {isas[i].name.decode(): None if isas[i].missing == NULL else isas[i].missing.decode() for i in range(count)}


def available_isas():
    """The instruction sets of this build that this machine runs, the best last: ["ref", "avx2", ...]."""
    return [name for name, missing in instruction_sets().items() if missing is None]


def default_isa():
    """The instruction set that a model runs with which names none; OptionError as for it."""
    cdef pe_kernels table
    load_kernels(&table, None)
    return table.isa.decode()


cdef int load_kernels(pe_kernels *table, isa) except -1:
    """Fills the table for `isa`; None: what PYENGINE_ISA names, or else the best that there is."""
    cdef const char *name = NULL
    asked = isa if isa is not None else os.environ.get("PYENGINE_ISA") or None
    encoded = None if asked is None else asked.encode()
    if encoded is not None:
        name = encoded
    if pe_kernels_init(table, name) != PE_OK:
        raise OptionError(f"PYENGINE_ISA={asked}: expected one of {', '.join(available_isas())} on this machine")
    return 0


cdef int raise_status(pe_status status, message) except -1:
    """Raises what a status means that is not PE_OK."""
    if status == PE_NO_MEMORY:
        raise EngineError("out of memory")
    if status == PE_NOT_FINITE:
        raise EngineError(f"a step gave no finite scores, {message}: weights are damaged, or were not finite before; "
                          "`pyengine info DIR --verify`, or load(..., verify=True), tells the two apart")
    raise EngineError(f"a step was refused: {message}")


cdef inline const int32_t *int32_in(const int32_t[::1] array) noexcept:
    return &array[0] if array.shape[0] > 0 else NULL


cdef inline int32_t *int32_out(int32_t[::1] array) noexcept:
    return &array[0] if array.shape[0] > 0 else NULL


cdef inline float *float_out(float[::1] array) noexcept:
    return &array[0] if array.shape[0] > 0 else NULL


cdef void *data_of(array) except? NULL:
    return NULL if array is None else <void *><uintptr_t>array.ctypes.data


cdef inline int64_t round_up(int64_t n, int64_t step) noexcept nogil:
    return (n + step - 1) // step * step

include "_crews.pxi"
include "_model.pxi"


class _Rows:
    """Rows in the working memory of a session, which they keep alive: read-only, for np.asarray."""

    def __init__(self, session, uintptr_t address, int64_t rows, int64_t columns, int64_t row_bytes):
        self.session = session
        self.__array_interface__ = {
            "version": 3, "typestr": np.dtype(np.float32).str, "data": (address, True), "shape": (rows, columns),
            "strides": (row_bytes, sizeof(float)),
        }


cdef void show(void *context, const pe_linear *linear, const float *x, int64_t n_rows, int64_t ld) noexcept with gil:
    """The pe_observer of a session with a callback, run by the thread that called step(). The first error is kept."""
    cdef Session session = <Session>context
    if session.raised is not None:
        return
    try:
        rows = _Rows(session, <uintptr_t>x, n_rows, linear.k, ld * <int64_t>sizeof(float))
        session.callback(session.owner.layers[<uintptr_t>linear], np.asarray(rows))
    except BaseException as error:  # Ctrl-C, too: it ends the step's caller
        session.raised = error


cdef class Session:
    """Runs plans (pyengine.plan.Plan) on a model: owns a key-value cache and working memory.

    crews  who runs the steps

    Not for two threads at once: EngineError. EngineError also when memory runs out or a plan breaks its contract, and
    CacheFullError, an EngineError, when it needs more pages than there may be: such a plan changes nothing. Where the
    normalizer of a row is not finite, an EngineError too, the step has been run.

    cache_bytes  of keys and values, at most; 0: any number
    """

    cdef pe_session session
    cdef Model owner
    cdef Crews crews
    cdef readonly int64_t max_rows
    cdef readonly int64_t max_sequences
    cdef readonly int64_t max_memories
    cdef readonly bint busy  # in a step
    cdef object __weakref__
    cdef object callback  # of observe()
    cdef object raised  # what it raised in this step

    def __cinit__(self, Model model not None, Crews crews not None, *, int64_t max_rows, int64_t max_sequences,
                  int64_t max_memories, int64_t cache_bytes=0):
        cdef int threads = crews.crews.threads
        self.owner = model
        self.crews = crews
        self.max_rows = max_rows
        self.max_sequences = max_sequences
        self.max_memories = max_memories
        if not all(1 <= size < 1 << 31 for size in (max_rows, max_sequences, max_memories)) or cache_bytes < 0:
            raise OptionError("max_rows, max_sequences, max_memories: at least 1, below 2^31; cache_bytes: at least 0")
        if pe_session_create(&self.session, &model.model, threads, max_rows, max_sequences, max_memories,
                             cache_bytes) != PE_OK:
            raise EngineError("out of memory")

    def __dealloc__(self):
        pe_session_destroy(&self.session)  # owner may be gone already, when the garbage collector took a cycle apart

    @property
    def cache_bytes(self):
        """Bytes of key-value cache allocated so far."""
        return pe_kv_bytes(&self.session.cache)

    @property
    def working_bytes(self):
        """Bytes of working memory, allocated so far."""
        return pe_session_working_bytes(&self.session)

    @property
    def used_pages(self):
        """Pages in use, of each group of layers whose windows are alike."""
        cdef pe_kv_cache *cache = &self.session.cache
        return [cache.pools[g].n_pages - cache.pools[g].n_free for g in range(cache.n_groups)]

    @property
    def max_bytes(self):
        """Bytes that the cache may have."""
        return self.session.cache.most_bytes

    def sequence_bytes(self, int64_t tokens):
        """Bytes that a sequence of so many tokens takes in the cache, at most."""
        return pe_kv_sequence_bytes(&self.session.cache, tokens, self.max_rows)

    def memory_bytes(self, int64_t tokens):
        """Bytes that the memory of a source of so many tokens takes in the cache."""
        return pe_kv_memory_bytes(&self.session.cache, tokens)

    @property
    def list_slots(self):
        """Ids that the lists of the memories hold together, and rows of the output layer that a step multiplies."""
        return self.session.shortlist.held, self.session.shortlist.rows.n

    def clear(self):
        """Forgets every sequence and memory."""
        self._require_idle()
        pe_session_clear(&self.session)

    def observe(self, callback):
        """Steps call callback(name, x) before each product of a linear layer; None ends it.

        name  the layer's packed name, "decoder.layers.0.ffn.down"; "output" for the rows that ask for logits
        x     float32 [n_rows, K], what the layer reads: a read-only view, valid during the call
        What it raises ends the calls, and step() raises it when it is over. What is not finite is left to it.
        A child that it forks must not come back from the call: it has none of the step's threads.
        """
        self._require_idle()
        self.callback = callback
        self.session.observed_for = <void *>self
        self.session.observer = NULL
        if callback is not None:
            self.session.observer = show

    cdef int _require_idle(self) except -1:
        if self.busy:
            raise EngineError("a session was used by two threads at once")
        return 0

    cdef int _refuse(self, message) except -1:
        raise_status(PE_BAD_ARGUMENT, message)

    def step(self, plan, double patience=float("inf"), int64_t since=0):
        """Runs one plan and returns a StepResult; None if all crews were at work for `patience` seconds.

        `since`, of time.monotonic_ns(), is when the caller began to wait, if that was before: who has waited longest
        comes first. The GIL is released meanwhile, and a crew is taken and given back while it is: no Python code runs
        in between, but for an observer.
        """
        self._require_idle()
        self.busy = True
        try:
            return self._run(plan, patience, since)
        finally:
            self.busy = False

    cdef _run(self, plan, double patience, int64_t since):
        cdef pe_plan c
        cdef pe_status status = PE_OK
        cdef const int32_t[:, ::1] forks = plan.forks
        cdef const int32_t[::1] free_sequences = plan.free_sequences, free_memories = plan.free_memories
        cdef const int32_t[::1] source_tokens = plan.encode_tokens, lengths = plan.encode_lengths
        cdef const int32_t[::1] segment_memories = plan.encode_memories, source_types = plan.encode_types
        cdef const int32_t[::1] list_offsets = plan.list_offsets, list_ids = plan.list_ids
        cdef const int32_t[::1] tokens = plan.tokens, sequences = plan.sequences, memories = plan.memories
        cdef const int32_t[::1] rope_sets = plan.rope_sets
        cdef const int32_t[::1] logit_rows = plan.logit_rows
        cdef const int32_t[::1] offsets = plan.exclude_offsets, excluded = plan.exclude_ids
        cdef int64_t rows = logit_rows.shape[0], top_k = plan.top_k
        if forks.shape[0] > 0 and forks.shape[1] != 2:
            self._refuse("forks are pairs")
        if not (lengths.shape[0] == segment_memories.shape[0] and tokens.shape[0] == sequences.shape[0]
                and tokens.shape[0] == memories.shape[0] and rope_sets.shape[0] in (0, tokens.shape[0])
                and offsets.shape[0] == rows + 1
                and offsets[rows] == excluded.shape[0] and top_k >= 0
                and source_types.shape[0] in (0, source_tokens.shape[0])
                and list_offsets.shape[0] in (0, lengths.shape[0] + 1)
                and list_ids.shape[0] == (list_offsets[lengths.shape[0]] if list_offsets.shape[0] > 0 else 0)):
            self._refuse("arrays that belong together differ in length")

        log_normalizer = np.empty(rows, np.float64)
        top_ids = np.empty((rows, top_k), np.int32)
        top_logits = np.empty((rows, top_k), np.float32)
        excluded_logits = np.empty(excluded.shape[0], np.float32)
        logits = np.empty((rows, self.owner.model.output.n), np.float32) if plan.full_logits else None
        states = np.empty((source_tokens.shape[0], self.owner.width), np.float32) if plan.states else None
        cdef const pe_head *head = NULL
        cdef int64_t outputs = 0
        answers = None
        if plan.head is not None:
            head = self.owner._head(plan.head)
            outputs = pe_head_outputs(&self.owner.model, head)
            answered = source_tokens.shape[0] if head.pool == PE_POOL_NONE else lengths.shape[0]
            answers = np.empty((answered, round_up(outputs, 16)), np.float32)
        cdef double[::1] normalizer_view = log_normalizer  # OUT
        cdef int32_t[::1] ids_view = top_ids.reshape(-1)  # OUT
        cdef float[::1] values_view = top_logits.reshape(-1)  # OUT
        cdef float[::1] excluded_view = excluded_logits  # OUT
        cdef float[::1] logits_view = logits.reshape(-1) if plan.full_logits else top_logits.reshape(-1)  # OUT

        c.n_forks = forks.shape[0]
        c.forks = &forks[0, 0] if forks.shape[0] > 0 else NULL
        c.n_free_sequences = free_sequences.shape[0]
        c.free_sequences = int32_in(free_sequences)
        c.n_free_memories = free_memories.shape[0]
        c.free_memories = int32_in(free_memories)
        c.n_segments = lengths.shape[0]
        c.segment_lengths = int32_in(lengths)
        c.segment_memories = int32_in(segment_memories)
        c.n_source_tokens = source_tokens.shape[0]
        c.source_tokens = int32_in(source_tokens)
        c.source_types = int32_in(source_types)
        c.states = <float *>data_of(states)
        c.head = head
        c.answers = <float *>data_of(answers)
        c.ld_answers = round_up(outputs, 16)
        c.list_offsets = int32_in(list_offsets)
        c.list_ids = int32_in(list_ids)
        c.n_rows = tokens.shape[0]
        c.tokens = int32_in(tokens)
        c.sequences = int32_in(sequences)
        c.memories = int32_in(memories)
        c.rope_sets = int32_in(rope_sets)
        c.logit_rows = int32_in(logit_rows)
        c.logits.n_rows = rows
        c.logits.top_k = top_k
        c.logits.exclude_offsets = int32_in(offsets)
        c.logits.exclude_ids = int32_in(excluded)
        c.logits.log_normalizer = &normalizer_view[0] if rows > 0 else NULL
        c.logits.top_ids = int32_out(ids_view)
        c.logits.top_logits = float_out(values_view)
        c.logits.excluded_logits = float_out(excluded_view)
        c.logits.soft_cap = self.owner.model.logit_soft_cap
        c.logits.logits = float_out(logits_view) if plan.full_logits else NULL
        passed = advanced = None
        ahead = plan.ahead
        if ahead is not None and (c.n_rows != rows or top_k < 1):
            self._refuse("steps ahead need one row a sequence, and a candidate of each")
        if (ahead is not None and ahead.beams is not None
                and not (<Beams?>ahead.beams).has_room(&c, ahead.steps, ahead.live)):
            self._refuse("steps ahead need the rows of the sentences in these slots, and room in their histories")

        cdef turn own
        own.crews = &self.crews.crews
        own.patience = <int64_t>(1e9 * min(max(patience, 0.0), LONGEST_PATIENCE))
        own.since = since or pe_now()
        if ahead is None:
            with nogil:
                if begin_turn(&own):
                    status = pe_session_step(&self.session, &c, own.crew)
                    end_turn(&own)
        elif ahead.beams is None:
            status, passed = follow_best(steps_ahead(&self.session, &c, ahead.steps, ahead.seconds), ahead.end, &own)
        else:
            status, advanced = (<Beams>ahead.beams).go_ahead(
                steps_ahead(&self.session, &c, ahead.steps, ahead.seconds), ahead.live, &own)
        if own.crew == NULL:
            return None
        if self.raised is not None:
            error, self.raised = self.raised, None
            raise error
        if status == PE_CACHE_FULL:
            raise CacheFullError(self.session.pages_needed, self.session.pages_available)
        if status != PE_OK:
            raise_status(status, self.session.message.decode("utf-8", "replace"))
        answers = None if answers is None else np.ascontiguousarray(answers[:, :outputs])
        return StepResult(log_normalizer, top_ids, top_logits, excluded_logits, logits, passed, advanced, states,
                          answers)


include "_search.pxi"
include "_kernels.pxi"
include "_ops.pxi"
