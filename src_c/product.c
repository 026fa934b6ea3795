/* The entry of every product: forward, backward to the input, one or two operands, one or two sides; and the driver of
 * the wide form.
 *
 * A task covers a block of destination pixels: rows of one sample, or several whole samples where they are small.
 * It reads the source where it lies if every tap is inside the data and nothing is to be transformed; else it
 * copies the source rows it needs, transformed, with zeros left and right, into its thread's scratch. Then each
 * pixel is one pointer, each tap one offset, and blocks of pixels x output channels go to the micro-kernel and the
 * epilogue. How the pixels are cut into tasks and blocks changes no bit: the order of every output's sum is fixed.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define LONG_SEGMENT 128
#define WEIGHTS_TARGET (48 << 10) /* bytes of a panel's weights that all blocks of pixels take from L1 and L2 */
#define SCRATCH_TARGET (37 << 10) /* bytes of source rows per task and lane: in L2 beside a slice of weights */

#define SLICE_TARGET (24 << 10)   /* bytes a lane of what the epilogue touches */
#define LEAST_SLICE 48              /* pixels */
#define MOST_LISTED 256             /* blocks of pixels, about: their list stays in L1 */

/* Up to 6 pixels whose row taps meet the same data: where each reads, and where its outputs begin. */
typedef struct {
    const float *a[FLRP_MAX_ROWS];
    int64_t offsets[FLRP_MAX_ROWS], count, first, last; /* row taps [first, last) */
} block;

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    flrp_cut cut;
    /* source block: pixels of a line, and strides in floats */
    int64_t block_w, pixel, line, image;
    int copies;
    /* segments of the reduction axis, row tap by row tap */
    int64_t *a_offsets, *b_offsets;
    int64_t row_segments, length;
    int flat; /* segments of one element each */
    int64_t panel_blocks, panels;
    char *scratch;
    int64_t slice, most_blocks; /* rows that go through all panels together, at most, and their blocks */
    int64_t slice_segments;     /* of the reduction, that all of these go through together */
    int64_t scratch_size, sums_size;    /* floats per thread: source rows, and sums of blocks */
    int64_t thread_bytes; /* of a thread's scratch, the blocks first */
} job;

static int inside(const flrp_axis *a, int64_t size) {
    return flrp_first_source(a, 0) >= 0 && flrp_first_source(a, a->count - 1) + flrp_span(a) <= size;
}

/* Of a row of pixels, at most: one may be cut at its end. */
static int64_t blocks_of_row(const job *j) { return flrp_ceil_div(j->p->cols.count, FLRP_MAX_ROWS) + 1; }

/* Rows whose ends, all channels of them, stay in L2 from one panel to the next; but weights are read once for each. */
static int64_t slice_rows(const job *j) {
    const flrp_epilogue *e = j->epilogue;
    const int64_t arrays = 1 + (e->factors[0].data != 0) + (e->ratio.relevance != 0), cols = j->p->cols.count;
    const int64_t per_row = arrays * cols * j->p->dst_c * (int64_t)sizeof(float);
    const int64_t fit = flrp_min(SLICE_TARGET * j->kernels->lanes / per_row, MOST_LISTED / blocks_of_row(j));
    return flrp_max(flrp_ceil_div(LEAST_SLICE, cols), fit);
}

/* Cut the grid into tasks: enough for every thread, each small enough for its own source rows to stay in L2. Rows that
 * only further taps reach do not count: a tall kernel has many, but more weights still, which are read for every task.
 * Rows are cut evenly, into tasks of about a few whole slices: for a rest of a few rows all weights would be read, too. */
flrp_cut flrp_cut_grid(const flrp_kernels *kernels, const flrp_product *p, int64_t samples, int64_t slice,
                       int threads) {
    const int64_t rows = p->rows.count, line = p->cols.count * p->cols.step + flrp_span(&p->cols);
    const int64_t per_row = p->rows.step * line * p->src_c * p->parts * (int64_t)sizeof(float);
    const int64_t fit = flrp_max(1, SCRATCH_TARGET * kernels->lanes / flrp_max(per_row, 1));
    flrp_cut cut = {.samples = samples, .block_samples = 1, .row_blocks = 1};
    if (fit >= rows) cut.block_samples = flrp_even_block(samples, fit / rows, threads);
    else {
        slice = flrp_even_block(rows, flrp_min(slice, fit), 1);
        cut.row_blocks = flrp_ceil_div(flrp_ceil_div(rows, slice), fit / slice);
    }
    if (samples < threads) cut.row_blocks = flrp_min(rows, flrp_ceil_div(cut.row_blocks, threads) * threads);
    cut.block_rows = flrp_ceil_div(rows, cut.row_blocks);
    cut.sample_blocks = flrp_ceil_div(samples, cut.block_samples);
    return cut;
}

/* Where piece i begins of n things in even pieces. */
static int64_t first_of(int64_t n, int64_t i, int64_t pieces) { return n * i / pieces; }

flrp_region flrp_region_of(const flrp_cut *cut, const flrp_product *p, int64_t task) {
    const int64_t sample = task / cut->row_blocks * cut->block_samples;
    const int64_t row = first_of(p->rows.count, task % cut->row_blocks, cut->row_blocks);
    const int64_t end = first_of(p->rows.count, task % cut->row_blocks + 1, cut->row_blocks);
    return (flrp_region){sample, flrp_min(cut->block_samples, cut->samples - sample), row, end - row};
}

static void plan_tasks(job *j, int64_t samples, int threads) {
    const flrp_product *p = j->p;
    j->cut = flrp_cut_grid(j->kernels, p, samples, slice_rows(j), threads);
    j->panels = flrp_ceil_div(p->dst_c / p->groups, j->kernels->lanes * j->kernels->panel_vectors);
    j->panel_blocks = j->cut.sample_blocks * j->cut.row_blocks < threads ? flrp_min(threads, j->panels) : 1;
}

static void plan_source(job *j) {
    const flrp_product *p = j->p;
    j->copies = p->parts > 1 || j->operands[0].read != FLRP_PLAIN || !inside(&p->rows, p->src_h) ||
                !inside(&p->cols, p->src_w);
    j->pixel = p->src_c * p->parts;
    j->block_w = j->copies ? (p->cols.count - 1) * p->cols.step + flrp_span(&p->cols) : p->src_w;
    j->line = j->block_w * j->pixel;
    j->image = p->src_h * j->line;
    if (!j->copies) return;
    const int64_t block_h = (j->cut.block_rows - 1) * p->rows.step + flrp_span(&p->rows);
    j->image = (flrp_ceil_div(block_h * j->line, 16) | 1) * 16; /* odd, so that they share no set of L1 */
    j->scratch_size = j->cut.block_samples * j->image;
}

/* Of how many pieces of the same length a long run is made, so that a few of them have their weights in L1. */
static int64_t pieces_of(int64_t length) {
    int64_t pieces = flrp_max(1, flrp_ceil_div(length, LONG_SEGMENT));
    while (length % pieces) pieces++;
    return pieces > 4 * flrp_ceil_div(length, LONG_SEGMENT) ? 1 : pieces;
}

/* Segments of the reduction axis for every row tap, in the order of the packed weights. */
static int plan_segments(job *j) {
    const flrp_product *p = j->p;
    const int64_t group_c = p->src_c / p->groups;
    const int width = j->kernels->lanes * j->kernels->panel_vectors;
    const int merged = p->groups == 1 && flrp_spacing(&p->cols) == 1; /* the taps of a row are one run of floats */
    j->row_segments = merged ? 1 : p->cols.taps * p->parts;
    j->length = merged ? p->cols.taps * p->src_c * p->parts : group_c;
    const int64_t pieces = pieces_of(j->length);
    j->row_segments *= pieces, j->length /= pieces;
    j->flat = flrp_by_element(p->rows.taps * j->row_segments, j->length);
    const int64_t each = j->flat ? j->length : 1, count = p->rows.taps * j->row_segments * each;
    j->a_offsets = malloc((size_t)flrp_max(2 * count, 1) * sizeof(int64_t));
    if (!j->a_offsets) return FLRP_NO_MEMORY;
    j->b_offsets = j->a_offsets + count;
    for (int64_t i = 0; i < count; i++) {
        const int64_t s = i / each, tap = s / j->row_segments, r = s % j->row_segments;
        const int64_t line = (p->rows.offsets[tap] - p->rows.offsets[0]) * j->line;
        const int64_t run = r / pieces, col = merged ? 0 : p->cols.offsets[run / p->parts] - p->cols.offsets[0];
        j->a_offsets[i] = line + col * j->pixel + (merged ? 0 : run % p->parts * p->src_c) + r % pieces * j->length +
                          i % each;
        j->b_offsets[i] = i * (j->flat ? 1 : j->length) * width;
    }
    j->row_segments *= each;
    if (j->flat) j->length = 1;
    return FLRP_OK;
}

void flrp_copy_line(const flrp_kernels *kernels, const flrp_product *p, const flrp_operand *operands, int64_t sample,
                    int64_t y, int64_t x0, int64_t width, float *dst) {
    const int64_t c = p->src_c, pixel = c * p->parts;
    int64_t begin, end;
    flrp_clip(x0, width, p->src_w, &begin, &end);
    const int64_t in_sample = (y * p->src_w + x0 + begin) * c, at = sample * p->src_h * p->src_w * c + in_sample;
    memset(dst, 0, (size_t)(begin * pixel) * sizeof(float));
    memset(dst + end * pixel, 0, (size_t)((width - end) * pixel) * sizeof(float));
    for (int64_t part = 0; part < p->parts && end > begin; part++) {
        const flrp_operand *o = &operands[part];
        kernels->gather(end - begin, c, o->data + at, o->bound ? o->bound + in_sample : 0, o->read,
                        dst + begin * pixel + part * c, pixel);
    }
}

static void copy_source(const job *j, const flrp_region *r, float *dst) {
    const flrp_product *p = j->p;
    const int64_t y = flrp_first_source(&p->rows, r->row), x = flrp_first_source(&p->cols, 0);
    int64_t first, last; /* lines outside the data stay as they are: no block runs the row taps that would read them */
    flrp_clip(y, (r->rows - 1) * p->rows.step + flrp_span(&p->rows), p->src_h, &first, &last);
    for (int64_t s = 0; s < r->samples; s++)
        for (int64_t l = first; l < last; l++)
            flrp_copy_line(j->kernels, p, j->operands, r->sample + s, y + l, x, j->block_w,
                           dst + s * j->image + l * j->line);
}

/* A walk over pixels, columns first. */
typedef struct {
    int64_t s, r, c, first, last, offset;
    const float *a;
} cursor;

static void enter_row(const job *j, cursor *at, const float *source, int64_t sample, int64_t row) {
    at->c = 0;
    at->a = source + at->s * j->image + at->r * j->p->rows.step * j->line;
    at->offset = flrp_destination(j->p, sample + at->s, row + at->r, 0);
    flrp_meeting_taps(&j->p->rows, row + at->r, j->p->src_h, &at->first, &at->last);
}

static void next_row(const job *j, cursor *at, const float *source, int64_t sample, int64_t row, int64_t rows) {
    if (++at->r == rows) at->r = 0, at->s++;
    enter_row(j, at, source, sample, row);
}

/* The pixels of some rows and samples, in blocks that run over both. A block ends where other row taps meet data, so
 * that no pixel runs its neighbour's. */
static int64_t list_blocks(const job *j, const float *source, int64_t sample, int64_t samples, int64_t row,
                           int64_t rows, block *blocks) {
    const flrp_product *p = j->p;
    const int64_t cols = p->cols.count, pixels = samples * rows * cols;
    const int64_t read_step = p->cols.step * j->pixel, write_step = p->cols.stride * p->dst_c;
    int64_t n = 0;
    cursor at = {0};
    enter_row(j, &at, source, sample, row);
    for (int64_t done = 0; done < pixels; done += blocks[n++].count) {
        const int64_t left = flrp_ceil_div(pixels - done, FLRP_MAX_ROWS);
        const int64_t size = flrp_ceil_div(pixels - done, left); /* even blocks: 7 pixels are 4 + 3 */
        if (at.c == cols) next_row(j, &at, source, sample, row, rows);
        block *b = &blocks[n];
        b->first = at.first, b->last = at.last;
        for (b->count = 0; b->count < size; b->count++, at.c++, at.a += read_step, at.offset += write_step) {
            if (at.c == cols) next_row(j, &at, source, sample, row, rows);
            if (at.first != b->first || at.last != b->last) break;
            b->a[b->count] = at.a;
            b->offsets[b->count] = at.offset;
        }
    }
    return n;
}

/* One panel's weights of segments [begin, end) of the reduction, and what is sent for meanwhile: about so many cache
 * lines of the weights that follow, so many with each segment of a block. */
typedef struct {
    const float *weights, *next;
    int64_t begin, end, next_lines, lines;
} weight_slice;

/* Floats of one segment of a panel's weights. */
static int64_t segment_size(const job *j) { return j->length * j->kernels->lanes * j->kernels->panel_vectors; }

/* For `count` blocks. after: the weights after these `segments`, NULL if none follow. */
static void look_ahead(const job *j, weight_slice *s, int64_t segments, int64_t count, const float *after) {
    const int64_t left = segments - s->end, following = flrp_min(left ? left : segments, j->slice_segments);
    s->next = left ? s->weights + s->end * segment_size(j) : after;
    s->next_lines = s->next ? following * segment_size(j) * (int64_t)sizeof(float) / FLRP_CACHE_LINE : 0;
    s->lines = flrp_ceil_div(s->next_lines, count * (s->end - s->begin));
}

/* Block i times a slice's segments, those of its row taps; the last block's share may reach past the next slice. */
static void run_block(const job *j, const block *b, const weight_slice *s, int vectors, int64_t i, float *acc) {
    const int64_t width = (int64_t)j->kernels->lanes * j->kernels->panel_vectors;
    const int64_t first = flrp_max(s->begin, b->first * j->row_segments), last = flrp_min(s->end, b->last * j->row_segments);
    const int64_t sent = i * s->lines * (s->end - s->begin);
    flrp_tile t = {.a = b->a, .b = s->weights, .length = j->length, .a_step = 1, .b_step = width, .more = s->begin > 0,
                   .a_offsets = j->a_offsets + first, .b_offsets = j->flat ? 0 : j->b_offsets + first,
                   .segments = flrp_max(0, last - first), .soon = (uintptr_t)s->next + (uintptr_t)(sent * FLRP_CACHE_LINE),
                   .soon_lines = sent < s->next_lines ? s->lines : 0};
    if (j->flat) t.b += first * width;
    if (t.segments || !t.more) j->kernels->tile((int)b->count, vectors, &t, acc);
}

/* Blocks of pixels times one panel of output channels, slice by slice of the reduction: all blocks take a slice's
 * weights from L1 or L2, and bring the next slice's, a share each, from wherever they are. */
static void run_panel(const job *j, const block *blocks, int64_t count, int64_t group, int64_t panel, float *sums) {
    const flrp_product *p = j->p;
    const flrp_kernels *kernels = j->kernels;
    const int64_t group_out = p->dst_c / p->groups, width = (int64_t)kernels->lanes * kernels->panel_vectors;
    const int64_t n = flrp_min(width, group_out - panel * width), vectors = flrp_ceil_div(n, kernels->lanes);
    const int64_t channel = group * group_out + panel * width, segments = p->rows.taps * j->row_segments;
    const int64_t size = segments * segment_size(j), all = p->groups * j->panels * size;
    const int several = j->slice_segments < segments;
    const float *weights = p->weights + (group * j->panels + panel) * size;
    for (int side = 0; side < p->sides; side++) {
        weight_slice s = {.weights = weights + side * all};
        const float *after = side + 1 < p->sides ? s.weights + all : panel + 1 < j->panels ? weights + size : 0;
        for (; s.begin == 0 || s.begin < segments; s.begin = s.end) {
            s.end = flrp_min(segments, s.begin + j->slice_segments);
            if (several) look_ahead(j, &s, segments, count, after);
            for (int64_t i = 0; i < count; i++) {
                const block *b = &blocks[i];
                float *acc = sums + (several ? i * FLRP_MAX_TILE : 0);
                if (s.end == segments)
                    for (int64_t m = 0; m < b->count; m++)
                        flrp_prefetch_ends(j->epilogue, side, b->offsets[m] + channel, n);
                run_block(j, b, &s, (int)vectors, i, acc);
                if (s.end == segments)
                    kernels->finish(j->epilogue, side, (int)b->count, n, channel, acc, vectors * kernels->lanes, b->offsets);
            }
            if (s.end == s.begin) break;
        }
    }
}

/* Pixels that go through all panels together, and segments of the reduction that they go through together. */
static void plan_slices(job *j) {
    j->slice = flrp_min(j->cut.block_rows, slice_rows(j));
    if (j->cut.block_samples > 1) j->slice = j->cut.block_rows;
    j->most_blocks = j->cut.block_samples * j->slice * blocks_of_row(j);
    const int64_t width = (int64_t)j->kernels->lanes * j->kernels->panel_vectors, segments = j->p->rows.taps * j->row_segments;
    const int64_t bytes = flrp_max(1, j->length * width * (int64_t)sizeof(float));
    const int slices_pay = j->most_blocks > 1 && j->most_blocks <= 2 * MOST_LISTED; /* else their sums leave L2 */
    j->slice_segments = flrp_max(1, slices_pay ? WEIGHTS_TARGET / bytes : segments);
    j->sums_size = FLRP_MAX_TILE * (j->slice_segments < segments ? j->most_blocks : 1);
}

static void run_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const flrp_product *p = j->p;
    const int64_t piece = task % j->panel_blocks;
    const flrp_region region = flrp_region_of(&j->cut, p, task / j->panel_blocks);
    block *blocks = (block *)(j->scratch + thread * j->thread_bytes);
    float *sums = flrp_aligned(blocks + j->most_blocks), *scratch = sums + j->sums_size;
    const float *source = scratch;
    if (j->copies) copy_source(j, &region, scratch);
    else
        source = j->operands[0].data + region.sample * j->image + flrp_first_source(&p->rows, region.row) * j->line +
                 flrp_first_source(&p->cols, 0) * j->pixel;
    const int64_t begin = first_of(j->panels, piece, j->panel_blocks);
    const int64_t end = first_of(j->panels, piece + 1, j->panel_blocks);
    const int64_t slices = flrp_ceil_div(region.rows, j->slice);
    for (int64_t i = 0; i < slices; i++)
        for (int64_t group = 0; group < p->groups; group++) {
            const int64_t r = first_of(region.rows, i, slices), some = first_of(region.rows, i + 1, slices) - r;
            const float *from = source + r * p->rows.step * j->line + group * (p->src_c / p->groups);
            const int64_t count = list_blocks(j, from, region.sample, region.samples, region.row + r, some, blocks);
            for (int64_t panel = begin; panel < end; panel++) run_panel(j, blocks, count, group, panel, sums);
        }
}

static int run_wide(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                    const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .operands = operands, .epilogue = epilogue};
    const double work = flrp_work(p, samples);
    threads = flrp_threads_for(threads, INT64_MAX, work);
    plan_tasks(&j, samples, threads);
    plan_source(&j);
    if (plan_segments(&j)) return FLRP_NO_MEMORY;
    plan_slices(&j);
    const int64_t bytes = (j.scratch_size + j.sums_size) * (int64_t)sizeof(float) +
                          j.most_blocks * (int64_t)sizeof(block);
    j.thread_bytes = (flrp_ceil_div(bytes, FLRP_CACHE_LINE) + 1) * FLRP_CACHE_LINE;
    j.scratch = malloc((size_t)(threads * j.thread_bytes));
    const int status = j.scratch ? FLRP_OK : FLRP_NO_MEMORY;
    if (status == FLRP_OK)
        flrp_parallel(threads, j.cut.sample_blocks * j.cut.row_blocks * j.panel_blocks, work, run_task, &j);
    free(j.scratch);
    free(j.a_offsets);
    return status;
}

int flrp_product_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                     const flrp_epilogue *epilogue) {
    if (!samples || !p->rows.count || !p->cols.count) return FLRP_OK;
    switch (p->form) {
    case FLRP_NARROW: return flrp_narrow_run(isa, threads, p, samples, operands, epilogue);
    case FLRP_SCATTER: return flrp_scatter_run(isa, threads, p, samples, operands, epilogue);
    case FLRP_WINOGRAD:
        if (p->limbs) return flrp_winograd_limbs_run(isa, threads, p, samples, operands, epilogue);
        return flrp_winograd_run(isa, threads, p, samples, operands, epilogue);
    case FLRP_DEPTHWISE: return flrp_depthwise_run(isa, threads, p, samples, operands, epilogue);
    case FLRP_DENSE:
    case FLRP_DENSE_BACK: return flrp_dense_run(isa, threads, p, samples, operands, epilogue);
    case FLRP_LISTS: return flrp_lists_run(isa, threads, p, samples, operands, epilogue);
    case FLRP_LANES: return flrp_lanes_run(isa, p, operands, epilogue);
    case FLRP_LIMBS: return flrp_limbs_run(isa, threads, p, samples, operands, epilogue);
    default: return run_wide(isa, threads, p, samples, operands, epilogue);
    }
}
