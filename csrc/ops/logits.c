#include <math.h>
#include <string.h>

#include "base/mathd.h"
#include "ops/candidates.h"

static best best_of(const pe_logits_scratch *s, const pe_logits_request *request, int thread, int64_t row) {
    const int64_t place = thread * request->n_rows + row;
    return (best){s->values + place * request->top_k, s->ids + place * request->top_k, s->counts + place,
                  request->top_k};
}

/* The first of the row's excluded ids that is at least `id`. */
static int64_t first_excluded(const pe_logits_request *request, int64_t row, int64_t id) {
    int64_t low = request->exclude_offsets[row], high = request->exclude_offsets[row + 1];
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (request->exclude_ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* One row of one chunk: logits [n] of the ids from `first` on, in a buffer that may be changed. */
static void scan(const pe_kernels *kernels, const pe_logits_request *request, const pe_logits_scratch *s, int thread,
                 int64_t row, int64_t chunk, int64_t n_chunks, float *logits, int64_t first, int64_t n,
                 int64_t vocabulary) {
    float *max = s->max + row * n_chunks + chunk;
    if (request->soft_cap > 0.0f) kernels->soft_cap(logits, n, request->soft_cap);
    kernels->exp_sum(logits, n, max, s->sum + row * n_chunks + chunk);
    if (request->logits) memcpy(request->logits + row * vocabulary + first, logits, (size_t)n * sizeof *logits);

    const int64_t end = request->exclude_offsets[row + 1];
    for (int64_t i = first_excluded(request, row, first); i < end && request->exclude_ids[i] < first + n; i++) {
        float *logit = logits + request->exclude_ids[i] - first;
        request->excluded_logits[i] = *logit;
        *logit = -INFINITY;
    }
    const best b = best_of(s, request, thread, row);
    compete(kernels, &b, *max, logits, n, NULL, (int32_t)first, s->indices + (int64_t)thread * PE_LOGIT_CHUNK);
}

void pe_op_logits(pe_thread *thread, const pe_kernels *kernels, const pe_linear *output, const pe_rows *rows,
                  const pe_logits_request *request, const pe_logits_scratch *s) {
    const int64_t n_chunks = pe_ceil_div(output->n, PE_LOGIT_CHUNK);
    float *tile = s->tile + (int64_t)thread->id * PE_LOGIT_ROWS * PE_LOGIT_CHUNK;
    memset(s->counts + thread->id * request->n_rows, 0, (size_t)request->n_rows * sizeof *s->counts);

    const int64_t own_end = pe_own_end(thread, n_chunks);
    for (int64_t chunk; pe_take(thread, n_chunks, &chunk);) {
        const int64_t first = chunk * PE_LOGIT_CHUNK, n = pe_min(PE_LOGIT_CHUNK, output->n - first);
        const pe_linear part = pe_linear_from(output, first / PE_BLOCK);
        for (int64_t row0 = 0; row0 < request->n_rows; row0 += PE_LOGIT_ROWS) {
            const int64_t m = pe_min(PE_LOGIT_ROWS, request->n_rows - row0);
            pe_product product = {
                .y = tile,
                .ldy = PE_LOGIT_CHUNK,
                .activation = PE_IDENTITY,
                .ahead = chunk + 1 < own_end ? pe_block_at(output, (first + PE_LOGIT_CHUNK) / PE_BLOCK) : NULL,
            };
            pe_multiply(kernels, &part, rows, row0, m, &product, 0, pe_ceil_div(n, PE_BLOCK));
            for (int64_t r = 0; r < m; r++)
                scan(kernels, request, s, thread->id, row0 + r, chunk, n_chunks, tile + r * PE_LOGIT_CHUNK, first, n,
                     output->n);
        }
    }
}

void pe_op_logits_merge(pe_thread *thread, int64_t vocabulary, const pe_logits_request *request,
                        const pe_logits_scratch *s) {
    const int64_t n_chunks = pe_ceil_div(vocabulary, PE_LOGIT_CHUNK), k = request->top_k;
    for (int64_t row; pe_take(thread, request->n_rows, &row);) {
        const float *max = s->max + row * n_chunks, *sum = s->sum + row * n_chunks;
        float top = max[0];
        for (int64_t c = 1; c < n_chunks; c++) top = max[c] > top ? max[c] : top;
        double total = 0.0;
        for (int64_t c = 0; c < n_chunks; c++) total += (double)sum[c] * (double)pe_exp(max[c] - top);
        request->log_normalizer[row] = (double)top + pe_logd(total);

        int32_t count = 0;
        const best merged = {request->top_logits + row * k, request->top_ids + row * k, &count, k};
        for (int t = 0; t < thread->team->threads && k > 0; t++) {
            const best b = best_of(s, request, t, row);
            for (int64_t i = 0; i < *b.count; i++) insert(&merged, b.values[i], b.ids[i]);
        }
        for (int64_t i = count; i < k; i++) {
            merged.values[i] = -INFINITY;
            merged.ids[i] = -1;
        }
    }
}
