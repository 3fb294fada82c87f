/* AMX's instructions, written for the assembler: no compiler has to know them. Tiles are named by literals.

   Intrinsics of compilers say too little about the memory that these read and write, so that stores to it may come late
   or never; here each load and store is a barrier. */
#ifndef PE_BASE_TILE_INSTRUCTIONS_H
#define PE_BASE_TILE_INSTRUCTIONS_H

/* A config is 64 bytes. */
#define PE_TILE_CONFIGURE(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(config)) : "memory")
#define PE_TILE_CONFIGURED(config) __asm__ volatile("sttilecfg %0" : "=m"(*(config))::"memory")

/* Rows `stride` bytes apart; all from one line where it is 0. The second for what is not read again soon. */
#define PE_TILE_LOAD(tile, from, stride) PE_TILE_MEMORY_OPERAND("tileloadd", tile, from, stride)
#define PE_TILE_LOAD_ONCE(tile, from, stride) PE_TILE_MEMORY_OPERAND("tileloaddt1", tile, from, stride)
#define PE_TILE_MEMORY_OPERAND(what, tile, from, stride)                                                        \
    __asm__ volatile("{" what "\t(%0,%1,1), %%tmm" #tile "|" what "\t%%tmm" #tile ", [%0+%1*1]}" ::"r"(from), \
                     "r"((int64_t)(stride))                                                                     \
                     : "memory")

#define PE_TILE_STORE(tile, to, stride)                                                                           \
    __asm__ volatile("{tilestored\t%%tmm" #tile ", (%0,%1,1)|tilestored\t[%0+%1*1], %%tmm" #tile "}" ::"r"(to), \
                     "r"((int64_t)(stride))                                                                       \
                     : "memory")

/* int32 [rows, n] += a, bytes without a sign [rows, 4 k], times b, bytes with one [k, n, 4]; exact modulo 2^32. */
#define PE_TILE_DOT(sum, a, b)                                                                             \
    __asm__ volatile("{tdpbusd\t%%tmm" #b ", %%tmm" #a ", %%tmm" #sum "|tdpbusd\t%%tmm" #sum ", %%tmm" #a \
                     ", %%tmm" #b "}" ::)

#endif
