#include "model/kv_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/intmath.h"

enum {
    LINE = 64,
    SLAB_BYTES = 1 << 21, /* pages are allocated together, about this much at a time */
    KEPT = 64,            /* pages that an empty list keeps room for */
};

typedef struct page_header {
    int64_t references;
    uint8_t *next;
} page_header;

static page_header *header(uint8_t *page) { return (page_header *)(void *)(page - LINE); }

int64_t *pe_kv_references(uint8_t *page) { return &header(page)->references; }

static int64_t stride_of(const pe_kv_cache *cache) { return cache->layout.page_bytes + LINE; }

pe_status pe_kv_create(pe_kv_cache *cache, const pe_kv_layout *layout, int64_t most_bytes, int64_t n_sequences,
                       int64_t n_memories) {
    *cache = (pe_kv_cache){.layout = *layout, .n_sequences = n_sequences, .n_memories = n_memories};
    cache->most_pages = most_bytes > 0 ? most_bytes / stride_of(cache) : INT64_MAX;
    cache->sequences = calloc((size_t)(n_sequences + n_memories), sizeof *cache->sequences);
    if (!cache->sequences) return PE_NO_MEMORY;
    cache->memories = cache->sequences + n_sequences;
    return PE_OK;
}

void pe_kv_destroy(pe_kv_cache *cache) {
    for (int64_t i = 0; i < cache->n_slabs; i++) pe_aligned_free(cache->slabs[i]);
    for (int64_t i = 0; i < cache->n_sequences + cache->n_memories && cache->sequences; i++)
        free(cache->sequences[i].pages);
    free(cache->slabs);
    free(cache->sequences);
    *cache = (pe_kv_cache){0};
}

static pe_status add_slab(pe_kv_cache *cache) {
    const int64_t stride = stride_of(cache);
    const int64_t pages = pe_min(pe_max(1, SLAB_BYTES / stride), cache->most_pages - cache->n_pages);
    uint8_t **slabs = realloc(cache->slabs, (size_t)(cache->n_slabs + 1) * sizeof *slabs);
    if (!slabs) return PE_NO_MEMORY;
    cache->slabs = slabs;
    uint8_t *slab = pe_aligned_alloc((size_t)(pages * stride));
    if (!slab) return PE_NO_MEMORY;
    cache->slabs[cache->n_slabs++] = slab;
    for (int64_t i = pages - 1; i >= 0; i--) {
        uint8_t *page = slab + i * stride + LINE;
        header(page)->next = cache->free;
        cache->free = page;
    }
    cache->n_free += pages;
    cache->n_pages += pages;
    return PE_OK;
}

pe_status pe_kv_reserve(pe_kv_cache *cache, int64_t pages) {
    if (pages - cache->n_free > cache->most_pages - cache->n_pages) return PE_CACHE_FULL;
    while (cache->n_free < pages) PE_TRY(add_slab(cache));
    return PE_OK;
}

static uint8_t *take_page(pe_kv_cache *cache) {
    uint8_t *page = cache->free;
    cache->free = header(page)->next;
    cache->n_free--;
    header(page)->references = 1;
    return page;
}

static void drop_page(pe_kv_cache *cache, uint8_t *page) {
    if (--header(page)->references > 0) return;
    header(page)->next = cache->free;
    cache->free = page;
    cache->n_free++;
}

static int64_t page_count(const pe_page_list *list) { return pe_ceil_div(list->length, PE_PAGE); }

void pe_kv_fork(const pe_page_list *parent, pe_page_list *child) {
    const int64_t pages = page_count(parent);
    for (int64_t i = 0; i < pages; i++) {
        child->pages[i] = parent->pages[i];
        header(child->pages[i])->references++;
    }
    child->length = parent->length;
    child->live = true;
}

void pe_kv_release(pe_kv_cache *cache, pe_page_list *list) {
    const int64_t pages = page_count(list);
    for (int64_t i = 0; i < pages; i++) drop_page(cache, list->pages[i]);
    list->length = 0;
    list->live = false;
    if (list->capacity <= KEPT) return;
    free(list->pages);
    list->pages = NULL;
    list->capacity = 0;
}

pe_status pe_kv_reserve_list(pe_page_list *list, int64_t tokens) {
    const int64_t pages = pe_ceil_div(tokens, PE_PAGE);
    if (pages <= list->capacity) return PE_OK;
    const int64_t capacity = pe_max(pages, list->capacity * 2);
    uint8_t **grown = realloc(list->pages, (size_t)capacity * sizeof *grown);
    if (!grown) return PE_NO_MEMORY;
    list->pages = grown;
    list->capacity = capacity;
    return PE_OK;
}

int pe_kv_extend(pe_kv_cache *cache, pe_page_list *list, int64_t tokens, pe_page_copy *copy) {
    const int64_t old = page_count(list);
    int copies = 0;
    if (list->length % PE_PAGE != 0 && header(list->pages[old - 1])->references > 1) {
        uint8_t *shared = list->pages[old - 1], *own = take_page(cache);
        *copy = (pe_page_copy){own, shared};
        list->pages[old - 1] = own;
        header(shared)->references--; /* others still hold it */
        copies = 1;
    }
    list->length += (int32_t)tokens;
    for (int64_t i = old; i < page_count(list); i++) list->pages[i] = take_page(cache);
    list->live = true;
    return copies;
}

int64_t pe_kv_bytes(const pe_kv_cache *cache) { return cache->n_pages * stride_of(cache); }
