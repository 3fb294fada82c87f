/* AVX2: what the products of float32 rows share. */
#ifndef PE_KERNELS_X86_GEMM_F32_AVX2_H
#define PE_KERNELS_X86_GEMM_F32_AVX2_H

#include "kernels/x86/gemm_avx2.h"

/* sum[rows][2] of float32 rows and a block. */
static void pe_finish_f32(const pe_product *p, int64_t row0, int64_t block, int rows, const __m256 *sum) {
    for (int half = 0; half < 2; half++) {
        const int64_t channel = block * PE_BLOCK + half * 8;
        const __m256 bias = pe_bias8(p, channel);
        for (int r = 0; r < rows; r++) pe_finish8(p, row0 + r, channel, _mm256_add_ps(sum[r * 2 + half], bias));
    }
}

#endif
