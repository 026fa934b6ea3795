/* The second way to run a product back to the input: each source pixel times all taps, added where the taps fall.
 *
 * On small maps a product over destination pixels meets many taps outside the data. Here every multiply-add counts;
 * what remains is to add runs of (column tap, channel), which lie side by side in a channels-last image. A task is
 * one whole sample, so that the order of every sum is fixed: blocks of pixels in scan order, panel by panel.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

typedef struct {
    const flrp_kernels *kernels;
    const flrp_product *p;
    const flrp_operand *operands;
    const flrp_epilogue *epilogue;
    int64_t k, run, panels;        /* reduction, floats of one row of taps, panels in it */
    int64_t image_h, image_w, size; /* destination with the padding around it, in pixels; floats */
    int64_t zero;                   /* segment offsets: one segment at 0 */
    int64_t *places; /* of each source pixel's first tap in the image */
    float *scratch;
    int64_t scratch_size;
} job;

/* acc rows onto the image: row m at image + offsets[m]. */
static void add_rows(const job *j, float *image, int64_t rows, int64_t n, const float *acc, int64_t stride,
                     const int64_t *offsets) {
    flrp_epilogue add = {.out = image};
    j->kernels->finish(&add, 1, (int)rows, n, 0, acc, stride, offsets);
}

/* Blocks of up to 6 source pixels times every panel of every row of taps. */
static void run_blocks(const job *j, const float *source, const float *weights, float *image) {
    const flrp_product *p = j->p;
    const int64_t lanes = j->kernels->lanes, width = lanes * j->kernels->panel_vectors;
    const int64_t pixels = p->rows.count * p->cols.count;
    float acc[FLRP_MAX_TILE] __attribute__((aligned(64)));
    int64_t offsets[FLRP_MAX_ROWS];
    flrp_tile t = {.a_offsets = &j->zero, .b_offsets = &j->zero, .segments = 1, .length = j->k, .a_step = 1,
                   .b_step = width};
    for (int64_t done = 0; done < pixels;) {
        const int64_t blocks = flrp_ceil_div(pixels - done, FLRP_MAX_ROWS), size = flrp_ceil_div(pixels - done, blocks);
        for (int64_t m = 0; m < size; m++) t.a[m] = source + (done + m) * j->k;
        t.b = weights;
        for (int64_t tap = 0; tap < p->rows.taps; tap++)
            for (int64_t panel = 0; panel < j->panels; panel++, t.b += j->k * width) {
                const int64_t n = flrp_min(width, j->run - panel * width), vectors = flrp_ceil_div(n, lanes);
                const int64_t shift = p->rows.offsets[tap] * j->image_w * p->dst_c + panel * width;
                for (int64_t m = 0; m < size; m++) offsets[m] = j->places[done + m] + shift;
                j->kernels->tile((int)size, (int)vectors, &t, acc);
                add_rows(j, image, size, n, acc, vectors * lanes, offsets);
            }
        done += size;
    }
}

/* The image without its padding goes through the epilogue to the output, row by row. */
static void store(const job *j, int side, int64_t sample, const float *image) {
    const flrp_product *p = j->p;
    for (int64_t y = 0; y < p->dst_h; y++) {
        const int64_t at = (sample * p->dst_h + y) * p->dst_w * p->dst_c;
        const float *row = image + ((y - p->rows.start) * j->image_w - p->cols.start) * p->dst_c;
        j->kernels->finish(j->epilogue, side, 1, p->dst_w * p->dst_c, 0, row, 0, &at);
    }
}

static void run_task(void *context, int64_t sample, int thread) {
    const job *j = context;
    const flrp_product *p = j->p;
    const int64_t pixels = p->src_h * p->src_w, width = (int64_t)j->kernels->lanes * j->kernels->panel_vectors;
    float *image = j->scratch + thread * j->scratch_size, *source = image + j->size;
    const float *pixel = j->operands[0].data + sample * pixels * p->src_c;
    if (p->parts > 1) {
        for (int64_t part = 0; part < p->parts; part++)
            j->kernels->gather(pixels, p->src_c, j->operands[part].data + sample * pixels * p->src_c, 0,
                               j->operands[part].read, source + part * p->src_c, j->k);
        pixel = source;
    }
    for (int side = 0; side < p->sides; side++) {
        memset(image, 0, (size_t)j->size * sizeof(float));
        run_blocks(j, pixel, p->weights + side * p->rows.taps * j->panels * j->k * width, image);
        store(j, side, sample, image);
    }
}

int flrp_scatter_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                     const flrp_epilogue *epilogue) {
    job j = {.kernels = flrp_kernels_of(isa), .p = p, .operands = operands, .epilogue = epilogue};
    const int64_t width = (int64_t)j.kernels->lanes * j.kernels->panel_vectors;
    j.k = p->parts * p->src_c;
    j.run = p->cols.taps * p->dst_c;
    j.panels = flrp_ceil_div(j.run, width);
    j.image_h = flrp_max((p->rows.count - 1) * p->rows.stride + p->rows.offsets[p->rows.taps - 1] + 1,
                         p->dst_h - p->rows.start);
    j.image_w = flrp_max((p->cols.count - 1) * p->cols.stride + p->cols.taps, p->dst_w - p->cols.start);
    j.size = j.image_h * j.image_w * p->dst_c;
    j.scratch_size = j.size + (p->parts > 1 ? p->src_h * p->src_w * j.k : 0);
    const double work = (double)samples * p->src_h * p->src_w * j.k * p->rows.taps * j.run * p->sides;
    threads = flrp_threads_for(threads, samples, work);
    const int64_t pixels = p->rows.count * p->cols.count;
    j.scratch = malloc((size_t)(threads * j.scratch_size) * sizeof(float));
    j.places = malloc((size_t)pixels * sizeof(int64_t));
    if (j.scratch && j.places) {
        for (int64_t i = 0; i < pixels; i++)
            j.places[i] = (i / p->cols.count * p->rows.stride * j.image_w + i % p->cols.count * p->cols.stride) * p->dst_c;
        flrp_parallel(threads, samples, work, run_task, &j);
    }
    const int status = j.scratch && j.places ? FLRP_OK : FLRP_NO_MEMORY;
    free(j.scratch);
    free(j.places);
    return status;
}
