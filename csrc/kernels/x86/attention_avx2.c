/* AVX2: attention over int8 pages; int8 products of queries and keys as in gemm_avx2.c. */
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

/* The products of a query with the keys of a page. */
ALWAYS_INLINE void dot_keys(const side_by_side *side, int64_t d, const uint8_t *keys, __m256i dot[2]) {
    for (int half = 0; half < 2; half++) {
        __m256i sum = _mm256_setzero_si256();
        for (int64_t i = 0; i < d; i += 4) {
            const __m256i key = load(keys + i * 16 + half * 32);
            sum = dot4(sum, _mm256_abs_epi8(key), _mm256_sign_epi8(quad_of(side->q[0] + i), key));
        }
        dot[half] = sum;
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

/* Blocks of four queries go through a strip together: bytes are widened to 16 bits once for four, 256 times
   themselves, so that products with any query and any weights fit: 256 * 127 * 127 * 256 and 256 * 255 * 127 * 64 are
   below 2^31. */

/* sum[k] += 64 bytes times the pairs of query k, which lie `ld` pairs apart. */
ALWAYS_INLINE void dot_line(const uint8_t *bytes, const pairs *with, const int64_t ld, __m256i sum[SIDE][2]) {
    __m256i even[2], odd[2];
    for (int j = 0; j < 2; j++) {
        const __m256i b = load(bytes + j * 32);
        even[j] = _mm256_slli_epi16(b, 8);
        odd[j] = _mm256_and_si256(b, _mm256_set1_epi16((short)0xff00));
    }
    /* Else the compiler takes up the next query before this one's sums are done, and has not registers enough. */
    for (int k = 0; k < SIDE; k++) {
        const __m256i first = _mm256_set1_epi32(with[k * ld][0]), second = _mm256_set1_epi32(with[k * ld][1]);
        for (int j = 0; j < 2; j++) {
            sum[k][j] = _mm256_add_epi32(sum[k][j], _mm256_madd_epi16(even[j], first));
            __asm__("" : "+x"(sum[k][j]));
        }
        for (int j = 0; j < 2; j++) {
            sum[k][j] = _mm256_add_epi32(sum[k][j], _mm256_madd_epi16(odd[j], second));
            __asm__("" : "+x"(sum[k][j]));
        }
    }
}

/* The scaled products of queries with the keys of a strip. */
static __attribute__((noinline)) void score_shared(const side_by_side *side, const int blocks, int64_t d,
                                                   const strip *seen, const float *const scales[],
                                                   __m256 s[BLOCKS][SIDE][PAGES][2]) {
    for (int p = 0; p < seen->pages; p++) {
        const __m256 scale[2] = {_mm256_loadu_ps(scales[p]), _mm256_loadu_ps(scales[p] + 8)};
        for (int b = 0; b < blocks; b++) {
            __m256i sum[SIDE][2];
            for (int k = 0; k < SIDE; k++) sum[k][0] = sum[k][1] = _mm256_setzero_si256();
            const pairs *with = side[b].pairs[0];
            for (const uint8_t *line = seen->page[p], *end = line + pe_page_keys_q8(d); line < end; line += 64, with++)
                dot_line(line, with, PE_MAX_HEAD_DIM / 4, sum);
            for (int k = 0; k < SIDE; k++)
                for (int half = 0; half < 2; half++) {
                    const __m256 dot = _mm256_cvtepi32_ps(_mm256_srai_epi32(sum[k][half], 8));
                    const __m256 q_scale = _mm256_set1_ps(side[b].q_scale[k]);
                    s[b][k][p][half] = _mm256_mul_ps(dot, _mm256_mul_ps(q_scale, scale[half]));
                }
        }
    }
}

/* From the scores of four queries to the weights of their values in three steps, each of which ends in a chain, behind
   which there had better be something else to do. `whole`: all of the keys are seen by all of them. */

ALWAYS_INLINE void find_max(side_by_side *side, const strip *seen, __m256 s[SIDE][PAGES][2], const bool whole) {
    __m256 top[SIDE];
    float max[SIDE], earlier[SIDE];
    side->seers = 0;
    for (int k = 0; k < SIDE; k++) {
        const query *of = side->of + k;
        side->seers |= (unsigned)(whole || sees(of, seen, seen->pages)) << k;
        max[k] = of->span.max;
        top[k] = _mm256_set1_ps(-INFINITY);
        for (int p = 0; p < seen->pages; p++)
            for (int half = 0; half < 2; half++) {
                __m256 each = s[k][p][half];
                if (!whole) {
                    const __m256i live = live_of(of->sight, seen->first + p * PE_PAGE + half * 8);
                    each = _mm256_blendv_ps(top[k], each, _mm256_castsi256_ps(live));
                }
                top[k] = _mm256_max_ps(each, top[k]);
            }
    }
    const __m128 before = _mm_loadu_ps(max), all = _mm_max_ps(pe_max8x4(top), before);
    side->earlier = _mm256_castps256_ps128(pe_exp8(_mm256_castps128_ps256(_mm_sub_ps(before, all))));
    _mm_storeu_ps(max, all);
    _mm_storeu_ps(earlier, side->earlier);
    for (int k = 0; k < SIDE; k++) {
        query *of = side->of + k;
        if (!(side->seers >> k & 1)) continue;
        of->old = _mm256_set1_epi32(of->span.sum == 0.0f ? 0 : -1);
        of->earlier = _mm256_set1_ps(earlier[k]);
        of->span.max = max[k];
    }
}

ALWAYS_INLINE void exponentiate(side_by_side *side, const strip *seen, const float *const scales[],
                                __m256 s[SIDE][PAGES][2], const bool whole) {
    __m256 low[SIDE], high[SIDE], most[SIDE];
    float sum[SIDE];
    for (int k = 0; k < SIDE; k++) {
        const __m256 max = _mm256_set1_ps(side->of[k].span.max);
        __m256 lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        most[k] = _mm256_setzero_ps();
        for (int p = 0; p < seen->pages; p++)
            for (int half = 0; half < 2; half++) {
                __m256 e = pe_exp_below8(_mm256_sub_ps(s[k][p][half], max));
                __m256 scale = _mm256_loadu_ps(scales[p] + PE_PAGE + half * 8);
                if (!whole) {
                    const __m256i live = live_of(side->of[k].sight, seen->first + p * PE_PAGE + half * 8);
                    e = _mm256_and_ps(_mm256_castsi256_ps(live), e);
                    scale = _mm256_and_ps(_mm256_castsi256_ps(live), scale);
                }
                lanes[half] = _mm256_add_ps(lanes[half], e);
                s[k][p][half] = _mm256_mul_ps(e, scale);
                most[k] = pe_larger8(s[k][p][half], most[k]);
            }
        low[k] = lanes[0];
        high[k] = lanes[1];
        sum[k] = side->of[k].span.sum;
    }
    _mm_storeu_ps(sum, _mm_fmadd_ps(_mm_loadu_ps(sum), side->earlier, pe_sum8x2x4(low, high)));
    for (int k = 0; k < SIDE; k++)
        if (side->seers >> k & 1) side->of[k].span.sum = sum[k];
    const __m128 largest = pe_largest8x4(most);
    _mm_storeu_ps(side->inverse, pe_weight_factor4(largest));
    _mm_storeu_ps(side->unit, pe_weight_scale4(largest));
}

ALWAYS_INLINE void round_shared(side_by_side *side, const strip *seen, __m256 s[SIDE][PAGES][2]) {
    const __m256 limit = _mm256_set1_ps(255.0f);
    for (int k = 0; k < SIDE; k++) {
        const __m256 inverse = _mm256_set1_ps(side->inverse[k]);
        for (int p = 0; p < seen->pages; p++) {
            __m256i w[2];
            for (int half = 0; half < 2; half++)
                w[half] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(s[k][p][half], inverse), limit));
            store_pairs(_mm256_permute4x64_epi64(_mm256_packus_epi32(w[0], w[1]), 0xd8), side->shared[k] + p * 4);
        }
    }
}

ALWAYS_INLINE void weigh(side_by_side *side, const int blocks, const strip *seen, const float *const scales[],
                         __m256 s[BLOCKS][SIDE][PAGES][2], const bool whole) {
    for (int b = 0; b < blocks; b++) find_max(side + b, seen, s[b], whole);
    for (int b = 0; b < blocks; b++) exponentiate(side + b, seen, scales, s[b], whole);
    for (int b = 0; b < blocks; b++) round_shared(side + b, seen, s[b]);
}

static __attribute__((noinline)) void weigh_whole(side_by_side *side, const int blocks, const strip *seen,
                                                  const float *const scales[], __m256 s[BLOCKS][SIDE][PAGES][2]) {
    weigh(side, blocks, seen, scales, s, true);
}

static __attribute__((noinline)) void weigh_some(side_by_side *side, const int blocks, const strip *seen,
                                                 const float *const scales[], __m256 s[BLOCKS][SIDE][PAGES][2]) {
    weigh(side, blocks, seen, scales, s, false);
}

static __attribute__((noinline)) void add_shared(side_by_side *side, const int blocks, const strip *seen,
                                                 int64_t offset, int64_t d16) {
    for (int64_t i = 0; i < d16; i++)
        for (int b = 0; b < blocks; b++) {
            __m256i sum[SIDE][2];
            for (int k = 0; k < SIDE; k++) sum[k][0] = sum[k][1] = _mm256_setzero_si256();
            const pairs *with = side[b].shared[0];
            for (int p = 0; p < seen->pages; p++) {
                const uint8_t *v = seen->page[p] + offset + i * 64;
                for (int t = 0; t < 4; t++, v += d16 * 64, with++) dot_line(v, with, PE_STRIP / 4, sum);
            }
            for (int k = 0; k < SIDE; k++)
                for (int j = 0; j < 2 && side[b].seers >> k & 1; j++)
                    add_sum(side[b].of + k, side[b].unit[k], i * 2 + j, _mm256_srai_epi32(sum[k][j], 8));
        }
}

/* Each step for all blocks. */
ALWAYS_INLINE void add_strip_shared(side_by_side *side, const pe_attend *a, task what, const strip *seen,
                                    const int blocks, const bool plain) {
    const int64_t d = a->head_dim, values = pe_page_keys_q8(d), d16 = (d + 15) / 16;
    const float *scales[PAGES];
    __m256 s[BLOCKS][SIDE][PAGES][2];
    for (int p = 0; p < seen->pages; p++)
        scales[p] = (const float *)(const void *)(seen->page[p] + values + pe_page_values_q8(d));
    for (int b = 0; b < blocks && blocks > 1; b++)
        prefetch_page(a, what.end + b * PE_PAGE, what.last, what.offset, pe_page_bytes_q8(d));
    score_shared(side, blocks, d, seen, scales, s);
    for (int b = 0; b < blocks && !plain; b++)
        for (int p = 0; p < seen->pages; p++)
            for (int k = 0; k < SIDE; k++) add_biases(a, side[b].of + k, seen->first + p * PE_PAGE, s[b][k][p]);
    const pe_sight *one = side->of[0].sight, *last = side[blocks - 1].of[SIDE - 1].sight;
    if (last->first <= seen->first && one->end >= seen->first + seen->pages * PE_PAGE)
        weigh_whole(side, blocks, seen, scales, s);
    else
        weigh_some(side, blocks, seen, scales, s);
    add_shared(side, blocks, seen, values, d16);
}

ALWAYS_INLINE void add_strip_alone(side_by_side *side, const pe_attend *a, const strip *seen, const int pages,
                                   const bool plain) {
    const int64_t d = a->head_dim, values = pe_page_keys_q8(d), d16 = (d + 15) / 16;
    const float *scales[PAGES];
    __m256 s[PAGES][2];
    for (int p = 0; p < pages; p++) {
        scales[p] = (const float *)(const void *)(seen->page[p] + values + pe_page_values_q8(d));
        __m256i dot[2];
        dot_keys(side, d, seen->page[p], dot);
        for (int half = 0; half < 2; half++) {
            const __m256 scale = _mm256_loadu_ps(scales[p] + half * 8), q_scale = _mm256_set1_ps(side->q_scale[0]);
            s[p][half] = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[half]), _mm256_mul_ps(q_scale, scale));
        }
        if (!plain) add_biases(a, side->of, seen->first + p * PE_PAGE, s[p]);
    }
    __m256i live[PAGES][2];
    softmax(side->of, s, seen, pages, live);
    for (int p = 0; p < pages; p++)
        for (int half = 0; half < 2; half++) {
            const __m256 scale = _mm256_maskload_ps(scales[p] + PE_PAGE + half * 8, live[p][half]);
            s[p][half] = _mm256_mul_ps(s[p][half], scale);
        }
    round_weights(s, pages, &side->w);
    add_alone(side->of, &side->w, seen, values, d16, pages);
}

/* One query has loops of its own for the few pages of short sentences. */
ALWAYS_INLINE void add_strip(side_by_side *side, const pe_attend *a, task what, const int n, const int blocks,
                             const bool plain) {
    strip seen;
    const int64_t key = pe_max(what.key, side[0].of[0].sight->first);
    const int64_t end = pe_min(what.end, side[blocks - 1].of[n - 1].sight->end);
    if (!take_strip(a, key, end, what.offset, &seen)) return;
    if (n > 1)
        add_strip_shared(side, a, what, &seen, blocks, plain);
    else if (seen.pages == 1)
        add_strip_alone(side, a, &seen, 1, plain);
    else if (seen.pages == 2)
        add_strip_alone(side, a, &seen, 2, plain);
    else
        add_strip_alone(side, a, &seen, seen.pages, plain);
}

/* The plain case has a loop of its own. Not inlined: constants hoisted out of the loop over heads would take all
   registers. */
static __attribute__((noinline)) void attend_plain(const pe_attend *a) { attend(a, true, true, add_strip); }
static __attribute__((noinline)) void attend_any(const pe_attend *a) { attend(a, true, false, add_strip); }

void pe_attend_f32_q8__avx2(const pe_attend *a) { (pe_is_plain(a) ? attend_plain : attend_any)(a); }
