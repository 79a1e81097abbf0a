"""Checks that every family shares. Each raises before any work, naming the function and the argument."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np


def normalize_axes(func: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Axes as a tuple of distinct non-negative integers; None means all."""
    if axis is None:
        return tuple(range(ndim))
    given: Iterable[Any] = axis if isinstance(axis, tuple | list) else (axis,)
    axes = []
    for item in given:
        try:
            index = operator.index(item)
        except TypeError:
            raise TypeError(f"{func}: `axis` must be an integer, a tuple of integers or None, got {axis!r}") from None
        # SciPy takes axis=0 and -1 of a scalar, as if it had one dimension.
        if not -max(ndim, 1) <= index < max(ndim, 1):
            raise np.exceptions.AxisError(f"{func}: `axis` {index} is out of bounds for an array of dimension {ndim}")
        if ndim:
            axes.append(index % ndim)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{func}: `axis` {axis} has duplicate entries")
    return tuple(sorted(axes))


def normalize_axis(func: str, axis: Any, ndim: int) -> int:
    """One axis of an array that has at least one."""
    if ndim == 0:
        raise ValueError(f"{func}: the input must have at least one dimension, got a scalar")
    try:
        operator.index(axis)
    except TypeError:
        raise TypeError(f"{func}: `axis` must be an integer, got {axis!r}") from None
    return normalize_axes(func, axis, ndim)[0]


def axes_mask(axes: tuple[int, ...]) -> int:
    """The form in which the compiled module takes axes."""
    return sum(1 << a for a in axes)


def kept_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """Shape after a reduction."""
    if keepdims:
        return tuple(1 if d in axes else n for d, n in enumerate(shape))
    return tuple(n for d, n in enumerate(shape) if d not in axes)


def check_out(
    func: str, out: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, *inputs: np.ndarray | None
) -> np.ndarray:
    """`out` can take the result: a writable NumPy array of this shape and dtype that shares no memory with inputs."""
    if out.shape != shape:
        raise ValueError(f"{func}: `out` must have shape {shape}, got {out.shape}")
    if out.dtype.newbyteorder("=") != dtype:
        raise ValueError(f"{func}: `out` must have dtype {dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError(f"{func}: `out` is read-only")
    if _overlaps_itself(out):
        raise ValueError(f"{func}: elements of `out` overlap each other in memory")
    if any(x is not None and overlaps(out, x) for x in inputs):
        raise ValueError(f"{func}: `out` overlaps the input in memory; pass a separate array")
    return out


def _overlaps_itself(a: np.ndarray) -> bool:
    """As broadcast views and sliding windows do: some stride is shorter than what lies within it."""
    reach = a.dtype.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False


def overlaps(a: np.ndarray, b: np.ndarray) -> bool:
    """Do two arrays share an element? True where that would take long to find out."""
    try:
        return bool(np.shares_memory(a, b, max_work=10000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def same_memory(a: np.ndarray, b: np.ndarray) -> bool:
    """Are two arrays the same elements in the same order, as in `f(x, out=x)`?"""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and a.strides == b.strides
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    )


def check_base(func: str, base: Any) -> float:
    """Natural logarithm of the base of entropies; 1 for nats."""
    if base is None:
        return 1.0
    if isinstance(base, bool) or not isinstance(base, int | float | np.integer | np.floating):
        raise TypeError(f"{func}: `base` must be a number or None, got {base!r}")
    value = check_number(func, "base", base)
    if not (value > 0 and value != 1 and math.isfinite(value)):
        raise ValueError(f"{func}: `base` must be positive, finite and not 1, got {base!r}")
    return math.log(value)


def check_rng(func: str, rng: Any) -> np.random.Generator:
    """A generator from a generator, a seed, or None for a fresh one."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{func}: `rng` must be a numpy.random.Generator, a seed or None, got {rng!r}") from None


def check_number(func: str, name: str, x: Any) -> float:
    if isinstance(x, bool | np.bool_) or not isinstance(x, int | float | np.integer | np.floating):
        raise TypeError(f"{func}: `{name}` must be a number, got {x!r}")
    try:
        return float(x)
    except OverflowError:
        raise ValueError(f"{func}: `{name}` must be in the range of float64") from None


def check_positive(func: str, name: str, x: Any) -> float:
    value = check_number(func, name, x)
    if not 0 < value < math.inf:
        raise ValueError(f"{func}: `{name}` must be positive and finite, got {x!r}")
    return value


def check_flag(func: str, name: str, x: Any) -> bool:
    if not isinstance(x, bool | np.bool_):
        raise TypeError(f"{func}: `{name}` must be a boolean, got {x!r}")
    return bool(x)


def check_integer(func: str, name: str, x: Any, least: int) -> int:
    """An integer that is at least `least`."""
    if isinstance(x, bool | np.bool_):
        raise TypeError(f"{func}: `{name}` must be an integer, got {x!r}")
    try:
        value = operator.index(x)
    except TypeError:
        raise TypeError(f"{func}: `{name}` must be an integer, got {x!r}") from None
    if value < least:
        raise ValueError(f"{func}: `{name}` must be at least {least}, got {value}")
    return value


def check_choice(func: str, name: str, value: Any, choices: tuple[str, ...]) -> int:
    """The place of an option among its choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{func}: `{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return choices.index(value)
