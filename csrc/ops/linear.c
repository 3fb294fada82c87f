#include "base/intmath.h"
#include "ops/ops.h"

enum {
    PANEL = 4,       /* blocks of 16 channels a task: the widest tile of the kernels */
    ROWS_A_TASK = 192, /* rows that stay in the second-level cache together with a panel */
};

void pe_prepare(const pe_kernels *kernels, const pe_rows *rows, int64_t row, int64_t k) {
    if (!rows->q) return;
    kernels->quantize(rows->x + row * rows->ld, k, pe_round_up(k, PE_QUAD), kernels->flip,
                      rows->q + row * rows->ldq, rows->scale + row);
}

void pe_op_prepare(pe_thread *thread, const pe_kernels *kernels, const pe_rows *rows, int64_t n_rows, int64_t k) {
    for (int64_t r; pe_take(thread, n_rows, &r);) pe_prepare(kernels, rows, r, k);
}

/* Where a panel's weights start. */
static const void *weights_of(const pe_linear *linear, int64_t panel) {
    const int64_t size = linear->type == PE_WEIGHT_Q8 ? (int64_t)sizeof(int8_t) : (int64_t)sizeof(float);
    return (const uint8_t *)linear->w + panel * PANEL * PE_BLOCK * pe_round_up(linear->k, PE_QUAD) * size;
}

/* The weights that this thread reads first of a layer. */
static const void *first_weights(const pe_thread *thread, const pe_linear *linear) {
    if (!linear) return NULL;
    const int64_t panels = pe_ceil_div(pe_ceil_div(linear->n, PE_BLOCK), PANEL);
    return weights_of(linear, panels * thread->id / thread->team->threads);
}

void pe_op_linear(pe_thread *thread, const pe_kernels *kernels, const pe_linear *linear, const pe_rows *rows,
                  int64_t n_rows, pe_activation activation, const float *residual, int64_t ldr, float *y,
                  int64_t ldy) {
    const bool q8 = linear->type == PE_WEIGHT_Q8;
    const int64_t blocks = pe_ceil_div(linear->n, PE_BLOCK);
    const int64_t panels = pe_ceil_div(blocks, PANEL), slabs = pe_ceil_div(n_rows, ROWS_A_TASK);
    const int64_t own_end = pe_own_end(thread, panels * slabs);
    for (int64_t task; pe_take(thread, panels * slabs, &task);) {
        const int64_t block = task / slabs * PANEL, row = task % slabs * ROWS_A_TASK;
        const bool last = task + 1 == own_end;
        const void *ahead = last ? first_weights(thread, linear->next) : weights_of(linear, (task + 1) / slabs);
        const pe_product product = {
            .m = pe_min(ROWS_A_TASK, n_rows - row),
            .k = q8 ? pe_round_up(linear->k, PE_QUAD) : linear->k,
            .x = q8 ? (const void *)(rows->q + row * rows->ldq) : rows->x + row * rows->ld,
            .ldx = q8 ? rows->ldq : rows->ld,
            .x_scale = q8 ? rows->scale + row : NULL,
            .w = linear->w,
            .w_scale = linear->scale,
            .w_sum = linear->sum,
            .bias = linear->bias,
            .residual = residual ? residual + row * ldr : NULL,
            .ldr = ldr,
            .y = y + row * ldy,
            .ldy = ldy,
            .activation = activation,
            .ahead = ahead,
        };
        (q8 ? kernels->gemm_q8 : kernels->gemm_f32)(&product, block, pe_min(block + PANEL, blocks));
    }
}
