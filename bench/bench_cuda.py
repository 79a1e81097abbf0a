"""The log-sum family on a GPU beside torch's, and beside what the card's memory allows.

Times are CUDA events around a batch of calls, medians of interleaved rounds; `of copy` is the rate at which the input
is read as a share of the rate at which the card copies memory (reads and writes counted), the bound of one pass.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from common import machine, optional, options, save

import entropic


def device_race(torch: Any, contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds a call, by the GPU's clock."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for f in contestants.values():
        f()
    for _ in range(rounds):
        for name, f in contestants.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            repeats = 10
            start.record()
            for _ in range(repeats):
                f()
            stop.record()
            stop.synchronize()
            times[name].append(start.elapsed_time(stop) / 1e3 / repeats)
    return {name: statistics.median(t) for name, t in times.items()}


def torch_entropy(torch: Any, x: Any) -> Any:
    log_p = torch.log_softmax(x.float(), 1)
    return -(log_p.exp() * log_p).sum(1)


def largest_error(torch: Any, x: Any) -> float:
    """Of our log-sum-exp, relative to torch's in float64, over the first rows."""
    head = x[:64]
    want = torch.logsumexp(head.double(), 1)
    return float(((entropic.logsumexp(head, axis=1).double() - want) / want).abs().max())


def compare(torch: Any, shape: tuple[int, int], dtype: str, rounds: int) -> dict[str, Any]:
    x = torch.randn(shape, device="cuda", dtype=torch.float32).to(getattr(torch, dtype)) * 4
    copy = torch.empty_like(x)
    seconds = device_race(
        torch,
        {
            "entropic logsumexp": lambda: entropic.logsumexp(x, axis=1),
            "torch logsumexp": lambda: torch.logsumexp(x, 1),
            "entropic entropy": lambda: entropic.softmax_entropy(x, axis=1),
            "torch entropy": lambda: torch_entropy(torch, x),
            "copy": lambda: copy.copy_(x),
        },
        rounds,
    )
    bound = seconds["copy"] / 2  # a copy reads and writes
    return {
        "shape": list(shape),
        "dtype": dtype,
        "seconds": seconds,
        "logsumexp_of_copy": bound / seconds["entropic logsumexp"],
        "entropy_of_copy": bound / seconds["entropic entropy"],
        "error": largest_error(torch, x),
    }


def main() -> None:
    args = options(__doc__)
    torch = optional("torch")
    if torch is None or not torch.cuda.is_available():
        raise SystemExit("bench_cuda.py needs torch and a GPU")
    rounds = 3 if args.quick else 9
    shapes = [(64, 32_000), (8192, 32_000), (4096, 128_256), (2048, 256_000), (4_000_000, 64)]
    rows = [compare(torch, shape, dtype, rounds) for shape in shapes for dtype in ("float32", "bfloat16")]
    for row in rows:
        s = row["seconds"]
        print(
            f"{row['shape'][0]:>8} x {row['shape'][1]:<7} {row['dtype']:9}"
            f" logsumexp {s['entropic logsumexp'] * 1e3:8.3f} ms,"
            f" {s['torch logsumexp'] / s['entropic logsumexp']:5.1f}x"
            f" torch, {row['logsumexp_of_copy']:4.0%} of copy;"
            f" entropy {s['entropic entropy'] * 1e3:8.3f} ms, {s['torch entropy'] / s['entropic entropy']:5.1f}x torch,"
            f" {row['entropy_of_copy']:4.0%} of copy; error {row['error']:.1e}"
        )
    described = {**machine({"torch": torch}), "gpu": torch.cuda.get_device_name()}
    save("cuda", {"machine": described, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
