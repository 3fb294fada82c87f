/* AVX-512: what the products with int4 weights in groups share. */
#ifndef PE_KERNELS_X86_GEMM_Q4_AVX512_H
#define PE_KERNELS_X86_GEMM_Q4_AVX512_H

#include "kernels/x86/gemm_avx512.h"

enum { LINE = 2 * PE_QUAD /* columns of a line of 64 bytes */ };

static inline __m512 halves(const uint16_t *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

/* The zero points of a group at `at`, each in the 4 bytes of its channel's lane. */
static inline __m512i zeros_of(const pe_product *p, int64_t at) {
    if (!p->group_zero) return _mm512_set1_epi8(8);
    const __m512i lanes = _mm512_set_epi32(0x0F0F0F0F, 0x0E0E0E0E, 0x0D0D0D0D, 0x0C0C0C0C, 0x0B0B0B0B, 0x0A0A0A0A,
                                           0x09090909, 0x08080808, 0x07070707, 0x06060606, 0x05050505, 0x04040404,
                                           0x03030303, 0x02020202, 0x01010101, 0);
    const __m128i zeros = _mm_loadu_si128((const __m128i *)(const void *)(p->group_zero + at));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(zeros), lanes);
}

/* The weights of a line's first 4 columns, and of its last 4. */
static inline __m512i low_weights(__m512i line, __m512i zero) {
    return _mm512_sub_epi8(_mm512_and_si512(line, _mm512_set1_epi8(15)), zero);
}

static inline __m512i high_weights(__m512i line, __m512i zero) { return low_weights(_mm512_srli_epi16(line, 4), zero); }

/* 128 times the weights of a line, added to the sums of their channels. */
static inline __m512i add_weights(__m512i sum, __m512i low, __m512i high) {
    return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8((char)128), _mm512_add_epi8(low, high));
}

/* A group as bytes, lines of 16 channels x 4 columns `stride` bytes apart, with -128 times the sums of its weights,
   where sums begin, and its scales. It is read from `w`, scales and zero points at `at`; as much is fetched from `next`
   on, if that is not NULL. */
ALWAYS_INLINE void expand_group(const pe_product *p, int64_t at, const uint8_t *w, const uint8_t *next, int8_t *lines,
                                int64_t stride, int32_t *start, float *scale) {
    const __m512i zero = zeros_of(p, at);
    __m512i w_sum = _mm512_setzero_si512();
    for (int64_t k = 0; k < p->group; k += LINE, lines += 2 * stride) {
        const __m512i line = _mm512_loadu_si512(w + k * PE_BLOCK / 2);
        const __m512i low = low_weights(line, zero), high = high_weights(line, zero);
        if (next) _mm_prefetch((const char *)next + k * PE_BLOCK / 2, _MM_HINT_T1);
        _mm512_store_si512(lines, low);
        _mm512_store_si512(lines + stride, high);
        w_sum = add_weights(w_sum, low, high);
    }
    _mm512_store_si512(start, _mm512_sub_epi32(_mm512_setzero_si512(), w_sum));
    _mm512_store_ps(scale, halves(p->group_scale + at));
}

#endif
