/* The driver of products on bf16 tiles: numbers are sums of limbs (body/limbs.h); weights come split, the source is
 * split here (planes.c).
 *
 * A task covers a block of destination pixels, as in product.c, and some panels of outputs. Its pixels are cut into as
 * few tiles as can be, and two of them are one block of accumulators. The reduction runs over slices whose weights stay
 * in L2 for all blocks. Every output's sum is in the order of the weights, whatever the task: chunk by chunk, tap by
 * tap.
 *
 * A task's source, sums and epilogue take turns, all in L2: work on vectors in the shadow of the tiles was tried, and
 * its bookkeeping cost what it hid. What the tiles hide is memory: in every step some lines are sent for that the next
 * slice, this strip's epilogue and the next task need, but no weights that are read once or stay in L2. Epilogues take
 * strips of panels, long pieces of memory; all channels where these are few.
 */
#include <stdlib.h>
#include <string.h>

#include "planes.h"

#define TASK_TARGET (1100 << 10)  /* bytes of a task: they stay in L2 beside two slices of weights */
#define LEAST_POSITIONS 128       /* in a task all the same: each reads the weights once */
#define SLICE_TARGET (288 << 10)  /* bytes of a panel's weights: eight chunks of 3x3 taps with two limbs */
#define KEPT_WEIGHTS (576 << 10)  /* bytes of all: they stay in L2 from task to task */
#define WHOLE_STRIP 4             /* panels that one epilogue takes where there are no more */
#define STRIP 2                   /* and where there are: 256 bytes of a pixel */
#define READ_ONCE_STRIP 16        /* where weights go by: each slice of the source meets so many of them */
#define LEAST_STREAM (10 << 20)   /* bytes of outputs that no cache would keep until they are read */
#define TILE_SPEED 12             /* multiply-adds on tiles in the time of one on vectors, roughly */
#define AHEAD_PRODUCTS 120        /* of a block and a chunk: what they read counts beside so few */

typedef struct {
    const flrp_kernels *kernels;
    const flrp_limb_kernels *limbs;
    const flrp_product *p;
    flrp_epilogue epilogue; /* of the whole */
    int64_t samples, panels;
    flrp_planes planes;
    int ahead; /* whether source and ends of epilogues are sent for: they count beside a task's products */
    int kept;  /* whether the weights stay in L2 */
    int64_t block_samples, block_rows, sample_blocks, row_blocks, panel_blocks, slice, strip;
    int tile_rows;
    int64_t line_tiles; /* tiles of a line where none goes on to the next; else 0 */
    int shares; /* tasks are shared out in so many */
    char *scratch;
    int64_t planes_bytes, read_bytes, pooled_bytes, sums_bytes, tiles_bytes, runs_bytes; /* for each share */
} job;

static int64_t weight_bytes(const job *j) { /* of one chunk of one panel */
    return j->p->rows.taps * j->p->cols.taps * j->p->limbs * FLRP_LIMB_SIZE * (int64_t)sizeof(uint16_t);
}

/* Bytes in L2 for each position of a task: planes, the next task's source, a strip's sums and what its epilogue
 * touches, all channels of what lies between product and pool. */
static int64_t position_bytes(const job *j, int64_t planes_bytes) {
    const flrp_epilogue *e = &j->epilogue;
    const int64_t ends = !e->stream + (e->factors[0].data != 0) + (e->ratio.relevance != 0);
    const int64_t between = e->pool.window ? j->p->dst_c : 0;
    const int64_t ahead = j->ahead ? j->p->src_c * j->p->parts + ends * j->strip * FLRP_LIMB_OUTPUTS : 0;
    return planes_bytes + (ahead + between + j->strip * FLRP_LIMB_OUTPUTS) * (int64_t)sizeof(float);
}

/* One block takes all, as a rule: the weights go by, as fast as they come from memory without being sent for. */
static int read_once(const job *j) {
    return j->samples * j->p->rows.count * j->p->cols.count <= 2 * FLRP_LIMB_ROWS;
}

/* Cut the product into tasks. */
static void plan_tasks(job *j) {
    const flrp_product *p = j->p;
    const flrp_planes *l = &j->planes;
    const int64_t rows = p->rows.count, pitch = l->cols.pitch;
    const int64_t planes = flrp_max(1, l->chunks * flrp_planes_count(l) * p->limbs);
    const int64_t bytes = planes * FLRP_CHUNK * (int64_t)sizeof(uint16_t);
    j->ahead = j->panels * p->sides * p->rows.taps * p->cols.taps * flrp_limb_products(p->limbs) <= AHEAD_PRODUCTS;
    j->strip = j->panels <= WHOLE_STRIP ? j->panels : read_once(j) ? flrp_min(j->panels, READ_ONCE_STRIP) : STRIP;
    const int64_t fit = flrp_max(TASK_TARGET / position_bytes(j, bytes), LEAST_POSITIONS);
    const int apart = !j->epilogue.pool.winner_out; /* whether panels may be: a pool takes all channels */
    /* Where one block takes all, threads share out the weights if these are more to read than the source. */
    const int by_panels = apart && j->panels >= j->shares && j->samples * l->image <= fit &&
                          p->sides * j->panels * l->chunks * weight_bytes(j) > j->samples * l->image * bytes;
    const int64_t pieces = by_panels ? 1 : j->shares;
    j->block_rows = flrp_min(rows, flrp_max(1, fit / pitch - l->rows.reach));
    j->block_samples = j->block_rows < rows ? 1 : flrp_even_block(j->samples, flrp_max(1, fit / l->image), pieces);
    if (j->samples < pieces || j->block_rows < rows)
        j->block_rows = flrp_even_block(rows, j->block_rows, j->samples % pieces ? pieces : 1);
    j->block_rows = flrp_pooled_rows(&j->epilogue, j->block_rows);
    j->sample_blocks = flrp_ceil_div(j->samples, j->block_samples);
    j->row_blocks = flrp_ceil_div(rows, j->block_rows);
    const int few = j->sample_blocks * j->row_blocks < j->shares;
    j->panel_blocks = apart && (few || by_panels) ? flrp_min(j->shares, j->panels) : 1;
    j->slice = flrp_max(1, SLICE_TARGET / flrp_max(1, weight_bytes(j)));
    j->kept = p->sides * j->panels * l->chunks * weight_bytes(j) <= KEPT_WEIGHTS;
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
    else if (!more && !joined && pieces * j->tile_rows <= pitch) j->line_tiles = pieces;
}

/* Destination pixels side by side in one tile: which row of the sums is the first one's, and where its outputs begin
 * after those of the task. */
typedef struct {
    int64_t row, offset, pixels;
} run;

static int64_t most_tiles(const job *j) { /* of a task: they are as far apart as they are long */
    return j->block_samples * j->block_rows * flrp_ceil_div(j->p->cols.count, j->tile_rows);
}

static int64_t most_runs(const job *j) { /* a line may begin in the tile of the line before */
    return most_tiles(j) + j->block_samples * j->block_rows;
}

static void plan_scratch(job *j) {
    const flrp_product *p = j->p;
    j->planes_bytes = flrp_planes_fit(&j->planes, j->block_samples, j->block_rows);
    for (int64_t part = 0; part < p->parts; part++)
        if (j->planes.operands[part].read != FLRP_PLAIN)
            j->read_bytes =
                flrp_whole_lines((p->cols.count + j->planes.cols.reach) * p->src_c * (int64_t)sizeof(float));
    const int64_t pooled = flrp_pooled_floats(p, &j->epilogue, j->block_samples, j->block_rows);
    j->pooled_bytes = flrp_whole_lines(pooled * (int64_t)sizeof(float));
    const int64_t rows = flrp_ceil_div(most_tiles(j), 2) * 2 * FLRP_LIMB_ROWS;
    j->sums_bytes = rows * j->strip * FLRP_LIMB_OUTPUTS * (int64_t)sizeof(float);
    j->tiles_bytes = flrp_whole_lines(most_tiles(j) * (int64_t)sizeof(int64_t));
    j->runs_bytes = flrp_whole_lines(most_runs(j) * (int64_t)sizeof(run));
}

static int64_t share_bytes(const job *j) {
    return j->planes_bytes + j->read_bytes + j->pooled_bytes + j->sums_bytes + j->tiles_bytes + j->runs_bytes;
}

/* What one share works with. */
enum { WEIGHTS, OUT, FACTOR, RELEVANCE, SOURCE, POOLED = SOURCE + FLRP_MAX_PARTS, FETCHES = POOLED + 2 };
typedef struct {
    const job *j;
    flrp_splitting source;
    flrp_epilogue epilogue; /* of the task */
    float *between;         /* what lies between product and pool */
    float *sums;            /* of a strip: [tile][row of the tile][its outputs] */
    int64_t offset;         /* of the first pixel's outputs */
    int64_t *tiles, tile_count; /* each tile's first position */
    run *runs;
    int64_t run_count;
    int first; /* of the share's tasks with these weights: they are not there yet */
    flrp_fetch fetches[FETCHES];
} frame;

/* Where the i-th tile comes: two that one block takes are one below the other if they can be, which share more lines of
 * the source than neighbours. */
static int64_t place_of(const frame *f, int64_t i) {
    const int64_t n = f->j->line_tiles, lines = f->source.region.samples * f->source.region.rows;
    if (!n || i / n == lines / 2 * 2) return i;
    return i / n / 2 * 2 * n + i % n * 2 + i / n % 2;
}

static int64_t offset_of(const flrp_product *p, const flrp_region *r) {
    const int64_t y = p->rows.start + r->row * p->rows.stride;
    return ((r->sample * p->dst_h + y) * p->dst_w + p->cols.start) * p->dst_c;
}

/* From every destination pixel that no tile has yet, one goes as far as a tile has rows. */
static void list_tiles(frame *f) {
    const job *j = f->j;
    const flrp_product *p = j->p;
    const flrp_region *r = &f->source.region;
    const int64_t cols = p->cols.count;
    int64_t free = 0, place = 0; /* the first position that no tile has; of the last tile */
    f->tile_count = f->run_count = 0;
    for (int64_t sample = 0; sample < r->samples; sample++)
        for (int64_t row = 0; row < r->rows; row++) {
            const int64_t line = (sample * p->dst_h + row * p->rows.stride) * p->dst_w;
            for (int64_t col = 0, pixels; col < cols; col += pixels) {
                const int64_t position = sample * j->planes.image + row * j->planes.cols.pitch + col;
                if (position >= free) {
                    place = place_of(f, f->tile_count++);
                    f->tiles[place] = position;
                    free = position + j->tile_rows;
                }
                const int64_t at = place * FLRP_LIMB_ROWS + position - f->tiles[place];
                pixels = flrp_min(cols - col, free - position);
                f->runs[f->run_count++] =
                    (run){.row = at, .offset = (line + col * p->cols.stride) * p->dst_c, .pixels = pixels};
            }
        }
}

/* In `steps` steps, what the epilogue of n channels will touch; one piece of memory where these are all. */
static void fetch_ends(frame *f, int side, int64_t channel, int64_t n, int64_t steps) {
    const flrp_product *p = f->j->p;
    const flrp_epilogue *e = &f->epilogue;
    const float *arrays[] = {e->stream || e->pool.winner_out ? 0 : e->out, e->factors[side].data,
                             e->pool.winner ? 0 : e->ratio.relevance};
    const run *last = &f->runs[f->run_count - 1];
    const int64_t pixel = p->dst_c * (int64_t)sizeof(float);
    const int64_t pixels = last->offset / p->dst_c + (last->pixels - 1) * p->cols.stride + 1;
    const int64_t row = n == p->dst_c ? pixels * pixel : n * (int64_t)sizeof(float), rows = n == p->dst_c ? 1 : pixels;
    for (int i = 0; i < 3; i++)
        f->fetches[OUT + i] = arrays[i] ? flrp_fetch_rows(arrays[i] + f->offset + channel, row, pixel, rows, steps)
                                        : (flrp_fetch){0};
}

static void finish_strip(const frame *f, int side, int64_t channel, int64_t n) {
    const job *j = f->j;
    const int64_t width = flrp_ceil_div(n, FLRP_LIMB_OUTPUTS) * FLRP_LIMB_OUTPUTS;
    const int64_t pixel = j->p->cols.stride * j->p->dst_c;
    for (const run *r = f->runs; r < f->runs + f->run_count; r++) {
        int64_t offsets[FLRP_LIMB_ROWS];
        for (int64_t i = 0; i < r->pixels; i++) offsets[i] = f->offset + r->offset + i * pixel;
        j->kernels->finish(&f->epilogue, side, (int)r->pixels, n, channel, f->sums + r->row * width, width, offsets);
    }
}

static const uint16_t *weights_of(const job *j, int64_t panel, int side, int64_t chunk) {
    const int64_t chunks = j->planes.chunks, size = weight_bytes(j) / (int64_t)sizeof(uint16_t);
    return j->p->bf16 + ((side * j->panels + panel) * chunks + chunk) * size;
}

/* The task times one slice of the reduction of one panel of one side; `soon`: weights to send for meanwhile, if any. */
static void run_slice(frame *f, int side, int64_t panel, int64_t chunk, const uint16_t *soon, float *sums,
                      int64_t width) {
    const job *j = f->j;
    const flrp_planes *l = &j->planes;
    flrp_limb_block t = {.b = weights_of(j, panel, side, chunk), .taps = l->taps, .a_chunk = l->chunk_size,
                         .chunks = flrp_min(j->slice, l->chunks - chunk), .a_limb = l->plane,
                         .tap_count = j->p->rows.taps * j->p->cols.taps, .limbs = j->p->limbs, .more = chunk > 0,
                         .finite = f->source.special && j->p->limbs > 1, .acc_row = width};
    const uint16_t *all = weights_of(j, j->panels, (int)j->p->sides - 1, 0); /* their end */
    const int64_t left = (all - soon) * (int64_t)sizeof(uint16_t);
    if (read_once(j) || (j->kept && !f->first)) f->fetches[WEIGHTS] = (flrp_fetch){0};
    else f->fetches[WEIGHTS] = flrp_fetch_rows(soon, flrp_min(t.chunks * weight_bytes(j), left), 0, 1,
                                               t.chunks * t.tap_count * flrp_ceil_div(f->tile_count, 2));
    for (int i = 0; i < FETCHES; i++)
        if (f->fetches[i].next < f->fetches[i].end) t.fetches[t.fetch_count++] = &f->fetches[i];
    for (int64_t i = 0; i < f->tile_count; i += 2, sums += 2 * FLRP_LIMB_ROWS * width) {
        const int64_t *tiles = f->tiles + i;
        t.tiles = (int)flrp_min(2, f->tile_count - i);
        t.a = f->source.data + chunk * l->chunk_size + tiles[0] * FLRP_CHUNK;
        t.below = t.tiles > 1 ? (tiles[1] - tiles[0]) * FLRP_CHUNK : 0;
        j->limbs->block(&t, sums);
    }
}

/* Panels [first, last) of one side, and their epilogue; `next`: the weights after these. */
static void run_strip(frame *f, int side, int64_t first, int64_t last, const uint16_t *next) {
    const job *j = f->j;
    const int64_t chunks = j->planes.chunks, channel = first * FLRP_LIMB_OUTPUTS;
    const int64_t width = (last - first) * FLRP_LIMB_OUTPUTS, n = flrp_min(width, j->p->dst_c - channel);
    const int64_t steps = j->p->rows.taps * j->p->cols.taps * chunks * flrp_ceil_div(f->tile_count, 2);
    if (j->ahead) fetch_ends(f, side, channel, n, steps * (last - first));
    int64_t chunk = 0;
    do { /* without channels there are sums all the same */
        const int64_t after = chunk + j->slice;
        for (int64_t panel = first; panel < last; panel++) {
            const uint16_t *soon = panel + 1 < last ? weights_of(j, panel + 1, side, chunk)
                                   : after < chunks ? weights_of(j, first, side, after) : next;
            run_slice(f, side, panel, chunk, soon, f->sums + (panel - first) * FLRP_LIMB_OUTPUTS, width);
        }
        chunk = after;
    } while (chunk < chunks);
    finish_strip(f, side, channel, n);
}

/* The whole task, for panels [first, last). */
static void run_panels(frame *f, int64_t first, int64_t last) {
    const job *j = f->j;
    for (int64_t strip = first, end; strip < last; strip = end) {
        end = flrp_min(last, strip + j->strip);
        for (int side = 0; side < (int)j->p->sides; side++) {
            const int again = side + 1 < (int)j->p->sides;
            run_strip(f, side, strip, end, weights_of(j, again ? strip : end < last ? end : first, again, 0));
        }
    }
}

static flrp_region region_of(const job *j, int64_t task) {
    const int64_t block = task % (j->sample_blocks * j->row_blocks);
    flrp_region r = {.sample = block / j->row_blocks * j->block_samples, .row = block % j->row_blocks * j->block_rows};
    r.samples = flrp_min(j->block_samples, j->samples - r.sample);
    r.rows = flrp_min(j->block_rows, j->p->rows.count - r.row);
    return r;
}

/* A thread's share of the tasks: block by block of the source, for one piece of the panels after the other. */
static void run_share(void *context, int64_t share, int thread) {
    const job *j = context;
    const int64_t blocks = j->sample_blocks * j->row_blocks, tasks = blocks * j->panel_blocks;
    const int64_t first = tasks * share / j->shares, last = tasks * (share + 1) / j->shares;
    const int64_t steps = j->p->rows.taps * j->p->cols.taps * j->planes.chunks * j->p->sides;
    char *own = j->scratch + share * share_bytes(j);
    frame f = {.j = j, .source = {.in = &j->planes, .data = (uint16_t *)own}};
    f.source.read = (float *)(own += j->planes_bytes);
    f.between = (float *)(own += j->read_bytes);
    f.sums = (float *)(own += j->pooled_bytes);
    f.tiles = (int64_t *)(own += j->sums_bytes);
    f.runs = (run *)(own + j->tiles_bytes);
    (void)thread;
    j->limbs->start(j->tile_rows);
    for (int64_t task = first; task < last; task++) {
        const int64_t piece = task / blocks, begin = j->panels * piece / j->panel_blocks;
        const int64_t end = j->panels * (piece + 1) / j->panel_blocks;
        const flrp_region before = f.source.region, region = region_of(j, task);
        flrp_split(&f.source, region);
        /* No region comes before the first one: 0 samples. */
        if (region.samples != before.samples || region.rows != before.rows) list_tiles(&f);
        f.offset = offset_of(j->p, &region);
        f.first = task == first || task % blocks == 0;
        const int64_t all = steps * (end - begin) * flrp_ceil_div(f.tile_count, 2);
        if (j->ahead && task + 1 < last) {
            const flrp_region next = region_of(j, task + 1);
            flrp_fetch_source(&f.source, next, all, f.fetches + SOURCE);
            flrp_fetch_pooled(&j->epilogue, &next, all, f.fetches + POOLED);
        }
        f.epilogue = flrp_open_rows(j->kernels, j->p, &j->epilogue, &region, f.between);
        run_panels(&f, begin, end);
        flrp_close_rows(j->kernels, j->p, &j->epilogue, &region, f.between);
    }
    j->limbs->stop();
}

/* Large outputs go past the caches: whole lines of memory, which need not be read before. Not relevance, whose few
 * arrays are written again and again: what the caches have of them would have to leave first. */
static int streams(const flrp_product *p, int64_t samples, const flrp_epilogue *e) {
    const int64_t size = samples * p->dst_h * p->dst_w * p->dst_c * (int64_t)sizeof(float);
    return size >= LEAST_STREAM && p->sides == 1 && !e->pool.window && !e->factors[0].data && !e->ratio.relevance &&
           p->dst_c % (FLRP_CACHE_LINE / (int64_t)sizeof(float)) == 0 && (uintptr_t)e->out % FLRP_CACHE_LINE == 0;
}

int flrp_limbs_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                   const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .limbs = flrp_limb_kernels_of(isa), .p = p, .epilogue = *epilogue,
             .samples = samples, .panels = flrp_ceil_div(p->dst_c, FLRP_LIMB_OUTPUTS)};
    const double work = (double)samples * p->rows.count * p->cols.count * p->rows.taps * p->cols.taps * p->src_c *
                        p->parts * p->sides * p->dst_c * flrp_limb_products(p->limbs) / TILE_SPEED;
    j.shares = flrp_threads_for(threads, INT64_MAX, work);
    j.epilogue.stream = streams(p, samples, epilogue);
    if (flrp_planes_init(&j.planes, j.kernels, j.limbs, p, operands) != FLRP_OK) return FLRP_NO_MEMORY;
    plan_tasks(&j);
    plan_tiles(&j);
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
