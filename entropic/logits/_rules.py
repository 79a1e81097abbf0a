"""Gradients of the family, each a closed form evaluated when its pullback is called."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .._backend import Array
from .._validate import axes_mask, check_base, kept_shape, normalize_axes
from .._vjp import Pullback, cotangent_of, rule_for, unbroadcast
from ._functions import (
    ENTROPY_VJP,
    LOGSUMEXP_VJP,
    SOFTMAX,
    cast,
    check_segment_ids,
    float_dtype,
    host_real,
    log_softmax,
    logcumsumexp,
    logmeanexp,
    logsumexp,
    scalar_or_array,
    segment_logsumexp,
    softmax,
    softmax_entropy,
    weighted_inputs,
)


def _row_gradient(func: str, x: np.ndarray, axes: tuple[int, ...], kind: int, g: np.ndarray) -> np.ndarray:
    grad = np.empty(x.shape, float_dtype(x))
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
    backend, x = host_real(f"vjp of {func}", "a", a)
    value = logsumexp(a, axis, b, keepdims, return_sign)
    if b is None:
        axes = normalize_axes(func, axis, x.ndim)
        shape = kept_shape(x.shape, axes, keepdims)

        def plain(g: Any) -> tuple[Any, ...]:
            cotangent = cotangent_of(func, g, shape)
            return (backend.wrap(_row_gradient(func, x, axes, LOGSUMEXP_VJP, cotangent)),)

        return value, plain

    _, weights = host_real(f"vjp of {func}", "b", b)
    full_x, full_b, _ = weighted_inputs(func, a, b)
    axes = normalize_axes(func, axis, full_x.ndim)
    fields = _core.reduce_signed(full_x, full_b, axes_mask(axes), False)[0]
    kept = kept_shape(full_x.shape, axes, True)
    shape = kept_shape(full_x.shape, axes, keepdims)

    m, hi, lo = (field.reshape(kept) for field in fields)

    def weighted(g: Any) -> tuple[Any, ...]:
        # d/db_i = exp(a_i) / S and d/da_i = b_i exp(a_i) / S; S = exp(m) (hi + lo) has lost nothing to a logarithm
        shifted = np.exp(full_x.astype(np.float64) - m) / (hi + lo)
        shifted = np.where(np.isneginf(full_x), 0.0, shifted) * cotangent_of(func, g, shape).reshape(kept)
        # A weight of 0 makes nothing of its term, infinite terms too.
        by_a = np.where(full_b == 0, 0.0, shifted * full_b)
        grads = [cast(unbroadcast(by_a, x.shape), float_dtype(x))]
        if "b" in wrt:
            grads.append(cast(unbroadcast(shifted, weights.shape), float_dtype(weights)))
        return tuple(backend.wrap(scalar_or_array(grad)) for grad in grads)

    return value, weighted


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
    backend, x = host_real(f"vjp of {func}", "logits", logits)
    value = softmax_entropy(logits, axis, base=base)
    axes = normalize_axes(func, axis, x.ndim)
    log_base = check_base(func, base)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = cotangent_of(func, g, kept_shape(x.shape, axes, False)) / log_base
        return (backend.wrap(_row_gradient(func, x, axes, ENTROPY_VJP, cotangent)),)

    return value, pullback


def _wide_softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Softmax before it is rounded to a half type."""
    p = np.empty(x.shape)
    _core.map_rows(x, axes_mask(axes), SOFTMAX, None, p)
    return p


@rule_for(softmax)
def _softmax_rule(x: Array, axis: Any = None, *, wrt: tuple[str, ...] = ()) -> tuple[Any, Pullback]:
    func = "softmax"
    backend, source = host_real(f"vjp of {func}", "x", x)
    value = softmax(x, axis)
    axes = normalize_axes(func, axis, source.ndim)

    def pullback(g: Any) -> tuple[Any, ...]:
        p = _wide_softmax(source, axes)
        cotangent = cotangent_of(func, g, source.shape)
        grad = p * (cotangent - (cotangent * p).sum(axis=axes, keepdims=True))
        return (backend.wrap(_gradient_of_map(source, axes, grad)),)

    return value, pullback


@rule_for(log_softmax)
def _log_softmax_rule(x: Array, axis: Any = None, *, wrt: tuple[str, ...] = ()) -> tuple[Any, Pullback]:
    func = "log_softmax"
    backend, source = host_real(f"vjp of {func}", "x", x)
    value = log_softmax(x, axis)
    axes = normalize_axes(func, axis, source.ndim)

    def pullback(g: Any) -> tuple[Any, ...]:
        p = _wide_softmax(source, axes)
        cotangent = cotangent_of(func, g, source.shape)
        grad = cotangent - p * cotangent.sum(axis=axes, keepdims=True)
        return (backend.wrap(_gradient_of_map(source, axes, grad)),)

    return value, pullback


def _gradient_of_map(source: np.ndarray, axes: tuple[int, ...], grad: np.ndarray) -> np.ndarray:
    without_mass = np.isneginf(source).all(axis=axes, keepdims=True)
    return cast(np.where(without_mass, 0.0, grad), float_dtype(source))


@rule_for(logcumsumexp)
def _logcumsumexp_rule(
    a: Array, axis: int = -1, *, reverse: bool = False, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:
    func = "logcumsumexp"
    backend, x = host_real(f"vjp of {func}", "a", a)
    value = logcumsumexp(a, axis, reverse=reverse)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = cotangent_of(func, g, x.shape)
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
        return (backend.wrap(cast(grad, float_dtype(x))),)

    return value, pullback


@rule_for(segment_logsumexp)
def _segment_logsumexp_rule(
    a: Array, segment_ids: Array, num_segments: int | None = None, *, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:
    func = "segment_logsumexp"
    backend, x = host_real(f"vjp of {func}", "a", a)
    value = segment_logsumexp(a, segment_ids, num_segments)
    ids, count = check_segment_ids(func, segment_ids, x.shape, num_segments)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = cotangent_of(func, g, (count, *x.shape[1:]))
        m, r, _ = _core.reduce_segments(x, ids, count)
        grad = cotangent[ids] * np.exp(x.astype(np.float64) - m[ids]) / (1.0 + r[ids])
        grad = np.where(np.isneginf(x), 0.0, grad)
        return backend.wrap(cast(grad, float_dtype(x))), None  # ids have no gradient

    return value, pullback
