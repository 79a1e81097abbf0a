"""Gradients of entropic transport: values by the envelope theorem, plans and potentials by implicit differentiation.

With E_ij = exp((f_i + g_j - C_ij) / eps), the plan P = a_i b_j E_ij and marginals r, c, potentials solve
``r_i = a_i exp(-f_i / rho1)`` and ``c_j = b_j exp(-g_j / rho2)``. For a loss with cotangents W of P and (u, w) of
(f, g), let Q = P * W and (x, y) solve

    [[diag(r (1 + eps/rho1)), P], [P^T, diag(c (1 + eps/rho2))]] (x, y) = (u + Q 1 / eps, w + Q^T 1 / eps).

Then dL/dC = P * (x_i + y_j - W / eps), dL/da_i = sum_j b_j E_ij (W_ij - eps y_j), dL/db_j likewise, and
dL/deps = sum_ij P_ij (f_i + g_j - C_ij) (x_i + y_j - W_ij / eps) / eps. Points without mass follow the others: their
rows of the system are taken per unit of mass, and have no part in the others' equations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .._backend import Array, Backend, to_numpy
from .._vjp import Pullback, cotangent_of, rule_for, unbroadcast
from ..logits._functions import cast, float_dtype
from ._divergence import sinkhorn_divergence
from ._geometry import unit_vectors
from ._newton import solve_hessian
from ._sinkhorn import Solution, dual_slope, sinkhorn

_LARGEST_PLAN = 20_000_000  # entries that implicit differentiation holds at once
_FREE = 1e30  # eps / rho of a side whose potential is 0: its equation holds it there
_LEAST_RIDGE = 1e-14  # relative to the diagonal: balanced systems are singular

# Rows of a matrix over the pairs, some at a time: (first row, (B, rows, m)).
Chunks = Iterable[tuple[int, np.ndarray]]


class _Gradients:
    """What the cotangents of one solution add up to, in float64."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.cost: list[Chunks] = []
        self.a, self.b = np.zeros_like(solution.f), np.zeros_like(solution.g)
        self.eps = 0.0

    def of_masses(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        by_mass = self.a if name == "a" else self.b
        return unbroadcast(by_mass.reshape(*self.solution.geometry.batch, -1), shape)

    def of_points(self, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> list[np.ndarray]:
        geometry = self.solution.geometry
        pairs = [_to_points(self.solution, chunks) for chunks in self.cost]
        return [
            unbroadcast(sum(grads).reshape(*geometry.batch, *grads[0].shape[1:]), shape)
            for grads, shape in zip(zip(*pairs, strict=True), shapes, strict=True)
        ]

    def of_costs(self) -> np.ndarray:
        geometry = self.solution.geometry
        total = np.zeros((geometry.problems, geometry.n, geometry.m))
        for chunks in self.cost:
            for first, rows in chunks:
                total[:, first : first + rows.shape[1]] += rows
        return total.reshape(*geometry.batch, geometry.n, geometry.m)


def _deliver(backend: Backend, grad: np.ndarray, given: np.ndarray) -> Any:
    """The gradient in the float type and the shape of what was given; points (n,) count as (n, 1) until here."""
    return backend.wrap(cast(grad, float_dtype(given)).reshape(given.shape))


# ---- points ----------------------------------------------------------------------------------------------------------


def _to_points(s: Solution, chunks: Chunks) -> tuple[np.ndarray, np.ndarray]:
    """Gradients to the points (B, n, d), (B, m, d) of a loss whose gradient to the costs comes in `chunks`."""
    geometry, cloud = s.geometry, s.geometry.cloud
    assert cloud is not None
    x, y = (
        np.broadcast_to(p.astype(np.float64), (*geometry.batch, *p.shape[-2:])).reshape(-1, *p.shape[-2:])
        for p in (cloud.x, cloud.y)
    )
    if cloud.metric == "cosine":
        unit_x, unit_y = unit_vectors("vjp", "x", x), unit_vectors("vjp", "y", y)
        grads = _products(unit_x, unit_y, chunks)
        return _along_sphere(x, unit_x, grads[0]), _along_sphere(y, unit_y, grads[1])
    if cloud.metric == "dot":
        return _products(x, y, chunks)
    if cloud.metric == "manhattan":
        return _signs(x, y, chunks)
    middle = y.mean(axis=1, keepdims=True)  # differences of sums far from the origin would cancel
    if cloud.metric == "euclidean":
        return _pulls(x - middle, y - middle, _over_distance(s, chunks), 1.0)
    return _pulls(x - middle, y - middle, chunks, 2.0)


def _products(x: np.ndarray, y: np.ndarray, chunks: Chunks) -> tuple[np.ndarray, np.ndarray]:
    """Costs -x.y."""
    by_x, by_y = np.zeros_like(x), np.zeros_like(y)
    for first, rows in chunks:
        part = slice(first, first + rows.shape[1])
        by_x[:, part] = -(rows @ y)
        by_y -= rows.transpose(0, 2, 1) @ x[:, part]
    return by_x, by_y


def _pulls(x: np.ndarray, y: np.ndarray, chunks: Chunks, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Costs strength |x - y|^2 / 2: each pair pulls along its difference."""
    by_x, by_y = np.zeros_like(x), np.zeros_like(y)
    for first, rows in chunks:
        part = slice(first, first + rows.shape[1])
        by_x[:, part] = rows.sum(axis=2)[:, :, None] * x[:, part] - rows @ y
        by_y += rows.sum(axis=1)[:, :, None] * y - rows.transpose(0, 2, 1) @ x[:, part]
    return strength * by_x, strength * by_y


def _over_distance(s: Solution, chunks: Chunks) -> Chunks:
    """Pairs at distance 0 have no direction, and pull nowhere."""
    for first, rows in chunks:
        distance = s.geometry.cost_rows(first, rows.shape[1]).astype(np.float64)
        yield first, np.divide(rows, distance, out=np.zeros_like(rows), where=distance > 0)


def _signs(x: np.ndarray, y: np.ndarray, chunks: Chunks) -> tuple[np.ndarray, np.ndarray]:
    """Costs sum |x_k - y_k|."""
    by_x, by_y = np.zeros_like(x), np.zeros_like(y)
    for first, rows in chunks:
        part = slice(first, first + rows.shape[1])
        for k in range(x.shape[2]):
            pull = rows * np.sign(x[:, part, None, k] - y[:, None, :, k])
            by_x[:, part, k] = pull.sum(axis=2)
            by_y[:, :, k] -= pull.sum(axis=1)
    return by_x, by_y


def _along_sphere(x: np.ndarray, unit: np.ndarray, grad: np.ndarray) -> np.ndarray:
    radial = np.sum(grad * unit, axis=2, keepdims=True)
    along: np.ndarray = (grad - radial * unit) / np.linalg.norm(x, axis=2, keepdims=True)
    return along


# ---- values: the envelope theorem ------------------------------------------------------------------------------------


def _envelope(s: Solution, cotangent: np.ndarray, grads: _Gradients) -> None:
    """Adds the gradients of cotangent * value, (B,): potentials do not move the value to first order."""

    def plan() -> Chunks:
        for first, count in s.geometry.row_chunks():
            yield first, cotangent[:, None, None] * s.plan_rows(first, count)

    grads.cost.append(_Again(plan))
    total_a, total_b = s.a.sum(axis=1, keepdims=True), s.b.sum(axis=1, keepdims=True)
    grads.a += cotangent[:, None] * (_mass_slope(s, True) + s.eps * (total_b - _row_sums(s, True)))
    grads.b += cotangent[:, None] * (_mass_slope(s, False) + s.eps * (total_a - _row_sums(s, False)))
    moved = s.row_marginal.sum(axis=1)
    energy = np.einsum("bi,bi->b", s.row_marginal, s.f) + np.einsum("bj,bj->b", s.col_marginal, s.g) - s.transport_cost
    grads.eps += float(cotangent @ (energy / s.eps - moved + total_a[:, 0] * total_b[:, 0]))


class _Again:
    """Chunks that can be walked more than once."""

    def __init__(self, walk: Callable[[], Chunks]) -> None:
        self._walk = walk

    def __iter__(self) -> Any:
        return iter(self._walk())


def _row_sums(s: Solution, rows: bool) -> np.ndarray:
    """``sum_j b_j E_ij``, the marginal over the mass, of points without mass as well; or of the columns."""
    with np.errstate(divide="ignore"):
        h = np.log(s.b) + s.g / s.eps if rows else np.log(s.a) + s.f / s.eps
    own = s.f if rows else s.g
    soft = s.geometry.softmin(h, s.eps_array, not rows)
    reached = np.isfinite(soft)  # unless all its pairs are forbidden
    return np.where(reached, np.exp((own - np.where(reached, soft, own)) / s.eps), 0.0)


def _mass_slope(s: Solution, rows: bool) -> np.ndarray:
    """The derivative to a mass of its side's part of the dual value, sum a phi(f)."""
    side = s.constraints.rows if rows else s.constraints.cols
    potential = s.f if rows else s.g
    if s.constraints.mass is not None:
        # Row potentials hold that of the total mass, their upper bound, which has no part in the derivative.
        return potential - np.where(s.a > 0, potential, -np.inf).max(axis=1, keepdims=True) if rows else potential
    return dual_slope(side, potential)


# ---- plans and potentials: implicit differentiation ------------------------------------------------------------------


def _implicit(s: Solution, parts: dict[str, np.ndarray], grads: _Gradients) -> None:
    geometry = s.geometry
    if not s.constraints.by_divergence:
        raise TypeError(
            "pullback of sinkhorn: plans and potentials have gradients in balanced and KL-relaxed problems only"
        )
    if geometry.problems * geometry.n * geometry.m > _LARGEST_PLAN:
        raise ValueError(
            f"pullback of sinkhorn: gradients through plans and potentials hold the plan, of at most "
            f"{_LARGEST_PLAN:,} entries, got {geometry.problems} x {geometry.n} x {geometry.m}"
        )
    ones = np.ones_like(s.f), np.ones_like(s.g)
    cost = geometry.cost_rows(0, geometry.n).astype(np.float64)
    with np.errstate(over="ignore"):
        ratio = geometry.plan_rows(*ones, s.f, s.g, s.eps_array, 0, geometry.n).astype(np.float64)
    ratio = np.minimum(ratio, 1e300)  # pairs of points without mass, which nothing bounds
    by_row, by_col = ratio * s.b[:, None, :], ratio * s.a[:, :, None]  # per unit of the row's, the column's mass
    plan = by_row * s.a[:, :, None]
    upstream = np.zeros_like(plan)
    if "plan" in parts:
        upstream = upstream + parts["plan"]
    paid = parts.get("transport_cost")
    if paid is not None:
        upstream = upstream + paid[:, None, None] * np.where(plan > 0, cost, 0.0)
    u, w = parts.get("f", np.zeros_like(s.f)), parts.get("g", np.zeros_like(s.g))
    if s.constraints.balanced:
        _check_gauge(u, w)
    x, y = _adjoint(s, plan, by_row, by_col, upstream, u, w)
    pair = x[:, :, None] + y[:, None, :]
    slope = plan * (pair - upstream / s.eps)
    # Potentials of points without mass depend on the costs of their rows and columns, too.
    slope += np.where((s.a > 0)[:, :, None], 0.0, by_row * x[:, :, None])
    slope += np.where((s.b > 0)[:, None, :], 0.0, by_col * y[:, None, :])
    with np.errstate(invalid="ignore"):
        exponent = np.where(np.isfinite(cost), s.f[:, :, None] + s.g[:, None, :] - cost, 0.0)
    grads.eps += float(np.sum(slope * exponent) / s.eps)
    unit_x, unit_y = np.where(s.a > 0, s.a, 1.0) * x, np.where(s.b > 0, s.b, 1.0) * y
    grads.a += np.sum(by_row * upstream, axis=2) - s.eps * np.einsum("bij,bj->bi", ratio, unit_y)
    grads.b += np.sum(by_col * upstream, axis=1) - s.eps * np.einsum("bij,bi->bj", ratio, unit_x)
    if paid is not None:
        slope = slope + paid[:, None, None] * plan
    grads.cost.append([(0, slope)])


def _adjoint(
    s: Solution, plan: np.ndarray, by_row: np.ndarray, by_col: np.ndarray, upstream: np.ndarray, u: np.ndarray,
    w: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    damp_rows, damp_cols = (1 + (s.eps / rho if rho > 0 else _FREE) for rho in s.constraints.rho)
    flow = plan * upstream / s.eps
    with_a, with_b = s.a > 0, s.b > 0
    x, y = _of_idle(u, with_a, damp_rows * by_row.sum(axis=2)), _of_idle(w, with_b, damp_cols * by_col.sum(axis=1))
    right_rows = np.where(with_a, u + flow.sum(axis=2) - np.einsum("bij,bj->bi", by_col, y), 0.0)
    right_cols = np.where(with_b, w + flow.sum(axis=1) - np.einsum("bij,bi->bj", by_row, x), 0.0)
    rows = np.where(with_a, plan.sum(axis=2) * damp_rows, 1.0)
    cols = np.where(with_b, plan.sum(axis=1) * damp_cols, 1.0)
    ridge = 1 + _LEAST_RIDGE
    inner_x, inner_y = solve_hessian(plan, rows * ridge, cols * ridge, right_rows, right_cols)
    return x + inner_x, y + inner_y


def _of_idle(cotangent: np.ndarray, with_mass: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The adjoint of points without mass, each by itself; one whose pairs are all forbidden has none."""
    out: np.ndarray = np.divide(cotangent, slope, out=np.zeros_like(slope), where=~with_mass & (slope > 0))
    return out


def _check_gauge(u: np.ndarray, w: np.ndarray) -> None:
    """Balanced potentials leave open a constant that moves from f to g: a loss must not depend on it."""
    size = np.abs(u).sum(axis=1) + np.abs(w).sum(axis=1)
    if (np.abs(u.sum(axis=1) - w.sum(axis=1)) > 1e-8 * size).any():
        raise ValueError(
            "pullback of sinkhorn: balanced potentials are defined up to a constant that moves from `f` to `g`, so the "
            "cotangents of `f` and `g` must have the same sum"
        )


# ---- the rules -------------------------------------------------------------------------------------------------------


def _read_cotangents(s: Solution, cotangent: Any) -> dict[str, np.ndarray]:
    g = s.geometry
    shapes = {"value": (), "transport_cost": (), "f": (g.n,), "g": (g.m,), "plan": (g.n, g.m)}
    named = cotangent if isinstance(cotangent, dict) else {"value": cotangent}
    if not named:
        raise ValueError(f"pullback of sinkhorn: cotangents must be of some of {', '.join(shapes)}, got none")
    unknown = set(named) - set(shapes)
    if unknown:
        raise TypeError(f"pullback of sinkhorn: cotangents are of {', '.join(shapes)}, got {sorted(unknown)}")
    return {
        name: cotangent_of("sinkhorn", x, (*g.batch, *shapes[name]), f"cotangent of {name}").reshape(-1, *shapes[name])
        for name, x in named.items()
    }


def _of_rest(
    names: Iterable[str], given: dict[str, Any], backend: Backend, eps: float,
    by_mass: Callable[[str, tuple[int, ...]], np.ndarray],
) -> list[Any]:  # fmt: skip
    """Gradients to the named masses and eps; uniform masses, None, are no variable."""
    found: list[Any] = []
    for name in names:
        if name == "eps":
            found.append(eps)
        elif given[name] is None:
            found.append(None)
        else:
            array = to_numpy("vjp", name, given[name])
            found.append(_deliver(backend, by_mass(name, array.shape), array))
    return found


@rule_for(sinkhorn, keyword_arrays=("a", "b", "eps"))
def _sinkhorn_rule(cost: Any, *masses: Array | None, wrt: tuple[str, ...] = (), **options: Any) -> tuple[Any, Pullback]:
    result = sinkhorn(cost, *masses, **options)
    s: Solution = result._solution
    backend, cloud = s.geometry.backend, s.geometry.cloud
    given = dict(zip("ab", masses, strict=False)) | options

    def by_cost(grads: _Gradients) -> Any:
        if cloud is not None:
            pair = grads.of_points((cloud.x.shape, cloud.y.shape))
            return tuple(_deliver(backend, x, p) for x, p in zip(pair, (cloud.x, cloud.y), strict=True))
        if s.geometry.metric == "grid":
            return None
        return _deliver(backend, grads.of_costs(), to_numpy("vjp", "cost", cost))

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        parts = _read_cotangents(s, cotangent)
        grads = _Gradients(s)
        if "value" in parts:
            _envelope(s, parts["value"], grads)
        if parts.keys() - {"value"}:
            _implicit(s, parts, grads)
        names = [*"ab"[: len(masses)], *wrt]
        return by_cost(grads), *_of_rest(names, given, backend, grads.eps, grads.of_masses)

    return result, pullback


@rule_for(sinkhorn_divergence, keyword_arrays=("a", "b", "eps"))
def _divergence_rule(
    x: Array, y: Array, *masses: Array | None, wrt: tuple[str, ...] = (), **options: Any
) -> tuple[Any, Pullback]:
    func = "sinkhorn_divergence"
    answer = sinkhorn_divergence(x, y, *masses, **options)
    cross, self_x, self_y = (part._solution for part in (answer.xy, answer.xx, answer.yy))
    geometry = cross.geometry
    cloud = geometry.cloud
    assert cloud is not None
    given = dict(zip("ab", masses, strict=False)) | options

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        weight = cotangent_of(func, cotangent, geometry.batch)
        grads = _Gradients(cross)
        _envelope(cross, weight.reshape(-1), grads)
        excess = cross.a.sum(axis=1) - cross.b.sum(axis=1)
        push = (cross.eps * weight.reshape(-1) * excess)[:, None]
        grads.a += push
        grads.b -= push
        points = grads.of_points((cloud.x.shape, cloud.y.shape))
        by_eps = grads.eps + 0.5 * float(weight.reshape(-1) @ excess**2)
        own = []
        for k, solution in enumerate((self_x, self_y)):
            mine = _Gradients(solution)
            _envelope(solution, -0.5 * unbroadcast(weight, solution.geometry.batch).reshape(-1), mine)
            points[k] = points[k] + sum(mine.of_points((points[k].shape, points[k].shape)))
            by_eps += mine.eps
            own.append(mine)

        def by_mass(name: str, shape: tuple[int, ...]) -> np.ndarray:
            mine = own["ab".index(name)]
            parts = (grads.of_masses(name, shape), mine.of_masses("a", shape), mine.of_masses("b", shape))
            total: np.ndarray = np.sum(parts, axis=0)
            return total

        given_points = (to_numpy("vjp", name, p) for name, p in (("x", x), ("y", y)))
        pair = (_deliver(geometry.backend, grad, p) for grad, p in zip(points, given_points, strict=True))
        names = [*"ab"[: len(masses)], *wrt]
        return *pair, *_of_rest(names, given, geometry.backend, by_eps, by_mass)

    return answer, pullback
