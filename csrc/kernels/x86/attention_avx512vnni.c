/* AVX-512 VNNI: attention over pages. Sixteen tokens of a page are the sixteen lanes of a vector. */
#include "kernels/x86/vec_avx512.h"
#include "kernels/x86/x86.h"

enum { SIDE_BY_SIDE = 4 };

/* The state of a softmax that sees its scores page by page. */
typedef struct running {
    float max;
    float sum;
    float scale; /* what the last page multiplied earlier results with */
} running;

static inline __m512 softmax_page(running *state, __m512 s, __mmask16 live) {
    const float page_max = pe_max16(_mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), live, s));
    const float max = page_max > state->max ? page_max : state->max;
    const __m512 p = _mm512_maskz_mov_ps(live, pe_exp16(_mm512_sub_ps(s, _mm512_set1_ps(max))));
    state->scale = pe_exp(state->max - max);
    state->max = max;
    state->sum = fmaf(state->sum, state->scale, pe_sum16(p));
    return p;
}

static inline void finish(int64_t d, float *to, const running *state, const float *y) {
    const __m512 sum = _mm512_set1_ps(state->sum);
    for (int64_t i = 0; i < d; i += 16) {
        const __mmask16 live = pe_mask16(d - i);
        _mm512_mask_storeu_ps(to + i, live, _mm512_div_ps(_mm512_loadu_ps(y + i), sum));
    }
}

/* A head's query, its softmax so far, and its weights of the page at hand. */
typedef struct query {
    _Alignas(64) int8_t q[PE_MAX_HEAD_DIM];
    _Alignas(64) float y[PE_MAX_HEAD_DIM];
    __m512i start; /* keys are stored plus 128: less 128 times the sum of q */
    float scale;
    running state;
    int32_t quads[4]; /* weights 0..127 of the page's tokens */
    float unit;       /* what one of them weighs */
} query;

static inline void begin(query *h, const float *q, int64_t d, float scale) {
    const int64_t padded = (d + 3) / 4 * 4;
    pe_quantize_q8r_f32__avx512vnni(q, d, padded, 0, h->q, &h->scale);
    h->scale *= scale;
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < padded; i += 64) {
        const __mmask64 live = padded - i >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << (padded - i)) - 1;
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_maskz_loadu_epi8(live, h->q + i));
    }
    h->start = _mm512_set1_epi32(-128 * _mm512_reduce_add_epi32(sum));
    h->state = (running){-INFINITY, 0.0f, 0.0f};
    for (int64_t i = 0; i < d; i += 16) _mm512_store_ps(h->y + i, _mm512_setzero_ps());
}

static inline __m512 score(const query *h, const uint8_t *keys, int64_t d, const float *scales, __mmask16 live) {
    const int64_t lines = (d + 3) / 4;
    __m512i dot0 = h->start, dot1 = _mm512_setzero_si512();
    int64_t line = 0;
    for (int32_t quad0, quad1; line + 2 <= lines; line += 2) {
        memcpy(&quad0, h->q + line * 4, 4);
        memcpy(&quad1, h->q + line * 4 + 4, 4);
        dot0 = _mm512_dpbusd_epi32(dot0, _mm512_loadu_si512(keys + line * 64), _mm512_set1_epi32(quad0));
        dot1 = _mm512_dpbusd_epi32(dot1, _mm512_loadu_si512(keys + line * 64 + 64), _mm512_set1_epi32(quad1));
    }
    if (line < lines) {
        int32_t quad;
        memcpy(&quad, h->q + line * 4, 4);
        dot0 = _mm512_dpbusd_epi32(dot0, _mm512_loadu_si512(keys + line * 64), _mm512_set1_epi32(quad));
    }
    const __m512 key_scale = _mm512_mul_ps(_mm512_set1_ps(h->scale), _mm512_maskz_loadu_ps(live, scales));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(dot0, dot1)), key_scale);
}

static inline void weigh(query *h, __m512 s, const float *scales, __mmask16 live) {
    const __m512 p = softmax_page(&h->state, s, live);
    const __m512 w = _mm512_mul_ps(p, _mm512_maskz_loadu_ps(live, scales + PE_PAGE));
    const float largest = pe_max16(w);
    const __m512 inverse = _mm512_set1_ps(pe_quant_factor(largest));
    const __m512 scaled = _mm512_min_ps(_mm512_mul_ps(w, inverse), _mm512_set1_ps(127.0f));
    _mm_storeu_si128((__m128i *)(void *)h->quads, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(scaled)));
    h->unit = pe_quant_scale(largest);
}

static inline void add_values(query *h, const uint8_t *values, int64_t d16) {
    const __m512i w0 = _mm512_set1_epi32(h->quads[0]), w1 = _mm512_set1_epi32(h->quads[1]);
    const __m512i w2 = _mm512_set1_epi32(h->quads[2]), w3 = _mm512_set1_epi32(h->quads[3]);
    const __m512 unit = _mm512_set1_ps(h->unit), earlier = _mm512_set1_ps(h->state.scale);
    for (int64_t i = 0; i < d16; i++) {
        const uint8_t *v = values + i * 64;
        __m512i even = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w0, _mm512_loadu_si512(v));
        __m512i odd = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w1, _mm512_loadu_si512(v + d16 * 64));
        even = _mm512_dpbusd_epi32(even, w2, _mm512_loadu_si512(v + d16 * 128));
        odd = _mm512_dpbusd_epi32(odd, w3, _mm512_loadu_si512(v + d16 * 192));
        const __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
        const __m512 old = _mm512_mul_ps(_mm512_load_ps(h->y + i * 16), earlier);
        _mm512_store_ps(h->y + i * 16, _mm512_fmadd_ps(dot, unit, old));
    }
}

/* Every step is a long chain for one head; heads take it side by side, so that the chains overlap. */
static void attend_heads_q8(const pe_attend *a, int64_t first_head, int64_t heads) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16, head_bytes = pe_page_bytes_q8(d);
    query side[SIDE_BY_SIDE];
    __m512 s[SIDE_BY_SIDE];
    for (int64_t h = 0; h < heads; h++) begin(side + h, a->q + (first_head + h) * d, d, a->scale);
    for (int64_t first = 0; first < a->n_keys; first += PE_PAGE) {
        const __mmask16 live = pe_mask16(a->n_keys - first);
        const uint8_t *keys = a->pages[first / PE_PAGE] + a->offset + first_head * head_bytes;
        const uint8_t *values = keys + pe_page_keys_q8(d);
        const float *scales = (const float *)(const void *)(values + pe_page_values_q8(d));
        const int64_t floats = head_bytes / (int64_t)sizeof(float);
        for (int64_t h = 0; h < heads; h++) s[h] = score(side + h, keys + h * head_bytes, d, scales + h * floats, live);
        for (int64_t h = 0; h < heads; h++) weigh(side + h, s[h], scales + h * floats, live);
        for (int64_t h = 0; h < heads; h++) add_values(side + h, values + h * head_bytes, d16);
    }
    for (int64_t h = 0; h < heads; h++) finish(d, a->y + (first_head + h) * d, &side[h].state, side[h].y);
}

void pe_attend_f32_q8__avx512vnni(const pe_attend *a) {
    for (int64_t head = 0; head < a->heads; head += SIDE_BY_SIDE)
        attend_heads_q8(a, head, a->heads - head < SIDE_BY_SIDE ? a->heads - head : SIDE_BY_SIDE);
}

static void attend_head_f32(const pe_attend *a) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16 * 16;
    _Alignas(64) float y[PE_MAX_HEAD_DIM] = {0};
    running state = {-INFINITY, 0.0f, 0.0f};

    for (int64_t first = 0; first < a->n_keys; first += PE_PAGE) {
        const int64_t n = a->n_keys - first < PE_PAGE ? a->n_keys - first : PE_PAGE;
        const float *keys = (const float *)(const void *)(a->pages[first / PE_PAGE] + a->offset);
        const float *values = keys + d * PE_PAGE;
        __m512 s = _mm512_setzero_ps();
        for (int64_t i = 0; i < d; i++)
            s = _mm512_fmadd_ps(_mm512_set1_ps(a->q[i]), _mm512_loadu_ps(keys + i * PE_PAGE), s);
        _Alignas(64) float p[PE_PAGE];
        _mm512_store_ps(p, softmax_page(&state, _mm512_mul_ps(s, _mm512_set1_ps(a->scale)), pe_mask16(n)));
        const __m512 earlier = _mm512_set1_ps(state.scale);
        for (int64_t i = 0; i < d16; i += 16) {
            __m512 sum = _mm512_mul_ps(_mm512_load_ps(y + i), earlier);
            for (int64_t t = 0; t < n; t++)
                sum = _mm512_fmadd_ps(_mm512_set1_ps(p[t]), _mm512_loadu_ps(values + t * d16 + i), sum);
            _mm512_store_ps(y + i, sum);
        }
    }
    finish(d, a->y, &state, y);
}

void pe_attend_f32_f32__avx512vnni(const pe_attend *a) {
    for (int64_t head = 0; head < a->heads; head++) {
        const pe_attend one = pe_head(a, head, pe_page_bytes_f32(a->head_dim));
        attend_head_f32(&one);
    }
}
