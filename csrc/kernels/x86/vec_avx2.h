/* base/mathf.h in vectors of 8: the same operations in the same order, so the same bytes. The 16 lanes of a float
   reduction are two vectors, lanes 0-7 and 8-15. */
#ifndef PE_KERNELS_X86_VEC_AVX2_H
#define PE_KERNELS_X86_VEC_AVX2_H

#include <immintrin.h>

#include "base/mathf.h"

/* All ones in lanes [0, n), for masked loads and stores; n may be anything, negative too. */
static inline __m256i pe_mask8(int64_t n) {
    const int lanes = n >= 8 ? 8 : n > 0 ? (int)n : 0;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline float pe_sum8x2(__m256 low, __m256 high) {
    const __m256 a = _mm256_add_ps(low, high);
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float pe_max8(__m256 a) {
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

/* pe_larger: as integers, such values have the order that they have as floats, and NaN comes last. */
static inline __m256 pe_larger8(__m256 a, __m256 b) {
    return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

static inline float pe_largest8(__m256 v) {
    const __m256i a = _mm256_castps_si256(v);
    const __m128i b = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i c = _mm_max_epu32(b, _mm_shuffle_epi32(b, 0x4e));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epu32(c, _mm_shuffle_epi32(c, 0xb1))));
}

/* The reductions of four vectors, one a lane. */
static inline __m128 pe_max8x4(const __m256 v[4]) {
    __m128 m[4];
    for (int i = 0; i < 4; i++) m[i] = _mm_max_ps(_mm256_castps256_ps128(v[i]), _mm256_extractf128_ps(v[i], 1));
    _MM_TRANSPOSE4_PS(m[0], m[1], m[2], m[3]);
    return _mm_max_ps(_mm_max_ps(m[0], m[2]), _mm_max_ps(m[1], m[3]));
}

static inline __m128 pe_largest8x4(const __m256 v[4]) {
    __m128 m[4];
    for (int i = 0; i < 4; i++) {
        const __m256i w = _mm256_castps_si256(v[i]);
        m[i] = _mm_castsi128_ps(_mm_max_epu32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
    }
    _MM_TRANSPOSE4_PS(m[0], m[1], m[2], m[3]);
    const __m128i even = _mm_max_epu32(_mm_castps_si128(m[0]), _mm_castps_si128(m[2]));
    const __m128i odd = _mm_max_epu32(_mm_castps_si128(m[1]), _mm_castps_si128(m[3]));
    return _mm_castsi128_ps(_mm_max_epu32(even, odd));
}

static inline __m128 pe_sum8x2x4(const __m256 low[4], const __m256 high[4]) { /* in the order of pe_sum8x2 */
    __m128 s[4];
    for (int i = 0; i < 4; i++) {
        const __m256 a = _mm256_add_ps(low[i], high[i]);
        s[i] = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    }
    _MM_TRANSPOSE4_PS(s[0], s[1], s[2], s[3]);
    return _mm_add_ps(_mm_add_ps(s[0], s[2]), _mm_add_ps(s[1], s[3]));
}

/* pe_weight_factor and pe_weight_scale. */
static inline __m128 pe_weight_factor4(__m128 largest) {
    const __m128 live = _mm_cmpgt_ps(largest, _mm_set1_ps(PE_QUANT_LOW));
    return _mm_and_ps(live, _mm_div_ps(_mm_set1_ps(255.0f), largest));
}

static inline __m128 pe_weight_scale4(__m128 largest) {
    const __m128 live = _mm_cmpnle_ps(largest, _mm_set1_ps(PE_QUANT_LOW));
    return _mm_and_ps(live, _mm_mul_ps(largest, _mm_set1_ps(1.0f / 255.0f)));
}

/* pe_exp of n vectors, up to 8, of what is not above PE_EXP_HIGH; each step of all of them, so that their chains go
   side by side. 2^n is added to the exponent: no result is subnormal, and of NaN n is 0x80000000, which adds 0. */
static inline __attribute__((always_inline)) void pe_exp_below8xn(__m256 v[], const int n) {
    const float terms[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    __m256 live[8], power[8], p[8];
    for (int i = 0; i < n; i++) live[i] = _mm256_cmp_ps(v[i], _mm256_set1_ps(PE_EXP_LOW), _CMP_NLE_UQ);
    for (int i = 0; i < n; i++) power[i] = _mm256_mul_ps(v[i], _mm256_set1_ps(PE_LOG2E));
    for (int i = 0; i < n; i++) power[i] = _mm256_round_ps(power[i], _MM_FROUND_CUR_DIRECTION);
    for (int i = 0; i < n; i++) v[i] = _mm256_fmadd_ps(power[i], _mm256_set1_ps(-PE_LN2_HIGH), v[i]);
    for (int i = 0; i < n; i++) v[i] = _mm256_fmadd_ps(power[i], _mm256_set1_ps(-PE_LN2_LOW), v[i]);
    for (int i = 0; i < n; i++) p[i] = _mm256_set1_ps(1.9875691500e-4f);
    for (int k = 0; k < 5; k++)
        for (int i = 0; i < n; i++) p[i] = _mm256_fmadd_ps(p[i], v[i], _mm256_set1_ps(terms[k]));
    for (int i = 0; i < n; i++) p[i] = _mm256_fmadd_ps(p[i], _mm256_mul_ps(v[i], v[i]), v[i]);
    for (int i = 0; i < n; i++) p[i] = _mm256_add_ps(p[i], _mm256_set1_ps(1.0f));
    for (int i = 0; i < n; i++) {
        const __m256i exponent = _mm256_slli_epi32(_mm256_cvttps_epi32(power[i]), 23);
        const __m256i e = _mm256_add_epi32(_mm256_castps_si256(p[i]), exponent);
        v[i] = _mm256_and_ps(live[i], _mm256_castsi256_ps(e));
    }
}

static inline __m256 pe_exp_below8(__m256 x) {
    pe_exp_below8xn(&x, 1);
    return x;
}

static inline __m256 pe_exp8(__m256 x) {
    return pe_exp_below8(_mm256_min_ps(_mm256_set1_ps(PE_EXP_HIGH), x)); /* of NaN: the second */
}

static inline __m256 pe_tanh8(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 e = _mm256_add_ps(pe_exp8(_mm256_add_ps(x, x)), one);
    return _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), e));
}

static inline __m256 pe_soft_cap8(__m256 x, __m256 cap, __m256 inverse) {
    return _mm256_mul_ps(cap, pe_tanh8(_mm256_mul_ps(x, inverse)));
}

static inline __m256 pe_erf8(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    const __m256 z = _mm256_andnot_ps(sign, x);
    const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(_mm256_set1_ps(0.3275911f), z, one));
    __m256 p = _mm256_set1_ps(1.061405429f);
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-1.453152027f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(1.421413741f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-0.284496736f));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(0.254829592f));
    const __m256 e = pe_exp8(_mm256_xor_ps(sign, _mm256_mul_ps(z, z)));
    const __m256 y = _mm256_sub_ps(one, _mm256_mul_ps(_mm256_mul_ps(p, t), e));
    return _mm256_or_ps(_mm256_andnot_ps(sign, y), _mm256_and_ps(sign, x));
}

static inline __m256 pe_activate8(pe_activation kind, __m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f), half = _mm256_set1_ps(0.5f), minus = _mm256_set1_ps(-0.0f);
    switch (kind) {
    case PE_RELU: return _mm256_max_ps(_mm256_setzero_ps(), x);
    case PE_GELU: {
        const __m256 e = pe_erf8(_mm256_mul_ps(x, _mm256_set1_ps(0.707106781f)));
        return _mm256_mul_ps(_mm256_mul_ps(half, x), _mm256_add_ps(one, e));
    }
    case PE_GELU_TANH: {
        const __m256 cubic = _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(0.044715f), x), x);
        const __m256 inner = _mm256_mul_ps(_mm256_set1_ps(0.797884561f), _mm256_fmadd_ps(cubic, x, x));
        return _mm256_mul_ps(_mm256_mul_ps(half, x), _mm256_add_ps(one, pe_tanh8(inner)));
    }
    case PE_QUICK_GELU: {
        const __m256 e = pe_exp8(_mm256_mul_ps(_mm256_set1_ps(-1.702f), x));
        return _mm256_div_ps(x, _mm256_add_ps(one, e));
    }
    case PE_SILU: return _mm256_div_ps(x, _mm256_add_ps(one, pe_exp8(_mm256_xor_ps(minus, x))));
    case PE_TANH: return pe_tanh8(x);
    case PE_SIGMOID: return _mm256_div_ps(one, _mm256_add_ps(one, pe_exp8(_mm256_xor_ps(minus, x))));
    default: return x;
    }
}

#endif
