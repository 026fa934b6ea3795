"""Products: a linear map with its weights laid out once, as the form for its shape wants."""

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
        e.out = writable(out, samples * self.dst_size, "out")
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
