#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

#include "base/intmath.h"

enum { LINE = 64 };

/* What a sum that overflows counts as: no allocation gives so much. Whole lines, as all sums are. */
static const size_t UNOBTAINABLE = SIZE_MAX / 2 + 1 - LINE;

/* calloc, because large blocks of it cost memory only where they are touched; what it returned is kept in the word
   before the aligned block. */
void *pe_aligned_alloc(size_t size) {
    if (size == 0 || size > SIZE_MAX - 2 * LINE) return NULL;
    uint8_t *block = calloc(1, size + 2 * LINE);
    if (!block) return NULL;
    uint8_t *aligned = block + LINE + (LINE - (uintptr_t)block % LINE) % LINE;
    memcpy(aligned - sizeof block, &block, sizeof block);
    return aligned;
}

void pe_aligned_free(void *memory) {
    if (!memory) return;
    uint8_t *block;
    memcpy(&block, (uint8_t *)memory - sizeof block, sizeof block);
    free(block);
}

void *pe_arena_take(pe_arena *arena, int64_t count, size_t width) {
    size_t bytes;
    if (!pe_mul_ok((size_t)count, width, &bytes) || bytes > UNOBTAINABLE - arena->used) {
        arena->used = UNOBTAINABLE;
        return NULL;
    }
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
