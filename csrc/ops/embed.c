#include "base/angles.h"
#include "ops/ops.h"

enum { LINE = PE_BLOCK * PE_QUAD }; /* bytes of a line of packed weights, of which a channel has 4 */

static void unpack_q4(const pe_linear *table, int64_t token, const uint8_t *w, float *x) {
    const int64_t groups = pe_packed_k(table) / table->group;
    const int64_t at = token / PE_BLOCK * groups * PE_BLOCK + token % PE_BLOCK;
    for (int64_t k = 0; k < table->k; k++) {
        const uint8_t both = w[k / (2 * PE_QUAD) * LINE + k % PE_QUAD];
        const int q = k / PE_QUAD % 2 ? both >> 4 : both & 15;
        const int64_t group = at + k / table->group * PE_BLOCK;
        const int zero = table->group_zero ? table->group_zero[group] : 8;
        x[k] = pe_float_of_half(table->group_scale[group]) * (float)(q - zero) * table->scale[token];
    }
}

static void unpack_q8(const pe_linear *table, int64_t token, const int8_t *w, float *x) {
    for (int64_t k = 0; k < table->k; k++) x[k] = (float)w[k / PE_QUAD * LINE + k % PE_QUAD] * table->scale[token];
}

/* Row `token` of a packed table. */
static void unpack_row(const pe_linear *table, int64_t token, float *x) {
    const void *block = pe_block_at(table, token / PE_BLOCK);
    const int64_t channel = token % PE_BLOCK, n = table->k;
    const float *floats = (const float *)block + channel;
    const uint16_t *halves = (const uint16_t *)block + channel;
    switch (table->type) {
    case PE_WEIGHT_F32:
        for (int64_t k = 0; k < n; k++) x[k] = floats[k * PE_BLOCK];
        break;
    case PE_WEIGHT_BF16:
        for (int64_t k = 0; k < n; k++) x[k] = pe_float_of_bfloat16(halves[k * PE_BLOCK]);
        break;
    case PE_WEIGHT_F16:
        for (int64_t k = 0; k < n; k++) x[k] = pe_float_of_half(halves[k * PE_BLOCK]);
        break;
    case PE_WEIGHT_Q4: unpack_q4(table, token, (const uint8_t *)block + channel * PE_QUAD, x); break;
    default: unpack_q8(table, token, (const int8_t *)block + channel * PE_QUAD, x);
    }
}

void pe_embed_row(const pe_kernels *kernels, pe_norm_kind kind, float epsilon, const pe_embedding *e,
                  const pe_row *row, float *x) {
    const int64_t n = e->table.k;
    unpack_row(&e->table, row->token, x);
    if (e->hadamard) kernels->hadamard(x, n);
    if (e->positions) {
        const float *position = e->positions + row->position * n;
        for (int64_t k = 0; k < n; k++) x[k] = x[k] * e->scale + position[k];
    } else {
        for (int64_t k = 0; k < n; k++) x[k] *= e->scale;
    }
    const float *type = e->types ? e->types + row->type * n : NULL;
    for (int64_t k = 0; type && k < n; k++) x[k] += type[k];
    if (e->norm.weight) pe_norm_row(kernels, kind, epsilon, n, &e->norm, x, x);
}

void pe_op_embed_narrow(pe_thread *thread, const pe_kernels *kernels, pe_norm_kind kind, float epsilon,
                        const pe_embedding *e, const pe_row *row, int64_t n_rows, const pe_rows *y) {
    for (int64_t r; pe_take(thread, n_rows, &r);) {
        pe_embed_row(kernels, kind, epsilon, e, row + r, y->x + r * y->ld);
        pe_prepare(kernels, y, r, e->table.k);
    }
}

void pe_op_angles(pe_thread *thread, const pe_ropes *ropes, const pe_row *row, int64_t n_rows, float *turns) {
    for (int64_t r; pe_take(thread, n_rows, &r);)
        for (int i = 0; i < ropes->n; i++) {
            const int64_t half = ropes->dims[i] / 2;
            float *cosines = turns + r * ropes->turns + ropes->offset[i];
            const float *frequencies = ropes->frequencies[i] + (ropes->sets[i] > 1 ? row[r].rope_set * half : 0);
            pe_angles(row[r].position, frequencies, half, ropes->factor[i], cosines, cosines + half);
        }
}
