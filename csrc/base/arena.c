#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

enum { LINE = 64 };

void *pe_aligned_alloc(size_t size) {
    if (size == 0 || size > SIZE_MAX - LINE) return NULL;
    size = (size + LINE - 1) & ~(size_t)(LINE - 1);
    void *memory = aligned_alloc(LINE, size);
    if (memory) memset(memory, 0, size);
    return memory;
}

void pe_aligned_free(void *memory) { free(memory); }

void *pe_arena_take(pe_arena *arena, int64_t count, size_t width) {
    size_t bytes = (size_t)count * width;
    bytes = (bytes + LINE - 1) & ~(size_t)(LINE - 1);
    const size_t offset = arena->used;
    arena->used += bytes;
    if (!arena->start || arena->used > arena->size) return NULL;
    return arena->start + offset;
}

pe_status pe_arena_allocate(pe_arena *arena) {
    arena->size = arena->used;
    arena->used = 0;
    arena->start = pe_aligned_alloc(arena->size);
    return arena->start ? PE_OK : PE_NO_MEMORY;
}

void pe_arena_free(pe_arena *arena) {
    pe_aligned_free(arena->start);
    arena->start = NULL;
    arena->size = arena->used = 0;
}
