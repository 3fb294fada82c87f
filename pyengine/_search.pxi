# What comes after a step. The functions that scores are made of. Greedy search: steps that need no decision. Beam
# search (csrc/search/beam.h): the arrays of all slots, one call for the live sentences, and steps in which none of
# them is done.


ctypedef double real_function(double x) noexcept nogil


cdef of_each(values, real_function *function):
    cdef double[::1] each
    cdef int64_t i
    found = np.array(values, np.float64, order="C")
    each = found.reshape(-1)
    for i in range(each.shape[0]):
        each[i] = function(each[i])
    return found


def exp(values):
    """float64 e**values, in the shape of `values`: the same bytes everywhere, unlike NumPy's. 0 below -708.39."""
    return of_each(values, pe_expd)


def log(values):
    """float64 natural logarithms, in the shape of `values`: the same bytes everywhere, unlike NumPy's; -inf of 0."""
    return of_each(values, pe_logd)


def power(bases, double exponent):
    """float64 bases**exponent, `bases` positive, in their shape: the same bytes everywhere, unlike NumPy's."""
    cdef double[::1] each
    cdef int64_t i
    found = np.array(bases, np.float64, order="C")
    each = found.reshape(-1)
    for i in range(each.shape[0]):
        each[i] = pe_powd(each[i], exponent)
    return found


cdef void only_rows(pe_plan *plan, const int32_t *tokens) noexcept nogil:
    """A plan with new tokens for the same rows, and nothing else to do."""
    plan.tokens = tokens
    plan.n_forks = plan.n_free_sequences = plan.n_free_memories = plan.n_segments = plan.n_source_tokens = 0


cdef bint is_any(int32_t id, const int32_t *ids, int64_t n) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        if ids[i] == id:
            return True
    return False


cdef double now() noexcept nogil:
    """Seconds of a clock that never goes back."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <double>time.tv_sec + 1e-9 * <double>time.tv_nsec


cdef follow_best(pe_session *session, pe_plan *plan, pe_crew *crew, int64_t steps, double seconds,
                 const int32_t[::1] end):
    """Runs the plan and up to `steps` - 1 more, each row with its best candidate, until one of these ends a row or
    `seconds` have passed.

    Returns the status, and ids and log-probabilities [n, rows] of the n steps before the last.
    """
    cdef int64_t rows = plan.n_rows, k = plan.logits.top_k, done = 0, r, n_end = end.shape[0]
    cdef const int32_t *ends = &end[0] if n_end > 0 else NULL
    cdef const int32_t *best = plan.logits.top_ids
    cdef double until = now() + seconds
    cdef bint ended
    cdef pe_status status
    ids, log_probs = np.empty((steps, rows), np.int32), np.empty((steps, rows))
    cdef int32_t *taken = <int32_t *>data_of(ids)
    cdef double *values = <double *>data_of(log_probs)
    with nogil:
        while True:
            status = pe_session_step(session, plan, crew)
            if status != PE_OK or done + 1 >= steps or now() >= until:
                break
            ended = False
            for r in range(rows):
                ended |= best[r * k] < 0 or is_any(best[r * k], ends, n_end)
            if ended:
                break
            for r in range(rows):
                taken[r] = best[r * k]
                values[r] = <double>plan.logits.top_logits[r * k] - plan.logits.log_normalizer[r]
            only_rows(plan, taken)
            taken += rows
            values += rows
            done += 1
    return status, (ids[:done], log_probs[:done])


cdef class Beams:
    """Running beams and finished hypotheses of sentences in slots; arrays [slots, B, ...] to read between steps.

    ended          bool: which hypotheses there are, best first
    ended_scores   float64
    ended_lengths  int32: tokens, from the start token on
    ended_ids      int32 [slots, B, capacity]
    """

    cdef pe_beam_search search
    cdef readonly object ended, ended_scores, ended_lengths, ended_ids
    cdef object scores, end, bound, work

    def __init__(self, *, int64_t slots, int64_t beams, end, double never, early_stopping, bint flattering):
        self.scores = np.zeros((slots, beams))
        self.ended = np.zeros((slots, beams), np.bool_)
        self.ended_scores = np.zeros((slots, beams))
        self.ended_lengths = np.zeros((slots, beams), np.int32)
        self.ended_ids = np.zeros((slots, beams, 0), np.int32)
        self.end = np.array(end, np.int32)
        self.search.beams = beams
        self.search.end = <const int32_t *>data_of(self.end)
        self.search.n_end = len(self.end)
        self.search.never = never
        self.search.early_stopping = (PE_STOP_NEVER if early_stopping == "never" else
                                      PE_STOP_EARLY if early_stopping else PE_STOP_LIKELY)
        self.search.flattering = flattering
        self.search.scores = <double *>data_of(self.scores)
        self.search.ended = <bint_t *>data_of(self.ended)
        self.search.ended_scores = <double *>data_of(self.ended_scores)
        self.search.ended_lengths = <int32_t *>data_of(self.ended_lengths)

    def begin(self, int64_t slot):
        """A sentence without hypotheses, whose first beam alone exists."""
        self.scores[slot] = self.search.never
        self.scores[slot, 0] = 0.0
        self.ended[slot] = False

    def bind(self, history, sequences, length, prompt, maximum, used, powers):
        """Use these arrays: int32 [slots, B, capacity], [slots, B], three [slots]; bool [ids]; float64 powers."""
        cdef int64_t slots = history.shape[0], beams = history.shape[1], capacity = history.shape[2]
        if self.ended_ids.shape[2] != capacity:
            wider = np.zeros((slots, beams, capacity), np.int32)
            wider[:, :, : self.ended_ids.shape[2]] = self.ended_ids
            self.ended_ids = wider
        self.bound = (history, sequences, length, prompt, maximum, used, powers)
        self.search.history = <int32_t *>data_of(history)
        self.search.capacity = capacity
        self.search.sequences = <int32_t *>data_of(sequences)
        self.search.length = <int32_t *>data_of(length)
        self.search.prompt = <const int32_t *>data_of(prompt)
        self.search.maximum = <const int32_t *>data_of(maximum)
        self.search.used = <bint_t *>data_of(used)
        self.search.n_used = used.shape[0]
        self.search.powers = <const double *>data_of(powers)
        self.search.ended_ids = <int32_t *>data_of(self.ended_ids)
        self._make_room(0)

    cdef _make_room(self, int64_t width):
        """Working memory for candidates of so many a row."""
        cdef int64_t beams = self.search.beams, best = (2 + self.search.n_end) * beams
        if self.work is not None and width <= self.work[0] and self.search.capacity <= self.work[1]:
            return
        self.work = (width, self.search.capacity, np.empty(max(beams * width, 1)), np.empty(best),
                     np.empty((2, best), np.int32), np.empty((beams, max(self.search.capacity, 1)), np.int32))
        self.search.totals = <double *>data_of(self.work[2])
        self.search.running = <double *>data_of(self.work[3])
        self.search.order = <int32_t *>data_of(self.work[4])
        self.search.chosen = self.search.order + best
        self.search.rows = <int32_t *>data_of(self.work[5])

    def advance(self, const int64_t[::1] live, int64_t begun, const int32_t[:, ::1] ids, const double[:, ::1] values):
        """Go on with the sentences in the slots `live`; from `begun` on they are new, with one row of candidates.

        Candidates ids, values [rows, width]; -inf at none. Returns bool [live] which are done, int32 [n, 2] forks
        (parent, child, now in use), and int32 [m] sequences without children, which stay in use.
        """
        cdef int64_t n = live.shape[0], beams = self.search.beams, i, row = 0
        cdef pe_candidates candidates
        cdef pe_beam_changes changes
        if ids.shape[0] != begun * beams + n - begun or values.shape[0] != ids.shape[0]:
            raise EngineError(f"candidates of {ids.shape[0]} rows; expected {begun * beams + n - begun}")
        candidates.width = ids.shape[1]
        if values.shape[1] != candidates.width or candidates.width < 2:
            raise EngineError(f"{values.shape[1]} values for {candidates.width} candidates a row; expected 2 or more")
        self._make_room(candidates.width)
        done = np.zeros(n, np.bool_)
        forks, freed = np.empty((n * beams, 2), np.int32), np.empty(n * beams, np.int32)
        changes.forks = <int32_t *>data_of(forks)
        changes.freed = <int32_t *>data_of(freed)
        changes.n_forks = changes.n_freed = 0
        cdef bint_t *is_done = <bint_t *>data_of(done)
        with nogil:
            for i in range(n):
                candidates.shared = i >= begun
                candidates.ids = &ids[row, 0]
                candidates.values = &values[row, 0]
                is_done[i] = pe_beam_advance(&self.search, live[i], &candidates, &changes)
                row += 1 if i >= begun else beams
        return done, forks[: changes.n_forks], freed[: changes.n_freed]

    cdef bint has_room(self, const pe_plan *plan, int64_t steps, const int64_t[::1] live) except -1:
        """Whether the plan has the rows of the slots `live`, and their histories hold so many tokens more."""
        cdef int64_t i
        if self.bound is None or plan.n_rows != live.shape[0] * self.search.beams or plan.logits.top_k < 2:
            return False
        for i in range(live.shape[0]):
            if not 0 <= live[i] < self.scores.shape[0]:
                return False
            if not 0 < self.search.length[live[i]] <= self.search.capacity - steps:
                return False
        return True

    cdef go_ahead(self, pe_session *session, pe_plan *plan, pe_crew *crew, int64_t steps, double seconds,
                  const int64_t[::1] live):
        """Runs the plan and up to `steps` - 1 more, the sentences in `live` going on between them, until one is done or
        `seconds` have passed.

        Returns the status, and what `advance` found after the last step, or None if that is yet to be done.
        """
        cdef int64_t n = live.shape[0], beams = self.search.beams, width = plan.logits.top_k, rows = plan.n_rows, i, j
        cdef pe_candidates candidates
        cdef pe_beam_changes changes
        cdef pe_status status
        cdef bint_t any_done = False
        cdef double until = now() + seconds
        self._make_room(width)
        done, ids, values = np.zeros(n, np.bool_), np.empty((rows, width), np.int32), np.empty((rows, width))
        forks, freed, tokens = np.empty((rows, 2), np.int32), np.empty(rows, np.int32), np.empty((2, rows), np.int32)
        cdef bint_t *is_done = <bint_t *>data_of(done)
        cdef int32_t *next_ids = <int32_t *>data_of(ids)
        cdef double *next_values = <double *>data_of(values)
        cdef int32_t *next_tokens = <int32_t *>data_of(tokens)
        cdef int32_t *next_sequences = next_tokens + rows
        cdef int64_t slot, row
        candidates.width = width
        candidates.shared = False
        changes.forks = <int32_t *>data_of(forks)
        changes.freed = <int32_t *>data_of(freed)
        changes.n_forks = changes.n_freed = 0
        with nogil:
            while True:
                status = pe_session_step(session, plan, crew)
                steps -= 1
                if status != PE_OK or steps < 1 or now() >= until:
                    break
                for i in range(rows * width):
                    next_ids[i] = plan.logits.top_ids[i] if plan.logits.top_ids[i] >= 0 else 0
                    next_values[i] = <double>plan.logits.top_logits[i] - plan.logits.log_normalizer[i // width]
                changes.n_forks = changes.n_freed = 0
                for i in range(n):
                    candidates.ids = next_ids + i * beams * width
                    candidates.values = next_values + i * beams * width
                    is_done[i] = pe_beam_advance(&self.search, live[i], &candidates, &changes)
                    any_done |= is_done[i]
                if any_done:
                    break
                for i in range(changes.n_freed):
                    self.search.used[changes.freed[i]] = False
                for i in range(n):
                    slot = live[i]
                    for j in range(beams):
                        row = slot * beams + j
                        next_tokens[i * beams + j] = self.search.history[row * self.search.capacity
                                                                         + self.search.length[slot] - 1]
                        next_sequences[i * beams + j] = self.search.sequences[row]
                only_rows(plan, next_tokens)
                plan.sequences = next_sequences
                plan.n_forks = changes.n_forks
                plan.forks = changes.forks
                plan.n_free_sequences = changes.n_freed
                plan.free_sequences = changes.freed
        if not any_done:
            return status, None
        return status, (done, forks[: changes.n_forks], freed[: changes.n_freed])
