"""Speed, accuracy and memory of the log-sum family beside SciPy, torch and JAX, in one process, interleaved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import scipy.special
from common import machine, optional, options, peak_bytes, race, save

import entropic

torch = optional("torch")
jax = optional("jax")
if jax is not None:
    jax.config.update("jax_enable_x64", True)

Contestants = dict[str, Callable[[], Any]]


def set_threads(n: int) -> None:
    """The same limit for all that have one; JAX always uses every core and takes part only where all do."""
    entropic.set_num_threads(n)
    if torch is not None:
        torch.set_num_threads(n)


def logsumexp_contestants(x: np.ndarray, axis: int | None, *, scipy: bool = True, with_jax: bool = True) -> Contestants:
    contestants: Contestants = {"entropic": lambda: entropic.logsumexp(x, axis)}
    if scipy:
        contestants["scipy"] = lambda: scipy_logsumexp(x, axis)
    if torch is not None:
        tensor = torch.from_numpy(x)
        axes = tuple(range(x.ndim)) if axis is None else axis
        contestants["torch"] = lambda: torch.logsumexp(tensor, axes)
    if jax is not None and with_jax:
        array, f = jax.numpy.asarray(x), jax.jit(jax.nn.logsumexp, static_argnames="axis")
        contestants["jax"] = lambda: f(array, axis=axis).block_until_ready()
    return contestants


def scipy_logsumexp(x: np.ndarray, axis: int | None) -> Any:
    return scipy.special.logsumexp(x, axis=axis)


def softmax_contestants(x: np.ndarray) -> Contestants:
    out = np.empty_like(x)
    contestants: Contestants = {
        "entropic": lambda: entropic.softmax(x, axis=1),
        "entropic, out=": lambda: entropic.softmax(x, axis=1, out=out),
    }
    if torch is not None:
        tensor = torch.from_numpy(x)
        into = torch.empty_like(tensor)
        contestants["torch"] = lambda: torch.softmax(tensor, 1)
        contestants["torch, out="] = lambda: torch.softmax(tensor, 1, out=into)
    if jax is not None:
        array, f = jax.numpy.asarray(x), jax.jit(jax.nn.softmax, static_argnames="axis")
        contestants["jax"] = lambda: f(array, axis=1).block_until_ready()
    return contestants


def entropy_contestants(x: np.ndarray) -> Contestants:
    contestants: Contestants = {"entropic": lambda: entropic.softmax_entropy(x)}
    if torch is not None:
        tensor = torch.from_numpy(x)

        def by_torch() -> Any:
            return torch.logsumexp(tensor, 1) - (torch.softmax(tensor, 1) * tensor).sum(1)

        contestants["torch"] = by_torch
    if jax is not None:
        array = jax.numpy.asarray(x)

        @jax.jit
        def by_jax(z: Any) -> Any:
            return jax.nn.logsumexp(z, axis=1) - (jax.nn.softmax(z, axis=1) * z).sum(axis=1)

        contestants["jax"] = lambda: by_jax(array).block_until_ready()
    return contestants


def speed(rounds: int) -> list[dict[str, Any]]:
    """Rows of work, threads and seconds; one for each line of the README's table."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []

    def measure(work: str, elements: int, threads: int, contestants: Contestants) -> None:
        set_threads(threads)
        seconds = race(contestants, rounds)
        rows.append({"work": work, "elements": elements, "threads": threads, "seconds": seconds})
        ours = seconds["entropic"]
        shown = ", ".join(f"{k} {v / ours:.2f}x" for k, v in seconds.items() if k != "entropic")
        print(f"{work} [{threads}]: {ours * 1e6:.1f} us = {ours * 1e9 / elements:.3f} ns/element; {shown}", flush=True)

    for dtype in (np.float32, np.float64):
        name = np.dtype(dtype).name
        x = (rng.normal(size=4_000_000) * 3).astype(dtype)
        one = logsumexp_contestants(x, None, with_jax=False)
        measure(f"logsumexp, 4M {name}", x.size, 1, {**one, "numpy.sum": lambda x=x: x.sum()})
        measure(f"logsumexp, 4M {name}", x.size, 2, logsumexp_contestants(x, None))
    x = (rng.normal(size=32_000_000) * 3).astype(np.float32)
    measure("logsumexp, 32M float32 (out of cache)", x.size, 1,
            {"entropic": lambda: entropic.logsumexp(x), "numpy.sum": lambda: x.sum()})  # fmt: skip
    rows_of_tokens = (rng.normal(size=(32, 128256)) * 3).astype(np.float32)
    measure("logsumexp, (32, 128256) float32", rows_of_tokens.size, 2, logsumexp_contestants(rows_of_tokens, 1))
    measure("softmax, (32, 128256) float32", rows_of_tokens.size, 2, softmax_contestants(rows_of_tokens))
    measure("softmax_entropy, (32, 128256) float32", rows_of_tokens.size, 2, entropy_contestants(rows_of_tokens))
    short = rng.normal(size=(1_000_000, 10))
    measure("logsumexp, (1e6, 10) float64", short.size, 1, logsumexp_contestants(short, 1, with_jax=False))
    measure("logsumexp, (1e6, 10) float64", short.size, 2, logsumexp_contestants(short, 1))
    for dtype in (np.float32, np.float64):
        square = rng.normal(size=(4096, 4096)).astype(dtype)
        for threads in (1, 2):
            measure(f"logsumexp, (4096, 4096) {np.dtype(dtype).name}, axis=0", square.size, threads,
                    {"entropic": lambda s=square: entropic.logsumexp(s, axis=0),
                     "entropic, axis=1": lambda s=square: entropic.logsumexp(s, axis=1)})  # fmt: skip
    running = rng.normal(size=(1000, 1000))
    contestants: Contestants = {
        "entropic": lambda: entropic.logcumsumexp(running),
        "numpy": lambda: np.logaddexp.accumulate(running, axis=1),
    }
    if torch is not None:
        tensor = torch.from_numpy(running)
        contestants["torch"] = lambda: torch.logcumsumexp(tensor, 1)
    measure("logcumsumexp, (1000, 1000) float64", running.size, 2, contestants)
    weights = rng.normal(size=running.shape)
    measure("logsumexp with weights, (1000, 1000) float64", running.size, 2,
            {"entropic": lambda: entropic.logsumexp(running, axis=1, b=weights),
             "scipy": lambda: scipy.special.logsumexp(running, axis=1, b=weights)})  # fmt: skip
    for n in (10, 100, 1000):
        small = rng.normal(size=n)
        measure(f"logsumexp, {n} float64", n, 1, logsumexp_contestants(small, None))
    return rows


def growth(rounds: int) -> dict[str, Any]:
    """Seconds of logsumexp against the number of float32 elements, two threads."""
    set_threads(2)
    rng = np.random.default_rng(1)
    sizes = [10**k for k in range(1, 8)]
    curves: dict[str, list[float]] = {}
    for n in sizes:
        x = rng.normal(size=n).astype(np.float32)
        for name, seconds in race(logsumexp_contestants(x, None), rounds).items():
            curves.setdefault(name, []).append(seconds)
        print(f"growth: n = {n}", flush=True)
    return {"sizes": sizes, "curves": curves}


def accuracy() -> list[dict[str, Any]]:
    """Relative error of the entropy of 32000 logits, and error of logsumexp in ulp, against 60 digits."""
    rng = np.random.default_rng(2)
    base = (rng.normal(size=32000)).astype(np.float32)
    cases = {"N(0, 3)": base * np.float32(3)}
    for height in (25, 40):
        peaked = base.copy()
        peaked[7] = height
        cases[f"one logit at +{height}"] = peaked
    cases["+1000, one at +30"] = (base + np.float32(1000)).astype(np.float32)
    cases["+1000, one at +30"][7] = 1030
    rows = []
    with mpmath.workdps(60):
        for name, x in cases.items():
            terms = [mpmath.exp(mpmath.mpf(float(v)) - 1000) for v in x]
            total = mpmath.fsum(terms)
            lse = mpmath.log(total) + 1000
            entropy = -mpmath.fsum(t / total * mpmath.log(t / total) for t in terms)
            ulp = float(np.spacing(np.float32(float(lse))))
            row: dict[str, Any] = {"logits": name, "entropy": float(entropy)}

            def error(h: Any, exact: mpmath.mpf = entropy) -> float:
                return float(abs(mpmath.mpf(float(h)) - exact) / exact)

            row["entropic"] = error(entropic.softmax_entropy(x))
            p = scipy.special.softmax(x)
            row["scipy"] = error(scipy.special.entr(p).sum())
            if torch is not None:
                t = torch.from_numpy(x)
                row["torch"] = error(torch.logsumexp(t, 0) - (torch.softmax(t, 0) * t).sum())
            row["logsumexp ulp"] = {
                "entropic": float(abs(mpmath.mpf(float(entropic.logsumexp(x))) - lse)) / ulp,
                "scipy": float(abs(mpmath.mpf(float(scipy.special.logsumexp(x))) - lse)) / ulp,
            }
            rows.append(row)
            print(row, flush=True)
    return rows


def memory() -> list[dict[str, Any]]:
    """Peak memory beyond the input, as a multiple of the input's size (64 MB float32)."""
    setup = "import scipy.special\nx = np.random.default_rng(0).normal(size=(1000, 16000)).astype(np.float32)\n"
    warm = "entropic.logsumexp(x[:2], axis=1); scipy.special.logsumexp(x[:2], axis=1)"
    size = 1000 * 16000 * 4
    calls = {
        "logsumexp": "(x, axis=1)", "logsumexp, axis=0": "(x, axis=0)", "softmax": "(x, axis=1)",
    }  # fmt: skip
    rows = []
    for name, arguments in calls.items():
        func = name.split(",")[0]
        row: dict[str, Any] = {"call": name}
        for package in ("entropic", "scipy.special"):
            peak = peak_bytes(setup + warm, f"result = {package}.{func}{arguments}")
            row[package] = None if peak is None else peak / size
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    chosen = options(__doc__)
    rounds = 3 if chosen.quick else 15
    threads = entropic.get_num_threads()
    results = {
        "machine": machine({"scipy": scipy, "torch": torch, "jax": jax}),
        "speed": speed(rounds),
        "growth": growth(rounds),
        "accuracy": accuracy(),
        "memory": memory(),
    }
    entropic.set_num_threads(threads)
    save("logits", results, chosen.output)


if __name__ == "__main__":
    main()
