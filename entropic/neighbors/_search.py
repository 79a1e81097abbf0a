"""Nearest neighbours and range counts, and the samples that every estimator reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, Backend, backend_of, refuse_cuda, to_numpy
from .._validate import check_choice, check_flag, check_integer
from ..logits._functions import check_real

METRICS = ("euclidean", "manhattan", "chebyshev")
_FIRST_METRIC = 2  # of METRICS in the core's enumeration

# Squares of coordinates beyond 2^+-_WIDE would leave the range of float64, those of distances below _SMALL its digits.
_WIDE = 450
_SMALL = 2.0**-_WIDE
_SUBNORMAL = 900


def samples_backend(func: str, **arrays: Array) -> Backend:
    """The library of the samples, none of which may be on a device."""
    backend = backend_of(func, **arrays)
    refuse_cuda(func, backend, next(iter(arrays)))
    return backend


def as_samples(func: str, name: str, x: Array, least: int = 1) -> np.ndarray:
    """Finite float64 samples (n, d), C-ordered; one-dimensional arrays are n samples of one coordinate."""
    array = to_numpy(func, name, x)
    check_real(func, name, array)
    if array.ndim not in (1, 2):
        raise ValueError(f"{func}: `{name}` must have shape (n,) or (n, d), got {array.shape}")
    if array.ndim == 2 and array.shape[1] == 0:
        raise ValueError(f"{func}: `{name}` must have at least one column, got shape {array.shape}")
    if not least <= len(array) < 2**31:
        bound = f"at least {least}" if len(array) < least else "fewer than 2**31"
        raise ValueError(f"{func}: `{name}` must have {bound} samples, got {len(array)}")
    points = np.ascontiguousarray(array if array.ndim == 2 else array[:, None], dtype=np.float64)
    if not np.isfinite(points).all():
        row = int(np.argmax(~np.isfinite(points).all(axis=1)))
        raise ValueError(f"{func}: `{name}` must be finite, got {points[row]} in row {row}")
    return points


def check_same_length(func: str, names: tuple[str, ...], arrays: list[np.ndarray]) -> None:
    for name, array in zip(names[1:], arrays[1:], strict=True):
        if len(array) != len(arrays[0]):
            raise ValueError(
                f"{func}: `{names[0]}` and `{name}` must have as many samples, got {len(arrays[0])} and {len(array)}"
            )


def check_same_dimension(func: str, names: tuple[str, str], x: np.ndarray, y: np.ndarray) -> None:
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{func}: `{names[0]}` and `{names[1]}` must have the same dimension, got {x.shape[1]} and {y.shape[1]}"
        )


def check_neighbors(func: str, k: Any, most: int, *, name: str = "k") -> int:
    """A number of neighbours that `most` candidates can give."""
    count = check_integer(func, name, k, 1)
    if count > most:
        raise ValueError(f"{func}: `{name}` must be at most {most}, the number of candidates, got {count}")
    return count


class Space:
    """Points under a metric, indexed for exact searches; searches without `q` are of the points among themselves.

    Squares of Euclidean distances must stay in the range of float64. Points are scaled by a power of two, which changes
    no digit and no comparison; where one scale does not do for all, some queries are looked at again, pair by pair.
    """

    def __init__(self, x: np.ndarray, metric: str = "chebyshev") -> None:
        self.metric = _FIRST_METRIC + METRICS.index(metric)
        self._squares = metric == "euclidean" and x.shape[1] > 1
        self.exponent = 0
        exponent = int(np.frexp(np.abs(x).max())[1])
        if self._squares:
            self.exponent = -exponent if abs(exponent) > _WIDE else 0
        else:  # differences of the largest numbers, and sums of them, overflow
            bits = 1 + x.shape[1].bit_length()
            self.exponent = -bits if exponent + bits > 1024 else 0
        self._x = x
        self._fine = self._squares and self._is_fine(x)
        self._index = _core.PointIndex(self._scaled(x))

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        if not self.exponent:
            return x
        with np.errstate(over="ignore"):
            return np.asarray(np.ldexp(x, self.exponent))

    def _unscaled(self, distances: np.ndarray) -> np.ndarray:
        if not self.exponent:
            return distances
        with np.errstate(over="ignore"):  # a distance may be beyond the largest number
            return np.asarray(np.ldexp(distances, -self.exponent))

    def _is_fine(self, x: np.ndarray) -> bool:
        """Are there coordinates so small that, scaled, they may differ by less than _SMALL and not be equal?"""
        magnitudes = np.abs(x)
        return bool(((magnitudes > 0) & (magnitudes < math.ldexp(_SMALL * 2.0**53, -self.exponent))).any())

    def nearest(self, k: int, q: np.ndarray | None = None, exclude: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Distances and numbers (queries, k) of the nearest, those at most `exclude` places away left out."""
        kept, far, fine = self._queries(q)
        distances, numbers = self._index.nearest(kept, k, self.metric, exclude)
        again = far | (fine & (distances[:, 0] < _SMALL))
        distances = self._unscaled(distances)
        for rows, exact in self._pairs(np.flatnonzero(again), q, exclude):
            order = np.argsort(exact, axis=1, kind="stable")[:, :k]
            found = np.take_along_axis(exact, order, axis=1)
            # What is not small keeps the digits that counts compare with.
            better = (self._scaled(found) < _SMALL) | np.broadcast_to(far, again.shape)[rows, None]
            numbers[rows] = np.where(better, order, numbers[rows])
            distances[rows] = np.where(better, found, distances[rows])
        return distances, numbers

    def distances(self, k: int, exclude: int = 0) -> np.ndarray:
        """Distances (n, k) of the points to the k nearest others: where nobody asks which they are."""
        if exclude or self._fine:
            return self.nearest(k, exclude=exclude)[0]
        distances: np.ndarray = self._index.distances(k, self.metric)
        return self._unscaled(distances)

    def count(
        self, radii: np.ndarray, *, strict: bool = True, q: np.ndarray | None = None, exclude: int = 0
    ) -> np.ndarray:
        """How many points lie within each query's radius."""
        (kept, far, fine), reach = self._queries(q), self._scaled(radii)
        counts: np.ndarray = self._index.count(kept, reach, self.metric, strict, exclude)
        vanished = (reach == 0) & (radii > 0)
        if strict and vanished.any():  # a radius that is 0 when it is scaled still holds the points at distance 0
            counts = np.where(vanished, self._index.count(kept, reach, self.metric, False, exclude), counts)
        for rows, exact in self._pairs(np.flatnonzero(far | (fine & (reach < _SMALL))), q, exclude):
            limit = radii[rows, None]
            counts[rows] = ((exact < limit) if strict else (exact <= limit)).sum(axis=1)
        return counts

    def _queries(self, q: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray, bool]:
        """Scaled queries, which of them are searched pair by pair, and whether small distances are too.

        That is for those that are so far from all points that their squares leave the range, in whose place the origin
        is searched, and for all where distances lose digits: those below the smallest normal number are rounded when
        they are scaled back.
        """
        everything = np.full(1, self.exponent > _SUBNORMAL)
        if q is None:
            return None, everything, self._fine
        scaled = self._scaled(q)
        if not self._squares:
            return scaled, everything, False
        far = (np.abs(scaled) > 1 / _SMALL).any(axis=1)
        kept = np.where(far[:, None], 0.0, scaled) if far.any() else scaled
        return kept, far | everything, self._fine or self._is_fine(q)

    def _pairs(self, rows: np.ndarray, q: np.ndarray | None, exclude: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Some queries at a time with their distances to all points, nan to those that are left out."""
        step = max(1, 4_000_000 // self._x.size)
        by = 2.0 if self.exponent < -_SUBNORMAL else 1.0  # differences of the largest numbers overflow
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            with np.errstate(over="ignore"):
                apart = np.abs((self._x if q is None else q)[some, None] / by - self._x / by)
                widest = apart.max(axis=-1)
                ratios = apart / np.where(widest > 0, widest, 1)[..., None]
                exact = by * widest * np.sqrt((ratios * ratios).sum(axis=-1))
            if q is None:
                # not within any radius, and sorted last
                exact[np.abs(some[:, None] - np.arange(len(self._x))) <= exclude] = np.nan
            yield some, exact


def nearest_neighbors(x: Array, y: Array | None = None, *, k: int, metric: str = "euclidean") -> tuple[Array, Array]:
    """Distances to the k nearest points and their numbers, exactly.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        The points whose neighbours are wanted, as float64: larger integers than 2^53 are rounded. One-dimensional
        arrays are points on the line.
    y : array, shape (m, d) or (m,), optional
        Where the neighbours are looked for. By default among `x` itself, each point but itself.
    k : int
        How many: at most m, or n - 1 without `y`.
    metric : {"euclidean", "manhattan", "chebyshev"}
        The root of the sum of squared differences of the coordinates, the sum of their absolute values, or the largest.

    Returns
    -------
    distances : array of float64, shape (n, k)
        Ascending. float64 whatever the points' type: a radius that was rounded to float32 could lose the very
        neighbour that it stands for.
    indices : array of int64, shape (n, k)
        Rows of `y` (or of `x`). Which of several equally distant points come last among the k is not said, but is the
        same in every run and for any number of threads.

    Raises
    ------
    TypeError, ValueError
        For points that are not finite numbers in one or two dimensions, and for `k` beyond the number of candidates.

    Notes
    -----
    On the line, sorted values; up to 12 dimensions a tree of boxes around 32 points; above, all pairs. Distances are
    float64 in every case: sums over the coordinates in their order, without fused operations. From four dimensions on,
    candidates are first sifted in float32, within a proven bound of its error. The time is about n log n for few
    dimensions and n m d for many, on all threads; the memory O((n + m) d).

    Backends: CPU; device arrays raise DeviceError.

    Examples
    --------
    >>> import entropic
    >>> distances, indices = entropic.nearest_neighbors([0.0, 1.0, 3.0], k=1)
    >>> distances.ravel(), indices.ravel()
    (array([1., 1., 2.]), array([1, 0, 1]))
    """
    func = "nearest_neighbors"
    check_choice(func, "metric", metric, METRICS)
    backend = samples_backend(func, x=x, y=y)
    queries = as_samples(func, "x", x, 0 if y is not None else 1)
    if y is None:
        return _wrapped(backend, Space(queries, metric).nearest(check_neighbors(func, k, len(queries) - 1)))
    points = as_samples(func, "y", y)
    check_same_dimension(func, ("x", "y"), queries, points)
    count = check_neighbors(func, k, len(points))
    return _wrapped(backend, Space(points, metric).nearest(count, queries))


def _wrapped(backend: Backend, results: tuple[np.ndarray, np.ndarray]) -> tuple[Array, Array]:
    return backend.wrap(results[0]), backend.wrap(results[1])


def count_within(
    x: Array, radii: Any, y: Array | None = None, *, metric: str = "euclidean", strict: bool = False
) -> Array:
    """How many points lie within a radius of each point, exactly.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        The centres.
    radii : float or array, shape (n,)
        A radius for all centres or one for each, not negative; inf counts everything.
    y : array, shape (m, d) or (m,), optional
        The points that are counted. By default `x` itself, each point but the centre itself.
    metric : {"euclidean", "manhattan", "chebyshev"}
        As in :func:`nearest_neighbors`.
    strict : bool
        Count distances less than the radius instead of at most the radius. The comparison is exact: the distances of
        :func:`nearest_neighbors`, taken as radii, leave out and include the very points that they belong to.

    Returns
    -------
    array of int64, shape (n,)

    Raises
    ------
    TypeError, ValueError
        For points that are not finite, and radii that are negative, nan or of another length.

    Notes
    -----
    Methods, cost and backends are those of :func:`nearest_neighbors`; where whole boxes are within the radius they are
    not looked into, so that large counts on the line or in a few dimensions cost little more than small ones. Backends:
    CPU.

    Examples
    --------
    >>> import entropic
    >>> entropic.count_within([0.0, 1.0, 3.0], 2.0)
    array([1, 2, 1])
    >>> entropic.count_within([0.0, 1.0, 3.0], 2.0, strict=True)
    array([1, 1, 0])
    """
    func = "count_within"
    check_choice(func, "metric", metric, METRICS)
    check_flag(func, "strict", strict)
    backend = samples_backend(func, x=x, y=y, radii=radii)
    centres = as_samples(func, "x", x, 0 if y is not None else 1)
    given = to_numpy(func, "radii", radii)
    check_real(func, "radii", given)
    if given.shape not in ((), (len(centres),)):
        raise ValueError(f"{func}: `radii` must be a number or have shape ({len(centres)},), got {given.shape}")
    reach = np.broadcast_to(given.astype(np.float64), (len(centres),))
    if not (reach >= 0).all():
        raise ValueError(f"{func}: `radii` must not be negative or nan, got {reach[~(reach >= 0)][0]}")
    reach = np.ascontiguousarray(reach)
    if y is None:
        return backend.wrap(Space(centres, metric).count(reach, strict=bool(strict)))
    points = as_samples(func, "y", y)
    check_same_dimension(func, ("x", "y"), centres, points)
    return backend.wrap(Space(points, metric).count(reach, strict=bool(strict), q=centres))
