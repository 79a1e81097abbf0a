"""Diffusion spectral entropies, matrix entropies and kernel densities beside the published arithmetic and NumPy: time,
memory, and whether intervals hold."""

from __future__ import annotations

import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, measured_apart, optional, options, peak_bytes, race, save
from threadpoolctl import threadpool_limits

import entropic

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))
from reference.spectral import published_entropy, published_information  # noqa: E402

Contestants = dict[str, Callable[[], Any]]

# OpenBLAS's threads go on spinning for about so long.
_PAUSE = 0.15


# ---- peers -----------------------------------------------------------------------------------------------------------


def dense_entropy(x: np.ndarray, sigma: float, t: float) -> float:
    """All eigenvalues, with the scaling done by broadcasting and distances by a product."""
    norms = (x * x).sum(axis=1)
    g = np.exp(-np.maximum(norms[:, None] + norms - 2 * x @ x.T, 0) / (2 * sigma**2))
    root = 1 / np.sqrt(g.sum(axis=1))
    q = np.abs(np.linalg.eigvalsh(g * root[:, None] * root)) ** t
    p = q[q > 0] / q.sum()
    return -float((p * np.log2(p)).sum())


def plain_cauchy_schwarz(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    def log_mean(a: np.ndarray, b: np.ndarray) -> float:
        squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
        return float(np.log(np.exp(-squares / (4 * sigma**2)).mean()))

    return log_mean(x, x) + log_mean(y, y) - 2 * log_mean(x, y)


def plain_matrix_entropy(x: np.ndarray) -> float:
    z = x - x.mean(axis=0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    p = np.linalg.eigvalsh(z.T @ z if z.shape[1] <= z.shape[0] else z @ z.T)
    p = p[p > 0] / p.sum()
    return -float((p * np.log(p)).sum())


# ---- time ------------------------------------------------------------------------------------------------------------


def once(contestants: Contestants) -> dict[str, float]:
    """Seconds of one call each, for minutes of work; the median of five of those that take less than three."""
    seconds = {}
    for name, f in contestants.items():
        times: list[float] = []
        while not times or (len(times) < 5 and max(times) < 3):
            time.sleep(_PAUSE)
            start = time.perf_counter()
            f()
            times.append(time.perf_counter() - start)
        seconds[name] = statistics.median(times)
    return seconds


def row(work: str, threads: int, contestants: Contestants, rounds: int) -> dict[str, Any]:
    with threadpool_limits(threads), entropic.num_threads(threads):
        seconds = race(contestants, rounds, least_seconds=0.005, pause=_PAUSE) if rounds else once(contestants)
    print(f"  {work}, {threads}: " + ", ".join(f"{n} {s:.4g} s" for n, s in seconds.items()), flush=True)
    return {"work": work, "threads": threads, "seconds": seconds}


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def entropy_rows(quick: bool, threads: int) -> list[dict[str, Any]]:
    n, m = (300, 600) if quick else (1000, 10_000)
    x, large = normal(n, 256), normal(m, 64)
    labels = np.arange(m) % 10
    exact: Contestants = {
        "entropic": lambda: entropic.diffusion_spectral_entropy(x),
        "published arithmetic": lambda: published_entropy(x),
        "NumPy, all eigenvalues": lambda: dense_entropy(x, 10.0, 1),
    }
    bounded: Contestants = {
        "entropic": lambda: entropic.diffusion_spectral_entropy(large, sigma=8.0, t=2, method="certified"),
        "NumPy, all eigenvalues": lambda: dense_entropy(large, 8.0, 2),
    }

    def information(t: int) -> Contestants:
        return {
            "entropic": lambda: entropic.diffusion_spectral_mutual_information(large, labels, sigma=8.0, t=t),
            "published arithmetic": lambda: published_information(large, labels, sigma=8.0, t=t),
        }

    return [
        row(f"DSE, n = {n:,}, d = 256, to rounding", threads, exact, 1 if quick else 7),
        row(f"DSE, n = {m:,}, d = 64, t = 2, to 0.01 bit", threads, bounded, 0),
        *(row(f"DSMI, n = {m:,}, 10 classes, t = {t}", threads, information(t), 0) for t in (1, 2)),
    ]


def other_rows(quick: bool, threads: int) -> list[dict[str, Any]]:
    n, m, layers = (500, 256, 2) if quick else (20_000, 4096, 24)
    x, y, rows = normal(n, 10), normal(n, 10, 1), normal(m, 768, 2).astype(np.float32)
    batch = normal(layers * 512, 256, 3).reshape(layers, 512, 256).astype(np.float32)
    densities: Contestants = {
        "entropic": lambda: entropic.cauchy_schwarz_divergence(x, y, sigma=1.0),
        "NumPy": lambda: plain_cauchy_schwarz(x, y, 1.0),
    }
    spectra: Contestants = {
        "entropic": lambda: entropic.matrix_entropy(rows),
        "NumPy": lambda: plain_matrix_entropy(rows),
    }
    many: Contestants = {
        "entropic": lambda: entropic.matrix_entropy(batch),
        "NumPy": lambda: [plain_matrix_entropy(one) for one in batch],
    }
    rounds = 1 if quick else 9
    return [
        row(f"Cauchy-Schwarz divergence, n = m = {n:,}, d = 10", threads, densities, 0),
        row(f"matrix entropy of ({m:,}, 768), float32", threads, spectra, rounds),
        row(f"matrix entropies of ({layers}, 512, 256), float32", threads, many, rounds),
    ]


def speed(quick: bool) -> list[dict[str, Any]]:
    return [line for threads in (1, 2) for part in (entropy_rows, other_rows) for line in part(quick, threads)]


# ---- growth ----------------------------------------------------------------------------------------------------------

_SETUP = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = [{bench!r}, {tests!r}]
from bench_spectral import *
x = normal({n}, 64)
"""

_OURS = "r = entropic.diffusion_spectral_entropy(x, sigma=8.0, {}); answer = r.lower, r.upper, r.method"
METHODS = {
    "certified, t = 2": (_OURS.format('t=2, method="certified"'), 50_000),
    "lanczos, t = 1": (_OURS.format('t=1, method="lanczos"'), 50_000),
    "dense, any t": (_OURS.format('t=2, method="dense"'), 10_000),
    "published arithmetic": ("answer = (published_entropy(x, 8.0, 2),) * 2 + ('published',)", 10_000),
}


def growth(quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Seconds, peak memory and intervals against n, with all threads; each call in a process of its own."""
    sizes = (300, 600) if quick else (300, 1000, 3000, 10_000, 20_000, 50_000)
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, (call, most) in METHODS.items():
        for n in (size for size in sizes if size <= most):
            setup = _SETUP.format(bench=str(Path(__file__).parent), tests=str(TESTS), n=n)
            curves.setdefault(name, []).append({"n": n, **_measured(setup, call)})
            print(f"  {name}: {curves[name][-1]}", flush=True)
    return curves


def _measured(setup: str, call: str) -> dict[str, Any]:
    """Of a call in a process of its own: its time, its answer, and the memory that it needs beside what was there."""
    timed = f"start = time.perf_counter(); {call}; print(time.perf_counter() - start, *answer)"
    printed, held = measured_apart(setup, timed)
    seconds, lower, upper, method = printed[-4:]
    return {
        "seconds": float(seconds), "bytes": held, "lower": float(lower), "upper": float(upper), "method": method,
    }  # fmt: skip


# ---- intervals -------------------------------------------------------------------------------------------------------


def random_problem(rng: np.random.Generator, most: int) -> tuple[np.ndarray, float]:
    """Normal or clustered points of some dimension, and a width from where all are alone to where all are one."""
    n, d = int(rng.integers(64, most)), int(rng.integers(1, 65))
    x = rng.normal(size=(n, d))
    if rng.random() < 0.5:
        centres = 4 * rng.normal(size=(int(rng.integers(2, 12)), d))
        x += centres[rng.integers(0, len(centres), n)]
    return x, math.sqrt(d) * 10 ** rng.uniform(-0.8, 0.7)


def intervals(quick: bool) -> dict[str, Any]:
    """How many of random problems' intervals hold the dense answer, for five t and three alpha."""
    rng = np.random.default_rng(0)
    count, most = (10, 200) if quick else (1000, 1500)
    times = [1.0, 1.5, 2.0, 3.0, 5.0]
    held = {"certified": 0, "lanczos": 0}
    widths: dict[str, list[float]] = {"certified": [], "lanczos": []}
    for _ in range(count):
        x, sigma = random_problem(rng, most)
        settings: dict[str, Any] = {"sigma": sigma, "t": times, "alpha": float(rng.choice([0, 0.5, 1]))}
        exact = entropic.diffusion_spectral_entropy(x, method="dense", **settings).value
        for name in held:
            found = entropic.diffusion_spectral_entropy(x, method=name, **settings)
            held[name] += bool((found.lower - 1e-10 <= exact).all() and (exact <= found.upper + 1e-10).all())
            widths[name].append(float(np.median(found.upper - found.lower)))
    medians = {name: float(np.median(width)) for name, width in widths.items()}
    print(f"  {held} of {count}, median width {medians}", flush=True)
    return {"count": count, "most": most, "held": held, "width": medians}


def memory(quick: bool) -> list[dict[str, Any]]:
    calls = {
        "DSE, d = 64, t = 2, certified": (
            10_000, 64, "entropic.diffusion_spectral_entropy(x, sigma=8.0, t=2, method='certified')",
        ),
        "cauchy_schwarz_divergence, d = 10": (20_000, 10, "entropic.cauchy_schwarz_divergence(x, x[::-1], sigma=1.0)"),
        "kde_entropy, d = 10": (20_000, 10, "entropic.kde_entropy(x, sigma=1.0)"),
    }  # fmt: skip
    rows = []
    for name, (points, d, call) in calls.items():
        n = points // 20 if quick else points
        setup = f"x = np.random.default_rng(0).normal(size=({n}, {d})); entropic.diffusion_spectral_entropy(x[:70])"
        rows.append({"call": name, "n": n, "input": 8 * n * d, "bytes": peak_bytes(setup, call)})
    return rows


def main() -> None:
    chosen = options(__doc__)
    results: dict[str, Any] = {"machine": machine({"scipy": optional("scipy")})}
    parts: dict[str, Callable[[bool], Any]] = {
        "speed": speed, "intervals": intervals, "memory": memory, "growth": growth,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", entropic.ConvergenceWarning)
        for name, measure in parts.items():
            start = time.perf_counter()
            results[name] = measure(chosen.quick)
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
            save("spectral", results, chosen.output)


if __name__ == "__main__":
    main()
