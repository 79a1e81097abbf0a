"""What every benchmark shares: fair races, the machine's description, peak memory, result files."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata as metadata
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import entropic

RESULTS = Path(__file__).resolve().parent / "results"


def optional(name: str) -> ModuleType | None:
    """A peer, or None with a line that says so: a missing peer is reported, not skipped in silence."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"peer {name} is not installed")
        return None


def race(
    contestants: dict[str, Callable[[], Any]], rounds: int = 9, least_seconds: float = 0.02, pause: float = 0.0
) -> dict[str, float]:
    """Median seconds a call of each contestant, in turns, so that a busy machine is busy for all of them.

    `pause`: seconds between turns, for peers whose threads spin after a call on cores that the next one is to have.
    """
    repeats = {}
    for name, f in contestants.items():
        f()
        start = time.perf_counter()
        f()
        repeats[name] = max(1, int(least_seconds / max(time.perf_counter() - start, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, f in contestants.items():
            time.sleep(pause)
            start = time.perf_counter()
            for _ in range(repeats[name]):
                f()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(t) for name, t in times.items()}


PEAK = """
import numpy as np, entropic
{setup}
open("/proc/self/clear_refs", "w").write("5")  # resets the high-water mark
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
before = status("VmRSS")
{call}
print(status("VmHWM") - before)
"""


def measured_apart(setup: str, call: str) -> tuple[list[str], int]:
    """What `call` prints, and the memory that it needs beyond what `setup` left, from a fresh process."""
    code = PEAK.format(setup=setup, call=call)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    *printed, held = result.stdout.split()
    return printed, max(0, int(held))


def peak_bytes(setup: str, call: str) -> int | None:
    """That memory alone; None where Linux does not tell."""
    return measured_apart(setup, call)[1] if sys.platform == "linux" else None


def _version(name: str, peer: ModuleType | None) -> str:
    if peer is None:
        return "not installed"
    try:
        return str(getattr(peer, "__version__", None) or metadata.version(name))
    except metadata.PackageNotFoundError:
        return "unknown"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(peers: dict[str, ModuleType | None]) -> dict[str, Any]:
    """What the numbers were measured on."""
    config = entropic.show_config()
    return {
        "cpu": _cpu_name(),
        "threads": config["threads"],
        "isa": config["isa_active"],
        "entropic": config["version"],
        "python": platform.python_version(),
        "numpy": np.__version__,
        **{name: _version(name, peer) for name, peer in peers.items()},
    }


def options(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it runs")
    parser.add_argument("--output", type=Path, help="write the results here (default: bench/results)")
    return parser.parse_args()


def save(name: str, results: dict[str, Any], output: Path | None) -> None:
    path = output or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {path}")
