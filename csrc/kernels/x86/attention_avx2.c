/* AVX2: attention over int8 pages; a query alone multiplies keys as gemm_avx2.c does. */
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

/* Blocks of four queries go through a strip together. With s = all ones where x < 0, x b = |x| (b xor s) + (|x| and s),
   for b xor s is -b - 1 there. So a product needs nothing of b that is not in memory, and 32 bytes four operations, two
   of them of the multipliers; the sum of what is behind the plus is the same for all b, and sums begin with it. Two
   products lie between -2 * 128 * 128 and 2 * 128 * 127, which 16 bits hold. Of weights x is 128 less, so that they are
   signed, and 128 times the values are added.

   Eight sums are what there are registers for: those of one query and four lines of 64 bytes spread less bytes of
   queries than those of four queries and one. As much as by the multipliers these loops are bound by the number of
   instructions: bytes are read as operands, and a sum keeps its register, neither of which compilers see to. */

/* sum[k] += `lines` times 64 bytes times four bytes of query k. */
ALWAYS_INLINE void dot_lines(const uint8_t *const at[LINES], const uint8_t *with, const int64_t ld,
                             __m256i sum[SIDE][LINES * 2], const int lines) {
    for (int k = 0; k < SIDE / lines; k++) {
        const __m256i size = quad_of(with + k * ld), sign = quad_of(with + k * ld + ld / 2);
        for (int j = 0; j < lines * 2; j++) {
            const __m256i b = _mm256_xor_si256(load(at[j / 2] + j % 2 * 32), sign);
            const __m256i quads = _mm256_madd_epi16(_mm256_maddubs_epi16(size, b), _mm256_set1_epi16(1));
            __asm__("vpaddd %1, %0, %0" : "+x"(sum[k][j]) : "x"(quads));
        }
        __asm__ volatile("" : : : "memory");
    }
}

/* The same with two lines after one another of each page, whose pairs' sums fit into 16 bits. */
ALWAYS_INLINE void dot_twice(const uint8_t *const at[LINES], const uint8_t *with, const int64_t ld,
                             __m256i sum[SIDE][LINES * 2], const int lines) {
    /* Else what dot_lines begins with, too, is done before either of them and kept in memory. */
    __asm__ volatile("" : : : "memory");
    for (int k = 0; k < SIDE / lines; k++, with += ld) {
        const __m256i size = quad_of(with), sign = quad_of(with + ld / 2);
        const __m256i next = quad_of(with + 4), next_sign = quad_of(with + ld / 2 + 4);
        for (int j = 0; j < lines * 2; j++) {
            const uint8_t *b = at[j / 2] + j % 2 * 32;
            const __m256i one = _mm256_maddubs_epi16(size, _mm256_xor_si256(load(b), sign));
            const __m256i two = _mm256_maddubs_epi16(next, _mm256_xor_si256(load(b + 64), next_sign));
            const __m256i quads = _mm256_madd_epi16(_mm256_add_epi16(one, two), _mm256_set1_epi16(1));
            __asm__("vpaddd %1, %0, %0" : "+x"(sum[k][j]) : "x"(quads));
        }
        __asm__ volatile("" : : : "memory");
    }
}

ALWAYS_INLINE void go_on(const uint8_t *at[LINES], const int lines, int64_t bytes) {
    for (int j = 0; j < lines; j++) at[j] += bytes;
}

/* The scaled products of queries with the keys of `lines` pages from p on. */
ALWAYS_INLINE void score_pages(const side_by_side *side, const int blocks, int64_t d, const strip *seen,
                               const float *const scales[], __m256 s[BLOCKS][SIDE][PAGES][2], int p, const int lines) {
    const int64_t ld = sizeof side->factors[0];
    for (int b = 0; b < blocks; b++)
        for (int first = 0; first < SIDE; first += SIDE / lines) {
            const side_by_side *own = side + b;
            const uint8_t *with = own->factors[first], *at[LINES];
            uint32_t fits = UINT32_MAX;
            __m256i sum[SIDE][LINES * 2];
            for (int k = 0; k < SIDE / lines; k++) {
                fits &= own->fits[first + k];
                for (int j = 0; j < lines * 2; j++) sum[k][j] = _mm256_set1_epi32(own->q_start[first + k]);
            }
            for (int j = 0; j < lines; j++) at[j] = seen->page[p + j];
            int64_t left = (d + 3) / 4;
            for (; left > 1; left -= 2, fits >>= 1, with += 8) {
                if (fits & 1) {
                    dot_twice(at, with, ld, sum, lines);
                    go_on(at, lines, 128);
                    continue;
                }
                for (int i = 0; i < 8; i += 4, go_on(at, lines, 64)) dot_lines(at, with + i, ld, sum, lines);
            }
            if (left > 0) dot_lines(at, with, ld, sum, lines);
            for (int k = 0; k < SIDE / lines; k++)
                for (int j = 0; j < lines * 2; j++) {
                    const __m256 q_scale = _mm256_set1_ps(own->q_scale[first + k]);
                    const __m256 scale = _mm256_mul_ps(q_scale, _mm256_loadu_ps(scales[p + j / 2] + j % 2 * 8));
                    s[b][first + k][p + j / 2][j % 2] = _mm256_mul_ps(_mm256_cvtepi32_ps(sum[k][j]), scale);
                }
        }
}

static __attribute__((noinline)) void score_shared(const side_by_side *side, const int blocks, int64_t d,
                                                   const strip *seen, const float *const scales[],
                                                   __m256 s[BLOCKS][SIDE][PAGES][2]) {
    int p = 0;
    for (; p + LINES <= seen->pages; p += LINES) score_pages(side, blocks, d, seen, scales, s, p, LINES);
    for (; p + 2 <= seen->pages; p += 2) score_pages(side, blocks, d, seen, scales, s, p, 2);
    if (p < seen->pages) score_pages(side, blocks, d, seen, scales, s, p, 1);
}

/* From the scores of four queries to the weights of their values in three steps, each of which ends in a chain, behind
   which there had better be something else to do. `whole`: four pages, of which all of them see everything. */

ALWAYS_INLINE void find_max(side_by_side *side, const strip *seen, __m256 s[SIDE][PAGES][2], const int pages,
                            const bool whole) {
    __m256 top[SIDE];
    float max[SIDE];
    side->seers = 0;
    for (int k = 0; k < SIDE; k++) {
        const query *of = side->of + k;
        side->seers |= (unsigned)(whole || sees(of, seen, pages)) << k;
        max[k] = of->span.max;
        top[k] = _mm256_set1_ps(-INFINITY);
        for (int p = 0; p < pages; p++)
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
    const __m256 earlier = pe_exp8(_mm256_castps128_ps256(_mm_sub_ps(before, all)));
    _mm_storeu_ps(side->earlier, _mm256_castps256_ps128(earlier));
    _mm_storeu_ps(max, all);
    for (int k = 0; k < SIDE; k++)
        if (side->seers >> k & 1) side->of[k].span.max = max[k];
}

ALWAYS_INLINE void exponentiate(side_by_side *side, const strip *seen, const float *const scales[],
                                __m256 s[SIDE][PAGES][2], const int pages, const bool whole) {
    __m256 low[SIDE], high[SIDE], most[SIDE];
    float sum[SIDE];
    for (int k = 0; k < SIDE; k++) {
        const __m256 max = _mm256_set1_ps(side->of[k].span.max);
        __m256 e[PAGES * 2], lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int i = 0; i < pages * 2; i++) e[i] = _mm256_sub_ps(s[k][i / 2][i % 2], max);
        if (whole)
            pe_exp_below8xn(e, PAGES * 2);
        else
            for (int p = 0; p < pages; p++) pe_exp_below8xn(e + p * 2, 2);
        most[k] = _mm256_setzero_ps();
        for (int i = 0; i < pages * 2; i++) {
            __m256 scale = _mm256_loadu_ps(scales[i / 2] + PE_PAGE + i % 2 * 8);
            if (!whole) {
                const __m256 sees = _mm256_castsi256_ps(live_of(side->of[k].sight, seen->first + i * 8));
                e[i] = _mm256_and_ps(sees, e[i]);
                scale = _mm256_and_ps(sees, scale);
            }
            lanes[i % 2] = _mm256_add_ps(lanes[i % 2], e[i]);
            s[k][i / 2][i % 2] = _mm256_mul_ps(e[i], scale);
            most[k] = pe_larger8(s[k][i / 2][i % 2], most[k]);
        }
        low[k] = lanes[0];
        high[k] = lanes[1];
        sum[k] = side->of[k].span.sum;
    }
    _mm_storeu_ps(sum, _mm_fmadd_ps(_mm_loadu_ps(sum), _mm_loadu_ps(side->earlier), pe_sum8x2x4(low, high)));
    for (int k = 0; k < SIDE; k++)
        if (side->seers >> k & 1) side->of[k].span.sum = sum[k];
    const __m128 largest = pe_largest8x4(most);
    _mm_storeu_ps(side->inverse, pe_weight_factor4(largest));
    _mm_storeu_ps(side->unit, pe_weight_scale4(largest));
}

/* Two pages at a time; of one that is not there, the bytes are 0. */
ALWAYS_INLINE void round_shared(side_by_side *side, __m256 s[SIDE][PAGES][2], const int pages) {
    const __m256 limit = _mm256_set1_ps(255.0f);
    __m256i start[SIDE];
    for (int k = 0; k < SIDE; k++) {
        const __m256 inverse = _mm256_set1_ps(side->inverse[k]);
        start[k] = _mm256_setzero_si256();
        for (int p = 0; p < pages; p += 2) {
            __m256i w[4];
            for (int i = 0; i < 4; i++) {
                w[i] = _mm256_set1_epi32(128);
                if (p + i / 2 == pages) continue;
                w[i] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(s[k][p + i / 2][i % 2], inverse), limit));
            }
            const __m256i low = _mm256_packus_epi32(w[0], w[1]), high = _mm256_packus_epi32(w[2], w[3]);
            const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
            const __m256i less = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
            start[k] = store_factors(less, start[k], side->shared[k] + p * PE_PAGE, PE_STRIP);
        }
    }
    _mm_store_si128((__m128i *)(void *)side->start, sums_of(start));
}

ALWAYS_INLINE void weigh(side_by_side *side, const int blocks, const strip *seen, const float *const scales[],
                         __m256 s[BLOCKS][SIDE][PAGES][2], const bool whole) {
    const int pages = whole ? PAGES : seen->pages;
    for (int b = 0; b < blocks; b++) find_max(side + b, seen, s[b], pages, whole);
    for (int b = 0; b < blocks; b++) exponentiate(side + b, seen, scales, s[b], pages, whole);
    for (int b = 0; b < blocks; b++) round_shared(side + b, s[b], pages);
}

static __attribute__((noinline)) void weigh_whole(side_by_side *side, const int blocks, const strip *seen,
                                                  const float *const scales[], __m256 s[BLOCKS][SIDE][PAGES][2]) {
    weigh(side, blocks, seen, scales, s, true);
}

static __attribute__((noinline)) void weigh_some(side_by_side *side, const int blocks, const strip *seen,
                                                 const float *const scales[], __m256 s[BLOCKS][SIDE][PAGES][2]) {
    weigh(side, blocks, seen, scales, s, false);
}

/* y = y earlier + the values, weighed, in 16 times `lines` of their columns from 16 i on. */
ALWAYS_INLINE void add_columns(side_by_side *side, const int blocks, const strip *seen, int64_t offset, int64_t d16,
                               int64_t i, const int lines) {
    __m256i all[LINES * 2]; /* 128 times the values */
    for (int j = 0; j < lines * 2; j++) all[j] = _mm256_setzero_si256();
    for (int p = 0; p < seen->pages; p++) {
        const uint8_t *v = seen->page[p] + offset + i * 64;
        for (int t = 0; t < 4; t++, v += d16 * 64)
            for (int j = 0; j < lines * 2; j++)
                all[j] = _mm256_add_epi16(all[j], _mm256_maddubs_epi16(_mm256_set1_epi8(1), load(v + j * 32)));
    }
    for (int j = 0; j < lines * 2; j++) all[j] = _mm256_madd_epi16(all[j], _mm256_set1_epi16(128));
    for (int b = 0; b < blocks; b++)
        for (int first = 0; first < SIDE; first += SIDE / lines) {
            side_by_side *own = side + b;
            const uint8_t *with = own->shared[first];
            __m256i sum[SIDE][LINES * 2];
            for (int k = 0; k < SIDE / lines; k++)
                for (int j = 0; j < lines * 2; j++)
                    sum[k][j] = _mm256_add_epi32(all[j], _mm256_set1_epi32(own->start[first + k]));
            for (int p = 0; p < seen->pages; p++) {
                const uint8_t *v = seen->page[p] + offset + i * 64;
                for (int t = 0; t < 4; t++, v += d16 * 64, with += 4)
                    dot_lines((const uint8_t *[LINES]){v, v + 64, v + 128, v + 192}, with, sizeof own->shared[0], sum,
                              lines);
            }
            for (int k = 0; k < SIDE / lines; k++) {
                if (!(own->seers >> (first + k) & 1)) continue;
                const __m256 unit = _mm256_set1_ps(own->unit[first + k]);
                const __m256 earlier = _mm256_set1_ps(own->earlier[first + k]);
                float *y = own->of[first + k].span.y + i * 16;
                for (int j = 0; j < lines * 2; j++) {
                    const __m256 before = _mm256_mul_ps(_mm256_load_ps(y + j * 8), earlier);
                    _mm256_store_ps(y + j * 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[k][j]), unit, before));
                }
            }
        }
}

static __attribute__((noinline)) void add_shared(side_by_side *side, const int blocks, const strip *seen,
                                                 int64_t offset, int64_t d16) {
    int64_t i = 0;
    for (; i + LINES <= d16; i += LINES) add_columns(side, blocks, seen, offset, d16, i, LINES);
    for (; i + 2 <= d16; i += 2) add_columns(side, blocks, seen, offset, d16, i, 2);
    if (i < d16) add_columns(side, blocks, seen, offset, d16, i, 1);
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
    if (seen->pages == PAGES && last->first <= seen->first && one->end >= seen->first + PE_STRIP)
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
