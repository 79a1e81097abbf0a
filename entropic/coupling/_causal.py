"""Entropic causal inference: how much randomness a mechanism needs, in either direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import _core
from .._backend import Array, backend_of, refuse_cuda
from ._coupling import SHANNON_BITS, Functional, check_functional
from ._masses import GRID, as_masses, grid_rows, real_array


def exogenous_entropy(conditionals: Array, *, base: float = 2.0) -> float:
    """Entropy of a variable E independent of X with Y = f(X, E): that of a greedy coupling of the rows P(Y | X = x).

    Parameters
    ----------
    conditionals : array_like, shape (n_x, n_y)
        A distribution of Y in each row. Integers are counts, and each row is divided by its own total.
    base : float, optional
        Base of the entropy; 2, the default, gives bits.

    Returns
    -------
    float
        The entropy found, at most 1.222 bits above the least possible.

    Raises
    ------
    ValueError
        Not a table, or a row that :func:`minimum_entropy_coupling` refuses; rows must have one sum.
    TypeError, DeviceError
        As there.

    Notes
    -----
    The atoms of E are the cells of the coupling, and f(x, e) is the index of cell e in row x:
    ``minimum_entropy_coupling(*conditionals, method='greedy')`` returns them. Time O(37 n_y n_x log n_y) at most, since
    the mass that is left falls by a factor 1 - 1/n_y with each cell; no cells are stored. Backends: CPU; device arrays
    raise DeviceError.

    References
    ----------
    M. Kocaoglu, A. Dimakis, S. Vishwanath, B. Hassibi, "Entropic Causal Inference", AAAI 2017.

    Examples
    --------
    >>> import entropic
    >>> entropic.exogenous_entropy([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
    1.0
    """
    func = "exogenous_entropy"
    functional = check_functional(func, base, 1.0, False)
    backend = backend_of(func, conditionals=conditionals)
    refuse_cuda(func, backend, "conditionals")
    table = real_array(func, "conditionals", conditionals)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"{func}: `conditionals` must have shape (n_x, n_y), got {table.shape}")
    masses = as_masses(func, [f"conditionals[{i}]" for i in range(len(table))], tuple(table))
    return _greedy_entropy(masses.counts, masses.total)[0] * functional.scale


def _greedy_entropy(counts: list[np.ndarray], total: int) -> tuple[float, float]:
    entropy, bound = _core.coupling_greedy_entropy(counts, total, SHANNON_BITS.measure, SHANNON_BITS.order)
    return float(entropy), float(bound)


@dataclass(frozen=True)
class EntropicDirection:
    """Which variable comes first, by the entropies of both explanations.

    Attributes
    ----------
    direction : str
        'x->y', 'y->x', or 'undecided' where the two are equal to within rounding.
    forward : float
        H(X) + H(E) for Y = f(X, E).
    backward : float
        H(Y) + H(E') for X = g(Y, E').
    margin : float
        ``backward - forward``.
    certain : bool
        Would exact minimum-entropy couplings decide alike? True where the bound of the larger is above the smaller.
    """

    direction: str
    forward: float
    backward: float
    margin: float
    certain: bool


def entropic_direction(joint: Array, *, base: float = 2.0) -> EntropicDirection:
    """Causal direction between two variables: the one whose explanation has less entropy, H(X) + H(E) or H(Y) + H(E').

    Parameters
    ----------
    joint : array_like, shape (n_x, n_y)
        Masses or counts of the pairs, of any total.
    base : float, optional
        Base of the entropies; 2, the default, gives bits.

    Returns
    -------
    EntropicDirection
        The direction, both entropies and whether the decision depends on the greedy coupling.

    Raises
    ------
    ValueError
        Not a table, negative, nan or infinite masses, or no mass.
    TypeError, DeviceError
        As :func:`minimum_entropy_coupling`.

    Notes
    -----
    Values without mass are left out. `joint` is taken as it is: from few samples its entropies are biased, and a small
    margin says little. Cost: two calls of :func:`exogenous_entropy`. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    M. Kocaoglu et al., AAAI 2017. S. Compton, M. Kocaoglu, K. Greenewald, D. Katz, "Entropic Causal Inference:
    Identifiability and Finite Sample Results", NeurIPS 2020.

    Examples
    --------
    >>> import entropic
    >>> joint = [[8, 8, 0, 0], [0, 0, 8, 8], [0, 0, 8, 8]]
    >>> result = entropic.entropic_direction(joint)
    >>> result.direction, round(result.forward, 3), round(result.backward, 3)
    ('x->y', 2.585, 2.918)
    """
    func = "entropic_direction"
    functional = check_functional(func, base, 1.0, False)
    backend = backend_of(func, joint=joint)
    refuse_cuda(func, backend, "joint")
    table = real_array(func, "joint", joint)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"{func}: `joint` must have shape (n_x, n_y), got {table.shape}")
    grid_rows(func, "joint", table.reshape(1, -1))  # refuses what is no distribution
    values = table.astype(np.float64, copy=False)
    if values.max() >= 2.0**960:
        values = values * 2.0**-64  # sums of the caller's masses could overflow
    values = values[:, values.any(axis=0)][values.any(axis=1)]
    (forward, forward_bound), (backward, backward_bound) = (
        _explanation(func, side, functional) for side in (values, values.T)
    )
    margin = backward - forward
    direction = "x->y" if margin > 0 else "y->x"
    if abs(margin) <= 1e-12 * max(forward, backward):
        direction = "undecided"
    certain = direction != "undecided" and max(backward_bound, forward_bound) > min(forward, backward)
    return EntropicDirection(direction, forward, backward, margin, certain)


def _explanation(func: str, table: np.ndarray, functional: Functional) -> tuple[float, float]:
    """H of the rows' variable plus that of the noise, and what it is at least."""
    # The grid's sums are exact, so that swapping the variables swaps the answers to the last bit.
    rows, sums, _ = grid_rows(func, "joint", table)
    cause, _, _ = grid_rows(func, "joint", sums[None])
    own = float(_core.coupling_entropy(cause[0], GRID, SHANNON_BITS.measure, SHANNON_BITS.order))
    entropy, bound = _greedy_entropy(list(rows), GRID)
    return (own + entropy) * functional.scale, (own + bound) * functional.scale
