"""Transport along random directions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import Array, Backend, backend_of, refuse_cuda
from .._validate import check_integer, check_rng
from .._vjp import Pullback, cotangent_of, rule_for
from ..logits._functions import cast, scalar_or_array
from ._geometry import as_masses, points_array
from ._one_dimensional import Matching, check_power, check_totals, distance_of, match_ranks, point_rates, power_mean

_BLOCK = 2**20  # projected points of one block of directions


@dataclass(frozen=True)
class _SlicedProblem:
    """The checked arguments of a sliced distance; points are scaled and shifted, which directions do not see."""

    backend: Backend
    x: np.ndarray
    y: np.ndarray
    a: np.ndarray | None
    b: np.ndarray | None
    p: float
    n_projections: int
    exponent: int  # lengths were divided by 2**exponent
    dtypes: tuple[np.dtype, np.dtype]

    def directions(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Unit vectors, a block at a time."""
        d = self.x.shape[1]
        if d == 1:  # both directions of the line give the same distance
            yield np.ones((1, 1))
            return
        block = max(1, _BLOCK // (len(self.x) + len(self.y) + d))
        for start in range(0, self.n_projections, block):
            normal = rng.standard_normal((min(block, self.n_projections - start), d))
            yield normal / np.sqrt((normal * normal).sum(axis=1, keepdims=True))

    def match(self, theta: np.ndarray, *, ordered: bool = False) -> Matching:
        return match_ranks(theta @ self.x.T, theta @ self.y.T, self.a, self.b, ordered=ordered)

    def distances(self, rng: np.random.Generator) -> np.ndarray:
        """The distance along each direction."""
        return np.concatenate([distance_of(self.match(theta), self.p) for theta in self.directions(rng)])

    def mean(self, distances: np.ndarray) -> np.ndarray:
        return power_mean(distances, np.full(len(distances), 1 / len(distances)), self.p)

    def value(self, distances: np.ndarray) -> Any:
        with np.errstate(over="ignore"):
            value = np.ldexp(self.mean(distances), self.exponent)
        return self.backend.wrap(scalar_or_array(cast(value, np.result_type(*self.dtypes))))


def _sliced_problem(
    x: Array, y: Array, a: Array | None = None, b: Array | None = None, *, p: Any, n_projections: Any
) -> _SlicedProblem:
    func = "sliced_wasserstein"
    backend = backend_of(func, x=x, y=y, a=a, b=b)
    refuse_cuda(func, backend, "x")
    points = points_array(func, "x", x), points_array(func, "y", y)
    for name, side in zip("xy", points, strict=True):
        if side.ndim != 2:
            raise ValueError(f"{func}: `{name}` must have shape (n, d), got {side.shape}")
    d = points[0].shape[1]
    if points[1].shape[1] != d:
        raise ValueError(
            f"{func}: `x` and `y` must have the same dimension, got shapes {points[0].shape} and {points[1].shape}"
        )
    mass_x = None if a is None else as_masses(func, "a", a, len(points[0]))
    mass_y = None if b is None else as_masses(func, "b", b, len(points[1]))
    check_totals(func, a, b)
    power = check_power(func, p, infinite=False)
    count = check_integer(func, "n_projections", n_projections, 1)
    wide_x, wide_y = (side.astype(np.float64, copy=False) for side in points)
    exponent = int(np.frexp(max(np.abs(wide_x).max(), np.abs(wide_y).max()))[1])
    wide_x, wide_y = np.ldexp(wide_x, -exponent), np.ldexp(wide_y, -exponent)
    # Inner products of points far from the origin would lose what tells the points apart.
    origin = wide_x[0] if d > 1 else np.zeros(1)
    dtypes = points[0].dtype, points[1].dtype
    return _SlicedProblem(backend, wide_x - origin, wide_y - origin, mass_x, mass_y, power, count, exponent, dtypes)


def sliced_wasserstein(
    x: Array,
    y: Array,
    a: Array | None = None,
    b: Array | None = None,
    *,
    p: float = 2,
    n_projections: int = 64,
    rng: np.random.Generator | int | None = None,
) -> Any:
    """Sliced Wasserstein distance, ``(mean over directions t of W_p(<x, t>, <y, t>)^p)^(1/p)``, by random directions.

    Parameters
    ----------
    x : array_like, shape (n, d)
        Points of the first measure; (n,) counts as (n, 1).
    y : array_like, shape (m, d)
        Points of the second.
    a : array_like, shape (n,), optional
        Masses of `x`, not negative; zeros are allowed. None, the default, means 1/n each.
    b : array_like, shape (m,), optional
        Masses of `y`, with the total of `a`; None means 1/m each. Both are scaled to total 1.
    p : float, optional
        Power of the distance, at least 1 and finite; 2 by default.
    n_projections : int, optional
        Number of directions, drawn uniformly from the unit sphere; 64 by default. On the line one is enough and
        none is drawn.
    rng : numpy.random.Generator or int, optional
        Where the directions come from. A seed gives the same ones in every call and on every machine; None, the
        default, gives new ones each time.

    Returns
    -------
    scalar
        The distance, not its p-th power. float32 if `x` and `y` are, else float64; the computation is in float64.

    Raises
    ------
    ValueError
        Points or masses that are nan or infinite, negative masses, totals that differ (by more than 1e-8, or 1e-5
        where masses are float32), no points, shapes that do not fit, `p` below 1 or infinite, or no projections.
    TypeError
        Arrays that are not real numbers, arrays of two libraries, or an option of the wrong kind.
    DeviceError
        Device arrays.

    Notes
    -----
    Each projection is solved exactly, as by :func:`wasserstein_1d`, which this equals for d = 1. The distance is at
    most W_p of the points themselves, and the mean of its p-th power has the error of a mean of `n_projections` draws.

    Time O(n_projections (n + m) (d + log(n + m))); memory O((n + m) d), as projections are drawn and solved in blocks
    of about a million projected points. Differentiable in `x` and `y` by :func:`entropic.vjp`, along the directions
    of the value; `a` and `b` have no gradient. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    N. Bonneel, J. Rabin, G. Peyre, H. Pfister, "Sliced and Radon Wasserstein barycenters of measures", J. Math.
    Imaging Vis. 51 (2015).

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.array([[0.0, 0.0], [1.0, 0.0]])
    >>> moved = entropic.sliced_wasserstein(x, x + [3.0, 4.0], n_projections=4000, rng=0)
    >>> round(float(moved), 1)  # a shift by 5 in d dimensions: 5 / sqrt(d)
    3.5
    """
    problem = _sliced_problem(x, y, a, b, p=p, n_projections=n_projections)
    return problem.value(problem.distances(check_rng("sliced_wasserstein", rng)))


@rule_for(sliced_wasserstein)
def _sliced_wasserstein_rule(
    x: Array,
    y: Array,
    *masses: Array | None,
    p: float = 2,
    n_projections: int = 64,
    rng: Any = None,
    wrt: tuple[str, ...] = (),
    **named: Array | None,
) -> tuple[Any, Pullback]:
    func = "sliced_wasserstein"
    problem = _sliced_problem(x, y, *masses, p=p, n_projections=n_projections, **named)
    generator = check_rng(func, rng)
    start = copy.deepcopy(generator)  # the pullback draws the directions of the value once more
    distances = problem.distances(generator)

    def pullback(g: Any) -> tuple[Any, ...]:
        mean = problem.mean(distances)
        share = np.where(mean > 0, (distances / np.where(mean > 0, mean, 1.0)) ** (problem.p - 1), 0.0) / len(distances)
        share = share * cotangent_of(func, g, ())
        by_x, by_y, done = np.zeros_like(problem.x), np.zeros_like(problem.y), 0
        for theta in problem.directions(copy.deepcopy(start)):
            block = slice(done, done + len(theta))
            rates = point_rates(problem.match(theta, ordered=True), problem.p, distances[block])
            for total, rate in zip((by_x, by_y), rates, strict=True):
                total += rate.T @ (theta * share[block, None])
            done += len(theta)
        grads = (cast(grad, dtype) for grad, dtype in zip((by_x, by_y), problem.dtypes, strict=True))
        return (*(problem.backend.wrap(grad) for grad in grads), *(None for _ in masses))

    return problem.value(distances), pullback
