/* AVX2: attention over pages. Sixteen tokens of a page are two vectors of eight lanes; int8 products as in
   gemm_avx2.c. */
#include "kernels/x86/vec_avx2.h"
#include "kernels/x86/x86.h"

/* The state of a softmax that sees its scores page by page. */
typedef struct running {
    float max;
    float sum;
    float scale; /* what the last page multiplied earlier results with */
} running;

/* Lanes [from, to) of a page. */
static inline void mask_page(int64_t from, int64_t to, __m256i live[2]) {
    for (int half = 0; half < 2; half++) {
        live[half] = pe_mask8(to - half * 8);
        if (from > 0) live[half] = _mm256_andnot_si256(pe_mask8(from - half * 8), live[half]);
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

/* s becomes e^(s - max) in the lanes that are seen, 0 elsewhere. */
static inline void softmax_page(running *state, __m256 s[2], const __m256i live[2]) {
    const __m256 none = _mm256_set1_ps(-INFINITY);
    const __m256 live0 = _mm256_castsi256_ps(live[0]), live1 = _mm256_castsi256_ps(live[1]);
    const __m256 top = _mm256_max_ps(_mm256_blendv_ps(none, s[0], live0), _mm256_blendv_ps(none, s[1], live1));
    const float page_max = pe_max8(top);
    const float max = page_max > state->max ? page_max : state->max;
    s[0] = _mm256_and_ps(live0, pe_exp8(_mm256_sub_ps(s[0], _mm256_set1_ps(max))));
    s[1] = _mm256_and_ps(live1, pe_exp8(_mm256_sub_ps(s[1], _mm256_set1_ps(max))));
    state->scale = pe_exp(state->max - max);
    state->max = max;
    state->sum = fmaf(state->sum, state->scale, pe_sum8x2(s[0], s[1]));
}

static inline void finish(int64_t d, float *to, const running *state, const float *y) {
    for (int64_t i = 0; i < d; i++) to[i] = y[i] / state->sum;
}

/* sum + the products of 8 lanes of 4 signed bytes each; `positive` is |b|. */
static inline __m256i dot4(__m256i sum, __m256i positive, __m256i signed_bytes) {
    const __m256i pairs = _mm256_maddubs_epi16(positive, signed_bytes);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline __m256i load(const void *bytes) { return _mm256_loadu_si256((const __m256i *)bytes); }

ALWAYS_INLINE void attend_head_q8(const pe_attend *a, int64_t head, const bool plain) {
    const int64_t d = a->head_dim, lines = (d + 3) / 4, d16 = (d + 15) / 16;
    const int64_t offset = a->offset + head * pe_page_bytes_q8(d);
    _Alignas(32) int8_t q[PE_MAX_HEAD_DIM];
    _Alignas(32) float y[PE_MAX_HEAD_DIM] = {0};
    float q_scale;
    pe_quantize_q8r_f32__avx2(a->q + head * d, d, lines * 4, 0, q, &q_scale);
    q_scale *= a->scale;
    running state = {-INFINITY, 0.0f, 0.0f};

    for (int64_t first = plain ? 0 : pe_read_from(a); first < a->n_keys; first += PE_PAGE) {
        const int64_t from = plain ? 0 : pe_max(a->first_key - first, 0), to = pe_min(a->n_keys - first, PE_PAGE);
        __m256i live[2];
        mask_page(from, to, live);
        const uint8_t *keys = a->pages[first / PE_PAGE] + offset;
        const uint8_t *values = keys + pe_page_keys_q8(d);
        const float *scales = (const float *)(const void *)(values + pe_page_values_q8(d));

        __m256i dot[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (int64_t line = 0; line < lines; line++) {
            int32_t quad;
            memcpy(&quad, q + line * 4, sizeof quad);
            const __m256i query = _mm256_set1_epi32(quad);
            for (int half = 0; half < 2; half++) {
                const __m256i key = load(keys + line * 64 + half * 32);
                dot[half] = dot4(dot[half], _mm256_abs_epi8(key), _mm256_sign_epi8(query, key));
            }
        }
        __m256 p[2];
        for (int half = 0; half < 2; half++) {
            const __m256 key_scale = _mm256_maskload_ps(scales + half * 8, live[half]);
            const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(q_scale), key_scale);
            p[half] = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[half]), scale);
        }
        if (!plain) add_biases(a, head, first, p);
        softmax_page(&state, p, live);

        for (int half = 0; half < 2; half++)
            p[half] = _mm256_mul_ps(p[half], _mm256_maskload_ps(scales + PE_PAGE + half * 8, live[half]));
        const float largest = pe_largest8(pe_larger8(p[0], p[1]));
        const __m256 inverse = _mm256_set1_ps(pe_quant_factor(largest));
        int32_t weights[PE_PAGE];
        for (int half = 0; half < 2; half++) {
            const __m256 scaled = _mm256_min_ps(_mm256_mul_ps(p[half], inverse), _mm256_set1_ps(127.0f));
            _mm256_storeu_si256((__m256i *)(void *)(weights + half * 8), _mm256_cvtps_epi32(scaled));
        }
        __m256i quads[4];
        for (int t = 0; t < 4; t++) {
            const int32_t *w = weights + t * 4;
            quads[t] = _mm256_set1_epi32(w[0] | w[1] << 8 | w[2] << 16 | w[3] << 24);
        }
        const __m256 unit = _mm256_set1_ps(pe_quant_scale(largest)), earlier = _mm256_set1_ps(state.scale);
        for (int64_t i = 0; i < d16 * 2; i++) {
            __m256i sum = _mm256_setzero_si256();
            for (int t = 0; t < 4; t++) sum = dot4(sum, quads[t], load(values + t * d16 * 64 + i * 32));
            const __m256 old = _mm256_mul_ps(_mm256_load_ps(y + i * 8), earlier);
            _mm256_store_ps(y + i * 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), unit, old));
        }
    }
    finish(d, a->y + head * d, &state, y);
}

ALWAYS_INLINE void attend_head_f32(const pe_attend *a, int64_t head, const bool plain) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16 * 16, offset = a->offset + head * pe_page_bytes_f32(d);
    const float *query = a->q + head * d;
    _Alignas(32) float y[PE_MAX_HEAD_DIM] = {0};
    running state = {-INFINITY, 0.0f, 0.0f};

    for (int64_t first = plain ? 0 : pe_read_from(a); first < a->n_keys; first += PE_PAGE) {
        const int64_t from = plain ? 0 : pe_max(a->first_key - first, 0), to = pe_min(a->n_keys - first, PE_PAGE);
        const int64_t n = plain ? to : pe_min(to - from, PE_PAGE); /* the compiler unrolls what has a bound */
        __m256i live[2];
        mask_page(from, to, live);
        const float *keys = (const float *)(const void *)(a->pages[first / PE_PAGE] + offset);
        const float *values = keys + d * PE_PAGE + from * d16;
        __m256 s[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int64_t i = 0; i < d; i++) {
            const __m256 q = _mm256_set1_ps(query[i]);
            s[0] = _mm256_fmadd_ps(q, _mm256_loadu_ps(keys + i * PE_PAGE), s[0]);
            s[1] = _mm256_fmadd_ps(q, _mm256_loadu_ps(keys + i * PE_PAGE + 8), s[1]);
        }
        for (int half = 0; half < 2; half++) s[half] = _mm256_mul_ps(s[half], _mm256_set1_ps(a->scale));
        if (!plain) add_biases(a, head, first, s);
        softmax_page(&state, s, live);
        _Alignas(32) float p[PE_PAGE];
        _mm256_store_ps(p, s[0]);
        _mm256_store_ps(p + 8, s[1]);
        if (from > 0) memmove(p, p + from, (size_t)n * sizeof *p); /* at constant places, in registers */
        const __m256 earlier = _mm256_set1_ps(state.scale);
        for (int64_t i = 0; i < d16; i += 8) {
            __m256 sum = _mm256_mul_ps(_mm256_load_ps(y + i), earlier);
            for (int64_t t = 0; t < n; t++)
                sum = _mm256_fmadd_ps(_mm256_set1_ps(p[t]), _mm256_loadu_ps(values + t * d16 + i), sum);
            _mm256_store_ps(y + i, sum);
        }
    }
    finish(d, a->y + head * d, &state, y);
}

/* The plain case has a loop of its own. Not inlined: constants hoisted out of the loop over heads would take all
   registers. */
static __attribute__((noinline)) void attend_plain_q8(const pe_attend *a, int64_t head) {
    attend_head_q8(a, head, true);
}

static __attribute__((noinline)) void attend_any_q8(const pe_attend *a, int64_t head) {
    attend_head_q8(a, head, false);
}

void pe_attend_f32_q8__avx2(const pe_attend *a) {
    const bool plain = pe_is_plain(a);
    for (int64_t head = 0; head < a->heads; head++) (plain ? attend_plain_q8 : attend_any_q8)(a, head);
}

static __attribute__((noinline)) void attend_plain_f32(const pe_attend *a, int64_t head) {
    attend_head_f32(a, head, true);
}

static __attribute__((noinline)) void attend_any_f32(const pe_attend *a, int64_t head) {
    attend_head_f32(a, head, false);
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
