/* Products over samples that lie side by side, [row][column][channel][sample]: as many as fill a vector, or eight.
 *
 * A vector holds one value of several samples: vectors of neighbouring columns, or of neighbouring samples, make a
 * block that shares its weights. Every sum has its terms in the order of the form that the product has for samples one
 * by one, so that results have the same bits. Terms whose weight is zero may be left out: they change nothing where
 * the other factor is finite, and where a value is not, nothing is computed, but FLRP_NOT_FINITE returned.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p;
    const flrp_lane_product *l;
    int64_t k, pixel, line; /* terms of one row tap; floats of a source pixel and a source line */
    int64_t x_place;        /* floats from one place of a block to the next, in the source */
    int64_t columns;        /* of a block, but for the last */
    int vectors;            /* of one value; if several, they are a block's places, all at one column */
    float *sums;
} job;

/* What one block works on: a weight set (of one side, or one column tap of it), outputs, row taps. */
typedef struct {
    int64_t set, output, outputs, first, last;
} range;

/* Where a block's sums go: `place` floats from one place to the next; one output after the other. */
typedef struct {
    float *out;
    int64_t place;
    int add; /* to what is there */
} target;

/* Columns from `at` on that make a block. */
static int columns(const job *j, int64_t at) { return (int)flrp_min(j->columns, j->p->cols.count - at); }

/* A long sum goes in passes over all outputs, so that the values it meets stay in L1. */
static int mode(const target *to, int64_t pass) {
    return to->add ? FLRP_LANES_ADD : pass ? FLRP_LANES_GO_ON : FLRP_LANES_SET;
}

/* Lists of terms: [set][block of outputs][pass][output][row tap]. */
static void sum_terms(const job *j, const float *x, int places, const range *r, const target *to) {
    const flrp_lane_product *l = j->l;
    const int64_t stops = j->p->rows.taps + 1;
    flrp_lane_lists t = {.terms = l->terms, .outputs = r->outputs, .step = stops, .span = r->last - r->first, .x = x,
                         .x_place = j->x_place, .out = to->out, .out_row = l->width, .out_place = to->place};
    for (int64_t pass = 0; pass < l->passes; pass++) {
        t.starts = l->starts + ((r->set * j->p->dst_c + r->output) * l->passes + pass * r->outputs) * stops + r->first;
        t.mode = mode(to, pass);
        j->kernels->lane_lists(places, &t);
    }
}

/* The weights of a block from `output` on, and how far each term's are from the next's. */
static void find_weights(const job *j, const range *r, int64_t output, flrp_lane_block *t) {
    const int64_t outs = j->p->dst_c, terms = j->p->rows.taps * j->k, panel = output / j->l->panel * j->l->panel;
    t->w_step = flrp_min(j->l->panel, outs - panel);
    t->w = j->p->weights + (r->set * outs + panel) * terms + r->first * j->k * t->w_step + output - panel;
}

static void sum_blocks(const job *j, const float *x, int places, const range *r, const target *to) {
    const flrp_lane_product *l = j->l;
    const int64_t even = flrp_min(r->outputs, l->panel);
    const int64_t rows_of[3] = {0, flrp_even_block(even, FLRP_LANE_ROWS, 1), flrp_even_block(even, FLRP_LANE_ROWS / 2, 1)};
    flrp_lane_block t = {.offsets = l->offsets + r->first * l->segments, .segments = (r->last - r->first) * l->segments,
                         .x_step = l->width, .x_place = j->x_place, .out_row = l->width, .out_place = to->place};
    for (int64_t pass = 0, k = 0; pass < l->passes; pass++, k += t.length) {
        t.length = l->length * (pass + 1) / l->passes - k;
        t.mode = mode(to, pass);
        for (int v = 0, places_at_once; v < places; v += places_at_once) {
            places_at_once = places - v > 1 ? 2 : 1;
            t.x = x + k * l->width + v * j->x_place;
            for (int64_t i = 0, rows; i < r->outputs; i += rows) {
                rows = flrp_min(rows_of[places_at_once], r->outputs - i); /* all of one panel */
                find_weights(j, r, r->output + i, &t);
                t.w += k * t.w_step;
                t.out = to->out + i * l->width + v * to->place;
                j->kernels->lane_block((int)rows, places_at_once, &t);
            }
        }
    }
}

static void sum(const job *j, const float *x, int columns, const range *r, const target *to) {
    const int places = j->vectors > 1 ? j->vectors : columns;
    if (j->l->terms) sum_terms(j, x, places, r, to);
    else sum_blocks(j, x, places, r, to);
}

/* The sums of a block, then the epilogue. at: where its first column's outputs go, step: from one column to the next. */
static void run_block(const job *j, const float *x, int columns, const range *r, const flrp_epilogue *e, int side,
                      int64_t at, int64_t step) {
    const int64_t width = j->l->width, n = r->outputs * width;
    const target to = {j->sums, j->vectors > 1 ? j->kernels->lanes : n, 0};
    int64_t offsets[FLRP_LANE_PLACES];
    if (r->first < r->last) sum(j, x, columns, r, &to);
    else memset(j->sums, 0, (size_t)(columns * n) * sizeof(float));
    for (int c = 0; c < columns; c++) offsets[c] = at + c * step;
    if (step == n && !e->bias) j->kernels->finish(e, side, 1, columns * n, r->output * width, j->sums, 0, offsets);
    else j->kernels->finish(e, side, columns, n, r->output * width, j->sums, n, offsets);
}

/* Destination pixels, column block by column block, so that source rows stay in L1 from one row to the next. */
static void run_gather(const job *j, const float *source, const flrp_epilogue *e) {
    const flrp_product *p = j->p;
    const int64_t start = (p->cols.taps ? p->cols.offsets[0] : 0) - j->l->first, pixel = p->dst_c * j->l->width;
    for (int64_t c = 0, n; c < p->cols.count; c += n) {
        n = columns(j, c);
        for (int64_t row = 0; row < p->rows.count; row++) {
            const float *x = source + row * p->rows.step * j->line + (c * p->cols.step + start) * j->pixel;
            const int64_t y = p->rows.start + row * p->rows.stride, z = p->cols.start + c * p->cols.stride;
            range r = {0};
            flrp_meeting_taps(&p->rows, row, p->src_h, &r.first, &r.last);
            for (r.set = 0; r.set < p->sides; r.set++)
                for (r.output = 0; r.output < p->dst_c; r.output += r.outputs) {
                    r.outputs = flrp_min(j->l->block, p->dst_c - r.output);
                    run_block(j, x, (int)n, &r, e, (int)r.set, (y * p->dst_w + z) * pixel, p->cols.stride * pixel);
                }
        }
    }
}

/* Source pixels of one row's reach, added to a line of the destination, as in scatter.c: each of its pixels has its
 * column taps in their order, since blocks come from the right, where its first taps are. All taps of a block in turn,
 * so that the source rows stay in L1. */
static void add_to_line(const job *j, const float *source, range r, int side, float *line) {
    const flrp_product *p = j->p;
    const int64_t pixel = p->dst_c * j->l->width, step = p->cols.stride * pixel;
    for (int64_t block = flrp_ceil_div(p->cols.count, j->columns) - 1; block >= 0; block--)
        for (int64_t tap = 0; tap < p->cols.taps; tap++) {
            const int64_t c = block * j->columns;
            const target to = {line + c * step + tap * pixel, j->vectors > 1 ? j->kernels->lanes : step, 1};
            r.set = side * p->cols.taps + tap;
            sum(j, source + c * j->pixel, columns(j, c), &r, &to);
        }
}

static void run_scatter(const job *j, const float *source, const flrp_epilogue *e, float *line, int64_t line_size) {
    const flrp_product *p = j->p;
    const int64_t pixel = p->dst_c * j->l->width;
    for (int64_t row = 0; row < p->rows.count; row++) {
        const int64_t at = (p->rows.start + row * p->rows.stride) * p->dst_w * pixel;
        range r = {.outputs = p->dst_c};
        flrp_meeting_taps(&p->rows, row, p->src_h, &r.first, &r.last);
        for (int side = 0; side < p->sides; side++) {
            memset(line, 0, (size_t)line_size * sizeof(float));
            if (r.first < r.last) add_to_line(j, source + row * p->rows.step * j->line, r, side, line);
            j->kernels->finish(e, side, 1, p->dst_w * pixel, 0, line - p->cols.start * pixel, 0, &at);
        }
    }
}

/* The source as it is read: where it lies if it may be read there, else a copy with its operands side by side and zeros
 * left and right. NULL where a value is not finite. */
static const float *source_of(const job *j, const flrp_operand *operands, float *copy) {
    const flrp_product *p = j->p;
    flrp_product wide = *p;
    wide.src_c = p->src_c * j->l->width;
    if (!copy) return j->kernels->is_finite(p->src_h * j->line, operands[0].data) ? operands[0].data : 0;
    for (int64_t y = 0; y < p->src_h; y++) {
        float *line = copy + y * j->line;
        flrp_copy_line(j->kernels, &wide, operands, 0, y, j->l->first, j->l->line, line);
        if (!j->kernels->is_finite(j->line, line)) return 0; /* asked while it is in L1 */
    }
    return copy;
}

int flrp_lanes_run(int isa, const flrp_product *p, const flrp_operand *operands, const flrp_epilogue *epilogue) {
    const flrp_lane_product *l = &p->lanes;
    if (l->form == FLRP_WINOGRAD) return flrp_winograd_lanes(isa, p, operands, epilogue);
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .l = l};
    const int scatter = l->form == FLRP_SCATTER;
    const int copies = p->parts > 1 || operands[0].read != FLRP_PLAIN || l->first || l->line != p->src_w;
    j.vectors = (int)(l->width / j.kernels->lanes);
    j.columns = j.vectors > 1 ? 1 : flrp_even_block(flrp_max(1, p->cols.count), FLRP_LANE_PLACES, 1);
    j.k = l->segments * l->length;
    j.pixel = p->parts * p->src_c * l->width;
    j.line = l->line * j.pixel;
    j.x_place = j.vectors > 1 ? j.kernels->lanes : (scatter ? 1 : p->cols.step) * j.pixel;
    const int64_t line = flrp_max((p->cols.count - 1) * p->cols.stride + p->cols.taps, p->dst_w - p->cols.start);
    const int64_t places = j.vectors > 1 ? 1 : FLRP_LANE_PLACES;
    const int64_t sums = (scatter ? line * p->dst_c : l->block * places) * l->width;
    void *scratch = malloc((size_t)(sums + copies * p->src_h * j.line) * sizeof(float) + FLRP_CACHE_LINE);
    if (!scratch) return FLRP_NO_MEMORY;
    j.sums = flrp_aligned(scratch);
    const float *source = source_of(&j, operands, copies ? j.sums + sums : 0);
    if (source && scatter) run_scatter(&j, source, epilogue, j.sums, sums);
    else if (source) run_gather(&j, source, epilogue);
    free(scratch);
    return source ? FLRP_OK : FLRP_NOT_FINITE;
}
