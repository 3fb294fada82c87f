/* AMX's tile registers: how they are configured. */
#ifndef PE_BASE_TILES_H
#define PE_BASE_TILES_H

#ifdef PE_AMX /* by the build, where the assembler knows them */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/tile_instructions.h"

/* Eight tiles of up to 16 rows of 64 bytes. */
typedef struct pe_tile_config {
    _Alignas(64) uint8_t palette; /* 1; 0: released, as at a thread's start */
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16]; /* of tiles 0 to 7 */
    uint8_t rows[16];
} pe_tile_config;

_Static_assert(sizeof(pe_tile_config) == 64, "LDTILECFG reads 64 bytes");

/* Configures unless that is how they are. Reading what is costs a tenth of it. */
static inline void pe_tiles_use(const pe_tile_config *wanted) {
    pe_tile_config found;
    PE_TILE_CONFIGURED(&found);
    if (memcmp(&found, wanted, sizeof found) != 0) PE_TILE_CONFIGURE(wanted);
}

#endif
#endif
