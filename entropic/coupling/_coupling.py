"""Minimum-entropy couplings, and what a coupling can say."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, Backend
from .._validate import check_base, check_choice, check_flag, check_rng, normalize_axis
from ._masses import Masses, as_masses

_METHODS = ("greedy", "portfolio", "exact", "auto")
_GREEDY, _PORTFOLIO, _EXACT, _AUTO = range(4)
_FOUND = ("greedy", "closest-ratio", "prematch", "best-fit", "exact")
_BOUNDS = ("majorization", "profile", "majorize-profile", "atom-split")
# "auto" is exact up to here, a millisecond.
_AUTO_ATOMS = 12
# Coupling one marginal after the other helps with few of them.
_MOST_FOLDED = 8


@dataclass(frozen=True)
class Functional:
    """Shannon's entropy in a base, or one of Renyi's or Tsallis's."""

    measure: int
    order: float
    scale: float
    """From the compiled module's unit to the caller's."""


SHANNON_BITS = Functional(0, 1.0, 1.0)


def check_functional(func: str, base: Any, order: Any, tsallis: Any) -> Functional:
    scale = math.log(2) / check_base(func, base)
    if isinstance(order, bool) or not isinstance(order, int | float | np.integer | np.floating):
        raise TypeError(f"{func}: `order` must be a number, got {order!r}")
    check_flag(func, "tsallis", tsallis)
    value = float(order)
    if not value >= 0 or (value != 1 and abs(value - 1) < 1e-6) or (tsallis and math.isinf(value)):
        raise ValueError(
            f"{func}: `order` must be 1, or not negative and at least 1e-6 from 1"
            f"{', and finite for Tsallis' if tsallis else ''}, got {order!r}"
        )
    if value == 1:
        return Functional(0, 1.0, math.log(2) if tsallis else scale)
    return Functional(2 if tsallis else 1, value, 1.0 if tsallis else scale)


@dataclass(frozen=True, eq=False, repr=False)
class Coupling:
    """A joint distribution with given marginals, as the list of its cells, and how far from the best it can be.

    Attributes
    ----------
    shape : tuple of int
        Sizes of the marginals.
    entropy : float
        Joint entropy, in bits or the base that was asked for.
    lower_bound : float
        No coupling of these marginals has less.
    method : str
        What found it: 'greedy', 'closest-ratio', 'prematch', 'best-fit', 'exact', or 'pairwise' (one marginal after
        the other).
    total : int
        Masses are integers over `total`: 2^53 for floats, the common multiple of the totals for counts.
    grid_error : float
        The largest change of a mass by rounding it to a multiple of 1 / `total`; 0.0 for counts.
    """

    shape: tuple[int, ...]
    entropy: float
    lower_bound: float
    method: str
    total: int
    grid_error: float
    _indices: np.ndarray
    _counts: np.ndarray
    _marginals: tuple[np.ndarray, ...]
    _functional: Functional
    _dtype: np.dtype
    _backend: Backend

    def __repr__(self) -> str:
        sizes = " x ".join(map(str, self.shape))
        return (
            f"Coupling({sizes}, {len(self._counts)} cells, entropy={self.entropy:.6g}, gap={self.gap:.2g}, "
            f"method={self.method!r})"
        )

    def _wrap(self, array: np.ndarray) -> Any:
        return self._backend.wrap(array)

    def _as_mass(self, counts: np.ndarray) -> np.ndarray:
        return (counts.astype(np.float64) / self.total).astype(self._dtype, copy=False)

    @property
    def indices(self) -> Any:
        """Cells (s, k): an index into each marginal. Largest mass first."""
        return self._wrap(self._indices)

    @property
    def counts(self) -> Any:
        """Masses of the cells (s,) as integers, in units of 1 / `total`."""
        return self._wrap(self._counts.astype(np.int64))

    @cached_property
    def mass(self) -> Any:
        """Masses of the cells (s,): exact in float64 where `total` is 2^53."""
        return self._wrap(self._as_mass(self._counts))

    @property
    def gap(self) -> float:
        """How much more entropy this coupling may have than the best."""
        return max(0.0, self.entropy - self.lower_bound)

    @cached_property
    def mutual_information(self) -> float:
        """Sum of the marginals' Shannon entropies less the joint one: for more than two, the total correlation."""
        own = self._shannon(self._counts)
        return max(0.0, sum(self._shannon(m) for m in self._marginals) - own)

    def _shannon(self, counts: np.ndarray) -> float:
        scale = self._functional.scale if self._functional.measure != 2 else 1.0
        return float(_core.coupling_entropy(np.ascontiguousarray(counts), self.total, 0, 1.0)) * scale

    def _sums(self, axis: int) -> np.ndarray:
        sums = np.zeros(self.shape[axis], dtype=np.uint64)
        np.add.at(sums, self._indices[:, axis], self._counts)
        return sums

    def marginal(self, i: int) -> Any:
        """Sum of the cells over all variables but `i`: the marginal on its grid, to the last bit.

        Parameters
        ----------
        i : int
            Which marginal; negative numbers count from the last.

        Returns
        -------
        ndarray, shape (n_i,)
        """
        return self._wrap(self._as_mass(self._sums(normalize_axis("marginal", i, len(self.shape)))))

    def toarray(self) -> Any:
        """The joint distribution as a dense array of `shape`.

        Raises
        ------
        MemoryError
            An array of that shape cannot be allocated.
        """
        return self._wrap(self._dense(self.shape, self._indices, self._as_mass(self._counts)))

    def _dense(self, shape: tuple[int, ...], indices: np.ndarray, mass: np.ndarray) -> np.ndarray:
        if math.prod(shape) * mass.dtype.itemsize >= 2**63 or len(shape) > 63:
            raise MemoryError(f"toarray: a dense array of shape {shape} is too large; use `indices` and `mass`")
        dense = np.zeros(shape, dtype=mass.dtype)
        dense[tuple(indices.T)] = mass
        return dense

    def tocoo(self) -> Any:
        """The joint distribution of two variables as a `scipy.sparse.coo_array`."""
        if len(self.shape) != 2:
            raise ValueError(f"tocoo: only two variables make a matrix, this coupling has {len(self.shape)}")
        from scipy import sparse

        return sparse.coo_array((self._as_mass(self._counts), tuple(self._indices.T)), shape=self.shape)

    def conditional(self, axis: int, index: int) -> Any:
        """Distribution of the other variables where variable `axis` is `index`.

        Parameters
        ----------
        axis, index : int
            The variable, and its value.

        Returns
        -------
        ndarray
            Of `shape` without `axis`; it sums to 1.

        Raises
        ------
        ValueError
            The value has no mass on the grid.
        IndexError
            There is no such value.
        """
        func = "conditional"
        axis = normalize_axis(func, axis, len(self.shape))
        value = operator.index(index)
        if not 0 <= value < self.shape[axis]:
            raise IndexError(f"{func}: `index` must be in [0, {self.shape[axis]}), got {index}")
        chosen = self._indices[:, axis] == value
        counts = self._counts[chosen]
        own = int(counts.sum(dtype=np.uint64))
        if own == 0:
            raise ValueError(f"{func}: value {value} of variable {axis} has no mass")
        rest = [i for i in range(len(self.shape)) if i != axis]
        mass = (counts.astype(np.float64) / own).astype(self._dtype, copy=False)
        return self._wrap(self._dense(tuple(self.shape[i] for i in rest), self._indices[chosen][:, rest], mass))

    def sample(self, n: int, rng: Any = None) -> Any:
        """Draws `n` cells independently.

        Parameters
        ----------
        n : int
            How many.
        rng : numpy.random.Generator or int, optional
            Generator or seed; the same seed draws the same cells on every machine. None, the default, is a fresh one.

        Returns
        -------
        ndarray of int, shape (n, k)
        """
        func = "sample"
        count = operator.index(n)
        if count < 0:
            raise ValueError(f"{func}: `n` must not be negative, got {n}")
        edges = np.cumsum(self._counts, dtype=np.uint64).astype(np.int64)
        drawn = check_rng(func, rng).integers(0, self.total, size=count)
        return self._wrap(self._indices[np.searchsorted(edges, drawn, side="right")])

    def verify(self) -> bool:
        """Does every claim hold: positive cells, none twice, exact marginals, and the entropy and bound reported?"""
        indices = self._indices
        inside = bool(((indices >= 0) & (indices < np.array(self.shape))).all())
        if not (inside and bool((self._counts > 0).all()) and len(np.unique(indices, axis=0)) == len(indices)):
            return False
        exact = all(bool((self._sums(i) == own).all()) for i, own in enumerate(self._marginals))
        f = self._functional
        entropy = _core.coupling_entropy(self._counts, self.total, f.measure, f.order) * f.scale
        bound = bound_of(list(self._marginals), self.total, 3, f)
        return exact and bool(np.isclose(entropy, self.entropy, rtol=1e-12, atol=1e-12)) and self.entropy >= bound


def bound_of(counts: list[np.ndarray], total: int, which: int, f: Functional) -> float:
    return float(_core.coupling_bound(counts, total, which, f.measure, f.order)) * f.scale


def _atoms(masses: Masses) -> int:
    return sum(int(np.count_nonzero(m)) for m in masses.counts)


def check_method(func: str, method: Any, masses: Masses) -> int:
    """The method's number, "auto" resolved; raises where the exact solver does not apply."""
    chosen = check_choice(func, "method", method, _METHODS)
    pair = len(masses.counts) == 2
    if chosen == _AUTO:
        return _EXACT if pair and _atoms(masses) <= _AUTO_ATOMS else _PORTFOLIO
    if chosen == _EXACT:
        if not pair:
            raise ValueError(f"{func}: method 'exact' is for two marginals, got {len(masses.counts)}")
        if _atoms(masses) > _core.coupling_exact_atoms:
            raise ValueError(
                f"{func}: method 'exact' takes at most {_core.coupling_exact_atoms} positive masses in both marginals "
                f"together, got {_atoms(masses)}; use 'portfolio'"
            )
    return chosen


def _fold(masses: Masses, f: Functional) -> tuple[np.ndarray, np.ndarray]:
    """Couples the marginals one after the other, the most uncertain first, each pair by the portfolio."""
    order = sorted(
        range(len(masses.counts)),
        key=lambda i: -_core.coupling_entropy(masses.counts[i], masses.total, f.measure, f.order),
    )
    indices = np.zeros((len(masses.counts[order[0]]), len(order)), dtype=np.int32)
    indices[:, order[0]] = np.arange(len(indices))
    counts = masses.counts[order[0]]
    for i in order[1:]:
        pairs, counts, *_ = _core.coupling_solve(
            [counts, masses.counts[i]], masses.total, _PORTFOLIO, f.measure, f.order
        )
        indices = indices[pairs[:, 0]]
        indices[:, i] = pairs[:, 1]
    return indices, counts


def couple(masses: Masses, method: int, f: Functional) -> Coupling:
    """Solve, and put the answer into words."""
    if len(masses.counts) > 2 and method == _PORTFOLIO:
        indices, counts, entropy, bound, found = _core.coupling_solve(
            masses.counts, masses.total, _GREEDY, f.measure, f.order
        )
        if len(masses.counts) <= _MOST_FOLDED and not math.isinf(f.order):
            other, other_counts = _fold(masses, f)
            other_entropy = _core.coupling_entropy(other_counts, masses.total, f.measure, f.order)
            if other_entropy < entropy:
                indices, counts, entropy, found = other, other_counts, other_entropy, 5
    else:
        # The min-entropy is that of the first greedy cell, which is as large as any can be.
        best = _GREEDY if math.isinf(f.order) else method
        indices, counts, entropy, bound, found = _core.coupling_solve(
            masses.counts, masses.total, best, f.measure, f.order
        )
    for array in (indices, counts):
        array.setflags(write=False)
    return Coupling(
        shape=tuple(len(m) for m in masses.counts),
        entropy=entropy * f.scale,
        lower_bound=min(bound, entropy) * f.scale,
        method=(*_FOUND, "pairwise")[found],
        total=masses.total,
        grid_error=masses.grid_error,
        _indices=indices,
        _counts=counts,
        _marginals=tuple(masses.counts),
        _functional=f,
        _dtype=masses.dtype,
        _backend=masses.backend,
    )


def _names(func: str, marginals: tuple[Array, ...]) -> list[str]:
    if not marginals:
        raise ValueError(f"{func}: needs at least one marginal, got none")
    return [f"marginals[{i}]" for i in range(len(marginals))]


def minimum_entropy_coupling(
    *marginals: Array, method: str = "auto", base: float = 2.0, order: float = 1.0, tsallis: bool = False
) -> Coupling:
    """Joint distribution with given marginals and little entropy, with a bound on how little is possible.

    Parameters
    ----------
    *marginals : array_like, shape (n_i,)
        Masses of each variable, not negative; zeros are allowed. Floats must have one sum, and are scaled to total 1.
        Integers are counts: each is divided by its own total, without rounding.
    method : {'auto', 'greedy', 'portfolio', 'exact'}, optional
        'greedy' couples the largest masses, equal ones by index. 'portfolio' keeps the best of that and of three other
        heuristics (two marginals), or of coupling one marginal after the other (three to eight). 'exact' proves the
        optimum of two marginals with at most 22 positive masses together. 'auto', the default, is exact up to 12 of
        them, and the portfolio beyond.
    base : float, optional
        Base of the entropies; 2, the default, gives bits.
    order : float, optional
        Renyi's order: 1, the default, is Shannon's entropy, 0 the logarithm of the number of cells, inf the
        min-entropy.
    tsallis : bool, optional
        Tsallis's entropy of that order instead, which has no base: order 0 is the number of cells less one.

    Returns
    -------
    Coupling
        Cells, entropy, lower bound and gap.

    Raises
    ------
    ValueError
        No marginals, empty ones, negative, nan or infinite masses, no mass, sums that differ by more than 1e-9 (1e-5
        where a marginal is float32, 1e-2 for halves), counts whose totals' common multiple is 2^63 or more, or more
        masses than 'exact' takes.
    TypeError
        Arrays that are not real numbers, arrays of two libraries, or a `base` or `order` that is no number.
    DeviceError
        Device arrays.

    Notes
    -----
    Floats are put on the grid of 2^-53: scaled to integers with total 2^53, the largest remainders rounded up. On it
    all sums are exact, so marginals are equal to their gridded inputs to the last bit and no mass is lost; masses below
    2^-54 may become zero (`Coupling.grid_error` says how much changed). The result is the same on every machine.

    The greedy coupling has at most 0.531 bit more than the bound for two marginals, and 1.222 for more. Time
    O(n log n) and memory of about three times the answer for two marginals of n masses (0.2 s for a million); k times
    as much for k marginals. 'exact' takes 3^N / 2 steps and 40 bytes times 2^N for N positive masses, and uses all
    threads. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    M. Kocaoglu, A. Dimakis, S. Vishwanath, B. Hassibi, "Entropic Causal Inference", AAAI 2017.
    S. Compton, D. Katz, B. Qi, K. Greenewald, M. Kocaoglu, "Minimum-Entropy Coupling Approximation Guarantees Beyond
    the Majorization Barrier", AISTATS 2023.

    Examples
    --------
    >>> import entropic
    >>> coupling = entropic.minimum_entropy_coupling([0.4, 0.3, 0.3], [0.6, 0.4])
    >>> coupling
    Coupling(3 x 2, 3 cells, entropy=1.57095, gap=0, method='exact')
    >>> coupling.toarray()
    array([[0. , 0.4],
           [0.3, 0. ],
           [0.3, 0. ]])
    >>> entropic.minimum_entropy_coupling([1, 1, 1], [1, 1]).counts
    array([2, 2, 1, 1])
    """
    func = "minimum_entropy_coupling"
    functional = check_functional(func, base, order, tsallis)
    masses = as_masses(func, _names(func, marginals), marginals)
    return couple(masses, check_method(func, method, masses), functional)


def coupling_lower_bound(
    *marginals: Array, method: str = "best", base: float = 2.0, order: float = 1.0, tsallis: bool = False
) -> float:
    """Entropy that every joint distribution with these marginals has, at least.

    Parameters
    ----------
    *marginals : array_like, shape (n_i,)
        As for :func:`minimum_entropy_coupling`.
    method : {'best', 'majorization', 'profile', 'majorize-profile', 'atom-split'}, optional
        'best', the default, is 'atom-split', which is never less than the others.
    base, order, tsallis : optional
        As for :func:`minimum_entropy_coupling`.

    Returns
    -------
    float
        The bound, lowered by what rounding may have added.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`minimum_entropy_coupling`.

    Notes
    -----
    'majorization': entropy of the differences of the least prefix sums of the sorted marginals. 'profile': mean of
    log 1/g, g the least of the marginals' masses at each rank. 'majorize-profile': entropy of the largest masses that
    fit beneath g one after the other. 'atom-split': the same, met with each marginal cut to pieces no larger than the
    largest mass of the others. Time O(N log N) for N masses in all. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    F. Cicalese, L. Gargano, U. Vaccaro, "Minimum-Entropy Couplings and Their Applications", IEEE Trans. Inf. Theory 65
    (2019). S. Compton et al., AISTATS 2023 (as above).

    Examples
    --------
    >>> import entropic
    >>> for method in ("majorization", "profile", "atom-split"):
    ...     print(f"{entropic.coupling_lower_bound([1, 1, 1], [2, 1, 1, 1], method=method):.4f}")
    1.9656
    2.0271
    2.1819
    """
    func = "coupling_lower_bound"
    functional = check_functional(func, base, order, tsallis)
    which = check_choice(func, "method", method, (*_BOUNDS, "best"))
    masses = as_masses(func, _names(func, marginals), marginals)
    return bound_of(masses.counts, masses.total, min(which, len(_BOUNDS) - 1), functional)
