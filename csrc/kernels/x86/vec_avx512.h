/* base/mathf.h in vectors of 16: the same operations in the same order, so the same bytes. */
#ifndef PE_KERNELS_X86_VEC_AVX512_H
#define PE_KERNELS_X86_VEC_AVX512_H

#include <immintrin.h>

#include "base/mathf.h"

/* Lanes [0, n) of a vector; n may be anything, negative too. */
static inline __mmask16 pe_mask16(int64_t n) { return n >= 16 ? 0xffff : n > 0 ? (__mmask16)((1u << n) - 1) : 0; }

static inline float pe_sum16(__m512 v) {
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float pe_max16(__m512 v) { return _mm512_reduce_max_ps(v); }

/* pe_larger: as integers, such values have the order that they have as floats, and NaN comes last. */
static inline __m512 pe_larger16(__m512 a, __m512 b) {
    return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

static inline float pe_largest16(__m512 v) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)_mm512_reduce_max_epu32(_mm512_castps_si512(v)))));
}

/* The reductions of four vectors, one a lane. */
static inline __m128 pe_max16x4(const __m512 v[4]) {
    __m128 m[4];
    for (int i = 0; i < 4; i++) {
        const __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
        m[i] = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    }
    _MM_TRANSPOSE4_PS(m[0], m[1], m[2], m[3]);
    return _mm_max_ps(_mm_max_ps(m[0], m[2]), _mm_max_ps(m[1], m[3]));
}

static inline __m128 pe_largest16x4(const __m512 v[4]) {
    __m128 m[4];
    for (int i = 0; i < 4; i++) {
        const __m512i w = _mm512_castps_si512(v[i]);
        const __m256i a = _mm256_max_epu32(_mm512_castsi512_si256(w), _mm512_extracti32x8_epi32(w, 1));
        m[i] = _mm_castsi128_ps(_mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
    }
    _MM_TRANSPOSE4_PS(m[0], m[1], m[2], m[3]);
    const __m128i even = _mm_max_epu32(_mm_castps_si128(m[0]), _mm_castps_si128(m[2]));
    const __m128i odd = _mm_max_epu32(_mm_castps_si128(m[1]), _mm_castps_si128(m[3]));
    return _mm_castsi128_ps(_mm_max_epu32(even, odd));
}

static inline __m128 pe_sum16x4(const __m512 v[4]) { /* in the order of pe_sum16 */
    __m128 s[4];
    for (int i = 0; i < 4; i++) {
        const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
        s[i] = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    }
    _MM_TRANSPOSE4_PS(s[0], s[1], s[2], s[3]);
    return _mm_add_ps(_mm_add_ps(s[0], s[2]), _mm_add_ps(s[1], s[3]));
}

static inline __m128i pe_add16x4(const __m512i v[4]) {
    __m128i s[4];
    for (int i = 0; i < 4; i++) {
        const __m256i a = _mm256_add_epi32(_mm512_castsi512_si256(v[i]), _mm512_extracti32x8_epi32(v[i], 1));
        s[i] = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    }
    return _mm_hadd_epi32(_mm_hadd_epi32(s[0], s[1]), _mm_hadd_epi32(s[2], s[3]));
}

/* pe_quant_factor, pe_weight_factor and their scales: `most` stands for the largest. */
static inline __m128 pe_factor4(__m128 largest, float most) {
    const __mmask8 live = _mm_cmp_ps_mask(largest, _mm_set1_ps(PE_QUANT_LOW), _CMP_GT_OQ);
    return _mm_maskz_div_ps(live, _mm_set1_ps(most), largest);
}

static inline __m128 pe_scale4(__m128 largest, float most) {
    const __mmask8 live = _mm_cmp_ps_mask(largest, _mm_set1_ps(PE_QUANT_LOW), _CMP_NLE_UQ);
    return _mm_maskz_mul_ps(live, largest, _mm_set1_ps(1.0f / most));
}

/* pe_exp of what is not above PE_EXP_HIGH. */
static inline __m512 pe_exp_below16(__m512 x) {
    const __mmask16 live = _mm512_cmp_ps_mask(x, _mm512_set1_ps(PE_EXP_LOW), _CMP_NLE_UQ);
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(PE_LOG2E)), _MM_FROUND_CUR_DIRECTION);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-PE_LN2_HIGH), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-PE_LN2_LOW), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(live, p, n); /* n lies in [-126, 127]: p times a power of two, as pe_exp's product */
}

static inline __m512 pe_exp16(__m512 x) {
    return pe_exp_below16(_mm512_min_ps(_mm512_set1_ps(PE_EXP_HIGH), x)); /* of NaN: the second */
}

static inline __m512 pe_tanh16(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 e = _mm512_add_ps(pe_exp16(_mm512_add_ps(x, x)), one);
    return _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), e));
}

static inline __m512 pe_soft_cap16(__m512 x, __m512 cap, __m512 inverse) {
    return _mm512_mul_ps(cap, pe_tanh16(_mm512_mul_ps(x, inverse)));
}

static inline __m512 pe_erf16(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f), sign = _mm512_set1_ps(-0.0f);
    const __m512 z = _mm512_andnot_ps(sign, x);
    const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(_mm512_set1_ps(0.3275911f), z, one));
    __m512 p = _mm512_set1_ps(1.061405429f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
    const __m512 e = pe_exp16(_mm512_xor_ps(sign, _mm512_mul_ps(z, z)));
    const __m512 y = _mm512_sub_ps(one, _mm512_mul_ps(_mm512_mul_ps(p, t), e));
    return _mm512_or_ps(_mm512_andnot_ps(sign, y), _mm512_and_ps(sign, x));
}

static inline __m512 pe_activate16(pe_activation kind, __m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f), half = _mm512_set1_ps(0.5f), minus = _mm512_set1_ps(-0.0f);
    switch (kind) {
    case PE_RELU: return _mm512_max_ps(_mm512_setzero_ps(), x);
    case PE_GELU: {
        const __m512 e = pe_erf16(_mm512_mul_ps(x, _mm512_set1_ps(0.707106781f)));
        return _mm512_mul_ps(_mm512_mul_ps(half, x), _mm512_add_ps(one, e));
    }
    case PE_GELU_TANH: {
        const __m512 cubic = _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.044715f), x), x);
        const __m512 inner = _mm512_mul_ps(_mm512_set1_ps(0.797884561f), _mm512_fmadd_ps(cubic, x, x));
        return _mm512_mul_ps(_mm512_mul_ps(half, x), _mm512_add_ps(one, pe_tanh16(inner)));
    }
    case PE_QUICK_GELU: {
        const __m512 e = pe_exp16(_mm512_mul_ps(_mm512_set1_ps(-1.702f), x));
        return _mm512_div_ps(x, _mm512_add_ps(one, e));
    }
    case PE_SILU: return _mm512_div_ps(x, _mm512_add_ps(one, pe_exp16(_mm512_xor_ps(minus, x))));
    case PE_TANH: return pe_tanh16(x);
    case PE_SIGMOID: return _mm512_div_ps(one, _mm512_add_ps(one, pe_exp16(_mm512_xor_ps(minus, x))));
    default: return x;
    }
}

#endif
