/* AVX-512: attention over float32 pages. */
#include "kernels/x86/attention_avx512.h"

/* Sums over the keys that a query has seen so far; a sum of 0: none. */
typedef struct sums {
    _Alignas(64) float y[PE_MAX_HEAD_DIM];
    float max, sum;
} sums;

/* A query on its way through the pages. */
typedef struct state {
    sums span, all;  /* of this span; of those before it */
    __mmask16 old;   /* lanes in which there are sums of strips before */
    __m512 earlier;  /* what a strip multiplies these with */
    _Alignas(64) float weights[PE_STRIP];
} state;

/* The products of n queries with the keys of `pages` pages from page p on. */
ALWAYS_INLINE void dot_keys(const queries *of, const strip *seen, int p, const int n, const int pages,
                            __m512 s[SIDE][PAGES]) {
    const int64_t d = of->a->head_dim;
    for (int k = 0; k < n; k++)
        for (int j = 0; j < pages; j++) s[k][p + j] = _mm512_setzero_ps();
    for (int64_t i = 0; i < d; i++)
        for (int j = 0; j < pages; j++) {
            const __m512 key = _mm512_loadu_ps((const float *)(const void *)seen->page[p + j] + i * PE_PAGE);
            for (int k = 0; k < n; k++) s[k][p + j] = _mm512_fmadd_ps(_mm512_set1_ps(of->q[k][i]), key, s[k][p + j]);
        }
}

/* From the scores of query k to its weights. */
ALWAYS_INLINE void softmax(const strip *seen, int k, const __m512 s[PAGES], state *to) {
    __m512 top = _mm512_set1_ps(-INFINITY), lanes = _mm512_setzero_ps();
    for (int p = 0; p < seen->pages; p++) top = _mm512_mask_max_ps(top, seen->live[p][k], s[p], top);
    const float strip_max = pe_max16(top), max = strip_max > to->span.max ? strip_max : to->span.max;
    for (int p = 0; p < seen->pages; p++) {
        const __m512 e = _mm512_maskz_mov_ps(seen->live[p][k], pe_exp16(_mm512_sub_ps(s[p], _mm512_set1_ps(max))));
        lanes = _mm512_add_ps(lanes, e);
        _mm512_store_ps(to->weights + p * PE_PAGE, e);
    }
    const float earlier = pe_exp(to->span.max - max);
    to->old = to->span.sum == 0.0f ? 0 : 0xffff;
    to->earlier = _mm512_set1_ps(earlier);
    to->span.max = max;
    to->span.sum = fmaf(to->span.sum, earlier, pe_sum16(lanes));
}

/* `lines` vectors of y from y[i] on: y = y earlier + the values, weighed, of n queries that see the same keys. */
ALWAYS_INLINE void add_lines(const strip *seen, const __mmask16 live[][SIDE], int64_t d, int64_t i, state *to,
                             const int n, const int lines) {
    __m512 y[SIDE][4];
    for (int k = 0; k < n; k++)
        for (int l = 0; l < lines; l++)
            y[k][l] = _mm512_mul_ps(_mm512_maskz_load_ps(to[k].old, to[k].span.y + i + l * 16), to[k].earlier);
    for (int p = 0; p < seen->pages; p++) {
        if (!live[p][0]) continue;
        const int64_t from = __builtin_ctz(live[p][0]), end = 32 - __builtin_clz(live[p][0]), d16 = (d + 15) / 16 * 16;
        const float *values = (const float *)(const void *)seen->page[p] + d * PE_PAGE + i;
        for (int64_t t = from; t < end; t++)
            for (int l = 0; l < lines; l++) {
                const __m512 v = _mm512_loadu_ps(values + t * d16 + l * 16);
                for (int k = 0; k < n; k++)
                    y[k][l] = _mm512_fmadd_ps(_mm512_set1_ps(to[k].weights[p * PE_PAGE + t]), v, y[k][l]);
            }
    }
    for (int k = 0; k < n; k++)
        for (int l = 0; l < lines; l++) _mm512_store_ps(to[k].span.y + i + l * 16, y[k][l]);
}

ALWAYS_INLINE void add_values(const strip *seen, int first, int64_t d, state *to, const int n) {
    __mmask16 live[PAGES][SIDE];
    for (int p = 0; p < seen->pages; p++) live[p][0] = seen->live[p][first];
    int64_t i = 0;
    for (; i + 48 < d; i += 64) add_lines(seen, live, d, i, to + first, n, 4);
    for (; i < d; i += 16) add_lines(seen, live, d, i, to + first, n, 1);
}

ALWAYS_INLINE void add_strip(const queries *of, const strip *seen, state *to, const int n, const bool plain) {
    const pe_attend *a = of->a;
    __m512 s[SIDE][PAGES];
    if (n == 1 && seen->pages == PAGES)
        dot_keys(of, seen, 0, n, PAGES, s);
    else
        for (int p = 0; p < seen->pages; p++) dot_keys(of, seen, p, n, 1, s);
    bool alike = true;
    unsigned seers = 0;
    for (int k = 0; k < n; k++) {
        unsigned live = 0;
        for (int p = 0; p < seen->pages; p++) {
            live |= seen->live[p][k];
            alike &= seen->live[p][k] == seen->live[p][0];
            s[k][p] = _mm512_mul_ps(s[k][p], _mm512_set1_ps(a->scale));
            if (!plain) s[k][p] = biased(a, of->head[k], of->sight[k]->position, seen->first + p * PE_PAGE, s[k][p]);
        }
        if (live == 0) continue;
        seers |= 1u << k;
        softmax(seen, k, s[k], to + k);
    }
    if (n > 1 && alike)
        add_values(seen, 0, a->head_dim, to, n);
    else
        for (int k = 0; k < n; k++)
            if (seers >> k & 1) add_values(seen, k, a->head_dim, to, 1);
}

static void begin_span(sums *s) {
    s->max = -INFINITY;
    s->sum = 0.0f;
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
    for (int64_t i = 0; i < d; i += 16) {
        const __m512 y = _mm512_mul_ps(_mm512_load_ps(all->y + i), _mm512_set1_ps(old));
        _mm512_store_ps(all->y + i, _mm512_fmadd_ps(_mm512_load_ps(span->y + i), _mm512_set1_ps(new), y));
    }
}

ALWAYS_INLINE void attend(const pe_attend *a, place *at, const int n, const bool plain) {
    const int64_t d = a->head_dim;
    queries of;
    take_queries(a, at, n, pe_page_bytes_f32(d), &of);
    state states[SIDE];
    for (int k = 0; k < n; k++) begin_span(&states[k].all);
    const int64_t first_key = of.sight[0]->first, end_key = of.sight[n - 1]->end;
    const bool several = pe_span_end(first_key) < end_key;
    for (int64_t key = first_key; key < end_key;) {
        const int64_t span_end = pe_min(end_key, pe_span_end(key));
        for (int k = 0; k < n; k++) begin_span(&states[k].span);
        for (int64_t end; key < span_end; key = end) {
            end = pe_min(span_end, pe_strip_end(key));
            strip seen;
            take_strip(&of, key, end, n, &seen);
            add_strip(&of, &seen, states, n, plain);
        }
        for (int k = 0; k < n && several; k++) merge(&states[k].span, d, &states[k].all);
    }
    for (int k = 0; k < n; k++) {
        const sums *all = several ? &states[k].all : &states[k].span;
        finish(d, of.y[k], _mm512_set1_ps(all->sum), all->y);
    }
}

ALWAYS_INLINE void attend_all(const pe_attend *a, const bool plain) {
    for (int64_t head = 0; head < a->heads; head++) {
        place at = {head, 0, 0};
        int64_t left = a->rows * a->group;
        for (; left >= SIDE; left -= SIDE) attend(a, &at, SIDE, plain);
        for (; left > 0; left--) attend(a, &at, 1, plain);
    }
}

/* The plain case has a loop of its own. */
static __attribute__((noinline)) void attend_plain(const pe_attend *a) { attend_all(a, true); }
static __attribute__((noinline)) void attend_any(const pe_attend *a) { attend_all(a, false); }

void pe_attend_f32_f32__avx512vnni(const pe_attend *a) { (pe_is_plain(a) ? attend_plain : attend_any)(a); }
