"""Debiased transport between samples, and the semi-dual for those who optimise it themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array
from .._progress import check_callback, is_stop
from ._geometry import Grid, PointCloud, as_geometry, batched_masses
from ._sinkhorn import (
    SinkhornResult,
    Solution,
    as_result,
    check_constraints,
    check_eps,
    check_library,
    check_masses,
    check_max_iter,
    check_resolution,
    check_tol,
    solve,
    warn_if_short,
)


@dataclass(frozen=True, eq=False)
class SinkhornDivergence:
    """The answer of :func:`sinkhorn_divergence`.

    Attributes
    ----------
    value : float
        ``OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2 + eps (m_a - m_b)**2 / 2``, with the batch's shape for a batch.
    xy, xx, yy : SinkhornResult
        The three problems.
    """

    value: Any
    xy: SinkhornResult
    xx: SinkhornResult
    yy: SinkhornResult

    @property
    def converged(self) -> Any:
        """Have all three problems reached the tolerance?"""
        reached = np.logical_and.reduce(
            np.broadcast_arrays(*(np.asarray(part.converged) for part in (self.xy, self.xx, self.yy)))
        )
        return self.xy._solution.geometry.backend.wrap(reached[()])

    @property
    def marginal_error(self) -> Any:
        """The largest marginal error of the three."""
        worst = np.maximum(np.maximum(np.asarray(self.xy.marginal_error), np.asarray(self.xx.marginal_error)),
                           np.asarray(self.yy.marginal_error))  # fmt: skip
        return self.xy._solution.geometry.backend.wrap(worst[()])

    def __repr__(self) -> str:
        return f"SinkhornDivergence(value={self.value}, converged={self.converged})"


def _dual_value(solution: Solution) -> np.ndarray:
    """The dual value, whose error is of second order in that of the potentials."""
    if solution.constraints.balanced:
        return solution.dual_value()
    return solution.value()


def sinkhorn_divergence(
    x: Array,
    y: Array,
    a: Array | None = None,
    b: Array | None = None,
    *,
    eps: float,
    metric: str = "sqeuclidean",
    rho: float | tuple[float, float] | None = None,
    tol: float = 1e-6,
    max_iter: int | None = None,
    callback: Callable[[int, float], Any] | None = None,
) -> SinkhornDivergence:
    """Debiased entropic transport, ``OT(a, b) - OT(a, a)/2 - OT(b, b)/2``: 0 where the two sides are one.

    Parameters
    ----------
    x : array_like
        Points (n, d), or (..., n, d) for a batch.
    y : array_like
        Points (m, d) or (..., m, d).
    a : array_like, optional
        Masses (n,) or (..., n); uniform with total 1 by default.
    b : array_like, optional
        Masses (m,) or (..., m).
    eps : float
        Regularisation, in the units of the cost.
    metric : str, optional
        A metric of :class:`PointCloud`.
    rho : float or (float, float), optional
        Strength of KL penalties for unequal masses; None, the default, prescribes both marginals. The self terms of
        each side use that side's strength.
    tol : float, optional
        Marginal error of each of the three problems, as in :func:`sinkhorn`.
    max_iter : int, optional
        Most passes for each; 10,000 by default.
    callback : callable, optional
        Called with the iteration and the error of each problem in turn; True stops that problem.

    Returns
    -------
    SinkhornDivergence
        `value`, and the three results.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`sinkhorn` and :class:`PointCloud`.

    Warns
    -----
    ConvergenceWarning
        A problem has not reached `tol`.

    Notes
    -----
    Values are those of the plans' KL-regularised objective (the dual value where marginals are prescribed), so this is
    the divergence of Feydy et al. and not a difference of transport costs: it is at least 0 for the metrics
    "sqeuclidean" and "euclidean", and 0 only where the measures are equal. Totals that differ are made up for by
    ``eps (m_a - m_b)**2 / 2``. Time O((n + m)^2 d) a pass, memory O(n + m). Backends: CPU.

    Gradients: ``entropic.vjp(entropic.sinkhorn_divergence, x, y, a, b, eps=eps)``, of the value to points and masses,
    and with ``wrt=("eps",)`` to eps, by the envelope theorem: one more pass for each problem.

    References
    ----------
    Feydy, Sejourne, Vialard, Amari, Trouve and Peyre, "Interpolating between optimal transport and MMD using Sinkhorn
    divergences", AISTATS 2019. Sejourne, Feydy, Vialard, Trouve and Peyre, "Sinkhorn divergences for unbalanced optimal
    transport", 2019.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> round(float(entropic.sinkhorn_divergence(x, x + [3.0, 4.0], eps=0.5).value), 6)
    25.0
    """
    func = "sinkhorn_divergence"
    regularisation, tolerance = check_eps(func, eps), check_tol(func, tol)
    limit = check_max_iter(func, max_iter, 10_000)
    check_callback(func, callback)
    constraints = check_constraints(func, rho, "kl", None)
    strengths = constraints.rho
    watch = None if callback is None else lambda iteration, error: is_stop(callback(iteration, error))
    cross = as_geometry(func, PointCloud(x, y, metric))
    check_library(func, cross, a=a, b=b)
    check_resolution(func, cross, regularisation)
    masses_a, masses_b = check_masses(func, cross, constraints, a, b)
    sides = (
        (cross, constraints, masses_a, masses_b),
        (as_geometry(func, PointCloud(x, x, metric)), _of(func, strengths[0]), masses_a, masses_a),
        (as_geometry(func, PointCloud(y, y, metric)), _of(func, strengths[1]), masses_b, masses_b),
    )
    values, results = [], []
    for geometry, own, mass_rows, mass_cols in sides:
        problems = cross.problems // max(1, geometry.problems)  # a cloud that all problems share has one self term...
        rows, cols = (_first_of_shared(mass, problems) for mass in (mass_rows, mass_cols))
        if len(rows) != geometry.problems:  # ...unless its masses differ
            geometry = as_geometry(func, _spread(geometry.cloud, cross.batch, metric))
            rows, cols = mass_rows, mass_cols
        solution, answer = solve(
            func, geometry, own, rows, cols, regularisation, tol=tolerance, max_iter=limit, watch=watch
        )
        warn_if_short(func, answer, tolerance, limit)
        values.append(_dual_value(solution))
        results.append(as_result(solution, answer, tolerance))
    totals = masses_a.sum(axis=1) - masses_b.sum(axis=1)
    value = values[0] - 0.5 * values[1] - 0.5 * values[2] + 0.5 * regularisation * totals**2
    shaped = np.broadcast_to(value, (cross.problems,)).reshape(cross.batch)
    return SinkhornDivergence(cross.backend.wrap(shaped[()]), *results)


def _of(func: str, rho: float) -> Any:
    return check_constraints(func, None if math.isinf(rho) else rho, "kl", None)


def _first_of_shared(mass: np.ndarray, problems: int) -> np.ndarray:
    return mass[:1] if problems > 1 and mass.strides[0] == 0 else mass


def _spread(cloud: PointCloud | None, batch: tuple[int, ...], metric: str) -> PointCloud:
    assert cloud is not None
    x = np.broadcast_to(cloud.x, (*batch, *cloud.x.shape[-2:]))
    return PointCloud(x, x, metric)


def semidual(
    cost: Array | PointCloud | Grid, g: Array, a: Array | None = None, b: Array | None = None, *, eps: float
) -> tuple[Any, Any]:
    """Value and gradient of the semi-dual ``<a, f(g)> + <b, g>`` at `g`, with f(g) the soft minimum of ``C - g``.

    Parameters
    ----------
    cost : array_like, PointCloud or Grid
        Costs (n, m) or (..., n, m). For a stochastic ascent pass those of a sample of the rows.
    g : array_like
        Potential (m,) or (..., m).
    a : array_like, optional
        Masses (n,) or (..., n); uniform with total 1 by default.
    b : array_like, optional
        Masses (m,) or (..., m), with the total of `a`.
    eps : float
        Regularisation.

    Returns
    -------
    value : float
        The concave function whose maximum is the value of :func:`sinkhorn`, (...) for a batch.
    gradient : ndarray
        ``b`` less the column marginals of the plan with exact rows; (m,) or (..., m).

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`sinkhorn`.

    Notes
    -----
    One pass, one exponential a pair, O(n + m) memory. Rows that are sampled with equal probability give an unbiased
    estimate of both. Backends: CPU.

    References
    ----------
    Cuturi and Peyre, "Semidual regularized optimal transport", SIAM Review 2018. Genevay, Cuturi, Peyre and Bach,
    "Stochastic optimization for large-scale optimal transport", NeurIPS 2016.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> cost = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> value, gradient = entropic.semidual(cost, np.zeros(2), eps=0.1)
    >>> bool(np.isclose(value, entropic.sinkhorn(cost, eps=0.1).value)), np.abs(gradient).max() < 1e-12
    (True, np.True_)
    """
    func = "semidual"
    regularisation = check_eps(func, eps)
    constraints = check_constraints(func, None, "kl", None)
    geometry = as_geometry(func, cost)
    check_library(func, geometry, a=a, b=b, g=g)
    check_resolution(func, geometry, regularisation)
    masses_a, masses_b = check_masses(func, geometry, constraints, a, b)
    potential = np.ascontiguousarray(_potential(func, g, geometry.batch, geometry.m))
    eps_array = np.full(geometry.problems, regularisation)
    f, cols = _core.transport_semidual(
        geometry.core, masses_a, masses_b, np.zeros((geometry.problems, geometry.n)), potential, eps_array,
        constraints.rows,
    )  # fmt: skip
    total = masses_a.sum(axis=1)
    value = np.einsum("bi,bi->b", masses_a, f) + np.einsum("bj,bj->b", masses_b, potential)
    value -= regularisation * (total - total * masses_b.sum(axis=1))
    gradient = masses_b - cols
    wrap = geometry.backend.wrap
    return wrap(value.reshape(geometry.batch)[()]), wrap(gradient.reshape(*geometry.batch, geometry.m))


def _potential(func: str, g: Array, batch: tuple[int, ...], m: int) -> np.ndarray:
    """A finite potential of one side, (B, m)."""
    signed = batched_masses(func, "g", g, batch, m, signed=True)
    return signed
