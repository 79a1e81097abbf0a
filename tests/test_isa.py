"""Instruction sets: the forced one runs, all agree, and none leaks into what every machine executes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import run_python

import entropic
from entropic import _core

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = {"baseline": {1, 4}, "neon": {4}, "v3": {8}, "v4": {16}}
FLAGS = {
    "baseline": ["-march=x86-64"],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}


def test_the_forced_set_is_the_one_that_runs(isa):
    # both come out of the object itself: its name from the compiler's macros, its width from its packs
    assert _core.isa_active() == isa
    assert _core.isa_float_lanes() in WIDTHS[isa]
    assert entropic.show_config()["isa_active"] == isa


@pytest.mark.parametrize("name", _core.isa_available())
def test_environment_forces_a_set(name):
    code = "import entropic; print(entropic.show_config()['isa_active'], float(entropic.logsumexp([0.0, 0.0])))"
    result = run_python(code, ENTROPIC_ISA=name)
    assert result.stdout.split() == [name, repr(float(np.log(2)))]


def test_environment_names_an_unknown_set():
    result = run_python("import entropic", ENTROPIC_ISA="v9")
    assert result.returncode != 0
    assert "ImportError: ENTROPIC_ISA='v9' is not available; this machine runs" in result.stderr


def test_best_set_is_the_default():
    result = run_python("import entropic; print(entropic.show_config()['isa_active'])", ENTROPIC_ISA="")
    assert result.stdout.strip() == _core.isa_available()[-1]


def test_sets_agree(rng):
    """Differential: random input of every kind, each set against the first within a few roundings."""
    before = _core.isa_active()
    arrays = [
        (rng.normal(size=s) * scale).astype(t)
        for s in [(1,), (17,), (1000,), (33, 65), (5, 9000), (900, 5)]
        for scale in (0.01, 5, 500)
        for t in (np.float32, np.float64)
    ]
    funcs = [
        entropic.logsumexp, entropic.softmax, entropic.log_softmax, entropic.softmax_entropy, entropic.logcumsumexp,
        lambda x, axis: entropic.logsumexp(x, axis, b=x, return_sign=True)[0],
    ]  # fmt: skip
    try:
        for x in arrays:
            for f in funcs:
                answers = []
                for name in _core.isa_available():
                    assert _core.force_isa(name)
                    answers.append(f(x, axis=-1))
                for a in answers[1:]:
                    size = max(1.0, float(np.abs(x).max()))
                    eps = float(np.finfo(x.dtype).eps)
                    np.testing.assert_allclose(a, answers[0], rtol=60 * eps, atol=8 * eps * size)
    finally:
        _core.force_isa(before)


def transport_problems(rng):
    x, y, a = rng.normal(size=(70, 5)), rng.normal(size=(90, 5)) + 0.3, rng.dirichlet(np.ones(70))
    for kind in (np.float32, np.float64):
        points = x.astype(kind), y.astype(kind)
        for metric in ("sqeuclidean", "euclidean", "manhattan", "dot", "cosine"):
            yield entropic.PointCloud(*points, metric=metric), a, None, {}
        yield ((x[:, None] - y) ** 2).sum(-1).astype(kind), a, None, {"rho": 0.7}
        yield ((x[:, None] - y) ** 2).sum(-1).astype(kind), a, None, {"mass": 0.5}
        yield rng.random((300, 9, 11)).astype(kind), None, None, {}
    yield entropic.Grid(np.arange(7.0), np.arange(10.0)), a, rng.dirichlet(np.ones(70)), {}


def test_sets_agree_on_plans(rng):
    before = _core.isa_active()
    try:
        for cost, a, b, more in transport_problems(rng):
            for eps in (0.1, 1.0):
                answers = []
                for name in _core.isa_available():
                    assert _core.force_isa(name)
                    answers.append(entropic.sinkhorn(cost, a, b, eps=eps, tol=1e-9, **more))
                for other in answers[1:]:
                    np.testing.assert_allclose(other.value, answers[0].value, rtol=1e-6, atol=1e-8)
                    np.testing.assert_allclose(other.plan(), answers[0].plan(), rtol=0, atol=1e-6)
    finally:
        _core.force_isa(before)


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="looks at x86-64 ELF objects")
@pytest.mark.parametrize("name", ["v3", "v4"])
def test_no_symbol_can_replace_a_baseline_one(tmp_path, name):
    """A weak symbol of an AVX object may be the copy that the linker keeps for everybody."""
    compiler, nm = shutil.which("c++"), shutil.which("nm")
    if not (compiler and nm):
        pytest.skip("needs a C++ compiler and nm")
    for source in sorted((ROOT / "csrc/cpu/isa").glob("*.cpp")):
        target = tmp_path / f"{source.stem}.o"
        command = [compiler, "-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden", "-w",
                   *FLAGS[name], f"-DENTROPIC_ISA_{name.upper()}", f"-I{ROOT / 'csrc/include'}", "-c", str(source),
                   "-o", str(target)]  # fmt: skip
        subprocess.run(command, check=True, timeout=300)
        symbols = subprocess.run([nm, "-C", str(target)], check=True, capture_output=True, text=True).stdout
        weak = [line for line in symbols.splitlines() if re.search(r" [WVuw] ", line)]
        assert not weak
        exported = [line for line in symbols.splitlines() if re.search(r" [TDBR] ", line)]
        assert len(exported) == 1
        table = {"logits": "kernels"}.get(source.stem, source.stem)
        assert f"{table}_{name}" in exported[0]


EVERYTHING = """
import numpy as np, entropic
x = np.random.default_rng(0).normal(size=(50, 700))
for dtype in (np.float32, np.float64, np.float16):
    y = x.astype(dtype)
    for axis in (0, 1, None):
        for f in (entropic.logsumexp, entropic.softmax, entropic.log_softmax, entropic.softmax_entropy, entropic.logmeanexp):
            f(y, axis)
    entropic.logcumsumexp(y), entropic.segment_logsumexp(y, np.arange(50) % 3), entropic.logsumexp(y, 1, b=y)
    stream = entropic.LogSumExp()
    stream.update(y)
    stream.entropy
    for options in ({}, {"temperature": 0.7}, {"mask": x > -1}, {"top_k": 9}, {"expect": x[0], "temperatures": (1, 2)}):
        entropic.logit_stats(y, np.arange(50), **options).varentropy
    entropic.linear_cross_entropy(y[:, :9], y[:, :9], np.arange(50)), entropic.attention_entropy(y, y, causal=True)
    entropic.divergence(y, y[::-1]), entropic.row_entropy(y, order=2), entropic.marginal_entropy(y)
for points in (x[:, :3].astype(np.float32), x[:, :20]):
    for metric in ("sqeuclidean", "euclidean", "manhattan", "dot", "cosine"):
        entropic.sinkhorn(entropic.PointCloud(points, points[:30], metric=metric), eps=0.5).plan()
    cost = np.abs(points[:, None, 0] - points[:40, 0])
    entropic.sinkhorn(cost, eps=1e-3), entropic.sinkhorn(cost, eps=0.5, rho=1.0), entropic.semidual(cost, np.zeros(40), eps=0.5)
entropic.sinkhorn(entropic.Grid(np.arange(5.0), np.arange(10.0)), eps=0.5, mass=0.5)
p = np.abs(x[:, :9]) / np.abs(x[:, :9]).sum(1, keepdims=True)
entropic.minimum_entropy_coupling_batch(p, p[::-1]), entropic.minimum_entropy_coupling(p[0], p[1], order=0.5)
for d in (1, 2, 3, 5, 20):
    for metric in ("euclidean", "manhattan", "chebyshev"):
        radii = entropic.nearest_neighbors(x.T[:, :d], k=3, metric=metric)[0][:, -1]
        entropic.count_within(x.T[:, :d], radii, metric=metric)
        entropic.knn_entropy(x.T[:, :d], k=[1, 3, 8], metric=metric)
entropic.knn_mutual_information(x[0], x[1]), entropic.mutual_information_matrix(x.T[:, :4])
for method in ("dense", "certified", "lanczos"):
    entropic.diffusion_spectral_entropy(x.T, sigma=5.0, t=[1, 2], method=method, tol=10)
entropic.cauchy_schwarz_divergence(x[:, :3], x[:, 3:6], sigma=1.0), entropic.kde_entropy(x[:, :3], sigma=1.0)
print(entropic.show_config()["isa_active"], abs(float(entropic.logsumexp(x)) - np.log(np.exp(x).sum())) < 1e-12)
"""


@pytest.mark.parametrize(("processor", "name"), [("Nehalem", "baseline"), ("Haswell", "v3")])
def test_an_older_processor_runs_the_module(processor, name):
    """Under emulation, an instruction that the processor lacks ends the process: nothing newer leaks into its path."""
    emulator = shutil.which("qemu-x86_64")
    if not emulator or name not in _core.isa_compiled():
        pytest.skip("needs qemu-x86_64 and an x86-64 build")
    # NumPy's AVX2 sort crashes under the emulator, with or without this package: it takes its baseline.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "ENTROPIC_ISA": ""}
    environment |= {"NPY_DISABLE_CPU_FEATURES": "AVX2 X86_V3", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        [emulator, "-cpu", processor, sys.executable, "-c", EVERYTHING],
        env=environment, cwd="/", capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.stdout.split() == [name, "True"], result.stderr


KERNEL_BUILDS = {name: ("c++", [], flags) for name, flags in FLAGS.items()} | {
    "neon": ("aarch64-linux-gnu-g++", ["qemu-aarch64"], ["-static"])
}


@pytest.mark.parametrize("name", KERNEL_BUILDS)
def test_kernels_by_themselves(tmp_path, name):
    """The kernel tables in C++ against long double; NEON is cross-compiled and emulated where the tools are there."""
    compiler, emulator, flags = KERNEL_BUILDS[name]
    if name in FLAGS and name not in _core.isa_available():
        pytest.skip(f"this machine has no {name}")
    if not all(shutil.which(tool) for tool in [compiler, *emulator]):
        pytest.skip(f"needs {' and '.join([compiler, *emulator])}")
    program = tmp_path / "kernels"
    sources = [ROOT / "tests/cpp/kernels/kernels.cpp", *sorted((ROOT / "csrc/cpu/isa").glob("*.cpp"))]
    command = [compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-w", *flags, f"-DENTROPIC_ISA_{name.upper()}",
               f"-DENTROPIC_TEST_KERNELS=kernels_{name}", f"-I{ROOT / 'csrc/include'}", *map(str, sources),
               "-o", str(program)]  # fmt: skip
    subprocess.run(command, check=True, timeout=300)
    result = subprocess.run([*emulator, str(program)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout
    assert result.stdout == f"{name} ok\n"
