/* Products over 3 x 3 taps, one pixel apart, by F(2x2, 3x3): 16 products for 4 outputs instead of 36.
 *
 * A task copies the source rows it needs, as they are read, with zeros around the data; transforms every 4 x 4 tile;
 * multiplies the 16 planes of tiles with the transformed weights, panel by panel; transforms back. All of it stays in
 * L2 beside a panel of weights. The larger F(4x4, 3x3) would lose digits and turn zeros into small numbers.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define TILES 28          /* of a task, about: the weights are read once for so many */
#define TASKS_PER_THREAD 4 /* below, threads share a task's tiles and split the panels */

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    int64_t k, panels, tile_rows, tile_cols; /* k: reduction; tiles of a sample */
    int64_t block_rows, row_blocks, panel_blocks;
    int64_t line, source, planes, size; /* floats: a source line, a task's lines, its planes, a thread's scratch */
    float *scratch;
} job;

/* Source lines of tile rows [row, row + rows), one pixel more on every side than their outputs. */
static void copy_tiles(const job *j, int64_t sample, int64_t row, int64_t rows, float *dst) {
    const flrp_product *p = j->p;
    const int64_t first = 2 * row + p->rows.offsets[0], width = 2 * j->tile_cols + 2;
    for (int64_t y = first; y < first + 2 * rows + 2; y++, dst += j->line) {
        if (y < 0 || y >= p->src_h) memset(dst, 0, (size_t)j->line * sizeof(float));
        else flrp_copy_line(j->kernels, p, j->operands, sample, y, p->cols.offsets[0], width, dst);
    }
}

/* Every tile times one panel of one side: 16 planes of `tiles` rows. */
static void multiply(const job *j, const float *planes, int64_t tiles, const float *weights, int vectors, float *out) {
    const int64_t width = (int64_t)j->kernels->lanes * j->kernels->panel_vectors, plane = tiles * j->k;
    const int64_t zero = 0;
    const float *a[FLRP_MAX_ROWS];
    flrp_tile t = {.a = a, .a_offsets = &zero, .b_offsets = &zero, .segments = 1, .length = j->k, .a_step = 1,
                   .b_step = width};
    for (int f = 0; f < 16; f++)
        for (int64_t done = 0; done < tiles;) {
            const int64_t blocks = flrp_ceil_div(tiles - done, FLRP_MAX_ROWS);
            const int64_t size = flrp_ceil_div(tiles - done, blocks);
            for (int64_t m = 0; m < size; m++) a[m] = planes + f * plane + (done + m) * j->k;
            t.b = weights + f * j->k * width;
            j->kernels->tile((int)size, vectors, &t, out + (f * tiles + done) * vectors * j->kernels->lanes);
            done += size;
        }
}

#define TILES_AHEAD 4 /* whose ends are fetched */

static int64_t pixel_of(const job *j, int64_t sample, int64_t row, int64_t tile) {
    const int64_t y = 2 * (row + tile / j->tile_cols), x = 2 * (tile % j->tile_cols);
    return (sample * j->p->dst_h + y) * j->p->dst_w + x;
}

static void prefetch_tile(const job *j, int side, int64_t pixel, int64_t channel, int64_t n) {
    for (int r = 0; r < 2; r++)
        for (int c = 0; c < 2; c++)
            flrp_prefetch_ends(j->epilogue, side, (pixel + r * j->p->dst_w + c) * j->p->dst_c + channel, n);
}

/* The outputs of one panel: 2 x 2 pixels a tile, fewer at the far edges of odd sizes. */
static void write_tiles(const job *j, int64_t sample, int64_t row, int64_t rows, int side, int64_t channel, int64_t n,
                        int vectors, const float *products) {
    const flrp_product *p = j->p;
    const int64_t tiles = rows * j->tile_cols, stride = (int64_t)vectors * j->kernels->lanes;
    float pixels[4 * FLRP_MAX_TILE / FLRP_MAX_ROWS] __attribute__((aligned(64)));
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t y = 2 * (row + i / j->tile_cols), x = 2 * (i % j->tile_cols);
        const int cols = (int)flrp_min(2, p->dst_w - x);
        if (i + TILES_AHEAD < tiles) prefetch_tile(j, side, pixel_of(j, sample, row, i + TILES_AHEAD), channel, n);
        j->kernels->winograd_output(vectors, products + i * stride, tiles * stride, j->epilogue->sign, pixels);
        for (int64_t r = 0; r < flrp_min(2, p->dst_h - y); r++) {
            const int64_t at = (pixel_of(j, sample, row, i) + r * p->dst_w) * p->dst_c;
            const int64_t offsets[2] = {at, at + p->dst_c};
            j->kernels->finish(j->epilogue, side, cols, n, channel, pixels + 2 * r * stride, stride, offsets);
        }
    }
}

static void run_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const flrp_product *p = j->p;
    const int64_t piece = task % j->panel_blocks, block = task / j->panel_blocks;
    const int64_t sample = block / j->row_blocks, row = block % j->row_blocks * j->block_rows;
    const int64_t rows = flrp_min(j->block_rows, j->tile_rows - row), tiles = rows * j->tile_cols;
    const int64_t lanes = j->kernels->lanes, width = lanes * j->kernels->panel_vectors;
    float *source = j->scratch + thread * j->size, *planes = source + j->source, *products = planes + j->planes;
    copy_tiles(j, sample, row, rows, source);
    for (int64_t i = 0; i < tiles; i++)
        j->kernels->winograd_input(j->k, source + i / j->tile_cols * 2 * j->line + i % j->tile_cols * 2 * j->k, j->line,
                                   planes + i * j->k, tiles * j->k);
    const int64_t begin = j->panels * piece / j->panel_blocks, end = j->panels * (piece + 1) / j->panel_blocks;
    for (int64_t panel = begin; panel < end; panel++) {
        const int64_t n = flrp_min(width, p->dst_c - panel * width);
        const int vectors = (int)flrp_ceil_div(n, lanes);
        for (int side = 0; side < p->sides; side++) {
            multiply(j, planes, tiles, p->weights + (side * j->panels + panel) * 16 * j->k * width, vectors, products);
            write_tiles(j, sample, row, rows, side, panel * width, n, vectors, products);
        }
    }
}

int flrp_winograd_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                      const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .operands = operands, .epilogue = epilogue};
    const int64_t width = (int64_t)j.kernels->lanes * j.kernels->panel_vectors;
    j.k = p->parts * p->src_c;
    j.panels = flrp_ceil_div(p->dst_c, width);
    j.tile_rows = flrp_ceil_div(p->dst_h, 2);
    j.tile_cols = flrp_ceil_div(p->dst_w, 2);
    const int64_t most = flrp_max(1, TILES / j.tile_cols);
    j.row_blocks = flrp_ceil_div(j.tile_rows, most);
    j.block_rows = flrp_ceil_div(j.tile_rows, j.row_blocks);
    j.row_blocks = flrp_ceil_div(j.tile_rows, j.block_rows);
    const double work = 16.0 * (double)samples * j.tile_rows * j.tile_cols * j.k * p->dst_c * p->sides;
    threads = flrp_threads_for(threads, INT64_MAX, work);
    j.panel_blocks = samples * j.row_blocks < TASKS_PER_THREAD * threads ? flrp_min(threads, j.panels) : 1;
    j.line = (2 * j.tile_cols + 2) * j.k;
    j.source = (2 * j.block_rows + 2) * j.line;
    j.planes = 16 * j.block_rows * j.tile_cols * j.k;
    j.size = j.source + j.planes + 16 * j.block_rows * j.tile_cols * width;
    j.scratch = malloc((size_t)(threads * j.size) * sizeof(float));
    if (!j.scratch) return FLRP_NO_MEMORY;
    flrp_parallel(threads, samples * j.row_blocks * j.panel_blocks, work, run_task, &j);
    free(j.scratch);
    return FLRP_OK;
}
