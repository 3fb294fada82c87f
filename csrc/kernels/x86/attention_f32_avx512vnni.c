/* AVX-512: attention over float32 pages, a head at a time. */
#include "kernels/x86/attention_avx512.h"

/* Sums over the keys of one head that were seen so far. */
typedef struct sum {
    _Alignas(64) float y[PE_MAX_HEAD_DIM];
    float max, sum;
} sum;

ALWAYS_INLINE void add_strip(const pe_attend *a, int64_t head, const strip *seen, sum *to, const bool plain) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16 * 16;
    const float *query = a->q + head * d;
    __m512 s[PAGES], top = _mm512_set1_ps(-INFINITY), lanes = _mm512_setzero_ps();
    for (int p = 0; p < seen->pages; p++) {
        const float *keys = (const float *)(const void *)seen->page[p];
        s[p] = _mm512_setzero_ps();
        for (int64_t i = 0; i < d; i++)
            s[p] = _mm512_fmadd_ps(_mm512_set1_ps(query[i]), _mm512_loadu_ps(keys + i * PE_PAGE), s[p]);
        s[p] = _mm512_mul_ps(s[p], _mm512_set1_ps(a->scale));
        if (!plain) s[p] = biased(a, head, seen->first + p * PE_PAGE, s[p]);
        top = _mm512_mask_max_ps(top, seen->live[p], s[p], top);
    }
    const float strip_max = pe_max16(top), max = strip_max > to->max ? strip_max : to->max;
    const __mmask16 old = to->sum == 0.0f ? 0 : 0xffff;
    const __m512 earlier = _mm512_set1_ps(pe_exp(to->max - max));
    _Alignas(64) float weight[PE_STRIP];
    for (int p = 0; p < seen->pages; p++) {
        const __m512 e = _mm512_maskz_mov_ps(seen->live[p], pe_exp16(_mm512_sub_ps(s[p], _mm512_set1_ps(max))));
        lanes = _mm512_add_ps(lanes, e);
        _mm512_store_ps(weight + p * PE_PAGE, e);
    }
    to->max = max;
    to->sum = fmaf(to->sum, _mm512_cvtss_f32(earlier), pe_sum16(lanes));
    for (int64_t i = 0; i < d16; i += 16) {
        __m512 y = _mm512_mul_ps(_mm512_maskz_load_ps(old, to->y + i), earlier);
        for (int p = 0; p < seen->pages; p++) {
            const float *values = (const float *)(const void *)seen->page[p] + d * PE_PAGE + i;
            const float *w = weight + p * PE_PAGE;
            const int from = __builtin_ctz(seen->live[p]), end = 32 - __builtin_clz(seen->live[p]);
            for (int t = from; t < end; t++)
                y = _mm512_fmadd_ps(_mm512_set1_ps(w[t]), _mm512_loadu_ps(values + t * d16), y);
        }
        _mm512_store_ps(to->y + i, y);
    }
}

static __attribute__((noinline)) void merge(const sum *span, int64_t d, sum *all) {
    const float max = span->max > all->max ? span->max : all->max;
    const float old = pe_exp(all->max - max), new = pe_exp(span->max - max);
    all->max = max;
    all->sum = fmaf(span->sum, new, all->sum * old);
    for (int64_t i = 0; i < d; i += 16) {
        const __m512 y = _mm512_mul_ps(_mm512_load_ps(all->y + i), _mm512_set1_ps(old));
        _mm512_store_ps(all->y + i, _mm512_fmadd_ps(_mm512_load_ps(span->y + i), _mm512_set1_ps(new), y));
    }
}

ALWAYS_INLINE void attend_head(const pe_attend *a, int64_t head, const bool plain) {
    const int64_t d = a->head_dim, offset = a->offset + head * pe_page_bytes_f32(d);
    const int64_t first_key = plain ? 0 : a->first_key;
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
            add_strip(a, head, &seen, span, plain);
        }
        if (all) merge(span, d, all);
        all = spans;
    }
    finish(d, a->y + head * d, _mm512_set1_ps(all->sum), all->y);
}

/* The plain case has a loop of its own. Not inlined: constants hoisted out of the loop over heads would take all
   registers. */
static __attribute__((noinline)) void attend_plain_f32(const pe_attend *a, int64_t head) {
    attend_head(a, head, true);
}

static __attribute__((noinline)) void attend_any_f32(const pe_attend *a, int64_t head) {
    attend_head(a, head, false);
}

void pe_attend_f32_f32__avx512vnni(const pe_attend *a) {
    const bool plain = pe_is_plain(a);
    for (int64_t head = 0; head < a->heads; head++) (plain ? attend_plain_f32 : attend_any_f32)(a, head);
}
