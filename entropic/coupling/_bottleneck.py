"""Couplings through a code of limited entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, Backend
from .._validate import check_choice
from ._coupling import SHANNON_BITS, Coupling, check_functional, check_method, couple
from ._masses import GRID, Masses, as_masses

_SEARCHES = ("greedy", "pairs", "moves")


@dataclass(frozen=True, eq=False, repr=False)
class BottleneckEncoder:
    """A code T of X with H(T) at most the rate, that keeps much of X.

    Attributes
    ----------
    rate : float
        The limit that was asked for.
    information : float
        I(X; T).
    code_entropy : float
        H(T), at most `rate`.
    bound : float
        No code keeps more: the smaller of `rate` and H(X).
    n_labels : int
        How many values T has.
    """

    rate: float
    information: float
    code_entropy: float
    bound: float
    n_labels: int
    _labels: np.ndarray
    _split: tuple[int, int, int]
    _masses: Masses

    def __repr__(self) -> str:
        return (
            f"BottleneckEncoder({len(self._labels)} to {self.n_labels}, rate={self.rate:.6g}, "
            f"information={self.information:.6g}, gap={self.gap:.2g})"
        )

    @property
    def gap(self) -> float:
        """How much more information the best code may keep."""
        return max(0.0, self.bound - self.information)

    @property
    def labels(self) -> Any:
        """The value of T for each x (n,), -1 where x has no mass. One x may be divided: see :meth:`toarray`."""
        return self._masses.backend.wrap(self._labels)

    def _cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, labels and integer masses of P(x, t)."""
        counts = self._masses.counts[0]
        rows = np.flatnonzero(counts)
        labels, mass = self._labels[rows], counts[rows]
        split, other, moved = self._split
        if split >= 0:
            mass = mass.copy()
            mass[np.searchsorted(rows, split)] -= np.uint64(moved)
            rows, labels = np.append(rows, split), np.append(labels, np.int32(other))
            mass = np.append(mass, np.uint64(moved))
        return rows, labels, mass

    def _code(self) -> np.ndarray:
        """Integer masses of T."""
        _, labels, mass = self._cells()
        code = np.zeros(self.n_labels, dtype=np.uint64)
        np.add.at(code, labels, mass)
        return code

    @property
    def code(self) -> Any:
        """Distribution of T (n_labels,)."""
        return self._masses.backend.wrap(self._as_mass(self._code()))

    def _as_mass(self, counts: np.ndarray) -> np.ndarray:
        return (counts.astype(np.float64) / self._masses.total).astype(self._masses.dtype, copy=False)

    def tocoo(self) -> Any:
        """P(x, t) as a `scipy.sparse.coo_array` of shape (n, n_labels)."""
        from scipy import sparse

        rows, labels, mass = self._cells()
        return sparse.coo_array((self._as_mass(mass), (rows, labels)), shape=(len(self._labels), self.n_labels))

    def toarray(self) -> Any:
        """P(x, t), dense (n, n_labels)."""
        rows, labels, mass = self._cells()
        dense = np.zeros((len(self._labels), self.n_labels), dtype=self._masses.dtype)
        dense[rows, labels] = self._as_mass(mass)
        return self._masses.backend.wrap(dense)


def check_rate(func: str, rate: Any) -> float:
    if isinstance(rate, bool | np.bool_) or not isinstance(rate, int | float | np.integer | np.floating):
        raise TypeError(f"{func}: `rate` must be a number, got {rate!r}")
    if not rate >= 0:
        raise ValueError(f"{func}: `rate` must not be negative, got {rate!r}")
    return float(rate) + 0.0  # no -0.0


def _refined(masses: Masses) -> Masses:
    """Counts of a small total are too coarse to be divided between labels."""
    factor = max(1, GRID // masses.total)
    return replace(masses, counts=[counts * np.uint64(factor) for counts in masses.counts], total=masses.total * factor)


def _entropy(counts: np.ndarray, total: int) -> float:
    return float(_core.coupling_entropy(counts, total, SHANNON_BITS.measure, SHANNON_BITS.order))


def _encode(masses: Masses, rate: float, scale: float, search: int) -> BottleneckEncoder:
    counts = masses.counts[0]
    labels, split, other, moved, n_labels, information, entropy = _core.coupling_encode(
        counts, masses.total, rate / scale, search
    )
    # The unit's rounding must not lift H(T) over the rate.
    return BottleneckEncoder(
        rate=rate,
        information=min(information * scale, rate),
        code_entropy=min(entropy * scale, rate),
        bound=min(rate, _entropy(counts, masses.total) * scale),
        n_labels=n_labels,
        _labels=labels,
        _split=(split, other, moved),
        _masses=masses,
    )


def bottleneck_encoder(p: Array, rate: float, *, method: str = "moves", base: float = 2.0) -> BottleneckEncoder:
    """Code T of X with H(T) at most `rate` and I(X; T) as large as is found.

    Parameters
    ----------
    p : array_like, shape (n,)
        Masses or counts of X, of any total.
    rate : float
        Largest entropy of T, in the unit of `base`; 0 gives a constant.
    method : {'moves', 'pairs', 'greedy'}, optional
        'greedy' is the published search: merge the largest masses until that, or merging the two smallest, reaches the
        rate. 'pairs' merges that pair of the last state above the rate which falls least below it. 'moves', the
        default, also divides one mass between two labels so that H(T) comes up to the rate. Each is at least as good
        as the one before.
    base : float, optional
        Base of the entropies; 2, the default, gives bits.

    Returns
    -------
    BottleneckEncoder
        The map, I(X; T), H(T), and by how much the best could be better.

    Raises
    ------
    ValueError
        Negative or nan `rate`, or masses that :func:`minimum_entropy_coupling` refuses.
    TypeError, DeviceError
        As there.

    Notes
    -----
    Time O(n log n) and O(n) memory. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    M. Ebrahimi, J. Chen, A. Khisti, "Minimum Entropy Coupling with Bottleneck", NeurIPS 2024.

    Examples
    --------
    >>> import entropic
    >>> entropic.bottleneck_encoder([0.25, 0.25, 0.25, 0.25], 1.0)
    BottleneckEncoder(4 to 2, rate=1, information=1, gap=0)
    """
    func = "bottleneck_encoder"
    functional = check_functional(func, base, 1.0, False)
    limit = check_rate(func, rate)
    search = check_choice(func, "method", method, _SEARCHES)
    return _encode(_refined(as_masses(func, ["p"], (p,))), limit, functional.scale, search)


@dataclass(frozen=True, eq=False, repr=False)
class BottleneckCoupling:
    """X and Y coupled through a code T of limited entropy: X - T - Y.

    Attributes
    ----------
    encoder : BottleneckEncoder
        X and T.
    decoder : Coupling
        T and Y.
    rate : float
        The limit of H(T).
    information : float
        I(X; Y).
    bound : float
        No coupling through such a code has more: the smaller of the rate and of what any coupling of X and Y has.
    """

    encoder: BottleneckEncoder
    decoder: Coupling
    rate: float
    information: float
    bound: float
    _backend: Backend

    def __repr__(self) -> str:
        n, m = len(self.encoder._labels), self.decoder.shape[1]
        return f"BottleneckCoupling({n} x {m}, rate={self.rate:.6g}, information={self.information:.6g})"

    def toarray(self) -> Any:
        """P(x, y) = sum over t of P(x, t) P(y | t), dense (n, m) in float64."""
        code = self.encoder._code().astype(np.float64)
        given = np.zeros(self.decoder.shape)
        given[tuple(self.decoder._indices.T)] = self.decoder._counts / code[self.decoder._indices[:, 0]]
        rows, labels, mass = self.encoder._cells()
        joint = np.zeros((len(self.encoder._labels), self.decoder.shape[1]))
        np.add.at(joint, rows, (mass / self.encoder._masses.total)[:, None] * given[labels])
        return self._backend.wrap(joint)


def _through_information(encoder: BottleneckEncoder, decoder: Coupling) -> float:
    """I(X; Y) in bits: H(Y) less the mean of H(Y | x), where H(Y | x) = H(Y | t) but for the one x that is divided."""
    total = encoder._masses.total
    t, y = decoder._indices.T
    code = encoder._code()
    split, other, moved = encoder._split
    lost = _entropy(decoder._counts, total) - _entropy(code, total)  # H(Y | T)
    if split >= 0:
        parts = [(int(encoder._labels[split]), int(encoder._masses.counts[0][split]) - moved), (other, moved)]
        mixed = np.zeros(decoder.shape[1])
        for label, part in parts:
            given = decoder._counts[t == label] / code[label]
            lost += part / total * float((given * np.log2(given)).sum())
            np.add.at(mixed, y[t == label], part / total * given)
        own = mixed.sum()
        mixed = mixed[mixed > 0] / own
        lost -= own * float((mixed * np.log2(mixed)).sum())
    return max(0.0, _entropy(decoder._marginals[1], total) - lost)


def bottleneck_coupling(
    p: Array, q: Array, rate: float, *, method: str = "auto", base: float = 2.0
) -> BottleneckCoupling:
    """Coupling X - T - Y with given marginals of X and Y, H(T) at most `rate`, and I(X; Y) as large as is found.

    Parameters
    ----------
    p, q : array_like, shape (n,) and (m,)
        Marginals of X and Y, as for :func:`minimum_entropy_coupling`.
    rate : float
        Largest entropy of T, in the unit of `base`; 0 gives independent variables.
    method : optional
        How T and Y are coupled, as for :func:`minimum_entropy_coupling`.
    base : float, optional
        Base of the entropies; 2, the default, gives bits.

    Returns
    -------
    BottleneckCoupling
        Both steps, I(X; Y), and what no such coupling exceeds.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`minimum_entropy_coupling` and :func:`bottleneck_encoder`.

    Notes
    -----
    The codes of all three searches of :func:`bottleneck_encoder` are coupled with Y, and the best is kept: a code with
    more information on X may be the harder one to couple. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    M. Ebrahimi, J. Chen, A. Khisti, "Minimum Entropy Coupling with Bottleneck", NeurIPS 2024.

    Examples
    --------
    >>> import entropic
    >>> result = entropic.bottleneck_coupling([0.25, 0.25, 0.25, 0.25], [0.5, 0.5], 1.0)
    >>> result.information
    1.0
    """
    func = "bottleneck_coupling"
    functional = check_functional(func, base, 1.0, False)
    limit = check_rate(func, rate)
    masses = _refined(as_masses(func, ["p", "q"], (p, q)))
    check_method(func, method, masses)
    source = Masses(masses.counts[:1], masses.total, masses.grid_error, masses.dtype, masses.backend)
    found = []
    bits = functional.scale
    cap = sum(_entropy(m, masses.total) for m in masses.counts)
    cap -= float(_core.coupling_bound(masses.counts, masses.total, 3, SHANNON_BITS.measure, SHANNON_BITS.order))
    for search in range(len(_SEARCHES)):
        encoder = _encode(source, limit, bits, search)
        pair = Masses(
            [encoder._code(), masses.counts[1]], masses.total, masses.grid_error, masses.dtype, masses.backend
        )
        decoder = couple(pair, check_method(func, method, pair), functional)
        information = _through_information(encoder, decoder) * bits
        found.append(BottleneckCoupling(encoder, decoder, limit, information, min(limit, cap * bits), masses.backend))
    return max(found, key=lambda result: result.information)


@dataclass(frozen=True)
class BottleneckCurve:
    """What codes of growing entropy keep.

    Attributes
    ----------
    rate : ndarray, shape (r,)
        Limits of H(T).
    information : ndarray, shape (r,)
        I(X; T), or I(X; Y) where a second marginal is given. Never falls along growing rates.
    bound : ndarray, shape (r,)
        What is not exceeded.
    """

    rate: np.ndarray
    information: np.ndarray
    bound: np.ndarray


def bottleneck_curve(p: Array, q: Array | None = None, *, rates: Any = 50, base: float = 2.0) -> BottleneckCurve:
    """The rate curve of :func:`bottleneck_encoder`, or with `q` of :func:`bottleneck_coupling`.

    Parameters
    ----------
    p : array_like, shape (n,)
        Marginal of X.
    q : array_like, shape (m,), optional
        Marginal of Y; None, the default, gives I(X; T).
    rates : int or array_like, optional
        The rates, or how many of them evenly from 0 to H(X); 50 by default.
    base : float, optional
        Base of the entropies; 2, the default, gives bits.

    Returns
    -------
    BottleneckCurve
        Rates, information and bounds.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As the functions above.

    Notes
    -----
    A code for a smaller rate serves a larger one too, so the best found so far is carried along. Cost: that of one
    call a rate. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    M. Ebrahimi, J. Chen, A. Khisti, "Minimum Entropy Coupling with Bottleneck", NeurIPS 2024.

    Examples
    --------
    >>> import entropic
    >>> entropic.bottleneck_curve([0.7, 0.2, 0.1], rates=[0.0, 0.468996, 2.0]).information.round(4)
    array([0.    , 0.469 , 1.1568])
    """
    func = "bottleneck_curve"
    functional = check_functional(func, base, 1.0, False)
    marginals = (p,) if q is None else (p, q)
    masses = as_masses(func, ["p", "q"][: len(marginals)], marginals)
    if isinstance(rates, int | np.integer) and not isinstance(rates, bool):
        if rates < 2:
            raise ValueError(f"{func}: `rates` must be at least 2 as a number of rates, got {rates}")
        grid = np.linspace(0, _entropy(masses.counts[0], masses.total) * functional.scale, int(rates))
    else:
        grid = np.array([check_rate(func, rate) for rate in np.atleast_1d(np.asarray(rates)).tolist()])
    information, bound = np.zeros(len(grid)), np.zeros(len(grid))
    best = -math.inf
    for k in np.argsort(grid, kind="stable"):
        result: Any = (
            bottleneck_encoder(p, grid[k], base=base) if q is None else bottleneck_coupling(p, q, grid[k], base=base)
        )
        best = max(best, result.information)
        information[k], bound[k] = best, result.bound
    return BottleneckCurve(grid, information, bound)
