/* AVX-512 VNNI: attention over int8 pages, and what stores keys and values into them. */
#include "kernels/x86/attention_avx512.h"

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

/* Sums of each head, as far as its keys have been seen. */
typedef struct sums {
    _Alignas(64) float y[SIDE][PE_MAX_HEAD_DIM];
    __m128 max, sum;
} sums;

typedef struct side_by_side {
    _Alignas(64) int8_t q[SIDE][PE_MAX_HEAD_DIM];
    _Alignas(16) int32_t start[SIDE]; /* keys are stored plus 128: less 128 times the sum of q */
    __m128 q_scale;
    sums span, all; /* of this span; of those before it */
    __mmask8 old;   /* heads that have sums of strips before */
    __m128 earlier; /* what a strip multiplies the sums of those before it with */
    __m128 unit;    /* what 1 of the weights 0..255 of a strip's values weighs */
} side_by_side;

static inline __m512 lane_ps(__m128 v, int lane) {
    return _mm512_permutexvar_ps(_mm512_set1_epi32(lane), _mm512_castps128_ps512(v));
}

static inline __m128 exp4(__m128 x) { return _mm512_castps512_ps128(pe_exp16(_mm512_zextps128_ps512(x))); }

ALWAYS_INLINE void begin(side_by_side *s, const float *q, int64_t d, float scale, const int heads) {
    __m512 top[SIDE];
    __m512i sum[SIDE];
    absmax_of_heads(q, d, heads, top);
    const __m128 largest = pe_largest16x4(top), inverse = pe_factor4(largest, 127);
    s->q_scale = _mm_mul_ps(pe_scale4(largest, 127), _mm_set1_ps(scale));
    for (int h = 0; h < SIDE; h++) sum[h] = _mm512_setzero_si512();
    for (int h = 0; h < heads; h++)
        for (int64_t i = 0; i < d; i += 16) {
            const __m512i v = quantized(q + h * d + i, pe_mask16(d - i), lane_ps(inverse, h));
            sum[h] = _mm512_add_epi32(sum[h], v);
            _mm_store_si128((__m128i *)(void *)(s->q[h] + i), _mm512_cvtepi32_epi8(v));
        }
    const __m128i start = _mm_sub_epi32(_mm_setzero_si128(), _mm_slli_epi32(pe_add16x4(sum), 7));
    _mm_store_si128((__m128i *)(void *)s->start, start);
}

ALWAYS_INLINE void begin_span(sums *s) {
    s->max = _mm_set1_ps(-INFINITY);
    s->sum = _mm_setzero_ps();
}

/* The span's sums onto those of the spans before it. */
static __attribute__((noinline)) void merge(const sums *span, int64_t d, int heads, sums *all) {
    const __m128 max = _mm_max_ps(span->max, all->max);
    const __m128 old = exp4(_mm_sub_ps(all->max, max)), new = exp4(_mm_sub_ps(span->max, max));
    all->max = max;
    all->sum = _mm_fmadd_ps(span->sum, new, _mm_mul_ps(all->sum, old));
    for (int h = 0; h < heads; h++)
        for (int64_t i = 0; i < d; i += 16) {
            const __m512 y = _mm512_mul_ps(_mm512_load_ps(all->y[h] + i), lane_ps(old, h));
            _mm512_store_ps(all->y[h] + i, _mm512_fmadd_ps(_mm512_load_ps(span->y[h] + i), lane_ps(new, h), y));
        }
}

/* A query times the keys of `pages` pages. */
ALWAYS_INLINE void dot_pages(const int8_t *q, int32_t start, int64_t d, const strip *seen, int64_t offset,
                             const int pages, __m512i dot[PAGES]) {
    __m512i odd[PAGES];
    for (int p = 0; p < pages; p++) dot[p] = _mm512_set1_epi32(start);
    for (int p = 0; p < pages; p++) odd[p] = _mm512_setzero_si512();
    const int64_t lines = (d + 3) / 4;
    int64_t line = 0;
    for (int32_t quad[2]; line + 2 <= lines; line += 2) {
        memcpy(quad, q + line * 4, sizeof quad);
        const __m512i q0 = _mm512_set1_epi32(quad[0]), q1 = _mm512_set1_epi32(quad[1]);
        for (int p = 0; p < pages; p++) {
            const uint8_t *keys = seen->page[p] + offset + line * 64;
            dot[p] = _mm512_dpbusd_epi32(dot[p], _mm512_loadu_si512(keys), q0);
            odd[p] = _mm512_dpbusd_epi32(odd[p], _mm512_loadu_si512(keys + 64), q1);
        }
    }
    if (line < lines) {
        int32_t quad;
        memcpy(&quad, q + line * 4, sizeof quad);
        const __m512i last = _mm512_set1_epi32(quad);
        for (int p = 0; p < pages; p++)
            dot[p] = _mm512_dpbusd_epi32(dot[p], _mm512_loadu_si512(seen->page[p] + offset + line * 64), last);
    }
    for (int p = 0; p < pages; p++) dot[p] = _mm512_add_epi32(dot[p], odd[p]);
}

static __attribute__((noinline)) void dot_more(const int8_t *q, int32_t start, int64_t d, const strip *seen,
                                               int64_t offset, __m512i dot[PAGES]) {
    switch (seen->pages) {
    case 2: dot_pages(q, start, d, seen, offset, 2, dot); break;
    case 3: dot_pages(q, start, d, seen, offset, 3, dot); break;
    default: dot_pages(q, start, d, seen, offset, PAGES, dot);
    }
}

/* From scores s[page][head] to the weights of their values, 0..255 of a strip's largest. `scales` of a page's first
   head, `floats` from one head's to the next one's. */
ALWAYS_INLINE void weigh(side_by_side *side, __m512 s[][SIDE], const strip *seen, const float *const scales[],
                         int64_t floats, const int heads, const int pages, uint8_t weights[SIDE][PE_STRIP]) {
    __m512 top[SIDE], sum[SIDE], most[SIDE];
    for (int h = 0; h < SIDE; h++) top[h] = _mm512_set1_ps(-INFINITY);
    for (int p = 0; p < pages; p++)
        for (int h = 0; h < heads; h++) top[h] = _mm512_mask_max_ps(top[h], seen->live[p], s[p][h], top[h]);
    const __m128 max = _mm_max_ps(pe_max16x4(top), side->span.max);
    side->old = _mm_cmp_ps_mask(side->span.sum, _mm_setzero_ps(), _CMP_NEQ_UQ);
    side->earlier = exp4(_mm_sub_ps(side->span.max, max));
    side->span.max = max;
    for (int h = 0; h < SIDE; h++) sum[h] = most[h] = _mm512_setzero_ps();
    for (int p = 0; p < pages; p++)
        for (int h = 0; h < heads; h++) {
            const __m512 e = _mm512_maskz_mov_ps(seen->live[p], pe_exp16(_mm512_sub_ps(s[p][h], lane_ps(max, h))));
            sum[h] = _mm512_add_ps(sum[h], e);
            s[p][h] = _mm512_mul_ps(e, _mm512_maskz_loadu_ps(seen->live[p], scales[p] + h * floats + PE_PAGE));
            most[h] = pe_larger16(s[p][h], most[h]);
        }
    side->span.sum = _mm_fmadd_ps(side->span.sum, side->earlier, pe_sum16x4(sum));
    const __m128 largest = pe_largest16x4(most), inverse = pe_factor4(largest, 255);
    side->unit = pe_scale4(largest, 255);
    for (int p = 0; p < pages; p++)
        for (int h = 0; h < heads; h++) {
            const __m512 w = _mm512_min_ps(_mm512_mul_ps(s[p][h], lane_ps(inverse, h)), _mm512_set1_ps(255.0f));
            _mm_store_si128((__m128i *)(void *)(weights[h] + p * PE_PAGE), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(w)));
        }
}

/* y = y earlier + the values of `pages` pages, weighed; `old`: lanes in which there is a y. */
ALWAYS_INLINE void add_pages(float *y, const uint8_t *weights, __m512 unit, __m512 earlier, const strip *seen,
                             int64_t offset, int64_t d16, __mmask16 old, const int pages) {
    __m512i w[PE_STRIP / 4];
    for (int t = 0; t < pages * 4; t++) {
        int32_t quad;
        memcpy(&quad, weights + t * 4, sizeof quad);
        w[t] = _mm512_set1_epi32(quad);
    }
    for (int64_t i = 0; i < d16; i++) {
        __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();
        for (int p = 0; p < pages; p++) {
            const uint8_t *v = seen->page[p] + offset + i * 64;
            even = _mm512_dpbusd_epi32(even, w[p * 4], _mm512_loadu_si512(v));
            odd = _mm512_dpbusd_epi32(odd, w[p * 4 + 1], _mm512_loadu_si512(v + d16 * 64));
            even = _mm512_dpbusd_epi32(even, w[p * 4 + 2], _mm512_loadu_si512(v + d16 * 128));
            odd = _mm512_dpbusd_epi32(odd, w[p * 4 + 3], _mm512_loadu_si512(v + d16 * 192));
        }
        const __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
        const __m512 before = _mm512_mul_ps(_mm512_maskz_load_ps(old, y + i * 16), earlier);
        _mm512_store_ps(y + i * 16, _mm512_fmadd_ps(dot, unit, before));
    }
}

static __attribute__((noinline)) void add_more(float *y, const uint8_t *weights, __m512 unit, __m512 earlier,
                                               const strip *seen, int64_t offset, int64_t d16, __mmask16 old) {
    switch (seen->pages) {
    case 2: add_pages(y, weights, unit, earlier, seen, offset, d16, old, 2); break;
    case 3: add_pages(y, weights, unit, earlier, seen, offset, d16, old, 3); break;
    default: add_pages(y, weights, unit, earlier, seen, offset, d16, old, PAGES);
    }
}

/* `single`: the strip has one page, as most have that short sentences end with. */
ALWAYS_INLINE void add_strip(side_by_side *side, const pe_attend *a, int64_t first_head, const strip *seen,
                             const int heads, const bool plain, const bool single) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16, head_bytes = pe_page_bytes_q8(d);
    const int64_t values = pe_page_keys_q8(d), floats = head_bytes / (int64_t)sizeof(float);
    const int pages = single ? 1 : seen->pages;
    const float *scales[PAGES];
    __m512 s[PAGES][SIDE];
    _Alignas(64) uint8_t weights[SIDE][PE_STRIP];
    for (int p = 0; p < pages; p++)
        scales[p] = (const float *)(const void *)(seen->page[p] + values + pe_page_values_q8(d));
    for (int h = 0; h < heads; h++) {
        __m512i dot[PAGES];
        if (single)
            dot_pages(side->q[h], side->start[h], d, seen, h * head_bytes, 1, dot);
        else
            dot_more(side->q[h], side->start[h], d, seen, h * head_bytes, dot);
        for (int p = 0; p < pages; p++) {
            const __m512 key_scale = _mm512_maskz_loadu_ps(seen->live[p], scales[p] + h * floats);
            s[p][h] = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[p]), _mm512_mul_ps(lane_ps(side->q_scale, h), key_scale));
            if (!plain) s[p][h] = biased(a, first_head + h, seen->first + p * PE_PAGE, s[p][h]);
        }
    }
    weigh(side, s, seen, scales, floats, heads, pages, weights);
    for (int h = 0; h < heads; h++) {
        const __m512 unit = lane_ps(side->unit, h), earlier = lane_ps(side->earlier, h);
        const __mmask16 old = (__mmask16)-(side->old >> h & 1);
        if (single)
            add_pages(side->span.y[h], weights[h], unit, earlier, seen, values + h * head_bytes, d16, old, 1);
        else
            add_more(side->span.y[h], weights[h], unit, earlier, seen, values + h * head_bytes, d16, old);
    }
}

ALWAYS_INLINE void attend_heads_q8(const pe_attend *a, int64_t first_head, const int heads, const bool plain) {
    const int64_t d = a->head_dim, offset = a->offset + first_head * pe_page_bytes_q8(d);
    const int64_t first_key = plain ? 0 : a->first_key;
    side_by_side side;
    begin(&side, a->q + first_head * d, d, a->scale, heads);
    sums *all = NULL;
    for (int64_t key = first_key; key < a->n_keys;) {
        const int64_t span_end = pe_min(a->n_keys, pe_span_end(key));
        begin_span(&side.span);
        for (int64_t end; key < span_end; key = end) {
            end = pe_min(span_end, pe_strip_end(key));
            strip seen;
            take_strip(a, key, end, offset, plain, &seen);
            if (seen.pages == 1)
                add_strip(&side, a, first_head, &seen, heads, plain, true);
            else
                add_strip(&side, a, first_head, &seen, heads, plain, false);
        }
        if (all)
            merge(&side.span, d, heads, all);
        else if (key < a->n_keys)
            side.all = side.span, all = &side.all;
    }
    if (!all) all = &side.span;
    for (int h = 0; h < heads; h++) finish(d, a->y + (first_head + h) * d, lane_ps(all->sum, h), all->y[h]);
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
    const __m128 k_largest = pe_largest16x4(top), k_inverse = pe_factor4(k_largest, 127);
    absmax_of_heads(v, d, heads, top);
    const __m128 v_largest = pe_largest16x4(top), v_inverse = pe_factor4(v_largest, 127);
    _Alignas(16) float k_scale[SIDE], v_scale[SIDE];
    _mm_store_ps(k_scale, pe_scale4(k_largest, 127));
    _mm_store_ps(v_scale, pe_scale4(v_largest, 127));
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
