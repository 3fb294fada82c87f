/* AVX-512: what attentions over int8 and over float32 pages share. Sixteen tokens of a page are the lanes of a
   vector. */
#ifndef PE_KERNELS_X86_ATTENTION_AVX512_H
#define PE_KERNELS_X86_ATTENTION_AVX512_H

#include "kernels/x86/vec_avx512.h"
#include "kernels/x86/x86.h"

/* The pages of a strip with keys that are seen. */
enum { PAGES = PE_STRIP / PE_PAGE };
typedef struct strip {
    int64_t first; /* key of the first page's slot 0 */
    int pages;     /* 1 to 4 */
    const uint8_t *page[PAGES];
    __mmask16 live[PAGES];
} strip;

/* Keys [key, end), from a head's part of a page on. */
ALWAYS_INLINE void take_strip(const pe_attend *a, int64_t key, int64_t end, int64_t offset, const bool plain,
                              strip *s) {
    const int64_t from = plain ? 0 : key % PE_PAGE;
    s->first = key - from;
    s->pages = 0;
    for (int64_t first = s->first; first < end; first += PE_PAGE, s->pages++) {
        s->page[s->pages] = a->pages[first / PE_PAGE] + offset;
        s->live[s->pages] = pe_mask16(end - first);
        if (!plain) s->live[s->pages] &= (__mmask16)~pe_mask16(key - first);
    }
}

/* From a page's scaled products to its scores; it begins with key `first`. */
static inline __m512 biased(const pe_attend *a, int64_t head, int64_t first, __m512 s) {
    const int64_t distance = first - a->position, start = pe_clamp(distance, -a->reach - PE_PAGE, a->reach);
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
