/* Scalar reference: attention over pages, with int8 and with float32 keys and values. */
#include "kernels/ref/ref.h"

/* The state of a softmax that sees its scores page by page. */
typedef struct running {
    float max;   /* the largest score so far */
    float sum;   /* sum of e^(score - max) so far */
    float scale; /* what the last page multiplied earlier results with */
} running;

/* Slots [from, to) of a page. */
typedef struct slots {
    int64_t from, to;
} slots;

/* Those of the page that begins with key `first` that are seen. */
static slots seen(const pe_attend *a, int64_t first) {
    return (slots){pe_max(a->first_key - first, 0), pe_min(a->n_keys - first, PE_PAGE)};
}

/* The score of a key whose scaled product is s. */
static float biased(const pe_attend *a, int64_t head, int64_t key, float s) {
    const int64_t distance = key - a->position;
    if (a->soft_cap > 0.0f) s = a->soft_cap * pe_tanh(s * (1.0f / a->soft_cap));
    if (a->relative) s += a->relative[head * a->relative_ld + pe_clamp(distance, -a->reach, a->reach)];
    if (a->slopes) s = fmaf(a->slopes[head], (float)distance, s);
    return s;
}

/* p[t] = e^(s[t] - max) for the slots that are seen, 0 elsewhere; updates the state. */
static void softmax_page(running *state, const float s[PE_PAGE], slots live, float p[PE_PAGE]) {
    float max = state->max;
    for (int64_t t = live.from; t < live.to; t++) max = s[t] > max ? s[t] : max;
    state->scale = pe_exp(state->max - max);
    state->max = max;
    for (int64_t t = 0; t < PE_PAGE; t++) p[t] = t >= live.from && t < live.to ? pe_exp(s[t] - max) : 0.0f;
    state->sum = fmaf(state->sum, state->scale, pe_sum_lanes(p));
}

static void attend_head_q8(const pe_attend *a, int64_t head) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16, offset = a->offset + head * pe_page_bytes_q8(d);
    int8_t q[PE_MAX_HEAD_DIM];
    float q_scale;
    pe_quantize_q8r_f32__ref(a->q + head * d, d, (d + 3) / 4 * 4, 0, q, &q_scale);
    q_scale *= a->scale;
    float y[PE_MAX_HEAD_DIM] = {0};
    running state = {-INFINITY, 0.0f, 0.0f};

    for (int64_t first = pe_read_from(a); first < a->n_keys; first += PE_PAGE) {
        const slots live = seen(a, first);
        const int8_t *keys = (const int8_t *)a->pages[first / PE_PAGE] + offset;
        const int8_t *values = keys + pe_page_keys_q8(d);
        const float *key_scale = (const float *)(const void *)(values + pe_page_values_q8(d));
        const float *value_scale = key_scale + PE_PAGE;

        float s[PE_PAGE], p[PE_PAGE];
        for (int64_t t = live.from; t < live.to; t++) {
            int32_t dot = 0;
            for (int64_t i = 0; i < d; i++) dot += (int32_t)q[i] * keys[i / 4 * 64 + t * 4 + i % 4];
            s[t] = biased(a, head, first + t, (float)dot * (q_scale * key_scale[t]));
        }
        softmax_page(&state, s, live, p);

        float largest = 0.0f;
        for (int64_t t = live.from; t < live.to; t++) {
            p[t] *= value_scale[t];
            largest = pe_larger(p[t], largest);
        }
        const float inverse = pe_quant_factor(largest);
        int32_t weight[PE_PAGE] = {0};
        for (int64_t t = live.from; t < live.to; t++) {
            const float v = p[t] * inverse;
            weight[t] = (int32_t)nearbyintf(v < 127.0f ? v : 127.0f);
        }
        const float unit = pe_quant_scale(largest);
        for (int64_t i = 0; i < d; i++) {
            int32_t dot = 0;
            for (int64_t t = live.from; t < live.to; t++)
                dot += weight[t] * values[t / 4 * d16 * 64 + i / 16 * 64 + i % 16 * 4 + t % 4];
            y[i] = fmaf((float)dot, unit, y[i] * state.scale);
        }
    }
    for (int64_t i = 0; i < d; i++) a->y[head * d + i] = y[i] / state.sum;
}

static void attend_head_f32(const pe_attend *a, int64_t head) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16 * 16, offset = a->offset + head * pe_page_bytes_f32(d);
    const float *q = a->q + head * d;
    float y[PE_MAX_HEAD_DIM] = {0};
    running state = {-INFINITY, 0.0f, 0.0f};

    for (int64_t first = pe_read_from(a); first < a->n_keys; first += PE_PAGE) {
        const slots live = seen(a, first);
        const float *keys = (const float *)(const void *)(a->pages[first / PE_PAGE] + offset);
        const float *values = keys + d * PE_PAGE;
        float s[PE_PAGE], p[PE_PAGE];
        for (int64_t t = live.from; t < live.to; t++) {
            float dot = 0.0f;
            for (int64_t i = 0; i < d; i++) dot = fmaf(q[i], keys[i * PE_PAGE + t], dot);
            s[t] = biased(a, head, first + t, dot * a->scale);
        }
        softmax_page(&state, s, live, p);
        for (int64_t i = 0; i < d; i++) {
            float sum = y[i] * state.scale;
            for (int64_t t = live.from; t < live.to; t++) sum = fmaf(p[t], values[t * d16 + i], sum);
            y[i] = sum;
        }
    }
    for (int64_t i = 0; i < d; i++) a->y[head * d + i] = y[i] / state.sum;
}

void pe_attend_f32_q8__ref(const pe_attend *a) {
    for (int64_t head = 0; head < a->heads; head++) attend_head_q8(a, head);
}

void pe_attend_f32_f32__ref(const pe_attend *a) {
    for (int64_t head = 0; head < a->heads; head++) attend_head_f32(a, head);
}

void pe_store_q8_f32__ref(const pe_token *t) {
    const int64_t d = t->head_dim;
    int8_t k[PE_MAX_HEAD_DIM], v[PE_MAX_HEAD_DIM];
    for (int64_t h = 0; h < t->heads; h++) {
        float k_scale, v_scale;
        pe_quantize_q8r_f32__ref(t->k + h * d, d, (d + 3) / 4 * 4, 0, k, &k_scale);
        pe_quantize_q8r_f32__ref(t->v + h * d, d, d, 0, v, &v_scale);
        pe_store_head_q8(d, k, k_scale, v, v_scale, t->page + h * pe_page_bytes_q8(d), t->slot);
    }
}
