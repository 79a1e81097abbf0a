"""Rows of logits: what the statistics, losses and their gradients share.

An array is seen as rows of categories along one axis and visited some rows at a time, so that whatever a filter, a cap
or a gradient has to write down is a few megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .._backend import Array, to_numpy
from .._validate import check_integer, check_number, check_positive

CHUNK_BYTES = 8 << 20
# Within which 1 / temperature and all that is computed from it are ordinary numbers in float32 too.
LEAST_SCALE, LARGEST_SCALE = 1e-30, 1e30


def compute_dtype(x: np.ndarray) -> np.dtype:
    """float32 for floats of up to 32 bits, else float64: the type of sums, of statistics and of losses."""
    return np.dtype(np.float32 if x.dtype.kind not in "biu" and x.dtype.itemsize <= 4 else np.float64)


class Rows:
    """An array as rows along `axis`: `batch` is the shape that numbers them."""

    def __init__(self, x: np.ndarray, axis: int) -> None:
        self.x, self.axis = x, axis
        self.batch = x.shape[:axis] + x.shape[axis + 1 :]
        self.count, self.width = math.prod(self.batch), x.shape[axis]
        self.dtype = compute_dtype(x)

    @cached_property
    def moved(self) -> np.ndarray:
        """The array with the categories last."""
        return np.moveaxis(self.x, self.axis, -1)

    def chunk(self, first: int, last: int) -> np.ndarray:
        """Rows first to last, in their own type: a view where the array is adjacent."""
        if not self.batch:
            return self.moved[None][first:last]
        if self.moved.flags.c_contiguous:
            return self.moved.reshape(self.count, self.width)[first:last]
        return self.moved[np.unravel_index(np.arange(first, last), self.batch)]

    def chunks(self, bytes_a_row: int = 0) -> Iterator[slice]:
        """Runs of rows that fit the budget, one row at least."""
        step = max(1, CHUNK_BYTES // max(1, bytes_a_row or self.width * self.dtype.itemsize))
        for first in range(0, self.count, step):
            yield slice(first, min(first + step, self.count))


def check_targets(func: str, targets: Array, batch: tuple[int, ...], name: str = "targets") -> np.ndarray:
    """Whole numbers, one a row, as int64 of shape `batch`."""
    numbers = to_numpy(func, name, targets)
    if numbers.dtype.kind not in "iu" and numbers.size:
        raise TypeError(f"{func}: `{name}` must be integers, got dtype {numbers.dtype}")
    if numbers.shape != batch:
        raise ValueError(f"{func}: `{name}` must have shape {batch}, one a row, got {numbers.shape}")
    if numbers.dtype == np.uint64 and numbers.size and numbers.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{func}: `{name}` must be in the range of int64, got {numbers.max()}")
    return np.asarray(numbers, dtype=np.int64, order="C")


def check_in_vocabulary(func: str, targets: np.ndarray, width: int, name: str = "targets") -> None:
    # as unsigned numbers negative ones are the largest: one pass
    if targets.size and int(targets.view(np.uint64).max()) >= width:
        wrong = targets[(targets < 0) | (targets >= width)]
        raise ValueError(f"{func}: `{name}` must be in [0, {width}), got {wrong.flat[0]}")


def check_temperature(func: str, temperature: Any, batch: tuple[int, ...]) -> np.ndarray:
    """One temperature a row, float64 of shape `batch`."""
    if type(temperature) is float and LEAST_SCALE <= temperature <= LARGEST_SCALE:
        return np.full(batch, temperature)
    values = to_numpy(func, "temperature", temperature)
    if values.dtype.kind not in "iuf" and values.dtype.name != "bfloat16":
        raise TypeError(f"{func}: `temperature` must be real numbers, got dtype {values.dtype}")
    values = values.astype(np.float64)
    if not np.all((values >= LEAST_SCALE) & (values <= LARGEST_SCALE)):
        raise ValueError(f"{func}: `temperature` must be positive and finite (1e-30 to 1e30), got {temperature!r}")
    try:
        return np.broadcast_to(values, batch)
    except ValueError:
        raise ValueError(
            f"{func}: `temperature` must be a number or have one value a row, shape {batch}, got {values.shape}"
        ) from None


def check_scale(func: str, name: str, x: Any) -> float:
    """A positive number that divides logits, with the bounds of a temperature."""
    value = check_positive(func, name, x)
    if not LEAST_SCALE <= value <= LARGEST_SCALE:
        raise ValueError(f"{func}: `{name}` must be positive and finite (1e-30 to 1e30), got {x!r}")
    return value


def check_softcap(func: str, softcap: Any) -> float | None:
    return None if softcap is None else check_scale(func, "softcap", softcap)


def over_temperature(z: np.ndarray, temperature: float, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """(z - top) / temperature along the last axis and top / temperature, (..., 1), float64.

    Differences lose nothing where they are small, and their quotients overflow to -inf, which has no mass, alone.
    """
    top = z.max(axis=-1, keepdims=True, initial=-np.inf).astype(dtype)
    top[np.isneginf(top)] = 0
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.subtract(z, top, dtype=dtype)
        apart /= dtype.type(temperature)
        return apart, top.astype(np.float64) / temperature


def capped(x: np.ndarray, softcap: float | None, dtype: np.dtype) -> np.ndarray:
    """softcap * tanh(x / softcap) in the type of the sums."""
    if softcap is None:
        return x
    z: np.ndarray = np.divide(x, softcap, dtype=dtype)
    np.tanh(z, out=z)
    z *= dtype.type(softcap)
    return z


def cap_slope(x: np.ndarray, softcap: float, dtype: np.dtype) -> np.ndarray:
    """d capped / dx = 1 / cosh^2 = 4 e / (1 + e)^2, e = exp(-2 |x| / softcap), whose small values keep their digits."""
    e = np.exp(-2 * np.abs(np.divide(x, softcap, dtype=dtype)))
    slope: np.ndarray = 4 * e / (1 + e) ** 2
    return slope


@dataclass(frozen=True)
class Filters:
    """Which categories count: a mask, then the `top_k` largest, the nucleus of mass `top_p`, and all but a fraction."""

    mask: np.ndarray | None = None
    top_k: int | None = None
    top_p: float = 1.0
    drop_fraction: float = 0.0

    def __bool__(self) -> bool:
        return self.mask is not None or self.selects

    @property
    def selects(self) -> bool:
        return self.top_k is not None or self.top_p < 1 or self.drop_fraction > 0

    def apply(self, z: np.ndarray, rows: slice, inverse: np.ndarray) -> np.ndarray:
        """A chunk with -inf wherever a category is dropped; `inverse` has each row's 1 / temperature."""
        if self.mask is not None:
            allowed = Rows(self.mask, self.mask.ndim - 1).chunk(rows.start, rows.stop)
            z = np.where(allowed, z, z.dtype.type(-np.inf))
            count = allowed.sum(axis=1)
        else:
            count = np.full(len(z), z.shape[1])
        return self._select(z, count, inverse) if self.selects and z.size else z

    def _select(self, z: np.ndarray, count: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        # All three keep a run of one order: largest first, and of equals the one with the lower index.
        has_nan = np.isnan(z.max(axis=1))  # nothing is dropped from a row that comes to nan anyway
        if self.top_k is not None:
            count = np.minimum(count, self.top_k)
        most = max(int(count.max()), 1)
        largest = z if most == z.shape[1] else np.partition(z, z.shape[1] - most, axis=1)[:, -most:]
        ordered = np.sort(largest, axis=1)[:, ::-1]
        if self.top_p < 1:
            count = np.minimum(count, self._nucleus(ordered, count, inverse))
        if self.drop_fraction:
            # 0.29 * 100 is 28.999...: a product that is whole but for rounding counts as whole
            count = count - np.floor(np.round(self.drop_fraction * count, 9)).astype(np.int64)
        last = np.take_along_axis(ordered, np.maximum(count - 1, 0)[:, None], axis=1)
        kept = z >= last
        tied = np.count_nonzero(kept, axis=1) > count
        if tied.any():  # of those equal to the last one, some stay
            z_tied = z[tied]
            above, equal = z_tied > last[tied], z_tied == last[tied]
            spare = count[tied] - np.count_nonzero(above, axis=1)
            kept[tied] = above | (equal & (np.cumsum(equal, axis=1) <= spare[:, None]))
        return np.where(kept | has_nan[:, None], z, z.dtype.type(-np.inf))

    def _nucleus(self, ordered: np.ndarray, count: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """Length of the shortest run that holds `top_p` of the mass of the first `count`."""
        with np.errstate(invalid="ignore"):
            mass = np.exp((ordered.astype(np.float64) - ordered[:, :1]) * inverse[:, None])
        mass = np.where(np.arange(ordered.shape[1]) < count[:, None], np.nan_to_num(mass), 0.0)
        before = np.cumsum(mass, axis=1)
        total = before[:, -1:]
        return np.asarray(np.maximum((before - mass < self.top_p * total).sum(axis=1), 1))


def check_filters(
    func: str, shape: tuple[int, ...], axis: int, mask: Any, top_k: Any, top_p: Any, drop_fraction: Any
) -> Filters:
    if top_k is not None:
        top_k = check_integer(func, "top_k", top_k, 1)
    share = 1.0 if top_p is None else check_number(func, "top_p", top_p)
    if not 0 < share <= 1:
        raise ValueError(f"{func}: `top_p` must be above 0 and at most 1, got {top_p!r}")
    dropped = 0.0 if drop_fraction is None else check_number(func, "drop_fraction", drop_fraction)
    if not 0 <= dropped < 1:
        raise ValueError(f"{func}: `drop_fraction` must be at least 0 and below 1, got {drop_fraction!r}")
    return Filters(check_mask(func, mask, shape, axis), top_k, share, dropped)


def check_mask(func: str, mask: Any, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
    """A boolean view of `shape` with the categories last."""
    if mask is None:
        return None
    array = to_numpy(func, "mask", mask)
    if array.dtype != np.bool_:
        raise TypeError(f"{func}: `mask` must be boolean, True where an entry counts, got dtype {array.dtype}")
    try:
        return np.moveaxis(np.broadcast_to(array, shape), axis, -1)
    except ValueError:
        raise ValueError(f"{func}: `mask` of shape {array.shape} does not broadcast to {shape}") from None
