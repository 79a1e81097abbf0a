"""Divergences of softmax distributions, from sums of terms that do not cancel where the two are nearly equal.

With l = log q - log p and h(x) = exp(x) - 1 - x >= 0: KL(p || q) = sum p h(l), because sum p (exp(l) - 1) = 0; and
sum p^a q^(1-a) - 1 = sum p (h(b l) - b h(l)) with b = 1 - a. All of it is float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .._backend import Array
from .._validate import check_base, check_choice, check_number, normalize_axis
from .._vjp import Pullback, cotangent_of, rule_for, unbroadcast
from ._functions import SOFTMAX, cast, float_dtype, host_real, scalar_or_array
from ._rows import Rows

KINDS = ("kl", "reverse_kl", "js", "jeffreys", "renyi", "alpha")


class _Pair(NamedTuple):
    """Rows of two distributions, their logarithms, and l = log q - log p (0 where neither has mass)."""

    p: np.ndarray
    q: np.ndarray
    log_p: np.ndarray
    log_q: np.ndarray
    ratio: np.ndarray


def excess(x: np.ndarray) -> np.ndarray:
    """exp(x) - 1 - x, by its series where the difference would cancel."""
    small = np.abs(x) < 0.03
    s = np.where(small, x, 0.0)
    series = s * s * (1 / 2 + s * (1 / 6 + s * (1 / 24 + s * (1 / 120 + s * (1 / 720 + s / 5040)))))
    return np.where(small, series, np.expm1(x) - x)


def _softmax(z: np.ndarray) -> np.ndarray:
    p = np.empty(z.shape)
    _core.map_rows(z, 2, SOFTMAX, None, p)
    return p


def _log_sum(z: np.ndarray) -> np.ndarray:
    return np.asarray(_core.finish_states(_core.reduce_states(z, 2), 0))


def _pair(x: np.ndarray, y: np.ndarray) -> _Pair:
    x, y = x.astype(np.float64), y.astype(np.float64)
    p, q = _softmax(x), _softmax(y)
    log_p, log_q = x - _log_sum(x)[:, None], y - _log_sum(y)[:, None]
    gap = np.where((p > 0) & (q > 0), y - x, 0.0)
    mean = (p * gap).sum(axis=1, keepdims=True)
    # log(sum q' / sum p') of unnormalised masses: exact where they are nearly equal and of one support
    spread = np.where((p > 0) == (q > 0), np.abs(gap - mean), np.inf).max(axis=1, keepdims=True, initial=0.0)
    near = spread < 1
    shift = mean + np.log1p((p * np.expm1(np.where(near, gap - mean, 0.0))).sum(axis=1, keepdims=True))
    ratio = np.where(near, gap - shift, log_q - log_p)
    return _Pair(p, q, log_p, log_q, np.where((p == 0) & (q == 0), 0.0, ratio))


def _kl_terms(p: np.ndarray, ratio: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Terms of KL(p || other), ratio = log other - log p: where p has no mass, that of the other is all there is."""
    return np.where(p > 0, p * excess(np.where(p > 0, ratio, 0.0)), other)


def _to_mixture(ratio: np.ndarray) -> np.ndarray:
    """log((1 + exp(l)) / 2), of the mixture to the first of two distributions."""
    near = np.abs(ratio) < 1
    return np.where(
        near, np.log1p(np.expm1(np.where(near, ratio, 0.0)) / 2), np.logaddexp(0.0, ratio) - np.log(2.0)
    )  # fmt: skip


def _log_overlap(d: _Pair, order: float) -> np.ndarray:
    """log sum p^a q^(1-a)."""
    b = 1 - order
    log_p = np.where(d.p > 0, d.log_p, -np.inf)
    log_q = np.where(d.q > 0, d.log_q, -np.inf)
    both = (d.p > 0) & (d.q > 0)
    terms = np.where(both, order * np.where(both, log_p, 0.0) + b * np.where(both, log_q, 0.0), -np.inf)
    if b < 0:  # mass that q does not have
        terms = np.where((d.p > 0) & (d.q == 0), np.inf, terms)
    if order < 0:
        terms = np.where((d.q > 0) & (d.p == 0), np.inf, terms)
    far = _log_sum(terms)
    one_support = ((d.p > 0) == (d.q > 0)).all(axis=1)
    close = one_support & (np.abs(d.ratio).max(axis=1, initial=0.0) * max(abs(b), 1.0) < 1)
    ratio = np.where(close[:, None], d.ratio, 0.0)
    excess_sum = (d.p * (excess(b * ratio) - b * excess(ratio))).sum(axis=1)
    return np.where(close, np.log1p(np.where(close, excess_sum, 0.0)), far)


def _values(d: _Pair, kind: str, order: float) -> np.ndarray:
    reverse = -d.ratio
    if kind == "kl":
        return np.asarray(_kl_terms(d.p, d.ratio, d.q).sum(axis=1))
    if kind == "reverse_kl":
        return np.asarray(_kl_terms(d.q, reverse, d.p).sum(axis=1))
    if kind == "jeffreys":
        moved = np.where(d.p > 0, d.p * np.expm1(np.where(d.p > 0, d.ratio, 0.0)), d.q)  # q - p
        return np.asarray(np.where(d.ratio == 0, 0.0, moved * d.ratio).sum(axis=1))
    if kind == "js":
        middle = (d.p + d.q) / 2
        both = _kl_terms(d.p, _to_mixture(d.ratio), middle) + _kl_terms(d.q, _to_mixture(reverse), middle)
        return np.asarray(both.sum(axis=1) / 2)
    if np.isinf(order):
        return np.asarray(np.where(d.p > 0, reverse, -np.inf).max(axis=1, initial=-np.inf))
    overlap = _log_overlap(d, order)
    if kind == "renyi":
        return overlap / (order - 1)
    return np.asarray(np.expm1(overlap) / (order * (order - 1)))


def _gradients(d: _Pair, kind: str, order: float) -> tuple[np.ndarray, np.ndarray]:
    """To the logits of p and of q."""

    def of_kl(p: np.ndarray, ratio: np.ndarray, value: np.ndarray) -> np.ndarray:
        return np.where(p > 0, p * (-np.where(p > 0, ratio, 0.0) - value[:, None]), 0.0)

    if kind == "kl":
        return of_kl(d.p, d.ratio, _values(d, "kl", 1)), d.q - d.p
    if kind == "reverse_kl":
        return d.p - d.q, of_kl(d.q, -d.ratio, _values(d, "reverse_kl", 1))
    if kind == "jeffreys":
        forward, backward = _gradients(d, "kl", 1), _gradients(d, "reverse_kl", 1)
        return forward[0] + backward[0], forward[1] + backward[1]
    if kind == "js":
        middle = (d.p + d.q) / 2
        to_p, to_q = _to_mixture(d.ratio), _to_mixture(-d.ratio)
        values = [_kl_terms(d.p, to_p, middle).sum(axis=1), _kl_terms(d.q, to_q, middle).sum(axis=1)]
        return of_kl(d.p, to_p, values[0]) / 2, of_kl(d.q, to_q, values[1]) / 2
    if np.isinf(order):
        top = np.where(d.p > 0, -d.ratio, -np.inf).argmax(axis=1)
        one_hot = np.arange(d.p.shape[1]) == top[:, None]
        return one_hot - d.p, d.q - one_hot
    overlap = _log_overlap(d, order)
    both = (d.p > 0) & (d.q > 0)
    # the tilted distribution p^a q^(1-a) / sum
    tilted = np.where(both, np.exp(np.where(both, d.log_p + (1 - order) * d.ratio, 0.0) - overlap[:, None]), 0.0)
    if kind == "renyi":
        return order / (order - 1) * (tilted - d.p), d.q - tilted
    size = np.exp(overlap)[:, None]
    return size / (order - 1) * (tilted - d.p), size / order * (d.q - tilted)


def _check(func: str, kind: Any, order: Any, base: Any) -> tuple[str, float, float]:
    """Kind (a limit's own name where `order` is one), order, and the logarithm of the base."""
    check_choice(func, "kind", kind, KINDS)
    log_base = check_base(func, base)
    if kind not in ("renyi", "alpha"):
        if order is not None:
            raise ValueError(f'{func}: `order` belongs to kinds "renyi" and "alpha", got it with {kind!r}')
        return kind, 1.0, log_base
    if order is None:
        raise ValueError(f"{func}: kind {kind!r} needs an `order`")
    value = check_number(func, "order", order)
    if np.isnan(value) or (kind == "renyi" and not value > 0) or (kind == "alpha" and np.isinf(value)):
        allowed = "positive" if kind == "renyi" else "finite"
        raise ValueError(f"{func}: `order` must be {allowed} for kind {kind!r}, got {order!r}")
    if kind == "alpha" and base is not None:
        raise ValueError(f'{func}: `base` has no meaning for kind "alpha", which is not a logarithm')
    if value == 1:
        return "kl", 1.0, log_base
    if kind == "alpha" and value == 0:
        return "reverse_kl", 1.0, log_base
    return kind, value, log_base


def _rows_of(func: str, p_logits: Array, q_logits: Array, axis: int) -> tuple[Any, np.ndarray, np.ndarray, Rows, Rows]:
    backend, x = host_real(func, "p_logits", p_logits, q_logits=q_logits)
    _, y = host_real(func, "q_logits", q_logits)
    try:
        full_x, full_y = np.broadcast_arrays(x, y)
    except ValueError:
        raise ValueError(f"{func}: `p_logits` and `q_logits` do not broadcast, {x.shape} and {y.shape}") from None
    place = normalize_axis(func, axis, full_x.ndim)
    from_end = place - full_x.ndim
    if any(a.ndim < -from_end or a.shape[from_end] != full_x.shape[place] for a in (x, y)):
        raise ValueError(f"{func}: `p_logits` and `q_logits` must have as many categories, {x.shape} and {y.shape}")
    return backend, x, y, Rows(full_x, place), Rows(full_y, place)


def divergence(
    p_logits: Array,
    q_logits: Array,
    kind: str = "kl",
    *,
    order: float | None = None,
    axis: int = -1,
    base: float | None = None,
) -> Any:
    """Divergence between ``p = softmax(p_logits)`` and ``q = softmax(q_logits)``, as accurate near equality as far off.

    Parameters
    ----------
    p_logits, q_logits : array_like
        Real; their shapes broadcast, with the same categories.
    kind : {"kl", "reverse_kl", "js", "jeffreys", "renyi", "alpha"}, optional
        "kl": sum p log(p / q). "reverse_kl": sum q log(q / p). "js": the mean of the KL divergences of p and q to (p +
        q) / 2, at most log 2. "jeffreys": kl + reverse_kl. "renyi": log(sum p^a q^(1-a)) / (a - 1). "alpha" (Amari):
        (sum p^a q^(1-a) - 1) / (a (a - 1)).
    order : float, optional
        The a of "renyi" (positive, inf too: the largest log(p / q)) and of "alpha" (any). 1 is "kl", and of "alpha" 0
        is "reverse_kl".
    axis : int, optional
        The axis of the categories, the last by default.
    base : float, optional
        Of the logarithm; None for nats. Not for "alpha".

    Returns
    -------
    ndarray or scalar
        One value a row, not negative; inf where p has mass that q has not and the kind forbids it. nan where a row
        has no mass.

    Raises
    ------
    ValueError
        Shapes that do not go together, a kind or an order that does not exist.
    TypeError, DeviceError
        As :func:`logit_stats`.

    Notes
    -----
    With l = log q - log p, KL is the sum of p (exp(l) - 1 - l), whose terms are not negative: the usual sum of p log(p
    / q) has an absolute error of 1e-16 in float64, all of a divergence of 1e-16. Everything is float64, 8 MiB of rows
    at a time. Gradients (:func:`entropic.vjp`) of both logits. Backends: CPU.

    References
    ----------
    T. van Erven, P. Harremoes, "Renyi Divergence and Kullback-Leibler Divergence", IEEE Trans. Inf. Theory 60 (2014).
    J. Schulman, "Approximating KL divergence" (2020).

    Examples
    --------
    >>> import numpy as np, entropic
    >>> p, q = np.log([0.5, 0.5]), np.log([0.75, 0.25])
    >>> float(entropic.divergence(p, q, base=2).round(6))
    0.207519
    >>> print(f"{entropic.divergence(p, p + [1e-9, -1e-9]):.6g}")  # half the variance of the difference
    5e-19
    """
    func = "divergence"
    name, a, log_base = _check(func, kind, order, base)
    backend, x, y, rows, others = _rows_of(func, p_logits, q_logits, axis)
    out = np.empty(rows.count)
    with np.errstate(all="ignore"):  # infinities and rows without mass are handled where they mean something
        for chunk in rows.chunks(64 * rows.width):
            pair = _pair(rows.chunk(chunk.start, chunk.stop), others.chunk(chunk.start, chunk.stop))
            out[chunk] = np.maximum(_values(pair, name, a), 0.0) + 0.0  # what rounding made of 0
    value = cast((out / log_base).reshape(rows.batch), np.result_type(float_dtype(x), float_dtype(y)))
    return backend.wrap(scalar_or_array(value))


@rule_for(divergence)
def _divergence_rule(
    p_logits: Array, q_logits: Array, kind: str = "kl", *, order: float | None = None, axis: int = -1,
    base: float | None = None, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:  # fmt: skip
    func = "divergence"
    value = divergence(p_logits, q_logits, kind, order=order, axis=axis, base=base)
    name, a, log_base = _check(func, kind, order, base)
    backend, x, y, rows, others = _rows_of(f"vjp of {func}", p_logits, q_logits, axis)

    def pullback(g: Any) -> tuple[Any, ...]:
        each = cotangent_of(func, g, rows.batch).reshape(-1) / log_base
        by = np.empty((2, rows.count, rows.width))
        for chunk in rows.chunks(64 * rows.width):
            pair = _pair(rows.chunk(chunk.start, chunk.stop), others.chunk(chunk.start, chunk.stop))
            for which, grad in enumerate(_gradients(pair, name, a)):
                by[which, chunk] = each[chunk, None] * grad
        return tuple(
            backend.wrap(
                cast(
                    unbroadcast(np.moveaxis(grad.reshape(*rows.batch, rows.width), -1, rows.axis), given.shape),
                    float_dtype(given),
                )
            )
            for grad, given in zip(by, (x, y), strict=True)
        )

    return value, pullback
