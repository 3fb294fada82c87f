/* AMX's tiles and TDPBUSD as Intel's manual describes them (Software Developer's Manual, volume 2: LDTILECFG,
   TILELOADD, TILESTORED, TDPBUSD), one step after the other, and a CPU that answers as a test wishes.

   What would be a fault there counts here. Registers hold nonsense until they are configured. */
#include <string.h>

#include "base/hardware.h"
#include "base/team.h"
#include "base/tile_instructions.h"
#include "kernels/kernels.h"

enum { TILES = 8, ROWS = 16, BYTES = 64 };

static uint8_t config[64], tiles[TILES][ROWS][BYTES];
int64_t tile_faults, tile_configurations, tile_dots;

static int rows_of(int tile) { return config[48 + tile]; }
static int bytes_of(int tile) { return config[16 + 2 * tile] | config[17 + 2 * tile] << 8; }

static bool usable(int tile) {
    const bool fine = config[0] == 1 && tile >= 0 && tile < TILES && rows_of(tile) > 0 && bytes_of(tile) > 0;
    tile_faults += !fine;
    return fine;
}

static void release(void) {
    memset(config, 0, sizeof config);
    memset(tiles, 0, sizeof tiles);
}

void tile_configure(const void *from) {
    uint8_t next[64];
    memcpy(next, from, sizeof next);
    tile_configurations++;
    release();
    if (next[0] == 0) return;
    bool fine = next[0] == 1 && next[1] == 0;
    for (int i = 2; i < 64; i++) {
        const bool reserved = i < 16 || (i >= 16 + 2 * TILES && i < 48) || i >= 48 + TILES;
        fine = fine && !(reserved && next[i]);
    }
    memcpy(config, next, sizeof config);
    for (int tile = 0; tile < TILES; tile++) {
        fine = fine && rows_of(tile) <= ROWS && bytes_of(tile) <= BYTES;
        fine = fine && (rows_of(tile) > 0) == (bytes_of(tile) > 0);
    }
    tile_faults += !fine;
    if (!fine) release();
}

void tile_configured(void *to) { memcpy(to, config, sizeof config); }

void tile_load(int tile, const void *from, int64_t stride) {
    if (!usable(tile)) return;
    memset(tiles[tile], 0, sizeof tiles[tile]);
    for (int r = 0; r < rows_of(tile); r++)
        memcpy(tiles[tile][r], (const uint8_t *)from + r * stride, (size_t)bytes_of(tile));
}

void tile_store(int tile, void *to, int64_t stride) {
    if (!usable(tile)) return;
    for (int r = 0; r < rows_of(tile); r++) memcpy((uint8_t *)to + r * stride, tiles[tile][r], (size_t)bytes_of(tile));
}

void tile_dot(int sum, int a, int b) {
    if (!usable(sum) || !usable(a) || !usable(b)) return;
    tile_dots++;
    const int rows = rows_of(sum), quads = rows_of(b), columns = bytes_of(sum) / 4;
    const bool fits = rows == rows_of(a) && bytes_of(sum) == bytes_of(b) && bytes_of(a) == 4 * quads;
    tile_faults += !fits || sum == a || sum == b || a == b || bytes_of(sum) % 4;
    if (!fits) return;
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < quads; q++)
            for (int n = 0; n < columns; n++) {
                uint32_t total;
                memcpy(&total, tiles[sum][r] + 4 * n, sizeof total);
                for (int i = 0; i < 4; i++)
                    total += (uint32_t)(tiles[a][r][4 * q + i] * (int8_t)tiles[b][q][4 * n + i]);
                memcpy(tiles[sum][r] + 4 * n, &total, sizeof total);
            }
    memset(tiles[sum][rows], 0, (size_t)(ROWS - rows) * BYTES);
}

/* What the CPU and the system answer: everything that there is, and what is withheld from it. */
uint64_t cpu_saved;
uint32_t cpu_seventh_d; /* of leaf 7 */
int system_grants;      /* 0: never; 1: when asked; 2: had granted already */
int system_requests;

bool pe_ask_cpuid(uint32_t leaf, uint32_t part, pe_cpuid *answer) {
    *answer = (pe_cpuid){0, 0, 0, 0};
    if (leaf == 1) answer->c = ~0u;
    if (leaf == 7) *answer = (pe_cpuid){0, ~0u, ~0u, cpu_seventh_d};
    if (leaf == 0x1d) *answer = part ? (pe_cpuid){8192 | 1024u << 16, 64 | 8u << 16, 16, 0} : (pe_cpuid){1, 0, 0, 0};
    return leaf <= 0x1d;
}

uint64_t pe_ask_saved(void) { return cpu_saved; }

bool pe_ask_permission(int feature, bool request) {
    if (feature != 18) return false;
    if (request) {
        system_requests++;
        if (system_grants == 1) system_grants = 2;
        return system_grants == 2;
    }
    return system_grants == 2;
}

/* The overlays below AMX's: here the rest of their tables is not needed. */
void pe_kernels_overlay_ref(pe_kernels *table) { table->flip = 0; }
void pe_kernels_overlay_avx2(pe_kernels *table) { table->flip = 0; }
void pe_kernels_overlay_avx512vnni(pe_kernels *table) { table->flip = 0x80; }

static pe_activation activation_of(const char *name) {
    static const char *const names[] = {[PE_RELU] = "relu", [PE_GELU] = "gelu", [PE_GELU_TANH] = "gelu_tanh",
                                        [PE_QUICK_GELU] = "quick_gelu", [PE_SILU] = "silu", [PE_TANH] = "tanh",
                                        [PE_SIGMOID] = "sigmoid", [PE_IDENTITY] = "linear"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i] && strcmp(names[i], name) == 0) return (pe_activation)i;
    return PE_IDENTITY;
}

/* A product by the kernels of AMX; of int4 weights where there is a group. */
void tile_product(int64_t m, int64_t k, const void *x, int64_t ldx, const float *x_scale, const void *w,
                  const float *w_scale, const int32_t *w_sum, int64_t group, const uint16_t *group_scale,
                  const uint8_t *group_zero, const float *bias, const float *residual, int64_t ldr, float *y,
                  int64_t ldy, const char *activation, int64_t block0, int64_t block1) {
    const pe_product p = {
        .m = m, .k = k, .x = x, .ldx = ldx, .x_scale = x_scale, .w = w, .w_scale = w_scale, .w_sum = w_sum,
        .group = group, .group_scale = group_scale, .group_zero = group_zero, .bias = bias, .residual = residual,
        .ldr = ldr, .y = y, .ldy = ldy, .activation = activation_of(activation),
    };
    pe_kernels table = {0};
    pe_kernels_overlay_amx(&table);
    (group ? table.gemm_q4 : table.gemm_q8)(&p, block0, block1);
}

/* The best instruction set of this CPU, or the one that was asked for; NULL: it is not there. */
const char *tile_chosen(const char *isa) {
    pe_kernels table;
    return pe_kernels_init(&table, isa) == PE_OK ? table.isa : NULL;
}

/* Why it has no AMX; NULL: it has. `most` as of pe_isa_list. */
const char *tile_missing(const char *most) {
    int count;
    const pe_isa *list = pe_isa_list(most, &count);
    return list[count - 1].missing;
}

static void disturb(pe_thread *thread, void *seen) {
    const uint8_t ours[64] = {1, [16] = 64, [48] = 16};
    (void)thread;
    tile_configured(seen);
    tile_configure(ours);
}

/* What a caller had configured, before, inside and after a region that configures tiles otherwise. */
void tile_region(const uint8_t before[64], uint8_t inside[64], uint8_t after[64]) {
    pe_team team;
    pe_tasks tasks[2];
    tile_configure(before);
    pe_team_begin(&team, 1, tasks);
    pe_team_member(&team, 0, disturb, inside);
    tile_configured(after);
}
