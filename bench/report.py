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


def _speed_table(results: dict[str, Any]) -> str:
    lines = ["| work | threads | entropic | peers: their time / ours |", "|---|---|---|---|"]
    for row in results["speed"]:
        ours = row["seconds"]["entropic"]
        peers = ", ".join(f"{k} {v / ours:.3g}x" for k, v in row["seconds"].items() if k != "entropic")
        lines.append(f"| {row['work']} | {row['threads']} | {_time(ours)} | {peers} |")
    return "\n".join(lines)


def _accuracy_table(results: dict[str, Any]) -> str:
    peers = [p for p in ("entropic", "scipy", "torch") if p in results["accuracy"][0]]
    lines = [
        f"| 32000 float32 logits | entropy | {' | '.join(f'{p}: relative error' for p in peers)} |",
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
    versions = ", ".join(f"{k} {m[k]}" for k in ("numpy", "scipy", "torch", "jax") if k in m)
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


def _papers() -> str:
    """First line of the docstring of each test in tests/papers: a paper's title."""
    titles = []
    for source in sorted((ROOT / "tests" / "papers").glob("test_*.py")):
        for node in ast.parse(source.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                titles.append(f"- {(ast.get_docstring(node) or '').splitlines()[0]}")
    return "\n".join(titles)


def main() -> None:
    results = json.loads((RESULTS / "logits.json").read_text())
    _growth_picture(results, RESULTS / "logits.png")
    parts = {
        "papers": _papers(),
        "logits speed": f"{_speed_table(results)}\n\n{_machine_line(results)}",
        "logits accuracy": _accuracy_table(results),
        "logits memory": _memory_table(results),
    }
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, body in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda m, body=body: m[1] + body + "\n" + m[2], text, flags=re.S)
        if count != 1:
            raise SystemExit(f"README.md has no place for the {name} table")
    readme.write_text(text)


if __name__ == "__main__":
    main()
