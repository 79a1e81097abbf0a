"""Kernel densities by log-sums over tiles: entropies, mixtures' bounds and Cauchy-Schwarz divergences.

Everything is made of the log-sums a_i = log sum_j exp(-|x_i - y_j|^2 / width) of a row: no matrix is stored, and
nothing underflows where points are far apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import Array
from .._validate import check_base, check_choice, check_flag, check_positive
from ..logits import logsumexp, softmax
from ..neighbors._search import as_samples, check_same_dimension, check_same_length, samples_backend
from ..transport._geometry import Geometry, PointCloud, as_geometry
from ._operators import PointAffinity, centre_of


@dataclass(frozen=True)
class RowSums:
    """Log-sums over y for each x, and the gradients of weighted sums of them.

    x and y are in a unit that makes the width about 1, from a point in their middle.
    """

    geometry: Geometry
    x: np.ndarray
    y: np.ndarray
    width: float
    unit: float
    masses: np.ndarray
    logs: np.ndarray

    def pull(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradients to x and y of sum_i weights_i logs_i."""
        n, m, eps = len(self.x), len(self.y), np.array([self.width])
        f, g = -self.width * self.logs[None], np.zeros((1, m))

        def apply(v: np.ndarray, transpose: bool) -> np.ndarray:
            """Products with the softmax over each row, for the columns of v."""
            columns = np.ascontiguousarray(v.T)[None]
            out = self.geometry.apply_plan(np.ones((1, n)), self.masses[None], f, g, eps, columns, transpose)
            return np.asarray(out[0].T)

        rate, c = -2 / self.width / self.unit, weights[:, None]
        # about the middle of y, so that nothing cancels that is far from the origin
        middle = self.y.mean(axis=0)
        x, y = self.x - middle, self.y - middle
        to_x = rate * c * (x - apply(y, False))
        back = apply(np.column_stack([c, c * x]), True)
        return to_x, rate * (y * back[:, :1] - back[:, 1:])


def row_sums(
    func: str, x: np.ndarray, y: np.ndarray, width: float, masses: np.ndarray | None = None, others_count: bool = False
) -> RowSums:
    """With the terms of y multiplied by masses, which are positive. `others_count`: of points among themselves, each
    one's sum over the others is to keep its digits beside the 1 of its own term.
    """
    exponent = int(np.frexp(math.sqrt(width))[1])
    with np.errstate(over="ignore"):
        near_x, near_y = (np.ldexp(points - centre_of(y), -exponent) for points in (x, y))
    reach = max(float(np.abs(points).max()) for points in (near_x, near_y)) * math.sqrt(x.shape[1])
    if not reach < 1e153:
        raise ValueError(f"{func}: samples are {reach:.3g} widths apart, the square of which is beyond float64")
    scaled = math.ldexp(width, -2 * exponent)
    geometry = as_geometry("kernel", PointCloud(near_x, near_y))
    given = np.ones(len(y)) if masses is None else masses
    if x is y and masses is None and not others_count:
        # its own term is 1, so that nothing underflows, and each kernel is computed once for both of its points
        logs = np.log(PointAffinity(near_x, np.full(len(x), scaled**-0.5), True).product(given[:, None])[:, 0])
    else:
        logs = -geometry.softmin(np.log(given)[None], np.array([scaled]), False)[0] / scaled
    return RowSums(geometry, near_x, near_y, scaled, math.ldexp(1.0, exponent), given, logs)


# Where the others' sum is below these beside a point's own term, their distances are looked at one by one: for values
# where it becomes subnormal, for gradients where the point's own term takes half of the digits.
_ALONE, _NEARLY_ALONE = 1e-290, 1e-8


def _lonely(sums: RowSums, below: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points that are far from all others, some at a time, with their scores; their own is -inf."""
    far = np.flatnonzero(np.expm1(sums.logs) < below)
    rows = max(1, 4_000_000 // max(1, sums.x.size))
    parts = []
    for first in range(0, len(far), rows):
        some = far[first : first + rows]
        scores = -((sums.x[some, None] - sums.x) ** 2).sum(axis=-1) / sums.width
        scores[np.arange(len(some)), some] = -np.inf
        parts.append((some, scores))
    return parts


def others(sums: RowSums) -> np.ndarray:
    """Log-sums over the other points, for points among themselves.

    A point's own term is exp(0), the largest: the log-sum is log1p(r) with the sum r of the others, which keeps r's
    digits however small it is, as long as it is not 0.
    """
    with np.errstate(divide="ignore"):
        logs = np.asarray(np.log(np.expm1(sums.logs)))
    for some, scores in _lonely(sums, _ALONE):
        logs[some] = logsumexp(scores, axis=1)
    return logs


def pull_others(sums: RowSums, weights: np.ndarray) -> np.ndarray:
    """Gradient to the points of sum_i weights_i others_i."""
    near = np.expm1(sums.logs) >= _NEARLY_ALONE
    to_x, to_y = sums.pull(np.where(near, weights * np.exp(sums.logs) / np.where(near, np.expm1(sums.logs), 1.0), 0.0))
    grad = to_x + to_y
    for some, scores in _lonely(sums, _NEARLY_ALONE):
        shares = weights[some, None] * softmax(scores, axis=1) * (-2 / sums.width / sums.unit)
        moves = shares[..., None] * (sums.x[some, None] - sums.x)
        np.add.at(grad, some, moves.sum(axis=1))
        grad -= moves.sum(axis=0)
    return np.asarray(grad)


def _check_sigma(func: str, name: str, sigma: Any) -> float:
    value = check_positive(func, name, sigma)
    if not 1e-150 < value < 1e150:
        raise ValueError(f"{func}: `{name}` must be between 1e-150 and 1e150, got {sigma!r}")
    return value


# ---- Cauchy-Schwarz --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """factor * log sum_i exp(sum of some row sums), with constants taken from the rows' exponents."""

    factor: float
    parts: tuple[RowSums, ...]
    signs: tuple[float, ...]
    self_left_out: bool = False

    def exponents(self) -> np.ndarray:
        logs = [p.logs for p in self.parts]
        if self.self_left_out:
            logs[0] = others(self.parts[0])
        return np.asarray(sum(sign * each for sign, each in zip(self.signs, logs, strict=True)))

    def value(self) -> float:
        return self.factor * float(logsumexp(self.exponents()))


def divergence_terms(
    x: Array, y: Array, *, sigma: Any, unbiased: Any = False, base: Any = None
) -> tuple[list[Term], float, float]:
    """Terms, their constant, and the logarithm of the base."""
    func = "cauchy_schwarz_divergence"
    log_base = check_base(func, base)
    check_flag(func, "unbiased", unbiased)
    samples_backend(func, x=x, y=y)
    a, b = (as_samples(func, name, array, 2 if unbiased else 1) for name, array in (("x", x), ("y", y)))
    check_same_dimension(func, ("x", "y"), a, b)
    width = 4 * _check_sigma(func, "sigma", sigma) ** 2
    n, m = len(a), len(b)
    terms = [Term(-2.0, (row_sums(func, a, b, width),), (1.0,))]
    terms += [
        Term(1.0, (row_sums(func, p, p, width, others_count=bool(unbiased)),), (1.0,), bool(unbiased)) for p in (a, b)
    ]
    less = 1 if unbiased else 0
    constant = 2 * math.log(n * m) - math.log(n * (n - less)) - math.log(m * (m - less))
    return terms, constant, log_base


def total(terms: list[Term], constant: float, log_base: float) -> float:
    return (math.fsum(term.value() for term in terms) + constant) / log_base


def cauchy_schwarz_divergence(
    x: Array, y: Array, *, sigma: float, unbiased: bool = False, base: float | None = None
) -> float:
    """Cauchy-Schwarz divergence of two kernel densities: -2 log int p q + log int p^2 + log int q^2.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        Samples of p.
    y : array, shape (m, d) or (m,)
        Samples of q.
    sigma : float
        Width of the Gaussian kernels of both densities; the integral of two of them is one of width sqrt(2) sigma,
        ``exp(-|x_i - y_j|^2 / (4 sigma^2))``.
    unbiased : bool
        Leave each sample's term with itself out of the last two integrals. With it, as by default and as published,
        they are too large, and the divergence too.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    float
        By default not negative but for rounding, and 0 for equal samples.

    Raises
    ------
    TypeError, ValueError
        For samples that are not finite, of different dimensions or 1e153 widths apart, and sigma that is not positive.

    Notes
    -----
    Log-sums over tiles: O(n + m) memory, n^2 + n m + m^2 kernels in O(d) time each. Samples that are far apart beside
    sigma have a large divergence, about ``|distance|^2 / (2 sigma^2)``, and not an infinite one. :func:`entropic.vjp`
    has the gradients. Backends: CPU.

    References
    ----------
    Principe, Information Theoretic Learning, 2010.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).normal(size=(500, 2))
    >>> round(entropic.cauchy_schwarz_divergence(x, x, sigma=1.0), 9) + 0.0
    0.0
    >>> entropic.cauchy_schwarz_divergence(x, x + 1e4, sigma=1.0) > 9e7
    True
    """
    return total(*divergence_terms(x, y, sigma=sigma, unbiased=unbiased, base=base))


def information_terms(
    x: Array, y: Array, *, sigma_x: Any, sigma_y: Any, base: Any = None
) -> tuple[list[Term], float, float]:
    func = "cauchy_schwarz_mutual_information"
    log_base = check_base(func, base)
    a, b = ((s - centre_of(s)) / (2 * w) for s, w in _pairs(func, ("x", "y"), (x, y), (sigma_x, sigma_y)))
    of_x, of_y = row_sums(func, a, a, 1.0), row_sums(func, b, b, 1.0)
    both = np.hstack([a, b])
    terms = [
        Term(1.0, (row_sums(func, both, both, 1.0),), (1.0,)),
        Term(1.0, (of_x,), (1.0,)),
        Term(1.0, (of_y,), (1.0,)),
        Term(-2.0, (of_x, of_y), (1.0, 1.0)),
    ]
    return terms, 0.0, log_base  # of n: -2 - 2 - 2 + 2 * 3


def _pairs(func: str, names: tuple[str, ...], arrays: Any, widths: Any) -> list[tuple[np.ndarray, float]]:
    """Samples of equal length with their widths."""
    samples_backend(func, **dict(zip(names, arrays, strict=True)))
    samples = [as_samples(func, name, array) for name, array in zip(names, arrays, strict=True)]
    check_same_length(func, names, samples)
    return [(s, _check_sigma(func, f"sigma_{n[0]}", w)) for n, s, w in zip(names, samples, widths, strict=True)]


def cauchy_schwarz_mutual_information(
    x: Array, y: Array, *, sigma_x: float, sigma_y: float, base: float | None = None
) -> float:
    """Cauchy-Schwarz divergence of the joint kernel density from the product of its margins.

    With K and L the kernels of x and y it is log of mean(K L) mean(K) mean(L) over the square of the mean over i of
    mean_j K_ij mean_j L_ij.

    Parameters
    ----------
    x, y : array, shape (n, d) or (n,)
        Samples of two variables.
    sigma_x, sigma_y : float
        Widths of the two kernels, as in :func:`cauchy_schwarz_divergence`.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    float
        Not negative but for rounding.

    Raises
    ------
    TypeError, ValueError
        For samples that are not finite or of different lengths, and widths that are not positive.

    Notes
    -----
    Three passes of log-sums over tiles: O(n) memory, 3 n^2 kernels. :func:`entropic.vjp` has the gradients. Backends:
    CPU.

    References
    ----------
    Principe, Information Theoretic Learning, 2010; Yu, Yu, Lokse and others, arXiv 2404.17951.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).normal(size=(500, 1))
    >>> near = entropic.cauchy_schwarz_mutual_information(x, x, sigma_x=0.3, sigma_y=0.3)
    >>> far = entropic.cauchy_schwarz_mutual_information(x, np.roll(x, 1), sigma_x=0.3, sigma_y=0.3)
    >>> bool(near > 5 * far)
    True
    """
    return total(*information_terms(x, y, sigma_x=sigma_x, sigma_y=sigma_y, base=base))


def conditional_terms(
    x: Array, y: Array, z: Array, *, sigma_x: Any, sigma_y: Any, denominator: Any = "squares", base: Any = None
) -> tuple[list[Term], float, float]:
    func = "cauchy_schwarz_conditional"
    log_base = check_base(func, base)
    check_choice(func, "denominator", denominator, ("squares", "square"))
    widths = (sigma_x, sigma_y, sigma_y)
    (a, wide), (b, narrow), (c, _) = _pairs(func, ("x", "y", "z"), (x, y, z), widths)
    check_same_dimension(func, ("y", "z"), b, c)
    middle = centre_of(b)
    a, b, c = (a - centre_of(a)) / (2 * wide), (b - middle) / (2 * narrow), (c - middle) / (2 * narrow)
    first, second = np.hstack([a, b]), np.hstack([a, c])
    squares = denominator == "squares"
    below, sign = row_sums(func, a, a, 0.5 if squares else 1.0), -1.0 if squares else -2.0
    terms = [
        Term(factor, (row_sums(func, p, q, 1.0), below), (1.0, sign))
        for factor, p, q in ((-2.0, first, second), (1.0, first, first), (1.0, second, second))
    ]
    return terms, 0.0, log_base


def cauchy_schwarz_conditional(
    x: Array, y: Array, z: Array, *, sigma_x: float, sigma_y: float, denominator: str = "squares",
    base: float | None = None,
) -> float:  # fmt: skip
    """Cauchy-Schwarz divergence of what two variables are given x: of p(y | x) and p(z | x) under kernel densities.

    With the kernels K_ji of x_j and x_i, L^yz_ji of y_j and z_i, L^yy and L^zz likewise, and D_j = sum_i K_ji^2, it is
    -2 log sum_j (sum_i K_ji L^yz_ji) / D_j + log sum_j (sum_i K_ji L^yy_ji) / D_j + log sum_j (sum_i K_ji L^zz_ji) /
    D_j. Both orders of y and z are estimates of one divergence, and differ.

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        What both are conditioned on.
    y, z : array, shape (n, q) or (n,)
        Two variables, such as a prediction and its target, for the same samples.
    sigma_x, sigma_y : float
        Widths of the kernels of x, and of y and z, as in :func:`cauchy_schwarz_divergence`.
    denominator : {"squares", "square"}
        D is the sum of squares, as in the published code, or the square of the sum of K, as the estimate is derived.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    float
        0 for y = z.

    Raises
    ------
    TypeError, ValueError
        As :func:`cauchy_schwarz_mutual_information`.

    Notes
    -----
    Four passes of log-sums over tiles: O(n) memory, 4 n^2 kernels. :func:`entropic.vjp` has the gradients. Backends:
    CPU.

    References
    ----------
    Yu, Yu, Lokse and others, arXiv 2404.17951.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> options = {"sigma_x": 1.0, "sigma_y": 1.0}
    >>> round(entropic.cauchy_schwarz_conditional(x, x[:, 0], x[:, 0], **options), 9) + 0.0
    0.0
    """
    return total(*conditional_terms(x, y, z, sigma_x=sigma_x, sigma_y=sigma_y, denominator=denominator, base=base))


# ---- entropies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DensityProblem:
    """-mean log of a kernel density at its own samples."""

    sums: RowSums
    logs: np.ndarray
    log_norm: float
    log_base: float

    def value(self) -> float:
        return (self.log_norm - float(self.logs.mean())) / self.log_base


def kde_problem(x: Array, *, sigma: Any, leave_one_out: Any = True, base: Any = None) -> DensityProblem:
    func = "kde_entropy"
    log_base = check_base(func, base)
    check_flag(func, "leave_one_out", leave_one_out)
    samples_backend(func, x=x)
    samples = as_samples(func, "x", x, 2 if leave_one_out else 1)
    width = _check_sigma(func, "sigma", sigma)
    n, d = samples.shape
    sums = row_sums(func, samples, samples, 2 * width**2, others_count=bool(leave_one_out))
    logs = others(sums) if leave_one_out else sums.logs
    log_norm = math.log(n - 1 if leave_one_out else n) + d / 2 * math.log(2 * math.pi) + d * math.log(width)
    return DensityProblem(sums, logs, log_norm, log_base)


def kde_entropy(x: Array, *, sigma: float, leave_one_out: bool = True, base: float | None = None) -> float:
    """Differential entropy by a Gaussian kernel density: -mean_i log mean_j N(x_i; x_j, sigma^2).

    Parameters
    ----------
    x : array, shape (n, d) or (n,)
        Samples.
    sigma : float
        Width of the kernels.
    leave_one_out : bool
        Take the density at each sample from the others. Without it each sample counts for itself, which makes the
        density too large there: then it is, less the entropy of the kernel, the upper bound of the mutual information
        of a mixture with its centres.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    float
        Finite up to distances of 1e153 widths: samples that are far from all others count by the square of that.

    Raises
    ------
    TypeError, ValueError
        For samples that are not finite, a single one with `leave_one_out`, and sigma that is not positive.

    Notes
    -----
    Log-sums over tiles: O(n) memory, n^2 kernels. :func:`entropic.vjp` has the gradient. Backends: CPU.

    References
    ----------
    Joe, Ann. Inst. Stat. Math. 41 (1989) 683.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).normal(size=2000)
    >>> round(entropic.kde_entropy(x, sigma=0.2), 1)  # the truth is 1.42
    1.4
    """
    return kde_problem(x, sigma=sigma, leave_one_out=leave_one_out, base=base).value()


@dataclass(frozen=True)
class MixtureProblem:
    """Row sums of both bounds, which components have a weight, these weights, and a component's entropy."""

    lower: RowSums
    upper: RowSums
    present: np.ndarray
    shares: np.ndarray
    own: float
    log_base: float

    def value(self) -> tuple[float, float]:
        lower, upper = ((self.own - float(self.shares @ s.logs)) / self.log_base for s in (self.lower, self.upper))
        return lower, upper


def mixture_problem(means: Array, *, sigma: Any, weights: Any = None, base: Any = None) -> MixtureProblem:
    func = "mixture_entropy"
    log_base = check_base(func, base)
    samples_backend(func, means=means)
    samples = as_samples(func, "means", means)
    width = _check_sigma(func, "sigma", sigma)
    n, d = samples.shape
    shares = np.full(n, 1.0 / n)
    if weights is not None:
        given = as_samples(func, "weights", weights)
        if given.shape != (n, 1) or (given < 0).any() or not given.any():
            raise ValueError(f"{func}: `weights` must be {n} numbers that are not negative with a positive sum")
        shares = given[:, 0] / given.max()
    present = shares > 0
    samples, shares = samples[present], shares[present] / shares.sum()
    own = d / 2 * (math.log(2 * math.pi) + 1) + d * math.log(width)
    lower, upper = (row_sums(func, samples, samples, factor * width**2, shares) for factor in (8, 2))
    return MixtureProblem(lower, upper, present, shares, own, log_base)


def mixture_entropy(
    means: Array, *, sigma: float, weights: Array | None = None, base: float | None = None
) -> tuple[float, float]:
    """Bounds of the entropy of a Gaussian mixture: H(component) - sum_i w_i log sum_j w_j exp(-D(i, j)).

    Parameters
    ----------
    means : array, shape (n, d) or (n,)
        Centres of the components.
    sigma : float
        Standard deviation of each, in every direction.
    weights : array, shape (n,), optional
        Of the components, divided by their sum; equal by default.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    lower, upper : float
        With the Bhattacharyya distance ``|m_i - m_j|^2 / (8 sigma^2)`` for D it is a lower bound, with the
        Kullback-Leibler divergence ``|m_i - m_j|^2 / (2 sigma^2)`` an upper one.

    Raises
    ------
    TypeError, ValueError
        For centres that are not finite, and weights that are negative or have the sum 0.

    Notes
    -----
    Less the components' entropy, ``d/2 log(2 pi e sigma^2)``, they bound the mutual information of the mixture with its
    component. Log-sums over tiles: O(n) memory, 2 n^2 kernels. :func:`entropic.vjp` has the gradient to the means.
    Backends: CPU.

    References
    ----------
    Kolchinsky and Tracey, Entropy 19 (2017) 361.

    Examples
    --------
    >>> import entropic
    >>> lower, upper = entropic.mixture_entropy([0.0, 1000.0], sigma=1.0)
    >>> round(lower - 1.4189385, 6), round(upper - 1.4189385, 6)  # one bit more than one component: log(2)
    (0.693147, 0.693147)
    """
    return mixture_problem(means, sigma=sigma, weights=weights, base=base).value()
