/* Heads: what is made of the encoder's states beside, or in place of, a memory.

   Each of a segment's answers depends on its own rows alone, added up in ascending order: it has the same bytes in any
   plan. */
#include <string.h>

#include "model/session.h"

int64_t pe_head_rows(const pe_plan *plan) {
    return plan->head->pool == PE_POOL_NONE ? plan->n_source_tokens : plan->n_segments;
}

int64_t pe_head_outputs(const pe_model *model, const pe_head *head) {
    return head->out.n > 0 ? head->out.n : head->dense.n > 0 ? head->dense.n : model->width;
}

/* y [width] = what is read of the rows x [n, ld] of a segment. */
static void pool_rows(pe_pool pool, const float *x, int64_t ld, int64_t n, int64_t width, float *y) {
    memcpy(y, pool == PE_POOL_LAST ? x + (n - 1) * ld : x, (size_t)width * sizeof *y);
    if (pool != PE_POOL_MEAN) return;
    for (int64_t r = 1; r < n; r++)
        for (int64_t i = 0; i < width; i++) y[i] += x[r * ld + i];
    for (int64_t i = 0; i < width; i++) y[i] /= (float)n;
}

static void multiply(pe_thread *thread, const pe_session *s, const pe_linear *linear, const pe_rows *rows, int64_t n,
                     pe_activation activation, float *y, int64_t ldy) {
    pe_observe(thread, s, linear, rows, n);
    pe_op_linear(thread, &s->model->kernels, linear, rows, n, activation, NULL, 0, y, ldy);
    pe_barrier(thread);
}

void pe_head_answer(pe_thread *thread, const pe_session *s, const pe_plan *plan) {
    const pe_kernels *kernels = &s->model->kernels;
    const pe_stack *encoder = &s->model->encoder;
    const pe_head *head = plan->head;
    const int64_t n = pe_head_rows(plan);
    const pe_rows *rows = &s->in; /* prepared */
    int64_t width = s->model->width;
    if (head->pool != PE_POOL_NONE) {
        for (int64_t i; pe_take(thread, n, &i);) {
            const int64_t first = s->segment_starts[i], length = s->segment_starts[i + 1] - first;
            pool_rows(head->pool, rows->x + first * rows->ld, rows->ld, length, width,
                      s->context.x + i * s->context.ld);
            pe_prepare(kernels, &s->context, i, width);
        }
        pe_barrier(thread);
        rows = &s->context;
    }
    if (head->dense.n > 0) {
        multiply(thread, s, &head->dense, rows, n, head->activation, s->wide.x, s->wide.ld);
        rows = &s->wide;
        width = head->dense.n;
    }
    for (int64_t r; pe_take(thread, n, &r);) {
        float *x = rows->x + r * rows->ld;
        if (head->norm.weight) pe_norm_row(kernels, encoder->norm_kind, encoder->epsilon, width, &head->norm, x, x);
        if (head->out.n > 0)
            pe_prepare(kernels, rows, r, width);
        else
            memcpy(plan->answers + r * plan->ld_answers, x, (size_t)width * sizeof *x);
    }
    pe_barrier(thread);
    if (head->out.n > 0) multiply(thread, s, &head->out, rows, n, PE_IDENTITY, plan->answers, plan->ld_answers);
}
