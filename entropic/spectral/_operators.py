"""Affinities of points, as operators, and the diffusion matrix that is made of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _core

# Up to so many points the matrix is kept: 128 MiB.
STORED = 4096

# Rows of a stored matrix at a time, where there is more to do than a product.
_ROWS = 256

# Functions that a search begins with: linear ones, at most, and random ones, at least.
_LINEAR, _RANDOM = 91, 4


class Affinity:
    """A symmetric matrix G of affinities; `positive` if it has no negative eigenvalues."""

    n: int
    positive: bool
    diagonal: np.ndarray

    def product(self, v: np.ndarray) -> np.ndarray:
        """G v for v (n, count)."""
        raise NotImplementedError

    def product_and_squares(self, v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """G v, and sum_j G_ij^2 w_j for w (n,), in one pass where elements are computed."""
        raise NotImplementedError

    def dense(self) -> np.ndarray:
        raise NotImplementedError


class MatrixAffinity(Affinity):
    """A stored matrix."""

    def __init__(self, matrix: np.ndarray, positive: bool) -> None:
        self.n, self.positive, self._matrix = len(matrix), positive, matrix
        self.diagonal = np.diag(matrix).copy()

    def product(self, v: np.ndarray) -> np.ndarray:
        if v.shape[1] == 1:  # without BLAS, whose threads would go on spinning beside ours
            return np.asarray(np.einsum("ij,jk->ik", self._matrix, v))
        return np.asarray(self._matrix @ v)

    def product_and_squares(self, v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # squared after they are scaled: affinities may be small beside those of other points
        roots, sums = np.sqrt(w), np.empty(self.n)
        for first in range(0, self.n, _ROWS):
            scaled = self._matrix[first : first + _ROWS] * roots
            sums[first : first + _ROWS] = np.einsum("ij,ij->i", scaled, scaled)
        return self.product(v), sums

    def dense(self) -> np.ndarray:
        return self._matrix


class SingleAffinity(Affinity):
    """A matrix of float32, and products as exact as that: half the memory, and twice as quick."""

    def __init__(self, matrix: np.ndarray, positive: bool) -> None:
        self.n, self.positive, self._matrix = len(matrix), positive, matrix
        self.diagonal = np.diag(matrix).astype(np.float64)

    def product(self, v: np.ndarray) -> np.ndarray:
        out: np.ndarray = _core.single_product(self._matrix, np.ascontiguousarray(v))[0]
        return out

    def product_and_squares(self, v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image, squares = _core.single_product(self._matrix, np.ascontiguousarray(v), w)
        assert squares is not None
        return image, squares


class PointAffinity(Affinity):
    """exp(-|x_i - x_j|^2 r_i r_j), computed where it is needed: memory O(n d)."""

    def __init__(self, x: np.ndarray, rates: np.ndarray, positive: bool) -> None:
        self.n, self.positive = len(x), positive
        self.diagonal = np.ones(self.n)
        self._kernel = _core.PointKernel(x, rates)

    def product(self, v: np.ndarray) -> np.ndarray:
        out: np.ndarray = self._kernel.product(np.ascontiguousarray(v))[0]
        return out

    def product_and_squares(self, v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image, squares = self._kernel.product(np.ascontiguousarray(v), w)
        assert squares is not None
        return image, squares

    def dense(self, single: bool = False) -> np.ndarray:
        out: np.ndarray = self._kernel.dense(single)
        return out


class GraphAffinity(Affinity):
    """(A + A') / 2 for a matrix A with ones at each point's neighbours and itself: memory O(n k)."""

    positive = False

    def __init__(self, neighbours: np.ndarray) -> None:
        self.n = len(neighbours)
        self.diagonal = np.ones(self.n)
        self._to = np.column_stack([np.arange(self.n), neighbours])
        # The same pairs by their column: those of one column are adjacent, and no column is empty.
        columns = self._to.ravel()
        order = np.argsort(columns, kind="stable")
        self._from = order // self._to.shape[1]
        self._starts = np.searchsorted(columns[order], np.arange(self.n))

    def _both_ways(self, v: np.ndarray) -> np.ndarray:
        out = v.copy()
        for column in self._to.T[1:]:
            out += v[column]
        return np.asarray(out + np.add.reduceat(v[self._from], self._starts, axis=0))

    def product(self, v: np.ndarray) -> np.ndarray:
        return self._both_ways(v) / 2

    def product_and_squares(self, v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # ((A_ij + A_ji) / 2)^2 = (A_ij + A_ji + 2 A_ij A_ji) / 4 for zeros and ones.
        rows = np.arange(self.n)[:, None]
        mutual = np.isin(self._to * self.n + rows, rows * self.n + self._to)
        return self.product(v), np.asarray(self._both_ways(w) + 2 * (mutual * w[self._to]).sum(axis=1)) / 4

    def dense(self) -> np.ndarray:
        a = np.zeros((self.n, self.n))
        np.put_along_axis(a, self._to, 1.0, axis=1)
        return (a + a.T) / 2


class Diffusion:
    """K = S G S, similar to the random walk on G / (d_i d_j)^alpha: eigenvalues in [-1, 1], of which the first is 1.

    The pass that finds S multiplies vectors too: with `start` = S^-1 v for the ones and other functions v of the
    points, K start = S G v is known beforehand. The first column of `start` is the eigenvector to 1.
    """

    def __init__(self, func: str, affinity: Affinity, alpha: float, functions: np.ndarray | None = None) -> None:
        self.affinity, self.n = affinity, affinity.n
        vectors = np.ones((self.n, 1 if functions is None else 1 + functions.shape[1]))
        if functions is not None:
            vectors[:, 1:] = functions
        weights = np.ones(self.n)
        if alpha:
            degrees = affinity.product(vectors[:, :1])[:, 0]
            _check_degrees(func, degrees)
            weights = degrees**-alpha
            vectors *= weights[:, None]
        image = affinity.product(vectors)
        sums = weights * image[:, 0]
        _check_degrees(func, sums)
        self.scale = weights / np.sqrt(sums)
        vectors /= self.scale[:, None]
        image *= self.scale[:, None]
        self.start, self.image = vectors, image
        self.first_vector = np.sqrt(sums / sums.sum())
        self.trace = math.fsum(affinity.diagonal * self.scale**2)
        self.square_trace: float | None = None
        """The sum of the squares of the eigenvalues, known from the first product on."""

    @property
    def positive(self) -> bool:
        return self.affinity.positive

    def product(self, v: np.ndarray) -> np.ndarray:
        scaled = self.scale[:, None] * v
        if self.square_trace is None:
            squares = self.scale**2
            image, sums = self.affinity.product_and_squares(scaled, squares)
            self.square_trace = math.fsum(squares * sums)
        else:
            image = self.affinity.product(scaled)
        image *= self.scale[:, None]
        return image

    def dense(self) -> np.ndarray:
        return np.asarray(np.einsum("ij,i,j->ij", self.affinity.dense(), self.scale, self.scale))


def _check_degrees(func: str, degrees: np.ndarray) -> None:
    if not (degrees > 0).all():
        raise ValueError(
            f"{func}: {int((degrees <= 0).sum())} points have no affinity to any point, not to themselves either "
            f"(the first is in row {int(np.argmax(degrees <= 0))}): leave them out"
        )


def stored(affinity: Affinity, single: bool = False) -> Affinity:
    """The same affinity, kept as a matrix where that is small and quicker to multiply; `single`: of float32."""
    if affinity.n > STORED or not isinstance(affinity, PointAffinity):
        return affinity
    kind = SingleAffinity if single else MatrixAffinity
    return kind(affinity.dense(single), affinity.positive)


def centre_of(x: np.ndarray) -> np.ndarray:
    """A median of some points, coordinate by coordinate."""
    some = x[:: -(-len(x) // 9)]
    return np.asarray(np.sort(some, axis=0)[len(some) // 2])


def scaled_points(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Points less a centre, over a power of two that makes them at most 1, and its exponent.

    Near that centre nothing is rounded away by other points that are far.
    """
    centre = centre_of(x)
    shift = 1 if max(x.max(initial=0.0), -x.min(initial=0.0)) > 1e307 else 0  # whose differences are beyond the range
    centred = x / 2 - centre / 2 if shift else x - centre
    exponent = int(np.frexp(max(centred.max(initial=0.0), -centred.min(initial=0.0)))[1])
    return np.ldexp(centred, -exponent), exponent + shift


def first_functions(x: np.ndarray | None, affinity: Affinity, rng: np.random.Generator) -> np.ndarray:
    """Functions of the points that a search begins with, beside the constant one.

    The first eigenfunctions of a diffusion are close to linear in the coordinates where the kernel is wide: those, or
    what is widest of many, come first. What is left is random.
    """
    n = affinity.n
    linear = np.zeros((n, 0))
    if x is not None:
        linear = scaled_points(x)[0]  # whose squares are in range
        linear -= linear.mean(axis=0)
        if linear.shape[1] > _LINEAR:
            sketch = linear.T @ (linear @ rng.standard_normal((linear.shape[1], _LINEAR)))
            linear = linear @ np.linalg.qr(sketch)[0]
    count = max(linear.shape[1] + _RANDOM, 15)
    if isinstance(affinity, PointAffinity):
        count = -(-(count + 1) // 16) * 16 - 1  # whole packs, which cost as much as parts of them
    random = rng.standard_normal((n, count - linear.shape[1]))
    return np.hstack([linear, random])[:, : max(n - 1, 1)]


def point_affinity(x: np.ndarray, widths: Any, factor: float, positive: bool) -> PointAffinity:
    """exp(-factor^2 |x_i - x_j|^2 / (w_i w_j)) for one width or one each.

    The rates 1 / w are kept finite by the scale of the points; beyond 1e150 times it all other points are infinitely
    far, as they are at 1e150.
    """
    points, exponent = scaled_points(x)
    fractions, exponents = np.frexp(np.broadcast_to(np.asarray(widths, dtype=np.float64), (len(x),)))
    with np.errstate(over="ignore"):
        rates = np.ldexp(factor / fractions, exponent - exponents)
    return PointAffinity(points, np.minimum(rates, 1e150), positive)
