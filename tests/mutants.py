"""Breaks one kernel at a time, on purpose, and sees that the tests of kernels and programs notice.

Run by hand: python tests/mutants.py

Each mutant is one change of text in a copy of the tree, which is built and tested; "survived" means that no test
failed. Arguments are handed on to pytest, as in: python tests/mutants.py -k "not random". Exit code 1 where a mutant
survives or its text is gone from the source, 2 where the tests fail without any change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("fastlrp", "src_c", "tests", "build", "setup.py", "pyproject.toml", "README.md")


class Mutant(NamedTuple):
    """One change: the kernel family, the file, the text as it is, and as it will be."""

    family: str
    file: str
    old: str
    new: str


MUTANTS = [
    Mutant("tile", "src_c/body/tile.h", "acc[m][v] = v_fma(x, bv[v], acc[m][v])",
           "acc[m][v] = v_fma(x, bv[0], acc[m][v])"),
    Mutant("tile, row tails", "src_c/body/tile.h", "x = v_set1(a[m][i])", "x = v_set1(a[m == 5 ? 4 : m][i])"),
    Mutant("epilogue, bias", "src_c/body/pointwise.h", "load_some(e->bias + channel + j, left)",
           "load_some(e->bias + j, left)"),
    Mutant("epilogue, factor's bound", "src_c/body/pointwise.h", "f->bound + offsets[m] % e->factor_period",
           "f->bound + offsets[m]"),
    Mutant("epilogue, sides", "src_c/body/pointwise.h", "if (side) v = v_add(", "if (side && left >= VW) v = v_add("),
    Mutant("epilogue, tails", "src_c/body/pointwise.h", "store_some(out + j, v, left + spill)", "v_store(out + j, v)"),
    Mutant("gather", "src_c/body/pointwise.h", "gather_run(n, x + i * n, bound ? bound + i * n : 0, read",
           "gather_run(n, x + i * n, bound, read"),
    Mutant("gather, few channels", "src_c/body/pointwise.h", "flrp_read(x[i * n + c], bound + (bound ? i * n + c : 0)",
           "flrp_read(x[i * n + c], bound + (bound ? c : 0)"),
    Mutant("borders", "src_c/product.c", "memset(dst + end * pixel, 0,", "if (0) memset(dst + end * pixel, 0,"),
    Mutant("reading", "src_c/kernels.h", "case FLRP_NEGATIVE: return x > 0 ? 0 : x", "case FLRP_NEGATIVE: return x"),
    Mutant("wide, groups", "src_c/product.c", "channel = group * group_out + panel * width", "channel = panel * width"),
    Mutant("narrow", "src_c/product.c", "(o + m) / outs * cols + c) * outs + (o + m) % outs",
           "(o + m) / outs * cols + c) * outs + m % outs"),
    Mutant("narrow, short segments", "src_c/product.c", "i % each * spacing(&p->cols)", "i % each"),
    Mutant("narrow, first tap", "src_c/product.c", "(j->flat ? first * j->row_segments * all : 0)", "0"),
    Mutant("wide, first tap", "src_c/product.c", "if (j->flat) t.b += first", "if (0) t.b += first"),
    Mutant("narrow, spacing", "src_c/product.c", ".a_step = all, .b_step = spacing(&p->cols)",
           ".a_step = all, .b_step = 1"),
    Mutant("phases of the stride", "fastlrp/shapes.py", "offsets, kernel, phase, stride))",
           "offsets, kernel, 0, stride))"),
    Mutant("phases, taps", "fastlrp/shapes.py", "for distance, k in reach if distance % stride == 0",
           "for distance, k in reach if k % stride == 0"),
    Mutant("scatter, stride", "src_c/scatter.c", "(done + m) * step + n", "(done + m) * p->dst_c + n"),
    Mutant("scatter, padding", "src_c/scatter.c", "line + j->before, 0, &at", "line, 0, &at"),
    Mutant("scatter, row taps", "src_c/scatter.c", "p->rows.offsets[tap] * p->src_w", "tap * p->src_w"),
    Mutant("scatter, reading", "src_c/scatter.c", "p->parts > 1 || operands[0].read != FLRP_PLAIN", "p->parts > 1"),
    Mutant("packing", "fastlrp/packing.py", "packed[:, :, whole, :, :rest] = taken[..., whole * width:]",
           "packed[:, :, whole, :, :rest] = taken[..., :rest]"),
    Mutant("weight gradient", "src_c/gradient.c", "group * group_c + row % group_c", "row % group_c"),
    Mutant("weight gradient, chunks", "src_c/gradient.c", "j->kernels->finish(&add, 1,", "j->kernels->finish(&add, 0,"),
    Mutant("weight gradient, padding", "src_c/gradient.c", "j->block_w + w->pad_left) * c", "j->block_w) * c"),
    Mutant("channel sum", "src_c/body/pointwise.h", "for (; row < rows; row++) sums[0]",
           "for (; row + 1 < rows; row++) sums[0]"),
    Mutant("sum pool", "src_c/body/pool.h", "v_set1(scale[y * w->out_w + col])", "v_set1(scale[col])"),
    Mutant("sum pool, borders", "src_c/body/pool.h", "*last = flrp_min(kernel, size - at)",
           "*last = flrp_min(kernel, size - at + (at > 0 && size - at == kernel - 1))"),
    Mutant("sum pool, beyond the end", "src_c/body/pool.h", "pixels_to_write * channels >= VW &&", "1 &&"),
    Mutant("sum pool back", "src_c/body/pool.h", "v_set1(scale[window])", "v_set1(scale[one])"),
    Mutant("sum pool back, factor", "src_c/body/pool.h", "load_some(factor + c, n)", "load_some(factor, n)"),
    Mutant("max pool, ties", "src_c/body/pool.h", "(in[c] > o[c])", "(in[c] >= o[c])"),
    Mutant("max pool, NaN", "src_c/body/pool.h", " | (in[c] != in[c])", ""),
    Mutant("max pool back", "src_c/body/pool.h", "winner[at + c] == tap ? g[at + c] : 0",
           "winner[at + c] >= tap ? g[at + c] : 0"),
    Mutant("quotient, zero", "src_c/body/pointwise.h", "return v_if_zero(s, v_mul(s, top), v_div(top, s))",
           "return v_div(top, s)"),
    Mutant("quotient, sign", "src_c/body/pointwise.h", "r->is_signed ? v_if_negative(sum,",
           "r->is_signed ? v_if_negative(top,"),
    Mutant("ratio map, shared sums", "src_c/pointwise.c", "*sum_first = sample * j->sums_stride + at",
           "*sum_first = sample * j->sums_stride"),
    Mutant("gamma map", "src_c/body/pointwise.h", "bb = v_if_negative(zv, big, s)", "bb = v_if_negative(zv, s, big)"),
    Mutant("gamma map, zero", "src_c/body/pointwise.h", "v_if_zero(zv, v_mul(zero, rv), av)", "av"),
    Mutant("activation", "src_c/body/pointwise.h", "out[i] = x[i] <= 0 ? 0 : g[i]", "out[i] = x[i] < 0 ? 0 : g[i]"),
    Mutant("activation, overflow", "src_c/body/pointwise.h", "log1pf(expf(-fabsf(x[i])))", "log1pf(expf(fabsf(x[i])))"),
    Mutant("signs of samples", "src_c/pointwise.c", "ok &= x[i] >= 0", "ok &= !(x[i] < 0)"),
    Mutant("winograd, transform", "src_c/body/winograd.h", "o[3 * (s)] = v_sub(d1, d3)", "o[3 * (s)] = v_sub(d3, d1)"),
    Mutant("winograd, sign", "src_c/body/winograd.h", "if (sign > 0)", "if (sign > 1)"),
    Mutant("winograd, edges", "src_c/winograd.c", "flrp_min(2, p->dst_w - x)", "2"),
    Mutant("winograd, borders", "src_c/winograd.c", "if (y < 0 || y >= p->src_h) memset", "if (y < 0) memset"),
    Mutant("winograd, packing", "fastlrp/packing.py", "[0.5, -0.5, 0.5]", "[0.5, -0.5, -0.5]"),
    Mutant("depthwise, taps", "src_c/depthwise.c", "w[n] = (i * p->cols.taps + k)",
           "w[n] = (i * p->cols.taps + k - col0)"),
    Mutant("depthwise, parts", "src_c/depthwise.c", "p->weights + (side * p->parts + part)",
           "p->weights + (side * p->parts)"),
    Mutant("pool, rows of windows", "src_c/body/pool.h", "read_whole && x + 1 < w->in_w", "read_whole"),
    Mutant("transpose, edges", "src_c/body/pointwise.h", "r < square_rows ? square_cols : 0", "square_cols"),
    Mutant("dense, rows left over", "src_c/body/dense.h", "for (; i < inputs; i++)\n", "for (; i < inputs - 1; i++)\n"),
    Mutant("dense, order of sums", "src_c/body/dense.h", "#define FEW_SAMPLES 3",
           "#define FEW_SAMPLES 3\n#define v_fma(a, b, c) v_add(v_mul(a, b), c)"),
    Mutant("dense, reading", "src_c/body/dense.h", "case FLRP_NEGATIVE: dense_backward_with(FLRP_NEGATIVE",
           "case FLRP_NEGATIVE: dense_backward_with(FLRP_PLAIN"),
    Mutant("dense, samples", "src_c/dense.c", "task / j->pieces * SAMPLES", "0 * task"),
    Mutant("program, memory", "fastlrp/program.py", "if last[slot.index] == t and slot.index in live",
           "if last[slot.index] >= t and slot.index in live"),
    Mutant("program, steps", "fastlrp/program.py", "wanted.update(slot.index for slot in step.reads())", "pass"),
    Mutant("program, blocks", "src_c/program.c", "j->external[i] + f->first * s->size", "j->external[i]"),
    Mutant("program, class", "src_c/program.c", "if (!(x[c] <= x[best])) best = c;", "if (x[c] >= x[best]) best = c;"),
    Mutant("program, place", "src_c/program.c", "z = col - w->pad_left", "z = col"),
]


def run(command: list[str], folder: Path, timeout: float = 900) -> bool:
    """Whether the command succeeds in the copy."""
    env = {**os.environ, "PYTHONPATH": str(folder), "FASTLRP_CFLAGS": "-O1 -Wno-all -Wno-extra"}
    try:
        done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, timeout=timeout,
                              check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def try_tests(folder: Path, build: bool, arguments: list[str]) -> str:
    """"survived", "caught", or "does not build"."""
    if build and not run(["setup.py", "build_ext", "--inplace"], folder):
        return "does not build"
    tests = ["tests/test_kernels.py", "tests/test_program.py"]
    command = ["-m", "pytest", *tests, "-x", "-q", "-p", "no:cacheprovider", *arguments]
    return "survived" if run(command, folder) else "caught"


def try_mutant(mutant: Mutant, folder: Path, arguments: list[str]) -> str:
    path = folder / mutant.file
    text = path.read_text()
    if text.count(mutant.old) < 1:
        return "text is gone"
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        return try_tests(folder, path.suffix != ".py", arguments)
    finally:
        path.write_text(text)


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        for part in filter(lambda part: (ROOT / part).exists(), PARTS):
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy2)(ROOT / part, folder / part)
        if try_tests(folder, True, arguments) != "survived":
            print("the tests fail, or do not build, without any change")
            return 2
        results = []
        for mutant in sorted(MUTANTS, key=lambda m: not m.file.endswith(".py")):  # those on the unchanged build first
            start = time.monotonic()
            results.append(try_mutant(mutant, folder, arguments))
            print(f"{mutant.family:<26}{mutant.file:<26}{results[-1]:<16}{time.monotonic() - start:5.0f} s", flush=True)
    caught = results.count("caught")
    print(f"{caught} of {len(MUTANTS)} caught")
    return 0 if caught == len(MUTANTS) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
