/* Scalar reference: products with block-sparse int8 weights. */
#include "kernels/ref/ref.h"

void pe_gemm_f32_q8r_q8s__ref(const pe_product *p, int64_t block0, int64_t block1) {
    const int8_t *x = p->x, *w = p->w;
    for (int64_t row = 0; row < p->m; row++)
        for (int64_t n = block0 * PE_BLOCK; n < block1 * PE_BLOCK; n++) {
            const int64_t end = p->line_start[n / PE_BLOCK + 1];
            int32_t sum = 0;
            for (int64_t line = p->line_start[n / PE_BLOCK]; line < end; line++) {
                const int8_t *quad = x + row * p->ldx + p->line_quad[line] * PE_QUAD;
                const int8_t *weights = w + (line * PE_BLOCK + n % PE_BLOCK) * PE_QUAD;
                for (int i = 0; i < PE_QUAD; i++) sum += (int32_t)quad[i] * weights[i];
            }
            const float bias = p->bias ? p->bias[n] : 0.0f;
            p->y[row * p->ldy + n] = pe_finish(p, row, n, fmaf((float)sum, p->x_scale[row] * p->w_scale[n], bias));
        }
}
