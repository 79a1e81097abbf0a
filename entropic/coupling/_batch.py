"""Many couplings in one call."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, Backend, backend_of, refuse_cuda
from .._validate import check_choice
from ._coupling import _FOUND, Coupling, Functional, check_functional
from ._masses import GRID, check_sums, grid_rows, real_array

_METHODS = ("greedy", "portfolio", "exact")
_EXACT = 2


@dataclass(frozen=True, eq=False, repr=False)
class CouplingBatch:
    """Couplings of many pairs of marginals; `batch[i]` is one of them.

    Attributes
    ----------
    entropy, lower_bound : ndarray, shape (B,)
        Joint entropies, and what no coupling is below.
    n_cells : ndarray of int, shape (B,)
        How many of each problem's cells count; the places behind them hold zeros.
    grid_error : float
        The largest change of a mass by the grid.
    """

    entropy: Any
    lower_bound: Any
    n_cells: Any
    grid_error: float
    _indices: np.ndarray
    _counts: np.ndarray
    _marginals: tuple[np.ndarray, np.ndarray]
    _found: np.ndarray
    _values: tuple[np.ndarray, np.ndarray, np.ndarray]
    _functional: Functional
    _dtype: np.dtype
    _backend: Backend

    def __repr__(self) -> str:
        n, m = (side.shape[1] for side in self._marginals)
        gap = self._values[0] - self._values[1]
        return f"CouplingBatch({len(self)} of {n} x {m}, mean gap={gap.mean() if len(self) else 0:.2g})"

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def indices(self) -> Any:
        """Cells (B, n + m - 1, 2) of all problems, each largest mass first."""
        return self._backend.wrap(self._indices)

    @property
    def mass(self) -> Any:
        """Masses (B, n + m - 1) of the cells, 0 where a problem has no more."""
        return self._backend.wrap((self._counts / GRID).astype(self._dtype, copy=False))

    @property
    def gap(self) -> Any:
        """How much more entropy than the best each coupling may have (B,)."""
        return self._backend.wrap(np.maximum(0.0, self._values[0] - self._values[1]))

    def __getitem__(self, i: int) -> Coupling:
        i = operator.index(i)
        cells = int(self._values[2][i])
        return Coupling(
            shape=(self._marginals[0].shape[1], self._marginals[1].shape[1]),
            entropy=float(self._values[0][i]),
            lower_bound=float(self._values[1][i]),
            method=_FOUND[self._found[i]],
            total=GRID,
            grid_error=self.grid_error,
            _indices=self._indices[i, :cells],
            _counts=self._counts[i, :cells],
            _marginals=(self._marginals[0][i], self._marginals[1][i]),
            _functional=self._functional,
            _dtype=self._dtype,
            _backend=self._backend,
        )


def minimum_entropy_coupling_batch(
    p: Array, q: Array, *, method: str = "greedy", base: float = 2.0, order: float = 1.0, tsallis: bool = False
) -> CouplingBatch:
    """Couplings of little entropy for many pairs of marginals in one call.

    Parameters
    ----------
    p : array_like, shape (B, n)
        First marginals, a row each; rows of fewer masses are filled up with zeros.
    q : array_like, shape (B, m)
        Second marginals; each row sums to what its row of `p` sums to.
    method : {'greedy', 'portfolio', 'exact'}, optional
        As for :func:`minimum_entropy_coupling`; 'greedy' by default. 'exact' takes n + m <= 22.
    base, order, tsallis : optional
        As for :func:`minimum_entropy_coupling`.

    Returns
    -------
    CouplingBatch
        All cells in two arrays, entropies and lower bounds.

    Raises
    ------
    ValueError
        Shapes that do not fit, or a row with what :func:`minimum_entropy_coupling` refuses.
    TypeError, DeviceError
        As there.

    Notes
    -----
    Each row is answered as :func:`minimum_entropy_coupling` would answer it for floats; integers are taken as floats.
    Problems are shared among the threads. Backends: CPU; device arrays raise DeviceError.

    Examples
    --------
    >>> import entropic
    >>> batch = entropic.minimum_entropy_coupling_batch([[0.5, 0.5], [1.0, 0.0]], [[0.25, 0.75], [0.5, 0.5]])
    >>> batch.entropy
    array([1.5, 1. ])
    >>> batch[0].toarray()
    array([[0.  , 0.5 ],
           [0.25, 0.25]])
    """
    func = "minimum_entropy_coupling_batch"
    functional = check_functional(func, base, order, tsallis)
    chosen = check_choice(func, "method", method, _METHODS)
    backend = backend_of(func, p=p, q=q)
    refuse_cuda(func, backend, "p")
    arrays = [real_array(func, "p", p), real_array(func, "q", q)]
    for name, array in zip("pq", arrays, strict=True):
        if array.ndim != 2 or array.shape[1] == 0:
            raise ValueError(f"{func}: `{name}` must have shape (B, n) with n > 0, got {array.shape}")
    if len(arrays[0]) != len(arrays[1]):
        raise ValueError(f"{func}: `p` and `q` must have as many rows, got {len(arrays[0])} and {len(arrays[1])}")
    if chosen == _EXACT and arrays[0].shape[1] + arrays[1].shape[1] > _core.coupling_exact_atoms:
        raise ValueError(
            f"{func}: method 'exact' takes n + m of at most {_core.coupling_exact_atoms}, "
            f"got {arrays[0].shape[1]} + {arrays[1].shape[1]}"
        )
    arrays = [array.astype(np.float64) if array.dtype.kind in "biu" else array for array in arrays]
    if len(arrays[0]):
        (left, left_sums, change), (right, right_sums, other) = (
            grid_rows(func, name, array) for name, array in zip("pq", arrays, strict=True)
        )
        check_sums(func, ["p", "q"], [left_sums, right_sums], arrays)
    else:
        left, right = (np.zeros(array.shape, dtype=np.uint64) for array in arrays)
        change = other = 0.0
    indices, counts, cells, entropy, bound, found = _core.coupling_solve_batch(
        left, right, GRID, 0 if np.isinf(functional.order) else chosen, functional.measure, functional.order
    )
    entropy, bound = entropy * functional.scale, bound * functional.scale
    return CouplingBatch(
        entropy=backend.wrap(entropy),
        lower_bound=backend.wrap(bound),
        n_cells=backend.wrap(cells),
        grid_error=max(change, other),
        _indices=indices,
        _counts=counts,
        _marginals=(left, right),
        _found=found,
        _values=(entropy, bound, cells),
        _functional=functional,
        _dtype=np.dtype(np.float32 if all(a.dtype.itemsize <= 4 for a in arrays) else np.float64),
        _backend=backend,
    )
