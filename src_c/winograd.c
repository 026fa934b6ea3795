/* Products over 3 x 3 taps, one pixel apart, by F(2x2, 3x3): 16 products for 4 outputs instead of 36; over 5 x 5 taps
 * by F(2x2, 5x5): 49 instead of 100, in 16 sums of up to four products a channel (body/winograd.h).
 *
 * A task copies the source rows it needs, as they are read, with zeros around the data; transforms every tile; makes
 * the 16 sums of all tiles with the transformed weights, panel by panel; transforms back. All of it stays in L2 beside
 * a panel of weights. The larger F(4x4, 3x3) would lose digits and turn zeros into small numbers.
 *
 * Samples side by side are one of more channels to the transforms; their sums have the same terms in the same order.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define TILES 28          /* of a task, about: the weights are read once for so many */
#define TILES_IN_LANES 4  /* the same for samples side by side: a tile has the values of them all */
#define OUTPUTS_IN_LANES 48 /* of a panel of theirs, at most */
#define TASKS_PER_THREAD 4 /* below, threads share a task's tiles and split the panels */
#define SUMS 16
#define MOST_VALUES 49 /* of a tile */

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p; /* samples side by side: one of so many channels */
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    int64_t width; /* samples side by side; 0: none */
    int64_t k, panel, panels; /* k: channels of the source; panel: of the destination */
    int64_t tile_rows, tile_cols; /* of a sample */
    int64_t begins[SUMS + 1]; /* of the values that each sum is over, k channels each */
    int in_place; /* the source is read where it lies */
    int64_t block_rows, row_blocks, panel_blocks;
    int64_t line, source, planes, products, size; /* floats: a source line; a task's lines, values, sums; its scratch */
    float *scratch;
} job;

/* The values of one axis: to which sum each goes, and as which of its one or two. */
static const int SUM_OF[2][7] = {{0, 1, 2, 3}, {0, 0, 1, 1, 2, 3, 3}};
static const int PART_OF[2][7] = {{0}, {0, 1, 0, 1, 0, 0, 1}};
static const int PARTS[2][4] = {{1, 1, 1, 1}, {2, 2, 1, 2}};

static int five(const job *j) { return j->p->rows.taps == 5; }

/* Where the values of `count` tiles go, the first being `tile` of `tiles`: [sum][tile][part][channel]. */
static void plan_values(const job *j, int64_t tiles, int64_t tile, int count, int64_t *places) {
    const int *sum = SUM_OF[five(j)], *part = PART_OF[five(j)], *parts = PARTS[five(j)];
    const int values = five(j) ? 7 : 4;
    for (int i = 0; i < count; i++, tile++)
        for (int y = 0; y < values; y++)
            for (int x = 0; x < values; x++) {
                const int64_t begin = j->begins[4 * sum[y] + sum[x]], all = parts[sum[y]] * parts[sum[x]];
                *places++ = (begin * tiles + tile * all + part[y] * parts[sum[x]] + part[x]) * j->k;
            }
}

static void transform(const job *j, int64_t rows, const float *source, int64_t line, float *planes) {
    const int taps = (int)j->p->rows.taps;
    int64_t places[FLRP_TILES * MOST_VALUES];
    for (int64_t row = 0; row < rows; row++, source += 2 * line)
        for (int64_t tile = 0, count; tile < j->tile_cols; tile += count) {
            count = flrp_min(FLRP_TILES, j->tile_cols - tile);
            plan_values(j, rows * j->tile_cols, row * j->tile_cols + tile, (int)count, places);
            j->kernels->winograd_input(taps, (int)count, j->k, source + 2 * tile * j->k, line, planes, places);
        }
}

/* Source lines of tile rows [row, row + rows), one pixel or two more on every side than their outputs. */
static void copy_tiles(const job *j, int64_t sample, int64_t row, int64_t rows, float *dst) {
    const flrp_product *p = j->p;
    const int64_t first = 2 * row + p->rows.offsets[0], around = p->rows.taps - 1;
    for (int64_t y = first; y < first + 2 * rows + around; y++, dst += j->line) {
        if (y < 0 || y >= p->src_h) memset(dst, 0, (size_t)j->line * sizeof(float));
        else flrp_copy_line(j->kernels, p, j->operands, sample, y, p->cols.offsets[0], 2 * j->tile_cols + around, dst);
    }
}

static const float *in_place(const job *j, int64_t sample, int64_t row) {
    const flrp_product *p = j->p;
    const int64_t y = 2 * row + p->rows.offsets[0], x = p->cols.offsets[0];
    return j->operands[0].data + ((sample * p->src_h + y) * p->src_w + x) * j->k;
}

/* Whether all that the tiles need may be read where it lies. */
static int lies_ready(const job *j) {
    const flrp_product *p = j->p;
    const int64_t around = p->rows.taps - 1, y = p->rows.offsets[0], x = p->cols.offsets[0];
    return p->parts == 1 && j->operands[0].read == FLRP_PLAIN && y >= 0 && x >= 0 &&
           y + 2 * j->tile_rows + around <= p->src_h && x + 2 * j->tile_cols + around <= p->src_w;
}

/* The sums of every tile for a panel of n channels of one side. */
static void multiply(const job *j, const float *planes, int64_t tiles, int side, int64_t panel, int64_t n, float *out) {
    const int64_t zero = 0, lanes = j->kernels->lanes, vectors = flrp_ceil_div(n, lanes);
    const float *a[FLRP_MAX_ROWS];
    flrp_tile t = {.a = a, .a_offsets = &zero, .b_offsets = &zero, .segments = 1, .a_step = 1, .b_step = j->panel};
    t.b = j->p->weights + (side * j->panels + panel) * j->begins[SUMS] * j->k * j->panel;
    for (int f = 0; f < SUMS; f++) {
        t.length = (j->begins[f + 1] - j->begins[f]) * j->k;
        for (int64_t done = 0; done < tiles;) {
            const int64_t blocks = flrp_ceil_div(tiles - done, FLRP_MAX_ROWS);
            const int64_t size = flrp_ceil_div(tiles - done, blocks);
            for (int64_t m = 0; m < size; m++) a[m] = planes + (done + m) * t.length;
            j->kernels->tile((int)size, (int)vectors, &t, out + done * vectors * lanes);
            done += size;
        }
        t.b += t.length * j->panel;
        planes += tiles * t.length;
        out += tiles * vectors * lanes;
    }
}

/* The same for samples side by side: weights [side][sum][part][channel][output]. */
static void multiply_lanes(const job *j, const float *planes, int64_t tiles, int side, int64_t panel, int64_t n,
                           float *out) {
    const int64_t zero = 0, width = j->width, vector = j->kernels->lanes, k = j->k / width, all = j->p->dst_c / width;
    const int64_t outputs = n / width, rows = flrp_even_block(outputs, FLRP_LANE_ROWS / 2, 1);
    const int several = width > vector; /* vectors of a value: a block's places; else two tiles are */
    const float *weights = j->p->weights + side * j->begins[SUMS] * k * all + panel * j->panel / width;
    flrp_lane_block t = {.offsets = &zero, .segments = 1, .w_step = all, .x_step = width, .out_row = width,
                         .out_place = several ? vector : n, .mode = FLRP_LANES_SET};
    for (int f = 0; f < SUMS; f++) {
        t.length = (j->begins[f + 1] - j->begins[f]) * k;
        t.x_place = several ? vector : t.length * width;
        for (int64_t at = 0, places; at < tiles * width; at += places * vector) {
            const int64_t tile = at / width, lane = at % width;
            places = flrp_min(2, (several ? width - lane : tiles * width - at) / vector);
            t.x = planes + tile * t.length * width + lane;
            for (int64_t i = 0; i < outputs; i += rows) {
                t.w = weights + i;
                t.out = out + tile * n + i * width + lane;
                j->kernels->lane_block((int)flrp_min(rows, outputs - i), (int)places, &t);
            }
        }
        weights += t.length * all;
        planes += tiles * t.length * width;
        out += tiles * n;
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
                        const float *products, float *pixels) {
    const flrp_product *p = j->p;
    const int vectors = (int)flrp_ceil_div(n, j->kernels->lanes);
    const int64_t tiles = rows * j->tile_cols, stride = (int64_t)vectors * j->kernels->lanes;
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
    float *source = j->scratch + thread * j->size, *planes = source + j->source, *products = planes + j->planes;
    if (j->in_place) {
        transform(j, rows, in_place(j, sample, row), p->src_w * j->k, planes);
    } else {
        copy_tiles(j, sample, row, rows, source);
        transform(j, rows, source, j->line, planes);
    }
    const int64_t begin = j->panels * piece / j->panel_blocks, end = j->panels * (piece + 1) / j->panel_blocks;
    for (int64_t panel = begin; panel < end; panel++) {
        const int64_t n = flrp_min(j->panel, p->dst_c - panel * j->panel);
        for (int side = 0; side < p->sides; side++) {
            if (j->width) multiply_lanes(j, planes, tiles, side, panel, n, products);
            else multiply(j, planes, tiles, side, panel, n, products);
            write_tiles(j, sample, row, rows, side, panel * j->panel, n, products, products + j->products);
        }
    }
}

static int run(job *j, int threads, int64_t samples, int64_t most_tiles) {
    const flrp_product *p = j->p;
    const int *parts = PARTS[five(j)];
    for (int f = 0; f < SUMS; f++) j->begins[f + 1] = j->begins[f] + parts[f / 4] * parts[f % 4];
    j->k = p->parts * p->src_c;
    j->panels = flrp_ceil_div(p->dst_c, j->panel);
    j->tile_rows = flrp_ceil_div(p->dst_h, 2);
    j->tile_cols = flrp_ceil_div(p->dst_w, 2);
    const int64_t most = flrp_max(1, most_tiles / j->tile_cols), around = p->rows.taps - 1;
    j->row_blocks = flrp_ceil_div(j->tile_rows, most);
    j->block_rows = flrp_ceil_div(j->tile_rows, j->row_blocks);
    j->row_blocks = flrp_ceil_div(j->tile_rows, j->block_rows);
    const double work = (double)j->begins[SUMS] * samples * j->tile_rows * j->tile_cols * j->k * p->dst_c * p->sides;
    threads = flrp_threads_for(threads, INT64_MAX, work);
    j->panel_blocks = samples * j->row_blocks < TASKS_PER_THREAD * threads ? flrp_min(threads, j->panels) : 1;
    j->line = (2 * j->tile_cols + around) * j->k;
    j->in_place = lies_ready(j);
    j->source = j->in_place ? 0 : (2 * j->block_rows + around) * j->line;
    j->planes = j->begins[SUMS] * j->block_rows * j->tile_cols * j->k;
    j->products = SUMS * j->block_rows * j->tile_cols * j->panel;
    j->size = j->source + j->planes + j->products + 4 * j->panel;
    void *scratch = malloc((size_t)(threads * j->size) * sizeof(float) + FLRP_CACHE_LINE);
    if (!scratch) return FLRP_NO_MEMORY;
    j->scratch = flrp_aligned(scratch);
    flrp_parallel(threads, samples * j->row_blocks * j->panel_blocks, work, run_task, j);
    free(scratch);
    return FLRP_OK;
}

int flrp_winograd_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                      const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .operands = operands, .epilogue = epilogue};
    j.panel = (int64_t)j.kernels->lanes * j.kernels->panel_vectors;
    return run(&j, threads, samples, TILES);
}

int flrp_winograd_lanes(int isa, const flrp_product *p, const flrp_operand *operands, const flrp_epilogue *epilogue) {
    flrp_product wide = *p;
    job j = {.kernels = flrp_kernels_of(isa), .p = &wide, .operands = operands, .epilogue = epilogue,
             .width = p->lanes.width};
    wide.src_c *= j.width;
    wide.dst_c *= j.width;
    j.panel = flrp_min(p->dst_c, OUTPUTS_IN_LANES) * j.width;
    return run(&j, 1, 1, TILES_IN_LANES);
}

#define SOME 64 /* sums at a time */

void flrp_winograd_weights(int64_t sums, int64_t taps, int64_t n, const double *factors, const float *weights,
                           float *values) {
    for (int64_t i = 0; i < n; i += SOME)
        for (int64_t s = 0; s < sums; s++) {
            const int64_t some = flrp_min(SOME, n - i);
            double sum[SOME] = {0};
            for (int64_t t = 0; t < taps; t++)
                if (factors[s * taps + t] != 0)
                    for (int64_t k = 0; k < some; k++) sum[k] += factors[s * taps + t] * weights[t * n + i + k];
            for (int64_t k = 0; k < some; k++) values[s * n + i + k] = (float)sum[k];
        }
}
