# What comes after a step. The functions that scores are made of. Sampling (csrc/search/draw.h). Greedy search: steps
# that need no decision. Beam search (csrc/search/beam.h): the arrays of all slots, one call for the live sentences, and
# steps in which none of them is done.


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


def write_tokens(histories, const int64_t[::1] slots, const int32_t[::1] lengths, const int32_t[:, :] tokens,
                 const double[:, :] values):
    """Write tokens and their values [n, m] into the first row of these slots [n] of Histories, behind the first
    `lengths` [n] ones.
    """
    cdef const uintptr_t[::1] addresses = histories.addresses, value_addresses = histories.value_addresses
    cdef const int64_t[::1] capacity = histories.capacity
    cdef int64_t i, j, slot
    cdef int32_t *end
    cdef double *value
    if lengths.shape[0] != slots.shape[0] or tokens.shape[0] != slots.shape[0]:
        raise EngineError(f"{slots.shape[0]} slots, {lengths.shape[0]} lengths, tokens of {tokens.shape[0]}")
    if values.shape[0] != tokens.shape[0] or values.shape[1] != tokens.shape[1]:
        raise EngineError(f"{tokens.shape[0]} x {tokens.shape[1]} tokens, {values.shape[0]} x {values.shape[1]} values")
    if value_addresses.shape[0] != capacity.shape[0]:
        raise EngineError("histories without values")
    for i in range(slots.shape[0]):
        slot = slots[i]
        if not 0 <= slot < capacity.shape[0] or not 0 <= lengths[i] <= capacity[slot] - tokens.shape[1]:
            raise EngineError(f"slot {slot} has no room for {tokens.shape[1]} tokens behind {lengths[i]}")
        end = <int32_t *>addresses[slot] + lengths[i]
        value = <double *>value_addresses[slot] + lengths[i]
        for j in range(tokens.shape[1]):
            end[j] = tokens[i, j]
            value[j] = values[i, j]


def uniforms(const uint64_t[::1] seeds, const int32_t[::1] samples, const int32_t[::1] positions):
    """float64 [n] in [0, 1): of each seed, sample and position always the same number."""
    cdef int64_t i, n = seeds.shape[0]
    if samples.shape[0] != n or positions.shape[0] != n:
        raise EngineError(f"{n} seeds, {samples.shape[0]} samples, {positions.shape[0]} positions")
    found = np.empty(n)
    cdef double[::1] numbers = found
    for i in range(n):
        numbers[i] = pe_uniform(seeds[i], <uint32_t>samples[i], <uint32_t>positions[i])
    return found


cdef class Lottery:
    """Draws tokens from rows of scores, after filters: temperature (more than 0), top_k, top_p, min_p and typical_p as
    transformers has them.
    """

    cdef pe_filters filters
    cdef object room

    def __init__(self, *, double temperature, int64_t top_k, double top_p, double min_p, double typical_p):
        if not temperature > 0.0:
            raise EngineError(f"a temperature of {temperature}; expected more than 0")
        self.filters.temperature = temperature
        self.filters.top_k = top_k
        self.filters.top_p = top_p
        self.filters.min_p = min_p
        self.filters.typical_p = typical_p
        self.room = np.empty(0, np.uint8)

    cdef pe_choice *_make_room(self, int64_t width):
        if len(self.room) < width * <int64_t>sizeof(pe_choice):
            self.room = np.empty(max(width, 1) * sizeof(pe_choice), np.uint8)
        return <pe_choice *>data_of(self.room)

    def kept(self, const double[::1] values):
        """Of one row, the places that may be drawn and their probabilities."""
        cdef pe_choice *kept = self._make_room(values.shape[0])
        cdef double total = 0.0
        cdef int64_t i, n = pe_keep(&self.filters, &values[0], values.shape[0], kept, &total) if values.shape[0] else 0
        places = np.array([kept[i].place for i in range(n)], np.int64)
        return places, np.array([kept[i].weight / total for i in range(n)])

    def best(self, const double[::1] values, int64_t k):
        """Of one row, the k best that may be drawn, best first: int32 places and float64 log-probabilities [k]; -1 and
        minus infinity where there are fewer.
        """
        cdef pe_choice *kept = self._make_room(values.shape[0])
        cdef double total = 0.0
        cdef int64_t i, n = pe_keep(&self.filters, &values[0], values.shape[0], kept, &total) if values.shape[0] else 0
        places, log_probs = np.full(k, -1, np.int32), np.full(k, -np.inf)
        for i in range(pe_best(kept, n, k)):
            places[i] = kept[i].place
            if kept[i].weight > 0.0:
                log_probs[i] = pe_logd(kept[i].weight) - pe_logd(total)
        return places, log_probs

    def draw(self, const double[:, ::1] values, const int64_t[::1] rows, const double[::1] numbers):
        """int64 [n]: for each of these rows [n] of values [Q, m] the place that its number in [0, 1) falls on; the
        first of a row that has none but minus infinity.
        """
        cdef int64_t width = values.shape[1], i, row = -1, n = 0
        cdef double total = 0.0
        cdef pe_choice *kept = self._make_room(width)
        if numbers.shape[0] != rows.shape[0]:
            raise EngineError(f"{rows.shape[0]} rows, {numbers.shape[0]} numbers")
        places = np.zeros(rows.shape[0], np.int64)
        cdef int64_t[::1] found = places
        for i in range(rows.shape[0]):
            if not 0 <= rows[i] < values.shape[0] or width == 0:
                raise EngineError(f"row {rows[i]} of {values.shape[0]} with {width} values")
        with nogil:
            for i in range(rows.shape[0]):
                if i == 0 or rows[i] != row:
                    row = rows[i]
                    n = pe_keep(&self.filters, &values[row, 0], width, kept, &total)
                if n > 0:
                    found[i] = pe_draw(kept, n, total, numbers[i])
        return places


cdef pe_ahead steps_ahead(pe_session *session, pe_plan *plan, int64_t steps, double seconds):
    """Without a crew; `until` counts from when it has one."""
    cdef pe_ahead ahead
    ahead.session = session
    ahead.plan = plan
    ahead.crew = NULL
    ahead.steps = steps
    ahead.until = <int64_t>(1e9 * min(max(seconds, 0.0), LONGEST_PATIENCE))
    return ahead


cdef follow_best(pe_ahead ahead, const int32_t[::1] end, turn *own):
    """Steps ahead of greedy search: the status, and ids and log-probabilities [n, rows] of the n before the last."""
    cdef int64_t passed = 0, n_end = end.shape[0]
    cdef pe_status status = PE_OK
    ids, log_probs = np.empty((ahead.steps, ahead.plan.n_rows), np.int32), np.empty((ahead.steps, ahead.plan.n_rows))
    cdef const int32_t *ends = &end[0] if n_end > 0 else NULL
    cdef int32_t *taken = <int32_t *>data_of(ids)
    cdef double *values = <double *>data_of(log_probs)
    with nogil:
        if begin_turn(own):
            ahead.crew = own.crew
            ahead.until += pe_now()
            status = pe_follow_best(&ahead, ends, n_end, taken, values, &passed)
            end_turn(own)
    return status, (ids[:passed], log_probs[:passed])


cdef class Beams:
    """Running beams and finished hypotheses of sentences in slots; arrays [slots, B] to read between steps.

    ended          bool: which hypotheses there are, best first; their tokens are the last B rows of a slot's history
    ended_scores   float64
    ended_lengths  int32: tokens, from the start token on; 0 where there is no hypothesis
    """

    cdef pe_beam_search search
    cdef readonly object ended, ended_scores, ended_lengths
    cdef object held, scores, work

    def __init__(self, *, histories, last, sequences, length, prompt, maximum, used, end, double never,
                 double length_penalty, early_stopping, bint flattering):
        """Reads and writes the arrays of a Search in place.

        histories           Histories, 2 B rows a slot
        last, sequences     int32 [slots, B]
        length, prompt, maximum  int32 [slots]
        used                bool [sequence ids]
        """
        cdef int64_t slots = last.shape[0], beams = last.shape[1]
        ends = np.array(end, np.int32)
        self.held = (histories, last, sequences, length, prompt, maximum, used, ends)
        self.scores = np.zeros((slots, beams))
        self.ended = np.zeros((slots, beams), np.bool_)
        self.ended_scores = np.zeros((slots, beams))
        self.ended_lengths = np.zeros((slots, beams), np.int32)
        self.search.beams = beams
        self.search.end = <const int32_t *>data_of(ends)
        self.search.n_end = len(ends)
        self.search.never = never
        self.search.early_stopping = (PE_STOP_NEVER if early_stopping == "never" else
                                      PE_STOP_EARLY if early_stopping else PE_STOP_LIKELY)
        self.search.flattering = flattering
        self.search.length_penalty = length_penalty
        self.search.scores = <double *>data_of(self.scores)
        self.search.last = <int32_t *>data_of(last)
        self.search.sequences = <int32_t *>data_of(sequences)
        self.search.length = <int32_t *>data_of(length)
        self.search.prompt = <const int32_t *>data_of(prompt)
        self.search.maximum = <const int32_t *>data_of(maximum)
        self.search.ended = <bint_t *>data_of(self.ended)
        self.search.ended_scores = <double *>data_of(self.ended_scores)
        self.search.ended_lengths = <int32_t *>data_of(self.ended_lengths)
        self.search.histories = <int32_t *const *>data_of(histories.addresses)
        self.search.capacity = <const int64_t *>data_of(histories.capacity)
        self.search.used = <bint_t *>data_of(used)
        self.search.n_used = used.shape[0]

    def begin(self, slots):
        """Sentences without hypotheses, whose first beams alone exist."""
        self.scores[slots] = self.search.never
        self.scores[slots, 0] = 0.0
        self.ended[slots] = False
        self.ended_lengths[slots] = 0

    cdef _make_room(self, int64_t width):
        """Working memory for candidates of so many a row."""
        cdef int64_t beams = self.search.beams, best = (2 + self.search.n_end) * beams
        if self.work is not None and width <= self.work[0]:
            return
        self.work = (width, np.empty(max(beams * width, 1)), np.empty(best), np.empty(2 * best + beams, np.int32))
        self.search.totals = <double *>data_of(self.work[1])
        self.search.running = <double *>data_of(self.work[2])
        self.search.order = <int32_t *>data_of(self.work[3])
        self.search.chosen = self.search.order + best
        self.search.held = self.search.chosen + best

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
        if plan.n_rows != live.shape[0] * self.search.beams or plan.logits.top_k < 2:
            return False
        for i in range(live.shape[0]):
            if not 0 <= live[i] < self.scores.shape[0]:
                return False
            if not 0 < self.search.length[live[i]] <= self.search.capacity[live[i]] - steps:
                return False
        return True

    cdef go_ahead(self, pe_ahead ahead, const int64_t[::1] live, turn *own):
        """Steps ahead of the sentences in the slots `live`: the status, and what `advance` found after the last one, or
        None if that is yet to be done.
        """
        cdef int64_t n = live.shape[0], rows = ahead.plan.n_rows, width = ahead.plan.logits.top_k
        cdef const int64_t *slots = &live[0] if n > 0 else NULL
        cdef pe_beam_room room
        cdef pe_status status = PE_OK
        cdef bint_t any_done = False
        self._make_room(width)
        done, ids, values = np.zeros(n, np.bool_), np.empty((rows, width), np.int32), np.empty((rows, width))
        forks, freed, next_rows = np.empty((rows, 2), np.int32), np.empty(rows, np.int32), np.empty((2, rows), np.int32)
        room.ids = <int32_t *>data_of(ids)
        room.values = <double *>data_of(values)
        room.tokens = <int32_t *>data_of(next_rows)
        room.sequences = room.tokens + rows
        room.done = <bint_t *>data_of(done)
        room.changes.forks = <int32_t *>data_of(forks)
        room.changes.freed = <int32_t *>data_of(freed)
        with nogil:
            if begin_turn(own):
                ahead.crew = own.crew
                ahead.until += pe_now()
                status = pe_follow_beams(&ahead, &self.search, slots, n, &room, &any_done)
                end_turn(own)
        if not any_done:
            return status, None
        return status, (done, forks[: room.changes.n_forks], freed[: room.changes.n_freed])
