/* AMX: the product of int8 rows with int4 weights in groups.

   COLUMNS of one block at a time become bytes in the first-level cache, which all rows of a chunk pass, in tiles of 16.
   Integer sums must leave the tile at the end of each group, and only by way of memory: so while the tile of a group is
   at work the floats of the one before it are added up, all 16 rows of them in registers. Groups of 128 columns are two
   steps of a tile, those of 32 half a one, which takes as long as a whole.

   Rows that are no whole tile are multiplied by vectors if they are few; else a last tile begins early and stores what
   is new. */
#include "base/tiles.h"
#include "kernels/x86/gemm_q4_avx512.h"

enum {
    HEIGHT = 16,    /* rows of a tile */
    LEAST_REST = 8, /* rows that are worth a tile beside others */
    COLUMNS = 1024, /* whole groups of any size */
    CHUNK = 12,     /* tiles of rows that a block's bytes are made for */
    RING = 4,       /* sums that are on their way */
};

typedef int32_t tile_sums[HEIGHT][PE_BLOCK];

/* Columns of a block, and what a group of them needs. */
typedef struct expanded {
    _Alignas(64) int8_t lines[COLUMNS / PE_QUAD][PE_BLOCK * PE_QUAD];
    _Alignas(64) int32_t start[COLUMNS / PE_MIN_GROUP][PE_BLOCK];
    _Alignas(64) float scale[COLUMNS / PE_MIN_GROUP][PE_BLOCK];
} expanded;

typedef struct work {
    const pe_product *p;
    int64_t rows;        /* that tiles take, 16 and more */
    int64_t columns;     /* of a step: those of a group, at most 64 */
    expanded from;
    _Alignas(64) tile_sums ring[RING];
    _Alignas(64) float acc[CHUNK][HEIGHT][PE_BLOCK];
} work;

static void configure(int64_t columns) {
    pe_tile_config config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        config.row_bytes[tile] = (uint16_t)(tile == 4 || tile == 5 ? columns : 64);
        config.rows[tile] = (uint8_t)(tile < 6 ? HEIGHT : columns / PE_QUAD);
    }
    pe_tiles_use(&config);
}

/* Columns [k0, k0 + columns) of a block as bytes. */
static void expand(work *w, int64_t block, int64_t k0, int64_t columns, const uint8_t *next) {
    const pe_product *p = w->p;
    const int64_t group = p->group, first = (block * p->k + k0) / group;
    const uint8_t *packed = (const uint8_t *)p->w + (block * p->k + k0) * PE_BLOCK / 2;
    for (int64_t g = 0; g < columns / group; g++) {
        const int64_t at = g * group * PE_BLOCK / 2;
        expand_group(p, (first + g) * PE_BLOCK, packed + at, next ? next + at : NULL,
                     w->from.lines[g * group / PE_QUAD], sizeof w->from.lines[0], w->from.start[g], w->from.scale[g]);
    }
}

static inline int64_t row_of(const work *w, int64_t tile) { return pe_min(tile * HEIGHT, w->rows - HEIGHT); }

/* Tiles 0, 1: sums; 4, 5: rows; 6, 7: weights; one of each for groups with an even and with an odd number. */
#define MULTIPLY(sum, rows, weights)                         \
    do {                                                     \
        PE_TILE_LOAD(sum, start, 0);                         \
        for (int i = 0; i < steps; i++) {                    \
            PE_TILE_LOAD_ONCE(rows, x + i * columns, ldx);   \
            PE_TILE_LOAD(weights, lines + i * columns * PE_BLOCK, 64); \
            PE_TILE_DOT(sum, rows, weights);                 \
        }                                                    \
        PE_TILE_STORE(sum, to, 64);                          \
    } while (0)

ALWAYS_INLINE void multiply_group(const int8_t *x, int64_t ldx, const int8_t *lines, const int32_t *start,
                                  int64_t columns, const int steps, bool odd, tile_sums *to) {
    if (odd)
        MULTIPLY(1, 5, 7);
    else
        MULTIPLY(0, 4, 6);
}

ALWAYS_INLINE void add_group(tile_sums *sums, const float *scale, __m512 total[HEIGHT]) {
    const __m512 each = _mm512_load_ps(scale);
#pragma GCC unroll 16
    for (int r = 0; r < HEIGHT; r++)
        total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512((*sums)[r])), each, total[r]);
}

/* acc of a tile of rows, advanced by `groups` groups, which start with column k0. */
ALWAYS_INLINE void tile_q4(work *w, int64_t tile, int64_t k0, int64_t groups, const int steps,
                           float acc[HEIGHT][PE_BLOCK]) {
    const int64_t ldx = w->p->ldx, columns = w->columns, group = w->p->group;
    const int8_t *x = (const int8_t *)w->p->x + row_of(w, tile) * ldx + k0, *lines = w->from.lines[0];
    __m512 total[HEIGHT]; /* registers: its address must not leave this function */
#pragma GCC unroll 16
    for (int r = 0; r < HEIGHT; r++) total[r] = k0 > 0 ? _mm512_load_ps(acc[r]) : _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, x += group, lines += group * PE_BLOCK) {
        multiply_group(x, ldx, lines, w->from.start[g], columns, steps, g % 2 == 1, w->ring + g % RING);
        if (g > 0) add_group(w->ring + (g - 1) % RING, w->from.scale[g - 1], total);
    }
    add_group(w->ring + (groups - 1) % RING, w->from.scale[groups - 1], total);
#pragma GCC unroll 16
    for (int r = 0; r < HEIGHT; r++) _mm512_store_ps(acc[r], total[r]);
}

/* Functions of their own: tiles keep to registers only where little surrounds them. */
static __attribute__((noinline)) void tile_of_one(work *w, int64_t tile, int64_t k0, int64_t groups,
                                                  float acc[HEIGHT][PE_BLOCK]) {
    tile_q4(w, tile, k0, groups, 1, acc);
}

static __attribute__((noinline)) void tile_of_two(work *w, int64_t tile, int64_t k0, int64_t groups,
                                                  float acc[HEIGHT][PE_BLOCK]) {
    tile_q4(w, tile, k0, groups, 2, acc);
}

/* Tiles [tile0, tile1) by a block; the weights at `after` are read after it. */
static void multiply_block(work *w, int64_t tile0, int64_t tile1, int64_t block, const uint8_t *after) {
    const pe_product *p = w->p;
    for (int64_t k = 0; k < p->k; k += COLUMNS) {
        const int64_t columns = pe_min(COLUMNS, p->k - k);
        const uint8_t *following = (const uint8_t *)p->w + (block * p->k + k + columns) * PE_BLOCK / 2;
        expand(w, block, k, columns, k + columns < p->k ? following : after);
        for (int64_t tile = tile0; tile < tile1; tile++) {
            float(*acc)[PE_BLOCK] = w->acc[tile - tile0];
            (p->group > w->columns ? tile_of_two : tile_of_one)(w, tile, k, columns / p->group, acc);
            if (k + columns < p->k) continue;
            const int64_t new = tile * HEIGHT, old = new - row_of(w, tile); /* rows that the tile before it has */
            pe_finish_scaled(p, new, block, (int)(HEIGHT - old), 1, (const __m512 *)(const void *)acc[old]);
        }
    }
}

/* Rows from `row` on, by vectors. */
static void multiply_rest(const pe_product *p, int64_t row, int64_t block0, int64_t block1) {
    pe_product rest = *p;
    rest.m -= row;
    rest.x = (const int8_t *)p->x + row * p->ldx;
    rest.x_scale += row;
    rest.y += row * p->ldy;
    if (p->residual) rest.residual += row * p->ldr;
    if (rest.m > 0) pe_gemm_f32_q8r_q4g__avx512vnni(&rest, block0, block1);
}

void pe_gemm_f32_q8r_q4g__amx(const pe_product *p, int64_t block0, int64_t block1) {
    const int64_t least = p->group == PE_MIN_GROUP ? 2 * HEIGHT : HEIGHT; /* rows from which on it is faster */
    const int64_t rest = p->m % HEIGHT, rows = p->m < least ? 0 : rest < LEAST_REST ? p->m - rest : p->m;
    work w;
    w.p = p;
    w.rows = rows;
    w.columns = pe_min(p->group, 64);
    const int64_t tiles = pe_ceil_div(rows, HEIGHT), chunks = pe_ceil_div(tiles, CHUNK);
    if (tiles > 0) configure(w.columns);
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t block = block0; block < block1; block++) {
            const int64_t after = block + 1 < block1 ? block + 1 : chunk + 1 < chunks ? block0 : block1;
            const uint8_t *next = (const uint8_t *)p->w + after * p->k * PE_BLOCK / 2;
            multiply_block(&w, tiles * chunk / chunks, tiles * (chunk + 1) / chunks, block,
                           after < block1 ? next : p->ahead);
        }
    multiply_rest(p, rows, block0, block1);
}
