"""Log-sum-exp and its family: one pass over the data, no temporaries of its size, nothing that cancels.

Everything here rests on one state of a set of numbers x: its maximum m, r = sum exp(x - m) and
t = sum exp(x - m) (m - x), both over all elements but one maximal one. Then logsumexp = m + log1p(r) and the entropy of
softmax(x) is log1p(r) + t / (1 + r): sums of non-negative terms. States merge, so data can come in chunks.

Where these functions depart from SciPy's on purpose: an empty reduction gives -inf for arrays of any shape, with
sign 0; float16 and bfloat16 are summed wide; an empty softmax is an empty array; masked and sparse arrays are refused;
`keepdims` of a scalar gives a scalar.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from . import _core
from ._backend import NUMPY, Array, Backend, backend_of, cuda_module, out_array_of, refuse_cuda, to_numpy
from ._device import device_reduce
from ._validate import (
    axes_mask,
    check_base,
    check_out,
    kept_shape,
    normalize_axes,
    normalize_axis,
    same_memory,
)
from ._vjp import Pullback, rule_for

__all__ = [
    "LogSumExp",
    "log_softmax",
    "logcumsumexp",
    "logmeanexp",
    "logsumexp",
    "segment_logsumexp",
    "softmax",
    "softmax_entropy",
]

# The order of Value and RowMap in csrc.
_LOGSUMEXP, _LOGMEANEXP, _ENTROPY = 0, 1, 2
_SOFTMAX, _LOG_SOFTMAX, _LOGSUMEXP_VJP, _ENTROPY_VJP = 0, 1, 2, 3


def _float_dtype(x: np.ndarray) -> np.dtype:
    """Type of the results for one input: its own float type in native order, float64 for integers."""
    if x.dtype.kind in "biu":
        return np.dtype(np.float64)
    return x.dtype.newbyteorder("=")


def _cast(result: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Results in the caller's type; what a half type cannot hold becomes inf, as in arithmetic, without a warning."""
    if result.dtype == dtype:
        return result
    with np.errstate(over="ignore", invalid="ignore"):
        return result.astype(dtype)


def _scalar_or_array(result: np.ndarray) -> Any:
    return result[()] if result.ndim == 0 else result


def _deliver(backend: Backend, result: np.ndarray, out: Any, out_array: np.ndarray | None) -> Any:
    if out_array is None:
        return backend.wrap(_scalar_or_array(result))
    out_array[...] = result
    return out


def _check_real(func: str, name: str, x: np.ndarray) -> None:
    if x.dtype.kind == "c":
        raise TypeError(f"{func}: `{name}` must be real, got dtype {x.dtype}")


def _check_ndim(func: str, x: np.ndarray) -> None:
    if x.ndim > 63:
        raise ValueError(f"{func}: arrays of more than 63 dimensions are not supported, got {x.ndim}")


def _reduce(func: str, name: str, a: Array, axis: Any, keepdims: bool, out: Any, value: int) -> Any:
    """A plain reduction of the argument called `name`: one value for each row."""
    backend = backend_of(func, **{name: a, "out": out})
    if backend.on_cuda:
        cuda = cuda_module(func, name, backend.device)
        return device_reduce(func, cuda, backend, name, a, axis, keepdims, out, value)
    x = to_numpy(func, name, a)
    _check_real(func, name, x)
    _check_ndim(func, x)
    axes = normalize_axes(func, axis, x.ndim)
    dtype = _float_dtype(x)
    out_array = None
    if out is not None:
        shape = kept_shape(x.shape, axes, bool(keepdims))
        out_array = check_out(func, out_array_of(func, out), shape, dtype, x)
    result = _cast(_core.reduce(x, axes_mask(axes), bool(keepdims), value), dtype)
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
    exactly while all that is between them fits in 106 bits, and to about 1e-32 of the largest term otherwise.

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
        value = _reduce("logsumexp", "a", a, axis, keepdims, out, _LOGSUMEXP)
        return (value, _sign_of_positive_sum(value)) if return_sign else value
    return _weighted_logsumexp(a, axis, b, keepdims, return_sign, out)


def _sign_of_positive_sum(log_sum: Any) -> Any:
    """1, or 0 for an empty sum, or nan."""
    backend = backend_of("logsumexp", a=log_sum)
    values = to_numpy("logsumexp", "a", log_sum)
    sign = np.where(np.isneginf(values), 0, 1).astype(values.dtype)
    return backend.wrap(_scalar_or_array(np.where(np.isnan(values), values, sign)))


def _is_complex(a: Any) -> bool:
    if isinstance(a, list | tuple | complex):
        return np.asarray(a).dtype.kind == "c"
    return "complex" in str(getattr(a, "dtype", ""))


def _weighted_inputs(func: str, a: Array, b: Array | None) -> tuple[np.ndarray, np.ndarray | None, np.dtype]:
    """a and b broadcast together, and the type of the result."""
    x = to_numpy(func, "a", a)
    if b is None:
        return x, None, _float_dtype(x)
    w = to_numpy(func, "b", b)
    if isinstance(b, bool | int | float):  # as in NumPy, a Python scalar leaves the type alone
        dtype = _float_dtype(x)
    else:
        dtype = np.result_type(_float_dtype(x), w.dtype.newbyteorder("="))
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
    x, w, dtype = _weighted_inputs(func, a, b)
    _check_ndim(func, x)
    axes = normalize_axes(func, axis, x.ndim)
    is_complex = dtype.kind == "c"
    value_dtype = np.dtype(f"f{dtype.itemsize // 2}") if is_complex and return_sign else dtype
    shape = kept_shape(x.shape, axes, bool(keepdims))
    out_array = None
    if out is not None:
        out_array = check_out(func, out_array_of(func, out), shape, value_dtype, x, w)
    parts = _core.reduce_signed(x, w, axes_mask(axes), is_complex)
    with np.errstate(invalid="ignore"):
        log_abs, sign = _complex_log(*parts) if is_complex else _signed_log(parts[0])
        if not return_sign:
            log_abs = log_abs + 1j * np.arctan2(sign.imag, sign.real) if is_complex else _nan_if_negative(log_abs, sign)
    result = _cast(log_abs, value_dtype).reshape(shape)
    value = _deliver(backend, result, out, out_array)
    if not return_sign:
        return value
    return value, backend.wrap(_scalar_or_array(_cast(sign, dtype).reshape(shape)))


def _nan_if_negative(log_abs: np.ndarray, sign: np.ndarray) -> np.ndarray:
    return np.where(sign < 0, np.nan, log_abs)


def _signed_log(fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log|S| and the sign of S from states (m, hi, lo)."""
    return fields[0] + _core.log_abs_states(fields), np.sign(fields[1])


def _complex_log(real: np.ndarray, imaginary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log|S| and S/|S| from the states of S's real and imaginary parts."""
    log_re, sign_re = _signed_log(real)
    log_im, sign_im = _signed_log(imaginary)
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
    return _reduce("logmeanexp", "a", a, axis, keepdims, out, _LOGMEANEXP)


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
    value = _reduce("softmax_entropy", "logits", logits, axis, False, None, _ENTROPY)
    return value if log_base == 1.0 else value / log_base


# ---- maps ------------------------------------------------------------------------------------------------------------


def _map(func: str, x: Array, axis: Any, out: Any, kind: int) -> Any:
    backend = backend_of(func, x=x, out=out)
    refuse_cuda(func, backend, "x")
    source = to_numpy(func, "x", x)
    _check_real(func, "x", source)
    _check_ndim(func, source)
    axes = normalize_axes(func, axis, source.ndim)
    dtype = _float_dtype(source)
    if out is None:
        target = np.empty(source.shape, dtype)
    else:
        target = out_array_of(func, out)
        # In place is what out= is for: each element is written after it was last read.
        in_place = same_memory(target, source)
        check_out(func, target, source.shape, dtype, *(() if in_place else (source,)))
    _core.map_rows(source, axes_mask(axes), kind, None, target)
    return backend.wrap(_scalar_or_array(target)) if out is None else out


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
    return _map("softmax", x, axis, out, _SOFTMAX)


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
    return _map("log_softmax", x, axis, out, _LOG_SOFTMAX)


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
    Each row is cut in pieces of 256; the pieces' sums are found first, then all pieces run side by side in vector
    lanes, in float64. Time O(size of `a`), extra memory a few bytes for each 256 elements. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> np.exp(entropic.logcumsumexp(np.log([1.0, 2.0, 3.0]))).round(12)
    array([1., 3., 6.])
    """
    func = "logcumsumexp"
    backend = backend_of(func, a=a)
    refuse_cuda(func, backend, "a")
    x = to_numpy(func, "a", a)
    _check_real(func, "a", x)
    _check_ndim(func, x)
    index = normalize_axis(func, axis, x.ndim)
    result = np.empty(x.shape, _float_dtype(x))
    backwards = tuple(slice(None, None, -1) if reverse and d == index else slice(None) for d in range(x.ndim))
    _core.scan(x[backwards], index, result[backwards])
    return backend.wrap(result)


def _segment_ids(func: str, ids: Array, rows: int, num_segments: int | None) -> tuple[np.ndarray, int]:
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
    if num_segments > 2**40:
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
    backend = backend_of(func, a=a, segment_ids=segment_ids)
    refuse_cuda(func, backend, "a")
    x = to_numpy(func, "a", a)
    _check_real(func, "a", x)
    _check_ndim(func, x)
    if x.ndim == 0:
        raise ValueError(f"{func}: `a` must have at least one dimension, got a scalar")
    ids, count = _segment_ids(func, segment_ids, x.shape[0], num_segments)
    states = _core.reduce_segments(x, ids, count)
    return backend.wrap(_cast(_core.finish_states(states, _LOGSUMEXP), _float_dtype(x)))


# ---- streams ---------------------------------------------------------------------------------------------------------


class LogSumExp:
    """A log-sum-exp that takes its data in chunks and merges with others.

    Elementwise over the axes that are not summed: every chunk must have the same shape but for the summed axis. The
    state is float64, a few numbers for each element of the result, whatever the length of the stream; it can be
    pickled, sent, and merged elsewhere.

    Notes
    -----
    Any chunking agrees with the whole to about 1e-15 relative for float64 chunks, and a later chunk with a far larger
    maximum does no harm. Merging is commutative. With weights `b` the stream holds a signed sum, for which there is no
    entropy; terms of opposite sign in different chunks cancel to about 1e-16 of the largest term. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> s = entropic.LogSumExp()
    >>> for chunk in np.split(np.arange(12.0), 3):
    ...     s.update(chunk)
    >>> float(s.logsumexp) == float(entropic.logsumexp(np.arange(12.0)))
    True
    >>> s
    LogSumExp(shape=(), count=12)
    """

    def __init__(self) -> None:
        self._fields: np.ndarray | None = None  # (3, *shape): m, r, t, or m, hi, lo once weights were given
        self._weighted = False
        self._count = 0
        self._backend: Backend = NUMPY

    def update(self, chunk: Array, axis: int | tuple[int, ...] | None = -1, b: Array | None = None) -> None:
        """Add a chunk, summed over `axis` (the last by default, None for all), with optional weights.

        Raises
        ------
        ValueError
            The chunk's other axes do not have the shape of the stream.
        TypeError
            Complex data, or a chunk of another library than the first.
        """
        func = "LogSumExp.update"
        backend = backend_of(func, chunk=chunk, b=b)
        refuse_cuda(func, backend, "chunk")
        x, w, dtype = _weighted_inputs(func, chunk, b)
        if dtype.kind == "c":
            raise TypeError(f"{func}: `chunk` and `b` must be real")
        _check_ndim(func, x)
        axes = normalize_axes(func, axis, x.ndim)
        shape = kept_shape(x.shape, axes, False)
        if self._fields is not None:
            if shape != self.shape:
                raise ValueError(f"{func}: the stream has shape {self.shape}, this chunk gives {shape}")
            if backend.library != self._backend.library:
                raise TypeError(
                    f"{func}: the stream holds {self._backend.library} data but `chunk` is a {backend.library} array"
                )
        mask = axes_mask(axes)
        fields = _core.reduce_states(x, mask) if w is None else _core.reduce_signed(x, w, mask, False)[0]
        if self._fields is None:
            self._backend = backend
        self._absorb(fields, w is not None)
        self._count += math.prod(x.shape[d] for d in axes)

    def merge(self, other: LogSumExp) -> None:
        """Add all that another stream of the same shape has seen.

        Raises
        ------
        TypeError
            `other` is not a LogSumExp.
        ValueError
            The shapes differ.
        """
        if not isinstance(other, LogSumExp):
            raise TypeError(f"LogSumExp.merge: `other` must be a LogSumExp, got {type(other).__qualname__}")
        if other._fields is None:
            return
        if self._fields is None:
            self._backend = other._backend
        elif other.shape != self.shape:
            raise ValueError(f"LogSumExp.merge: this stream has shape {self.shape}, the other {other.shape}")
        self._absorb(other._fields.copy(), other._weighted)
        self._count += other._count

    def _absorb(self, fields: np.ndarray, weighted: bool) -> None:
        if self._fields is None:
            self._fields, self._weighted = fields, weighted
            return
        if weighted and not self._weighted:
            self._fields, self._weighted = _as_signed(self._fields), True
        elif self._weighted and not weighted:
            fields = _as_signed(fields)
        (_core.merge_signed if self._weighted else _core.merge_states)(self._fields, fields)

    def __copy__(self) -> LogSumExp:
        other = LogSumExp()
        other.merge(self)
        return other

    def _state(self, what: str) -> np.ndarray:
        if self._fields is None:
            raise ValueError(f"LogSumExp.{what}: the stream has no shape yet; give it a chunk first")
        return self._fields

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the results."""
        return self._state("shape").shape[1:]

    @property
    def count(self) -> int:
        """Number of terms that each element of the result has taken."""
        return self._count

    @property
    def max(self) -> Any:
        """Largest term so far, float64; with weights, among those whose weight is not 0."""
        fields = self._state("max")
        # nan is kept in the sum and not in the maximum
        return self._wrap(np.where(np.isnan(fields[1]), np.nan, fields[0]))

    @property
    def logsumexp(self) -> Any:
        """Log-sum-exp so far, float64; nan where weights made the sum negative (see `signed`)."""
        fields = self._state("logsumexp")
        if not self._weighted:
            return self._wrap(_core.finish_states(fields, _LOGSUMEXP))
        with np.errstate(invalid="ignore"):
            return self._wrap(_nan_if_negative(*_signed_log(fields)))

    def signed(self) -> tuple[Any, Any]:
        """log|sum| and the sum's sign, as ``logsumexp(..., return_sign=True)``."""
        fields = self._state("signed")
        with np.errstate(invalid="ignore"):
            log_abs, sign = _signed_log(fields if self._weighted else _as_signed(fields))
        return self._wrap(log_abs), self._wrap(sign)

    @property
    def entropy(self) -> Any:
        """Entropy in nats of the softmax of all terms so far, float64.

        Raises
        ------
        ValueError
            The stream has taken weights.
        """
        fields = self._state("entropy")
        if self._weighted:
            raise ValueError("LogSumExp.entropy: a stream that has taken weights `b` has no entropy")
        return self._wrap(_core.finish_states(fields, _ENTROPY))

    def _wrap(self, result: np.ndarray) -> Any:
        if self._backend.library != "numpy":
            importlib.import_module(self._backend.library)  # an unpickled stream may come before its library
        return self._backend.wrap(_scalar_or_array(np.asarray(result)))

    def __repr__(self) -> str:
        if self._fields is None:
            return "LogSumExp(empty)"
        return f"LogSumExp(shape={self.shape}, count={self.count}{', weighted' if self._weighted else ''})"


def _as_signed(fields: np.ndarray) -> np.ndarray:
    """States (m, r, t) as signed sums (m, hi, lo) with hi + lo = 1 + r exactly."""
    m, r, _ = fields
    hi = r + 1.0
    lo = np.where(np.isfinite(hi), (1.0 - (hi - (hi - 1.0))) + (r - (hi - 1.0)), 0.0)
    empty = np.isneginf(m)
    infinite = np.isposinf(m)
    hi = np.where(empty, r, np.where(infinite, np.where(np.isnan(r), r, np.inf), hi))
    return np.stack([m, hi, np.where(empty | infinite, 0.0, lo)])


# ---- gradients -------------------------------------------------------------------------------------------------------


def _host_input(func: str, name: str, x: Array) -> tuple[Backend, np.ndarray]:
    backend = backend_of(f"vjp of {func}", **{name: x})
    refuse_cuda(f"vjp of {func}", backend, name)
    array = to_numpy(func, name, x)
    if array.dtype.kind == "c":
        raise TypeError(f"vjp of {func}: `{name}` must be real, got dtype {array.dtype}")
    return backend, array


def _cotangent(func: str, g: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The cotangent as float64, broadcast to the value's shape."""
    array = to_numpy(f"pullback of {func}", "cotangent", g)
    _check_real(f"pullback of {func}", "cotangent", array)
    array = array.astype(np.float64)
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"pullback of {func}: the cotangent must have shape {shape}, got {array.shape}") from None


def _row_gradient(func: str, x: np.ndarray, axes: tuple[int, ...], kind: int, g: np.ndarray) -> np.ndarray:
    grad = np.empty(x.shape, _float_dtype(x))
    _core.map_rows(x, axes_mask(axes), kind, np.ascontiguousarray(g), grad)
    return grad


@rule_for(logsumexp, keyword_arrays=("b",))
def _logsumexp_rule(
    a: Array,
    axis: Any = None,
    b: Array | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    *,
    wrt: tuple[str, ...] = (),
) -> tuple[Any, Pullback]:
    func = "logsumexp"
    backend, x = _host_input(func, "a", a)
    value = logsumexp(a, axis, b, keepdims, return_sign)
    if b is None:
        axes = normalize_axes(func, axis, x.ndim)
        shape = kept_shape(x.shape, axes, keepdims)

        def plain(g: Any) -> tuple[Any, ...]:
            cotangent = _cotangent(func, g, shape)
            return (backend.wrap(_row_gradient(func, x, axes, _LOGSUMEXP_VJP, cotangent)),)

        return value, plain

    _, weights = _host_input(func, "b", b)
    full_x, full_b, _ = _weighted_inputs(func, a, b)
    axes = normalize_axes(func, axis, full_x.ndim)
    fields = _core.reduce_signed(full_x, full_b, axes_mask(axes), False)[0]
    kept = kept_shape(full_x.shape, axes, True)
    shape = kept_shape(full_x.shape, axes, keepdims)

    m, hi, lo = (field.reshape(kept) for field in fields)

    def weighted(g: Any) -> tuple[Any, ...]:
        # d/db_i = exp(a_i) / S and d/da_i = b_i exp(a_i) / S; S = exp(m) (hi + lo) has lost nothing to a logarithm
        shifted = np.exp(full_x.astype(np.float64) - m) / (hi + lo)
        shifted = np.where(np.isneginf(full_x), 0.0, shifted) * _cotangent(func, g, shape).reshape(kept)
        # A weight of 0 makes nothing of its term, infinite terms too.
        by_a = np.where(full_b == 0, 0.0, shifted * full_b)
        grads = [_cast(_unbroadcast(by_a, x.shape), _float_dtype(x))]
        if "b" in wrt:
            grads.append(_cast(_unbroadcast(shifted, weights.shape), _float_dtype(weights)))
        return tuple(backend.wrap(_scalar_or_array(grad)) for grad in grads)

    return value, weighted


def _unbroadcast(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum over the axes along which an array of `shape` was repeated."""
    extra = grad.ndim - len(shape)
    repeated = tuple(range(extra)) + tuple(
        extra + d for d, n in enumerate(shape) if n == 1 and grad.shape[extra + d] != 1
    )
    return np.asarray(grad.sum(axis=repeated)).reshape(shape)


@rule_for(logmeanexp)
def _logmeanexp_rule(
    a: Array, axis: Any = None, keepdims: bool = False, *, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:
    value = logmeanexp(a, axis, keepdims)
    _, pullback = _logsumexp_rule(a, axis, None, keepdims)  # they differ by a constant
    return value, pullback


@rule_for(softmax_entropy)
def _softmax_entropy_rule(
    logits: Array, axis: Any = -1, *, base: float | None = None, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:
    func = "softmax_entropy"
    backend, x = _host_input(func, "logits", logits)
    value = softmax_entropy(logits, axis, base=base)
    axes = normalize_axes(func, axis, x.ndim)
    log_base = check_base(func, base)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = _cotangent(func, g, kept_shape(x.shape, axes, False)) / log_base
        return (backend.wrap(_row_gradient(func, x, axes, _ENTROPY_VJP, cotangent)),)

    return value, pullback


def _wide_softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Softmax before it is rounded to a half type."""
    p = np.empty(x.shape)
    _core.map_rows(x, axes_mask(axes), _SOFTMAX, None, p)
    return p


@rule_for(softmax)
def _softmax_rule(x: Array, axis: Any = None, *, wrt: tuple[str, ...] = ()) -> tuple[Any, Pullback]:
    func = "softmax"
    backend, source = _host_input(func, "x", x)
    value = softmax(x, axis)
    axes = normalize_axes(func, axis, source.ndim)

    def pullback(g: Any) -> tuple[Any, ...]:
        p = _wide_softmax(source, axes)
        cotangent = _cotangent(func, g, source.shape)
        grad = p * (cotangent - (cotangent * p).sum(axis=axes, keepdims=True))
        return (backend.wrap(_gradient_of_map(source, axes, grad)),)

    return value, pullback


@rule_for(log_softmax)
def _log_softmax_rule(x: Array, axis: Any = None, *, wrt: tuple[str, ...] = ()) -> tuple[Any, Pullback]:
    func = "log_softmax"
    backend, source = _host_input(func, "x", x)
    value = log_softmax(x, axis)
    axes = normalize_axes(func, axis, source.ndim)

    def pullback(g: Any) -> tuple[Any, ...]:
        p = _wide_softmax(source, axes)
        cotangent = _cotangent(func, g, source.shape)
        grad = cotangent - p * cotangent.sum(axis=axes, keepdims=True)
        return (backend.wrap(_gradient_of_map(source, axes, grad)),)

    return value, pullback


def _gradient_of_map(source: np.ndarray, axes: tuple[int, ...], grad: np.ndarray) -> np.ndarray:
    without_mass = np.isneginf(source).all(axis=axes, keepdims=True)
    return _cast(np.where(without_mass, 0.0, grad), _float_dtype(source))


@rule_for(logcumsumexp)
def _logcumsumexp_rule(
    a: Array, axis: int = -1, *, reverse: bool = False, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:
    func = "logcumsumexp"
    backend, x = _host_input(func, "a", a)
    value = logcumsumexp(a, axis, reverse=reverse)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = _cotangent(func, g, x.shape)
        # From the row's maximum, so that a large offset costs no digits, and in float64.
        wide = x.astype(np.float64)
        top = wide.max(axis=axis, keepdims=True, initial=-np.inf)
        wide -= np.where(np.isfinite(top), top, 0.0)
        y = logcumsumexp(wide, axis, reverse=reverse)
        # dL/da_j = sum over the sums that hold j of g_i exp(a_j - y_i), once for each sign of g
        log_g = np.where(np.isneginf(y), -np.inf, np.log(np.abs(cotangent)) - y)
        parts = [
            np.exp(wide + logcumsumexp(np.where(kept, log_g, -np.inf), axis, reverse=not reverse))
            for kept in (cotangent > 0, cotangent < 0)
        ]
        grad = np.where(np.isneginf(wide), 0.0, parts[0] - parts[1])
        return (backend.wrap(_cast(grad, _float_dtype(x))),)

    return value, pullback


@rule_for(segment_logsumexp)
def _segment_logsumexp_rule(
    a: Array, segment_ids: Array, num_segments: int | None = None, *, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:
    func = "segment_logsumexp"
    backend, x = _host_input(func, "a", a)
    value = segment_logsumexp(a, segment_ids, num_segments)
    ids, count = _segment_ids(func, segment_ids, x.shape[0], num_segments)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = _cotangent(func, g, (count, *x.shape[1:]))
        m, r, _ = _core.reduce_segments(x, ids, count)
        grad = cotangent[ids] * np.exp(x.astype(np.float64) - m[ids]) / (1.0 + r[ids])
        grad = np.where(np.isneginf(x), 0.0, grad)
        return backend.wrap(_cast(grad, _float_dtype(x))), None  # ids have no gradient

    return value, pullback
