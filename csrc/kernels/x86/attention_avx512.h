/* AVX-512: what attentions over int8 and over float32 pages share. Sixteen tokens of a page are the lanes of a
   vector. */
#ifndef PE_KERNELS_X86_ATTENTION_AVX512_H
#define PE_KERNELS_X86_ATTENTION_AVX512_H

#include "kernels/x86/vec_avx512.h"
#include "kernels/x86/x86.h"

enum { SIDE = 4, BLOCKS = 4, PAGES = PE_STRIP / PE_PAGE };

/* 16 values, 0 where not `live`, as int8 values in 32 bits. */
ALWAYS_INLINE __m512i quantized(const float *x, __mmask16 live, __m512 inverse) {
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(live, x), inverse);
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(-127.0f)), _mm512_set1_ps(127.0f)));
}

/* The largest magnitudes of values [d], 16 lanes. */
ALWAYS_INLINE __m512 absmax(const float *x, int64_t d) {
    __m512 top = _mm512_setzero_ps();
    for (int64_t i = 0; i < d; i += 16)
        top = pe_larger16(_mm512_abs_ps(_mm512_maskz_loadu_ps(pe_mask16(d - i), x + i)), top);
    return top;
}

static inline __m512 lane_ps(__m128 v, int lane) {
    return _mm512_permutexvar_ps(_mm512_set1_epi32(lane), _mm512_castps128_ps512(v));
}

/* Up to four queries side by side: each step of one is a long chain, and what a chain ends in, four share a vector of
   four lanes for. They read the same pages of one head, or, of one row, those of adjacent heads. */
typedef struct queries {
    const pe_attend *a;
    int64_t head[SIDE];          /* of the query heads */
    const pe_sight *sight[SIDE];
    const float *q[SIDE];
    float *y[SIDE];
    int64_t offset, stride;      /* from a page's start to what the first one reads; from there to the next one's */
} queries;

/* Where the queries of a tile that read a key-value head stand, row by row; of one row without groups, head by head. */
typedef struct place {
    int64_t head, row, member; /* of the group */
} place;

/* The next n queries; `at` moves behind them. */
ALWAYS_INLINE void take_queries(const pe_attend *a, place *at, const int n, int64_t head_bytes, queries *to) {
    const bool shared = a->rows * a->group > 1;
    to->a = a;
    to->offset = a->offset + at->head * head_bytes;
    to->stride = shared ? 0 : head_bytes;
    for (int i = 0; i < n; i++) {
        to->head[i] = at->head * a->group + at->member;
        to->sight[i] = a->sight + at->row;
        to->q[i] = a->q + at->row * a->ldq + to->head[i] * a->head_dim;
        to->y[i] = a->y + at->row * a->ldy + to->head[i] * a->head_dim;
        if (!shared)
            at->head++;
        else if (++at->member == a->group)
            at->member = 0, at->row++;
    }
}

/* The pages of a strip with keys that are seen. */
typedef struct strip {
    int64_t first; /* key of the first page's slot 0 */
    int pages;     /* 1 to 4 */
    const uint8_t *page[PAGES];
    bool whole;                  /* four pages, of which all queries see everything */
    __mmask16 live[PAGES][SIDE]; /* what each query sees of it */
} strip;

static inline __mmask16 live_of(const pe_sight *sight, int64_t first) {
    return (__mmask16)(pe_mask16(sight->end - first) & ~pe_mask16(sight->first - first));
}

/* A head's part of the page of a key, if that is before `end`. */
static inline void prefetch_page(const pe_attend *a, int64_t key, int64_t end, int64_t offset, int64_t bytes) {
    if (key >= end) return;
    const char *at = (const char *)a->pages[key / PE_PAGE] + offset;
    for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(at + i, _MM_HINT_T0);
}

/* What n queries see of keys [key, end); false: nothing. */
ALWAYS_INLINE bool take_strip(const queries *of, int64_t key, int64_t end, const int n, strip *s) {
    key = pe_max(key, of->sight[0]->first);
    end = pe_min(end, of->sight[n - 1]->end);
    s->first = key - key % PE_PAGE;
    s->pages = 0;
    for (int64_t first = s->first; first < end; first += PE_PAGE)
        s->page[s->pages++] = of->a->pages[first / PE_PAGE] + of->offset;
    s->whole = of->sight[n - 1]->first <= s->first && of->sight[0]->end >= s->first + s->pages * PE_PAGE;
    if (s->whole) {
        memset(s->live, 0xff, sizeof s->live);
    } else {
        for (int p = 0; p < s->pages; p++)
            for (int i = 0; i < n; i++) s->live[p][i] = live_of(of->sight[i], s->first + p * PE_PAGE);
    }
    s->whole &= s->pages == PAGES;
    return key < end;
}

/* Of an int8 page's keys, in front of those of its values. */
static inline const float *scales_of(const strip *seen, int p, int64_t d) {
    return (const float *)(const void *)(seen->page[p] + pe_page_keys_q8(d) + pe_page_values_q8(d));
}

/* From a page's scaled products to its scores; it begins with key `first`. */
static inline __m512 biased(const pe_attend *a, int64_t head, int64_t position, int64_t first, __m512 s) {
    const int64_t distance = first - position, start = pe_clamp(distance, -a->reach - PE_PAGE, a->reach);
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

static inline void finish(int64_t d, float *to, __m512 sum, const float *y) {
    for (int64_t i = 0; i < d; i += 16) {
        const __mmask16 live = pe_mask16(d - i);
        _mm512_mask_storeu_ps(to + i, live, _mm512_div_ps(_mm512_loadu_ps(y + i), sum));
    }
}

#endif
