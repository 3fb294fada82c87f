/* Steps that run without coming back to Python, as long as a search would decide nothing else (pyengine/plan.py,
   Ahead). */
#ifndef PE_SEARCH_AHEAD_H
#define PE_SEARCH_AHEAD_H

#include "model/session.h"
#include "search/beam.h"

typedef struct pe_ahead {
    pe_session *session;
    pe_plan *plan; /* one row a sequence, all of which ask for logits; what comes after it is written here */
    pe_crew *crew;
    int64_t steps; /* at most, the plan's own included */
    int64_t until; /* of pe_now(): no further step begins later */
} pe_ahead;

/* Greedy search: each row goes on with its best candidate, until one of these is an end token or none is left. Keeps
   what rows took in the steps before the last: ids and log_probs [*passed, rows], with room for `steps`. */
pe_status pe_follow_best(const pe_ahead *ahead, const int32_t *end, int64_t n_end, int32_t *ids, double *log_probs,
                         int64_t *passed);

/* What beam search needs between two steps, for all rows of the plan and the sentences in n slots. */
typedef struct pe_beam_room {
    int32_t *ids;                /* [rows, top_k] candidates */
    double *values;              /* [rows, top_k] */
    int32_t *tokens, *sequences; /* [rows] of the next step */
    bool *done;                  /* [n] */
    pe_beam_changes changes;     /* [rows] of each */
} pe_beam_room;

/* Beam search: the sentences in the slots live [n] go on with all candidates, until one of them is done. Then *any_done
   is true, and `room` holds what pe_beam_advance found after the last step; else that is yet to be done. */
pe_status pe_follow_beams(const pe_ahead *ahead, const pe_beam_search *search, const int64_t *live, int64_t n,
                          pe_beam_room *room, bool *any_done);

#endif
