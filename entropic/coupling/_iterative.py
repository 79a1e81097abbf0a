"""Couplings of a message with a sequence whose symbols come one after the other."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, backend_of, refuse_cuda
from .._validate import check_base, check_rng
from ._coupling import SHANNON_BITS
from ._masses import GRID, grid_rows, marginal_array, real_array


class IterativeCoupling:
    """Coupling of little entropy between X and a sequence Y too long to list, one symbol of Y at a time.

    Each symbol's distribution is coupled greedily with what is still unknown of X; symbols that would say the same of X
    are coupled again among themselves. Y follows `nu`, X follows `mu`, and Y tells X as soon as its entropy allows.

    Parameters
    ----------
    mu : array_like, shape (n,), or sequence of such
        Masses of X. With several, or the rows of a table, X is a tuple of independent parts: 16 bytes are
        ``np.full((16, 256), 1 / 256)``.
    nu : callable
        ``nu(prefix)`` gets the symbols so far as a tuple of ints, and returns the masses of the next one, or None where
        the sequence ends. Whoever decodes must compute the same masses to the last bit.

    Raises
    ------
    ValueError
        A distribution that is empty or has negative, nan or infinite masses or none at all.
    TypeError
        `nu` cannot be called, or masses that are not real numbers.
    DeviceError
        Device arrays.

    Notes
    -----
    Distributions are scaled to total 1 and rounded to multiples of 2^-53, and all choices are made in integers: an
    encoder and a decoder agree on every machine. The probabilities of X are kept exactly, those of each symbol to
    within n 2^-53. Masses below 2^-54 of the total vanish. In every step the part of X with the most entropy left is
    coupled.

    A step costs O((v + n) log(v + n)) for v symbols and a part of n values, and again for each group of symbols that
    says the same; memory is O(v + sum n). Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    S. Sokota et al., "Communicating via Markov Decision Processes", ICML 2022. C. Schroeder de Witt et al., "Perfectly
    Secure Steganography Using Minimum Entropy Coupling", ICLR 2023. S. Sokota et al., "Computing Low-Entropy Couplings
    for Large-Support Distributions", UAI 2024.

    Examples
    --------
    A byte hidden in the tosses of a bent coin:

    >>> import numpy as np, entropic
    >>> coin = lambda prefix: [0.7, 0.3] if len(prefix) < 40 else None
    >>> coupling = entropic.IterativeCoupling(np.full(256, 1 / 256), coin)
    >>> tosses = coupling.encode(42, rng=0)
    >>> coupling.decode(tosses)
    42
    """

    def __init__(self, mu: Array | Sequence[Array], nu: Callable[[tuple[int, ...]], Any]) -> None:
        func = "IterativeCoupling"
        if not callable(nu):
            raise TypeError(f"{func}: `nu` must be callable, got {type(nu).__name__}")
        parts = isinstance(mu, list | tuple) and len(mu) > 0 and all(np.ndim(part) == 1 for part in mu)
        if not parts:
            refuse_cuda(func, backend_of(func, mu=mu), "mu")
            table = real_array(func, "mu", mu)
            if table.ndim not in (1, 2) or table.size == 0:
                raise ValueError(f"{func}: `mu` must be one distribution or several, got shape {table.shape}")
            mu, parts = table if table.ndim == 2 else [table], table.ndim == 2
        self._nu = nu
        self._several = bool(parts)
        self._parts = [_masses(func, f"mu[{i}]" if parts else "mu", part) for i, part in enumerate(mu)]

    def __repr__(self) -> str:
        sizes = " x ".join(str(len(part)) for part in self._parts)
        return f"IterativeCoupling({sizes}, {sum(map(_entropy, self._parts)):.6g} bits)"

    def encode(self, x: Any, rng: Any = None) -> tuple[int, ...]:
        """Draws a sequence that says `x`.

        Parameters
        ----------
        x : int or sequence of int
            Value of X; a tuple where it has several parts.
        rng : numpy.random.Generator or int, optional
            Generator or seed of the choice among the sequences that say `x`. None, the default, is a fresh one.

        Returns
        -------
        tuple of int
            Symbols until `nu` ends.

        Raises
        ------
        ValueError
            A value outside its range or without mass, or masses from `nu` that are no distribution.
        """
        func = "encode"
        return self._walk(func, self._value(func, x, True), None, check_rng(func, rng))[0]

    def decode(self, y: Sequence[int]) -> Any:
        """The most likely X after the symbols `y`, a whole sequence or its beginning; the first of equally likely ones.

        Parameters
        ----------
        y : sequence of int

        Returns
        -------
        int, or tuple of int where X has several parts

        Raises
        ------
        ValueError
            Symbols without mass, or behind the end.
        """
        func = "decode"
        found = tuple(int(np.argmax(part)) for part in self._walk(func, None, _symbols(func, y), None)[1])
        return found if self._several else found[0]

    def posterior(self, y: Sequence[int]) -> Any:
        """Distribution of X after the symbols `y`, a whole sequence or its beginning.

        Parameters
        ----------
        y : sequence of int

        Returns
        -------
        ndarray, or list of ndarray where X has several parts
            Masses; given `y` the parts are independent.

        Raises
        ------
        ValueError
            Symbols without mass, or behind the end.
        """
        func = "posterior"
        found = [part / GRID for part in self._walk(func, None, _symbols(func, y), None)[1]]
        return found if self._several else found[0]

    def sample(self, rng: Any = None) -> tuple[Any, tuple[int, ...]]:
        """Draws X and a sequence together.

        Parameters
        ----------
        rng : numpy.random.Generator or int, optional
            Generator or seed; None, the default, is a fresh one.

        Returns
        -------
        x : int, or tuple of int where X has several parts
        y : tuple of int
        """
        func = "sample"
        generator = check_rng(func, rng)
        value = tuple(_draw(part, generator) for part in self._parts)
        return value if self._several else value[0], self._walk(func, value, None, generator)[0]

    def log_likelihood(self, x: Any, y: Sequence[int], *, base: float = 2.0) -> float:
        """Logarithm of the probability of `x` together with a sequence that is, or begins with, `y`.

        Parameters
        ----------
        x : int or sequence of int
            Value of X; a tuple where it has several parts.
        y : sequence of int
            Symbols.
        base : float, optional
            Base of the logarithm; 2, the default, gives bits.

        Returns
        -------
        float
            ``-inf`` for pairs that never occur.

        Raises
        ------
        ValueError
            A value outside its range, or symbols behind the end.
        """
        func = "log_likelihood"
        scale = math.log(2) / check_base(func, base)
        value = self._value(func, x, False)
        own = [int(part[i]) for part, i in zip(self._parts, value, strict=True)]
        symbols = _symbols(func, y)
        if 0 in own:
            return -math.inf
        return scale * (sum(math.log2(mass / GRID) for mass in own) + self._walk(func, value, symbols, None)[2])

    def _value(self, func: str, x: Any, positive: bool) -> tuple[int, ...]:
        value = tuple(operator.index(i) for i in (x if self._several else (x,)))
        if len(value) != len(self._parts):
            raise ValueError(f"{func}: `x` must have {len(self._parts)} parts, got {len(value)}")
        for part, i in zip(self._parts, value, strict=True):
            if not 0 <= i < len(part):
                raise ValueError(f"{func}: `x` must be in [0, {len(part)}), got {i}")
            if positive and part[i] == 0:
                raise ValueError(f"{func}: `x` has no mass at {i}")
        return value

    def _walk(
        self, func: str, x: tuple[int, ...] | None, y: tuple[int, ...] | None, rng: np.random.Generator | None
    ) -> tuple[tuple[int, ...], list[np.ndarray], float]:
        """Symbols, what is known of X after them, and log2 P(symbols | x); symbols are drawn where `y` is None."""
        beliefs = _Beliefs(self._parts)
        prefix: tuple[int, ...] = ()
        log = 0.0
        while y is None or len(prefix) < len(y):
            masses = self._nu(prefix)
            if masses is None:
                if y is None:
                    break
                raise ValueError(f"{func}: the sequence ends after {len(prefix)} symbols, got {len(y)}")
            q = _masses(func, "nu(prefix)", masses)
            target = None
            if y is not None:
                target = y[len(prefix)]
                if not 0 <= target < len(q) or q[target] == 0:
                    if x is not None and 0 <= target < len(q):
                        return y, beliefs.parts, -math.inf
                    raise ValueError(f"{func}: symbol {target} at {len(prefix)} has no mass")
            symbol, gain = _step(beliefs, q, x, target, rng)
            prefix += (symbol,)
            log += gain
            if log == -math.inf:
                break
        return prefix, beliefs.parts, log


class _Beliefs:
    """Distributions of X's parts given the symbols so far, as integers that add up to 2^53."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.parts = list(parts)
        self._entropies = list(map(_entropy, parts))

    def least_known(self) -> int | None:
        """The part with the most entropy, the first of equal ones; None where all is known."""
        most = max(self._entropies)
        return None if most == 0 else self._entropies.index(most)

    def update(self, which: int, counts: np.ndarray) -> None:
        self.parts[which] = _rescale(counts)
        self._entropies[which] = _entropy(self.parts[which])


def _step(
    beliefs: _Beliefs, q: np.ndarray, x: tuple[int, ...] | None, target: int | None, rng: np.random.Generator | None
) -> tuple[int, float]:
    """The next symbol, given or drawn, and log2 of its probability given x."""
    symbols = np.flatnonzero(q)
    counts = q[symbols]
    log = 0.0
    while len(symbols) > 1 and (which := beliefs.least_known()) is not None:
        part = beliefs.parts[which]
        cells, mass, *_ = _core.coupling_solve([counts, part], GRID, 0, SHANNON_BITS.measure, SHANNON_BITS.order)
        rows, values = cells[:, 0], cells[:, 1]
        weights = mass if x is None else np.where(values == x[which], mass, np.uint64(0))
        at = int(rows[_draw(weights, rng)]) if target is None else int(np.searchsorted(symbols, target))
        group = _alike(rows, values, at, len(symbols))
        if x is not None:
            chosen = int(weights[np.isin(rows, group)].sum())
            if chosen == 0:
                return int(symbols[at]), -math.inf
            log += math.log2(chosen / int(weights.sum()))
        own = rows == at
        posterior = np.zeros(len(part), dtype=np.uint64)
        posterior[values[own]] = mass[own]
        beliefs.update(which, posterior)
        symbols, counts = symbols[group], _rescale(counts[group])
    # Those that are left say nothing more of X.
    at = _draw(counts, rng) if target is None else int(np.searchsorted(symbols, target))
    return int(symbols[at]), log + math.log2(int(counts[at]) / GRID)


def _alike(rows: np.ndarray, values: np.ndarray, at: int, n: int) -> np.ndarray:
    """Rows of a greedy coupling that are proportional to row `at`.

    Its cells are the edges of a forest, as each uses up a mass: two rows share one column at most. So only rows with a
    single cell are proportional to others.
    """
    cells = np.bincount(rows, minlength=n)
    if cells[at] > 1:
        return np.array([at])
    single = (cells[rows] == 1) & (values == values[rows == at][0])
    return np.sort(rows[single])


def _draw(counts: np.ndarray, rng: Any) -> int:
    """An index with probability proportional to its count."""
    edges = np.cumsum(counts, dtype=np.uint64).astype(np.int64)
    return int(np.searchsorted(edges, rng.integers(0, edges[-1]), side="right"))


def _rescale(counts: np.ndarray) -> np.ndarray:
    """To the total of 2^53. Counts are whole and have at most that sum, so that no positive one vanishes."""
    scaled: np.ndarray = _core.coupling_grid(counts[None].astype(np.float64))[0][0]
    return scaled


def _entropy(counts: np.ndarray) -> float:
    return float(_core.coupling_entropy(counts, GRID, SHANNON_BITS.measure, SHANNON_BITS.order))


def _masses(func: str, name: str, x: Array) -> np.ndarray:
    refuse_cuda(func, backend_of(func, **{name: x}), name)
    counts: np.ndarray = grid_rows(func, name, marginal_array(func, name, x)[None])[0][0]
    return counts


def _symbols(func: str, y: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(operator.index(i) for i in y)
    except TypeError:
        raise TypeError(f"{func}: `y` must be a sequence of integers, got {y!r}") from None
