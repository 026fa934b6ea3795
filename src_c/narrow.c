/* Products of few output channels over long lines: lanes run along the columns, and output channels are a block's rows.
 *
 * A task copies the source lines it needs, as they are read, each channel to a plane of its own with zeros left and
 * right: neighbouring columns are neighbours there, whatever the tap. The results of a line, one run for each side and
 * channel, are turned to channels last and go through the epilogue. Every sum has its terms in the wide form's order.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    flrp_cut cut;
    int64_t outs, width;        /* rows of results: of all sides; floats of one: whole vectors */
    int64_t line, plane, image; /* floats of a source line of one channel, of all lines, of all channels */
    int64_t source, size;       /* floats per thread: source lines, and all */
    /* segments of the reduction axis, row tap by row tap: in the weights, and in the first line's planes */
    int64_t *a_offsets, *b_offsets, row_segments, length;
    float *scratch;
} job;

static void plan_scratch(job *j) {
    const flrp_product *p = j->p;
    const int64_t lanes = j->kernels->lanes, lines = (j->cut.block_rows - 1) * p->rows.step + flrp_span(&p->rows);
    j->outs = p->sides * p->dst_c;
    j->width = flrp_ceil_div(p->cols.count, lanes) * lanes;
    j->line = p->cols.count - 1 + flrp_span(&p->cols); /* columns are one apart */
    j->plane = (flrp_ceil_div(lines * j->line, 16) | 1) * 16; /* odd, so that they share no set of L1 */
    j->image = j->plane * p->src_c * p->parts;
    j->source = j->cut.block_samples * j->image + FLRP_MAX_VECTORS * lanes; /* vectors are loaded past a line's end */
    const int64_t others = 2 * p->dst_c * j->width; /* the bias of a line, and one side's results, channels last */
    j->size = flrp_ceil_div(j->source + others + j->outs * j->width, 16) * 16;
}

/* A segment for each tap, or for each of its channels where these are few: then weights are one after the other. */
static int plan_segments(job *j) {
    const flrp_product *p = j->p;
    const int64_t taps = p->rows.taps * p->cols.taps, channels = p->parts * p->src_c;
    const int single = flrp_by_element(taps, channels);
    const int64_t each = single ? channels : 1, count = taps * each;
    int64_t *offsets = malloc((size_t)flrp_max(2 * count, 1) * sizeof(int64_t));
    if (!offsets) return FLRP_NO_MEMORY;
    j->b_offsets = offsets;
    j->a_offsets = single ? 0 : offsets + count;
    j->row_segments = p->cols.taps * each;
    j->length = single ? 1 : channels;
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = i / j->row_segments, col = i % j->row_segments / each;
        offsets[i] = (p->rows.offsets[row] - p->rows.offsets[0]) * j->line + col * flrp_spacing(&p->cols) +
                     i % each * j->plane;
        offsets[count + i] = i * j->length * j->outs;
    }
    return FLRP_OK;
}

static void copy_line(const job *j, int64_t sample, int64_t y, float *dst) {
    const flrp_product *p = j->p;
    const int64_t x = flrp_first_source(&p->cols, 0), c = p->src_c;
    int64_t begin, end;
    flrp_clip(x, j->line, p->src_w, &begin, &end);
    const int64_t in_sample = (y * p->src_w + x + begin) * c, at = sample * p->src_h * p->src_w * c + in_sample;
    for (int64_t part = 0; part < p->parts; part++, dst += c * j->plane) {
        const flrp_operand *o = &j->operands[part];
        if (end > begin) j->kernels->transpose(end - begin, c, o->data + at, c, dst + begin, j->plane);
        for (int64_t k = 0; k < c; k++) {
            float *line = dst + k * j->plane;
            for (int64_t n = 0; n < begin; n++) line[n] = 0; /* few: memset would take longer */
            for (int64_t n = end; n < j->line; n++) line[n] = 0;
            if (o->read == FLRP_PLAIN) continue;
            for (int64_t n = begin; n < end; n++)
                line[n] = flrp_read(line[n], o->bound ? o->bound + in_sample + (n - begin) * c + k : 0, o->read);
        }
    }
}

static void copy_source(const job *j, const flrp_region *r, float *dst) {
    const flrp_axis *rows = &j->p->rows;
    const int64_t y = flrp_first_source(rows, r->row);
    int64_t first, last; /* lines outside the data stay as they are: row taps that would read them do not run */
    flrp_clip(y, (r->rows - 1) * rows->step + flrp_span(rows), j->p->src_h, &first, &last);
    for (int64_t s = 0; s < r->samples; s++)
        for (int64_t l = first; l < last; l++) copy_line(j, r->sample + s, y + l, dst + s * j->image + l * j->line);
}

/* The sums of a line of pixels, `width` floats for each side and channel. Inlined, its loops would lack registers:
 * short lines take 3 % longer. */
__attribute__((noinline)) static void run_tiles(const job *j, const float *source, int64_t row, float *sums) {
    const flrp_product *p = j->p;
    const flrp_kernels *kernels = j->kernels;
    const int64_t cols = p->cols.count, outs = j->outs, width = j->width;
    const float *a[FLRP_MAX_ROWS];
    float acc[FLRP_MAX_TILE] __attribute__((aligned(64)));
    int64_t first, last;
    flrp_meeting_taps(&p->rows, row, p->src_h, &first, &last);
    const int64_t begin = first * j->row_segments;
    const float *weights = p->weights + (j->a_offsets ? 0 : begin * outs);
    flrp_tile t = {.a = a, .length = j->length, .a_step = outs, .b_step = j->plane,
                   .a_offsets = j->a_offsets ? j->a_offsets + begin : 0, .b_offsets = j->b_offsets + begin,
                   .segments = (last - first) * j->row_segments};
    for (int64_t c = 0; c < cols; c += FLRP_MAX_VECTORS * kernels->lanes)
        for (int64_t o = 0, size; o < outs; o += size) {
            const int64_t vectors = flrp_min(FLRP_MAX_VECTORS, flrp_ceil_div(cols - c, kernels->lanes));
            const int64_t lanes = vectors * kernels->lanes, most = kernels->narrow_rows[vectors - 1];
            size = flrp_ceil_div(outs - o, flrp_ceil_div(outs - o, most));
            for (int64_t m = 0; m < size; m++) a[m] = weights + o + m;
            t.b = source + c;
            kernels->tile((int)size, (int)vectors, &t, acc);
            for (int64_t m = 0; m < size; m++)
                memcpy(sums + (o + m) * width + c, acc + m * lanes, (size_t)lanes * sizeof(float));
        }
}

/* The epilogue of a line of pixels, channels last; neighbouring pixels are one run. */
static void finish_line(const job *j, const flrp_epilogue *e, int side, int64_t sample, int64_t row,
                        const float *line) {
    const flrp_product *p = j->p;
    const int64_t run = p->cols.stride == 1 ? p->cols.count : 1, n = run * p->dst_c;
    for (int64_t c = 0; c < p->cols.count; c += run) {
        const int64_t at = flrp_destination(p, sample, row, c);
        j->kernels->finish(e, side, 1, n, 0, line + c * p->dst_c, n, &at);
    }
}

static void run_line(const job *j, const flrp_epilogue *e, const float *source, int64_t sample, int64_t row,
                     float *sums) {
    const int64_t outs = j->p->dst_c;
    float *line = sums + j->outs * j->width;
    run_tiles(j, source, row, sums);
    for (int side = 0; side < j->p->sides; side++, sums += outs * j->width) {
        if (outs > 1) j->kernels->transpose(outs, j->p->cols.count, sums, j->width, line, outs);
        finish_line(j, e, side, sample, row, outs > 1 ? line : sums);
    }
}

static void run_task(void *context, int64_t task, int thread) {
    const job *j = context;
    const flrp_product *p = j->p;
    const flrp_region r = flrp_region_of(&j->cut, p, task);
    float *source = j->scratch + thread * j->size, *bias = source + j->source, *sums = bias + p->dst_c * j->width;
    flrp_epilogue e = *j->epilogue;
    if (e.bias) { /* repeated for all pixels of a run */
        for (int64_t i = 0; i < p->cols.count * p->dst_c; i++) bias[i] = e.bias[i % p->dst_c];
        e.bias = bias;
    }
    copy_source(j, &r, source);
    for (int64_t s = 0; s < r.samples; s++)
        for (int64_t i = 0; i < r.rows; i++)
            run_line(j, &e, source + s * j->image + i * p->rows.step * j->line, r.sample + s, r.row + i, sums);
}

int flrp_narrow_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                    const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .operands = operands, .epilogue = epilogue};
    const double work = flrp_work(p, samples);
    threads = flrp_threads_for(threads, INT64_MAX, work);
    j.cut = flrp_cut_grid(j.kernels, p, samples, 1, threads);
    plan_scratch(&j);
    if (plan_segments(&j)) return FLRP_NO_MEMORY;
    void *scratch = malloc((size_t)(threads * j.size) * sizeof(float) + FLRP_CACHE_LINE);
    const int status = scratch ? FLRP_OK : FLRP_NO_MEMORY;
    if (status == FLRP_OK) {
        j.scratch = flrp_aligned(scratch);
        flrp_parallel(threads, j.cut.sample_blocks * j.cut.row_blocks, work, run_task, &j);
    }
    free(scratch);
    free(j.b_offsets);
    return status;
}
