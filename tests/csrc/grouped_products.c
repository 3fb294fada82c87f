/* Products with int4 weights in groups, and with int8 weights whose lines of zeros are left out: few rows and many,
   odd numbers of blocks, and the sizes at which memory that kernels have of their own is full. */
#include <stdlib.h>

#include "check_core.h"

enum { UNUSED = 3 /* channels that the last block lacks */ };

static const int64_t rows[] = {1, 3, 8, 9, 30, 97}, blocks[] = {1, 3, 5, 9}, columns[] = {1, 45, 300};
enum { ROWS = sizeof rows / sizeof *rows, BLOCKS = sizeof blocks / sizeof *blocks };
enum { COLUMNS = sizeof columns / sizeof *columns };

/* int8 rows as products read them, of random floats [m, k] with zeros up to column k_padded. */
static int8_t *random_rows(const pe_kernels *kernels, int64_t m, int64_t k, int64_t k_padded, float *scale) {
    float *x = random_floats(m * k);
    int8_t *q = new_memory((size_t)(m * k_padded));
    for (int64_t r = 0; r < m; r++)
        kernels->quantize(x + r * k, k, k_padded, kernels->flip, q + r * k_padded, scale + r);
    free(x);
    return q;
}

/* Compares Y with rows times `weights` [n, k], scaled, within what so many roundings may cost. */
static void compare(const char *what, const pe_kernels *kernels, const pe_product *p, int64_t n, int64_t k,
                    const double *weights, int64_t roundings) {
    for (int64_t r = 0; r < p->m; r++)
        for (int64_t i = 0; i < n; i++) {
            double sum = 0, size = 0;
            for (int64_t j = 0; j < k; j++) {
                const int8_t x = (int8_t)((uint8_t)((const int8_t *)p->x)[r * p->ldx + j] ^ kernels->flip);
                sum += x * weights[i * k + j];
                size += fabs(x * weights[i * k + j]);
            }
            const double unit = (double)p->x_scale[r] * p->w_scale[i], bound = size * fabs(unit) + fabs(p->bias[i]);
            expect_near(what, p->y[r * p->ldy + i], sum * unit + p->bias[i], (double)roundings * EPSILON * bound);
        }
}

static void check_q4(const pe_kernels *kernels, int64_t m, int64_t n, int64_t k, int64_t group, bool zero_points,
                     uint64_t *hash) {
    const int64_t n16 = pe_round_up(n, PE_BLOCK), kg = pe_round_up(k, group), groups = kg / group;
    float *bias = random_floats(n16), *scale = random_floats(n16), *y = random_floats(m * n16);
    float *x_scale = new_memory((size_t)m * sizeof *x_scale);
    int8_t *x = random_rows(kernels, m, k, kg, x_scale);
    uint8_t *w = new_memory((size_t)(n16 * kg / 2)), *zero = new_memory((size_t)(n16 * groups));
    uint16_t *step = new_memory((size_t)(n16 * groups) * sizeof *step);
    double *weights = new_memory((size_t)(n * k) * sizeof *weights);
    for (int64_t i = 0; i < n16 * kg / 2; i++) w[i] = (uint8_t)next_random(); /* what stands in the padding, too */
    for (int64_t i = 0; i < n16 * groups; i++) {
        step[i] = (uint16_t)(0x2800 + next_random() % 0x1400 + (next_random() % 2 << 15)); /* halves of 1/32 to 1 */
        zero[i] = zero_points ? (uint8_t)(next_random() % 16) : 8;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++) {
            const uint8_t both = w[(i / 16 * (kg / 8) + j / 8) * 64 + i % 16 * 4 + j % 4];
            const int64_t at = (i / 16 * groups + j / group) * 16 + i % 16;
            weights[i * k + j] = ((j / 4 % 2 ? both >> 4 : both & 15) - zero[at]) * (double)pe_float_of_half(step[at]);
        }
    const pe_product product = {
        .m = m, .k = kg, .x = x, .ldx = kg, .x_scale = x_scale, .w = w, .w_scale = scale, .group = group,
        .group_scale = step, .group_zero = zero_points ? zero : NULL, .bias = bias, .y = y, .ldy = n16,
    };
    kernels->gemm_q4(&product, 0, n16 / 16);
    compare("gemm_q4", kernels, &product, n, k, weights, groups + 2);
    *hash = fingerprint(*hash, y, (size_t)(m * n16) * sizeof *y);
    void *all[] = {bias, scale, y, x_scale, x, w, zero, step, weights};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void check_q8s(const pe_kernels *kernels, int64_t m, int64_t n, int64_t k, uint64_t *hash) {
    const int64_t n_blocks = pe_ceil_div(n, PE_BLOCK), n16 = n_blocks * PE_BLOCK, quads = pe_ceil_div(k, PE_QUAD);
    float *bias = random_floats(n16), *scale = random_floats(n16), *y = random_floats(m * n16);
    float *x_scale = new_memory((size_t)m * sizeof *x_scale);
    int8_t *x = random_rows(kernels, m, k, quads * PE_QUAD, x_scale);
    bool *kept = new_memory((size_t)(n_blocks * quads) * sizeof *kept);
    int64_t n_lines = 0, line = 0;
    for (int64_t i = 0; i < n_blocks * quads; i++) n_lines += kept[i] = next_random() % 4 > 0;
    int8_t *lines = new_memory((size_t)(n_lines * 64));
    int32_t *sums = new_memory((size_t)n16 * sizeof *sums);
    int32_t *line_start = new_memory((size_t)(n_blocks + 1) * sizeof *line_start);
    uint16_t *line_quad = new_memory((size_t)n_lines * sizeof *line_quad);
    double *weights = new_memory((size_t)(n * k) * sizeof *weights);
    for (int64_t b = 0; b < n_blocks; b++) {
        for (int64_t quad = 0; quad < quads; quad++) {
            if (!kept[b * quads + quad]) continue;
            line_quad[line] = (uint16_t)quad;
            for (int64_t i = 0; i < 64; i++) {
                const int64_t channel = b * PE_BLOCK + i / 4, column = quad * 4 + i % 4;
                if (channel >= n || column >= k) continue;
                lines[line * 64 + i] = random_weight();
                weights[channel * k + column] = lines[line * 64 + i];
                sums[channel] += lines[line * 64 + i];
            }
            line++;
        }
        line_start[b + 1] = (int32_t)line;
    }
    const pe_product product = {
        .m = m, .k = quads * PE_QUAD, .x = x, .ldx = quads * PE_QUAD, .x_scale = x_scale, .w = lines, .w_scale = scale,
        .w_sum = sums, .bias = bias, .y = y, .ldy = n16, .line_start = line_start, .line_quad = line_quad,
    };
    kernels->gemm_q8s(&product, 0, n_blocks);
    compare("gemm_q8s", kernels, &product, n, k, weights, 3);
    *hash = fingerprint(*hash, y, (size_t)(m * n16) * sizeof *y);
    void *all[] = {bias, scale, y, x_scale, x, kept, lines, sums, line_start, line_quad, weights};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

uint64_t check_int4(const pe_kernels *kernels) {
    uint64_t hash = 0;
    for (int64_t group = PE_MIN_GROUP; group <= PE_MAX_GROUP; group *= 2)
        for (int i = 0; i < ROWS * BLOCKS * COLUMNS; i++) {
            const int64_t n = blocks[i / ROWS % BLOCKS] * PE_BLOCK - UNUSED, k = columns[i / ROWS / BLOCKS];
            check_q4(kernels, rows[i % ROWS], n, k, group, false, &hash);
            check_q4(kernels, rows[i % ROWS], n, k, group, true, &hash);
        }
    check_q4(kernels, 7, PE_BLOCK, 65536, PE_MIN_GROUP, true, &hash); /* the most groups */
    return hash;
}

uint64_t check_sparse(const pe_kernels *kernels) {
    uint64_t hash = 0;
    for (int i = 0; i < ROWS * BLOCKS * COLUMNS; i++) {
        const int64_t n = blocks[i / ROWS % BLOCKS] * PE_BLOCK - UNUSED, k = columns[i / ROWS / BLOCKS];
        check_q8s(kernels, rows[i % ROWS], n, k, &hash);
    }
    check_q8s(kernels, 30, 9 * PE_BLOCK, 4096, &hash);  /* the most columns whose rows are packed */
    check_q8s(kernels, 30, 65 * PE_BLOCK, 21, &hash);   /* more blocks than pass while rows stay in the cache */
    check_q8s(kernels, 1, PE_BLOCK, 65536, &hash);      /* the most columns */
    return hash;
}
