/* A session runs steps of one model: it owns the cache and the working memory. A step executes a plan over ragged
   rows; see pyengine/plan.py for the plan as Python draws it. */
#ifndef PE_MODEL_SESSION_H
#define PE_MODEL_SESSION_H

#include "base/arena.h"
#include "base/crew.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "model/shortlist.h"

/* What one step does, in this order: fork, free, encode segments into memories, run a head over them, run decoder rows,
   answer logits. */
typedef struct pe_plan {
    int64_t n_forks;
    const int32_t *forks; /* [n_forks][2] parent, child */
    int64_t n_free_sequences;
    const int32_t *free_sequences;
    int64_t n_free_memories;
    const int32_t *free_memories;

    int64_t n_segments;
    const int32_t *segment_lengths;  /* [n_segments] */
    const int32_t *segment_memories; /* [n_segments] -1: a model without decoder keeps none */
    int64_t n_source_tokens;
    const int32_t *source_tokens;
    const int32_t *source_types; /* [n_source_tokens], or NULL: all 0 */
    float *states;               /* OUT [n_source_tokens, width] what the encoder makes of them, or NULL */
    const pe_head *head;         /* of the model, to run over what the encoder makes of the segments, or NULL */
    float *answers;              /* OUT [rows, ld_answers] what it makes, of each source token or each segment */
    int64_t ld_answers;          /* at least its outputs rounded up to 16 */
    const int32_t *list_offsets; /* [n_segments + 1], or NULL: rows of these memories may take any id */
    const int32_t *list_ids;     /* ascending and unique within a segment */

    int64_t n_rows;
    const int32_t *tokens;    /* [n_rows] */
    const int32_t *sequences; /* [n_rows] rows of one sequence are adjacent */
    const int32_t *memories;  /* [n_rows] -1 for a model without encoder */
    const int32_t *rope_sets; /* [n_rows] which the row takes of ropes that have several, or NULL: all 0 */

    const int32_t *logit_rows; /* [logits.n_rows] ascending */
    pe_logits_request logits;
} pe_plan;

/* Sees what a linear layer of the model reads, float32 [n_rows, ld] of which the first linear->k columns count, before
   each product. Called by the thread that runs the step, while the others go on; the rows are valid during the call.
   Rows that ask for logits are shown as those of model->output, lists or not. */
typedef void pe_observer(void *context, const pe_linear *linear, const float *x, int64_t n_rows, int64_t ld);

enum { PE_LEAST_SLAB = 32, PE_MOST_SLAB = 192 }; /* rows */

typedef struct pe_session {
    const pe_model *model;
    int threads;
    int64_t max_rows;
    int64_t slab_rows; /* that go from op to op while they stay in a second-level cache; 0: there are no slabs */
    pe_arena arena;
    pe_kv_cache cache;

    /* Working memory, in the arena; [max_rows, ...]. */
    float *x;        /* the residual stream; rows of in.ld */
    pe_rows in;      /* what the next sublayer reads of it */
    pe_rows beside;  /* what the feed-forward layer of a parallel stack reads of it; x NULL: there is no such stack */
    pe_rows context; /* what attention read; the rows that logits are asked of; what a head has pooled */
    pe_rows wide;    /* q, k, v or the feed-forward layer; the dense layer of a head */
    pe_rows hidden;  /* [threads, slab_rows] the feed-forward layer of a slab */
    float *turns;    /* [max_rows, model->ropes.turns] */
    pe_row *source_rows, *rows;
    int64_t longest_segment, longest_run; /* most rows of one segment, of one sequence in this step */
    pe_page_copy *copies;
    int64_t n_copies;
    uint8_t **segment_pages; /* the encoder's own pages, a layer's keys and values at a time */
    int64_t *segment_starts; /* [segments + 1] the first row of each; the end */
    int64_t *written;        /* [max_sequences] the last step that wrote to the sequence */
    int64_t steps;

    uint8_t *encoder_pages; /* grown when a step has more segments */
    int64_t n_encoder_pages;

    pe_logits_scratch logits; /* values and ids are grown when a step asks for more */
    size_t n_candidates;

    pe_shortlist shortlist;
    pe_listed_scratch listed; /* logits are grown when a step asks for more */
    size_t n_listed;
    bool answers_lists; /* the rows that this step answers have lists */

    pe_observer *observer; /* or NULL; set between steps */
    void *observed_for;    /* its context */

    char message[192]; /* why the last step failed */
    int64_t pages_needed, pages_available; /* by the last plan that the cache was too small for */
} pe_session;

/* `threads`: of the crews that run its steps, at most. `cache_bytes`: of pages, at most; 0: any number. */
pe_status pe_session_create(pe_session *session, const pe_model *model, int threads, int64_t max_rows,
                            int64_t max_sequences, int64_t max_memories, int64_t cache_bytes);
void pe_session_destroy(pe_session *session);

/* Checks the plan, reserves what it needs, commits it, and runs it with the crew. A plan that is refused, or for which
   memory runs out, changes nothing: every sequence goes on as if it had not been there. */
pe_status pe_session_step(pe_session *session, const pe_plan *plan, pe_crew *crew);

/* Its parts, in this order; only the first two can fail. */
pe_status pe_plan_check(pe_session *session, const pe_plan *plan);
pe_status pe_plan_reserve(pe_session *session, const pe_plan *plan);
void pe_plan_commit(pe_session *session, const pe_plan *plan);

/* After the step: gives back what windows have left behind. */
void pe_plan_finish(pe_session *session, const pe_plan *plan);

/* Bytes of working memory beside weights and cache. */
int64_t pe_session_working_bytes(const pe_session *session);

/* Gives back every sequence and memory. */
void pe_session_clear(pe_session *session);

/* Shows an observer the rows that a linear layer is about to read: complete since the last barrier, and left as they
   are until thread 0 comes to the next one. */
static inline void pe_observe(const pe_thread *thread, const pe_session *session, const pe_linear *linear,
                              const pe_rows *rows, int64_t n) {
    if (session->observer && thread->id == 0) session->observer(session->observed_for, linear, rows->x, n, rows->ld);
}

/* What the plan's head makes of the encoder's states, which lie in `in`; run by every thread of the team. */
void pe_head_answer(pe_thread *thread, const pe_session *session, const pe_plan *plan);

/* The rows that a head answers, and the numbers of each. */
int64_t pe_head_rows(const pe_plan *plan);
int64_t pe_head_outputs(const pe_model *model, const pe_head *head);

/* The forward pass, run by every thread of the team; context is a pe_step. */
typedef struct pe_step {
    pe_session *session;
    const pe_plan *plan;
} pe_step;
void pe_transformer_step(pe_thread *thread, void *context);

#endif
