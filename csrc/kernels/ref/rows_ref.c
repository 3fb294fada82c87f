/* Reference: quantization, norms, rotary positions, Hadamard products, gates, soft caps, passes over rows of logits. */
#include "kernels/ref/ref.h"

void pe_quantize_q8r_f32__ref(const float *x, int64_t n, int64_t n_padded, uint8_t flip, int8_t *q, float *scale) {
    float largest = 0.0f;
    for (int64_t i = 0; i < n; i++) largest = pe_larger(fabsf(x[i]), largest);
    const float inverse = pe_quant_factor(largest);
    for (int64_t i = 0; i < n; i++) {
        float v = x[i] * inverse;
        v = v > -127.0f ? v : -127.0f;
        v = v < 127.0f ? v : 127.0f;
        q[i] = (int8_t)((uint8_t)(int8_t)nearbyintf(v) ^ flip);
    }
    for (int64_t i = n; i < n_padded; i++) q[i] = (int8_t)flip;
    *scale = pe_quant_scale(largest);
}

void pe_norm_f32_f32__ref(const float *x, int64_t n, const float *weight, const float *bias, float eps, float *y) {
    float lanes[PE_LANES] = {0};
    for (int64_t i = 0; i < n; i++) lanes[i % PE_LANES] += x[i];
    const float mean = pe_sum_lanes(lanes) / (float)n;
    memset(lanes, 0, sizeof lanes);
    for (int64_t i = 0; i < n; i++) {
        const float d = x[i] - mean;
        lanes[i % PE_LANES] = fmaf(d, d, lanes[i % PE_LANES]);
    }
    const float inverse = 1.0f / sqrtf(pe_sum_lanes(lanes) / (float)n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = fmaf((x[i] - mean) * inverse, weight[i], bias[i]);
}

void pe_rmsnorm_f32_f32__ref(const float *x, int64_t n, const float *weight, float eps, float *y) {
    float lanes[PE_LANES] = {0};
    for (int64_t i = 0; i < n; i++) lanes[i % PE_LANES] = fmaf(x[i], x[i], lanes[i % PE_LANES]);
    const float inverse = 1.0f / sqrtf(pe_sum_lanes(lanes) / (float)n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * inverse * weight[i];
}

void pe_turn_f32_f32__ref(float *x, int64_t dims, const float *cosines, const float *sines) {
    const int64_t half = dims / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosines[i] - b * sines[i];
        x[i + half] = b * cosines[i] + a * sines[i];
    }
}

void pe_hadamard_f32__ref(float *x, int64_t n) {
    for (int64_t s = n / pe_hadamard_size(n); s < n; s *= 2)
        for (int64_t i = 0; i < n; i++) {
            if (i / s % 2) continue;
            const float a = x[i], b = x[i + s];
            x[i] = a + b;
            x[i + s] = a - b;
        }
}

void pe_gate_f32_f32__ref(float *x, int64_t n, pe_activation activation) {
    for (int64_t unit = 0; unit < n; unit += PE_BLOCK) {
        const float *gate = x + 2 * unit, *up = gate + PE_BLOCK;
        for (int64_t i = 0; i < PE_BLOCK; i++) x[unit + i] = pe_activate(activation, gate[i]) * up[i];
    }
}

void pe_soft_cap_f32__ref(float *x, int64_t n, float cap) {
    for (int64_t i = 0; i < n; i++) x[i] = pe_soft_cap(x[i], cap, 1.0f / cap);
}

void pe_exp_sum_f32__ref(const float *x, int64_t n, float *max, float *sum) {
    float m = x[0];
    for (int64_t i = 1; i < n; i++) m = x[i] > m ? x[i] : m;
    float lanes[PE_LANES] = {0};
    *max = m;
    if (m == -INFINITY) m = 0.0f;
    for (int64_t i = 0; i < n; i++) lanes[i % PE_LANES] += pe_exp(x[i] - m);
    *sum = pe_sum_lanes(lanes);
}

int64_t pe_above_f32__ref(const float *x, int64_t n, float threshold, int32_t *indices) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > threshold) indices[count++] = (int32_t)i;
    return count;
}
