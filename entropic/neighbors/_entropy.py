"""Differential entropies of samples, from the distances to their nearest neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from .._backend import Array
from .._validate import check_base, check_choice, check_flag, check_number
from ..logits import logmeanexp
from ._search import METRICS, Space, as_samples, check_neighbors, samples_backend
from ._ties import check_ties, digamma, jitter, report_ties

TIES = ("raise", "warn", "jitter")


def log_ball_volume(d: int, metric: str) -> float:
    """Logarithm of the volume of the ball of radius 1."""
    if metric == "chebyshev":
        return d * math.log(2)
    if metric == "manhattan":
        return d * math.log(2) - math.lgamma(1 + d)
    return d / 2 * math.log(math.pi) - math.lgamma(1 + d / 2)


def entropy_weights(func: str, k: int, d: int) -> np.ndarray:
    """Weights of least norm on the estimates of orders 1..k whose sum is 1 and that cancel the leading bias terms.

    Those grow as Gamma(j + 2l/d) / Gamma(j) in the order j, for l = 1..floor(d/4).
    """
    if d < 4:
        return np.asarray(np.eye(k)[-1])
    orders = np.arange(1, k + 1)
    powers = 2 * np.arange(1, d // 4 + 1) / d
    log_gamma = np.vectorize(math.lgamma, otypes=[float])
    rows = np.exp(log_gamma(orders + powers[:, None]) - log_gamma(orders))
    constraints = np.vstack([np.ones(k), rows / rows[:, -1:]])
    wanted = np.eye(len(constraints))[0]
    weights = np.linalg.lstsq(constraints, wanted, rcond=None)[0]
    # too few orders for the terms, or so many dimensions that the terms are the same but for rounding
    if k < len(constraints) or np.abs(constraints @ weights - wanted).max() > 1e-9:
        raise ValueError(
            f"{func}: `weighted` cancels {d // 4} terms of the bias in {d} dimensions, for which `k` = {k} is too small"
        )
    return np.asarray(weights)


@dataclass(frozen=True)
class EntropyEstimate:
    """An entropy with its standard error and the normal confidence interval that follows from it."""

    value: float
    standard_error: float
    confidence: float
    low: float
    high: float


@dataclass(frozen=True)
class EntropyProblem:
    """Samples, their distances to the neighbours of some orders, and what turns distances into entropies."""

    x: np.ndarray
    orders: np.ndarray
    weights: np.ndarray  # of the orders: 1 each, or with the sum 1 in a weighted estimate
    distances: np.ndarray
    indices: np.ndarray
    log_volume: np.ndarray  # (n, orders): of the ball up to each neighbour, or what of it is in the support
    support: tuple[np.ndarray, np.ndarray] | None

    def terms(self) -> np.ndarray:
        """Each sample's part of the Shannon estimate of each order: psi(n) - psi(k) + log volume."""
        return np.asarray(digamma(len(self.x)) - digamma(self.orders) + self.log_volume)


def _check_orders(func: str, k: Any, most: int) -> np.ndarray:
    try:
        given = np.asarray(k)
    except ValueError:
        raise ValueError(f"{func}: `k` must be an integer or a list of integers, got {k!r}") from None
    if isinstance(k, list | tuple) and any(isinstance(order, bool | np.bool_) for order in k):
        raise TypeError(f"{func}: `k` must hold integers, got {k!r}")
    if given.ndim > 1 or given.size == 0:
        raise ValueError(f"{func}: `k` must be an integer or a list of integers, got {k!r}")
    if given.ndim and given.dtype.kind not in "iu":
        raise TypeError(f"{func}: `k` must hold integers, got {k!r}")
    return np.array([check_neighbors(func, order, most) for order in (given.tolist() if given.ndim else [k])])


def _check_support(func: str, support: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = (np.broadcast_to(np.asarray(side, dtype=np.float64), x.shape[1:]) for side in support)
    except (TypeError, ValueError):
        raise ValueError(
            f"{func}: `support` must be a pair (low, high) of numbers or arrays of shape ({x.shape[1]},), "
            f"got {support!r}"
        ) from None
    if not (low < high).all():
        raise ValueError(f"{func}: `support` must have low < high in every coordinate, got {support!r}")
    if not ((low <= x) & (x <= high)).all():
        raise ValueError(f"{func}: `x` has samples outside `support`")
    return low, high


def _log_volumes(
    x: np.ndarray, distances: np.ndarray, metric: str, support: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    with np.errstate(divide="ignore"):
        if support is None:
            return np.asarray(log_ball_volume(x.shape[1], metric) + x.shape[1] * np.log(distances))
        volume = np.zeros_like(distances)
        for c, (low, high) in enumerate(zip(*support, strict=True)):
            column = x[:, c, None]
            # from the sample to each side, so that nothing cancels where the ball is small beside the coordinate
            volume += np.log(np.minimum(distances, high - column) + np.minimum(distances, column - low))
        return volume


def entropy_problem(
    func: str,
    x: np.ndarray,
    k: Any,
    metric: str,
    ties: str,
    rng: Any,
    support: Any,
    *,
    weighted: bool,
    quiet: bool = False,
) -> EntropyProblem:
    """Search, and deal with ties: samples whose k-th neighbour is at distance 0."""
    orders = _check_orders(func, k, len(x) - 1)
    sides = None if support is None else _check_support(func, support, x)
    if ties == "jitter":
        moved = jitter(func, x, rng)
        if sides is not None:
            centre = np.median(x, axis=0)
            sides = np.minimum(sides[0] - centre, moved.min(axis=0)), np.maximum(sides[1] - centre, moved.max(axis=0))
        x = moved
    distances, indices = Space(x, metric).nearest(int(orders.max()))
    weights = np.ones(len(orders))
    if weighted:
        weights = entropy_weights(func, int(orders.max()), x.shape[1])
        orders = 1 + np.flatnonzero(weights)
        weights = weights[orders - 1]
    tied = distances[:, orders.min() - 1] == 0
    report_ties(
        func,
        tied & (not quiet),
        ties,
        f"have {orders.min()} or more others at the same place, where the entropy of a density is -inf",
        'pass ties="jitter" for a value that depends on the size of the noise, or count values that are discrete',
        stacklevel=4,
    )
    chosen, neighbours = distances[:, orders - 1], indices[:, orders - 1]
    return EntropyProblem(x, orders, weights, chosen, neighbours, _log_volumes(x, chosen, metric, sides), sides)


def check_order(func: str, order: Any, tsallis: Any, orders: np.ndarray) -> float:
    q = check_number(func, "order", order)
    check_flag(func, "tsallis", tsallis)
    if not 0 <= q < math.inf or (q != 1 and abs(q - 1) < 1e-6):
        raise ValueError(f"{func}: `order` must be 1, or not negative and at least 1e-6 from 1, got {order!r}")
    if q != 1 and not q < orders.min() + 1:
        raise ValueError(f"{func}: `order` must be less than k + 1, where the estimate's mean exists, got {order!r}")
    return q


def log_zeta(problem: EntropyProblem, q: float) -> np.ndarray:
    """Logarithms (n, orders) of (n - 1) C_k volume, whose (1 - q)-th powers have the mean int p^q."""
    log_c = np.array([(math.lgamma(j) - math.lgamma(j + 1 - q)) / (1 - q) for j in problem.orders])
    return np.asarray(math.log(len(problem.x) - 1) + log_c + problem.log_volume)


def _power_entropy(problem: EntropyProblem, q: float, tsallis: bool) -> np.ndarray:
    """Renyi or Tsallis entropies of each order, after Leonenko, Pronzato and Savani."""
    log_mean = np.asarray(logmeanexp((1 - q) * log_zeta(problem, q), axis=0))
    with np.errstate(over="ignore"):
        return np.expm1(log_mean) / (1 - q) if tsallis else log_mean / (1 - q)


def knn_entropy(
    x: Array,
    *,
    k: Any = 3,
    metric: str = "chebyshev",
    base: float | None = None,
    ties: str = "raise",
    order: float = 1.0,
    tsallis: bool = False,
    weighted: bool = False,
    support: Any = None,
    confidence: float | None = None,
    rng: Any = None,
) -> Any:
    """Differential entropy of samples: psi(n) - psi(k) + mean log volume of the balls up to the k-th neighbours.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        Samples; one-dimensional arrays are n samples of one variable.
    k : int or list of int
        Neighbours, less than n. Larger ones lower the spread and raise the bias. Several give an array, from one
        search.
    metric : {"chebyshev", "euclidean", "manhattan"}
        Of the balls.
    base : float, optional
        Base of the logarithm, e.g. 2 for bits; nats by default. Not for Tsallis entropies, which have no unit.
    ties : {"raise", "warn", "jitter"}
        Where k others are at the same place as a sample, the distribution has an atom and its differential entropy is
        -inf. By default that is an error, with the share of such samples; "warn" returns -inf (or what the order makes
        of it) with a :class:`entropic.TiesWarning`; "jitter" adds noise of 1e-10 of each column's range first, on
        which the value then depends. Nothing is added otherwise.
    order : float
        1 for Shannon's entropy; q != 1 for Renyi's ``log(int p^q) / (1 - q)``, with 0 <= q < k + 1.
    tsallis : bool
        Return Tsallis's ``(1 - int p^q) / (q - 1)`` for `order` instead.
    weighted : bool
        Combine the orders 1..k with weights that cancel the leading terms of the bias. For d < 4 nothing needs to be
        cancelled and the weight is all on k; in more dimensions k has to be above floor(d / 4), and to grow with n (to
        tens) to be of use.
    support : (low, high), optional
        Where the density is known to end: numbers or one a coordinate. Balls are cut there, which removes the bias that
        comes from the borders. For the Chebyshev metric.
    confidence : float, optional
        E.g. 0.95: return an :class:`EntropyEstimate` with the standard error and that interval, for one k.
    rng : numpy.random.Generator, int or None
        For "jitter".

    Returns
    -------
    float, array of shape (number of k,), or EntropyEstimate

    Raises
    ------
    TypeError, ValueError
        For samples that are not finite, one sample, k >= n, tied samples (see `ties`), `order` >= k + 1, samples
        outside `support`, and options that exclude each other.

    Notes
    -----
    With psi(n) instead of log(n - 1) the estimate is free of bias for a uniform density on a torus, at any n. In
    radii rho the volume of a ball is ``V_d rho^d``, with ``V_d = 2^d`` for Chebyshev's metric, ``pi^(d/2) / Gamma(1 +
    d/2)`` for Euclid's and ``2^d / d!`` for the sum of differences.

    :func:`entropic.vjp` has gradients for every option but `confidence`, with the neighbours held fixed.

    The standard error is that of a mean of n independent terms, with the weights in each term. (Berrett, Samworth and
    Yuan take the terms of order k, whose spread is less than that of the weighted estimate for the k that one can
    afford.) The terms of neighbours depend on each other, and the bias is not in it: in several dimensions an interval
    covers less often than it says. The cost is that of :func:`nearest_neighbors`. Backends: CPU.

    References
    ----------
    Kozachenko and Leonenko (1987); Kraskov, Stoegbauer and Grassberger, Phys. Rev. E 69 (2004) 066138; Leonenko,
    Pronzato and Savani, Ann. Statist. 36 (2008) 2153; Berrett, Samworth and Yuan, Ann. Statist. 47 (2019) 288.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).random(10_000)  # uniform on an interval of length 1: entropy 0
    >>> round(abs(entropic.knn_entropy(x)), 1)
    0.0
    """
    func = "knn_entropy"
    check_choice(func, "metric", metric, METRICS)
    backend = samples_backend(func, x=x)
    log_base = check_base(func, base)
    check_ties(func, ties, TIES)
    samples = as_samples(func, "x", x, 2)
    orders = _check_orders(func, k, len(samples) - 1)
    q = check_order(func, order, tsallis, orders)
    if tsallis and base is not None:
        raise ValueError(f"{func}: `base` has no meaning for Tsallis entropies")
    if support is not None and metric != "chebyshev":
        raise ValueError(f'{func}: `support` needs metric="chebyshev", whose balls are boxes, got {metric!r}')
    check_flag(func, "weighted", weighted)
    several = np.ndim(k) == 1
    if weighted or confidence is not None:
        _check_single(func, several, q)
    problem = entropy_problem(func, samples, k, metric, ties, rng, support, weighted=bool(weighted))
    if q != 1:
        values = _power_entropy(problem, q, bool(tsallis)) / log_base
        return backend.wrap(values) if several else float(values[0])
    terms = problem.terms()
    if several:
        return backend.wrap(terms.mean(axis=0) / log_base)
    with np.errstate(invalid="ignore"):
        combined = terms @ problem.weights
    # With weights of both signs an atom's terms are inf or nan as well.
    value = -math.inf if np.isneginf(terms).any() else float(combined.mean())
    if confidence is None:
        return value / log_base
    return _estimate(func, value, combined, confidence, log_base)


def _check_single(func: str, several: bool, q: float) -> None:
    if several:
        raise ValueError(f"{func}: `weighted` and `confidence` are for one k")
    if q != 1:
        raise ValueError(f"{func}: `weighted` and `confidence` are for order 1")


def _estimate(func: str, value: float, terms: np.ndarray, confidence: Any, log_base: float) -> EntropyEstimate:
    level = check_number(func, "confidence", confidence)
    if not 0 < level < 1 or (1 + level) / 2 == 1:
        raise ValueError(f"{func}: `confidence` must be between 0 and 1, got {confidence!r}")
    if math.isinf(value):
        return EntropyEstimate(value, math.inf, level, -math.inf, math.inf)
    error = float(terms.std()) / math.sqrt(len(terms))
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return EntropyEstimate(
        value / log_base, error / log_base, level, (value - reach) / log_base, (value + reach) / log_base
    )
