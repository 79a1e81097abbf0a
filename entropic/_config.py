"""What this build is and what it runs on."""

from __future__ import annotations

import os
from typing import Any

from . import _core


def force_isa_from_environment() -> None:
    """Honour ENTROPIC_ISA, or say at import why it cannot be done."""
    name = os.environ.get("ENTROPIC_ISA")
    if name and not _core.force_isa(name):
        raise ImportError(
            f"ENTROPIC_ISA={name!r} is not available; this machine runs {', '.join(_core.isa_available())} "
            f"of the compiled {', '.join(_core.isa_compiled())}"
        )


def _cuda_and_devices() -> tuple[str, list[str]]:
    try:
        from . import _cuda
    except ImportError:
        return _core.cuda_build, []
    problem = _cuda.problem()
    built = f"built for {_cuda.architectures}"
    return (f"{built}; {problem}" if problem else built), list(_cuda.devices())


def show_config() -> dict[str, Any]:
    """Configuration of the package as a dictionary; ``python -m entropic`` prints it.

    Returns
    -------
    dict
        ``version``; ``isa_compiled``, the instruction sets in this build; ``isa_active``, the one in use (the
        environment variable ``ENTROPIC_ISA`` forces one); ``threads``, the limit in force; ``cuda``, whether there is
        CUDA code and whether it can run; ``devices``, the names of the GPUs seen.

    Examples
    --------
    >>> import entropic
    >>> sorted(entropic.show_config())
    ['cuda', 'devices', 'isa_active', 'isa_compiled', 'threads', 'version']
    """
    cuda, devices = _cuda_and_devices()
    return {
        "version": _core.version,
        "isa_compiled": _core.isa_compiled(),
        "isa_active": _core.isa_active(),
        "threads": _core.get_num_threads(),
        "cuda": cuda,
        "devices": devices,
    }
