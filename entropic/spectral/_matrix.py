"""Functions of a covariance's or a Gram matrix's spectrum: entropies, ranks, coding rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._backend import Array, Backend, backend_of, refuse_cuda, to_numpy
from .._validate import check_base, check_flag, check_integer, check_number, check_positive
from ._covariance import CovarianceStream, Rows, as_rows, rows_of
from ._eigen import eigenvalues

# Eigenvalues (..., m) of a symmetric matrix, ascending, to a value (...) and its derivatives (..., m).
Measure = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def xlogx(p: np.ndarray) -> np.ndarray:
    return np.asarray(p * np.log(p, where=p > 0, out=np.zeros_like(p)))


def _over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is 0."""
    return np.asarray(np.divide(a, b, where=b > 0, out=np.zeros(np.broadcast_shapes(a.shape, b.shape))))


# Orders above it give the value of infinity to rounding, and their powers only the rounding of logarithms.
_NEARLY_INFINITE = 1e12


# ---- measures --------------------------------------------------------------------------------------------------------


def shannon(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-sum p log p with p = q / sum q; where q is 0 its infinite derivative counts as 0, as it does in q log q."""
    total = q.sum(axis=-1, keepdims=True)
    p = _over(q, total)
    value = 0.0 - xlogx(p).sum(axis=-1)
    logs = np.log(p, where=p > 0, out=np.zeros_like(p))
    return value, np.where(p > 0, _over(-logs - value[..., None], total), 0.0)


def renyi(order: float) -> Measure:
    """log(sum p^a) / (1 - a)."""
    if order == 1:
        return shannon
    if order > _NEARLY_INFINITE:
        order = math.inf

    def measure(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = q.sum(axis=-1, keepdims=True)
        p = _over(q, total)
        if math.isinf(order):
            top = p.max(axis=-1, keepdims=True)
            at = (p == top) / (p == top).sum(axis=-1, keepdims=True)
            return -np.log(np.where(top > 0, top, 1.0))[..., 0], _over(1.0 - _over(at, top), total)
        logs = np.log(p, where=p > 0, out=np.full(p.shape, -np.inf))
        if abs(order - 1) < 0.5:
            # sum p^a = 1 + sum p (p^(a - 1) - 1), of which only the second part counts near a = 1
            terms = p * np.expm1((order - 1) * np.where(p > 0, logs, 0.0))
            log_sum = np.log1p(terms.sum(axis=-1, keepdims=True))
        else:
            log_top = logs.max(axis=-1, keepdims=True)
            log_top = np.where(np.isfinite(log_top), log_top, 0.0)
            sums = np.exp(order * (logs - log_top)).sum(axis=-1, keepdims=True)
            log_sum = np.where(sums > 0, np.log(np.where(sums > 0, sums, 1.0)) + order * log_top, 0.0)
        rates = np.expm1(np.where(p > 0, (order - 1) * np.where(p > 0, logs, 0.0) - log_sum, 0.0))
        return log_sum[..., 0] / (1 - order) + 0.0, np.where(p > 0, _over(order * rates / (1 - order), total), 0.0)

    return measure


def _effective_rank(power: float) -> Measure:
    def measure(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        top = q.max(axis=-1, keepdims=True)
        share = _over(q, top)
        entropy, slope = shannon(share ** (power / 2))
        rank = np.where(top[..., 0] > 0, np.exp(entropy), 0.0)
        inner = np.where(share > 0, power / 2 * np.where(share > 0, share, 1.0) ** (power / 2 - 1), 0.0)
        # of x / max x, whose derivative to x has a second part that vanishes: the rank does not depend on the scale
        return rank, _over(rank[..., None] * slope * inner, top)

    return measure


def _truncated(k: int) -> Measure:
    def measure(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = q.sum(axis=-1, keepdims=True)
        p = _over(q, total)
        chosen = np.arange(q.shape[-1]) >= q.shape[-1] - k
        rates = np.where(chosen & (p > 0), -np.log(np.where(p > 0, p, 1.0)) - 1, 0.0)
        value = 0.0 - (xlogx(p) * chosen).sum(axis=-1)
        return value, _over(rates - (rates * p).sum(axis=-1, keepdims=True), total)

    return measure


def _participation(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total, squares = q.sum(axis=-1, keepdims=True), (q * q).sum(axis=-1, keepdims=True)
    value = _over(total**2, squares)
    return value[..., 0], _over(2 * total - 2 * q * value, squares)


def _stable_rank(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    top, total = q.max(axis=-1, keepdims=True), q.sum(axis=-1, keepdims=True)
    at = (q == top) / (q == top).sum(axis=-1, keepdims=True)
    value = _over(total, top)
    return value[..., 0], _over(1.0 - at * value, top)


def _decay(count: int | None) -> Measure:
    def measure(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m = q.shape[-1] if count is None else min(count, q.shape[-1])
        x = np.log(np.arange(1, m + 1))
        x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        top = q[..., ::-1][..., :m]
        slope = np.zeros_like(q)
        slope[..., q.shape[-1] - m :] = _over(x, top)[..., ::-1]
        logs = np.log(top, where=top > 0, out=np.zeros_like(top))
        return np.where((top > 0).all(axis=-1), logs @ x, -np.inf), slope

    return measure


def _log_det(log_scale: np.ndarray) -> Measure:
    """(1/2) sum log(1 + scale q), with a scale for each matrix."""

    def measure(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logs = np.log(q, where=q > 0, out=np.full_like(q, -np.inf))
        with np.errstate(over="ignore"):
            return 0.5 * np.logaddexp(0.0, logs + log_scale).sum(axis=-1), 0.5 / (np.exp(-log_scale) + q)

    return measure


def divided(measure: Measure, by: float) -> Measure:
    """In the unit of a base."""

    def scaled(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, slope = measure(q)
        return value / by, slope / by

    return scaled if by != 1 else measure


def settled(values: np.ndarray) -> np.ndarray:
    """Eigenvalues, of which those that are 0 but for rounding, on either side of it, are 0."""
    rounding = 2e-15 * math.sqrt(values.shape[-1]) * values.max(axis=-1, keepdims=True, initial=0.0)
    return np.where(values > rounding, values, 0.0)


# ---- problems --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MatrixProblem:
    """A measure of the spectrum of rows, or of a symmetric matrix (..., m, m)."""

    backend: Backend
    measure: Measure
    rows: Rows | None
    matrix: np.ndarray
    exponent: Any = 0
    """The matrix is in units of two to this power, (..., 1, 1)."""
    found: np.ndarray | None = None
    """Its eigenvalues, where checks have found them."""

    def wrapped(self, value: np.ndarray) -> Any:
        return float(value) if value.ndim == 0 else self.backend.wrap(value)

    def value(self) -> Any:
        found = eigenvalues(self.matrix) if self.found is None else self.found
        return self.wrapped(self.measure(settled(found))[0])

    def value_and_slope(self) -> tuple[Any, np.ndarray]:
        """The value, and its gradient to the matrix: V diag(slope) V', one and the same for any basis of equal ones."""
        values, vectors = np.linalg.eigh(self.matrix)
        value, slope = self.measure(settled(values))
        return self.wrapped(value), (vectors * slope[..., None, :]) @ np.swapaxes(vectors, -1, -2)

    def pull(self, to_matrix: np.ndarray) -> np.ndarray:
        """The gradient to the rows that were given, from that to the matrix."""
        assert self.rows is not None
        z = self.rows.z.astype(np.float64, copy=False)
        return self.rows.pull(2 * (z @ to_matrix if self.rows.tall else to_matrix @ z))


def rows_problem(
    func: str, x: Any, center: Any, normalize: Any, measure: Measure, usual: tuple[bool, bool], exact: bool = False
) -> MatrixProblem:
    """Of rows, or of a stream of them, which has options of its own."""
    if isinstance(x, CovarianceStream):
        for name, option, own in (("center", center, x.center), ("normalize", normalize, x.normalize)):
            if option is not None and check_flag(func, name, option) != own:
                raise ValueError(f"{func}: `{name}` is that of the stream, {own}, got {option}")
        matrix = x.matrix() * x.count
        return MatrixProblem(backend_of(func, x=matrix), measure, None, matrix)
    center, normalize = usual[0] if center is None else center, usual[1] if normalize is None else normalize
    rows = rows_of(func, x, center, normalize)
    return MatrixProblem(rows.backend, measure, rows, rows.gram(exact))


def check_order(func: str, order: Any) -> float:
    value = math.inf if isinstance(order, float) and order == math.inf else check_number(func, "order", order)
    if not value > 0:
        raise ValueError(f"{func}: `order` must be positive, got {order!r}")
    return value


def matrix_entropy_problem(
    x: Any, *, order: Any = 1.0, center: Any = None, normalize: Any = None, base: Any = None
) -> MatrixProblem:
    func = "matrix_entropy"
    value = check_order(func, order)
    measure = divided(renyi(value), check_base(func, base))
    return rows_problem(func, x, center, normalize, measure, (True, True), exact=value < 1)


def matrix_entropy(
    x: Any, *, order: float = 1.0, center: bool | None = None, normalize: bool | None = None, base: float | None = None
) -> Any:
    """Entropy of a covariance's spectrum: -sum p log p with p = lambda / sum lambda.

    Parameters
    ----------
    x : array, shape (..., n, d), or CovarianceStream
        Samples as rows; leading axes are a batch, such as layers, heads or sentences.
    order : float
        1 for von Neumann's entropy; a != 1 for Renyi's ``log(sum p^a) / (1 - a)``, inf for ``-log max p``.
    center : bool, optional
        Take off the mean row first. By default so, or as the stream does.
    normalize : bool, optional
        Then divide each row by its Euclidean norm; rows of zeros stay as they are and do not count. By default so, or
        as the stream does.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    float, or array of float64 of the batch's shape
        At most the logarithm of min(n, d); 0 where all rows are the same, or zero.

    Raises
    ------
    TypeError, ValueError
        For samples that are not finite or have no rows or columns, and orders that are not positive.

    Notes
    -----
    The eigenvalues are those of the smaller of the covariance and the Gram matrix, which are the same but for zeros:
    O(n d min(n, d)) time and O(min(n, d)^2) memory beside a copy of x; of a batch each thread has a matrix. float32
    rows are multiplied in float32, 2,048 terms at a time, and added up in float64 (for orders below 1, where small
    eigenvalues count, multiplied in float64). Eigenvalues that are 0 but for rounding are 0. ``center=False`` is the
    entropy of VNE, the default that of the evaluation of language models (divide by ``log(d)``), and
    ``normalize=False`` that of the covariance itself. :func:`entropic.vjp` has its gradient, for arrays. Backends: CPU.

    References
    ----------
    Wei, Tan, Li and others, arXiv 2401.17139; Kim, Kang, Hwang and others, CVPR 2023.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> round(entropic.matrix_entropy(np.eye(8), center=False, base=2), 6)
    3.0
    """
    return matrix_entropy_problem(x, order=order, center=center, normalize=normalize, base=base).value()


def von_neumann_problem(rho: Array, *, order: Any = 1.0, base: Any = None) -> MatrixProblem:
    func = "von_neumann_entropy"
    backend = backend_of(func, rho=rho)
    refuse_cuda(func, backend, "rho")
    measure = divided(renyi(check_order(func, order)), check_base(func, base))
    given, exponent = as_rows(func, "rho", rho)
    if given.shape[-1] != given.shape[-2]:
        raise ValueError(f"{func}: `rho` must have shape (..., n, n), got {given.shape}")
    matrix = np.ldexp(given.astype(np.float64), -exponent)
    flipped = np.swapaxes(matrix, -1, -2)
    allowed = 1e-6 * np.abs(matrix).max(axis=(-2, -1), keepdims=True)
    if not (np.abs(matrix - flipped) <= allowed).all():
        raise ValueError(f"{func}: `rho` must be symmetric")
    matrix = (matrix + flipped) / 2
    found = eigenvalues(matrix)
    least = found[..., :1]
    if (least < -allowed[..., 0]).any():
        share = float((least / allowed[..., 0]).min()) * 1e-6
        raise ValueError(f"{func}: `rho` must not have negative eigenvalues, got {share:.3g} times its largest entry")
    return MatrixProblem(backend, measure, None, matrix, exponent, found)


def von_neumann_entropy(rho: Array, *, order: float = 1.0, base: float | None = None) -> Any:
    """Entropy of a density matrix: -tr rho log rho.

    Parameters
    ----------
    rho : array, shape (..., n, n)
        Symmetric matrices without negative eigenvalues. They are divided by their traces.
    order, base
        As in :func:`matrix_entropy`.

    Returns
    -------
    float, or array of float64 of the batch's shape

    Raises
    ------
    TypeError, ValueError
        For matrices that are not square, finite or symmetric, or have eigenvalues below -1e-6 times the largest entry;
        negative ones above are rounding, and count as 0.

    Notes
    -----
    O(n^3) time. :func:`entropic.vjp` has the gradient, -(log rho + 1) for a trace of 1 that is kept. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> round(entropic.von_neumann_entropy(np.eye(4) / 4, base=2), 6)
    2.0
    """
    return von_neumann_problem(rho, order=order, base=base).value()


def effective_rank_problem(x: Any, *, power: Any = 1.0, center: Any = None, normalize: Any = None) -> MatrixProblem:
    func = "effective_rank"
    value = check_positive(func, "power", power)
    return rows_problem(func, x, center, normalize, _effective_rank(value), (False, False), exact=value < 2)


def effective_rank(x: Any, *, power: float = 1.0, center: bool | None = None, normalize: bool | None = None) -> Any:
    """Number of dimensions that the rows fill: exp(-sum p log p) with p = s^power / sum s^power, s singular values.

    Parameters
    ----------
    x : array, shape (..., n, d), or CovarianceStream
        Samples as rows.
    power : float
        1 is the effective rank of Roy and Vetterli, as in RankMe; 2 is that of the covariance's eigenvalues, as in
        Diff-eRank.
    center, normalize : bool, optional
        As in :func:`matrix_entropy`; neither by default.

    Returns
    -------
    float, or array of float64 of the batch's shape
        Between 1 and min(n, d), and 0 where all rows are zero.

    Raises
    ------
    TypeError, ValueError
        As :func:`matrix_entropy`.

    Notes
    -----
    Singular values are roots of the eigenvalues of the smaller side: those below some 1e-7 of the largest are rounding,
    and count as 0; n of them could add n 1e-7 log(1e7) to the entropy. float32 rows are multiplied in float64. Cost as
    :func:`matrix_entropy`. Backends: CPU.

    References
    ----------
    Roy and Vetterli, EUSIPCO 2007; Garrido, Balestriero, Najman and LeCun, ICML 2023.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> round(entropic.effective_rank(np.eye(5)), 6)
    5.0
    """
    return effective_rank_problem(x, power=power, center=center, normalize=normalize).value()


def truncated_problem(x: Any, k: Any, *, center: Any = None, normalize: Any = None, base: Any = None) -> MatrixProblem:
    func = "truncated_matrix_entropy"
    count = check_integer(func, "k", k, 1)
    measure = divided(_truncated(count), check_base(func, base))
    return rows_problem(func, x, center, normalize, measure, (True, True))


def truncated_matrix_entropy(
    x: Any, k: int, *, center: bool | None = None, normalize: bool | None = None, base: float | None = None
) -> Any:
    """The k largest eigenvalues' part of :func:`matrix_entropy`: -sum over i <= k of p_i log p_i.

    Parameters
    ----------
    x : array, shape (..., n, d), or CovarianceStream
        Samples as rows.
    k : int
        Eigenvalues, the largest; all of them where there are fewer.
    center, normalize, base
        As in :func:`matrix_entropy`.

    Returns
    -------
    float, or array of float64 of the batch's shape

    Raises
    ------
    TypeError, ValueError
        As :func:`matrix_entropy`, and for k < 1.

    Notes
    -----
    p has the sum 1 over all eigenvalues. Cost as :func:`matrix_entropy`. Backends: CPU.

    References
    ----------
    Xiong, Shen, Ye and others, arXiv 2410.03090 (UNComp).

    Examples
    --------
    >>> import numpy as np, entropic
    >>> round(entropic.truncated_matrix_entropy(np.eye(4), 2, center=False, base=2), 6)
    1.0
    """
    return truncated_problem(x, k, center=center, normalize=normalize, base=base).value()


def participation_problem(x: Any, *, center: Any = None, normalize: Any = None) -> MatrixProblem:
    return rows_problem("participation_ratio", x, center, normalize, _participation, (True, False))


def participation_ratio(x: Any, *, center: bool | None = None, normalize: bool | None = None) -> Any:
    """Number of dimensions by the second moment: (sum lambda)^2 / sum lambda^2 of the covariance's eigenvalues.

    Parameters
    ----------
    x : array, shape (..., n, d), or CovarianceStream
        Samples as rows.
    center, normalize : bool, optional
        As in :func:`matrix_entropy`; by default the rows are centred and not normalised.

    Returns
    -------
    float, or array of float64 of the batch's shape
        Between 1 and min(n, d), and 0 where all rows are the same.

    Raises
    ------
    TypeError, ValueError
        As :func:`matrix_entropy`.

    Notes
    -----
    The exponential of the Renyi entropy of order 2. Cost as :func:`matrix_entropy`. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> round(entropic.participation_ratio(np.eye(4), center=False), 6)
    4.0
    """
    return participation_problem(x, center=center, normalize=normalize).value()


def stable_rank_problem(x: Any, *, center: Any = None, normalize: Any = None) -> MatrixProblem:
    return rows_problem("stable_rank", x, center, normalize, _stable_rank, (False, False))


def stable_rank(x: Any, *, center: bool | None = None, normalize: bool | None = None) -> Any:
    """Squared Frobenius norm over squared spectral norm: sum s^2 / max s^2 of the singular values.

    Parameters
    ----------
    x : array, shape (..., n, d), or CovarianceStream
        Samples as rows, or weights.
    center, normalize : bool, optional
        As in :func:`matrix_entropy`; neither by default.

    Returns
    -------
    float, or array of float64 of the batch's shape
        Between 1 and min(n, d), and 0 for zeros.

    Raises
    ------
    TypeError, ValueError
        As :func:`matrix_entropy`.

    Notes
    -----
    Cost as :func:`matrix_entropy`. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> round(entropic.stable_rank(np.diag([2.0, 1.0, 1.0])), 6)
    1.5
    """
    return stable_rank_problem(x, center=center, normalize=normalize).value()


def decay_problem(x: Any, *, count: Any = None, center: Any = None, normalize: Any = None) -> MatrixProblem:
    func = "spectral_decay"
    most = None if count is None else check_integer(func, "count", count, 2)
    problem = rows_problem(func, x, center, normalize, _decay(most), (True, False), exact=True)
    if problem.matrix.shape[-1] < 2:
        raise ValueError(f"{func}: a slope needs at least two eigenvalues, got {problem.matrix.shape[-1]}")
    return problem


def spectral_decay(
    x: Any, *, count: int | None = None, center: bool | None = None, normalize: bool | None = None
) -> Any:
    """Slope of log lambda_i against log i by least squares, over the covariance's eigenvalues in descending order.

    Parameters
    ----------
    x : array, shape (..., n, d), or CovarianceStream
        Samples as rows.
    count : int, optional
        How many of the largest eigenvalues are fitted; all by default.
    center, normalize : bool, optional
        As in :func:`matrix_entropy`; by default the rows are centred and not normalised.

    Returns
    -------
    float, or array of float64 of the batch's shape
        -a for eigenvalues in proportion to i^-a; -inf where a fitted eigenvalue is 0, but for rounding.

    Raises
    ------
    TypeError, ValueError
        As :func:`matrix_entropy`, and for fewer than two eigenvalues.

    Notes
    -----
    Cost as :func:`matrix_entropy`, with float32 rows multiplied in float64. Centring leaves n - 1 eigenvalues that are
    not 0: choose `count` below n where n <= d. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> round(entropic.spectral_decay(np.diag(np.arange(1, 9.0) ** -0.5), center=False), 6)
    -1.0
    """
    return decay_problem(x, count=count, center=center, normalize=normalize).value()


# ---- coding rates ----------------------------------------------------------------------------------------------------


def _rate_problem(func: str, rows: Rows, size: float, eps: Any, base: Any) -> MatrixProblem:
    distortion = check_positive(func, "eps", eps)
    of_units = 2 * math.log(2) * rows.exponent[..., 0]
    log_scale = math.log(rows.z.shape[-1]) - math.log(size) - 2 * math.log(distortion) + of_units
    measure = divided(_log_det(log_scale), check_base(func, base))
    return MatrixProblem(rows.backend, measure, rows, rows.gram())


def rate_rows(func: str, z: Array) -> Rows:
    return rows_of(func, z, False, False, name="z")


def coding_rate_problem(func: str, rows: Rows, eps: Any, base: Any) -> MatrixProblem:
    return _rate_problem(func, rows, rows.z.shape[-2], eps, base)


def memberships_of(func: str, labels: Any, n: int) -> np.ndarray:
    """Weights (n, classes) of labels or of soft memberships, which are not negative and have the sum 1 in each row."""
    given = np.asarray(labels) if isinstance(labels, list | tuple) else labels
    words = isinstance(given, np.ndarray) and given.dtype.kind in "US"
    array = given if words else to_numpy(func, "labels", given)
    if array.ndim not in (1, 2) or len(array) != n:
        raise ValueError(f"{func}: `labels` must have {n} rows, one for each of `z`, got shape {array.shape}")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1:
        if array.dtype.kind == "f":
            raise TypeError(f"{func}: labels must be integers, booleans or strings, got dtype {array.dtype}")
        return np.asarray((array[:, None] == np.unique(array)).astype(np.float64))
    weights = array.astype(np.float64)
    if not (weights >= 0).all() or not np.allclose(weights.sum(axis=1), 1, atol=1e-5):
        raise ValueError(f"{func}: memberships must not be negative, and have the sum 1 in each row")
    return weights


def class_problems(
    func: str, rows: Rows, labels: Any, eps: Any, base: Any
) -> list[tuple[float, np.ndarray, MatrixProblem]]:
    """For each class its share, the roots of its weights, and the problem of its weighted rows."""
    if rows.z.ndim != 2:
        raise ValueError(f"{func}: `z` must have shape (n, d), got {rows.z.shape}")
    n = len(rows.z)
    classes = []
    for weights in memberships_of(func, labels, n).T:
        size = float(weights.sum())
        if size > 0:
            roots = np.sqrt(weights)[:, None]
            weighted = replace(rows, z=rows.z * roots)
            classes.append((size / n, roots, _rate_problem(func, weighted, size, eps, base)))
    return classes


def coding_rate(z: Array, *, eps: float = 0.5, labels: Any = None, base: float | None = None) -> Any:
    """Length of a code for rows up to a distortion: (1/2) log det(I + d / (n eps^2) z' z).

    Parameters
    ----------
    z : array, shape (..., n, d)
        Samples as rows, usually of norm 1.
    eps : float
        Distortion, in the unit of z.
    labels : array, shape (n,) or (n, classes), optional
        Classes as integers, booleans or strings, or memberships with the sum 1 in each row. The rate is then that of
        coding each class for itself, ``sum_j (n_j / n) (1/2) log det(I + d / (n_j eps^2) sum_i w_ij z_i z_i')``.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    float, or array of float64 of the batch's shape

    Raises
    ------
    TypeError, ValueError
        For rows that are not finite, eps <= 0, and labels of another length or memberships that have another sum.

    Notes
    -----
    By the eigenvalues of the smaller side. Cost as :func:`matrix_entropy`. Backends: CPU.

    References
    ----------
    Yu, Chan, You, Song and Ma, NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> round(entropic.coding_rate(np.eye(4), eps=1.0, base=2), 6)  # 4 directions, 1/2 log2(1 + 1) each
    2.0
    """
    func = "coding_rate"
    rows = rate_rows(func, z)
    if labels is None:
        return coding_rate_problem(func, rows, eps, base).value()
    classes = class_problems(func, rows, labels, eps, base)
    return float(sum(share * problem.value() for share, _, problem in classes))


def coding_rate_reduction(z: Array, labels: Any, *, eps: float = 0.5, base: float | None = None) -> float:
    """How much shorter a code is that knows the classes: the :func:`coding_rate` less that with labels.

    Parameters
    ----------
    z : array, shape (n, d)
        Samples as rows, usually of norm 1.
    labels, eps, base
        As in :func:`coding_rate`.

    Returns
    -------
    float
        Not negative.

    Raises
    ------
    TypeError, ValueError
        As :func:`coding_rate`.

    Notes
    -----
    Cost as :func:`coding_rate`, for each class. :func:`entropic.vjp` has the gradient to z. Backends: CPU.

    References
    ----------
    Yu, Chan, You, Song and Ma, NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> z = np.repeat(np.eye(2), 50, axis=0)  # two classes on two axes
    >>> round(entropic.coding_rate_reduction(z, np.arange(100) // 50, eps=1.0), 3)
    0.144
    """
    func = "coding_rate_reduction"
    rows = rate_rows(func, z)
    classes = class_problems(func, rows, labels, eps, base)
    whole = coding_rate_problem(func, rows, eps, base).value()
    # concavity of log det; rounding could leave less
    return max(0.0, float(whole - sum(share * problem.value() for share, _, problem in classes)))
