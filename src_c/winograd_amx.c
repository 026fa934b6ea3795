/* Products over 3 x 3 taps, one pixel apart, on bf16 tiles by F(2x2, 3x3): 16 products for 4 outputs instead of 36
 * (body/winograd.h says how), each of them a product of numbers split into limbs (body/limbs.h).
 *
 * A task copies the source rows it needs, as they are read, with zeros around the data. For each of the 16 values in
 * turn it makes planes of that value of all of its tiles and multiplies them, panel by panel, with the weights of that
 * value; the results go at once to the four outputs of every tile, which stay in L2. So each weight is read once a
 * task. In the shadow of the tiles: the outputs of the block before, the next value's planes, prefetching.
 */
#include <stdlib.h>
#include <string.h>

#include "planes.h"

#define VALUES 16
#define SCRATCH_TARGET (1700 << 10) /* bytes of a task: they stay in L2, for the most part */
#define SLICE 4                     /* chunks: a panel's weights of so many stay in L1 for all blocks */
#define LEAST_TILES 96              /* of a task, about: the weights, read once for so many, come from memory */
#define TILE_SPEED 12               /* multiply-adds on tiles in the time of one on vectors, roughly */

/* The values of one axis are d[FIRST] + SIGN d[SECOND]; its two outputs sum them up with FACTORS. */
static const int FIRST[4] = {0, 1, 2, 1}, SECOND[4] = {2, 2, 1, 3};
static const float SIGN[4] = {-1, 1, -1, -1}, FACTORS[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};

typedef struct {
    const flrp_kernels *kernels;
    const flrp_limb_kernels *limbs;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    int64_t k, chunks, panels; /* k: channels of all parts */
    int64_t tile_rows, tile_cols, block_rows, row_blocks, blocks; /* in Winograd's tiles: of a sample, of a task */
    int64_t line, plane, chunk_size; /* floats of a source line; elements from one limb, and one chunk, to the next */
    int64_t outputs;                 /* floats of a pixel of the outputs */
    int rows;                        /* of a register: so many of Winograd's tiles */
    int shares;
    char *scratch;
    int64_t source_bytes, planes_bytes, outputs_bytes, sums_bytes, pooled_bytes; /* for each share */
} job;

/* A value of all tiles on its way into planes: as far as this chunk of this tile. */
typedef struct {
    uint16_t *data;
    int value, special;
    int64_t tile, chunk;
} splitting;

/* What one share works with. */
typedef struct {
    const job *j;
    float *source, *outputs, *sums, *between; /* sums: block by block; between product and pool */
    const float *pending;           /* the block's before */
    int64_t sample, row, tiles;
    splitting now, soon;
    int64_t at, count, added, panel; /* the block before: its first tile, how many, and how many are in the outputs */
    float factors[4];                /* of the value for each output */
    int64_t step_tiles, step_split, step_weights; /* in a step */
    const char *weights, *weights_end;            /* of the next panel */
} frame;

static int64_t weight_bytes(const job *j) { /* of one panel of one value */
    return j->chunks * j->p->limbs * FLRP_LIMB_SIZE * (int64_t)sizeof(uint16_t);
}

static int64_t plan_bytes(const job *j, int64_t rows) {
    const int64_t tiles = rows * j->tile_cols, stored = flrp_stored_limbs(j->p->limbs);
    return 2 * tiles * j->chunks * stored * FLRP_CHUNK * (int64_t)sizeof(uint16_t) +
           (4 * tiles * j->outputs + (2 * rows + 2) * j->line + flrp_pooled_floats(j->p, j->epilogue, 1, 2 * rows)) *
               (int64_t)sizeof(float);
}

static void plan(job *j, int64_t samples) {
    const flrp_product *p = j->p;
    j->k = p->parts * p->src_c;
    j->chunks = flrp_ceil_div(j->k, FLRP_CHUNK);
    j->panels = flrp_ceil_div(p->dst_c, FLRP_LIMB_OUTPUTS);
    j->outputs = j->panels * FLRP_LIMB_OUTPUTS;
    j->tile_rows = flrp_ceil_div(p->dst_h, 2);
    j->tile_cols = flrp_ceil_div(p->dst_w, 2);
    j->line = (2 * j->tile_cols + 2) * j->k;
    int64_t most = 1;
    while (most < j->tile_rows &&
           (most * j->tile_cols < LEAST_TILES || plan_bytes(j, most + 1) <= SCRATCH_TARGET)) most++;
    j->block_rows = flrp_even_block(j->tile_rows, most, samples % j->shares ? j->shares : 1);
    j->row_blocks = flrp_ceil_div(j->tile_rows, j->block_rows);
    j->blocks = samples * j->row_blocks;
    const int64_t tiles = j->block_rows * j->tile_cols;
    j->rows = (int)flrp_ceil_div(tiles, flrp_ceil_div(tiles, FLRP_LIMB_ROWS));
    j->plane = (tiles + FLRP_LIMB_ROWS) * FLRP_CHUNK;
    j->chunk_size = flrp_stored_limbs(p->limbs) * j->plane;
    j->source_bytes = flrp_whole_lines((2 * j->block_rows + 2) * j->line * (int64_t)sizeof(float));
    j->planes_bytes = j->chunks * j->chunk_size * (int64_t)sizeof(uint16_t);
    j->outputs_bytes = 4 * tiles * j->outputs * (int64_t)sizeof(float);
    j->sums_bytes = flrp_ceil_div(tiles, 2 * j->rows) * 2 * FLRP_LIMB_ROWS * FLRP_LIMB_OUTPUTS * (int64_t)sizeof(float);
    const int64_t pooled = flrp_pooled_floats(p, j->epilogue, 1, 2 * j->block_rows);
    j->pooled_bytes = flrp_whole_lines(pooled * (int64_t)sizeof(float));
}

static int64_t share_bytes(const job *j) {
    return j->source_bytes + 2 * j->planes_bytes + j->outputs_bytes + j->sums_bytes + j->pooled_bytes;
}

/* Some chunks more of a value, tile by tile. */
static void split_some(const frame *f, splitting *s, int64_t most) {
    const job *j = f->j;
    const int y = s->value / 4, x = s->value % 4;
    while (most > 0 && s->tile < f->tiles) {
        const int64_t row = s->tile / j->tile_cols, col = s->tile % j->tile_cols, n = flrp_min(most, j->chunks - s->chunk);
        const int64_t first = s->chunk * FLRP_CHUNK, channels = flrp_min(n * FLRP_CHUNK, j->k - first);
        const float *from = f->source + 2 * row * j->line + 2 * col * j->k + first, *pixels[4];
        for (int i = 0; i < 4; i++)
            pixels[i] = from + (i % 2 ? SECOND : FIRST)[y] * j->line + (i / 2 ? SECOND : FIRST)[x] * j->k;
        s->special |= j->limbs->split_winograd(j->p->limbs, channels, pixels, SIGN[y], SIGN[x],
                                               s->data + s->tile * FLRP_CHUNK + s->chunk * j->chunk_size,
                                               j->chunk_size, j->plane);
        s->chunk += n, most -= n;
        if (s->chunk == j->chunks) s->tile++, s->chunk = 0;
    }
}

/* Some tiles more of the block before to their outputs. */
static void add_some(frame *f, int64_t most) {
    const job *j = f->j;
    for (int64_t n; most > 0 && f->added < f->count; f->added += n, most -= n) {
        const int64_t row = f->added % j->rows, in_register = f->added / j->rows * FLRP_LIMB_ROWS + row;
        n = flrp_min(most, flrp_min(j->rows - row, f->count - f->added));
        j->limbs->add_winograd(n, f->pending + in_register * FLRP_LIMB_OUTPUTS, f->factors,
                               f->outputs + (f->at + f->added) * 4 * j->outputs + f->panel * FLRP_LIMB_OUTPUTS,
                               j->outputs);
    }
}

static void in_shadow(void *context) {
    frame *f = context;
    add_some(f, f->step_tiles);
    split_some(f, &f->soon, f->step_split);
    for (int64_t i = 0; i < f->step_weights && f->weights < f->weights_end; i++, f->weights += FLRP_CACHE_LINE)
        __builtin_prefetch(f->weights, 0, 2); /* into L2 */
}

/* All tiles of one value times one panel of weights, slice by slice of the reduction. */
static void run_panel(frame *f, const uint16_t *weights, int64_t panel) {
    const job *j = f->j;
    const int64_t zero = 0, blocks = flrp_ceil_div(f->tiles, 2 * j->rows);
    flrp_limb_block t = {.b = weights, .taps = &zero, .tap_count = 1, .a_chunk = j->chunk_size, .a_limb = j->plane,
                         .below = j->rows * FLRP_CHUNK, .limbs = j->p->limbs,
                         .finite = f->now.special && j->p->limbs > 1, .acc_row = FLRP_LIMB_OUTPUTS,
                         .aside = in_shadow, .context = f};
    f->weights = (const char *)weights + weight_bytes(j), f->weights_end = f->weights + weight_bytes(j);
    f->step_weights = flrp_ceil_div(weight_bytes(j), FLRP_CACHE_LINE * j->chunks * blocks);
    f->step_split = flrp_ceil_div(f->tiles, j->panels * blocks); /* as many steps as chunks in each */
    for (int64_t chunk = 0; chunk < j->chunks; chunk += t.chunks) {
        float *sums = f->sums;
        t.chunks = flrp_min(SLICE, j->chunks - chunk);
        t.more = chunk > 0;
        f->step_tiles = flrp_ceil_div(2 * j->rows, t.chunks);
        for (int64_t at = 0; at < f->tiles; at += 2 * j->rows, sums += 2 * FLRP_LIMB_ROWS * FLRP_LIMB_OUTPUTS) {
            t.a = f->now.data + at * FLRP_CHUNK + chunk * j->chunk_size;
            t.tiles = f->tiles - at > j->rows ? 2 : 1;
            j->limbs->block(&t, sums);
            if (chunk + t.chunks < j->chunks) continue;
            f->at = at, f->count = flrp_min(2 * j->rows, f->tiles - at), f->panel = panel, f->added = 0;
            f->pending = sums;
        }
        t.b += t.chunks * j->p->limbs * FLRP_LIMB_SIZE;
    }
}

/* The outputs of one side, one value after the other. */
static void run_side(frame *f, int side) {
    const job *j = f->j;
    const int64_t size = weight_bytes(j) / (int64_t)sizeof(uint16_t);
    memset(f->outputs, 0, (size_t)(f->tiles * 4 * j->outputs) * sizeof(float));
    f->now.value = f->now.special = 0;
    f->now.tile = f->now.chunk = 0;
    for (int value = 0; value < VALUES; value++) {
        split_some(f, &f->now, INT64_MAX);
        if (f->now.special && j->p->limbs > 1) flrp_copy_finite(f->now.data, j->chunks, j->p->limbs, j->plane);
        for (int q = 0; q < 4; q++) f->factors[q] = FACTORS[q / 2][value / 4] * FACTORS[q % 2][value % 4];
        f->soon.value = value + 1, f->soon.special = 0;
        f->soon.tile = value + 1 < VALUES ? 0 : f->tiles, f->soon.chunk = 0;
        for (int64_t panel = 0; panel < j->panels; panel++)
            run_panel(f, j->p->bf16 + ((side * VALUES + value) * j->panels + panel) * size, panel);
        add_some(f, INT64_MAX);
        const splitting soon = f->soon;
        f->soon = f->now, f->now = soon;
    }
}

/* Source lines of the task, one pixel more on every side than the outputs. */
static void copy_source(const frame *f, int64_t rows) {
    const job *j = f->j;
    const flrp_product *p = j->p;
    float *dst = f->source;
    const int64_t first = 2 * f->row + p->rows.offsets[0];
    for (int64_t y = first; y < first + 2 * rows + 2; y++, dst += j->line) {
        if (y < 0 || y >= p->src_h) memset(dst, 0, (size_t)j->line * sizeof(float));
        else flrp_copy_line(j->kernels, p, j->operands, f->sample, y, p->cols.offsets[0], 2 * j->tile_cols + 2, dst);
    }
}

/* Epilogues, two pixels side by side at a time; fewer at the far edges of odd sizes. */
static void finish(const frame *f, const flrp_epilogue *e, int side) {
    const job *j = f->j;
    const flrp_product *p = j->p;
    const int sign = e->sign;
    for (int64_t i = 0; i < f->tiles; i++) {
        const int64_t x = 2 * (i % j->tile_cols);
        for (int64_t r = 0; r < 2; r++) {
            const int64_t y = 2 * (f->row + i / j->tile_cols) + r, cols = flrp_min(2, p->dst_w - x);
            if (y >= p->dst_h) continue;
            const int64_t at = ((f->sample * p->dst_h + y) * p->dst_w + x) * p->dst_c, offsets[2] = {at, at + p->dst_c};
            float *pixels = f->outputs + (4 * i + 2 * r) * j->outputs;
            if (sign) /* where no exact output is of the other sign, rounding makes none either */
                j->kernels->gather(2, j->outputs, pixels, 0, sign > 0 ? FLRP_POSITIVE : FLRP_NEGATIVE, pixels, j->outputs);
            j->kernels->finish(e, side, (int)cols, p->dst_c, 0, pixels, j->outputs, offsets);
        }
    }
}

static void run_share(void *context, int64_t share, int thread) {
    const job *j = context;
    char *own = j->scratch + share * share_bytes(j);
    frame f = {.j = j, .now.data = (uint16_t *)own, .soon.data = (uint16_t *)(own + j->planes_bytes)};
    f.outputs = (float *)(own + 2 * j->planes_bytes);
    f.sums = (float *)(own + 2 * j->planes_bytes + j->outputs_bytes);
    f.source = (float *)(own + 2 * j->planes_bytes + j->outputs_bytes + j->sums_bytes);
    f.between = (float *)((char *)f.source + j->source_bytes);
    (void)thread;
    j->limbs->start(j->rows);
    for (int64_t block = j->blocks * share / j->shares; block < j->blocks * (share + 1) / j->shares; block++) {
        f.sample = block / j->row_blocks;
        f.row = block % j->row_blocks * j->block_rows;
        const int64_t rows = flrp_min(j->block_rows, j->tile_rows - f.row);
        f.tiles = rows * j->tile_cols;
        copy_source(&f, rows);
        const flrp_region region = {f.sample, 1, 2 * f.row, flrp_min(2 * rows, j->p->dst_h - 2 * f.row)};
        for (int side = 0; side < j->p->sides; side++) {
            run_side(&f, side);
            const flrp_epilogue e = flrp_open_rows(j->kernels, j->p, j->epilogue, &region, f.between);
            finish(&f, &e, side);
            flrp_close_rows(j->kernels, j->p, j->epilogue, &region, f.between);
        }
    }
    j->limbs->stop();
}

int flrp_winograd_limbs_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                            const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .limbs = flrp_limb_kernels_of(isa), .p = p, .operands = operands,
             .epilogue = epilogue};
    const double work = (double)samples * p->rows.count * p->cols.count * (VALUES / 4) * p->src_c * p->parts * p->sides *
                        p->dst_c * flrp_limb_products(p->limbs) / TILE_SPEED;
    j.shares = flrp_threads_for(threads, INT64_MAX, work);
    plan(&j, samples);
    void *scratch = malloc((size_t)(j.shares * share_bytes(&j)) + FLRP_CACHE_LINE);
    if (!scratch) return FLRP_NO_MEMORY;
    j.scratch = (char *)flrp_aligned(scratch);
    flrp_parallel(j.shares, j.shares, 1e12, run_share, &j);
    free(scratch);
    return FLRP_OK;
}
