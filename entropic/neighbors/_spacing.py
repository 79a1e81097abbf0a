"""Differential entropies of single variables from the spacings of their sorted samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import Array, Backend, to_numpy
from .._validate import check_base, check_choice, check_integer, normalize_axis
from ..logits._functions import cast, check_real, float_dtype, scalar_or_array
from ._search import samples_backend
from ._ties import check_ties, digamma, report_ties

METHODS = ("vasicek", "van_es", "ebrahimi", "correa", "bias_corrected")
_BLOCK = 1 << 20  # elements of sliding windows at a time


@dataclass(frozen=True)
class SpacingProblem:
    """Samples, sorted, with the variables in rows."""

    backend: Backend
    given: np.ndarray
    axis: int
    rows: np.ndarray  # (variables, n), ascending
    window: int


def spacing_problem(func: str, x: Array, window: Any, axis: Any) -> SpacingProblem:
    backend = samples_backend(func, x=x)
    given = to_numpy(func, "x", x)
    check_real(func, "x", given)
    along = normalize_axis(func, axis, given.ndim)
    n = given.shape[along]
    if n < 3:
        raise ValueError(f"{func}: `x` must have at least 3 samples along axis {axis}, got {n}")
    if not np.isfinite(given).all():
        raise ValueError(f"{func}: `x` must be finite")
    nearest = min(math.floor(math.sqrt(n) + 0.5), (n - 1) // 2)
    size = nearest if window is None else check_integer(func, "window", window, 1)
    if 2 * size >= n:
        raise ValueError(f"{func}: `window` must be less than half of n = {n}, got {size}")
    rows = np.moveaxis(given, along, -1).reshape(-1, n).astype(np.float64)
    rows.sort(axis=1)
    return SpacingProblem(backend, given, along, rows, size)


def clamped(rows: np.ndarray, shift: int) -> np.ndarray:
    """Columns i + shift, or the first or last one where there is none."""
    n = rows.shape[1]
    return rows[:, np.clip(np.arange(n) + shift, 0, n - 1)]


def two_sided(rows: np.ndarray, m: int) -> np.ndarray:
    """X_(i+m) - X_(i-m), as far as there are samples."""
    return np.asarray(clamped(rows, m) - clamped(rows, -m))


def ebrahimi_factors(n: int, m: int) -> np.ndarray:
    i = np.arange(1, n + 1)
    return np.where(i <= m, 1 + (i - 1) / m, np.where(i >= n - m + 1, 1 + (n - i) / m, 2.0))


def _vasicek(rows: np.ndarray, m: int) -> np.ndarray:
    return np.asarray(np.log(two_sided(rows, m)).mean(axis=1) + math.log(rows.shape[1] / (2 * m)))


def _bias_corrected(rows: np.ndarray, m: int) -> np.ndarray:
    """Vasicek's, less what it has in the mean for a uniform density, which is known at every n and m."""
    n = rows.shape[1]
    tails = float(digamma(np.arange(m, 2 * m)).sum())
    bias = math.log(n / (2 * m)) + (1 - 2 * m / n) * float(digamma(2 * m)) + 2 / n * tails - float(digamma(n + 1))
    return np.asarray(_vasicek(rows, m) - bias)


def _van_es(rows: np.ndarray, m: int) -> np.ndarray:
    n = rows.shape[1]
    spacings = rows[:, m:] - rows[:, :-m]
    constant = float((1 / np.arange(m, n + 1)).sum()) + math.log(m) - math.log(n + 1)
    return np.asarray(np.log(spacings).mean(axis=1) + math.log((n + 1) / m) + constant)


def _ebrahimi(rows: np.ndarray, m: int) -> np.ndarray:
    n = rows.shape[1]
    return np.asarray(np.log(n / m * two_sided(rows, m) / ebrahimi_factors(n, m)).mean(axis=1))


def _windows(rows: np.ndarray, m: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Samples i - m .. i + m less that in the middle, over the largest of them, (variables, some i, 2m + 1).

    With the first i of each block and that largest, 0 where all are equal. So differences of equal samples are exactly
    0, and squares stay in the range.
    """
    n = rows.shape[1]
    padded = rows[:, np.clip(np.arange(-m, n + m), 0, n - 1)]
    block = max(1, _BLOCK // (len(rows) * (2 * m + 1)))
    for first in range(0, n, block):
        some = padded[:, first : min(n, first + block) + 2 * m]
        windows = np.lib.stride_tricks.sliding_window_view(some, 2 * m + 1, axis=1)
        apart = windows - windows[:, :, m, None]
        size = np.maximum(apart[:, :, -1], -apart[:, :, 0])
        yield first, apart / np.where(size > 0, size, 1.0)[..., None], size


def _regression(unit: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of windows: less their mean, the sums of steps times samples, and of squares. No term of a sum is negative."""
    centred = unit - unit.mean(axis=2, keepdims=True)
    return centred, unit @ np.arange(-m, m + 1), (centred * centred).sum(axis=2)


def _correa(rows: np.ndarray, m: int) -> np.ndarray:
    """Slopes of the distribution function by a regression in each window; infinite where it holds equal values."""
    n = rows.shape[1]
    total = np.zeros(len(rows))
    for _, unit, size in _windows(rows, m):
        _, products, squares = _regression(unit, m)
        logs = np.log(products / (n * squares)) - np.log(size)
        total += np.where(size > 0, logs, np.inf).sum(axis=1)
    return np.asarray(-total / n)


def correa_gradient(rows: np.ndarray, m: int) -> np.ndarray:
    """Derivatives of Correa's estimate by the sorted samples."""
    variables, n = rows.shape
    steps = np.arange(-m, m + 1)
    padded = np.zeros((variables, n + 2 * m))
    for first, unit, size in _windows(rows, m):
        centred, products, squares = _regression(unit, m)
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = 2 * centred / squares[..., None] - steps / products[..., None]
            rates = np.where(size[..., None] > 0, slopes / size[..., None], 0.0)
        for place in range(2 * m + 1):
            padded[:, first + place : first + place + rates.shape[1]] += rates[:, :, place] / n
    grad = padded[:, m : n + m].copy()
    grad[:, 0] += padded[:, :m].sum(axis=1)
    grad[:, -1] += padded[:, n + m :].sum(axis=1)
    return grad


_ESTIMATES = {
    "vasicek": _vasicek,
    "van_es": _van_es,
    "ebrahimi": _ebrahimi,
    "correa": _correa,
    "bias_corrected": _bias_corrected,
}


def _check_spacings(func: str, rows: np.ndarray, m: int, method: str, ties: str) -> None:
    """Spacings of 0: a value that occurs so often that it fills a window."""
    within = clamped(rows, m) - clamped(rows, -m) if method != "van_es" else rows[:, m:] - rows[:, :-m]
    report_ties(
        func,
        within == 0,
        ties,
        "have a window of equal values around them, where the entropy of a density is -inf",
        "raise `window`, or count values that are discrete",
        stacklevel=4,
    )


def spacing_entropy(
    x: Array,
    *,
    window: int | None = None,
    method: str = "vasicek",
    axis: int = 0,
    base: float | None = None,
    ties: str = "raise",
) -> Any:
    """Differential entropies of variables one by one: mean of log(n (X_(i+m) - X_(i-m)) / (2 m)) over sorted samples.

    Parameters
    ----------
    x : array
        Samples along `axis`; each of the other places is a variable.
    window : int, optional
        m, less than half of n; by default the nearest integer to sqrt(n), as in SciPy, if that is less.
    method : {"vasicek", "van_es", "ebrahimi", "correa", "bias_corrected"}
        Vasicek's estimate, those of van Es, of Ebrahimi, Pflughoeft and Soofi and of Correa, and Vasicek's less its
        mean error for a uniform density, which is known exactly.
    axis : int
        Along which the samples lie.
    base : float, optional
        Base of the logarithm; nats by default.
    ties : {"raise", "warn"}
        Where a window holds equal values only the sum is -inf: an error with the share of such samples, or -inf with a
        :class:`entropic.TiesWarning`.

    Returns
    -------
    float, or array of the shape of `x` without `axis`
        In the float type of `x`, float64 for integers.

    Raises
    ------
    TypeError, ValueError
        For samples that are not finite, fewer than 3 of them, and a window that is not less than half their number.

    Notes
    -----
    A sort and a pass in float64; Correa's windows are gone through one by one, in O(n m). Gradients by
    :func:`entropic.vjp`. Backends: CPU.

    References
    ----------
    Vasicek, J. R. Stat. Soc. B 38 (1976) 54; van Es, Scand. J. Stat. 19 (1992) 61; Ebrahimi, Pflughoeft and Soofi,
    Stat. Probab. Lett. 20 (1994) 225; Correa, Commun. Stat. Theory Methods 24 (1995) 2439.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).random((1000, 2)) * [1, 2]
    >>> abs(entropic.spacing_entropy(x, method="bias_corrected")).round(1)  # 0 and log(2)
    array([0. , 0.7])
    """
    func = "spacing_entropy"
    check_choice(func, "method", method, METHODS)
    check_ties(func, ties, ("raise", "warn"))
    log_base = check_base(func, base)
    problem = spacing_problem(func, x, window, axis)
    _check_spacings(func, problem.rows, problem.window, method, ties)
    shape = tuple(size for d, size in enumerate(problem.given.shape) if d != problem.axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = _ESTIMATES[method](problem.rows, problem.window).reshape(shape) / log_base
    return problem.backend.wrap(scalar_or_array(cast(values, float_dtype(problem.given))))
