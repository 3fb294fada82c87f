#include "search/beam.h"

#include <math.h>
#include <string.h>

#include "base/mathd.h"

/* One sentence: the state of its slot. */
typedef struct sentence {
    double *scores, *ended_scores;
    bool *ended;
    int32_t *history, *ended_ids; /* [B][capacity] */
    int32_t *ended_lengths, *last, *sequences, *length;
    int64_t capacity, prompt, maximum;
} sentence;

static sentence sentence_in(const pe_beam_search *s, int64_t slot) {
    const int64_t first = slot * s->beams, capacity = s->capacity[slot];
    return (sentence){
        .scores = s->scores + first,
        .ended_scores = s->ended_scores + first,
        .ended = s->ended + first,
        .history = s->histories[slot],
        .ended_ids = s->histories[slot] + s->beams * capacity,
        .ended_lengths = s->ended_lengths + first,
        .last = s->last + first,
        .sequences = s->sequences + first,
        .length = s->length + slot,
        .capacity = capacity,
        .prompt = s->prompt[slot],
        .maximum = s->maximum[slot],
    };
}

/* Indices of the k largest of n values, descending, equal ones in ascending order of index. Returns how many. */
static int64_t largest(const double *values, int64_t n, int64_t k, int32_t *order) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (count == k && !(values[i] > values[order[k - 1]])) continue;
        int64_t at = count < k ? count++ : k - 1;
        for (; at > 0 && values[i] > values[order[at - 1]]; at--) order[at] = order[at - 1];
        order[at] = (int32_t)i;
    }
    return count;
}

static bool is_end(const pe_beam_search *s, int32_t token) {
    for (int64_t i = 0; i < s->n_end; i++)
        if (s->end[i] == token) return true;
    return false;
}

static int32_t token_of(const pe_candidates *c, int32_t place) {
    return c->ids[c->shared ? place % c->width : place];
}

/* Whether the beam is one: others stand where there were too few candidates, and end in nothing. */
static bool exists(const pe_beam_search *s, double total) { return total > s->never / 2; }

/* Lets the best B continuations compete with the hypotheses that ended, where they end. */
static void finish(const pe_beam_search *s, const sentence *of, const pe_candidates *c, bool at_limit) {
    const int64_t beams = s->beams, length = *of->length;
    double *merged = s->running;
    bool any = false;
    for (int64_t i = 0; i < beams; i++) {
        const double total = s->totals[s->order[i]];
        const bool ends = (at_limit || is_end(s, token_of(c, s->order[i]))) && exists(s, total);
        merged[i] = of->ended[i] ? of->ended_scores[i] : -INFINITY;
        merged[beams + i] = ends ? total : -INFINITY;
        any |= ends;
    }
    if (!any) return;
    const double power = pe_powd((double)(length + 1 - of->prompt), s->length_penalty);
    for (int64_t i = 0; i < beams; i++) merged[beams + i] /= power;
    int32_t *ranks = s->chosen;
    largest(merged, 2 * beams, beams, ranks);
    /* Ranks only move down: from the last to the first, what is overwritten has been moved already. */
    int64_t kept = 0;
    while (kept < beams && ranks[kept] == kept) kept++;
    for (int64_t rank = beams - 1; rank >= kept; rank--) {
        const int64_t from = ranks[rank];
        int32_t *ids = of->ended_ids + rank * of->capacity;
        of->ended_scores[rank] = merged[from];
        if (from < beams) {
            of->ended[rank] = of->ended[from];
            of->ended_lengths[rank] = of->ended_lengths[from];
            memcpy(ids, of->ended_ids + from * of->capacity, (size_t)of->ended_lengths[from] * sizeof *ids);
        } else {
            const int32_t place = s->order[from - beams];
            of->ended[rank] = true;
            of->ended_lengths[rank] = (int32_t)length + 1;
            memcpy(ids, of->history + place / c->width * of->capacity, (size_t)length * sizeof *ids);
            ids[length] = token_of(c, place);
        }
    }
}

/* Whether no beam is left, or enough ended and that is enough or cannot improve: `_check_early_stop_heuristic`. */
static bool is_done(const pe_beam_search *s, const sentence *of) {
    if (!exists(s, of->scores[0])) return true;
    double worst = INFINITY;
    for (int64_t i = 0; i < s->beams; i++) {
        if (!of->ended[i]) return false;
        worst = of->ended_scores[i] < worst ? of->ended_scores[i] : worst;
    }
    const int64_t longest = of->maximum - of->prompt, generated = *of->length + 1 - of->prompt;
    const double best = of->scores[0] / pe_powd((double)(s->flattering ? longest : generated), s->length_penalty);
    return !(best > worst) || s->early_stopping == PE_STOP_EARLY;
}

static int32_t take_sequence(const pe_beam_search *s) {
    bool *free_id = memchr(s->used, false, (size_t)s->n_used);
    *free_id = true;
    return (int32_t)(free_id - s->used);
}

/* Each beam's tokens become its parent's, position by position. */
static void follow_parents(const pe_beam_search *s, const sentence *of, const int32_t *parents) {
    bool same = true;
    for (int64_t i = 0; i < s->beams; i++) same &= parents[i] == i;
    if (same) return;
    for (int32_t *at = of->history; at < of->history + *of->length; at++) {
        for (int64_t i = 0; i < s->beams; i++) s->held[i] = at[parents[i] * of->capacity];
        for (int64_t i = 0; i < s->beams; i++) at[i * of->capacity] = s->held[i];
    }
}

/* The first child of a beam takes over its sequence, further children fork it, and one without children is freed. */
static void inherit(const pe_beam_search *s, const sentence *of, const int32_t *parents, pe_beam_changes *changes) {
    int32_t *held = s->held; /* before */
    memcpy(held, of->sequences, (size_t)s->beams * sizeof *held);
    for (int64_t i = 0; i < s->beams; i++) {
        const int32_t sequence = held[parents[i]];
        bool taken = false;
        for (int64_t j = 0; j < i; j++) taken |= held[parents[j]] == sequence;
        of->sequences[i] = sequence;
        if (!taken) continue;
        of->sequences[i] = take_sequence(s);
        int32_t *fork = changes->forks + 2 * changes->n_forks++;
        fork[0] = sequence;
        fork[1] = of->sequences[i];
    }
    for (int64_t i = 0; i < s->beams; i++) {
        bool lives = false;
        for (int64_t j = 0; j < s->beams; j++) lives |= held[parents[j]] == held[i];
        if (!lives) changes->freed[changes->n_freed++] = held[i];
    }
}

bool pe_beam_advance(const pe_beam_search *s, int64_t slot, const pe_candidates *c, pe_beam_changes *changes) {
    const sentence of = sentence_in(s, slot);
    const int64_t beams = s->beams, width = c->width, length = *of.length;
    for (int64_t b = 0; b < beams; b++)
        for (int64_t i = 0; i < width; i++)
            s->totals[b * width + i] = c->values[(c->shared ? 0 : b * width) + i] + of.scores[b];
    const int64_t n = largest(s->totals, beams * width, (1 + s->n_end) * beams, s->order);
    const bool at_limit = length + 1 >= of.maximum;
    finish(s, &of, c, at_limit);

    bool exhausted = true;
    for (int64_t i = 0; i < n; i++) {
        const bool ends = at_limit || is_end(s, token_of(c, s->order[i]));
        s->running[i] = s->totals[s->order[i]] + (ends ? s->never : 0.0);
        exhausted &= ends;
    }
    largest(s->running, n, beams, s->chosen);
    for (int64_t i = 0; i < beams; i++) of.scores[i] = s->running[s->chosen[i]];
    if (exhausted || is_done(s, &of)) return true;

    for (int64_t i = 0; i < beams; i++) {
        const int32_t place = s->order[s->chosen[i]];
        of.last[i] = token_of(c, place);
        s->chosen[i] = (int32_t)(place / width); /* the parent, from here on */
    }
    follow_parents(s, &of, s->chosen);
    for (int64_t i = 0; i < beams; i++) of.history[i * of.capacity + length] = of.last[i];
    ++*of.length;
    inherit(s, &of, s->chosen, changes);
    return false;
}
