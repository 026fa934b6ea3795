/* Drivers of the elementwise kernels: relevance maps and activations, in blocks of whole pixels. */
#include <stdatomic.h>
#include <string.h>

#include "kernels.h"

#define BLOCK 8192 /* elements per task, rounded to whole pixels */

typedef struct {
    const flrp_kernels *kernels;
    int kind;
    float parameter;
    int64_t size, channels, block, blocks, sums_stride, width; /* size: elements of one sample */
    const float *x, *y, *z, *bias, *const *constants;
    flrp_ratio ratio;
    float *a, *b;
} job;

static void split(const job *j, int64_t task, int64_t *first, int64_t *count, int64_t *sum_first) {
    const int64_t sample = task / j->blocks, at = task % j->blocks * j->block;
    *first = sample * j->size + at;
    *count = flrp_min(j->block, j->size - at);
    *sum_first = sample * j->sums_stride + at;
}

static void run(int isa, int threads, int64_t samples, job *j, flrp_task task) {
    if (!j->size) return;
    j->kernels = flrp_kernels_of(isa);
    j->block = flrp_max(1, BLOCK / j->channels) * j->channels;
    j->blocks = flrp_ceil_div(j->size, j->block);
    flrp_parallel(threads, samples * j->blocks, 4.0 * (double)samples * (double)j->size, task, j);
}

static void ratio_task(void *context, int64_t task, int thread) {
    const job *j = context;
    int64_t first, count, sum_first;
    flrp_ratio r = j->ratio;
    (void)thread;
    split(j, task, &first, &count, &sum_first);
    r.relevance += first;
    j->kernels->ratio(count, j->channels, j->x + sum_first, j->bias, &r, j->a + first);
}

void flrp_ratio_map(int isa, int threads, int64_t samples, int64_t size, int64_t channels, const float *sums,
                    int64_t sums_stride, const float *bias, const flrp_ratio *ratio, float *out) {
    job j = {.size = size, .channels = channels, .x = sums, .sums_stride = sums_stride, .bias = bias,
             .ratio = *ratio, .a = out};
    run(isa, threads, samples, &j, ratio_task);
}

static void gamma_task(void *context, int64_t task, int thread) {
    const job *j = context;
    int64_t i, count, unused;
    flrp_ratio r = j->ratio;
    (void)thread;
    split(j, task, &i, &count, &unused);
    r.relevance += i;
    j->kernels->gamma(count, j->channels, j->x + i, j->y + i, j->z + i, j->bias, j->parameter, &r, j->a + i, j->b + i);
}

void flrp_gamma_map(int isa, int threads, int64_t samples, int64_t size, int64_t channels, const float *p,
                    const float *q, const float *z, const float *bias, float gamma, const flrp_ratio *ratio,
                    float *a, float *b) {
    job j = {.size = size, .channels = channels, .x = p, .y = q, .z = z, .bias = bias, .parameter = gamma,
             .ratio = *ratio, .a = a, .b = b};
    run(isa, threads, samples, &j, gamma_task);
}

static void group_sum_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const int64_t n = j->channels / j->width;
    int64_t i, count, unused;
    (void)thread;
    split(j, task, &i, &count, &unused);
    j->kernels->group_sum(count / j->channels, n, j->width, j->x + i, j->a + i / n);
}

void flrp_group_sum(int isa, int threads, int64_t groups, int64_t n, int64_t width, const float *x, float *out) {
    job j = {.size = groups * n * width, .channels = n * width, .width = width, .x = x, .a = out};
    run(isa, threads, 1, &j, group_sum_task);
}

typedef struct {
    const flrp_kernels *kernels;
    const flrp_adam *numbers;
    int64_t n;
    const float *old, *g;
    float *m, *v, *out;
    atomic_int not_finite;
} adam_job;

static void adam_task(void *context, int64_t task, int thread) {
    adam_job *j = context;
    const int64_t i = task * BLOCK, n = flrp_min(BLOCK, j->n - i);
    (void)thread;
    if (!j->kernels->adam(n, j->numbers, j->old + i, j->g + i, j->m + i, j->v + i, j->out + i))
        atomic_store(&j->not_finite, 1);
}

int flrp_adam_step(int isa, int threads, int64_t n, const flrp_adam *a, const float *old, const float *g, float *m,
                   float *v, float *out) {
    adam_job j = {.kernels = flrp_kernels_of(isa), .numbers = a, .n = n, .old = old, .g = g, .m = m, .v = v,
                  .out = out};
    flrp_parallel(threads, flrp_ceil_div(n, BLOCK), 16.0 * (double)n, adam_task, &j);
    return !atomic_load(&j.not_finite);
}

static void activation_task(void *context, int64_t task, int thread) {
    const job *j = context;
    int64_t i, count, unused;
    (void)thread;
    split(j, task, &i, &count, &unused);
    j->kernels->activation(j->kind, j->parameter, count, j->x + i, j->a + i);
}

void flrp_activation(int isa, int threads, int kind, float parameter, int64_t size, const float *x, float *out) {
    job j = {.kind = kind, .parameter = parameter, .size = size, .channels = 1, .x = x, .a = out};
    run(isa, threads, 1, &j, activation_task);
}

static void activation_backward_task(void *context, int64_t task, int thread) {
    const job *j = context;
    int64_t i, count, unused;
    (void)thread;
    split(j, task, &i, &count, &unused);
    j->kernels->activation_backward(j->kind, j->parameter, count, j->x + i, j->y + i, j->a + i);
}

void flrp_activation_backward(int isa, int threads, int kind, float parameter, int64_t size, const float *x,
                              const float *g, float *out) {
    job j = {.kind = kind, .parameter = parameter, .size = size, .channels = 1, .x = x, .y = g, .a = out};
    run(isa, threads, 1, &j, activation_backward_task);
}

static void affine_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const float *minus = j->constants[0], *times = j->constants[1], *over = j->constants[2], *plus = j->constants[3];
    const int64_t n = j->channels;
    int64_t first, count, unused;
    (void)thread;
    split(j, task, &first, &count, &unused);
    const float *x = j->x + first;
    float *out = j->a + first;
    if (n == 1)
        for (int64_t i = 0; i < count; i++) out[i] = (x[i] - *minus) * *times / *over + *plus;
    else
        for (int64_t i = 0; i < count; i += n)
            for (int64_t c = 0; c < n; c++) out[i + c] = (x[i + c] - minus[c]) * times[c] / over[c] + plus[c];
}

void flrp_affine(int threads, int64_t size, int64_t channels, const float *x, const float *const constants[4],
                 float *out) {
    job j = {.constants = constants, .x = x, .a = out, .size = size, .channels = channels};
    run(FLRP_PORTABLE, threads, 1, &j, affine_task);
}

static void combine_task(void *context, int64_t task, int thread) {
    const job *j = context;
    int64_t first, count, unused;
    (void)thread;
    split(j, task, &first, &count, &unused);
    const float *x = j->x + first, *y = j->y + first;
    float *out = j->a + first;
    if (j->kind)
        for (int64_t i = 0; i < count; i++) out[i] = x[i] * y[i];
    else
        for (int64_t i = 0; i < count; i++) out[i] = x[i] + y[i];
}

void flrp_combine(int threads, int kind, int64_t size, const float *x, const float *y, float *out) {
    job j = {.kind = kind, .x = x, .y = y, .a = out, .size = size, .channels = 1};
    run(FLRP_PORTABLE, threads, 1, &j, combine_task);
}

typedef struct {
    const flrp_copy *c;
    const float *x;
    float *out, around;
    int64_t from_size, to_size, block, blocks, total; /* block: positions of the first axis a task, and blocks of them */
} copy_job;

static void copy_axis(const flrp_copy *c, int axis, int64_t n, const float *from, float *to) {
    const int64_t step = c->from_steps[axis], to_step = c->to_steps[axis];
    if (axis < FLRP_COPY_AXES - 1)
        for (int64_t i = 0; i < n; i++) copy_axis(c, axis + 1, c->sizes[axis + 1], from + i * step, to + i * to_step);
    else if (step == 1 && to_step == 1) memcpy(to, from, (size_t)n * sizeof(float));
    else
        for (int64_t i = 0; i < n; i++) to[i * to_step] = from[i * step];
}

static void copy_task(void *context, int64_t task, int thread) {
    const copy_job *j = context;
    const int64_t sample = task / j->blocks, at = task % j->blocks * j->block;
    (void)thread;
    copy_axis(j->c, 0, flrp_min(j->block, j->c->sizes[0] - at),
              j->x + sample * j->from_size + j->c->from_offset + at * j->c->from_steps[0],
              j->out + sample * j->to_size + j->c->to_offset + at * j->c->to_steps[0]);
}

static void fill_task(void *context, int64_t task, int thread) {
    const copy_job *j = context;
    (void)thread;
    for (int64_t i = task * BLOCK; i < flrp_min(j->total, (task + 1) * BLOCK); i++) j->out[i] = j->around;
}

void flrp_copy_run(int threads, const flrp_copy *c, int64_t samples, int64_t from_size, int64_t to_size,
                   const float *x, const float *around, float *out) {
    copy_job j = {.c = c, .x = x, .out = out, .from_size = from_size, .to_size = to_size, .total = samples * to_size};
    int64_t each = 1;
    for (int i = 1; i < FLRP_COPY_AXES; i++) each *= c->sizes[i];
    j.block = flrp_max(1, BLOCK / flrp_max(each, 1));
    j.blocks = flrp_ceil_div(c->sizes[0], j.block);
    if (around) {
        j.around = *around;
        flrp_parallel(threads, flrp_ceil_div(j.total, BLOCK), (double)j.total, fill_task, &j);
    }
    flrp_parallel(threads, samples * j.blocks, 4.0 * (double)(samples * c->sizes[0] * each), copy_task, &j);
}

static void fma_task(void *context, int64_t task, int thread) {
    const job *j = context;
    (void)task, (void)thread;
    j->kernels->fma_loop(j->size);
}

int64_t flrp_fma_loop(int isa, int threads, int64_t iterations) {
    job j = {.kernels = flrp_kernels_of(isa), .size = iterations};
    flrp_parallel(threads, threads, 1e12, fma_task, &j);
    return threads * iterations * 12 * j.kernels->lanes * 2;
}

int flrp_is_nonnegative(int64_t size, const float *x) {
    for (int64_t first = 0; first < size; first += BLOCK) {
        const int64_t last = flrp_min(size, first + BLOCK);
        int ok = 1;
        for (int64_t i = first; i < last; i++) ok &= x[i] >= 0;
        if (!ok) return 0;
    }
    return 1;
}
