/* Products whose weights are mostly zero or half of it (the positive part of a layer's, say), one pixel to one pixel:
 * lanes are pixels, and only the weights that are not zero are multiplied, output by output, from a list.
 *
 * A task covers up to as many pixels as fill FLRP_LANE_PLACES vectors. The reduction goes in passes: some channels of
 * the pixels, turned so that each is one run, stay in L1 while all outputs go on with their sums. Sums have the order
 * of the wide form, so that a term of zero changes no bit where the other factor is finite; where a value of a pass is
 * not, the pass takes all terms.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define OUTPUTS 512   /* whose sums are kept at a time: in L2 */
#define TOGETHER 64   /* outputs that go through the epilogue together */

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    int64_t pixels, k, stride, pass; /* stride: floats of a channel's run; pass: channels */
    int64_t block, pieces;           /* pixels of a task; ranges that the outputs are cut into */
    int copies, in_order;            /* in_order: the source's pixels lie one after the other */
    char *scratch;
    int64_t size; /* bytes of a thread's scratch */
} job;

/* A task's scratch, and its pixels. */
typedef struct {
    const float *source; /* k channels of the first pixel; the others follow */
    float *runs, *sums, *rows, *copy;
    flrp_term *all; /* of a pass, zeros too */
    int64_t *offsets, count;
    int places;
} frame;

static int64_t source_pixel(const flrp_product *p, int64_t i) {
    const int64_t cols = p->cols.count, sample = i / (p->rows.count * cols), row = i / cols % p->rows.count;
    return (sample * p->src_h + row * p->rows.step + p->rows.offsets[0]) * p->src_w + i % cols * p->cols.step +
           p->cols.offsets[0];
}

static int64_t destination(const flrp_product *p, int64_t i) {
    const int64_t cols = p->cols.count, sample = i / (p->rows.count * cols), row = i / cols % p->rows.count;
    return flrp_destination(p, sample, row, i % cols);
}

static void read_pixel(const job *j, int64_t pixel, float *dst) {
    const flrp_product *p = j->p;
    const int64_t in_sample = pixel % (p->src_h * p->src_w) * p->src_c;
    for (int64_t part = 0; part < p->parts; part++) {
        const flrp_operand *o = &j->operands[part];
        j->kernels->gather(1, p->src_c, o->data + pixel * p->src_c, o->bound ? o->bound + in_sample : 0, o->read,
                           dst + part * p->src_c, p->src_c);
    }
}

static frame start(const job *j, int64_t first, char *scratch) {
    const flrp_product *p = j->p;
    frame f = {.runs = flrp_aligned(scratch), .count = flrp_min(j->block, j->pixels - first)};
    f.sums = f.runs + j->pass * j->stride;
    f.rows = f.sums + flrp_min(OUTPUTS, p->dst_c) * j->stride;
    f.copy = f.rows + TOGETHER * j->stride;
    f.offsets = (int64_t *)(f.copy + j->copies * j->block * j->k);
    f.all = (flrp_term *)(f.offsets + j->block);
    f.places = (int)flrp_ceil_div(f.count, j->kernels->lanes);
    f.source = j->copies ? f.copy : j->operands[0].data + source_pixel(p, first) * p->src_c;
    for (int64_t i = 0; i < f.count; i++) f.offsets[i] = destination(p, first + i);
    for (int64_t i = 0; j->copies && i < f.count; i++) read_pixel(j, source_pixel(p, first + i), f.copy + i * j->k);
    return f;
}

/* Channels [k, k + n) as runs of pixels, zeros in the lanes past them. Returns whether all are finite. */
static int turn(const job *j, const frame *f, int64_t k, int64_t n) {
    const int64_t whole = f->places * j->kernels->lanes;
    int finite = 1;
    j->kernels->transpose(f->count, n, f->source + k, j->k, f->runs, j->stride);
    for (int64_t i = 0; i < n; i++) {
        float *run = f->runs + i * j->stride;
        for (int64_t m = f->count; m < whole; m++) run[m] = 0;
        finite &= j->kernels->is_finite(whole, run);
    }
    return finite;
}

/* The terms of one output in a pass of n channels, those of zero too. */
static void fill(const job *j, const flrp_term *terms, int64_t count, int64_t n, flrp_term *all) {
    for (int64_t i = 0; i < n; i++) all[i] = (flrp_term){(int32_t)(i * j->stride), 0};
    for (int64_t i = 0; i < count; i++) all[terms[i].offset / j->stride].weight = terms[i].weight;
}

/* One pass for outputs [first, first + n) of a side. */
static void add_pass(const job *j, const frame *f, int side, int64_t pass, int64_t first, int64_t n) {
    const flrp_lane_product *l = &j->p->lanes;
    const int64_t k = pass * j->pass, channels = flrp_min(j->pass, j->k - k), vector = j->kernels->lanes;
    const int finite = turn(j, f, k, channels);
    flrp_lane_lists t = {.terms = l->terms, .starts = l->starts + (side * l->passes + pass) * j->p->dst_c + first,
                         .outputs = n, .step = 1, .span = 1, .x = f->runs, .x_place = vector, .out = f->sums,
                         .out_row = j->stride, .out_place = vector, .mode = pass ? FLRP_LANES_GO_ON : FLRP_LANES_SET};
    if (finite) {
        j->kernels->lane_lists(f->places, &t);
        return;
    }
    const int64_t all[] = {0, channels}, *starts = t.starts;
    for (int64_t i = 0; i < n; i++, t.out += j->stride) {
        fill(j, l->terms + starts[i], starts[i + 1] - starts[i], channels, f->all);
        t.terms = f->all, t.starts = all, t.outputs = 1;
        j->kernels->lane_lists(f->places, &t);
    }
}

static void finish(const job *j, const frame *f, int side, int64_t first, int64_t n) {
    for (int64_t i = 0, some; i < n; i += some) {
        some = flrp_min(TOGETHER, n - i);
        j->kernels->transpose(some, f->count, f->sums + i * j->stride, j->stride, f->rows, some);
        j->kernels->finish(j->epilogue, side, (int)f->count, some, first + i, f->rows, some, f->offsets);
    }
}

static void run_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const int64_t piece = task % j->pieces, outs = j->p->dst_c;
    const int64_t begin = outs * piece / j->pieces, end = outs * (piece + 1) / j->pieces;
    const frame f = start(j, task / j->pieces * j->block, j->scratch + thread * j->size);
    for (int side = 0; side < j->p->sides; side++)
        for (int64_t first = begin; first < end; first += OUTPUTS) {
            const int64_t n = flrp_min(OUTPUTS, end - first);
            for (int64_t pass = 0; pass < j->p->lanes.passes; pass++) add_pass(j, &f, side, pass, first, n);
            finish(j, &f, side, first, n);
        }
}

/* Whether the source's pixels lie one after the other, through all samples. */
static int in_order(const flrp_product *p) {
    return p->rows.step == 1 && p->cols.step == 1 && p->rows.count == p->src_h && p->cols.count == p->src_w;
}

int flrp_lists_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                   const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .operands = operands, .epilogue = epilogue};
    const int64_t lanes = j.kernels->lanes, most = FLRP_LANE_PLACES * lanes;
    j.pixels = samples * p->rows.count * p->cols.count;
    j.k = p->parts * p->src_c;
    j.stride = p->lanes.width;
    j.pass = p->lanes.length;
    j.copies = p->parts > 1 || operands[0].read != FLRP_PLAIN || !in_order(p);
    const double work = (double)j.pixels * j.k * p->dst_c * p->sides;
    threads = flrp_threads_for(threads, INT64_MAX, work);
    j.block = flrp_ceil_div(flrp_even_block(j.pixels, most, j.pixels > most ? threads : 1), lanes) * lanes;
    const int64_t blocks = flrp_ceil_div(j.pixels, j.block);
    j.pieces = blocks < threads ? flrp_min(threads, p->dst_c) : 1;
    j.size = (j.pass + flrp_min(OUTPUTS, p->dst_c) + TOGETHER) * j.stride * (int64_t)sizeof(float) +
             j.copies * j.block * j.k * (int64_t)sizeof(float) + j.block * (int64_t)sizeof(int64_t) +
             j.pass * (int64_t)sizeof(flrp_term) + FLRP_CACHE_LINE;
    j.size = flrp_whole_lines(j.size);
    j.scratch = malloc((size_t)(threads * j.size));
    if (!j.scratch) return FLRP_NO_MEMORY;
    flrp_parallel(threads, blocks * j.pieces, work, run_task, &j);
    free(j.scratch);
    return FLRP_OK;
}
