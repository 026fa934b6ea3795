/* Products of depthwise convolutions, in both directions: one pixel at a time, over the taps that meet data. */
#include <stdlib.h>

#include "kernels.h"

#define ROWS_PER_TASK 4

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    int64_t row_blocks, taps;
    char *scratch;
    int64_t size; /* bytes of scratch per thread: two lists of offsets, one pixel's sums */
} job;

/* Offsets of the taps in the source, from the grid point's own pixel, and in the weights; returns their number. */
static int64_t list_taps(const flrp_product *p, int64_t row0, int64_t row1, int64_t col0, int64_t col1, int64_t *x,
                         int64_t *w) {
    int64_t n = 0;
    for (int64_t i = row0; i < row1; i++)
        for (int64_t k = col0; k < col1; k++, n++) {
            x[n] = (p->rows.offsets[i] * p->src_w + p->cols.offsets[k]) * p->src_c;
            w[n] = (i * p->cols.taps + k) * p->src_c;
        }
    return n;
}

static void run_pixel(const job *j, int64_t sample, int64_t row, int64_t col, int64_t taps, const int64_t *x_offsets,
                      const int64_t *w_offsets, float *sums) {
    const flrp_product *p = j->p;
    const int64_t c = p->src_c, from = (row * p->rows.step * p->src_w + col * p->cols.step) * c;
    const int64_t at = flrp_destination(p, sample, row, col);
    for (int side = 0; side < p->sides; side++) {
        for (int64_t part = 0; part < p->parts; part++) {
            const flrp_operand *o = &j->operands[part];
            j->kernels->depthwise(c, taps, x_offsets, w_offsets, o->data + sample * p->src_h * p->src_w * c + from,
                                  o->bound ? o->bound + from : 0, o->read,
                                  p->weights + (side * p->parts + part) * j->taps * c, part > 0, sums);
        }
        j->kernels->finish(j->epilogue, side, 1, c, 0, sums, c, &at);
    }
}

static void run_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const flrp_product *p = j->p;
    int64_t *x_offsets = (int64_t *)(j->scratch + thread * j->size), *w_offsets = x_offsets + j->taps;
    const int64_t sample = task / j->row_blocks, begin = task % j->row_blocks * ROWS_PER_TASK;
    for (int64_t row = begin; row < flrp_min(begin + ROWS_PER_TASK, p->rows.count); row++) {
        int64_t row0, row1, col0 = -1, col1 = -1, taps = 0;
        flrp_meeting_taps(&p->rows, row, p->src_h, &row0, &row1);
        for (int64_t col = 0; col < p->cols.count; col++) {
            int64_t first, last;
            flrp_meeting_taps(&p->cols, col, p->src_w, &first, &last);
            if (first != col0 || last != col1)
                taps = list_taps(p, row0, row1, col0 = first, col1 = last, x_offsets, w_offsets);
            run_pixel(j, sample, row, col, taps, x_offsets, w_offsets, (float *)(w_offsets + j->taps));
        }
    }
}

int flrp_depthwise_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                       const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .operands = operands, .epilogue = epilogue};
    j.taps = p->rows.taps * p->cols.taps;
    j.row_blocks = flrp_ceil_div(p->rows.count, ROWS_PER_TASK);
    j.size = flrp_whole_lines(2 * j.taps * (int64_t)sizeof(int64_t) + p->src_c * (int64_t)sizeof(float));
    const double work = 4.0 * (double)samples * p->rows.count * p->cols.count * j.taps * p->src_c * p->parts * p->sides;
    threads = flrp_threads_for(threads, samples * j.row_blocks, work);
    j.scratch = malloc((size_t)(threads * j.size));
    if (!j.scratch) return FLRP_NO_MEMORY;
    flrp_parallel(threads, samples * j.row_blocks, work, run_task, &j);
    free(j.scratch);
    return FLRP_OK;
}
