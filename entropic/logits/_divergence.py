"""Divergences of softmax distributions, from sums of terms that do not cancel where the two are nearly equal.

With l = log q - log p and h(x) = exp(x) - 1 - x >= 0: KL(p || q) = sum p h(l), because sum p (exp(l) - 1) = 0; and
sum p^a q^(1-a) - 1 = sum p (h(b l) - b h(l)) with b = 1 - a. All of it is float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .._backend import Array
from .._validate import check_base, check_choice, check_number, normalize_axis
from .._vjp import Pullback, cotangent_of, rule_for, unbroadcast
from ._functions import LOG_SOFTMAX, SOFTMAX, cast, float_dtype, host_real, scalar_or_array
from ._rows import Rows

KINDS = ("kl", "reverse_kl", "js", "jeffreys", "renyi", "alpha")
_KL, _JS, _LOG_OVERLAP, _MAX_LOG_RATIO = range(4)  # Divergence in csrc/cpu/logits.hpp


def _log_overlap(x: np.ndarray, y: np.ndarray, order: float) -> np.ndarray:
    """log sum p^a q^(1-a), by the smaller of both exponents, which the other one's rounding would take away."""
    if order < 0.5:
        return np.asarray(_core.divergences(y, x, _LOG_OVERLAP, order)[0])
    return np.asarray(_core.divergences(x, y, _LOG_OVERLAP, 1 - order)[0])


def _values(x: np.ndarray, y: np.ndarray, kind: str, order: float) -> np.ndarray:
    """Of rows of logits; what rounding made of 0 may be below it."""

    def of(a: np.ndarray, b: np.ndarray, which: int) -> np.ndarray:
        return np.asarray(_core.divergences(a, b, which, 0.0)[0])

    if kind == "kl":
        return of(x, y, _KL)
    if kind == "reverse_kl":
        return of(y, x, _KL)
    if kind == "jeffreys":
        return np.asarray(of(x, y, _KL) + of(y, x, _KL))
    if kind == "js":
        return of(x, y, _JS)
    if np.isinf(order):
        return of(x, y, _MAX_LOG_RATIO)
    overlap = _log_overlap(x, y, order)
    if kind == "renyi":
        return np.asarray(overlap / (order - 1))
    with np.errstate(over="ignore"):
        return np.asarray(np.expm1(overlap) / (order * (order - 1)))


def _mapped(z: np.ndarray, which: int) -> np.ndarray:
    out = np.empty(z.shape)
    _core.map_rows(z, 2, which, None, out)
    return out


def _to_mixture(ratio: np.ndarray) -> np.ndarray:
    """log((1 + exp(l)) / 2), of the mixture to the first of two distributions."""
    near = np.abs(ratio) < 1
    return np.where(
        near, np.log1p(np.expm1(np.where(near, ratio, 0.0)) / 2), np.logaddexp(0.0, ratio) - np.log(2.0)
    )  # fmt: skip


def _gradients(x: np.ndarray, y: np.ndarray, kind: str, order: float) -> tuple[np.ndarray, np.ndarray]:
    """To the logits of p and of q."""
    p, q = _mapped(x, SOFTMAX), _mapped(y, SOFTMAX)
    value, shift = _core.divergences(x, y, _KL, 0.0)
    ratio = y - x - shift[:, None]  # log q - log p

    def of_kl(p: np.ndarray, ratio: np.ndarray, value: np.ndarray | None = None) -> np.ndarray:
        terms = np.where(p > 0, p * -ratio, 0.0)
        return np.asarray(terms - p * (terms.sum(axis=1) if value is None else value)[:, None])

    if kind == "kl":
        return of_kl(p, ratio, value), q - p
    if kind == "reverse_kl":
        return p - q, of_kl(q, -ratio)
    if kind == "jeffreys":
        return of_kl(p, ratio, value) + (p - q), (q - p) + of_kl(q, -ratio)
    if kind == "js":
        return of_kl(p, _to_mixture(ratio)) / 2, of_kl(q, _to_mixture(-ratio)) / 2
    both = np.isfinite(ratio)
    if np.isinf(order):
        top = np.where(np.isneginf(x), -np.inf, np.where(np.isneginf(y), np.inf, -ratio)).argmax(axis=1)
        one_hot = np.arange(p.shape[1]) == top[:, None]
        return one_hot - p, q - one_hot
    overlap = _log_overlap(x, y, order)[:, None]
    # the tilted distribution w = p^a q^(1-a) / sum, and its distance from either, which is small where the order is
    # near that one's
    from_p, from_q = (1 - order) * ratio - overlap, -order * ratio - overlap
    log_p = _mapped(x, LOG_SOFTMAX)
    w = np.where(both, np.exp(np.where(both, log_p + from_p, 0.0)), 0.0)
    w_less_p = np.where(both & (np.abs(from_p) < 1), p * np.expm1(from_p), w - p)
    w_less_q = np.where(both & (np.abs(from_q) < 1), q * np.expm1(from_q), w - q)
    if kind == "renyi":
        return order / (order - 1) * w_less_p, -w_less_q
    size = np.exp(overlap)
    return size / (order - 1) * w_less_p, -size / order * w_less_q


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
    / q) has an absolute error of 1e-16 in float64, all of a divergence of 1e-16. Everything is float64, in
    four passes over a row that is in cache. Gradients (:func:`entropic.vjp`) of both logits. Backends: CPU.

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
    for chunk in rows.chunks(64 * rows.width):
        out[chunk] = _values(rows.chunk(chunk.start, chunk.stop), others.chunk(chunk.start, chunk.stop), name, a)
    out = np.maximum(out, 0.0)  # and not what rounding made of 0
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
            of_p, of_q = (r.chunk(chunk.start, chunk.stop).astype(np.float64) for r in (rows, others))
            empty = np.isneginf([of_p, of_q]).all(axis=2).any(axis=0)
            with np.errstate(all="ignore"):  # infinite logits are handled where they mean something
                for which, grad in enumerate(_gradients(of_p, of_q, name, a)):
                    by[which, chunk] = np.where(np.expand_dims(empty, 1), 0.0, each[chunk, None] * grad)
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
