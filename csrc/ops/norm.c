#include "ops/ops.h"

void pe_op_norm(pe_thread *thread, const pe_kernels *kernels, const pe_norm *norm, float eps, const float *x,
                int64_t ldx, int64_t width, int64_t n_rows, const pe_rows *rows) {
    for (int64_t r; pe_take(thread, n_rows, &r);) {
        kernels->norm(x + r * ldx, width, norm->weight, norm->bias, eps, rows->x + r * rows->ld);
        pe_prepare(kernels, rows, r, width);
    }
}
