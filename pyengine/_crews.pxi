# Threads that run steps.

cdef double LONGEST_PATIENCE = 1e9  # seconds


cdef struct turn:
    pe_crews *crews
    int64_t patience  # ns
    int64_t since
    pe_crew *crew  # NULL: it did not come


cdef bint begin_turn(turn *own) noexcept nogil:
    own.crew = pe_crews_take(own.crews, own.patience, own.since)
    return own.crew != NULL


cdef void end_turn(turn *own) noexcept nogil:
    pe_crews_give(own.crews, own.crew)


cdef class Crews:
    """`places` crews of up to `threads` threads, each at work for one step at a time: sessions that share them wait for
    each other, first come, first served.

    cpus  the numbers of those that threads run on, beside the caller's; empty: where the thread runs that starts them

    A crew runs fewer threads while others want the processors, and where the system refuses threads. Threads start
    when they are first needed; a child has its own after a fork.
    """

    cdef pe_crews crews

    def __cinit__(self, int64_t threads, int64_t places=1, cpus=()):
        cdef int32_t[::1] numbers = np.array(sorted(cpus), np.int32)
        if not (1 <= threads <= PE_MAX_TEAM and 1 <= places < 1 << 16):
            raise OptionError(f"crews of {threads} threads: expected 1 to {PE_MAX_TEAM}; {places} of them: at least 1")
        if pe_crews_create(&self.crews, <int>threads, <int>places, int32_in(numbers), <int>numbers.shape[0]) != PE_OK:
            raise EngineError("out of memory")

    def __dealloc__(self):
        with nogil:
            pe_crews_destroy(&self.crews)

    @property
    def threads(self):
        """Threads of a crew."""
        return self.crews.threads

    @property
    def waiting(self):
        """Steps that wait for their turn."""
        return pe_crews_waiting(&self.crews)


cdef class Governor:
    """The decision how many threads pay (csrc/base/governor.h), for its tests. Times are in seconds."""

    cdef pe_governor governor

    def __cinit__(self, int threads):
        pe_governor_begin(&self.governor, threads)

    def choose(self, double now):
        """Threads of the step that begins `now`."""
        return pe_governor_choose(&self.governor, <int64_t>(now * 1e9))

    def learn(self, double now, int threads, double elapsed, double waited):
        """A step of `threads` threads has ended `now`; it took `elapsed`, in which they waited `waited` in all."""
        pe_governor_learn(&self.governor, <int64_t>(now * 1e9), threads, <int64_t>(elapsed * 1e9),
                          <int64_t>(waited * 1e9))
