"""Intrinsic dimensions: how many coordinates distances to neighbours behave as if there were."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._backend import Array
from .._validate import check_choice, check_number
from ._search import METRICS, Space, as_samples, check_neighbors, check_same_dimension, samples_backend
from ._ties import check_ties, report_ties

METHODS = ("mle", "twonn", "mom")
_SAME_PLACE = "have their first neighbour at distance 0"


def _log_ratios(distances: np.ndarray) -> np.ndarray:
    """log(T_k / T_j) for j < k, 0 where both are 0 and inf where T_j alone is."""
    last, before = distances[:, -1:], distances[:, :-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(last) - np.log(before)
    return np.where(last == before, 0.0, logs)


def _mean_shortfall(distances: np.ndarray) -> np.ndarray:
    """1 - mean of T_j / T_k over j < k, exactly 0 where all are equal."""
    last = distances[:, -1:]
    return np.asarray(((last - distances[:, :-1]) / last).mean(axis=1))


def local_dimensions(distances: np.ndarray, method: str) -> np.ndarray:
    """Each row's dimension from its k ascending distances: 0 where all are 0."""
    count = distances.shape[1] - 1
    last = distances[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        if method == "mom":
            below = _mean_shortfall(distances)
            values = (1 - below) / below
        else:
            values = count / _log_ratios(distances).sum(axis=1)
    return np.where(last == 0, 0.0, values)


def local_intrinsic_dimension(
    x: Array, reference: Array | None = None, *, k: int = 20, method: str = "mle", metric: str = "euclidean"
) -> Array:
    """Local intrinsic dimension at each point: 1 / mean(log(T_k / T_j)) over its k - 1 nearer neighbours.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        Where the dimension is wanted.
    reference : array, shape (m, d) or (m,), optional
        Among which points the neighbours are; by default the other points of `x`.
    k : int
        Neighbours, at least 2.
    method : {"mle", "mom"}
        The maximum likelihood estimate, or that of moments, ``m / (T_k - m)`` with the mean m of the k - 1 nearer
        distances.
    metric : {"euclidean", "manhattan", "chebyshev"}
        Of the distances T.

    Returns
    -------
    array of float64, shape (n,)
        0 where a neighbour is at distance 0 ("mle"), as at an atom of the distribution; inf where all k are equally
        far.

    Raises
    ------
    TypeError, ValueError
        For points that are not finite or of different dimensions, and k beyond the candidates.

    Notes
    -----
    One search as in :func:`nearest_neighbors`. A point of `x` that is in `reference` too is found there at distance 0:
    leave `reference` out for points among themselves. Backends: CPU.

    References
    ----------
    Levina and Bickel, NIPS 2004; Amsaleg and others, KDD 2015.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> plane = np.random.default_rng(0).random((2000, 2)) @ np.ones((2, 50))
    >>> float(np.median(entropic.local_intrinsic_dimension(plane)).round())  # all on one line
    1.0
    """
    func = "local_intrinsic_dimension"
    check_choice(func, "method", method, ("mle", "mom"))
    check_choice(func, "metric", metric, METRICS)
    backend = samples_backend(func, x=x, reference=reference)
    return backend.wrap(local_dimensions(neighbour_distances(func, x, reference, k, metric)[0], method))


def neighbour_distances(
    func: str, x: Array, reference: Array | None, k: Any, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    points = as_samples(func, "x", x, 2 if reference is None else 1)
    if reference is None:
        count = _at_least_two(func, check_neighbors(func, k, len(points) - 1))
        return Space(points, metric).nearest(count)
    others = as_samples(func, "reference", reference)
    check_same_dimension(func, ("x", "reference"), points, others)
    count = _at_least_two(func, check_neighbors(func, k, len(others)))
    return Space(others, metric).nearest(count, points)


def _at_least_two(func: str, k: int) -> int:
    if k < 2:
        raise ValueError(f"{func}: `k` must be at least 2, got {k}")
    return k


def intrinsic_dimension(
    x: Array, *, k: int = 20, method: str = "mle", metric: str = "euclidean", discard: float = 0.1, ties: str = "raise"
) -> float:
    """Intrinsic dimension of a set of points.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        The points.
    k : int
        Neighbours, at least 2; "twonn" uses two.
    method : {"mle", "twonn", "mom"}
        "mle" is the inverse of the mean over the points of Levina and Bickel's inverse dimension, as MacKay and
        Ghahramani average it. "twonn" (Facco and others 2017) fits a line through the origin to ``-log(1 - F)`` against
        the logarithm of the ratio of the second to the first neighbour's distance. "mom" is that of moments, ``M / (1 -
        M)`` with the mean M of ``T_j / T_k`` over j < k and the points.
    metric : {"euclidean", "manhattan", "chebyshev"}
        Of the distances.
    discard : float
        Share of the largest ratios that "twonn" leaves out.
    ties : {"raise", "drop"}
        What to do where a point occurs more than once: raise, or keep one of each with a
        :class:`entropic.TiesWarning`.

    Returns
    -------
    float
        inf where all neighbours of all points are equally far.

    Raises
    ------
    TypeError, ValueError
        For points that are not finite, k >= n, repeated points (see `ties`).

    Notes
    -----
    One search as in :func:`nearest_neighbors`. Backends: CPU.

    References
    ----------
    Levina and Bickel, NIPS 2004; MacKay and Ghahramani (2005); Facco and others, Sci. Rep. 7 (2017) 12140.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> sphere = np.random.default_rng(0).normal(size=(5000, 3))
    >>> sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    >>> round(entropic.intrinsic_dimension(sphere), 1)
    2.0
    """
    func = "intrinsic_dimension"
    check_choice(func, "method", method, METHODS)
    check_choice(func, "metric", metric, METRICS)
    check_ties(func, ties, ("raise", "drop"))
    samples_backend(func, x=x)
    share = check_number(func, "discard", discard)
    if not 0 <= share < 1:
        raise ValueError(f"{func}: `discard` must be at least 0 and less than 1, got {discard!r}")
    points = as_samples(func, "x", x, 2)
    count = 2 if method == "twonn" else _at_least_two(func, check_neighbors(func, k, len(points) - 1))
    check_neighbors(func, count, len(points) - 1)
    distances, _ = Space(points, metric).nearest(count)
    repeated = distances[:, 0] == 0
    if repeated.any():
        report_ties(
            func, repeated, "warn" if ties == "drop" else ties, _SAME_PLACE, 'pass ties="drop" to keep one of each'
        )
        points = np.unique(points, axis=0)
        if len(points) <= count:
            raise ValueError(f"{func}: {len(points)} distinct points are too few for {count} neighbours")
        distances, _ = Space(points, metric).nearest(count)
    with np.errstate(divide="ignore"):
        if method == "mle":
            return float(1 / np.float64(_log_ratios(distances).mean()))
        if method == "mom":
            below = _mean_shortfall(distances).mean()
            return float((1 - below) / below)
        return _two_neighbours(distances, share)


def _two_neighbours(distances: np.ndarray, discard: float) -> float:
    n = len(distances)
    logs = np.sort(_log_ratios(distances)[:, 0])
    kept = max(1, min(n - 1, math.floor(n * (1 - discard))))  # the last one's 1 - F is 0
    heights = -np.log1p(-np.arange(1, kept + 1) / n)
    squares = float((logs[:kept] ** 2).sum())
    return float((logs[:kept] * heights).sum()) / squares if squares else math.inf
