#include "model/shortlist.h"

#include <stdlib.h>
#include <string.h>

#include "base/intmath.h"

enum { GATHER = 32 }; /* slots a task */

/* Bytes of a slot in a line of packed weights. */
static int64_t lane_of(const pe_linear *output) {
    return output->type == PE_WEIGHT_BF16 || output->type == PE_WEIGHT_F16 ? 2 : 4;
}

/* Bytes of a slot. */
static int64_t weights_of(const pe_linear *output) { return pe_block_offset(output, 1) / PE_BLOCK; }

static int64_t groups_of(const pe_linear *output) {
    return output->type == PE_WEIGHT_Q4 ? pe_packed_k(output) / output->group : 0;
}

void pe_shortlist_create(pe_shortlist *s, const pe_linear *output, int64_t n_memories) {
    *s = (pe_shortlist){.output = output, .n_lists = n_memories};
    s->rows = (pe_linear){.type = output->type, .k = output->k, .group = output->group};
}

static void forget_coming(pe_shortlist *s) {
    for (int64_t i = 0; i < s->n_coming; i++) free(s->coming[i].ids);
    free(s->coming);
    s->coming = NULL;
    s->n_coming = 0;
}

void pe_shortlist_destroy(pe_shortlist *s) {
    for (int64_t i = 0; s->lists && i < s->n_lists; i++) free(s->lists[i].ids);
    forget_coming(s);
    free(s->lists);
    free(s->slot_of);
    pe_arena_free(&s->slots.arena);
    *s = (pe_shortlist){0};
}

static void lay_out(pe_slots *slots, const pe_linear *output) {
    pe_arena *arena = &slots->arena;
    const int64_t n = slots->capacity;
    slots->w = pe_arena_take(arena, n, (size_t)weights_of(output));
    if (output->scale) slots->scale = pe_arena_take(arena, n, sizeof *slots->scale);
    if (output->sum) slots->sum = pe_arena_take(arena, n, sizeof *slots->sum);
    if (output->bias) slots->bias = pe_arena_take(arena, n, sizeof *slots->bias);
    const int64_t groups = n * groups_of(output);
    if (output->group_scale) slots->group_scale = pe_arena_take(arena, groups, sizeof *slots->group_scale);
    if (output->group_zero) slots->group_zero = pe_arena_take(arena, groups, sizeof *slots->group_zero);
    slots->ids = pe_arena_take(arena, n, sizeof *slots->ids);
    slots->holders = pe_arena_take(arena, n, sizeof *slots->holders);
    slots->fresh = pe_arena_take(arena, n, sizeof *slots->fresh);
}

static void copy(void *to, const void *from, int64_t count, size_t width) {
    if (to && count > 0) memcpy(to, from, (size_t)count * width);
}

/* Makes room for at least n slots; those that there are stay where they are. */
static pe_status grow(pe_shortlist *s, int64_t n) {
    const pe_slots *old = &s->slots;
    if (n <= old->capacity) return PE_OK;
    const int64_t most = pe_round_up(s->output->n, PE_BLOCK);
    pe_slots new = {.capacity = pe_min(most, pe_round_up(pe_max(n, old->capacity * 3 / 2), PE_BLOCK))};
    lay_out(&new, s->output); /* dry */
    PE_TRY(pe_arena_allocate(&new.arena));
    lay_out(&new, s->output);
    copy(new.w, old->w, old->capacity, (size_t)weights_of(s->output));
    copy(new.scale, old->scale, old->capacity, sizeof *new.scale);
    copy(new.sum, old->sum, old->capacity, sizeof *new.sum);
    copy(new.bias, old->bias, old->capacity, sizeof *new.bias);
    copy(new.group_scale, old->group_scale, old->capacity * groups_of(s->output), sizeof *new.group_scale);
    copy(new.group_zero, old->group_zero, old->capacity * groups_of(s->output), sizeof *new.group_zero);
    copy(new.ids, old->ids, old->capacity, sizeof *new.ids);
    copy(new.holders, old->holders, old->capacity, sizeof *new.holders);
    copy(new.fresh, old->fresh, s->n_fresh, sizeof *new.fresh);
    for (int64_t i = old->capacity; i < new.capacity; i++) new.ids[i] = -1;
    pe_arena_free(&s->slots.arena);
    s->slots = new;
    s->rows.w = new.w;
    s->rows.scale = new.scale;
    s->rows.sum = new.sum;
    s->rows.bias = new.bias;
    s->rows.group_scale = new.group_scale;
    s->rows.group_zero = new.group_zero;
    return PE_OK;
}

static pe_status begin(pe_shortlist *s) {
    if (s->lists) return PE_OK;
    free(s->slot_of);
    s->slot_of = malloc((size_t)s->output->n * sizeof *s->slot_of);
    if (!s->slot_of) return PE_NO_MEMORY;
    for (int64_t i = 0; i < s->output->n; i++) s->slot_of[i] = -1;
    s->lists = calloc((size_t)s->n_lists, sizeof *s->lists);
    return s->lists ? PE_OK : PE_NO_MEMORY;
}

static void hold(pe_shortlist *s, int32_t slot) {
    if (s->slots.holders[slot]++ == 0) s->held++;
    s->rows.n = pe_max(s->rows.n, slot + 1);
}

/* A slot for an id that has none: the lowest that no list holds, whatever id it was kept for. */
static int32_t take_slot(pe_shortlist *s, int32_t id) {
    pe_slots *slots = &s->slots;
    while (slots->holders[s->lowest_free] > 0) s->lowest_free++;
    const int32_t slot = (int32_t)s->lowest_free;
    if (slots->ids[slot] >= 0) s->slot_of[slots->ids[slot]] = -1;
    slots->ids[slot] = id;
    s->slot_of[id] = slot;
    slots->fresh[s->n_fresh++] = slot;
    return slot;
}

/* Different ids among these that no list holds yet. */
static int64_t count_unheld(pe_shortlist *s, int64_t n, const int32_t *ids) {
    enum { SEEN = -2 };
    int64_t unheld = 0;
    for (int64_t i = 0; i < n; i++) {
        const int32_t slot = s->slot_of[ids[i]];
        int32_t *mark = slot >= 0 ? s->slots.holders + slot : s->slot_of + ids[i];
        if (*mark > 0 || *mark == SEEN) continue;
        *mark = SEEN;
        unheld++;
    }
    for (int64_t i = 0; i < n; i++) {
        const int32_t slot = s->slot_of[ids[i]];
        if (slot == SEEN) s->slot_of[ids[i]] = -1;
        if (slot >= 0 && s->slots.holders[slot] == SEEN) s->slots.holders[slot] = 0;
    }
    return unheld;
}

pe_status pe_shortlist_reserve(pe_shortlist *s, int64_t n, const int32_t *offsets, const int32_t *ids) {
    PE_TRY(begin(s));
    s->bound = pe_max(s->rows.n, s->held + count_unheld(s, offsets[n], ids));
    PE_TRY(grow(s, s->bound));
    forget_coming(s);
    s->coming = calloc((size_t)n, sizeof *s->coming);
    if (!s->coming) return PE_NO_MEMORY;
    for (; s->n_coming < n; s->n_coming++) {
        const int64_t count = offsets[s->n_coming + 1] - offsets[s->n_coming];
        int32_t *both = malloc(2 * (size_t)count * sizeof *both);
        if (!both) return PE_NO_MEMORY;
        s->coming[s->n_coming] = (pe_list){both, both + count, count};
    }
    return PE_OK;
}

int64_t pe_shortlist_bound(const pe_shortlist *s) { return pe_max(s->rows.n, s->bound); }

void pe_shortlist_add(pe_shortlist *s, int64_t memory, int64_t i, const int32_t *ids) {
    pe_list *list = s->lists + memory;
    *list = s->coming[i];
    s->coming[i] = (pe_list){0};
    const int64_t n = list->n;
    int64_t unheld = 0;
    for (int64_t j = 0; j < n; j++) unheld += s->slot_of[ids[j]] < 0 || s->slots.holders[s->slot_of[ids[j]]] == 0;
    const int64_t bound = pe_max(s->rows.n, s->held + unheld);
    /* First what is there, so that nothing is evicted that the list needs; beyond the bound it is given up. */
    for (int64_t j = 0; j < n; j++) {
        const int32_t slot = s->slot_of[ids[j]];
        const bool ready = slot >= 0 && (s->slots.holders[slot] > 0 || slot < bound);
        list->ids[j] = ids[j];
        list->slots[j] = ready ? slot : -1;
        if (ready) hold(s, slot);
    }
    for (int64_t j = 0; j < n; j++) {
        if (list->slots[j] >= 0) continue;
        if (s->slot_of[ids[j]] >= 0) s->slots.ids[s->slot_of[ids[j]]] = -1;
        list->slots[j] = take_slot(s, ids[j]);
        hold(s, list->slots[j]);
    }
}

void pe_shortlist_drop(pe_shortlist *s, int64_t memory) {
    if (!s->lists || s->lists[memory].n == 0) return;
    pe_list *list = s->lists + memory;
    for (int64_t i = 0; i < list->n; i++) {
        const int32_t slot = list->slots[i];
        if (--s->slots.holders[slot] > 0) continue;
        s->held--;
        s->lowest_free = pe_min(s->lowest_free, slot);
    }
    while (s->rows.n > 0 && s->slots.holders[s->rows.n - 1] == 0) s->rows.n--;
    free(list->ids);
    *list = (pe_list){0};
}

const pe_list *pe_shortlist_of(const pe_shortlist *s, int64_t memory) {
    static const pe_list none = {0};
    return s->lists ? s->lists + memory : &none;
}

/* Where a channel's first group has its scale and zero point; those of the groups lie 16 channels apart. */
static int64_t first_group(int32_t channel, int64_t groups) {
    return channel / PE_BLOCK * groups * PE_BLOCK + channel % PE_BLOCK;
}

static void gather(const pe_shortlist *s, int32_t slot) {
    const pe_linear *output = s->output;
    const pe_slots *slots = &s->slots;
    const int64_t lane = lane_of(output), line = PE_BLOCK * lane, block = PE_BLOCK * weights_of(output);
    const int32_t id = slots->ids[slot];
    const uint8_t *from = (const uint8_t *)output->w + id / PE_BLOCK * block + id % PE_BLOCK * lane;
    uint8_t *to = slots->w + slot / PE_BLOCK * block + slot % PE_BLOCK * lane;
    if (lane == 2)
        for (int64_t at = 0; at < block; at += line) memcpy(to + at, from + at, 2);
    else
        for (int64_t at = 0; at < block; at += line) memcpy(to + at, from + at, 4);
    if (output->scale) slots->scale[slot] = output->scale[id];
    if (output->sum) slots->sum[slot] = output->sum[id];
    if (output->bias) slots->bias[slot] = output->bias[id];
    const int64_t groups = groups_of(output), own = first_group(slot, groups), its = first_group(id, groups);
    for (int64_t g = 0; g < groups * PE_BLOCK; g += PE_BLOCK) {
        slots->group_scale[own + g] = output->group_scale[its + g];
        if (output->group_zero) slots->group_zero[own + g] = output->group_zero[its + g];
    }
}

void pe_shortlist_gather(pe_thread *thread, const pe_shortlist *s) {
    for (int64_t task; pe_take(thread, pe_ceil_div(s->n_fresh, GATHER), &task);)
        for (int64_t i = task * GATHER; i < pe_min(s->n_fresh, (task + 1) * GATHER); i++)
            gather(s, s->slots.fresh[i]);
}
