"""Divergences between the distributions of two samples, from distances to neighbours within and across."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import Array, Backend
from .._validate import check_base, check_choice, check_number, check_rng
from ..logits import logmeanexp
from ._entropy import TIES
from ._search import METRICS, Space, as_samples, check_neighbors, check_same_dimension, samples_backend
from ._ties import check_ties, jitter, report_ties

KINDS = ("renyi", "tsallis", "hellinger", "bhattacharyya")


@dataclass(frozen=True)
class DivergenceProblem:
    """Two samples, and of each x the k-th neighbours among the other x and among y."""

    backend: Backend
    x: np.ndarray
    y: np.ndarray
    k: int
    within: np.ndarray
    across: np.ndarray
    neighbour_within: np.ndarray
    neighbour_across: np.ndarray

    def log_ratios(self) -> np.ndarray:
        """d log(across / within) + log(m / (n - 1)): log of the ratio of the densities' estimates."""
        n, d = self.x.shape
        with np.errstate(divide="ignore"):
            radii = np.log(self.across) - np.log(self.within)
        return np.asarray(d * radii + math.log(len(self.y) / (n - 1)))


def divergence_problem(func: str, x: Array, y: Array, k: Any, metric: Any, ties: Any, rng: Any) -> DivergenceProblem:
    check_choice(func, "metric", metric, METRICS)
    check_ties(func, ties, TIES)
    backend = samples_backend(func, x=x, y=y)
    own, other = as_samples(func, "x", x, 2), as_samples(func, "y", y)
    check_same_dimension(func, ("x", "y"), own, other)
    order = check_neighbors(func, k, min(len(own) - 1, len(other)))
    if ties == "jitter":
        # one call, so that both are moved alike
        both = jitter(func, np.vstack([own, other]), check_rng(func, rng))
        own, other = both[: len(own)].copy(), both[len(own) :].copy()
    within, inside = Space(own, metric).nearest(order)
    across, outside = Space(other, metric).nearest(order, own)
    last = order - 1
    report_ties(
        func,
        (within[:, last] == 0) | (across[:, last] == 0),
        ties,
        f"of `x` have {order} or more of the others, or of `y`, at the same place",
        'pass ties="jitter" for a value that depends on the size of the noise, or compare frequencies of values',
        stacklevel=4,
    )
    return DivergenceProblem(
        backend, own, other, order, within[:, last], across[:, last], inside[:, last], outside[:, last]
    )


def knn_divergence(
    x: Array,
    y: Array,
    *,
    k: int = 3,
    metric: str = "euclidean",
    base: float | None = None,
    ties: str = "raise",
    rng: Any = None,
) -> float:
    """Kullback-Leibler divergence of two samples' distributions: (d / n) sum log(nu / rho) + log(m / (n - 1)).

    rho is the distance from a sample of x to its k-th neighbour among the others, nu to the k-th among y.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        Samples of p, over which the mean is taken.
    y : array, shape (m, d) or (m,)
        Samples of q; n and m may differ.
    k : int
        Neighbours, less than n and at most m.
    metric : {"euclidean", "manhattan", "chebyshev"}
        Of the distances.
    base : float, optional
        Base of the logarithm; nats by default.
    ties : {"raise", "warn", "jitter"}
        Where a distance is 0 one of the densities has an atom. By default an error; "warn" returns what follows, an
        infinity, or nan where both are 0, with a :class:`entropic.TiesWarning`; "jitter" adds noise of 1e-10 of each
        column's range to both samples.
    rng : numpy.random.Generator, int or None
        For "jitter".

    Returns
    -------
    float
        Close to 0 for equal distributions, where it can be negative; it is not clipped.

    Raises
    ------
    TypeError, ValueError
        For samples that are not finite or of different dimensions, fewer than two x, and k beyond the candidates.

    Notes
    -----
    Two searches as in :func:`nearest_neighbors`. Backends: CPU.

    References
    ----------
    Wang, Kulkarni and Verdu, IEEE Trans. Inf. Theory 55 (2009) 2392; Perez-Cruz, ISIT 2008.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=4000), rng.normal(1, 1, size=6000)
    >>> round(entropic.knn_divergence(x, y), 2)  # the truth is 1/2
    0.51
    """
    func = "knn_divergence"
    log_base = check_base(func, base)
    problem = divergence_problem(func, x, y, k, metric, ties, rng)
    with np.errstate(invalid="ignore"):
        return float(problem.log_ratios().mean()) / log_base


def alpha_divergence(
    x: Array,
    y: Array,
    *,
    alpha: float = 0.5,
    kind: str = "renyi",
    k: int = 3,
    metric: str = "euclidean",
    base: float | None = None,
    ties: str = "raise",
    rng: Any = None,
) -> float:
    """Divergences of two samples that follow from int p^alpha q^(1 - alpha), a mean of powers of density ratios.

    The integral is estimated by ``Gamma(k)^2 / (Gamma(k - alpha + 1) Gamma(k + alpha - 1))`` times the mean over x of
    ``((n - 1) rho^d / (m nu^d))^(1 - alpha)``, with rho and nu as in :func:`knn_divergence`.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        Samples of p.
    y : array, shape (m, d) or (m,)
        Samples of q.
    alpha : float
        Not 1, and between 1 - k and k + 1, both excluded.
    kind : {"renyi", "tsallis", "hellinger", "bhattacharyya"}
        With I for the integral: ``log(I) / (alpha - 1)``, ``(I - 1) / (alpha - 1)``, and at alpha = 1/2 the squared
        Hellinger distance ``1 - I`` and the Bhattacharyya distance ``-log(I)``.
    k, metric, ties, rng
        As in :func:`knn_divergence`.
    base : float, optional
        Base of the logarithms, for "renyi" and "bhattacharyya".

    Returns
    -------
    float
        Not clipped: close to 0 for equal distributions, of either sign.

    Raises
    ------
    TypeError, ValueError
        As in :func:`knn_divergence`; for an `alpha` out of range, or other than 1/2 for the last two kinds.

    Notes
    -----
    The cost is that of :func:`knn_divergence`. Backends: CPU.

    References
    ----------
    Poczos and Schneider, AISTATS 2011.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=4000), rng.normal(1, 1, size=6000)
    >>> round(entropic.alpha_divergence(x, y, alpha=0.5), 2)  # alpha / 2 = 0.25 for these Gaussians
    0.25
    """
    func = "alpha_divergence"
    check_choice(func, "kind", kind, KINDS)
    a = check_number(func, "alpha", alpha)
    log_base = check_base(func, base)
    if base is not None and kind in ("tsallis", "hellinger"):
        raise ValueError(f"{func}: `base` has no meaning for kind={kind!r}")
    if kind in ("hellinger", "bhattacharyya") and a != 0.5:
        raise ValueError(f"{func}: `alpha` must be 0.5 for kind={kind!r}, got {alpha!r}")
    if not math.isfinite(a) or abs(a - 1) < 1e-6:
        raise ValueError(f"{func}: `alpha` must be finite and at least 1e-6 from 1, got {alpha!r}")
    problem = divergence_problem(func, x, y, k, metric, ties, rng)
    order = problem.k
    if not 1 - order < a < order + 1:
        raise ValueError(f"{func}: `alpha` must be between 1 - k = {1 - order} and k + 1 = {order + 1}, got {alpha!r}")
    log_factor = 2 * math.lgamma(order) - math.lgamma(order - a + 1) - math.lgamma(order + a - 1)
    with np.errstate(invalid="ignore"):
        log_integral = float(logmeanexp(-(1 - a) * problem.log_ratios())) + log_factor
    if kind == "renyi":
        return log_integral / (a - 1) / log_base
    if kind == "bhattacharyya":
        return -log_integral / log_base
    with np.errstate(over="ignore"):
        excess = float(np.expm1(log_integral))
    return -excess if kind == "hellinger" else excess / (a - 1)
