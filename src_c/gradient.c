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
#define PIECE_TARGET (24 * 1024)  /* bytes of what some positions touch: they stay in L1 for all blocks of a task */
#define LEAST_PIECE 16            /* positions: for fewer, sums would be read and written too often */
#define SUMS_TARGET (64 * 1024)   /* bytes of these blocks' sums, to stay in L2 */
#define MOST_LINES 9              /* of a block: those of a 3x3 kernel of one channel */
#define DENSE_CHUNK 256           /* samples of one position: their sums stay in registers */
#define FEW_WEIGHTS 16384         /* sections of more would cost more than they bring */

typedef struct {
    const flrp_kernels *kernels;
    const flrp_window *w;
    int64_t groups, outputs, samples, chunk;
    const float *x; /* [sample][block_h][block_w][channels], padding included */
    const float *g, *last_g; /* [sample][position][output]; those of the last samples, with room past their end */
    int64_t block_h, block_w, whole; /* whole: samples before those that are read from last_g */
    float *copy_x, *copy_g; /* owned; NULL where the caller's array serves */
    void *own_sums;
    int64_t *offsets; /* of the windows of all positions of a chunk */
    int64_t block_lines, line_blocks; /* lines of a block, at most; blocks of so many lines */
    int64_t blocks, tasks, piece; /* blocks of weight rows, and tasks, per group; positions at a time */
    int64_t block_size, sums_size; /* floats of a block's sums, and of a task's */
    float *sums, *out;
} job;

/* Weight rows whose inputs are neighbours. */
static int64_t line_rows(const job *j) {
    const flrp_window *w = j->w;
    return j->groups == 1 && w->dilation_w == 1 ? w->kernel_w * w->channels : w->channels / j->groups;
}

static int64_t weight_rows(const job *j) { return j->w->kernel_h * j->w->kernel_w * (j->w->channels / j->groups); }

static int64_t lines(const job *j) { return weight_rows(j) / line_rows(j); }

/* A block of weight rows: of one line, or of several short ones. */
typedef struct {
    int lines, rows;
    int64_t line, first; /* row of the line */
} block;

static block block_of(const job *j, int64_t i) {
    const int64_t line = i / j->line_blocks * j->block_lines, piece = i % j->line_blocks, rows = line_rows(j);
    const int64_t first = rows * piece / j->line_blocks;
    return (block){.lines = (int)flrp_min(j->block_lines, lines(j) - line), .line = line, .first = first,
                   .rows = (int)(rows * (piece + 1) / j->line_blocks - first)};
}

/* Offset of a line's input from a window's first pixel. */
static int64_t line_offset(const job *j, int64_t group, int64_t line) {
    const flrp_window *w = j->w;
    const int64_t tap = line * line_rows(j) / (w->channels / j->groups);
    const int64_t y = tap / w->kernel_w * w->dilation_h, x = tap % w->kernel_w * w->dilation_w;
    return (y * j->block_w + x) * w->channels + group * (w->channels / j->groups);
}

/* Positions [first, last) of the chunk from `sample` on, added to a block's sums, panel by panel. */
static void run_block(const job *j, int64_t group, int64_t i, int64_t sample, int64_t first, int64_t last,
                      float *sums) {
    const flrp_window *w = j->w;
    const int64_t group_out = j->outputs / j->groups, positions = w->out_h * w->out_w;
    const int64_t lanes = j->kernels->lanes, panel = lanes * j->kernels->panel_vectors;
    const block b = block_of(j, i);
    const float *g = sample < j->whole ? j->g + sample * positions * j->outputs
                                       : j->last_g + (sample - j->whole) * positions * j->outputs;
    const float *a[FLRP_LINES_ROWS];
    const flrp_lines part = {.a = a, .offsets = j->offsets + first, .count = last - first, .b_step = j->outputs,
                             .more = first > 0};
    for (int l = 0; l < b.lines; l++)
        a[l] = j->x + sample * j->block_h * j->block_w * w->channels + line_offset(j, group, b.line + l) + b.first;
    for (int64_t n = 0; n < group_out; n += panel, sums += FLRP_LINES_ROWS * panel) {
        flrp_lines t = part;
        t.b = g + first * j->outputs + group * group_out + n;
        j->kernels->lines(b.lines, b.rows, (int)flrp_ceil_div(flrp_min(panel, group_out - n), lanes), &t, sums);
    }
}

/* A block's sums of a chunk, the first to the output, others added to it. */
static void finish_block(const job *j, int64_t group, int64_t i, int64_t sample, const float *sums) {
    const int64_t group_out = j->outputs / j->groups;
    const int64_t lanes = j->kernels->lanes, panel = lanes * j->kernels->panel_vectors;
    const block b = block_of(j, i);
    const flrp_epilogue add = {.out = j->out};
    int64_t offsets[FLRP_LINES_ROWS];
    for (int m = 0; m < b.lines * b.rows; m++)
        offsets[m] = ((b.line + m / b.rows) * line_rows(j) + b.first + m % b.rows) * j->outputs + group * group_out;
    for (int64_t n = 0; n < group_out; n += panel, sums += FLRP_LINES_ROWS * panel) {
        const int64_t count = flrp_min(panel, group_out - n);
        j->kernels->finish(&add, sample > 0, b.lines * b.rows, count, n, sums, flrp_ceil_div(count, lanes) * lanes,
                           offsets);
    }
}

/* Some blocks of a group. Some positions at a time go through all of them, so that these come from L2 once. */
static void run_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const int64_t group = task / j->tasks, piece = task % j->tasks;
    const int64_t begin = j->blocks * piece / j->tasks, end = j->blocks * (piece + 1) / j->tasks;
    float *sums = j->sums + thread * j->sums_size;
    for (int64_t sample = 0; sample < j->samples; sample += j->chunk) {
        const int64_t positions = flrp_min(j->chunk, j->samples - sample) * j->w->out_h * j->w->out_w;
        for (int64_t first = 0; first < positions; first += j->piece)
            for (int64_t block = begin; block < end; block++)
                run_block(j, group, block, sample, first, flrp_min(positions, first + j->piece),
                          sums + (block - begin) * j->block_size);
        for (int64_t block = begin; block < end; block++)
            finish_block(j, group, block, sample, sums + (block - begin) * j->block_size);
    }
}

int64_t flrp_gradient_chunk(const flrp_window *w, int64_t groups, int64_t outputs) {
    const int64_t positions = w->out_h * w->out_w, weights = w->kernel_h * w->kernel_w * w->channels / groups * outputs;
    if (positions == 1) return DENSE_CHUNK;
    const int64_t bytes = (w->in_h * w->in_w * w->channels + positions * outputs) * (int64_t)sizeof(float);
    if (weights <= FEW_WEIGHTS)
        return flrp_max(1, flrp_min(FLRP_SECTION, 2 * CHUNK_TARGET / flrp_max(bytes, 1)));
    return flrp_max(1, CHUNK_TARGET / flrp_max(bytes, 1));
}

static int plan_offsets(job *j) {
    const flrp_window *w = j->w;
    const int64_t row = w->stride_h * j->block_w * w->channels, samples = flrp_min(j->chunk, j->samples);
    int64_t *next = j->offsets = malloc((size_t)(samples * w->out_h * w->out_w) * sizeof(int64_t));
    if (!next) return FLRP_NO_MEMORY;
    for (int64_t s = 0; s < samples; s++)
        for (int64_t y = 0; y < w->out_h; y++)
            for (int64_t x = 0; x < w->out_w; x++)
                *next++ = s * j->block_h * j->block_w * w->channels + y * row + x * w->stride_w * w->channels;
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

static void plan_lines(job *j) {
    const int64_t panel = (int64_t)j->kernels->lanes * j->kernels->panel_vectors, rows = line_rows(j);
    const int64_t vectors = flrp_ceil_div(flrp_min(panel, j->outputs / j->groups), j->kernels->lanes);
    const int64_t most = j->kernels->line_rows[vectors - 1];
    j->block_lines = vectors > 1 ? 1 : rows == 1 ? MOST_LINES : flrp_max(1, flrp_min(3, most / rows));
    j->line_blocks = flrp_ceil_div(rows, most);
    j->blocks = flrp_ceil_div(lines(j), j->block_lines) * j->line_blocks;
}

static int plan_blocks(job *j, int threads) {
    const flrp_window *w = j->w;
    const int64_t panel = (int64_t)j->kernels->lanes * j->kernels->panel_vectors;
    const int64_t floats = j->block_h * j->block_w * w->channels + w->out_h * w->out_w * j->outputs;
    j->piece = flrp_max(LEAST_PIECE, PIECE_TARGET / (int64_t)sizeof(float) * w->out_h * w->out_w / floats);
    j->block_size = FLRP_LINES_ROWS * panel * flrp_ceil_div(j->outputs / j->groups, panel);
    const int64_t fit = flrp_max(1, SUMS_TARGET / (j->block_size * (int64_t)sizeof(float)));
    const int64_t most = flrp_even_block(j->blocks, fit, threads);
    /* Where no other block would find it in L1, or its sums would cross L1 for few multiply-adds. */
    if (most == 1 || w->out_h * w->out_w == 1) j->piece = INT64_MAX / 2;
    j->tasks = flrp_ceil_div(j->blocks, most);
    j->sums_size = most * j->block_size;
    j->own_sums = malloc((size_t)(threads * j->sums_size) * sizeof(float) + FLRP_CACHE_LINE);
    if (!j->own_sums) return FLRP_NO_MEMORY;
    j->sums = flrp_aligned(j->own_sums);
    return FLRP_OK;
}

int flrp_weight_gradient(int isa, int threads, const flrp_window *w, int64_t groups, int64_t outputs,
                         int64_t samples, const float *x, const float *g, int room, float *out) {
    job j = {.kernels = flrp_kernels_of(isa), .w = w, .groups = groups, .outputs = outputs, .samples = samples,
             .chunk = flrp_gradient_chunk(w, groups, outputs), .out = out};
    const int64_t rows = weight_rows(&j);
    plan_lines(&j);
    if (!samples) {
        memset(out, 0, (size_t)(rows * outputs) * sizeof(float));
        return FLRP_OK;
    }
    const double work = (double)samples * w->out_h * w->out_w * rows * outputs;
    threads = flrp_threads_for(threads, groups * j.blocks, work);
    const int status = plan_input(&j, x) || plan_gradient(&j, g, room) || plan_offsets(&j) || plan_blocks(&j, threads);
    if (!status) flrp_parallel(threads, groups * j.tasks, work, run_task, &j);
    free(j.offsets);
    free(j.copy_x);
    free(j.copy_g);
    free(j.own_sums);
    return status ? FLRP_NO_MEMORY : FLRP_OK;
}
