"""Builds fastlrp's one compiled module: Cython over the C kernels in src_c, one object per instruction set."""

import os
import platform
import sys

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMMON = ["program.c", "product.c", "scatter.c", "winograd.c", "depthwise.c", "dense.c", "gradient.c", "pool.c",
          "pointwise.c", "dispatch.c", "threads.c", "memory.c", "isa_portable.c"]
X86_FLAGS = {"isa_avx2.c": ["-mavx2", "-mfma"], "isa_avx512.c": ["-mavx512f", "-mavx2", "-mfma"]}
# No fast-math and no contraction: relevance depends on signs and zeros, and tails must round as bodies do.
FLAGS = ["-O3", "-g0", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra",
         "-Wframe-larger-than=32768"]


def is_x86():
    return platform.machine().lower() in ("x86_64", "amd64") and not os.environ.get("FASTLRP_PORTABLE")


class BuildKernels(build_ext):
    """Compiles each instruction set's file with its own flags, and links the objects into the module."""

    def build_extension(self, ext):
        openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
        flags = FLAGS + openmp + os.environ.get("FASTLRP_CFLAGS", "").split()
        macros = [("FLRP_X86", None)] if is_x86() else []
        emulate = is_x86() and os.environ.get("FASTLRP_EMULATE_AVX512")
        if emulate:
            macros.append(("FLRP_EMULATE_AVX512", None))
        for name, isa_flags in X86_FLAGS.items() if is_x86() else ():
            # The emulation is plain C for the AVX2 machine that runs it.
            isa_flags = ["-mavx2", "-mfma"] if emulate else isa_flags
            ext.extra_objects += self.compiler.compile(
                [f"src_c/{name}"], self.build_temp, macros, ["src_c"], extra_postargs=flags + isa_flags,
                depends=ext.depends)
        ext.extra_compile_args, ext.define_macros = flags, ext.define_macros + macros
        super().build_extension(ext)


HEADERS = [os.path.join(folder, name) for folder, _, names in os.walk("src_c") for name in names if name.endswith(".h")]

setup(
    ext_modules=cythonize([Extension(
        "fastlrp._kernels",
        ["fastlrp/_kernels.pyx", *(f"src_c/{name}" for name in COMMON)],
        include_dirs=["src_c", numpy.get_include()],
        extra_link_args=[] if sys.platform == "darwin" else ["-fopenmp"],
        depends=HEADERS,
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    )]),
    cmdclass={"build_ext": BuildKernels},
)
