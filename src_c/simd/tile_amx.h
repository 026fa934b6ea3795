/* Tiles of 16 rows of 64 bytes: AMX with bf16. GCC's intrinsics are macros over the registers' numbers, so that these
 * must be literals; the compiler allots none itself.
 */
#ifndef FLRP_TILE_H
#define FLRP_TILE_H

#include <stdint.h>

#ifdef FLRP_EMULATE_AMX /* a test build for processors without it */
#include "../../tests/emulate_amx.h"
#define tile_stay_awake()
#define fence_streams()
#else
#include <immintrin.h>

/* Without a floating-point instruction on vectors or scalars for half a microsecond, storing the next tile takes 1000
 * cycles more, as if a unit went to sleep (measured on a Xeon; instructions on integers and stores do not help). */
static inline void tile_stay_awake(void) {
    float zero = 0;
    __asm__ volatile("vaddss %0, %0, %0" : "+x"(zero));
}

/* Stores past the caches come before whatever other threads are told next. */
static inline void fence_streams(void) { _mm_sfence(); }
#endif

#define TILE_ROWS 16
#define TILE_BYTES 64 /* of one row: 32 bf16 numbers, 16 pairs of them, or 16 floats */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

/* All eight registers whole. */
static const tile_shapes whole_tiles = {
    .palette = 1,
    .row_bytes = {TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES},
    .rows = {TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS},
};

#endif
