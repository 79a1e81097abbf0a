"""Speed, accuracy and memory of token statistics and losses beside torch (eager and compiled), JAX and SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import scipy.special
from common import machine, optional, options, peak_bytes, race, save

import entropic

torch = optional("torch")
jax = optional("jax")

THREADS = 2
VOCABULARY = 128256
Contestants = dict[str, Callable[[], Any]]
FIELDS = ("logsumexp", "entropy", "logprob", "max_logit", "argmax", "max_prob", "collision", "varentropy")


def all_fields(logits: Any, targets: np.ndarray | None, **options: Any) -> list[Any]:
    """Every field, computed."""
    stats = entropic.logit_stats(logits, targets, **options)
    return [getattr(stats, name) for name in FIELDS]


def compiled(f: Callable[..., Any], *arguments: Any) -> Callable[..., Any] | None:
    """torch.compile of a function, or None with a line that says why it does not work here."""
    try:
        g = torch.compile(f)
        g(*arguments)
        return g
    except Exception as error:  # a compiler that is missing or too old, in as many ways as there are
        print(f"torch.compile: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
        return None


def torch_entropy(x: Any, t: Any) -> tuple[Any, Any]:
    log_p = torch.log_softmax(x, 1)
    return -(log_p.exp() * log_p).sum(1), log_p.gather(1, t[:, None])


def our_contestants(x: np.ndarray, t: np.ndarray) -> Contestants:
    half = x.astype(ml_dtypes.bfloat16)
    return {
        "entropic": lambda: all_fields(x, t),
        "our logsumexp": lambda: entropic.logsumexp(x, 1),
        "ours, bfloat16": lambda: all_fields(half, t),
    }


def stats_contestants(x: np.ndarray, t: np.ndarray) -> Contestants:
    """Ours gives every field; the others entropy and log-probability."""
    contestants: Contestants = {"entropic": lambda: all_fields(x, t)}
    if torch is not None:
        tensor, ids = torch.from_numpy(x), torch.from_numpy(t)
        contestants["torch"] = lambda: torch_entropy(tensor, ids)
        fused = compiled(torch_entropy, tensor, ids)
        if fused is not None:
            contestants["torch compiled"] = lambda: fused(tensor, ids)
    if jax is not None:
        array, places = jax.numpy.asarray(x), jax.numpy.asarray(t)

        @jax.jit
        def by_jax(z: Any, k: Any) -> Any:
            log_p = jax.nn.log_softmax(z, axis=1)
            return -(jax.numpy.exp(log_p) * log_p).sum(axis=1), jax.numpy.take_along_axis(log_p, k[:, None], axis=1)

        contestants["jax"] = lambda: jax.block_until_ready(by_jax(array, places))

    def by_scipy() -> Any:
        log_p = scipy.special.log_softmax(x, axis=1)
        return -(np.exp(log_p) * log_p).sum(axis=1), np.take_along_axis(log_p, t[:, None], 1)

    contestants["scipy"] = by_scipy
    return contestants


def linear_contestants(n: int, d: int, v: int) -> Contestants:
    """Loss, and gradients of hidden states and weights."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(n, d)).astype(np.float32)
    weight = (rng.normal(size=(v, d)) / math.sqrt(d)).astype(np.float32)
    targets = rng.integers(0, v, n)

    def ours() -> Any:
        return entropic.vjp(entropic.linear_cross_entropy, hidden, weight, targets)[1](1.0)

    contestants: Contestants = {"entropic": ours}
    if torch is not None:
        x, w = torch.from_numpy(hidden).requires_grad_(), torch.from_numpy(weight).requires_grad_()
        ids = torch.from_numpy(targets)

        def loss(a: Any, b: Any) -> Any:
            return torch.nn.functional.cross_entropy(a @ b.T, ids)

        def by_torch(f: Callable[..., Any] = loss) -> Any:
            return torch.autograd.grad(f(x, w), (x, w))

        contestants["torch"] = by_torch
        fused = compiled(loss, x, w)
        if fused is not None:
            contestants["torch compiled"] = lambda: by_torch(fused)
    if jax is not None:
        a, b, k = jax.numpy.asarray(hidden), jax.numpy.asarray(weight), jax.numpy.asarray(targets)

        def jax_loss(x: Any, w: Any) -> Any:
            log_p = jax.nn.log_softmax(x @ w.T, axis=1)
            return -jax.numpy.take_along_axis(log_p, k[:, None], axis=1).mean()

        step = jax.jit(jax.grad(jax_loss, argnums=(0, 1)))
        contestants["jax"] = lambda: jax.block_until_ready(step(a, b))
    return contestants


def attention_contestants(heads: int, length: int, d: int, *, causal: bool) -> Contestants:
    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(heads, length, d)).astype(np.float32) for _ in range(2))
    contestants: Contestants = {"entropic": lambda: entropic.attention_entropy(q, k, causal=causal)}
    if torch is not None:
        a, b = torch.from_numpy(q), torch.from_numpy(k)
        hidden = torch.triu(torch.full((length, length), -torch.inf), 1)

        def expression(x: Any, y: Any) -> Any:
            z = x @ y.mT / math.sqrt(d)
            log_p = torch.log_softmax(z + hidden if causal else z, -1)
            p = log_p.exp()
            return -torch.where(p > 0, p * log_p, 0.0).sum(-1) if causal else -(p * log_p).sum(-1)

        contestants["torch"] = lambda: expression(a, b)
        fused = compiled(expression, a, b)
        if fused is not None:
            contestants["torch compiled"] = lambda: fused(a, b)
    return contestants


def divergence_contestants(n: int, v: int) -> Contestants:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, v)) for _ in range(2))
    contestants: Contestants = {"entropic": lambda: entropic.divergence(x, y)}
    if torch is not None:
        a, b = torch.from_numpy(x), torch.from_numpy(y)

        def by_torch() -> Any:
            log_p, log_q = torch.log_softmax(a, 1), torch.log_softmax(b, 1)
            return (log_p.exp() * (log_p - log_q)).sum(1)

        contestants["torch"] = by_torch
    contestants["scipy"] = lambda: scipy.special.rel_entr(
        scipy.special.softmax(x, axis=1), scipy.special.softmax(y, axis=1)
    ).sum(axis=1)
    return contestants


def smoothed_contestants(n: int, v: int) -> Contestants:
    """Loss, and its gradient."""
    rng = np.random.default_rng(0)
    x, t = (rng.normal(size=(n, v)) * 3).astype(np.float32), rng.integers(0, v, n)
    contestants: Contestants = {
        "entropic": lambda: entropic.vjp(entropic.cross_entropy, x, t, label_smoothing=0.1)[1](1.0)
    }
    if torch is not None:
        tensor, ids = torch.from_numpy(x).requires_grad_(), torch.from_numpy(t)
        contestants["torch"] = lambda: torch.autograd.grad(
            torch.nn.functional.cross_entropy(tensor, ids, label_smoothing=0.1), tensor
        )
    return contestants


def speed(rounds: int, *, quick: bool) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []

    def measure(work: str, contestants: Contestants, rounds: int = rounds) -> None:
        seconds = race(contestants, rounds)
        rows.append({"work": work, "threads": THREADS, "seconds": seconds})
        ours = seconds["entropic"]
        shown = ", ".join(f"{k} {v / ours:.2f}x" for k, v in seconds.items() if k != "entropic")
        print(f"{work}: {ours * 1e6:.1f} us; {shown}", flush=True)

    x = (rng.normal(size=(32, VOCABULARY)) * 3).astype(np.float32)
    t = rng.integers(0, VOCABULARY, 32)
    # Apart from the peers, whose threads go on spinning for a while after a call and slow down what comes next.
    measure("logit_stats, all fields, (32, 128256) float32", our_contestants(x, t))
    measure("the same beside the others", stats_contestants(x, t))
    measure("logit_stats, entropy and logprob, one row of 128256", one_row(x[:1], t[:1]))
    measure("logit_stats, three temperatures, (32, 128256) float32",
            {"entropic": lambda: all_fields(x, t, temperatures=(0.5, 1.0, 2.0)),
             "three calls": lambda: [all_fields(x, t, temperature=T) for T in (0.5, 1.0, 2.0)]})  # fmt: skip
    long, ids = (rng.normal(size=(256, VOCABULARY)) * 3).astype(np.float32), rng.integers(0, VOCABULARY, 256)
    measure("logit_stats, all fields, (256, 128256) float32 (out of cache)", our_contestants(long, ids))
    few = max(rounds // 3, 2)
    n, d, v = (256, 128, 5000) if quick else (2048, 1024, 50257)
    measure(f"linear_cross_entropy and gradients, N = {n}, D = {d}, V = {v}, float32", linear_contestants(n, d, v), few)
    length = 512 if quick else 4096
    for causal in (False, True):
        measure(f"attention_entropy, 8 heads, T = {length}, d = 64, float32" + (", causal" if causal else ""),
                attention_contestants(8, length, 64, causal=causal), few)  # fmt: skip
    measure("cross_entropy, label_smoothing=0.1, and gradient, (64, 32000) float32", smoothed_contestants(64, 32000))
    measure("KL divergence of (64, 32000) float64 logits", divergence_contestants(64, 32000))
    return rows


def one_row(x: np.ndarray, t: np.ndarray) -> Contestants:
    def ours() -> Any:
        stats = entropic.logit_stats(x, t)
        return stats.entropy, stats.logprob

    contestants: Contestants = {"entropic": ours}
    if torch is not None:
        tensor, ids = torch.from_numpy(x), torch.from_numpy(t)
        contestants["torch"] = lambda: torch_entropy(tensor, ids)
    return contestants


def accuracy() -> list[dict[str, Any]]:
    """Relative errors against 60 digits, of float32 logits: the entropy and the target's log-probability."""
    rows = []
    for height in (10, 25, 40):
        for offset in (0, 1000):
            x = np.full((1, VOCABULARY), offset, np.float32)
            x[0, 7] += height
            with mpmath.workdps(60):
                rest = (VOCABULARY - 1) * mpmath.exp(-height)
                exact = {"entropy": mpmath.log1p(rest) + rest * height / (1 + rest), "logprob": -mpmath.log1p(rest)}

                def error(got: Any, name: str, exact: dict[str, Any] = exact) -> float:
                    return float(abs((mpmath.mpf(float(got)) - exact[name]) / exact[name]))

                stats = entropic.logit_stats(x, [7])
                row: dict[str, Any] = {
                    "logits": f"one at +{height}" + (f", all + {offset}" if offset else ""),
                    "entropy": float(exact["entropy"]),
                    "entropic": error(stats.entropy[0], "entropy"),
                    "entropic logprob": error(stats.logprob[0], "logprob"),
                }
                if torch is not None:
                    entropy, logprob = torch_entropy(torch.from_numpy(x), torch.tensor([7]))
                    row["torch"] = error(entropy[0], "entropy")
                    row["torch logprob"] = error(logprob[0, 0], "logprob")
            rows.append(row)
            print(row, flush=True)
    return rows


SETUPS = {
    "linear_cross_entropy and gradients, N = 2048, D = 1024, V = 50257": (
        "rng = np.random.default_rng(0)\n"
        "x = rng.normal(size=(2048, 1024)).astype(np.float32)\n"
        "w = (rng.normal(size=(50257, 1024)) / 32).astype(np.float32)\n"
        "t = rng.integers(0, 50257, 2048)\n",
        "entropic.vjp(entropic.linear_cross_entropy, {x}[:8], {w}[:64], {t}[:8] % 64)",
        "g = entropic.vjp(entropic.linear_cross_entropy, x, w, t)[1](1.0)",
        "x, w, t = torch.from_numpy(x).requires_grad_(), torch.from_numpy(w).requires_grad_(), torch.from_numpy(t)\n",
        "torch.autograd.grad(torch.nn.functional.cross_entropy(x{i} @ w.T, t{i}), (x, w))",
    ),
    "attention_entropy, 8 heads, T = 4096, d = 64": (
        "rng = np.random.default_rng(0)\nx = rng.normal(size=(8, 4096, 64)).astype(np.float32)\n",
        "entropic.attention_entropy({x}[:1, :64], {x}[:1, :64])",
        "entropic.attention_entropy(x, x)",
        "x = torch.from_numpy(x)\n",
        "(lambda l: -(l.exp() * l).sum(-1))(torch.log_softmax(x{i} @ x{i}.mT / 8, -1))",
    ),
}


def memory() -> list[dict[str, Any]]:
    """Peak beyond the inputs, gradients included, from a process of its own; each has run once on a small part."""
    rows = []
    for call, (setup, warm, ours, convert, theirs) in SETUPS.items():
        row: dict[str, Any] = {
            "call": call,
            "entropic": peak_bytes(setup + warm.format(x="x", w="w", t="t"), ours),
        }
        if torch is not None:
            part = "[:8]" if "linear" in call else "[:1, :64]"
            row["torch"] = peak_bytes(
                "import torch\n" + setup + convert + theirs.format(i=part), f"result = {theirs.format(i='')}"
            )
        row["gradients"] = (2048 + 50257) * 1024 * 4 if "linear" in call else 0
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    chosen = options(__doc__)
    rounds = 3 if chosen.quick else 15
    threads = entropic.get_num_threads()
    entropic.set_num_threads(THREADS)
    if torch is not None:
        torch.set_num_threads(THREADS)
    results = {
        "machine": machine({"scipy": scipy, "torch": torch, "jax": jax}),
        "speed": speed(rounds, quick=chosen.quick),
        "accuracy": accuracy(),
        "memory": memory(),
    }
    entropic.set_num_threads(threads)
    save("tokens", results, chosen.output)


if __name__ == "__main__":
    main()
