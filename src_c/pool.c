/* Drivers of the pooling kernels: a task is a block of rows of one sample. */
#include "kernels.h"

#define ROWS_PER_TASK 16

typedef struct {
    const flrp_kernels *kernels;
    const flrp_window *w;
    int64_t rows, blocks, in_size, out_size; /* rows of the array that is written */
    const float *in, *scale, *factor, *x, *y; /* x, y: what a maximum was taken of, and what it is */
    int read; /* how a sum's input is, or the factor on its way back */
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
    j->kernels->sum_pool(j->w, row, rows, j->in + s * j->in_size, j->read, j->scale,
                         j->out + s * j->out_size);
}

static void sum_backward_task(void *context, int64_t task, int thread) {
    const job *j = context;
    int64_t s, row, rows;
    (void)thread;
    split(j, task, &s, &row, &rows);
    j->kernels->sum_pool_backward(j->w, row, rows, j->in + s * j->in_size, j->scale,
                                  j->factor ? j->factor + s * j->out_size : 0, j->read, j->out + s * j->out_size);
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

static int attains(float value, float maximum) { return value == maximum || value != value; }

/* What each of the elements that attain a window's maximum gets of its relevance. */
static float share(const flrp_window *w, int64_t oy, int64_t ox, int64_t c, const float *x, float maximum, float g) {
    const int64_t top = oy * w->stride_h - w->pad_top, left = ox * w->stride_w - w->pad_left;
    int64_t ties = 0;
    for (int64_t ky = 0; ky < w->kernel_h; ky++)
        for (int64_t kx = 0; kx < w->kernel_w; kx++) {
            const int64_t row = top + ky * w->dilation_h, col = left + kx * w->dilation_w;
            if (row >= 0 && row < w->in_h && col >= 0 && col < w->in_w)
                ties += attains(x[(row * w->in_w + col) * w->channels + c], maximum);
        }
    return g / (float)ties;
}

/* Every pixel asks its windows, the last one first, and counts their ties anew: this convention need not be fast. */
static void max_share_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const flrp_window *w = j->w;
    const int64_t reach_h = (w->kernel_h - 1) * w->dilation_h + 1, reach_w = (w->kernel_w - 1) * w->dilation_w + 1;
    int64_t s, first, rows;
    (void)thread;
    split(j, task, &s, &first, &rows);
    const float *x = j->x + s * j->out_size, *y = j->y + s * j->in_size, *g = j->in + s * j->in_size;
    float *out = j->out + s * j->out_size;
    for (int64_t i = first * w->in_w * w->channels; i < (first + rows) * w->in_w * w->channels; i++) {
        const int64_t c = i % w->channels, pixel = i / w->channels;
        const int64_t row = pixel / w->in_w + w->pad_top, col = pixel % w->in_w + w->pad_left;
        const int64_t lowest = flrp_min(w->out_h - 1, row / w->stride_h);
        const int64_t rightmost = flrp_min(w->out_w - 1, col / w->stride_w);
        float sum = 0;
        for (int64_t oy = lowest; oy >= 0 && row - oy * w->stride_h < reach_h; oy--)
            for (int64_t ox = rightmost; ox >= 0 && col - ox * w->stride_w < reach_w; ox--) {
                if ((row - oy * w->stride_h) % w->dilation_h || (col - ox * w->stride_w) % w->dilation_w) continue;
                const int64_t at = (oy * w->out_w + ox) * w->channels + c;
                if (attains(x[i], y[at])) sum += share(w, oy, ox, c, x, y[at], g[at]);
            }
        out[i] = sum;
    }
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

void flrp_sum_pool(int isa, int threads, const flrp_window *w, int64_t samples, const flrp_operand *x,
                   const float *scale, float *out) {
    job j = {.w = w, .in = x->data, .read = x->read, .scale = scale, .out = out};
    run(isa, threads, samples, &j, 0, sum_task);
}

void flrp_sum_pool_backward(int isa, int threads, const flrp_window *w, int64_t samples, const float *g,
                            const float *scale, const flrp_operand *factor, float *out) {
    job j = {.w = w, .in = g, .scale = scale, .factor = factor->data, .read = factor->read, .out = out};
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

void flrp_max_pool_share(int threads, const flrp_window *w, int64_t samples, const float *g, const float *x,
                         const float *y, float *out) {
    job j = {.w = w, .in = g, .x = x, .y = y, .out = out};
    run(FLRP_PORTABLE, threads, samples, &j, 1, max_share_task);
}
