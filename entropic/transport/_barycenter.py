"""Means of distributions under entropic transport: on a fixed support, and of points that move."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import Array, backend_of, refuse_cuda, to_numpy
from .._errors import ConvergenceWarning
from .._progress import check_callback, is_stop
from ._bridge import log_minus
from ._geometry import Geometry, Grid, PointCloud, as_geometry, as_masses, batched_masses, points_array, repeated
from ._sinkhorn import (
    check_constraints,
    check_eps,
    check_library,
    check_max_iter,
    check_resolution,
    check_tol,
    solve,
)

_RATIO, _ITERATIONS = 0.5, 10  # of the annealing: each eps half of the last, and so many iterations at it


@dataclass(frozen=True, eq=False)
class Barycenter:
    """The answer of :func:`barycenter` and :func:`free_support_barycenter`.

    Attributes
    ----------
    masses : ndarray
        Masses (n,) of the barycenter's points, total 1.
    points : ndarray or None
        Where they are, (n, d), for a free support.
    error : float
        How far the iteration was from standing still at the end, as its function says.
    n_iter : int
        Iterations.
    converged : bool
        Is `error` at most the tolerance?
    """

    masses: Any
    points: Any
    error: float
    n_iter: int
    converged: bool

    def __repr__(self) -> str:
        state = "converged" if self.converged else "not converged"
        return f"Barycenter(n={len(self.masses)}, error={self.error:.2g}, n_iter={self.n_iter}, {state})"


def _check_mix(func: str, mix: Array | None, count: int) -> np.ndarray:
    coefficients = as_masses(func, "mix", mix, count)
    normalised: np.ndarray = coefficients / coefficients.sum()
    return normalised


class _Iteration:
    """Sinkhorn's projections for all inputs at once, in logarithms and against the counting measure."""

    def __init__(self, geometry: Geometry, log_a: np.ndarray, mix: np.ndarray, debiased: bool) -> None:
        self.many, self.one = repeated(geometry, len(log_a)), geometry
        self.log_a, self.mix, self.debiased = log_a, mix, debiased
        self.u = np.zeros_like(log_a)
        self.v = np.zeros_like(log_a)
        self.d = np.zeros(log_a.shape[1])
        self.p = np.full(log_a.shape[1], -np.log(log_a.shape[1]))

    def _log_product(self, geometry: Geometry, x: np.ndarray, eps: float) -> np.ndarray:
        """log K exp(x), with K = exp(-C / eps) symmetric."""
        return -geometry.softmin(x, np.full(len(x), eps), False) / eps

    def rescale(self, factor: float) -> None:
        # v = log p - log K^T u holds log masses as well, which do not scale; but it is only a start.
        for x in (self.u, self.v, self.d):
            x *= factor

    def step(self, eps: float) -> float:
        """One iteration; the largest L1 distance of a marginal to its input, or by which the barycenter moved."""
        of_v = self._log_product(self.many, self.v, eps)
        with np.errstate(over="ignore"):
            marginal = np.exp(np.minimum(self.u + of_v, 600.0))
        error = float(np.abs(marginal - np.exp(self.log_a)).sum(axis=1).max())
        self.u = log_minus(self.log_a, of_v)
        of_u = self._log_product(self.many, self.u, eps)
        p = self.d + self.mix @ of_u
        p -= np.logaddexp.reduce(p)
        self.v = log_minus(np.broadcast_to(p, of_u.shape), of_u)
        error = max(error, float(np.abs(np.exp(p) - np.exp(self.p)).sum()))
        if self.debiased:
            self.d = 0.5 * (self.d + log_minus(p, self._log_product(self.one, self.d[None], eps)[0]))
        self.p = p
        return error


def barycenter(
    cost: Array | PointCloud | Grid,
    weights: Array,
    *,
    eps: float,
    mix: Array | None = None,
    debiased: bool = True,
    tol: float = 1e-6,
    max_iter: int | None = None,
    callback: Callable[[int, float], Any] | None = None,
) -> Barycenter:
    """The distribution p on a fixed support with the least ``sum_k mix_k OT(a_k, p)``.

    Parameters
    ----------
    cost : array_like, PointCloud or Grid
        Symmetric costs (n, n) between the support's points.
    weights : array_like
        The K distributions a_k, (K, n); each is normalised. Zeros are allowed.
    eps : float
        Regularisation, in the units of the cost.
    mix : array_like, optional
        Coefficients (K,), normalised; equal by default.
    debiased : bool, optional
        Minimise the Sinkhorn divergence, so that one distribution is its own barycenter; otherwise entropic transport
        (against the counting measure), whose barycenter is blurred.
    tol : float, optional
        Largest L1 distance between a plan's marginal and its input, and by which the barycenter still moves.
    max_iter : int, optional
        Most iterations; 10,000 by default.
    callback : callable, optional
        Called with the iteration and the error; True stops the work.

    Returns
    -------
    Barycenter
        `masses` of the support's points.

    Raises
    ------
    ValueError
        A cost that is not square or not symmetric, weights of another shape, negative, nan or without mass.
    TypeError, DeviceError
        As :func:`sinkhorn`.

    Warns
    -----
    ConvergenceWarning
        `tol` was not reached.

    Notes
    -----
    Iterative Bregman projections in the log domain, coming down from a large eps; two soft minima of the cost for each
    input, and one more for the debiasing, in an iteration. Debiasing undoes a blur of width ``sqrt(eps)``: finer detail
    comes back over many small moves, so ask for a small `tol` where it matters. Backends: CPU.

    References
    ----------
    Benamou, Carlier, Cuturi, Nenna and Peyre, "Iterative Bregman projections for regularized transportation problems",
    SIAM J. Sci. Comput. 2015. Janati, Cuturi and Gramfort, "Debiased Sinkhorn barycenters", ICML 2020.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> t = np.linspace(0, 1, 101)
    >>> bumps = np.exp(-((t - np.array([[0.2], [0.6]])) ** 2) / 0.005)
    >>> middle = entropic.barycenter(entropic.Grid(101), bumps, eps=0.01)
    >>> round(float(middle.masses @ t), 3)
    0.4
    """
    func = "barycenter"
    regularisation, tolerance = check_eps(func, eps), check_tol(func, tol)
    limit = check_max_iter(func, max_iter, 10_000)
    check_callback(func, callback)
    geometry = as_geometry(func, cost)
    if geometry.batch or geometry.n != geometry.m:
        raise ValueError(f"{func}: `cost` must be square, (n, n), got {(*geometry.batch, geometry.n, geometry.m)}")
    if geometry.y is not None and not np.array_equal(geometry.x, geometry.y):
        raise ValueError(f"{func}: `cost` must be between the support's points: `x` and `y` must be equal")
    if geometry.y is None and geometry.metric != "grid" and not np.array_equal(geometry.x[0], geometry.x[0].T):
        raise ValueError(f"{func}: `cost` must be symmetric")
    check_library(func, geometry, weights=weights, mix=mix)
    check_resolution(func, geometry, regularisation)
    array = to_numpy(func, "weights", weights)
    if array.ndim != 2 or array.shape[0] == 0:
        raise ValueError(f"{func}: `weights` must have shape (K, {geometry.n}), got {array.shape}")
    masses = batched_masses(func, "weights", array, array.shape[:1], geometry.n)
    totals = masses.sum(axis=1, keepdims=True)
    if not totals.all():
        raise ValueError(f"{func}: `weights` must have mass in every row, got only zeros in row {int(totals.argmin())}")
    coefficients = _check_mix(func, mix, len(masses))
    part = coefficients > 0
    masses, totals, coefficients = masses[part], totals[part], coefficients[part]
    _check_reach(func, geometry, masses)
    with np.errstate(divide="ignore"):
        iteration = _Iteration(geometry, np.log(masses / totals), coefficients, bool(debiased))
    level, at_level, error = max(regularisation, float(geometry.span[0])), 0, np.inf
    done, stopped = 0, False
    while done < limit and not stopped:
        error = iteration.step(level)
        done += 1
        stopped = callback is not None and is_stop(callback(done, error))
        at_level += 1
        if level > regularisation:
            if at_level >= _ITERATIONS:
                following = max(regularisation, level * _RATIO)
                iteration.rescale(level / following)
                level, at_level = following, 0
        elif error <= tolerance:
            break
    converged = level == regularisation and error <= tolerance
    if not converged:
        _warn(func, error, tolerance, "the callback stopped it" if stopped else f"raise max_iter (now {limit}) or eps")
    wrap = geometry.backend.wrap
    return Barycenter(wrap(np.exp(iteration.p).astype(geometry.dtype)), None, error, done, converged)


def _check_reach(func: str, geometry: Geometry, masses: np.ndarray) -> None:
    """Some point can get mass from every input."""
    if geometry.metric or np.isfinite(geometry.x).all():
        return
    allowed = np.isfinite(geometry.x[0])
    if not ((masses > 0).astype(float) @ allowed).all(axis=0).any():
        raise ValueError(f"{func}: the forbidden pairs of `cost` leave no point that all `weights` can reach")


def _warn(func: str, error: float, tol: float, advice: str) -> None:
    warnings.warn(
        f"{func}: the iteration stopped at an error of {error:.3g} (tol={tol:g}); {advice}",
        ConvergenceWarning,
        stacklevel=3,
    )


def free_support_barycenter(
    clouds: Sequence[Array],
    init: Array,
    *,
    eps: float,
    weights: Sequence[Array | None] | None = None,
    masses: Array | None = None,
    mix: Array | None = None,
    debiased: bool = True,
    tol: float = 1e-4,
    max_iter: int = 100,
    callback: Callable[[int, float], Any] | None = None,
) -> Barycenter:
    """Points whose distribution has the least ``sum_k mix_k OT(cloud_k, points)`` under the squared distance.

    Parameters
    ----------
    clouds : sequence of array_like
        K clouds of points, (n_k, d) each.
    init : array_like
        Where the barycenter's points start, (n, d).
    eps : float
        Regularisation, in the units of the squared distance.
    weights : sequence of array_like, optional
        Masses (n_k,) of each cloud, normalised; uniform by default, and where an entry is None.
    masses : array_like, optional
        Masses (n,) of the barycenter's points, normalised; uniform by default.
    mix : array_like, optional
        Coefficients (K,), normalised; equal by default.
    debiased : bool, optional
        Descend the Sinkhorn divergence instead of entropic transport, which draws points together.
    tol : float, optional
        Root mean square move of the points, relative to the root mean square distance of `init` and the clouds from
        their mean, that is good enough.
    max_iter : int, optional
        Most moves.
    callback : callable, optional
        Called with the iteration and the relative move; True stops the work.

    Returns
    -------
    Barycenter
        `points` and `masses`.

    Raises
    ------
    ValueError
        No clouds, points of different dimensions, bad masses.
    TypeError, DeviceError
        As :func:`sinkhorn`.

    Warns
    -----
    ConvergenceWarning
        The points still move more than `tol`.

    Notes
    -----
    Each move takes every point to the mean of its images under the K entropic maps, less, when debiased, what the
    entropic map of the points to themselves moves it by: a step of preconditioned gradient descent. The K problems
    start from the potentials of the move before. Memory O(n + sum n_k). Backends: CPU.

    References
    ----------
    Cuturi and Doucet, "Fast computation of Wasserstein barycenters", ICML 2014. Luise, Salzo, Pontil and Ciliberto,
    "Sinkhorn barycenters with free support via Frank-Wolfe algorithm", NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> middle = entropic.free_support_barycenter([x, x + [2.0, 0.0]], x[:50], eps=0.1)
    >>> bool(np.allclose(middle.points.mean(axis=0), x.mean(axis=0) + [1.0, 0.0], atol=0.01))
    True
    """
    func = "free_support_barycenter"
    regularisation, tolerance = check_eps(func, eps), check_tol(func, tol)
    limit = check_max_iter(func, max_iter, 100)
    check_callback(func, callback)
    if not isinstance(clouds, list | tuple) or not clouds:
        raise ValueError(f"{func}: `clouds` must be a non-empty list of point arrays")
    if weights is not None and len(weights) != len(clouds):
        raise ValueError(f"{func}: `weights` must have one entry a cloud, {len(clouds)}, got {len(weights)}")
    backend = backend_of(func, init=init, **{f"clouds[{k}]": cloud for k, cloud in enumerate(clouds)})
    refuse_cuda(func, backend, "init")
    start = points_array(func, "init", init)
    points = start.astype(np.float64)
    targets = [points_array(func, f"clouds[{k}]", cloud).astype(np.float64) for k, cloud in enumerate(clouds)]
    for k, target in enumerate(targets):
        if target.ndim != 2 or points.ndim != 2 or target.shape[1] != points.shape[1]:
            raise ValueError(f"{func}: `clouds[{k}]` must have shape (n, {points.shape[-1]}), got {target.shape}")
    own = as_masses(func, "masses", masses, len(points))
    own = own / own.sum()
    given = [None] * len(targets) if weights is None else weights
    held = [as_masses(func, f"weights[{k}]", w, len(t)) for k, (w, t) in enumerate(zip(given, targets, strict=True))]
    held = [h / h.sum() for h in held]
    coefficients = _check_mix(func, mix, len(targets))
    everything = np.concatenate([points, *targets])
    size = float(np.sqrt(((everything - everything.mean(axis=0)) ** 2).sum(axis=1).mean())) or 1.0
    potentials: list[tuple[np.ndarray, np.ndarray] | None] = [None] * (len(targets) + 1)
    balanced = check_constraints(func, None, "kl", None)

    def image(k: int, y: np.ndarray, mass: np.ndarray) -> np.ndarray:
        geometry = as_geometry(func, PointCloud(points, y))
        check_resolution(func, geometry, regularisation)
        kept = potentials[k]
        solution, _ = solve(
            func,
            geometry,
            balanced,
            own[None],
            mass[None],
            regularisation,
            tol=max(1e-9, 0.01 * tolerance),
            max_iter=2000,
            init=kept,
        )
        potentials[k] = solution.f.copy(), solution.g.copy()
        mapped: np.ndarray = solution.barycentric_map(None)
        return mapped

    move = np.inf
    for done in range(1, limit + 1):
        images = [image(k, y, mass) for k, (y, mass) in enumerate(zip(targets, held, strict=True))]
        mean = np.einsum("k,kid->id", coefficients, np.stack(images))
        change = mean - (image(len(targets), points, own) if debiased else points)
        points = points + np.where(own[:, None] > 0, change, 0.0)  # nothing holds a point without mass
        move = float(np.sqrt(own @ (change**2).sum(axis=1))) / size
        stopped = callback is not None and is_stop(callback(done, move))
        if stopped or move <= tolerance:
            break
    if move > tolerance:
        _warn(func, move, tolerance, "the callback stopped it" if stopped else f"raise max_iter (now {limit}) or tol")
    wrap = backend.wrap
    return Barycenter(wrap(own), wrap(points.astype(start.dtype)), move, done, move <= tolerance)
