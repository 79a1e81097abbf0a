"""Equal samples: what estimators of continuous variables do about them, and small tools that they share."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from .._errors import TiesWarning
from .._validate import check_choice, check_rng

_SERIES_FROM = 16


def digamma(count: np.ndarray | int) -> np.ndarray:
    """psi at positive integers: harmonic numbers, and from 16 on the asymptotic series, right to the last digits."""
    n = np.asarray(count)
    harmonic = np.concatenate([[math.nan, 0.0], np.cumsum(1.0 / np.arange(1, _SERIES_FROM))]) - np.euler_gamma
    small = harmonic[np.minimum(n, _SERIES_FROM)]
    if (n <= _SERIES_FROM).all():
        return np.asarray(small)
    x = np.maximum(n, _SERIES_FROM).astype(np.float64)
    w = 1 / (x * x)
    series = w * (1 / 12 - w * (1 / 120 - w * (1 / 252 - w * (1 / 240 - w / 132))))
    return np.asarray(np.where(n <= _SERIES_FROM, small, np.log(x) - 0.5 / x - series))


def mean_digamma(counts: np.ndarray) -> float:
    return float(digamma_of_counts(counts).mean())


def digamma_of_counts(counts: np.ndarray) -> np.ndarray:
    """psi of each of many counts through a table of those that may occur."""
    return digamma(np.arange(int(counts.max()) + 1))[counts] if counts.size else np.zeros(0)


def check_ties(func: str, ties: Any, choices: tuple[str, ...]) -> str:
    check_choice(func, "ties", ties, choices)
    return str(ties)


def jitter(func: str, x: np.ndarray, rng: Any) -> np.ndarray:
    """`x` less its median, plus noise of 1e-10 of each column's largest distance from it.

    Without the median, noise beside a large offset would be rounded away. A constant column stays what it is.
    """
    generator = check_rng(func, rng)
    centred = x - np.median(x, axis=0)
    return np.asarray(centred + 1e-10 * np.abs(centred).max(axis=0) * generator.uniform(-0.5, 0.5, x.shape))


def report_ties(func: str, tied: np.ndarray, ties: str, meaning: str, advice: str, stacklevel: int = 3) -> None:
    """Raise or warn, as `ties` says, where any sample is tied."""
    if not tied.any():
        return
    message = f"{func}: {tied.mean():.3g} of the samples {meaning}; {advice}"
    if ties == "raise":
        raise ValueError(message)
    warnings.warn(message, TiesWarning, stacklevel=stacklevel + 1)
