#include "search/ahead.h"

#include "base/flag.h"

/* New tokens for the same rows, and nothing else to do. */
static void next_plan(pe_plan *plan, const int32_t *tokens) {
    plan->tokens = tokens;
    plan->n_forks = plan->n_free_sequences = plan->n_free_memories = plan->n_segments = plan->n_source_tokens = 0;
}

static bool is_over(const pe_ahead *ahead, int64_t done) { return done >= ahead->steps || pe_now() >= ahead->until; }

/* Whether some row has no candidate, or its best one is an end token. */
static bool ends(const pe_plan *plan, const int32_t *end, int64_t n_end) {
    for (int64_t row = 0; row < plan->n_rows; row++) {
        const int32_t best = plan->logits.top_ids[row * plan->logits.top_k];
        if (best < 0) return true;
        for (int64_t i = 0; i < n_end; i++)
            if (end[i] == best) return true;
    }
    return false;
}

pe_status pe_follow_best(const pe_ahead *ahead, const int32_t *end, int64_t n_end, int32_t *ids, double *log_probs,
                         int64_t *passed) {
    pe_plan *plan = ahead->plan;
    const pe_logits_request *found = &plan->logits;
    for (*passed = 0;; ++*passed) {
        const pe_status status = pe_session_step(ahead->session, plan, ahead->crew);
        if (status != PE_OK || is_over(ahead, *passed + 1) || ends(plan, end, n_end)) return status;
        for (int64_t row = 0; row < plan->n_rows; row++) {
            ids[row] = found->top_ids[row * found->top_k];
            log_probs[row] = (double)found->top_logits[row * found->top_k] - found->log_normalizer[row];
        }
        next_plan(plan, ids);
        ids += plan->n_rows;
        log_probs += plan->n_rows;
    }
}

/* Goes on with all sentences; whether one is done. */
static bool advance(const pe_logits_request *found, const pe_beam_search *search, const int64_t *live, int64_t n,
                    pe_beam_room *room) {
    const int64_t width = found->top_k;
    for (int64_t i = 0; i < found->n_rows * width; i++) {
        room->ids[i] = found->top_ids[i] >= 0 ? found->top_ids[i] : 0;
        room->values[i] = (double)found->top_logits[i] - found->log_normalizer[i / width];
    }
    room->changes.n_forks = room->changes.n_freed = 0;
    bool any_done = false;
    for (int64_t i = 0; i < n; i++) {
        const int64_t first = i * search->beams * width;
        const pe_candidates candidates = {width, room->ids + first, room->values + first, false};
        room->done[i] = pe_beam_advance(search, live[i], &candidates, &room->changes);
        any_done |= room->done[i];
    }
    return any_done;
}

/* The plan of the next step, as the beams went on. */
static void next_rows(pe_plan *plan, const pe_beam_search *search, const int64_t *live, int64_t n, pe_beam_room *room) {
    for (int64_t i = 0; i < room->changes.n_freed; i++) search->used[room->changes.freed[i]] = false;
    for (int64_t i = 0; i < n; i++)
        for (int64_t beam = 0; beam < search->beams; beam++) {
            const int64_t row = live[i] * search->beams + beam;
            room->tokens[i * search->beams + beam] = search->last[row];
            room->sequences[i * search->beams + beam] = search->sequences[row];
        }
    next_plan(plan, room->tokens);
    plan->sequences = room->sequences;
    plan->n_forks = room->changes.n_forks;
    plan->forks = room->changes.forks;
    plan->n_free_sequences = room->changes.n_freed;
    plan->free_sequences = room->changes.freed;
}

pe_status pe_follow_beams(const pe_ahead *ahead, const pe_beam_search *search, const int64_t *live, int64_t n,
                          pe_beam_room *room, bool *any_done) {
    *any_done = false;
    for (int64_t done = 1;; done++) {
        const pe_status status = pe_session_step(ahead->session, ahead->plan, ahead->crew);
        if (status != PE_OK || is_over(ahead, done)) return status;
        *any_done = advance(&ahead->plan->logits, search, live, n, room);
        if (*any_done) return PE_OK;
        next_rows(ahead->plan, search, live, n, room);
    }
}
