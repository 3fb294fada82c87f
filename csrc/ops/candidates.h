/* What the ops over logits share: the best candidates of a row so far. */
#ifndef PE_OPS_CANDIDATES_H
#define PE_OPS_CANDIDATES_H

#include <float.h>
#include <math.h>

#include "base/intmath.h"
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

/* What the logits of ids from `first` on must exceed to enter. A thread that helps another comes to lower ids than it
   has seen, and they win ties: there it is a little less than the last candidate. */
static inline float threshold(const best *b, int32_t first) {
    if (*b->count < b->k) return -INFINITY;
    const float last = b->values[b->k - 1];
    return first > b->ids[b->k - 1] ? last : last - (fabsf(last) * FLT_EPSILON + FLT_MIN);
}

/* Lets logits [n], none above `max`, compete for the places: those of ids [n], ascending, or of the ids from `first` on
   if ids is NULL. Without a threshold each would be inserted: pieces that grow find one soon. */
static inline void compete(const pe_kernels *kernels, const best *b, float max, const float *logits, int64_t n,
                           const int32_t *ids, int32_t first, int32_t *indices) {
    if (b->k == 0) return;
    for (int64_t i = 0, piece = *b->count < b->k ? 32 : n; i < n; i += piece, piece = 2 * i) {
        const float least = threshold(b, ids ? ids[i] : first + (int32_t)i);
        if (!(max > least)) return;
        const int64_t hits = kernels->above(logits + i, pe_min(piece, n - i), least, indices);
        for (int64_t hit = 0; hit < hits; hit++) {
            const int64_t at = i + indices[hit];
            insert(b, logits[at], ids ? ids[at] : first + (int32_t)at);
        }
    }
}

#endif
