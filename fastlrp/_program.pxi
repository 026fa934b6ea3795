"""Programs: recorded steps over slots, run by one call."""

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


COPY_AXES = FLRP_COPY_AXES
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

    @property
    def uses(self):
        """Operations of a sample for each weight."""
        return self.p.work / max(self.p.weights, 1)

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
        cdef flrp_blocks plan
        cdef float **memory
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
            arena = empty((flrp_program_plan(&self.p, run_threads, samples, &plan),))
            with nogil:
                status = flrp_program_run(self.isa, run_threads, &self.p, &plan, samples, memory,
                                          &classes[0] if classes is not None else NULL,
                                          <float *>cnp.PyArray_DATA(<cnp.ndarray>arena))
        finally:
            free(memory)
        if status != FLRP_OK:
            raise MemoryError("no memory for a product's scratch")
        return True
