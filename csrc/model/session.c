#include "model/session.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/intmath.h"

enum { LINE = 64 }; /* bytes of a cache line */

/* Elements from a row to the next, for rows of at least n. Not a multiple of 2,048 bytes: the rows of a tall tile would
   share few sets of the first-level cache. */
static int64_t row_length(int64_t n, int64_t element) { return n * element % 2048 ? n : n + LINE / element; }

/* Rows of `width` columns; an int8 form of up to `width` columns if any weights are rounded. */
static void take_rows(pe_arena *arena, const pe_model *model, int64_t n, int64_t width, pe_rows *rows) {
    rows->ld = row_length(pe_round_up(width, PE_BLOCK), sizeof *rows->x);
    rows->x = pe_arena_take(arena, n * rows->ld, sizeof *rows->x);
    if (!model->int8_rows) return;
    rows->ldq = row_length(pe_round_up(width, PE_MAX_GROUP), sizeof *rows->q);
    rows->q = pe_arena_take(arena, n * rows->ldq, sizeof *rows->q);
    rows->scale = pe_arena_take(arena, n, sizeof *rows->scale);
}

/* Columns that the widest layer of the model needs. */
typedef struct widths {
    int64_t context, wide;
} widths;

static void widen(widths *w, int64_t context, int64_t wide) {
    w->context = pe_max(w->context, context);
    w->wide = pe_max(w->wide, wide);
}

static widths widths_of(const pe_model *model) {
    const pe_config *config = &model->config;
    widths w = {.context = config->width}; /* the rows that logits are asked of */
    for (int64_t i = 0; i < config->encoder.layers; i++) {
        const pe_encoder_layer *layer = &model->encoder[i];
        widen(&w, layer->self_output.k, pe_max(layer->self_qkv.n, layer->ffn_up.n));
    }
    for (int64_t i = 0; i < config->decoder.layers; i++) {
        const pe_decoder_layer *layer = &model->decoder[i];
        widen(&w, layer->self_output.k, pe_max(layer->self_qkv.n, layer->ffn_up.n));
        widen(&w, layer->cross_output.k, layer->cross_kv.n);
    }
    return w;
}

static void lay_out(pe_session *s, int64_t max_sequences) {
    const pe_config *config = &s->model->config;
    const int64_t n = s->max_rows, threads = s->threads;
    const widths w = widths_of(s->model);
    const int64_t chunks = pe_ceil_div(config->target_vocab, PE_LOGIT_CHUNK);
    pe_arena *a = &s->arena;
    take_rows(a, s->model, n, config->width, &s->hidden);
    take_rows(a, s->model, n, w.context, &s->context);
    take_rows(a, s->model, n, w.wide, &s->wide);
    s->sum = pe_arena_take(a, n * s->hidden.ld, sizeof *s->sum);
    s->source_rows = pe_arena_take(a, n, sizeof *s->source_rows);
    s->rows = pe_arena_take(a, n, sizeof *s->rows);
    s->copies = pe_arena_take(a, n, sizeof *s->copies);
    s->segment_pages = pe_arena_take(a, n, sizeof *s->segment_pages); /* a page holds at least one row */
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

/* One layer's keys and values at a time. */
static pe_kv_layout encoder_layout_of(const pe_model *model) {
    const pe_stack *stack = &model->config.encoder;
    int64_t heads = 0;
    for (int64_t i = 0; i < stack->layers; i++) heads = pe_max(heads, model->encoder[i].self_heads.n);
    return pe_kv_layout_of(model->kv, heads, stack->head_width);
}

static pe_kv_layout decoder_layout_of(const pe_model *model) {
    const pe_stack *stack = &model->config.decoder;
    const pe_heads self = model->decoder[stack->layers - 1].self_heads;
    const pe_heads cross = model->decoder[stack->layers - 1].cross_heads;
    return pe_kv_layout_of(model->kv, pe_max(self.first + self.n, cross.first + cross.n), stack->head_width);
}

pe_status pe_session_create(pe_session *s, const pe_model *model, int threads, int64_t max_rows,
                            int64_t max_sequences, int64_t max_memories) {
    const pe_config *config = &model->config;
    *s = (pe_session){.model = model, .threads = threads, .max_rows = max_rows};
    s->encoder_layout = encoder_layout_of(model);
    const pe_kv_layout layout = decoder_layout_of(model);
    pe_shortlist_create(&s->shortlist, &model->output, max_memories);
    lay_out(s, max_sequences); /* dry */
    pe_status status = pe_arena_allocate(&s->arena);
    if (status == PE_OK) {
        lay_out(s, max_sequences);
        status = pe_kv_create(&s->cache, &layout, config->max_positions, max_sequences, max_memories);
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
    for (int64_t i = 0; i < lists; i++)
        if (s->cache.sequences[i].live) pe_kv_release(&s->cache, &s->cache.sequences[i]);
    for (int64_t i = 0; i < s->cache.n_memories; i++) pe_shortlist_drop(&s->shortlist, i);
    pe_shortlist_forget_fresh(&s->shortlist);
}

/* Checks. Each names what is wrong; ids and tokens come from the caller. */

__attribute__((format(printf, 2, 3))) static pe_status refuse(pe_session *s, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(s->message, sizeof s->message, format, arguments);
    va_end(arguments);
    return PE_BAD_ARGUMENT;
}

#define REFUSE_IF(condition, ...)                         \
    do {                                                  \
        if (condition) return refuse(s, __VA_ARGS__);     \
    } while (0)

static bool within(int64_t value, int64_t limit) { return value >= 0 && value < limit; }

/* The list of an id; NULL if the id is out of range. */
static pe_page_list *find_list(pe_session *s, bool memory, int32_t id) {
    const int64_t limit = memory ? s->cache.n_memories : s->cache.n_sequences;
    if (within(id, limit)) return (memory ? s->cache.memories : s->cache.sequences) + id;
    refuse(s, "%s %d is not in [0, %lld)", memory ? "memory" : "sequence", id, (long long)limit);
    return NULL;
}

/* ... and it must be in use, or must not be. */
static pe_page_list *require_list(pe_session *s, bool memory, int32_t id, bool live) {
    pe_page_list *list = find_list(s, memory, id);
    if (!list || list->live == live) return list;
    refuse(s, "%s %d is %s use", memory ? "memory" : "sequence", id, live ? "not in" : "already in");
    return NULL;
}

/* Freeing what is not in use does nothing. */
static pe_status release_all(pe_session *s, bool memory, int64_t n, const int32_t *ids) {
    for (int64_t i = 0; i < n; i++) {
        pe_page_list *list = find_list(s, memory, ids[i]);
        if (!list) return PE_BAD_ARGUMENT;
        if (list->live) pe_kv_release(&s->cache, list);
        if (memory) pe_shortlist_drop(&s->shortlist, ids[i]);
    }
    return PE_OK;
}

static pe_status fork_and_free(pe_session *s, const pe_plan *plan) {
    for (int64_t i = 0; i < plan->n_forks; i++) {
        const pe_page_list *parent = require_list(s, false, plan->forks[2 * i], true);
        pe_page_list *child = parent ? require_list(s, false, plan->forks[2 * i + 1], false) : NULL;
        if (!child) return PE_BAD_ARGUMENT;
        pe_kv_fork(parent, child);
    }
    PE_TRY(release_all(s, false, plan->n_free_sequences, plan->free_sequences));
    return release_all(s, true, plan->n_free_memories, plan->free_memories);
}

/* Grows a list and notes the copy of a shared page that this may need. */
static pe_status extend(pe_session *s, pe_page_list *list, int64_t tokens) {
    PE_TRY(pe_kv_reserve(&s->cache, pe_kv_pages_needed(list, tokens)));
    s->n_copies += pe_kv_extend(&s->cache, list, tokens, s->copies + s->n_copies);
    return PE_OK;
}

static pe_status grow_encoder_pages(pe_session *s, int64_t pages) {
    if (pages <= s->n_encoder_pages) return PE_OK;
    pe_aligned_free(s->encoder_pages);
    s->n_encoder_pages = 0;
    s->encoder_pages = pe_aligned_alloc((size_t)(pages * s->encoder_layout.page_bytes));
    if (!s->encoder_pages) return PE_NO_MEMORY;
    s->n_encoder_pages = pages;
    return PE_OK;
}

static pe_status plan_segments(pe_session *s, const pe_plan *plan) {
    const pe_config *config = &s->model->config;
    REFUSE_IF(plan->n_source_tokens > s->max_rows, "%lld source tokens in a step of at most %lld rows",
              (long long)plan->n_source_tokens, (long long)s->max_rows);
    int64_t total = 0, pages = 0;
    s->longest_segment = 0;
    for (int64_t i = 0; i < plan->n_segments; i++) {
        const int64_t length = plan->segment_lengths[i];
        REFUSE_IF(length < 1 || length > config->max_positions,
                  "a segment of %lld tokens; the model has %lld positions", (long long)length,
                  (long long)config->max_positions);
        total += length;
        s->longest_segment = pe_max(s->longest_segment, length);
        pages += pe_ceil_div(length, PE_PAGE);
    }
    REFUSE_IF(total != plan->n_source_tokens, "segments of %lld tokens in all, but %lld source tokens",
              (long long)total, (long long)plan->n_source_tokens);
    PE_TRY(grow_encoder_pages(s, pages));

    int64_t row = 0, page = 0;
    for (int64_t i = 0; i < plan->n_segments; i++) {
        const int64_t length = plan->segment_lengths[i];
        pe_page_list *memory = require_list(s, true, plan->segment_memories[i], false);
        if (!memory) return PE_BAD_ARGUMENT;
        PE_TRY(extend(s, memory, length));
        uint8_t **segment_pages = s->segment_pages + page;
        for (int64_t end = page + pe_ceil_div(length, PE_PAGE); page < end; page++)
            s->segment_pages[page] = s->encoder_pages + page * s->encoder_layout.page_bytes;
        for (int64_t j = 0; j < length; j++, row++) {
            const int32_t token = plan->source_tokens[row];
            REFUSE_IF(!within(token, config->source_vocab), "source token %d is not in [0, %lld)", token,
                      (long long)config->source_vocab);
            s->source_rows[row] = (pe_row){token, (int32_t)j, (int32_t)length, 0, segment_pages, memory->pages};
        }
    }
    return PE_OK;
}

/* The lists of the memories that the segments become. */
static pe_status plan_lists(pe_session *s, const pe_plan *plan) {
    if (!plan->list_offsets) return PE_OK;
    int64_t done = 0;
    for (int64_t i = 0; i < plan->n_segments; i++) {
        const int64_t end = plan->list_offsets[i + 1];
        REFUSE_IF(plan->list_offsets[i] != done || end <= done || end > plan->list_offsets[plan->n_segments],
                  "the offsets of lists do not ascend at segment %lld", (long long)i);
        for (int64_t j = done; j < end; j++) {
            const int32_t id = plan->list_ids[j];
            REFUSE_IF(!within(id, s->model->config.target_vocab) || (j > done && id <= plan->list_ids[j - 1]),
                      "id %d of a list is out of order or range", id);
        }
        PE_TRY(pe_shortlist_add(&s->shortlist, plan->segment_memories[i], end - done, plan->list_ids + done));
        done = end;
    }
    return PE_OK;
}

static pe_status plan_rows(pe_session *s, const pe_plan *plan) {
    const pe_config *config = &s->model->config;
    REFUSE_IF(plan->n_rows > s->max_rows, "%lld rows in a step of at most %lld", (long long)plan->n_rows,
              (long long)s->max_rows);
    s->longest_run = 0;
    for (int64_t first = 0, end; first < plan->n_rows; first = end) {
        const int32_t sequence = plan->sequences[first];
        for (end = first + 1; end < plan->n_rows && plan->sequences[end] == sequence;) end++;
        REFUSE_IF(!within(sequence, s->cache.n_sequences), "sequence %d is not in [0, %lld)", sequence,
                  (long long)s->cache.n_sequences);
        REFUSE_IF(s->written[sequence] == s->steps, "the rows of sequence %d are not adjacent", sequence);
        s->written[sequence] = s->steps;
        s->longest_run = pe_max(s->longest_run, end - first);
        pe_page_list *list = s->cache.sequences + sequence;
        const int64_t start = list->length;
        const int64_t length = start + end - first;
        REFUSE_IF(length > config->max_positions, "sequence %d would have %lld tokens; the model has %lld positions",
                  sequence, (long long)length, (long long)config->max_positions);
        PE_TRY(extend(s, list, end - first));
        for (int64_t r = first; r < end; r++) {
            const int32_t token = plan->tokens[r], position = (int32_t)(start + r - first);
            REFUSE_IF(!within(token, config->target_vocab), "token %d is not in [0, %lld)", token,
                      (long long)config->target_vocab);
            const pe_page_list *memory = require_list(s, true, plan->memories[r], true);
            if (!memory) return PE_BAD_ARGUMENT;
            s->rows[r] = (pe_row){token, position, position + 1, memory->length, list->pages, memory->pages};
        }
    }
    return PE_OK;
}

static pe_status plan_logits(pe_session *s, const pe_plan *plan) {
    const pe_logits_request *request = &plan->logits;
    REFUSE_IF(request->n_rows > plan->n_rows, "logits of %lld rows of %lld", (long long)request->n_rows,
              (long long)plan->n_rows);
    int64_t excluded = 0;
    for (int64_t i = 0; i < request->n_rows; i++) {
        const int64_t row = plan->logit_rows[i], previous = i > 0 ? plan->logit_rows[i - 1] : -1;
        REFUSE_IF(row <= previous || row >= plan->n_rows, "logit row %lld is out of order or range", (long long)row);
        REFUSE_IF(request->exclude_offsets[i] != excluded || request->exclude_offsets[i + 1] < excluded ||
                      request->exclude_offsets[i + 1] > request->exclude_offsets[request->n_rows],
                  "the offsets of excluded ids do not ascend at row %lld", (long long)i);
        for (const int64_t end = request->exclude_offsets[i + 1], begin = excluded; excluded < end; excluded++) {
            const int32_t id = request->exclude_ids[excluded];
            REFUSE_IF(!within(id, s->model->config.target_vocab) ||
                          (excluded > begin && id <= request->exclude_ids[excluded - 1]),
                      "excluded id %d is out of order or range", id);
        }
    }
    size_t candidates;
    if (!pe_mul_ok((size_t)(s->threads * request->n_rows), (size_t)request->top_k, &candidates)) return PE_NO_MEMORY;
    if (candidates <= s->n_candidates) return PE_OK;
    free(s->logits.values);
    free(s->logits.ids);
    s->n_candidates = 0;
    s->logits.values = malloc((size_t)candidates * sizeof *s->logits.values);
    s->logits.ids = malloc((size_t)candidates * sizeof *s->logits.ids);
    if (!s->logits.values || !s->logits.ids) return PE_NO_MEMORY;
    s->n_candidates = candidates;
    return PE_OK;
}

/* Whether the rows that ask have lists; then room for the logits of the union. */
static pe_status plan_listed_logits(pe_session *s, const pe_plan *plan) {
    const int64_t n = plan->logits.n_rows;
    int64_t listed = 0;
    for (int64_t i = 0; i < n; i++) {
        s->listed.lists[i] = pe_shortlist_of(&s->shortlist, plan->memories[plan->logit_rows[i]]);
        listed += s->listed.lists[i]->n > 0;
    }
    s->answers_lists = listed > 0;
    if (listed == 0) return PE_OK;
    REFUSE_IF(listed != n, "logits of rows with lists and of rows without");
    REFUSE_IF(plan->logits.logits, "full logits of rows with lists");
    s->listed.ld = pe_round_up(s->shortlist.rows.n, PE_BLOCK);
    size_t size = (size_t)n * (size_t)s->listed.ld;
    if (size <= s->n_listed) return PE_OK;
    size += size / 4; /* the union grows a little with most sentences */
    pe_aligned_free(s->listed.logits);
    s->n_listed = 0;
    s->listed.logits = pe_aligned_alloc(size * sizeof *s->listed.logits);
    if (!s->listed.logits) return PE_NO_MEMORY;
    s->n_listed = size;
    return PE_OK;
}

static pe_status prepare(pe_session *s, const pe_plan *plan) {
    s->steps++;
    s->n_copies = 0;
    PE_TRY(fork_and_free(s, plan));
    PE_TRY(plan_segments(s, plan));
    PE_TRY(plan_lists(s, plan));
    PE_TRY(plan_rows(s, plan));
    PE_TRY(plan_logits(s, plan));
    return plan_listed_logits(s, plan);
}

/* Whatever went wrong in a row ends here: NaN makes NaN of all that it touches. An observer can say where it began. */
static pe_status check_normalizers(pe_session *s, const pe_logits_request *request) {
    if (s->observer) return PE_OK;
    for (int64_t i = 0; i < request->n_rows; i++)
        if (!isfinite(request->log_normalizer[i])) {
            refuse(s, "the normalizer of row %lld is %g", (long long)i, request->log_normalizer[i]);
            return PE_NOT_FINITE;
        }
    return PE_OK;
}

static pe_status run(pe_session *s, const pe_plan *plan, pe_crew *crew) {
    PE_TRY(prepare(s, plan));
    pe_step step = {s, plan};
    pe_team_run(crew, pe_transformer_step, &step);
    s->shortlist.n_fresh = 0;
    return check_normalizers(s, &plan->logits);
}

pe_status pe_session_step(pe_session *s, const pe_plan *plan, pe_crew *crew) {
    const pe_status status = run(s, plan, crew);
    if (status != PE_OK) pe_session_clear(s);
    return status;
}
