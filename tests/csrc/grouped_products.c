/* Products with int4 weights in groups, and with int8 weights whose lines of zeros are left out. */

#include "check_core.h"

/* int8 rows as products read them, of random floats [m, k] with zeros up to column k_padded. */
static int8_t *random_rows(const pe_kernels *kernels, int64_t m, int64_t k, int64_t k_padded, float *scale) {
    float *x = random_floats(m * k);
    int8_t *q = new_memory((size_t)(m * k_padded));
    for (int64_t r = 0; r < m; r++)
        kernels->quantize(x + r * k, k, k_padded, kernels->flip, q + r * k_padded, scale + r);
    pe_aligned_free(x);
    return q;
}

/* Compares Y with rows times `weights` [n, k], scaled. */
static void compare(const char *what, const pe_kernels *kernels, const pe_product *p, int64_t n, int64_t k,
                    const double *weights) {
    for (int64_t r = 0; r < p->m; r++)
        for (int64_t i = 0; i < n; i++) {
            double sum = 0, size = 0;
            for (int64_t j = 0; j < k; j++) {
                const int8_t x = (int8_t)((uint8_t)((const int8_t *)p->x)[r * p->ldx + j] ^ kernels->flip);
                sum += x * weights[i * k + j];
                size += fabs(x * weights[i * k + j]);
            }
            const double unit = (double)p->x_scale[r] * p->w_scale[i], bound = size * fabs(unit) + fabs(p->bias[i]);
            expect_near(what, p->y[r * p->ldy + i], sum * unit + p->bias[i], 8 * EPSILON * bound);
        }
}

void check_int4(const pe_kernels *kernels, int64_t m, int64_t n, int64_t k, int64_t group, bool zero_points,
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
    compare("gemm_q4", kernels, &product, n, k, weights);
    *hash = fingerprint(*hash, y, (size_t)(m * n16) * sizeof *y);
    void *all[] = {bias, scale, y, x_scale, x, w, zero, step, weights};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) pe_aligned_free(all[i]);
}

void check_sparse(const pe_kernels *kernels, int64_t m, int64_t n, int64_t k, uint64_t *hash) {
    const int64_t blocks = pe_ceil_div(n, PE_BLOCK), n16 = blocks * PE_BLOCK, quads = pe_ceil_div(k, PE_QUAD);
    float *bias = random_floats(n16), *scale = random_floats(n16), *y = random_floats(m * n16);
    float *x_scale = new_memory((size_t)m * sizeof *x_scale);
    int8_t *x = random_rows(kernels, m, k, quads * PE_QUAD, x_scale);
    int8_t *lines = new_memory((size_t)(blocks * quads * 64));
    int32_t *sums = new_memory((size_t)n16 * sizeof *sums);
    int32_t *line_start = new_memory((size_t)(blocks + 1) * sizeof *line_start);
    uint16_t *line_quad = new_memory((size_t)(blocks * quads) * sizeof *line_quad);
    double *weights = new_memory((size_t)(n * k) * sizeof *weights);
    int32_t line = 0;
    for (int64_t b = 0; b < blocks; b++) {
        line_start[b] = line;
        for (int64_t quad = 0; quad < quads; quad++) {
            if (next_random() % 2) continue;
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
    }
    line_start[blocks] = line;
    const pe_product product = {
        .m = m, .k = quads * PE_QUAD, .x = x, .ldx = quads * PE_QUAD, .x_scale = x_scale, .w = lines, .w_scale = scale,
        .w_sum = sums, .bias = bias, .y = y, .ldy = n16, .line_start = line_start, .line_quad = line_quad,
    };
    kernels->gemm_q8s(&product, 0, blocks);
    compare("gemm_q8s", kernels, &product, n, k, weights);
    *hash = fingerprint(*hash, y, (size_t)(m * n16) * sizeof *y);
    void *all[] = {bias, scale, y, x_scale, x, lines, sums, line_start, line_quad, weights};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) pe_aligned_free(all[i]);
}
