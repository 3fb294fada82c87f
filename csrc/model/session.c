#include "model/session.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cpu.h"
#include "base/intmath.h"

enum { LINE = 64 }; /* bytes of a cache line */

/* Elements from a row to the next, for rows of at least n. Not a multiple of 2,048 bytes: the rows of a tall tile would
   share few sets of the first-level cache. */
static int64_t row_length(int64_t n, int64_t element) { return n * element % 2048 ? n : n + LINE / element; }

/* Rows of `width` columns; an int8 form of up to `width` columns if any weights are rounded. */
static void take_rows(pe_arena *arena, const pe_model *model, int64_t n, int64_t width, pe_rows *rows) {
    rows->ld = row_length(pe_round_up(width, PE_BLOCK), sizeof *rows->x);
    rows->x = pe_arena_take(arena, n * rows->ld, sizeof *rows->x);
    rows->hadamard = model->hadamard;
    if (!model->int8_rows) return;
    rows->ldq = row_length(pe_round_up(width, PE_MAX_GROUP), sizeof *rows->q);
    rows->q = pe_arena_take(arena, n * rows->ldq, sizeof *rows->q);
    rows->scale = pe_arena_take(arena, n, sizeof *rows->scale);
}

/* Columns that the widest layer of the model needs, and whether a stack reads two things beside one another. */
typedef struct widths {
    int64_t context, wide;
    bool beside;
} widths;

static void widen_attention(widths *w, const pe_attention *a) {
    w->context = pe_max(w->context, a->sub.output.k);
    w->wide = pe_max(w->wide, pe_max(a->input.n, a->memory.n));
}

static widths widths_of(const pe_model *model) {
    const pe_stack *stacks[] = {&model->encoder, &model->decoder};
    /* Rows that logits are asked of, and outputs that are normed before they are added. */
    widths w = {.context = model->width, .wide = model->width};
    for (int64_t i = 0; i < model->n_heads; i++) w.wide = pe_max(w.wide, model->heads[i].dense.n);
    for (int i = 0; i < 2; i++) {
        const pe_stack *stack = stacks[i];
        w.beside |= stack->n > 0 && stack->placement == PE_PARALLEL;
        w.context = pe_max(w.context, stack->embedding.table.k);
        for (int64_t k = 0; k < stack->n; k++) {
            widen_attention(&w, &stack->layers[k].self);
            widen_attention(&w, &stack->layers[k].cross);
            w.wide = pe_max(w.wide, stack->layers[k].ffn.up.n);
        }
    }
    return w;
}

static int64_t weight_bytes(const pe_linear *linear) {
    return pe_block_offset(linear, pe_ceil_div(linear->n, PE_BLOCK));
}

/* Of the largest layer: every slab reads its weights again. */
static int64_t layer_bytes(const pe_model *model) {
    const pe_stack *stacks[] = {&model->encoder, &model->decoder};
    int64_t most = 0;
    for (int i = 0; i < 2; i++)
        for (int64_t k = 0; k < stacks[i]->n; k++) {
            const pe_layer *l = &stacks[i]->layers[k];
            const pe_linear *all[] = {&l->self.input,   &l->self.sub.output, &l->cross.input, &l->cross.memory,
                                      &l->cross.sub.output, &l->ffn.up,      &l->ffn.sub.output};
            int64_t bytes = 0;
            for (size_t j = 0; j < sizeof all / sizeof *all; j++)
                if (all[j]->n > 0) bytes += weight_bytes(all[j]);
            most = pe_max(most, bytes);
        }
    return most;
}

/* As many as a core's cache holds of what is widest; none where the weights of a layer would come from memory for each
   slab, or so few rows would fit that products suffer. */
static int64_t slab_rows_of(const pe_model *model, pe_caches caches) {
    if (layer_bytes(model) > caches.third / 2) return 0;
    pe_arena dry = {0};
    pe_rows wide = {0};
    take_rows(&dry, model, 1, widths_of(model).wide, &wide);
    const int64_t rows = caches.second / (wide.ld * (int64_t)sizeof *wide.x + wide.ldq);
    return rows < PE_LEAST_SLAB ? 0 : pe_min(rows, PE_MOST_SLAB);
}

static void lay_out(pe_session *s, int64_t max_sequences) {
    const pe_model *model = s->model;
    const int64_t n = s->max_rows, threads = s->threads;
    const widths w = widths_of(model);
    const int64_t chunks = pe_ceil_div(model->output.n, PE_LOGIT_CHUNK);
    pe_arena *a = &s->arena;
    take_rows(a, model, n, model->width, &s->in);
    if (w.beside) take_rows(a, model, n, model->width, &s->beside);
    take_rows(a, model, n, w.context, &s->context);
    take_rows(a, model, n, w.wide, &s->wide);
    if (s->slab_rows > 0) take_rows(a, model, threads * s->slab_rows, w.wide, &s->hidden);
    s->x = pe_arena_take(a, n * s->in.ld, sizeof *s->x);
    if (model->ropes.n > 0) s->turns = pe_arena_take(a, n * model->ropes.turns, sizeof *s->turns);
    s->source_rows = pe_arena_take(a, n, sizeof *s->source_rows);
    s->rows = pe_arena_take(a, n, sizeof *s->rows);
    s->copies = pe_arena_take(a, n * pe_max(1, model->n_groups), sizeof *s->copies);
    s->segment_pages = pe_arena_take(a, n, sizeof *s->segment_pages); /* a page holds at least one row */
    s->segment_starts = pe_arena_take(a, n + 1, sizeof *s->segment_starts);
    s->written = pe_arena_take(a, max_sequences, sizeof *s->written);
    s->logits.tile = pe_arena_take(a, threads * PE_LOGIT_ROWS * PE_LOGIT_CHUNK, sizeof(float));
    s->logits.max = pe_arena_take(a, n * chunks, sizeof(float));
    s->logits.sum = pe_arena_take(a, n * chunks, sizeof(float));
    s->logits.counts = pe_arena_take(a, threads * n, sizeof(int32_t));
    s->logits.indices = pe_arena_take(a, threads * PE_LOGIT_CHUNK, sizeof(int32_t));
    s->listed.lists = pe_arena_take(a, n, sizeof *s->listed.lists);
    s->listed.gathered = pe_arena_take(a, threads * PE_LOGIT_CHUNK, sizeof(float));
    s->listed.indices = pe_arena_take(a, threads * PE_LOGIT_CHUNK, sizeof(int32_t));
}

pe_status pe_session_create(pe_session *s, const pe_model *model, int threads, int64_t max_rows,
                            int64_t max_sequences, int64_t max_memories, int64_t cache_bytes) {
    *s = (pe_session){.model = model, .threads = threads, .max_rows = max_rows};
    s->slab_rows = slab_rows_of(model, pe_caches_detect());
    pe_page_group groups[PE_MAX_GROUPS];
    for (int g = 0; g < model->n_groups; g++) groups[g] = model->groups[g];
    if (model->n_groups > 0) groups[0].page_bytes = pe_max(groups[0].page_bytes, model->memory_bytes);
    pe_shortlist_create(&s->shortlist, &model->output, max_memories);
    lay_out(s, max_sequences); /* dry */
    pe_status status = pe_arena_allocate(&s->arena);
    if (status == PE_OK) {
        lay_out(s, max_sequences);
        status = pe_kv_create(&s->cache, model->n_groups, groups, cache_bytes, max_sequences, max_memories);
    }
    if (status != PE_OK) pe_session_destroy(s);
    return status;
}

void pe_session_destroy(pe_session *s) {
    pe_kv_destroy(&s->cache);
    pe_shortlist_destroy(&s->shortlist);
    pe_arena_free(&s->arena);
    pe_aligned_free(s->encoder_pages);
    free(s->logits.values);
    free(s->logits.ids);
    pe_aligned_free(s->listed.logits);
    *s = (pe_session){0};
}

void pe_session_clear(pe_session *s) {
    const int64_t lists = s->cache.n_sequences + s->cache.n_memories; /* one array */
    for (int64_t i = 0; i < lists; i++) {
        if (s->cache.sequences[i].live) pe_kv_release(&s->cache, &s->cache.sequences[i]);
        pe_kv_shrink(&s->cache.sequences[i]);
    }
    for (int64_t i = 0; i < s->cache.n_memories; i++) pe_shortlist_drop(&s->shortlist, i);
}

/* Whatever went wrong in a row ends here: NaN makes NaN of all that it touches. An observer can say where it began. */
static pe_status check_normalizers(pe_session *s, const pe_logits_request *request) {
    if (s->observer) return PE_OK;
    for (int64_t i = 0; i < request->n_rows; i++)
        if (!isfinite(request->log_normalizer[i])) {
            snprintf(s->message, sizeof s->message, "the normalizer of row %lld is %g", (long long)i,
                     request->log_normalizer[i]);
            return PE_NOT_FINITE;
        }
    return PE_OK;
}

/* Rows that the encoder or a head gives: n numbers each. */
static pe_status check_finite(pe_session *s, const char *what, const float *x, int64_t rows, int64_t n, int64_t ld) {
    for (int64_t r = 0; r < rows && !s->observer; r++)
        for (int64_t i = 0; i < n; i++)
            if (!isfinite(x[r * ld + i])) {
                snprintf(s->message, sizeof s->message, "the %s %lld has %g", what, (long long)r, x[r * ld + i]);
                return PE_NOT_FINITE;
            }
    return PE_OK;
}

static pe_status check_encoded(pe_session *s, const pe_plan *plan) {
    const int64_t width = s->model->width;
    if (plan->states)
        PE_TRY(check_finite(s, "state of source token", plan->states, plan->n_source_tokens, width, width));
    if (!plan->head) return PE_OK;
    const bool each = plan->head->pool == PE_POOL_NONE;
    return check_finite(s, each ? "head's answer to source token" : "head's answer to segment", plan->answers,
                        pe_head_rows(plan), pe_head_outputs(s->model, plan->head), plan->ld_answers);
}

pe_status pe_session_step(pe_session *s, const pe_plan *plan, pe_crew *crew) {
    PE_TRY(pe_plan_check(s, plan));
    PE_TRY(pe_plan_reserve(s, plan));
    pe_plan_commit(s, plan);
    pe_step step = {s, plan};
    pe_team_run(crew, plan->n_source_tokens + plan->n_rows, pe_transformer_step, &step);
    pe_plan_finish(s, plan);
    PE_TRY(check_encoded(s, plan));
    return check_normalizers(s, &plan->logits);
}

int64_t pe_session_working_bytes(const pe_session *s) {
    return (int64_t)s->arena.size + s->n_encoder_pages * s->model->encoder_bytes +
           (int64_t)s->shortlist.slots.arena.size +
           (int64_t)(s->n_candidates * (sizeof(float) + sizeof(int32_t)) + s->n_listed * sizeof(float));
}
