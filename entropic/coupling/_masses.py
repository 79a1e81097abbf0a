"""Marginals as integers that add up to one total, so that a coupling's sums are exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .. import _core
from .._backend import Array, Backend, backend_of, refuse_cuda, to_numpy

GRID = 2**53


@dataclass(frozen=True)
class Masses:
    """Integer masses of each marginal, and how they came about."""

    counts: list[np.ndarray]
    total: int
    grid_error: float
    dtype: np.dtype
    backend: Backend


def real_array(func: str, name: str, x: Array) -> np.ndarray:
    array = to_numpy(func, name, x)
    if array.dtype.kind == "c":
        raise TypeError(f"{func}: `{name}` must be real, got dtype {array.dtype}")
    return array


def marginal_array(func: str, name: str, x: Array) -> np.ndarray:
    array = real_array(func, name, x)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{func}: `{name}` must be one-dimensional and not empty, got shape {array.shape}")
    if array.size >= 2**31:
        raise ValueError(f"{func}: `{name}` must have fewer than 2**31 masses, got {array.size}")
    return array


def _row(name: str, row: int, rows: int) -> str:
    return f"`{name}`" if rows == 1 else f"row {row} of `{name}`"


def grid_rows(func: str, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Float masses (rows, n) on the grid of 2^-53, their sums, and the largest change."""
    values = np.ascontiguousarray(rows, dtype=np.float64)
    counts, sums, change, bad = _core.coupling_grid(values)
    if (bad >= 0).any():
        row = int(np.argmax(bad >= 0))
        value = float(values[row, bad[row]])
        where = _row(name, row, len(values))
        raise ValueError(f"{func}: {where} must hold finite masses that are not negative, got {value} at {bad[row]}")
    if (sums == 0).any():
        raise ValueError(f"{func}: {_row(name, int(np.argmax(sums == 0)), len(values))} has no mass")
    return counts, sums, float(change.max()) / GRID


def check_sums(func: str, names: list[str], sums: list[np.ndarray], arrays: list[np.ndarray]) -> None:
    """Totals agree, to what the narrowest type of the masses can say."""
    if not all(np.isfinite(own).all() for own in sums):  # the masses are finite, their sum is too large
        sums = [np.sum(np.atleast_2d(array).astype(np.float64) * 2.0**-64, axis=1) for array in arrays]
        names = [f"{name} / 2**64" for name in names]
    tolerance = {2: 1e-2, 4: 1e-5}.get(min(a.dtype.itemsize for a in arrays if a.dtype.kind not in "biu"), 1e-9)
    for name, own in zip(names[1:], sums[1:], strict=True):
        apart = np.abs(own - sums[0]) > tolerance * sums[0]
        if apart.any():
            row = int(np.argmax(apart))
            raise ValueError(
                f"{func}: {_row(names[0], row, len(apart))} sums to {float(sums[0][row])!r}, "
                f"{_row(name, row, len(apart))} to {float(own[row])!r}; scale them to one total"
            )


def _exact_sum(counts: np.ndarray) -> int:
    # Halves of 32 bits: their sums fit in 64 for any size that memory holds.
    wide = counts.astype(np.uint64)
    return (int((wide >> np.uint64(32)).sum()) << 32) + int((wide & np.uint64(0xFFFFFFFF)).sum())


def count_rows(func: str, names: list[str], arrays: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Integer masses brought to their totals' least common multiple, without rounding."""
    totals = []
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind == "i" and (array < 0).any():
            where = int(np.argmax(array < 0))
            raise ValueError(f"{func}: `{name}` must hold counts that are not negative, got {array[where]} at {where}")
        totals.append(_exact_sum(array))
        if totals[-1] == 0:
            raise ValueError(f"{func}: `{name}` has no mass")
    total = math.lcm(*totals)
    if total >= 2**63:
        raise ValueError(
            f"{func}: the totals of the counts have the common multiple {total}, which must be below 2**63; "
            "divide each by its total"
        )
    scaled = [array.astype(np.uint64) * np.uint64(total // own) for array, own in zip(arrays, totals, strict=True)]
    return scaled, total


def as_masses(func: str, names: list[str], marginals: tuple[Array, ...]) -> Masses:
    """All marginals with one total: counts exactly, everything else on the grid."""
    backend = backend_of(func, **dict(zip(names, marginals, strict=True)))
    refuse_cuda(func, backend, names[0])
    arrays = [marginal_array(func, name, x) for name, x in zip(names, marginals, strict=True)]
    if all(array.dtype.kind in "biu" for array in arrays):
        counts, total = count_rows(func, names, arrays)
        return Masses(counts, total, 0.0, np.dtype(np.float64), backend)
    gridded = [grid_rows(func, name, array[None]) for name, array in zip(names, arrays, strict=True)]
    check_sums(func, names, [sums for _, sums, _ in gridded], arrays)
    narrow = all(array.dtype.kind not in "biu" and array.dtype.itemsize <= 4 for array in arrays)
    return Masses(
        [counts[0] for counts, _, _ in gridded],
        GRID,
        max(change for _, _, change in gridded),
        np.dtype(np.float32 if narrow else np.float64),
        backend,
    )
