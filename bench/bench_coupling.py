"""Minimum-entropy couplings beside the published loops in Python and dit: time, memory, and the gap to the optimum."""

from __future__ import annotations

import functools
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, optional, options, peak_bytes, race, save

import entropic

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from reference import coupling as reference

dit = optional("dit")
BOUNDS = ("majorization", "profile", "majorize-profile", "atom-split")


def dirichlet(n: int, alpha: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(n, alpha))


def zipf(n: int) -> np.ndarray:
    return (1 / np.arange(1, n + 1)) / np.sum(1 / np.arange(1, n + 1))


def on_grid(p: np.ndarray) -> np.ndarray:
    """Masses that the float loops need: multiples of 2^-53 that add up to 1."""
    return np.asarray(entropic.minimum_entropy_coupling(p, [1.0], method="greedy").marginal(0))


# ---- time ------------------------------------------------------------------------------------------------------------


def row(work: str, contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    return {"work": work, "threads": 1, "seconds": race(contestants, rounds, least_seconds=0.005)}


def greedy_row(n: int, rounds: int, peers: tuple[str, ...]) -> dict[str, Any]:
    p, q = on_grid(dirichlet(n)), on_grid(dirichlet(n, seed=1))
    loops = {"heaps in Python": reference.greedy_heap, "published loop, NumPy": reference.greedy_numpy}
    contestants: dict[str, Callable[[], Any]] = {
        "entropic": lambda: entropic.minimum_entropy_coupling(p, q, method="greedy")
    }
    contestants |= {name: functools.partial(loops[name], p, q) for name in peers}
    return row(f"greedy, cells and certificate, n = m = {n:,}", contestants, rounds)


def dit_coupling(p: np.ndarray, q: np.ndarray) -> Any:
    from dit.algorithms.distribution_optimizers import MinEntOptimizer

    product = dit.Distribution([(str(i), str(j)) for i in range(len(p)) for j in range(len(q))], np.outer(p, q).ravel())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = MinEntOptimizer(product, [[0], [1]])
        optimizer.optimize(niter=5)
    return optimizer.construct_dist()


def exact_rows(quick: bool) -> list[dict[str, Any]]:
    small, sides = (dirichlet(4), dirichlet(4, seed=1)), (dirichlet(8), dirichlet(8, seed=1))
    contestants: dict[str, Callable[[], Any]] = {
        "entropic": lambda: entropic.minimum_entropy_coupling(*small, method="exact")
    }
    if dit is not None and not quick:
        contestants["dit MinEntOptimizer, 5 starts, not exact"] = lambda: dit_coupling(*small)
    large = {"entropic": lambda: entropic.minimum_entropy_coupling(*sides, method="exact")}
    return [
        row("exact, 4 by 4", contestants, 1 if quick else 3),
        row("exact, 8 by 8", large, 1 if quick else 9),
    ]


def batch_row(quick: bool) -> dict[str, Any]:
    """The loops are timed on a part of the problems, and scaled."""
    problems, part = (2000, 50) if quick else (100_000, 1000)
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(16), problems), rng.dirichlet(np.ones(16), problems)
    total = 2**53

    def certified(a: np.ndarray, b: np.ndarray) -> Any:
        """All that our call returns: cells, entropy, and the bound."""
        cells = reference.greedy(a.tolist(), b.tolist())
        bound = reference.entropy_fast(reference.atom_split(a.tolist(), b.tolist()), total)
        return cells, reference.entropy_fast([mass for _, mass in cells], total), bound

    loops = {
        "published loop with entropy and bound, lists": certified,
        "published loop, lists": lambda a, b: reference.greedy(a.tolist(), b.tolist()),
        "published loop, NumPy": reference.greedy_numpy,
        "heaps in Python": reference.greedy_heap,
    }
    batch = entropic.minimum_entropy_coupling_batch(p[:part], q[:part])
    floats = [side / total for side in batch._marginals]
    contestants: dict[str, Callable[[], Any]] = {
        "entropic": lambda: entropic.minimum_entropy_coupling_batch(p, q),
    }
    for name, loop in loops.items():
        sides = batch._marginals if "lists" in name else floats
        contestants[name] = lambda loop=loop, sides=sides: [loop(a, b) for a, b in zip(*sides, strict=True)]
    timed = row(f"greedy, {problems:,} problems of 16 x 16", contestants, 1 if quick else 7)
    timed["seconds"] = {k: t if k == "entropic" else t * problems / part for k, t in timed["seconds"].items()}
    return timed


def speed(quick: bool) -> list[dict[str, Any]]:
    rounds = 1 if quick else 9
    p = dirichlet(1000 if quick else 1_000_000)
    encoder = {"entropic": lambda: entropic.bottleneck_encoder(p, 5.0)}
    rows = [
        greedy_row(1000, rounds, ("heaps in Python", "published loop, NumPy")),
        greedy_row(2000 if quick else 100_000, rounds, ("heaps in Python",)),
        greedy_row(3000 if quick else 1_000_000, min(rounds, 5), ()),
        batch_row(quick),
        *exact_rows(quick),
        row(f"bottleneck encoder, n = {len(p):,}, 5 bits", encoder, min(rounds, 5)),
    ]
    with entropic.num_threads(2):
        two = batch_row(quick)
    return [*rows, {**two, "threads": 2, "seconds": {"entropic": two["seconds"]["entropic"]}}]


def memory(quick: bool) -> dict[str, Any]:
    n = 10_000 if quick else 1_000_000
    setup = f"p, q = (np.random.default_rng(i).dirichlet(np.ones({n})) for i in (0, 1))"
    used = peak_bytes(setup, 'c = entropic.minimum_entropy_coupling(p, q, method="greedy"); c.mass')
    coupling = entropic.minimum_entropy_coupling(dirichlet(n), dirichlet(n, seed=1), method="greedy")
    return {"n": n, "bytes": used, "answer": int(coupling.indices.nbytes + coupling.mass.nbytes)}


# ---- gaps ------------------------------------------------------------------------------------------------------------

Family = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
FAMILIES: dict[str, Family] = {
    "Dirichlet(0.1) pair": lambda n, seed: (dirichlet(n, 0.1, seed), dirichlet(n, 0.1, seed + 1000)),
    "Dirichlet(1) pair": lambda n, seed: (dirichlet(n, 1, seed), dirichlet(n, 1, seed + 1000)),
    "Dirichlet(10) pair": lambda n, seed: (dirichlet(n, 10, seed), dirichlet(n, 10, seed + 1000)),
    "Dirichlet(1), n and n/3": lambda n, seed: (dirichlet(n, 1, seed), dirichlet(max(1, n // 3), 1, seed + 1000)),
    "Dirichlet(1) and Zipf": lambda n, seed: (dirichlet(n, 1, seed), zipf(n)),
    "uniform and Dirichlet(1)": lambda n, seed: (np.full(n, 1 / n), dirichlet(n, 1, seed)),
    "Zipf and uniform of 256": lambda n, seed: (zipf(n), np.full(256, 1 / 256)),
}


def gaps(quick: bool) -> dict[str, Any]:
    """Mean gap of greedy and portfolio to the best bound, in bits."""
    sizes = (10, 100) if quick else (10, 100, 1000, 10_000, 100_000)
    table: dict[str, list[tuple[float, float]]] = {}
    for name, family in FAMILIES.items():
        table[name] = []
        for n in sizes:
            seeds = range(max(1, min(30, 30_000 // n)))
            pairs = [
                [entropic.minimum_entropy_coupling(*family(n, seed), method=m).gap for m in ("greedy", "portfolio")]
                for seed in seeds
            ]
            table[name].append(tuple(np.mean(pairs, axis=0).tolist()))
    return {"sizes": sizes, "families": table}


def gap_growth(quick: bool) -> dict[str, list[tuple[int, float]]]:
    """Dirichlet(1) pairs: greedy above each bound, portfolio above the best, and both above the optimum where it is
    known."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for n in (4, 8, 32) if quick else (4, 6, 8, 10, 16, 32, 100, 316, 1000, 3162, 10_000, 31_623, 100_000, 1_000_000):
        rows: list[dict[str, float]] = []
        for seed in range(max(1, min(20, 20_000 // n))):
            p, q = FAMILIES["Dirichlet(1) pair"](n, seed)
            found = {m: entropic.minimum_entropy_coupling(p, q, method=m) for m in ("greedy", "portfolio")}
            greedy, portfolio = (found[m].entropy for m in found)
            values = {f"greedy - {b}": greedy - entropic.coupling_lower_bound(p, q, method=b) for b in BOUNDS}
            values["portfolio - atom-split"] = portfolio - found["portfolio"].lower_bound
            if n <= 8:
                least = entropic.minimum_entropy_coupling(p, q, method="exact").entropy
                values |= {"greedy - optimum": greedy - least, "portfolio - optimum": portfolio - least}
            rows.append(values)
        for name in rows[0]:
            curves.setdefault(name, []).append((n, float(np.mean([values[name] for values in rows]))))
    return curves


def bottleneck(quick: bool) -> list[dict[str, Any]]:
    """Mean and number of wins of rate - I(X; T) over random rates, Dirichlet(1)."""
    out = []
    for n in (6, 64) if quick else (6, 64, 512, 4096):
        rng = np.random.default_rng(n)
        lost = []
        for _ in range(10 if quick else 200):
            p = rng.dirichlet(np.ones(n))
            whole = -float(np.sum(p * np.log2(p)))
            rate = whole * rng.uniform(0.05, 0.95)
            lost.append([entropic.bottleneck_encoder(p, rate, method=m).gap for m in ("greedy", "pairs", "moves")])
        values = np.array(lost)
        out.append({"n": n, "tries": len(lost), "better": int((values[:, 2] < values[:, 0]).sum()),
                    "lost": values.mean(axis=0).tolist()})  # fmt: skip
    return out


def main() -> None:
    chosen = options(__doc__)
    entropic.set_num_threads(1)
    results: dict[str, Any] = {"machine": machine({"dit": dit})}
    parts: dict[str, Callable[[bool], Any]] = {
        "speed": speed, "memory": memory, "gaps": gaps, "growth": gap_growth, "bottleneck": bottleneck,
    }  # fmt: skip
    for name, measure in parts.items():
        start = time.perf_counter()
        results[name] = measure(chosen.quick)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    save("coupling", results, chosen.output)


if __name__ == "__main__":
    main()
