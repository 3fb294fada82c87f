/* The paged key-value cache: pages of 16 tokens for all layers and heads, counted references, a list a sequence.
   A page serves self-attention or a memory: it has room for whichever has more heads.

   A beam is a fork of a page list. Full pages are shared and never change; when a sequence is about to write into a
   page that others share, it gets a copy first (pe_kv_extend). A page is handed around as a pointer to its data; its
   header lies in the line before:

       | header: references, next free | data: [heads of all layers][head_bytes] |                                  */
#ifndef PE_MODEL_KV_CACHE_H
#define PE_MODEL_KV_CACHE_H

#include "ops/ops.h"

typedef struct pe_page_list {
    uint8_t **pages; /* [ceil(length / PE_PAGE)] */
    int64_t capacity;
    int32_t length; /* tokens */
    bool live;

    /* What the plan of step `checked` makes of it, while that is checked; see model/plan.c. */
    int64_t checked;
    struct pe_page_list *origin; /* whose pages it has before its rows: its own, or those of whom it is a fork */
    int32_t next_length;
    bool next_live, next_listed;
} pe_page_list;

/* A shared page that the next write must not touch: `to` takes the place of `from`. */
typedef struct pe_page_copy {
    uint8_t *to;
    const uint8_t *from;
} pe_page_copy;

typedef struct pe_kv_cache {
    pe_kv_layout layout;
    int64_t most_pages; /* that there may be */
    int64_t n_sequences, n_memories;
    pe_page_list *sequences; /* [n_sequences] */
    pe_page_list *memories;  /* [n_memories] cross-attention keys and values */
    uint8_t **slabs;
    int64_t n_slabs;
    uint8_t *free; /* a chain of unused pages */
    int64_t n_free;
    int64_t n_pages;
} pe_kv_cache;

/* Lists for sequences and memories; pages come when they are needed, up to most_bytes of them, 0: any number. */
pe_status pe_kv_create(pe_kv_cache *cache, const pe_kv_layout *layout, int64_t most_bytes, int64_t n_sequences,
                       int64_t n_memories);
void pe_kv_destroy(pe_kv_cache *cache);

/* Makes sure that the next `pages` page requests succeed. PE_CACHE_FULL where that is more than there may be. */
pe_status pe_kv_reserve(pe_kv_cache *cache, int64_t pages);

/* Makes room in the list for so many tokens. */
pe_status pe_kv_reserve_list(pe_page_list *list, int64_t tokens);

/* How many lists have the page. */
int64_t *pe_kv_references(uint8_t *page);

/* child becomes a copy of parent. The child is not live, and has room. */
void pe_kv_fork(const pe_page_list *parent, pe_page_list *child);

/* Gives the list's pages back. */
void pe_kv_release(pe_kv_cache *cache, pe_page_list *list);

/* Grows the list by `tokens` tokens that the caller will write; at most one copy of a shared page is needed first.
   Pages and room in the list must have been reserved. Returns copies: 0 or 1. */
int pe_kv_extend(pe_kv_cache *cache, pe_page_list *list, int64_t tokens, pe_page_copy *copy);

/* Bytes of all pages, used or free. */
int64_t pe_kv_bytes(const pe_kv_cache *cache);

#endif
