"""What a plan moves mass between: stored costs, point clouds and grids, with their masses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, Backend, backend_of, refuse_cuda, to_numpy

# The order of Metric in csrc, and the factor of each cost.
_METRICS = {
    "dot": (0, -1.0),
    "sqeuclidean": (1, 1.0),
    "euclidean": (2, 1.0),
    "manhattan": (3, 1.0),
    "cosine": (1, 0.5),  # of unit vectors: |x - y|^2 / 2 = 1 - cos, without its cancellation at small angles
}

# How costs grow with the points.
_DEGREES = {"dot": 2, "sqeuclidean": 2, "euclidean": 1, "manhattan": 1, "cosine": 0}


def float_array(func: str, name: str, x: Array) -> np.ndarray:
    """A real array as float32 or float64 in native order; other types become float64, halves float32."""
    array = to_numpy(func, name, x)
    if array.dtype.kind == "c":
        raise TypeError(f"{func}: `{name}` must be real, got dtype {array.dtype}")
    if array.dtype.kind in "biu":
        return array.astype(np.float64)
    return array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32, copy=False)


def points_array(func: str, name: str, x: Array) -> np.ndarray:
    """Samples (..., n, d), finite; (n,) counts as (n, 1)."""
    array = float_array(func, name, x)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim < 2 or array.shape[-1] == 0:
        raise ValueError(f"{func}: `{name}` must have shape (..., n, d), got {array.shape}")
    if array.shape[-2] == 0:
        raise ValueError(f"{func}: `{name}` must hold at least one point, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{func}: `{name}` must be finite")
    return array


class PointCloud:
    """Costs between the points of two clouds, computed where they are needed and never stored.

    Parameters
    ----------
    x : array_like
        Points of shape (n, d), or (..., n, d) for a batch of problems. One dimension counts as (n, 1). float32 and
        float64 keep their type.
    y : array_like
        Points of shape (m, d), or (..., m, d).
    metric : {"sqeuclidean", "euclidean", "manhattan", "dot", "cosine"}, optional
        The cost: ``|x - y|**2`` in full, ``|x - y|``, ``sum(|x_k - y_k|)``, ``-<x, y>``, or one minus the cosine.

    Raises
    ------
    ValueError
        Empty or non-finite points, dimensions that differ, an unknown metric, or a zero vector under "cosine".
    TypeError
        Complex, masked or sparse arrays, or arrays of two libraries.
    DeviceError
        Device arrays.

    Notes
    -----
    Memory is O(n + m) at any size. Distances are sums of squared differences, so clouds far from the origin lose
    nothing. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.linspace(0, 1, 50_000)[:, None]
    >>> entropic.PointCloud(x, x + 1).shape
    (50000, 50000)
    """

    def __init__(self, x: Array, y: Array, metric: str = "sqeuclidean") -> None:
        func = "PointCloud"
        self.backend = backend_of(func, x=x, y=y)
        refuse_cuda(func, self.backend, "x")
        if not isinstance(metric, str) or metric not in _METRICS:
            raise ValueError(f"{func}: `metric` must be one of {', '.join(sorted(_METRICS))}, got {metric!r}")
        self.metric = metric
        self.x, self.y = points_array(func, "x", x), points_array(func, "y", y)
        if self.x.shape[-1] != self.y.shape[-1]:
            raise ValueError(
                f"{func}: `x` and `y` must have the same dimension, got shapes {self.x.shape} and {self.y.shape}"
            )
        try:
            self.batch = np.broadcast_shapes(self.x.shape[:-2], self.y.shape[:-2])
        except ValueError:
            raise ValueError(
                f"{func}: the batches of `x` and `y` do not broadcast, got shapes {self.x.shape} and {self.y.shape}"
            ) from None
        self.dtype = np.result_type(self.x, self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the cost that is not stored."""
        return (*self.batch, self.x.shape[-2], self.y.shape[-2])

    def __repr__(self) -> str:
        return f"PointCloud(shape={self.shape}, d={self.x.shape[-1]}, metric={self.metric!r}, dtype={self.dtype})"


class Grid:
    """Costs between the points of a grid, ``sum_k |x_k - y_k|**p``, taken one axis at a time.

    Parameters
    ----------
    *axes : array_like
        Coordinates along each axis, 1-D: the grid has their product of points, in row-major order. An integer n stands
        for n points spread evenly over [0, 1].
    p : float, optional
        Power of the differences, at least 1.

    Raises
    ------
    ValueError
        No axes, an axis that is not 1-D, empty or not finite, or a power below 1.
    TypeError
        Complex, masked or sparse arrays.
    DeviceError
        Device arrays.

    Notes
    -----
    A pass costs N times the sum of the axes' lengths instead of N squared, for N points; memory is O(N). Masses and
    potentials have shape (N,): ravel images. Forming the plan, or products with it, still takes N squared time.
    Computed in float64. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> image = np.ones((32, 32))
    >>> image[8:16] = 5
    >>> result = entropic.sinkhorn(entropic.Grid(32, 32), image.ravel(), image.T.ravel(), eps=0.01)
    >>> bool(result.converged)
    True
    """

    def __init__(self, *axes: Array | int, p: float = 2) -> None:
        func = "Grid"
        if not axes:
            raise ValueError(f"{func}: needs at least one axis")
        if isinstance(p, bool) or not isinstance(p, int | float | np.integer | np.floating):
            raise TypeError(f"{func}: `p` must be a number, got {p!r}")
        if not 1 <= p < math.inf:
            raise ValueError(f"{func}: `p` must be at least 1 and finite, got {p!r}")
        self.p = float(p)
        self.backend = backend_of(func, **{f"axes[{k}]": x for k, x in enumerate(axes) if not isinstance(x, int)})
        refuse_cuda(func, self.backend, "axes")
        self.axes = tuple(self._axis(func, k, axis) for k, axis in enumerate(axes))

    @staticmethod
    def _axis(func: str, k: int, axis: Array | int) -> np.ndarray:
        if isinstance(axis, int):
            if axis < 1:
                raise ValueError(f"{func}: `axes[{k}]` must be at least 1 point, got {axis}")
            return np.linspace(0.0, 1.0, axis)
        points = float_array(func, f"axes[{k}]", axis).astype(np.float64)
        if points.ndim != 1 or points.size == 0 or not np.isfinite(points).all():
            raise ValueError(f"{func}: `axes[{k}]` must be finite coordinates of shape (n,), got shape {points.shape}")
        return points

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each axis."""
        return tuple(axis.size for axis in self.axes)

    def __repr__(self) -> str:
        return f"Grid(shape={self.shape}, p={self.p:g})"


def unit_vectors(func: str, name: str, x: np.ndarray) -> np.ndarray:
    """Rows scaled to length one, in float64 until the last step."""
    wide = x.astype(np.float64)
    largest = np.abs(wide).max(axis=-1, keepdims=True)
    if not largest.all():
        raise ValueError(f"{func}: `{name}` must not hold zero vectors with metric 'cosine'")
    wide = wide / largest
    unit: np.ndarray = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    return unit.astype(x.dtype)


@dataclass(frozen=True, eq=False)
class Geometry:
    """A batch of costs as the compiled module takes them, and what is known of it."""

    core: Any
    backend: Backend
    batch: tuple[int, ...]
    n: int
    m: int
    dtype: np.dtype
    span: np.ndarray
    """Largest less smallest finite cost of each problem, or a bound of it."""
    x: np.ndarray
    """Stored costs (B, n, m), or points (B, n, d)."""
    y: np.ndarray | None = None
    metric: str = ""
    scale: float = 1.0
    """Factor of the metric."""
    row_allowed: np.ndarray | None = None
    col_allowed: np.ndarray | None = None
    forbidding: bool = False
    """Are there forbidden pairs?"""
    cloud: PointCloud | None = None
    grid: Grid | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Results are pickled without the compiled costs, which are read again."""
        return _restored, (self.cloud or self.grid or self.x.reshape(*self.batch, self.n, self.m), self.backend)

    @property
    def problems(self) -> int:
        return math.prod(self.batch)

    # What the compiled module does with these costs; grids have ways of their own.

    def solve(self, *args: Any) -> Any:
        return _core.transport_solve(self.core, *args)

    def softmin(self, h: np.ndarray, eps: np.ndarray, over_rows: bool) -> np.ndarray:
        """``-eps log sum_j exp(h_j - C_ij / eps)``, or over the rows i."""
        out: np.ndarray = _core.transport_softmin(self.core, np.ascontiguousarray(h), eps, over_rows)
        return out

    def plan_rows(
        self, a: np.ndarray, b: np.ndarray, f: np.ndarray, g: np.ndarray, eps: np.ndarray, first: int, count: int
    ) -> np.ndarray:
        plan: np.ndarray = _core.transport_plan(self.core, a, b, f, g, eps, first, count)
        return plan

    def apply_plan(
        self, a: np.ndarray, b: np.ndarray, f: np.ndarray, g: np.ndarray, eps: np.ndarray, v: np.ndarray,
        transpose: bool,
    ) -> np.ndarray:  # fmt: skip
        out: np.ndarray = _core.transport_apply(self.core, a, b, f, g, eps, v, transpose)
        return out

    def wide(self, which: np.ndarray) -> Any:
        """The compiled form of some of the problems in float64."""
        whole = len(which) == self.problems
        x = self.x if whole else self.x[which]
        y = self.y if whole or self.y is None else self.y[which]
        if self.y is None:
            return _core.TransportCost(x.astype(np.float64, copy=False), None, 0, 1.0)
        metric, _ = _METRICS[self.metric]
        return _core.TransportCost(_adjacent(x, np.float64), _adjacent(y, np.float64), metric, self.scale)

    def cost_rows(self, first: int, count: int) -> np.ndarray:
        """Rows of the costs (B, count, m)."""
        if self.y is None and self.metric != "grid":
            return self.x[:, first : first + count]
        rows: np.ndarray = _core.transport_cost_rows(self.core, first, count)
        return rows

    def row_chunks(self) -> list[tuple[int, int]]:
        """Ranges of rows, (first, count), that are worth a few tens of megabytes at a time."""
        rows = max(1, 4_000_000 // max(1, self.m * self.problems))
        return [(first, min(rows, self.n - first)) for first in range(0, self.n, rows)]


def _adjacent(x: Any, dtype: Any) -> np.ndarray:
    """Batch of points in row-major order; a batch that is one repeated array stays so."""
    if x.ndim == 3 and x.shape[0] > 1 and x.strides[0] == 0:
        return np.broadcast_to(np.ascontiguousarray(x[0], dtype), x.shape)
    return np.ascontiguousarray(x, dtype)


def _flat(x: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    """(..., p, q) as (B, p, q), with stride 0 where there is nothing but one array to repeat."""
    if x.ndim == 2 or math.prod(x.shape[:-2]) == 1:
        return np.broadcast_to(x.reshape(x.shape[-2:]), (math.prod(batch), *x.shape[-2:]))
    return np.broadcast_to(x, (*batch, *x.shape[-2:])).reshape(-1, *x.shape[-2:])


def _box_span(x: np.ndarray, y: np.ndarray, metric: str, scale: float) -> np.ndarray:
    """A bound of the cost's range from the bounding box of each problem's points, for costs multiplied by scale."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    if metric == "dot":
        size: np.ndarray = np.linalg.norm(x, axis=-1).max(axis=-1) * np.linalg.norm(y, axis=-1).max(axis=-1)
        return 2 * abs(scale) * size
    widths: np.ndarray = np.maximum(x.max(-2), y.max(-2)) - np.minimum(x.min(-2), y.min(-2))
    if metric == "manhattan":
        return np.asarray(scale * widths.sum(-1))
    squares = np.asarray((widths**2).sum(-1))
    return scale * (np.sqrt(squares) if metric == "euclidean" else squares)


def _point_geometry(func: str, cloud: PointCloud) -> Geometry:
    x, y = cloud.x, cloud.y
    if cloud.metric == "cosine":
        x, y = unit_vectors(func, "x", x), unit_vectors(func, "y", y)
    metric, scale = _METRICS[cloud.metric]
    exponent = _exponent(x, y, cloud.dtype)
    if exponent:
        x, y = np.ldexp(x, -exponent), np.ldexp(y, -exponent)
        with np.errstate(over="ignore"):
            scale = float(np.ldexp(scale, _DEGREES[cloud.metric] * exponent))
    x = _adjacent(_flat(x, cloud.batch), cloud.dtype)
    y = _adjacent(_flat(y, cloud.batch), cloud.dtype)
    core = _core.TransportCost(x, y, metric, scale)
    return Geometry(
        core, cloud.backend, cloud.batch, x.shape[1], y.shape[1], cloud.dtype, _box_span(x, y, cloud.metric, scale),
        x, y, cloud.metric, scale, cloud=cloud,
    )  # fmt: skip


def _exponent(x: np.ndarray, y: np.ndarray, dtype: np.dtype) -> int:
    """Power of two by which points are divided whose squares would leave their type's range; 0 for all others."""
    largest = max(float(np.abs(p).max(initial=0.0)) for p in (x, y))
    usual = 1e15 if dtype == np.float32 else 1e100
    return 0 if largest == 0 or 1 / usual < largest < usual else int(np.frexp(largest)[1])


def _stored_geometry(func: str, cost: Array) -> Geometry:
    backend = backend_of(func, cost=cost)
    refuse_cuda(func, backend, "cost")
    c = float_array(func, "cost", cost)
    if c.ndim < 2:
        raise ValueError(f"{func}: `cost` must have shape (n, m) or (..., n, m), got {c.shape}")
    n, m = c.shape[-2:]
    if n == 0 or m == 0:
        raise ValueError(f"{func}: `cost` must have at least one row and one column, got shape {c.shape}")
    batch = c.shape[:-2]
    flat = _flat(c, batch)
    # Rows are read as they lie; others are copied once.
    if (m > 1 and flat.strides[-1] != flat.itemsize) or not flat.flags.aligned:
        flat = np.ascontiguousarray(flat)
    core = _core.TransportCost(flat, None, 0, 1.0)
    least, largest, nan, minus_inf, forbidden, rows, cols = _core.transport_cost_range(core)
    if nan.any():
        raise ValueError(f"{func}: `cost` must not contain nan")
    if minus_inf.any():
        raise ValueError(f"{func}: `cost` must not contain -inf; +inf forbids a pair")
    span = np.minimum(np.where(largest >= least, largest - least, 0.0), 1e300)
    return Geometry(
        core, backend, batch, n, m, c.dtype, span, flat, row_allowed=rows, col_allowed=cols,
        forbidding=bool(forbidden.any()),
    )  # fmt: skip


def _grid_geometry(grid: Grid) -> Geometry:
    costs = [np.abs(axis[:, None] - axis) ** grid.p for axis in grid.axes]
    span = np.array([sum(float(c.max()) for c in costs)])
    size = math.prod(grid.shape)
    core = _core.TransportCost(costs, 1)
    nothing = np.zeros((1, size, 0))
    return Geometry(core, grid.backend, (), size, size, np.dtype(np.float64), span, nothing, metric="grid", grid=grid)


def as_geometry(func: str, cost: Any) -> Geometry:
    """The costs of a call, checked."""
    if isinstance(cost, Grid):
        return _grid_geometry(cost)
    if isinstance(cost, PointCloud):
        return _point_geometry(func, cost)
    return _stored_geometry(func, cost)


def _restored(cost: Any, backend: Backend) -> Geometry:
    return replace(as_geometry("unpickled result", cost), backend=backend)


def repeated(geometry: Geometry, count: int) -> Geometry:
    """The same one problem's costs for a batch of `count`."""
    batch = (count,)
    if geometry.metric == "grid":
        return replace(geometry, core=geometry.core.repeated(count), batch=batch)
    x = np.broadcast_to(geometry.x, (count, *geometry.x.shape[1:]))
    if geometry.y is None:
        return replace(geometry, core=_core.TransportCost(x, None, 0, 1.0), batch=batch, x=x)
    y = np.broadcast_to(geometry.y, (count, *geometry.y.shape[1:]))
    metric, _ = _METRICS[geometry.metric]
    return replace(geometry, core=_core.TransportCost(x, y, metric, geometry.scale), batch=batch, x=x, y=y)


def as_masses(func: str, name: str, masses: Array | None, n: int) -> np.ndarray:
    """Masses of one side as float64, uniform with total 1 for None."""
    weights: np.ndarray = batched_masses(func, name, masses, (), n)[0]
    if not weights.any():
        raise ValueError(f"{func}: `{name}` must have a positive total, got only zeros")
    return weights


def rounding_of_totals(*masses: np.ndarray | None) -> float:
    """How far apart, relatively, totals may be that are meant to be equal: by the rounding of the narrowest type."""
    sizes = [x.dtype.itemsize for x in masses if x is not None and x.dtype.kind not in "biu"]
    return {2: 1e-2, 4: 1e-5}.get(min(sizes, default=8), 1e-8)


def batched_masses(
    func: str, name: str, masses: Array | None, batch: tuple[int, ...], n: int, *, signed: bool = False
) -> np.ndarray:
    """Masses of one side of every problem, (B, n) in float64; one array is shared by all, with stride 0.

    `signed` is for potentials, which have the shapes of masses.
    """
    problems = math.prod(batch)
    if masses is None:
        return np.broadcast_to(np.full(n, 1.0 / n), (problems, n))
    array = to_numpy(func, name, masses)
    if array.dtype.kind == "c":
        raise TypeError(f"{func}: `{name}` must be real, got dtype {array.dtype}")
    shared = array.ndim == 1
    if array.shape[-1:] != (n,) or not (shared or array.shape[:-1] == batch):
        allowed = f"shape ({n},)" + (f" or {(*batch, n)}" if batch else "")
        raise ValueError(f"{func}: `{name}` must have {allowed}, got shape {array.shape}")
    wide = np.ascontiguousarray(array, np.float64)
    if np.isnan(wide).any():
        raise ValueError(f"{func}: `{name}` must not contain nan")
    if not signed and (wide < 0).any():
        raise ValueError(f"{func}: `{name}` must not be negative, got {wide.min():.6g}")
    if not np.isfinite(wide.sum()):
        raise ValueError(f"{func}: `{name}` must be finite with a finite total")
    return np.broadcast_to(wide, (problems, n)) if shared else wide.reshape(problems, n)
