/* The core without Python, for machines that are emulated: kernels against plain loops in double precision, and a
   tiny model with random weights.

       check_core [isa]

   Prints a fingerprint of the results of each part. Every machine and instruction set must print the same ones, since
   all kernels give the same bytes. Exit status 1 if a kernel is off. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mathd.h"
#include "check_core.h"

static uint64_t state = 88172645463325252u;
static int failures;

uint64_t next_random(void) { /* xorshift64 (Marsaglia, 2003) */
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

float random_float(void) { return (float)((double)(next_random() >> 11) / 4503599627370496.0 - 1.0); }

int8_t random_weight(void) { return (int8_t)((int)(next_random() % 255) - 127); }

void *new_memory(size_t size) {
    void *memory = calloc(1, size);
    if (!memory) exit(2);
    return memory;
}

float *random_floats(int64_t n) {
    float *x = new_memory((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = random_float();
    return x;
}

uint64_t fingerprint(uint64_t hash, const void *data, size_t size) { /* FNV-1a */
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

void expect_near(const char *what, double got, double expected, double bound) {
    if (fabs(got - expected) <= bound) return;
    failures++;
    printf("%s: %.9g, expected %.9g within %.3g\n", what, got, expected, bound);
}

static void check_product(const pe_kernels *kernels, int64_t m, int64_t n, int64_t k, bool q8, uint64_t *hash) {
    const int64_t n16 = pe_round_up(n, PE_BLOCK), k4 = pe_round_up(k, PE_QUAD);
    float *x = random_floats(m * k), *bias = random_floats(n16), *scale = random_floats(n16);
    float *y = new_memory((size_t)(m * n16) * sizeof *y), *x_scale = new_memory((size_t)m * sizeof *x_scale);
    int8_t *q = new_memory((size_t)(m * k4));
    int32_t *sums = new_memory((size_t)n16 * sizeof *sums);
    int8_t *w8 = new_memory((size_t)(n16 * k4));
    float *w32 = new_memory((size_t)(n16 * k4) * sizeof *w32);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++) {
            w8[(i / 16 * (k4 / 4) + j / 4) * 64 + i % 16 * 4 + j % 4] = random_weight();
            w32[(i / 16 * k4 + j) * 16 + i % 16] = random_float();
        }
    for (int64_t r = 0; r < m; r++) kernels->quantize(x + r * k, k, k4, kernels->flip, q + r * k4, x_scale + r);
    if (!kernels->channel_sums(w8, k4, n16 / 16, sums)) expect_near("a weight of -128", 1, 0, 0);
    const pe_product product = {
        .m = m, .k = q8 ? k4 : k, .x = q8 ? (void *)q : x, .ldx = q8 ? k4 : k, .x_scale = x_scale,
        .w = q8 ? (void *)w8 : w32, .w_scale = scale, .w_sum = sums, .bias = bias, .y = y, .ldy = n16,
    };
    (q8 ? kernels->gemm_q8 : kernels->gemm_f32)(&product, 0, n16 / 16);
    for (int64_t r = 0; r < m; r++)
        for (int64_t i = 0; i < n; i++) {
            double sum = 0, size = 0;
            for (int64_t j = 0; j < k; j++) {
                const int8_t xq = (int8_t)((uint8_t)q[r * k4 + j] ^ kernels->flip);
                const double term = q8 ? (double)xq * w8[(i / 16 * (k4 / 4) + j / 4) * 64 + i % 16 * 4 + j % 4]
                                       : (double)x[r * k + j] * w32[(i / 16 * k4 + j) * 16 + i % 16];
                sum += term;
                size += fabs(term);
            }
            const double unit = q8 ? (double)x_scale[r] * scale[i] : 1;
            const double bound = (q8 ? fabs(sum * unit) : (double)k * size) + fabs(bias[i]);
            expect_near(q8 ? "gemm_q8" : "gemm_f32", y[r * n16 + i], sum * unit + bias[i], 4 * EPSILON * bound);
        }
    *hash = fingerprint(*hash, y, (size_t)(m * n16) * sizeof *y);
    void *all[] = {x, bias, scale, y, x_scale, q, sums, w8, w32};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* Stores a token's key and value of one head as pe_attend describes; k and v become what was stored. */
static void store(const pe_kernels *kernels, bool q8, uint8_t *page, int64_t d, int64_t t, float *k, float *v) {
    const int64_t d16 = pe_round_up(d, 16);
    if (!q8) {
        for (int64_t i = 0; i < d; i++) ((float *)page)[i * PE_PAGE + t] = k[i];
        for (int64_t i = 0; i < d; i++) ((float *)page)[d * PE_PAGE + t * d16 + i] = v[i];
        return;
    }
    const pe_token token = {.heads = 1, .head_dim = d, .k = k, .v = v, .page = page, .slot = t};
    kernels->store_q8(&token);
    uint8_t *stored = new_memory((size_t)pe_page_bytes_q8(d));
    memcpy(stored, page, (size_t)pe_page_bytes_q8(d));
    int8_t row[PE_MAX_HEAD_DIM];
    int8_t *keys = (int8_t *)page, *values = keys + pe_page_keys_q8(d);
    float *scales = (float *)(values + pe_page_values_q8(d));
    const int64_t d4 = pe_round_up(d, 4);
    kernels->quantize(k, d, d4, 0, row, scales + t);
    for (int64_t i = 0; i < d4; i++)
        keys[i / 4 * 64 + t * 4 + i % 4] = (int8_t)((uint8_t)row[i] ^ kernels->flip);
    for (int64_t i = 0; i < d; i++) k[i] = (float)row[i] * scales[t];
    kernels->quantize(v, d, d, 0, row, scales + PE_PAGE + t);
    for (int64_t i = 0; i < d; i++) values[t / 4 * d16 * 4 + i / 16 * 64 + i % 16 * 4 + t % 4] = row[i];
    for (int64_t i = 0; i < d; i++) v[i] = (float)row[i] * scales[PE_PAGE + t];
    expect_near("store_q8", memcmp(stored, page, (size_t)pe_page_bytes_q8(d)), 0, 0);
    free(stored);
}

/* Random keys and values; these in a window, with capped and biased scores; or, as in textbooks, keys of ones and
   values 1, 2, 3, 4: their mean is 2.5. */
typedef enum attention_case { RANDOM, BIASED, TEXTBOOK } attention_case;

static void check_attention(const pe_kernels *kernels, int64_t d, int64_t n, bool q8, attention_case kind,
                            uint64_t *hash) {
    enum { PAGES = 4, REACH = 3, TABLE = 2 * (REACH + PE_PAGE) + 1 };
    const size_t bytes = (size_t)pe_round_up(q8 ? pe_page_bytes_q8(d) : pe_page_bytes_f32(d), 64);
    uint8_t *pages = new_memory(PAGES * bytes);
    const uint8_t *list[PAGES];
    float *q = random_floats(d), *k = random_floats(n * d), *v = random_floats(n * d), *y = random_floats(d);
    for (int64_t i = 0; i < d && kind == TEXTBOOK; i++) q[i] = 1;
    for (int64_t i = 0; i < n * d && kind == TEXTBOOK; i++) k[i] = 1, v[i] = (float)(i / d + 1);
    for (int64_t i = 0; i < PAGES; i++) list[i] = pages + (size_t)i * bytes;
    for (int64_t t = 0; t < n; t++)
        store(kernels, q8, pages + (size_t)(t / PE_PAGE) * bytes, d, t % PE_PAGE, k + t * d, v + t * d);
    const float scale = 1 / sqrtf((float)d);
    pe_sight sight = {.end = n};
    pe_attend attend = {.rows = 1, .heads = 1, .group = 1, .head_dim = d, .sight = &sight, .scale = scale, .q = q,
                        .pages = list, .y = y};
    float *relative = random_floats(TABLE), slope = random_float();
    for (int i = 0; i < PE_PAGE; i++) {
        relative[i] = relative[PE_PAGE];
        relative[TABLE - 1 - i] = relative[TABLE - 1 - PE_PAGE];
    }
    if (kind == BIASED) {
        sight.first = n / 3, sight.position = n / 2, attend.soft_cap = 0.5f;
        attend.relative = relative + TABLE / 2, attend.relative_ld = TABLE, attend.reach = REACH;
        attend.slopes = &slope;
        for (int64_t i = 0; i < sight.first / PE_PAGE; i++) list[i] = NULL;
    }
    (q8 ? kernels->attend_q8 : kernels->attend_f32)(&attend);

    double weight[PAGES * PE_PAGE], total = 0;
    for (int64_t t = 0; t < n; t++) {
        double dot = 0;
        for (int64_t i = 0; i < d; i++) dot += (double)q[i] * k[t * d + i];
        double score = dot * scale;
        if (kind == BIASED) {
            const int64_t distance = t - sight.position;
            score = attend.soft_cap * tanh(score / attend.soft_cap);
            score += relative[TABLE / 2 + pe_clamp(distance, -REACH, REACH)] + (double)slope * (double)distance;
        }
        weight[t] = t < sight.first ? 0 : exp(score);
        total += weight[t];
    }
    for (int64_t i = 0; i < d; i++) {
        double expected = 0, largest = 0;
        for (int64_t t = 0; t < n; t++) {
            expected += weight[t] / total * v[t * d + i];
            largest = fmax(largest, fabs(v[t * d + i]));
        }
        /* int8: the query's 1/254 in each of d products of at most 1, and half a unit of 127 for each weight. */
        const double bound = q8 ? largest * (2 * (double)scale * (double)d / 254 + 1.0 / 32) : 1e-5 * largest;
        expect_near(q8 ? "attend_q8" : "attend_f32", y[i], kind == TEXTBOOK ? 2.5 : expected, bound);
    }
    *hash = fingerprint(*hash, y, (size_t)d * sizeof *y);
    free(pages);
    free(relative);
    free(q);
    free(k);
    free(v);
    free(y);
}

/* Turns a head by the angles of a far position. */
static void check_turn(const pe_kernels *kernels, int64_t n, uint64_t *hash) {
    float *frequencies = random_floats(n), *cosines = new_memory((size_t)n * sizeof *cosines);
    float *sines = new_memory((size_t)n * sizeof *sines);
    pe_angles(100003, frequencies, n, 1.25f, cosines, sines);
    for (int64_t i = 0; i < n; i++) {
        const double angle = 100003.0f * frequencies[i];
        expect_near("angles: cosine", cosines[i], 1.25 * cos(angle), EPSILON);
        expect_near("angles: sine", sines[i], 1.25 * sin(angle), EPSILON);
    }
    const int64_t half = n / 2;
    float *x = random_floats(n), *y = new_memory((size_t)n * sizeof *y);
    memcpy(y, x, (size_t)n * sizeof *y);
    kernels->turn(y, 2 * half, cosines, sines);
    for (int64_t i = 0; i < half; i++) {
        const double c = cosines[i], s = sines[i];
        expect_near("turn: first", y[i], x[i] * c - x[half + i] * s, 4 * EPSILON);
        expect_near("turn: second", y[half + i], x[half + i] * c + x[i] * s, 4 * EPSILON);
    }
    *hash = fingerprint(*hash, y, (size_t)n * sizeof *y);
    free(x);
    free(y);
    free(frequencies);
    free(cosines);
    free(sines);
}

static void check_gate(const pe_kernels *kernels, int64_t n, uint64_t *hash) {
    const int64_t units = pe_round_up(n, PE_BLOCK);
    float *both = random_floats(2 * units), *gated = new_memory((size_t)(2 * units) * sizeof *gated);
    memcpy(gated, both, (size_t)(2 * units) * sizeof *gated);
    kernels->gate(gated, n, PE_SILU);
    for (int64_t i = 0; i < n; i++) {
        const double gate = both[i + i / 16 * 16];
        expect_near("gate", gated[i], gate / (1 + exp(-gate)) * both[i + i / 16 * 16 + 16], 4 * EPSILON);
    }
    *hash = fingerprint(*hash, gated, (size_t)n * sizeof *gated);
    free(both);
    free(gated);
}

static void check_rows(const pe_kernels *kernels, int64_t n, uint64_t *hash) {
    float *x = random_floats(n), *weight = random_floats(n), *bias = random_floats(n), *y = random_floats(n);
    int32_t *indices = new_memory((size_t)n * sizeof *indices);
    double mean = 0, variance = 0, sum_expected = 0, largest = -2;
    for (int64_t i = 0; i < n; i++) mean += x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)n;
    kernels->norm(x, n, weight, bias, 1e-5f, y);
    for (int64_t i = 0; i < n; i++)
        expect_near("norm", y[i], (x[i] - mean) / sqrt(variance + 1e-5) * weight[i] + bias[i], 3e-5);
    *hash = fingerprint(*hash, y, (size_t)n * sizeof *y);

    double square = 0;
    for (int64_t i = 0; i < n; i++) square += (double)x[i] * x[i] / (double)n;
    kernels->rmsnorm(x, n, weight, 1e-6f, y);
    for (int64_t i = 0; i < n; i++) expect_near("rmsnorm", y[i], x[i] / sqrt(square + 1e-6) * weight[i], 1e-5);
    *hash = fingerprint(*hash, y, (size_t)n * sizeof *y);

    for (int64_t i = 0; i < n; i++) y[i] = 8 * x[i];
    kernels->soft_cap(y, n, 3);
    for (int64_t i = 0; i < n; i++) expect_near("soft_cap", y[i], 3 * tanh(8 * x[i] / 3.0), 8 * EPSILON);
    *hash = fingerprint(*hash, y, (size_t)n * sizeof *y);

    float max, sum;
    kernels->exp_sum(x, n, &max, &sum);
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, x[i]);
    for (int64_t i = 0; i < n; i++) sum_expected += exp(x[i] - largest);
    expect_near("exp_sum: max", max, largest, 0);
    expect_near("exp_sum: sum", sum, sum_expected, 1e-6 * sum_expected);
    *hash = fingerprint(*hash, &sum, sizeof sum);

    const int64_t above = kernels->above(x, n, 0.25f, indices);
    int64_t expected = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > 0.25f) {
            if (expected < above) expect_near("above: index", indices[expected], (double)i, 0);
            expected++;
        }
    expect_near("above: count", (double)above, (double)expected, 0);
    free(x);
    free(weight);
    free(bias);
    free(y);
    free(indices);
}

static uint64_t check_score_functions(void) {
    uint64_t hash = 0;
    for (int i = 1; i < 2000; i++) {
        const double x = random_float();
        const double found[] = {pe_expd(400 * x), pe_logd(fabs(x)), pe_powd(i, 3 * x)};
        const double expected[] = {exp(400 * x), log(fabs(x)), pow(i, 3 * x)};
        for (int j = 0; j < 3; j++) expect_near("mathd", found[j], expected[j], 4e-16 * fabs(expected[j]));
        hash = fingerprint(hash, found, sizeof found);
    }
    return hash;
}

int main(int argc, char **argv) {
    static const int64_t counts[] = {1, 3, 16, 17, 45};
    pe_kernels kernels;
    if (pe_kernels_init(&kernels, argc > 1 ? argv[1] : NULL) != PE_OK) {
        fprintf(stderr, "this machine does not run %s\n", argc > 1 ? argv[1] : "the core");
        return 2;
    }
    uint64_t products = 0, attention = 0, rows = 0;
    for (int q8 = 0; q8 < 2; q8++) {
        for (int64_t m = 1; m < 8; m += 3)
            for (int64_t k = 1; k < 150; k = k * 3 + 1)
                for (int64_t n = 1; n < 150; n = n * 4 + 13) check_product(&kernels, m, n, k, q8, &products);
        for (int i = 0; i < 5; i++)
            for (int j = 0; j < 5; j++) {
                check_attention(&kernels, counts[i], counts[j], q8, RANDOM, &attention);
                check_attention(&kernels, counts[i], counts[j], q8, BIASED, &attention);
            }
        check_attention(&kernels, 8, 4, q8, TEXTBOOK, &attention);
    }
    for (int i = 0; i < 5; i++) {
        check_rows(&kernels, counts[i] * 7, &rows);
        check_turn(&kernels, counts[i] * 7, &rows);
        check_gate(&kernels, counts[i] * 7, &rows);
    }
    printf("products  %016llx\n", (unsigned long long)products);
    printf("int4      %016llx\n", (unsigned long long)check_int4(&kernels));
    printf("sparse    %016llx\n", (unsigned long long)check_sparse(&kernels));
    printf("attention %016llx\n", (unsigned long long)attention);
    printf("rows      %016llx\n", (unsigned long long)rows);
    printf("scores    %016llx\n", (unsigned long long)check_score_functions());
    printf("model f32 %016llx\n", (unsigned long long)check_model(&kernels, PE_WEIGHT_F32));
    printf("model q8  %016llx\n", (unsigned long long)check_model(&kernels, PE_WEIGHT_Q8));
    fprintf(stderr, "%s: %d failures\n", kernels.isa, failures);
    return failures > 0;
}
