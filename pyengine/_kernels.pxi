# The kernels of one instruction set, one by one: for tests, which hold each against the reference, and benchmarks.
# Arrays are NumPy arrays; whoever calls checks nothing less than the contracts in csrc/kernels/kernels.h.


def angles(int64_t position, frequencies, float factor, cosines, sines):
    """frequencies float32 [n] -> cosines, sines float32 [n] of the angles at a position, times `factor`."""
    pe_angles(position, <const float *>data_of(frequencies), frequencies.shape[0], factor, <float *>data_of(cosines),
              <float *>data_of(sines))


ctypedef void (*gemm)(const pe_product *p, int64_t block0, int64_t block1) noexcept nogil


cdef void walk(gemm kernel, pe_product *p, int64_t first, int64_t last, int64_t size, int64_t copies,
               int64_t repeat, int64_t groups=0) noexcept:
    """`repeat` products, with weights of `size` bytes each: `copies` that lie end to end, in turn.

    So do their group scales and zero points, `groups` each.
    """
    cdef const uint8_t *w = <const uint8_t *>p.w
    cdef const uint16_t *scale = p.group_scale
    cdef const uint8_t *zero = p.group_zero
    cdef int64_t i
    with nogil:
        for i in range(repeat):
            p.w = w + i % copies * size
            if groups:
                p.group_scale = scale + i % copies * groups
                p.group_zero = zero + i % copies * groups if zero != NULL else NULL
            kernel(p, first, last)


cdef pe_attend one_of(pe_attend a, bint q8, int64_t row, int64_t head) noexcept:
    """The attention of one row and query head of a tile."""
    a.offset += head // a.group * (pe_page_bytes_q8(a.head_dim) if q8 else pe_page_bytes_f32(a.head_dim))
    a.q += row * a.ldq + head * a.head_dim
    a.y += row * a.ldy + head * a.head_dim
    a.sight += row
    if a.relative != NULL:
        a.relative += head * a.relative_ld
    if a.slopes != NULL:
        a.slopes += head
    a.rows = a.heads = a.group = 1
    return a


cdef class Kernels:
    """The kernel table of `isa`. Products with a leading axis of `w` use its matrices in turn, `repeat` in all."""

    cdef pe_kernels table

    def __cinit__(self, isa):
        load_kernels(&self.table, isa)

    @property
    def flip(self):
        return self.table.flip

    def quantize(self, x, n_padded, flip, q, scale, int64_t repeat=1):
        """x float32 [n] -> q int8 [n_padded], scale float32 [1]."""
        cdef const float *values = <const float *>data_of(x)
        cdef int8_t *to = <int8_t *>data_of(q)
        cdef float *scales = <float *>data_of(scale)
        cdef int64_t n = x.shape[0], padded = n_padded, i
        cdef uint8_t flipped = flip
        for i in range(repeat):
            self.table.quantize(values, n, padded, flipped, to, scales)

    def channel_sums(self, w, sums):
        """w int8 [blocks, K/4, 16, 4] -> sums int32 [blocks * 16]; whether no weight is -128."""
        return bool(self.table.channel_sums(<const int8_t *>data_of(w), w.shape[1] * 4, w.shape[0],
                                            <int32_t *>data_of(sums)))

    cdef _product(self, pe_product *p, x, w, bias, residual, y, activation):
        p.m = x.shape[0]
        p.k = x.shape[1]
        p.x = data_of(x)
        p.ldx = x.strides[0] // x.itemsize
        p.w = data_of(w)
        p.group_scale = NULL
        p.group_zero = NULL
        p.bias = <const float *>data_of(bias)
        p.residual = <const float *>data_of(residual)
        p.ldr = 0 if residual is None else residual.strides[0] // 4
        p.y = <float *>data_of(y)
        p.ldy = y.strides[0] // 4
        p.activation = ACTIVATIONS[activation]
        p.ahead = NULL

    def gemm_q8(self, x, x_scale, w, w_scale, w_sum, y, bias=None, residual=None, activation="linear", blocks=None,
                int64_t repeat=1):
        """x int8 [m, K], flipped -> y float32 [m, N16] in blocks [blocks[0], blocks[1]), all by default."""
        cdef pe_product p
        self._product(&p, x, w, bias, residual, y, activation)
        p.x_scale = <const float *>data_of(x_scale)
        p.w_scale = <const float *>data_of(w_scale)
        p.w_sum = <const int32_t *>data_of(w_sum)
        cdef int64_t first = blocks[0] if blocks else 0, last = blocks[1] if blocks else w.shape[w.ndim - 4]
        cdef int64_t copies = w.shape[0] if w.ndim == 5 else 1
        walk(self.table.gemm_q8, &p, first, last, w.nbytes // copies, copies, repeat)

    def gemm_q8s(self, x, x_scale, w, line_start, line_quad, w_scale, w_sum, y, bias=None, residual=None,
                 activation="linear", blocks=None, int64_t repeat=1):
        """As gemm_q8 with w int8 [lines, 16, 4], line_start int32 [blocks + 1], line_quad uint16 [lines].

        A leading axis of line_start: matrices whose lines lie in one `w`, used in turn.
        """
        cdef pe_product p
        self._product(&p, x, w, bias, residual, y, activation)
        p.x_scale = <const float *>data_of(x_scale)
        p.w_scale = <const float *>data_of(w_scale)
        p.w_sum = <const int32_t *>data_of(w_sum)
        p.line_quad = <const uint16_t *>data_of(line_quad)
        cdef const int32_t *starts = <const int32_t *>data_of(line_start)
        cdef int64_t starts_of_one = line_start.shape[line_start.ndim - 1], i
        cdef int64_t first = blocks[0] if blocks else 0, last = blocks[1] if blocks else starts_of_one - 1
        cdef int64_t copies = line_start.shape[0] if line_start.ndim == 2 else 1
        with nogil:
            for i in range(repeat):
                p.line_start = starts + i % copies * starts_of_one
                self.table.gemm_q8s(&p, first, last)

    def gemm_q4(self, x, x_scale, w, w_scale, group_scale, y, group_zero=None, bias=None, residual=None,
                activation="linear", blocks=None, int64_t repeat=1):
        """x int8 [m, K], flipped; w uint8 [blocks, K / 8, 16, 4], group_scale float16 and group_zero uint8
        [blocks, K / group, 16] -> y float32 [m, N16] in blocks [blocks[0], blocks[1])."""
        cdef pe_product p
        self._product(&p, x, w, bias, residual, y, activation)
        p.x_scale = <const float *>data_of(x_scale)
        p.w_scale = <const float *>data_of(w_scale)
        p.group = p.k // group_scale.shape[group_scale.ndim - 2]
        p.group_scale = <const uint16_t *>data_of(group_scale)
        p.group_zero = <const uint8_t *>data_of(group_zero)
        cdef int64_t first = blocks[0] if blocks else 0, last = blocks[1] if blocks else w.shape[w.ndim - 4]
        cdef int64_t copies = w.shape[0] if w.ndim == 5 else 1
        walk(self.table.gemm_q4, &p, first, last, w.nbytes // copies, copies, repeat, group_scale.size // copies)

    def gemm_f32(self, x, w, y, bias=None, residual=None, activation="linear", blocks=None,
                 int64_t repeat=1):
        """x float32 [m, K] -> y float32 [m, N16] in blocks [blocks[0], blocks[1]), all by default."""
        self._float_product(self.table.gemm_f32, x, w, y, bias, residual, activation, blocks, repeat)

    def gemm_bf16(self, x, w, y, bias=None, residual=None, activation="linear", blocks=None, int64_t repeat=1):
        """As gemm_f32, w uint16, the upper halves of floats."""
        self._float_product(self.table.gemm_bf16, x, w, y, bias, residual, activation, blocks, repeat)

    def gemm_f16(self, x, w, y, bias=None, residual=None, activation="linear", blocks=None, int64_t repeat=1):
        """As gemm_f32, w float16."""
        self._float_product(self.table.gemm_f16, x, w, y, bias, residual, activation, blocks, repeat)

    cdef _float_product(self, gemm kernel, x, w, y, bias, residual, activation, blocks, int64_t repeat):
        cdef pe_product p
        self._product(&p, x, w, bias, residual, y, activation)
        cdef int64_t first = blocks[0] if blocks else 0, last = blocks[1] if blocks else w.shape[w.ndim - 3]
        cdef int64_t copies = w.shape[0] if w.ndim == 4 else 1
        walk(kernel, &p, first, last, w.nbytes // copies, copies, repeat)

    def norm(self, x, weight, bias, float eps, y, int64_t repeat=1):
        """x, weight, bias, y float32 [n]."""
        cdef const float *values = <const float *>data_of(x)
        cdef const float *weights = <const float *>data_of(weight)
        cdef const float *biases = <const float *>data_of(bias)
        cdef float *to = <float *>data_of(y)
        cdef int64_t n = x.shape[0], i
        for i in range(repeat):
            self.table.norm(values, n, weights, biases, eps, to)

    def rmsnorm(self, x, weight, float eps, y):
        """x, weight, y float32 [n]."""
        self.table.rmsnorm(<const float *>data_of(x), x.shape[0], <const float *>data_of(weight), eps,
                           <float *>data_of(y))

    def turn(self, x, dims, cosines, sines):
        """x float32 [D], of which the first `dims` are turned in place; cosines, sines float32 [dims / 2]."""
        self.table.turn(<float *>data_of(x), dims, <const float *>data_of(cosines), <const float *>data_of(sines))

    def hadamard(self, x):
        """x float32 [n] times a Hadamard matrix, in place."""
        self.table.hadamard(<float *>data_of(x), x.size)

    def gate(self, x, n, activation):
        """x float32 [2 * n rounded up to 16], 16 columns of gate and 16 of up in turn; the units go to its front."""
        self.table.gate(<float *>data_of(x), n, ACTIVATIONS[activation])

    def soft_cap(self, x, float cap):
        """x float32 [n], in place."""
        self.table.soft_cap(<float *>data_of(x), x.shape[0], cap)

    def store(self, k, v, page, slot):
        """k, v float32 [heads, D] into a slot of an int8 page, uint8 [bytes]."""
        cdef pe_token t
        t.heads, t.head_dim, t.slot = k.shape[0], k.shape[1], slot
        t.k = <const float *>data_of(k)
        t.v = <const float *>data_of(v)
        t.page = <uint8_t *>data_of(page)
        self.table.store_q8(&t)

    def attend(self, kind, q, pages, sight, float scale, y, heads, offset=0, int64_t repeat=1, float soft_cap=0,
               relative=None, slopes=None, alone=False):
        """kind "int8" or "float32"; q, y float32 [rows, H, D], rows may lie apart; pages: uint8 arrays of one page
        each, None where not read; sight int64 [rows, 3] first key, end, position; heads: of keys and values; relative
        float32 [H, 2 reach + 33], slopes float32 [H]. `alone`: each row and query head by a call of its own."""
        cdef pe_attend a
        cdef int64_t i, r
        cdef const uint8_t **addresses = <const uint8_t **>PyMem_Calloc(max(len(pages), 1), sizeof(void *))
        if addresses == NULL:
            raise MemoryError
        for i, page in enumerate(pages):
            addresses[i] = <const uint8_t *>data_of(page)
        a.rows = q.shape[0]
        a.heads = heads
        a.group = q.shape[1] // heads
        a.head_dim = q.shape[2]
        a.sight = <const pe_sight *>data_of(sight)
        a.scale = scale
        a.soft_cap = soft_cap
        a.relative = <const float *>data_of(relative)
        a.relative_ld = a.reach = 0
        if relative is not None:
            a.relative_ld = relative.shape[1]
            a.reach = (a.relative_ld - 33) // 2
            a.relative += a.relative_ld // 2
        a.slopes = <const float *>data_of(slopes)
        a.q = <const float *>data_of(q)
        a.ldq = q.strides[0] // sizeof(float)
        a.pages = addresses
        a.offset = offset
        a.y = <float *>data_of(y)
        a.ldy = y.strides[0] // sizeof(float)
        cdef bint q8 = kind == "int8"
        cdef int64_t n = a.rows * a.heads * a.group if alone else 1
        cdef pe_attend *calls = <pe_attend *>PyMem_Calloc(n, sizeof(pe_attend))
        if calls == NULL:
            PyMem_Free(addresses)
            raise MemoryError
        for i in range(n):
            calls[i] = one_of(a, q8, i // (a.heads * a.group), i % (a.heads * a.group)) if alone else a
        for r in range(repeat):
            for i in range(n):
                if q8:
                    self.table.attend_q8(calls + i)
                else:
                    self.table.attend_f32(calls + i)
        PyMem_Free(calls)
        PyMem_Free(addresses)

    def exp_sum(self, x, int64_t repeat=1):
        """(max x, sum of e^(x - max)) of x float32 [n]."""
        cdef float top, total
        cdef const float *values = <const float *>data_of(x)
        cdef int64_t n = x.shape[0], i
        for i in range(repeat):
            self.table.exp_sum(values, n, &top, &total)
        return top, total

    def above(self, x, float threshold, indices):
        """Writes the indices of x > threshold; returns how many."""
        return self.table.above(<const float *>data_of(x), x.shape[0], threshold, <int32_t *>data_of(indices))
