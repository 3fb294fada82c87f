/* AVX2: attention over int8 pages, and what stores keys and values into them; int8 products of queries and keys as in
   gemm_avx2.c. */
#include "kernels/x86/attention_avx2.h"

static inline __m256i load(const void *bytes) { return _mm256_loadu_si256((const __m256i *)bytes); }

static inline __m256i quad_of(const void *bytes) {
    int32_t quad;
    memcpy(&quad, bytes, sizeof quad);
    return _mm256_set1_epi32(quad);
}

/* sum + the products of 8 lanes of 4 signed bytes each; `positive` is |b|. */
static inline __m256i dot4(__m256i sum, __m256i positive, __m256i signed_bytes) {
    const __m256i pairs = _mm256_maddubs_epi16(positive, signed_bytes);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* From p times the values' scales. */
ALWAYS_INLINE void round_weights(const __m256 p[PAGES][2], const int pages, weights *to) {
    __m256 most = _mm256_setzero_ps();
    for (int i = 0; i < pages; i++) most = pe_larger8(pe_larger8(p[i][0], p[i][1]), most);
    const float largest = pe_largest8(most);
    const __m256 inverse = _mm256_set1_ps(pe_weight_factor(largest)), limit = _mm256_set1_ps(255.0f);
    to->unit = pe_weight_scale(largest);
    for (int i = 0; i < pages; i++) {
        __m256i w[2];
        for (int half = 0; half < 2; half++)
            w[half] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(p[i][half], inverse), limit));
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(w[0], w[1]), 0xd8);
        const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_store_si128((__m128i *)(void *)(to->bytes + i * PE_PAGE), bytes);
    }
}

/* y = y earlier + sum, weighed. */
ALWAYS_INLINE void add_sum(query *of, float unit, int64_t i, __m256i sum) {
    float *y = of->span.y + i * 8;
    const __m256 before = _mm256_mul_ps(_mm256_maskload_ps(y, of->old), of->earlier);
    _mm256_store_ps(y, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(unit), before));
}

/* The products of n queries with the keys of a page, half of it at a time: more sums do not fit into registers. */
ALWAYS_INLINE void dot_keys(const side_by_side *side, int64_t d, const uint8_t *keys, const int n,
                            __m256i dot[SIDE][2]) {
    for (int half = 0; half < 2; half++) {
        __m256i sum[SIDE];
        for (int k = 0; k < n; k++) sum[k] = _mm256_setzero_si256();
        for (int64_t i = 0; i < d; i += 4) {
            const __m256i key = load(keys + i * 16 + half * 32), positive = _mm256_abs_epi8(key);
            for (int k = 0; k < n; k++) sum[k] = dot4(sum[k], positive, _mm256_sign_epi8(quad_of(side->q[k] + i), key));
        }
        for (int k = 0; k < n; k++) dot[k][half] = sum[k];
    }
}

/* Two weights times two values fit into 16 bits if no weight is above 129: what is more, of the few that are, is added
   by itself, before the others. */
ALWAYS_INLINE void add_alone(query *of, const weights *w, const strip *seen, int64_t offset, int64_t d16,
                             const int pages) {
    _Alignas(32) uint8_t low[PE_STRIP], rest[PE_STRIP];
    uint32_t rests = 0; /* bit t: quad t of `rest` is not 0 */
    for (int p = 0; p < pages; p++) {
        const __m128i bytes = _mm_load_si128((const __m128i *)(const void *)(w->bytes + p * PE_PAGE));
        const __m128i more = _mm_subs_epu8(bytes, _mm_set1_epi8((char)129));
        _mm_store_si128((__m128i *)(void *)(low + p * PE_PAGE), _mm_sub_epi8(bytes, more));
        _mm_store_si128((__m128i *)(void *)(rest + p * PE_PAGE), more);
        const __m128i none = _mm_cmpeq_epi32(more, _mm_setzero_si128());
        rests |= (~(uint32_t)_mm_movemask_ps(_mm_castsi128_ps(none)) & 15) << p * 4;
    }
    __m256i sums[PE_MAX_HEAD_DIM / 8];
    for (int64_t i = 0; i < d16 * 2; i++) sums[i] = _mm256_setzero_si256();
    for (; rests; rests &= rests - 1) {
        const int t = __builtin_ctz(rests);
        const uint8_t *v = seen->page[t / 4] + offset + t % 4 * d16 * 64;
        const __m256i quad = quad_of(rest + t * 4);
        for (int64_t i = 0; i < d16 * 2; i++) sums[i] = dot4(sums[i], quad, load(v + i * 32));
    }
    for (int64_t i = 0; i < d16 * 2; i++) {
        __m256i sum = sums[i];
        for (int t = 0; t < pages * 4; t++)
            sum = dot4(sum, quad_of(low + t * 4), load(seen->page[t / 4] + offset + t % 4 * d16 * 64 + i * 32));
        add_sum(of, w->unit, i, sum);
    }
}

/* Several queries: values are widened to 16 bits once for all, so that products with any weights fit. */

/* n weights in pairs of 16 bits: of each four the first and third, the second and fourth. */
ALWAYS_INLINE void widen(const uint8_t *bytes, int64_t n, int32_t pairs[][2]) {
    for (int64_t i = 0; i < n; i += 16) {
        const __m128i b = _mm_load_si128((const __m128i *)(const void *)(bytes + i));
        const __m128i even = _mm_and_si128(b, _mm_set1_epi16(255)), odd = _mm_srli_epi16(b, 8);
        _mm_store_si128((__m128i *)(void *)pairs[i / 4], _mm_unpacklo_epi32(even, odd));
        _mm_store_si128((__m128i *)(void *)pairs[i / 4 + 2], _mm_unpackhi_epi32(even, odd));
    }
}

/* sum[k] += two vectors of four bytes each times the pairs of query k, which lie `ld` of them apart. */
ALWAYS_INLINE void dot_shared(const uint8_t *bytes, int32_t (*pairs)[2], const int64_t ld, __m256i sum[SIDE][2]) {
    __m256i even[2], odd[2];
    for (int j = 0; j < 2; j++) {
        const __m256i b = load(bytes + j * 32);
        even[j] = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);
        odd[j] = _mm256_srai_epi16(b, 8);
    }
    for (int k = 0; k < SIDE; k++) {
        const __m256i first = _mm256_set1_epi32(pairs[k * ld][0]), second = _mm256_set1_epi32(pairs[k * ld][1]);
        for (int j = 0; j < 2; j++) {
            const __m256i both = _mm256_add_epi32(_mm256_madd_epi16(even[j], first), _mm256_madd_epi16(odd[j], second));
            sum[k][j] = _mm256_add_epi32(sum[k][j], both);
        }
    }
}

static __attribute__((noinline)) void add_shared(side_by_side *side, const strip *seen, int64_t offset, int64_t d16,
                                                 unsigned seers) {
    _Alignas(32) int32_t pairs[SIDE][PE_STRIP / 4][2];
    for (int k = 0; k < SIDE; k++) widen(side->w[k].bytes, seen->pages * PE_PAGE, pairs[k]);
    for (int64_t i = 0; i < d16; i++) {
        __m256i sum[SIDE][2];
        for (int k = 0; k < SIDE; k++) sum[k][0] = sum[k][1] = _mm256_setzero_si256();
        for (int t = 0; t < seen->pages * 4; t++) { /* one loop: unrolled, it has not registers enough */
            const uint8_t *v = seen->page[t / 4] + offset + (t % 4 * d16 + i) * 64;
            dot_shared(v, pairs[0] + t, PE_STRIP / 4, sum);
        }
        for (int k = 0; k < SIDE; k++)
            for (int j = 0; j < 2 && seers >> k & 1; j++) add_sum(side->of + k, side->w[k].unit, i * 2 + j, sum[k][j]);
    }
}

ALWAYS_INLINE void add_pages(side_by_side *side, const pe_attend *a, const strip *seen, const int n, const int pages,
                             const bool plain) {
    const int64_t d = a->head_dim, values = pe_page_keys_q8(d), d16 = (d + 15) / 16;
    const float *scales[PAGES];
    __m256 s[SIDE][PAGES][2];
    for (int p = 0; p < pages; p++) {
        scales[p] = (const float *)(const void *)(seen->page[p] + values + pe_page_values_q8(d));
        __m256i dot[SIDE][2];
        dot_keys(side, d, seen->page[p], n, dot);
        for (int k = 0; k < n; k++) {
            for (int half = 0; half < 2; half++) {
                const __m256 scale = _mm256_loadu_ps(scales[p] + half * 8), q_scale = _mm256_set1_ps(side->q_scale[k]);
                s[k][p][half] = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[k][half]), _mm256_mul_ps(q_scale, scale));
            }
            if (!plain) add_biases(a, side->of + k, seen->first + p * PE_PAGE, s[k][p]);
        }
    }
    unsigned seers = 0;
    for (int k = 0; k < n; k++) {
        if (n > 1 && !sees(side->of + k, seen, pages)) continue;
        seers |= 1u << k;
        __m256i live[PAGES][2];
        softmax(side->of + k, s[k], seen, pages, live);
        for (int p = 0; p < pages; p++)
            for (int half = 0; half < 2; half++) {
                const __m256 scale = _mm256_maskload_ps(scales[p] + PE_PAGE + half * 8, live[p][half]);
                s[k][p][half] = _mm256_mul_ps(s[k][p][half], scale);
            }
        round_weights(s[k], pages, side->w + k);
    }
    if (n == 1)
        add_alone(side->of, side->w, seen, values, d16, pages);
    else
        add_shared(side, seen, values, d16, seers);
}

/* One query has loops of its own for the few pages of short sentences. */
ALWAYS_INLINE void add_strip(side_by_side *side, const pe_attend *a, const strip *seen, const int n, const bool plain) {
    if (n == 1 && seen->pages == 1)
        add_pages(side, a, seen, n, 1, plain);
    else if (n == 1 && seen->pages == 2)
        add_pages(side, a, seen, n, 2, plain);
    else
        add_pages(side, a, seen, n, seen->pages, plain);
}

/* The plain case has a loop of its own. Not inlined: constants hoisted out of the loop over heads would take all
   registers. */
static __attribute__((noinline)) void attend_plain(const pe_attend *a) { attend(a, true, true, add_strip); }
static __attribute__((noinline)) void attend_any(const pe_attend *a) { attend(a, true, false, add_strip); }

void pe_attend_f32_q8__avx2(const pe_attend *a) { (pe_is_plain(a) ? attend_plain : attend_any)(a); }

void pe_store_q8_f32__avx2(const pe_token *t) {
    const int64_t d = t->head_dim;
    int8_t k[PE_MAX_HEAD_DIM], v[PE_MAX_HEAD_DIM];
    for (int64_t h = 0; h < t->heads; h++) {
        float k_scale, v_scale;
        pe_quantize_q8r_f32__avx2(t->k + h * d, d, (d + 3) / 4 * 4, 0, k, &k_scale);
        pe_quantize_q8r_f32__avx2(t->v + h * d, d, d, 0, v, &v_scale);
        pe_store_head_q8(d, k, k_scale, v, v_scale, t->page + h * pe_page_bytes_q8(d), t->slot);
    }
}
