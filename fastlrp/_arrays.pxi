"""Arrays as C takes them: checked pointers, structs that hold them, and the memory of new ones."""

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


cdef float *writable(array, Py_ssize_t size, str name) except NULL:
    """The same, to be written to."""
    cdef float *data = pointer(array, size, name)
    if not array.flags.writeable:
        raise ValueError(f"{name} must be writeable")
    return data


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


cdef flrp_operand plain(const float *data):
    cdef flrp_operand found
    found.data, found.bound, found.read = data, NULL, FLRP_PLAIN
    return found


cdef flrp_window window_of(window):
    cdef flrp_window w
    w.in_h, w.in_w, w.channels = window.in_shape
    w.out_h, w.out_w = window.grid
    w.kernel_h, w.kernel_w = window.kernel
    w.stride_h, w.stride_w = window.stride
    w.pad_top, w.pad_left = window.padding[0][0], window.padding[1][0]
    w.dilation_h, w.dilation_w = window.dilation
    return w
