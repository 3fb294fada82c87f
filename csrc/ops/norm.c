#include <string.h>

#include "ops/ops.h"

void pe_norm_row(const pe_kernels *kernels, pe_norm_kind kind, float epsilon, int64_t width, const pe_norm *norm,
                 const float *x, float *y) {
    if (kind == PE_RMS_NORM)
        kernels->rmsnorm(x, width, norm->weight, epsilon, y);
    else
        kernels->norm(x, width, norm->weight, norm->bias, epsilon, y);
}

static void norm(const pe_kernels *kernels, const pe_stream_rows *s, const pe_norm *norm, const float *x, float *y) {
    pe_norm_row(kernels, s->kind, s->epsilon, s->width, norm, x, y);
}

/* What is read next of row r of the stream; `x`: that row. */
static void read_next(const pe_kernels *kernels, const pe_stream_rows *s, pe_nexts nexts, const float *x, int64_t r) {
    if (nexts.later) return;
    float *in = s->in.x + r * s->in.ld;
    if (nexts.in)
        norm(kernels, s, nexts.in, x, in);
    else if (in != x)
        memcpy(in, x, (size_t)s->width * sizeof *in);
    pe_prepare(kernels, &s->in, r, s->width);
    if (!nexts.beside) return;
    norm(kernels, s, nexts.beside, x, s->beside.x + r * s->beside.ld);
    pe_prepare(kernels, &s->beside, r, s->width);
}

void pe_op_norm(pe_thread *thread, const pe_kernels *kernels, const pe_norm *after, const float *y, int64_t ldy,
                pe_nexts nexts, const pe_stream_rows *s, int64_t n_rows) {
    for (int64_t r; pe_take(thread, n_rows, &r);) {
        float *x = s->x + r * s->in.ld;
        if (after->weight) {
            float *in = s->in.x + r * s->in.ld; /* free until read_next */
            norm(kernels, s, after, y + r * ldy, in);
            for (int64_t i = 0; i < s->width; i++) x[i] += in[i];
        }
        read_next(kernels, s, nexts, x, r);
    }
}

void pe_op_gate(pe_thread *thread, const pe_kernels *kernels, pe_activation activation, int64_t n, const pe_rows *rows,
                int64_t n_rows) {
    for (int64_t r; pe_take(thread, n_rows, &r);) {
        kernels->gate(rows->x + r * rows->ld, n, activation);
        pe_prepare(kernels, rows, r, n);
    }
}

void pe_op_embed(pe_thread *thread, const pe_kernels *kernels, const pe_embedding *e, const pe_row *row,
                 int64_t n_rows, bool projected, pe_nexts nexts, const pe_stream_rows *s) {
    for (int64_t r; pe_take(thread, n_rows, &r);) {
        /* Where the stream is read as it is, it need not be kept beside. */
        float *x = nexts.in || nexts.beside || projected ? s->x + r * s->in.ld : s->in.x + r * s->in.ld;
        if (!projected) pe_embed_row(kernels, s->kind, s->epsilon, e, row + r, x);
        read_next(kernels, s, nexts, x, r);
    }
}
