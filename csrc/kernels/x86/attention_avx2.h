/* AVX2: what attentions over int8 and over float32 pages share. Sixteen tokens of a page are two vectors of eight
   lanes. */
#ifndef PE_KERNELS_X86_ATTENTION_AVX2_H
#define PE_KERNELS_X86_ATTENTION_AVX2_H

#include "kernels/x86/vec_avx2.h"
#include "kernels/x86/x86.h"

enum { PAGES = PE_STRIP / PE_PAGE, SIDE = 4, BLOCKS = 4 };

/* Lines of 64 bytes of int8 pages that are read at a time, at most: those of a strip's pages, one of each. */
enum { LINES = 4 };

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
    /* Of several: q and the weights less 128 as magnitudes, behind them all ones where they are negative; and the
       magnitudes of what is negative, added up. */
    _Alignas(32) uint8_t factors[SIDE][2 * PE_MAX_HEAD_DIM], shared[SIDE][2 * PE_STRIP];
    _Alignas(16) int32_t q_start[SIDE], start[SIDE];
    uint32_t fits[SIDE]; /* fits_of q */
    unsigned seers;      /* bit k: query k sees keys of the strip */
    float earlier[SIDE], inverse[SIDE], unit[SIDE];
    _Alignas(32) float exact[SIDE][PE_STRIP]; /* the weights of float32 pages */
} side_by_side;

/* 32 signed bytes as magnitudes and, `apart` from these, signs. Returns `start` + the magnitudes of the negative ones,
   in four parts. */
ALWAYS_INLINE __m256i store_factors(__m256i bytes, __m256i start, uint8_t *to, int64_t apart) {
    const __m256i zero = _mm256_setzero_si256(), size = _mm256_abs_epi8(bytes), sign = _mm256_cmpgt_epi8(zero, bytes);
    _mm256_store_si256((__m256i *)(void *)to, size);
    _mm256_store_si256((__m256i *)(void *)(to + apart), sign);
    return _mm256_add_epi32(start, _mm256_sad_epu8(_mm256_and_si256(size, sign), zero));
}

/* The sums of four parts each. */
ALWAYS_INLINE __m128i sums_of(const __m256i parts[SIDE]) {
    const __m256i low = _mm256_packus_epi32(parts[0], parts[1]), high = _mm256_packus_epi32(parts[2], parts[3]);
    const __m256i sums = _mm256_madd_epi16(_mm256_packus_epi32(low, high), _mm256_set1_epi16(1));
    return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

/* Bit i of four: bytes 8 i to 8 i + 7 times any others fit into 16 bits if the first pair and the third are added, the
   second and the fourth: 255 * 128 does. */
ALWAYS_INLINE uint32_t fits_of(const uint8_t *magnitudes) {
    const __m256i bytes = _mm256_load_si256((const __m256i *)(const void *)magnitudes);
    const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
    const __m256i both = _mm256_add_epi16(_mm256_srli_epi64(pairs, 32), pairs);
    const __m256i over = _mm256_cmpgt_epi16(both, _mm256_set1_epi64x(0x7fff7fff00ff00ff));
    const __m256i none = _mm256_cmpeq_epi64(over, _mm256_setzero_si256());
    return (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(none));
}

/* Rounds the queries of int8 pages. */
ALWAYS_INLINE void begin(const pe_attend *a, side_by_side *side, const int n) {
    const int64_t d = a->head_dim;
    __m256i start[SIDE];
    for (int k = 0; k < n; k++) {
        pe_quantize_q8r_f32__avx2(side->of[k].q, d, pe_round_up(d, 32), 0, side->q[k], side->q_scale + k);
        side->q_scale[k] *= a->scale;
        if (n == 1) return;
        start[k] = _mm256_setzero_si256();
        side->fits[k] = 0;
        for (int64_t i = 0; i < d; i += 32) {
            const __m256i bytes = _mm256_load_si256((const __m256i *)(const void *)(side->q[k] + i));
            start[k] = store_factors(bytes, start[k], side->factors[k] + i, PE_MAX_HEAD_DIM);
            side->fits[k] |= fits_of(side->factors[k] + i) << i / 8;
        }
    }
    _mm_store_si128((__m128i *)(void *)side->q_start, sums_of(start));
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
    }
    for (int b = 0; b < blocks && q8; b++) begin(a, side + b, n);
    const int64_t first_key = side[0].of[0].sight->first, end_key = side[blocks - 1].of[n - 1].sight->end;
    const bool several = pe_span_end(first_key) < end_key;
    for (int64_t key = first_key; key < end_key;) {
        const int64_t span_end = pe_min(end_key, pe_span_end(key));
        for (int i = 0; i < blocks * n; i++) {
            sums *span = &side[i / n].of[i % n].span;
            begin_span(span);
            for (int64_t k = 0; k < d && q8 && n > 1; k += 16) {
                _mm256_store_ps(span->y + k, _mm256_setzero_ps());
                _mm256_store_ps(span->y + k + 8, _mm256_setzero_ps());
            }
        }
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
