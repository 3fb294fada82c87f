/* A tiny random encoder-decoder: two source segments, two target sequences, all of the core in one step. */
#include <string.h>

#include "check_core.h"

enum { WIDTH = 24, HEADS = 3, HEAD_WIDTH = 12, FFN = 40, SOURCE_VOCAB = 50, VOCAB = 37, POSITIONS = 32 };
enum { ROWS = 9, LABELS = 5 };

static pe_linear random_linear(pe_weight_type type, int64_t n, int64_t k) {
    const int64_t n16 = pe_round_up(n, PE_BLOCK), k4 = pe_round_up(k, PE_QUAD);
    pe_linear linear = {.type = type, .n = n, .k = k};
    float *bias = new_memory((size_t)n16 * sizeof *bias), *scale = new_memory((size_t)n16 * sizeof *scale);
    int32_t *sum = new_memory((size_t)n16 * sizeof *sum);
    int8_t *w8 = new_memory((size_t)(n16 * k4));
    float *w32 = new_memory((size_t)(n16 * k4) * sizeof *w32);
    for (int64_t i = 0; i < n; i++) {
        bias[i] = random_float();
        scale[i] = 0.2f / 127;
        for (int64_t j = 0; j < k; j++) {
            const int8_t w = random_weight();
            sum[i] += w;
            w8[(i / 16 * (k4 / 4) + j / 4) * 64 + i % 16 * 4 + j % 4] = w;
            w32[(i / 16 * k4 + j) * 16 + i % 16] = (float)w * scale[i];
        }
    }
    linear.w = type == PE_WEIGHT_Q8 ? (void *)w8 : w32;
    linear.scale = scale;
    linear.sum = sum;
    linear.bias = bias;
    return linear;
}

static pe_norm random_norm(void) {
    float *weight = new_memory(pe_round_up(WIDTH, 16) * sizeof(float));
    float *bias = new_memory(pe_round_up(WIDTH, 16) * sizeof(float));
    for (int i = 0; i < WIDTH; i++) weight[i] = 1 + random_float() / 4, bias[i] = random_float() / 4;
    return (pe_norm){weight, bias};
}

static pe_attention attention(pe_weight_type type, int64_t heads, bool crosses) {
    const int64_t inner = heads * HEAD_WIDTH;
    return (pe_attention){
        .sub = {.output = random_linear(type, WIDTH, inner), .norm = random_norm()},
        .heads = {.n = heads, .kv = heads, .width = HEAD_WIDTH, .before = PE_ALL, .after = PE_ALL, .rope = -1,
                  .scale = 0.288675135f},
        .input = random_linear(type, crosses ? inner : 3 * inner, WIDTH),
        .memory = crosses ? random_linear(type, 2 * inner, WIDTH) : (pe_linear){0},
    };
}

static pe_feed_forward feed_forward(pe_weight_type type, int64_t width) {
    return (pe_feed_forward){
        .sub = {.output = random_linear(type, WIDTH, width), .norm = random_norm()},
        .up = random_linear(type, width, WIDTH),
        .activation = PE_SILU,
    };
}

static pe_stack stack(pe_weight_type type, int64_t vocab, const float *positions) {
    return (pe_stack){
        .n = 2, .max_positions = POSITIONS, .vocab = vocab, .placement = PE_POST, .norm_kind = PE_LAYER_NORM,
        .epsilon = 1e-5f,
        .embedding = {.table = random_linear(type, vocab, WIDTH), .positions = positions, .scale = 4.0f},
    };
}

/* Its memory lives as long as the program. */
static void make_model(pe_model *model, const pe_kernels *kernels, pe_weight_type type) {
    const float *positions = random_floats(POSITIONS * WIDTH);
    *model = (pe_model){
        .kernels = *kernels,
        .int8_rows = type == PE_WEIGHT_Q8,
        .kv = type == PE_WEIGHT_Q8 ? PE_KV_Q8 : PE_KV_F32,
        .width = WIDTH,
        .encoder = stack(type, SOURCE_VOCAB, positions),
        .decoder = stack(type, VOCAB, positions),
        .output = random_linear(type, VOCAB, WIDTH),
        .n_heads = 1,
    };
    expect_near("pe_model_allocate", pe_model_allocate(model), PE_OK, 0);
    for (int i = 0; i < 2; i++) { /* the second layer has lost a head, and another attention has more */
        model->encoder.layers[i].self = attention(type, HEADS - i, false);
        model->encoder.layers[i].ffn = feed_forward(type, FFN - 3 * i);
        model->decoder.layers[i].self = attention(type, HEADS - i, false);
        model->decoder.layers[i].cross = attention(type, i + 1, true);
        model->decoder.layers[i].ffn = feed_forward(type, FFN - 3 * i);
    }
    model->heads[0] = (pe_head){
        .pool = PE_POOL_MEAN, .dense = random_linear(type, WIDTH, WIDTH), .activation = PE_TANH, .norm = random_norm(),
        .out = random_linear(type, LABELS, WIDTH),
    };
    expect_near("pe_model_link", pe_model_link(model), PE_OK, 0);
}

typedef struct results {
    float logits[ROWS * VOCAB], answers[2 * PE_BLOCK];
} results;

/* Sequence 0 has five rows, sequence 1 four; both read memories made in the first step, where a head answers, too. */
static void run(const pe_model *model, int threads, bool at_once, results *found) {
    static const int32_t lengths[] = {19, 3}, memory_ids[] = {0, 1};
    static const int32_t tokens[ROWS] = {1, 30, 36, 7, 7, 2, 0, 11, 36}, sequences[ROWS] = {0, 0, 0, 0, 0, 1, 1, 1, 1};
    static const int32_t no_excluded[ROWS + 1] = {0};
    static const int32_t logit_rows[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    int32_t source[22], top_ids[ROWS * 3];
    float top_logits[ROWS * 3];
    double normalizer[ROWS];
    for (int i = 0; i < 22; i++) source[i] = (i * 7 + 3) % SOURCE_VOCAB;
    pe_session session;
    pe_crew crew;
    expect_near("pe_crew_create", pe_crew_create(&crew, threads, NULL, 0), PE_OK, 0);
    expect_near("pe_session_create", pe_session_create(&session, model, threads, 64, 4, 4, 0), PE_OK, 0);
    const int step = at_once ? ROWS : 1;
    for (int row = 0; row < ROWS; row += step) {
        const bool first = row == 0;
        pe_plan plan = {
            .n_segments = first ? 2 : 0, .segment_lengths = lengths, .segment_memories = memory_ids,
            .n_source_tokens = first ? 22 : 0, .source_tokens = source,
            .head = first ? model->heads : NULL, .answers = found->answers, .ld_answers = PE_BLOCK,
            .n_rows = step, .tokens = tokens + row, .sequences = sequences + row, .memories = sequences + row,
            .logit_rows = logit_rows,
        };
        plan.logits = (pe_logits_request){
            .n_rows = step, .top_k = 3, .exclude_offsets = no_excluded, .log_normalizer = normalizer,
            .top_ids = top_ids, .top_logits = top_logits, .logits = found->logits + row * VOCAB,
        };
        expect_near("pe_session_step", pe_session_step(&session, &plan, &crew), PE_OK, 0);
        for (int r = 0; r < step; r++) { /* the best logit is the largest, the normalizer is the sum's logarithm */
            const float *x = found->logits + (row + r) * VOCAB;
            double largest = x[0], sum = 0;
            for (int i = 0; i < VOCAB; i++) largest = fmax(largest, x[i]), sum += exp(x[i]);
            expect_near("top_logits", top_logits[r * 3], largest, 0);
            expect_near("the logit of top_ids", x[top_ids[r * 3]], largest, 0);
            expect_near("log_normalizer", normalizer[r], log(sum), 1e-5);
        }
    }
    pe_session_destroy(&session);
    pe_crew_destroy(&crew);
}

uint64_t check_model(const pe_kernels *kernels, pe_weight_type weights) {
    static results found, again;
    pe_model model;
    make_model(&model, kernels, weights);
    run(&model, 1, true, &found);
    run(&model, 3, true, &again);
    expect_near("three threads give other bytes", memcmp(&found, &again, sizeof found), 0, 0);
    run(&model, 3, false, &again);
    expect_near("a row a step gives other bytes", memcmp(&found, &again, sizeof found), 0, 0);
    pe_model_free(&model);
    return fingerprint(0, &found, sizeof found);
}
