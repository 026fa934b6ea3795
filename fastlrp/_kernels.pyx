# cython: language_level=3, cdivision=True, embedsignature=True
"""The compiled kernels: checks buffers, has weights packed, allocates outputs, drops the GIL, calls C.

Arrays are float32, C-contiguous, channels last. Callers (ops.py) hand over nothing else; a buffer that does
not fit raises here, so that C can trust every pointer.

Here: instruction sets and threads. One module in parts: _arrays.pxi, what C takes; _product.pxi, weights laid out;
_program.pxi, recorded steps; _verbs.pxi, everything else.
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
if packing.PLACES != FLRP_LANE_PLACES:
    raise ImportError(f"packing.PLACES is {packing.PLACES}, the kernels' {FLRP_LANE_PLACES}")

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


include "_arrays.pxi"
include "_product.pxi"
include "_program.pxi"
include "_verbs.pxi"


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
