/* Scalar reference: the product of int8 rows with int4 weights in groups. */
#include "kernels/ref/ref.h"

/* The value q of column k in a channel's lane of packed lines. */
static int32_t nibble(const uint8_t *lane, int64_t k) {
    const uint8_t both = lane[k / (2 * PE_QUAD) * (PE_BLOCK * PE_QUAD) + k % PE_QUAD];
    return k / PE_QUAD % 2 ? both >> 4 : both & 15;
}

void pe_gemm_f32_q8r_q4g__ref(const pe_product *p, int64_t block0, int64_t block1) {
    const int8_t *x = p->x;
    const uint8_t *w = p->w;
    const int64_t groups = p->k / p->group;
    for (int64_t row = 0; row < p->m; row++)
        for (int64_t n = block0 * PE_BLOCK; n < block1 * PE_BLOCK; n++) {
            const uint8_t *lane = w + n / PE_BLOCK * PE_BLOCK * p->k / 2 + n % PE_BLOCK * PE_QUAD;
            float acc = 0.0f;
            for (int64_t g = 0; g < groups; g++) {
                const int64_t at = (n / PE_BLOCK * groups + g) * PE_BLOCK + n % PE_BLOCK;
                const int32_t zero = p->group_zero ? p->group_zero[at] : 8;
                int32_t sum = 0;
                for (int64_t k = g * p->group; k < (g + 1) * p->group; k++)
                    sum += x[row * p->ldx + k] * (nibble(lane, k) - zero);
                acc = fmaf((float)sum, pe_float_of_half(p->group_scale[at]), acc);
            }
            const float bias = p->bias ? p->bias[n] : 0.0f;
            p->y[row * p->ldy + n] = pe_finish(p, row, n, fmaf(acc, p->x_scale[row] * p->w_scale[n], bias));
        }
}
