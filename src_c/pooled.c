/* A max pool next to a product, row by row of the product's tasks: what lies between the two, which is four times as
 * much, stays in L2. The pool's windows lie side by side.
 */
#include "kernels.h"

/* Where element `first` of an array would have to lie for its rows from there on to be in the scratch. */
static float *as_array(float *scratch, int64_t first) {
    return (float *)((uintptr_t)scratch - (uintptr_t)first * sizeof(float));
}

static int64_t image_size(const flrp_product *p) { return p->dst_h * p->dst_w * p->dst_c; }

static float *rows_as_array(const flrp_product *p, const flrp_region *r, float *scratch) {
    return as_array(scratch, r->sample * image_size(p) + r->row * p->dst_w * p->dst_c);
}

static int64_t pooled_size(const flrp_window *w) { return w->out_h * w->out_w * w->channels; }

int64_t flrp_pooled_floats(const flrp_product *p, const flrp_epilogue *e, int64_t samples, int64_t rows) {
    return e->pool.window ? (samples - 1) * image_size(p) + rows * p->dst_w * p->dst_c : 0;
}

int64_t flrp_pooled_rows(const flrp_epilogue *e, int64_t rows) {
    return e->pool.winner_out ? flrp_ceil_div(rows, e->pool.window->stride_h) * e->pool.window->stride_h : rows;
}

flrp_epilogue flrp_open_rows(const flrp_kernels *kernels, const flrp_product *p, const flrp_epilogue *e,
                             const flrp_region *r, float *scratch) {
    const flrp_window *w = e->pool.window;
    flrp_epilogue own = *e;
    if (!w) return own;
    float *rows = rows_as_array(p, r, scratch);
    if (e->pool.winner_out) own.out = rows;
    else own.ratio.relevance = rows;
    for (int64_t s = r->sample; e->pool.winner && s < r->sample + r->samples; s++)
        kernels->max_pool_backward(w, r->row, r->rows, e->ratio.relevance + s * pooled_size(w),
                                   e->pool.winner + s * pooled_size(w), rows + s * image_size(p));
    return own;
}

void flrp_close_rows(const flrp_kernels *kernels, const flrp_product *p, const flrp_epilogue *e, const flrp_region *r,
                     float *scratch) {
    const flrp_window *w = e->pool.window;
    if (!e->pool.winner_out) return;
    const int64_t first = r->row / w->stride_h, last = flrp_min(w->out_h, (r->row + r->rows) / w->stride_h);
    const float *rows = rows_as_array(p, r, scratch);
    for (int64_t s = r->sample; s < r->sample + r->samples; s++)
        kernels->max_pool(w, first, last - first, rows + s * image_size(p), e->out + s * pooled_size(w),
                          e->pool.winner_out + s * pooled_size(w));
}

void flrp_fetch_pooled(const flrp_epilogue *e, const flrp_region *next, int64_t steps, flrp_fetch *fetches) {
    const flrp_window *w = e->pool.window;
    if (!e->pool.winner) return;
    const int64_t line = w->out_w * w->channels, first = flrp_min(w->out_h, next->row / w->stride_h);
    const int64_t last = flrp_min(w->out_h, flrp_ceil_div(next->row + next->rows, w->stride_h));
    const int64_t at = next->sample * pooled_size(w) + first * line;
    const int64_t bytes = ((next->samples - 1) * pooled_size(w) + (last - first) * line) * (int64_t)sizeof(float);
    fetches[0] = flrp_fetch_rows(e->ratio.relevance + at, bytes, 0, 1, steps);
    fetches[1] = flrp_fetch_rows(e->pool.winner + at, bytes, 0, 1, steps);
}
