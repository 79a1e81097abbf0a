"""Sinkhorn beside POT, GeomLoss, OTT and RegOT: cost of an iteration, error against time, growth with n.

One referee for all: the L1 error of both marginals, recomputed in float64 from the potentials that come back.
"""

from __future__ import annotations

import functools
import importlib.metadata
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, optional, options, peak_bytes, race, save

import entropic

pot = optional("ot")
torch = optional("torch")
geomloss = optional("geomloss.ot")
regot = optional("regot")
jax = optional("jax")
ott = optional("ott") if jax is not None else None
if jax is not None:
    jax.config.update("jax_enable_x64", True)

THREADS = 2
Iterations = Callable[[int], Any]
Potentials = tuple[np.ndarray, np.ndarray]  # F, G with P_ij = exp(F_i + G_j - C_ij / eps)


def set_threads(n: int) -> None:
    """The same limit for all that have one; JAX always uses every core, and NumPy's products those of its BLAS."""
    entropic.set_num_threads(n)
    if torch is not None:
        torch.set_num_threads(n)


# ---- problems --------------------------------------------------------------------------------------------------------


def clouds(n: int, kind: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)).astype(kind), (rng.normal(size=(n, 3)) + 0.5).astype(kind)


def cost_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sum((x[:, None] - y) ** 2, axis=-1)


def marginal_error(cost: np.ndarray, eps: float, F: np.ndarray, G: np.ndarray) -> float:
    """The referee, for uniform masses."""
    plan = np.exp(np.float64(F)[:, None] + np.float64(G) - np.float64(cost) / eps)
    return sum(float(np.abs(plan.sum(axis=axis) - 1 / plan.shape[1 - axis]).sum()) for axis in (0, 1))


# ---- contestants -----------------------------------------------------------------------------------------------------


def uniform(n: int, kind: type = np.float64) -> np.ndarray:
    return np.full(n, 1 / n, kind)


def entropic_plain(cost: Any, eps: float, k: int) -> Any:
    return entropic.sinkhorn(cost, eps=eps, method="sinkhorn", tol=0, max_iter=k)


def entropic_potentials(cost: np.ndarray, eps: float, tol: float) -> Potentials:
    result = entropic.sinkhorn(cost, eps=eps, tol=tol)
    n, m = cost.shape
    return result.f / eps - np.log(n), result.g / eps - np.log(m)


def pot_log(cost: np.ndarray, eps: float, k: int, kind: type = np.float64) -> Potentials:
    n, m = cost.shape
    _, log = pot.bregman.sinkhorn_log(
        uniform(n, kind), uniform(m, kind), cost, eps, numItermax=k, stopThr=0, warn=False, log=True
    )
    return log["log_u"], log["log_v"]


def pot_plain(cost: np.ndarray, eps: float, k: int) -> Any:
    n, m = cost.shape
    return pot.bregman.sinkhorn_knopp(uniform(n), uniform(m), cost, eps, numItermax=k, stopThr=0, warn=False)


@functools.cache
def ott_compiled(k: int, threshold: float) -> Callable[..., Any]:
    """A jitted solver, so that its time holds no compilation after the first call."""
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    def solve(cost: Any, eps: float) -> Any:
        out = Sinkhorn(threshold=threshold, max_iterations=k)(LinearProblem(Geometry(cost, epsilon=eps)))
        return out.f, out.g

    return jax.jit(solve)


def ott_iterations(cost: np.ndarray, eps: float, k: int) -> Any:
    return jax.block_until_ready(ott_compiled(k, -1.0)(cost, eps))


def ott_potentials(cost: np.ndarray, eps: float, k: int) -> Potentials:
    f, g = ott_compiled(k, 1e-12)(cost, eps)
    return np.asarray(f) / eps, np.asarray(g) / eps


def regot_potentials(cost: np.ndarray, eps: float, tol: float) -> Potentials:
    n, m = cost.shape
    dual = regot.sinkhorn_splr(np.asfortranarray(cost), uniform(n), uniform(m), eps, tol=tol, max_iter=1000).dual
    return dual[:n] / eps, np.append(dual[n:], 0.0) / eps  # the last potential is fixed at 0


def geomloss_iterations(x: Any, y: Any, eps: float, k: int) -> Any:
    return geomloss.solve_sample(x, y, reg=eps, max_iter=k).potential_a


# ---- measurements ----------------------------------------------------------------------------------------------------


def per_iteration(
    contestants: dict[str, tuple[Iterations, int]], rounds: int, *, warm_up: bool = True
) -> dict[str, float]:
    """Median seconds of one more iteration, in turns: the time of 1 + k iterations less that of 1."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    if warm_up:
        for f, k in contestants.values():
            f(1), f(1 + k)
    for _ in range(rounds):
        for name, (f, k) in contestants.items():
            start = time.perf_counter()
            f(1)
            middle = time.perf_counter()
            f(1 + k)
            times[name].append((time.perf_counter() - middle - (middle - start)) / k)
    medians = {name: statistics.median(t) for name, t in times.items()}
    return {name: t for name, t in medians.items() if t > 0}  # else all noise, of very quick runs


def dense_contestants(cost: np.ndarray, eps: float, k: int, k_log: int) -> dict[str, tuple[Iterations, int]]:
    contestants: dict[str, tuple[Iterations, int]] = {"entropic": (lambda i: entropic_plain(cost, eps, i), k)}
    if pot is not None:
        contestants["POT sinkhorn"] = (lambda i: pot_plain(cost, eps, i), k)
        contestants["POT sinkhorn_log"] = (lambda i: pot_log(cost, eps, i), k_log)
    if ott is not None:  # which looks at its limits every tenth iteration
        contestants["OTT"] = (lambda i: ott_iterations(cost, eps, i), 10)
    return contestants


def point_contestants(x: np.ndarray, y: np.ndarray, eps: float, k: int) -> dict[str, tuple[Iterations, int]]:
    cloud = entropic.PointCloud(x, y)
    contestants: dict[str, tuple[Iterations, int]] = {"entropic": (lambda i: entropic_plain(cloud, eps, i), 2 * k)}
    if geomloss is not None and torch is not None:
        x_torch, y_torch = torch.from_numpy(x), torch.from_numpy(y)
        contestants["GeomLoss"] = (lambda i: geomloss_iterations(x_torch, y_torch, eps, i), k)
    return contestants


def iteration_rows(quick: bool) -> list[dict[str, Any]]:
    rows = []
    for n in (200,) if quick else (1000, 2000):
        cost = cost_of(*clouds(n))
        seconds = per_iteration(dense_contestants(cost, 0.1 * float(cost.mean()), 30, 2), 1 if quick else 7)
        rows.append({"work": f"one iteration, dense float64, n = m = {n}", "threads": THREADS, "seconds": seconds})
    n = 500 if quick else 5000
    x, y = clouds(n, np.float32)
    seconds = per_iteration(point_contestants(x, y, 0.35, 10), 1 if quick else 7)
    rows.append({"work": f"one iteration, points in d = 3, float32, n = m = {n}", "threads": THREADS,
                 "seconds": seconds})  # fmt: skip
    return rows


def batch_row(quick: bool) -> dict[str, Any]:
    """Many tiny problems to an L1 error of 1e-6; the loops over POT run over a part and are scaled up.

    POT's threshold is of an L2 norm, which is down to 1 / sqrt(32) of the L1 norm.
    """
    count, part = (50, 5) if quick else (10_000, 100)
    rng = np.random.default_rng(0)
    cost, eps = rng.random((count, 32, 32)), 0.05
    a, b = rng.dirichlet(np.ones(32), count), rng.dirichlet(np.ones(32), count)
    contestants: dict[str, Callable[[], Any]] = {"entropic": lambda: entropic.sinkhorn(cost, a, b, eps=eps)}
    scale = {"entropic": 1.0}
    if pot is not None:

        def loop(solver: Callable[..., Any]) -> Callable[[], Any]:
            stop = 1e-6 / 32**0.5
            return lambda: [solver(a[k], b[k], cost[k], eps, stopThr=stop, numItermax=10_000) for k in range(part)]

        contestants["loop over POT sinkhorn_log"] = loop(pot.bregman.sinkhorn_log)
        contestants["loop over POT sinkhorn"] = loop(pot.bregman.sinkhorn_knopp)
        scale["loop over POT sinkhorn_log"] = scale["loop over POT sinkhorn"] = count / part
    if pot is not None and torch is not None:
        tensors = [torch.from_numpy(v[:part]) for v in (cost, a, b)]
        contestants["POT solve_batch, torch"] = lambda: pot.batch.solve_batch(
            tensors[0], eps, tensors[1], tensors[2], max_iter=10_000, tol=1e-6, method="log_sinkhorn", grad="detach"
        )
        scale["POT solve_batch, torch"] = count / part
    seconds = race(contestants, rounds=1 if quick else 5)
    return {"work": f"{count:,} problems of 32 x 32 to 1e-6", "threads": THREADS,
            "seconds": {name: t * scale[name] for name, t in seconds.items()}}  # fmt: skip


def timed(f: Callable[[], Potentials], times: int) -> tuple[float, Potentials]:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        potentials = f()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), potentials


def convergence(quick: bool) -> list[dict[str, Any]]:
    """Error against time over four decades of eps, and what POT has reached at its limit of 1000 iterations."""
    n, ks = (100, (10, 100)) if quick else (1000, (1, 10, 100, 1000))
    tols = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-9)
    cost = cost_of(*clouds(n))
    rows = []
    for ratio in (1e-1, 1e-2, 1e-3, 1e-4):
        eps = ratio * float(cost.mean())
        runs: dict[str, tuple[Callable[..., Potentials], tuple[float, ...], int]] = {
            "entropic": (entropic_potentials, tols, 3)
        }
        if pot is not None:
            runs["POT sinkhorn_log"] = (pot_log, ks, 1)
        if ott is not None:
            runs["OTT"] = (ott_potentials, ks, 2)
        if regot is not None:
            runs["RegOT splr"] = (regot_potentials, (1e-2, 1e-6, 1e-9), 1)
        curves = {}
        for name, (f, settings, times) in runs.items():
            curve = []
            for setting in settings:
                seconds, potentials = timed(lambda f=f, eps=eps, s=setting: f(cost, eps, s), times)
                curve.append((seconds, marginal_error(cost, eps, *potentials)))
            curves[name] = curve
        rows.append({"eps": ratio, "n": n, "curves": curves})
    return rows


def single_precision(quick: bool) -> list[dict[str, Any]]:
    """The error that float32 costs reach, at eps relative to the largest cost."""
    n = 100 if quick else 1000
    cost = cost_of(*clouds(n)).astype(np.float32)
    rows = []
    for ratio in (1e-1, 1e-2, 1e-3):
        eps = ratio * float(cost.max())
        row = {"eps": ratio, "entropic": marginal_error(cost, eps, *entropic_potentials(cost, eps, 1e-5))}
        if pot is not None:
            row["POT"] = marginal_error(cost, eps, *pot_log(cost, eps, 300, np.float32))
        rows.append(row)
    return rows


def any_eps(quick: bool) -> list[dict[str, Any]]:
    """From 1e-6 to 1e3 of the largest cost, to 1e-9: is the answer finite, its error true, a shortfall said?"""
    n = 50 if quick else 300
    cost = cost_of(*clouds(n))
    rows = []
    for ratio in 10.0 ** np.arange(-6, 4):
        eps = ratio * float(cost.max())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seconds, (F, G) = timed(lambda eps=eps: entropic_potentials(cost, eps, 1e-9), 1)
        row: dict[str, Any] = {"eps": ratio, "seconds": seconds, "error": marginal_error(cost, eps, F, G),
                               "warned": bool(caught)}  # fmt: skip
        if pot is not None:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                row["POT"] = marginal_error(cost, eps, *pot_log(cost, eps, 1000))
        rows.append(row)
    return rows


def available_bytes() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 8e9
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def growth(quick: bool) -> dict[str, Any]:
    """Seconds an iteration against n, each as far as memory goes."""
    dense_sizes = (100, 200) if quick else (500, 1000, 2000, 4000, 8000, 16_000, 32_000)
    point_sizes = (100, 200) if quick else (500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
    # Copies of the cost that each holds at its peak, beside the cost itself.
    copies = {"entropic": 0.5, "POT sinkhorn": 2.0, "POT sinkhorn_log": 4.0, "OTT": 4.0, "GeomLoss": 4.0}
    dense: dict[str, list[tuple[int, float]]] = {}
    for n in dense_sizes:
        room = 0.8 * available_bytes() / (8 * n * n)
        if room < 1 + copies["entropic"]:
            break
        cost = np.random.default_rng(0).random((n, n))
        contestants = dense_contestants(cost, 0.1, 30 if n <= 2000 else 10, 1)
        contestants = {name: c for name, c in contestants.items() if 1 + copies[name] <= room}
        for name, seconds in per_iteration(contestants, 3 if n <= 8000 else 1, warm_up=n <= 4000).items():
            dense.setdefault(name, []).append((n, seconds))
        del cost, contestants
    points: dict[str, list[tuple[int, float]]] = {}
    for n in point_sizes:
        room = 0.8 * available_bytes() / (4 * n * n)
        contestants = point_contestants(*clouds(n, np.float32), 0.35, 10 if n <= 5000 else 1)
        contestants = {name: c for name, c in contestants.items() if name == "entropic" or copies[name] <= room}
        for name, seconds in per_iteration(contestants, 3 if n <= 10_000 else 1, warm_up=n <= 10_000).items():
            points.setdefault(name, []).append((n, seconds))
    return {"dense float64": dense, "points in d = 3, float32": points}


def large_cloud(quick: bool) -> dict[str, Any]:
    n = 2000 if quick else 100_000
    x, y = clouds(n, np.float32)
    start = time.perf_counter()
    result = entropic.sinkhorn(entropic.PointCloud(x, y), eps=0.7, tol=1e-3)
    seconds = time.perf_counter() - start
    setup = f"x = np.random.default_rng(0).normal(size=({n}, 3)).astype(np.float32)"
    call = 'entropic.sinkhorn(entropic.PointCloud(x, x + 0.5), eps=0.7, tol=0, max_iter=1, method="sinkhorn")'
    return {"n": n, "seconds": seconds, "passes": int(result.n_iter), "error": float(result.marginal_error),
            "bytes": peak_bytes(setup, call)}  # fmt: skip


def main() -> None:
    chosen = options(__doc__)
    set_threads(THREADS)
    peers = {"POT": pot, "torch": torch, "geomloss": optional("geomloss"), "ott": ott, "jax": jax}
    described = machine(peers)
    described["regot"] = importlib.metadata.version("regot") if regot is not None else "not installed"
    results: dict[str, Any] = {"machine": described}
    parts: dict[str, Callable[[bool], Any]] = {
        "speed": lambda quick: [*iteration_rows(quick), batch_row(quick)],
        "convergence": convergence,
        "float32": single_precision,
        "any eps": any_eps,
        "large cloud": large_cloud,
        "growth": growth,
    }
    for name, measure in parts.items():
        start = time.perf_counter()
        results[name] = measure(chosen.quick)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    save("transport", results, chosen.output)


if __name__ == "__main__":
    main()
