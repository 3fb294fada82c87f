/* AVX-512 VNNI: attention over pages. Sixteen tokens of a page are the sixteen lanes of a vector. */
#include "kernels/x86/vec_avx512.h"
#include "kernels/x86/x86.h"

/* The state of a softmax that sees its scores page by page. */
typedef struct running {
    float max;
    float sum;
    float scale; /* what the last page multiplied earlier results with */
} running;

/* Lanes [from, to) of a page. */
static inline __mmask16 mask_page(int64_t from, int64_t to) {
    return (__mmask16)(pe_mask16(to) & ~pe_mask16(from));
}

/* From a page's scaled products to its scores; it begins with key `first`. */
static __m512 biased(const pe_attend *a, int64_t head, int64_t first, __m512 s) {
    const int64_t distance = first - a->position, start = pe_clamp(distance, -a->reach - PE_PAGE, a->reach);
    if (a->soft_cap > 0.0f) {
        const __m512 part = _mm512_mul_ps(s, _mm512_set1_ps(1.0f / a->soft_cap));
        s = _mm512_mul_ps(_mm512_set1_ps(a->soft_cap), pe_tanh16(part));
    }
    if (a->relative) s = _mm512_add_ps(s, _mm512_loadu_ps(a->relative + head * a->relative_ld + start));
    if (a->slopes) {
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __m512i each = _mm512_add_epi32(_mm512_set1_epi32((int32_t)distance), lane);
        s = _mm512_fmadd_ps(_mm512_set1_ps(a->slopes[head]), _mm512_cvtepi32_ps(each), s);
    }
    return s;
}

static inline __m512 softmax_page(running *state, __m512 s, __mmask16 live) {
    const float page_max = pe_max16(_mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), live, s));
    const float max = page_max > state->max ? page_max : state->max;
    const __m512 p = _mm512_maskz_mov_ps(live, pe_exp16(_mm512_sub_ps(s, _mm512_set1_ps(max))));
    state->scale = pe_exp(state->max - max);
    state->max = max;
    state->sum = fmaf(state->sum, state->scale, pe_sum16(p));
    return p;
}

static inline void finish(int64_t d, float *to, __m512 sum, const float *y) {
    for (int64_t i = 0; i < d; i += 16) {
        const __mmask16 live = pe_mask16(d - i);
        _mm512_mask_storeu_ps(to + i, live, _mm512_div_ps(_mm512_loadu_ps(y + i), sum));
    }
}

/* 16 values, 0 where not `live`, as int8 values in 32 bits. */
ALWAYS_INLINE __m512i quantized(const float *x, __mmask16 live, __m512 inverse) {
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(live, x), inverse);
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(-127.0f)), _mm512_set1_ps(127.0f)));
}

/* top[h]: the largest magnitudes of a head's values [d], 16 lanes; zeros for heads that are none. */
ALWAYS_INLINE void absmax_of_heads(const float *x, int64_t d, const int heads, __m512 top[4]) {
    for (int h = 0; h < 4; h++) top[h] = _mm512_setzero_ps();
    for (int h = 0; h < heads; h++)
        for (int64_t i = 0; i < d; i += 16)
            top[h] = pe_larger16(_mm512_abs_ps(_mm512_maskz_loadu_ps(pe_mask16(d - i), x + h * d + i)), top[h]);
}

/* Four heads side by side: each step of one head is a long chain, and what a chain ends in, four heads share a vector
   of four lanes for. */
enum { SIDE = 4 };

typedef struct side_by_side {
    _Alignas(64) int8_t q[SIDE][PE_MAX_HEAD_DIM];
    _Alignas(64) float y[SIDE][PE_MAX_HEAD_DIM];
    __m128i start; /* keys are stored plus 128: less 128 times the sum of q */
    __m128 q_scale;
    __m128 max, sum, scale; /* `running` of each head */
    __m128 unit;            /* what 1 of the weights 0..127 of the page's tokens weighs */
} side_by_side;

static inline __m512 lane_ps(__m128 v, int lane) {
    return _mm512_permutexvar_ps(_mm512_set1_epi32(lane), _mm512_castps128_ps512(v));
}

static inline __m512i lane_epi32(__m128i v, int lane) {
    return _mm512_permutexvar_epi32(_mm512_set1_epi32(lane), _mm512_castsi128_si512(v));
}

ALWAYS_INLINE void begin(side_by_side *s, const float *q, int64_t d, float scale, const int heads) {
    __m512 top[SIDE];
    __m512i sum[SIDE];
    absmax_of_heads(q, d, heads, top);
    const __m128 largest = pe_largest16x4(top), inverse = pe_quant_factor4(largest);
    s->q_scale = _mm_mul_ps(pe_quant_scale4(largest), _mm_set1_ps(scale));
    for (int h = 0; h < SIDE; h++) sum[h] = _mm512_setzero_si512();
    for (int h = 0; h < heads; h++)
        for (int64_t i = 0; i < d; i += 16) {
            const __m512i v = quantized(q + h * d + i, pe_mask16(d - i), lane_ps(inverse, h));
            sum[h] = _mm512_add_epi32(sum[h], v);
            _mm_store_si128((__m128i *)(void *)(s->q[h] + i), _mm512_cvtepi32_epi8(v));
            _mm512_store_ps(s->y[h] + i, _mm512_setzero_ps());
        }
    s->start = _mm_sub_epi32(_mm_setzero_si128(), _mm_slli_epi32(pe_add16x4(sum), 7));
    s->max = _mm_set1_ps(-INFINITY);
    s->sum = _mm_setzero_ps();
}

ALWAYS_INLINE __m512 score(const int8_t *q, __m512i start, __m512 q_scale, const uint8_t *keys, int64_t d,
                           const float *scales, __mmask16 live) {
    const int64_t lines = (d + 3) / 4;
    __m512i dot0 = start, dot1 = _mm512_setzero_si512();
    int64_t line = 0;
    for (int32_t quad0, quad1; line + 2 <= lines; line += 2) {
        memcpy(&quad0, q + line * 4, 4);
        memcpy(&quad1, q + line * 4 + 4, 4);
        dot0 = _mm512_dpbusd_epi32(dot0, _mm512_loadu_si512(keys + line * 64), _mm512_set1_epi32(quad0));
        dot1 = _mm512_dpbusd_epi32(dot1, _mm512_loadu_si512(keys + line * 64 + 64), _mm512_set1_epi32(quad1));
    }
    if (line < lines) {
        int32_t quad;
        memcpy(&quad, q + line * 4, 4);
        dot0 = _mm512_dpbusd_epi32(dot0, _mm512_loadu_si512(keys + line * 64), _mm512_set1_epi32(quad));
    }
    const __m512 key_scale = _mm512_mul_ps(q_scale, _mm512_maskz_loadu_ps(live, scales));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(dot0, dot1)), key_scale);
}

/* From scores to weights 0..127 of the tokens of a page, 16 bytes a head. `floats` from one head's scales to the next
   one's. */
ALWAYS_INLINE void weigh(side_by_side *s, __m512 score[SIDE], const float *scales, int64_t floats, __mmask16 live,
                         const int heads, __m128i weights[SIDE]) {
    __m512 w[SIDE];
    for (int h = 0; h < SIDE; h++) w[h] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), live, score[h]);
    const __m128 max = _mm_max_ps(pe_max16x4(w), s->max);
    s->scale = _mm512_castps512_ps128(pe_exp16(_mm512_zextps128_ps512(_mm_sub_ps(s->max, max))));
    s->max = max;
    for (int h = 0; h < SIDE; h++) w[h] = _mm512_setzero_ps();
    for (int h = 0; h < heads; h++)
        w[h] = _mm512_maskz_mov_ps(live, pe_exp16(_mm512_sub_ps(score[h], lane_ps(max, h))));
    s->sum = _mm_fmadd_ps(s->sum, s->scale, pe_sum16x4(w));
    for (int h = 0; h < heads; h++)
        w[h] = _mm512_mul_ps(w[h], _mm512_maskz_loadu_ps(live, scales + h * floats + PE_PAGE));
    const __m128 largest = pe_largest16x4(w), inverse = pe_quant_factor4(largest);
    s->unit = pe_quant_scale4(largest);
    for (int h = 0; h < heads; h++) {
        const __m512 scaled = _mm512_min_ps(_mm512_mul_ps(w[h], lane_ps(inverse, h)), _mm512_set1_ps(127.0f));
        weights[h] = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(scaled));
    }
}

ALWAYS_INLINE void add_values(float *y, __m128i weights, __m512 unit, __m512 earlier, const uint8_t *values,
                              int64_t d16) {
    const __m512i w0 = lane_epi32(weights, 0), w1 = lane_epi32(weights, 1);
    const __m512i w2 = lane_epi32(weights, 2), w3 = lane_epi32(weights, 3);
    for (int64_t i = 0; i < d16; i++) {
        const uint8_t *v = values + i * 64;
        __m512i even = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w0, _mm512_loadu_si512(v));
        __m512i odd = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w1, _mm512_loadu_si512(v + d16 * 64));
        even = _mm512_dpbusd_epi32(even, w2, _mm512_loadu_si512(v + d16 * 128));
        odd = _mm512_dpbusd_epi32(odd, w3, _mm512_loadu_si512(v + d16 * 192));
        const __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
        const __m512 old = _mm512_mul_ps(_mm512_load_ps(y + i * 16), earlier);
        _mm512_store_ps(y + i * 16, _mm512_fmadd_ps(dot, unit, old));
    }
}

ALWAYS_INLINE void attend_heads_q8(const pe_attend *a, int64_t first_head, const int heads, const bool plain) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16, head_bytes = pe_page_bytes_q8(d);
    side_by_side s;
    begin(&s, a->q + first_head * d, d, a->scale, heads);
    for (int64_t first = plain ? 0 : pe_read_from(a); first < a->n_keys; first += PE_PAGE) {
        const __mmask16 live = mask_page(plain ? 0 : a->first_key - first, a->n_keys - first);
        const uint8_t *keys = a->pages[first / PE_PAGE] + a->offset + first_head * head_bytes;
        const uint8_t *values = keys + pe_page_keys_q8(d);
        const float *scales = (const float *)(const void *)(values + pe_page_values_q8(d));
        const int64_t floats = head_bytes / (int64_t)sizeof(float);
        __m512 scores[SIDE];
        __m128i weights[SIDE];
        for (int h = 0; h < SIDE; h++) scores[h] = _mm512_setzero_ps();
        for (int h = 0; h < heads; h++)
            scores[h] = score(s.q[h], lane_epi32(s.start, h), lane_ps(s.q_scale, h), keys + h * head_bytes, d,
                              scales + h * floats, live);
        for (int h = 0; h < heads && !plain; h++) scores[h] = biased(a, first_head + h, first, scores[h]);
        weigh(&s, scores, scales, floats, live, heads, weights);
        for (int h = 0; h < heads; h++)
            add_values(s.y[h], weights[h], lane_ps(s.unit, h), lane_ps(s.scale, h), values + h * head_bytes, d16);
    }
    for (int h = 0; h < heads; h++) finish(d, a->y + (first_head + h) * d, lane_ps(s.sum, h), s.y[h]);
}

ALWAYS_INLINE void attend_all_q8(const pe_attend *a, const bool plain) {
    for (int64_t head = 0; head < a->heads; head += SIDE) switch (a->heads - head) {
        case 1: attend_heads_q8(a, head, 1, plain); break;
        case 2: attend_heads_q8(a, head, 2, plain); break;
        case 3: attend_heads_q8(a, head, 3, plain); break;
        default: attend_heads_q8(a, head, SIDE, plain);
        }
}

/* The plain case has a loop of its own. Not inlined: constants hoisted out of the loop over heads would take all
   registers. */
static __attribute__((noinline)) void attend_plain_q8(const pe_attend *a) { attend_all_q8(a, true); }
static __attribute__((noinline)) void attend_any_q8(const pe_attend *a) { attend_all_q8(a, false); }

void pe_attend_f32_q8__avx512vnni(const pe_attend *a) { (pe_is_plain(a) ? attend_plain_q8 : attend_any_q8)(a); }

/* Masked stores: other threads may store other tokens' bytes of the same lines. */
ALWAYS_INLINE void store_heads_q8(const pe_token *t, int64_t first_head, const int heads) {
    const int64_t d = t->head_dim, d16 = (d + 15) / 16, head_bytes = pe_page_bytes_q8(d);
    const float *k = t->k + first_head * d, *v = t->v + first_head * d;
    uint8_t *page = t->page + first_head * head_bytes;
    __m512 top[SIDE];
    absmax_of_heads(k, d, heads, top);
    const __m128 k_largest = pe_largest16x4(top), k_inverse = pe_quant_factor4(k_largest);
    absmax_of_heads(v, d, heads, top);
    const __m128 v_largest = pe_largest16x4(top), v_inverse = pe_quant_factor4(v_largest);
    _Alignas(16) float k_scale[SIDE], v_scale[SIDE];
    _mm_store_ps(k_scale, pe_quant_scale4(k_largest));
    _mm_store_ps(v_scale, pe_quant_scale4(v_largest));
    const __m128i shift = _mm_cvtsi64_si128(t->slot % 4 * 8);
    const __mmask64 bytes = UINT64_C(0x1111111111111111) << t->slot % 4, all = ~UINT64_C(0);
    for (int h = 0; h < heads; h++, page += head_bytes) {
        uint8_t *key = page + t->slot * 4, *values = page + pe_page_keys_q8(d) + t->slot / 4 * d16 * 64;
        for (int64_t i = 0; i < d; i += 16) {
            const __mmask16 live = pe_mask16(d - i);
            const __m128i q = _mm512_cvtepi32_epi8(quantized(k + h * d + i, live, lane_ps(k_inverse, h)));
            const __m128i flipped = _mm_xor_si128(q, _mm_set1_epi8(INT8_MIN));
            _Alignas(16) int32_t quads[4];
            _mm_store_si128((__m128i *)(void *)quads, flipped);
            for (int64_t j = 0; j < 4 && i + j * 4 < d; j++) memcpy(key + (i / 4 + j) * 64, quads + j, 4);
            const __m512i x = quantized(v + h * d + i, live, lane_ps(v_inverse, h));
            const __mmask64 own = bytes & (d - i >= 16 ? all : (UINT64_C(1) << (d - i) * 4) - 1);
            _mm512_mask_storeu_epi8(values + i * 4, own, _mm512_sll_epi32(x, shift));
        }
        float *scales = (float *)(void *)(page + pe_page_keys_q8(d) + pe_page_values_q8(d)) + t->slot;
        scales[0] = k_scale[h];
        scales[PE_PAGE] = v_scale[h];
    }
}

void pe_store_q8_f32__avx512vnni(const pe_token *t) {
    for (int64_t head = 0; head < t->heads; head += SIDE) switch (t->heads - head) {
        case 1: store_heads_q8(t, head, 1); break;
        case 2: store_heads_q8(t, head, 2); break;
        case 3: store_heads_q8(t, head, 3); break;
        default: store_heads_q8(t, head, SIDE);
        }
}

ALWAYS_INLINE void attend_head_f32(const pe_attend *a, int64_t head, const bool plain) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16 * 16, offset = a->offset + head * pe_page_bytes_f32(d);
    const float *query = a->q + head * d;
    _Alignas(64) float y[PE_MAX_HEAD_DIM] = {0};
    running state = {-INFINITY, 0.0f, 0.0f};

    for (int64_t first = plain ? 0 : pe_read_from(a); first < a->n_keys; first += PE_PAGE) {
        const int64_t from = plain ? 0 : pe_max(a->first_key - first, 0), to = pe_min(a->n_keys - first, PE_PAGE);
        const int64_t n = plain ? to : pe_min(to - from, PE_PAGE); /* the compiler unrolls what has a bound */
        const float *keys = (const float *)(const void *)(a->pages[first / PE_PAGE] + offset);
        const float *values = keys + d * PE_PAGE + from * d16;
        __m512 s = _mm512_setzero_ps();
        for (int64_t i = 0; i < d; i++)
            s = _mm512_fmadd_ps(_mm512_set1_ps(query[i]), _mm512_loadu_ps(keys + i * PE_PAGE), s);
        s = _mm512_mul_ps(s, _mm512_set1_ps(a->scale));
        if (!plain) s = biased(a, head, first, s);
        _Alignas(64) float p[PE_PAGE];
        _mm512_store_ps(p, softmax_page(&state, s, mask_page(from, to)));
        if (from > 0) memmove(p, p + from, (size_t)n * sizeof *p); /* at constant places, in registers */
        const __m512 earlier = _mm512_set1_ps(state.scale);
        for (int64_t i = 0; i < d16; i += 16) {
            __m512 sum = _mm512_mul_ps(_mm512_load_ps(y + i), earlier);
            for (int64_t t = 0; t < n; t++)
                sum = _mm512_fmadd_ps(_mm512_set1_ps(p[t]), _mm512_loadu_ps(values + t * d16 + i), sum);
            _mm512_store_ps(y + i, sum);
        }
    }
    finish(d, a->y + head * d, _mm512_set1_ps(state.sum), y);
}

static __attribute__((noinline)) void attend_plain_f32(const pe_attend *a, int64_t head) {
    attend_head_f32(a, head, true);
}

static __attribute__((noinline)) void attend_any_f32(const pe_attend *a, int64_t head) {
    attend_head_f32(a, head, false);
}

void pe_attend_f32_f32__avx512vnni(const pe_attend *a) {
    const bool plain = pe_is_plain(a);
    for (int64_t head = 0; head < a->heads; head++) (plain ? attend_plain_f32 : attend_any_f32)(a, head);
}
