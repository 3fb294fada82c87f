/* Memory of a fixed size, handed out once, front to back, and freed as a whole.

       start                                     start + used          start + size
       [ hidden | input q8 | scales | ... | logits ][       free             ]
         each piece begins on a 64-byte line

   A session sizes its arena with a dry run: with start == NULL, pe_arena_take only adds up `used`. */
#ifndef PE_BASE_ARENA_H
#define PE_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct pe_arena {
    uint8_t *start;
    size_t size;
    size_t used;
} pe_arena;

/* `count` elements of `width` bytes; NULL in a dry run. A piece that would not fit is a mistake in the dry
   run and answers NULL too. */
void *pe_arena_take(pe_arena *arena, int64_t count, size_t width);

/* Allocates what a dry run added up and starts over. */
pe_status pe_arena_allocate(pe_arena *arena);
void pe_arena_free(pe_arena *arena);

/* 64-byte aligned memory, zeroed; free with pe_aligned_free. NULL if there is none, or if size is 0. */
void *pe_aligned_alloc(size_t size);
void pe_aligned_free(void *memory);

#endif
