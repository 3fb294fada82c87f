/* AMX: the product of int8 rows with int8 weights.

   TDPBUSD multiplies 16 rows of 64 bytes, without a sign, by a tile of 64 x 16 weights, which is 16 lines of packed
   weights as they lie in memory: rows come flipped (x + 128), and minus 128 times the sum of a channel's weights is
   where sums begin. Exact, as in gemm_avx512vnni.c.

   Two tiles of rows by two blocks: four sums, and four loads for four products, as fast as the products where the
   weights are in the first-level cache. So a pair of blocks goes CHUNK columns at a time past all rows of a slab, whose
   sums wait in memory meanwhile. Rows come from the second-level cache, past what is kept in the first.

   Rows are in tiles of the same height; the last one begins early where they are no multiple of it, and stores what is
   new. Columns that are no whole step are multiplied with those before them, whose weights are zeros there. */
#include "base/tiles.h"
#include "kernels/x86/gemm_avx512.h"

enum {
    LEAST_ROWS = 4,          /* fewer are faster by vectors */
    HEIGHT = 16,             /* rows of a tile, at most */
    PAIR = 2,                /* tiles of rows, and blocks, that are taken together */
    STEP = 64,               /* columns of a tile */
    STEP_BYTES = STEP * PE_BLOCK,
    CHUNK = 512,             /* columns of two blocks that stay in the first-level cache; of a last chunk a step more */
    SLAB = 12,               /* tiles of rows: their sums take half of it */
};

/* Sums of two tiles of rows by one or two blocks: [2][HEIGHT][blocks][PE_BLOCK]. */
typedef int32_t pair_sums[PAIR * HEIGHT * PAIR * PE_BLOCK];

typedef struct slab {
    const pe_product *p;
    int64_t row0, rows; /* of all rows */
    int64_t tiles;
    int height;         /* of a tile */
    _Alignas(64) int32_t start[PAIR][PE_BLOCK];
    _Alignas(64) int8_t rest[PAIR][STEP_BYTES]; /* the last step's weights, where the steps are not whole */
    _Alignas(64) pair_sums sums[SLAB / PAIR];
} slab;

static void configure(int height) {
    pe_tile_config config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        config.row_bytes[tile] = 64;
        config.rows[tile] = (uint8_t)(tile < 6 ? height : HEIGHT);
    }
    pe_tiles_use(&config);
}

/* Where a tile of the slab begins. */
static inline int64_t row_of(const slab *s, int64_t tile) {
    return s->row0 + pe_min(tile * s->height, s->rows - s->height);
}

/* Tiles 0 to 3: sums [tile of rows][block]; 4, 5: rows; 6, 7: weights. */

ALWAYS_INLINE void step(const int8_t *const x[PAIR], int64_t ldx, const int8_t *const w[PAIR], const int tiles,
                        const int blocks) {
    PE_TILE_LOAD(6, w[0], 64);
    PE_TILE_LOAD_ONCE(4, x[0], ldx);
    PE_TILE_DOT(0, 4, 6);
    if (blocks > 1) {
        PE_TILE_LOAD(7, w[1], 64);
        PE_TILE_DOT(1, 4, 7);
    }
    if (tiles > 1) {
        PE_TILE_LOAD_ONCE(5, x[1], ldx);
        PE_TILE_DOT(2, 5, 6);
        if (blocks > 1) PE_TILE_DOT(3, 5, 7);
    }
}

ALWAYS_INLINE void load_sums(const int32_t *from, int64_t stride, int64_t to_next, const int tiles, const int blocks) {
    PE_TILE_LOAD(0, from, stride);
    if (blocks > 1) PE_TILE_LOAD(1, from + PE_BLOCK, stride);
    if (tiles > 1) PE_TILE_LOAD(2, from + to_next, stride);
    if (tiles > 1 && blocks > 1) PE_TILE_LOAD(3, from + to_next + PE_BLOCK, stride);
}

ALWAYS_INLINE void store_sums(int32_t *to, int64_t stride, int64_t to_next, const int tiles, const int blocks) {
    PE_TILE_STORE(0, to, stride);
    if (blocks > 1) PE_TILE_STORE(1, to + PE_BLOCK, stride);
    if (tiles > 1) PE_TILE_STORE(2, to + to_next, stride);
    if (tiles > 1 && blocks > 1) PE_TILE_STORE(3, to + to_next + PE_BLOCK, stride);
}

/* Columns [k0, k0 + columns) of `tiles` tiles of rows from `tile` on and of `blocks` blocks. */
ALWAYS_INLINE void multiply(slab *s, int64_t tile, int64_t block, int64_t k0, int64_t columns, const int tiles,
                            const int blocks, int32_t *sums) {
    const pe_product *p = s->p;
    const int64_t ldx = p->ldx, height = s->height, stride = blocks * PE_BLOCK * (int64_t)sizeof(int32_t);
    const int8_t *x[PAIR], *w[PAIR];
    for (int i = 0; i < tiles; i++) x[i] = (const int8_t *)p->x + row_of(s, tile + i) * ldx + k0;
    for (int b = 0; b < blocks; b++) w[b] = (const int8_t *)p->w + ((block + b) * p->k + k0) * PE_BLOCK;
    if (k0 == 0)
        load_sums(s->start[0], 0, 0, tiles, blocks);
    else
        load_sums(sums, stride, height * blocks * PE_BLOCK, tiles, blocks);
    int64_t k = 0;
    for (; k + STEP <= columns; k += STEP) {
        step(x, ldx, w, tiles, blocks);
        for (int i = 0; i < tiles; i++) x[i] += STEP;
        for (int b = 0; b < blocks; b++) w[b] += STEP_BYTES;
    }
    if (k < columns) {
        const int8_t *const rest[PAIR] = {s->rest[0], s->rest[1]};
        for (int i = 0; i < tiles; i++) x[i] -= STEP - (columns - k);
        step(x, ldx, rest, tiles, blocks);
    }
    store_sums(sums, stride, height * blocks * PE_BLOCK, tiles, blocks);
}

/* Rows of the slab that no tile before `tile` has, of this one and, of two, the next. */
static void finish(const slab *s, int64_t tile, int tiles, int64_t block, int blocks, const int32_t *sums) {
    for (int64_t t = tile; t < tile + tiles; t++) {
        const int64_t new = s->row0 + t * s->height, row = row_of(s, t);
        const int32_t *from = sums + ((t - tile) * s->height + new - row) * blocks * PE_BLOCK;
        pe_finish_sums(s->p, new, block, (int)(row + s->height - new), blocks, (const __m512i *)(const void *)from);
    }
}

/* The slab by `blocks` blocks, CHUNK columns at a time. */
ALWAYS_INLINE void multiply_blocks(slab *s, int64_t block, const int blocks) {
    const int64_t k_end = s->p->k, left = k_end % STEP;
    for (int b = 0; b < blocks; b++) {
        const __m512i w_sum = _mm512_loadu_si512(s->p->w_sum + (block + b) * PE_BLOCK);
        const __m512i start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(w_sum, 7));
        _mm512_storeu_si512(s->start[b], start);
        const int8_t *end = (const int8_t *)s->p->w + (block + b + 1) * k_end * PE_BLOCK;
        memcpy(s->rest[b] + STEP_BYTES - left * PE_BLOCK, end - left * PE_BLOCK, (size_t)(left * PE_BLOCK));
    }
    const int64_t chunks = s->tiles > 1 ? pe_max(1, pe_ceil_div(k_end - STEP, CHUNK)) : 1; /* one tile reads all once */
    const int64_t chunk = pe_round_up(pe_ceil_div(k_end, chunks), STEP);
    for (int64_t k = 0; k < k_end; k += chunk) {
        const int64_t columns = pe_min(chunk, k_end - k);
        for (int64_t tile = 0; tile < s->tiles; tile += PAIR) {
            const int tiles = tile + 1 < s->tiles ? PAIR : 1;
            int32_t *sums = s->sums[chunks > 1 ? tile / PAIR : 0];
            if (tiles > 1)
                multiply(s, tile, block, k, columns, PAIR, blocks, sums);
            else
                multiply(s, tile, block, k, columns, 1, blocks, sums);
            if (k + columns == k_end) finish(s, tile, tiles, block, blocks, sums);
        }
    }
}

static void multiply_slab(slab *s, int64_t block0, int64_t block1) {
    if (s->p->k % STEP) memset(s->rest, 0, sizeof s->rest);
    int64_t block = block0;
    for (; block + PAIR <= block1; block += PAIR) multiply_blocks(s, block, PAIR);
    if (block < block1) multiply_blocks(s, block, 1);
}

void pe_gemm_f32_q8r_q8c__amx(const pe_product *p, int64_t block0, int64_t block1) {
    if (p->m < LEAST_ROWS || p->k < STEP) {
        pe_gemm_f32_q8r_q8c__avx512vnni(p, block0, block1);
        return;
    }
    const int64_t slabs = pe_ceil_div(p->m, HEIGHT * SLAB);
    for (int64_t i = 0; i < slabs; i++) {
        slab s;
        s.p = p;
        s.row0 = p->m * i / slabs;
        s.rows = p->m * (i + 1) / slabs - s.row0;
        s.tiles = pe_ceil_div(s.rows, HEIGHT);
        s.height = (int)pe_ceil_div(s.rows, s.tiles);
        configure(s.height);
        multiply_slab(&s, block0, block1);
    }
}
