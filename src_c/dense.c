/* Products of dense layers over their one array of weights (inputs, outputs): no packed copy for either direction, and
 * memory read once per pass. A task is a range of outputs (forward) or inputs (backward), for up to 64 samples.
 *
 * Few samples take the weights as they lie. Many would wait for their caches: rows of large layers lie whole pages
 * apart and meet in the same sets. So a task copies what it multiplies, block by block, side by side. Both ways add up
 * every output in the same order.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define SAMPLES 64 /* of a task: their sums stay in L2 */
#define LEAST_SAMPLES 4 /* that work counts: reading the weights takes as long as their multiply-adds for so many */
#define COLUMNS 2048 /* of a task forward: long runs of every row of weights, which come from memory */
#define ROWS 48 /* of a task backward */

#define MANY 12 /* samples that are worth copies */
#define MANY_BACK 24
#define SUMS (32 << 10) /* floats, about, of a task forward, for many samples: they stay in L2 */
#define BLOCK (40 << 10) /* weights at a time, about: they stay in L2 while the next ones come */
#define DEPTH 128 /* inputs at a time, at most: a panel's weights for them stay in L1 */
#define LEAST_DEPTH 32
#define MANY_ROWS 64 /* of a task backward */
#define RANGE 64 /* vectors of outputs at a time */
#define ROWS_AT_ONCE (2 * FLRP_DOT_ROWS) /* whose weights for these stay in L1 */
#define IN_CACHE (1 << 18) /* weights: so few are not sent for */
#define PAD 16 /* floats between rows: they do not meet in the same sets */

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    const float *sources[2]; /* the operands as they are read */
    int64_t samples, width, pieces; /* width: outputs or inputs of a task */
    int many, far; /* far: weights do not stay in caches */
    int64_t panel, depth, range, size; /* floats: of a tile's row, inputs and outputs at a time, a thread's scratch */
    float *scratch;
} job;

/* What a task works on: samples of the batch, a range of its outputs (backward: inputs). */
typedef struct {
    int64_t sample, samples, first, n;
} share;

static void run_few(const job *j, int side, const share *t, float *sums) {
    const flrp_product *p = j->p;
    memset(sums, 0, (size_t)(t->samples * t->n) * sizeof(float));
    for (int64_t part = 0; part < p->parts; part++) {
        const flrp_dense *w = &p->dense[side][part];
        const float *x = j->sources[part] + t->sample * p->src_c;
        if (p->form == FLRP_DENSE)
            j->kernels->dense_forward(w->read, t->samples, p->src_c, x, p->src_c, w->weights + t->first, p->dst_c, t->n,
                                      sums);
        else
            j->kernels->dense_backward(w->read, t->samples, p->src_c, x, w->weights + t->first * p->src_c, t->n, sums,
                                       t->n);
    }
}

/* So many values of a task's samples from channel `begin` on, as their operand is read. */
static void copy_samples(const job *j, int64_t part, const share *t, int64_t begin, int64_t n, int64_t stride,
                         float *out) {
    const flrp_operand *o = &j->operands[part];
    const float *x = o->data + t->sample * j->p->src_c + begin, *bound = o->bound ? o->bound + begin : 0;
    for (int64_t s = 0; s < t->samples; s++, x += j->p->src_c, out += stride)
        j->kernels->gather(1, n, x, bound, o->read, out, stride);
}

/* Some lines of weights that are copied next, on their way from memory while others are multiplied. */
typedef struct {
    const float *w;
    int64_t rows, n, stride, steps; /* in how many steps */
} fetch;

static void send_for(const fetch *f, int64_t step) {
    const int64_t line = FLRP_CACHE_LINE / (int64_t)sizeof(float), of_row = flrp_ceil_div(f->n, line);
    const int64_t all = f->rows * of_row;
    for (int64_t i = all * step / f->steps; i < all * (step + 1) / f->steps; i++)
        __builtin_prefetch(f->w + i / of_row * f->stride + i % of_row * line, 0, 2);
}

/* Some inputs: panels of weights, copied one by one, times groups of samples, whose tiles of sums go on in `sums`. */
static void add_tiles(const job *j, const share *t, const flrp_dense *weights, int64_t begin, int64_t depth, int more,
                      const float *x, float *w, float *sums) {
    const int64_t groups = flrp_ceil_div(t->samples, FLRP_MAX_ROWS), outs = j->p->dst_c, none = 0;
    const float *from = weights->weights + begin * outs + t->first;
    const fetch next = {.w = from + depth * outs, .n = t->n, .stride = outs,
                        .rows = j->far ? flrp_min(j->depth, j->p->src_c - begin - depth) : 0,
                        .steps = flrp_ceil_div(t->n, j->panel) * groups};
    int64_t step = 0;
    for (int64_t c = 0; c < t->n; c += j->panel) {
        const int64_t n = flrp_min(t->n - c, j->panel);
        j->kernels->copy_panel(weights->read, depth, n, from + c, outs, w);
        for (int64_t g = 0; g < groups; g++, sums += FLRP_MAX_ROWS * j->panel) {
            const float *a[FLRP_MAX_ROWS];
            const int64_t s = t->samples * g / groups, rows = t->samples * (g + 1) / groups - s;
            const flrp_tile tile = {.a = a, .b = w, .a_offsets = &none, .b_offsets = &none, .segments = 1,
                                    .length = depth, .a_step = 1, .b_step = j->panel, .more = more};
            for (int64_t m = 0; m < rows; m++) a[m] = x + (s + m) * (DEPTH + PAD);
            send_for(&next, step++);
            j->kernels->tile((int)rows, (int)flrp_ceil_div(n, j->kernels->lanes), &tile, sums);
        }
    }
}

static void finish_tiles(const job *j, int side, const share *t, const float *sums) {
    const int64_t groups = flrp_ceil_div(t->samples, FLRP_MAX_ROWS), lanes = j->kernels->lanes;
    for (int64_t c = 0; c < t->n; c += j->panel)
        for (int64_t g = 0; g < groups; g++, sums += FLRP_MAX_ROWS * j->panel) {
            int64_t offsets[FLRP_MAX_ROWS];
            const int64_t s = t->samples * g / groups, rows = t->samples * (g + 1) / groups - s;
            const int64_t n = flrp_min(t->n - c, j->panel);
            for (int64_t m = 0; m < rows; m++) offsets[m] = (t->sample + s + m) * j->p->dst_c;
            j->kernels->finish(j->epilogue, side, (int)rows, n, t->first + c, sums, flrp_ceil_div(n, lanes) * lanes,
                               offsets);
        }
}

static void run_many(const job *j, int side, const share *t, float *scratch) {
    const flrp_product *p = j->p;
    float *x = scratch, *w = x + SAMPLES * (DEPTH + PAD), *sums = w + DEPTH * j->panel;
    for (int64_t part = 0; part < p->parts; part++)
        for (int64_t begin = 0, depth; begin < p->src_c; begin += depth) {
            depth = flrp_min(j->depth, p->src_c - begin);
            copy_samples(j, part, t, begin, depth, DEPTH + PAD, x);
            add_tiles(j, t, &p->dense[side][part], begin, depth, part || begin, x, w, sums);
        }
    finish_tiles(j, side, t, sums);
}

/* A range of n outputs: rows of weights, a few at a time, times all samples. */
static void add_rows(const job *j, const share *t, const flrp_dense *weights, int64_t begin, int64_t n, const float *g,
                     float *w, float *acc, float *sums) {
    const int64_t lanes = j->kernels->lanes, stride = j->range + PAD, length = flrp_ceil_div(n, lanes) * lanes;
    const int64_t groups = flrp_ceil_div(t->samples, j->kernels->dot_samples), own = FLRP_DOT_ROWS * lanes;
    const int64_t of_sample = flrp_ceil_div(t->n, FLRP_DOT_ROWS) * own;
    flrp_dots d = {.length = length, .stride = stride, .more = begin > 0, .last = begin + n == j->p->src_c,
                   .acc_stride = of_sample, .out_stride = t->n};
    for (int64_t r = 0, rows; r < t->n; r += rows) {
        rows = flrp_min(ROWS_AT_ONCE, t->n - r);
        for (int64_t i = 0; i < rows; i++) {
            memset(w + i * stride + n, 0, (size_t)(length - n) * sizeof(float));
            j->kernels->gather(1, n, weights->weights + (t->first + r + i) * j->p->src_c + begin, 0, weights->read,
                               w + i * stride, stride);
        }
        const fetch next = {.w = weights->weights + (t->first + r + rows) * j->p->src_c + begin, .n = n,
                            .stride = j->p->src_c, .steps = groups,
                            .rows = j->far ? flrp_min(ROWS_AT_ONCE, t->n - r - rows) : 0};
        for (int64_t k = 0; k < groups; k++) {
            send_for(&next, k);
            const int64_t s = t->samples * k / groups, samples = t->samples * (k + 1) / groups - s;
            for (int64_t i = 0; i < rows; i += FLRP_DOT_ROWS) {
                d.g = g + s * stride, d.w = w + i * stride, d.rows = (int)flrp_min(FLRP_DOT_ROWS, rows - i);
                d.acc = acc + s * of_sample + (r + i) * lanes, d.out = sums + s * t->n + r + i;
                j->kernels->dots((int)samples, &d);
            }
        }
    }
}

static void run_many_back(const job *j, int side, const share *t, float *scratch) {
    const flrp_product *p = j->p;
    const int64_t lanes = j->kernels->lanes, stride = j->range + PAD;
    float *sums = scratch, *g = sums + SAMPLES * j->width, *w = g + SAMPLES * stride, *acc = w + ROWS_AT_ONCE * stride;
    memset(sums, 0, (size_t)(t->samples * t->n) * sizeof(float));
    memset(w, 0, (size_t)(ROWS_AT_ONCE * stride) * sizeof(float)); /* rows that do not count are multiplied, too */
    for (int64_t part = 0; part < p->parts; part++)
        for (int64_t begin = 0; begin < p->src_c; begin += j->range) {
            const int64_t n = flrp_min(j->range, p->src_c - begin), length = flrp_ceil_div(n, lanes) * lanes;
            copy_samples(j, part, t, begin, n, stride, g);
            for (int64_t s = 0; s < t->samples; s++)
                memset(g + s * stride + n, 0, (size_t)(length - n) * sizeof(float));
            add_rows(j, t, &p->dense[side][part], begin, n, g, w, acc, sums);
        }
}

static void run_side(const job *j, int side, const share *t, float *scratch) {
    if (j->many && j->p->form == FLRP_DENSE) {
        run_many(j, side, t, scratch);
        return;
    }
    if (j->many) run_many_back(j, side, t, scratch);
    else run_few(j, side, t, scratch);
    for (int64_t s = 0; s < t->samples; s++) {
        const int64_t at = (t->sample + s) * j->p->dst_c;
        j->kernels->finish(j->epilogue, side, 1, t->n, t->first, scratch + s * t->n, t->n, &at);
    }
}

static void run_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const int64_t sample = task / j->pieces * SAMPLES, first = task % j->pieces * j->width;
    const share t = {sample, flrp_min(SAMPLES, j->samples - sample), first, flrp_min(j->width, j->p->dst_c - first)};
    for (int side = 0; side < j->p->sides; side++) run_side(j, side, &t, j->scratch + thread * j->size);
}

/* Operands that are not plain are read once, into `copy`. */
static void read_sources(job *j, float *copy) {
    const flrp_product *p = j->p;
    for (int64_t part = 0; part < p->parts; part++) {
        const flrp_operand *o = &j->operands[part];
        j->sources[part] = o->data;
        if (o->read == FLRP_PLAIN) continue;
        for (int64_t s = 0; s < j->samples; s++)
            j->kernels->gather(1, p->src_c, o->data + s * p->src_c, o->bound, o->read, copy + s * p->src_c, p->src_c);
        j->sources[part] = copy;
        copy += j->samples * p->src_c;
    }
}

/* Even ranges, of `most` for a task, in whole units: at least one for every thread that has no samples of its own. */
static void plan_ranges(job *j, int64_t most, int64_t unit, int threads) {
    const int64_t pieces = flrp_ceil_div(j->samples, SAMPLES) % threads ? threads : 1;
    j->width = flrp_ceil_div(flrp_even_block(j->p->dst_c, most, pieces), unit) * unit;
    j->pieces = flrp_ceil_div(j->p->dst_c, j->width);
}

static void plan(job *j, int threads) {
    const flrp_product *p = j->p;
    const int forward = p->form == FLRP_DENSE;
    const int64_t lanes = j->kernels->lanes, samples = flrp_min(j->samples, SAMPLES);
    j->panel = lanes * j->kernels->panel_vectors, j->range = RANGE * lanes;
    j->many = p->src_c /* else nothing would set the sums */ && j->samples >= (forward ? MANY : MANY_BACK);
    j->far = p->src_c * p->dst_c > IN_CACHE;
    if (!j->many) {
        plan_ranges(j, forward ? COLUMNS : ROWS, lanes, threads);
        j->size = SAMPLES * j->width;
    } else if (forward) {
        plan_ranges(j, flrp_min(COLUMNS, SUMS / samples / j->panel * j->panel), lanes, threads);
        j->depth = flrp_max(LEAST_DEPTH, flrp_min(DEPTH, BLOCK / j->width));
        j->size = SAMPLES * (DEPTH + PAD) + DEPTH * j->panel + (SAMPLES + FLRP_MAX_ROWS) * (j->width + j->panel);
    } else {
        plan_ranges(j, MANY_ROWS, FLRP_DOT_ROWS, threads);
        j->size = SAMPLES * j->width * (1 + lanes) + (SAMPLES + ROWS_AT_ONCE) * (j->range + PAD);
    }
}

int flrp_dense_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                   const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .operands = operands, .epilogue = epilogue, .samples = samples};
    const double work = (double)flrp_max(samples, LEAST_SAMPLES) * p->src_c * p->dst_c * p->parts * p->sides;
    int64_t copies = 0;
    threads = flrp_threads_for(threads, p->dst_c, work);
    plan(&j, threads);
    for (int64_t part = 0; part < p->parts && !j.many; part++) copies += operands[part].read != FLRP_PLAIN;
    j.scratch = malloc((size_t)(threads * j.size + copies * samples * p->src_c) * sizeof(float));
    if (!j.scratch) return FLRP_NO_MEMORY;
    if (!j.many) read_sources(&j, j.scratch + threads * j.size);
    flrp_parallel(threads, j.pieces * flrp_ceil_div(samples, SAMPLES), work, run_task, &j);
    free(j.scratch);
    return FLRP_OK;
}
