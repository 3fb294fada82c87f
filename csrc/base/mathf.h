/* The float32 functions of the engine, written once in scalar form. Every vector kernel performs the same
   operations in the same order, so that all instruction sets give the same bytes. Fused multiply-adds are
   spelled fmaf(); the compiler may not form others (-ffp-contract=off). What is made of NaN is NaN, as far as the
   normalizer of the logits, where a step is refused for it. */
#ifndef PE_BASE_MATHF_H
#define PE_BASE_MATHF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define PE_LANES 16 /* float reductions run in 16 lanes on every instruction set */

#define PE_EXP_LOW -87.3365402f /* below: 0, so that no result is subnormal */
#define PE_EXP_HIGH 88.0f
#define PE_LOG2E 1.44269504f
#define PE_LN2_HIGH 0.693359375f
#define PE_LN2_LOW -2.12194440e-4f

/* e**x, relative error below 2e-7: Cephes' expf (range reduction by ln 2, polynomial of degree 5). */
static inline float pe_exp(float x) {
    if (x <= PE_EXP_LOW) return 0.0f;
    if (isnan(x)) return x;
    if (x > PE_EXP_HIGH) x = PE_EXP_HIGH;
    const float n = nearbyintf(x * PE_LOG2E);
    float r = fmaf(n, -PE_LN2_HIGH, x);
    r = fmaf(n, -PE_LN2_LOW, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static inline float pe_tanh(float x) { return 1.0f - 2.0f / (pe_exp(x + x) + 1.0f); }

/* x held within (-cap, cap); `inverse` is 1 / cap, rounded. */
static inline float pe_soft_cap(float x, float cap, float inverse) { return cap * pe_tanh(x * inverse); }

/* erf(x), absolute error below 3e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26. */
static inline float pe_erf(float x) {
    const float z = fabsf(x);
    const float t = 1.0f / fmaf(0.3275911f, z, 1.0f);
    float p = 1.061405429f;
    p = fmaf(p, t, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f);
    const float y = 1.0f - p * t * pe_exp(-(z * z));
    return copysignf(y, x);
}

typedef enum pe_activation {
    PE_IDENTITY = 0,
    PE_RELU,
    PE_GELU,       /* x/2 (1 + erf(x / sqrt 2)) */
    PE_GELU_TANH,  /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    PE_QUICK_GELU, /* x / (1 + e^(-1.702 x)) */
    PE_SILU,       /* x / (1 + e^-x), also called swish */
    PE_TANH,
    PE_SIGMOID,
} pe_activation;

static inline float pe_activate(pe_activation kind, float x) {
    switch (kind) {
    case PE_RELU: return 0.0f > x ? 0.0f : x;
    case PE_GELU: return 0.5f * x * (1.0f + pe_erf(x * 0.707106781f));
    case PE_GELU_TANH: return 0.5f * x * (1.0f + pe_tanh(0.797884561f * fmaf(0.044715f * x * x, x, x)));
    case PE_QUICK_GELU: return x / (1.0f + pe_exp(-1.702f * x));
    case PE_SILU: return x / (1.0f + pe_exp(-x));
    case PE_TANH: return pe_tanh(x);
    case PE_SIGMOID: return 1.0f / (1.0f + pe_exp(-x));
    default: return x;
    }
}

/* How a row whose largest magnitude is `largest` is quantized: 127 stands for it. What is so small that the
   quotient would overflow counts as zeros. Of NaN and infinity the scale is what they are. */
#define PE_QUANT_LOW 1e-30f
static inline float pe_quant_factor(float largest) { return largest > PE_QUANT_LOW ? 127.0f / largest : 0.0f; }
static inline float pe_quant_scale(float largest) { return largest <= PE_QUANT_LOW ? 0.0f : largest * (1.0f / 127.0f); }

/* Weights of an attention's values are never negative: 255 stands for the largest. */
static inline float pe_weight_factor(float largest) { return largest > PE_QUANT_LOW ? 255.0f / largest : 0.0f; }
static inline float pe_weight_scale(float largest) {
    return largest <= PE_QUANT_LOW ? 0.0f : largest * (1.0f / 255.0f);
}

/* The larger one of two values that are not negative, NaN if one of them is. */
static inline float pe_larger(float a, float b) { return a > b || isnan(a) ? a : b; }

/* The sum of 16 lanes in the one order that all kernels use: halves onto halves. */
static inline float pe_sum_lanes(const float lanes[PE_LANES]) {
    float s[PE_LANES];
    memcpy(s, lanes, sizeof s);
    for (int half = PE_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) s[i] = s[i] + s[i + half];
    return s[0];
}

/* The value of a bfloat16, the upper half of a float: exact. */
static inline float pe_float_of_bfloat16(uint16_t upper) {
    const uint32_t bits = (uint32_t)upper << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The value of an IEEE half: exact, since every half is a float. */
static inline float pe_float_of_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half >> 15) << 31, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 0) {
        const float size = (float)fraction * 0x1p-24f;
        return sign ? -size : size;
    }
    const uint32_t widened = exponent == 31 ? 255 : exponent + 112; /* infinities and NaN, else the bias 15 -> 127 */
    const uint32_t bits = sign | widened << 23 | fraction << 13;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
