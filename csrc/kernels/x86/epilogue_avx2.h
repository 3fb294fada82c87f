/* What follows the sums of an int8 product in AVX2: scales, bias, activation, residual, store. */
#ifndef PE_KERNELS_X86_EPILOGUE_AVX2_H
#define PE_KERNELS_X86_EPILOGUE_AVX2_H

#include "kernels/kernels.h"
#include "kernels/x86/vec_avx2.h"

enum { PE_TILE_ROWS = 4 }; /* of an int8 product */

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE void pe_finish(const pe_product *p, int64_t row, int64_t channel, __m256 v) {
    v = pe_activate8(p->activation, v);
    if (p->residual) v = _mm256_add_ps(v, _mm256_loadu_ps(p->residual + row * p->ldr + channel));
    _mm256_storeu_ps(p->y + row * p->ldy + channel, v);
}

static inline __m256 pe_bias8(const pe_product *p, int64_t channel) {
    return p->bias ? _mm256_loadu_ps(p->bias + channel) : _mm256_setzero_ps();
}

/* From sums [rows][2 halves] of rows from row0 on and a block of channels to Y. */
static inline void pe_finish_sums(const pe_product *p, int64_t row0, int64_t block, int rows,
                                  const __m256i sum[PE_TILE_ROWS * 2]) {
    for (int half = 0; half < 2; half++) {
        const int64_t channel = block * PE_BLOCK + half * 8;
        const __m256 w_scale = _mm256_loadu_ps(p->w_scale + channel), bias = pe_bias8(p, channel);
        for (int r = 0; r < rows; r++) {
            const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(p->x_scale[row0 + r]), w_scale);
            pe_finish(p, row0 + r, channel, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r * 2 + half]), scale, bias));
        }
    }
}

#endif
