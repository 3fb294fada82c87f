/* A plan on its way into a session: check, count pages, reserve, commit.

   The check walks the plan in its order and notes at each page list what it would become (pe_page_list, next_...). What
   can fail for want of memory is reserved next; the commit, which cannot fail, then does what was checked. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/intmath.h"
#include "model/session.h"

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

/* The list of an id, and what the plan so far makes of it; NULL if the id is out of range. */
static pe_page_list *find_list(pe_session *s, bool memory, int32_t id) {
    const int64_t limit = memory ? s->cache.n_memories : s->cache.n_sequences;
    if (!within(id, limit)) {
        refuse(s, "%s %d is not in [0, %lld)", memory ? "memory" : "sequence", id, (long long)limit);
        return NULL;
    }
    pe_page_list *list = (memory ? s->cache.memories : s->cache.sequences) + id;
    if (list->checked != s->steps) {
        list->checked = s->steps;
        list->origin = list;
        list->next_length = list->length;
        list->next_rope_set = list->rope_set;
        list->next_live = list->live;
        list->next_listed = memory && pe_shortlist_of(&s->shortlist, id)->n > 0;
    }
    return list;
}

/* ... and it must be in use, or must not be. */
static pe_page_list *require_list(pe_session *s, bool memory, int32_t id, bool live) {
    pe_page_list *list = find_list(s, memory, id);
    if (!list || list->next_live == live) return list;
    refuse(s, "%s %d is %s use", memory ? "memory" : "sequence", id, live ? "not in" : "already in");
    return NULL;
}

/* Freeing what is not in use does nothing. */
static pe_status check_frees(pe_session *s, bool memory, int64_t n, const int32_t *ids) {
    for (int64_t i = 0; i < n; i++) {
        pe_page_list *list = find_list(s, memory, ids[i]);
        if (!list) return PE_BAD_ARGUMENT;
        list->next_live = list->next_listed = false;
        list->next_length = 0;
    }
    return PE_OK;
}

static pe_status check_forks(pe_session *s, const pe_plan *plan) {
    for (int64_t i = 0; i < plan->n_forks; i++) {
        const pe_page_list *parent = require_list(s, false, plan->forks[2 * i], true);
        pe_page_list *child = parent ? require_list(s, false, plan->forks[2 * i + 1], false) : NULL;
        if (!child) return PE_BAD_ARGUMENT;
        child->origin = parent->origin;
        child->next_length = parent->next_length;
        child->next_rope_set = parent->next_rope_set;
        child->next_live = true;
    }
    return PE_OK;
}

/* Segments have a memory, which only a model with a decoder keeps, or -1. */
static pe_status check_segments(pe_session *s, const pe_plan *plan) {
    const pe_stack *encoder = &s->model->encoder;
    const bool remembers = s->model->decoder.n > 0;
    REFUSE_IF(plan->n_segments > 0 && encoder->n == 0, "segments for a model without encoder");
    REFUSE_IF(plan->n_source_tokens > s->max_rows, "%lld source tokens in a step of at most %lld rows",
              (long long)plan->n_source_tokens, (long long)s->max_rows);
    int64_t total = 0;
    s->longest_segment = 0;
    for (int64_t i = 0; i < plan->n_segments; i++) {
        const int64_t length = plan->segment_lengths[i];
        REFUSE_IF(length < 1 || length > encoder->max_positions,
                  "a segment of %lld tokens; the model has %lld positions", (long long)length,
                  (long long)encoder->max_positions);
        total += length;
        s->longest_segment = pe_max(s->longest_segment, length);
    }
    REFUSE_IF(total != plan->n_source_tokens, "segments of %lld tokens in all, but %lld source tokens",
              (long long)total, (long long)plan->n_source_tokens);
    for (int64_t i = 0; i < plan->n_source_tokens; i++) {
        REFUSE_IF(!within(plan->source_tokens[i], encoder->vocab), "source token %d is not in [0, %lld)",
                  plan->source_tokens[i], (long long)encoder->vocab);
        REFUSE_IF(plan->source_types && !within(plan->source_types[i], pe_max(1, encoder->embedding.n_types)),
                  "token type %d is not in [0, %lld)", plan->source_types[i],
                  (long long)pe_max(1, encoder->embedding.n_types));
    }
    for (int64_t i = 0; i < plan->n_segments; i++) {
        if (!remembers) {
            REFUSE_IF(plan->segment_memories[i] != -1, "memory %d of a model without decoder: expected -1",
                      plan->segment_memories[i]);
            continue;
        }
        pe_page_list *memory = require_list(s, true, plan->segment_memories[i], false);
        if (!memory) return PE_BAD_ARGUMENT;
        memory->next_live = true;
        memory->next_length = plan->segment_lengths[i];
        memory->next_listed = plan->list_offsets != NULL;
    }
    return PE_OK;
}

/* The lists of the memories that the segments become. */
static pe_status check_lists(pe_session *s, const pe_plan *plan) {
    if (!plan->list_offsets) return PE_OK;
    REFUSE_IF(s->model->decoder.n == 0, "lists of ids for a model without decoder");
    REFUSE_IF(plan->n_segments == 0 && plan->list_offsets[0] != 0, "lists of ids without segments");
    int64_t done = 0;
    for (int64_t i = 0; i < plan->n_segments; i++) {
        const int64_t end = plan->list_offsets[i + 1];
        REFUSE_IF(plan->list_offsets[i] != done || end <= done || end > plan->list_offsets[plan->n_segments],
                  "the offsets of lists do not ascend at segment %lld", (long long)i);
        for (int64_t j = done; j < end; j++) {
            const int32_t id = plan->list_ids[j];
            REFUSE_IF(!within(id, s->model->output.n) || (j > done && id <= plan->list_ids[j - 1]),
                      "id %d of a list is out of order or range", id);
        }
        done = end;
    }
    return PE_OK;
}

/* The end of the run of rows of one sequence that begins at row `first`. */
static int64_t run_end(const pe_plan *plan, int64_t first) {
    int64_t end = first + 1;
    while (end < plan->n_rows && plan->sequences[end] == plan->sequences[first]) end++;
    return end;
}

static int32_t rope_set_of(const pe_plan *plan, int64_t row) { return plan->rope_sets ? plan->rope_sets[row] : 0; }

/* Of rows [first, end), all of a sequence's: keys that turned by another set could not be compared with its queries. */
static pe_status check_rope_sets(pe_session *s, const pe_plan *plan, int64_t first, int64_t end, pe_page_list *list) {
    const int32_t set = rope_set_of(plan, first);
    const int sets = pe_rope_sets(&s->model->ropes);
    REFUSE_IF(!within(set, sets), "rope set %d is not in [0, %d)", set, sets);
    for (int64_t r = first; r < end; r++)
        REFUSE_IF(rope_set_of(plan, r) != set || (list->next_length > 0 && set != list->next_rope_set),
                  "rope set %d for sequence %d, which has set %d", rope_set_of(plan, r), plan->sequences[r],
                  list->next_length > 0 ? list->next_rope_set : set);
    list->next_rope_set = set;
    return PE_OK;
}

static pe_status check_rows(pe_session *s, const pe_plan *plan) {
    const pe_stack *decoder = &s->model->decoder;
    REFUSE_IF(plan->n_rows > 0 && decoder->n == 0, "rows for a model without decoder");
    REFUSE_IF(plan->n_rows > s->max_rows, "%lld rows in a step of at most %lld", (long long)plan->n_rows,
              (long long)s->max_rows);
    s->longest_run = 0;
    for (int64_t first = 0, end; first < plan->n_rows; first = end) {
        end = run_end(plan, first);
        const int32_t sequence = plan->sequences[first];
        pe_page_list *list = find_list(s, false, sequence);
        if (!list) return PE_BAD_ARGUMENT;
        REFUSE_IF(s->written[sequence] == s->steps, "the rows of sequence %d are not adjacent", sequence);
        s->written[sequence] = s->steps;
        s->longest_run = pe_max(s->longest_run, end - first);
        PE_TRY(check_rope_sets(s, plan, first, end, list));
        const int64_t length = list->next_length + end - first;
        REFUSE_IF(length > decoder->max_positions, "sequence %d would have %lld tokens; the model has %lld positions",
                  sequence, (long long)length, (long long)decoder->max_positions);
        list->next_length = (int32_t)length;
        list->next_live = true;
        for (int64_t r = first; r < end; r++) {
            REFUSE_IF(!within(plan->tokens[r], decoder->vocab), "token %d is not in [0, %lld)", plan->tokens[r],
                      (long long)decoder->vocab);
            if (s->model->encoder.n == 0)
                REFUSE_IF(plan->memories[r] != -1, "memory %d for a model without encoder: expected -1",
                          plan->memories[r]);
            else if (!require_list(s, true, plan->memories[r], true))
                return PE_BAD_ARGUMENT;
        }
    }
    return PE_OK;
}

static pe_status check_logits(pe_session *s, const pe_plan *plan) {
    const pe_logits_request *request = &plan->logits;
    REFUSE_IF(request->n_rows > plan->n_rows, "logits of %lld rows of %lld", (long long)request->n_rows,
              (long long)plan->n_rows);
    int64_t excluded = 0, listed = 0;
    for (int64_t i = 0; i < request->n_rows; i++) {
        const int64_t row = plan->logit_rows[i], previous = i > 0 ? plan->logit_rows[i - 1] : -1;
        REFUSE_IF(row <= previous || row >= plan->n_rows, "logit row %lld is out of order or range", (long long)row);
        listed += plan->memories[row] >= 0 && s->cache.memories[plan->memories[row]].next_listed;
        REFUSE_IF(request->exclude_offsets[i] != excluded || request->exclude_offsets[i + 1] < excluded ||
                      request->exclude_offsets[i + 1] > request->exclude_offsets[request->n_rows],
                  "the offsets of excluded ids do not ascend at row %lld", (long long)i);
        for (const int64_t end = request->exclude_offsets[i + 1], begin = excluded; excluded < end; excluded++) {
            const int32_t id = request->exclude_ids[excluded];
            REFUSE_IF(!within(id, s->model->output.n) ||
                          (excluded > begin && id <= request->exclude_ids[excluded - 1]),
                      "excluded id %d is out of order or range", id);
        }
    }
    s->answers_lists = listed > 0;
    REFUSE_IF(listed > 0 && listed != request->n_rows, "logits of rows with lists and of rows without");
    REFUSE_IF(listed > 0 && request->logits, "full logits of rows with lists");
    return PE_OK;
}

pe_status pe_plan_check(pe_session *s, const pe_plan *plan) {
    s->steps++;
    PE_TRY(check_forks(s, plan));
    PE_TRY(check_frees(s, false, plan->n_free_sequences, plan->free_sequences));
    PE_TRY(check_frees(s, true, plan->n_free_memories, plan->free_memories));
    PE_TRY(check_segments(s, plan));
    PE_TRY(check_lists(s, plan));
    PE_TRY(check_rows(s, plan));
    return check_logits(s, plan);
}

/* Counting. Most plans need no more pages than lie free, even if nothing were given back and every partly filled page
   had to be copied. Only where that is not so are the references looked at. */

static int64_t pages_of(int64_t tokens) { return pe_ceil_div(tokens, PE_PAGE); }

/* Of each group for rows; segments take so many more of group 0. */
static int64_t count_at_most(const pe_session *s, const pe_plan *plan) {
    int64_t pages = 0;
    for (int64_t first = 0, end; first < plan->n_rows; first = end) {
        end = run_end(plan, first);
        const int64_t after = s->cache.sequences[plan->sequences[first]].next_length, before = after - (end - first);
        pages += pages_of(after) - before / PE_PAGE;
    }
    return pages;
}

static int64_t count_segments(const pe_plan *plan) {
    int64_t pages = 0;
    for (int64_t i = 0; i < plan->n_segments; i++)
        if (plan->segment_memories[i] >= 0) pages += pages_of(plan->segment_lengths[i]);
    return pages;
}

static int64_t count_partly_filled(const pe_session *s, const pe_plan *plan) {
    int64_t n = 0;
    for (int64_t first = 0, end; first < plan->n_rows; first = end) {
        end = run_end(plan, first);
        n += (s->cache.sequences[plan->sequences[first]].next_length - (end - first)) % PE_PAGE != 0;
    }
    return n;
}

/* Adds `by` to the references of a list's pages of a group; answers how many have none then. */
static int64_t refer(const pe_session *s, const pe_page_list *list, int group, int64_t by) {
    const bool memory = list >= s->cache.memories;
    if (memory && group > 0) return 0;
    const int64_t first = memory ? 0 : pe_kv_first_page(&s->cache.pools[group], list->length);
    int64_t none = 0;
    for (int64_t i = first; i < pages_of(list->length); i++)
        none += (*pe_kv_references(list->pages[group * list->capacity + i]) += by) == 0;
    return none;
}

/* Takes the references of freed lists away, each list's once (a negative number of the step marks it), or gives them
   back. */
static int64_t refer_freed(const pe_session *s, pe_page_list *lists, int64_t n, const int32_t *ids, int group,
                           int64_t by) {
    int64_t unused = 0;
    for (int64_t i = 0; i < n; i++) {
        pe_page_list *list = lists + ids[i];
        if (list->checked < 0) continue;
        list->checked = -list->checked;
        unused += refer(s, list->origin, group, by);
    }
    for (int64_t i = 0; i < n; i++) lists[ids[i]].checked = llabs(lists[ids[i]].checked);
    return unused;
}

/* Counts forks and frees in the references, or takes that back: the pages that nobody refers to then. */
static int64_t refer_all(pe_session *s, const pe_plan *plan, int group, int64_t by) {
    for (int64_t i = 0; i < plan->n_forks; i++) refer(s, s->cache.sequences[plan->forks[2 * i + 1]].origin, group, by);
    return refer_freed(s, s->cache.sequences, plan->n_free_sequences, plan->free_sequences, group, -by) +
           refer_freed(s, s->cache.memories, plan->n_free_memories, plan->free_memories, group, -by);
}

/* Shared pages that the rows copy before they write, once forks and frees are counted in the references. */
static int64_t count_copies(pe_session *s, const pe_plan *plan, int group) {
    int64_t copies = 0;
    for (int64_t first = 0, end; first < plan->n_rows; first = end) {
        end = run_end(plan, first);
        const pe_page_list *list = s->cache.sequences + plan->sequences[first];
        const int64_t before = list->next_length - (end - first);
        if (before % PE_PAGE == 0) continue;
        uint8_t *last = list->origin->pages[group * list->origin->capacity + before / PE_PAGE];
        if (*pe_kv_references(last) < 2) continue;
        --*pe_kv_references(last); /* so that the last sequence that has the page keeps it */
        s->copies[copies++].to = last;
    }
    for (int64_t i = 0; i < copies; i++) ++*pe_kv_references(s->copies[i].to);
    return copies;
}

static pe_status reserve_pages(pe_session *s, const pe_plan *plan) {
    pe_kv_cache *cache = &s->cache;
    const int64_t rows = count_at_most(s, plan), segments = count_segments(plan);
    int64_t needed[PE_MAX_GROUPS];
    for (int g = 0; g < cache->n_groups; g++) {
        needed[g] = rows + (g == 0 ? segments : 0);
        if (needed[g] <= cache->pools[g].n_free) continue;
        const int64_t unused = refer_all(s, plan, g, 1), copies = count_copies(s, plan, g);
        refer_all(s, plan, g, -1);
        needed[g] += copies - count_partly_filled(s, plan) - unused;
    }
    int full;
    const pe_status status = pe_kv_reserve(cache, needed, &full, &s->pages_available);
    if (status == PE_CACHE_FULL) s->pages_needed = needed[full];
    return status;
}

static pe_status reserve_lists(pe_session *s, const pe_plan *plan) {
    for (int64_t i = 0; i < plan->n_forks; i++) {
        pe_page_list *child = s->cache.sequences + plan->forks[2 * i + 1];
        PE_TRY(pe_kv_reserve_list(child, pe_max(child->next_length, child->origin->length)));
    }
    for (int64_t first = 0; first < plan->n_rows; first = run_end(plan, first)) {
        pe_page_list *list = s->cache.sequences + plan->sequences[first];
        PE_TRY(pe_kv_reserve_list(list, list->next_length));
    }
    for (int64_t i = 0; i < plan->n_segments; i++)
        if (plan->segment_memories[i] >= 0)
            PE_TRY(pe_kv_reserve_list(s->cache.memories + plan->segment_memories[i], plan->segment_lengths[i]));
    return PE_OK;
}

/* Working memory that grows with what steps ask for; what lies in it is of no use after the step. */

static pe_status grow_encoder_pages(pe_session *s, const pe_plan *plan) {
    int64_t pages = 0;
    for (int64_t i = 0; i < plan->n_segments; i++) pages += pages_of(plan->segment_lengths[i]);
    if (pages <= s->n_encoder_pages) return PE_OK;
    pe_aligned_free(s->encoder_pages);
    s->n_encoder_pages = 0;
    s->encoder_pages = pe_aligned_alloc((size_t)(pages * s->model->encoder_bytes));
    if (!s->encoder_pages) return PE_NO_MEMORY;
    s->n_encoder_pages = pages;
    return PE_OK;
}

static pe_status grow_candidates(pe_session *s, const pe_logits_request *request) {
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

static pe_status grow_listed(pe_session *s, const pe_plan *plan) {
    if (plan->list_offsets && plan->n_segments > 0)
        PE_TRY(pe_shortlist_reserve(&s->shortlist, plan->n_segments, plan->list_offsets, plan->list_ids));
    if (!s->answers_lists) return PE_OK;
    size_t size = (size_t)plan->logits.n_rows * (size_t)pe_round_up(pe_shortlist_bound(&s->shortlist), PE_BLOCK);
    if (size <= s->n_listed) return PE_OK;
    size += size / 4; /* the union grows a little with most sentences */
    pe_aligned_free(s->listed.logits);
    s->n_listed = 0;
    s->listed.logits = pe_aligned_alloc(size * sizeof *s->listed.logits);
    if (!s->listed.logits) return PE_NO_MEMORY;
    s->n_listed = size;
    return PE_OK;
}

pe_status pe_plan_reserve(pe_session *s, const pe_plan *plan) {
    PE_TRY(reserve_pages(s, plan));
    PE_TRY(reserve_lists(s, plan));
    PE_TRY(grow_encoder_pages(s, plan));
    PE_TRY(grow_candidates(s, &plan->logits));
    return grow_listed(s, plan);
}

static void release_all(pe_session *s, bool memory, int64_t n, const int32_t *ids) {
    for (int64_t i = 0; i < n; i++) {
        pe_page_list *list = (memory ? s->cache.memories : s->cache.sequences) + ids[i];
        if (list->live) pe_kv_release(&s->cache, list);
        if (memory) pe_shortlist_drop(&s->shortlist, ids[i]);
    }
}

static void commit_segments(pe_session *s, const pe_plan *plan) {
    int64_t row = 0, page = 0;
    for (int64_t i = 0; i < plan->n_segments; i++) {
        const int64_t length = plan->segment_lengths[i];
        pe_page_list *memory = plan->segment_memories[i] >= 0 ? s->cache.memories + plan->segment_memories[i] : NULL;
        if (memory) pe_kv_extend(&s->cache, memory, length, NULL);
        uint8_t **segment_pages = s->segment_pages + page;
        s->segment_starts[i] = row;
        for (int64_t end = page + pages_of(length); page < end; page++)
            s->segment_pages[page] = s->encoder_pages + page * s->model->encoder_bytes;
        for (int64_t j = 0; j < length; j++, row++)
            s->source_rows[row] = (pe_row){
                .token = plan->source_tokens[row], .position = (int32_t)j,
                .type = plan->source_types ? plan->source_types[row] : 0, .n_keys = (int32_t)length,
                .pages = segment_pages, .memory_pages = memory ? memory->pages : NULL,
            };
        if (plan->list_offsets)
            pe_shortlist_add(&s->shortlist, plan->segment_memories[i], i, plan->list_ids + plan->list_offsets[i]);
    }
    s->segment_starts[plan->n_segments] = row;
}

static void commit_rows(pe_session *s, const pe_plan *plan) {
    for (int64_t first = 0, end; first < plan->n_rows; first = end) {
        end = run_end(plan, first);
        pe_page_list *list = s->cache.sequences + plan->sequences[first];
        const int64_t start = list->length;
        list->rope_set = rope_set_of(plan, first);
        s->n_copies += pe_kv_extend(&s->cache, list, end - first, s->copies + s->n_copies);
        for (int64_t r = first; r < end; r++) {
            const pe_page_list *memory = plan->memories[r] >= 0 ? s->cache.memories + plan->memories[r] : NULL;
            const int32_t position = (int32_t)(start + r - first);
            s->rows[r] = (pe_row){
                .token = plan->tokens[r], .position = position, .n_keys = position + 1,
                .n_memory = memory ? memory->length : 0, .rope_set = list->rope_set,
                .stride = (int32_t)list->capacity, .pages = list->pages,
                .memory_pages = memory ? memory->pages : NULL,
            };
        }
    }
}

void pe_plan_commit(pe_session *s, const pe_plan *plan) {
    s->n_copies = 0;
    for (int64_t i = 0; i < plan->n_forks; i++)
        pe_kv_fork(&s->cache, s->cache.sequences + plan->forks[2 * i], s->cache.sequences + plan->forks[2 * i + 1]);
    release_all(s, false, plan->n_free_sequences, plan->free_sequences);
    release_all(s, true, plan->n_free_memories, plan->free_memories);
    commit_segments(s, plan);
    commit_rows(s, plan);
    if (!s->answers_lists) return;
    for (int64_t i = 0; i < plan->logits.n_rows; i++)
        s->listed.lists[i] = pe_shortlist_of(&s->shortlist, plan->memories[plan->logit_rows[i]]);
    s->listed.ld = pe_round_up(s->shortlist.rows.n, PE_BLOCK);
}

void pe_plan_finish(pe_session *s, const pe_plan *plan) {
    for (int64_t first = 0, end; first < plan->n_rows; first = end) {
        end = run_end(plan, first);
        pe_page_list *list = s->cache.sequences + plan->sequences[first];
        pe_kv_trim(&s->cache, list, list->length - (end - first));
    }
    for (int64_t i = 0; i < plan->n_free_sequences; i++) pe_kv_shrink(s->cache.sequences + plan->free_sequences[i]);
    for (int64_t i = 0; i < plan->n_free_memories; i++) pe_kv_shrink(s->cache.memories + plan->free_memories[i]);
    s->shortlist.n_fresh = 0;
}
