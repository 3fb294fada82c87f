/* The paged key-value cache: pages of 16 tokens, counted references, a list a sequence.

   Layers whose windows are alike share the pages of a group: a page has room for all their key-value heads. In the list
   of a sequence each group has its own pages, and those that its window has left behind are given back:

       tokens   0..15  16..31  32..47  48..63  64..
       group 0  page   page    page    page    page          all keys are seen
       group 1  -      -       page    page    page          before = 20, length 68: keys from 48 on, and what a row
                                                             at 67 saw

   A memory has pages of group 0 only, which have room for all cross-attentions, too.

   A beam is a fork of a page list. Full pages are shared and never change; when a sequence is about to write into a
   page that others share, it gets a copy first (pe_kv_extend). A page is handed around as a pointer to its data; its
   header lies in the line before:

       | header: references, next free | data: [heads of the group's layers][bytes of a head] |                    */
#ifndef PE_MODEL_KV_CACHE_H
#define PE_MODEL_KV_CACHE_H

#include "ops/ops.h"

typedef struct pe_page_list {
    uint8_t **pages;  /* [groups][capacity], of which [first page, ceil(length / PE_PAGE)) are held */
    int64_t capacity;
    int groups;
    int32_t length; /* tokens */
    int32_t rope_set; /* of all its keys */
    bool live;

    /* What the plan of step `checked` makes of it, while that is checked; see model/plan.c. */
    int64_t checked;
    struct pe_page_list *origin; /* whose pages it has before its rows: its own, or those of whom it is a fork */
    int32_t next_length, next_rope_set;
    bool next_live, next_listed;
} pe_page_list;

/* A shared page that the next write must not touch: `to` takes the place of `from`. */
typedef struct pe_page_copy {
    uint8_t *to;
    const uint8_t *from;
    int64_t bytes;
} pe_page_copy;

typedef struct pe_page_pool {
    int64_t page_bytes;
    int32_t before; /* keys before the next row's own that it will see; PE_ALL: all */
    uint8_t **slabs;
    int64_t n_slabs;
    uint8_t *free; /* a chain of unused pages */
    int64_t n_free, n_pages;
} pe_page_pool;

typedef struct pe_kv_cache {
    int n_groups;
    pe_page_pool pools[PE_MAX_GROUPS];
    int64_t most_bytes; /* of all pages */
    int64_t n_sequences, n_memories;
    pe_page_list *sequences; /* [n_sequences] */
    pe_page_list *memories;  /* [n_memories] cross-attention keys and values */
} pe_kv_cache;

/* Lists for sequences and memories; pages come when they are needed, up to most_bytes of them, 0: any number. */
pe_status pe_kv_create(pe_kv_cache *cache, int n_groups, const pe_page_group *groups, int64_t most_bytes,
                       int64_t n_sequences, int64_t n_memories);
void pe_kv_destroy(pe_kv_cache *cache);

/* Makes sure that the next pages[g] page requests of each group succeed. PE_CACHE_FULL where that is more than there
   may be: `full` is then a group that lacks pages, and `left` how many it may have. */
pe_status pe_kv_reserve(pe_kv_cache *cache, const int64_t *pages, int *full, int64_t *left);

/* Makes room in the list for so many tokens. */
pe_status pe_kv_reserve_list(pe_page_list *list, int64_t tokens);

/* The first page of a group that a list of so many tokens holds. */
int64_t pe_kv_first_page(const pe_page_pool *pool, int64_t tokens);

/* How many lists have the page. */
int64_t *pe_kv_references(uint8_t *page);

/* child becomes a copy of parent. The child is not live, and has room. */
void pe_kv_fork(const pe_kv_cache *cache, const pe_page_list *parent, pe_page_list *child);

/* Gives the list's pages back; its room for pages stays. */
void pe_kv_release(pe_kv_cache *cache, pe_page_list *list);

/* Gives much room for pages back, of a list that is not live. */
void pe_kv_shrink(pe_page_list *list);

/* Grows the list by `tokens` tokens that the caller will write; at most one copy of a shared page is needed first in
   each group. Pages and room in the list must have been reserved. Returns the number of copies. */
int pe_kv_extend(pe_kv_cache *cache, pe_page_list *list, int64_t tokens, pe_page_copy *copies);

/* Gives back the pages that the next row will not see, of a list that had `before` tokens when it was last called. */
void pe_kv_trim(pe_kv_cache *cache, pe_page_list *list, int64_t before);

/* Bytes of all pages, used or free; of the pages of a sequence or a memory of so many tokens, which come in steps of at
   most `rows`: a window never holds more than it sees and they need. */
int64_t pe_kv_bytes(const pe_kv_cache *cache);
int64_t pe_kv_sequence_bytes(const pe_kv_cache *cache, int64_t tokens, int64_t rows);
int64_t pe_kv_memory_bytes(const pe_kv_cache *cache, int64_t tokens);

#endif
