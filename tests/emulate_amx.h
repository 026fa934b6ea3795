/* The AMX intrinsics that src_c/body/limbs.h uses, in plain C, so that its kernels can be tested on processors without
 * them (FASTLRP_EMULATE_AMX=1 at build time). Semantics from Intel's Software Developer's Manual, TDPBF16PS: the even
 * and the odd elements of a row are summed apart, from zero, by fused multiply-adds that take denormals for zero and
 * flush them; then the two sums are added up, and the whole to what is there.
 */
#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local uint16_t tile_registers[8][16][32];
static _Thread_local uint8_t tile_palette, tile_rows[8]; /* palette 0: tiles are not configured on this thread */

#define EMULATED_TILE static inline __attribute__((always_inline))

/* Where the processor would raise an exception. */
EMULATED_TILE void need_tiles(void) {
    if (tile_palette != 1) abort();
}

static inline void _tile_loadconfig(const void *config) {
    const uint8_t *bytes = config;
    tile_palette = bytes[0];
    memset(tile_registers, 0, sizeof tile_registers);
    for (int i = 0; i < 8; i++) { /* whole rows are all that is emulated */
        if (bytes[16 + 2 * i] != 64 || bytes[17 + 2 * i] || !bytes[48 + i] || bytes[48 + i] > 16) abort();
        tile_rows[i] = bytes[48 + i];
    }
}
static inline void _tile_release(void) { tile_palette = 0; }
static inline void _tile_zero(int tile) {
    need_tiles();
    memset(tile_registers[tile], 0, sizeof tile_registers[tile]);
}
static inline void _tile_loadd(int tile, const void *base, int64_t stride) {
    need_tiles();
    for (int row = 0; row < tile_rows[tile]; row++) memcpy(tile_registers[tile][row], (const char *)base + row * stride, 64);
}
static inline void _tile_stored(int tile, void *base, int64_t stride) {
    need_tiles();
    for (int row = 0; row < tile_rows[tile]; row++) memcpy((char *)base + row * stride, tile_registers[tile][row], 64);
}

EMULATED_TILE float flushed(float x) {
    return __builtin_fabsf(x) < FLT_MIN ? __builtin_copysignf(0, x) : x; /* NaN stays */
}
EMULATED_TILE float bf16_value(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return flushed(value);
}

static void _tile_dpbf16ps(int out, int a, int b) {
    float x, y[2][16][16], sums[2][16], old[16]; /* y, sums: of even elements, of odd ones */
    need_tiles();
    if (tile_rows[out] != tile_rows[a] || tile_rows[b] != 16) abort();
    for (int k = 0; k < 16; k++)
        for (int n = 0; n < 32; n++) y[n % 2][k][n / 2] = bf16_value(tile_registers[b][k][n]);
    for (int row = 0; row < tile_rows[a]; row++) {
        memset(sums, 0, sizeof sums);
        for (int k = 0; k < 32; k++) {
            x = bf16_value(tile_registers[a][row][k]);
            for (int n = 0; n < 16; n++)
                sums[k % 2][n] = flushed(__builtin_fmaf(x, y[k % 2][k / 2][n], sums[k % 2][n]));
        }
        memcpy(old, tile_registers[out][row], sizeof old);
        for (int n = 0; n < 16; n++) old[n] = flushed(flushed(old[n]) + flushed(sums[0][n] + sums[1][n]));
        memcpy(tile_registers[out][row], old, sizeof old);
    }
}
