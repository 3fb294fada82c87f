#include "search/draw.h"

#include <math.h>
#include <stdbool.h>

#include "base/mathd.h"

typedef bool better(const pe_choice *a, const pe_choice *b);

static bool by_score(const pe_choice *a, const pe_choice *b) {
    return a->score > b->score || (a->score == b->score && a->place < b->place);
}

static bool by_key(const pe_choice *a, const pe_choice *b) {
    return a->key > b->key || (a->key == b->key && by_score(a, b));
}

static void sift(pe_choice *heap, int64_t n, int64_t at, better *before) {
    const pe_choice moved = heap[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(heap + child + 1, heap + child)) child++;
        if (!before(heap + child, &moved)) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

/* Takes the best choices to the front, best first, until there are `most`, or their weights are `share` together: how
   many these are. */
static int64_t take_best(pe_choice *choices, int64_t n, int64_t most, double share, better *before) {
    for (int64_t i = n / 2 - 1; i >= 0; i--) sift(choices, n, i, before);
    /* The heap gives its best to the end, one by one: the best is last, the second before it. */
    int64_t taken = 0;
    double weight = 0.0;
    while (taken < n && taken < most && (taken == 0 || weight < share)) {
        const pe_choice best = choices[0];
        const int64_t last = n - 1 - taken;
        choices[0] = choices[last];
        choices[last] = best;
        sift(choices, last, 0, before);
        weight += best.weight;
        taken++;
    }
    for (int64_t i = 0; i < n / 2; i++) { /* and to the front */
        const pe_choice other = choices[i];
        choices[i] = choices[n - 1 - i];
        choices[n - 1 - i] = other;
    }
    return taken;
}

static double sum_of(const pe_choice *choices, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += choices[i].weight;
    return sum;
}

/* Those with at least this weight, in their order: how many. */
static int64_t keep_above(pe_choice *kept, int64_t n, double least) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        if (kept[i].weight >= least) kept[count++] = kept[i];
    return count;
}

/* Those nearest to the entropy: |-log p - entropy| = |mean of the scores - score|. */
static int64_t keep_typical(pe_choice *kept, int64_t n, double share) {
    const double total = sum_of(kept, n);
    double mean = 0.0;
    for (int64_t i = 0; i < n; i++) mean += kept[i].weight > 0.0 ? kept[i].weight * kept[i].score : 0.0;
    mean /= total;
    for (int64_t i = 0; i < n; i++) kept[i].key = -(float)fabs(mean - kept[i].score);
    return take_best(kept, n, n, share * total, by_key);
}

int64_t pe_keep(const pe_filters *filters, const double *values, int64_t n, pe_choice *kept, double *total) {
    double best = -INFINITY;
    for (int64_t i = 0; i < n; i++) best = values[i] > best ? values[i] : best;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(values[i] > -INFINITY)) continue;
        const double score = values[i] == best ? 0.0 : (values[i] - best) / filters->temperature; /* both may be inf */
        kept[count++] = (pe_choice){.score = score, .place = (int32_t)i};
    }
    if (filters->top_k > 0 && filters->top_k < count)
        count = take_best(kept, count, filters->top_k, INFINITY, by_score);
    for (int64_t i = 0; i < count; i++) kept[i].weight = pe_expd(kept[i].score);
    if (filters->top_p < 1.0) {
        const double sum = sum_of(kept, count);
        /* What is below has less than half of 1 - top_p together, so that the best ones end above: few are sorted. */
        count = keep_above(kept, count, 0.5 * (1.0 - filters->top_p) * sum / (double)count);
        count = take_best(kept, count, count, filters->top_p * sum, by_score);
    }
    if (filters->min_p > 0.0) count = keep_above(kept, count, filters->min_p);
    if (filters->typical_p < 1.0) count = keep_typical(kept, count, filters->typical_p);
    *total = sum_of(kept, count);
    return count;
}

int64_t pe_best(pe_choice *kept, int64_t n, int64_t k) { return take_best(kept, n, k, INFINITY, by_score); }

int32_t pe_draw(const pe_choice *kept, int64_t n, double total, double number) {
    const double target = number * total;
    double sum = 0.0;
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(kept[i].weight > 0.0)) continue;
        last = i;
        sum += kept[i].weight;
        if (sum > target) break;
    }
    return kept[last].place;
}

static void round_of(uint32_t counter[4], const uint32_t key[2]) {
    const uint64_t a = (uint64_t)0xD2511F53u * counter[0], b = (uint64_t)0xCD9E8D57u * counter[2];
    const uint32_t mixed[4] = {(uint32_t)(b >> 32) ^ counter[1] ^ key[0], (uint32_t)b,
                               (uint32_t)(a >> 32) ^ counter[3] ^ key[1], (uint32_t)a};
    for (int i = 0; i < 4; i++) counter[i] = mixed[i];
}

double pe_uniform(uint64_t seed, uint32_t sample, uint32_t position) {
    uint32_t counter[4] = {position, sample, 0, 0}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int i = 0; i < 10; i++) {
        round_of(counter, key);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return (double)(((uint64_t)counter[1] << 32 | counter[0]) >> 11) * 0x1p-53;
}
