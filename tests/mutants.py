"""Breaks one kernel at a time, on purpose, and sees that the tests of kernels and programs notice.

Run by hand: python tests/mutants.py

Each mutant is one change of text in a copy of the tree, which is built and tested (those of tiles on emulated AMX);
"survived" means that no test failed. Arguments are handed on to pytest, as in: python tests/mutants.py -k "not random".
Exit code 1 where a mutant survives or its text is gone from the source, 2 where the tests fail without any change.
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
    Mutant("slices of rows", "src_c/product.c", "samples, region.row + r, some",
           "samples, region.row, some"),
    Mutant("tile", "src_c/body/tile.h", "bv[v] = v_load(b + v * VW);\n#pragma GCC unroll 6",
           "bv[v] = v_load(b);\n#pragma GCC unroll 6"),
    Mutant("tile, lines", "src_c/body/tile.h", "a[m / rows][at + m % rows]", "a[m / rows][at]"),
    Mutant("tile, row tails", "src_c/body/tile.h", "x = v_set1(a[m][i])", "x = v_set1(a[m == 5 ? 4 : m][i])"),
    Mutant("epilogue, bias", "src_c/body/pointwise.h", "e, side, acc + j, channel + j, at + j, bounds",
           "e, side, acc + j, j, at + j, bounds"),
    Mutant("epilogue, factor's bound", "src_c/body/pointwise.h", "f->bound + at % e->factor_period",
           "f->bound + at"),
    Mutant("epilogue, sides", "src_c/body/pointwise.h", "if (side) v = v_add(", "if (side && left >= VW) v = v_add("),
    Mutant("epilogue, tails", "src_c/body/pointwise.h", "store_some(e->out + i, v, left + spill)",
           "v_store(e->out + i, v)"),
    Mutant("gather", "src_c/body/pointwise.h", "gather_run(n, x + i * n, bound ? bound + i * n : 0, read",
           "gather_run(n, x + i * n, bound, read"),
    Mutant("gather, few channels", "src_c/body/pointwise.h", "flrp_read(x[i * n + c], bound + (bound ? i * n + c : 0)",
           "flrp_read(x[i * n + c], bound + (bound ? c : 0)"),
    Mutant("borders", "src_c/product.c", "memset(dst + end * pixel, 0,", "if (0) memset(dst + end * pixel, 0,"),
    Mutant("reading", "src_c/kernels.h", "case FLRP_NEGATIVE: return x > 0 ? 0 : x", "case FLRP_NEGATIVE: return x"),
    Mutant("wide, groups", "src_c/product.c", "channel = group * group_out + panel * width", "channel = panel * width"),
    Mutant("narrow", "src_c/narrow.c", "sums + (o + m) * width + c",
           "sums + m * width + c"),
    Mutant("narrow, dilation", "src_c/narrow.c", "col * flrp_spacing(&p->cols)", "col"),
    Mutant("narrow, first tap", "src_c/narrow.c", "(j->a_offsets ? 0 : begin * outs)", "0"),
    Mutant("narrow, first tap of many channels", "src_c/narrow.c", "j->a_offsets + begin", "j->a_offsets"),
    Mutant("wide, first tap", "src_c/product.c", "if (j->flat) t.b += first", "if (0) t.b += first"),
    Mutant("narrow, planes", "src_c/narrow.c", ".a_step = outs, .b_step = j->plane",
           ".a_step = outs, .b_step = 1"),
    Mutant("narrow, planes of short segments", "src_c/narrow.c", "i % each * j->plane", "i % each"),
    Mutant("narrow, borders", "src_c/narrow.c", "for (int64_t n = end; n < j->line; n++) line[n] = 0;", ""),
    Mutant("phases of the stride", "fastlrp/shapes.py", "offsets, kernel, phase, stride))",
           "offsets, kernel, 0, stride))"),
    Mutant("phases, taps", "fastlrp/shapes.py", "for distance, k in reach if distance % stride == 0",
           "for distance, k in reach if k % stride == 0"),
    Mutant("scatter, stride", "src_c/scatter.c", "offsets[m] = (left - 1 - m) * step",
           "offsets[m] = (left - 1 - m) * p->dst_c"),
    Mutant("scatter, padding", "src_c/scatter.c", "line + j->before, 0, &at", "line, 0, &at"),
    Mutant("scatter, row taps", "src_c/scatter.c", "p->rows.offsets[tap] * p->src_w", "tap * p->src_w"),
    Mutant("scatter, reading", "src_c/scatter.c", "p->parts > 1 || operands[0].read != FLRP_PLAIN", "p->parts > 1"),
    Mutant("lanes, blocks", "src_c/body/lanes.h", "v_fma(factor, xv[v], acc[m][v])", "v_fma(factor, xv[0], acc[m][v])"),
    Mutant("lanes, terms", "src_c/body/lanes.h", "load_at(x, odd, v), acc",
           "load_at(x, odd, v == 5 ? 4 : v), acc"),
    Mutant("lanes, places of terms", "src_c/body/lanes.h", "odd[v / n / 2]", "odd[v / 2]"),
    Mutant("lanes, passes", "src_c/body/lanes.h", "mode == FLRP_LANES_GO_ON ? v_load(out)", "0 ? v_load(out)"),
    Mutant("lanes, scattered blocks", "src_c/lanes.c", "const int64_t c = block * j->columns;",
           "const int64_t c = (flrp_ceil_div(p->cols.count, j->columns) - 1 - block) * j->columns;"),
    Mutant("lanes, scattered", "src_c/body/lanes.h", "mode == FLRP_LANES_ADD ? v_add(sum, v_load(out))",
           "mode == FLRP_LANES_ADD ? v_add(sum, v_set1(0))"),
    Mutant("lanes, not finite", "src_c/body/lanes.h", "finite &= lanes[k] == 0", "finite |= lanes[k] == 0"),
    Mutant("lanes, zeros", "src_c/body/pointwise.h", "vf v = v_add(load_some(acc, left), v_set1(0))",
           "vf v = load_some(acc, left)"),
    Mutant("lanes, panels", "src_c/lanes.c", "(r->set * outs + panel) * terms", "r->set * outs * terms"),
    Mutant("lanes, last panel", "src_c/lanes.c", "flrp_min(j->l->panel, outs - panel)", "j->l->panel"),
    Mutant("lanes, row taps in panels", "src_c/lanes.c", "r->first * j->k * t->w_step", "r->first * j->k * outs"),
    Mutant("lanes, passes in panels", "src_c/lanes.c", "t.w += k * t.w_step;", "t.w += k * j->p->dst_c;"),
    Mutant("lanes, blocks of panels", "fastlrp/packing.py", "step = panel if many else LANE_PANEL",
           "step = LANE_PANEL"),
    Mutant("lanes, row taps", "src_c/lanes.c", "l->offsets + r->first * l->segments", "l->offsets"),
    Mutant("lanes, first column", "src_c/lanes.c", "p->cols.offsets[0] : 0) - j->l->first", "p->cols.offsets[0] : 0)"),
    Mutant("lanes, outputs", "src_c/lanes.c", "finish(e, side, columns, n, r->output * width",
           "finish(e, side, columns, n, 0"),
    Mutant("program, samples left over", "src_c/program.c", "j->twin && count == j->block", "j->twin != 0"),
    Mutant("dense, copies", "src_c/dense.c", "from + c, outs, w);", "from, outs, w);"),
    Mutant("dense, rows of copies", "src_c/body/dense.h", "w += stride, out += PANEL_VECTORS * VW", "w += stride"),
    Mutant("dense, samples' copies", "src_c/dense.c", "bound ? o->bound + begin", "bound ? o->bound"),
    Mutant("dense, parts", "src_c/dense.c", "part || begin, x, w", "begin > 0, x, w"),
    Mutant("dense, inputs at a time", "src_c/dense.c", "part || begin, x, w", "part > 0, x, w"),
    Mutant("dense, ends of panels", "src_c/dense.c", "(int)rows, n, t->first + c,", "(int)rows, n, t->first,"),
    Mutant("dense, segments", "src_c/dense.c", ".more = begin > 0, .last", ".more = 0, .last"),
    Mutant("dense, last segments", "src_c/dense.c", ".last = begin + n == j->p->src_c", ".last = 1"),
    Mutant("dense, rows at once", "src_c/dense.c", "d.acc = acc + s * of_sample + (r + i) * lanes",
           "d.acc = acc + s * of_sample + i * lanes"),
    Mutant("program, classes side by side", "src_c/program.c", "j->classes + f->first * width",
           "j->classes + f->first"),
    Mutant("product, slices", "src_c/product.c", "some = first_of(region.rows, i + 1, slices) - r;",
           "some = first_of(region.rows, i + 1, slices) - r - (i > 0);"),
    Mutant("product, blocks of rows", "src_c/product.c", "row, end - row}", "row, end - row - (row > 0)}"),
    Mutant("packing", "fastlrp/packing.py", "packed[:, :, whole, :, :rest] = used[..., whole * width:]",
           "packed[:, :, whole, :, :rest] = used[..., :rest]"),
    Mutant("weight gradient", "src_c/gradient.c", "x) * w->channels + group * (w->channels / j->groups)",
           "x) * w->channels"),
    Mutant("weight gradient, lines", "src_c/gradient.c", "line_offset(j, group, b.line + l)",
           "line_offset(j, group, b.line)"),
    Mutant("weight gradient, pieces", "src_c/gradient.c", ".more = first > 0", ".more = 0"),
    Mutant("weight gradient, chunks", "src_c/gradient.c", "j->kernels->finish(&add, sample > 0,",
           "j->kernels->finish(&add, 0,"),
    Mutant("weight gradient, padding", "src_c/gradient.c", "j->block_w + w->pad_left) * c", "j->block_w) * c"),
    Mutant("weight gradient, last chunk", "src_c/gradient.c", "memcpy(j->copy_g, g + j->whole * size",
           "memcpy(j->copy_g, g"),
    Mutant("sections, sums", "src_c/program.c", "sums += p->sum_floats;", ";"),
    Mutant("sections, places", "src_c/program.c", "f->first / f->j->p->section * f->j->p->sum_floats",
           "0 * f->j->p->sum_floats"),
    Mutant("channel sum, sections", "src_c/gradient.c", "out[c] += section[c]", "out[c] = section[c]"),
    Mutant("lanes, new weights", "fastlrp/_product.pxi", "(self.places[i] + 1)", "self.places[i]"),
    Mutant("adam", "src_c/body/adam.h", "v_add(v_sqrt(second), floor)", "v_sqrt(v_add(second, floor))"),
    Mutant("adam, what is finite", "src_c/body/adam.h", "v_fma(zero, load_some(v + i", "v_fma(zero, load_some(m + i"),
    Mutant("channel sum", "src_c/body/sums.h", "for (; row < rows; row++) sums[0]",
           "for (; row + 1 < rows; row++) sums[0]"),
    Mutant("group sum, tails", "src_c/body/sums.h", "load_some(x + c, n - c)", "v_load(x + c)"),
    Mutant("adam, blocks", "src_c/pointwise.c", "j->m + i, j->v + i, j->out + i", "j->m, j->v + i, j->out + i"),
    Mutant("group sum, places", "src_c/pointwise.c", "j->x + i, j->a + i / n)", "j->x + i, j->a + i)"),
    Mutant("group sum, order in lanes", "src_c/body/sums.h",
           "for (int64_t first = 0; first < flrp_min(VW, n); first++)",
           "for (int64_t first = flrp_min(VW, n); first-- > 0;)"),
    Mutant("sum pool", "src_c/body/pool.h", "v_set1(scale[y * w->out_w + col])", "v_set1(scale[col])"),
    Mutant("sum pool, 2 x 2", "src_c/body/pool.h", "load_read(positive, in + line + pixel + c, n)",
           "load_read(positive, in + line + c, n)"),
    Mutant("sum pool, 2 x 2, tails", "src_c/body/pool.h", "sum_four(positive, 0, whole, channels, channels,",
           "sum_four(positive, 0, whole, whole, channels,"),
    Mutant("sum pool, other windows", "src_c/body/pool.h", "load_read(positive, in + tap * channels + c, n)",
           "load_read(positive, in + tap + c, n)"),
    Mutant("sum pool, borders", "src_c/body/pool.h", "dilation < size ? kernel", "dilation <= size ? kernel"),
    Mutant("sum pool, beyond the end", "src_c/body/pool.h", "pixels_to_write * channels >= VW &&", "1 &&"),
    Mutant("sum pool back", "src_c/body/pool.h", "v_set1(scale[window])", "v_set1(scale[one])"),
    Mutant("sum pool back, factor", "src_c/body/pool.h", "times(read, sum, factor + c, n)",
           "times(read, sum, factor, n)"),
    Mutant("sum pool, positive parts", "src_c/body/pool.h", "return positive ? v_positive(v) : v;", "return v;"),
    Mutant("sum pool back, gates", "src_c/body/pool.h", "where_positive(f, value)", "v_mul(v_positive(f), value)"),
    Mutant("fusing, factors", "fastlrp/fusing.py", '("sum_pool_backward", 1)', '("sum_pool_backward", 0)'),
    Mutant("fusing, other readers", "fastlrp/fusing.py", "and all((reader.op, at) in POOL_READS",
           "and any((reader.op, at) in POOL_READS"),
    Mutant("fusing, what is asked for", "fastlrp/fusing.py", "if step.out[0].index not in external}", "}"),
    Mutant("epilogue, ReLU", "src_c/body/pointwise.h", "if (relu) v = v_positive(v);", ""),
    Mutant("fusing, readers of products", "fastlrp/fusing.py", "if len(readers[i]) == 1}", "if readers[i]}"),
    Mutant("max pool, ties", "src_c/body/pool.h", "(in[c] > o[c])", "(in[c] >= o[c])"),
    Mutant("max pool, NaN", "src_c/body/pool.h", " | (in[c] != in[c])", ""),
    Mutant("max pool, dilation", "src_c/body/pool.h", "left + kx * w->dilation_w", "left + kx"),
    Mutant("max pool, dilated borders", "src_c/body/pool.h", "flrp_ceil_div(-at, dilation)", "-at / dilation"),
    Mutant("max pool back, dilation", "src_c/body/pool.h", "if (ky % w->dilation_h || kx % w->dilation_w) continue;",
           "if (ky % w->dilation_h) continue;"),
    Mutant("max pool back, ties share", "src_c/pool.c", "return g / (float)ties;", "return g;"),
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
    Mutant("activation, slope at 0", "src_c/body/activation.h", "v_if_zero(d, v_set1(0), v)", "v"),
    Mutant("activation, bound", "src_c/body/activation.h", "where_positive(v_sub(p, v), w))) break", "w)) break"),
    Mutant("activation, cancellation", "src_c/body/activation.h", "return v_mul(e, v_mul(y, y))",
           "return v_sub(v_set1(1), v_mul(tanh_of(x), tanh_of(x)))"),
    Mutant("activation, far out", "src_c/body/activation.h", "v_at_most(v_abs(x), v_set1(30))", "v_abs(x)"),
    Mutant("exponential, denormals", "src_c/body/exponential.h", "v_set1(-104)", "v_set1(-87)"),
    Mutant("exponential, coefficients", "src_c/body/exponential.h", "0.00836658f", "0.00936658f"),
    Mutant("logarithm", "src_c/body/exponential.h", "0.28024468f", "0.30024468f"),
    Mutant("normal distribution", "src_c/body/exponential.h", "3.92480637e-4f", "4.92480637e-4f"),
    Mutant("signs of samples", "src_c/pointwise.c", "ok &= x[i] >= 0", "ok &= !(x[i] < 0)"),
    Mutant("winograd, transform", "src_c/body/winograd.h", "o[3] = v_sub(d[1], d[3])", "o[3] = v_sub(d[3], d[1])"),
    Mutant("winograd, five taps", "src_c/body/winograd.h", "o[6] = v_sub(d[4], d[5])", "o[6] = v_sub(d[5], d[4])"),
    Mutant("winograd, tiles side by side", "src_c/body/winograd.h", "columns[2 * tile + k][i]", "columns[tile + k][i]"),
    Mutant("winograd, sums of two", "src_c/winograd.c", "part[y] * parts[sum[x]] + part[x]", "part[y] + part[x]"),
    Mutant("winograd, read in place", "src_c/winograd.c", "x + 2 * j->tile_cols + around <= p->src_w", "1"),
    Mutant("winograd, in lanes", "src_c/winograd.c", "several ? vector : t.length * width", "vector"),
    Mutant("winograd, sides in lanes", "src_c/winograd.c", "side * j->begins[SUMS] * k * all", "side * k * all"),
    Mutant("winograd, panels in lanes", "src_c/winograd.c", "+ panel * j->panel / width", "+ panel"),
    Mutant("winograd, new weights", "fastlrp/_product.pxi", "                p.weights = weights\n",
           "                p.weights = p.weights\n"),
    Mutant("joined, places", "fastlrp/_arrays.pxi", "cnp.PyArray_BYTES(<cnp.ndarray>a) != next):", "False):"),
    Mutant("own product, places", "src_c/gradient.c", "values[places[i]]", "values[i]"),
    Mutant("program, pieces", "src_c/program.c", "(i - rest) * j->block + rest * j->piece", "i * j->block"),
    Mutant("winograd, sign", "src_c/body/winograd.h", "if (sign > 0)", "if (sign > 1)"),
    Mutant("winograd, edges", "src_c/winograd.c", "flrp_min(2, p->dst_w - x)", "2"),
    Mutant("winograd, borders", "src_c/winograd.c", "if (y < 0 || y >= p->src_h) memset", "if (y < 0) memset"),
    Mutant("winograd, packing", "fastlrp/packing.py", "[0.5, -0.5, 0.5]", "[0.5, -0.5, -0.5]"),
    Mutant("depthwise, taps", "src_c/depthwise.c", "w[n] = (i * p->cols.taps + k)",
           "w[n] = (i * p->cols.taps + k - col0)"),
    Mutant("depthwise, parts", "src_c/depthwise.c", "p->weights + (side * p->parts + part)",
           "p->weights + (side * p->parts)"),
    Mutant("pool, rows of windows", "src_c/body/pool.h", "factor += step, out += channels", "out += channels"),
    Mutant("transpose, edges", "src_c/body/pointwise.h", "r < square_rows ? square_cols : 0", "square_cols"),
    Mutant("dense, rows left over", "src_c/body/dense.h", "i = inputs / rows * rows; i < inputs",
           "i = inputs / rows * rows; i < inputs - 1"),
    Mutant("dense, samples left over", "src_c/body/dense.h", "for (; s < samples; s++)\n",
           "for (; s < samples - 1; s++)\n"),
    Mutant("dense, samples at once", "src_c/body/dense.h", "w, out + s * out_stride, out_stride)",
           "w, out, out_stride)"),
    Mutant("dense, order of sums", "src_c/body/dense.h", "sums[s][r] = v_fma(gs[s], w, sums[s][r])",
           "sums[s][r] = v_add(v_mul(gs[s], w), sums[s][r])"),
    Mutant("dense, reading", "src_c/body/dense.h", "case FLRP_NEGATIVE: dense_backward_with(FLRP_NEGATIVE",
           "case FLRP_NEGATIVE: dense_backward_with(FLRP_PLAIN"),
    Mutant("dense, samples", "src_c/dense.c", "task / j->pieces * SAMPLES", "0 * task"),
    Mutant("program, memory", "fastlrp/arena.py", "{i for i in live if last[i] == t} if",
           "{i for i in live if last[i] >= t} if"),
    Mutant("program, steps", "fastlrp/program.py", "wanted.update(slot.index for slot in step.reads())", "pass"),
    Mutant("program, blocks", "src_c/program.c", "j->external[i] + f->first * s->size", "j->external[i]"),
    Mutant("program, class", "src_c/program.c", "if (!(x[c * width] <= x[best * width])) best = c;",
           "if (x[c * width] >= x[best * width]) best = c;"),
    Mutant("stretches, what lies outside", "fastlrp/arena.py", "_share(units, dict",
           "_share([[s] for s in steps], dict"),
    Mutant("stretches, what lies inside", "fastlrp/arena.py", "if id(step) not in ids", "if id(step) in ()"),
    Mutant("stretches, grids", "fastlrp/arena.py", "grids[t] != grids[first]", "not grids[t]"),
    Mutant("stretches, pixels", "src_c/program.c", "values + f->pixel * (s->size / f->grid)", "values + f->pixel"),
    Mutant("stretches, blocks", "src_c/program.c", "f.pixel = task * j->block", "f.pixel = task / 2 * j->block"),
    Mutant("stretches, scratch", "src_c/program.c", "f->scratch + s->offset * f->room", "f->scratch + s->offset"),
    Mutant("lists, passes", "src_c/lists.c", "pass ? FLRP_LANES_GO_ON", "pass > 1 ? FLRP_LANES_GO_ON"),
    Mutant("lists, outputs", "src_c/lists.c", "j->p->dst_c + first,", "j->p->dst_c,"),
    Mutant("lists, not finite", "src_c/lists.c", "if (finite) {", "if (1) {"),
    Mutant("lists, strides", "src_c/lists.c", "row * p->rows.step + p->rows.offsets[0]", "row + p->rows.offsets[0]"),
    Mutant("lists, sides", "src_c/lists.c", "(side * l->passes + pass)", "(pass)"),
    Mutant("lists, packing", "fastlrp/packing.py", "np.broadcast_to(np.arange(length) * width, ordered.shape)",
           "np.broadcast_to(np.arange(length) * width + width, ordered.shape)"),
]
TILE_MUTANTS = [
    Mutant("tiles, products", "src_c/body/limbs.h", "multiply(tiles, high, below, 0);                    /* mm */",
           "load(tiles, high, below, b + FLRP_LIMB_SIZE);"),
    Mutant("tiles, infinities", "src_c/body/limbs.h", "finite ? a + limbs * t->a_limb : a;", "a;"),
    Mutant("tiles, slices", "src_c/amx.c", ".more = chunk > 0", ".more = 0"),
    Mutant("tiles, second half", "src_c/body/limbs.h", "_tile_loadd(7, b + FLRP_LIMB_SIZE / 2", "_tile_loadd(7, b"),
    Mutant("tiles, next chunk", "src_c/body/limbs.h", "tap = 0, chunk += t->a_chunk;", "tap = 0;"),
    Mutant("tiles, one below the other", "src_c/amx.c", "(tiles[1] - tiles[0]) * FLRP_CHUNK",
           "FLRP_LIMB_ROWS * FLRP_CHUNK"),
    Mutant("tiles, their list", "src_c/amx.c", "region.samples != before.samples || region.rows != before.rows",
           "task == first"),
    Mutant("tiles, panels of a strip", "src_c/amx.c", "f->sums + (panel - first) * FLRP_LIMB_OUTPUTS, width)",
           "f->sums, width)"),
    Mutant("tiles, slices of a strip", "src_c/amx.c", "weights_of(j, panel, side, chunk), .taps",
           "weights_of(j, panel, side, 0), .taps"),
    Mutant("tiles, where a task begins", "src_c/amx.c", "f->offset + r->offset + i", "r->offset + i"),
    Mutant("tiles, rows", "src_c/amx.c", "free = position + j->tile_rows;", "free = position + FLRP_LIMB_ROWS;"),
    Mutant("tiles, places", "src_c/amx.c", "i / n / 2 * 2 * n + i % n * 2 + i / n % 2",
           "i / n / 2 * 2 * n + i % n * 2"),
    Mutant("tiles, the last line's places", "src_c/amx.c", "i / n == lines / 2 * 2) return i", "i < 0) return i"),
    Mutant("tiles, sums of a strip", "src_c/body/limbs.h", "TILE_ROWS * t->acc_row", "TILE_ROWS * FLRP_LIMB_OUTPUTS"),
    Mutant("tiles, last strip", "src_c/amx.c", "flrp_min(width, j->p->dst_c - channel)", "width"),
    Mutant("limbs, ties", "src_c/body/limbs.h", "bits + 0x7fff + (bits >> 16 & 1)", "bits + 0x8000"),
    Mutant("limbs, largest", "src_c/body/limbs.h", "== EXPONENT ? bits : rounded)", "== EXPONENT ? rounded : rounded)"),
    Mutant("limbs, NaN", "src_c/body/limbs.h", "bits | (bits & FRACTION ? QUIET_NAN : 0)", "bits"),
    Mutant("limbs, packing", "fastlrp/packing.py", "transpose(0, 7, 3, 4, 1, 2, 8, 5, 9, 6)",
           "transpose(0, 7, 3, 4, 2, 1, 8, 5, 9, 6)"),
    Mutant("planes, shared zeros", "src_c/planes.c", "shared = flrp_min(shared, flrp_min(first, n - last))",
           "shared = flrp_min(shared, first)"),
    Mutant("planes, borders", "src_c/planes.c", "from->length - from->last);", "0);"),
    Mutant("planes, rows outside", "src_c/planes.c", "if (line < first || line >= last)", "if (line < first)"),
    Mutant("planes, first row", "src_c/planes.c", "before = l->lead + start", "before = l->lead"),
    Mutant("planes, remainders", "src_c/planes.c", "flrp_ceil_div(l->size - l->remainder[plane], step)",
           "flrp_ceil_div(l->size, step)"),
    Mutant("planes, parts", "src_c/planes.c", "part * l->part_chunks * l->chunk_size", "part * l->chunk_size"),
    Mutant("planes, bound", "src_c/planes.c", "from->bound + i * step", "from->bound"),
    Mutant("planes, lines that stay", "src_c/planes.c", "to + s->region.rows * pitch", "to"),
    Mutant("planes, infinities that stay", "src_c/planes.c", "s->special = s->special && moved", "s->special = 0"),
    Mutant("sides", "src_c/amx.c", "((side * j->panels + panel) * chunks", "(panel * chunks"),
    Mutant("ends, positions in vain", "src_c/amx.c", "FLRP_LIMB_ROWS + position - f->tiles[place]", "FLRP_LIMB_ROWS"),
    Mutant("ends, past the caches", "src_c/body/pointwise.h", "v_stream(e->out + i, v)", "v_stream(e->out + c, v)"),
    Mutant("destination", "src_c/amx.c", "(line + col * p->cols.stride) * p->dst_c", "(line + col) * p->dst_c"),
    Mutant("pooled, rows", "src_c/pooled.c", "(r->row + r->rows) / w->stride_h", "r->rows / w->stride_h"),
    Mutant("pooled, whole windows", "src_c/pooled.c", "flrp_ceil_div(rows, e->pool.window->stride_h) * "
           "e->pool.window->stride_h : rows", "rows : rows"),
    Mutant("pooled, samples", "src_c/pooled.c", "e->pool.winner + s * pooled_size(w)", "e->pool.winner"),
    Mutant("pooled, all channels", "src_c/amx.c", "apart = !j->epilogue.pool.winner_out", "apart = 1"),
    Mutant("pooled, other readers", "fastlrp/fusing.py", "if len(found) == 1 and i not in external}",
           "if found and i not in external}"),
    Mutant("pooled, what is asked for", "fastlrp/fusing.py", "if len(found) == 1 and i not in external}",
           "if len(found) == 1}"),
    Mutant("winograd on tiles, values", "src_c/winograd_amx.c", "SECOND[4] = {2, 2, 1, 3}", "SECOND[4] = {2, 2, 1, 2}"),
    Mutant("winograd on tiles, outputs", "src_c/winograd_amx.c", "{0, 1, -1, -1}};", "{0, 1, -1, 1}};"),
    Mutant("winograd on tiles, slices", "src_c/winograd_amx.c", "t.more = chunk > 0;", "t.more = 0;"),
    Mutant("winograd on tiles, registers", "src_c/winograd_amx.c", "f->added / j->rows * FLRP_LIMB_ROWS + row",
           "f->added"),
    Mutant("winograd on tiles, too late", "src_c/winograd_amx.c",
           "        add_some(f, INT64_MAX);\n", ""),
    Mutant("winograd on tiles, sides", "src_c/winograd_amx.c", "((side * VALUES + value) * j->panels + panel)",
           "(value * j->panels + panel)"),
    Mutant("winograd on tiles, sign", "src_c/winograd_amx.c", "if (sign)", "if (0)"),
    Mutant("winograd on tiles, edges", "src_c/winograd_amx.c", "flrp_min(2, p->dst_w - x)", "2"),
    Mutant("winograd on tiles, borders", "src_c/winograd_amx.c", "if (y < 0 || y >= p->src_h) memset",
           "if (y < 0) memset"),
    Mutant("winograd on tiles, infinities", "src_c/winograd_amx.c", ".finite = f->now.special && j->p->limbs > 1",
           ".finite = 0"),
]


class Suite(NamedTuple):
    """What tests mutants: files, on a build with these variables."""

    tests: list[str]
    environment: dict[str, str]
    mutants: list[Mutant]


GRAPH_MUTANTS = [
    Mutant("copies, where to", "src_c/pointwise.c", "sample * j->to_size + j->c->to_offset", "sample * j->to_size"),
    Mutant("copies, where from", "src_c/pointwise.c", "from + i * step, to + i * to_step)",
           "from + i, to + i * to_step)"),
    Mutant("copies, around", "src_c/pointwise.c", "j->out[i] = j->around", "j->out[i] = 0"),
    Mutant("copies, blocks", "src_c/pointwise.c", "task % j->blocks * j->block;\n    (void)thread;\n    copy_axis",
           "task % j->blocks;\n    (void)thread;\n    copy_axis"),
    Mutant("affine maps", "src_c/pointwise.c", "* times[c] / over[c] + plus[c]", "* times[c] / over[c] + plus[0]"),
    Mutant("pieces of one slot", "fastlrp/arena.py", "if slot.index in elsewhere or slot.index in live:",
           "if slot.index in elsewhere:"),
    Mutant("several readers", "fastlrp/propagate.py", "else min(before, below)", "else max(before, below)"),
    Mutant("relevance of several readers", "fastlrp/propagate.py",
           "pending[i] = part if pending[i] is None else trace.ops.add(pending[i], part)", "pending[i] = part"),
    Mutant("folding, groups", "fastlrp/canonize.py", "groups = factors.reshape(", "groups = factors[::-1].reshape("),
    Mutant("folding, shift", "fastlrp/canonize.py", "bias * factors + shift[0]", "bias + shift[0]"),
    Mutant("folding, shared layers", "fastlrp/canonize.py", "isinstance(layer, WeightedLayer) and alone",
           "isinstance(layer, WeightedLayer)"),
]

SUITES = [Suite(["tests/test_graph.py", "tests/test_canonize.py"], {}, GRAPH_MUTANTS),
          Suite(["tests/test_kernels.py", "tests/test_program.py", "tests/test_arena.py", "tests/test_train.py"], {},
                MUTANTS),
          Suite(["tests/test_amx.py"], {"FASTLRP_EMULATE_AMX": "1"}, TILE_MUTANTS)]


def run(command: list[str], folder: Path, environment: dict[str, str], timeout: float = 900) -> bool:
    """Whether the command succeeds in the copy."""
    env = {**os.environ, "PYTHONPATH": str(folder), "FASTLRP_CFLAGS": "-O1 -Wno-all -Wno-extra", **environment}
    try:
        done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, timeout=timeout,
                              check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def try_tests(folder: Path, suite: Suite, build: bool, arguments: list[str]) -> str:
    """"survived", "caught", or "does not build"."""
    if build and not run(["setup.py", "build_ext", "--inplace", "--force"], folder, suite.environment):
        return "does not build"
    command = ["-m", "pytest", *suite.tests, "-x", "-q", "-p", "no:cacheprovider", *arguments]
    return "survived" if run(command, folder, suite.environment) else "caught"


def try_mutant(mutant: Mutant, folder: Path, suite: Suite, arguments: list[str]) -> str:
    path = folder / mutant.file
    text = path.read_text()
    if text.count(mutant.old) < 1:
        return "text is gone"
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        return try_tests(folder, suite, path.suffix != ".py", arguments)
    finally:
        path.write_text(text)


def try_suite(suite: Suite, folder: Path, arguments: list[str]) -> list[str] | None:
    """What became of each mutant; None where the tests fail without any."""
    if try_tests(folder, suite, True, arguments) != "survived":
        print(f"{suite.tests} fails, or does not build, without any change")
        return None
    results = []
    for mutant in sorted(suite.mutants, key=lambda m: not m.file.endswith(".py")):  # first those on the unchanged build
        start = time.monotonic()
        results.append(try_mutant(mutant, folder, suite, arguments))
        print(f"{mutant.family:<26}{mutant.file:<26}{results[-1]:<16}{time.monotonic() - start:5.0f} s", flush=True)
    return results


def main(arguments: list[str]) -> int:
    results: list[str] = []
    for suite in SUITES:
        with tempfile.TemporaryDirectory(prefix="mutants-") as name:
            folder = Path(name)
            for part in filter(lambda part: (ROOT / part).exists(), PARTS):
                (shutil.copytree if (ROOT / part).is_dir() else shutil.copy2)(ROOT / part, folder / part)
            found = try_suite(suite, folder, arguments)
        if found is None:
            return 2
        results += found
    caught = results.count("caught")
    print(f"{caught} of {len(results)} caught")
    return 0 if caught == len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
