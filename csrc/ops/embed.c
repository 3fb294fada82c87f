#include "base/intmath.h"
#include "ops/ops.h"

/* Row `token` of a packed table: its weights lie one quad (or one float) a line. */
static void unpack_row(const pe_linear *table, int64_t token, float *x) {
    const int64_t lane = token % PE_BLOCK, k_packed = pe_round_up(table->k, PE_QUAD);
    const int64_t start = token / PE_BLOCK * PE_BLOCK * k_packed;
    if (table->type == PE_WEIGHT_Q8) {
        const int8_t *w = (const int8_t *)table->w + start + lane * PE_QUAD;
        for (int64_t k = 0; k < table->k; k++)
            x[k] = (float)w[k / PE_QUAD * (PE_BLOCK * PE_QUAD) + k % PE_QUAD] * table->scale[token];
    } else {
        const float *w = (const float *)table->w + start + lane;
        for (int64_t k = 0; k < table->k; k++) x[k] = w[k * PE_BLOCK];
    }
}

void pe_op_embed(pe_thread *thread, const pe_kernels *kernels, const pe_linear *table, float scale,
                 const float *positions, const pe_row *row, int64_t n_rows, const pe_rows *rows) {
    for (int64_t r; pe_take(thread, n_rows, &r);) {
        float *x = rows->x + r * rows->ld;
        const float *position = positions + row[r].position * table->k;
        unpack_row(table, row[r].token, x);
        for (int64_t k = 0; k < table->k; k++) x[k] = x[k] * scale + position[k];
        pe_prepare(kernels, rows, r, table->k);
    }
}
