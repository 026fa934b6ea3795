# cython: language_level=3
"""fastlrp.h as Cython sees it: that file says what everything means."""

from libc.stdint cimport int32_t, int64_t, uint16_t

cdef extern from "fastlrp.h" nogil:
    enum:
        FLRP_OK, FLRP_NOT_FINITE
        FLRP_PLAIN, FLRP_POSITIVE, FLRP_NEGATIVE, FLRP_SHIFTED, FLRP_GATE
        FLRP_RELU, FLRP_LEAKY_RELU, FLRP_CAPPED_RELU, FLRP_AT_LEAST, FLRP_AT_MOST, FLRP_ABS, FLRP_TANH, FLRP_SIGMOID
        FLRP_SOFTPLUS, FLRP_ELU, FLRP_SELU, FLRP_GELU, FLRP_GELU_TANH, FLRP_SILU, FLRP_HARDSWISH, FLRP_HARDSIGMOID
        FLRP_MISH
        FLRP_ISA_COUNT
        FLRP_WIDE, FLRP_NARROW, FLRP_SCATTER, FLRP_WINOGRAD, FLRP_DEPTHWISE, FLRP_DENSE, FLRP_DENSE_BACK, FLRP_LIMBS
        FLRP_LISTS, FLRP_LANES
    ctypedef struct flrp_operand:
        const float *data
        const float *bound
        int read
    ctypedef struct flrp_ratio:
        const float *relevance
        float epsilon, coefficient
        int is_signed
    ctypedef struct flrp_epilogue:
        float *out
        const float *bias
        flrp_ratio ratio
        flrp_operand factors[2]
        int64_t factor_period
        int relu, sign
    ctypedef struct flrp_axis:
        int64_t count, step, start, stride, taps
        const int64_t *offsets
    ctypedef struct flrp_dense:
        const float *weights
        int read
    ctypedef struct flrp_term:
        int32_t offset
        float weight
    ctypedef struct flrp_lane_product:
        int64_t width
        int form
        int64_t line, first
        const int64_t *offsets
        int64_t segments, length
        const flrp_term *terms
        const int64_t *starts
        int64_t passes, block, panel
    ctypedef struct flrp_product:
        flrp_axis rows, cols
        int64_t src_h, src_w, src_c, dst_h, dst_w, dst_c, groups, parts, sides
        const float *weights
        flrp_dense dense[2][2]
        const uint16_t *bf16
        int form, limbs
        flrp_lane_product lanes
    ctypedef struct flrp_window:
        int64_t in_h, in_w, channels, out_h, out_w
        int64_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w
    int flrp_supported(int isa)
    const char *flrp_isa_name(int isa)
    int flrp_lanes(int isa)
    int flrp_panel_width(int isa)
    int flrp_has_limbs(int isa)
    void *flrp_allocate(int64_t bytes)
    void flrp_leave_idle(void *block, int64_t bytes)
    void flrp_init()
    int flrp_processors()
    int flrp_began_apart()
    int flrp_product_run(int isa, int threads, const flrp_product *p, int64_t samples, const flrp_operand *operands,
                         const flrp_epilogue *epilogue)
    int flrp_weight_gradient(int isa, int threads, const flrp_window *w, int64_t groups, int64_t outputs,
                             int64_t samples, const float *x, const float *g, int room, float *out)
    int64_t flrp_gradient_chunk(const flrp_window *w, int64_t groups, int64_t outputs)
    int FLRP_SECTION
    void flrp_winograd_weights(int64_t sums, int64_t taps, int64_t n, const double *factors, const float *weights,
                               float *values)
    void flrp_take(int64_t n, const int32_t *places, const float *values, float *out)
    int flrp_channel_sum(int isa, int64_t samples, int64_t rows, int64_t channels, const float *g, float *out)
    ctypedef struct flrp_adam:
        float beta1, beta2, rate, floor, keep
    int flrp_adam_step(int isa, int threads, int64_t n, const flrp_adam *a, const float *old, const float *g, float *m,
                       float *v, float *out)
    void flrp_sum_pool(int isa, int threads, const flrp_window *w, int64_t samples, const flrp_operand *x,
                       const float *scale, float *out)
    void flrp_sum_pool_backward(int isa, int threads, const flrp_window *w, int64_t samples, const float *g,
                                const float *scale, const flrp_operand *factor, float *out)
    void flrp_max_pool(int isa, int threads, const flrp_window *w, int64_t samples, const float *x, float *out,
                       int32_t *winner)
    void flrp_max_pool_backward(int isa, int threads, const flrp_window *w, int64_t samples, const float *g,
                                const int32_t *winner, float *out)
    void flrp_max_pool_share(int threads, const flrp_window *w, int64_t samples, const float *g, const float *x,
                             const float *y, float *out)
    void flrp_ratio_map(int isa, int threads, int64_t samples, int64_t size, int64_t channels, const float *sums,
                        int64_t sums_stride, const float *bias, const flrp_ratio *ratio, float *out)
    void flrp_gamma_map(int isa, int threads, int64_t samples, int64_t size, int64_t channels, const float *p,
                        const float *q, const float *z, const float *bias, float gamma, const flrp_ratio *ratio,
                        float *a, float *b)
    void flrp_group_sum(int isa, int threads, int64_t groups, int64_t n, int64_t width, const float *x, float *out)
    void flrp_activation(int isa, int threads, int kind, float parameter, int64_t size, const float *x, float *out)
    void flrp_activation_backward(int isa, int threads, int kind, float parameter, int64_t size, const float *x,
                                  const float *g, float *out)
    int64_t flrp_fma_loop(int isa, int threads, int64_t iterations)
    int64_t flrp_tile_loop(int isa, int threads, int64_t iterations)
    int flrp_is_nonnegative(int64_t size, const float *x)
    enum:
        FLRP_STEP_PRODUCT, FLRP_STEP_SUM_POOL, FLRP_STEP_SUM_POOL_BACKWARD, FLRP_STEP_MAX_POOL
        FLRP_STEP_MAX_POOL_BACKWARD, FLRP_STEP_MAX_POOL_SHARE, FLRP_STEP_RATIO, FLRP_STEP_GAMMA, FLRP_STEP_ACTIVATION
        FLRP_STEP_ACTIVATION_BACKWARD, FLRP_STEP_PICK, FLRP_STEP_AFFINE, FLRP_STEP_COMBINE, FLRP_STEP_COPY
        FLRP_STEP_TURN, FLRP_STEP_WEIGHT_GRADIENT, FLRP_STEP_CHANNEL_SUM, FLRP_STEP_GROUP_SUM
    enum:
        FLRP_COPY_AXES, FLRP_LANE_PLACES
    ctypedef struct flrp_copy:
        int64_t sizes[6]
        int64_t from_steps[6]
        int64_t to_steps[6]
        int64_t from_offset, to_offset
    ctypedef struct flrp_slot:
        int64_t size, offset
        int in_scratch
        int64_t sum
    ctypedef struct flrp_stretch:
        int64_t first, count, pixels, floats
    ctypedef struct flrp_source:
        int slot, read
        const float *bound
    ctypedef struct flrp_step:
        int op, kind
        float parameter
        flrp_source ins "in" [3]
        flrp_source factors[2]
        int out[2]
        int relevance, winner, sign
        flrp_ratio ratio
        const float *constants[4]
        int64_t channels, sweeps
        const flrp_product *product
        const flrp_window *window
        const flrp_copy *copy
    ctypedef struct flrp_program:
        const flrp_step *steps
        const flrp_slot *slots
        const flrp_stretch *stretches
        int64_t count, stretch_count
        int sums_up
        int64_t section, sum_floats
        int64_t arena
        double work, weights
        int64_t width
        const flrp_program *lanes
    int flrp_program_threads(const flrp_program *p, int threads, int64_t samples)
    ctypedef struct flrp_blocks:
        pass
    int64_t flrp_program_plan(const flrp_program *p, int threads, int64_t samples, flrp_blocks *plan)
    int flrp_program_run(int isa, int threads, const flrp_program *p, const flrp_blocks *plan, int64_t samples,
                         float *const *external, int64_t *classes, float *arena)
