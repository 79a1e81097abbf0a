"""Transport with at most k nonzeros a column."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import Array, Backend
from .._errors import ConvergenceWarning
from .._progress import Watch, check_callback, watching
from .._validate import check_integer, check_positive
from ..logits._functions import cast
from ._geometry import Geometry, PointCloud, as_geometry, as_masses
from ._one_dimensional import check_totals
from ._sinkhorn import check_library, check_max_iter, check_tol

_BLOCK = 1 << 16  # scores of one block of columns: it stays in cache between the passes
_MEMORY = 10  # pairs from which L-BFGS builds its direction
_PATIENCE = 30  # iterations over which an ascent must gain something
_SUPPORT_ITER = 300  # iterations for the masses on one support that is tried
_TRIALS = 40  # steps that one line search may try
_ROUNDING = 4e-15  # of a semi-dual whose costs are about 1
_TINY = 1e-290  # what mass times gamma, beside costs of about 1, may be without a division by 0

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Point:
    """The semi-dual at one potential, with the plan that attains it: column j has `masses[j]` on rows `support[j]`."""

    alpha: np.ndarray
    value: float
    gradient: np.ndarray
    support: np.ndarray
    masses: np.ndarray
    threshold: np.ndarray

    @property
    def error(self) -> float:
        return float(np.abs(self.gradient).sum())


def _simplex_argmax(scores: np.ndarray, mass: np.ndarray, gamma: float) -> Pair:
    """Each row's t that maximises ``<s, t> - gamma/2 |t|^2`` over t >= 0 of its mass, and the s above which t > 0.

    The maximiser is ``max(s - threshold, 0) / gamma``: the projection of s / gamma on the simplex.
    """
    top = scores.max(axis=1)
    width = np.maximum(gamma * mass, _TINY)  # scores further than this below the top get nothing
    with np.errstate(over="ignore"):
        below = (scores - top[:, None]) / width[:, None]
    descending = -np.sort(-below, axis=1)
    excess = np.cumsum(descending, axis=1) - 1.0
    above = (descending * np.arange(1, scores.shape[1] + 1) > excess).sum(axis=1)
    threshold = excess[np.arange(len(scores)), above - 1] / above
    return mass[:, None] * np.maximum(below - threshold[:, None], 0.0), top + width * threshold


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest of each row, in any order."""
    m, n = scores.shape
    if k == n:
        return np.broadcast_to(np.arange(n), (m, n))
    order: np.ndarray = np.argpartition(scores, n - k, axis=1)
    return order[:, n - k :]


@dataclass(frozen=True)
class _SemiDual:
    """``alpha -> <alpha, a> - sum_j Omega_j*(alpha - c_j)``, concave, to be maximised.

    ``Omega_j*(s)`` is the maximum of ``<s, t> - gamma/2 |t|^2`` over t >= 0 with total b_j and at most k nonzeros.
    Swapping the masses of two rows shows that the k largest scores carry it, so it is the maximum over the simplex of
    those k, and t is its gradient. Where k binds, it has kinks.
    """

    columns: np.ndarray  # costs, one column of the problem a row; with a support, of its entries only
    a: np.ndarray
    b: np.ndarray
    gamma: float
    k: int
    support: np.ndarray | None = None

    @property
    def kinked(self) -> bool:
        return self.support is None and self.k < len(self.a)

    def restricted(self, support: np.ndarray) -> _SemiDual:
        """The same problem where column j may use the rows `support[j]` only; it is smooth."""
        columns = np.take_along_axis(self.columns, support, axis=1)
        return _SemiDual(columns, self.a, self.b, self.gamma, self.k, support)

    def at(self, alpha: np.ndarray) -> _Point:
        m = len(self.b)
        support = np.empty((m, self.k), np.intp) if self.support is None else self.support
        masses, threshold = np.empty((m, self.k)), np.empty(m)
        step = max(1, _BLOCK // self.columns.shape[1])
        for part in (slice(start, start + step) for start in range(0, m, step)):
            if self.support is None:
                scores = alpha - self.columns[part]
                support[part] = _largest(scores, self.k)
                scores = np.take_along_axis(scores, support[part], axis=1)
            else:
                scores = alpha[support[part]] - self.columns[part]
            masses[part], threshold[part] = _simplex_argmax(scores, self.b[part], self.gamma)
        # On the rows that have mass, s = threshold + gamma t.
        conjugate = threshold @ self.b + self.gamma / 2 * float(np.vdot(masses, masses))
        rows = np.bincount(support.ravel(), masses.ravel(), minlength=len(alpha))
        return _Point(alpha, float(alpha @ self.a) - conjugate, self.a - rows, support, masses, threshold)


# ---- the ascent ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ascent:
    point: _Point
    n_iter: int
    ended: str  # "converged", "settled" (no further gain), "unbounded", "stopped" (by the callback) or "limit"
    trail: list[np.ndarray]  # the last potentials


def _direction(gradient: np.ndarray, pairs: deque[Pair], first_step: float) -> np.ndarray:
    """L-BFGS from pairs of a step and the fall of the gradient over it; kinks look like large curvature."""
    d: np.ndarray = gradient.copy() if pairs else gradient * (first_step / np.abs(gradient).max())
    if not pairs:
        return d
    weights = []
    for step, fall in reversed(pairs):
        weights.append(float(step @ d) / float(step @ fall))
        d -= weights[-1] * fall
    step, fall = pairs[-1]
    d *= float(step @ fall) / float(fall @ fall)
    for (step, fall), weight in zip(pairs, reversed(weights), strict=True):
        d += (weight - float(fall @ d) / float(step @ fall)) * step
    return d


def _line_search(problem: _SemiDual, origin: _Point, direction: np.ndarray) -> _Point | None:
    """A point along the direction with enough gain and a slope that has clearly fallen (weak Wolfe); None if none is.

    Bisection with doubling finds one where the function has kinks, too (Lewis and Overton 2013).
    """
    slope = float(origin.gradient @ direction)
    low, high, step = 0.0, np.inf, 1.0
    best = None
    for _ in range(_TRIALS):
        point = problem.at(origin.alpha + step * direction)
        if point.value < origin.value + 1e-4 * step * slope - _ROUNDING:
            high = step
        elif point.gradient @ direction > 0.9 * slope:
            low, best = step, point
        else:
            return point
        step = 2 * low if np.isinf(high) else (low + high) / 2
    return best


def _ascend(problem: _SemiDual, alpha: np.ndarray, tol: float, max_iter: int, watch: Watch | None = None) -> _Ascent:
    """Maximise the semi-dual until the marginal error is `tol`.

    One with kinks has no gradient to tell that it is at its maximum: it ends when some iterations gain next to nothing.
    """
    finite = problem.columns[np.isfinite(problem.columns)]
    ceiling = float(finite.max()) + problem.gamma / 2 + 0.01  # above every plan's: no maximum is higher
    first_step = float(finite.std()) + problem.gamma / len(problem.b)
    patience = 0.01 * tol if problem.kinked else 0.0
    point = problem.at(alpha)
    pairs, trail, first = deque[Pair](maxlen=_MEMORY), deque([(alpha, point.value)], maxlen=_PATIENCE + 1), point.value
    n_iter, ended = 0, ""
    while not ended:
        if point.error <= tol:
            ended = "converged"
        elif point.value > ceiling:
            ended = "unbounded"
        elif len(trail) > _PATIENCE and point.value - trail[0][1] < patience * (point.value - first):
            ended = "settled"
        elif n_iter == max_iter:
            ended = "limit"
        elif (found := _line_search(problem, point, _direction(point.gradient, pairs, first_step))) is None:
            ended = "settled"
        else:
            n_iter += 1
            step, fall = found.alpha - point.alpha, point.gradient - found.gradient
            if step @ fall > 0:
                pairs.append((step, fall))
            point = found
            trail.append((point.alpha, point.value))
            if watch is not None and watch(n_iter, point.error):
                ended = "stopped"
    return _Ascent(point, n_iter, ended, [alpha for alpha, _ in trail])


def _feasible_point(problem: _SemiDual, ascent: _Ascent, tol: float, max_iter: int) -> _Point:
    """The best plan found near the maximum of a semi-dual that has a kink there: least error, then least cost.

    At a kink some columns may choose among supports. Each choice tried is fixed, and the masses on it optimised, which
    is a smooth problem, and a cheap one. The last steps went to and fro over the kink: what they chose is tried, and
    where the average of their plans has most mass, which comes closer to the rows' masses than each of them.
    """

    def better(best: _Point, support: np.ndarray) -> _Point:
        point = _ascend(problem.restricted(support), ascent.point.alpha, tol, min(max_iter, _SUPPORT_ITER)).point
        # Of feasible plans the value is that of the restricted semi-dual.
        return min(best, point, key=lambda point: (max(point.error, tol), point.value))

    best, average = ascent.point, np.zeros(problem.columns.shape)
    for alpha in ascent.trail:
        point = problem.at(alpha)
        average[np.arange(len(average))[:, None], point.support] += point.masses
        best = better(best, point.support)
    return better(best, _largest(average, problem.k))


# ---- the answer ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class SparseTransport:
    """A plan with at most k nonzeros a column, and the potential of its semi-dual.

    Returned by :func:`entropic.sparse_transport`.

    Attributes
    ----------
    f : ndarray, shape (n,)
        Potential alpha of the rows, at which the semi-dual is `dual_value`.
    value : float
        ``<P, C> + gamma/2 |P|^2`` of this plan.
    dual_value : float
        The semi-dual at `f`: no plan with at most k nonzeros a column and these masses has a lower value.
    transport_cost : float
        ``<P, C>``.
    marginal_error : float
        L1 distance of the plan's row and column sums to the masses, relative to the total mass. The columns' part is
        rounding.
    n_iter : int
        Iterations of the ascent of the semi-dual.
    converged : bool
        Has the ascent come to its end, and is `marginal_error` at most the tolerance? How far the plan may be from the
        best is ``value - dual_value``.
    """

    f: Any
    value: float
    dual_value: float
    transport_cost: float
    marginal_error: float
    n_iter: int
    converged: bool
    _shape: tuple[int, int]
    _rows: np.ndarray
    _columns: np.ndarray
    _masses: np.ndarray
    _backend: Backend

    def __repr__(self) -> str:
        fields = ("value", "dual_value", "marginal_error", "n_iter")
        said = ", ".join(f"{name}={getattr(self, name):.6g}" for name in fields)
        return f"SparseTransport(shape={self._shape}, nnz={self._masses.size}, {said}, converged={self.converged})"

    def tocoo(self) -> Any:
        """The plan's nonzeros, column by column, as a scipy.sparse.coo_array (n, m). Needs SciPy; O(m k) time."""
        from scipy.sparse import coo_array

        return coo_array((self._masses, (self._rows, self._columns)), shape=self._shape)

    def plan(self) -> Any:
        """The plan as a dense array (n, m), in the library and float type of the cost."""
        dense = np.zeros(self._shape, self._masses.dtype)
        dense[self._rows, self._columns] = self._masses
        return self._backend.wrap(dense)


def sparse_transport(
    cost: Array | PointCloud,
    a: Array | None = None,
    b: Array | None = None,
    *,
    k: int,
    gamma: float = 1.0,
    tol: float = 1e-6,
    max_iter: int | None = None,
    callback: Callable[[int, float], Any] | None = None,
) -> SparseTransport:
    """Transport with at most k nonzeros a column, least ``<P, C> + gamma/2 |P|^2``, by way of its semi-dual.

    Parameters
    ----------
    cost : array_like, shape (n, m), or PointCloud
        float32, float64 or integers; +inf forbids a pair. The costs of a point cloud are stored here.
    a : array_like, shape (n,), optional
        Masses of the rows, not negative; None means 1/n each. A mass of 0 gives a zero row.
    b : array_like, shape (m,), optional
        Masses of the columns, with the total of `a`; None means 1/m each.
    k : int
        The most nonzeros that a column of the plan may have, at least 1. From n on it binds nothing, and the problem is
        transport with quadratic regularisation.
    gamma : float, optional
        Strength of the quadratic term, positive, in the units of the cost over mass. A large one spreads each column
        over its k nonzeros; a small one comes close to unregularised transport, with more iterations.
    tol : float, optional
        Marginal error to reach: L1, relative to the total mass.
    max_iter : int, optional
        Limit on the iterations; None means 2000.
    callback : callable, optional
        Called as ``callback(iteration, error)`` after each iteration, with the marginal error of the semi-dual's plan;
        True stops the work.

    Returns
    -------
    SparseTransport
        With `f`, `value`, `dual_value`, `transport_cost`, `marginal_error`, `n_iter` and `converged`, and the methods
        ``tocoo()`` (SciPy) and ``plan()`` (dense).

    Raises
    ------
    ValueError
        Wrong shapes, nan or -inf in `cost`, negative masses, totals that differ, `k` below 1, `gamma` not positive, or
        infinite costs that leave no plan.
    TypeError
        Wrong kinds: masked, sparse or complex arrays, arrays of two libraries, a `k` that is not an integer.
    DeviceError
        Device arrays.

    Warns
    -----
    ConvergenceWarning
        The marginal error is above `tol`, or the iterations ended before the semi-dual's maximum.

    Notes
    -----
    The semi-dual is ``max over alpha of <alpha, a> - sum_j Omega_j*(alpha - c_j)``, where ``Omega_j*(s)`` is the
    maximum of ``<s, t> - gamma/2 |t|^2`` over t >= 0 with total b_j and at most k nonzeros: the k largest scores,
    projected over gamma on the simplex of mass b_j. The gradient is a minus the row sums of that plan. The semi-dual is
    concave, and at any `f` a lower bound of the value of all such plans.

    The problem is not convex, and the semi-dual is that of its convex relaxation. Every plan returned has at most k
    nonzeros a column and the column masses `b`. Where the maximiser is unique and no column has a tie between the k-th
    and the next score, its plan has the row masses `a` as well and is optimal: ``value == dual_value`` up to the
    tolerance, as always for k >= n. With ties, which are common where k binds, the supports seen on the way are fixed
    one by one and the masses optimised on each. This may miss plans that exist. If one support admits a feasible plan,
    ``value - dual_value`` bounds what a better one could gain; if none does, `marginal_error` says how far the rows are
    off, and a warning is given. So it is for nearly all masses with k = 1, where each column goes to one row.

    The ascent is L-BFGS with a line search that suits kinks. One iteration takes O(n m) time for small k and
    O(n m log n) for k >= n; memory is about three float64 copies of the cost. There is no :func:`entropic.vjp` rule, as
    the result is not an array; the derivative of `dual_value` with respect to `cost` is the semi-dual's plan (envelope
    theorem). Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    T. Liu, J. Puigcerver, M. Blondel. Sparsity-constrained optimal transport. ICLR 2023.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.linspace(0, 1, 4)
    >>> y = np.array([0.1, 0.8])
    >>> result = entropic.sparse_transport((x[:, None] - y) ** 2, k=2)
    >>> result.plan()
    array([[0.25, 0.  ],
           [0.25, 0.  ],
           [0.  , 0.25],
           [0.  , 0.25]])
    >>> result.converged
    True
    """
    func = "sparse_transport"
    most, strength = check_integer(func, "k", k, 1), check_positive(func, "gamma", gamma)
    tol, limit = check_tol(func, tol), check_max_iter(func, max_iter, 2000)
    check_callback(func, callback)
    geometry, mass_a, mass_b = read_single(func, cost, a, b)
    problem = _scaled(func, geometry, mass_a, mass_b, strength, most)
    semi_dual = problem.semi_dual
    with watching(callback, False, func) as watch:
        ascent = _ascend(semi_dual, semi_dual.columns.min(axis=0), tol, limit, watch)
        best = ascent.point
        if ascent.ended in ("settled", "limit") and semi_dual.kinked:
            best = _feasible_point(semi_dual, ascent, tol, limit)
    if ascent.ended == "unbounded":
        raise _no_plan(func)
    result = _result(problem, ascent, best, tol)
    if not result.converged and tol > 0:
        reason, advice = {
            "limit": (f"{result.n_iter} iterations did not reach the semi-dual's maximum", "raise max_iter"),
            "stopped": ("the callback stopped it", "let it go on"),
        }.get(ascent.ended, ("no feasible plan was found where the ascent settled", "raise k, gamma or tol"))
        off = f"the marginals are off by {result.marginal_error:.2e} of the mass (tol={tol:g})"
        warnings.warn(f"{func}: {reason}; {off}; {advice}", ConvergenceWarning, stacklevel=2)
    return result


def read_single(func: str, cost: Any, a: Array | None, b: Array | None) -> tuple[Geometry, np.ndarray, np.ndarray]:
    """The costs of one balanced problem and its masses, which have the same total."""
    geometry = as_geometry(func, cost)
    if geometry.batch:
        raise ValueError(f"{func}: `cost` must have shape (n, m), got {(*geometry.batch, geometry.n, geometry.m)}")
    check_library(func, geometry, a=a, b=b)
    mass_a, mass_b = as_masses(func, "a", a, geometry.n), as_masses(func, "b", b, geometry.m)
    check_totals(func, a, b)
    return geometry, mass_a, mass_b * (mass_a.sum() / mass_b.sum())


def _no_plan(func: str) -> ValueError:
    return ValueError(f"{func}: `cost` must leave every mass a pair, got infinite entries that forbid any plan")


@dataclass(frozen=True)
class _Scaled:
    """A problem in units of the total mass and of the largest cost, without the rows and columns that have no mass."""

    semi_dual: _SemiDual
    geometry: Geometry
    cost: np.ndarray  # with all rows
    rows: np.ndarray
    columns: np.ndarray
    total: float
    unit: float


def _scaled(func: str, geometry: Geometry, a: np.ndarray, b: np.ndarray, gamma: float, k: int) -> _Scaled:
    total = float(a.sum())
    strength = gamma * total
    if not 0 < strength < math.inf:
        raise ValueError(f"{func}: `gamma` times the total mass must be positive and finite, got {strength}")
    rows, columns = np.flatnonzero(a), np.flatnonzero(b)
    cost = geometry.cost_rows(0, geometry.n)[0][:, columns].astype(np.float64)
    finite = np.isfinite(cost)
    if not (finite.any(axis=0).all() and finite[rows].any(axis=1).all()):
        raise _no_plan(func)
    unit = float(np.abs(cost).max(where=finite, initial=strength))
    cost /= unit
    semi_dual = _SemiDual(
        np.ascontiguousarray(cost[rows].T), a[rows] / total, b[columns] / total, strength / unit, min(k, len(rows))
    )
    return _Scaled(semi_dual, geometry, cost, rows, columns, total, unit)


def _result(problem: _Scaled, ascent: _Ascent, best: _Point, tol: float) -> SparseTransport:
    semi_dual, dtype, wrap = problem.semi_dual, problem.geometry.dtype, problem.geometry.backend.wrap
    masses = best.masses * (semi_dual.b / best.masses.sum(axis=1))[:, None]
    used = masses > 0
    rows, columns = best.support[used], np.nonzero(used)[0]
    flat = cast(problem.total * masses[used], dtype)
    shares = flat.astype(np.float64) / problem.total  # of the plan that is returned, in its type
    error = sum(
        float(np.abs(np.bincount(index, shares, minlength=len(given)) - given).sum())
        for index, given in ((rows, semi_dual.a), (columns, semi_dual.b))
    )
    mean_cost = float(shares @ semi_dual.columns[columns, rows])
    # The largest potential at which no column would use a row; what has no mass takes it, and 0 if it is forbidden.
    f = (problem.cost + ascent.point.threshold).min(axis=1)
    f[np.isinf(f)] = 0.0
    f[problem.rows] = ascent.point.alpha
    value = mean_cost + semi_dual.gamma / 2 * float(shares @ shares)
    return SparseTransport(
        f=wrap(cast(problem.unit * f, dtype)),
        value=problem.total * (problem.unit * value),
        dual_value=problem.total * (problem.unit * ascent.point.value),
        transport_cost=problem.total * (problem.unit * mean_cost),
        marginal_error=error,
        n_iter=ascent.n_iter,
        converged=error <= tol and ascent.ended in ("converged", "settled"),
        _shape=(problem.geometry.n, problem.geometry.m),
        _rows=problem.rows[rows],
        _columns=problem.columns[columns],
        _masses=flat,
        _backend=problem.geometry.backend,
    )
