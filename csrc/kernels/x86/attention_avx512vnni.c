/* AVX-512 VNNI: attention over int8 pages. */
#include "kernels/x86/attention_avx512.h"

/* Sums over the keys that each query has seen so far; a sum of 0: none. */
typedef struct sums {
    _Alignas(64) float y[SIDE][PE_MAX_HEAD_DIM];
    __m128 max, sum;
} sums;

typedef struct side_by_side {
    queries of;
    _Alignas(64) int8_t q[SIDE][PE_MAX_HEAD_DIM];
    _Alignas(16) int32_t start[SIDE]; /* keys are stored plus 128: less 128 times the sum of q */
    __m128 q_scale;
    sums span, all; /* of this span; of those before it */
    __mmask8 old;   /* queries that have seen keys in strips before */
    __mmask8 sees;  /* queries that see keys of this one */
    __m128 earlier; /* what a strip multiplies the sums of those before it with */
    __m128 unit;    /* what 1 of the weights 0..255 of a strip's values weighs */
    __m128 inverse; /* what its values' weights are multiplied with */
} side_by_side;

static inline __m128 exp4(__m128 x) { return _mm512_castps512_ps128(pe_exp16(_mm512_zextps128_ps512(x))); }

static inline __m512i quad_of(const void *bytes) {
    int32_t quad;
    memcpy(&quad, bytes, sizeof quad);
    return _mm512_set1_epi32(quad);
}

ALWAYS_INLINE void begin(side_by_side *s, int64_t d, float scale, const int n) {
    __m512 top[SIDE];
    __m512i sum[SIDE];
    for (int i = 0; i < SIDE; i++) top[i] = i < n ? absmax(s->of.q[i], d) : _mm512_setzero_ps();
    const __m128 largest = pe_largest16x4(top), inverse = pe_factor4(largest, 127);
    s->q_scale = _mm_mul_ps(pe_scale4(largest, 127), _mm_set1_ps(scale));
    for (int i = 0; i < SIDE; i++) sum[i] = _mm512_setzero_si512();
    for (int i = 0; i < n; i++)
        for (int64_t k = 0; k < d; k += 16) {
            const __m512i v = quantized(s->of.q[i] + k, pe_mask16(d - k), lane_ps(inverse, i));
            sum[i] = _mm512_add_epi32(sum[i], v);
            _mm_store_si128((__m128i *)(void *)(s->q[i] + k), _mm512_cvtepi32_epi8(v));
        }
    const __m128i start = _mm_sub_epi32(_mm_setzero_si128(), _mm_slli_epi32(pe_add16x4(sum), 7));
    _mm_store_si128((__m128i *)(void *)s->start, start);
}

ALWAYS_INLINE void begin_span(sums *s) {
    s->max = _mm_set1_ps(-INFINITY);
    s->sum = _mm_setzero_ps();
}

/* The span's sums onto those of the spans before it, of queries that have seen keys in it. */
static __attribute__((noinline)) void merge(const sums *span, int64_t d, int n, sums *all) {
    const __mmask8 more = _mm_cmp_ps_mask(span->sum, _mm_setzero_ps(), _CMP_NEQ_UQ);
    const __mmask8 both = more & _mm_cmp_ps_mask(all->sum, _mm_setzero_ps(), _CMP_NEQ_UQ);
    const __m128 max = _mm_max_ps(span->max, all->max);
    const __m128 old = exp4(_mm_sub_ps(all->max, max)), new = exp4(_mm_sub_ps(span->max, max));
    const __m128 sum = _mm_fmadd_ps(span->sum, new, _mm_mul_ps(all->sum, old));
    all->max = max;
    all->sum = _mm_mask_mov_ps(_mm_mask_mov_ps(all->sum, more, span->sum), both, sum);
    for (int i = 0; i < n; i++)
        for (int64_t k = 0; k < d && more >> i & 1; k += 16) {
            __m512 y = _mm512_load_ps(span->y[i] + k);
            if (both >> i & 1)
                y = _mm512_fmadd_ps(y, lane_ps(new, i), _mm512_mul_ps(_mm512_load_ps(all->y[i] + k), lane_ps(old, i)));
            _mm512_store_ps(all->y[i] + k, y);
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
    case 1: dot_pages(q, start, d, seen, offset, 1, dot); break;
    case 2: dot_pages(q, start, d, seen, offset, 2, dot); break;
    case 3: dot_pages(q, start, d, seen, offset, 3, dot); break;
    default: dot_pages(q, start, d, seen, offset, PAGES, dot);
    }
}

/* The scaled products of four queries with the keys of `pages` pages from p on that they share. */
ALWAYS_INLINE void score_pages(const side_by_side *side, int64_t d, const strip *seen, int p, const int pages,
                               __m512 s[PAGES][SIDE]) {
    __m512i sum[PAGES][SIDE];
    for (int j = 0; j < pages; j++)
        for (int i = 0; i < SIDE; i++) sum[j][i] = _mm512_set1_epi32(side->start[i]);
    for (int64_t line = 0; line < d; line += 4) {
        __m512i q[SIDE];
        for (int i = 0; i < SIDE; i++) q[i] = quad_of(side->q[i] + line);
        for (int j = 0; j < pages; j++) {
            const __m512i keys = _mm512_loadu_si512(seen->page[p + j] + line * 16);
            for (int i = 0; i < SIDE; i++) sum[j][i] = _mm512_dpbusd_epi32(sum[j][i], keys, q[i]);
        }
    }
    for (int j = 0; j < pages; j++) {
        const __m512 key_scale = _mm512_loadu_ps(scales_of(seen, p + j, d));
        for (int i = 0; i < SIDE; i++) {
            const __m512 scale = _mm512_mul_ps(lane_ps(side->q_scale, i), key_scale);
            s[p + j][i] = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[j][i]), scale);
        }
    }
}

static __attribute__((noinline)) void score_shared(const side_by_side *side, int64_t d, const strip *seen,
                                                   __m512 s[PAGES][SIDE]) {
    int p = 0;
    for (; p + 2 <= seen->pages; p += 2) score_pages(side, d, seen, p, 2, s);
    if (p < seen->pages) score_pages(side, d, seen, p, 1, s);
}

/* From scores s[page][query] to the weights of their values, 0..255 of a strip's largest, in three steps, each of which
   ends in a chain, behind which there had better be something else to do. `whole`: every query sees all of the keys. */

ALWAYS_INLINE void find_max(side_by_side *side, __m512 s[][SIDE], const strip *seen, const int n, const int pages,
                            const bool whole) {
    __m512 top[SIDE];
    __mmask8 sees = whole ? (1 << n) - 1 : 0;
    for (int i = 0; i < SIDE; i++) top[i] = _mm512_set1_ps(-INFINITY);
    for (int p = 0; p < pages; p++)
        for (int i = 0; i < n; i++) {
            const __mmask16 live = whole ? 0xffff : seen->live[p][i];
            top[i] = whole ? _mm512_max_ps(s[p][i], top[i]) : _mm512_mask_max_ps(top[i], live, s[p][i], top[i]);
            sees |= (__mmask8)((live != 0) << i);
        }
    const __m128 max = _mm_max_ps(pe_max16x4(top), side->span.max);
    side->sees = sees;
    side->old = _mm_cmp_ps_mask(side->span.sum, _mm_setzero_ps(), _CMP_NEQ_UQ);
    side->earlier = exp4(_mm_sub_ps(side->span.max, max));
    side->span.max = max;
}

/* `floats` from a page's values' scales of one query to those of the next. */
ALWAYS_INLINE void exponentiate(side_by_side *side, __m512 s[][SIDE], const strip *seen, int64_t d, int64_t floats,
                                const int n, const int pages, const bool whole) {
    __m512 sum[SIDE], most[SIDE];
    for (int i = 0; i < SIDE; i++) sum[i] = most[i] = _mm512_setzero_ps();
    for (int p = 0; p < pages; p++)
        for (int i = 0; i < n; i++) {
            const __m512 scale = _mm512_loadu_ps(scales_of(seen, p, d) + i * floats + PE_PAGE);
            __m512 e = pe_exp_below16(_mm512_sub_ps(s[p][i], lane_ps(side->span.max, i)));
            if (!whole) e = _mm512_maskz_mov_ps(seen->live[p][i], e);
            sum[i] = _mm512_add_ps(sum[i], e);
            s[p][i] = whole ? _mm512_mul_ps(e, scale) : _mm512_maskz_mul_ps(seen->live[p][i], e, scale);
            most[i] = pe_larger16(s[p][i], most[i]);
        }
    side->span.sum = _mm_mask_fmadd_ps(side->span.sum, side->sees, side->earlier, pe_sum16x4(sum));
    const __m128 largest = pe_largest16x4(most);
    side->inverse = pe_factor4(largest, 255);
    side->unit = pe_scale4(largest, 255);
}

/* What is above 255, and NaN, is 255. */
ALWAYS_INLINE void round_weights(const side_by_side *side, __m512 s[][SIDE], const int n, const int pages,
                                 uint8_t weights[SIDE][PE_STRIP]) {
    for (int p = 0; p < pages; p++)
        for (int i = 0; i < n; i++) {
            const __m512i w = _mm512_cvtps_epi32(_mm512_mul_ps(s[p][i], lane_ps(side->inverse, i)));
            _mm_store_si128((__m128i *)(void *)(weights[i] + p * PE_PAGE), _mm512_cvtusepi32_epi8(w));
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
    case 1: add_pages(y, weights, unit, earlier, seen, offset, d16, old, 1); break;
    case 2: add_pages(y, weights, unit, earlier, seen, offset, d16, old, 2); break;
    case 3: add_pages(y, weights, unit, earlier, seen, offset, d16, old, 3); break;
    default: add_pages(y, weights, unit, earlier, seen, offset, d16, old, PAGES);
    }
}

/* `lines` vectors of y from y[i * 16] on: y = y earlier + values that four queries share, weighed. */
ALWAYS_INLINE void add_shared_lines(side_by_side *side, uint8_t weights[SIDE][PE_STRIP], const strip *seen,
                                    int64_t values, int64_t d16, int64_t i, const int lines) {
    __m512i dot[SIDE][4];
    for (int k = 0; k < SIDE; k++)
        for (int l = 0; l < lines; l++) dot[k][l] = _mm512_setzero_si512();
    for (int p = 0; p < seen->pages; p++)
        for (int t = 0; t < 4; t++) {
            const uint8_t *v = seen->page[p] + values + (t * d16 + i) * 64;
            __m512i w[SIDE];
            for (int k = 0; k < SIDE; k++) w[k] = quad_of(weights[k] + p * PE_PAGE + t * 4);
            for (int l = 0; l < lines; l++) {
                const __m512i value = _mm512_loadu_si512(v + l * 64);
                for (int k = 0; k < SIDE; k++) dot[k][l] = _mm512_dpbusd_epi32(dot[k][l], w[k], value);
            }
        }
    for (int k = 0; k < SIDE; k++) {
        if (!(side->sees >> k & 1)) continue;
        const __m512 unit = lane_ps(side->unit, k), earlier = lane_ps(side->earlier, k);
        const __mmask16 old = (__mmask16)-(side->old >> k & 1);
        for (int l = 0; l < lines; l++) {
            float *y = side->span.y[k] + (i + l) * 16;
            const __m512 before = _mm512_mul_ps(_mm512_maskz_load_ps(old, y), earlier);
            _mm512_store_ps(y, _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[k][l]), unit, before));
        }
    }
}

static __attribute__((noinline)) void add_shared(side_by_side *side, uint8_t weights[SIDE][PE_STRIP],
                                                 const strip *seen, int64_t values, int64_t d16) {
    int64_t i = 0;
    for (; i + 4 <= d16; i += 4) add_shared_lines(side, weights, seen, values, d16, i, 4);
    for (; i < d16; i++) add_shared_lines(side, weights, seen, values, d16, i, 1);
}

static __attribute__((noinline)) void max_shared(side_by_side *side, __m512 s[][SIDE], const strip *seen) {
    if (seen->whole)
        find_max(side, s, seen, SIDE, PAGES, true);
    else
        find_max(side, s, seen, SIDE, seen->pages, false);
}

static __attribute__((noinline)) void exponentiate_shared(side_by_side *side, __m512 s[][SIDE], const strip *seen,
                                                          int64_t d) {
    if (seen->whole)
        exponentiate(side, s, seen, d, 0, SIDE, PAGES, true);
    else
        exponentiate(side, s, seen, d, 0, SIDE, seen->pages, false);
}

/* Blocks of four queries that share pages, each step for all of them. `last`: where their keys end. */
ALWAYS_INLINE void add_strip_shared(side_by_side *side, int64_t key, int64_t end, int64_t last, const int blocks,
                                    const bool plain) {
    const pe_attend *a = side->of.a;
    const int64_t d = a->head_dim, d16 = (d + 15) / 16, values = pe_page_keys_q8(d);
    __m512 s[BLOCKS][PAGES][SIDE];
    strip seen[BLOCKS];
    bool any[BLOCKS];
    for (int b = 0; b < blocks; b++) {
        const queries *of = &side[b].of;
        if (blocks > 1) prefetch_page(a, end + b * PE_PAGE, last, of->offset, pe_page_bytes_q8(d));
        if (!(any[b] = take_strip(of, key, end, SIDE, seen + b))) continue;
        score_shared(side + b, d, seen + b, s[b]);
        for (int p = 0; p < seen[b].pages && !plain; p++)
            for (int i = 0; i < SIDE; i++)
                s[b][p][i] = biased(a, of->head[i], of->sight[i]->position, seen[b].first + p * PE_PAGE, s[b][p][i]);
    }
    if (blocks == 1 && any[0]) { /* nothing else to do: no calls */
        find_max(side, s[0], seen, SIDE, seen->pages, false);
        exponentiate(side, s[0], seen, d, 0, SIDE, seen->pages, false);
    }
    for (int b = 0; b < blocks && blocks > 1; b++)
        if (any[b]) max_shared(side + b, s[b], seen + b);
    for (int b = 0; b < blocks && blocks > 1; b++)
        if (any[b]) exponentiate_shared(side + b, s[b], seen + b, d);
    _Alignas(64) uint8_t weights[BLOCKS][SIDE][PE_STRIP];
    for (int b = 0; b < blocks; b++)
        if (any[b]) round_weights(side + b, s[b], SIDE, seen[b].pages, weights[b]);
    for (int b = 0; b < blocks; b++)
        if (any[b]) add_shared(side + b, weights[b], seen + b, values, d16);
}

/* `known`: how many pages there are, 1 or 2, as in short sentences; or 0. */
ALWAYS_INLINE void add_strip(side_by_side *side, const strip *seen, const int n, const bool plain, const int known) {
    const queries *of = &side->of;
    const int64_t d = of->a->head_dim, d16 = (d + 15) / 16, values = pe_page_keys_q8(d), stride = of->stride;
    const int64_t floats = stride / (int64_t)sizeof(float);
    const int pages = known ? known : seen->pages;
    __m512 s[PAGES][SIDE];
    _Alignas(64) uint8_t weights[SIDE][PE_STRIP];
    for (int i = 0; i < n; i++) {
        __m512i dot[PAGES];
        if (known)
            dot_pages(side->q[i], side->start[i], d, seen, i * stride, known, dot);
        else
            dot_more(side->q[i], side->start[i], d, seen, i * stride, dot);
        for (int p = 0; p < pages; p++) {
            const __m512 key_scale = _mm512_loadu_ps(scales_of(seen, p, d) + i * floats);
            const __m512 scale = _mm512_mul_ps(lane_ps(side->q_scale, i), key_scale);
            s[p][i] = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[p]), scale);
            if (!plain)
                s[p][i] = biased(of->a, of->head[i], of->sight[i]->position, seen->first + p * PE_PAGE, s[p][i]);
        }
    }
    find_max(side, s, seen, n, pages, false);
    exponentiate(side, s, seen, d, floats, n, pages, false);
    round_weights(side, s, n, pages, weights);
    for (int i = 0; i < n; i++) {
        if (!(side->sees >> i & 1)) continue;
        const __m512 unit = lane_ps(side->unit, i), earlier = lane_ps(side->earlier, i);
        const __mmask16 old = (__mmask16)-(side->old >> i & 1);
        if (known)
            add_pages(side->span.y[i], weights[i], unit, earlier, seen, values + i * stride, d16, old, known);
        else
            add_more(side->span.y[i], weights[i], unit, earlier, seen, values + i * stride, d16, old);
    }
}

/* `blocks` times n queries; several share pages, and stay together for a strip, which is in the first-level cache. */
ALWAYS_INLINE void attend(const pe_attend *a, place *at, const int n, const int blocks, const bool shared,
                          const bool plain) {
    const int64_t d = a->head_dim, head_bytes = pe_page_bytes_q8(d);
    side_by_side side[BLOCKS];
    for (int b = 0; b < blocks; b++) {
        take_queries(a, at, n, head_bytes, &side[b].of);
        begin(side + b, d, a->scale, n);
        begin_span(&side[b].all);
    }
    const int64_t first_key = side[0].of.sight[0]->first, end_key = side[blocks - 1].of.sight[n - 1]->end;
    const bool several = pe_span_end(first_key) < end_key;
    for (int64_t key = first_key; key < end_key;) {
        const int64_t span_end = pe_min(end_key, pe_span_end(key));
        for (int b = 0; b < blocks; b++) begin_span(&side[b].span);
        for (int64_t end; key < span_end; key = end) {
            end = pe_min(span_end, pe_strip_end(key));
            strip seen;
            if (shared)
                add_strip_shared(side, key, end, end_key, blocks, plain);
            else if (!take_strip(&side->of, key, end, n, &seen))
                continue;
            else if (plain && seen.pages == 1)
                add_strip(side, &seen, n, plain, 1);
            else if (plain && seen.pages == 2)
                add_strip(side, &seen, n, plain, 2);
            else
                add_strip(side, &seen, n, plain, 0);
        }
        for (int b = 0; b < blocks && several; b++) merge(&side[b].span, d, n, &side[b].all);
    }
    for (int b = 0; b < blocks; b++) {
        const sums *all = several ? &side[b].all : &side[b].span;
        for (int i = 0; i < n; i++) finish(d, side[b].of.y[i], lane_ps(all->sum, i), all->y[i]);
    }
}

ALWAYS_INLINE void attend_all(const pe_attend *a, const bool plain) {
    const int64_t queries = a->rows * a->group;
    const int64_t together = queries == 1 ? a->heads : 1; /* heads whose queries go side by side */
    for (int64_t head = 0; head < a->heads; head += together) {
        place at = {head, 0, 0};
        int64_t n = queries * together;
        for (; queries > 1 && n >= BLOCKS * SIDE; n -= BLOCKS * SIDE) attend(a, &at, SIDE, BLOCKS, true, plain);
        for (; queries > 1 && n >= SIDE; n -= SIDE) attend(a, &at, SIDE, 1, true, plain);
        for (; n > 0; n -= SIDE) switch (n) {
            case 1: attend(a, &at, 1, 1, false, plain); break;
            case 2: attend(a, &at, 2, 1, false, plain); break;
            case 3: attend(a, &at, 3, 1, false, plain); break;
            default: attend(a, &at, SIDE, 1, false, plain);
            }
    }
}

/* The plain case has a loop of its own. Not inlined: constants hoisted out of the loop over heads would take all
   registers. */
static __attribute__((noinline)) void attend_plain(const pe_attend *a) { attend_all(a, true); }
static __attribute__((noinline)) void attend_any(const pe_attend *a) { attend_all(a, false); }

void pe_attend_f32_q8__avx512vnni(const pe_attend *a) { (pe_is_plain(a) ? attend_plain : attend_any)(a); }
