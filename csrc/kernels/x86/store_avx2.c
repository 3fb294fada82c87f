/* AVX2: what stores keys and values into int8 pages. */
#include "kernels/x86/x86.h"

void pe_store_q8_f32__avx2(const pe_token *t) {
    const int64_t d = t->head_dim;
    int8_t k[PE_MAX_HEAD_DIM], v[PE_MAX_HEAD_DIM];
    for (int64_t h = 0; h < t->heads; h++) {
        float k_scale, v_scale;
        pe_quantize_q8r_f32__avx2(t->k + h * d, d, (d + 3) / 4 * 4, 0, k, &k_scale);
        pe_quantize_q8r_f32__avx2(t->v + h * d, d, d, 0, v, &v_scale);
        pe_store_head_q8(d, k, k_scale, v, v_scale, t->page + h * pe_page_bytes_q8(d), t->slot);
    }
}
