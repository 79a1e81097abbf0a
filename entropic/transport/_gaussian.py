"""Transport between Gaussians, plain and entropic, in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import Array, Backend, backend_of, refuse_cuda, to_numpy
from .._validate import check_number
from .._vjp import Pullback, cotangent_of, rule_for
from ..logits._functions import cast, scalar_or_array
from ._geometry import float_array

_EPS = float(np.finfo(np.float64).eps)
_BLOCK = 2**18  # entries of one array of pairs of matrices


def _finite(func: str, name: str, array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise ValueError(f"{func}: `{name}` must be finite")
    return array.astype(np.float64, copy=False)


def _vectors(func: str, name: str, array: np.ndarray, *, matrix: bool = False) -> np.ndarray:
    """Means, finite: a last axis of at least one dimension; a set of them is a matrix with at least one row."""
    if array.ndim == 0 or array.shape[-1] == 0 or (matrix and (array.ndim != 2 or len(array) == 0)):
        wanted = "(n, d) with n, d >= 1" if matrix else "(..., d) with d >= 1"
        raise ValueError(f"{func}: `{name}` must have shape {wanted}, got {array.shape}")
    return _finite(func, name, array)


def _factors(func: str, name: str, array: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """F and its pseudo-inverse with F F^T the covariance (..., d, d), which must be symmetric and semidefinite."""
    if array.ndim < 2 or array.shape[-2:] != (d, d):
        raise ValueError(f"{func}: `{name}` must have shape (..., {d}, {d}), got {array.shape}")
    cov = _finite(func, name, array)
    slack = math.sqrt(np.finfo(array.dtype).eps)
    size = np.abs(cov).max(axis=(-2, -1), keepdims=True)
    flipped = np.swapaxes(cov, -1, -2)
    skew = np.abs(cov - flipped)
    if (skew > slack * size).any():
        raise ValueError(f"{func}: `{name}` must be symmetric, got entries that differ by {skew.max()}")
    spectrum, basis = np.linalg.eigh(cov / 2 + flipped / 2)
    if (spectrum < -slack * size[..., 0]).any():
        raise ValueError(f"{func}: `{name}` must be positive semidefinite, got the eigenvalue {spectrum.min()}")
    root = np.sqrt(np.maximum(spectrum, 0.0))[..., None, :]
    kept = spectrum[..., None, :] > d * _EPS * size
    inverse = np.where(kept, 1.0 / np.where(kept, root, 1.0), 0.0)
    return basis * root, np.swapaxes(basis * inverse, -1, -2)


@dataclass(frozen=True)
class _Coupling:
    """The best coupling of centred Gaussians F_a z and F_b z, from the singular values of F_a^T F_b = u sigma v."""

    root_a: np.ndarray
    root_b: np.ndarray
    u: np.ndarray
    sigma: np.ndarray
    v: np.ndarray

    def squared_distance(self) -> np.ndarray:
        """tr(A + B - 2 (A^1/2 B A^1/2)^1/2) as ``|F_a - F_b Q|^2``, Q the best rotation: no difference of traces."""
        rest = self.root_a - self.root_b @ np.swapaxes(self.u @ self.v, -1, -2)
        return np.asarray(np.einsum("...ij,...ij->...", rest, rest))

    def correlation(self, s2: float) -> np.ndarray:
        """K in the cross-covariance F_a K F_b^T, where the regularisation is ``2 s2``."""
        size_a, size_b = (np.linalg.norm(root, axis=(-2, -1))[..., None] for root in (self.root_a, self.root_b))
        # Singular covariances leave some directions open, by rounding only: they stay independent, as for s2 -> 0.
        sound = self.sigma > self.sigma.shape[-1] * _EPS * size_a * size_b
        gain = np.where(sound, 2 * self.sigma, 0.0) / np.where(sound, np.hypot(2 * self.sigma, s2) + s2, 1.0)
        return np.asarray((self.u * gain[..., None, :]) @ self.v)

    def entropic_excess(self, s2: float) -> np.ndarray:
        """What the entropic value with ``eps = 2 s2`` adds to the squared distance; no term is negative."""
        if s2 == 0:
            return np.zeros(self.sigma.shape[:-1])
        twice = 2 * self.sigma
        root = np.hypot(twice, s2)
        gain = twice / (root + s2)
        dearer = gain * (s2 + s2 * (s2 / (root + twice)))
        with np.errstate(divide="ignore"):
            information = np.logaddexp(0.0, np.log(self.sigma * gain) - math.log(s2))
        return np.asarray((dearer + s2 * information).sum(axis=-1))


def _couple(root_a: np.ndarray, root_b: np.ndarray) -> _Coupling:
    return _Coupling(root_a, root_b, *np.linalg.svd(np.swapaxes(root_a, -1, -2) @ root_b))


@dataclass(frozen=True, eq=False, repr=False)
class GaussianTransport:
    """The transport between two Gaussians, or between batches of them.

    Attributes
    ----------
    value : scalar or ndarray, shape (...)
        The squared Bures-Wasserstein distance; with ``eps > 0`` ``E|X - Y|^2 + eps KL(P|ab^T)`` at its least.
    cross_covariance : ndarray, shape (..., d, d)
        ``E[(X - mean_a)(Y - mean_b)^T]`` of the optimal coupling, itself a Gaussian.
    map_matrix : ndarray, shape (..., d, d)
        Matrix of the map: symmetric for ``eps=0`` and an invertible ``cov_a``.
    mean_a, mean_b : ndarray, shape (..., d)
        The means.
    eps : float
        The regularisation.
    """

    value: Any
    cross_covariance: Any
    map_matrix: Any
    mean_a: Any
    mean_b: Any
    eps: float

    def __repr__(self) -> str:
        *batch, _, d = self.map_matrix.shape
        what = f"batch={tuple(batch)}" if batch else f"value={float(self.value)}"
        return f"GaussianTransport({what}, d={d}, eps={self.eps})"

    def transport(self, x: Array) -> Any:
        """Move points: ``mean_b + map_matrix (x - mean_a)``, with ``eps > 0`` the conditional mean ``E[Y|X=x]``.

        Parameters
        ----------
        x : array_like, shape (d,) or (..., n, d)
            A point, or points; leading axes broadcast against the batch of Gaussians.

        Returns
        -------
        ndarray
            The images, of the shape of `x` broadcast against the batch; float32 if `x` and the Gaussians are.

        Raises
        ------
        ValueError
            Points that are nan or infinite, or of another dimension.
        TypeError, DeviceError
            As :func:`gaussian_transport`.
        """
        func = "GaussianTransport.transport"
        backend = backend_of(func, x=x, mean_a=self.mean_a)
        refuse_cuda(func, backend, "x")
        raw = float_array(func, "x", x)
        fields = {"mean_a": self.mean_a, "mean_b": self.mean_b, "map_matrix": self.map_matrix}
        mean_a, mean_b, matrix = (to_numpy(func, name, field) for name, field in fields.items())
        d = matrix.shape[-1]
        if raw.ndim == 0 or raw.shape[-1] != d:
            raise ValueError(f"{func}: `x` must have {d} columns, got shape {raw.shape}")
        points = _finite(func, "x", raw)
        rows = points[None] if points.ndim == 1 else points
        try:
            moved = (rows - mean_a[..., None, :]) @ np.swapaxes(matrix, -1, -2).astype(np.float64)
        except ValueError:
            raise ValueError(
                f"{func}: the leading axes of `x` must broadcast against the batch {matrix.shape[:-2]}, "
                f"got shape {raw.shape}"
            ) from None
        moved = moved + mean_b[..., None, :]
        moved = moved[..., 0, :] if points.ndim == 1 else moved
        return backend.wrap(cast(moved, np.result_type(raw, matrix)))


def gaussian_transport(
    mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array, *, eps: float = 0.0
) -> GaussianTransport:
    """Optimal transport between Gaussians, ``|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``, plain or entropic.

    Parameters
    ----------
    mean_a : array_like, shape (..., d)
        Mean of the first Gaussian, or a batch.
    cov_a : array_like, shape (..., d, d)
        Its covariance, symmetric and positive semidefinite; singular ones are allowed.
    mean_b : array_like, shape (..., d)
        Mean of the second.
    cov_b : array_like, shape (..., d, d)
        Its covariance. All leading axes broadcast.
    eps : float, optional
        Regularisation, in units of the cost ``|x - y|^2``: the problem is ``E|X - Y|^2 + eps KL(P|ab^T)``. 0, the
        default, is unregularised transport.

    Returns
    -------
    GaussianTransport
        With `value`, `cross_covariance`, `map_matrix` and the method `transport(x)`. float32 if all arrays are, else
        float64; the computation is in float64.

    Raises
    ------
    ValueError
        nan or infinite entries, shapes that do not fit, a covariance that is not symmetric or has a negative
        eigenvalue (beyond the square root of the rounding unit of its type), or a negative `eps`.
    TypeError
        Arrays that are not real numbers, arrays of two libraries, or an `eps` that is no number.
    DeviceError
        Device arrays.

    Notes
    -----
    With factors ``F_a F_a^T = A``, ``F_b F_b^T = B`` and the singular values of ``F_a^T F_b = U diag(sigma) V^T``, and
    ``s^2 = eps / 2``, the cross-covariance is ``F_a U diag(gain) V^T F_b^T``,
    ``gain = 2 sigma / (sqrt(4 sigma^2 + s^4) + s^2)``, and the map ``cross_covariance^T A^+``. The Bures term is the
    squared norm ``|F_a - F_b V U^T|^2`` and what `eps` adds is a sum of positive terms: values are never negative, and
    of Gaussians that nearly coincide they keep half of the digits at least. No covariance is inverted but for the map,
    which uses the pseudo-inverse.

    Time O(d^3) and memory O(d^2) for each pair. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    H. Janati, B. Muzellec, G. Peyre, M. Cuturi, "Entropic optimal transport between unbalanced Gaussian measures has
    a closed form", NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> plan = entropic.gaussian_transport([0.0, 0.0], np.eye(2), [3.0, 4.0], 4 * np.eye(2))
    >>> round(float(plan.value), 12)  # 25 for the means, (2 - 1)^2 for each axis
    27.0
    >>> plan.transport([1.0, 1.0]).round(12)
    array([5., 6.])
    >>> blurred = entropic.gaussian_transport([0.0, 0.0], np.eye(2), [3.0, 4.0], 4 * np.eye(2), eps=1.0)
    >>> round(float(blurred.value), 6)
    29.448713
    """
    func = "gaussian_transport"
    given = {"mean_a": mean_a, "cov_a": cov_a, "mean_b": mean_b, "cov_b": cov_b}
    backend = backend_of(func, **given)
    refuse_cuda(func, backend, "mean_a")
    raw = {name: float_array(func, name, array) for name, array in given.items()}
    regularisation = check_number(func, "eps", eps)
    if not 0 <= regularisation < math.inf:
        raise ValueError(f"{func}: `eps` must be finite and not negative, got {eps!r}")
    wide_a, wide_b = (_vectors(func, name, raw[name]) for name in ("mean_a", "mean_b"))
    d = wide_a.shape[-1]
    if wide_b.shape[-1] != d:
        raise ValueError(f"{func}: `mean_b` must have length {d}, as `mean_a` has, got shape {wide_b.shape}")
    (root_a, inverse_a), (root_b, _) = (_factors(func, name, raw[name], d) for name in ("cov_a", "cov_b"))
    try:
        batch = np.broadcast_shapes(wide_a.shape[:-1], wide_b.shape[:-1], root_a.shape[:-2], root_b.shape[:-2])
    except ValueError:
        shapes = [array.shape for array in raw.values()]
        raise ValueError(f"{func}: the leading axes of all arrays must broadcast, got shapes {shapes}") from None
    s2 = regularisation / 2
    coupling = _couple(root_a, root_b)
    correlation = coupling.correlation(s2)
    with np.errstate(over="ignore"):
        shift = wide_a - wide_b
        value = (shift * shift).sum(axis=-1) + coupling.squared_distance() + coupling.entropic_excess(s2)
    cross = root_a @ correlation @ np.swapaxes(root_b, -1, -2)
    matrix = np.swapaxes(correlation @ np.swapaxes(root_b, -1, -2), -1, -2) @ inverse_a
    dtype = np.result_type(*raw.values())

    def field(array: np.ndarray, axes: int) -> Any:
        full = np.broadcast_to(array, (*batch, *array.shape[array.ndim - axes :]))
        return backend.wrap(scalar_or_array(cast(np.array(full), dtype)))

    return GaussianTransport(
        value=field(value, 0),
        cross_covariance=field(cross, 2),
        map_matrix=field(matrix, 2),
        mean_a=field(wide_a, 1),
        mean_b=field(wide_b, 1),
        eps=regularisation,
    )


@dataclass(frozen=True)
class _GaussianPairs:
    """The checked arguments of `bures_cost`: factors of the covariances and their pseudo-inverses."""

    backend: Backend
    means_a: np.ndarray
    means_b: np.ndarray
    roots_a: np.ndarray
    roots_b: np.ndarray
    inverses_a: np.ndarray
    inverses_b: np.ndarray
    dtypes: list[np.dtype]

    def blocks(self) -> Iterator[tuple[slice, slice, _Coupling]]:
        """Couplings of all pairs, a block of rows and columns at a time."""
        (n, d), m = self.means_a.shape, len(self.means_b)
        columns = min(m, max(1, _BLOCK // (d * d)))
        rows = max(1, _BLOCK // (d * d * columns))
        for i in range(0, n, rows):
            for j in range(0, m, columns):
                block = slice(i, i + rows), slice(j, j + columns)
                yield *block, _couple(self.roots_a[block[0], None], self.roots_b[None, block[1]])

    def shifts(self, rows: slice, columns: slice) -> np.ndarray:
        return np.asarray(self.means_a[rows, None] - self.means_b[None, columns])


def _gaussian_pairs(func: str, means_a: Array, covs_a: Array, means_b: Array, covs_b: Array) -> _GaussianPairs:
    given = {"means_a": means_a, "covs_a": covs_a, "means_b": means_b, "covs_b": covs_b}
    backend = backend_of(func, **given)
    refuse_cuda(func, backend, "means_a")
    raw = {name: float_array(func, name, array) for name, array in given.items()}
    wide_a, wide_b = (_vectors(func, name, raw[name], matrix=True) for name in ("means_a", "means_b"))
    d = wide_a.shape[1]
    if wide_b.shape[1] != d:
        raise ValueError(f"{func}: `means_b` must have {d} columns, as `means_a` has, got shape {wide_b.shape}")
    for name, means in (("covs_a", wide_a), ("covs_b", wide_b)):
        if raw[name].shape != (len(means), d, d):
            raise ValueError(f"{func}: `{name}` must have shape {(len(means), d, d)}, got {raw[name].shape}")
    (roots_a, inverses_a), (roots_b, inverses_b) = (_factors(func, name, raw[name], d) for name in ("covs_a", "covs_b"))
    dtypes = [array.dtype for array in raw.values()]
    return _GaussianPairs(backend, wide_a, wide_b, roots_a, roots_b, inverses_a, inverses_b, dtypes)


def bures_cost(means_a: Array, covs_a: Array, means_b: Array, covs_b: Array) -> Any:
    """Cost between Gaussians, ``C_ij = |m_i - n_j|^2 + tr(A_i + B_j - 2 (A_i^1/2 B_j A_i^1/2)^1/2)``.

    Parameters
    ----------
    means_a : array_like, shape (n, d)
        Means of the first set.
    covs_a : array_like, shape (n, d, d)
        Their covariances, symmetric and positive semidefinite; singular ones are allowed.
    means_b : array_like, shape (m, d)
        Means of the second set.
    covs_b : array_like, shape (m, d, d)
        Their covariances.

    Returns
    -------
    ndarray, shape (n, m)
        Squared Bures-Wasserstein distances, none negative. float32 if all arrays are, else float64; the computation
        is in float64.

    Raises
    ------
    ValueError
        nan or infinite entries, shapes that do not fit, empty sets, or a covariance that is not symmetric or has a
        negative eigenvalue (beyond the square root of the rounding unit of its type).
    TypeError
        Arrays that are not real numbers, or arrays of two libraries.
    DeviceError
        Device arrays.

    Notes
    -----
    Each set is factored once, ``A = F F^T``; each pair takes one singular value decomposition of ``F_i^T G_j``, and its
    Bures term is ``|F_i - G_j Q|^2`` with the best rotation Q, which loses no digits where two Gaussians nearly
    coincide.

    Time O(n m d^3), about 2 microseconds a pair for d = 3; memory O(n m) and blocks of a fixed size. Differentiable in
    every argument by :func:`entropic.vjp`: the gradient by A_i is ``I - T_ij``, T_ij the symmetric matrix that maps
    the one Gaussian to the other (on the range of A_i where it is singular). Backends: CPU; device arrays raise
    DeviceError.

    References
    ----------
    A. Takatsu, "Wasserstein geometry of Gaussian measures", Osaka J. Math. 48 (2011). Y. Chen, T. T. Georgiou,
    A. Tannenbaum, "Optimal transport for Gaussian mixture models", IEEE Access 7 (2019), for transport with this cost.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> means, covs = np.zeros((2, 3)), np.stack([np.eye(3), 4 * np.eye(3)])
    >>> entropic.bures_cost(means, covs, means, covs).round(12)
    array([[0., 3.],
           [3., 0.]])
    """
    pairs = _gaussian_pairs("bures_cost", means_a, covs_a, means_b, covs_b)
    cost = np.empty((len(pairs.means_a), len(pairs.means_b)))
    with np.errstate(over="ignore"):
        for rows, columns, coupling in pairs.blocks():
            shifts = pairs.shifts(rows, columns)
            cost[rows, columns] = (shifts * shifts).sum(axis=-1) + coupling.squared_distance()
    return pairs.backend.wrap(cast(cost, np.result_type(*pairs.dtypes)))


@rule_for(bures_cost)
def _bures_cost_rule(
    means_a: Array, covs_a: Array, means_b: Array, covs_b: Array, *, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:
    func = "bures_cost"
    value = bures_cost(means_a, covs_a, means_b, covs_b)
    pairs = _gaussian_pairs(func, means_a, covs_a, means_b, covs_b)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = cotangent_of(func, g, (len(pairs.means_a), len(pairs.means_b)))
        by_means_a, by_means_b = np.zeros_like(pairs.means_a), np.zeros_like(pairs.means_b)
        by_covs_a = cotangent.sum(axis=1)[:, None, None] * np.eye(pairs.means_a.shape[1])
        by_covs_b = cotangent.sum(axis=0)[:, None, None] * np.eye(pairs.means_a.shape[1])
        for rows, columns, coupling in pairs.blocks():
            share = cotangent[rows, columns]
            pull = 2 * share[..., None] * pairs.shifts(rows, columns)
            by_means_a[rows] += pull.sum(axis=1)
            by_means_b[columns] -= pull.sum(axis=0)
            turn = share[..., None, None] * coupling.correlation(0.0)
            # The map from A to B is F_b K^T F_a^+: what does not depend on the pair stays out of the sum.
            by_covs_a[rows] -= np.einsum("ijkl,jml->imk", turn, pairs.roots_b[columns]) @ pairs.inverses_a[rows]
            by_covs_b[columns] -= np.einsum("ijkl,imk->jml", turn, pairs.roots_a[rows]) @ pairs.inverses_b[columns]
        by_covs_a, by_covs_b = ((grad + np.swapaxes(grad, -1, -2)) / 2 for grad in (by_covs_a, by_covs_b))
        grads = (by_means_a, by_covs_a, by_means_b, by_covs_b)
        return tuple(pairs.backend.wrap(cast(grad, dtype)) for grad, dtype in zip(grads, pairs.dtypes, strict=True))

    return value, pullback
