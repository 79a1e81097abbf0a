"""The console script: ``entropic`` prints the configuration, ``entropic demo`` runs the package on real data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ._config import show_config


def _write_config() -> None:
    config = show_config()
    width = max(map(len, config))
    for key, value in config.items():
        shown = (", ".join(map(str, value)) or "none") if isinstance(value, list) else value
        sys.stdout.write(f"{key:<{width}}  {shown}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="entropic", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    demo = commands.add_parser("demo", help="run the package on real data and write a picture")
    demo.add_argument("--output", default="entropic_demo.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.command == "demo":
        from ._demo import run_demo

        return run_demo(options.output, sys.stdout)
    _write_config()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
