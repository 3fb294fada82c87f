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
    int32_t length;  /* tokens */
    bool live;
} pe_page_list;

/* A shared page that the next write must not touch: `to` takes the place of `from`. */
typedef struct pe_page_copy {
    uint8_t *to;
    const uint8_t *from;
} pe_page_copy;

typedef struct pe_kv_cache {
    pe_kv_layout layout;
    int64_t pages_a_list; /* capacity of each list */
    int64_t n_sequences, n_memories;
    pe_page_list *sequences; /* [n_sequences] */
    pe_page_list *memories;  /* [n_memories] cross-attention keys and values */
    uint8_t **list_storage;
    uint8_t **slabs;
    int64_t n_slabs;
    uint8_t *free; /* a chain of unused pages */
    int64_t n_free;
    int64_t n_pages;
} pe_kv_cache;

/* Lists for sequences and memories of up to max_tokens; pages come when they are needed. */
pe_status pe_kv_create(pe_kv_cache *cache, const pe_kv_layout *layout, int64_t max_tokens, int64_t n_sequences,
                       int64_t n_memories);
void pe_kv_destroy(pe_kv_cache *cache);

/* Makes sure that the next `pages` page requests succeed. */
pe_status pe_kv_reserve(pe_kv_cache *cache, int64_t pages);

/* child becomes a copy of parent. The child is not live. */
void pe_kv_fork(const pe_page_list *parent, pe_page_list *child);

/* Gives the list's pages back. */
void pe_kv_release(pe_kv_cache *cache, pe_page_list *list);

/* Grows the list by `tokens` tokens that the caller will write; at most one copy of a shared page is needed first.
   Takes at most pe_kv_pages_needed(list, tokens) pages, which must have been reserved. Returns copies: 0 or 1. */
int pe_kv_extend(pe_kv_cache *cache, pe_page_list *list, int64_t tokens, pe_page_copy *copy);
int64_t pe_kv_pages_needed(const pe_page_list *list, int64_t tokens);

/* Bytes of all pages, used or free. */
int64_t pe_kv_bytes(const pe_kv_cache *cache);

#endif
