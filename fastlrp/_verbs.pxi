"""Everything that needs no weights laid out: gradients, pools, pointwise maps."""

def weight_gradient(geometry, x, g):
    """Gradient of Σ g · layer(x) in the weights: (kh, kw, in / groups, out)."""
    cdef flrp_window w = window_of(geometry)
    cdef int64_t samples = x.shape[0], outputs = geometry.out_channels, groups = geometry.groups
    cdef int status, run_threads = threads, run_isa = isa
    cdef const float *px = pointer(x, samples * w.in_h * w.in_w * w.channels, "x")
    cdef const float *pg = pointer(g, samples * w.out_h * w.out_w * outputs, "g")
    out = empty(geometry.weight_shape)
    cdef float *po = pointer(out, out.size, "out")
    with nogil:
        status = flrp_weight_gradient(run_isa, run_threads, &w, groups, outputs, samples, px, pg, 0, po)
    if status != FLRP_OK:
        raise MemoryError("no memory for a weight gradient's scratch")
    return out


SECTION = FLRP_SECTION  # samples


def in_sections(geometry):
    """Whether a weight gradient is summed up in the sections that programs may take apart."""
    cdef flrp_window w = window_of(geometry)
    return flrp_gradient_chunk(&w, geometry.groups, geometry.out_channels) == FLRP_SECTION


def channel_sum(g):
    """Σ over all but the last axis; the first is the samples'."""
    cdef int status, run_isa = isa
    cdef int64_t samples = g.shape[0], channels = g.shape[g.ndim - 1]
    cdef int64_t rows = g.size // (samples * channels) if g.size else 0
    cdef const float *pg = pointer(g, g.size, "g")
    out = empty((channels,))
    cdef float *po = pointer(out, channels, "out")
    with nogil:
        status = flrp_channel_sum(run_isa, samples, rows, channels, pg, po)
    if status != FLRP_OK:
        raise MemoryError("no memory for a channel sum's scratch")
    return out


def adam(old, new, g, m, v, float beta1, float beta2, float rate, float floor, float keep):
    """new = keep · old − rate · m / (√v + floor), m and v having become β₁ m + g and β₂ v + g²: bit for bit what NumPy
    makes of it. False where a number of m, v or new is not finite."""
    cdef flrp_adam numbers
    cdef int run_isa = isa, run_threads = threads, finite
    cdef int64_t n = old.size
    cdef const float *po = pointer(old, n, "old")
    cdef const float *pg = pointer(g, n, "g")
    cdef float *pm = writable(m, n, "m")
    cdef float *pv = writable(v, n, "v")
    cdef float *pn = writable(new, n, "new")
    numbers.beta1, numbers.beta2, numbers.rate, numbers.floor, numbers.keep = beta1, beta2, rate, floor, keep
    with nogil:
        finite = flrp_adam_step(run_isa, run_threads, n, &numbers, po, pg, pm, pv, pn)
    return bool(finite)


def sum_pool(window, x, scale):
    """scale (rows, columns) times the sum over each window."""
    cdef flrp_window w = window_of(window)
    cdef int64_t samples = x.shape[0]
    cdef int run_threads = threads, run_isa = isa
    out = empty((samples, *window.out_shape))
    cdef flrp_operand read = plain(pointer(x, samples * w.in_h * w.in_w * w.channels, "x"))
    cdef const float *ps = pointer(scale, w.out_h * w.out_w, "scale")
    cdef float *po = pointer(out, out.size, "out")
    with nogil:
        flrp_sum_pool(run_isa, run_threads, &w, samples, &read, ps, po)
    return out


def sum_pool_backward(window, g, scale, factor=None):
    """The transposed map, times the factor (of the input's shape) if given."""
    cdef flrp_window w = window_of(window)
    cdef int64_t samples = g.shape[0]
    cdef int run_threads = threads, run_isa = isa
    out = empty((samples, *window.in_shape))
    cdef const float *pg = pointer(g, samples * w.out_h * w.out_w * w.channels, "g")
    cdef const float *ps = pointer(scale, w.out_h * w.out_w, "scale")
    cdef float *po = pointer(out, out.size, "out")
    cdef flrp_operand read = plain(NULL if factor is None else pointer(factor, out.size, "factor"))
    with nogil:
        flrp_sum_pool_backward(run_isa, run_threads, &w, samples, pg, ps, &read, po)
    return out


def max_pool(window, x):
    """The largest value of each window, and the index of its tap (first in scan order on ties)."""
    cdef flrp_window w = window_of(window)
    cdef int64_t samples = x.shape[0]
    cdef int run_threads = threads, run_isa = isa
    out = empty((samples, *window.out_shape))
    winner = empty(out.shape).view(np.int32)
    cdef const float *px = pointer(x, samples * w.in_h * w.in_w * w.channels, "x")
    cdef float *po = pointer(out, out.size, "out")
    cdef int32_t *pw = <int32_t *>cnp.PyArray_DATA(<cnp.ndarray>winner)
    with nogil:
        flrp_max_pool(run_isa, run_threads, &w, samples, px, po, pw)
    return out, winner


def max_pool_backward(window, g, winner):
    cdef flrp_window w = window_of(window)
    cdef int64_t samples = g.shape[0]
    cdef int run_threads = threads, run_isa = isa
    out = empty((samples, *window.in_shape))
    cdef const float *pg = pointer(g, samples * w.out_h * w.out_w * w.channels, "g")
    if winner.dtype != np.int32 or not winner.flags.c_contiguous or winner.size != g.size:
        raise ValueError(f"winner must be int32, C-contiguous and of {g.size} elements")
    cdef const int32_t *pw = <const int32_t *>cnp.PyArray_DATA(<cnp.ndarray>winner)
    cdef float *po = pointer(out, out.size, "out")
    with nogil:
        flrp_max_pool_backward(run_isa, run_threads, &w, samples, pg, pw, po)
    return out


def max_pool_share(window, g, x, y):
    """The relevance g of maxima y of x, shared equally by all that attain them."""
    cdef flrp_window w = window_of(window)
    cdef int64_t samples = x.shape[0], pooled = samples * w.out_h * w.out_w * w.channels
    cdef int run_threads = threads
    out = empty((samples, *window.in_shape))
    cdef const float *pg = pointer(g, pooled, "g")
    cdef const float *px = pointer(x, out.size, "x")
    cdef const float *py = pointer(y, pooled, "y")
    cdef float *po = pointer(out, out.size, "out")
    with nogil:
        flrp_max_pool_share(run_threads, &w, samples, pg, px, py, po)
    return out


def ratio_map(sums, bias, ratio):
    """coefficient · relevance / s(sums + bias); sums may have one sample for all; the bias repeats along a sample."""
    cdef flrp_ratio r
    relevance = ratio[0]
    if not relevance.size:
        if sums.size and sums.shape[0] != 1:
            raise ValueError(f"sums of shape {sums.shape} do not go with relevance of shape {relevance.shape}")
        return empty(relevance.shape)
    cdef int64_t samples = relevance.shape[0], channels = 1 if bias is None else bias.size
    cdef int64_t size = relevance.size // samples, stride = 0 if sums.shape[0] == 1 else size
    cdef int run_threads = threads, run_isa = isa
    fill_ratio(&r, ratio, relevance.size)
    if bias is not None and channels not in (relevance.shape[-1], size):
        raise ValueError(f"bias must have {relevance.shape[-1]} elements, or a sample's {size}, got {channels}")
    out = empty(relevance.shape)
    cdef const float *ps = pointer(sums, size if stride == 0 else relevance.size, "sums")
    cdef const float *pb = NULL if bias is None else pointer(bias, channels, "bias")
    cdef float *po = pointer(out, out.size, "out")
    with nogil:
        flrp_ratio_map(run_isa, run_threads, samples, size, channels, ps, stride, pb, &r, po)
    return out


def group_sum(x, int64_t groups):
    """Σ over the channels of each group, of which there are `groups` side by side on the last axis."""
    cdef int64_t rows, channels = x.shape[x.ndim - 1]
    cdef int run_threads = threads, run_isa = isa
    if not 1 <= groups <= channels or channels % groups:
        raise ValueError(f"{channels} channels do not make {groups} groups")
    rows = x.size // channels
    out = empty((*x.shape[:x.ndim - 1], groups))
    cdef const float *px = pointer(x, rows * channels, "x")
    cdef float *po = pointer(out, out.size, "out")
    with nogil:
        flrp_group_sum(run_isa, run_threads, rows * groups, channels // groups, 1, px, po)
    return out


def gamma_map(p, q, z, bias, float gamma, ratio):
    """The Gamma rule's pointwise map: arrays A and B of the canonical form."""
    cdef flrp_ratio r
    relevance = ratio[0]
    cdef int64_t total = relevance.size, samples = relevance.shape[0], channels = 1 if bias is None else bias.size
    cdef int64_t size = total // samples if samples else 0
    if bias is not None and samples and channels not in (relevance.shape[-1], size):
        raise ValueError(f"bias must have {relevance.shape[-1]} elements, or a sample's {size}, got {channels}")
    cdef int run_threads = threads, run_isa = isa
    fill_ratio(&r, ratio, total)
    a, b = empty(relevance.shape), empty(relevance.shape)
    cdef const float *pp = pointer(p, total, "p")
    cdef const float *pq = pointer(q, total, "q")
    cdef const float *pz = pointer(z, total, "z")
    cdef const float *pb = NULL if bias is None else pointer(bias, channels, "bias")
    cdef float *pa = pointer(a, total, "a")
    cdef float *po = pointer(b, total, "b")
    with nogil:
        flrp_gamma_map(run_isa, run_threads, samples, size, channels, pp, pq, pz, pb, gamma, &r, pa, po)
    return a, b


def activation(str kind, x, float parameter=0):
    cdef int code = ACTIVATIONS[kind], run_threads = threads, run_isa = isa
    cdef int64_t size = x.size
    out = empty(x.shape)
    cdef const float *px = pointer(x, size, "x")
    cdef float *po = pointer(out, size, "out")
    with nogil:
        flrp_activation(run_isa, run_threads, code, parameter, size, px, po)
    return out


def activation_backward(str kind, x, g, float parameter=0):
    """g times the activation's slope at x."""
    cdef int code = ACTIVATIONS[kind], run_threads = threads, run_isa = isa
    cdef int64_t size = x.size
    out = empty(x.shape)
    cdef const float *px = pointer(x, size, "x")
    cdef const float *pg = pointer(g, size, "g")
    cdef float *po = pointer(out, size, "out")
    with nogil:
        flrp_activation_backward(run_isa, run_threads, code, parameter, size, px, pg, po)
    return out


def nonnegative_samples(x):
    """For each sample, whether all its values are >= 0 (and so none NaN)."""
    cdef int64_t i, samples = x.shape[0], size = x.size // samples if samples else 0
    cdef const float *px = pointer(x, x.size, "x")
    out = np.empty(samples, np.bool_)
    cdef char *po = <char *>cnp.PyArray_DATA(<cnp.ndarray>out)
    with nogil:
        for i in range(samples):
            po[i] = flrp_is_nonnegative(size, px + i * size)
    return out
