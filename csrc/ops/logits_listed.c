#include <math.h>

#include "base/intmath.h"
#include "base/mathd.h"
#include "ops/candidates.h"

/* The sum of e^logit so far, as total * e^top. */
typedef struct normalizer {
    float top;
    double total;
} normalizer;

static void add(normalizer *sum, float max, float chunk_sum) {
    if (chunk_sum == 0.0f) return; /* minus infinity throughout */
    if (max > sum->top) {
        sum->total *= (double)pe_exp(sum->top - max);
        sum->top = max;
    }
    sum->total += (double)chunk_sum * (double)pe_exp(max - sum->top);
}

/* Takes the excluded ids up to the last of the n ascending `ids` out of the logits; the others are not on the list.
   `next` is the first that is not done, and so is what this returns. */
static int64_t exclude(const pe_logits_request *request, int64_t next, int64_t end, const int32_t *ids, int64_t n,
                       float *logits) {
    for (int64_t at = 0; next < end && request->exclude_ids[next] <= ids[n - 1]; next++) {
        int64_t high = n;
        while (at < high) {
            const int64_t middle = at + (high - at) / 2;
            if (ids[middle] < request->exclude_ids[next])
                at = middle + 1;
            else
                high = middle;
        }
        const bool listed = ids[at] == request->exclude_ids[next];
        request->excluded_logits[next] = listed ? logits[at] : -INFINITY;
        if (listed) logits[at] = -INFINITY;
    }
    return next;
}

static void answer(const pe_kernels *kernels, const pe_logits_request *request, int64_t row, const pe_list *list,
                   const float *by_slot, float *logits, int32_t *indices) {
    const int64_t k = request->top_k, end = request->exclude_offsets[row + 1];
    int64_t excluded = request->exclude_offsets[row];
    int32_t count = 0;
    const best b = {request->top_logits + row * k, request->top_ids + row * k, &count, k};
    normalizer sum = {0};
    for (int64_t first = 0; first < list->n; first += PE_LOGIT_CHUNK) {
        const int64_t n = pe_min(PE_LOGIT_CHUNK, list->n - first);
        const int32_t *ids = list->ids + first;
        for (int64_t i = 0; i < n; i++) logits[i] = by_slot[list->slots[first + i]];
        if (request->soft_cap > 0.0f) kernels->soft_cap(logits, n, request->soft_cap);
        float max, chunk_sum;
        kernels->exp_sum(logits, n, &max, &chunk_sum);
        if (first == 0)
            sum = (normalizer){max, (double)chunk_sum};
        else
            add(&sum, max, chunk_sum);
        excluded = exclude(request, excluded, end, ids, n, logits);
        compete(kernels, &b, max, logits, n, ids, 0, indices);
    }
    for (; excluded < end; excluded++) request->excluded_logits[excluded] = -INFINITY;
    request->log_normalizer[row] = (double)sum.top + pe_logd(sum.total);
    for (int64_t i = count; i < k; i++) {
        b.values[i] = -INFINITY;
        b.ids[i] = -1;
    }
}

void pe_op_logits_listed(pe_thread *thread, const pe_kernels *kernels, const pe_logits_request *request,
                         const pe_listed_scratch *s) {
    const int64_t own = (int64_t)thread->id * PE_LOGIT_CHUNK;
    for (int64_t row; pe_take(thread, request->n_rows, &row);)
        answer(kernels, request, row, s->lists[row], s->logits + row * s->ld, s->gathered + own, s->indices + own);
}
