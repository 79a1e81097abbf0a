"""The functions of the family, and the helpers that its streams and gradients share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, Backend, backend_of, cuda_module, out_array_of, refuse_cuda, to_numpy
from .._device import device_reduce
from .._validate import axes_mask, check_base, check_out, kept_shape, normalize_axes, normalize_axis, same_memory

# The order of Value and RowMap in csrc.
LOGSUMEXP, LOGMEANEXP, ENTROPY = 0, 1, 2
SOFTMAX, LOG_SOFTMAX, LOGSUMEXP_VJP, ENTROPY_VJP, LINEAR = 0, 1, 2, 3, 4


def float_dtype(x: np.ndarray) -> np.dtype:
    """Type of the results for one input: its own float type in native order, float64 for integers."""
    if x.dtype.kind in "biu":
        return np.dtype(np.float64)
    return x.dtype.newbyteorder("=")


def cast(result: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Results in the caller's type; what a half type cannot hold becomes inf, as in arithmetic, without a warning."""
    if result.dtype == dtype:
        return result
    with np.errstate(over="ignore", invalid="ignore"):
        return result.astype(dtype)


def scalar_or_array(result: np.ndarray) -> Any:
    return result[()] if result.ndim == 0 else result


def _deliver(backend: Backend, result: np.ndarray, out: Any, out_array: np.ndarray | None) -> Any:
    if out_array is None:
        return backend.wrap(scalar_or_array(result))
    out_array[...] = result
    return out


def check_real(func: str, name: str, x: np.ndarray) -> None:
    if x.dtype.kind == "c":
        raise TypeError(f"{func}: `{name}` must be real, got dtype {x.dtype}")


def check_ndim(func: str, x: np.ndarray) -> None:
    if x.ndim > 63:
        raise ValueError(f"{func}: arrays of more than 63 dimensions are not supported, got {x.ndim}")


def host_real(func: str, name: str, x: Array, **others: Any) -> tuple[Backend, np.ndarray]:
    """The backend of `x` and of `others`, and `x` as a real NumPy array: for what has no GPU kernel."""
    backend = backend_of(func, **{name: x}, **others)
    refuse_cuda(func, backend, name)
    array = to_numpy(func, name, x)
    check_real(func, name, array)
    check_ndim(func, array)
    return backend, array


def _reduce(func: str, name: str, a: Array, axis: Any, keepdims: bool, out: Any, value: int) -> Any:
    """A plain reduction of the argument called `name`: one value for each row."""
    backend = backend_of(func, **{name: a, "out": out})
    if backend.on_cuda:
        cuda = cuda_module(func, name, backend.device)
        return device_reduce(func, cuda, backend, name, a, axis, keepdims, out, value)
    x = to_numpy(func, name, a)
    check_real(func, name, x)
    check_ndim(func, x)
    axes = normalize_axes(func, axis, x.ndim)
    dtype = float_dtype(x)
    out_array = None
    if out is not None:
        shape = kept_shape(x.shape, axes, bool(keepdims))
        out_array = check_out(func, out_array_of(func, out), shape, dtype, x)
    result = cast(_core.reduce(x, axes_mask(axes), bool(keepdims), value), dtype)
    return _deliver(backend, result, out, out_array)


# ---- logsumexp -------------------------------------------------------------------------------------------------------


def logsumexp(
    a: Array,
    axis: int | tuple[int, ...] | None = None,
    b: Array | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    *,
    out: Array | None = None,
) -> Any:
    """Logarithm of the sum of exponentials, ``log(sum(b * exp(a)))``, in one pass and without overflow.

    Parameters
    ----------
    a : array_like
        Real or complex, any shape. float32, float64, float16 and bfloat16 keep their type; integers are taken as
        float64.
    axis : int or tuple of int, optional
        Axes to sum over; None, the default, means all of them.
    b : array_like, optional
        Weights, of any sign, that broadcast against `a` (and `a` against them). A term whose weight is 0 is nothing,
        even where `a` is infinite or nan. A Python scalar does not change the type of the result.
    keepdims : bool, optional
        Keep the reduced axes with length 1.
    return_sign : bool, optional
        Return ``(log|sum|, sign)``. Without it a negative sum gives nan.
    out : ndarray, optional
        Where the result goes; of its shape and dtype, not overlapping the inputs.

    Returns
    -------
    res : ndarray or scalar
        Natural logarithm of the sum, in the library of `a`. -inf for an empty sum.
    sign : ndarray or scalar
        Only with `return_sign`: 1, 0 or -1, nan where the sum is nan; for complex input the unit phase.

    Raises
    ------
    ValueError
        An axis is repeated or out of range, `b` does not broadcast, or `out` does not fit or overlaps an input.
    TypeError
        Masked, sparse or object arrays, or arrays of two libraries.
    DeviceError
        Device arrays without a CUDA build or driver, or with `b`, `return_sign` or complex values.

    Notes
    -----
    Semantics are those of :func:`scipy.special.logsumexp`, except that an empty sum is -inf with sign 0 whatever the
    shape, and that half-precision types are summed wide.

    The sum leaves out one maximal element, which is 1 after the shift, so that ``log1p`` of the rest keeps what is
    small beside it. float32 terms are summed in float32 over blocks of 64 per vector lane, blocks in float64: the
    error does not grow with the length. Weighted sums are carried in pairs of float64: terms of opposite sign cancel
    exactly while all that is between them fits in 106 bits, and to about 1e-30 of the largest term otherwise, a
    remainder that may depend on the instruction set. They are read twice, complex input four times.

    Time O(size of `a`), one read of memory; extra memory O(result). The bits do not depend on the number of threads.
    Backends: CPU (all), CUDA (real, without `b`).

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J.
    Numer. Anal. 41 (2021). M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> float(entropic.logsumexp([1000.0, 1000.0]))
    1000.6931471805599
    >>> entropic.logsumexp(np.zeros((2, 3)), axis=1)
    array([1.09861229, 1.09861229])
    >>> log_size, sign = entropic.logsumexp([1.0, 1.0], b=[1.0, -3.0], return_sign=True)
    >>> float(log_size.round(12)), float(sign)
    (1.69314718056, -1.0)
    """
    if type(a) is np.ndarray and b is None and not return_sign and out is None:
        quick = _core.logsumexp_quick(a, axis, bool(keepdims))
        if quick is not None:
            return quick
    if b is None and not _is_complex(a) and not (return_sign and backend_of("logsumexp", a=a).on_cuda):
        value = _reduce("logsumexp", "a", a, axis, keepdims, out, LOGSUMEXP)
        return (value, _sign_of_positive_sum(value)) if return_sign else value
    return _weighted_logsumexp(a, axis, b, keepdims, return_sign, out)


def _sign_of_positive_sum(log_sum: Any) -> Any:
    """1, or 0 for an empty sum, or nan."""
    backend = backend_of("logsumexp", a=log_sum)
    values = to_numpy("logsumexp", "a", log_sum)
    sign = np.where(np.isneginf(values), 0, 1).astype(values.dtype)
    return backend.wrap(scalar_or_array(np.where(np.isnan(values), values, sign)))


def _is_complex(a: Any) -> bool:
    if isinstance(a, list | tuple | complex):
        return to_numpy("logsumexp", "a", a).dtype.kind == "c"
    return "complex" in str(getattr(a, "dtype", ""))


def weighted_inputs(func: str, a: Array, b: Array | None) -> tuple[np.ndarray, np.ndarray | None, np.dtype]:
    """a and b broadcast together, and the type of the result."""
    x = to_numpy(func, "a", a)
    if b is None:
        return x, None, float_dtype(x)
    w = to_numpy(func, "b", b)
    if isinstance(b, bool | int | float):  # as in NumPy, a Python scalar leaves the type alone
        dtype = float_dtype(x)
    else:
        dtype = np.result_type(float_dtype(x), w.dtype.newbyteorder("="))
    if max(x.ndim, w.ndim) > 32:  # where NumPy's own broadcasting ends
        raise ValueError(f"{func}: arrays with weights may have at most 32 dimensions, got {max(x.ndim, w.ndim)}")
    try:
        x, w = np.broadcast_arrays(x, w)
    except ValueError:
        raise ValueError(f"{func}: `b` of shape {w.shape} does not broadcast against `a` of shape {x.shape}") from None
    return x, w, dtype


def _weighted_logsumexp(a: Array, axis: Any, b: Array | None, keepdims: bool, return_sign: bool, out: Any) -> Any:
    func = "logsumexp"
    backend = backend_of(func, a=a, b=b, out=out)
    if backend.on_cuda:
        cuda_module(func, "a", backend.device)
        refuse_cuda(f"{func} with `b`, `return_sign` or complex values", backend, "a")
    x, w, dtype = weighted_inputs(func, a, b)
    check_ndim(func, x)
    axes = normalize_axes(func, axis, x.ndim)
    is_complex = dtype.kind == "c"
    value_dtype = np.dtype(f"f{dtype.itemsize // 2}") if is_complex and return_sign else dtype
    shape = kept_shape(x.shape, axes, bool(keepdims))
    out_array = None
    if out is not None:
        out_array = check_out(func, out_array_of(func, out), shape, value_dtype, x, w)
    parts = _core.reduce_signed(x, w, axes_mask(axes), is_complex)
    with np.errstate(invalid="ignore"):
        log_abs, sign = _complex_log(*parts) if is_complex else signed_log(parts[0])
        if not return_sign:
            log_abs = log_abs + 1j * np.arctan2(sign.imag, sign.real) if is_complex else nan_if_negative(log_abs, sign)
    result = cast(log_abs, value_dtype).reshape(shape)
    value = _deliver(backend, result, out, out_array)
    if not return_sign:
        return value
    return value, backend.wrap(scalar_or_array(cast(sign, dtype).reshape(shape)))


def nan_if_negative(log_abs: np.ndarray, sign: np.ndarray) -> np.ndarray:
    return np.where(sign < 0, np.nan, log_abs)


def signed_log(fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log|S| and the sign of S from states (m, hi, lo)."""
    return fields[0] + _core.log_abs_states(fields), np.sign(fields[1])


def _complex_log(real: np.ndarray, imaginary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log|S| and S/|S| from the states of S's real and imaginary parts."""
    log_re, sign_re = signed_log(real)
    log_im, sign_im = signed_log(imaginary)
    # |S|^2 = re^2 + im^2 with the larger part taken out; no part overflows and a part that is 0 costs nothing.
    large, small = np.maximum(log_re, log_im), np.minimum(log_re, log_im)
    ratio = np.where(np.isneginf(small), 0.0, np.exp(small - large))
    ratio = np.where(large == small, 1.0, ratio)
    log_abs = large + 0.5 * np.log1p(ratio * ratio)
    norm = np.hypot(1.0, ratio)
    re = np.where(log_re >= log_im, 1.0, ratio) * sign_re / norm
    im = np.where(log_re >= log_im, ratio, 1.0) * sign_im / norm
    undefined = np.isnan(log_abs)
    return log_abs, np.where(undefined, np.nan, re) + 1j * np.where(undefined, np.nan, im + 0.0)


def logmeanexp(
    a: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False, *, out: Array | None = None
) -> Any:
    """Logarithm of the mean of exponentials, ``logsumexp(a) - log(n)`` without the cancellation.

    Parameters
    ----------
    a : array_like
        Real, any shape.
    axis : int or tuple of int, optional
        Axes to average over; None, the default, means all of them.
    keepdims : bool, optional
        Keep the reduced axes with length 1.
    out : ndarray, optional
        Where the result goes.

    Returns
    -------
    ndarray or scalar
        In the float type of `a`; nan for an empty mean.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`logsumexp`.

    Notes
    -----
    With S the sum of exp(a - max) this is ``max + log1p((S - n) / n)``, so that the mean of equal values is that value
    exactly. Time O(size of `a`), extra memory O(result). Backends: CPU, CUDA.

    Examples
    --------
    >>> import entropic
    >>> float(entropic.logmeanexp([0.3, 0.3, 0.3]))
    0.3
    """
    return _reduce("logmeanexp", "a", a, axis, keepdims, out, LOGMEANEXP)


def softmax_entropy(logits: Array, axis: int | tuple[int, ...] | None = -1, *, base: float | None = None) -> Any:
    """Entropy of ``softmax(logits)``, with full relative accuracy for peaked distributions.

    Parameters
    ----------
    logits : array_like
        Real, any shape; -inf is a category of probability 0.
    axis : int or tuple of int, optional
        The axes that number the categories; the last by default, None for all.
    base : float, optional
        Base of the logarithm; None, the default, gives nats, 2 gives bits.

    Returns
    -------
    ndarray or scalar
        Between 0 and the logarithm of the number of categories; nan where no category has mass or a logit is +inf or
        nan.

    Raises
    ------
    ValueError
        A bad axis, or a base that is not positive, finite and different from 1.
    TypeError, DeviceError
        As :func:`logsumexp`.

    Notes
    -----
    ``log1p(r) + t / (1 + r)`` with r = sum exp(x - m) and t = sum exp(x - m) (m - x) over all elements but one maximal
    one: no term is negative. The usual ``logsumexp(x) - sum(p * x)`` returns 0.0 in float32 for a row whose entropy is
    9e-12. Time O(size of `logits`), one read; extra memory O(result). Backends: CPU, CUDA.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> float(entropic.softmax_entropy(np.zeros(8), base=2))
    3.0
    >>> peaked = np.zeros(32000, dtype=np.float32)
    >>> peaked[7] = 40
    >>> float(entropic.softmax_entropy(peaked))  # doctest: +ELLIPSIS
    5.57...e-12
    """
    log_base = check_base("softmax_entropy", base)
    value = _reduce("softmax_entropy", "logits", logits, axis, False, None, ENTROPY)
    return value if log_base == 1.0 else value / log_base


# ---- maps ------------------------------------------------------------------------------------------------------------


def _map(func: str, x: Array, axis: Any, out: Any, kind: int) -> Any:
    backend, source = host_real(func, "x", x, out=out)
    axes = normalize_axes(func, axis, source.ndim)
    dtype = float_dtype(source)
    if out is None:
        target = np.empty(source.shape, dtype)
    else:
        target = out_array_of(func, out)
        # In place is what out= is for: each element is written after it was last read.
        in_place = same_memory(target, source)
        check_out(func, target, source.shape, dtype, *(() if in_place else (source,)))
    _core.map_rows(source, axes_mask(axes), kind, None, target)
    return backend.wrap(scalar_or_array(target)) if out is None else out


def softmax(x: Array, axis: int | tuple[int, ...] | None = None, *, out: Array | None = None) -> Any:
    """Softmax, ``exp(x) / sum(exp(x))`` along the axes, without overflow.

    Parameters
    ----------
    x : array_like
        Real, any shape.
    axis : int or tuple of int, optional
        Axes over which the result sums to 1; None, the default, means all of them.
    out : ndarray, optional
        Where the result goes; ``softmax(x, out=x)`` works in place.

    Returns
    -------
    ndarray or scalar
        Shape of `x`, its float type. A row that holds nan or +inf, or nothing but -inf, is nan.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`logsumexp`.

    Notes
    -----
    Two reads (the second from cache where a row fits) and one write; extra memory O(number of rows). Passing `out`
    spares the allocation, which for large arrays costs as much as the computation. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> entropic.softmax(np.array([0.0, 0.0, np.log(2.0)]))
    array([0.25, 0.25, 0.5 ])
    """
    return _map("softmax", x, axis, out, SOFTMAX)


def log_softmax(x: Array, axis: int | tuple[int, ...] | None = None, *, out: Array | None = None) -> Any:
    """Logarithm of softmax, ``x - logsumexp(x)``, with full relative accuracy.

    Parameters
    ----------
    x : array_like
        Real, any shape.
    axis : int or tuple of int, optional
        Axes over which the exponentials of the result sum to 1; None, the default, means all of them.
    out : ndarray, optional
        Where the result goes; ``log_softmax(x, out=x)`` works in place.

    Returns
    -------
    ndarray or scalar
        Shape of `x`, its float type.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`logsumexp`.

    Notes
    -----
    ``(x - max) - log1p(r)``: both terms have one sign, so the log-probability of a near-certain category is as accurate
    as that of a rare one. Costs as :func:`softmax`. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> entropic.log_softmax(np.array([0.0, 40.0]))
    array([-4.00000000e+01, -4.24835426e-18])
    """
    return _map("log_softmax", x, axis, out, LOG_SOFTMAX)


# ---- running sums and segments ---------------------------------------------------------------------------------------


def logcumsumexp(a: Array, axis: int = -1, *, reverse: bool = False) -> Any:
    """Running log-sum-exp, ``log(cumsum(exp(a)))``, without overflow or underflow anywhere along the axis.

    Parameters
    ----------
    a : array_like
        Real, at least one dimension.
    axis : int, optional
        The axis to run along, the last by default.
    reverse : bool, optional
        Sum from the end: element i holds the log-sum of a[i:].

    Returns
    -------
    ndarray
        Shape of `a`, its float type.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`logsumexp`; ValueError for a scalar.

    Notes
    -----
    Each row is cut in pieces of 224; the pieces' sums are found first, then all pieces run side by side in vector
    lanes, in float64. Time O(size of `a`), extra memory 24 bytes for each 224 elements. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> np.exp(entropic.logcumsumexp(np.log([1.0, 2.0, 3.0]))).round(12)
    array([1., 3., 6.])
    """
    func = "logcumsumexp"
    backend, x = host_real(func, "a", a)
    index = normalize_axis(func, axis, x.ndim)
    result = np.empty(x.shape, float_dtype(x))
    backwards = tuple(slice(None, None, -1) if reverse and d == index else slice(None) for d in range(x.ndim))
    _core.scan(x[backwards], index, result[backwards])
    return backend.wrap(result)


def check_segment_ids(
    func: str, ids: Array, shape: tuple[int, ...], num_segments: int | None
) -> tuple[np.ndarray, int]:
    rows = shape[0]
    numbers = to_numpy(func, "segment_ids", ids)
    if numbers.dtype.kind not in "iu" and numbers.size:
        raise TypeError(f"{func}: `segment_ids` must be integers, got dtype {numbers.dtype}")
    if numbers.shape != (rows,):
        raise ValueError(f"{func}: `segment_ids` must have shape ({rows},), one id a row of `a`, got {numbers.shape}")
    largest = int(numbers.max()) if rows else -1
    if rows and int(numbers.min()) < 0:
        raise ValueError(f"{func}: `segment_ids` must not be negative, got {int(numbers.min())}")
    if num_segments is None:
        num_segments = largest + 1
    elif isinstance(num_segments, bool) or not isinstance(num_segments, int | np.integer):
        raise TypeError(f"{func}: `num_segments` must be an integer, got {num_segments!r}")
    elif num_segments < 0:
        raise ValueError(f"{func}: `num_segments` must not be negative, got {num_segments}")
    if largest >= num_segments:
        raise ValueError(f"{func}: `segment_ids` must be below num_segments={num_segments}, got {largest}")
    if num_segments * math.prod(shape[1:]) > 2**40:
        raise MemoryError(f"{func}: {num_segments} segments do not fit in memory")
    return np.ascontiguousarray(numbers, dtype=np.int64), int(num_segments)


def segment_logsumexp(a: Array, segment_ids: Array, num_segments: int | None = None) -> Any:
    """Log-sum-exp of the rows of each segment: entry s is ``logsumexp(a[segment_ids == s], axis=0)``.

    Parameters
    ----------
    a : array_like
        Real, shape (n, ...).
    segment_ids : array_like of int
        Shape (n,), the segment of each row, in any order.
    num_segments : int, optional
        Number of segments; by default one more than the largest id.

    Returns
    -------
    ndarray
        Shape (num_segments, ...), the float type of `a`; -inf for a segment without rows.

    Raises
    ------
    ValueError
        An id is negative or not below `num_segments`, or their number is not n.
    TypeError
        Ids that are not integers.

    Notes
    -----
    Two passes over `a`; extra memory O(result), and one integer a row where rows are long. The states are float64, as
    are the terms of rows of fewer than 16 elements. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> entropic.segment_logsumexp(np.zeros(5), [0, 2, 2, 0, 2])
    array([0.69314718,       -inf, 1.09861229])
    """
    func = "segment_logsumexp"
    backend, x = host_real(func, "a", a, segment_ids=segment_ids)
    if x.ndim == 0:
        raise ValueError(f"{func}: `a` must have at least one dimension, got a scalar")
    ids, count = check_segment_ids(func, segment_ids, x.shape, num_segments)
    states = _core.reduce_segments(x, ids, count)
    return backend.wrap(cast(_core.finish_states(states, LOGSUMEXP), float_dtype(x)))
