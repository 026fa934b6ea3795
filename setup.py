"""Builds fastlrp's one compiled module: Cython over the C kernels in src_c, one object per instruction set."""

import os
import platform
import sys

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

COMMON = ["program.c", "product.c", "narrow.c", "scatter.c", "winograd.c", "depthwise.c", "dense.c", "lanes.c",
          "lists.c", "amx.c", "planes.c", "pooled.c", "winograd_amx.c", "gradient.c", "pool.c", "pointwise.c",
          "dispatch.c", "threads.c", "apart.c", "memory.c", "isa_portable.c"]
X86_FLAGS = {"isa_avx2.c": ["-mavx2", "-mfma"], "isa_avx512.c": ["-mavx512f", "-mavx2", "-mfma"]}
AMX_FLAGS = {"isa_amx.c": ["-mamx-tile", "-mamx-bf16", "-mavx512f", "-mavx512bf16", "-mavx2", "-mfma"]}
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
        macros, files = self.instruction_sets() if is_x86() else ([], {})
        for name, isa_flags in files.items():
            ext.extra_objects += self.compiler.compile(
                [f"src_c/{name}"], self.build_temp, macros, ["src_c"], extra_postargs=flags + isa_flags,
                depends=ext.depends)
        ext.extra_compile_args, ext.define_macros = flags, ext.define_macros + macros
        super().build_extension(ext)

    def instruction_sets(self):
        """Macros for all of the code, and flags for each instruction set's file."""
        emulate_amx = os.environ.get("FASTLRP_EMULATE_AMX")
        emulate = emulate_amx or os.environ.get("FASTLRP_EMULATE_AVX512")
        has_amx = emulate_amx or (not emulate and sys.platform == "linux" and self.knows(*AMX_FLAGS.values()))
        files = {**X86_FLAGS, **(AMX_FLAGS if has_amx else {})}
        if emulate:  # plain C for the AVX2 machine that runs it
            files = dict.fromkeys(files, X86_FLAGS["isa_avx2.c"])
        asked = {"FLRP_X86": True, "FLRP_HAS_AMX": has_amx, "FLRP_EMULATE_AVX512": emulate,
                 "FLRP_EMULATE_AMX": emulate_amx}
        return [(name, None) for name, yes in asked.items() if yes], files

    def knows(self, flags):
        """Whether the compiler takes these flags: GCC before 11 and Clang before 12 know no AMX."""
        os.makedirs(self.build_temp, exist_ok=True)
        source = os.path.join(self.build_temp, "empty.c")
        open(source, "w").close()
        try:
            self.compiler.compile([source], self.build_temp, extra_postargs=flags)
        except CompileError:
            return False
        return True


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
