/* The table of kernels that each instruction set fills, and what the drivers share. Private to src_c. */
#ifndef FLRP_KERNELS_H
#define FLRP_KERNELS_H

#include "fastlrp.h"

#define FLRP_MAX_ROWS 6
#define FLRP_MAX_VECTORS 4
#define FLRP_TILES 8 /* side by side that are transformed at once, for what neighbours share */
#define FLRP_MAX_TILE (6 * 64) /* floats in the largest block of accumulators */

/* A block of accumulators: acc[m][n] = sum over segments s and k < length of
 * a[m][a_offsets[s] + k * a_step] * b[b_offsets[s] + k * b_step + n], in this order, fused where the
 * instruction set can. Products forward and backward are this with other strides.
 * Short segments would cost more than their sums. They are given one by one, without b_offsets (NULL) where b moves
 * by b_step from one to the next, or without a_offsets (NULL) where a moves by a_step. */
typedef struct {
    const float *const *a; /* one for each row */
    const float *b;
    const int64_t *a_offsets, *b_offsets;
    int64_t segments, length, a_step, b_step;
    int more; /* go on with what is in acc */
    uintptr_t soon;     /* the address of what is read soon */
    int64_t soon_lines; /* its cache lines that each segment with both offsets sends for */
} flrp_tile;

/* Sums over outputs of g (samples, length) times rows of weights, both `stride` apart: lanes first, in
 * acc[s * acc_stride + row * lanes + lane]; with the last segment of outputs across the lanes, added to
 * out[s * out_stride + row]. */
#define FLRP_DOT_ROWS 4 /* as v_sum4 takes */
typedef struct {
    const float *g, *w;
    int64_t length, stride; /* whole vectors, filled up with 0 */
    int more, last;
    float *acc;
    int64_t acc_stride;
    int rows; /* that count */
    float *out;
    int64_t out_stride;
} flrp_dots;

/* Weight gradients: acc[l * rows + m][n] (+)= sum over s of a[l][offsets[s] + m] * b[s * b_step + n]. */
#define FLRP_LINES_ROWS 13 /* of all lines, at most */
typedef struct {
    const float *const *a; /* one for each line */
    const float *b;
    const int64_t *offsets;
    int64_t count, b_step;
    int more;
} flrp_lines;

/* A block of sums over samples that lie side by side, a vector each: out[m * out_row + v * out_place] is the sum over
 * segments s and k < length of w[(s * length + k) * w_step + m] * x[offsets[s] + k * x_step + v * x_place], in this
 * order; it begins with 0 or goes on with what is there, or its whole is added to that. */
enum { FLRP_LANES_SET, FLRP_LANES_GO_ON, FLRP_LANES_ADD };
#define FLRP_LANE_ROWS 12
typedef struct {
    const float *w, *x;
    const int64_t *offsets;
    int64_t segments, length, w_step, x_step, x_place;
    float *out;
    int64_t out_row, out_place;
    int mode;
} flrp_lane_block;

/* The same for lists of terms: out[i * out_row + v * out_place] is the sum over terms
 * [starts[i * step], starts[i * step + span]) of their weight * x[their offset + v * x_place]. */
typedef struct {
    const flrp_term *terms;
    const int64_t *starts;
    int64_t outputs, step, span;
    const float *x;
    int64_t x_place;
    float *out;
    int64_t out_row, out_place;
    int mode;
} flrp_lane_lists;

/* Kernels cannot fail and know nothing of threads; sizes may be anything >= 0. */
typedef struct {
    const char *name;
    int lanes;
    int panel_vectors;  /* vectors in one panel of packed weights */
    /* rows x vectors: a wide block, up to FLRP_MAX_ROWS rows of up to panel_vectors, or a narrow one, up to
     * narrow_rows[vectors - 1] rows of output channels; acc: [rows][vectors * lanes] */
    int narrow_rows[FLRP_MAX_VECTORS];
    void (*tile)(int rows, int vectors, const flrp_tile *t, float *acc);
    /* Rows of a line in a block of so many vectors, at most. Several lines, up to 9, make a block of one vector alone,
     * with at most line_rows[0] rows of all of them. */
    int line_rows[FLRP_MAX_VECTORS];
    void (*lines)(int lines, int rows, int vectors, const flrp_lines *t, float *acc);
    /* Epilogue on `rows` rows of n accumulators of a side: channels from `channel` on of the pixels whose outputs begin
     * at offsets[m]. */
    void (*finish)(const flrp_epilogue *e, int side, int rows, int64_t n, int64_t channel, const float *acc,
                   int64_t acc_stride, const int64_t *offsets);
    /* Copy pixels of n channels, read as `read`, dst_stride apart. */
    void (*gather)(int64_t pixels, int64_t n, const float *x, const float *bound, int read, float *dst,
                   int64_t dst_stride);
    /* dst[c * dst_stride + r] = src[r * src_stride + c] */
    void (*transpose)(int64_t rows, int64_t cols, const float *src, int64_t src_stride, float *dst, int64_t dst_stride);
    /* Up to FLRP_TILES tiles of n channels to their values at out + places[i], and 16 sums to 2 x 2 outputs
     * (winograd.h). */
    void (*winograd_input)(int taps, int tiles, int64_t n, const float *x, int64_t line, float *out,
                           const int64_t *places);
    void (*winograd_output)(int vectors, const float *m, int64_t plane, int sign, float *out);
    /* sums[c] (+)= the sum over taps of x[x_offsets[t] + c], as it is read, * w[w_offsets[t] + c]. */
    void (*depthwise)(int64_t channels, int64_t taps, const int64_t *x_offsets, const int64_t *w_offsets,
                      const float *x, const float *bound, int read, const float *w, int add, float *sums);
    /* Sums z (samples, cols) += x (samples, inputs) * w (inputs, cols), and out (samples, rows) += g (samples, outputs)
     * * rows of w; `read` tells how the weights are. */
    void (*dense_forward)(int read, int64_t samples, int64_t inputs, const float *x, int64_t x_stride, const float *w,
                          int64_t stride, int64_t cols, float *z);
    void (*dense_backward)(int read, int64_t samples, int64_t outputs, const float *g, const float *w, int64_t rows,
                           float *out, int64_t out_stride);
    /* For many samples: out[rows][panel_vectors * lanes] of (rows, cols) weights; and dots of so many samples. */
    void (*copy_panel)(int read, int64_t rows, int64_t cols, const float *w, int64_t stride, float *out);
    int dot_samples;
    void (*dots)(int samples, const flrp_dots *t);
    void (*lane_block)(int rows, int places, const flrp_lane_block *t);
    void (*lane_lists)(int places, const flrp_lane_lists *t);
    int (*is_finite)(int64_t n, const float *x); /* n: whole vectors */
    void (*ratio)(int64_t n, int64_t channels, const float *sums, const float *bias, const flrp_ratio *r, float *out);
    void (*gamma)(int64_t n, int64_t channels, const float *p, const float *q, const float *z, const float *bias,
                  float gamma, const flrp_ratio *r, float *a, float *b);
    void (*channel_sum)(int64_t rows, int64_t channels, const float *g, float *out);
    /* width: 1, or whole vectors */
    void (*group_sum)(int64_t groups, int64_t n, int64_t width, const float *x, float *out);
    /* Rows [row, row + rows) of one sample's output (forward) or input (backward). */
    void (*sum_pool)(const flrp_window *w, int64_t row, int64_t rows, const float *x, int read, const float *scale,
                     float *out);
    void (*sum_pool_backward)(const flrp_window *w, int64_t row, int64_t rows, const float *g, const float *scale,
                              const float *factor, int read, float *out);
    void (*max_pool)(const flrp_window *w, int64_t row, int64_t rows, const float *x, float *out, int32_t *winner);
    void (*max_pool_backward)(const flrp_window *w, int64_t row, int64_t rows, const float *g, const int32_t *winner,
                              float *out);
    void (*fma_loop)(int64_t iterations); /* 12 vector multiply-adds an iteration, in registers */
    void (*activation)(int kind, float parameter, int64_t n, const float *x, float *out);
    void (*activation_backward)(int kind, float parameter, int64_t n, const float *x, const float *g, float *out);
    int (*adam)(int64_t n, const flrp_adam *a, const float *old, const float *g, float *m, float *v, float *out);
} flrp_kernels;

/* Products of numbers split into limbs (amx.c, winograd_amx.c): 32 channels make a chunk, 32 outputs a panel, 16 pairs
 * of channels times 32 outputs one limb of weights: [16 outputs][pair][output][2], twice. */
#define FLRP_CHUNK 32
#define FLRP_LIMB_OUTPUTS 32
#define FLRP_LIMB_ROWS 16 /* most positions in one tile; a block has two tiles, one where one is left */
#define FLRP_LIMB_SIZE (FLRP_CHUNK * FLRP_LIMB_OUTPUTS)
#define FLRP_MAX_PARTS 2
#define FLRP_MAX_FETCHES 8 /* at once */

/* Lines of memory to send for into L2, some in every step of a block: rows of `row` bytes, `pitch` bytes apart. */
typedef struct {
    const char *next, *row_end, *end;
    int64_t row, pitch, lines; /* lines: in a step */
} flrp_fetch;

/* acc[tile][m * acc_row + n] = sum over chunks and taps of a[tile * below + chunk * a_chunk + taps[tap] + limb * a_limb +
 * m * FLRP_CHUNK + channel] times b[chunk][tap][limb], over the products of limbs that count (body/limbs.h), in this
 * order. Tiles are FLRP_LIMB_ROWS positions apart in acc, whatever their number of them. */
typedef struct {
    const uint16_t *a, *b;
    const int64_t *taps;
    int64_t below, tap_count, chunks, a_chunk, a_limb, acc_row;
    int tiles, limbs;
    int more;   /* add to what is in acc */
    int finite; /* whether a further limb of a is limb 0 with 0 in place of NaN and infinities, as it has some */
    flrp_fetch *fetches[FLRP_MAX_FETCHES];
    int fetch_count;
    void (*aside)(void *context); /* NULL, or called once a step: other work in the shadow of the tiles */
    void *context;
} flrp_limb_block;

typedef struct {
    void (*start)(int rows), (*stop)(void); /* on each thread, around its blocks; rows: positions in a tile */
    /* Channels of pixels, `step` floats apart, to dst[chunk * dst_chunk + limb * dst_limb + pixel * FLRP_CHUNK + c],
     * the last chunk filled up with 0. Returns whether a value is NaN or infinite. */
    int (*split)(int limbs, int64_t pixels, int64_t channels, const float *x, int64_t step, uint16_t *dst,
                 int64_t dst_chunk, int64_t dst_limb);
    void (*block)(const flrp_limb_block *t, float *acc);
    /* `split` of one pixel of (x[0] + down x[1]) + right (x[2] + down x[3]), where down and right are 1 or -1: a value of
     * F(2x2, 3x3). */
    int (*split_winograd)(int limbs, int64_t channels, const float *const x[4], float down, float right, uint16_t *dst,
                          int64_t dst_chunk, int64_t dst_limb);
    /* out[i * 4 * out_pixel + q * out_pixel + n] += factors[q] * acc[i][n] for the four pixels q of each tile. */
    void (*add_winograd)(int64_t tiles, const float *acc, const float *factors, float *out, int64_t out_pixel);
    void (*tile_loop)(int64_t iterations); /* 4 products of tiles an iteration, in registers */
} flrp_limb_kernels;

extern const flrp_kernels flrp_kernels_portable;
#ifdef FLRP_X86
extern const flrp_kernels flrp_kernels_avx2, flrp_kernels_avx512;
#endif
#ifdef FLRP_HAS_AMX
extern const flrp_limb_kernels flrp_limb_kernels_amx;
#endif
const flrp_kernels *flrp_kernels_of(int isa);
const flrp_limb_kernels *flrp_limb_kernels_of(int isa); /* NULL: none */

/* One source line from column x0 on, read through the operands, side by side; zero outside the data. */
void flrp_copy_line(const flrp_kernels *kernels, const flrp_product *p, const flrp_operand *operands, int64_t sample,
                    int64_t y, int64_t x0, int64_t width, float *dst);

/* What a task takes of a product's grid: `samples` from `sample` on, `rows` from `row` on. */
typedef struct {
    int64_t sample, samples, row, rows;
} flrp_region;

/* How the grid is cut into such tasks: rows of one sample, or several whole samples where they are small. */
typedef struct {
    int64_t samples, block_samples, block_rows, sample_blocks, row_blocks;
} flrp_cut;
/* slice: rows whose outputs stay in L2 together; tasks of more rows have a few times so many. */
flrp_cut flrp_cut_grid(const flrp_kernels *kernels, const flrp_product *p, int64_t samples, int64_t slice, int threads);
flrp_region flrp_region_of(const flrp_cut *cut, const flrp_product *p, int64_t task);

/* Tasks next to a pool (pooled.c): floats of scratch for so many samples and rows, 0 without a pool; and the rows that
 * tasks of about so many may have. A task's own epilogue works on its rows in the scratch; afterwards they are pooled. */
int64_t flrp_pooled_floats(const flrp_product *p, const flrp_epilogue *e, int64_t samples, int64_t rows);
int64_t flrp_pooled_rows(const flrp_epilogue *e, int64_t rows);
flrp_epilogue flrp_open_rows(const flrp_kernels *kernels, const flrp_product *p, const flrp_epilogue *e,
                             const flrp_region *r, float *scratch);
void flrp_close_rows(const flrp_kernels *kernels, const flrp_product *p, const flrp_epilogue *e, const flrp_region *r,
                     float *scratch);

/* In `steps` steps, what flrp_open_rows will read of the next region: two pieces of memory. */
void flrp_fetch_pooled(const flrp_epilogue *e, const flrp_region *next, int64_t steps, flrp_fetch *fetches);

int flrp_depthwise_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                       const flrp_epilogue *epilogue);
int flrp_dense_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                   const flrp_epilogue *epilogue);
int flrp_lists_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                   const flrp_epilogue *epilogue);
int flrp_lanes_run(int isa, const flrp_product *p, const flrp_operand *operands, const flrp_epilogue *epilogue);
int flrp_narrow_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                    const flrp_epilogue *epilogue);
int flrp_winograd_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                      const flrp_epilogue *epilogue);
int flrp_winograd_lanes(int isa, const flrp_product *p, const flrp_operand *operands, const flrp_epilogue *epilogue);
int flrp_scatter_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                     const flrp_epilogue *epilogue);
/* WINOGRAD with limbs. */
int flrp_winograd_limbs_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                            const flrp_epilogue *epilogue);
int flrp_limbs_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                   const flrp_epilogue *epilogue);

/* Run task(context, i, thread) for every i < tasks, as threads come to them; `work` is the number of
 * multiply-adds of the whole, so that small work is not worth a second thread. */
typedef void (*flrp_task)(void *context, int64_t i, int thread);
void flrp_parallel(int threads, int64_t tasks, double work, flrp_task task, void *context);
int flrp_threads_for(int threads, int64_t tasks, double work);

/* Around a region of so many threads (apart.c): before it, in each of its threads, after it. */
typedef struct flrp_team flrp_team;
void flrp_init_apart(void); /* once, at import */
flrp_team *flrp_keep_apart(int threads);
void flrp_enter(flrp_team *team, int thread);
void flrp_leave(flrp_team *team, int threads);

/* Memory on huge pages that a product works in, taken over from the one before: data NULL where there is none. Where
 * pages are small, what is to stay in L2 does not all find room there, as they lie anywhere. */
typedef struct {
    int64_t *block;
    float *data; /* a cache line begins here */
} flrp_scratch;
flrp_scratch flrp_take_scratch(int64_t bytes);
void flrp_give_scratch(flrp_scratch s);

#define FLRP_CACHE_LINE 64 /* bytes: no vector crosses one that starts at its own size's multiple */
static inline int64_t flrp_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t flrp_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t flrp_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
/* Bytes of whole cache lines. */
static inline int64_t flrp_whole_lines(int64_t bytes) {
    return flrp_ceil_div(bytes, FLRP_CACHE_LINE) * FLRP_CACHE_LINE;
}
static inline float flrp_read(float x, const float *bound, int read) {
    switch (read) {
    case FLRP_POSITIVE: return x < 0 ? 0 : x;
    case FLRP_NEGATIVE: return x > 0 ? 0 : x;
    case FLRP_SHIFTED: return x - *bound;
    default: return x;
    }
}
/* All of them in so many steps. */
static inline flrp_fetch flrp_fetch_rows(const void *first, int64_t row, int64_t pitch, int64_t rows, int64_t steps) {
    const char *next = first;
    const int64_t lines = rows * flrp_ceil_div(row, FLRP_CACHE_LINE);
    if (rows == 1) pitch = row; /* after it comes the end */
    return (flrp_fetch){.next = next, .row_end = next + row, .end = next + (rows - 1) * pitch + row, .row = row,
                        .pitch = pitch, .lines = flrp_ceil_div(lines, flrp_max(1, steps))};
}
/* What the epilogue of n outputs will touch: on its way from memory while they are computed. */
static inline void flrp_prefetch_ends(const flrp_epilogue *e, int side, int64_t offset, int64_t n) {
    for (int64_t i = offset; i < offset + n; i += 16) {
        __builtin_prefetch(e->out + i, 1);
        if (e->factors[side].data) __builtin_prefetch(e->factors[side].data + i);
        if (e->ratio.relevance) __builtin_prefetch(e->ratio.relevance + i);
    }
}
/* Of an axis's source: pixels from the first tap's to the last's, pixels from one tap's to the next's, and the first
 * tap's pixel at grid point i. */
static inline int64_t flrp_span(const flrp_axis *a) {
    return a->taps ? a->offsets[a->taps - 1] - a->offsets[0] + 1 : 1;
}
static inline int64_t flrp_spacing(const flrp_axis *a) { return a->taps > 1 ? a->offsets[1] - a->offsets[0] : 1; }
static inline int64_t flrp_first_source(const flrp_axis *a, int64_t i) {
    return i * a->step + (a->taps ? a->offsets[0] : 0);
}
/* Where the outputs of a grid point begin. */
static inline int64_t flrp_destination(const flrp_product *p, int64_t sample, int64_t row, int64_t col) {
    const int64_t y = p->rows.start + row * p->rows.stride, x = p->cols.start + col * p->cols.stride;
    return ((sample * p->dst_h + y) * p->dst_w + x) * p->dst_c;
}
/* Positions [*begin, *end) of n that lie in data of `size`, where the first is number `at`. */
static inline void flrp_clip(int64_t at, int64_t n, int64_t size, int64_t *begin, int64_t *end) {
    *begin = flrp_min(flrp_max(-at, 0), n);
    *end = flrp_max(*begin, flrp_min(n, size - at));
}
/* Whether a tile's segments are given one element at a time: where they are short, unless their offsets would crowd the
 * L1 cache. */
#define FLRP_SHORT_SEGMENT 16
#define FLRP_MOST_SHORT 512
static inline int flrp_by_element(int64_t segments, int64_t length) {
    return length < FLRP_SHORT_SEGMENT && segments <= FLRP_MOST_SHORT;
}
/* Multiply-adds of a product that leaves none out. */
static inline double flrp_work(const flrp_product *p, int64_t samples) {
    return (double)samples * p->rows.count * p->cols.count * p->rows.taps * p->cols.taps * p->src_c * p->parts *
           p->sides * p->dst_c / p->groups;
}
/* Taps [*first, *last) of an axis that meet data of `size` at grid point i. */
static inline void flrp_meeting_taps(const flrp_axis *a, int64_t i, int64_t size, int64_t *first, int64_t *last) {
    *first = 0, *last = a->taps;
    while (*first < *last && i * a->step + a->offsets[*first] < 0) ++*first;
    while (*last > *first && i * a->step + a->offsets[*last - 1] >= size) --*last;
}
static inline float *flrp_aligned(void *p) {
    return (float *)(((uintptr_t)p + FLRP_CACHE_LINE - 1) / FLRP_CACHE_LINE * FLRP_CACHE_LINE);
}
static inline int64_t flrp_limb_products(int64_t limbs) { return limbs * (limbs + 1) / 2; }
/* Planes of limbs as a block of tiles wants them: with several limbs, a further one is limb 0 without infinities. */
static inline int64_t flrp_stored_limbs(int64_t limbs) { return limbs + (limbs > 1); }
/* The size of blocks of at most `most` that n is cut into: as even as can be, their number a multiple of `pieces` if n
 * allows. */
static inline int64_t flrp_even_block(int64_t n, int64_t most, int64_t pieces) {
    const int64_t blocks = flrp_ceil_div(flrp_ceil_div(n, most), pieces) * pieces;
    return flrp_ceil_div(n, flrp_min(n, blocks));
}

#endif
