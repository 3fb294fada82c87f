/* Scalar reference: products with bfloat16 and float16 weights. */
#include "kernels/ref/ref.h"

static void gemm_half(const pe_product *p, int64_t block0, int64_t block1, float (*value_of)(uint16_t)) {
    const float *x = p->x;
    const uint16_t *w = p->w;
    const int64_t k_packed = (p->k + PE_QUAD - 1) / PE_QUAD * PE_QUAD;
    for (int64_t row = 0; row < p->m; row++)
        for (int64_t n = block0 * PE_BLOCK; n < block1 * PE_BLOCK; n++) {
            const uint16_t *lane = w + n / PE_BLOCK * PE_BLOCK * k_packed + n % PE_BLOCK;
            float sum = 0.0f;
            for (int64_t k = 0; k < p->k; k++) sum = fmaf(x[row * p->ldx + k], value_of(lane[k * PE_BLOCK]), sum);
            const float bias = p->bias ? p->bias[n] : 0.0f;
            p->y[row * p->ldy + n] = pe_finish(p, row, n, sum + bias);
        }
}

void pe_gemm_f32_f32_bf16__ref(const pe_product *p, int64_t block0, int64_t block1) {
    gemm_half(p, block0, block1, pe_float_of_bfloat16);
}

void pe_gemm_f32_f32_f16__ref(const pe_product *p, int64_t block0, int64_t block1) {
    gemm_half(p, block0, block1, pe_float_of_half);
}
