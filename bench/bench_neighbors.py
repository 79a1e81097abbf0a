"""Nearest-neighbour searches and estimators beside SciPy's trees, scikit-learn, ennemi and infomeasure: time, memory,
bias and spread."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from common import machine, optional, options, peak_bytes, race, save
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln
from threadpoolctl import threadpool_limits

import entropic

sklearn = optional("sklearn")
ennemi = optional("ennemi")
infomeasure = optional("infomeasure")


# ---- peers -----------------------------------------------------------------------------------------------------------


def tree_counts(x: np.ndarray, radius: np.ndarray, workers: int) -> np.ndarray:
    """Strictly within, oneself included: psi(n + 1) is psi of it."""
    inside = np.nextafter(radius, 0)
    return np.asarray(cKDTree(x).query_ball_point(x, inside, p=np.inf, return_length=True, workers=workers))


def tree_ksg(x: np.ndarray, y: np.ndarray, k: int = 3, workers: int = 1) -> float:
    joint = np.hstack([x, y])
    radius = cKDTree(joint).query(joint, k + 1, p=np.inf, workers=workers)[0][:, -1]
    sums = digamma(tree_counts(x, radius, workers)) + digamma(tree_counts(y, radius, workers))
    return float(digamma(k) + digamma(len(x)) - sums.mean())


def tree_transfer(source: np.ndarray, target: np.ndarray, k: int = 3, workers: int = 1) -> float:
    x, y, z = source[:-1, None], target[1:, None], target[:-1, None]
    joint = np.hstack([x, y, z])
    radius = cKDTree(joint).query(joint, k + 1, p=np.inf, workers=workers)[0][:, -1]
    xz, yz, own = (digamma(tree_counts(np.hstack(s), radius, workers)) for s in ([x, z], [y, z], [z]))
    return float(digamma(k) + (own - xz - yz).mean())


def sklearn_mi(x: np.ndarray, y: np.ndarray, jobs: int = 1) -> np.ndarray:
    from sklearn.feature_selection import mutual_info_regression

    return np.asarray(mutual_info_regression(x, y, n_jobs=jobs, random_state=0))


def sklearn_brute(x: np.ndarray, k: int) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors()


def infomeasure_mi(x: np.ndarray, y: np.ndarray) -> float:
    return float(infomeasure.mutual_information(x, y, approach="ksg", k=3, noise_level=0))


# ---- time ------------------------------------------------------------------------------------------------------------

Contestants = dict[str, Callable[[], Any]]


def row(
    work: str, threads: int, contestants: Contestants, rounds: int, parts: dict[str, int] | None = None
) -> dict[str, Any]:
    """Times of all; those in `parts` do one of so many parts of the work, and are scaled."""
    with threadpool_limits(threads), entropic.num_threads(threads):
        seconds = race(contestants, rounds, least_seconds=0.005)
    for name, count in (parts or {}).items():
        if name in seconds:
            seconds[name] *= count
    print(f"  {work}, {threads}: " + ", ".join(f"{n} {s:.4g} s" for n, s in seconds.items()), flush=True)
    return {"work": work, "threads": threads, "seconds": seconds}


def pair(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x, 0.5 * x + rng.normal(size=(n, d))


def information_rows(quick: bool, threads: int) -> list[dict[str, Any]]:
    n, m = (2000, 1000) if quick else (100_000, 10_000)
    rounds = 1 if quick else 5
    x, y = pair(n, 1)
    plane: Contestants = {"entropic": lambda: entropic.knn_mutual_information(x, y)}
    if sklearn:
        plane["scikit-learn"] = lambda: sklearn_mi(x, y[:, 0])
    plane["SciPy trees"] = lambda: tree_ksg(x, y, workers=threads)
    if ennemi and threads == 1:
        plane["ennemi"] = lambda: ennemi.estimate_mi(y[:, 0], x[:, 0], k=3, max_threads=1)
    if infomeasure and threads == 1:
        plane["infomeasure"] = lambda: infomeasure_mi(x[:, 0], y[:, 0])
    z, w = pair(m, 5)
    space: Contestants = {
        "entropic": lambda: entropic.knn_mutual_information(z, w),
        "SciPy trees": lambda: tree_ksg(z, w, workers=threads),
    }
    series: Contestants = {
        "entropic": lambda: entropic.transfer_entropy(x[:, 0], y[:, 0]),
        "SciPy trees": lambda: tree_transfer(x[:, 0], y[:, 0], workers=threads),
    }
    few = 1 if quick else 3
    return [
        row(f"KSG1, 1 + 1 dimensions, n = {n:,}", threads, plane, rounds),
        row(f"KSG1, 5 + 5 dimensions, n = {m:,}", threads, space, few),
        row(f"transfer entropy, n = {n:,}", threads, series, few),
    ]


def search_rows(quick: bool, threads: int) -> list[dict[str, Any]]:
    rounds = 1 if quick else 5
    rows = []
    for d, n, parts in ((3, 100_000, 1), (10, 100_000, 10), (64, 20_000, 1)):
        n = n // 50 if quick else n
        x = np.random.default_rng(d).normal(size=(n, d))
        contestants: Contestants = {"entropic": lambda x=x: entropic.nearest_neighbors(x, k=5)}
        some = x[: n // parts]
        if d < 64:
            contestants["SciPy cKDTree"] = lambda x=x, some=some: cKDTree(x).query(some, 6, workers=threads)
        elif sklearn:
            contestants["scikit-learn brute force"] = lambda x=x: sklearn_brute(x, 5)
        rows.append(
            row(
                f"5 nearest, d = {d}, n = {n:,}",
                threads,
                contestants,
                min(rounds, 3 if d == 10 else 5),
                {"SciPy cKDTree": parts},
            )
        )
    return rows


def matrix_row(quick: bool, threads: int) -> dict[str, Any]:
    n, d, parts = (1000, 10, 1) if quick else (10_000, 100, 5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    y = x[:, 0] + rng.normal(size=n)
    contestants: Contestants = {"entropic": lambda: entropic.mutual_information_matrix(x, y)}
    if sklearn:
        contestants["scikit-learn"] = lambda: sklearn_mi(x[:, : d // parts], y, jobs=threads)
    work = f"mutual_information_matrix, {d} columns of {n:,}"
    return row(work, threads, contestants, 1 if quick else 3, {"scikit-learn": parts})


def speed(quick: bool) -> list[dict[str, Any]]:
    return [
        part
        for threads in (1, 2)
        for part in (*information_rows(quick, threads), *search_rows(quick, threads), matrix_row(quick, threads))
    ]


def growth(quick: bool) -> dict[str, list[tuple[int, float]]]:
    """Seconds of KSG1 in 1 + 1 dimensions against n, one thread."""
    curves: dict[str, list[tuple[int, float]]] = {}
    with threadpool_limits(1), entropic.num_threads(1):
        for n in (100, 1000) if quick else (100, 1000, 10_000, 100_000, 1_000_000):
            x, y = pair(n, 1)
            contestants: Contestants = {"entropic": lambda x=x, y=y: entropic.knn_mutual_information(x, y)}
            if n <= 100_000:
                contestants["SciPy trees"] = lambda x=x, y=y: tree_ksg(x, y)
                if sklearn:
                    contestants["scikit-learn"] = lambda x=x, y=y: sklearn_mi(x, y[:, 0])
                if ennemi:
                    contestants["ennemi"] = lambda x=x, y=y: ennemi.estimate_mi(y[:, 0], x[:, 0], k=3, max_threads=1)
                if infomeasure:
                    contestants["infomeasure"] = lambda x=x, y=y: infomeasure_mi(x[:, 0], y[:, 0])
            for name, seconds in race(contestants, 1 if quick or n > 10_000 else 3, least_seconds=0.005).items():
                curves.setdefault(name, []).append((n, seconds))
    return curves


def memory(quick: bool) -> list[dict[str, Any]]:
    calls = {
        "nearest_neighbors, k = 5, d = 3": (1_000_000, 3, "entropic.nearest_neighbors(x, k=5)"),
        "nearest_neighbors, k = 5, d = 64": (20_000, 64, "entropic.nearest_neighbors(x, k=5)"),
        "knn_entropy, d = 5": (100_000, 5, "entropic.knn_entropy(x)"),
        "knn_mutual_information, 1 + 1": (1_000_000, 2, "entropic.knn_mutual_information(x[:, :1], x[:, 1:])"),
    }
    rows = []
    for name, (points, d, call) in calls.items():
        n = points // 100 if quick else points
        setup = f"x = np.random.default_rng(0).normal(size=({n}, {d}))"
        rows.append({"call": name, "n": n, "input": 8 * n * d, "bytes": peak_bytes(setup, call)})
    return rows


# ---- bias and spread -------------------------------------------------------------------------------------------------


def student(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=(n, 2)) / np.sqrt(rng.chisquare(5, size=(n, 1)) / 5)


STUDENT_ENTROPY = float(-gammaln(3.5) + gammaln(2.5) + math.log(5 * math.pi) + 3.5 * (digamma(3.5) - digamma(2.5)))


def torus_entropy(x: np.ndarray, k: int) -> float:
    """Of points on a torus, whose neighbours are looked for across its seams: free of bias at every n and k."""
    images = np.concatenate([x + np.array([i, j]) for i in (-1.0, 0.0, 1.0) for j in (-1.0, 0.0, 1.0)])
    near = images[((images > -0.5) & (images < 1.5)).all(axis=1)]
    radius = np.asarray(entropic.nearest_neighbors(x, near, k=k + 1, metric="chebyshev")[0])[:, -1]
    return float(digamma(len(x)) - digamma(k) + 2 * math.log(2) + 2 * np.log(radius).mean())


def autoregression(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """x' = x/2 + e, y' = 0.6 y + 0.4 x + e: a transfer entropy of 0.092280 nats from x to y."""
    noise = rng.normal(size=(n + 100, 2))
    x, y = np.zeros(n + 100), np.zeros(n + 100)
    for t in range(1, n + 100):
        x[t] = 0.5 * x[t - 1] + noise[t, 0]
        y[t] = 0.6 * y[t - 1] + 0.4 * x[t - 1] + noise[t, 1]
    return x[100:], y[100:]


def correlated(rng: np.random.Generator, n: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=n)
    return x, rho * x + math.sqrt(1 - rho * rho) * rng.normal(size=n)


Oracle = tuple[Callable[[np.random.Generator, int, int], float], float]
GAUSS = 0.5 * math.log(2 * math.pi * math.e)
ORACLES: dict[str, Oracle] = {
    "entropy, normal, d = 1": (lambda r, n, k: entropic.knn_entropy(r.normal(size=n), k=k), GAUSS),
    "entropy, normal, d = 3": (lambda r, n, k: entropic.knn_entropy(r.normal(size=(n, 3)), k=k), 3 * GAUSS),
    "entropy, normal, d = 8": (lambda r, n, k: entropic.knn_entropy(r.normal(size=(n, 8)), k=k), 8 * GAUSS),
    "entropy, Student t(5), d = 2": (lambda r, n, k: entropic.knn_entropy(student(r, n), k=k), STUDENT_ENTROPY),
    "entropy, uniform, d = 3": (lambda r, n, k: entropic.knn_entropy(r.random((n, 3)), k=k), 0.0),
    "the same, support known": (lambda r, n, k: entropic.knn_entropy(r.random((n, 3)), k=k, support=(0, 1)), 0.0),
    "entropy, uniform torus, d = 2": (lambda r, n, k: torus_entropy(r.random((n, 2)), k), 0.0),
    "information, Gaussian, r = 0": (lambda r, n, k: entropic.knn_mutual_information(*correlated(r, n, 0.0), k=k), 0.0),
    "information, Gaussian, r = 0.9": (
        lambda r, n, k: entropic.knn_mutual_information(*correlated(r, n, 0.9), k=k), -0.5 * math.log(1 - 0.81),
    ),
    "transfer entropy, autoregression": (
        lambda r, n, k: entropic.transfer_entropy(*autoregression(r, n), k=k), 0.092280,
    ),
    "divergence, N(0, 1) from N(1, 1)": (
        lambda r, n, k: entropic.knn_divergence(r.normal(size=n), r.normal(1, 1, size=2 * n), k=k), 0.5,
    ),
}  # fmt: skip


def accuracy(quick: bool) -> dict[str, Any]:
    """Mean error and standard deviation in nats over repeated samples."""
    settings = (
        [(100, 3), (1000, 3)] if quick else [(100, 3), (1000, 1), (1000, 3), (1000, 10), (10_000, 3), (10_000, 10)]
    )
    rows = []
    for name, (estimate, truth) in ORACLES.items():
        cells = []
        for n, k in settings:
            rng = np.random.default_rng(n + k)
            values = np.array([estimate(rng, n, k) for _ in range(5 if quick else max(20, 60_000 // n))])
            cells.append((float(values.mean() - truth), float(values.std(ddof=1))))
        rows.append({"oracle": name, "cells": cells})
    return {"settings": settings, "rows": rows}


def main() -> None:
    chosen = options(__doc__)
    peers = {"scikit-learn": sklearn, "ennemi": ennemi, "infomeasure": infomeasure, "scipy": optional("scipy")}
    results: dict[str, Any] = {"machine": machine(peers)}
    parts: dict[str, Callable[[bool], Any]] = {
        "speed": speed, "growth": growth, "memory": memory, "accuracy": accuracy,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers
        for name, measure in parts.items():
            start = time.perf_counter()
            results[name] = measure(chosen.quick)
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    save("neighbors", results, chosen.output)


if __name__ == "__main__":
    main()
