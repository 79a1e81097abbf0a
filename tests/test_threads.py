"""The pool: limits, who sees them, forks, concurrent callers, interruption."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import threadpoolctl
from processes import run_python

import entropic

BIG = np.random.default_rng(1).normal(size=(64, 20000))


def python(code, **environment):
    result = run_python(code, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_limits():
    before = entropic.get_num_threads()
    with entropic.num_threads(3):
        assert entropic.get_num_threads() == 3
        with entropic.num_threads(1):
            assert entropic.get_num_threads() == 1
        assert entropic.get_num_threads() == 3
        assert entropic.show_config()["threads"] == 3
    assert entropic.get_num_threads() == before
    with pytest.raises(RuntimeError), entropic.num_threads(2):
        raise RuntimeError
    assert entropic.get_num_threads() == before


def test_refused_limits():
    for bad in (0, -1, 5000):
        with pytest.raises(ValueError, match=f"set_num_threads: `n` must be between 1 and 4096, got {bad}"):
            entropic.set_num_threads(bad)
    with pytest.raises(TypeError, match=r"set_num_threads: `n` must be an integer, got 2\.5"):
        entropic.set_num_threads(2.5)


@pytest.mark.parametrize("order", [("threadpoolctl", "entropic"), ("entropic", "threadpoolctl")])
def test_threadpoolctl_sees_and_sets_the_limit(order):
    code = f"""
import {order[0]}, {order[1]}
pools = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "entropic"]
print(len(pools), pools[0]["num_threads"] == entropic.get_num_threads(), pools[0]["version"] == entropic.__version__)
with threadpoolctl.threadpool_limits(1):
    print(entropic.get_num_threads())
with threadpoolctl.threadpool_limits(3, user_api="entropic"):
    print(entropic.get_num_threads())
"""
    assert python(code) == ["1", "True", "True", "1", "3"]


def test_environment():
    code = "import entropic; print(entropic.get_num_threads())"
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert python(code, ENTROPIC_NUM_THREADS="1", OMP_NUM_THREADS="64") == ["1"]
    assert python(code, ENTROPIC_NUM_THREADS="", OMP_NUM_THREADS="1") == ["1"]
    assert python(code, ENTROPIC_NUM_THREADS="10000", OMP_NUM_THREADS="") == [str(cpus)]
    assert python(code, ENTROPIC_NUM_THREADS="nonsense", OMP_NUM_THREADS="") == [str(cpus)]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import entropic; print(entropic.get_num_threads())"
    assert python(code, ENTROPIC_NUM_THREADS="", OMP_NUM_THREADS="") == ["1"]


FORK = """
import multiprocessing, numpy as np, entropic, warnings
warnings.simplefilter("ignore")
x = np.random.default_rng(1).normal(size=(64, 20000))

def child(queue):
    queue.put(entropic.logsumexp(x, axis=1).tobytes())

entropic.set_num_threads(2)
want = entropic.logsumexp(x, axis=1).tobytes()  # the pool exists and has worked
context = multiprocessing.get_context("fork")
for _ in range(3):
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(queue.get(timeout=60) == want)
    process.join(60)
    print(process.exitcode)
print(entropic.logsumexp(x, axis=1).tobytes() == want)
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_child_computes():
    # in a process of its own: other libraries that this one has loaded mind forks
    assert python(FORK) == ["True", "0"] * 3 + ["True"]


def test_many_callers_at_once():
    want = entropic.logsumexp(BIG, axis=1).tobytes()
    wrong = []

    def work():
        wrong.extend(i for i in range(20) if entropic.logsumexp(BIG, axis=1).tobytes() != want)

    with entropic.num_threads(3):
        callers = [threading.Thread(target=work) for _ in range(5)]
        for t in callers:
            t.start()
        for t in callers:
            t.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("n", [1, 2])
def test_a_long_call_can_be_interrupted(n):
    class Stop(Exception):
        pass

    def stop(signum, frame):
        raise Stop

    endless = np.broadcast_to(np.float64(1), 10**12)
    cloud = entropic.PointCloud(np.random.default_rng(0).normal(size=(50_000, 3)), np.zeros((50_000, 3)))
    calls = (entropic.logsumexp, entropic.softmax_entropy, lambda x: entropic.logsumexp(x, b=x),
             lambda _: entropic.sinkhorn(cloud, eps=0.1, tol=0, method="sinkhorn"))  # fmt: skip
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with entropic.num_threads(n):
            for call in calls:
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                start = time.monotonic()
                with pytest.raises(Stop):
                    call(endless)
                assert time.monotonic() - start < 5  # the calls never end
        assert entropic.logsumexp([0.0]) == 0  # the pool is free again
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


SEGMENTS = """
import signal, time, numpy as np, entropic
x, ids = np.zeros(60_000_000), np.random.default_rng(0).integers(0, 10_000_000, 60_000_000)
class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.4)
start = time.monotonic()
try:
    entropic.segment_logsumexp(x, ids, 10_000_000)
    print("never stopped")
except Stop:
    print("stopped", time.monotonic() - start < 5)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_a_unit_of_its_own_can_be_interrupted():
    assert python(SEGMENTS) == ["stopped", "True"]


SMALL_STACKS = """
import threading, numpy as np, entropic
x = np.random.default_rng(0).normal(size=(300, 20000))

def work():
    for y in (x, x.astype(np.float32), x.astype(">f8")):
        entropic.softmax(y, 0), entropic.softmax(y.T, 1), entropic.logsumexp(y, 0), entropic.softmax_entropy(y, 0)
        entropic.softmax(y, 0, out=np.empty_like(y, order="F")), entropic.logcumsumexp(y, 0)
        entropic.segment_logsumexp(y, np.arange(300) % 3), entropic.logsumexp(y, 0, b=y)
    for points in (x[:, :3], x[:, :3].astype(np.float32)):  # plain: NumPy's own linear solver needs a larger stack
        for cost in (entropic.PointCloud(points, points), np.abs(points[:, None, 0] - points[:, 0])):
            entropic.sinkhorn(cost, eps=5.0, method="sinkhorn"), entropic.sinkhorn(cost, eps=5.0, rho=1.0)
    print("fine")

threading.stack_size(512 * 1024)
entropic.set_num_threads(1)  # all on the thread with the small stack
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_threads_with_the_smallest_usual_stack():
    """Half a megabyte, as threads have on macOS."""
    assert python(SMALL_STACKS) == ["fine"]


def test_threadpoolctl_in_this_process():
    assert any(pool["user_api"] == "entropic" for pool in threadpoolctl.threadpool_info())
