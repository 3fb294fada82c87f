/* AVX2: what the matrix products share. A block of 16 channels is two vectors, channels 0-7 and 8-15.

   The first tile of a block prefetches the block that is read after it. */
#ifndef PE_KERNELS_X86_GEMM_AVX2_H
#define PE_KERNELS_X86_GEMM_AVX2_H

#include "kernels/x86/vec_avx2.h"
#include "kernels/x86/x86.h"

/* What the tile of row `row` prefetches, a line of 64 bytes in each step of its loop; NULL: nothing. */
static inline const uint8_t *pe_ahead_of(const pe_product *p, int64_t row, int64_t block, int64_t block1,
                                         int64_t block_bytes) {
    if (row > 0) return NULL;
    return block + 1 < block1 ? (const uint8_t *)p->w + (block + 1) * block_bytes : p->ahead;
}

ALWAYS_INLINE void pe_prefetch(const uint8_t *ahead, int64_t line) {
    if (ahead) _mm_prefetch((const char *)ahead + line * 64, _MM_HINT_T1);
}

/* The floats of a sum that a loop collected. Pinned to a register at the loop's end: GCC 12 else keeps the sums of
   large tiles in memory, all through the loop, because the conversion could read them there. */
ALWAYS_INLINE __m256 pe_floats_of(__m256i sum) {
    __asm__("" : "+x"(sum));
    return _mm256_cvtepi32_ps(sum);
}

/* 8 elements of a row with their bias, through activation and residual. */
ALWAYS_INLINE void pe_finish8(const pe_product *p, int64_t row, int64_t channel, __m256 v) {
    v = pe_activate8(p->activation, v);
    if (p->residual) v = _mm256_add_ps(v, _mm256_loadu_ps(p->residual + row * p->ldr + channel));
    _mm256_storeu_ps(p->y + row * p->ldy + channel, v);
}

static inline __m256 pe_bias8(const pe_product *p, int64_t channel) {
    return p->bias ? _mm256_loadu_ps(p->bias + channel) : _mm256_setzero_ps();
}

/* sum[rows][2] of int8 rows and a block, to be scaled. */
static __attribute__((noinline, unused)) void pe_finish_scaled(const pe_product *p, int64_t row0, int64_t block,
                                                               int rows, const __m256 *sum) {
    for (int half = 0; half < 2; half++) {
        const int64_t channel = block * PE_BLOCK + half * 8;
        const __m256 w_scale = _mm256_loadu_ps(p->w_scale + channel), bias = pe_bias8(p, channel);
        for (int r = 0; r < rows; r++) {
            const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(p->x_scale[row0 + r]), w_scale);
            pe_finish8(p, row0 + r, channel, _mm256_fmadd_ps(sum[r * 2 + half], scale, bias));
        }
    }
}

#endif
