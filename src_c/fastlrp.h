/* fastlrp's C interface: relevance and convolution kernels on float32, channels-last arrays.
 *
 * In:  pointers and sizes that the caller has checked; arrays are C-contiguous.
 * Out: arrays that the caller has allocated. Every output element is written.
 * Not here: argument checks (shapes.py and _kernels.pyx), weights' layout (packing.py), memory that outlives a call.
 * The only failure is FLRP_NO_MEMORY; outputs are then undefined. (FLRP_NOT_FINITE does not leave a program.)
 */
#ifndef FASTLRP_H
#define FASTLRP_H

#include <stdint.h>

enum { FLRP_OK = 0, FLRP_NO_MEMORY = 1, FLRP_NOT_FINITE = 2 };

/* How a value is read: x, max(x, 0), min(x, 0), or x - bound (bound has the shape of one sample); a gate's: what it
 * would multiply passes where x > 0 (or NaN), and is 0 elsewhere. */
enum { FLRP_PLAIN, FLRP_POSITIVE, FLRP_NEGATIVE, FLRP_SHIFTED, FLRP_GATE };

typedef struct {
    const float *data; /* NULL: absent */
    const float *bound;
    int read;
} flrp_operand;

/* The stabilised quotient coefficient * relevance / s(sum), s(d) = d + epsilon * sgn(d) with sgn(0) = +1
 * (is_signed), or d + epsilon. A denominator of exactly zero gives zero. */
typedef struct {
    const float *relevance; /* NULL: no quotient is taken */
    float epsilon, coefficient;
    int is_signed;
} flrp_ratio;

typedef struct {
    int64_t in_h, in_w, channels, out_h, out_w;
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
} flrp_window;

/* A max pool, its windows side by side, next to a product of one sweep and side that writes all of its outputs. */
typedef struct {
    const flrp_window *window; /* NULL: none */
    const int32_t *winner;     /* the ratio's relevance is that of the pool's outputs, and these take it; or NULL and */
    int32_t *winner_out;       /* out and this are what the pool makes of the product's outputs */
} flrp_pooled;

/* What happens to an accumulator v of output element i, channel c, in this order:
 * v += bias[c]; v = ratio(v); v *= factors[side][i]; second side: v += out[i]; out[i] = v.
 * Absent steps are skipped. */
typedef struct {
    float *out;
    const float *bias;
    flrp_ratio ratio;
    flrp_operand factors[2]; /* one per side */
    int64_t factor_period;   /* elements of one sample, for the factors' bounds */
    int relu;                /* v = max(v, 0) at last: of one side, without quotient or factor */
    flrp_pooled pool;        /* for tiles alone */
    int stream;              /* out is written past the caches: whole vectors on lines of memory; 0 for callers */
    int sign;                /* 1: no accumulator can be negative but by rounding; -1: positive; 0: any */
} flrp_epilogue;

/* One axis of a sweep; shapes.Axis says what the numbers mean. Offsets rise evenly. */
typedef struct {
    int64_t count, step, start, stride, taps;
    const int64_t *offsets;
} flrp_axis;

/* Forms of a product; which one runs depends on the shape, the rule, the instruction set, the precision, and on how
 * many weights are zero: on no sample.
 * WIDE: lanes are output channels; weights [side][group][panel][k][panel width].
 * NARROW: few output channels, so lanes run along the columns; weights [k][side][channel].
 * k: row tap, column tap, part, channel, and every sum has its terms in this order.
 * SCATTER: source pixels times all column taps, added where these fall (scatter.c): cols then walks the source, and
 * start + stride * i is the destination of its first tap; weights [side][panel][row tap][k][panel width].
 * WINOGRAD: 3 x 3 or 5 x 5 taps one pixel apart, grid and destination alike (winograd.c); weights [side][panel][sum]
 * [part][k][panel width], transformed. With limbs, 3 x 3 taps alone (winograd_amx.c): weights in `bf16`, [side][value]
 * [panel of 32][chunk of 32 channels of all parts][limb][16 outputs][pair][output][2].
 * DEPTHWISE: as many groups as channels on both sides; weights [side][part][row tap][column tap][channel].
 * DENSE, DENSE_BACK: one pixel to one pixel, over weights that are not packed (dense.c).
 * LIMBS: every number is a sum of bf16 limbs (amx.c); one group; weights in `bf16`, those past the channels 0:
 * [side][panel of 32][part][chunk of 32 channels][row tap][column tap][limb][16 outputs][pair][output][2].
 * LISTS: one tap, weights of which many are 0 (lists.c): lanes are pixels; `lanes` has a list for [side][pass][output],
 * one segment each, of terms whose offset is k within the pass times `width`; passes of `length`.
 * LANES: lanes are samples (lanes.c): one sample here is `lanes.width` of them side by side, every value of theirs one
 * run; weights [side][column tap, for scattered sums][panel of outputs][row tap][k][output]. */
enum {
    FLRP_WIDE, FLRP_NARROW, FLRP_SCATTER, FLRP_WINOGRAD, FLRP_DEPTHWISE, FLRP_DENSE, FLRP_DENSE_BACK, FLRP_LIMBS,
    FLRP_LISTS, FLRP_LANES
};

/* One array of weights (inputs, outputs) as it is read: x, max(x, 0) or min(x, 0). */
typedef struct {
    const float *weights;
    int read;
} flrp_dense;

/* A weight that is not zero, and where its factor lies. */
typedef struct {
    int32_t offset;
    float weight;
} flrp_term;

/* What LANES has beside the weights, and LISTS in their place. */
typedef struct {
    int64_t width;         /* LANES: samples side by side; LISTS: floats from one channel's pixels to the next's */
    int form;              /* SCATTER, WINOGRAD, or another: whose order the sums have */
    int64_t line, first;   /* pixels of a source line as it is read; the first (negative: in the padding) */
    const int64_t *offsets; /* where the runs of a row tap's terms begin: [row tap][segment] */
    int64_t segments, length;
    const flrp_term *terms; /* NULL: no lists */
    const int64_t *starts;  /* in each list: [set][block of outputs][pass][output in it][row tap, and the end] */
                            /* LISTS: as above, and the end */
    int64_t passes, block;  /* passes: over the length, more than 1 only where it is one segment of one row tap */
    int64_t panel;          /* LANES: outputs in one panel of weights; the last one may have fewer */
} flrp_lane_product;

/* A product of source pixels with packed weights over a grid of destination pixels. */
typedef struct {
    flrp_axis rows, cols;
    int64_t src_h, src_w, src_c; /* channels of one operand, all groups */
    int64_t dst_h, dst_w, dst_c;
    int64_t groups, parts; /* parts: 1 or 2 operands side by side on the reduction axis */
    int64_t sides;         /* 1 or 2 weight sets over the same operands, each with its factor; their sum is stored */
    const float *weights;  /* packed as the form wants it */
    flrp_dense dense[2][2]; /* for the dense forms: [side][part] */
    const uint16_t *bf16;  /* for LIMBS, and for WINOGRAD with limbs, like weights */
    int form, limbs;       /* limbs: 1 to 3; 0: none */
    flrp_lane_product lanes;
} flrp_product;

/* reference.ACTIVATIONS says what each does, by the same names; `parameter` is the slope, the bound, or alpha. */
enum {
    FLRP_RELU, FLRP_LEAKY_RELU, FLRP_CAPPED_RELU, FLRP_AT_LEAST, FLRP_AT_MOST, FLRP_ABS, FLRP_TANH, FLRP_SIGMOID,
    FLRP_SOFTPLUS, FLRP_ELU, FLRP_SELU, FLRP_GELU, FLRP_GELU_TANH, FLRP_SILU, FLRP_HARDSWISH, FLRP_HARDSIGMOID,
    FLRP_MISH
};

/* Instruction sets, best last. */
enum { FLRP_PORTABLE, FLRP_AVX2, FLRP_AVX512, FLRP_AMX, FLRP_ISA_COUNT };

int flrp_supported(int isa); /* compiled in, and both the processor and the system allow it */
const char *flrp_isa_name(int isa);
int flrp_lanes(int isa);       /* floats in one vector */
int flrp_panel_width(int isa); /* output channels in one panel of packed weights */
int flrp_has_limbs(int isa);   /* whether it runs products of that form */

void *flrp_allocate(int64_t bytes); /* NULL where there is no memory; given back by free() */
/* The content of an allocated block is not needed any more: until it is written to, the system may take its pages. */
void flrp_leave_idle(void *block, int64_t bytes);
/* Workers of the calling thread's last region that were woken on another processor than its; -1: the system's affair. */
int flrp_began_apart(void);
int flrp_processors(void); /* that threads are bound to; 0: they are not */
void flrp_init(void); /* once, at import: a child of fork runs serially from then on */

int flrp_product_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                     const flrp_epilogue *epilogue);

/* Weight gradient: out[ky, kx, c, o] = sum over samples and positions of x at the tap times g.
 * out has shape (kh, kw, channels / groups, outputs). room: a vector may be read past the end of g. */
int flrp_weight_gradient(int isa, int threads, const flrp_window *w, int64_t groups, int64_t outputs,
                         int64_t samples, const float *x, const float *g, int room, float *out);
/* Samples whose sum is one term of the whole: by shape alone. */
int64_t flrp_gradient_chunk(const flrp_window *w, int64_t groups, int64_t outputs);
#define FLRP_SECTION 8 /* of channel sums, and of the gradients of few weights whose samples are not large */

/* out[c] = sum over rows of g[sample, row, c]: the gradient of a bias. */
int flrp_channel_sum(int isa, int64_t samples, int64_t rows, int64_t channels, const float *g, float *out);

/* values[s][i] = sum over taps of factors[s][t] * weights[t][i], in double precision. */
void flrp_winograd_weights(int64_t sums, int64_t taps, int64_t n, const double *factors, const float *weights,
                           float *values);

/* out[i] = values[places[i]]: weights as a form has them. */
void flrp_take(int64_t n, const int32_t *places, const float *values, float *out);

/* A step of Adam for n parameters: m = beta1 m + g, v = beta2 v + g^2, out = keep old - rate m / (sqrt(v) + floor).
 * Returns whether m, v and out are finite. */
typedef struct {
    float beta1, beta2, rate, floor, keep;
} flrp_adam;
int flrp_adam_step(int isa, int threads, int64_t n, const flrp_adam *a, const float *old, const float *g, float *m,
                   float *v, float *out);

/* x is read plainly or as its positive part; so is the factor (of the input's shape, or absent), which multiplies the
 * result, or as a gate. */
void flrp_sum_pool(int isa, int threads, const flrp_window *w, int64_t samples, const flrp_operand *x,
                   const float *scale, float *out);
void flrp_sum_pool_backward(int isa, int threads, const flrp_window *w, int64_t samples, const float *g,
                            const float *scale, const flrp_operand *factor, float *out);
/* winner: index of the winning tap in scan order, first on ties; a NaN wins, the last of several. */
void flrp_max_pool(int isa, int threads, const flrp_window *w, int64_t samples, const float *x, float *out,
                   int32_t *winner);
void flrp_max_pool_backward(int isa, int threads, const flrp_window *w, int64_t samples, const float *g,
                            const int32_t *winner, float *out);
/* The same where ties share g equally, NaNs being ties of a NaN: x is the input, y its maxima. */
void flrp_max_pool_share(int threads, const flrp_window *w, int64_t samples, const float *g, const float *x,
                         const float *y, float *out);

/* out = quotient of relevance and sums[sample * sums_stride + i] + bias[i % channels]; bias may be NULL. */
void flrp_ratio_map(int isa, int threads, int64_t samples, int64_t size, int64_t channels, const float *sums,
                    int64_t sums_stride, const float *bias, const flrp_ratio *ratio, float *out);
/* Gamma's pointwise map from p, q, z (rules.md, canonical form) to a and b. */
void flrp_gamma_map(int isa, int threads, int64_t samples, int64_t size, int64_t channels, const float *p,
                    const float *q, const float *z, const float *bias, float gamma, const flrp_ratio *ratio,
                    float *a, float *b);
/* out[group * width + lane] = sum over i < n of x[(group * n + i) * width + lane]. */
void flrp_group_sum(int isa, int threads, int64_t groups, int64_t n, int64_t width, const float *x, float *out);
void flrp_activation(int isa, int threads, int kind, float parameter, int64_t size, const float *x, float *out);
void flrp_activation_backward(int isa, int threads, int kind, float parameter, int64_t size, const float *x,
                              const float *g, float *out);
/* out = (x - minus) * times / over + plus, `channels` of each constant, which repeat along the elements. */
void flrp_affine(int threads, int64_t size, int64_t channels, const float *x, const float *const constants[4],
                 float *out);
/* out = x + y (kind 0) or x * y (1). */
void flrp_combine(int threads, int kind, int64_t size, const float *x, const float *y, float *out);
/* Elements of one sample, by the position in each axis: to[to_offset + sum i * to_step] = from[from_offset + sum i *
 * from_step]. Steps may be 0 in `from`, where values repeat. */
#define FLRP_COPY_AXES 6
typedef struct {
    int64_t sizes[FLRP_COPY_AXES], from_steps[FLRP_COPY_AXES], to_steps[FLRP_COPY_AXES];
    int64_t from_offset, to_offset;
} flrp_copy;
/* around: what `out` holds where nothing is copied to; NULL: what it held. */
void flrp_copy_run(int threads, const flrp_copy *c, int64_t samples, int64_t from_size, int64_t to_size,
                   const float *x, const float *around, float *out);
/* Multiply-adds in registers on every thread, for measuring the machine's limit; returns operations done. */
int64_t flrp_fma_loop(int isa, int threads, int64_t iterations);
int64_t flrp_tile_loop(int isa, int threads, int64_t iterations); /* the same on bf16 tiles; 0: it has none */
int flrp_is_nonnegative(int64_t size, const float *x); /* false where any value is NaN */

/* Programs (program.c): steps over slots. A slot holds one value of every sample, in memory that the caller hands
 * over (offset < 0) or in the arena, where slots that are not needed at the same time share their place. */
typedef struct {
    int64_t size, offset; /* floats of one sample; of the arena, for one sample */
    int in_scratch;       /* of the stretch that alone uses it: offset is in floats of one pixel */
    int64_t sum;          /* of a value that all samples share: where it lies among those of a section */
} flrp_slot;

/* in and out are slots (-1: absent), as each kernel above takes them:
 * PRODUCT: operands, factors, bias = constants[0], kind 1: a ReLU at its end; with a window: a max pool after it, to
 * out and winner, or, where `winner` is a slot, before its relevance; SUM_POOL: x, scale = constants[0];
 * SUM_POOL_BACKWARD: g, factor; MAX_POOL: x to out and winner (int32); MAX_POOL_BACKWARD: g, winner; MAX_POOL_SHARE:
 * g, x, y; RATIO: sums or (absent) constants[1] for every sample, bias = constants[0]; GAMMA: p, q, z to a and b, bias
 * = constants[0]; ACTIVATION: x; ACTIVATION_BACKWARD: x, g; PICK: outputs, kind 0: their value at the class, 1: one;
 * AFFINE: (x - constants[0]) * [1] / [2] + [3], `channels` of each; COMBINE: two, kind 0: their sum, 1: product; COPY:
 * x to where `copy` says; kind 1: `parameter` everywhere else; WEIGHT_GRADIENT: x, g, `kind` groups, `channels`
 * outputs, and CHANNEL_SUM: g, `channels`, one output for all samples, outside the arena; TURN: x, kind 0: of samples
 * one by one to samples side by side, 1: back; GROUP_SUM: x, groups of `channels` (of all samples side by side). */
enum {
    FLRP_STEP_PRODUCT, FLRP_STEP_SUM_POOL, FLRP_STEP_SUM_POOL_BACKWARD, FLRP_STEP_MAX_POOL,
    FLRP_STEP_MAX_POOL_BACKWARD, FLRP_STEP_MAX_POOL_SHARE, FLRP_STEP_RATIO, FLRP_STEP_GAMMA, FLRP_STEP_ACTIVATION,
    FLRP_STEP_ACTIVATION_BACKWARD, FLRP_STEP_PICK, FLRP_STEP_AFFINE, FLRP_STEP_COMBINE, FLRP_STEP_COPY,
    FLRP_STEP_TURN, FLRP_STEP_WEIGHT_GRADIENT, FLRP_STEP_CHANNEL_SUM, FLRP_STEP_GROUP_SUM
};

typedef struct {
    int slot, read;
    const float *bound;
} flrp_source;

typedef struct {
    int op, kind;
    float parameter;
    flrp_source in[3], factors[2];
    int out[2], relevance, winner; /* relevance: slot of the ratio's */
    int sign; /* of a PRODUCT's epilogue */
    flrp_ratio ratio;
    const float *constants[4];
    int64_t channels, sweeps;
    const flrp_product *product; /* `sweeps` of them */
    const flrp_window *window;
    const flrp_copy *copy;
} flrp_step;

/* Steps that make each pixel of their outputs from the same pixel of their inputs alone, all of them on the same grid:
 * blocks of pixels go through all of them, so that what lies between stays in L2. */
typedef struct {
    int64_t first, count; /* steps */
    int64_t pixels, floats; /* of a sample; of scratch for one pixel */
} flrp_stretch;

typedef struct flrp_program {
    const flrp_step *steps;
    const flrp_slot *slots;
    const flrp_stretch *stretches; /* in the order of their steps */
    int64_t count, stretch_count;
    int sums_up;          /* over samples: all of them must go through the steps together, unless by sections */
    int64_t section, sum_floats; /* samples of one, 0: none; floats of its sums */
    int64_t arena;        /* floats for one sample */
    double work, weights; /* multiply-adds for one sample; all of its products' weights */
    int64_t width;        /* samples that lie side by side and are one to these steps; 1: none */
    /* The same run for samples side by side, with the same bits, and its own `lanes` for fewer of them; NULL: none. */
    const struct flrp_program *lanes;
} flrp_program;

/* Threads that are worth waking for so many samples. */
int flrp_program_threads(const flrp_program *p, int threads, int64_t samples);
/* Floats of arena that a run needs, and the samples it will take through the steps at a time. */
int64_t flrp_program_plan(const flrp_program *p, int threads, int64_t samples, int64_t *block);
/* external: the memory of every slot whose offset is negative; classes: PICK's, one per sample, written where
 * negative. */
int flrp_program_run(int isa, int threads, const flrp_program *p, int64_t samples, float *const *external,
                     int64_t *classes, float *arena, int64_t block);

#endif
