/* One instruction set's kernels: every body over its vector header, and the table that names them. */
#include "body/tile.h"
#include "body/pointwise.h"
#include "body/sums.h"
#include "body/exponential.h"
#include "body/activation.h"
#include "body/pool.h"
#include "body/winograd.h"
#include "body/dense.h"
#include "body/depthwise.h"
#include "body/lanes.h"
#include "body/adam.h"

const flrp_kernels TABLE = {
    .name = ISA_NAME,
    .lanes = VW,
    .panel_vectors = PANEL_VECTORS,
    .narrow_rows = NARROW_ROWS,
    .tile = tile,
    .line_rows = LINE_ROWS,
    .lines = lines,
    .finish = finish,
    .gather = gather,
    .transpose = transpose,
    .winograd_input = winograd_input,
    .winograd_output = winograd_output,
    .depthwise = depthwise,
    .dense_forward = dense_forward,
    .dense_backward = dense_backward,
    .copy_panel = copy_panel,
    .dot_samples = MANY_SAMPLES,
    .dots = dots,
    .lane_block = lane_block,
    .lane_lists = lane_lists,
    .is_finite = is_finite,
    .ratio = ratio_map,
    .gamma = gamma_map,
    .channel_sum = channel_sum,
    .group_sum = group_sum,
    .sum_pool = sum_pool,
    .sum_pool_backward = sum_pool_backward,
    .max_pool = max_pool,
    .max_pool_backward = max_pool_backward,
    .fma_loop = fma_loop,
    .activation = activation,
    .activation_backward = activation_backward,
    .adam = adam,
};
