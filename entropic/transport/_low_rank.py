"""Transport by plans of low nonnegative rank."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._backend import Array, Backend, backend_of, to_numpy
from .._errors import ConvergenceWarning
from .._progress import Watch, check_callback, watching
from .._validate import check_integer, check_number, check_positive, check_rng
from ..logits import logsumexp
from ..logits._functions import cast
from ._geometry import Geometry, PointCloud
from ._sinkhorn import check_max_iter, check_tol
from ._sparse import read_single

_MOST_EPS = 1e6  # in units of the cost: beyond it the cost is not felt
_SHORTEST = 1e-6  # move of the logarithms below which a step is taken as it is
_INNER_TOL, _INNER_ITER = 1e-9, 200  # of the projection after a step
_LAST_TOL, _LAST_ITER = 1e-12, 300  # of the projection before the rounding


class _Cost:
    """The cost ``left right^T`` (no `right`: `left`), made free of what is additive, u_i + v_j, which moves no plan.

    Of squared distances ``-2 <x, y>``, of points about their means, is left.
    """

    def __init__(self, left: np.ndarray, right: np.ndarray | None, a: np.ndarray, b: np.ndarray) -> None:
        left = left - a @ left
        self.left = left - (left @ b)[:, None] if right is None else left
        self.right = None if right is None else right - b @ right
        weighted = self.left * b if self.right is None else self.left @ (self.right.T * b @ self.right)
        self.norms = np.einsum("ij,ij->i", weighted, self.left)  # of the rows, squared, under b
        self.spread = math.sqrt(max(float(a @ self.norms), 0.0))  # standard deviation under a b^T

    def times(self, columns: np.ndarray) -> np.ndarray:
        product: np.ndarray = self.left @ (columns if self.right is None else self.right.T @ columns)
        return product

    def transposed_times(self, rows: np.ndarray) -> np.ndarray:
        product: np.ndarray = self.left.T @ rows
        return product if self.right is None else self.right @ product

    def row(self, i: int) -> np.ndarray:
        row: np.ndarray = self.left[i] if self.right is None else self.right @ self.left[i]
        return row


# ---- mirror descent --------------------------------------------------------------------------------------------------


class _Factors(NamedTuple):
    """Logarithms of Q (n, r), R (m, r) and the weights (r,), or slopes along them."""

    q: np.ndarray
    r: np.ndarray
    w: np.ndarray


@dataclass(frozen=True)
class _Sight:
    """The objective and its slopes at some factors."""

    factors: _Factors
    objective: float
    slopes: _Factors

    @property
    def steepest(self) -> float:
        """Largest difference of slopes within a row."""
        return max(1e-6, *(float(np.ptp(slope, axis=-1).max()) for slope in self.slopes))

    def way_to(self, there: _Factors) -> float:
        """The symmetric divergence from here, which is twice a squared length in the geometry of the steps."""
        pairs = zip(self.factors, there, strict=True)
        return sum(float(np.sum((np.exp(new) - np.exp(old)) * (new - old))) for old, new in pairs)


@dataclass(frozen=True)
class _Problem:
    """Masses of total 1, all positive, and a cost."""

    cost: _Cost
    unit: float  # the cost's spread, or 1 where it is additive
    a: np.ndarray
    b: np.ndarray
    eps: float

    def project(self, k: _Factors, tol: float, max_iter: int) -> _Factors:
        """The factors with the right marginals that are closest to k in Kullback and Leibler's divergence.

        They are ``K1 exp(f + h)``, ``K2 exp(g + t)`` and ``k3 exp(-h - t)``: the dual's blocks (f, g) and (h, t) are
        maximised in turn. Rows are exact at the end, columns up to `tol`.
        """
        log_a, log_b = np.log(self.a)[:, None], np.log(self.b)[:, None]
        q, r, w = k.q, k.r, k.w - logsumexp(k.w)
        for _ in range(max_iter):
            q = q + (log_a - logsumexp(q, axis=1, keepdims=True))
            r = r + (log_b - logsumexp(r, axis=1, keepdims=True))
            columns_q, columns_r = logsumexp(q, axis=0), logsumexp(r, axis=0)
            error = np.abs(np.exp(columns_q) - np.exp(w)).sum() + np.abs(np.exp(columns_r) - np.exp(w)).sum()
            if error <= tol:
                break
            w = (columns_q + columns_r + w) / 3
            q, r = q + (w - columns_q), r + (w - columns_r)
        q = q + (log_a - logsumexp(q, axis=1, keepdims=True))
        r = r + (log_b - logsumexp(r, axis=1, keepdims=True))
        return _Factors(q, r, w)

    def look(self, factors: _Factors) -> _Sight:
        of_q, of_r = np.exp(factors.q - factors.w), np.exp(factors.r - factors.w)
        q, r = self.cost.times(of_r) / self.unit, self.cost.transposed_times(of_q) / self.unit
        paid = (of_q * q).sum(axis=0)
        objective = float(np.exp(factors.w) @ paid)
        slopes = _Factors(q, r, -paid)
        if self.eps > 0:
            objective += self.eps * sum(float((np.exp(x) * x).sum()) for x in factors)
            slopes = _Factors(*(slope + self.eps * x for slope, x in zip(slopes, factors, strict=True)))
        return _Sight(factors, objective, slopes)

    def step(self, here: _Sight, rate: float, inner_tol: float) -> _Sight:
        """What is seen after a mirror step, projected."""
        moved = _Factors(*(x - rate * slope for x, slope in zip(here.factors, here.slopes, strict=True)))
        return self.look(self.project(moved, inner_tol, _INNER_ITER))


def _anchored(problem: _Problem, rank: int) -> _Factors:
    """A start from rows that are far from each other: each row leans to those near, each column to the cheap ones."""
    cost = problem.cost
    distances, costs = np.empty((len(problem.a), rank)), np.empty((len(problem.b), rank))
    # The first anchor is the row nearest to the mean, which is 0.
    chosen, nearest = int(cost.norms.argmin()), np.full(len(problem.a), np.inf)
    for k in range(rank):
        costs[:, k] = cost.row(chosen)
        squares = cost.norms + cost.norms[chosen] - 2 * cost.times(problem.b * costs[:, k])
        distances[:, k] = np.sqrt(np.maximum(squares, 0.0))
        nearest = np.minimum(nearest, distances[:, k])
        chosen = int(nearest.argmax())
    # Temperatures at which neither side is decided; equal rows leave nothing to decide.
    log_q = -distances / max(0.3 * float(distances.mean()), 1e-6 * problem.unit)
    log_r = -costs / max(0.3 * float(costs.std()), 1e-6 * problem.unit)
    return _Factors(log_q, log_r, np.full(rank, -math.log(rank)))


def _drawn(problem: _Problem, rank: int, rng: np.random.Generator) -> _Factors:
    q, r = rng.standard_normal((len(problem.a), rank)), rng.standard_normal((len(problem.b), rank))
    return _Factors(q, r, np.full(rank, -math.log(rank)))


@dataclass(frozen=True)
class _Descent:
    factors: _Factors
    n_iter: int
    slope: float
    ended: str  # "converged", "stopped" (by the callback) or "limit"


def _descend(
    problem: _Problem, factors: _Factors, length: float, tol: float, max_iter: int, watch: Watch | None
) -> _Descent:
    """Mirror steps, each halved until it lowers the objective, until the squared slope along them is at most `tol`."""
    longest = length
    # The entropies' own curvature is that of the geometry: a rate of more than 1 / eps overshoots.
    fastest = 1 / problem.eps if problem.eps > 0 else math.inf
    # The projection's error is felt in the objective to first order.
    inner_tol = max(min(_INNER_TOL, 1e-3 * tol), _LAST_TOL)
    here, n_iter = problem.look(factors), 0
    while True:
        steepest = here.steepest
        length = min(length, fastest * steepest)
        there = problem.step(here, length / steepest, inner_tol)
        if there.objective > here.objective + 10 * inner_tol and length > _SHORTEST:
            length /= 2
            continue
        slope = here.way_to(there.factors) / (length / steepest) ** 2
        stopped = n_iter > 0 and watch is not None and watch(n_iter, slope)
        if slope <= tol or stopped or n_iter == max_iter:
            ended = "converged" if slope <= tol else "stopped" if stopped else "limit"
            return _Descent(here.factors, n_iter, slope, ended)
        length = min(2 * length, longest)
        here, n_iter = there, n_iter + 1


def _rounded(factor: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A factor with the right rows, and columns nearly right, given both exactly (Altschuler, Weed and Rigollet)."""
    sums = factor.sum(axis=0)
    factor = factor * np.minimum(1.0, np.divide(columns, sums, out=np.ones_like(sums), where=sums > 0))
    lack_rows = np.maximum(rows - factor.sum(axis=1), 0.0)
    lack_columns = np.maximum(columns - factor.sum(axis=0), 0.0)
    total = float(lack_columns.sum())
    return factor + lack_rows[:, None] * (lack_columns / total) if total > 0 else factor


# ---- the answer ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class LowRankTransport:
    """The plan ``P = Q diag(1 / weights) R^T``, kept in factors.

    Returned by :func:`entropic.low_rank_sinkhorn`.

    Attributes
    ----------
    q : ndarray, shape (n, rank)
        Not negative; its rows sum to `a`, its columns to `weights`.
    r : ndarray, shape (m, rank)
        Not negative; its rows sum to `b`, its columns to `weights`.
    weights : ndarray, shape (rank,)
        Mass that goes through each component.
    transport_cost : float
        ``<P, C>``.
    marginal_error : float
        L1 distance of both marginals of P to the masses, relative to the total mass, computed in float64 from the
        factors.
    n_iter : int
        Mirror steps.
    converged : bool
        Is the squared slope of the objective at most the tolerance?
    """

    q: Any
    r: Any
    weights: Any
    transport_cost: float
    marginal_error: float
    n_iter: int
    converged: bool
    _backend: Backend

    def __repr__(self) -> str:
        size = f"shape={(len(self.q), len(self.r))}, rank={len(self.weights)}"
        reached = f"transport_cost={self.transport_cost:.6g}, marginal_error={self.marginal_error:.2g}"
        return f"LowRankTransport({size}, {reached}, n_iter={self.n_iter}, converged={self.converged})"

    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Q diag(1 / weights) and R, in float64."""
        q, r, w = (to_numpy("plan", "q", x).astype(np.float64) for x in (self.q, self.r, self.weights))
        return _conditional(q, w), r

    def _deliver(self, result: np.ndarray) -> Any:
        return self._backend.wrap(cast(result, to_numpy("plan", "q", self.q).dtype))

    def plan(self) -> Any:
        """The plan as a dense array (n, m), in the library and float type of the cost. O(n m rank) time."""
        q, r = self._halves()
        return self._deliver(q @ r.T)

    def apply(self, v: Array, axis: int = 1) -> Any:
        """The plan times `v` without forming it: ``P v`` over columns (``axis=1``), ``P^T v`` over rows (``axis=0``).

        Parameters
        ----------
        v : array_like
            Shape (m,) or (m, k) for ``axis=1``, (n,) or (n, k) for ``axis=0``.
        axis : {0, 1}, optional
            The axis of the plan that is summed over.

        Returns
        -------
        ndarray
            (n,) or (n, k) for ``axis=1``, (m,) or (m, k) for ``axis=0``. O((n + m) rank k) time.
        """
        func = "apply"
        if axis not in (0, 1):
            raise ValueError(f"{func}: `axis` must be 0 or 1, got {axis!r}")
        backend_of(func, q=self.q, v=v)
        array = to_numpy(func, "v", v)
        q, r = self._halves()
        left, right = (q, r) if axis == 1 else (r, q)
        if array.ndim not in (1, 2) or len(array) != len(right):
            raise ValueError(f"{func}: `v` must have shape ({len(right)},) or ({len(right)}, k), got {array.shape}")
        return self._deliver(left @ (right.T @ array.astype(np.float64)))


def _conditional(factor: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The factor over its column sums; a component without mass has none to give."""
    over: np.ndarray = np.divide(factor, weights, out=np.zeros_like(factor), where=weights > 0)
    return over


def _transport_cost(geometry: Geometry, q: np.ndarray, r: np.ndarray, w: np.ndarray) -> float:
    """``<P, C>`` of factors in float64. Squared distances are sums of squares here, without cancellation."""
    if geometry.cloud is None:
        r = _conditional(r, w)
        return sum(
            float(np.vdot(q[first : first + count], geometry.cost_rows(first, count)[0].astype(np.float64) @ r))
            for first, count in geometry.row_chunks()
        )
    x, y, exponent = _scaled_points(geometry.cloud)
    mean_x, mean_y = _conditional(q, w).T @ x, _conditional(r, w).T @ y
    scatter = sum(
        float(factor[:, k] @ ((points - mean[k]) ** 2).sum(axis=1))
        for factor, points, mean in ((q, x, mean_x), (r, y, mean_y))
        for k in range(len(w))
    )
    with np.errstate(over="ignore"):
        return float(np.ldexp(scatter + w @ ((mean_x - mean_y) ** 2).sum(axis=1), 2 * exponent))


def _scaled_points(cloud: PointCloud) -> tuple[np.ndarray, np.ndarray, int]:
    """Points of both clouds about one origin, and the power of two by which they are divided to be at most 1."""
    x, y = cloud.x.astype(np.float64), cloud.y.astype(np.float64)
    exponent = int(np.frexp(max(np.abs(x).max(), np.abs(y).max()))[1])
    x, y = np.ldexp(x, -exponent), np.ldexp(y, -exponent)
    origin = (x.mean(axis=0) + y.mean(axis=0)) / 2
    return x - origin, y - origin, exponent


# ---- the call --------------------------------------------------------------------------------------------------------


def _problem(func: str, geometry: Geometry, a: np.ndarray, b: np.ndarray, eps: float) -> _Problem:
    """The rows and columns that have mass, in units in which nothing overflows."""
    rows, columns = a > 0, b > 0
    a, b = a[rows] / a.sum(), b[columns] / b.sum()
    if geometry.cloud is not None:
        x, y, exponent = _scaled_points(geometry.cloud)
        cost, exponent = _Cost(-2.0 * x[rows], y[columns], a, b), 2 * exponent
    else:
        matrix = geometry.cost_rows(0, geometry.n)[0]
        if not np.isfinite(matrix).all():
            raise ValueError(f"{func}: `cost` must be finite, got infinite entries")
        exponent = int(np.frexp(np.abs(matrix).max())[1])
        cost = _Cost(np.ldexp(matrix[np.ix_(rows, columns)].astype(np.float64), -exponent), None, a, b)
    # Entries are at most about 1: a spread of rounding says that all plans cost the same.
    unit = cost.spread if cost.spread > 1e-14 else 1.0
    with np.errstate(over="ignore"):
        strength = float(np.ldexp(eps, -exponent)) / unit
    return _Problem(cost, unit, a, b, min(strength, _MOST_EPS))


def low_rank_sinkhorn(
    cost: Array | PointCloud,
    a: Array | None = None,
    b: Array | None = None,
    *,
    rank: int,
    eps: float = 0.0,
    gamma: float = 10.0,
    tol: float = 1e-6,
    max_iter: int = 1000,
    rng: np.random.Generator | int | None = None,
    callback: Callable[[int, float], Any] | None = None,
) -> LowRankTransport:
    """Transport by a plan ``P = Q diag(1 / w) R^T`` of low rank: least ``<P, C> - eps (H(Q) + H(R) + H(w))``.

    Parameters
    ----------
    cost : array_like, shape (n, m), or PointCloud
        Finite costs, float32, float64 or integers, or points under "sqeuclidean", whose cost is never stored.
    a : array_like, shape (n,), optional
        Masses of the rows, not negative; None means 1/n each. A mass of 0 gives a zero row.
    b : array_like, shape (m,), optional
        Masses of the columns, with the total of `a`; None means 1/m each.
    rank : int
        Columns of Q and R, from 1, where the plan is ``a b^T``, to min(n, m), where nothing is lost.
    eps : float, optional
        Weight of the entropies H of the factors (as distributions of total 1), in the units of the cost. 0, the
        default, is plain transport within the rank.
    gamma : float, optional
        Most by which a mirror step moves two logarithms of a row apart.
    tol : float, optional
        The descent ends when the squared slope along its step, in the geometry of the steps and in units of the cost's
        standard deviation under ``a b^T``, is at most this. It says nothing of the marginals, which are exact.
    max_iter : int, optional
        Limit on the mirror steps.
    rng : numpy.random.Generator or int, optional
        Draw the start at random. None, the default, starts from rows of the cost that are far from each other, which
        is mostly better and always the same.
    callback : callable, optional
        Called as ``callback(iteration, squared_slope)`` after each step; True stops the work.

    Returns
    -------
    LowRankTransport
        With `q`, `r`, `weights`, `transport_cost`, `marginal_error`, `n_iter` and `converged`, and the methods
        ``plan()`` and ``apply(v, axis)``. Arrays have the library and float type of `cost`.

    Raises
    ------
    ValueError
        Wrong shapes, costs that are not finite, a metric other than "sqeuclidean", negative masses, totals that
        differ, a `rank` that is not from 1 to min(n, m), `eps` negative, `gamma` not positive, or `max_iter` below 1.
    TypeError
        Wrong kinds: masked, sparse or complex arrays, arrays of two libraries, a `rank` that is not an integer.
    DeviceError
        Device arrays.

    Warns
    -----
    ConvergenceWarning
        `max_iter` steps, or the callback, ended the descent before its slope was small enough.

    Notes
    -----
    Mirror descent in Kullback and Leibler's geometry: each step multiplies Q, R and w by the exponential of minus their
    gradient and projects them on the factors with the right marginals, by alternating dual ascent in the log domain.
    A step that would raise the objective is halved. What is additive in the cost, u_i + v_j, moves no plan
    with these marginals and is taken out first; of squared distances an inner product of centred points is left. After
    the last step the factors are rounded (Altschuler, Weed and Rigollet), so that the marginals of the plan are exact
    in its float type.

    The problem is not convex: the cost is that of a local minimum, an upper bound of the best one of this rank, and of
    the unregularised optimum. A step takes O(n m rank) time with a stored cost and O((n + m) d rank) with points, and
    up to 200 passes over the factors for the projection. Memory is O((n + m) (d + rank)), and two float64 copies of a
    stored cost. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    M. Scetbon, M. Cuturi, G. Peyre. Low-rank Sinkhorn factorization. ICML 2021. J. Altschuler, J. Weed, P. Rigollet.
    Near-linear time approximation algorithms for optimal transport via Sinkhorn iteration. NeurIPS 2017.

    Examples
    --------
    Two pairs of clusters, told apart by a plan of rank 2:

    >>> import numpy as np, entropic
    >>> x = np.array([[0.0], [0.2], [5.0], [5.2]])
    >>> result = entropic.low_rank_sinkhorn(entropic.PointCloud(x, x + 1), rank=2)
    >>> result.plan().round(4)
    array([[0.125, 0.125, 0.   , 0.   ],
           [0.125, 0.125, 0.   , 0.   ],
           [0.   , 0.   , 0.125, 0.125],
           [0.   , 0.   , 0.125, 0.125]])
    >>> round(result.transport_cost, 4)
    1.02
    """
    func = "low_rank_sinkhorn"
    columns = check_integer(func, "rank", rank, 1)
    strength, length = check_number(func, "eps", eps), check_positive(func, "gamma", gamma)
    if not 0 <= strength < math.inf:
        raise ValueError(f"{func}: `eps` must be at least 0 and finite, got {eps!r}")
    tol, limit = check_tol(func, tol), check_max_iter(func, max_iter, 1000)
    check_callback(func, callback)
    generator = None if rng is None else check_rng(func, rng)
    if isinstance(cost, PointCloud) and cost.metric != "sqeuclidean":
        raise ValueError(f"{func}: `cost` must have metric 'sqeuclidean' or be a matrix, got metric {cost.metric!r}")
    geometry, mass_a, mass_b = read_single(func, cost, a, b)
    if columns > min(geometry.n, geometry.m):
        raise ValueError(f"{func}: `rank` must be at most {min(geometry.n, geometry.m)}, got {columns}")

    problem = _problem(func, geometry, mass_a, mass_b, strength)
    start = _anchored(problem, columns) if generator is None else _drawn(problem, columns, generator)
    with watching(callback, False, func) as watch:
        descent = _descend(problem, problem.project(start, _INNER_TOL, _INNER_ITER), length, tol, limit, watch)
    result = _result(problem, descent, geometry, mass_a, mass_b)
    if not result.converged and tol > 0:
        advice = "the callback stopped it" if descent.ended == "stopped" else f"raise max_iter (now {limit}) or tol"
        warnings.warn(
            f"{func}: the descent ended at a squared slope of {descent.slope:.3g} (tol={tol:g}); {advice}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return result


def _result(problem: _Problem, descent: _Descent, geometry: Geometry, a: np.ndarray, b: np.ndarray) -> LowRankTransport:
    last = problem.project(descent.factors, _LAST_TOL, _LAST_ITER)
    w = np.exp(last.w - last.w.max())
    w /= w.sum()
    total, rank = float(a.sum()), len(w)
    q, r = np.zeros((geometry.n, rank)), np.zeros((geometry.m, rank))
    q[a > 0] = total * _rounded(np.exp(last.q), problem.a, w)
    r[b > 0] = total * _rounded(np.exp(last.r), problem.b, w)
    returned = [cast(x, geometry.dtype) for x in (q, r, total * w)]
    q, r, w = (x.astype(np.float64) for x in returned)
    through_q, through_r = _conditional(q, w), _conditional(r, w)
    error = np.abs(through_q @ r.sum(axis=0) - a).sum() + np.abs(through_r @ q.sum(axis=0) - b).sum()
    wrap = geometry.backend.wrap
    return LowRankTransport(
        q=wrap(returned[0]),
        r=wrap(returned[1]),
        weights=wrap(returned[2]),
        transport_cost=_transport_cost(geometry, q, r, w),
        marginal_error=float(error) / total,
        n_iter=descent.n_iter,
        converged=descent.ended == "converged",
        _backend=geometry.backend,
    )
