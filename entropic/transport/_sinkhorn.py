"""The solver, and what its answer can say."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, backend_of, library_of, refuse_cuda, to_numpy
from .._errors import ConvergenceWarning
from .._progress import Watch, check_callback, watching
from .._validate import check_number, check_positive
from ._geometry import (
    Geometry,
    Grid,
    PointCloud,
    as_geometry,
    batched_masses,
    float_array,
    points_array,
    rounding_of_totals,
)
from ._newton import Problems, newton

# The order of Relax and Outcome in csrc.
_EXACT, _KL, _TV, _RANGE, _CAPPED = range(5)
_CONVERGED, _LIMIT, _STALLED, _STOPPED, _HANDED_OVER, _DIVERGED = range(6)

_NEWTON_ROUNDS = 5

Side = tuple[int, float, float]
"""Kind, and its parameters in the units of the cost."""


def check_eps(func: str, eps: Any) -> float:
    value = check_number(func, "eps", eps)
    if not (0 < value < math.inf and 1 / value < math.inf):
        raise ValueError(f"{func}: `eps` must be positive and finite, got {eps!r}")
    return value


def check_tol(func: str, tol: Any) -> float:
    value = check_number(func, "tol", tol)
    if not 0 <= value < math.inf:
        raise ValueError(f"{func}: `tol` must be at least 0 and finite, got {tol!r}")
    return value


def check_max_iter(func: str, max_iter: Any, default: int) -> int:
    if max_iter is None:
        return default
    try:
        value = operator.index(max_iter)
    except TypeError:
        raise TypeError(f"{func}: `max_iter` must be an integer or None, got {max_iter!r}") from None
    if value < 1:
        raise ValueError(f"{func}: `max_iter` must be at least 1, got {value}")
    return min(value, 2**31 - 1)


def check_resolution(func: str, geometry: Geometry, eps: float) -> None:
    """Float64 can tell costs apart that differ by eps."""
    if not np.isfinite(geometry.span).all():
        raise ValueError(f"{func}: the costs overflow float64; scale the points down")
    if (eps < 1e-14 * geometry.span).any():
        raise ValueError(
            f"{func}: `eps` must be at least 1e-14 of the cost's range, which float64 can tell, got {eps!r}"
        )


@dataclass(frozen=True)
class Constraints:
    """How the marginals are held: one side each, or the mass of a partial plan."""

    rows: Side
    cols: Side
    mass: float | None = None

    @property
    def balanced(self) -> bool:
        return self.rows[0] == _EXACT and self.cols[0] == _EXACT

    @property
    def smooth(self) -> bool:
        """Is the dual smooth, so that its gradient says all?"""
        return all(kind == _EXACT or (kind == _KL and p > 0) for kind, p, _ in (self.rows, self.cols))

    @property
    def by_divergence(self) -> bool:
        """Is each side prescribed, or held by a KL penalty of any strength?"""
        return self.rows[0] in (_EXACT, _KL) and self.cols[0] in (_EXACT, _KL)

    @property
    def rho(self) -> tuple[float, float]:
        """Strengths of KL penalties, infinite for prescribed sides."""
        row, col = (math.inf if kind == _EXACT else p for kind, p, _ in (self.rows, self.cols))
        return row, col

    def swapped(self) -> Constraints:
        return Constraints(self.cols, self.rows, self.mass)


def check_constraints(func: str, rho: Any, relaxation: str, mass: Any) -> Constraints:
    if relaxation not in ("kl", "tv", "range"):
        raise ValueError(f"{func}: `relaxation` must be 'kl', 'tv' or 'range', got {relaxation!r}")
    if mass is not None:
        if rho is not None:
            raise ValueError(f"{func}: `mass` and `rho` exclude each other")
        return Constraints((_CAPPED, 0.0, 0.0), (_CAPPED, 0.0, 0.0), check_positive(func, "mass", mass))
    if rho is None:
        if relaxation == "range":
            raise ValueError(f"{func}: `rho` must be the pair (lowest, highest factor) for relaxation 'range'")
        return Constraints((_EXACT, 0.0, 0.0), (_EXACT, 0.0, 0.0))
    pair = rho if isinstance(rho, tuple | list) else (rho, rho)
    if len(pair) != 2:
        raise ValueError(f"{func}: `rho` must be a number or a pair, got {rho!r}")
    first, second = (check_number(func, "rho", r) for r in pair)
    if relaxation == "range":
        if not 0 <= first <= 1 <= second:
            raise ValueError(f"{func}: `rho` must be (lowest, highest factor) around 1 for 'range', got {rho!r}")
        return Constraints((_RANGE, first, second), (_RANGE, first, second))
    if not (first >= 0 and second >= 0):
        raise ValueError(f"{func}: `rho` must not be negative or nan, got {rho!r}")
    kind = _KL if relaxation == "kl" else _TV
    rows, cols = ((_EXACT, 0.0, 0.0) if math.isinf(r) else (kind, r, 0.0) for r in (first, second))
    return Constraints(rows, cols)


# ---- results ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class SinkhornResult:
    """The answer of :func:`sinkhorn`: potentials, values, and how far it is from the marginals.

    For a batch of problems every field has the batch's shape in front; `converged` is then an array.

    Attributes
    ----------
    f, g : ndarray
        Potentials (n,) and (m,), in the units of the cost: ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)``. They are
        float64 whatever the cost is: rounding them to float32 would cost 1e-5 of marginal at small eps.
    value : float
        ``<P, C> + eps KL(P | a b^T)`` and the penalties of relaxed marginals, for the plan of these potentials.
    transport_cost : float
        ``<P, C>``.
    marginal_error : float
        L1 distance of both marginals to the masses, relative to the total mass, computed in float64 from `f` and `g`.
        For relaxed problems the distance of each marginal to what its own update would make of it.
    n_iter : int
        Passes over the cost.
    converged : bool
        Is `marginal_error` at most the tolerance?
    eps : float
        Regularisation.
    """

    f: Any
    g: Any
    value: Any
    transport_cost: Any
    marginal_error: Any
    n_iter: Any
    converged: Any
    eps: float
    _solution: Solution

    def __repr__(self) -> str:
        shape = (*self._solution.geometry.batch, self._solution.geometry.n, self._solution.geometry.m)
        if self._solution.geometry.batch:
            done = np.asarray(self.converged)
            state = f"{int(done.sum())} of {done.size} converged"
            return f"SinkhornResult({shape}, eps={self.eps:g}, {state})"
        state = "converged" if self.converged else "not converged"
        return (
            f"SinkhornResult({shape}, eps={self.eps:g}, value={float(self.value):.6g}, "
            f"marginal_error={float(self.marginal_error):.2g}, n_iter={int(self.n_iter)}, {state})"
        )

    @property
    def dual_gap(self) -> Any:
        """Certified distance of the value from the best: primal value of the rounded plan less the dual value.

        Balanced problems only. O(n m) time, computed at each access.
        """
        return self._solution.deliver(self._solution.dual_gap())

    def plan(self) -> Any:
        """The plan P, (n, m), in the cost's type."""
        return self._solution.deliver(self._solution.plan(), keep=True)

    def apply(self, v: Array, axis: int = 1) -> Any:
        """The plan times `v` without forming it: ``P v`` over columns (``axis=1``), ``P^T v`` over rows (``axis=0``).

        Parameters
        ----------
        v : array_like
            Shape (m,) or (m, k) for ``axis=1``, (n,) or (n, k) for ``axis=0``, with the batch in front.
        axis : {0, 1}, optional
            The axis of the plan that is summed over.

        Returns
        -------
        ndarray
            (n,) or (n, k) for ``axis=1``, (m,) or (m, k) for ``axis=0``.
        """
        return self._solution.apply("apply", v, axis)

    def barycentric_map(self, y: Array | None = None) -> Any:
        """For each source point the mean of its targets, ``sum_j P_ij y_j / sum_j P_ij``.

        Parameters
        ----------
        y : array_like, optional
            Target points (m, d); those of the :class:`PointCloud` by default.

        Returns
        -------
        ndarray
            (n, d). A row without mass gets its conditional mean all the same, where its potential defines one.
        """
        return self._solution.barycentric_map(y)

    def potential_at(self, x_new: Array) -> Any:
        """The source potential at new points: ``-eps log sum_j b_j exp((g_j - c(x, y_j)) / eps)``, relaxed as those of
        the sources are.

        Needs a :class:`PointCloud`. For `x_new` of shape (p, d), or (..., p, d) for a batch, returns (p,).
        """
        return self._solution.potential_at(x_new)

    def map_at(self, x_new: Array) -> Any:
        """The entropic map at new points: the mean of `y` under ``b_j exp((f(x) + g_j - c(x, y_j)) / eps)``.

        Needs a :class:`PointCloud`. For `x_new` of shape (p, d) returns (p, d).
        """
        return self._solution.map_at(x_new)

    def rounded(self) -> Any:
        """A plan with the prescribed marginals exactly (to rounding), near this one (Altschuler, Weed and Rigollet).

        Rows, then columns, that have too much are scaled down, and what is missing is added as a product, forbidden
        pairs left out (their share stays missing). Balanced problems only; dense, (n, m).
        """
        return self._solution.deliver(self._solution.rounded(), keep=True)

    def top(self, k: int) -> tuple[Any, Any]:
        """Indices (n, k) and masses (n, k) of the k largest entries of each row, largest first.

        The plan is computed some rows at a time. Ties go to the smaller index.
        """
        return self._solution.top(k)


@dataclass(frozen=True, eq=False)
class Solution:
    """Potentials of a batch of problems with what they belong to: the arithmetic behind a result's methods."""

    geometry: Geometry
    constraints: Constraints
    a: np.ndarray
    b: np.ndarray
    f: np.ndarray
    g: np.ndarray
    eps: float
    row_marginal: np.ndarray
    col_marginal: np.ndarray
    transport_cost: np.ndarray

    @property
    def eps_array(self) -> np.ndarray:
        return np.full(self.geometry.problems, self.eps)

    def deliver(self, result: np.ndarray, *, keep: bool = False) -> Any:
        """A (B, ...) array in the caller's shape and library; scalars become floats, `keep` its type."""
        shaped = result.reshape((*self.geometry.batch, *result.shape[1:]))
        return self.geometry.backend.wrap(shaped[()] if shaped.ndim == 0 else shaped)

    def value(self) -> np.ndarray:
        r, c = self.row_marginal, self.col_marginal
        dot = np.einsum("bi,bi->b", r, self.f) + np.einsum("bj,bj->b", c, self.g)
        product = self.a.sum(axis=1) * self.b.sum(axis=1)
        value: np.ndarray = dot - self.eps * (r.sum(axis=1) - product)
        value += penalty(self.constraints.rows, r, self.a) + penalty(self.constraints.cols, c, self.b)
        return value

    def dual_value(self) -> np.ndarray:
        product = self.a.sum(axis=1) * self.b.sum(axis=1)
        dual = np.einsum("bi,bi->b", self.a, self.f) + np.einsum("bj,bj->b", self.b, self.g)
        value: np.ndarray = dual - self.eps * (self.row_marginal.sum(axis=1) - product)
        return value

    def plan(self) -> np.ndarray:
        return self.plan_rows(0, self.geometry.n)

    def plan_rows(self, first: int, count: int) -> np.ndarray:
        g = self.geometry
        plan: np.ndarray = g.plan_rows(self.a, self.b, self.f, self.g, self.eps_array, first, count)
        return plan

    def product(self, v: np.ndarray, transpose: bool) -> np.ndarray:
        """The plan, or its transpose, times v (B, k, m): (B, k, n)."""
        out: np.ndarray = self.geometry.apply_plan(self.a, self.b, self.f, self.g, self.eps_array, v, transpose)
        return out

    def apply(self, func: str, v: Array, axis: int) -> Any:
        if axis not in (0, 1):
            raise ValueError(f"{func}: `axis` must be 0 or 1, got {axis!r}")
        geometry = self.geometry
        check_library(func, geometry, v=v)
        array = float_array(func, "v", v)
        length = geometry.m if axis == 1 else geometry.n
        ndim = len(geometry.batch)
        vector = array.ndim == ndim + 1
        if array.shape[: ndim + 1] != (*geometry.batch, length) or array.ndim > ndim + 2:
            wanted = "".join(f"{n}, " for n in geometry.batch) + str(length)
            raise ValueError(f"{func}: `v` must have shape ({wanted},) or ({wanted}, k), got {array.shape}")
        wide = array.astype(np.float64).reshape(geometry.problems, length, 1 if vector else array.shape[-1])
        out = self.product(np.ascontiguousarray(wide.transpose(0, 2, 1)), axis == 0).transpose(0, 2, 1)
        out = np.ascontiguousarray(out.astype(geometry.dtype))
        return self.deliver(out[:, :, 0] if vector else out)

    def _cloud(self, func: str) -> PointCloud:
        if self.geometry.cloud is None:
            raise ValueError(f"{func}: needs points, and the cost was given as a matrix; use PointCloud(x, y)")
        return self.geometry.cloud

    def barycentric_map(self, y: Array | None) -> Any:
        func = "barycentric_map"
        if y is None:
            y = self.geometry.backend.wrap(self._cloud(func).y)
        geometry = self.geometry
        check_library(func, geometry, y=y)
        points = float_array(func, "y", y)
        shape = (geometry.m, points.shape[-1] if points.ndim else 0)
        if points.ndim < 2 or points.shape[-2] != geometry.m or points.shape[:-2] not in ((), geometry.batch):
            raise ValueError(f"{func}: `y` must have shape ({geometry.m}, d), got {points.shape}")
        wide = np.broadcast_to(points.astype(np.float64), (*geometry.batch, *shape)).reshape(-1, *shape)
        # The mean does not change with the row's mass: each row is brought to its conditional law, mass or none.
        conditional = self.conditional()
        out = conditional.product(np.ascontiguousarray(wide.transpose(0, 2, 1)), False).transpose(0, 2, 1)
        return self.deliver(np.ascontiguousarray(out.astype(geometry.dtype)))

    def conditional(self) -> Solution:
        """Potentials under which each row sums to one, with unit masses on the rows."""
        with np.errstate(divide="ignore"):
            h = np.log(self.b) + self.g / self.eps
        f = self.geometry.softmin(h, self.eps_array, False)
        f = np.where(np.isfinite(f), f, 0.0)
        return replace(self, a=np.ones_like(f), f=f)

    def at_points(self, func: str, x_new: Array) -> Solution:
        """The same target side seen from new source points, each with unit mass and its own potential."""
        cloud = self._cloud(func)
        check_library(func, self.geometry, x_new=x_new)
        new = points_array(func, "x_new", x_new)
        geometry = as_geometry(func, PointCloud(new.astype(cloud.dtype), cloud.y, cloud.metric))
        geometry = replace(geometry, backend=self.geometry.backend)
        if geometry.problems != self.geometry.problems:
            raise ValueError(f"{func}: `x_new` must have the batch {self.geometry.batch}, got {geometry.batch}")
        with np.errstate(divide="ignore"):
            h = np.log(self.b) + self.g / self.eps
        f = geometry.softmin(h, np.full(geometry.problems, self.eps), False)
        return replace(self, geometry=geometry, a=np.ones_like(f), f=f)

    def potential_at(self, x_new: Array) -> Any:
        seen = self.at_points("potential_at", x_new)
        if self.constraints.mass is not None:
            f = np.minimum(seen.f, np.where(self.a > 0, self.f, -np.inf).max(axis=1, keepdims=True))
        else:
            f = relaxed(self.constraints.rows, seen.f, self.eps)
        return seen.deliver(f)

    def map_at(self, x_new: Array) -> Any:
        func = "map_at"
        return self.at_points(func, x_new).barycentric_map(None)

    def _rounding(self, func: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Factors of rows and columns, and what is then missing of each marginal."""
        if not self.constraints.balanced:
            raise ValueError(f"{func}: only balanced plans have prescribed marginals to be rounded to")
        r, c = self.row_marginal, self.col_marginal
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = np.minimum(1.0, np.where(r > 0, self.a / r, 1.0))
            c = self.b * self.product_scaled(rows)
            cols = np.minimum(1.0, np.where(c > 0, self.b / c, 1.0))
        scaled = self.product((cols)[:, None, :], False)[:, 0] * rows
        return rows, cols, np.maximum(self.a - scaled, 0.0), np.maximum(self.b - c * cols, 0.0)

    def product_scaled(self, rows: np.ndarray) -> np.ndarray:
        """Column sums of the plan with its rows scaled, over the column's mass."""
        sums = self.product(rows[:, None, :], True)[:, 0]
        ratio: np.ndarray = np.divide(sums, self.b, out=np.zeros_like(sums), where=self.b > 0)
        return ratio

    def rounded(self) -> np.ndarray:
        rows, cols, lack_rows, lack_cols = self._rounding("rounded")
        total = lack_rows.sum(axis=1)
        plan = self.plan().astype(np.float64) * rows[:, :, None] * cols[:, None, :]
        missing = lack_rows[:, :, None] * lack_cols[:, None, :]
        missing[np.isposinf(self.geometry.cost_rows(0, self.geometry.n))] = 0.0
        plan += np.divide(missing, total[:, None, None], out=np.zeros_like(plan), where=total[:, None, None] > 0)
        rounded: np.ndarray = plan.astype(self.geometry.dtype)
        return rounded

    def dual_gap(self) -> np.ndarray:
        rows, cols, lack_rows, lack_cols = self._rounding("dual_gap")
        total = lack_rows.sum(axis=1)[:, None, None]
        share = np.divide(lack_rows[:, :, None], total, out=np.zeros_like(lack_rows[:, :, None]), where=total > 0)
        primal = np.zeros(self.geometry.problems)
        for first, count in self.geometry.row_chunks():
            part = slice(first, first + count)
            plan = self.plan_rows(first, count).astype(np.float64) * rows[:, part, None] * cols[:, None, :]
            plan += share[:, part] * lack_cols[:, None, :]
            cost = self.geometry.cost_rows(first, count)
            reference = self.a[:, part, None] * self.b[:, None, :]
            with np.errstate(divide="ignore", invalid="ignore"):
                paid = np.where(plan > 0, plan * cost, 0.0)
                log_ratio = np.where(plan > 0, plan * np.log(plan / reference), 0.0)
            primal += (paid + self.eps * (log_ratio - plan + reference)).sum(axis=(1, 2))
        gap: np.ndarray = primal - self.dual_value()
        return gap

    def top(self, k: int) -> tuple[Any, Any]:
        func = "top"
        try:
            count = operator.index(k)
        except TypeError:
            raise TypeError(f"{func}: `k` must be an integer, got {k!r}") from None
        if not 1 <= count <= self.geometry.m:
            raise ValueError(f"{func}: `k` must be between 1 and {self.geometry.m}, got {count}")
        shape = (self.geometry.problems, self.geometry.n, count)
        index, mass = np.empty(shape, np.int64), np.empty(shape, self.geometry.dtype)
        for first, rows in self.geometry.row_chunks():
            plan = self.plan_rows(first, rows)
            order = np.argsort(-plan, axis=2, kind="stable")[:, :, :count]
            index[:, first : first + rows] = order
            mass[:, first : first + rows] = np.take_along_axis(plan, order, axis=2)
        return self.deliver(index), self.deliver(mass)


def penalty(side: Side, marginal: np.ndarray, mass: np.ndarray) -> Any:
    """What a relaxed marginal pays."""
    kind, rho, _ = side
    if kind == _KL:
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(marginal > 0, marginal * np.log(marginal / mass), 0.0) - marginal + mass
        return rho * terms.sum(axis=1)
    if kind == _TV:
        return rho * np.abs(marginal - mass).sum(axis=1)
    return 0.0


def relaxed(side: Side, soft: np.ndarray, eps: float) -> np.ndarray:
    """The potential that a side makes of a soft minimum of the costs."""
    kind, p, q = side
    if kind == _KL:
        soft = soft * (p / (p + eps))
    elif kind == _TV:
        soft = np.clip(soft, -p, p)
    elif kind == _RANGE:
        with np.errstate(divide="ignore"):
            soft = soft + eps * np.clip(-soft / eps, np.log(p), np.log(q))
    elif kind == _CAPPED:
        soft = np.minimum(soft, p)
    return soft


def dual_slope(side: Side, potential: np.ndarray) -> np.ndarray:
    """The derivative to a mass of its side's part of the dual value."""
    kind, p, q = side
    if kind == _KL:
        potential = -p * np.expm1(-potential / p) if p > 0 else np.zeros_like(potential)
    elif kind == _RANGE:
        potential = np.where(potential > 0, p, q) * potential
    return potential


def check_library(func: str, geometry: Geometry, **arrays: Any) -> None:
    """Masses and the like come from the library of the costs."""
    backend = backend_of(func, **arrays)
    name = next((name for name, x in arrays.items() if x is not None and library_of(x) is not None), None)
    if name is None:
        return
    refuse_cuda(func, backend, name)
    if backend.library != geometry.backend.library:
        raise TypeError(
            f"{func}: the costs are {geometry.backend.library} arrays but `{name}` is a {backend.library} array; "
            "move them to one library"
        )


# ---- the call --------------------------------------------------------------------------------------------------------


def check_masses(
    func: str, geometry: Geometry, constraints: Constraints, a: Array | None, b: Array | None
) -> tuple[np.ndarray, np.ndarray]:
    """Masses of both sides; in a balanced problem with equal totals."""
    masses_a = batched_masses(func, "a", a, geometry.batch, geometry.n)
    masses_b = batched_masses(func, "b", b, geometry.batch, geometry.m)
    total_a, total_b = masses_a.sum(axis=1), masses_b.sum(axis=1)
    if not geometry.batch:  # in a batch an empty problem is one without mass
        for name, total in (("a", total_a), ("b", total_b)):
            if not total.all():
                raise ValueError(f"{func}: `{name}` must have a positive total, got only zeros")
    if constraints.mass is not None:
        most = np.minimum(total_a, total_b).min(initial=np.inf)
        if constraints.mass > most * (1 + 1e-9):
            raise ValueError(f"{func}: `mass` must be at most either side's total, {most:.6g}, got {constraints.mass}")
        return masses_a, masses_b
    if not constraints.balanced:
        if ((total_a > 0) != (total_b > 0)).any():
            raise ValueError(f"{func}: `a` and `b` must both have mass, or neither")
        _check_feasible(func, geometry, constraints, masses_a, masses_b)
        return masses_a, masses_b
    rounding = rounding_of_totals(*(None if x is None else to_numpy(func, "masses", x) for x in (a, b)))
    apart = np.abs(total_a - total_b) > rounding * np.maximum(total_a, total_b)
    if apart.any():
        k = int(np.argmax(apart))
        raise ValueError(
            f"{func}: `a` and `b` must have the same total in a balanced problem, got {total_a[k]:.9g} and "
            f"{total_b[k]:.9g}; normalise them, or relax the marginals by `rho` or `mass`"
        )
    if (total_a != total_b).any():
        # Totals that differ by rounding: b is scaled to that of a.
        scale = np.divide(total_a, total_b, out=np.ones_like(total_a), where=total_b > 0)
        masses_b = np.ascontiguousarray(masses_b * scale[:, None])
    _check_feasible(func, geometry, constraints, masses_a, masses_b)
    return masses_a, masses_b


def _check_feasible(
    func: str, geometry: Geometry, constraints: Constraints, masses_a: np.ndarray, masses_b: np.ndarray
) -> None:
    """No mass that must move sits where every pair is forbidden."""
    if geometry.row_allowed is not None and geometry.col_allowed is not None:
        for name, mass, allowed, line, side in (
            ("a", masses_a, geometry.row_allowed, "row", constraints.rows),
            ("b", masses_b, geometry.col_allowed, "column", constraints.cols),
        ):
            if not (side[0] == _EXACT or (side[0] == _RANGE and side[1] > 0)):
                continue
            stuck = (mass > 0) & ~allowed
            if stuck.any():
                where = np.argwhere(stuck)[0][-1]
                raise ValueError(
                    f"{func}: `{name}` has mass at index {where}, but every pair of that {line} of `cost` is forbidden"
                )


def _check_init(func: str, init: Any, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(init, tuple | list) or len(init) != 2:
        raise TypeError(f"{func}: `init` must be a pair of potentials (f, g), got {type(init).__qualname__}")
    pair = []
    for name, potential, n in (("f", init[0], geometry.n), ("g", init[1], geometry.m)):
        check_library(func, geometry, init=potential)
        array = float_array(func, "init", potential).astype(np.float64)
        if array.shape not in ((n,), (*geometry.batch, n)):
            raise ValueError(f"{func}: `init` must hold {name} of shape {(*geometry.batch, n)}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{func}: `init` must be finite")
        pair.append(np.broadcast_to(array, (*geometry.batch, n)).reshape(-1, n).copy())
    return pair[0], pair[1]


@dataclass
class _Answer:
    """What the passes so far have come to, (B, ...) each."""

    f: np.ndarray
    g: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    n_iter: np.ndarray
    error: np.ndarray
    cost: np.ndarray
    outcome: np.ndarray
    may_be_impossible: bool

    def put(self, which: np.ndarray, fields: tuple[np.ndarray, ...]) -> None:
        """Take over (rows, cols, n_iter, error, cost, outcome) of some problems; iterations add up."""
        self.rows[which], self.cols[which] = fields[0], fields[1]
        self.n_iter[which] += fields[2]
        self.error[which], self.cost[which], self.outcome[which] = fields[3], fields[4], fields[5]


def _patience(geometry: Geometry, constraints: Constraints, accelerate: bool) -> float:
    """Passes that cost as much as ten Newton steps, whose work is cubic in the smaller side."""
    side = min(geometry.n, geometry.m)
    if not accelerate or not constraints.smooth or geometry.metric == "grid":
        return math.inf
    if side > 4096 or geometry.n * geometry.m > 5e7:
        return math.inf
    return max(200.0, 0.5 * side)


def _reach(geometry: Geometry, constraints: Constraints, eps: float) -> float:
    """Potentials beyond this say that there is no plan. Only forbidden pairs can make prescribed marginals impossible,
    and potentials of a plan are sums of fewer costs than there are points."""
    kinds = constraints.rows[0], constraints.cols[0]
    if not geometry.forbidding or not set(kinds) <= {_EXACT, _RANGE, _CAPPED}:
        return math.inf
    return 1e7 * float(geometry.span.max(initial=0.0) + eps)


def _counting_on(watch: Watch | None, done: int) -> Watch | None:
    if watch is None:
        return None
    return lambda iteration, error: watch(done + iteration, error)


def _finish_by_newton(
    geometry: Geometry, constraints: Constraints, a: np.ndarray, b: np.ndarray, eps: float, total: np.ndarray,
    tol: float, max_iter: int, watch: Watch | None, answer: _Answer,
) -> None:  # fmt: skip
    """Newton steps for the problems that were handed over, some at a time, and passes again for what they leave."""
    at_once = max(1, 20_000_000 // (geometry.n * geometry.m + min(geometry.n, geometry.m) ** 2))
    for once_more in reversed(range(_NEWTON_ROUNDS)):
        patience = _patience(geometry, constraints, True) if once_more else math.inf
        handed = np.flatnonzero((answer.outcome == _HANDED_OVER) & (answer.n_iter < max_iter - 2))
        for start in range(0, len(handed), at_once):
            which = handed[start : start + at_once]
            core, count = geometry.wide(which), len(which)
            eps_array = np.full(count, eps)
            masses = np.ascontiguousarray(a[which]), np.ascontiguousarray(b[which])
            problems = Problems(core, *masses, eps_array, total[which], constraints.rows, constraints.rho)
            done = int(answer.n_iter[which].max())
            with np.errstate(all="ignore"):  # what overflows is told of the answer
                f, g, passes = newton(
                    problems, answer.f[which], answer.g[which], 0.5 * tol, watch, done, max_iter - done - 1
                )
            done += int(passes.max())
            left = max(1, max_iter - done)
            fields = _core.transport_solve(
                core, *masses, f, g, eps_array, np.zeros(count), total[which], constraints.rows, constraints.cols, 0.0,
                tol, left, True, False, patience, math.inf, _counting_on(watch, done),
            )  # fmt: skip
            answer.f[which], answer.g[which] = f, g
            answer.n_iter[which] += passes
            answer.put(which, fields)


def solve(
    func: str, geometry: Geometry, constraints: Constraints, a: np.ndarray, b: np.ndarray, eps: float, *, tol: float,
    max_iter: int, plain: bool = False, init: tuple[np.ndarray, np.ndarray] | None = None, watch: Watch | None = None,
) -> tuple[Solution, _Answer]:  # fmt: skip
    """Run the solver on checked arguments."""
    problems = geometry.problems
    total_a, total_b = a.sum(axis=1), b.sum(axis=1)
    total = np.full(problems, constraints.mass) if constraints.mass is not None else np.maximum(total_a, total_b)
    total = np.where(total > 0, total, 1.0)
    if init is None:
        f, g = np.zeros((problems, geometry.n)), np.zeros((problems, geometry.m))
        start = np.zeros(problems) if plain else geometry.span
    else:
        f, g = init
        start = np.zeros(problems)
    # float32 factors hold plans of masses that are not far from 1 in total.
    single = geometry.dtype == np.float32 and bool(((total_a > 1e-6) & (total_a < 1e6)).all())
    reach = _reach(geometry, constraints, eps)
    fields = geometry.solve(
        a, b, f, g, np.full(problems, eps), start, total, constraints.rows, constraints.cols,
        constraints.mass or 0.0, tol, max_iter, not plain, single, _patience(geometry, constraints, not plain),
        reach, watch,
    )  # fmt: skip
    rows, cols, n_iter, error, cost, outcome = fields
    answer = _Answer(f, g, rows, cols, n_iter, error, cost, outcome, reach < math.inf)
    if (answer.outcome == _HANDED_OVER).any():
        _finish_by_newton(geometry, constraints, a, b, eps, total, tol, max_iter, watch, answer)
    if np.isnan(answer.error).any() or not (np.isfinite(answer.f).all() and np.isfinite(answer.g).all()):
        raise OverflowError(f"{func}: the plan overflows float64: the costs are too far below 0 for `eps` and `rho`")
    idle = b == 0
    if idle.any():  # only Sinkhorn's own steps move their potentials
        with np.errstate(divide="ignore"):
            soft = geometry.softmin(np.log(a) + answer.f / eps, np.full(problems, eps), True)
        reached = idle & np.isfinite(soft)
        answer.g[reached] = relaxed(constraints.cols, soft[reached], eps)
    solution = Solution(geometry, constraints, a, b, answer.f, answer.g, eps, answer.rows, answer.cols, answer.cost)
    return solution, answer


def warn_if_short(func: str, answer: _Answer, tol: float, max_iter: int) -> None:
    """Say so where a problem has not reached `tol`; a tolerance of 0 asks for all iterations, not for an error."""
    short = ~(answer.error <= tol)
    if tol == 0 or not short.any():
        return
    worst = int(np.argmax(np.where(short, np.nan_to_num(answer.error, nan=np.inf), -1.0)))
    who = f"{int(short.sum())} of {short.size} problems" if short.size > 1 else "the iteration"
    advice = {
        _STALLED: "rounding keeps it there: raise tol or eps",
        _STOPPED: "the callback stopped it",
        _DIVERGED: "the forbidden pairs of `cost` leave no plan with these masses",
    }.get(int(answer.outcome[worst]), f"raise max_iter (now {max_iter}), eps or tol")
    if not np.isfinite(answer.error[worst]):
        advice = "the plan overflows float64: the costs are too far below 0 for `eps` and the relaxation"
    elif answer.may_be_impossible and answer.outcome[worst] in (_LIMIT, _STALLED):
        advice += ", unless the forbidden pairs of `cost` leave no plan with these masses"
    warnings.warn(
        f"{func}: {who} stopped at a marginal error of {answer.error[worst]:.3g} (tol={tol:g}); {advice}",
        ConvergenceWarning,
        stacklevel=3,
    )


def sinkhorn(
    cost: Array | PointCloud | Grid,
    a: Array | None = None,
    b: Array | None = None,
    *,
    eps: float,
    tol: float = 1e-6,
    max_iter: int | None = None,
    rho: float | tuple[float, float] | None = None,
    relaxation: str = "kl",
    mass: float | None = None,
    init: tuple[Array, Array] | None = None,
    method: str = "auto",
    callback: Callable[[int, float], Any] | None = None,
    progress: bool = False,
) -> SinkhornResult:
    """Entropic optimal transport: the plan P that minimises ``<P, C> + eps KL(P | a b^T)`` for its marginals.

    Parameters
    ----------
    cost : array_like, PointCloud or Grid
        Costs (n, m), or a batch (..., n, m); +inf forbids a pair. :class:`PointCloud` computes them on the fly,
        :class:`Grid` one axis at a time.
    a : array_like, optional
        Masses (n,), or (..., n) for a batch; uniform with total 1 by default. Zeros are allowed and give zero rows.
    b : array_like, optional
        Masses (m,) or (..., m). In a balanced problem its total must be that of `a`; a difference within rounding is
        scaled away on this side.
    eps : float
        Regularisation, in the units of the cost.
    tol : float, optional
        L1 distance of both marginals to the masses, relative to the total mass, that is good enough; computed in
        float64. For relaxed problems the distance of each marginal to what its own update would make of it.
    max_iter : int, optional
        Most passes over the cost; 10,000 by default.
    rho : float or (float, float), optional
        Strength of the penalties for marginals that are not those prescribed, for both sides or for each; in the units
        of the cost. inf prescribes a side, 0 leaves it free. None, the default: both are prescribed. For
        ``relaxation="range"`` the pair (lowest, highest) factor between which marginals may lie.
    relaxation : {"kl", "tv", "range"}, optional
        The penalty: ``rho KL(P1 | a)``, ``rho |P1 - a|_1``, or none within ``lowest * a <= P1 <= highest * a``.
    mass : float, optional
        Partial transport: move this much, at most `a` from each source and at most `b` to each target.
    init : (f, g), optional
        Potentials to start from, such as those of a similar problem.
    method : {"auto", "sinkhorn"}, optional
        "auto" comes down from a large eps, then climbs the semi-dual by quasi-Newton and, where that crawls, Newton
        steps. "sinkhorn" is the plain iteration (f, then g) from `init` or zeros; with ``tol=0`` exactly `max_iter`
        times.
    callback : callable, optional
        Called with the iteration and the error it saw; True stops the work.
    progress : bool, optional
        Show a tqdm bar, where tqdm is installed.

    Returns
    -------
    SinkhornResult
        Potentials, values, the error of this very answer, and methods for the plan. For a batch, arrays.

    Raises
    ------
    ValueError
        Masses that are negative, nan, infinite or of a different total in a balanced problem, nan or -inf costs, a row
        or column that has mass and only forbidden pairs, ``eps <= 0``, empty sides, shapes that do not fit.
    TypeError
        Masked, sparse or complex arrays, or arrays of two libraries.
    DeviceError
        Device arrays.

    Warns
    -----
    ConvergenceWarning
        `tol` was not reached; the result says how far it came.

    Notes
    -----
    One pass over the cost with one exponential a pair updates both potentials: the factors of a row serve its own sum
    and, rescaled, the column sums. Sums far from 1 are recomputed by log-sum-exp, so no eps overflows. Masses stay
    outside the exponent. Costs in float32 are iterated in float32 to an error of 1e-5 and in float64 beyond.

    Time is O(n m) a pass, memory O(n + m) beyond the cost; a Newton step takes O(n m min(n, m)) time and O(n m) memory
    and is used up to min(n, m) = 4096 and n m = 5e7, for balanced and "kl" problems. The duals of "tv", "range" and
    partial transport have kinks and bounds, at which quasi-Newton steps end. Problems of a batch run side by side, each
    until its own end. Results do not depend on the number of threads. Backends: CPU.

    The result keeps `cost` and the masses, not copies: its methods see later changes of them.

    Gradients: in ``result, pullback = entropic.vjp(entropic.sinkhorn, cost, a, b, eps=eps)`` the cotangent is that of
    `value`, or a dict of those of "value", "transport_cost", "f", "g" and "plan". The gradient to a
    :class:`PointCloud` is a pair, to `x` and `y`; ``wrt=("eps",)`` adds that to eps. Values use the envelope theorem
    for every relaxation (one more pass, O(n + m) memory for points); the rest, in balanced and "kl" problems, solves
    one linear system of the smaller side and holds the plan. Gradients to the masses of a balanced problem are defined
    up to a constant, as the totals must stay equal. All are exact for converged potentials: ask for a small `tol`.
    Where eps is so small that the plan falls into blocks whose links round to nothing, nothing ties the potentials of
    one block to those of another: gradients through `f` and `g` then mean little, those through the plan do.

    References
    ----------
    Cuturi, "Sinkhorn Distances", NeurIPS 2013. Chizat, Peyre, Schmitzer and Vialard, "Scaling algorithms for unbalanced
    optimal transport problems", Math. Comp. 2018. Sejourne, Vialard and Peyre, "Faster unbalanced optimal transport",
    AISTATS 2022. Altschuler, Weed and Rigollet, "Near-linear time approximation algorithms for optimal transport via
    Sinkhorn iteration", NeurIPS 2017. Andrew and Gao, "Scalable training of L1-regularized log-linear models", ICML
    2007 (steps that end at kinks).

    Examples
    --------
    >>> import numpy as np, entropic
    >>> result = entropic.sinkhorn(np.array([[0.0, 1.0], [1.0, 0.0]]), eps=0.1)
    >>> result.plan().round(4)
    array([[0.5, 0. ],
           [0. , 0.5]])
    >>> bool(result.converged), bool(result.marginal_error < 1e-6)
    (True, True)
    """
    func = "sinkhorn"
    regularisation, tolerance = check_eps(func, eps), check_tol(func, tol)
    limit = check_max_iter(func, max_iter, 10_000)
    constraints = check_constraints(func, rho, relaxation, mass)
    if method not in ("auto", "sinkhorn"):
        raise ValueError(f"{func}: `method` must be 'auto' or 'sinkhorn', got {method!r}")
    check_callback(func, callback)
    geometry = as_geometry(func, cost)
    check_library(func, geometry, a=a, b=b)
    check_resolution(func, geometry, regularisation)
    masses = check_masses(func, geometry, constraints, a, b)
    start = None if init is None else _check_init(func, init, geometry)
    with watching(callback, progress, func) as watch:
        solution, answer = solve(
            func, geometry, constraints, *masses, regularisation, tol=tolerance, max_iter=limit,
            plain=method == "sinkhorn", init=start, watch=watch,
        )  # fmt: skip
    warn_if_short(func, answer, tolerance, limit)
    return as_result(solution, answer, tolerance)


def as_result(solution: Solution, answer: _Answer, tol: float) -> SinkhornResult:
    deliver = solution.deliver
    return SinkhornResult(
        deliver(answer.f), deliver(answer.g), deliver(solution.value()), deliver(answer.cost), deliver(answer.error),
        deliver(answer.n_iter), deliver(answer.error <= tol), solution.eps, solution,
    )  # fmt: skip
