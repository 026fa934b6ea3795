/* Weight gradients: rows of (tap, input channel) times panels of outputs, reduced over samples and positions.
 *
 * The reduction runs over the samples in chunks whose size depends on the layer's shape alone, and no element's sum
 * is split over threads, so that thread counts change no bit. Work is split by weight rows. Where there are few weights
 * a chunk is a section: programs may sum up sections apart, and add up what they find in order.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define CHUNK_TARGET (128 * 1024) /* bytes of one chunk's input and gradient, to stay in L2 */
#define FEW_WEIGHTS 16384         /* and several positions: sections would cost more than they bring else */

typedef struct {
    const flrp_kernels *kernels;
    const flrp_window *w;
    int64_t groups, outputs, samples, chunk;
    const float *x; /* [sample][block_h][block_w][channels], padding included */
    const float *g, *last_g; /* [sample][position][output]; those of the last samples, which may be read past their end */
    int64_t block_h, block_w, whole; /* whole: samples before those that are read from last_g */
    float *copy_x, *copy_g; /* owned; NULL where the caller's array serves */
    int64_t *a_offsets, *b_offsets, segments, length, a_step; /* of one whole chunk */
    int64_t blocks; /* blocks of up to 6 weight rows, per group */
    float *out;
} job;

static int64_t weight_rows(const job *j) { return j->w->kernel_h * j->w->kernel_w * (j->w->channels / j->groups); }

/* Offset of a weight row's input from a window's first pixel. */
static int64_t row_offset(const job *j, int64_t group, int64_t row) {
    const int64_t group_c = j->w->channels / j->groups, tap = row / group_c;
    const int64_t y = tap / j->w->kernel_w * j->w->dilation_h, x = tap % j->w->kernel_w * j->w->dilation_w;
    return (y * j->block_w + x) * j->w->channels + group * group_c + row % group_c;
}

/* One block of weight rows over one chunk of samples, added to the output. */
static void run_block(const job *j, int64_t group, int64_t first, int64_t last, int64_t sample, int64_t samples) {
    const flrp_window *w = j->w;
    const int lanes = j->kernels->lanes, panel = lanes * j->kernels->panel_vectors;
    const int64_t group_out = j->outputs / j->groups, positions = w->out_h * w->out_w;
    const float *g = sample < j->whole ? j->g + sample * positions * j->outputs
                                       : j->last_g + (sample - j->whole) * positions * j->outputs;
    const flrp_epilogue add = {.out = j->out};
    float acc[FLRP_MAX_TILE] __attribute__((aligned(64)));
    int64_t offsets[FLRP_MAX_ROWS];
    const float *a[FLRP_MAX_ROWS];
    flrp_tile t = {.a = a, .a_offsets = j->a_offsets, .b_offsets = j->b_offsets, .segments = j->segments,
                   .length = j->length, .a_step = j->a_step, .b_step = j->outputs};
    if (positions == 1) t.length = samples;
    else t.segments = samples * w->out_h;
    for (int64_t m = first; m < last; m++) {
        a[m - first] = j->x + sample * j->block_h * j->block_w * w->channels + row_offset(j, group, m);
        offsets[m - first] = m * j->outputs + group * group_out;
    }
    for (int64_t n = 0; n < group_out; n += panel) {
        const int64_t count = flrp_min(panel, group_out - n), vectors = flrp_ceil_div(count, lanes);
        t.b = g + group * group_out + n;
        j->kernels->tile((int)(last - first), (int)vectors, &t, acc);
        j->kernels->finish(&add, 1, (int)(last - first), count, n, acc, vectors * lanes, offsets);
    }
}

static void run_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const int64_t rows = weight_rows(j), group = task / j->blocks, block = task % j->blocks;
    const int64_t first = rows * block / j->blocks, last = rows * (block + 1) / j->blocks;
    (void)thread;
    for (int64_t s = 0; s < j->samples; s += j->chunk)
        run_block(j, group, first, last, s, flrp_min(j->chunk, j->samples - s));
}

int64_t flrp_gradient_chunk(const flrp_window *w, int64_t groups, int64_t outputs) {
    const int64_t positions = w->out_h * w->out_w, weights = w->kernel_h * w->kernel_w * w->channels / groups * outputs;
    const int64_t bytes = (w->in_h * w->in_w * w->channels + positions * outputs) * (int64_t)sizeof(float);
    if (positions > 1 && weights <= FEW_WEIGHTS)
        return flrp_max(1, flrp_min(FLRP_SECTION, 2 * CHUNK_TARGET / flrp_max(bytes, 1)));
    return flrp_max(1, CHUNK_TARGET / flrp_max(bytes, 1));
}

/* Segments are rows of positions; where each sample has one position, samples themselves. */
static int plan_segments(job *j) {
    const flrp_window *w = j->w;
    const int single = w->out_h * w->out_w == 1;
    const int64_t per_sample = j->block_h * j->block_w * w->channels;
    j->segments = single ? 1 : flrp_min(j->chunk, j->samples) * w->out_h;
    j->length = single ? j->chunk : w->out_w;
    j->a_step = single ? per_sample : w->stride_w * w->channels;
    j->a_offsets = malloc((size_t)(2 * j->segments) * sizeof(int64_t));
    if (!j->a_offsets) return FLRP_NO_MEMORY;
    j->b_offsets = j->a_offsets + j->segments;
    for (int64_t i = 0; i < j->segments; i++) {
        j->a_offsets[i] = i / w->out_h * per_sample + i % w->out_h * w->stride_h * j->block_w * w->channels;
        j->b_offsets[i] = i * w->out_w * j->outputs;
    }
    return FLRP_OK;
}

/* The part of the padded input that windows touch; the caller's own array where that is inside it. */
static int plan_input(job *j, const float *x) {
    const flrp_window *w = j->w;
    const int64_t c = w->channels;
    j->block_h = (w->out_h - 1) * w->stride_h + (w->kernel_h - 1) * w->dilation_h + 1;
    j->block_w = (w->out_w - 1) * w->stride_w + (w->kernel_w - 1) * w->dilation_w + 1;
    if (!w->pad_top && !w->pad_left && j->block_h <= w->in_h && j->block_w <= w->in_w) {
        j->block_h = w->in_h;
        j->block_w = w->in_w;
        j->x = x;
        return FLRP_OK;
    }
    j->copy_x = calloc((size_t)(j->samples * j->block_h * j->block_w * c), sizeof(float));
    if (!j->copy_x) return FLRP_NO_MEMORY;
    const int64_t lines = flrp_min(w->in_h, j->block_h - w->pad_top), run = flrp_min(w->in_w, j->block_w - w->pad_left);
    for (int64_t s = 0; s < j->samples && run > 0; s++)
        for (int64_t y = 0; y < lines; y++)
            memcpy(j->copy_x + ((s * j->block_h + y + w->pad_top) * j->block_w + w->pad_left) * c,
                   x + (s * w->in_h + y) * w->in_w * c, (size_t)(run * c) * sizeof(float));
    j->x = j->copy_x;
    return FLRP_OK;
}

/* Whole vectors are loaded. What they hold beyond a group's outputs is not used, and belongs to the outputs that follow
 * everywhere but at the end of the array: unless there is room, the last chunks are read from a copy that has some. */
static int plan_gradient(job *j, const float *g, int room) {
    const int64_t size = j->w->out_h * j->w->out_w * j->outputs, lanes = j->kernels->lanes;
    j->g = g;
    j->whole = j->samples;
    if (room || j->outputs / j->groups % lanes == 0) return FLRP_OK;
    j->whole = flrp_max(0, j->samples - 1 - flrp_ceil_div(lanes, size)) / j->chunk * j->chunk;
    const int64_t last = j->samples - j->whole;
    j->copy_g = malloc((size_t)(last * size + lanes) * sizeof(float));
    if (!j->copy_g) return FLRP_NO_MEMORY;
    memcpy(j->copy_g, g + j->whole * size, (size_t)(last * size) * sizeof(float));
    memset(j->copy_g + last * size, 0, (size_t)lanes * sizeof(float));
    j->last_g = j->copy_g;
    return FLRP_OK;
}

int flrp_channel_sum(int isa, int64_t samples, int64_t rows, int64_t channels, const float *g, float *out) {
    float *section = malloc((size_t)flrp_max(channels, 1) * sizeof(float));
    if (!section) return FLRP_NO_MEMORY;
    memset(out, 0, (size_t)channels * sizeof(float));
    for (int64_t s = 0; s < samples; s += FLRP_SECTION) {
        const int64_t some = flrp_min(FLRP_SECTION, samples - s);
        flrp_kernels_of(isa)->channel_sum(some * rows, channels, g + s * rows * channels, section);
        for (int64_t c = 0; c < channels; c++) out[c] += section[c];
    }
    free(section);
    return FLRP_OK;
}

void flrp_take(int64_t n, const int32_t *places, const float *values, float *out) {
    for (int64_t i = 0; i < n; i++) out[i] = values[places[i]];
}

int flrp_adam_step(int isa, int64_t n, const flrp_adam *a, const float *old, const float *g, float *m, float *v,
                   float *out) {
    return flrp_kernels_of(isa)->adam(n, a, old, g, m, v, out);
}

int flrp_weight_gradient(int isa, int threads, const flrp_window *w, int64_t groups, int64_t outputs,
                         int64_t samples, const float *x, const float *g, int room, float *out) {
    job j = {.kernels = flrp_kernels_of(isa), .w = w, .groups = groups, .outputs = outputs, .samples = samples,
             .chunk = flrp_gradient_chunk(w, groups, outputs), .out = out};
    const int64_t rows = weight_rows(&j);
    memset(out, 0, (size_t)(rows * outputs) * sizeof(float));
    if (!samples) return FLRP_OK;
    const int status = plan_input(&j, x) || plan_gradient(&j, g, room) || plan_segments(&j);
    if (!status) {
        j.blocks = flrp_ceil_div(rows, FLRP_MAX_ROWS);
        const double work = (double)samples * w->out_h * w->out_w * rows * outputs;
        flrp_parallel(threads, groups * j.blocks, work, run_task, &j);
    }
    free(j.a_offsets);
    free(j.copy_x);
    free(j.copy_g);
    return status ? FLRP_NO_MEMORY : FLRP_OK;
}
