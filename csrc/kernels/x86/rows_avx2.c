/* AVX2: quantization, norms, rotary positions, Hadamard products, gates, soft caps, passes over rows of logits. */
#include "kernels/x86/vec_avx2.h"
#include "kernels/x86/x86.h"

static inline __m256 load(const float *x, int64_t i, int64_t n) {
    return n - i >= 8 ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, pe_mask8(n - i));
}

static inline void store(float *y, int64_t i, int64_t n, __m256 v) {
    if (n - i >= 8)
        _mm256_storeu_ps(y + i, v);
    else
        _mm256_maskstore_ps(y + i, pe_mask8(n - i), v);
}

static inline __m256 only(__m256 v, int64_t lanes) { return _mm256_and_ps(v, _mm256_castsi256_ps(pe_mask8(lanes))); }

void pe_quantize_q8r_f32__avx2(const float *x, int64_t n, int64_t n_padded, uint8_t flip, int8_t *q, float *scale) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 top = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 8) top = pe_larger8(_mm256_andnot_ps(sign, load(x, i, n)), top);
    const float largest = pe_largest8(top);
    const __m256 inverse = _mm256_set1_ps(pe_quant_factor(largest));
    const __m256 low = _mm256_set1_ps(-127.0f), high = _mm256_set1_ps(127.0f);
    const __m128i flips = _mm_set1_epi8((char)flip);
    for (int64_t i = 0; i < n_padded; i += 8) {
        __m256 v = i < n ? _mm256_mul_ps(load(x, i, n), inverse) : _mm256_setzero_ps();
        v = _mm256_min_ps(_mm256_max_ps(v, low), high);
        const __m256i ints = _mm256_cvtps_epi32(v);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(ints), _mm256_extracti128_si256(ints, 1));
        const __m128i bytes = _mm_xor_si128(_mm_packs_epi16(words, words), flips);
        if (n_padded - i >= 8) {
            _mm_storel_epi64((__m128i *)(void *)(q + i), bytes);
        } else {
            int8_t tail[16];
            _mm_storeu_si128((__m128i *)(void *)tail, bytes);
            memcpy(q + i, tail, (size_t)(n_padded - i));
        }
    }
    *scale = pe_quant_scale(largest);
}

void pe_norm_f32_f32__avx2(const float *x, int64_t n, const float *weight, const float *bias, float eps, float *y) {
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t i = 0; i < n; i += 8) sum[i / 8 % 2] = _mm256_add_ps(sum[i / 8 % 2], load(x, i, n));
    const __m256 mean = _mm256_set1_ps(pe_sum8x2(sum[0], sum[1]) / (float)n);
    sum[0] = sum[1] = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 8) {
        const __m256 d = only(_mm256_sub_ps(load(x, i, n), mean), n - i);
        sum[i / 8 % 2] = _mm256_fmadd_ps(d, d, sum[i / 8 % 2]);
    }
    const __m256 inverse = _mm256_set1_ps(1.0f / sqrtf(pe_sum8x2(sum[0], sum[1]) / (float)n + eps));
    for (int64_t i = 0; i < n; i += 8) {
        const __m256 d = _mm256_mul_ps(_mm256_sub_ps(load(x, i, n), mean), inverse);
        store(y, i, n, _mm256_fmadd_ps(d, load(weight, i, n), load(bias, i, n)));
    }
}

void pe_rmsnorm_f32_f32__avx2(const float *x, int64_t n, const float *weight, float eps, float *y) {
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t i = 0; i < n; i += 8) {
        const __m256 v = load(x, i, n);
        sum[i / 8 % 2] = _mm256_fmadd_ps(v, v, sum[i / 8 % 2]);
    }
    const __m256 inverse = _mm256_set1_ps(1.0f / sqrtf(pe_sum8x2(sum[0], sum[1]) / (float)n + eps));
    for (int64_t i = 0; i < n; i += 8)
        store(y, i, n, _mm256_mul_ps(_mm256_mul_ps(load(x, i, n), inverse), load(weight, i, n)));
}

void pe_turn_f32_f32__avx2(float *x, int64_t dims, const float *cosines, const float *sines) {
    const int64_t half = dims / 2;
    for (int64_t i = 0; i < half; i += 8) {
        const __m256 a = load(x, i, half), b = load(x + half, i, half);
        const __m256 c = load(cosines, i, half), s = load(sines, i, half);
        store(x, i, half, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)));
        store(x + half, i, half, _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)));
    }
}

/* Two steps of a Hadamard product at once, s and 2 s. */
static void four_parts(float *x, int64_t s) {
    for (int64_t i = 0; i < s; i += 8) {
        const __m256 a = load(x, i, s), b = load(x + s, i, s), c = load(x + 2 * s, i, s), d = load(x + 3 * s, i, s);
        const __m256 ab = _mm256_add_ps(a, b), a_b = _mm256_sub_ps(a, b);
        const __m256 cd = _mm256_add_ps(c, d), c_d = _mm256_sub_ps(c, d);
        store(x, i, s, _mm256_add_ps(ab, cd));
        store(x + s, i, s, _mm256_add_ps(a_b, c_d));
        store(x + 2 * s, i, s, _mm256_sub_ps(ab, cd));
        store(x + 3 * s, i, s, _mm256_sub_ps(a_b, c_d));
    }
}

static void two_parts(float *x, int64_t s) {
    for (int64_t i = 0; i < s; i += 8) {
        const __m256 a = load(x, i, s), b = load(x + s, i, s);
        store(x, i, s, _mm256_add_ps(a, b));
        store(x + s, i, s, _mm256_sub_ps(a, b));
    }
}

void pe_hadamard_f32__avx2(float *x, int64_t n) {
    int64_t s = n / pe_hadamard_size(n);
    for (; 4 * s <= n; s *= 4)
        for (int64_t i = 0; i < n; i += 4 * s) four_parts(x + i, s);
    if (s < n) two_parts(x, s);
}

void pe_gate_f32_f32__avx2(float *x, int64_t n, pe_activation activation) {
    for (int64_t unit = 0; unit < n; unit += PE_BLOCK) {
        const float *gate = x + 2 * unit, *up = gate + PE_BLOCK;
        const __m256 low = pe_activate8(activation, _mm256_loadu_ps(gate));
        const __m256 high = pe_activate8(activation, _mm256_loadu_ps(gate + 8));
        _mm256_storeu_ps(x + unit, _mm256_mul_ps(low, _mm256_loadu_ps(up)));
        _mm256_storeu_ps(x + unit + 8, _mm256_mul_ps(high, _mm256_loadu_ps(up + 8)));
    }
}

void pe_soft_cap_f32__avx2(float *x, int64_t n, float cap) {
    const __m256 caps = _mm256_set1_ps(cap), inverse = _mm256_set1_ps(1.0f / cap);
    for (int64_t i = 0; i < n; i += 8) store(x, i, n, pe_soft_cap8(load(x, i, n), caps, inverse));
}

void pe_exp_sum_f32__avx2(const float *x, int64_t n, float *max, float *sum) {
    __m256 top = _mm256_set1_ps(x[0]);
    for (int64_t i = 0; i < n; i += 8) {
        const __m256 v = load(x, i, n);
        top = _mm256_max_ps(n - i >= 8 ? v : _mm256_blendv_ps(top, v, _mm256_castsi256_ps(pe_mask8(n - i))), top);
    }
    *max = pe_max8(top);
    const __m256 m = _mm256_set1_ps(*max == -INFINITY ? 0.0f : *max);
    __m256 lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t i = 0; i < n; i += 8) {
        const __m256 e = pe_exp8(_mm256_sub_ps(load(x, i, n), m));
        lanes[i / 8 % 2] = _mm256_add_ps(lanes[i / 8 % 2], n - i >= 8 ? e : only(e, n - i));
    }
    *sum = pe_sum8x2(lanes[0], lanes[1]);
}

int64_t pe_above_f32__avx2(const float *x, int64_t n, float threshold, int32_t *indices) {
    const __m256 limit = _mm256_set1_ps(threshold);
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += 8) {
        unsigned hits = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(load(x, i, n), limit, _CMP_GT_OQ));
        if (n - i < 8) hits &= (1u << (n - i)) - 1;
        for (; hits; hits &= hits - 1) indices[count++] = (int32_t)(i + __builtin_ctz(hits));
    }
    return count;
}
