"""Transport without regularisation, by SciPy's solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import Array
from ..logits._functions import cast
from ._geometry import PointCloud, as_geometry, as_masses
from ._one_dimensional import check_totals
from ._sinkhorn import check_library

_EPS = float(np.finfo(np.float64).eps)
_MAX_ENTRIES = 4_000_000  # of the cost


@dataclass(frozen=True, eq=False, repr=False)
class ExactTransport:
    """An optimal plan without regularisation, and the potentials that prove it.

    Attributes
    ----------
    value : float
        ``<P, C>``, equal to ``<f, a> + <g, b>``.
    plan : scipy.sparse.coo_array, shape (n, m)
        The plan's entries that are not 0, at most n + m - 1.
    f : ndarray, shape (n,)
        Potential of the rows: ``f_i + g_j <= C_ij``, with equality where the plan has mass.
    g : ndarray, shape (m,)
        Potential of the columns.
    method : str
        "assignment" or "linear program".
    """

    value: float
    plan: Any
    f: Any
    g: Any
    method: str

    def __repr__(self) -> str:
        size = f"shape={self.plan.shape}, nnz={self.plan.nnz}"
        return f"ExactTransport(value={self.value}, {size}, method={self.method!r})"


def _is_constant(masses: np.ndarray) -> bool:
    return bool((masses == masses[0]).all())


def _no_plan(func: str) -> ValueError:
    return ValueError(f"{func}: `cost` must leave every mass a pair, got infinite entries that forbid any plan")


def _path_lengths(parent: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Sums of steps from each node of a tree to its root, which is its own parent, by doubling the jumps."""
    length = step.copy()
    for _ in range(len(parent).bit_length()):
        length += length[parent]
        parent = parent[parent]
    return length


def _assignment_potentials(cost: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optimal potentials of a square cost whose largest entry is about 1, from the column assigned to each row.

    With the pairs numbered by row, f_i + g_i = C_ii and f_i + g_j <= C_ij say ``g_j <= g_i + C_ij - C_ii``: g is a
    shortest distance. Each node has a parent, and takes a better one until none is better (policy iteration), which
    needs tens of rounds where Bellman and Ford's need as many as the longest path has steps.
    """
    n = len(cost)
    node = np.arange(n)
    matched = cost[node, column]
    lengths = np.ascontiguousarray((cost[:, column] - matched[:, None]).T)  # row j: from every i to j
    parent, step = np.full(n + 1, n), np.zeros(n + 1)  # node n is a root at distance 0 from every other
    distance = np.zeros(n)
    for _ in range(n):
        distance = _path_lengths(parent, step)[:n]
        reach = lengths + distance
        best = reach.argmin(axis=1)
        # Better by more than the rounding of n steps: less could close a cycle.
        better = np.flatnonzero(reach[node, best] < distance - (n + 64) * _EPS)
        if len(better) == 0:
            break
        parent[better], step[better] = best[better], lengths[better, best[better]]
    g = np.empty(n)
    g[column] = distance
    return matched - distance, g


def _solve_assignment(func: str, cost: np.ndarray, mass: float) -> tuple[np.ndarray, ...]:
    """Rows, columns and masses of the plan's entries, and the potentials."""
    from scipy.optimize import linear_sum_assignment

    try:
        row, column = linear_sum_assignment(cost)
    except ValueError:
        raise _no_plan(func) from None
    return row, column, np.full(len(row), mass), *_assignment_potentials(cost, column)


def _conjugate(cost: np.ndarray, potential: np.ndarray) -> np.ndarray:
    """The largest potential of the rows that goes with one of the columns; 0 for a row without a pair."""
    highest = (cost - potential).min(axis=1)
    return np.where(np.isinf(highest), 0.0, highest)


def _solve_program(func: str, cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """As `_solve_assignment`, for any masses."""
    from scipy.optimize import linprog
    from scipy.sparse import csc_array

    rows, columns = np.flatnonzero(a), np.flatnonzero(b)
    inner = cost[np.ix_(rows, columns)]
    i, j = np.nonzero(np.isfinite(inner))
    if len(i) == 0:
        raise _no_plan(func)
    # HiGHS's tolerances are absolute: give it a mean mass of 1.
    unit = a.sum() / max(len(rows), len(columns))
    marginals = np.concatenate([a[rows], b[columns]]) / unit
    ends = np.stack([i, len(rows) + j], axis=1).ravel()
    constraints = csc_array((np.ones(2 * len(i)), ends, np.arange(0, 2 * len(i) + 1, 2)), (len(marginals), len(i)))
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    found = linprog(inner[i, j], A_eq=constraints, b_eq=marginals, method="highs", options=options)
    if found.status == 2:
        raise _no_plan(func)
    if found.status != 0:
        raise RuntimeError(f"{func}: SciPy's solver stopped without a plan: {found.message}")
    used = found.x > 0
    # The solver's potentials hold to its tolerance; conjugates hold to rounding, without mass too, and are no worse.
    f = _conjugate(cost[:, columns], found.eqlin.marginals[len(rows) :])
    g = _conjugate(cost.T, f)
    return rows[i[used]], columns[j[used]], found.x[used] * unit, f, g


def transport_exact(cost: Array | PointCloud, a: Array | None = None, b: Array | None = None) -> ExactTransport:
    """Optimal transport without regularisation, the least ``<P, C>`` over plans with masses a and b, through SciPy.

    Parameters
    ----------
    cost : array_like, shape (n, m), or PointCloud
        The cost; +inf forbids a pair. At most 4 million entries, which a point cloud stores here.
    a : array_like, shape (n,), optional
        Masses of the rows, not negative; zeros are allowed. None, the default, means 1/n each.
    b : array_like, shape (m,), optional
        Masses of the columns, with the total of `a`; None means 1/m each.

    Returns
    -------
    ExactTransport
        With `value`, `plan` (a SciPy sparse array), the potentials `f` and `g`, and `method`. Arrays are float32 if
        `cost` is, else float64; the computation is in float64.

    Raises
    ------
    ValueError
        A cost that is nan or -inf, is not a matrix, is empty or has more than 4 million entries, or whose infinite
        entries leave no plan; masses that are nan, infinite, negative or of the wrong length; totals that differ (by
        more than 1e-8, or 1e-5 where masses are float32).
    TypeError
        Arrays that are not real numbers, or arrays of two libraries.
    DeviceError
        Device arrays.
    ImportError
        SciPy is not installed.

    Notes
    -----
    Equal masses on as many rows as columns make an assignment, for :func:`scipy.optimize.linear_sum_assignment`; its
    potentials are shortest distances over the pairs. Everything else is a linear program for
    :func:`scipy.optimize.linprog` (HiGHS), whose potentials are replaced by their conjugates. The potentials satisfy
    ``f_i + g_j <= C_ij`` to rounding (1e-12 of the largest finite cost) and prove the value. The plan of a linear
    program has its masses to 1e-10 of the largest of the mean masses. Potentials are one choice of many: a constant can
    move from f to g, and where the plan is degenerate there is more freedom.

    An assignment takes time O(n^3) at worst, in practice about 1 s for n = 2000; a linear program seconds for n = 500.
    Memory O(n m). Larger problems are for :func:`entropic.sinkhorn`. Backends: CPU, in SciPy; device arrays raise
    DeviceError.

    References
    ----------
    D. F. Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Trans. Aerosp. Electron. Syst. 52
    (2016). Q. Huangfu, J. A. J. Hall, "Parallelizing the dual revised simplex method", Math. Program. Comput. 10
    (2018).

    Examples
    --------
    >>> import numpy as np, entropic
    >>> best = entropic.transport_exact(np.array([[4.0, 1.0], [2.0, 0.0]]))
    >>> best.value
    1.5
    >>> best.plan.toarray()
    array([[0. , 0.5],
           [0.5, 0. ]])
    """
    func = "transport_exact"
    geometry = as_geometry(func, cost)
    if geometry.batch:
        raise ValueError(f"{func}: `cost` must have shape (n, m), got {(*geometry.batch, geometry.n, geometry.m)}")
    if geometry.n * geometry.m > _MAX_ENTRIES:
        raise ValueError(
            f"{func}: `cost` must have at most {_MAX_ENTRIES} entries, got shape {(geometry.n, geometry.m)}; "
            "use entropic.sinkhorn with a small eps for larger problems"
        )
    check_library(func, geometry, a=a, b=b)
    mass_a, mass_b = as_masses(func, "a", a, geometry.n), as_masses(func, "b", b, geometry.m)
    check_totals(func, a, b)
    mass_b = mass_b * (mass_a.sum() / mass_b.sum())  # totals that differ by rounding leave no plan at all
    wide = geometry.cost_rows(0, geometry.n)[0].astype(np.float64, copy=False)
    # A power of two, which changes no digit, brings the cost to the size that the solvers' tolerances expect.
    exponent = int(np.frexp(np.abs(wide[np.isfinite(wide)]).max(initial=0.0))[1])
    scaled = np.ldexp(wide, -exponent)
    if geometry.n == geometry.m and _is_constant(mass_a) and _is_constant(mass_b):
        method = "assignment"
        row, column, mass, f, g = _solve_assignment(func, scaled, float(mass_a[0]))
    else:
        method = "linear program"
        row, column, mass, f, g = _solve_program(func, scaled, mass_a, mass_b)
    from scipy.sparse import coo_array

    with np.errstate(over="ignore"):
        f, g = (cast(np.ldexp(potential, exponent), geometry.dtype) for potential in (f, g))
        value = float(np.ldexp((mass * scaled[row, column]).sum(), exponent))
    plan = coo_array((cast(mass, geometry.dtype), (row, column)), wide.shape)
    return ExactTransport(value, plan, geometry.backend.wrap(f), geometry.backend.wrap(g), method)
