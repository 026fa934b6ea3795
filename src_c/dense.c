/* Products of dense layers over their one array of weights (inputs, outputs): no packed copy for either direction, and
 * memory read once per pass. A task is a range of outputs (forward) or inputs (backward), for up to 64 samples. */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define SAMPLES 64 /* of a task: their sums stay in L2 */
#define COLUMNS 2048 /* of a task forward: long runs of every row of weights, which come from memory */
#define ROWS 48 /* of a task backward */
#define LEAST_SAMPLES 4 /* that work counts: reading the weights takes as long as their multiply-adds for so many */

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    const float *sources[2]; /* the operands as they are read */
    int64_t samples, width, pieces; /* width: outputs or inputs of a task */
    float *scratch;
} job;

static void run_side(const job *j, int side, int64_t sample, int64_t samples, int64_t first, int64_t n, float *sums) {
    const flrp_product *p = j->p;
    memset(sums, 0, (size_t)(samples * n) * sizeof(float));
    for (int64_t part = 0; part < p->parts; part++) {
        const flrp_dense *w = &p->dense[side][part];
        const float *x = j->sources[part] + sample * p->src_c;
        if (p->form == FLRP_DENSE)
            j->kernels->dense_forward(w->read, samples, p->src_c, x, p->src_c, w->weights + first, p->dst_c, n, sums);
        else
            j->kernels->dense_backward(w->read, samples, p->src_c, x, w->weights + first * p->src_c, n, sums, n);
    }
    for (int64_t s = 0; s < samples; s++) {
        const int64_t at = (sample + s) * p->dst_c;
        j->kernels->finish(j->epilogue, side, 1, n, first, sums + s * n, n, &at);
    }
}

static void run_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const int64_t sample = task / j->pieces * SAMPLES, first = task % j->pieces * j->width;
    const int64_t n = flrp_min(j->width, j->p->dst_c - first), samples = flrp_min(SAMPLES, j->samples - sample);
    for (int side = 0; side < j->p->sides; side++)
        run_side(j, side, sample, samples, first, n, j->scratch + thread * SAMPLES * j->width);
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

int flrp_dense_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                   const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .operands = operands, .epilogue = epilogue, .samples = samples};
    const double work = (double)flrp_max(samples, LEAST_SAMPLES) * p->src_c * p->dst_c * p->parts * p->sides;
    int64_t copies = 0;
    for (int64_t part = 0; part < p->parts; part++) copies += operands[part].read != FLRP_PLAIN;
    threads = flrp_threads_for(threads, p->dst_c, work);
    /* Even ranges, whole vectors wide, at least one for every thread. */
    const int64_t even = flrp_even_block(p->dst_c, p->form == FLRP_DENSE ? COLUMNS : ROWS, threads);
    j.width = flrp_ceil_div(even, j.kernels->lanes) * j.kernels->lanes;
    j.pieces = flrp_ceil_div(p->dst_c, j.width);
    j.scratch = malloc((size_t)(threads * SAMPLES * j.width + copies * samples * p->src_c) * sizeof(float));
    if (!j.scratch) return FLRP_NO_MEMORY;
    read_sources(&j, j.scratch + threads * SAMPLES * j.width);
    flrp_parallel(threads, j.pieces * flrp_ceil_div(samples, SAMPLES), work, run_task, &j);
    free(j.scratch);
    return FLRP_OK;
}
