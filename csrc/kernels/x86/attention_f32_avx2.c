/* AVX2: attention over float32 pages. */
#include "kernels/x86/attention_avx2.h"

/* The products of n queries with the keys of a page. */
ALWAYS_INLINE void dot_keys(const side_by_side *side, int64_t d, const float *keys, const int n, __m256 dot[SIDE][2]) {
    for (int k = 0; k < n; k++) dot[k][0] = dot[k][1] = _mm256_setzero_ps();
    for (int64_t i = 0; i < d; i++, keys += PE_PAGE) {
        const __m256 key[2] = {_mm256_loadu_ps(keys), _mm256_loadu_ps(keys + 8)};
        for (int k = 0; k < n; k++) {
            const __m256 q = _mm256_set1_ps(side->of[k].q[i]);
            for (int half = 0; half < 2; half++) dot[k][half] = _mm256_fmadd_ps(q, key[half], dot[k][half]);
        }
    }
}

/* `lines` vectors of y from y[i] on: y = y earlier + the values of slots [from, end), weighed, of n queries. */
ALWAYS_INLINE void add_lines(side_by_side *side, const strip *seen, int64_t from, int64_t end, int64_t d, int64_t i,
                             int first, const int n, const int lines) {
    const int64_t d16 = (d + 15) / 16 * 16;
    __m256 y[SIDE][2];
    for (int k = 0; k < n; k++)
        for (int l = 0; l < lines; l++) {
            const query *of = side->of + first + k;
            y[k][l] = _mm256_mul_ps(_mm256_maskload_ps(of->span.y + i + l * 8, of->old), of->earlier);
        }
    for (int64_t t = from; t < end; t++) {
        const float *v = (const float *)(const void *)seen->page[t / PE_PAGE] + d * PE_PAGE + t % PE_PAGE * d16 + i;
        for (int l = 0; l < lines; l++) {
            const __m256 value = _mm256_loadu_ps(v + l * 8);
            for (int k = 0; k < n; k++)
                y[k][l] = _mm256_fmadd_ps(_mm256_set1_ps(side->exact[first + k][t]), value, y[k][l]);
        }
    }
    for (int k = 0; k < n; k++)
        for (int l = 0; l < lines; l++) _mm256_store_ps(side->of[first + k].span.y + i + l * 8, y[k][l]);
}

/* Of n queries from the first on, that see the same keys. */
ALWAYS_INLINE void add_values(side_by_side *side, const strip *seen, int64_t d, int first, const int n) {
    const pe_sight *sight = side->of[first].sight;
    const int64_t from = pe_max(sight->first - seen->first, 0);
    const int64_t end = pe_min(sight->end - seen->first, seen->pages * PE_PAGE);
    for (int64_t i = 0; i < d; i += 16) add_lines(side, seen, from, end, d, i, first, n, 2);
}

ALWAYS_INLINE void add_to_block(side_by_side *side, const pe_attend *a, const strip *seen, const int n,
                                const bool plain) {
    const int64_t d = a->head_dim;
    __m256 s[SIDE][PAGES][2];
    for (int p = 0; p < seen->pages; p++) {
        __m256 dot[SIDE][2];
        dot_keys(side, d, (const float *)(const void *)seen->page[p], n, dot);
        for (int k = 0; k < n; k++) {
            for (int half = 0; half < 2; half++) s[k][p][half] = _mm256_mul_ps(dot[k][half], _mm256_set1_ps(a->scale));
            if (!plain) add_biases(a, side->of + k, seen->first + p * PE_PAGE, s[k][p]);
        }
    }
    unsigned seers = 0;
    for (int k = 0; k < n; k++) {
        if (n > 1 && !sees(side->of + k, seen, seen->pages)) continue;
        seers |= 1u << k;
        __m256i live[PAGES][2];
        softmax(side->of + k, s[k], seen, seen->pages, live);
        for (int p = 0; p < seen->pages * 2; p++) _mm256_store_ps(side->exact[k] + p * 8, s[k][p / 2][p % 2]);
    }
    const pe_sight *one = side->of[0].sight, *last = side->of[n - 1].sight;
    const bool whole = last->first <= seen->first && one->end >= seen->first + seen->pages * PE_PAGE;
    if (n > 1 && (whole || (one->first == last->first && one->end == last->end)))
        add_values(side, seen, d, 0, n);
    else
        for (int k = 0; k < n; k++)
            if (seers >> k & 1) add_values(side, seen, d, k, 1);
}

ALWAYS_INLINE void add_strip(side_by_side *side, const pe_attend *a, task what, const int n, const int blocks,
                             const bool plain) {
    for (int b = 0; b < blocks; b++) {
        if (blocks > 1)
            prefetch_page(a, what.end + b * PE_PAGE, what.last, what.offset, pe_page_bytes_f32(a->head_dim));
        strip seen;
        const query *of = side[b].of;
        const int64_t key = pe_max(what.key, of->sight->first), end = pe_min(what.end, of[n - 1].sight->end);
        if (take_strip(a, key, end, what.offset, &seen)) add_to_block(side + b, a, &seen, n, plain);
    }
}

/* The plain case has a loop of its own. */
static __attribute__((noinline)) void attend_plain(const pe_attend *a) { attend(a, false, true, add_strip); }
static __attribute__((noinline)) void attend_any(const pe_attend *a) { attend(a, false, false, add_strip); }

void pe_attend_f32_f32__avx2(const pe_attend *a) { (pe_is_plain(a) ? attend_plain : attend_any)(a); }
