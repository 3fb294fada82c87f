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

static int64_t stride_of(const pe_page_pool *pool) { return pool->page_bytes + LINE; }

static int64_t pages_of(int64_t tokens) { return pe_ceil_div(tokens, PE_PAGE); }

int64_t pe_kv_first_page(const pe_page_pool *pool, int64_t tokens) {
    return pe_max(0, tokens - pool->before) / PE_PAGE;
}

pe_status pe_kv_create(pe_kv_cache *cache, int n_groups, const pe_page_group *groups, int64_t most_bytes,
                       int64_t n_sequences, int64_t n_memories) {
    *cache = (pe_kv_cache){.n_groups = n_groups, .n_sequences = n_sequences, .n_memories = n_memories};
    cache->most_bytes = most_bytes > 0 ? most_bytes : INT64_MAX;
    for (int g = 0; g < n_groups; g++)
        cache->pools[g] = (pe_page_pool){.page_bytes = groups[g].page_bytes, .before = groups[g].before};
    cache->sequences = calloc((size_t)(n_sequences + n_memories), sizeof *cache->sequences);
    if (!cache->sequences) return PE_NO_MEMORY;
    cache->memories = cache->sequences + n_sequences;
    for (int64_t i = 0; i < n_sequences; i++) cache->sequences[i].groups = n_groups;
    for (int64_t i = 0; i < n_memories; i++) cache->memories[i].groups = 1;
    return PE_OK;
}

void pe_kv_destroy(pe_kv_cache *cache) {
    for (int g = 0; g < cache->n_groups; g++) {
        for (int64_t i = 0; i < cache->pools[g].n_slabs; i++) pe_aligned_free(cache->pools[g].slabs[i]);
        free(cache->pools[g].slabs);
    }
    for (int64_t i = 0; i < cache->n_sequences + cache->n_memories && cache->sequences; i++)
        free(cache->sequences[i].pages);
    free(cache->sequences);
    *cache = (pe_kv_cache){0};
}

static pe_status add_slab(pe_page_pool *pool, int64_t pages) {
    const int64_t stride = stride_of(pool);
    size_t bytes;
    if (!pe_mul_ok((size_t)pages, (size_t)stride, &bytes)) return PE_NO_MEMORY;
    uint8_t **slabs = realloc(pool->slabs, (size_t)(pool->n_slabs + 1) * sizeof *slabs);
    if (!slabs) return PE_NO_MEMORY;
    pool->slabs = slabs;
    uint8_t *slab = pe_aligned_alloc(bytes);
    if (!slab) return PE_NO_MEMORY;
    pool->slabs[pool->n_slabs++] = slab;
    for (int64_t i = pages - 1; i >= 0; i--) {
        uint8_t *page = slab + i * stride + LINE;
        header(page)->next = pool->free;
        pool->free = page;
    }
    pool->n_free += pages;
    pool->n_pages += pages;
    return PE_OK;
}

/* Where groups share a bound of bytes, every page is a slab of its own, so that one group's unused pages can become
   another's. */
static bool counts_bytes(const pe_kv_cache *cache) { return cache->n_groups > 1 && cache->most_bytes < INT64_MAX; }

static void give_back_unused(pe_page_pool *pool) {
    int64_t kept = 0;
    for (int64_t i = 0; i < pool->n_slabs; i++)
        if (header(pool->slabs[i] + LINE)->references > 0)
            pool->slabs[kept++] = pool->slabs[i];
        else
            pe_aligned_free(pool->slabs[i]);
    pool->n_slabs = pool->n_pages = kept;
    pool->n_free = 0;
    pool->free = NULL;
}

/* Whether the pages that are lacking fit into what is left of the bound; if not, which group lacks them. */
static bool fits(const pe_kv_cache *cache, const int64_t *pages, int *full, int64_t *left) {
    int64_t spare = cache->most_bytes - pe_kv_bytes(cache);
    for (int g = 0; g < cache->n_groups; g++) {
        const pe_page_pool *pool = &cache->pools[g];
        const int64_t lacking = pe_max(0, pages[g] - pool->n_free);
        if (lacking > spare / stride_of(pool)) {
            *full = g;
            *left = pool->n_free + spare / stride_of(pool);
            return false;
        }
        spare -= lacking * stride_of(pool);
    }
    return true;
}

pe_status pe_kv_reserve(pe_kv_cache *cache, const int64_t *pages, int *full, int64_t *left) {
    const bool counts = counts_bytes(cache);
    if (!fits(cache, pages, full, left)) {
        if (!counts) return PE_CACHE_FULL;
        for (int g = 0; g < cache->n_groups; g++) give_back_unused(&cache->pools[g]);
        if (!fits(cache, pages, full, left)) return PE_CACHE_FULL;
    }
    for (int g = 0; g < cache->n_groups; g++) {
        pe_page_pool *pool = &cache->pools[g];
        const int64_t lacking = pages[g] - pool->n_free, stride = stride_of(pool);
        for (int64_t i = 0; counts && i < lacking; i++) PE_TRY(add_slab(pool, 1));
        if (counts || lacking <= 0) continue;
        const int64_t spare = (cache->most_bytes - pe_kv_bytes(cache)) / stride - lacking;
        PE_TRY(add_slab(pool, lacking + pe_min(pe_max(0, SLAB_BYTES / stride - lacking), spare)));
    }
    return PE_OK;
}

static uint8_t *take_page(pe_page_pool *pool) {
    uint8_t *page = pool->free;
    pool->free = header(page)->next;
    pool->n_free--;
    header(page)->references = 1;
    return page;
}

static void drop_page(pe_page_pool *pool, uint8_t *page) {
    if (--header(page)->references > 0) return;
    header(page)->next = pool->free;
    pool->free = page;
    pool->n_free++;
}

void pe_kv_fork(const pe_kv_cache *cache, const pe_page_list *parent, pe_page_list *child) {
    for (int g = 0; g < parent->groups; g++) {
        uint8_t **from = parent->pages + g * parent->capacity, **to = child->pages + g * child->capacity;
        for (int64_t i = pe_kv_first_page(&cache->pools[g], parent->length); i < pages_of(parent->length); i++) {
            to[i] = from[i];
            header(to[i])->references++;
        }
    }
    child->length = parent->length;
    child->rope_set = parent->rope_set;
    child->live = true;
}

void pe_kv_release(pe_kv_cache *cache, pe_page_list *list) {
    const bool memory = list >= cache->memories;
    for (int g = 0; g < list->groups; g++) {
        const int64_t first = memory ? 0 : pe_kv_first_page(&cache->pools[g], list->length);
        for (int64_t i = first; i < pages_of(list->length); i++)
            drop_page(&cache->pools[g], list->pages[g * list->capacity + i]);
    }
    list->length = 0;
    list->live = false;
}

void pe_kv_shrink(pe_page_list *list) {
    if (list->live || list->capacity <= KEPT) return;
    free(list->pages);
    list->pages = NULL;
    list->capacity = 0;
}

pe_status pe_kv_reserve_list(pe_page_list *list, int64_t tokens) {
    if (pages_of(tokens) <= list->capacity) return PE_OK;
    const int64_t capacity = pe_max(pages_of(tokens), list->capacity * 2);
    uint8_t **grown = malloc((size_t)(list->groups * capacity) * sizeof *grown);
    if (!grown) return PE_NO_MEMORY;
    for (int g = 0; g < list->groups && list->capacity > 0; g++)
        memcpy(grown + g * capacity, list->pages + g * list->capacity, (size_t)list->capacity * sizeof *grown);
    free(list->pages);
    list->pages = grown;
    list->capacity = capacity;
    return PE_OK;
}

int pe_kv_extend(pe_kv_cache *cache, pe_page_list *list, int64_t tokens, pe_page_copy *copies) {
    const int64_t old = list->length, new = old + tokens;
    int copied = 0;
    for (int g = 0; g < list->groups; g++) {
        pe_page_pool *pool = &cache->pools[g];
        uint8_t **pages = list->pages + g * list->capacity;
        if (old % PE_PAGE != 0 && header(pages[old / PE_PAGE])->references > 1) {
            uint8_t *shared = pages[old / PE_PAGE];
            pages[old / PE_PAGE] = take_page(pool);
            copies[copied++] = (pe_page_copy){pages[old / PE_PAGE], shared, pool->page_bytes};
            header(shared)->references--; /* others still hold it */
        }
        for (int64_t i = pages_of(old); i < pages_of(new); i++) pages[i] = take_page(pool);
    }
    list->length = (int32_t)new;
    list->live = true;
    return copied;
}

void pe_kv_trim(pe_kv_cache *cache, pe_page_list *list, int64_t before) {
    for (int g = 0; g < list->groups; g++) {
        pe_page_pool *pool = &cache->pools[g];
        const int64_t end = pe_kv_first_page(pool, list->length);
        for (int64_t i = pe_kv_first_page(pool, before); i < end; i++)
            drop_page(pool, list->pages[g * list->capacity + i]);
    }
}

int64_t pe_kv_bytes(const pe_kv_cache *cache) {
    int64_t bytes = 0;
    for (int g = 0; g < cache->n_groups; g++) bytes += cache->pools[g].n_pages * stride_of(&cache->pools[g]);
    return bytes;
}

int64_t pe_kv_sequence_bytes(const pe_kv_cache *cache, int64_t tokens, int64_t rows) {
    int64_t bytes = 0;
    for (int g = 0; g < cache->n_groups; g++) {
        const pe_page_pool *pool = &cache->pools[g];
        bytes += pe_min(pages_of(tokens), pages_of(rows + 1 + pool->before) + 2) * stride_of(pool);
    }
    return bytes;
}

int64_t pe_kv_memory_bytes(const pe_kv_cache *cache, int64_t tokens) {
    return pages_of(tokens) * stride_of(&cache->pools[0]);
}
