/* AVX-512: what the products of float32 rows share. */
#ifndef PE_KERNELS_X86_GEMM_F32_AVX512_H
#define PE_KERNELS_X86_GEMM_F32_AVX512_H

#include "kernels/x86/gemm_avx512.h"

ALWAYS_INLINE void pe_finish16(const pe_product *p, int64_t row, int64_t channel, __m512 v) {
    v = pe_activate16(p->activation, v);
    if (p->residual) v = _mm512_add_ps(v, _mm512_loadu_ps(p->residual + row * p->ldr + channel));
    _mm512_storeu_ps(p->y + row * p->ldy + channel, v);
}

/* sum[rows][blocks] of float32 rows. */
static void pe_finish_f32(const pe_product *p, int64_t row0, int64_t block0, int rows, int blocks,
                          const __m512 *sum) {
    for (int b = 0; b < blocks; b++) {
        const int64_t channel = (block0 + b) * PE_BLOCK;
        const __m512 bias = p->bias ? _mm512_loadu_ps(p->bias + channel) : _mm512_setzero_ps();
        for (int r = 0; r < rows; r++) pe_finish16(p, row0 + r, channel, _mm512_add_ps(sum[r * blocks + b], bias));
    }
}

#endif
