#include "ops/ops.h"

enum {
    PANEL = 4,         /* blocks of 16 channels a task: the widest tile of the kernels */
    WIDE_PANEL = 32,   /* of sparse weights, from TALL rows on */
    TALL = 24,
    ROWS_A_TASK = 192, /* rows that stay in the second-level cache together with a panel */
    AHEAD = 1 << 18,   /* bytes of weights that fit there beside what a thread works on */
};

void pe_prepare(const pe_kernels *kernels, const pe_rows *rows, int64_t row, int64_t k) {
    float *x = rows->x + row * rows->ld;
    if (rows->hadamard) kernels->hadamard(x, k);
    if (!rows->q) return;
    int8_t *q = rows->q + row * rows->ldq;
    kernels->quantize(x, k, pe_round_up(k, PE_MAX_GROUP), kernels->flip, q, rows->scale + row);
}

void pe_op_prepare(pe_thread *thread, const pe_kernels *kernels, const pe_rows *rows, int64_t n_rows, int64_t k) {
    for (int64_t r; pe_take(thread, n_rows, &r);) pe_prepare(kernels, rows, r, k);
}

void pe_multiply(const pe_kernels *kernels, const pe_linear *linear, const pe_rows *rows, int64_t row, int64_t n,
                 pe_product *p, int64_t block0, int64_t block1) {
    const bool rounded = pe_reads_int8(linear);
    p->m = n;
    p->k = rounded ? pe_packed_k(linear) : linear->k;
    p->x = rounded ? (const void *)(rows->q + row * rows->ldq) : rows->x + row * rows->ld;
    p->ldx = rounded ? rows->ldq : rows->ld;
    p->x_scale = rounded ? rows->scale + row : NULL;
    p->w = linear->w;
    p->w_scale = linear->scale;
    p->w_sum = linear->sum;
    p->group = linear->group;
    p->group_scale = linear->group_scale;
    p->group_zero = linear->group_zero;
    p->line_start = linear->line_start;
    p->line_quad = linear->line_quad;
    p->bias = linear->bias;
    switch (linear->type) {
    case PE_WEIGHT_F32: kernels->gemm_f32(p, block0, block1); break;
    case PE_WEIGHT_BF16: kernels->gemm_bf16(p, block0, block1); break;
    case PE_WEIGHT_F16: kernels->gemm_f16(p, block0, block1); break;
    case PE_WEIGHT_Q8: kernels->gemm_q8(p, block0, block1); break;
    case PE_WEIGHT_Q8S: kernels->gemm_q8s(p, block0, block1); break;
    case PE_WEIGHT_Q4: kernels->gemm_q4(p, block0, block1); break;
    }
}

/* The weights that this thread reads first of a layer. */
static const void *first_weights(const pe_thread *thread, const pe_linear *linear) {
    if (!linear) return NULL;
    const int64_t panels = pe_ceil_div(pe_ceil_div(linear->n, PE_BLOCK), PANEL);
    return pe_block_at(linear, panels * thread->id / thread->team->threads * PANEL);
}

/* What it may fetch of them where it waits for others before it reads them. */
static void plan_ahead(pe_thread *thread, const pe_linear *linear) {
    thread->ahead = thread->ahead_end = NULL;
    if (!linear) return;
    const int64_t blocks = pe_ceil_div(linear->n, PE_BLOCK);
    const int64_t end = pe_own_end(thread, pe_ceil_div(blocks, PANEL)) * PANEL;
    const char *own_end = pe_block_at(linear, pe_min(end, blocks));
    thread->ahead = first_weights(thread, linear);
    thread->ahead_end = own_end - thread->ahead > AHEAD ? thread->ahead + AHEAD : own_end;
}

/* Blocks of a task. Sparse weights meet many rows in wide tasks, whose lines make up for packing the rows; each thread
   still has two. */
static int64_t panel_of(const pe_thread *thread, const pe_linear *linear, int64_t n_rows) {
    if (linear->type != PE_WEIGHT_Q8S || n_rows < TALL) return PANEL;
    const int64_t share = pe_ceil_div(pe_ceil_div(linear->n, PE_BLOCK), 2 * thread->team->threads);
    return pe_min(pe_round_up(share, PANEL), WIDE_PANEL);
}

void pe_op_linear(pe_thread *thread, const pe_kernels *kernels, const pe_linear *linear, const pe_rows *rows,
                  int64_t n_rows, pe_activation activation, const float *residual, int64_t ldr, float *y,
                  int64_t ldy) {
    const int64_t blocks = pe_ceil_div(linear->n, PE_BLOCK);
    const int64_t panel = panel_of(thread, linear, n_rows);
    const int64_t panels = pe_ceil_div(blocks, panel), slabs = pe_ceil_div(n_rows, ROWS_A_TASK);
    const int64_t own_end = pe_own_end(thread, panels * slabs);
    for (int64_t task; pe_take(thread, panels * slabs, &task);) {
        const int64_t block = task / slabs * panel, row = task % slabs * ROWS_A_TASK;
        const int64_t after = pe_min((task + 1) / slabs * panel, blocks); /* of a last panel of fewer blocks */
        const bool last = task + 1 == own_end;
        pe_product product = {
            .residual = residual ? residual + row * ldr : NULL,
            .ldr = ldr,
            .y = y + row * ldy,
            .ldy = ldy,
            .activation = activation,
            .ahead = last ? first_weights(thread, linear->next) : pe_block_at(linear, after),
        };
        pe_multiply(kernels, linear, rows, row, pe_min(ROWS_A_TASK, n_rows - row), &product, block,
                    pe_min(block + panel, blocks));
    }
    plan_ahead(thread, linear->next);
}
