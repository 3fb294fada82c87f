/* AVX-512: quantization, norms, rotary positions, Hadamard products, gates, soft caps, passes over rows of logits. */
#include "kernels/x86/vec_avx512.h"
#include "kernels/x86/x86.h"

enum { MIXED = 16 }; /* parts of a Hadamard product at once, in registers */

static inline __m128i quantized(__m512 v, __m512 inverse, __m128i flips) {
    v = _mm512_mul_ps(v, inverse);
    v = _mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(-127.0f)), _mm512_set1_ps(127.0f));
    return _mm_xor_si128(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)), flips);
}

void pe_quantize_q8r_f32__avx512vnni(const float *x, int64_t n, int64_t n_padded, uint8_t flip, int8_t *q,
                                     float *scale) {
    const int64_t whole = n / 16 * 16;
    __m512 top = _mm512_abs_ps(_mm512_maskz_loadu_ps(pe_mask16(n - whole), x + whole)), other = top;
    int64_t i = 0;
    for (; i + 32 <= whole; i += 32) {
        top = pe_larger16(_mm512_abs_ps(_mm512_loadu_ps(x + i)), top);
        other = pe_larger16(_mm512_abs_ps(_mm512_loadu_ps(x + i + 16)), other);
    }
    if (i < whole) top = pe_larger16(_mm512_abs_ps(_mm512_loadu_ps(x + i)), top);
    const float largest = pe_largest16(pe_larger16(top, other));
    const __m512 inverse = _mm512_set1_ps(pe_quant_factor(largest));
    const __m128i flips = _mm_set1_epi8((char)flip);
#pragma GCC unroll 4
    for (i = 0; i < whole; i += 16)
        _mm_storeu_si128((__m128i *)(void *)(q + i), quantized(_mm512_loadu_ps(x + i), inverse, flips));
    for (; i < n_padded; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(pe_mask16(n - i), x + i);
        _mm_mask_storeu_epi8(q + i, pe_mask16(n_padded - i), quantized(v, inverse, flips));
    }
    *scale = pe_quant_scale(largest);
}

void pe_norm_f32_f32__avx512vnni(const float *x, int64_t n, const float *weight, const float *bias, float eps,
                                 float *y) {
    __m512 lanes = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 16)
        lanes = _mm512_add_ps(lanes, _mm512_maskz_loadu_ps(pe_mask16(n - i), x + i));
    const __m512 mean = _mm512_set1_ps(pe_sum16(lanes) / (float)n);
    lanes = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 live = pe_mask16(n - i);
        const __m512 d = _mm512_sub_ps(_mm512_maskz_loadu_ps(live, x + i), mean);
        lanes = _mm512_mask3_fmadd_ps(d, d, lanes, live);
    }
    const __m512 inverse = _mm512_set1_ps(1.0f / sqrtf(pe_sum16(lanes) / (float)n + eps));
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 live = pe_mask16(n - i);
        const __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(live, x + i), mean), inverse);
        const __m512 v = _mm512_fmadd_ps(d, _mm512_maskz_loadu_ps(live, weight + i),
                                         _mm512_maskz_loadu_ps(live, bias + i));
        _mm512_mask_storeu_ps(y + i, live, v);
    }
}

void pe_rmsnorm_f32_f32__avx512vnni(const float *x, int64_t n, const float *weight, float eps, float *y) {
    __m512 lanes = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(pe_mask16(n - i), x + i);
        lanes = _mm512_fmadd_ps(v, v, lanes);
    }
    const __m512 inverse = _mm512_set1_ps(1.0f / sqrtf(pe_sum16(lanes) / (float)n + eps));
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 live = pe_mask16(n - i);
        const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(live, x + i), inverse);
        _mm512_mask_storeu_ps(y + i, live, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(live, weight + i)));
    }
}

void pe_turn_f32_f32__avx512vnni(float *x, int64_t dims, const float *cosines, const float *sines) {
    const int64_t half = dims / 2;
    for (int64_t i = 0; i < half; i += 16) {
        const __mmask16 live = pe_mask16(half - i);
        const __m512 a = _mm512_maskz_loadu_ps(live, x + i), b = _mm512_maskz_loadu_ps(live, x + half + i);
        const __m512 c = _mm512_maskz_loadu_ps(live, cosines + i), s = _mm512_maskz_loadu_ps(live, sines + i);
        _mm512_mask_storeu_ps(x + i, live, _mm512_sub_ps(_mm512_mul_ps(a, c), _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + half + i, live, _mm512_add_ps(_mm512_mul_ps(b, c), _mm512_mul_ps(a, s)));
    }
}

/* The columns `live` of `radix` parts of s values: log2(radix) steps in registers, from s on. */
ALWAYS_INLINE void mix_column(float *x, int64_t s, const int radix, __mmask16 live) {
    __m512 part[MIXED];
#pragma GCC unroll 32
    for (int i = 0; i < radix; i++) part[i] = _mm512_maskz_loadu_ps(live, x + i * s);
#pragma GCC unroll 5
    for (int step = 1; step < radix; step *= 2)
#pragma GCC unroll 32
        for (int i = 0; i < radix; i++) {
            if (i & step) continue;
            const __m512 a = part[i], b = part[i + step];
            part[i] = _mm512_add_ps(a, b);
            part[i + step] = _mm512_sub_ps(a, b);
        }
#pragma GCC unroll 32
    for (int i = 0; i < radix; i++) _mm512_mask_storeu_ps(x + i * s, live, part[i]);
}

ALWAYS_INLINE void mix(float *x, int64_t n, int64_t s, const int radix) {
    for (int64_t first = 0; first < n; first += radix * s) {
        int64_t i = 0;
        for (; i + 16 <= s; i += 16) mix_column(x + first + i, s, radix, 0xFFFF);
        if (i < s) mix_column(x + first + i, s, radix, pe_mask16(s - i));
    }
}

void pe_hadamard_f32__avx512vnni(float *x, int64_t n) {
    const int64_t size = pe_hadamard_size(n);
    int64_t s = n / size;
    for (; MIXED * s <= n; s *= MIXED) mix(x, n, s, MIXED);
    switch (n / s) {
    case 8: mix(x, n, s, 8); break;
    case 4: mix(x, n, s, 4); break;
    case 2: mix(x, n, s, 2); break;
    }
}

void pe_gate_f32_f32__avx512vnni(float *x, int64_t n, pe_activation activation) {
    for (int64_t unit = 0; unit < n; unit += PE_BLOCK) {
        const __m512 gate = _mm512_loadu_ps(x + 2 * unit), up = _mm512_loadu_ps(x + 2 * unit + PE_BLOCK);
        _mm512_storeu_ps(x + unit, _mm512_mul_ps(pe_activate16(activation, gate), up));
    }
}

void pe_soft_cap_f32__avx512vnni(float *x, int64_t n, float cap) {
    const __m512 caps = _mm512_set1_ps(cap), inverse = _mm512_set1_ps(1.0f / cap);
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 live = pe_mask16(n - i);
        const __m512 capped = pe_soft_cap16(_mm512_maskz_loadu_ps(live, x + i), caps, inverse);
        _mm512_mask_storeu_ps(x + i, live, capped);
    }
}

void pe_exp_sum_f32__avx512vnni(const float *x, int64_t n, float *max, float *sum) {
    const int64_t whole = n / 16 * 16;
    const __mmask16 live = pe_mask16(n - whole);
    __m512 top = _mm512_set1_ps(x[0]), other = top;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        top = _mm512_max_ps(_mm512_loadu_ps(x + i), top);
        other = _mm512_max_ps(_mm512_loadu_ps(x + i + 16), other);
    }
    if (i < whole) top = _mm512_max_ps(_mm512_loadu_ps(x + i), top);
    top = _mm512_mask_max_ps(top, live, _mm512_maskz_loadu_ps(live, x + whole), top);
    *max = pe_max16(_mm512_max_ps(top, other));
    const __m512 m = _mm512_set1_ps(*max == -INFINITY ? 0.0f : *max);
    __m512 lanes = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (i = 0; i < whole; i += 16) lanes = _mm512_add_ps(lanes, pe_exp16(_mm512_sub_ps(_mm512_loadu_ps(x + i), m)));
    const __m512 e = pe_exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(live, x + whole), m));
    lanes = _mm512_mask_add_ps(lanes, live, lanes, e);
    *sum = pe_sum16(lanes);
}

int64_t pe_above_f32__avx512vnni(const float *x, int64_t n, float threshold, int32_t *indices) {
    const __m512 limit = _mm512_set1_ps(threshold);
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 live = pe_mask16(n - i);
        __mmask16 hits = _mm512_mask_cmp_ps_mask(live, _mm512_maskz_loadu_ps(live, x + i), limit, _CMP_GT_OQ);
        for (; hits; hits &= (__mmask16)(hits - 1)) indices[count++] = (int32_t)(i + __builtin_ctz(hits));
    }
    return count;
}
