"""Turns bench/results/*.json into the README's tables and pictures, between its markers."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _ratio(x: float) -> str:
    return f"{x:.3g}" if x < 1000 else f"{x:.0f}"


def _speed_table(results: dict[str, Any]) -> str:
    lines = ["| work | threads | entropic | peers: their time / ours |", "|---|---|---|---|"]
    for row in results["speed"]:
        ours = row["seconds"]["entropic"]
        peers = ", ".join(f"{k} {_ratio(v / ours)}x" for k, v in row["seconds"].items() if k != "entropic")
        lines.append(f"| {row['work']} | {row['threads']} | {_time(ours)} | {peers or 'none'} |")
    return "\n".join(lines)


def _accuracy_table(results: dict[str, Any], head: str) -> str:
    peers = [name for name, error in results["accuracy"][0].items() if isinstance(error, float) and name != "entropy"]
    lines = [
        f"| {head} | entropy | {' | '.join(f'{p}: relative error' for p in peers)} |",
        "|---|---|" + "---|" * len(peers),
    ]
    for row in results["accuracy"]:
        errors = " | ".join(f"{row[p]:.1e}" for p in peers)
        lines.append(f"| {row['logits']} | {row['entropy']:.6g} | {errors} |")
    return "\n".join(lines)


def _memory_table(results: dict[str, Any]) -> str:
    lines = ["| call on 64 MB of float32 | entropic | SciPy |", "|---|---|---|"]
    for row in results["memory"]:
        lines.append(f"| {row['call']} | {row['entropic']:.2f}x the input | {row['scipy.special']:.2f}x |")
    return "\n".join(lines)


def _machine_line(results: dict[str, Any]) -> str:
    m = results["machine"]
    described = ("cpu", "threads", "isa", "entropic", "python")
    versions = ", ".join(f"{k} {v}" for k, v in m.items() if k not in described)
    return f"Measured on {m['cpu']} ({m['isa']}), Python {m['python']}, {versions}; medians of interleaved rounds."


def _growth_picture(results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    ax = figure.subplots()
    growth = results["growth"]
    for name, seconds in growth["curves"].items():
        nanoseconds = [1e9 * s / n for s, n in zip(seconds, growth["sizes"], strict=True)]
        ax.loglog(growth["sizes"], nanoseconds, marker="o", ms=4, lw=2.5 if name == "entropic" else 1.2, label=name)
    ax.set_xlabel("elements (float32)")
    ax.set_ylabel("ns per element")
    ax.set_title("logsumexp of n numbers, two threads", fontsize=10)
    ax.grid(alpha=0.3, which="major")
    ax.legend(fontsize=8)
    figure.savefig(path)


def _convergence_table(results: dict[str, Any]) -> str:
    rows = results["convergence"]
    peers = [name for name in rows[0]["curves"] if name != "entropic"]
    lines = [
        f"| eps / mean(C), n = m = {rows[0]['n']} | entropic, tol = 1e-9 | " + " | ".join(peers) + " |",
        "|---|---|" + "---|" * len(peers),
    ]
    for row in rows:
        reached = (f"{_time(seconds)}: {error:.1e}" for seconds, error in (c[-1] for c in row["curves"].values()))
        lines.append(f"| {row['eps']:g} | " + " | ".join(reached) + " |")
    return "\n".join(lines)


def _error_table(rows: list[dict[str, Any]], head: str) -> str:
    lines = [f"| {head} | entropic | POT `sinkhorn_log` |", "|---|---|---|"]
    for row in rows:
        seconds = f"{_time(row['seconds'])}: " if "seconds" in row else ""
        ours = row["error"] if "error" in row else row["entropic"]
        lines.append(f"| {row['eps']:.0e} | {seconds}{ours:.1e} | {row['POT']:.1e} |")
    return "\n".join(lines)


def _large_cloud_line(results: dict[str, Any]) -> str:
    cloud = results["large cloud"]
    return (
        f"{cloud['n']:,} by {cloud['n']:,} points in d = 3, float32, eps = 0.1 mean(C): {_time(cloud['seconds'])} for "
        f"{cloud['passes']} passes to an error of {cloud['error']:.1e}, in {cloud['bytes'] / 1e6:.3g} MB beside the "
        f"points (the cost would be {4e-9 * cloud['n'] ** 2:.3g} GB)."
    )


def _curves(ax: Any, curves: dict[str, Any]) -> None:
    for name, points in curves.items():
        ours = name == "entropic"
        ax.loglog(*zip(*points, strict=True), marker="o", ms=3.5, lw=2.5 if ours else 1.2, label=name)
    ax.grid(alpha=0.3, which="major")


def _convergence_picture(results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    rows = results["convergence"]
    figure = Figure(figsize=(9, 3.2), dpi=110, layout="constrained")
    for ax, row in zip(figure.subplots(1, len(rows), sharey=True), rows, strict=True):
        _curves(ax, row["curves"])
        ax.set_ylim(1e-11, 3)
        ax.set_title(f"eps = {row['eps']:g} mean(C)", fontsize=9)
        ax.set_xlabel("seconds")
    figure.axes[0].set_ylabel("L1 marginal error")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    figure.savefig(path)


def _transport_growth_picture(results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), dpi=110, layout="constrained")
    for ax, (title, curves) in zip(figure.subplots(1, 2), results["growth"].items(), strict=True):
        _curves(ax, curves)
        ax.set_title(f"one iteration, {title}", fontsize=9)
        ax.set_xlabel("n = m, as far as memory goes")
        ax.legend(fontsize=7)
    figure.axes[0].set_ylabel("seconds")
    figure.savefig(path)


def _gap_table(results: dict[str, Any]) -> str:
    gaps = results["gaps"]
    lines = [
        "| greedy, portfolio | " + " | ".join(f"n = {n:,}" for n in gaps["sizes"]) + " |",
        "|---|" + "---|" * len(gaps["sizes"]),
    ]
    for family, pairs in gaps["families"].items():
        lines.append(f"| {family} | " + " | ".join(f"{g:.2g}, {p:.2g}" for g, p in pairs) + " |")
    return "\n".join(lines)


def _bottleneck_table(results: dict[str, Any]) -> str:
    lines = ["| rate - I(X; T), mean | published search | pairs | moves (default) | better |", "|---|---|---|---|---|"]
    for row in results["bottleneck"]:
        lost = " | ".join(f"{x:.2g}" for x in row["lost"])
        lines.append(f"| n = {row['n']} | {lost} | {row['better']} of {row['tries']} |")
    return "\n".join(lines)


def _coupling_memory_line(results: dict[str, Any]) -> str:
    memory = results["memory"]
    return (
        f"Two marginals of {memory['n']:,} need {memory['bytes'] / 1e6:.3g} MB beside themselves, "
        f"{memory['bytes'] / memory['answer']:.2g} times the answer."
    )


def _gap_picture(results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.8), dpi=110, layout="constrained")
    ax = figure.subplots()
    for name, points in results["growth"].items():
        best = name.endswith(("atom-split", "optimum"))
        style = "-" if name.startswith("portfolio") else "--"
        ax.loglog(*zip(*points, strict=True), style, marker="o", ms=3.5, lw=2.2 if best else 1.2, label=name)
    ax.set_xlabel("n = m, Dirichlet(1)")
    ax.set_ylabel("bits, mean")
    ax.set_title("entropy of a coupling above a bound or the optimum", fontsize=10)
    ax.grid(alpha=0.3, which="major")
    ax.legend(fontsize=7)
    figure.savefig(path)


def _calls_memory_table(results: dict[str, Any]) -> str:
    lines = ["| call, float64 | n | input | peak beside it |", "|---|---|---|---|"]
    for row in results["memory"]:
        lines.append(f"| {row['call']} | {row['n']:,} | {row['input'] / 1e6:.3g} MB | {row['bytes'] / 1e6:.3g} MB |")
    return "\n".join(lines)


def _bias_table(results: dict[str, Any]) -> str:
    accuracy = results["accuracy"]
    heads = " | ".join(f"n = {n:,}, k = {k}" for n, k in accuracy["settings"])
    lines = [f"| mean error and spread, nats | {heads} |", "|---|" + "---|" * len(accuracy["settings"])]
    for row in accuracy["rows"]:
        cells = " | ".join(f"{bias:+.3f}, {spread:.3f}" for bias, spread in row["cells"])
        lines.append(f"| {row['oracle']} | {cells} |")
    return "\n".join(lines)


def _information_picture(results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    ax = figure.subplots()
    _curves(ax, results["growth"])
    ax.set_xlabel("n")
    ax.set_ylabel("seconds, one thread")
    ax.set_title("mutual information of two variables, k = 3", fontsize=10)
    ax.legend(fontsize=8)
    figure.savefig(path)


def _papers() -> str:
    """First line of the docstring of each test in tests/papers: a paper's title."""
    titles = []
    for source in sorted((ROOT / "tests" / "papers").glob("test_*.py")):
        for node in ast.parse(source.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                titles.append(f"- {(ast.get_docstring(node) or '').splitlines()[0]}")
    return "\n".join(titles)


def _logits_parts(results: dict[str, Any]) -> dict[str, str]:
    _growth_picture(results, RESULTS / "logits.png")
    return {
        "logits speed": f"{_speed_table(results)}\n\n{_machine_line(results)}",
        "logits accuracy": _accuracy_table(results, "32000 float32 logits"),
        "logits memory": _memory_table(results),
    }


def _token_memory_table(results: dict[str, Any]) -> str:
    lines = ["| peak beside inputs and gradients, float32 | entropic | torch |", "|---|---|---|"]
    for row in results["memory"]:
        beside = " | ".join(f"{(row[peer] - row['gradients']) / 1e6:.3g} MB" for peer in ("entropic", "torch"))
        lines.append(f"| {row['call']} | {beside} |")
    return "\n".join(lines)


def _tokens_parts(results: dict[str, Any]) -> dict[str, str]:
    return {
        "tokens speed": f"{_speed_table(results)}\n\n{_machine_line(results)}",
        "tokens accuracy": _accuracy_table(results, "128256 float32 logits"),
        "tokens memory": _token_memory_table(results),
    }


def _cuda_table(results: dict[str, Any]) -> str:
    lines = [
        "| on the GPU | logsumexp | torch / ours | of the memory rate | entropy | torch / ours |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        s = row["seconds"]
        lse, entropy = s["entropic logsumexp"], s["entropic entropy"]
        lines.append(
            f"| {row['shape'][0]:,} x {row['shape'][1]:,} {row['dtype']} | {_time(lse)}"
            f" | {_ratio(s['torch logsumexp'] / lse)}x | {row['logsumexp_of_copy']:.0%}"
            f" | {_time(entropy)} | {_ratio(s['torch entropy'] / entropy)}x |"
        )
    return "\n".join(lines)


def _cuda_parts(results: dict[str, Any]) -> dict[str, str]:
    m = results["machine"]
    line = (
        f"Measured on {m['gpu']}, Python {m['python']}, torch {m['torch']}, by `bench/bench_cuda.py`; the memory rate"
        " is that of a copy on the same card, its reads and writes counted; medians of interleaved rounds."
    )
    return {"cuda speed": f"{_cuda_table(results)}\n\n{line}"}


def _transport_parts(results: dict[str, Any]) -> dict[str, str]:
    _convergence_picture(results, RESULTS / "transport_convergence.png")
    _transport_growth_picture(results, RESULTS / "transport_growth.png")
    return {
        "transport speed": f"{_speed_table(results)}\n\n{_large_cloud_line(results)}\n\n{_machine_line(results)}",
        "transport convergence": _convergence_table(results),
        "transport range": _error_table(results["any eps"], "eps / max(C), float64"),
        "transport float32": _error_table(results["float32"], "eps / max(C), float32"),
    }


def _coupling_parts(results: dict[str, Any]) -> dict[str, str]:
    _gap_picture(results, RESULTS / "coupling.png")
    return {
        "coupling speed": f"{_speed_table(results)}\n\n{_coupling_memory_line(results)}\n\n{_machine_line(results)}",
        "coupling gaps": _gap_table(results),
        "coupling bottleneck": _bottleneck_table(results),
    }


def _neighbors_parts(results: dict[str, Any]) -> dict[str, str]:
    _information_picture(results, RESULTS / "neighbors.png")
    return {
        "neighbors speed": f"{_speed_table(results)}\n\n{_machine_line(results)}",
        "neighbors memory": _calls_memory_table(results),
        "neighbors bias": _bias_table(results),
    }


def _interval_lines(results: dict[str, Any]) -> str:
    found = results["intervals"]
    count, most = found["count"], found["most"]
    lines = [
        f"Of {count:,} random problems (64 to {most:,} points of 1 to 64 dimensions, clustered or not, five t, three "
        f"alpha), {found['held']['certified']:,} certified intervals hold the dense answers, and "
        f"{found['held']['lanczos']:,} of the stochastic ones, which promise 99 % for each t."
    ]
    for name in ("certified, t = 2", "lanczos, t = 1"):
        row = results["growth"][name][-1]
        lines.append(
            f"{row['n']:,} points in 64 dimensions, {name}: {row['lower']:.4f} to {row['upper']:.4f} bits in "
            f"{row['seconds']:.3g} s, with {row['bytes'] / 1e6:.3g} MB beside the points' "
            f"{row['n'] * 512 / 1e6:.3g} MB."
        )
    return "\n\n".join(lines)


def _spectral_picture(results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    for ax, key, title in zip(figure.subplots(1, 2), ("seconds", "bytes"), ("seconds", "peak bytes"), strict=True):
        for name, points in results["growth"].items():
            peer = name.startswith("published")
            curve = [(p["n"], p[key]) for p in points]
            ax.loglog(*zip(*curve, strict=True), "--" if peer else "-", marker="o", ms=3.5, label=name)
        ax.set_xlabel("n, d = 64")
        ax.set_title(title, fontsize=10)
        ax.grid(alpha=0.3, which="major")
    ax.legend(fontsize=8)
    figure.savefig(path)


def _spectral_parts(results: dict[str, Any]) -> dict[str, str]:
    _spectral_picture(results, RESULTS / "spectral.png")
    return {
        "spectral speed": f"{_speed_table(results)}\n\n{_machine_line(results)}",
        "spectral intervals": _interval_lines(results),
        "spectral memory": _calls_memory_table(results),
    }


FAMILIES = {
    "logits": _logits_parts,
    "tokens": _tokens_parts,
    "cuda": _cuda_parts,
    "transport": _transport_parts,
    "coupling": _coupling_parts,
    "neighbors": _neighbors_parts,
    "spectral": _spectral_parts,
}


def main() -> None:
    parts = {"papers": _papers()}
    for family, parts_of in FAMILIES.items():
        parts |= parts_of(json.loads((RESULTS / f"{family}.json").read_text()))
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, body in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda m, body=body: m[1] + body + "\n" + m[2], text, flags=re.S)
        if count != 1:
            raise SystemExit(f"README.md has no place for the {name} part")
    readme.write_text(text)


if __name__ == "__main__":
    main()
