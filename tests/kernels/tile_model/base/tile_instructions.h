/* csrc/base/tile_instructions.h without the hardware: each instruction is a function of ../tile_model.c. */
#ifndef PE_BASE_TILE_INSTRUCTIONS_H
#define PE_BASE_TILE_INSTRUCTIONS_H

#include <stdint.h>

void tile_configure(const void *config);
void tile_configured(void *config);
void tile_load(int tile, const void *from, int64_t stride);
void tile_store(int tile, void *to, int64_t stride);
void tile_dot(int sum, int a, int b);

#define PE_TILE_CONFIGURE(config) tile_configure(config)
#define PE_TILE_CONFIGURED(config) tile_configured(config)
#define PE_TILE_LOAD(tile, from, stride) tile_load(tile, from, stride)
#define PE_TILE_LOAD_ONCE(tile, from, stride) tile_load(tile, from, stride)
#define PE_TILE_STORE(tile, to, stride) tile_store(tile, to, stride)
#define PE_TILE_DOT(sum, a, b) tile_dot(sum, a, b)

#endif
