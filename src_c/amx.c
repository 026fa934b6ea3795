/* The driver of products on bf16 tiles: numbers are sums of limbs (body/limbs.h); weights come split, the source is
 * split here (planes.c).
 *
 * A task covers a block of destination pixels, as in product.c, and some panels of outputs. Its pixels are cut into as
 * few tiles as can be, and two of them are one block of accumulators. The reduction runs over slices whose weights stay
 * in L2 for all blocks; where all weights stay there, panels take turns over groups of blocks. Every output's sum is in
 * the order of the weights, whatever the task: chunk by chunk, tap by tap.
 *
 * Tiles leave the vector units idle, so that other work is done in their shadow, a little of it in every step: the
 * epilogue of the block before, the next task's source where it takes long beside its products, prefetching.
 */
#include <stdlib.h>
#include <string.h>

#include "planes.h"

#define PLANES_TARGET (1450 << 10) /* bytes of planes: they stay in L2 beside two slices of weights */
#define LEAST_POSITIONS 128        /* in a task all the same: each reads the weights once */
#define SLICE_TARGET (288 << 10)   /* bytes of a panel's weights: eight chunks of 3x3 taps with two limbs */
#define WEIGHTS_TARGET (300 << 10) /* bytes of all weights that stay in L2 beside these */
#define ENDS_TARGET (192 << 10)    /* bytes of what epilogues touch, for all panels: they stay there, too */
#define AHEAD (16 << 10)           /* elements that weights are sent for ahead of a block that takes all */
#define ALIGN 64                   /* bytes: a tile's row is one cache line */
#define TILE_SPEED 12              /* multiply-adds on tiles in the time of one on vectors, roughly */
#define TURN 2                     /* steps between one piece of an epilogue and the next */
#define SPLIT_AHEAD 120            /* products of a block and a chunk: splitting counts beside so few */

typedef struct {
    const flrp_kernels *kernels;
    const flrp_limb_kernels *limbs;
    const flrp_product *p;
    const flrp_epilogue *epilogue;
    int64_t samples, panels;
    flrp_planes planes;
    int ahead; /* whether a task's source is split in the shadow of the task before */
    int64_t block_samples, block_rows, sample_blocks, row_blocks, panel_blocks, slice;
    int64_t group; /* of so many blocks all panels come before the next */
    int tile_rows;
    int shares; /* tasks are shared out in so many */
    char *scratch;
    int64_t planes_bytes, read_bytes, sums_bytes, tiles_bytes; /* for each share */
} job;

static int64_t weight_bytes(const job *j) { /* of one chunk of one panel */
    return j->p->rows.taps * j->p->cols.taps * j->p->limbs * FLRP_LIMB_SIZE * (int64_t)sizeof(uint16_t);
}

/* Cut the product into tasks. */
static void plan_tasks(job *j) {
    const flrp_product *p = j->p;
    const flrp_planes *l = &j->planes;
    const int64_t rows = p->rows.count, pitch = l->cols.pitch;
    const int64_t planes = flrp_max(1, l->chunks * flrp_planes_count(l) * p->limbs);
    const int64_t bytes = planes * FLRP_CHUNK * (int64_t)sizeof(uint16_t);
    j->ahead = j->panels * p->sides * p->rows.taps * p->cols.taps * flrp_limb_products(p->limbs) <= SPLIT_AHEAD;
    const int64_t fit = flrp_max(PLANES_TARGET / (1 + j->ahead) / bytes, LEAST_POSITIONS);
    /* Where one block takes all, threads share out the weights if these are more to read than the source. */
    const int by_panels = j->panels >= j->shares && j->samples * l->image <= fit &&
                          p->sides * j->panels * l->chunks * weight_bytes(j) > j->samples * l->image * bytes;
    const int64_t pieces = by_panels ? 1 : j->shares;
    j->block_rows = flrp_min(rows, flrp_max(1, fit / pitch - l->rows.reach));
    j->block_samples = j->block_rows < rows ? 1 : flrp_even_block(j->samples, flrp_max(1, fit / l->image), pieces);
    if (j->samples < pieces || j->block_rows < rows)
        j->block_rows = flrp_even_block(rows, j->block_rows, j->samples % pieces ? pieces : 1);
    j->sample_blocks = flrp_ceil_div(j->samples, j->block_samples);
    j->row_blocks = flrp_ceil_div(rows, j->block_rows);
    j->panel_blocks = j->sample_blocks * j->row_blocks < j->shares || by_panels ? flrp_min(j->shares, j->panels) : 1;
    j->slice = flrp_max(1, SLICE_TARGET / flrp_max(1, weight_bytes(j)));
}

/* A tile takes as long with a few rows less. So there are to be as few as can be: each goes on over what lies between
 * lines; or, where that saves none, they are equal pieces of a line, or of as many short lines as go in. Lines with
 * nothing between them are one. */
static void plan_tiles(job *j) {
    const int64_t cols = j->p->cols.count, pitch = j->planes.cols.pitch, joined = pitch == cols;
    int64_t line = cols, lines = j->block_samples * j->block_rows;
    if (joined) line *= j->block_rows, lines = j->block_samples;
    if (joined && j->planes.rows.pitch == j->block_rows) line *= lines, lines = 1;
    const int64_t pieces = flrp_ceil_div(line, FLRP_LIMB_ROWS);
    const int64_t more = joined ? 0 : flrp_min(flrp_max(0, FLRP_LIMB_ROWS - line) / pitch, j->block_rows - 1);
    const int64_t apart = pieces * flrp_ceil_div(lines, 1 + more);
    const int64_t all = (j->block_samples - 1) * j->planes.image + (j->block_rows - 1) * pitch + cols;
    j->tile_rows = (int)(more ? more * pitch + line : flrp_ceil_div(line, pieces));
    if (flrp_ceil_div(all, FLRP_LIMB_ROWS) < apart) j->tile_rows = FLRP_LIMB_ROWS;
}

/* Positions side by side, and where the outputs of those that are destination pixels begin. */
typedef struct {
    int64_t position, pixels, offsets[FLRP_LIMB_ROWS];
    uint8_t at[FLRP_LIMB_ROWS]; /* of each pixel in the tile */
} tile;

static int64_t most_tiles(const job *j) { /* of a task: they are as far apart as they are long */
    return j->block_samples * j->block_rows * flrp_ceil_div(j->p->cols.count, j->tile_rows);
}

/* One block takes all: the weights go by. */
static int read_once(const job *j) { return most_tiles(j) <= 2; }

static int64_t aligned(int64_t bytes) { return flrp_ceil_div(bytes, ALIGN) * ALIGN; }

static void plan_scratch(job *j) {
    const flrp_product *p = j->p;
    j->planes_bytes = flrp_planes_fit(&j->planes, j->block_samples, j->block_rows);
    for (int64_t part = 0; part < p->parts; part++)
        if (j->planes.operands[part].read != FLRP_PLAIN)
            j->read_bytes = aligned((p->cols.count + j->planes.cols.reach) * p->src_c * (int64_t)sizeof(float));
    const int64_t blocks = j->slice < j->planes.chunks ? flrp_min(j->group, flrp_ceil_div(most_tiles(j), 2)) : 1;
    j->sums_bytes = blocks * 2 * FLRP_LIMB_ROWS * FLRP_LIMB_OUTPUTS * (int64_t)sizeof(float);
    j->tiles_bytes = aligned(most_tiles(j) * (int64_t)sizeof(tile));
}

/* Few weights stay in L2 as a whole: then what is around the sums is touched once for all panels, too. */
static void plan_groups(job *j) {
    const flrp_product *p = j->p;
    const flrp_epilogue *e = j->epilogue;
    const int64_t arrays = 1 + (e->factors[0].data != 0) + (e->ratio.relevance != 0);
    const int64_t ends = 2 * FLRP_LIMB_ROWS * arrays * p->dst_c * (int64_t)sizeof(float);
    const int few = p->sides * j->panels * j->planes.chunks * weight_bytes(j) <= WEIGHTS_TARGET;
    j->group = few ? flrp_max(1, ENDS_TARGET / ends) : INT64_MAX / 2;
}

static int64_t share_bytes(const job *j) {
    return (1 + j->ahead) * j->planes_bytes + j->read_bytes + j->sums_bytes + j->tiles_bytes;
}

/* A block whose epilogue is to come. */
typedef struct {
    const float *sums;
    const tile *tiles;
    int64_t count, next, done; /* of the tiles; the one that it has come to, and pixels of that */
    int64_t channel, n;
    int side;
} ends;

/* What one share works with. */
typedef struct {
    const job *j;
    flrp_splitting now, soon; /* the task's source, and the next one's */
    float *sums;              /* block by block where there are several slices */
    tile *tiles;
    int64_t count; /* of tiles */
    ends last, next; /* the block before; the one that is computed, as far as its values have been sent for */
    int64_t step; /* of the block */
    int64_t step_pixels, step_split, step_weights; /* pixels of ends, pixels to split, and lines of weights */
    const char *weights, *weights_end;             /* of the next slice */
} frame;

/* Some pixels of a block: runs of those that are side by side go together. Returns where there are none left. */
static const int64_t *some_pixels(ends *e, int64_t most, int64_t *run, const float **sums) {
    if (e->next == e->count) return 0;
    const tile *t = &e->tiles[e->next];
    const int64_t first = e->done;
    *run = 1;
    while (*run < most && first + *run < t->pixels && t->at[first + *run] == t->at[first] + *run) ++*run;
    *sums = e->sums + (e->next * FLRP_LIMB_ROWS + t->at[first]) * FLRP_LIMB_OUTPUTS;
    e->done += *run;
    if (e->done == t->pixels) e->next++, e->done = 0;
    return t->offsets + first;
}

static void finish_some(frame *f, int64_t pixels) {
    ends *e = &f->last;
    const int64_t *offsets;
    const float *sums;
    for (int64_t run; pixels > 0 && (offsets = some_pixels(e, pixels, &run, &sums)); pixels -= run)
        f->j->kernels->finish(f->j->epilogue, e->side, (int)run, e->n, e->channel, sums, FLRP_LIMB_OUTPUTS, offsets);
}

/* What the block's epilogue will touch. */
static void fetch_some(frame *f, int64_t pixels) {
    ends *e = &f->next;
    const int64_t *offsets;
    const float *sums;
    for (int64_t run; pixels > 0 && (offsets = some_pixels(e, pixels, &run, &sums)); pixels -= run)
        for (int64_t i = 0; i < run; i++) flrp_prefetch_ends(f->j->epilogue, e->side, offsets[i] + e->channel, e->n);
}

static void in_shadow(void *context) {
    frame *f = context;
    if (f->step++ % TURN) {
        if (f->step_split) flrp_split_some(&f->soon, f->step_split);
    } else {
        finish_some(f, f->step_pixels);
        fetch_some(f, f->step_pixels);
    }
    for (int64_t i = 0; i < f->step_weights && f->weights < f->weights_end; i++, f->weights += ALIGN)
        __builtin_prefetch(f->weights, 0, 2); /* into L2 */
}

static const uint16_t *weights_of(const job *j, int64_t panel, int side, int64_t chunk) {
    const int64_t chunks = j->planes.chunks, size = weight_bytes(j) / (int64_t)sizeof(uint16_t);
    return j->p->bf16 + ((side * j->panels + panel) * chunks + chunk) * size;
}

/* Blocks [first, last) of the task times one slice of the reduction of one panel of one side; `soon`: the next
 * slice's weights. */
static void run_slice(frame *f, int64_t first, int64_t last, int side, int64_t panel, int64_t chunk,
                      const uint16_t *soon) {
    const job *j = f->j;
    const flrp_planes *l = &j->planes;
    const int64_t channel = panel * FLRP_LIMB_OUTPUTS;
    flrp_limb_block t = {.b = weights_of(j, panel, side, chunk), .taps = l->taps, .a_chunk = l->chunk_size,
                         .chunks = flrp_min(j->slice, l->chunks - chunk), .a_limb = l->plane,
                         .tap_count = j->p->rows.taps * j->p->cols.taps, .limbs = j->p->limbs, .more = chunk > 0,
                         .finite = f->now.special && j->p->limbs > 1, .aside = in_shadow, .context = f};
    const int64_t steps = t.chunks * t.tap_count, blocks = last - first;
    const int whole = chunk + t.chunks == l->chunks, several = j->slice < l->chunks;
    const char *all = (const char *)weights_of(j, j->panels, (int)j->p->sides - 1, 0); /* their end */
    f->weights = (const char *)soon, f->weights_end = f->weights + t.chunks * weight_bytes(j);
    if (f->weights_end > all) f->weights_end = all;
    const int64_t turns = flrp_ceil_div(steps, TURN);
    f->step_weights = steps ? flrp_ceil_div(t.chunks * weight_bytes(j), ALIGN * steps * blocks) : 0;
    f->step_pixels = steps ? flrp_ceil_div(2 * FLRP_LIMB_ROWS, turns) : 0;
    for (int64_t i = first; i < last; i++) {
        const tile *tiles = f->tiles + 2 * i;
        float *sums = f->sums + (several ? (i - first) * 2 * FLRP_LIMB_ROWS * FLRP_LIMB_OUTPUTS : 0);
        const ends now = {.sums = sums, .tiles = tiles, .count = whole ? flrp_min(2, f->count - 2 * i) : 0,
                          .channel = channel, .n = flrp_min(FLRP_LIMB_OUTPUTS, j->p->dst_c - channel), .side = side};
        t.tiles = (int)flrp_min(2, f->count - 2 * i);
        t.a = f->now.data + chunk * l->chunk_size + tiles[0].position * FLRP_CHUNK;
        t.below = t.tiles > 1 ? (tiles[1].position - tiles[0].position) * FLRP_CHUNK : 0;
        if (!steps) finish_some(f, INT64_MAX);
        f->next = now, f->step = 0;
        j->limbs->block(&t, sums);
        if (whole) f->last = now;
    }
}

/* A group of blocks, for panels [first, last). */
static void run_group(frame *f, int64_t begin, int64_t end, int64_t first, int64_t last) {
    const job *j = f->j;
    const int sides = (int)j->p->sides;
    for (int64_t panel = first; panel < last; panel++)
        for (int side = 0; side < sides; side++)
            for (int64_t chunk = 0; chunk < j->planes.chunks; chunk += j->slice) {
                const int more = chunk + j->slice < j->planes.chunks, turn = side + 1 < sides;
                const int64_t next = turn ? panel : panel + 1 < last ? panel + 1 : first;
                const uint16_t *soon =
                    more ? weights_of(j, panel, side, chunk + j->slice) : weights_of(j, next, turn, 0);
                run_slice(f, begin, end, side, panel, chunk,
                          read_once(j) ? weights_of(j, panel, side, chunk) + AHEAD : soon);
            }
}

/* The whole task, for panels [first, last). */
static void run_panels(frame *f, int64_t first, int64_t last) {
    const int64_t blocks = flrp_ceil_div(f->count, 2);
    for (int64_t begin = 0; begin < blocks; begin += f->j->group)
        run_group(f, begin, flrp_min(blocks, begin + f->j->group), first, last);
    finish_some(f, INT64_MAX);
}

/* From every destination pixel that no tile has yet, one goes as far as a tile has rows. */
static void list_tiles(frame *f) {
    const job *j = f->j;
    const flrp_product *p = j->p;
    const int64_t cols = p->cols.count, pitch = j->planes.cols.pitch;
    int64_t free = 0; /* the first position that no tile has */
    f->count = 0;
    for (int64_t sample = 0; sample < f->now.samples; sample++)
        for (int64_t row = 0; row < f->now.rows; row++) {
            const int64_t y = p->rows.start + (f->now.row + row) * p->rows.stride;
            const int64_t line = ((f->now.sample + sample) * p->dst_h + y) * p->dst_w + p->cols.start;
            for (int64_t col = 0; col < cols; col++) {
                const int64_t position = sample * j->planes.image + row * pitch + col;
                if (position >= free) {
                    f->tiles[f->count++] = (tile){.position = position};
                    free = position + j->tile_rows;
                }
                tile *t = &f->tiles[f->count - 1];
                t->at[t->pixels] = (uint8_t)(position - t->position);
                t->offsets[t->pixels++] = (line + col * p->cols.stride) * p->dst_c;
            }
        }
}

static void begin_splitting(const job *j, int64_t task, flrp_splitting *s) {
    const int64_t block = task % (j->sample_blocks * j->row_blocks);
    s->sample = block / j->row_blocks * j->block_samples;
    s->row = block % j->row_blocks * j->block_rows;
    s->samples = flrp_min(j->block_samples, j->samples - s->sample);
    s->rows = flrp_min(j->block_rows, j->p->rows.count - s->row);
    s->done = s->pixel = s->special = 0;
}

/* A thread's share of the tasks: block by block of the source, for one piece of the panels after the other. */
static void run_share(void *context, int64_t share, int thread) {
    const job *j = context;
    const int64_t blocks = j->sample_blocks * j->row_blocks, tasks = blocks * j->panel_blocks;
    const int64_t first = tasks * share / j->shares, last = tasks * (share + 1) / j->shares;
    char *own = j->scratch + share * share_bytes(j);
    frame f = {.j = j, .sums = (float *)own, .tiles = (tile *)(own + j->sums_bytes)};
    own += j->sums_bytes + j->tiles_bytes;
    f.now = (flrp_splitting){.in = &j->planes, .read = (float *)own, .data = (uint16_t *)(own + j->read_bytes)};
    f.soon = f.now;
    f.soon.data += j->ahead * j->planes_bytes / (int64_t)sizeof(uint16_t);
    (void)thread;
    j->limbs->start(j->tile_rows);
    for (int64_t task = first; task < last; task++) {
        const int64_t piece = task / blocks, begin = j->panels * piece / j->panel_blocks;
        const int64_t end = j->panels * (piece + 1) / j->panel_blocks;
        if (task == first || !j->ahead) begin_splitting(j, task, &f.now);
        flrp_split_some(&f.now, INT64_MAX);
        list_tiles(&f);
        f.step_split = 0;
        if (j->ahead && task + 1 < last) {
            begin_splitting(j, task + 1, &f.soon);
            const int64_t steps = j->p->rows.taps * j->p->cols.taps * j->planes.chunks * (end - begin) * j->p->sides;
            const int64_t turns = steps / TURN * flrp_ceil_div(f.count, 2);
            f.step_split = flrp_ceil_div(flrp_split_size(&f.soon), flrp_max(1, turns));
        }
        run_panels(&f, begin, end);
        if (j->ahead) {
            const flrp_splitting soon = f.soon;
            f.soon = f.now, f.now = soon;
        }
    }
    j->limbs->stop();
}

int flrp_limbs_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                   const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .limbs = flrp_limb_kernels_of(isa), .p = p, .epilogue = epilogue,
             .samples = samples, .panels = flrp_ceil_div(p->dst_c, FLRP_LIMB_OUTPUTS)};
    const double work = (double)samples * p->rows.count * p->cols.count * p->rows.taps * p->cols.taps * p->src_c *
                        p->parts * p->sides * p->dst_c * flrp_limb_products(p->limbs) / TILE_SPEED;
    j.shares = flrp_threads_for(threads, INT64_MAX, work);
    if (flrp_planes_init(&j.planes, j.kernels, j.limbs, p, operands) != FLRP_OK) return FLRP_NO_MEMORY;
    plan_tasks(&j);
    plan_tiles(&j);
    plan_groups(&j);
    plan_scratch(&j);
    const flrp_scratch scratch = flrp_take_scratch(j.shares * share_bytes(&j));
    j.scratch = (char *)scratch.data;
    if (j.scratch) flrp_parallel(j.shares, j.shares, 1e12, run_share, &j);
    flrp_give_scratch(scratch);
    free(j.planes.numbers);
    return j.scratch ? FLRP_OK : FLRP_NO_MEMORY;
}

static void tile_task(void *context, int64_t task, int thread) {
    const job *j = context;
    (void)task, (void)thread;
    j->limbs->start(FLRP_LIMB_ROWS);
    j->limbs->tile_loop(j->slice);
    j->limbs->stop();
}

int64_t flrp_tile_loop(int isa, int threads, int64_t iterations) {
    job j = {.limbs = flrp_limb_kernels_of(isa), .slice = iterations};
    if (!j.limbs) return 0;
    flrp_parallel(threads, threads, 1e12, tile_task, &j);
    return threads * iterations * 4 * FLRP_LIMB_ROWS * (FLRP_LIMB_OUTPUTS / 2) * FLRP_CHUNK * 2;
}
