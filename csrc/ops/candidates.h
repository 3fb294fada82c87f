/* What the ops over logits share: the best candidates of a row so far, and the row's excluded ids. */
#ifndef PE_OPS_CANDIDATES_H
#define PE_OPS_CANDIDATES_H

#include "ops/ops.h"

/* The best candidates of a row so far, descending; equal logits in ascending order of id. */
typedef struct best {
    float *values;
    int32_t *ids;
    int32_t *count;
    int64_t k;
} best;

static inline bool before(float value, int32_t id, float other, int32_t other_id) {
    return value > other || (value == other && id < other_id);
}

static inline void insert(const best *b, float value, int32_t id) {
    int64_t i = *b->count;
    if (i == b->k) {
        if (!before(value, id, b->values[i - 1], b->ids[i - 1])) return;
        i--;
    } else {
        ++*b->count;
    }
    for (; i > 0 && before(value, id, b->values[i - 1], b->ids[i - 1]); i--) {
        b->values[i] = b->values[i - 1];
        b->ids[i] = b->ids[i - 1];
    }
    b->values[i] = value;
    b->ids[i] = id;
}

/* The first of the row's excluded ids that is at least `id`. */
static inline int64_t first_excluded(const pe_logits_request *request, int64_t row, int64_t id) {
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

#endif
