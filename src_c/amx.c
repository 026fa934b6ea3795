/* The driver of products on bf16 tiles: numbers are sums of limbs (body/limbs.h); weights come split, the source is
 * split here.
 *
 * A task covers a block of destination pixels, as in product.c, and some panels of outputs. Its source goes into
 * planes, one for each limb and chunk of 32 channels: [position][32], lines one after the other with zeros between
 * them that both sides share, so that borders need no cases and a tap is one shift for all positions. 32 positions in
 * a row of their plane, some perhaps between two lines and in vain, are one block of accumulators; the reduction
 * runs over slices whose weights stay in L2 for all blocks. Every output's sum is in the order of the weights,
 * whatever the task: chunk by chunk, tap by tap.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define PLANES_TARGET (1 << 20)  /* bytes of planes per task: they stay in L2 beside a slice of weights */
#define LEAST_POSITIONS 128      /* in a task all the same: each reads the weights once */
#define SLICE_TARGET (288 << 10) /* bytes of a panel's weights: eight chunks of 3x3 taps with two limbs */
#define ALIGN 64                 /* bytes: a tile's row is one cache line */
#define TILE_SPEED 12            /* multiply-adds on tiles in the time of one on vectors, roughly */

/* How one axis lies in the planes. Source elements with the same remainder by the step are neighbours in a plane of
 * their own: element i of the plane is source element (lead + i) * step + remainder. */
typedef struct {
    const flrp_axis *axis;
    int64_t size;        /* of the source */
    int64_t planes;      /* remainders that occur among the taps */
    int64_t lead, reach; /* least quotient of a tap's offset by the step, and from there to the largest */
    int64_t pitch;       /* elements from the start of one line (of positions) or sample (of lines) to the next */
    int64_t *remainder;  /* of each plane */
} layout;

typedef struct {
    const flrp_kernels *kernels;
    const flrp_limb_kernels *limbs;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    int64_t samples;
    layout rows, cols;
    int64_t *taps;                         /* offset of each tap in the planes */
    int64_t chunks, part_chunks, panels;   /* part_chunks: of one operand */
    int64_t plane, chunk_size;             /* elements from one limb, and one chunk, to the next */
    int64_t block_samples, block_rows, sample_blocks, row_blocks, panel_blocks, slice;
    int shares;                            /* tasks are shared out in so many */
    char *scratch;
    int64_t planes_bytes, line_bytes, sums_bytes; /* for each share */
} job;

static int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -flrp_ceil_div(-a, b); }

/* Elements [*first, *last) of n from `start` on have data in a plane. */
static void data_in_plane(const layout *l, int64_t plane, int64_t start, int64_t n, int64_t *first, int64_t *last) {
    const int64_t step = l->axis->step, before = l->lead + start;
    *first = flrp_min(n, flrp_max(0, -before));
    *last = flrp_min(n, flrp_max(*first, flrp_ceil_div(l->size - l->remainder[plane], step) - before));
}

static int64_t remainder_of(const flrp_axis *a, int64_t tap) {
    return a->offsets[tap] - floor_div(a->offsets[tap], a->step) * a->step;
}

static int64_t plane_of(const layout *l, int64_t tap) {
    int64_t i = 0;
    while (i < l->planes && l->remainder[i] != remainder_of(l->axis, tap)) i++;
    return i;
}

static int64_t shift_of(const layout *l, int64_t tap) {
    return floor_div(l->axis->offsets[tap], l->axis->step) - l->lead;
}

/* `remainder` has room for one number per tap. */
static void plan_axis(layout *l, const flrp_axis *axis, int64_t size, int64_t *remainder) {
    *l = (layout){.axis = axis, .size = size, .remainder = remainder};
    if (axis->taps) {
        l->lead = floor_div(axis->offsets[0], axis->step);
        l->reach = shift_of(l, axis->taps - 1);
    }
    for (int64_t tap = 0; tap < axis->taps; tap++)
        if (plane_of(l, tap) == l->planes) remainder[l->planes++] = remainder_of(axis, tap);
    /* The zeros after one line serve as those before the next, as far as every plane has both. */
    const int64_t n = axis->count + l->reach;
    int64_t shared = l->reach;
    for (int64_t i = 0; i < l->planes; i++) {
        int64_t first, last;
        data_in_plane(l, i, 0, n, &first, &last);
        shared = flrp_min(shared, flrp_min(first, n - last));
    }
    l->pitch = n - shared;
}

static int64_t plane_count(const job *j) { return j->rows.planes * j->cols.planes; }

/* Limbs of a plane in the scratch: where there are several, a further one takes limb 0 without infinities. */
static int64_t stored_limbs(const job *j) { return j->p->limbs + (j->p->limbs > 1); }

static int64_t image(const job *j) { return j->rows.pitch * j->cols.pitch; }

static int64_t weight_bytes(const job *j) { /* of one chunk of one panel */
    return j->p->rows.taps * j->p->cols.taps * j->p->limbs * FLRP_LIMB_SIZE * (int64_t)sizeof(uint16_t);
}

/* Cut the product into tasks. Threads share out what is less to read: the panels of the weights, or the source. */
static void plan_tasks(job *j) {
    const flrp_product *p = j->p;
    const int64_t rows = p->rows.count, pitch = j->cols.pitch;
    const int64_t bytes = flrp_max(1, j->chunks * plane_count(j) * p->limbs) * FLRP_CHUNK * (int64_t)sizeof(uint16_t);
    const int64_t fit = flrp_max(PLANES_TARGET / bytes, LEAST_POSITIONS);
    const int by_panels = j->panels >= j->shares &&
                          p->sides * j->panels * j->chunks * weight_bytes(j) > j->samples * image(j) * bytes;
    const int64_t pieces = by_panels ? 1 : j->shares;
    j->block_rows = flrp_min(rows, flrp_max(1, fit / pitch - j->rows.reach));
    j->block_samples = j->block_rows < rows ? 1 : flrp_even_block(j->samples, flrp_max(1, fit / image(j)), pieces);
    if (j->samples < pieces) j->block_rows = flrp_even_block(rows, j->block_rows, pieces);
    j->sample_blocks = flrp_ceil_div(j->samples, j->block_samples);
    j->row_blocks = flrp_ceil_div(rows, j->block_rows);
    j->panel_blocks = j->sample_blocks * j->row_blocks < j->shares || by_panels ? flrp_min(j->shares, j->panels) : 1;
    j->slice = flrp_max(1, SLICE_TARGET / flrp_max(1, weight_bytes(j)));
}

static int64_t aligned(int64_t bytes) { return flrp_ceil_div(bytes, ALIGN) * ALIGN; }

static void plan_scratch(job *j) {
    const flrp_product *p = j->p;
    const int64_t positions = (j->block_samples - 1) * image(j) + (j->block_rows + j->rows.reach) * j->cols.pitch;
    /* A block reads up to its full size from its last valid position on. */
    j->plane = (positions + j->cols.reach + FLRP_LIMB_POSITIONS) * FLRP_CHUNK;
    j->chunk_size = plane_count(j) * stored_limbs(j) * j->plane;
    j->planes_bytes = aligned(j->chunks * j->chunk_size * (int64_t)sizeof(uint16_t));
    for (int64_t part = 0; part < p->parts; part++)
        if (j->operands[part].read != FLRP_PLAIN) j->line_bytes = aligned(p->src_w * p->src_c * (int64_t)sizeof(float));
    const int64_t blocks = j->slice < j->chunks ? flrp_ceil_div(positions, FLRP_LIMB_POSITIONS) : 1;
    j->sums_bytes = blocks * FLRP_LIMB_POSITIONS * FLRP_LIMB_OUTPUTS * (int64_t)sizeof(float);
    for (int64_t tap = 0; tap < p->rows.taps * p->cols.taps; tap++) {
        const int64_t row = tap / p->cols.taps, col = tap % p->cols.taps;
        const int64_t plane = plane_of(&j->rows, row) * j->cols.planes + plane_of(&j->cols, col);
        j->taps[tap] = plane * stored_limbs(j) * j->plane +
                       (shift_of(&j->rows, row) * j->cols.pitch + shift_of(&j->cols, col)) * FLRP_CHUNK;
    }
}

/* What one share works with. */
typedef struct {
    const job *j;
    uint16_t *planes;
    float *line, *sums; /* a line as it is read; accumulators, block by block where there are several slices */
    int64_t sample, samples, row, rows;
    int special; /* whether the source has NaN or infinities */
} frame;

static void clear_positions(const frame *f, int64_t plane, int64_t position, int64_t n) {
    const job *j = f->j;
    for (int64_t chunk = 0; n > 0 && chunk < j->chunks; chunk++)
        for (int64_t limb = 0; limb < j->p->limbs; limb++)
            memset(f->planes + chunk * j->chunk_size + (plane * stored_limbs(j) + limb) * j->plane +
                       position * FLRP_CHUNK, 0, (size_t)n * FLRP_CHUNK * sizeof(uint16_t));
}

/* One line of the source, read through the operands, into the planes of its row. */
static void split_line(frame *f, int64_t sample, int64_t y, int64_t row_plane, int64_t position) {
    const job *j = f->j;
    const flrp_product *p = j->p;
    const int64_t c = p->src_c, size = p->src_w * c, n = p->cols.count + j->cols.reach;
    for (int64_t part = 0; part < p->parts; part++) {
        const flrp_operand *o = &j->operands[part];
        const float *x = o->data + (sample * p->src_h + y) * size;
        if (o->read != FLRP_PLAIN) {
            j->kernels->gather(p->src_w, c, x, o->bound ? o->bound + y * size : 0, o->read, f->line, c);
            x = f->line;
        }
        for (int64_t i = 0; i < j->cols.planes; i++) {
            int64_t first, last;
            data_in_plane(&j->cols, i, 0, n, &first, &last);
            const int64_t at = (j->cols.lead + first) * p->cols.step + j->cols.remainder[i];
            const int64_t plane = (row_plane * j->cols.planes + i) * stored_limbs(j) * j->plane;
            uint16_t *dst = f->planes + part * j->part_chunks * j->chunk_size + plane + (position + first) * FLRP_CHUNK;
            if (first < last)
                f->special |= j->limbs->split(p->limbs, last - first, c, x + at * c, p->cols.step * c, dst,
                                              j->chunk_size, j->plane);
        }
    }
    for (int64_t i = 0; i < j->cols.planes; i++) {
        int64_t first, last;
        data_in_plane(&j->cols, i, 0, n, &first, &last);
        clear_positions(f, row_plane * j->cols.planes + i, position, first);
        clear_positions(f, row_plane * j->cols.planes + i, position + last, n - last);
    }
}

/* Limb 0 without NaN and infinities, behind the other limbs. */
static void copy_finite(const frame *f) {
    const job *j = f->j;
    for (int64_t i = 0; i < j->chunks * plane_count(j); i++) {
        const uint16_t *from = f->planes + i * stored_limbs(j) * j->plane;
        uint16_t *to = f->planes + (i * stored_limbs(j) + j->p->limbs) * j->plane;
        for (int64_t k = 0; k < j->plane; k++) to[k] = (from[k] & 0x7f80) == 0x7f80 ? 0 : from[k];
    }
}

static void split_source(frame *f) {
    const job *j = f->j;
    const int64_t lines = f->rows + j->rows.reach, n = j->p->cols.count + j->cols.reach;
    f->special = 0;
    for (int64_t s = 0; s < f->samples; s++)
        for (int64_t i = 0; i < j->rows.planes; i++) {
            int64_t first, last;
            data_in_plane(&j->rows, i, f->row, lines, &first, &last);
            for (int64_t line = 0; line < lines; line++) {
                const int64_t position = s * image(j) + line * j->cols.pitch;
                const int64_t y = (j->rows.lead + f->row + line) * j->p->rows.step + j->rows.remainder[i];
                if (line >= first && line < last) split_line(f, f->sample + s, y, i, position);
                else
                    for (int64_t k = 0; k < j->cols.planes; k++) clear_positions(f, i * j->cols.planes + k, position, n);
            }
        }
    if (f->special && j->p->limbs > 1) copy_finite(f);
}

/* The first position from `at` on that is a destination pixel's; one past the last where there is none. */
static int64_t next_valid(const frame *f, int64_t at) {
    const job *j = f->j;
    const int64_t pitch = j->cols.pitch, sample = at / image(j), row = at % image(j) / pitch, col = at % pitch;
    if (row >= f->rows) return (sample + 1) * image(j);
    return col < j->p->cols.count ? at : next_valid(f, at - col + pitch);
}

/* A block whose epilogue is to come, and where its outputs begin. */
typedef struct {
    const float *sums;
    int64_t offsets[FLRP_LIMB_POSITIONS], at[FLRP_LIMB_POSITIONS]; /* at: of the position in the block */
    int64_t channel, n, pixels, done;
    int side;
} ends;

/* What goes on in the shadow of the tiles: the last block's epilogue, while the next one is computed; the way of what
 * this one's will touch and of the next slice's weights into the caches. */
typedef struct {
    const frame *f;
    ends blocks[2], *last, *now;     /* last, now: of these; `last` is done when all of its pixels are */
    int64_t steps, fetched, step_pixels; /* left in this block; pixels of `now`; in a step */
    const char *soon, *soon_end;     /* the next slice's weights */
    int64_t step_bytes;
} shadow;

static void finish_some(shadow *s, int64_t pixels) {
    ends *e = s->last;
    const job *j = s->f->j;
    for (pixels = flrp_min(pixels, e->pixels - e->done); pixels > 0;) {
        /* Neighbours in the block go together. */
        int64_t run = 1;
        while (run < pixels && e->at[e->done + run] == e->at[e->done] + run) run++;
        j->kernels->finish(j->epilogue, e->side, (int)run, e->n, e->channel,
                           e->sums + e->at[e->done] * FLRP_LIMB_OUTPUTS, FLRP_LIMB_OUTPUTS, e->offsets + e->done);
        e->done += run, pixels -= run;
    }
}

static void in_shadow(void *context) {
    shadow *s = context;
    const ends *now = s->now;
    finish_some(s, s->step_pixels);
    for (int64_t i = 0; i < s->step_pixels && s->fetched < now->pixels; i++)
        flrp_prefetch_ends(s->f->j->epilogue, now->side, now->offsets[s->fetched++] + now->channel, now->n);
    const char *end = s->soon + s->step_bytes < s->soon_end ? s->soon + s->step_bytes : s->soon_end;
    for (; s->soon < end; s->soon += ALIGN) __builtin_prefetch(s->soon, 0, 2);
}

/* The destination pixels among the block's positions. */
static void find_ends(const frame *f, int side, int64_t panel, int64_t at, int64_t count, const float *sums, ends *e) {
    const job *j = f->j;
    const flrp_product *p = j->p;
    e->sums = sums, e->side = side, e->done = e->pixels = 0;
    e->channel = panel * FLRP_LIMB_OUTPUTS, e->n = flrp_min(FLRP_LIMB_OUTPUTS, p->dst_c - e->channel);
    for (int64_t first = at, run; first < at + count; first = next_valid(f, first + run)) {
        const int64_t sample = f->sample + first / image(j), row = f->row + first % image(j) / j->cols.pitch;
        const int64_t col = first % j->cols.pitch, y = p->rows.start + row * p->rows.stride;
        run = flrp_min(p->cols.count - col, at + count - first);
        for (int64_t m = 0; m < run; m++) {
            const int64_t x = p->cols.start + (col + m) * p->cols.stride;
            e->at[e->pixels] = first - at + m;
            e->offsets[e->pixels++] = ((sample * p->dst_h + y) * p->dst_w + x) * p->dst_c;
        }
    }
}

static const uint16_t *weights_of(const job *j, int64_t panel, int side, int64_t chunk) {
    return j->p->bf16 + ((side * j->panels + panel) * j->chunks + chunk) * (weight_bytes(j) / (int64_t)sizeof(uint16_t));
}

/* All positions of the task times one slice of the reduction of one panel of one side. */
static void run_slice(shadow *s, int side, int64_t panel, int64_t chunk, const uint16_t *next) {
    const frame *f = s->f;
    const job *j = f->j;
    const flrp_product *p = j->p;
    const int64_t end = (f->samples - 1) * image(j) + (f->rows - 1) * j->cols.pitch + p->cols.count;
    const int several = j->slice < j->chunks;
    flrp_limb_block t = {.b = weights_of(j, panel, side, chunk), .taps = j->taps, .chunks = flrp_min(j->slice, j->chunks - chunk),
                         .tap_count = p->rows.taps * p->cols.taps, .a_chunk = j->chunk_size, .a_limb = j->plane,
                         .finite = f->special && p->limbs > 1, .limbs = p->limbs, .aside = in_shadow, .context = s};
    const int64_t steps = t.chunks * t.tap_count, blocks = flrp_ceil_div(end, FLRP_LIMB_POSITIONS);
    float *sums = f->sums;
    s->soon = (const char *)next, s->soon_end = s->soon + t.chunks * weight_bytes(j);
    s->step_bytes = steps ? flrp_ceil_div(t.chunks * weight_bytes(j), steps * blocks) : 0;
    s->step_pixels = steps ? flrp_ceil_div(FLRP_LIMB_POSITIONS, steps) : 0;
    for (int64_t at = 0; at < end; at = next_valid(f, at + FLRP_LIMB_POSITIONS)) {
        const int64_t count = flrp_min(FLRP_LIMB_POSITIONS, end - at);
        const int whole = chunk + t.chunks == j->chunks;
        if (!steps) finish_some(s, FLRP_LIMB_POSITIONS);
        s->now->pixels = s->fetched = 0;
        if (whole) find_ends(f, side, panel, at, count, sums, s->now);
        t.a = f->planes + chunk * j->chunk_size + at * FLRP_CHUNK;
        j->limbs->block((int)count, &t, chunk > 0, sums);
        if (whole) {
            ends *free = s->last;
            s->last = s->now, s->now = free;
        }
        if (several) sums += FLRP_LIMB_POSITIONS * FLRP_LIMB_OUTPUTS;
    }
}

/* All positions of the task times panels [first, last) of both sides. */
static void run_panels(const frame *f, int64_t first, int64_t last) {
    const job *j = f->j;
    shadow s = {.f = f, .last = &s.blocks[0], .now = &s.blocks[1]};
    for (int64_t panel = first; panel < last; panel++)
        for (int side = 0; side < j->p->sides; side++)
            for (int64_t chunk = 0; chunk < j->chunks; chunk += j->slice) {
                const int more = chunk + j->slice < j->chunks, sides = side + 1 < j->p->sides;
                run_slice(&s, side, panel, chunk,
                          more ? weights_of(j, panel, side, chunk + j->slice)
                               : weights_of(j, sides ? panel : panel + 1 < last ? panel + 1 : first, sides, 0));
            }
    finish_some(&s, FLRP_LIMB_POSITIONS);
}

/* A thread's share of the tasks: block by block of the source, for one piece of the panels after the other. */
static void run_share(void *context, int64_t share, int thread) {
    const job *j = context;
    const int64_t blocks = j->sample_blocks * j->row_blocks, tasks = blocks * j->panel_blocks;
    char *own = j->scratch + share * (j->planes_bytes + j->line_bytes + j->sums_bytes);
    frame f = {.j = j, .planes = (uint16_t *)own, .line = (float *)(own + j->planes_bytes),
              .sums = (float *)(own + j->planes_bytes + j->line_bytes)};
    (void)thread;
    j->limbs->start();
    for (int64_t task = tasks * share / j->shares; task < tasks * (share + 1) / j->shares; task++) {
        const int64_t piece = task / blocks, block = task % blocks;
        f.sample = block / j->row_blocks * j->block_samples;
        f.row = block % j->row_blocks * j->block_rows;
        f.samples = flrp_min(j->block_samples, j->samples - f.sample);
        f.rows = flrp_min(j->block_rows, j->p->rows.count - f.row);
        split_source(&f);
        run_panels(&f, j->panels * piece / j->panel_blocks, j->panels * (piece + 1) / j->panel_blocks);
    }
    j->limbs->stop();
}

int flrp_limbs_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                   const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .limbs = flrp_limb_kernels_of(isa), .p = p, .operands = operands,
             .epilogue = epilogue, .samples = samples};
    const int64_t taps = p->rows.taps * p->cols.taps, products = p->limbs * (p->limbs + 1) / 2;
    j.part_chunks = flrp_ceil_div(p->src_c, FLRP_CHUNK);
    j.chunks = p->parts * j.part_chunks;
    j.panels = flrp_ceil_div(p->dst_c, FLRP_LIMB_OUTPUTS);
    const double work = (double)samples * p->rows.count * p->cols.count * taps * p->src_c * p->parts * p->sides *
                        p->dst_c * products / TILE_SPEED;
    j.shares = flrp_threads_for(threads, INT64_MAX, work);
    j.taps = malloc((size_t)(taps + p->rows.taps + p->cols.taps + 1) * sizeof(int64_t));
    if (!j.taps) return FLRP_NO_MEMORY;
    plan_axis(&j.rows, &p->rows, p->src_h, j.taps + taps);
    plan_axis(&j.cols, &p->cols, p->src_w, j.taps + taps + p->rows.taps);
    plan_tasks(&j);
    plan_scratch(&j);
    char *scratch = malloc((size_t)(j.shares * (j.planes_bytes + j.line_bytes + j.sums_bytes) + ALIGN));
    if (scratch) {
        j.scratch = scratch + (ALIGN - (uintptr_t)scratch % ALIGN) % ALIGN;
        flrp_parallel(j.shares, j.shares, 1e12, run_share, &j);
    }
    free(scratch);
    free(j.taps);
    return scratch ? FLRP_OK : FLRP_NO_MEMORY;
}

static void tile_task(void *context, int64_t task, int thread) {
    const job *j = context;
    (void)task, (void)thread;
    j->limbs->start();
    j->limbs->tile_loop(j->slice);
    j->limbs->stop();
}

int64_t flrp_tile_loop(int isa, int threads, int64_t iterations) {
    job j = {.limbs = flrp_limb_kernels_of(isa), .slice = iterations};
    if (!j.limbs) return 0;
    flrp_parallel(threads, threads, 1e12, tile_task, &j);
    return threads * iterations * 4 * (FLRP_LIMB_POSITIONS / 2) * (FLRP_LIMB_OUTPUTS / 2) * FLRP_CHUNK * 2;
}
