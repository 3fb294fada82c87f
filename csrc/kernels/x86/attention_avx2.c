/* AVX2: attention over pages. Sixteen tokens of a page are two vectors of eight lanes; int8 products of queries and
   keys as in gemm_avx2.c. */
#include "kernels/x86/vec_avx2.h"
#include "kernels/x86/x86.h"

/* The pages of a strip with keys that are seen. */
enum { PAGES = PE_STRIP / PE_PAGE };
typedef struct strip {
    int64_t first;       /* key of the first page's slot 0 */
    int64_t from, to;    /* slots from there on that are seen */
    int pages;           /* 1 to 4 */
    const uint8_t *page[PAGES];
    __m256i live[PAGES][2];
} strip;

/* Keys [key, end), from a head's part of a page on. */
ALWAYS_INLINE void take_strip(const pe_attend *a, int64_t key, int64_t end, int64_t offset, const bool plain,
                              strip *s) {
    s->from = plain ? 0 : key % PE_PAGE;
    s->first = key - s->from;
    s->to = end - s->first;
    s->pages = 0;
    for (int64_t first = 0; first < s->to; first += PE_PAGE, s->pages++) {
        s->page[s->pages] = a->pages[(s->first + first) / PE_PAGE] + offset;
        for (int half = 0; half < 2; half++) {
            __m256i live = pe_mask8(s->to - first - half * 8);
            if (!plain) live = _mm256_andnot_si256(pe_mask8(s->from - first - half * 8), live);
            s->live[s->pages][half] = live;
        }
    }
}

/* From a page's scaled products to its scores; it begins with key `first`. */
static void add_biases(const pe_attend *a, int64_t head, int64_t first, __m256 s[2]) {
    const int64_t distance = first - a->position, start = pe_clamp(distance, -a->reach - PE_PAGE, a->reach);
    for (int half = 0; half < 2; half++) {
        if (a->soft_cap > 0.0f) {
            const __m256 part = _mm256_mul_ps(s[half], _mm256_set1_ps(1.0f / a->soft_cap));
            s[half] = _mm256_mul_ps(_mm256_set1_ps(a->soft_cap), pe_tanh8(part));
        }
        if (a->relative) {
            const float *biases = a->relative + head * a->relative_ld + start;
            s[half] = _mm256_add_ps(s[half], _mm256_loadu_ps(biases + half * 8));
        }
        if (a->slopes) {
            const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            const __m256i each = _mm256_add_epi32(_mm256_set1_epi32((int32_t)distance + half * 8), lane);
            s[half] = _mm256_fmadd_ps(_mm256_set1_ps(a->slopes[head]), _mm256_cvtepi32_ps(each), s[half]);
        }
    }
}

/* Sums over the keys of one head that were seen so far. */
typedef struct sum {
    _Alignas(32) float y[PE_MAX_HEAD_DIM];
    float max, sum;
} sum;

/* s becomes e^(s - max) in the slots that are seen, 0 elsewhere. Returns what earlier sums are multiplied with. */
ALWAYS_INLINE float softmax(sum *to, __m256 s[PAGES][2], const strip *seen, const int pages) {
    __m256 top = _mm256_set1_ps(-INFINITY), lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int p = 0; p < pages; p++)
        for (int half = 0; half < 2; half++) {
            const __m256 live = _mm256_castsi256_ps(seen->live[p][half]);
            top = _mm256_max_ps(_mm256_blendv_ps(top, s[p][half], live), top);
        }
    const float strip_max = pe_max8(top), max = strip_max > to->max ? strip_max : to->max;
    for (int p = 0; p < pages; p++)
        for (int half = 0; half < 2; half++) {
            const __m256 e = pe_exp8(_mm256_sub_ps(s[p][half], _mm256_set1_ps(max)));
            s[p][half] = _mm256_and_ps(_mm256_castsi256_ps(seen->live[p][half]), e);
            lanes[half] = _mm256_add_ps(lanes[half], s[p][half]);
        }
    const float earlier = pe_exp(to->max - max);
    to->max = max;
    to->sum = fmaf(to->sum, earlier, pe_sum8x2(lanes[0], lanes[1]));
    return earlier;
}

/* The span's sums onto those of the spans before it. */
static __attribute__((noinline)) void merge(const sum *span, int64_t d, sum *all) {
    const float max = span->max > all->max ? span->max : all->max;
    const float old = pe_exp(all->max - max), new = pe_exp(span->max - max);
    all->max = max;
    all->sum = fmaf(span->sum, new, all->sum * old);
    for (int64_t i = 0; i < d; i++) all->y[i] = fmaf(span->y[i], new, all->y[i] * old);
}

static inline __m256i load(const void *bytes) { return _mm256_loadu_si256((const __m256i *)bytes); }

/* sum + the products of 8 lanes of 4 signed bytes each; `positive` is |b|. */
static inline __m256i dot4(__m256i sum, __m256i positive, __m256i signed_bytes) {
    const __m256i pairs = _mm256_maddubs_epi16(positive, signed_bytes);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* The products of a query with the keys of a page. */
ALWAYS_INLINE void dot_keys(const int8_t *q, int64_t d, const uint8_t *keys, __m256i dot[2]) {
    dot[0] = dot[1] = _mm256_setzero_si256();
    for (int64_t i = 0; i < d; i += 4, keys += 64) {
        int32_t quad;
        memcpy(&quad, q + i, sizeof quad);
        const __m256i query = _mm256_set1_epi32(quad);
        for (int half = 0; half < 2; half++) {
            const __m256i key = load(keys + half * 32);
            dot[half] = dot4(dot[half], _mm256_abs_epi8(key), _mm256_sign_epi8(query, key));
        }
    }
}

/* Weights 0..255 of a strip. Two of them times two values fit into 16 bits if no weight is above 129: what is more, of
   the few that are, is added by itself. */
typedef struct weights {
    float unit; /* what 1 of them weighs */
    int32_t quad[PE_STRIP / 4], rest[PE_STRIP / 4];
    uint32_t rests; /* bit t: rest[t] is not 0 */
} weights;

/* From p times the values' scales. */
ALWAYS_INLINE void round_weights(const __m256 p[PAGES][2], const int pages, weights *to) {
    __m256 most = _mm256_setzero_ps();
    for (int i = 0; i < pages; i++) most = pe_larger8(pe_larger8(p[i][0], p[i][1]), most);
    const float largest = pe_largest8(most);
    const __m256 inverse = _mm256_set1_ps(pe_weight_factor(largest)), limit = _mm256_set1_ps(255.0f);
    to->unit = pe_weight_scale(largest);
    to->rests = 0;
    for (int i = 0; i < pages; i++) {
        __m256i w[2];
        for (int half = 0; half < 2; half++)
            w[half] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(p[i][half], inverse), limit));
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(w[0], w[1]), 0xd8);
        const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        const __m128i rest = _mm_subs_epu8(bytes, _mm_set1_epi8((char)129));
        _mm_storeu_si128((__m128i *)(void *)(to->quad + i * 4), _mm_sub_epi8(bytes, rest));
        _mm_storeu_si128((__m128i *)(void *)(to->rest + i * 4), rest);
        const __m128i none = _mm_cmpeq_epi32(rest, _mm_setzero_si128());
        to->rests |= (~(uint32_t)_mm_movemask_ps(_mm_castsi128_ps(none)) & 15) << i * 4;
    }
}

/* y = y earlier + the values of a strip, weighed; `old`: where there is a y. */
ALWAYS_INLINE void add_values(float *y, __m256i old, __m256 earlier, const weights *w, const strip *seen,
                              int64_t offset, int64_t d16, const int pages) {
    const __m256 unit = _mm256_set1_ps(w->unit);
    for (int64_t i = 0; i < d16 * 2; i++) {
        __m256i sum = _mm256_setzero_si256();
        for (int t = 0; t < pages * 4; t++) {
            const uint8_t *v = seen->page[t / 4] + offset + t % 4 * d16 * 64 + i * 32;
            sum = dot4(sum, _mm256_set1_epi32(w->quad[t]), load(v));
        }
        for (uint32_t rests = w->rests; rests; rests &= rests - 1) {
            const int t = __builtin_ctz(rests);
            const uint8_t *v = seen->page[t / 4] + offset + t % 4 * d16 * 64 + i * 32;
            sum = dot4(sum, _mm256_set1_epi32(w->rest[t]), load(v));
        }
        const __m256 before = _mm256_mul_ps(_mm256_maskload_ps(y + i * 8, old), earlier);
        _mm256_store_ps(y + i * 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), unit, before));
    }
}

ALWAYS_INLINE void add_strip_q8(const pe_attend *a, int64_t head, const int8_t *q, float q_scale, const strip *seen,
                                sum *to, const int pages,
                                const bool plain) {
    const int64_t d = a->head_dim, values = pe_page_keys_q8(d);
    __m256 p[PAGES][2];
    for (int i = 0; i < pages; i++) {
        const float *scales = (const float *)(const void *)(seen->page[i] + values + pe_page_values_q8(d));
        __m256i dot[2];
        dot_keys(q, d, seen->page[i], dot);
        for (int half = 0; half < 2; half++) {
            const __m256 scale = _mm256_maskload_ps(scales + half * 8, seen->live[i][half]);
            p[i][half] = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[half]), _mm256_mul_ps(_mm256_set1_ps(q_scale), scale));
        }
        if (!plain) add_biases(a, head, seen->first + i * PE_PAGE, p[i]);
    }
    const __m256i old = _mm256_set1_epi32(to->sum == 0.0f ? 0 : -1);
    const __m256 earlier = _mm256_set1_ps(softmax(to, p, seen, pages));
    for (int i = 0; i < pages; i++) {
        const float *scales = (const float *)(const void *)(seen->page[i] + values + pe_page_values_q8(d)) + PE_PAGE;
        for (int half = 0; half < 2; half++)
            p[i][half] = _mm256_mul_ps(p[i][half], _mm256_maskload_ps(scales + half * 8, seen->live[i][half]));
    }
    weights w;
    round_weights(p, pages, &w);
    add_values(to->y, old, earlier, &w, seen, values, (d + 15) / 16, pages);
}

ALWAYS_INLINE void add_strip_f32(const pe_attend *a, int64_t head, const strip *seen, sum *to, const int pages,
                                const bool plain) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16 * 16;
    const float *query = a->q + head * d;
    __m256 s[PAGES][2];
    for (int p = 0; p < pages; p++) {
        const float *keys = (const float *)(const void *)seen->page[p];
        s[p][0] = s[p][1] = _mm256_setzero_ps();
        for (int64_t i = 0; i < d; i++) {
            const __m256 q = _mm256_set1_ps(query[i]);
            s[p][0] = _mm256_fmadd_ps(q, _mm256_loadu_ps(keys + i * PE_PAGE), s[p][0]);
            s[p][1] = _mm256_fmadd_ps(q, _mm256_loadu_ps(keys + i * PE_PAGE + 8), s[p][1]);
        }
        for (int half = 0; half < 2; half++) s[p][half] = _mm256_mul_ps(s[p][half], _mm256_set1_ps(a->scale));
        if (!plain) add_biases(a, head, seen->first + p * PE_PAGE, s[p]);
    }
    const __m256i old = _mm256_set1_epi32(to->sum == 0.0f ? 0 : -1);
    const __m256 earlier = _mm256_set1_ps(softmax(to, s, seen, pages));
    _Alignas(32) float weights[PE_STRIP];
    for (int p = 0; p < pages * 2; p++) _mm256_store_ps(weights + p * 8, s[p / 2][p % 2]);
    for (int64_t i = 0; i < d16; i += 8) {
        __m256 y = _mm256_mul_ps(_mm256_maskload_ps(to->y + i, old), earlier);
        for (int64_t t = seen->from; t < seen->to; t++) {
            const float *values = (const float *)(const void *)seen->page[t / PE_PAGE] + d * PE_PAGE;
            y = _mm256_fmadd_ps(_mm256_set1_ps(weights[t]), _mm256_loadu_ps(values + t % PE_PAGE * d16 + i), y);
        }
        _mm256_store_ps(to->y + i, y);
    }
}

ALWAYS_INLINE void add_strip(const pe_attend *a, int64_t head, const int8_t *q, float q_scale, const strip *seen,
                             sum *to, const int pages, const bool q8, const bool plain) {
    if (q8)
        add_strip_q8(a, head, q, q_scale * a->scale, seen, to, pages, plain);
    else
        add_strip_f32(a, head, seen, to, pages, plain);
}

ALWAYS_INLINE void attend_head(const pe_attend *a, int64_t head, const bool q8, const bool plain) {
    const int64_t d = a->head_dim, head_bytes = q8 ? pe_page_bytes_q8(d) : pe_page_bytes_f32(d);
    const int64_t offset = a->offset + head * head_bytes, first_key = plain ? 0 : a->first_key;
    _Alignas(32) int8_t q[PE_MAX_HEAD_DIM];
    float q_scale = 0;
    if (q8) pe_quantize_q8r_f32__avx2(a->q + head * d, d, (d + 3) / 4 * 4, 0, q, &q_scale);
    sum spans[2], *all = NULL;
    for (int64_t key = first_key; key < a->n_keys;) {
        const int64_t span_end = pe_min(a->n_keys, pe_span_end(key));
        sum *span = spans + (all != NULL);
        span->max = -INFINITY;
        span->sum = 0.0f;
        for (int64_t end; key < span_end; key = end) {
            end = pe_min(span_end, pe_strip_end(key));
            strip seen;
            take_strip(a, key, end, offset, plain, &seen);
            switch (seen.pages) {
            case 1: add_strip(a, head, q, q_scale, &seen, span, 1, q8, plain); break;
            case 2: add_strip(a, head, q, q_scale, &seen, span, 2, q8, plain); break;
            case 3: add_strip(a, head, q, q_scale, &seen, span, 3, q8, plain); break;
            default: add_strip(a, head, q, q_scale, &seen, span, PAGES, q8, plain);
            }
        }
        if (all) merge(span, d, all);
        all = spans;
    }
    for (int64_t i = 0; i < d; i++) a->y[head * d + i] = all->y[i] / all->sum;
}

/* The plain case has a loop of its own. Not inlined: constants hoisted out of the loop over heads would take all
   registers. */
static __attribute__((noinline)) void attend_plain_q8(const pe_attend *a, int64_t head) {
    attend_head(a, head, true, true);
}

static __attribute__((noinline)) void attend_any_q8(const pe_attend *a, int64_t head) {
    attend_head(a, head, true, false);
}

void pe_attend_f32_q8__avx2(const pe_attend *a) {
    const bool plain = pe_is_plain(a);
    for (int64_t head = 0; head < a->heads; head++) (plain ? attend_plain_q8 : attend_any_q8)(a, head);
}

static __attribute__((noinline)) void attend_plain_f32(const pe_attend *a, int64_t head) {
    attend_head(a, head, false, true);
}

static __attribute__((noinline)) void attend_any_f32(const pe_attend *a, int64_t head) {
    attend_head(a, head, false, false);
}

void pe_attend_f32_f32__avx2(const pe_attend *a) {
    const bool plain = pe_is_plain(a);
    for (int64_t head = 0; head < a->heads; head++) (plain ? attend_plain_f32 : attend_any_f32)(a, head);
}

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
