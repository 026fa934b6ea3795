/* Drivers of the pooling kernels: a task is a block of rows of one sample. */
#include "kernels.h"

#define ROWS_PER_TASK 16

typedef struct {
    const flrp_kernels *kernels;
    const flrp_window *w;
    int64_t rows, blocks, in_size, out_size; /* rows of the array that is written */
    const float *in, *scale, *factor;
    const int32_t *winner;
    float *out;
    int32_t *winner_out;
} job;

static void split(const job *j, int64_t task, int64_t *sample, int64_t *row, int64_t *rows) {
    *sample = task / j->blocks;
    *row = task % j->blocks * ROWS_PER_TASK;
    *rows = flrp_min(ROWS_PER_TASK, j->rows - *row);
}

static void sum_task(void *context, int64_t task, int thread) {
    const job *j = context;
    int64_t s, row, rows;
    (void)thread;
    split(j, task, &s, &row, &rows);
    j->kernels->sum_pool(j->w, row, rows, j->in + s * j->in_size, j->scale, j->out + s * j->out_size);
}

static void sum_backward_task(void *context, int64_t task, int thread) {
    const job *j = context;
    int64_t s, row, rows;
    (void)thread;
    split(j, task, &s, &row, &rows);
    j->kernels->sum_pool_backward(j->w, row, rows, j->in + s * j->in_size, j->scale,
                                  j->factor ? j->factor + s * j->out_size : 0, j->out + s * j->out_size);
}

static void max_task(void *context, int64_t task, int thread) {
    const job *j = context;
    int64_t s, row, rows;
    (void)thread;
    split(j, task, &s, &row, &rows);
    j->kernels->max_pool(j->w, row, rows, j->in + s * j->in_size, j->out + s * j->out_size,
                         j->winner_out + s * j->out_size);
}

static void max_backward_task(void *context, int64_t task, int thread) {
    const job *j = context;
    int64_t s, row, rows;
    (void)thread;
    split(j, task, &s, &row, &rows);
    j->kernels->max_pool_backward(j->w, row, rows, j->in + s * j->in_size, j->winner + s * j->in_size,
                                  j->out + s * j->out_size);
}

static void run(int isa, int threads, int64_t samples, job *j, int backward, flrp_task task) {
    const flrp_window *w = j->w;
    const int64_t whole = w->in_h * w->in_w * w->channels, pooled = w->out_h * w->out_w * w->channels;
    j->kernels = flrp_kernels_of(isa);
    j->rows = backward ? w->in_h : w->out_h;
    j->blocks = flrp_ceil_div(j->rows, ROWS_PER_TASK);
    j->in_size = backward ? pooled : whole;
    j->out_size = backward ? whole : pooled;
    flrp_parallel(threads, samples * j->blocks, 8.0 * (double)samples * (double)whole, task, j);
}

void flrp_sum_pool(int isa, int threads, const flrp_window *w, int64_t samples, const float *x, const float *scale,
                   float *out) {
    job j = {.w = w, .in = x, .scale = scale, .out = out};
    run(isa, threads, samples, &j, 0, sum_task);
}

void flrp_sum_pool_backward(int isa, int threads, const flrp_window *w, int64_t samples, const float *g,
                            const float *scale, const float *factor, float *out) {
    job j = {.w = w, .in = g, .scale = scale, .factor = factor, .out = out};
    run(isa, threads, samples, &j, 1, sum_backward_task);
}

void flrp_max_pool(int isa, int threads, const flrp_window *w, int64_t samples, const float *x, float *out,
                   int32_t *winner) {
    job j = {.w = w, .in = x, .out = out, .winner_out = winner};
    run(isa, threads, samples, &j, 0, max_task);
}

void flrp_max_pool_backward(int isa, int threads, const flrp_window *w, int64_t samples, const float *g,
                            const int32_t *winner, float *out) {
    job j = {.w = w, .in = g, .winner = winner, .out = out};
    run(isa, threads, samples, &j, 1, max_backward_task);
}
