"""What long work tells while it runs: the caller's callback, and a tqdm bar where tqdm is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Watch = Callable[[int, float], bool]


def check_callback(func: str, callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"{func}: `callback` must be callable or None, got {callback!r}")


def is_stop(answer: Any) -> bool:
    """Has a callback asked for the end? Only a true boolean does: other values may be returned by accident."""
    return isinstance(answer, bool | np.bool_) and bool(answer)


@contextmanager
def watching(callback: Callable[[int, float], Any] | None, progress: bool, description: str) -> Iterator[Watch | None]:
    """One function of (iteration, error) that serves both and returns True to stop; None where neither is wanted."""
    bar: Any = None
    if progress:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            pass
        else:
            bar = tqdm(desc=description, unit="it")
    if callback is None and bar is None:
        yield None
        return

    def watch(iteration: int, error: float) -> bool:
        if bar is not None:
            bar.update()
            bar.set_postfix(error=f"{error:.2e}", refresh=False)
        return callback is not None and is_stop(callback(iteration, error))

    try:
        yield watch
    finally:
        if bar is not None:
            bar.close()
