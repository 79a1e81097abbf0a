"""Samples as rows whose Gram matrix or covariance is wanted, in memory or as a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, Backend, backend_of, refuse_cuda, to_numpy
from .._validate import check_flag, check_integer
from ..logits._functions import cast, check_real, float_dtype

# Binary exponents of the largest element up to which squares, their sums and the squares of those are in range.
_RANGE = {4: 30, 8: 100}


def as_rows(func: str, name: str, x: Array, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Finite samples (..., n, d) in float32 or float64, and powers of two (..., 1, 1) to divide them by.

    These are 1, or the order of the largest element where that is so large or small that squares would leave the range.
    """
    array = to_numpy(func, name, x)
    check_real(func, name, array)
    if array.ndim < 2 or array.shape[-1] == 0:
        raise ValueError(f"{func}: `{name}` must have shape (..., n, d), got {array.shape}")
    if array.shape[-2] < least:
        raise ValueError(f"{func}: `{name}` must have at least {least} rows, got shape {array.shape}")
    wide = float_dtype(array).itemsize == 8
    rows = array.astype(np.float64 if wide else np.float32, copy=False)
    axes = (-2, -1)
    top = np.maximum(rows.max(axis=axes, keepdims=True, initial=0.0), -rows.min(axis=axes, keepdims=True, initial=0.0))
    if not np.isfinite(top).all():
        raise ValueError(f"{func}: `{name}` must be finite")
    exponent = np.frexp(top)[1]
    return rows, np.where(np.abs(exponent) > _RANGE[rows.itemsize], exponent, 0)


@dataclass(frozen=True)
class Rows:
    """Rows z (..., n, d) that were made of x by taking off their mean and dividing each by its norm, as asked for.

    z is in units of two to the power `exponent` (..., 1, 1).
    """

    backend: Backend
    given: np.ndarray
    exponent: np.ndarray
    z: np.ndarray
    norms: np.ndarray | None
    center: bool

    @property
    def tall(self) -> bool:
        """Is z' z the smaller side?"""
        return bool(self.z.shape[-1] <= self.z.shape[-2])

    def gram(self, exact: bool = False) -> np.ndarray:
        """The smaller of z' z and z z', in float64; `exact`: of float32 rows too, for what small eigenvalues decide.

        Not by BLAS, whose threads go on spinning beside ours; of a batch each thread has a matrix.
        """
        z = self.z.astype(np.float64) if exact else self.z
        many: np.ndarray = _core.gram_matrices(np.ascontiguousarray(z).reshape(-1, *z.shape[-2:]))
        return many.reshape(*z.shape[:-2], *many.shape[1:])

    def pull(self, to_z: np.ndarray) -> np.ndarray:
        """The gradient to x from that to z."""
        grad = to_z
        if self.norms is not None:
            along = (grad * self.z).sum(axis=-1, keepdims=True)
            safe = np.where(self.norms > 0, self.norms, np.inf)
            grad = (grad - along * self.z) / safe
        if self.center:
            grad = grad - grad.mean(axis=-2, keepdims=True)
        if self.exponent.any():
            grad = np.ldexp(grad, -self.exponent)
        return cast(grad.reshape(self.given.shape), float_dtype(self.given))


def rows_of(func: str, x: Array, center: Any, normalize: Any, *, name: str = "x", least: int = 1) -> Rows:
    backend = backend_of(func, **{name: x})
    refuse_cuda(func, backend, name)
    center, normalize = check_flag(func, "center", center), check_flag(func, "normalize", normalize)
    given, exponent = as_rows(func, name, x, least)
    z = np.ldexp(given, -exponent) if exponent.any() else given
    if center:
        z = _centred(z)
    norms = None
    if normalize:
        z, norms = _unit_rows(z, center)
    return Rows(backend, given, exponent, z, norms, center)


def _centred(x: np.ndarray) -> np.ndarray:
    """Rows less their mean; what that has beyond the digits of float32 is taken off too."""
    mean = x.mean(axis=-2, keepdims=True, dtype=np.float64)
    first = x[..., :1, :]
    if (first == x[..., -1:, :]).any():  # a mean of equal numbers may differ from them in the last place
        mean = np.where((x == first).all(axis=-2, keepdims=True), first, mean)
    rounded = mean.astype(x.dtype)
    z = x - rounded
    if x.dtype == np.float32:
        z -= (mean - rounded).astype(x.dtype)
    return np.asarray(z)


def _unit_rows(z: np.ndarray, own: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows over their norms, and the norms; in place where z is not the caller's. Rows of zeros stay."""
    squares = np.einsum("...ij,...ij->...i", z, z, dtype=np.float64)[..., None]
    scale = np.ones_like(squares)
    bound = 1e200 if z.dtype == np.float64 else 1e70  # for the norm's inverse to be in range
    if not ((squares > 1 / bound) & (squares < bound)).all():
        # squares that leave the range: by the largest first
        scale = np.abs(z).max(axis=-1, keepdims=True).astype(np.float64)
        scale[scale == 0] = 1
        z, own = z / scale.astype(z.dtype), True
        squares = np.einsum("...ij,...ij->...i", z, z, dtype=np.float64)[..., None]
    norms = np.sqrt(squares)
    inverse = np.divide(1.0, norms, where=norms > 0, out=np.zeros_like(norms)).astype(z.dtype)
    return np.multiply(z, inverse, out=z if own else None), norms * scale


class CovarianceStream:
    """The second moments of rows that come in parts: for more rows than fit in memory.

    Parameters
    ----------
    d : int
        Columns.
    center : bool
        Take off the mean of all rows, which need not be known beforehand.
    normalize : bool
        Divide each row by its norm; rows of zeros stay. For rows that are centred first pass ``mean``.
    mean : array, shape (d,), optional
        What to take off each row first, such as the mean of an earlier pass.

    Raises
    ------
    TypeError, ValueError
        For rows of another length or that are not finite, and for `center` with `normalize`, which needs the mean
        before it can normalise.

    Notes
    -----
    O(d^2) memory in float64. Parts are merged by their means and scatter matrices (Chan, Golub and LeVeque), so that
    nothing cancels where the mean is far from 0.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).normal(size=(1000, 3))
    >>> stream = entropic.CovarianceStream(3, center=True)
    >>> for part in np.split(x, 10):
    ...     stream.update(part)
    >>> bool(np.allclose(stream.matrix(), np.cov(x.T, bias=True)))
    True
    """

    def __init__(self, d: int, *, center: bool = False, normalize: bool = False, mean: Array | None = None) -> None:
        func = "CovarianceStream"
        size = check_integer(func, "d", d, 1)
        self.center, self.normalize = check_flag(func, "center", center), check_flag(func, "normalize", normalize)
        if self.center and self.normalize:
            raise ValueError(f"{func}: with `normalize` give the `mean` of an earlier pass instead of `center`")
        self._offset = np.zeros(size)
        if mean is not None:
            given = to_numpy(func, "mean", mean)
            if given.shape != (size,):
                raise ValueError(f"{func}: `mean` must have shape ({size},), got {given.shape}")
            self._offset = as_rows(func, "mean", given[None])[0][0].astype(np.float64)
        self.count = 0
        self._mean, self._scatter = np.zeros(size), np.zeros((size, size))

    def update(self, x: Array) -> None:
        """Take in rows (n, d)."""
        func = "CovarianceStream.update"
        rows = rows_of(func, x, False, False, least=0)
        if rows.z.ndim != 2 or rows.z.shape[1] != len(self._mean):
            raise ValueError(f"{func}: `x` must have shape (n, {len(self._mean)}), got {rows.z.shape}")
        if (rows.exponent > 500).any():
            raise ValueError(f"{func}: `x` must be less than 1e150, whose squares are added up")
        z = rows.given - self._offset
        if len(z) == 0:
            return
        if self.normalize:
            z, _ = _unit_rows(z, True)
        # about a row that is there: equal rows have no scatter at all
        about = z[0] if self.center else np.zeros(len(self._mean))
        mean = (z - about).mean(axis=0) if self.center else about
        centred = z - about - mean if self.center else z
        self._merge(len(z), about + mean if self.center else about, centred.T @ centred)

    def merge(self, *others: CovarianceStream) -> None:
        """Take in what other streams of the same kind have seen."""
        for other in others:
            if not isinstance(other, CovarianceStream):
                raise TypeError(f"CovarianceStream.merge: streams are merged, got {type(other).__name__}")
            same = (other.center, other.normalize, len(other._mean)) == (self.center, self.normalize, len(self._mean))
            if not same or not (other._offset == self._offset).all():
                raise ValueError("CovarianceStream.merge: the streams must be of the same kind and length")
        for other in others:
            self._merge(other.count, other._mean, other._scatter)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        if total == 0:
            return
        apart = mean - self._mean
        self._scatter = self._scatter + scatter + np.outer(apart, apart) * (self.count * count / total)
        self._mean = self._mean + apart * (count / total)
        self.count = total

    def matrix(self) -> np.ndarray:
        """Mean outer product of the rows, less their mean where `center` is set: (d, d)."""
        if self.count == 0:
            raise ValueError("CovarianceStream.matrix: no rows have come yet")
        return self._scatter / self.count
