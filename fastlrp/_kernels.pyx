# cython: language_level=3, cdivision=True, embedsignature=True
"""The compiled kernels: checks buffers, has weights packed, allocates outputs, drops the GIL, calls C.

Arrays are float32, C-contiguous, channels last. Callers (ops.py) hand over nothing else; a buffer that does
not fit raises here, so that C can trust every pointer.
"""

cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t, uint16_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import weakref

import numpy as np

from . import packing

cnp.import_array()

flrp_init()

READS = {"plain": FLRP_PLAIN, "positive": FLRP_POSITIVE, "negative": FLRP_NEGATIVE, "shifted": FLRP_SHIFTED}
ACTIVATIONS = {"relu": FLRP_RELU, "leaky_relu": FLRP_LEAKY_RELU, "capped_relu": FLRP_CAPPED_RELU,
               "at_least": FLRP_AT_LEAST, "at_most": FLRP_AT_MOST, "abs": FLRP_ABS, "tanh": FLRP_TANH,
               "sigmoid": FLRP_SIGMOID, "softplus": FLRP_SOFTPLUS, "elu": FLRP_ELU, "selu": FLRP_SELU,
               "gelu": FLRP_GELU, "gelu_tanh": FLRP_GELU_TANH, "silu": FLRP_SILU, "hardswish": FLRP_HARDSWISH,
               "hardsigmoid": FLRP_HARDSIGMOID, "mish": FLRP_MISH}
ISAS = {flrp_isa_name(i).decode(): i for i in range(FLRP_ISA_COUNT) if flrp_supported(i)}

cdef int isa = max(ISAS.values())
cdef int threads = 1


def set_isa(str name):
    """Run on this instruction set from now on; products packed before keep theirs."""
    global isa
    if name not in ISAS:
        raise ValueError(f"isa must be one of {sorted(ISAS)} on this machine, got {name!r}")
    isa = ISAS[name]


def lanes():
    """Floats in one vector of the instruction set in use."""
    return flrp_lanes(isa)


def has_limbs():
    """Whether the instruction set in use multiplies numbers split into bf16 limbs."""
    return bool(flrp_has_limbs(isa))


def get_isa():
    return flrp_isa_name(isa).decode()


def processors():
    """The processors that OpenMP binds threads to; 0 where it does not bind them."""
    return flrp_processors()


def began_apart():
    """The threads that this one woke last and that began on another processor than its; -1 where that is left to the
    system."""
    return flrp_began_apart()


def set_threads(int n):
    global threads
    threads = n


def get_threads():
    return threads


# Memory of large outputs is kept for the next ones: fresh pages from the system cost as much as the arithmetic of
# small and medium layers. The system may take it back while it lies idle. All under the GIL.
cdef enum:
    SLOTS = 64
cdef Py_ssize_t SMALL_BYTES = 1 << 16  # below, malloc does this itself
cdef Py_ssize_t MOST_KEPT_BYTES = 512 << 20
cdef Py_ssize_t kept_bytes = 0
cdef int kept = 0
cdef void *kept_data[SLOTS]
cdef Py_ssize_t kept_size[SLOTS]


cdef class Block:
    """The memory of one array: returned to the slots, not to the system, when the array dies."""

    cdef void *data
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        global kept, kept_bytes
        cdef int i, best = -1
        for i in range(kept):
            if size <= kept_size[i] <= size + size // 4 and (best < 0 or kept_size[i] < kept_size[best]):
                best = i
        if best >= 0:
            self.data, self.size = kept_data[best], kept_size[best]
            kept -= 1
            kept_bytes -= self.size
            kept_data[best], kept_size[best] = kept_data[kept], kept_size[kept]
            return
        while kept and kept_bytes + size > MOST_KEPT_BYTES:  # or old sizes would stand beside new ones
            kept -= 1
            kept_bytes -= kept_size[kept]
            free(kept_data[kept])
        self.data, self.size = flrp_allocate(size), size
        if self.data == NULL:
            raise MemoryError(f"no memory for an array of {size} bytes")

    def __dealloc__(self):
        global kept, kept_bytes
        if self.data != NULL and kept < SLOTS and kept_bytes + self.size <= MOST_KEPT_BYTES:
            flrp_leave_idle(self.data, self.size)
            kept_data[kept], kept_size[kept] = self.data, self.size
            kept += 1
            kept_bytes += self.size
        else:
            free(self.data)


def empty(shape):
    """An uninitialised float32 array."""
    cdef cnp.npy_intp sizes[8]
    cdef Py_ssize_t size = 4, i, ndim = len(shape)
    cdef Block block
    for i in range(ndim):
        size *= shape[i]
        if i < 8:
            sizes[i] = shape[i]
    if size < SMALL_BYTES or ndim > 8:
        return np.empty(shape, np.float32)
    block = Block(size)
    array = cnp.PyArray_SimpleNewFromData(ndim, sizes, cnp.NPY_FLOAT32, block.data)
    cnp.set_array_base(array, block)
    return array


cdef float *pointer(array, Py_ssize_t size, str name) except NULL:
    """The data of a float32 C-contiguous array of `size` elements."""
    cdef cnp.ndarray a
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be an array, got {type(array).__name__}")
    a = <cnp.ndarray>array
    if cnp.PyArray_TYPE(a) != cnp.NPY_FLOAT32 or not cnp.PyArray_ISCARRAY_RO(a) or cnp.PyArray_SIZE(a) != size:
        raise ValueError(f"{name} must be float32, C-contiguous and of {size} elements, "
                         f"got {a.dtype}, shape {array.shape}")
    return <float *>cnp.PyArray_DATA(a)


def joined(list arrays):
    """The elements of arrays of one type, one array after the other: a view where they already lie so in one."""
    cdef const char *next
    if len(arrays) == 1:
        return np.ascontiguousarray(arrays[0]).reshape(-1)
    whole, size, next = arrays[0].base, 0, cnp.PyArray_BYTES(<cnp.ndarray?>arrays[0])
    if isinstance(whole, np.ndarray) and whole.flags.c_contiguous:
        for a in arrays:
            if a.base is not whole or a.dtype != whole.dtype or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray?>a) or (
                    cnp.PyArray_BYTES(<cnp.ndarray>a) != next):
                break
            next += cnp.PyArray_NBYTES(<cnp.ndarray>a)
            size += a.size
        else:
            end = (next - cnp.PyArray_BYTES(<cnp.ndarray>whole)) // whole.itemsize
            return whole.reshape(-1)[end - size:end]
    return np.concatenate([a.reshape(-1) for a in arrays])


cdef int fill_operand(flrp_operand *o, operand, Py_ssize_t samples, Py_ssize_t size, str name) except -1:
    """operand: (array, read, bound or None)."""
    array, read, bound = operand
    o.data = pointer(array, samples * size, name)
    o.read = READS[read]
    o.bound = NULL
    if o.read == FLRP_SHIFTED:
        o.bound = pointer(bound, size, f"{name}'s bound")
    return 0


cdef int fill_ratio(flrp_ratio *r, ratio, Py_ssize_t size) except -1:
    """ratio: (relevance, epsilon, coefficient, signed)."""
    relevance, epsilon, coefficient, is_signed = ratio
    r.relevance = pointer(relevance, size, "relevance")
    r.epsilon, r.coefficient, r.is_signed = epsilon, coefficient, is_signed
    return 0


def winograd_values(weight, sweep):
    """Weights as `Product.pack` takes them, transformed in double precision: (side, sum and part and k, output)."""
    used = np.ascontiguousarray(packing.taken(weight, sweep), dtype=np.float32)
    cdef Py_ssize_t sides = used.shape[0], taps = used.shape[1] * used.shape[2], n = used.size // (sides * taps)
    cdef cnp.ndarray factors = packing.TRANSFORMS[used.shape[1]]
    cdef Py_ssize_t i, sums = len(factors)
    values = np.empty((sides, used.size * sums // (sides * taps * used.shape[5]), used.shape[5]), np.float32)
    cdef const float *source = pointer(used, used.size, "weight")
    cdef float *target = pointer(values, values.size, "values")
    for i in range(sides):
        flrp_winograd_weights(sums, taps, n, <const double *>cnp.PyArray_DATA(factors), source + i * taps * n,
                              target + i * sums * n)
    return values


cdef class Product:
    """A linear map: destination = Σ over sides of weights · operands, each with its epilogue.

    sweeps: shapes.Sweep tuples (scatter: those of Geometry.scatter_sweeps); src, dst: (h, w, channels). Then either
    `pack` or `refer` gives it weights. Immutable from then on, so that threads share it, unless it is one caller's
    `own`.
    """

    cdef object __weakref__
    cdef flrp_product *sweeps
    cdef Py_ssize_t count, src_size, dst_size, dst_channels, parts
    cdef readonly Py_ssize_t sides
    cdef int isa
    cdef tuple shapes
    cdef list keep  # arrays that the sweeps point into
    cdef list packed  # weights of each sweep, as its form has them
    cdef readonly list values  # of an own product, what they are taken from,
    cdef list sizes, places  # so many, and where each lies there (`packing.places`)
    cdef dict twins  # of samples side by side, by their number

    def __cinit__(self, shapes, src, dst, Py_ssize_t groups, Py_ssize_t sides, Py_ssize_t parts):
        cdef Py_ssize_t i
        cdef flrp_product *p
        if sides not in (1, 2) or parts not in (1, 2):
            raise ValueError(f"a product has 1 or 2 sides and parts, got {sides} and {parts}")
        self.isa, self.keep, self.shapes, self.packed, self.twins = isa, [], tuple(shapes), [], {}
        self.values, self.sizes, self.places = [], [], []
        self.sides, self.parts, self.count = sides, parts, len(shapes)
        self.src_size, self.dst_size, self.dst_channels = src[0] * src[1] * src[2], dst[0] * dst[1] * dst[2], dst[2]
        self.sweeps = <flrp_product *>calloc(self.count, sizeof(flrp_product))
        if self.sweeps == NULL:
            raise MemoryError
        for i in range(self.count):
            p = &self.sweeps[i]
            p.src_h, p.src_w, p.src_c = src
            p.dst_h, p.dst_w, p.dst_c = dst
            p.groups, p.parts, p.sides, p.form = groups, parts, sides, -1
            self.fill_axis(&p.rows, shapes[i].rows)
            self.fill_axis(&p.cols, shapes[i].cols)

    def __dealloc__(self):
        free(self.sweeps)

    @property
    def is_pixelwise(self):
        """Whether every pixel is made of the same pixel alone, so that any run of pixels can be computed by itself."""
        cdef flrp_product *p = self.sweeps
        return (self.count == 1 and p.form in (FLRP_WIDE, FLRP_LISTS)
                and self.is_identity(&p.rows, p.src_h, p.dst_h) and self.is_identity(&p.cols, p.src_w, p.dst_w))

    @property
    def takes_pools(self):
        """Whether a max pool of 2 x 2 may go along with it: before its relevance, or after all of its outputs."""
        cdef flrp_product *p = self.sweeps
        return self.count == 1 and p.limbs > 0 and p.sides == 1 and (
            p.rows.count == p.dst_h and p.cols.count == p.dst_w and p.form in (FLRP_LIMBS, FLRP_WINOGRAD))

    cdef bint is_identity(self, flrp_axis *a, int64_t source, int64_t destination):
        return a.taps == 1 and a.offsets[0] == a.start == 0 and a.step == a.stride == 1 and (
            a.count == source == destination)

    cdef int fill_axis(self, flrp_axis *a, axis) except -1:
        offsets = np.array(axis.offsets, np.int64)
        self.keep.append(offsets)
        a.count, a.step, a.start, a.stride = axis.count, axis.step, axis.start, axis.stride
        a.taps, a.offsets = len(axis.offsets), <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>offsets)
        return 0

    def pack(self, weight, bint scatter=False, int limbs=0, bint direct=False):
        """Lay out weights (sides, kh, kw, parts, src channels / groups, dst channels) as the form for the shape wants.

        limbs: split numbers into so many bf16 numbers (0: not at all). direct: no Winograd (see ops.Native).
        """
        cdef Py_ssize_t i
        cdef flrp_product *p
        for i in range(self.count):
            p = &self.sweeps[i]
            if weight.ndim != 6 or (weight.shape[0], weight.shape[3], weight.shape[4] * p.groups, weight.shape[5]) != (
                    self.sides, self.parts, p.src_c, p.dst_c):
                raise ValueError(f"weight of shape {weight.shape} does not map {p.src_c} to {p.dst_c} channels "
                                 f"in {p.groups} groups")
            if limbs and not (flrp_has_limbs(self.isa) and 1 <= limbs <= 3 and p.groups == 1 and not scatter):
                raise ValueError(f"{limbs} limbs are not for {flrp_isa_name(self.isa).decode()}, {p.groups} groups")
            self.pack_sweep(p, self.shapes[i], weight, scatter, limbs, direct)
        return self

    cdef int pack_sweep(self, flrp_product *p, sweep, weight, bint scatter, int limbs, bint direct) except -1:
        cdef Py_ssize_t width = flrp_panel_width(self.isa)
        p.limbs = limbs
        if limbs and not direct and packing.prefers_winograd_limbs(sweep, limbs, weight):
            p.form = FLRP_WINOGRAD
            packed = packing.winograd_limbs(winograd_values(weight, sweep), limbs)
        elif limbs:
            p.form = FLRP_LIMBS
            packed = packing.limbs(weight, sweep, limbs)
        elif scatter:
            p.form = FLRP_SCATTER
            packed = packing.scatter(weight, sweep, width)
        elif 1 < p.groups == p.src_c == p.dst_c:
            p.form = FLRP_DEPTHWISE
            packed = packing.depthwise(weight, sweep)
        elif not direct and packing.prefers_winograd(sweep, p.groups, weight):
            p.form = FLRP_WINOGRAD
            packed = packing.panels(winograd_values(weight, sweep), width)
        elif packing.prefers_lists(sweep, (p.src_h, p.src_w), p.groups, weight):
            return self.fill_lists(p, packing.lists(weight, sweep, flrp_lanes(self.isa)))
        elif packing.prefers_narrow(sweep, p.groups, p.dst_c, flrp_lanes(self.isa)):
            p.form = FLRP_NARROW
            packed = packing.narrow(weight, sweep)
        else:
            p.form = FLRP_WIDE
            packed = packing.wide(weight, sweep, p.groups, width)
        self.packed.append(packed)
        if limbs:
            p.bf16 = <const uint16_t *>cnp.PyArray_DATA(<cnp.ndarray>packed)
        else:
            p.weights = <const float *>cnp.PyArray_DATA(<cnp.ndarray>packed)
        return 0

    cdef int fill_lists(self, flrp_product *p, lists) except -1:
        cdef flrp_lane_product *l = &p.lanes
        self.packed.append(lists)
        p.form, l.width, l.length, l.passes = FLRP_LISTS, lists.width, lists.length, lists.passes
        l.terms = <const flrp_term *>cnp.PyArray_DATA(<cnp.ndarray>lists.terms)
        l.starts = <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>lists.starts)
        return 0

    def refer(self, weights, bint back):
        """Use a dense layer's weights where they lie: for each side and part (array (inputs, outputs), read)."""
        cdef flrp_product *p = self.sweeps
        if self.src_size != p.src_c or self.dst_size != p.dst_c or self.count != 1:
            raise ValueError("dense weights map one pixel to one pixel")
        self.packed.append(weights)
        for i, side in enumerate(weights):
            for k, (array, read) in enumerate(side):
                p.dense[i][k].weights = pointer(array, p.src_c * p.dst_c, "weights")
                p.dense[i][k].read = READS[read]
        p.form = FLRP_DENSE_BACK if back else FLRP_DENSE
        return self

    def in_lanes(self, Py_ssize_t width):
        """The same sums, bit for bit, for `width` samples side by side as one; None where its form has no such twin."""
        if width not in self.twins:
            self.twins[width] = self.make_twin(width, True, self.packed)
        return self.twins[width]

    def own(self, Py_ssize_t size):
        """Of a product that was packed from the numbers 1 to `size` instead of weights, which tell where each goes: make
        it one caller's own, which gives it weights by `take`. Returns whether these come transformed, for each sweep;
        None where the form is not one that only puts them elsewhere."""
        cdef flrp_product *p
        if self.places:
            raise ValueError("the product is its caller's own already")
        if self.sides * self.parts > 1 or any(self.sweeps[i].limbs or self.sweeps[i].form == FLRP_LISTS
                                              for i in range(self.count)):
            return None
        transformed = [self.sweeps[i].form == FLRP_WINOGRAD for i in range(self.count)]
        for i in range(self.count):
            p = &self.sweeps[i]
            if transformed[i]:
                _, _, k, width = self.packed[i].shape
                self.packed[i] = packing.panels(packing.numbers((1, k, p.dst_c)), width)
            self.sizes.append(k * p.dst_c if transformed[i] else size)
            self.places.append(packing.places(self.weights_of(i)))
        return transformed

    def own_in_lanes(self, Py_ssize_t width):
        """The same for `width` samples side by side, to be given this one's `values` by `take`."""
        if self.sweeps[0].form == FLRP_SCATTER or not self.places:
            return None
        numbered = []
        for i in range(self.count):
            array = self.weights_of(i)
            found = packing.numbers(array.shape) if self.places[i] is None else (
                (self.places[i] + 1).astype(np.float32).reshape(array.shape))
            numbered.append([[(found, "plain")]] if self.sweeps[i].form == FLRP_DENSE else found)
        cdef Product twin = self.make_twin(width, False, numbered)
        if twin is not None:
            twin.sizes = self.sizes
            twin.places = [packing.places(twin.weights_of(i)) for i in range(self.count)]
        return twin

    cdef object weights_of(self, Py_ssize_t i):
        cdef int form = self.sweeps[i].form
        return (self.packed[i][0][0][0] if form in (FLRP_DENSE, FLRP_DENSE_BACK)
                else self.packed[i].weight if form == FLRP_LANES else self.packed[i])

    def take(self, list values):
        """Go on with these weights: for each sweep the layer's, transformed where `own` said so."""
        cdef Py_ssize_t i
        cdef flrp_product *p
        cdef const float *source
        cdef float *weights
        cdef cnp.ndarray places
        for i in range(self.count):
            p, weights = &self.sweeps[i], pointer(values[i], self.sizes[i], "values")
            if self.places[i] is not None:
                places, source = self.places[i], weights
                weights = <float *>cnp.PyArray_DATA(<cnp.ndarray>self.weights_of(i))
                flrp_take(cnp.PyArray_SIZE(places), <const int32_t *>cnp.PyArray_DATA(places), source, weights)
            if p.form == FLRP_DENSE or p.form == FLRP_DENSE_BACK:
                p.dense[0][0].weights = weights
            else:
                p.weights = weights
        self.values = values

    cdef Product make_twin(self, Py_ssize_t width, bint listed, list packed):
        cdef flrp_product *p = self.sweeps
        cdef Py_ssize_t i
        cdef Product twin = Product(self.shapes, (p.src_h, p.src_w, p.src_c), (p.dst_h, p.dst_w, p.dst_c), p.groups,
                                    self.sides, self.parts)
        twin.isa = self.isa
        for i in range(self.count):
            p = &self.sweeps[i]
            form = FORMS_WITH_TWINS.get(p.form)
            if form is None or p.limbs or p.groups > 1 or (
                    p.sides * p.rows.taps * p.cols.taps * p.parts * p.src_c * p.dst_c > MOST_WEIGHTS):
                return None
            if form == "winograd":
                twin.fill_lanes(&twin.sweeps[i], p.form, packing.winograd_lanes(packed[i], p.dst_c, width))
                continue
            weight = packing.weights_of(form, packed[i], self.shapes[i], p.parts * p.src_c, p.dst_c)
            if not np.isfinite(weight).all():
                return None
            twin.fill_lanes(&twin.sweeps[i], p.form, packing.lanes(
                weight, self.shapes[i], (p.src_w, p.parts * p.src_c), form == "scatter", width, flrp_lanes(self.isa),
                listed))
        twin.src_size, twin.dst_size = self.src_size * width, self.dst_size * width
        twin.dst_channels = self.dst_channels * width
        return twin

    cdef int fill_lanes(self, flrp_product *p, int form, lanes) except -1:
        cdef flrp_lane_product *l = &p.lanes
        self.packed.append(lanes)
        p.form, l.form = FLRP_LANES, form
        p.weights = <const float *>cnp.PyArray_DATA(<cnp.ndarray>lanes.weight)
        l.width, l.line, l.first = lanes.width, lanes.line, lanes.first
        l.passes, l.block, l.panel = lanes.passes, lanes.block, lanes.panel
        l.segments, l.length = lanes.offsets.shape[1], lanes.length
        l.offsets = <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>lanes.offsets)
        if lanes.terms is not None:
            l.terms = <const flrp_term *>cnp.PyArray_DATA(<cnp.ndarray>lanes.terms)
            l.starts = <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>lanes.starts)
        return 0

    def __call__(self, Py_ssize_t samples, operands, out, *, bias=None, ratio=None, factors=None, int sign=0):
        """Write the product of `samples` samples to `out`.

        operands: one (array, read, bound) per part. Then, in this order: + bias (channels,); the quotient
        ratio = (relevance, epsilon, coefficient, signed); times the side's factor = (array, read, bound).
        sign: 1 where no exact sum is negative, -1 where none is positive: rounding will not make any either.
        """
        cdef flrp_operand sources[2]
        cdef flrp_epilogue e
        cdef int status = FLRP_OK, run_threads = threads
        cdef Py_ssize_t i
        if self.count and self.sweeps[0].form < 0:
            raise ValueError("the product has no weights")
        if len(operands) != self.parts:
            raise ValueError(f"expected {self.parts} operands, got {len(operands)}")
        for i in range(self.parts):
            fill_operand(&sources[i], operands[i], samples, self.src_size, "operand")
        memset(&e, 0, sizeof(e))
        e.out = pointer(out, samples * self.dst_size, "out")
        if not out.flags.writeable:
            raise ValueError("out must be writeable")
        e.bias = NULL if bias is None else pointer(bias, self.dst_channels, "bias")
        if ratio is not None:
            fill_ratio(&e.ratio, ratio, samples * self.dst_size)
        if factors is not None and len(factors) != self.sides:
            raise ValueError(f"expected {self.sides} factors, got {len(factors)}")
        for i in range(self.sides):
            if factors is not None:
                fill_operand(&e.factors[i], factors[i], samples, self.dst_size, "factor")
        e.factor_period, e.sign = self.dst_size, sign
        with nogil:
            for i in range(self.count):
                status = flrp_product_run(self.isa, run_threads, &self.sweeps[i], samples, sources, &e)
                if status != FLRP_OK:
                    break
        if status == FLRP_NOT_FINITE:
            raise ValueError("products of samples side by side take finite values alone")
        if status != FLRP_OK:
            raise MemoryError("no memory for a product's scratch")
        return out


MOST_WEIGHTS = 1 << 19  # of a product for samples side by side: more would not stay in the cache from block to block
FORMS_WITH_TWINS = {FLRP_WIDE: "wide", FLRP_LISTS: "lists", FLRP_NARROW: "narrow", FLRP_SCATTER: "scatter",
                    FLRP_DENSE: "dense", FLRP_WINOGRAD: "winograd"}


cdef int add_product(flrp_program *program, Product product):
    """Its multiply-adds of one sample and its weights, to those of the program."""
    cdef double weights
    cdef flrp_product *p
    for i in range(product.count):
        p = &product.sweeps[i]
        weights = <double>p.rows.taps * p.cols.taps * p.src_c * p.parts * p.sides * p.dst_c / p.groups
        program.weights += weights
        program.work += weights * p.rows.count * p.cols.count * (p.lanes.width if p.form == FLRP_LANES else 1)
    return 0


STEPS = {"product": FLRP_STEP_PRODUCT, "sum_pool": FLRP_STEP_SUM_POOL,
         "sum_pool_backward": FLRP_STEP_SUM_POOL_BACKWARD, "max_pool": FLRP_STEP_MAX_POOL,
         "max_pool_backward": FLRP_STEP_MAX_POOL_BACKWARD, "max_pool_share": FLRP_STEP_MAX_POOL_SHARE,
         "ratio": FLRP_STEP_RATIO, "gamma": FLRP_STEP_GAMMA,
         "activation": FLRP_STEP_ACTIVATION, "activation_backward": FLRP_STEP_ACTIVATION_BACKWARD,
         "pick": FLRP_STEP_PICK, "affine": FLRP_STEP_AFFINE, "combine": FLRP_STEP_COMBINE,
         "copy": FLRP_STEP_COPY, "turn": FLRP_STEP_TURN, "weight_gradient": FLRP_STEP_WEIGHT_GRADIENT,
         "channel_sum": FLRP_STEP_CHANNEL_SUM, "group_sum": FLRP_STEP_GROUP_SUM}


cdef class Program:
    """Steps (steps.Step) over slots of `sizes` floats a sample, which lie as `layout` says (arena.Layout).

    Holds its products weakly: they die when a layer gets other weights, and the program is not current any more until
    `renew` gives it others.
    """

    cdef flrp_program p
    cdef flrp_step *steps
    cdef flrp_slot *slots
    cdef flrp_window *windows
    cdef flrp_copy *copies
    cdef flrp_stretch *stretches
    cdef int isa
    cdef list keep, products, biases
    cdef set sums  # slots that hold one value for all samples
    cdef readonly Program twin  # for samples side by side

    def __cinit__(self, steps, sizes, layout, int64_t width=1, bint sections=False):
        cdef Py_ssize_t i
        cdef flrp_stretch *stretch
        self.isa, self.keep, self.products, self.sums = isa, [], [], set()
        self.steps = <flrp_step *>calloc(len(steps) + 1, sizeof(flrp_step))
        self.windows = <flrp_window *>calloc(len(steps) + 1, sizeof(flrp_window))
        self.copies = <flrp_copy *>calloc(len(steps) + 1, sizeof(flrp_copy))
        self.slots = <flrp_slot *>calloc(len(sizes) + 1, sizeof(flrp_slot))
        self.stretches = <flrp_stretch *>calloc(len(layout.stretches) + 1, sizeof(flrp_stretch))
        if NULL in (self.steps, self.windows, self.copies, self.slots, self.stretches):
            raise MemoryError
        for i in range(len(sizes)):
            self.slots[i].size, self.slots[i].offset, self.slots[i].sum = sizes[i], layout.offsets[i], -1
        for i, found in enumerate(layout.stretches):
            stretch = &self.stretches[i]
            stretch.first, stretch.count = found.first, found.count
            stretch.pixels, stretch.floats = found.pixels, found.floats
            for slot in found.own:
                self.slots[slot].in_scratch = 1
        for i in range(len(steps)):
            self.fill_step(&self.steps[i], &self.windows[i], &self.copies[i], steps[i])
        self.p.steps, self.p.slots, self.p.count, self.p.arena = self.steps, self.slots, len(steps), layout.arena
        self.p.stretches, self.p.stretch_count = self.stretches, len(layout.stretches)
        self.p.width, self.p.section = width, FLRP_SECTION if sections else 0

    def set_twin(self, Program twin):
        """Take full blocks of samples through the steps of `twin`, which are these for `width` samples side by side, or
        of its own twin, for fewer, where there are not enough."""
        if twin.isa != self.isa:
            raise ValueError("the twin was made for another instruction set")
        self.twin = twin
        self.p.lanes = &twin.p

    def threads(self, Py_ssize_t samples):
        """Threads that are worth waking for so many samples."""
        return flrp_program_threads(&self.p, threads, samples)

    def renew(self, products, biases):
        """Go on with these products and biases (None: as recorded), one of each for every step with a product."""
        cdef Py_ssize_t i, k = 0
        cdef Product product
        for i in range(self.p.count):
            if self.steps[i].op == FLRP_STEP_PRODUCT:
                product = products[k]
                if product.isa != self.isa or product.dst_size != self.slots[self.steps[i].out[0]].size:
                    raise ValueError("the product is one of another step or instruction set")
                self.steps[i].product, self.steps[i].sweeps = product.sweeps, product.count
                if biases[k] is not None:
                    self.steps[i].constants[0] = pointer(biases[k], product.dst_channels, "bias")
                self.products[k] = weakref.ref(product)
                k += 1
        self.biases = list(biases)

    def __dealloc__(self):
        free(self.steps)
        free(self.windows)
        free(self.copies)
        free(self.slots)
        free(self.stretches)

    cdef int fill_source(self, flrp_source *s, source) except -1:
        s.slot = -1
        if source is None:
            return 0
        slot, read, bound = source
        s.slot, s.read = slot.index, FLRP_GATE if read == "gate" else READS[read]
        if s.read == FLRP_SHIFTED:
            s.bound = self.constant(bound)
        return 0

    cdef const float *constant(self, array) except? NULL:
        self.keep.append(array)
        return NULL if array is None else pointer(array, array.size, "constant")

    cdef int fill_step(self, flrp_step *s, flrp_window *w, flrp_copy *c, step) except -1:
        cdef Py_ssize_t i
        s.op, s.kind, s.parameter, s.channels = STEPS[step.op], step.kind, step.parameter, step.channels
        s.sign = step.sign
        for i in range(3):
            self.fill_source(&s.ins[i], step.sources[i] if i < len(step.sources) else None)
        for i in range(2):
            self.fill_source(&s.factors[i], step.factors[i] if i < len(step.factors) else None)
            s.out[i] = step.out[i].index if i < len(step.out) else -1
        s.relevance, s.winner = -1, -1 if step.winner is None else step.winner.index
        if step.ratio is not None:
            slot, epsilon, coefficient, is_signed = step.ratio
            s.relevance = slot.index
            s.ratio.epsilon, s.ratio.coefficient, s.ratio.is_signed = epsilon, coefficient, is_signed
        for i in range(len(step.constants)):
            s.constants[i] = self.constant(step.constants[i])
        if step.window is not None:
            w[0] = window_of(step.window)
            s.window = w
        if step.copy is not None:
            c.from_offset, c.to_offset = step.copy.from_offset, step.copy.to_offset
            for i in range(FLRP_COPY_AXES):
                c.sizes[i], c.from_steps[i], c.to_steps[i] = step.copy.axes[i]
            s.copy = c
        if step.product is not None:
            if (<Product>step.product).isa != self.isa:
                raise ValueError("the instruction set was changed while a program was recorded")
            s.product, s.sweeps = (<Product>step.product).sweeps, (<Product>step.product).count
            self.products.append(weakref.ref(step.product))
            add_product(&self.p, step.product)
        if s.op in (FLRP_STEP_WEIGHT_GRADIENT, FLRP_STEP_CHANNEL_SUM):
            self.p.sums_up = 1
            self.sums.add(s.out[0])
            self.slots[s.out[0]].sum = self.p.sum_floats
            self.p.sum_floats += (self.slots[s.out[0]].size + 15) // 16 * 16  # cache lines of its own
        self.p.work += 4.0 * self.slots[s.out[0]].size  # what elementwise steps and pools take, roughly
        return 0

    def __call__(self, Py_ssize_t samples, external, int64_t[::1] classes=None):
        """Run over `external`: slot to array, for every slot outside the arena. False where a product is gone."""
        cdef int status, run_threads = threads
        cdef int64_t block, floats
        cdef float **memory
        cdef flrp_program p = self.p  # as it is now: another thread may set a twin
        products = [product() for product in self.products]  # alive while this runs, and their twins with them
        if None in products:
            return False
        if classes is not None and classes.shape[0] != samples:
            raise ValueError(f"expected {samples} classes, got {classes.shape[0]}")
        if samples == 0:
            return True
        memory = <float **>calloc(max(external, default=0) + 1, sizeof(float *))
        if memory == NULL:
            raise MemoryError
        try:
            for slot, array in external.items():
                count = 1 if slot in self.sums else samples
                memory[slot] = pointer(array, count * self.slots[slot].size, "an input or output")
            floats = flrp_program_plan(&p, run_threads, samples, &block)
            arena = empty((floats,))
            with nogil:
                status = flrp_program_run(self.isa, run_threads, &p, samples, memory,
                                          &classes[0] if classes is not None else NULL,
                                          <float *>cnp.PyArray_DATA(<cnp.ndarray>arena), block)
        finally:
            free(memory)
        if status != FLRP_OK:
            raise MemoryError("no memory for a product's scratch")
        return True


cdef flrp_window window_of(window):
    cdef flrp_window w
    w.in_h, w.in_w, w.channels = window.in_shape
    w.out_h, w.out_w = window.grid
    w.kernel_h, w.kernel_w = window.kernel
    w.stride_h, w.stride_w = window.stride
    w.pad_top, w.pad_left = window.padding[0][0], window.padding[1][0]
    w.dilation_h, w.dilation_w = window.dilation
    return w


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
    cdef int run_isa = isa, finite
    cdef int64_t n = old.size
    cdef const float *po = pointer(old, n, "old")
    cdef const float *pg = pointer(g, n, "g")
    cdef float *pm = pointer(m, n, "m")
    cdef float *pv = pointer(v, n, "v")
    cdef float *pn = pointer(new, n, "new")
    numbers.beta1, numbers.beta2, numbers.rate, numbers.floor, numbers.keep = beta1, beta2, rate, floor, keep
    with nogil:
        finite = flrp_adam_step(run_isa, n, &numbers, po, pg, pm, pv, pn)
    return bool(finite)


cdef flrp_operand plain(const float *data):
    cdef flrp_operand found
    found.data, found.bound, found.read = data, NULL, FLRP_PLAIN
    return found


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


def fma_loop(int64_t iterations, int loop_threads):
    """Multiply-adds in registers on every thread, to measure the machine's limit; returns operations done."""
    cdef int64_t done
    cdef int run_isa = isa
    with nogil:
        done = flrp_fma_loop(run_isa, loop_threads, iterations)
    return done


def tile_loop(int64_t iterations, int loop_threads):
    """The same on bf16 tiles; 0 operations where the instruction set has none."""
    cdef int64_t done
    cdef int run_isa = isa
    with nogil:
        done = flrp_tile_loop(run_isa, loop_threads, iterations)
    return done
