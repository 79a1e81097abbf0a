"""Entropy and mutual information of diffusion spectra."""

from __future__ import annotations

import functools
import math
import operator
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._backend import Array, backend_of, refuse_cuda, to_numpy
from .._errors import ConvergenceWarning
from .._validate import check_base, check_choice, check_integer, check_number, check_rng
from ..logits._functions import check_real
from ..neighbors._search import Space, as_samples, check_neighbors
from ._lanczos import BlockLanczos
from ._operators import (
    Affinity,
    Diffusion,
    GraphAffinity,
    MatrixAffinity,
    first_functions,
    point_affinity,
    stored,
)
from ._quadrature import LARGEST_TIME, SKETCH, UNSEEN, Estimate, exactly, sketched_entropies
from ._spectrum import Spectrum, spectrum_of
from ._width import check_sigma

KERNELS = ("gaussian", "adaptive", "knn", "precomputed")
METHODS = ("auto", "dense", "certified", "lanczos")

# Points up to which all eigenvalues are found about as quickly as bounds are, for one problem and where there are many.
_DENSE_FIRST, _DENSE_MANY = 1024, 256

# Probes of each entropy in a sum of many, at first and at most.
_PROBES, _MOST_PROBES = 8, 64
_MOST_BINS = 2**31 - 1

# Eigenvalues that differ by less are one.
SAME = 1e-10

# What float32 kernel matrices may change such a sum by.
_SINGLE = 1e-5


@dataclass(frozen=True)
class _Result:
    """A value and an interval around it; for an array `t` both bounds and it are arrays of its shape."""

    value: Any
    lower: Any
    upper: Any
    method: str
    """"dense": exact up to rounding. "certified": the bounds hold. "lanczos": with a probability above 99 %."""
    converged: bool
    """Is the interval as narrow as `tol`?"""
    t: Any
    sigma: float | None

    def __float__(self) -> float:
        return float(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype=dtype)


@dataclass(frozen=True)
class DSEResult(_Result):
    """Diffusion spectral entropy with an interval around it; ``float(result)`` is the value."""

    eigenvalues: np.ndarray = field(repr=False)
    """All of them ("dense"), or approximations of the largest in magnitude, which come first."""


@dataclass(frozen=True)
class DSMIResult(_Result):
    """Diffusion spectral mutual information with the interval of its sum."""


# ---- what calls have in common ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """How points become affinities."""

    name: str
    sigma: float | None
    k: int

    def affinity(self, func: str, x: np.ndarray) -> Affinity:
        if self.name == "gaussian":
            assert self.sigma is not None
            return point_affinity(x, self.sigma, math.sqrt(0.5), positive=True)
        if self.name == "knn":
            return GraphAffinity(Space(x, "euclidean").nearest(self.k)[1])
        if self.name == "adaptive":
            return point_affinity(x, _adaptive_widths(func, x, self.k), 1.0, positive=False)
        exponent = range_exponent(x)
        return MatrixAffinity(np.ldexp(x, -exponent) if exponent else x, positive=False)

    def of_part(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.asarray(x[np.ix_(rows, rows)] if self.name == "precomputed" else x[rows])


def range_exponent(matrix: np.ndarray) -> int:
    """By which power of two affinities are divided for their squares and sums to be in range: 0 where they are."""
    exponent = int(np.frexp(matrix.max())[1])
    return exponent if abs(exponent) > 100 else 0


def _adaptive_widths(func: str, x: np.ndarray, k: int) -> np.ndarray:
    widths = Space(x, "euclidean").nearest(k)[0][:, -1]
    if not widths.all():
        raise ValueError(
            f"{func}: {int((widths == 0).sum())} points have {k} or more others at the same place, where the "
            'adaptive width is 0: raise `k`, or take kernel="gaussian"'
        )
    return np.asarray(widths)


def check_symmetric(func: str, name: str, x: np.ndarray) -> np.ndarray:
    if x.shape[0] != x.shape[1]:
        raise ValueError(f'{func}: {name} must be a square affinity matrix with kernel="precomputed", got {x.shape}')
    size = np.abs(x)
    apart = np.abs(x - x.T)
    if (apart > 1e-8 * np.minimum(size, size.T) + 1e-14 * size.max()).any():
        raise ValueError(f"{func}: {name} must be symmetric, got entries that differ by {apart.max():.3g}")
    return x


def check_affinity(func: str, x: np.ndarray) -> np.ndarray:
    check_symmetric(func, "`x`", x)
    if (x < 0).any():
        raise ValueError(f"{func}: affinities must not be negative, got {x.min():.6g}")
    return x


def check_kernel(func: str, x: Array, kernel: Any, sigma: Any, k: Any) -> tuple[np.ndarray, Kernel]:
    check_choice(func, "kernel", kernel, KERNELS)
    backend = backend_of(func, x=x)
    refuse_cuda(func, backend, "x")
    points = as_samples(func, "x", x)
    if kernel == "precomputed":
        return check_affinity(func, points), Kernel(kernel, None, 0)
    if kernel == "gaussian":
        return points, Kernel(kernel, check_sigma(func, sigma, points), 0)
    return points, Kernel(kernel, None, check_neighbors(func, k, len(points) - 1))


def check_times(func: str, t: Any, method: str) -> np.ndarray:
    given = to_numpy(func, "t", t)
    check_real(func, "t", given)
    times = np.asarray(given, dtype=np.float64)
    if times.ndim > 1 or times.size == 0:
        raise ValueError(f"{func}: `t` must be a number or a list of numbers, got shape {times.shape}")
    if not ((times >= 0) & np.isfinite(times)).all():
        raise ValueError(f"{func}: `t` must be finite and not negative, got {times[~(times >= 0)].tolist() or t!r}")
    if method in ("certified", "lanczos") and ((times > 0) & (times < 1)).any():
        raise ValueError(f'{func}: `t` must be 0 or at least 1 for method="{method}", got {t!r}')
    return times


def _check_alpha(func: str, alpha: Any) -> float:
    value = check_number(func, "alpha", alpha)
    if not 0 <= value <= 1:
        raise ValueError(f"{func}: `alpha` must be between 0 and 1, got {alpha!r}")
    return value


def _check_tol(func: str, tol: Any) -> float:
    value = check_number(func, "tol", tol)
    if not value > 0:
        raise ValueError(f"{func}: `tol` must be positive, got {tol!r}")
    return value


@dataclass(frozen=True)
class Problem:
    """A call's options, checked."""

    func: str
    kernel: Kernel
    times: np.ndarray
    alpha: float
    log_base: float
    method: str
    tol: float
    rng: np.random.Generator

    @property
    def between(self) -> bool:
        """Is any t between 0 and 1, for which there are no bounds?"""
        return bool(((self.times > 0) & (self.times < 1)).any())

    def spectrum(self, x: np.ndarray, dense_first: int) -> Spectrum:
        """In nats, and t = 0 by hand: log n, for every eigenvalue counts as 1."""
        times = np.atleast_1d(self.times)
        later = times > 0
        value, lower, upper = np.full((3, len(times)), math.log(len(x)))
        if not later.any():
            return Spectrum(value, lower, upper, "dense", np.zeros(0), True)
        dense = self.between or (self.method == "auto" and len(x) <= dense_first)
        found = spectrum_of(
            self.func, self.kernel.affinity(self.func, x), None if self.kernel.name == "precomputed" else x, self.alpha,
            times[later], "dense" if dense else self.method, self.tol * self.log_base, self.rng,
        )  # fmt: skip
        value[later], lower[later], upper[later] = found.value, found.lower, found.upper
        return Spectrum(value, lower, upper, found.method, found.eigenvalues, found.converged)

    def sample(self, x: np.ndarray, probes: int, share: float) -> Estimate:
        """For a sum of many such entropies, with a few random probes for each; exact where there are few points."""
        times = np.atleast_1d(self.times)
        if len(x) <= _DENSE_MANY:
            return exactly(self.spectrum(x, len(x)).value)
        affinity = stored(self.kernel.affinity(self.func, x), single=True)
        functions = self.rng.standard_normal((len(x), SKETCH - 1))
        diffusion = Diffusion(self.func, affinity, self.alpha, functions)
        found = sketched_entropies(diffusion, times[times > 0], probes, share * self.tol * self.log_base, self.rng)
        whole = exactly(np.full(len(times), math.log(len(x))))
        for of_all, of_later in zip(vars(whole).values(), vars(found).values(), strict=True):
            of_all[times > 0] = of_later
        return whole

    def shaped(self, values: np.ndarray) -> Any:
        return values.reshape(self.times.shape) if self.times.ndim else float(values[0])


def problem_of(func: str, kernel: Kernel, t: Any, alpha: Any, base: Any, method: Any, tol: Any, rng: Any) -> Problem:
    check_choice(func, "method", method, METHODS)
    log_base = check_base(func, base)
    # The search's first block is random, its answer is not: without `rng` it is the same one in every call.
    generator = check_rng(func, 0 if rng is None else rng)
    return Problem(
        func, kernel, check_times(func, t, method), _check_alpha(func, alpha), log_base, method,
        _check_tol(func, tol), generator,
    )  # fmt: skip


def warn_wide(func: str, width: float, tol: float, method: str) -> None:
    advice = 'a larger `sigma` or `t` leaves fewer eigenvalues that count, and method="dense" finds them all'
    if method == "dense":
        advice = "for t < 1 eigenvalues that rounding hides may count"
    warnings.warn(
        f"{func}: the interval is {width:.3g} wide, more than `tol`, {tol:.3g}; {advice}", ConvergenceWarning,
        stacklevel=3,
    )  # fmt: skip


# ---- the public functions --------------------------------------------------------------------------------------------


def diffusion_spectral_entropy(
    x: Array,
    *,
    sigma: Any = 10.0,
    t: Any = 1,
    alpha: float = 0.0,
    kernel: str = "gaussian",
    k: int = 15,
    base: float | None = 2.0,
    method: str = "auto",
    tol: float = 1e-2,
    rng: Any = None,
) -> DSEResult:
    """Entropy of a diffusion operator's spectrum: -sum p log p with p = |lambda|^t / sum |lambda|^t.

    The operator is the random walk between points with probabilities in proportion to their affinity.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        Points; or, with ``kernel="precomputed"``, their symmetric affinities (n, n), which are not negative.
    sigma : float or "median"
        Width of the Gaussian kernel, ``exp(-|x_i - x_j|^2 / (2 sigma^2))``. It has to fit the scale of the points: the
        published default of 10 does for activations of a few hundred units, and far less spread gives about 0. "median"
        is the root of half the median squared distance, of evenly spaced 2,048 points where there are more.
    t : float or array
        Time of the diffusion, by which the eigenvalues' magnitudes are raised: larger ones leave the coarser
        structure. An array gives the whole curve from one spectrum. 0 gives log n, for each eigenvalue counts as 1.
    alpha : float
        What of the density is divided out of the affinities, before the walk is made of them: 0 is the published
        code's (whose comments name another one), 1/2 the Fokker-Planck and 1 the Laplace-Beltrami normalisation.
    kernel : {"gaussian", "adaptive", "knn", "precomputed"}
        "adaptive" is ``exp(-|x_i - x_j|^2 / (s_i s_j))`` with the distances s to the k-th neighbours, "knn" 1 for
        neighbours of each other, 1/2 where only one is the other's, and 1 for a point itself.
    k : int
        Neighbours of these two.
    base : float, optional
        Base of the logarithm: bits by default, nats for None.
    method : {"auto", "dense", "certified", "lanczos"}
        "dense" finds all eigenvalues, in O(n^3). "certified" finds the largest without forming the matrix and bounds
        the rest by exact traces: the interval holds, up to rounding. "lanczos" estimates what that leaves open from
        random probes: it holds with a probability of more than 99 %, up to a fiftieth of `tol`. "auto" is the first up
        to 1,024 points, beyond it the second where it soon becomes as narrow as `tol`, and else the third; for 0 < t <
        1 it is the first. Fewer than 64 points are "dense" always, and t > 2000 is never "lanczos".
    tol : float
        How wide the interval may be, in the unit of the result.
    rng : numpy.random.Generator, int or None
        For the random vectors that searches begin with; by default the same ones in every call.

    Returns
    -------
    DSEResult
        Converts to a float; with `value`, `lower`, `upper`, `method`, `converged` and `eigenvalues`.

    Raises
    ------
    TypeError, ValueError
        For points that are not finite, sigma <= 0, t < 0, k >= n, an affinity matrix that is not symmetric or has
        negative entries, and points that have no affinity to any, themselves included.

    Warns
    -----
    ConvergenceWarning
        Where the interval stays wider than `tol`.

    Notes
    -----
    For t > 0 one point, and points that are all the same, have entropy 0, and the entropy does not change where each
    point is repeated equally often. It never grows with t. Eigenvalues that are 1 but for rounding count as 1, as
    those of parts that have nothing in common are. For t < 1 those that rounding hides, below 2e-15 sqrt(n), count as
    0, and the upper bound is with all that they may be.

    With S = sum |lambda|^t and T = -sum |lambda|^t log |lambda|^t the value is log S + T / S. sum lambda and
    sum lambda^2 are traces, found exactly in one pass over the pairs; with some eigenvalues known, the others' number,
    sum and sum of squares bound their part of S and T, and eigenvalues that a search has not yet settled are bounded by
    the values that it has (Cauchy's interlacing).

    A pass over the pairs computes each affinity once, for both points, and multiplies blocks of 16 or 32 vectors with
    it: about n^2 (d + 32) operations, of which there are some 10. The memory is O(n (d + vectors)), at most 64 MB of
    vectors; up to 4,096 points the matrix is kept. :func:`entropic.vjp` has the gradient, by all eigenvectors, for
    every kernel but "knn", whose affinities are constants; with ``sigma="median"`` it goes through the width. Backends:
    CPU.

    References
    ----------
    Liao, Liu, Christensen and others, CISS 2024 (arXiv 2312.04823); Coifman and Lafon, Appl. Comput. Harmon. Anal. 21
    (2006) 5; Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38 (2017) 1075.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> centres = 100 * np.eye(4)
    >>> x = np.repeat(centres, 50, axis=0)  # four places that are far apart: log2(4) bits
    >>> round(float(entropic.diffusion_spectral_entropy(x)), 6)
    2.0
    """
    func = "diffusion_spectral_entropy"
    points, kept = check_kernel(func, x, kernel, sigma, k)
    problem = problem_of(func, kept, t, alpha, base, method, tol, rng)
    found = problem.spectrum(points, _DENSE_FIRST)
    value, lower, upper = (problem.shaped(v / problem.log_base) for v in (found.value, found.lower, found.upper))
    if not found.converged:
        warn_wide(func, float(np.max(np.asarray(upper) - lower)), problem.tol, found.method)
    return DSEResult(
        value, lower, upper, found.method, found.converged, problem.shaped(problem.times.ravel()), kept.sigma,
        found.eigenvalues,
    )  # fmt: skip


def _labels(func: str, y: Array, n: int, n_bins: Any) -> np.ndarray:
    """Classes 0, 1, ... of the samples, by label, by bin, or by cluster, and what they are called."""
    backend = backend_of(func, y=y)
    refuse_cuda(func, backend, "y")
    given = np.asarray(y) if isinstance(y, list | tuple) else y
    words = isinstance(given, np.ndarray) and given.dtype.kind in "US"
    array = given if words else to_numpy(func, "y", given)
    if array.ndim not in (1, 2) or len(array) != n:
        raise ValueError(f"{func}: `y` must have {n} rows, as many as `x`, got shape {array.shape}")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    bins = None if n_bins is None else check_integer(func, "n_bins", n_bins, 1)
    if bins is not None and bins > _MOST_BINS:
        raise ValueError(f"{func}: `n_bins` must be at most {_MOST_BINS}, got {n_bins}")
    if array.ndim == 2:
        return _clusters(func, as_samples(func, "y", array), bins or 10)
    if bins is None and array.dtype.kind in "USbiu":
        return array
    signal, count = as_samples(func, "y", array)[:, 0], bins or 10
    # in a range where differences and products are exact enough: for integers they are exact
    signal = np.ldexp(signal, 900 - int(np.frexp(np.abs(signal).max())[1]))
    low, high = signal.min(), signal.max()
    if low == high:
        return np.zeros(n, dtype=np.int64)
    return np.asarray(np.minimum((signal - low) * count // (high - low), count - 1).astype(np.int64))


def _clusters(func: str, y: np.ndarray, count: int) -> np.ndarray:
    try:
        from sklearn.cluster import SpectralClustering
    except ImportError:
        raise ImportError(
            f"{func}: vectors `y` are clustered by scikit-learn, which is not installed; pass labels instead"
        ) from None
    clustering = SpectralClustering(
        count, affinity="nearest_neighbors", assign_labels="cluster_qr", random_state=0, n_neighbors=min(10, len(y))
    )
    return np.asarray(clustering.fit_predict(y))


def parts_of(
    func: str, points: np.ndarray, y: Array, n_bins: Any, repeats: int, problem: Problem
) -> list[tuple[float, np.ndarray]]:
    """Rows of each class, and of random sets of its size, with the factors of their entropies."""
    members, sizes = np.unique(_labels(func, y, len(points), n_bins), return_inverse=True, return_counts=True)[1:]
    n, k = len(points), problem.kernel.k
    if sizes.min() <= k:
        raise ValueError(f"{func}: every class must have more than `k` = {k} samples, got one of {sizes.min()}")
    parts = []
    for c, size in enumerate(sizes):
        parts.append((-size / n, np.flatnonzero(members == c)))
        parts += [(size / n / repeats, problem.rng.choice(n, size, replace=False)) for _ in range(repeats)]
    return parts


def diffusion_spectral_mutual_information(
    x: Array,
    y: Array,
    *,
    sigma: Any = 10.0,
    t: Any = 1,
    n_repeats: int = 5,
    n_bins: int | None = None,
    alpha: float = 0.0,
    kernel: str = "gaussian",
    k: int = 15,
    base: float | None = 2.0,
    method: str = "auto",
    tol: float = 2e-2,
    rng: Any = None,
) -> DSMIResult:
    """How much lower diffusion entropies are within the classes of y: sum_c p(c) (mean DSE of random sets - DSE of c).

    Each class is compared with random sets of its size, since a diffusion entropy depends on the number of points.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        Points, or their affinities with ``kernel="precomputed"``.
    y : array, shape (n,) or (n, q)
        Labels (integers, booleans or strings); a signal (floats), cut in bins of equal width; or vectors, which
        scikit-learn's spectral clustering cuts in clusters.
    n_repeats : int
        Random sets for each class.
    n_bins : int, optional
        Bins or clusters, 10 by default. Given, integers are a signal too.
    sigma, t, alpha, kernel, k, base
        As in :func:`diffusion_spectral_entropy`; "median" is that of all points.
    method : {"auto", "dense", "certified", "lanczos"}
        "dense" and "certified" as there, with the intervals added up. "lanczos" samples the entropies together, with
        eight random probes for each: their errors average out, so that it is many times quicker than the sum of the
        intervals would ask for; where that is too few there is a second round with up to 64. Classes of up to 256
        points are "dense" then. "auto" is "lanczos" where a class is larger and no t is between 0 and 1, and else, or
        where the interval stays wider than `tol` and classes have up to 1,024 points, "dense".
    tol : float
        How wide the interval of the sum may be, in the unit of the result.
    rng : numpy.random.Generator, int or None
        For the random sets; by default the same ones in every call.

    Returns
    -------
    DSMIResult
        Converts to a float; with `value`, `lower`, `upper`, `method` and `converged`. The interval is that of the
        spectra, for the sets that were drawn: "lanczos" holds in more than 99 % of calls. Estimates near 0 can be
        negative and are not clipped.

    Raises
    ------
    TypeError, ValueError
        As :func:`diffusion_spectral_entropy`, and for `y` of another length.
    ImportError
        For vectors without scikit-learn.

    Notes
    -----
    It is not symmetric, and that of x with itself is not its entropy. The cost is that of ``(n_repeats + 1)`` entropies
    for each class; "lanczos" keeps the kernel matrix of one class in float32 (up to 4,096 points, beyond that it is
    computed as it is needed), and multiplies 16 vectors with it, some 5 to 12 times. :func:`entropic.vjp` has the
    gradient for the same random sets. Backends: CPU.

    References
    ----------
    Liao, Liu, Christensen and others, CISS 2024 (arXiv 2312.04823).

    Examples
    --------
    >>> import numpy as np, entropic
    >>> y = np.arange(200) % 4
    >>> x = 100 * np.eye(4)[y]  # a place for each label: random sets have log2(4) bits, and classes have none
    >>> round(float(entropic.diffusion_spectral_mutual_information(x, y)), 1)
    2.0
    """
    func = "diffusion_spectral_mutual_information"
    points, kept = check_kernel(func, x, kernel, sigma, k)
    repeats = check_integer(func, "n_repeats", n_repeats, 1)
    problem = problem_of(func, kept, t, alpha, base, method, tol, rng)
    parts = parts_of(func, points, y, n_bins, repeats, problem)
    largest = max(len(rows) for _, rows in parts)
    automatic = method == "auto"
    used = ("lanczos" if largest > _DENSE_MANY and not problem.between else "dense") if automatic else method
    if used == "lanczos" and problem.times.max() > LARGEST_TIME:
        used = "certified"
    totals = None
    if used == "lanczos":
        totals = _sampled(problem, points, parts, or_not=automatic and largest <= _DENSE_FIRST)
    if totals is None:
        used = "dense" if used == "lanczos" else used
        totals = _summed(replace(problem, method=used), points, parts)
    value, lower, upper = (problem.shaped(v / problem.log_base) for v in totals)
    width = float(np.max(np.asarray(upper) - lower))
    converged = width <= problem.tol
    if not converged:
        warn_wide(func, width, problem.tol, used)
    return DSMIResult(value, lower, upper, used, converged, problem.shaped(problem.times.ravel()), kept.sigma)


Parts = list[tuple[float, np.ndarray]]


def _summed(problem: Problem, points: np.ndarray, parts: Parts) -> np.ndarray:
    """Values and bounds of a sum of entropies with factors, whose intervals add up: each may be its part as wide."""
    share = replace(problem, tol=problem.tol / sum(abs(factor) for factor, _ in parts))
    totals = np.zeros((3, problem.times.size))
    for factor, rows in parts:
        found = share.spectrum(problem.kernel.of_part(points, rows), len(rows))
        low, high = (found.lower, found.upper) if factor > 0 else (found.upper, found.lower)
        totals += factor * np.stack([found.value, low, high])
    return totals


def _sampled(problem: Problem, points: np.ndarray, parts: Parts, or_not: bool) -> np.ndarray | None:
    """The same, from few random probes for each, whose errors average out, and from more where that is too few.

    With `or_not` none, where more would be too few as well.
    """
    tol = problem.tol * problem.log_base
    # of `tol`, by which half of a quadrature's nodes may change one of the entropies
    probes, share = _PROBES, 1 / 2
    for last in (False, True):
        samples = (
            problem.sample(problem.kernel.of_part(points, rows), probes, share).times(factor) for factor, rows in parts
        )
        total = functools.reduce(operator.add, samples)
        reach = total.reach() + _SINGLE + UNSEEN * tol
        if last or (2 * reach <= tol).all():
            break
        left = np.maximum((1 / 2 - UNSEEN) * tol - _SINGLE - np.abs(total.change), tol / 4)
        wanted = 1.3 * probes * float(((total.chance() / left) ** 2).max())
        if or_not and wanted > _MOST_PROBES:
            return None
        probes = min(max(math.ceil(wanted), _PROBES), _MOST_PROBES)
        share = share if (np.abs(total.change) <= tol / 8).all() else 1 / 16
    return np.stack([total.value, total.value - reach, total.value + reach])


@dataclass(frozen=True)
class DiffusionSpectrum:
    """The largest eigenvalues of a diffusion operator, in magnitude, and their right eigenvectors."""

    eigenvalues: np.ndarray
    vectors: np.ndarray = field(repr=False)
    """Columns (n, count); sum_i stationary_i vector_i^2 = 1, and the first is constant."""
    stationary: np.ndarray = field(repr=False)
    """The walk's stationary distribution (n,)."""
    residuals: np.ndarray = field(repr=False)
    """Bounds of the eigenvalues' errors."""
    converged: bool

    def embedding(self, t: float = 1) -> np.ndarray:
        """Diffusion map (n, count - 1): the vectors but the first, times the eigenvalues' power t."""
        check_number("embedding", "t", t)
        values = self.eigenvalues[1:]
        return np.asarray(self.vectors[:, 1:] * (values**t if float(t).is_integer() else np.abs(values) ** t))


def diffusion_spectrum(
    x: Array,
    count: int = 10,
    *,
    sigma: Any = 10.0,
    alpha: float = 0.0,
    kernel: str = "gaussian",
    k: int = 15,
    tol: float = 1e-8,
    rng: Any = None,
) -> DiffusionSpectrum:
    """The largest eigenvalues and the eigenvectors of the diffusion operator, without its matrix: for diffusion maps.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        Points, or their affinities with ``kernel="precomputed"``.
    count : int
        Eigenvalues, at most n; the first is 1.
    sigma, alpha, kernel, k
        As in :func:`diffusion_spectral_entropy`.
    tol : float
        Norm of the residuals, which bounds the eigenvalues' errors.
    rng : numpy.random.Generator, int or None
        For the random vectors that the search begins with; by default the same ones in every call.

    Returns
    -------
    DiffusionSpectrum
        With `eigenvalues`, `vectors`, `stationary`, `residuals`, and ``embedding(t)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`diffusion_spectral_entropy`, and for `count` above n.

    Warns
    -----
    ConvergenceWarning
        Where residuals stay larger than `tol`.

    Notes
    -----
    Block Lanczos with full orthogonalisation: some tens of passes over the pairs at most, each of about n^2 (d + 32)
    operations, and O(n (d + vectors)) memory; then a search from random vectors beside those that were found, for a
    block finds no more copies of an eigenvalue than it has vectors. :func:`entropic.vjp` has the gradients of the
    eigenvalues, which are its value; equal ones have that of their mean. Backends: CPU.

    References
    ----------
    Coifman and Lafon, Appl. Comput. Harmon. Anal. 21 (2006) 5.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    >>> circle = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> entropic.diffusion_spectrum(circle, 3, sigma=0.3).eigenvalues.round(3)
    array([1.   , 0.954, 0.954])
    """
    func = "diffusion_spectrum"
    points, kept = check_kernel(func, x, kernel, sigma, k)
    n = len(points)
    wanted = check_integer(func, "count", count, 1)
    if wanted > n:
        raise ValueError(f"{func}: `count` must be at most {n}, the number of points, got {wanted}")
    generator = check_rng(func, 0 if rng is None else rng)
    limit = _check_tol(func, tol)
    affinity = stored(kept.affinity(func, points))
    functions = first_functions(None if kernel == "precomputed" else points, affinity, generator)
    diffusion = Diffusion(func, affinity, _check_alpha(func, alpha), functions)
    values, vectors, residuals = _largest(diffusion, wanted, limit, generator)
    converged = bool((residuals <= limit).all())
    if not converged:
        warnings.warn(
            f"{func}: residuals up to {residuals.max():.3g} are larger than `tol`, {limit:.3g}, after a basis of half "
            "as many vectors as there are points or as fit in memory; ask for fewer eigenvalues",
            ConvergenceWarning,
            stacklevel=2,
        )
    ones = values > 1 - SAME  # one for each part that is not connected: of their vectors the constant comes first
    vectors[:, ones] = _beginning_with(vectors[:, ones], diffusion.first_vector)
    vectors[:, 1:] -= diffusion.first_vector[:, None] * (diffusion.first_vector @ vectors[:, 1:])
    vectors /= np.linalg.norm(vectors, axis=0)
    scaled = vectors / diffusion.first_vector[:, None]
    scaled *= np.where(scaled[np.abs(scaled).argmax(axis=0), np.arange(wanted)] < 0, -1.0, 1.0)
    return DiffusionSpectrum(values, scaled, diffusion.first_vector**2, residuals, converged)


def _beginning_with(vectors: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Another orthonormal basis of the span of some vectors, in which `first` lies."""
    within = vectors.T @ first
    completed = np.linalg.qr(np.column_stack([within, np.eye(len(within))]))[0]
    turned = vectors @ completed
    turned[:, 0] = first
    return np.asarray(turned)


def descending(values: np.ndarray) -> np.ndarray:
    """By magnitude; of equal ones the positive first, so that 1 comes before -1."""
    return np.argsort(-np.abs(values) - SAME * (values > 0), kind="stable")


def _largest(
    diffusion: Diffusion, count: int, tol: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, block = diffusion.start.shape
    most = max(int(min(n / 2, 3e8 / (8 * n))) // block, 1) * block
    if n <= 256 or most < 2 * count:
        values, vectors = np.linalg.eigh(diffusion.dense())
        order = descending(values)[:count]
        return values[order], vectors[:, order], np.zeros(count)
    search = BlockLanczos(diffusion.product, diffusion.start, diffusion.image, most)
    while search.room():
        search.step()
        if search.size < count:
            continue
        values, coefficients, residuals = search.ritz()
        order = descending(values)[:count]
        if (residuals[order] <= tol).all():
            break
    found = values[order], search.vectors(coefficients[:, order]), residuals[order]
    # A block finds no more copies of an eigenvalue than it has vectors.
    while (more := _missed(diffusion, *found[:2], tol, rng)) is not None:
        joined = [np.concatenate([a, b], axis=-1) for a, b in zip(found, more, strict=True)]
        order = descending(joined[0])[:count]
        found = joined[0][order], joined[1][:, order], joined[2][order]
        if (more[2] > tol).any():  # there are some, which the search did not settle: residuals say so
            break
    return found


def _missed(
    diffusion: Diffusion, values: np.ndarray, vectors: np.ndarray, tol: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Eigenpairs larger than the least one that was found, by a search from random vectors beside those."""

    def beside(v: np.ndarray) -> np.ndarray:
        return np.asarray(v - vectors @ (vectors.T @ v))

    def product(v: np.ndarray) -> np.ndarray:
        return beside(diffusion.product(v))

    start, least = beside(rng.standard_normal((diffusion.n, 16))), float(np.abs(values).min())
    most = min(16 * 20, (diffusion.n - len(values)) // 16 * 16)
    if most == 0:
        return None
    search = BlockLanczos(product, start, product(start), most)
    while search.room():
        search.step()
        ritz, coefficients, residuals = search.ritz()
        larger = np.abs(ritz) > least + tol
        # nothing larger in a few steps, in which the largest shows; or some that have settled
        if (not larger.any() and search.size >= 16 * 6) or (larger & (residuals <= tol)).any():
            break
    settled = larger & (residuals <= tol)
    chosen = settled if settled.any() else larger
    return (ritz[chosen], search.vectors(coefficients[:, chosen]), residuals[chosen]) if chosen.any() else None
