"""Threads and processes: nothing about them changes a bit, and nothing hangs.

The work here is large enough for the kernels to start threads (some 4e5 multiply-adds for each).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import COMPOSITES, Draw, assert_same_bits, make_layer, mixed_signs, run_python, with_biases

import fastlrp
from fastlrp import _kernels
from fastlrp.bench import lenet
from fastlrp.ops import NATIVE
from fastlrp.shapes import Window, as_padding
from fastlrp.train import loop

THREADS = (1, 2, 3, 4, 7, 100)
HAS_FORK = hasattr(os, "fork")
HAS_PROC = os.path.isdir("/proc/self/task")
CHILD_SECONDS = 20


def big_network() -> fastlrp.Network:
    """Convolutions of 1 to 6 million multiply-adds a sample, wide, narrow, strided and grouped; pools; dense layers."""
    return with_biases(fastlrp.Network([
        fastlrp.Conv2d(16, 5, padding=2), fastlrp.ReLU(), fastlrp.MaxPool2d(2), fastlrp.Conv2d(32, 3, padding="same"),
        fastlrp.LeakyReLU(), fastlrp.SumPool2d(2, scale="sqrt"), fastlrp.Conv2d(32, 3, groups=2), fastlrp.ReLU(),
        fastlrp.Conv2d(64, 4, stride=2), fastlrp.ReLU(), fastlrp.Flatten(), fastlrp.Linear(500), fastlrp.Tanh(),
        fastlrp.Linear(10)], (40, 36, 3), seed=5))


NET = big_network()
X = mixed_signs(np.random.default_rng(0), 9, (40, 36, 3))


def digest(*arrays: np.ndarray) -> str:
    """A fingerprint of the arrays' bytes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def fingerprint() -> str:
    """Of forward pass and two explanations of a fresh network: the same in every process."""
    net = big_network()
    return digest(net.forward(X), net.explain(X).relevance, net.explain(X, 1, "epsilon_gamma_box").relevance)


# ---- thread counts ----

LAYERS: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "dense": ((700,), {"out": 900}, 1), "dense batch": ((300,), {"out": 330}, 40),
    "conv": ((40, 37, 16), {"out": 33, "kernel": 3, "padding": 1}, 2),
    "conv many samples": ((8, 9, 24), {"out": 40, "kernel": 3, "stride": 2}, 33),
    "conv more channels than pixels": ((3, 2, 256), {"out": 512, "kernel": 2, "padding": 1}, 1),
    "narrow": ((60, 64, 9), {"out": 2, "kernel": 5}, 3), "grouped": ((30, 31, 24), {"out": 48, "kernel": 3,
                                                                                  "groups": 4}, 3),
    "scattered back": ((9, 9, 32), {"out": 96, "kernel": 5}, 11),
}


def layer_calls(name: str) -> list[np.ndarray]:
    """What every verb gives for one layer."""
    shape, options, n = LAYERS[name]
    draw = Draw(3, exact=False)
    layer = make_layer(shape, options, draw)
    x, g, h = draw(n, *layer.in_shape), draw(n, *layer.out_shape), draw(n, *layer.out_shape)
    signed = [(x, "positive", None), (x, "negative", None)]
    return [NATIVE.product(layer, ("w",), [(x, "plain", None)], bias=layer.bias),
            NATIVE.product(layer, ("+", "-"), signed, ratio=(g, 1e-6, 1.0, True)),
            NATIVE.product_back(layer, [(g, "plain", None)], [(("w",), None)]),
            NATIVE.product_back(layer, [(g, "plain", None), (h, "plain", None)],
                                [(("+", "-"), signed[0]), (("-", "+"), signed[1])]),
            NATIVE.weight_gradient(layer, x, g), NATIVE.channel_sum(g)]


def map_calls(_: str) -> list[np.ndarray]:
    """Pools and pointwise maps over large arrays."""
    draw = Draw(4, exact=False)
    window = Window.fit((50, 47, 24), (3, 3), (2, 1), as_padding(1))
    x, g, scale = draw(9, 50, 47, 24), draw(9, *window.out_shape), draw(*window.grid)
    y, winner = NATIVE.max_pool(window, x)
    bias, ratio = draw(24), (g, 1e-6, 1.0, True)
    return [y, winner, NATIVE.max_pool_backward(window, g, winner),
            NATIVE.max_pool_share(window, g, x, y), NATIVE.sum_pool(window, x, scale),
            NATIVE.sum_pool_backward(window, g, scale, x), NATIVE.ratio_map(y, bias, ratio),
            NATIVE.group_sum(x, 1), NATIVE.group_sum(x, 3),
            *NATIVE.gamma_map(np.abs(y), -np.abs(g), y, bias, 0.25, ratio), NATIVE.activation("tanh", x),
            NATIVE.activation_backward("softplus", x, x), NATIVE.nonnegative_samples(x)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", [*LAYERS, "maps"])
def test_kernels_do_not_depend_on_the_number_of_threads(isa: str, name: str) -> None:
    """Every verb, bit for bit."""
    run = layer_calls if name in LAYERS else map_calls
    fastlrp.set_num_threads(1)
    expected = run(name)
    for n in THREADS[1:]:
        fastlrp.set_num_threads(n)
        for i, (a, b) in enumerate(zip(run(name), expected, strict=True)):
            assert_same_bits(a, b, f"call {i} on {n} threads")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1", "deep_taylor",
                                       "guided_backprop", "zbab", "uniform gamma"])
def test_networks_do_not_depend_on_threads_and_batches(composite: str) -> None:
    """Forward and explanation over thread counts and batch sizes."""
    chosen = COMPOSITES[composite]()
    fastlrp.set_num_threads(1)
    output, expected = NET.forward(X), NET.explain(X, composite=chosen).relevance
    for n, batch_size in zip(THREADS[1:], (None, 1, 4, None, 2), strict=True):
        fastlrp.set_num_threads(n)
        assert_same_bits(NET.forward(X, batch_size), output, f"forward, {n} threads, batch_size={batch_size}")
        found = NET.explain(X, composite=chosen, batch_size=batch_size).relevance
        assert_same_bits(found, expected, f"{n} threads, batch_size={batch_size}")


@pytest.mark.usefixtures("threads")
def test_gradients_do_not_depend_on_threads() -> None:
    """Of all parameters; so training is the same on every machine with the same instruction set."""
    t = np.arange(len(X)) % 10
    fastlrp.set_num_threads(1)
    loss, expected = fastlrp.train.gradients(NET, X, t)
    for n in THREADS[1:]:
        fastlrp.set_num_threads(n)
        other, found = fastlrp.train.gradients(NET, X, t)
        assert other == loss
        for name, values in expected.items():
            for key, gradient in values.items():
                assert_same_bits(found[name][key], gradient, f"{name}.{key} on {n} threads")


@pytest.mark.usefixtures("threads")
def test_recorded_training_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on being recorded: sections of samples are summed up apart, and added up in order."""
    rng = np.random.default_rng(4)
    x, t = rng.uniform(-1, 1, (52, 28, 28, 1)), rng.integers(0, 10, 52)

    def trained(n: int) -> list[np.ndarray]:
        fastlrp.set_num_threads(n)
        net = lenet()
        net.fit(x, t, epochs=1, batch_size=30, seed=1, progress=False)
        return [array for layer in net.weighted for array in layer.parameters.values()]

    expected = trained(1)
    found = [trained(n) for n in (2, 3, 7)]
    monkeypatch.setattr(loop, "record", lambda *anything: None)
    for arrays in (*found, trained(2)):
        for array, wanted in zip(arrays, expected, strict=True):
            assert_same_bits(array, wanted)


@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_can_be_set() -> None:
    """From 1 up; more than the machine has is no error."""
    for n in (*THREADS, 10**9):
        fastlrp.set_num_threads(n)
        assert 1 <= fastlrp.get_num_threads() <= n
        assert fastlrp.cpu_info()["threads"] == fastlrp.get_num_threads()
    assert NET.forward(X[:1]).shape == (1, 10)


def test_a_hundred_runs_are_one() -> None:
    """Threads finish in any order; sums do not."""
    expected = NET.explain(X[1:2], composite="epsilon_plus").relevance
    for _ in range(100):
        assert_same_bits(NET.explain(X[1:2], composite="epsilon_plus").relevance, expected)


@pytest.mark.skipif(not HAS_PROC, reason="counts threads in /proc")
def test_threads_are_really_started() -> None:
    """Else the tests above would show nothing."""
    done = run_python("""
import os
import fastlrp, test_threads
before = len(os.listdir("/proc/self/task"))
fastlrp.set_num_threads(4)
test_threads.NET.forward(test_threads.X)
print(len(os.listdir("/proc/self/task")) - before)
""", OPENBLAS_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 3


# ---- Python threads on one network ----

def test_sixteen_python_threads_share_a_network() -> None:
    """Fresh, so that they race to pack; mixed batch sizes and composites, and two sizes of input network."""
    net, small = big_network(), fastlrp.Network([fastlrp.Linear(50), fastlrp.ReLU(), fastlrp.Linear(3)], (20,))
    small_x = np.random.default_rng(1).standard_normal((8, 20)).astype(np.float32)
    names = ["epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1", "gradient"]
    expected = {name: NET.explain(X, composite=name).relevance for name in names}
    fresh = fastlrp.Network([fastlrp.Linear(50), fastlrp.ReLU(), fastlrp.Linear(3)], (20,))
    expected_small = fresh.explain(small_x).relevance
    barrier = threading.Barrier(16)

    def work(i: int) -> None:
        barrier.wait(30)
        for turn in range(4):
            name, first = names[(i + turn) % 4], (i + turn) % 5
            last = first + 1 + i % 4
            found = net.explain(X[first:last], composite=name, batch_size=1 + i % 3).relevance
            assert_same_bits(found, expected[name][first:last], name)
            assert_same_bits(small.explain(small_x).relevance, expected_small)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


def test_changing_the_number_of_threads_while_others_run() -> None:
    """Affects neither results nor those that run."""
    expected = NET.explain(X).relevance
    before, stop = fastlrp.get_num_threads(), threading.Event()

    def change() -> None:
        while not stop.is_set():
            for n in THREADS[:-1]:
                fastlrp.set_num_threads(n)
    other = threading.Thread(target=change)
    other.start()
    try:
        for _ in range(8):
            assert_same_bits(NET.explain(X).relevance, expected)
    finally:
        stop.set()
        other.join()
        fastlrp.set_num_threads(before)


# ---- processes ----

def in_child(check: Callable[[], bool]) -> None:
    """Fork; the child must return true within its seconds."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    deadline = time.monotonic() + CHILD_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "a child of fork gave other bits, or died"
            return
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"a child of fork did not finish in {CHILD_SECONDS} s")


needs_fork = pytest.mark.skipif(not HAS_FORK, reason="no fork on this system")
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@needs_fork
@forks
@pytest.mark.usefixtures("threads")
def test_children_of_fork_give_the_same_bits() -> None:
    """The parent has explained on several threads; children explain again, serially, six times over."""
    fastlrp.set_num_threads(3)
    expected = NET.explain(X, composite="epsilon_gamma_box").relevance

    def check() -> bool:
        same = np.array_equal(NET.explain(X, composite="epsilon_gamma_box").relevance, expected)
        fresh = big_network().explain(X, composite="epsilon_gamma_box").relevance
        return same and np.array_equal(fresh, expected)

    for _ in range(6):
        in_child(check)
        assert_same_bits(NET.explain(X, composite="epsilon_gamma_box").relevance, expected)


@needs_fork
@forks
def test_children_of_children() -> None:
    """A forked child may fork again."""
    expected = NET.explain(X[:2]).relevance

    def check() -> bool:
        in_child(lambda: np.array_equal(NET.explain(X[:2]).relevance, expected))
        return np.array_equal(NET.explain(X[:2]).relevance, expected)

    in_child(check)


@needs_fork
@forks
def test_fork_while_another_thread_packs_weights() -> None:
    """Whatever lock the other thread held, the child does not wait for it."""
    net = fastlrp.Network([fastlrp.Linear(300), fastlrp.ReLU(), fastlrp.Linear(10)], (400,))
    x = np.random.default_rng(2).standard_normal((2, 400)).astype(np.float32)
    expected, stop = net.explain(x).relevance, threading.Event()

    def repack() -> None:
        while not stop.is_set():
            for layer in net.weighted:
                layer.weight = layer.weight
            net.explain(x)

    other = threading.Thread(target=repack)
    other.start()
    try:
        for _ in range(20):
            in_child(lambda: np.array_equal(net.explain(x).relevance, expected))
            time.sleep(0.002)
    finally:
        stop.set()
        other.join()


def test_fresh_processes_give_the_same_bits() -> None:
    """As a spawned worker is: nothing hangs on a process's state."""
    done = run_python("import test_threads; print(test_threads.fingerprint())")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == fingerprint()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pools_of_processes(method: str) -> None:
    """multiprocessing's workers get a pickled network and send explanations back."""
    if method == "forkserver" and not HAS_FORK:
        pytest.skip("no fork on this system")
    done = run_python(f"""
import multiprocessing, numpy as np
import test_threads as t
if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        found = pool.map(t.NET.explain, [t.X[:2], t.X[2:5], t.X[5:]])
    assert np.array_equal(np.concatenate([e.relevance for e in found]), t.NET.explain(t.X).relevance)
    print("same")
""")
    assert done.stdout.strip() == "same", done.stderr


# ---- what the environment says at import ----

@functools.cache
def info(**more: Any) -> dict[str, Any]:
    done = run_python("import fastlrp; print(fastlrp.cpu_info())", **more)
    assert done.returncode == 0, done.stderr
    return eval(done.stdout)  # a dictionary of names and numbers


@pytest.mark.parametrize(("value", "expected"), [("1,4", 1), ("many", None), ("100000", None)])
def test_omp_num_threads_is_an_upper_limit(value: str, expected: int | None) -> None:
    """The first number of it; what is no positive number is ignored."""
    default = info(OMP_NUM_THREADS="")["threads"]
    assert info(OMP_NUM_THREADS=value)["threads"] == (expected or default)


def test_threads_that_openmp_binds_are_as_many() -> None:
    """It leaves the thread that imports it one place, of which there may be no other."""
    assert info(OMP_PROC_BIND="true")["threads"] == info(OMP_PROC_BIND="")["threads"]
    if hasattr(os, "sched_getaffinity"):
        assert info(OMP_PLACES=f"{{{min(os.sched_getaffinity(0))}}}")["threads"] == 1


@pytest.mark.skipif(not shutil.which("taskset"), reason="no taskset")
def test_affinity_is_an_upper_limit() -> None:
    """One processor, one thread, and the same bits."""
    cpu = str(min(os.sched_getaffinity(0)))
    done = run_python("import test_threads as t; print(t.fastlrp.get_num_threads(), t.fingerprint())",
                      prefix=("taskset", "-c", cpu))
    assert done.stdout.split() == ["1", fingerprint()], done.stderr


ISA_ORDER = ["portable", "avx2", "avx512", "amx"]


@pytest.mark.parametrize("cap", ISA_ORDER)
def test_the_instruction_set_can_be_capped(cap: str) -> None:
    """The best one that the machine has and the cap allows; a cap beyond the machine is no error."""
    allowed = [isa for isa in ISA_ORDER[:ISA_ORDER.index(cap) + 1] if isa in _kernels.ISAS]
    found = info(FASTLRP_ISA=cap)
    assert found["isa"] == allowed[-1]
    assert set(found["available"]) == set(_kernels.ISAS)


@pytest.mark.parametrize("value", ["sse9", "AVX2"])
def test_an_unknown_instruction_set_is_refused(value: str) -> None:
    """At import, with the names that are known."""
    done = run_python("import fastlrp", FASTLRP_ISA=value)
    assert done.returncode == 1
    assert "ValueError: FASTLRP_ISA must be one of" in done.stderr and repr(value) in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("order", ["torch, test_threads", "test_threads, torch"])
def test_beside_torch(order: str) -> None:
    """Which brings an OpenMP of its own: the same bits in either order of import, while torch works too."""
    done = run_python(f"""
import {order}
def multiply():
    a = torch.ones(300, 300)
    assert float((a @ a).sum()) == 300 ** 3
multiply()
print(test_threads.fingerprint())
multiply()
print(test_threads.fingerprint())
""", timeout=120)
    assert done.stdout.split() == [fingerprint()] * 2, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_explaining_leaves_nothing_behind() -> None:
    """No file descriptors, no threads beyond the team, and no growing memory, in a process of its own."""
    done = run_python("""
import os
import fastlrp, numpy as np
import test_threads as t
def state():
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), pages * os.sysconf("SC_PAGE_SIZE")
net = fastlrp.Network([fastlrp.Conv2d(8, 3), fastlrp.ReLU(), fastlrp.Flatten(), fastlrp.Linear(3)], (8, 8, 1))
x = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
def run(times):
    for i in range(times):
        net.explain(x, composite=("epsilon_plus_flat", "epsilon_gamma_box", "gradient")[i % 3])
        if i % 50 == 0:
            t.NET.explain(t.X)
run(200)
before = state()
run(800)
after = state()
print(after[0] - before[0], after[1] - before[1], after[2] - before[2])
""")
    assert done.returncode == 0, done.stderr
    descriptors, tasks, memory = map(int, done.stdout.split())
    assert (descriptors, tasks) == (0, 0)
    assert memory < 2 << 20


# ---- where threads run ----

def may_choose() -> bool:
    """Whether this process may run on two processors, and may say on which."""
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return False
    return HAS_PROC and len(os.sched_getaffinity(0)) > 1


needs_processors = pytest.mark.skipif(not may_choose(), reason="needs Linux and two processors to choose from")
TWO_THREADS = """
import os, random, threading, time
import fastlrp, test_threads as t
from fastlrp import _kernels
fastlrp.set_num_threads(2)
main, every = os.getpid(), os.sched_getaffinity(0)
tasks = lambda: {int(task) for task in os.listdir("/proc/self/task")}
before = tasks()
t.NET.explain(t.X)
workers = tasks() - before
masks = lambda: {task: os.sched_getaffinity(task) for task in {main, *workers}}
"""
ANY_THREADS = {"OMP_THREAD_LIMIT": "", "OMP_PROC_BIND": "", "GOMP_SPINCOUNT": "1000"}


@needs_processors
def test_workers_keep_their_processors() -> None:
    """Those that they may run on are the same after every call, also where the caller has chosen them."""
    done = run_python(TWO_THREADS + """
assert workers and all(mask == every for mask in masks().values()), masks()
for chosen in ({}, dict.fromkeys(workers, {max(every)}), {main: {min(every)}}):
    for task, mask in chosen.items():
        os.sched_setaffinity(task, mask)
    kept = masks()
    for _ in range(5):
        time.sleep(0.01)
        t.NET.explain(t.X)
        assert masks() == kept, (masks(), kept)
print("kept")
""", **ANY_THREADS)
    assert done.stdout.strip() == "kept", done.stderr


@needs_processors
def test_teams_that_grow_and_shrink_keep_their_processors() -> None:
    """Several threads begin regions of any size: workers come, go, and are others'."""
    done = run_python(TWO_THREADS + """
def run(seed):
    draw = random.Random(seed)
    for _ in range(60):
        _kernels.fma_loop(1000, draw.randint(1, 5))
        time.sleep(0.001 * draw.random())

runs = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
for each in runs:
    each.start()
for each in runs:
    each.join()
run(3)
assert all(os.sched_getaffinity(task) == every for task in tasks())
print("kept")
""", **ANY_THREADS)
    assert done.stdout.strip() == "kept", done.stderr


@needs_processors
@pytest.mark.skipif(_kernels.began_apart() < 0, reason="not a KVM guest: the system sees which processors are idle")
def test_workers_wake_on_other_processors() -> None:
    """After a rest, a guest would wake them where the calling thread runs, as it may be asked to."""
    count = TWO_THREADS + """
apart = 0
for _ in range(20):
    time.sleep(0.01)
    _kernels.fma_loop(100_000, 2)
    apart += _kernels.began_apart()
print(apart)
"""
    done = run_python(count, **ANY_THREADS)
    assert done.stdout and int(done.stdout) >= 18, (done.stdout, done.stderr)
    assert run_python(count, FASTLRP_KEEP_APART="0").stdout.strip() == "-20"
