/* Scalar reference: matrix products on packed weights. */
#include "kernels/ref/ref.h"

bool pe_sums_s32_q8c__ref(const int8_t *w, int64_t k, int64_t blocks, int32_t *sums) {
    bool valid = true;
    for (int64_t n = 0; n < blocks * PE_BLOCK; n++) {
        const int8_t *lane = w + n / PE_BLOCK * PE_BLOCK * k + n % PE_BLOCK * PE_QUAD;
        sums[n] = 0;
        for (int64_t i = 0; i < k; i++) {
            const int8_t weight = lane[i / PE_QUAD * (PE_BLOCK * PE_QUAD) + i % PE_QUAD];
            sums[n] += weight;
            valid = valid && weight != INT8_MIN;
        }
    }
    return valid;
}

void pe_gemm_f32_q8r_q8c__ref(const pe_product *p, int64_t block0, int64_t block1) {
    const int8_t *x = p->x, *w = p->w;
    for (int64_t row = 0; row < p->m; row++)
        for (int64_t n = block0 * PE_BLOCK; n < block1 * PE_BLOCK; n++) {
            const int8_t *lane = w + n / PE_BLOCK * PE_BLOCK * p->k + n % PE_BLOCK * PE_QUAD;
            int32_t sum = 0;
            for (int64_t k = 0; k < p->k; k++)
                sum += (int32_t)x[row * p->ldx + k] * lane[k / PE_QUAD * (PE_BLOCK * PE_QUAD) + k % PE_QUAD];
            const float bias = p->bias ? p->bias[n] : 0.0f;
            p->y[row * p->ldy + n] = pe_finish(p, row, n, fmaf((float)sum, p->x_scale[row] * p->w_scale[n], bias));
        }
}

void pe_gemm_f32_f32_f32__ref(const pe_product *p, int64_t block0, int64_t block1) {
    const float *x = p->x, *w = p->w;
    const int64_t k_packed = (p->k + PE_QUAD - 1) / PE_QUAD * PE_QUAD;
    for (int64_t row = 0; row < p->m; row++)
        for (int64_t n = block0 * PE_BLOCK; n < block1 * PE_BLOCK; n++) {
            const float *lane = w + n / PE_BLOCK * PE_BLOCK * k_packed + n % PE_BLOCK;
            float sum = 0.0f;
            for (int64_t k = 0; k < p->k; k++) sum = fmaf(x[row * p->ldx + k], lane[k * PE_BLOCK], sum);
            const float bias = p->bias ? p->bias[n] : 0.0f;
            p->y[row * p->ldy + n] = pe_finish(p, row, n, sum + bias);
        }
}
