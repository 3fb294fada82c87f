/* Scalar reference: attention over pages, with int8 and with float32 keys and values. */
#include "kernels/ref/ref.h"

/* A softmax over some keys, not yet divided by the sum of its weights. */
typedef struct sums {
    float max; /* the largest score */
    float sum; /* of e^(score - max) */
    float y[PE_MAX_HEAD_DIM]; /* of e^(score - max) v */
} sums;

static const sums NOTHING = {.max = -INFINITY};

/* The keys of a strip that are seen. */
typedef struct strip {
    int64_t first;    /* key of slot 0 */
    int64_t from, to; /* slots; all others have weight 0 */
} strip;

/* The score of a key whose scaled product is s. */
static float biased(const pe_attend *a, int64_t head, int64_t key, float s) {
    const int64_t distance = key - a->position;
    if (a->soft_cap > 0.0f) s = a->soft_cap * pe_tanh(s * (1.0f / a->soft_cap));
    if (a->relative) s += a->relative[head * a->relative_ld + pe_clamp(distance, -a->reach, a->reach)];
    if (a->slopes) s = fmaf(a->slopes[head], (float)distance, s);
    return s;
}

/* p[t] = e^(s[t] - max) for the slots that are seen, 0 elsewhere. Returns what earlier results are multiplied with. */
static float weigh(sums *to, const strip *seen, const float s[PE_STRIP], float p[PE_STRIP]) {
    float max = to->max, lanes[PE_PAGE] = {0};
    for (int64_t t = seen->from; t < seen->to; t++) max = s[t] > max ? s[t] : max;
    for (int64_t t = 0; t < PE_STRIP; t++) {
        p[t] = t >= seen->from && t < seen->to ? pe_exp(s[t] - max) : 0.0f;
        lanes[t % PE_PAGE] += p[t];
    }
    const float earlier = pe_exp(to->max - max);
    to->max = max;
    to->sum = fmaf(to->sum, earlier, pe_sum_lanes(lanes));
    return earlier;
}

/* Where a page's part of a head begins. */
static const void *page_at(const pe_attend *a, int64_t key, int64_t offset) {
    return a->pages[key / PE_PAGE] + offset;
}

static void add_strip_q8(const pe_attend *a, int64_t head, const int8_t *q, float q_scale, strip seen, sums *to) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16, offset = a->offset + head * pe_page_bytes_q8(d);
    const int8_t *values[PE_STRIP];
    float s[PE_STRIP] = {0}, p[PE_STRIP], value_scale[PE_STRIP];
    for (int64_t t = seen.from; t < seen.to; t++) {
        const int64_t slot = t % PE_PAGE;
        const int8_t *keys = page_at(a, seen.first + t, offset);
        values[t] = keys + pe_page_keys_q8(d);
        const float *scales = (const float *)(const void *)(values[t] + pe_page_values_q8(d));
        int32_t dot = 0;
        for (int64_t i = 0; i < d; i++) dot += (int32_t)q[i] * keys[i / 4 * 64 + slot * 4 + i % 4];
        s[t] = biased(a, head, seen.first + t, (float)dot * (q_scale * scales[slot]));
        value_scale[t] = scales[PE_PAGE + slot];
    }
    const float earlier = weigh(to, &seen, s, p);

    float largest = 0.0f;
    for (int64_t t = seen.from; t < seen.to; t++) {
        p[t] *= value_scale[t];
        largest = pe_larger(p[t], largest);
    }
    const float inverse = pe_weight_factor(largest), unit = pe_weight_scale(largest);
    int32_t weight[PE_STRIP];
    for (int64_t t = seen.from; t < seen.to; t++) {
        const float v = p[t] * inverse;
        weight[t] = (int32_t)nearbyintf(v < 255.0f ? v : 255.0f);
    }
    for (int64_t i = 0; i < d; i++) {
        int32_t dot = 0;
        for (int64_t t = seen.from; t < seen.to; t++)
            dot += weight[t] * values[t][t % PE_PAGE / 4 * d16 * 64 + i / 16 * 64 + i % 16 * 4 + t % 4];
        to->y[i] = fmaf((float)dot, unit, to->y[i] * earlier);
    }
}

static void add_strip_f32(const pe_attend *a, int64_t head, strip seen, sums *to) {
    const int64_t d = a->head_dim, d16 = (d + 15) / 16 * 16, offset = a->offset + head * pe_page_bytes_f32(d);
    const float *q = a->q + head * d, *values[PE_STRIP];
    float s[PE_STRIP] = {0}, p[PE_STRIP];
    for (int64_t t = seen.from; t < seen.to; t++) {
        const float *keys = page_at(a, seen.first + t, offset);
        values[t] = keys + d * PE_PAGE + t % PE_PAGE * d16;
        float dot = 0.0f;
        for (int64_t i = 0; i < d; i++) dot = fmaf(q[i], keys[i * PE_PAGE + t % PE_PAGE], dot);
        s[t] = biased(a, head, seen.first + t, dot * a->scale);
    }
    const float earlier = weigh(to, &seen, s, p);
    for (int64_t i = 0; i < d; i++) {
        float sum = to->y[i] * earlier;
        for (int64_t t = seen.from; t < seen.to; t++) sum = fmaf(p[t], values[t][i], sum);
        to->y[i] = sum;
    }
}

/* The span's sums onto those of the spans before it. */
static void merge(int64_t d, const sums *span, sums *to) {
    const float max = span->max > to->max ? span->max : to->max;
    const float old = pe_exp(to->max - max), new = pe_exp(span->max - max);
    to->max = max;
    to->sum = fmaf(span->sum, new, to->sum * old);
    for (int64_t i = 0; i < d; i++) to->y[i] = fmaf(span->y[i], new, to->y[i] * old);
}

static void attend_head(const pe_attend *a, int64_t head, bool q8) {
    const int64_t d = a->head_dim;
    int8_t q[PE_MAX_HEAD_DIM];
    float q_scale;
    pe_quantize_q8r_f32__ref(a->q + head * d, d, (d + 3) / 4 * 4, 0, q, &q_scale);
    q_scale *= a->scale;

    sums all = NOTHING;
    for (int64_t key = a->first_key; key < a->n_keys;) {
        const bool only = key == a->first_key;
        const int64_t span_end = pe_min(a->n_keys, pe_span_end(key));
        sums span = NOTHING;
        while (key < span_end) {
            const int64_t first = key - key % PE_STRIP, end = pe_min(span_end, pe_strip_end(key));
            const strip seen = {first, key - first, end - first};
            if (q8)
                add_strip_q8(a, head, q, q_scale, seen, &span);
            else
                add_strip_f32(a, head, seen, &span);
            key = end;
        }
        if (only)
            all = span;
        else
            merge(d, &span, &all);
    }
    for (int64_t i = 0; i < d; i++) a->y[head * d + i] = all.y[i] / all.sum;
}

void pe_attend_f32_q8__ref(const pe_attend *a) {
    for (int64_t head = 0; head < a->heads; head++) attend_head(a, head, true);
}

void pe_attend_f32_f32__ref(const pe_attend *a) {
    for (int64_t head = 0; head < a->heads; head++) attend_head(a, head, false);
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
