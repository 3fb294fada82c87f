/* AVX2: what attentions over int8 and over float32 pages share. Sixteen tokens of a page are two vectors of eight
   lanes. */
#ifndef PE_KERNELS_X86_ATTENTION_AVX2_H
#define PE_KERNELS_X86_ATTENTION_AVX2_H

#include "kernels/x86/vec_avx2.h"
#include "kernels/x86/x86.h"

enum { PAGES = PE_STRIP / PE_PAGE, SIDE = 4, BLOCKS = 4 };

/* Sums over the keys that were seen so far; a sum of 0: none. */
typedef struct sums {
    _Alignas(32) float y[PE_MAX_HEAD_DIM];
    float max, sum;
} sums;

/* A row's query of one head. */
typedef struct query {
    const pe_sight *sight;
    int64_t head;    /* of the query heads */
    const float *q;
    float *y;
    sums span, all;  /* of this span; of those before it */
    __m256i old;     /* all ones if there are sums of strips before */
    __m256 earlier;  /* what a strip multiplies these with */
} query;

/* The pages of a strip with keys that are seen. */
typedef struct strip {
    int64_t first; /* key of the first page's slot 0 */
    int pages;     /* 1 to 4 */
    const uint8_t *page[PAGES];
} strip;

/* The queries of a tile that read a key-value head, row by row. */
typedef struct place {
    int64_t row, member; /* of the group */
} place;

static inline place next_of(const pe_attend *a, place at) {
    return at.member + 1 < a->group ? (place){at.row, at.member + 1} : (place){at.row + 1, 0};
}

ALWAYS_INLINE void take_query(const pe_attend *a, int64_t head, place at, query *to) {
    const int64_t row = at.row;
    to->sight = a->sight + row;
    to->head = head * a->group + at.member;
    to->q = a->q + row * a->ldq + to->head * a->head_dim;
    to->y = a->y + row * a->ldy + to->head * a->head_dim;
}

ALWAYS_INLINE void begin_span(sums *s) {
    s->max = -INFINITY;
    s->sum = 0.0f;
}

/* Keys [key, end), from a head's part of a page on; false: none. */
ALWAYS_INLINE bool take_strip(const pe_attend *a, int64_t key, int64_t end, int64_t offset, strip *s) {
    s->first = key - key % PE_PAGE;
    s->pages = 0;
    for (int64_t first = s->first; first < end; first += PE_PAGE)
        s->page[s->pages++] = a->pages[first / PE_PAGE] + offset;
    return key < end;
}

/* A head's part of the page of a key, if that is before `end`. */
static inline void prefetch_page(const pe_attend *a, int64_t key, int64_t end, int64_t offset, int64_t bytes) {
    if (key >= end) return;
    const char *at = (const char *)a->pages[key / PE_PAGE] + offset;
    for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(at + i, _MM_HINT_T0);
}

ALWAYS_INLINE bool sees(const query *of, const strip *s, const int pages) {
    return of->sight->first < s->first + pages * PE_PAGE && of->sight->end > s->first;
}

/* Which of eight keys from `first` on are seen. */
ALWAYS_INLINE __m256i live_of(const pe_sight *sight, int64_t first) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)(sight->first - first)), lane);
    return _mm256_andnot_si256(before, _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)(sight->end - first)), lane));
}

/* From a page's scaled products to its scores; it begins with key `first`. */
static inline void add_biases(const pe_attend *a, const query *of, int64_t first, __m256 s[2]) {
    const int64_t distance = first - of->sight->position, start = pe_clamp(distance, -a->reach - PE_PAGE, a->reach);
    for (int half = 0; half < 2; half++) {
        if (a->soft_cap > 0.0f) {
            const __m256 part = _mm256_mul_ps(s[half], _mm256_set1_ps(1.0f / a->soft_cap));
            s[half] = _mm256_mul_ps(_mm256_set1_ps(a->soft_cap), pe_tanh8(part));
        }
        if (a->relative) {
            const float *biases = a->relative + of->head * a->relative_ld + start;
            s[half] = _mm256_add_ps(s[half], _mm256_loadu_ps(biases + half * 8));
        }
        if (a->slopes) {
            const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            const __m256i each = _mm256_add_epi32(_mm256_set1_epi32((int32_t)distance + half * 8), lane);
            s[half] = _mm256_fmadd_ps(_mm256_set1_ps(a->slopes[of->head]), _mm256_cvtepi32_ps(each), s[half]);
        }
    }
}

/* s becomes e^(s - max) in the slots that are seen, which are `live`, and 0 elsewhere. */
ALWAYS_INLINE void softmax(query *of, __m256 s[PAGES][2], const strip *seen, const int pages, __m256i live[PAGES][2]) {
    __m256 top = _mm256_set1_ps(-INFINITY), lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int p = 0; p < pages; p++)
        for (int half = 0; half < 2; half++) {
            live[p][half] = live_of(of->sight, seen->first + p * PE_PAGE + half * 8);
            top = _mm256_max_ps(_mm256_blendv_ps(top, s[p][half], _mm256_castsi256_ps(live[p][half])), top);
        }
    sums *to = &of->span;
    const float strip_max = pe_max8(top), max = strip_max > to->max ? strip_max : to->max;
    for (int p = 0; p < pages; p++)
        for (int half = 0; half < 2; half++) {
            const __m256 e = pe_exp8(_mm256_sub_ps(s[p][half], _mm256_set1_ps(max)));
            s[p][half] = _mm256_and_ps(_mm256_castsi256_ps(live[p][half]), e);
            lanes[half] = _mm256_add_ps(lanes[half], s[p][half]);
        }
    const float earlier = pe_exp(to->max - max);
    of->old = _mm256_set1_epi32(to->sum == 0.0f ? 0 : -1);
    of->earlier = _mm256_set1_ps(earlier);
    to->max = max;
    to->sum = fmaf(to->sum, earlier, pe_sum8x2(lanes[0], lanes[1]));
}

/* The span's sums onto those of the spans before it. */
static __attribute__((noinline)) void merge(const sums *span, int64_t d, sums *all) {
    if (span->sum == 0.0f) return;
    if (all->sum == 0.0f) {
        *all = *span;
        return;
    }
    const float max = span->max > all->max ? span->max : all->max;
    const float old = pe_exp(all->max - max), new = pe_exp(span->max - max);
    all->max = max;
    all->sum = fmaf(span->sum, new, all->sum * old);
    for (int64_t i = 0; i < d; i++) all->y[i] = fmaf(span->y[i], new, all->y[i] * old);
}

static inline void finish(int64_t d, const sums *all, float *y) {
    for (int64_t i = 0; i < d; i++) y[i] = all->y[i] / all->sum;
}

/* What a query or its weights are multiplied as: of each four bytes the first and third, the second and fourth. */
typedef int32_t pairs[2];

/* Weights 0..255 of a strip. */
typedef struct weights {
    float unit; /* what 1 of them weighs */
    _Alignas(32) uint8_t bytes[PE_STRIP];
} weights;

/* Up to four queries that go through the pages of a head together. */
typedef struct side_by_side {
    query of[SIDE];
    _Alignas(32) int8_t q[SIDE][PE_MAX_HEAD_DIM]; /* of int8 pages, as are these */
    float q_scale[SIDE];
    weights w; /* of one query */
    _Alignas(32) pairs pairs[SIDE][PE_MAX_HEAD_DIM / 4], shared[SIDE][PE_STRIP / 4]; /* several: as pairs */
    unsigned seers;             /* bit k: query k sees keys of the strip */
    __m128 earlier;
    float inverse[SIDE], unit[SIDE];
    _Alignas(32) float exact[SIDE][PE_STRIP]; /* the weights of float32 pages */
} side_by_side;

/* 16 values in 16 bits, four by four, as pairs. */
ALWAYS_INLINE void store_pairs(__m256i words, pairs *to) {
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, /* */
                                           0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    _mm256_store_si256((__m256i *)(void *)to, _mm256_shuffle_epi8(words, order));
}

/* Rounds a query of int8 pages. */
ALWAYS_INLINE void begin(const pe_attend *a, side_by_side *side, int k, const bool paired) {
    const int64_t d = a->head_dim;
    pe_quantize_q8r_f32__avx2(side->of[k].q, d, (d + 3) / 4 * 4, 0, side->q[k], side->q_scale + k);
    side->q_scale[k] *= a->scale;
    for (int64_t i = 0; i < d && paired; i += 16) {
        const __m128i bytes = _mm_load_si128((const __m128i *)(const void *)(side->q[k] + i));
        store_pairs(_mm256_cvtepi8_epi16(bytes), side->pairs[k] + i / 4);
    }
}

/* A strip onto the sums of `blocks` times n queries. */
typedef struct task {
    int64_t key, end, last; /* keys [key, end) of the strip; where the queries' keys end */
    int64_t offset;         /* from a page's start to the head's part */
} task;

typedef void add_strip_function(side_by_side *side, const pe_attend *a, task what, const int n, const int blocks,
                                const bool plain);

/* `blocks` times n queries of a head from `at` on, which stay together for a strip, which is in the first-level cache.
   Returns the query behind them. */
ALWAYS_INLINE place attend_some(const pe_attend *a, int64_t head, place at, const int n, const int blocks,
                                const bool q8, const bool plain, add_strip_function *add_strip) {
    const int64_t d = a->head_dim;
    const int64_t offset = a->offset + head * (q8 ? pe_page_bytes_q8(d) : pe_page_bytes_f32(d));
    side_by_side side[BLOCKS];
    for (int i = 0; i < blocks * n; i++, at = next_of(a, at)) {
        side_by_side *own = side + i / n;
        take_query(a, head, at, own->of + i % n);
        begin_span(&own->of[i % n].all);
        if (q8) begin(a, own, i % n, n > 1);
    }
    const int64_t first_key = side[0].of[0].sight->first, end_key = side[blocks - 1].of[n - 1].sight->end;
    const bool several = pe_span_end(first_key) < end_key;
    for (int64_t key = first_key; key < end_key;) {
        const int64_t span_end = pe_min(end_key, pe_span_end(key));
        for (int i = 0; i < blocks * n; i++) begin_span(&side[i / n].of[i % n].span);
        for (int64_t end; key < span_end; key = end) {
            end = pe_min(span_end, pe_strip_end(key));
            add_strip(side, a, (task){key, end, end_key, offset}, n, blocks, plain);
        }
        for (int i = 0; i < blocks * n && several; i++) {
            query *of = side[i / n].of + i % n;
            merge(&of->span, d, &of->all);
        }
    }
    for (int i = 0; i < blocks * n; i++) {
        const query *of = side[i / n].of + i % n;
        finish(d, several ? &of->all : &of->span, of->y);
    }
    return at;
}

ALWAYS_INLINE void attend(const pe_attend *a, const bool q8, const bool plain, add_strip_function *add_strip) {
    for (int64_t head = 0; head < a->heads; head++) {
        place at = {0, 0};
        int64_t left = a->rows * a->group;
        for (; left >= BLOCKS * SIDE; left -= BLOCKS * SIDE)
            at = attend_some(a, head, at, SIDE, BLOCKS, q8, plain, add_strip);
        for (; left >= SIDE; left -= SIDE) at = attend_some(a, head, at, SIDE, 1, q8, plain, add_strip);
        for (; left > 0; left--) at = attend_some(a, head, at, 1, 1, q8, plain, add_strip);
    }
}

#endif
