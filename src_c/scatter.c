/* The second way to run a product back to the input: rows are gathered, columns scattered.
 *
 * On small maps a product over destination pixels meets many column taps outside the data. Here each source pixel of
 * the rows that reach a destination row is multiplied by all column taps at once: their results, runs of (column tap,
 * channel), lie side by side in a channels-last line and are added to it. Every multiply-add counts, and the stride
 * of the columns needs no phases. The order of every sum is fixed: source columns from right to left, so that the column
 * taps come in order, panels and blocks too.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define ROWS_PER_TASK 4

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    int64_t k, run, panels;   /* reduction of one row tap, floats of one run, panels in it */
    int64_t line, before;     /* floats of the line with its padding; those before the destination's first */
    int64_t row_blocks, size; /* size: floats of scratch per thread */
    int copies;
    int64_t *offsets;         /* of the row taps' segments: in the source, then in the weights */
    float *scratch;
} job;

/* Blocks of up to 6 source pixels of one row's reach, from the right, times every panel of the run, added to the
 * line. */
static void add_pixels(const job *j, const float *source, int64_t first, int64_t last, const float *weights,
                       float *line) {
    const flrp_product *p = j->p;
    const int64_t lanes = j->kernels->lanes, width = lanes * j->kernels->panel_vectors;
    const int64_t cols = p->cols.count, step = p->cols.stride * p->dst_c;
    const flrp_epilogue add = {.out = line};
    float acc[FLRP_MAX_TILE] __attribute__((aligned(64)));
    int64_t offsets[FLRP_MAX_ROWS];
    const float *a[FLRP_MAX_ROWS];
    flrp_tile t = {.a = a, .a_offsets = j->offsets + first, .b_offsets = j->offsets + p->rows.taps + first,
                   .segments = last - first, .length = j->k, .a_step = 1, .b_step = width};
    for (int64_t left = cols; left > 0;) {
        const int64_t size = flrp_ceil_div(left, flrp_ceil_div(left, FLRP_MAX_ROWS));
        for (int64_t m = 0; m < size; m++) {
            a[m] = source + (left - 1 - m) * j->k;
            offsets[m] = (left - 1 - m) * step;
        }
        t.b = weights;
        for (int64_t n = 0; n < j->run; n += width, t.b += p->rows.taps * j->k * width) {
            const int64_t count = flrp_min(width, j->run - n), vectors = flrp_ceil_div(count, lanes);
            j->kernels->tile((int)size, (int)vectors, &t, acc);
            j->kernels->finish(&add, 1, (int)size, count, n, acc, vectors * lanes, offsets);
        }
        left -= size;
    }
}

/* The sample's operands as they are read, side by side, pixel by pixel, where grid rows [begin, end) meet them; a plain
 * single one where it lies. */
static const float *source_of(const job *j, int64_t sample, int64_t begin, int64_t end, float *scratch) {
    const flrp_product *p = j->p;
    const flrp_axis *rows = &p->rows;
    const int64_t at = sample * p->src_h * p->src_w * p->src_c;
    if (!j->copies) return j->operands[0].data + at;
    if (!rows->taps) return scratch;
    const int64_t first = flrp_max(0, begin * rows->step + rows->offsets[0]) * p->src_w;
    const int64_t last = flrp_min(p->src_h, (end - 1) * rows->step + rows->offsets[rows->taps - 1] + 1) * p->src_w;
    for (int64_t part = 0; part < p->parts && first < last; part++) {
        const flrp_operand *o = &j->operands[part];
        j->kernels->gather(last - first, p->src_c, o->data + at + first * p->src_c,
                           o->bound ? o->bound + first * p->src_c : 0, o->read,
                           scratch + first * j->k + part * p->src_c, j->k);
    }
    return scratch;
}

static void run_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const flrp_product *p = j->p;
    const flrp_axis *rows = &p->rows;
    const int64_t sample = task / j->row_blocks, begin = task % j->row_blocks * ROWS_PER_TASK;
    const int64_t end = flrp_min(begin + ROWS_PER_TASK, rows->count);
    const int64_t width = (int64_t)j->kernels->lanes * j->kernels->panel_vectors;
    const int64_t side_size = j->panels * rows->taps * j->k * width;
    float *line = j->scratch + thread * j->size;
    const float *source = source_of(j, sample, begin, end, line + j->line);
    for (int64_t r = begin; r < end; r++) {
        const int64_t y = rows->start + r * rows->stride, at = (sample * p->dst_h + y) * p->dst_w * p->dst_c;
        int64_t first, last;
        flrp_meeting_taps(rows, r, p->src_h, &first, &last);
        for (int side = 0; side < p->sides; side++) {
            memset(line, 0, (size_t)j->line * sizeof(float));
            if (first < last)
                add_pixels(j, source + r * rows->step * p->src_w * j->k, first, last, p->weights + side * side_size, line);
            j->kernels->finish(j->epilogue, side, 1, p->dst_w * p->dst_c, 0, line + j->before, 0, &at);
        }
    }
}

int flrp_scatter_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                     const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .operands = operands, .epilogue = epilogue};
    const int64_t width = (int64_t)j.kernels->lanes * j.kernels->panel_vectors;
    j.k = p->parts * p->src_c;
    j.run = p->cols.taps * p->dst_c;
    j.panels = flrp_ceil_div(j.run, width);
    j.before = -p->cols.start * p->dst_c;
    j.line = flrp_max((p->cols.count - 1) * p->cols.stride * p->dst_c + j.run, j.before + p->dst_w * p->dst_c);
    j.copies = p->parts > 1 || operands[0].read != FLRP_PLAIN;
    j.size = j.line + (j.copies ? p->src_h * p->src_w * j.k : 0);
    j.row_blocks = flrp_ceil_div(p->rows.count, ROWS_PER_TASK);
    const double work = (double)samples * p->rows.count * p->src_w * p->rows.taps * j.k * j.run * p->sides;
    threads = flrp_threads_for(threads, samples * j.row_blocks, work);
    j.scratch = malloc((size_t)(threads * j.size) * sizeof(float));
    j.offsets = malloc((size_t)flrp_max(1, 2 * p->rows.taps) * sizeof(int64_t));
    const int status = j.scratch && j.offsets ? FLRP_OK : FLRP_NO_MEMORY;
    if (status == FLRP_OK) {
        for (int64_t tap = 0; tap < p->rows.taps; tap++) {
            j.offsets[tap] = p->rows.offsets[tap] * p->src_w * j.k;
            j.offsets[p->rows.taps + tap] = tap * j.k * width;
        }
        flrp_parallel(threads, samples * j.row_blocks, work, run_task, &j);
    }
    free(j.scratch);
    free(j.offsets);
    return status;
}
