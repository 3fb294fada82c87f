# Operations of one layer on a team of threads, repeated without Python between them: for benchmarks.


cdef struct ops_job:
    const pe_kernels *kernels
    pe_linear linear
    pe_rows rows
    int64_t n_rows
    float *y
    pe_activation activation
    pe_logits_request request
    pe_logits_scratch scratch
    int64_t repeat


cdef void run_linear(pe_thread *thread, void *context) noexcept nogil:
    cdef const ops_job *job = <const ops_job *>context
    cdef int64_t i
    for i in range(job.repeat):
        pe_op_linear(thread, job.kernels, &job.linear, &job.rows, job.n_rows, job.activation, NULL, 0, job.y,
                     round_up(job.linear.n, 16))
        pe_barrier(thread)


cdef void run_logits(pe_thread *thread, void *context) noexcept nogil:
    cdef const ops_job *job = <const ops_job *>context
    cdef int64_t i
    for i in range(job.repeat):
        pe_op_logits(thread, job.kernels, &job.linear, &job.rows, &job.request, &job.scratch)
        pe_barrier(thread)
        pe_op_logits_merge(thread, job.linear.n, &job.request, &job.scratch)
        pe_barrier(thread)


cdef void run_barriers(pe_thread *thread, void *context) noexcept nogil:
    cdef int64_t i
    for i in range((<const ops_job *>context).repeat):
        pe_barrier(thread)


cdef void with_crew(Crews crews, pe_team_function *function, ops_job *job):
    cdef pe_crew *crew
    with nogil:
        crew = pe_crews_take(&crews.crews, <int64_t>(1e9 * LONGEST_PATIENCE), pe_now())
        pe_team_run(crew, job.n_rows, function, job)
        pe_crews_give(&crews.crews, crew)


def barriers(Crews crews, int64_t count):
    """Passes `count` barriers with a team."""
    cdef ops_job job
    job.repeat = count
    with_crew(crews, run_barriers, &job)


cdef class Layer:
    """A linear layer with int8 weights: w int8 [N/16, K/4, 16, 4], scales and bias float32 [N16]."""

    cdef Kernels kernels
    cdef ops_job job
    cdef object held, input, outputs

    def __init__(self, Kernels kernels, w, scales, bias):
        sums = np.empty(w.shape[0] * 16, np.int32)
        kernels.channel_sums(w, sums)
        self.kernels = kernels
        self.held = (w, scales, bias, sums)
        self.job.kernels = &kernels.table
        self.job.linear.type = PE_WEIGHT_Q8
        self.job.linear.n = w.shape[0] * 16
        self.job.linear.k = w.shape[1] * 4
        self.job.linear.w = data_of(w)
        self.job.linear.scale = <const float *>data_of(scales)
        self.job.linear.sum = <const int32_t *>data_of(sums)
        self.job.linear.bias = <const float *>data_of(bias)

    def read(self, x, x_scale):
        """Rows for the calls below: int8 [rows, K], flipped, and float32 [rows]."""
        self.input = (x, x_scale)
        self.job.n_rows = x.shape[0]
        self.job.rows.q = <int8_t *>data_of(x)
        self.job.rows.ldq = x.strides[0]
        self.job.rows.scale = <float *>data_of(x_scale)

    def linear(self, y, Crews crews, int64_t repeat, activation="linear"):
        """y float32 [rows, N16] = activation(x W + bias), `repeat` times."""
        self.job.y = <float *>data_of(y)
        self.job.activation = ACTIVATIONS[activation]
        self.job.repeat = repeat
        with_crew(crews, run_linear, &self.job)

    def logits(self, int64_t top_k, Crews crews, int64_t repeat):
        """The same rows' normalizers and best `top_k` ids, `repeat` times; ids int32 [rows, top_k]."""
        cdef int64_t threads = crews.crews.threads, rows = self.job.n_rows
        cdef int64_t chunks = round_up(self.job.linear.n, PE_LOGIT_CHUNK) // PE_LOGIT_CHUNK
        offsets, ids = np.zeros(rows + 1, np.int32), np.empty((rows, top_k), np.int32)
        floats = np.empty(threads * PE_LOGIT_ROWS * PE_LOGIT_CHUNK + 2 * rows * chunks, np.float32)
        values, kept = np.empty((threads + 1, rows, top_k), np.float32), np.empty((threads, rows, top_k), np.int32)
        counts, indices = np.empty(threads * rows, np.int32), np.empty(threads * PE_LOGIT_CHUNK, np.int32)
        normalizer = np.empty(rows)
        self.outputs = (offsets, floats, values, kept, counts, indices, normalizer)
        self.job.request.n_rows = rows
        self.job.request.top_k = top_k
        self.job.request.exclude_offsets = <const int32_t *>data_of(offsets)
        self.job.request.log_normalizer = <double *>data_of(normalizer)
        self.job.request.top_ids = <int32_t *>data_of(ids)
        self.job.request.top_logits = <float *>data_of(values) + threads * rows * top_k
        self.job.scratch.tile = <float *>data_of(floats)
        self.job.scratch.max = self.job.scratch.tile + threads * PE_LOGIT_ROWS * PE_LOGIT_CHUNK
        self.job.scratch.sum = self.job.scratch.max + rows * chunks
        self.job.scratch.values = <float *>data_of(values)
        self.job.scratch.ids = <int32_t *>data_of(kept)
        self.job.scratch.counts = <int32_t *>data_of(counts)
        self.job.scratch.indices = <int32_t *>data_of(indices)
        self.job.repeat = repeat
        with_crew(crews, run_logits, &self.job)
        return ids
