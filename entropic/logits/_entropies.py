"""Other entropies of softmax rows: generalised ones, of the mean distribution, and how entropy moves with a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array
from .._validate import check_base, check_choice, check_positive, normalize_axes, normalize_axis
from .._vjp import Pullback, cotangent_of, rule_for
from ._functions import LOG_SOFTMAX, SOFTMAX, cast, float_dtype, host_real, scalar_or_array
from ._rows import Rows, check_in_vocabulary, check_targets
from ._tokens import MAX, S2, TARGET, R, T

KINDS = ("renyi", "tsallis", "min", "quadratic", "binary")
# How near to 1 a quotient by 1 - order has fewer digits than the expansion about 1 of values, and of gradients.
_NEAR_ONE, _AT_ONE = 1e-6, 1e-8
# Within which a float32 sum's 3e-8, over 1 - order, would show.
_SINGLE_ONE = 0.25


def _token_states(rows: Rows, temperature: float = 1.0, targets: np.ndarray | None = None) -> np.ndarray:
    inverse = np.full(rows.batch, 1 / temperature)
    return _core.token_states(rows.x, rows.axis, inverse, targets, None)


# ---- generalised entropies of a row ----------------------------------------------------------------------------------


def _check_kind(func: str, kind: Any, order: Any, base: Any) -> tuple[float, float]:
    """The order (2 where it has no meaning), and the logarithm of the base."""
    check_choice(func, "kind", kind, KINDS)
    log_base = check_base(func, base)
    if kind in ("tsallis", "quadratic") and base is not None:
        raise ValueError(f"{func}: `base` has no meaning for kind {kind!r}, which is not a logarithm")
    if kind not in ("renyi", "tsallis"):
        if order is not None:
            raise ValueError(f'{func}: `order` belongs to kinds "renyi" and "tsallis", got it with {kind!r}')
        return 2.0, log_base
    if order is None:
        raise ValueError(f"{func}: kind {kind!r} needs an `order`")
    return check_positive(func, "order", order), log_base


def _log_power_sum(rows: Rows, order: float, states: np.ndarray) -> np.ndarray:
    """log sum p^order, which is 0 for a row with all mass on one category."""
    powers = _token_states(rows, 1 / order)
    return np.asarray(np.log1p(powers[R]) - order * np.log1p(states[R]))


def _row_values(rows: Rows, kind: str, order: float) -> np.ndarray:
    if kind == "binary":
        values = np.empty(rows.count)
        for chunk in rows.chunks(8 * 4 * rows.width):
            size = np.abs(rows.chunk(chunk.start, chunk.stop).astype(np.float64))
            tail = np.exp(-size)
            values[chunk] = (np.log1p(tail) + np.where(tail > 0, size * tail / (1 + tail), 0.0)).sum(axis=1)
        return values.reshape(rows.batch)
    states = _token_states(rows)
    if kind == "min":
        values = np.log1p(states[R])
    elif kind == "quadratic":
        r = states[R]
        values = (r * (2 + r) - states[S2]) / (1 + r) ** 2
    elif abs(order - 1) < _NEAR_ONE:
        found = _core.finish_tokens(states, False)
        # d/d order at 1 is -Var / 2 of Renyi's entropy, and -E[log^2 p] / 2 of Tsallis's
        slope = found[5] + (found[1] ** 2 if kind == "tsallis" else 0)
        values = found[1] - (order - 1) / 2 * slope
    else:
        log_sum = _log_power_sum(rows, order, states)
        values = log_sum / (1 - order) if kind == "renyi" else -np.expm1(log_sum) / (order - 1)
    empty = np.isneginf(states[MAX]) & (states[R] == 0)
    return np.where(np.isposinf(states[MAX]), np.nan, np.where(empty, 0.0, np.maximum(values, 0.0)))


def row_entropy(
    logits: Array, kind: str = "renyi", *, order: float | None = None, axis: int = -1, base: float | None = None
) -> Any:
    """Generalised entropy of each row of logits: Renyi, Tsallis, min, quadratic, or of independent binary labels.

    Parameters
    ----------
    logits : array_like
        Real, at least one dimension.
    kind : {"renyi", "tsallis", "min", "quadratic", "binary"}, optional
        With p = softmax(logits): "renyi" log(sum p^a) / (1 - a); "tsallis" (1 - sum p^a) / (a - 1); "min" -log max p;
        "quadratic" 1 - sum p^2 (Gini's index, Rao's with distances of 1). "binary" is of labels that are on with
        probability sigmoid(logit), each by itself: the sum of their entropies.
    order : float, optional
        The a of "renyi" and "tsallis", positive; at 1 either is Shannon's entropy.
    axis : int, optional
        The axis of the categories, the last by default.
    base : float, optional
        Of the logarithm, for "renyi", "min" and "binary"; None for nats.

    Returns
    -------
    ndarray or scalar
        One value a row in the float type of the logits, not negative; 0 for a row without mass.

    Raises
    ------
    ValueError
        A kind or an order that does not exist, a base for a kind that is not a logarithm.
    TypeError, DeviceError
        As :func:`logit_stats`.

    Notes
    -----
    sum p^a is a sum at temperature 1 / a: with r_a all but one term of it, log(sum p^a) = log1p(r_a) - a log1p(r),
    which keeps its digits for peaked rows. Within 1e-6 of 1 the order is expanded about it, and within 0.25 sums
    are those of a float64 copy. One or two reads. Gradient
    (:func:`entropic.vjp`). Backends: CPU.

    References
    ----------
    A. Renyi, "On Measures of Entropy and Information" (1961). C. Tsallis, J. Stat. Phys. 52 (1988).

    Examples
    --------
    >>> import numpy as np, entropic
    >>> row = np.log([0.5, 0.25, 0.25])
    >>> [round(float(entropic.row_entropy(row, "renyi", order=a, base=2)), 6) for a in (0.5, 1, 2)]
    [1.543107, 1.5, 1.415037]
    >>> float(entropic.row_entropy(row, "quadratic").round(12))
    0.625
    """
    func = "row_entropy"
    a, log_base = _check_kind(func, kind, order, base)
    backend, x = host_real(func, "logits", logits)
    rows = Rows(x, normalize_axis(func, axis, x.ndim))
    if kind in ("renyi", "tsallis") and a != 1 and abs(a - 1) < _SINGLE_ONE and rows.dtype == np.float32:
        rows = Rows(x.astype(np.float64), rows.axis)
    with np.errstate(all="ignore"):
        values = _row_values(rows, kind, a)
    return backend.wrap(scalar_or_array(cast(values / log_base, float_dtype(x))))


@rule_for(row_entropy)
def _row_entropy_rule(
    logits: Array, kind: str = "renyi", *, order: Any = None, axis: int = -1, base: Any = None,
    wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:  # fmt: skip
    func = "row_entropy"
    value = row_entropy(logits, kind, order=order, axis=axis, base=base)
    a, log_base = _check_kind(func, kind, order, base)
    backend, x = host_real(f"vjp of {func}", "logits", logits)
    rows = Rows(x, normalize_axis(func, axis, x.ndim))

    def gradient(z: np.ndarray) -> Any:
        if kind == "binary":
            tail = np.exp(-np.abs(z))
            return np.where(tail > 0, -z * tail / (1 + tail) ** 2, 0.0)
        p = softmax_rows(z)
        if kind == "min":
            top = np.arange(z.shape[1]) == (z.argmax(axis=1) if z.shape[1] else np.zeros(len(z)))[:, None]
            return p - (top & (p.sum(axis=1, keepdims=True) > 0))
        if kind == "quadratic":
            return -2 * p * (p - (p * p).sum(axis=1, keepdims=True))
        if abs(a - 1) < _AT_ONE:
            log_p = np.where(p > 0, np.log(p), 0.0)
            return -p * (log_p - (p * log_p).sum(axis=1, keepdims=True))
        # sum p^a = s has the gradient a s (w - p), w = softmax(a z)
        w = softmax_rows(a * z)
        if kind == "renyi":
            return a / (1 - a) * (w - p)
        log_p = np.empty_like(z)
        _core.map_rows(z, 2, LOG_SOFTMAX, None, log_p)
        powers = np.exp(a * log_p).sum(axis=1, keepdims=True)  # of p that are 0, too
        return np.where(p.sum(axis=1, keepdims=True) > 0, -a / (a - 1) * powers * (w - p), 0.0)

    def pullback(g: Any) -> tuple[Any, ...]:
        each = cotangent_of(func, g, rows.batch).reshape(-1) / log_base
        return (backend.wrap(_by_chunks(rows, gradient, each, float_dtype(x))),)

    return value, pullback


def softmax_rows(z: np.ndarray) -> np.ndarray:
    """Softmax in float64, and 0 for rows without mass."""
    p = np.empty(z.shape)
    _core.map_rows(z, 2, SOFTMAX, None, p)
    p[np.isneginf(z).all(axis=1)] = 0
    return p


def _by_chunks(rows: Rows, gradient: Any, each: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A gradient a row, times its cotangent, in the array's own shape."""
    out = np.empty((rows.count, rows.width), dtype)
    for chunk in rows.chunks(8 * 6 * rows.width):
        z = rows.chunk(chunk.start, chunk.stop).astype(np.float64)
        out[chunk] = cast(each[chunk, None] * gradient(z), dtype)
    return np.moveaxis(out.reshape(*rows.batch, rows.width), -1, rows.axis)


# ---- entropy of the mean distribution --------------------------------------------------------------------------------


def _mean_rows(func: str, x: np.ndarray, axis: Any, over: Any) -> tuple[Rows, tuple[int, ...], tuple[int, ...]]:
    """Rows with the axes that stay first; the shape of those, and of those that are averaged."""
    place = normalize_axis(func, axis, x.ndim)
    others = tuple(d for d in range(x.ndim) if d != place)
    averaged = others if over is None else normalize_axes(func, over, x.ndim)
    if place in averaged:
        raise ValueError(f"{func}: `over` must not hold the axis of the categories, got {over!r}")
    kept = tuple(d for d in others if d not in averaged)
    turned = np.transpose(x, (*kept, *averaged, place))
    return (
        Rows(turned, turned.ndim - 1), tuple(x.shape[d] for d in kept), (*kept, *averaged, place)
    )  # fmt: skip


def _mean_softmax(rows: Rows, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities of each run of rows, (groups, width), and the share of rows without mass; float64."""
    size = rows.count // max(groups, 1)
    total = np.zeros((groups, rows.width + 1))
    for group in range(groups):
        step = max(1, (8 << 20) // max(1, 8 * rows.width))
        for first in range(group * size, (group + 1) * size, step):
            last = min(first + step, (group + 1) * size)
            total[group] += _core.sum_softmax(rows.chunk(first, last), np.full(last - first, 1 / size))
    return total[:, :-1], total[:, -1]


def _surprise(p: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """-log p, of the largest by log1p of what is `missing` and of the others' sum; 0 where there is no mass."""
    with np.errstate(divide="ignore"):
        out = np.where(p > 0, -np.log(p), 0.0)
    if p.shape[1]:
        top = p.argmax(axis=1)[:, None]
        rest = p.copy()
        np.put_along_axis(rest, top, 0.0, axis=1)
        others = missing[:, None] + rest.sum(axis=1, keepdims=True)
        exact = np.where(others < 0.5, -np.log1p(-np.minimum(others, 0.5)), np.take_along_axis(out, top, axis=1))
        np.put_along_axis(out, top, exact, axis=1)
    return out


def marginal_entropy(
    logits: Array, *, axis: int = -1, over: int | tuple[int, ...] | None = None, base: float | None = None
) -> Any:
    """Entropy of the mean of softmax distributions, in one pass over their logits.

    Parameters
    ----------
    logits : array_like
        Real, at least one dimension.
    axis : int, optional
        The axis of the categories, the last by default.
    over : int or tuple of int, optional
        The axes to average over; None, the default, means all others.
    base : float, optional
        Of the logarithm; None for nats.

    Returns
    -------
    ndarray or scalar
        Of the shape of the axes that are neither categories nor averaged, in the float type of the logits. Less the
        mean of :func:`softmax_entropy` it is the mutual information of row and category.

    Raises
    ------
    ValueError
        Nothing to average over, or `over` holds the axis of the categories.
    TypeError, DeviceError
        As :func:`logit_stats`.

    Notes
    -----
    Probabilities are added up in float64, column by column, and not stored; the largest mean probability enters through
    log1p of the sum of the others. A row without mass counts as zeros. Gradient (:func:`entropic.vjp`) with a second
    pass. Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> sure = np.log([[1.0, 1e-300], [1e-300, 1.0]])
    >>> float(entropic.marginal_entropy(sure, base=2))  # each row is certain, their mean is not
    1.0
    """
    func = "marginal_entropy"
    log_base = check_base(func, base)
    backend, x = host_real(func, "logits", logits)
    rows, kept, _ = _mean_rows(func, x, axis, over)
    _check_some(func, rows, kept)
    p, missing = _mean_softmax(rows, math.prod(kept))
    value = (p * _surprise(p, missing)).sum(axis=1).reshape(kept) / log_base
    return backend.wrap(scalar_or_array(cast(value, float_dtype(x))))


def _check_some(func: str, rows: Rows, kept: tuple[int, ...]) -> None:
    if math.prod(kept) and not rows.count:
        raise ValueError(f"{func}: there is no row to average over, `logits` has the shape {rows.x.shape}")


@rule_for(marginal_entropy)
def _marginal_entropy_rule(
    logits: Array, *, axis: int = -1, over: Any = None, base: Any = None, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:
    func = "marginal_entropy"
    value = marginal_entropy(logits, axis=axis, over=over, base=base)
    log_base = check_base(func, base)
    backend, x = host_real(f"vjp of {func}", "logits", logits)
    rows, kept, order = _mean_rows(func, x, axis, over)

    def pullback(g: Any) -> tuple[Any, ...]:
        groups = math.prod(kept)
        size = max(rows.count // max(groups, 1), 1)
        each = cotangent_of(func, g, kept).reshape(-1) / (log_base * size)
        surprise = _surprise(*_mean_softmax(rows, groups))
        out = np.empty((rows.count, rows.width), float_dtype(x))
        for chunk in rows.chunks(8 * 4 * rows.width):
            p = softmax_rows(rows.chunk(chunk.start, chunk.stop).astype(np.float64))
            group = np.arange(chunk.start, chunk.stop) // size
            s = surprise[group]
            grad = each[group, None] * p * (s - (p * s).sum(axis=1, keepdims=True))
            out[chunk] = cast(grad, out.dtype)
        turned = out.reshape(*rows.batch, rows.width)
        return (backend.wrap(np.transpose(turned, np.argsort(order))),)

    return value, pullback


# ---- how entropy moves with a step -----------------------------------------------------------------------------------


def _change_problem(func: str, logits: Array, targets: Array, axis: Any) -> tuple[Any, Rows, np.ndarray]:
    backend, x = host_real(func, "logits", logits, targets=targets)
    rows = Rows(x, normalize_axis(func, axis, x.ndim))
    numbers = check_targets(func, targets, rows.batch)
    check_in_vocabulary(func, numbers, rows.width)
    return backend, rows, numbers


def entropy_change(
    logits: Array, targets: Array, *, step: str = "policy", axis: int = -1, base: float | None = None
) -> Any:
    """First-order change of a row's entropy when its target is made more likely, for a step of size 1.

    Parameters
    ----------
    logits : array_like
        Real, at least one dimension.
    targets : array_like of int
        The category k of each row, such as the sampled token.
    step : {"policy", "logit"}, optional
        "policy": the logits move by onehot_k - p, the gradient of log p_k. "logit": logit k moves by 1 alone.
    axis : int, optional
        The axis of the categories, the last by default.
    base : float, optional
        Of the logarithm; None for nats.

    Returns
    -------
    ndarray or scalar
        With S_j = p_j (log p_j + H): -(S_k - sum_j p_j S_j) for "policy", -S_k for "logit". Times a learning rate and
        an advantage it is what the step does to the entropy.

    Raises
    ------
    ValueError
        A target out of range, shapes that do not fit.
    TypeError, DeviceError
        As :func:`logit_stats`.

    Notes
    -----
    log p_j + H = t / (1 + r) - (max - x_j), from which the logarithms of the sum have cancelled by hand, and
    sum p^2 log p comes from the state at temperature 1/2: two reads. Gradient of `logits` (:func:`entropic.vjp`).
    Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> logits, e = np.array([2.0, 0.0, -1.0]), 1e-6
    >>> change = entropic.entropy_change(logits, 0)
    >>> moved = entropic.softmax_entropy(logits + e * (np.eye(3)[0] - entropic.softmax(logits)))
    >>> bool(np.isclose((moved - entropic.softmax_entropy(logits)) / e, change, rtol=1e-4))
    True
    """
    func = "entropy_change"
    log_base = check_base(func, base)
    alone = check_choice(func, "step", step, ("policy", "logit")) == 1
    backend, rows, numbers = _change_problem(func, logits, targets, axis)
    states = _token_states(rows, 1.0, numbers)
    share = 1 / (1 + states[R])
    mean = states[T] * share
    with np.errstate(invalid="ignore"):
        gap = states[MAX] - states[TARGET]
        p = np.exp(-gap) * share
        value = -np.where(p == 0, 0.0, p * (mean - gap))
    if not alone:
        halved = _token_states(rows, 0.5)[T] / 2  # sum exp(-2 d) d
        value += share**2 * ((1 + states[S2]) * mean - halved)
    empty = np.isneginf(states[MAX]) & (states[R] == 0)
    undefined = np.isnan(states[R]) | np.isposinf(states[MAX])
    result = np.where(undefined, np.nan, np.where(empty, 0.0, value)) / log_base
    return backend.wrap(scalar_or_array(cast(result, float_dtype(rows.x))))


@rule_for(entropy_change)
def _entropy_change_rule(
    logits: Array, targets: Array, *, step: str = "policy", axis: int = -1, base: Any = None,
    wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:  # fmt: skip
    func = "entropy_change"
    value = entropy_change(logits, targets, step=step, axis=axis, base=base)
    backend, rows, numbers = _change_problem(f"vjp of {func}", logits, targets, axis)
    log_base, flat = check_base(func, base), numbers.reshape(-1)

    def pullback(g: Any) -> tuple[Any, ...]:
        each = cotangent_of(func, g, rows.batch).reshape(-1) / log_base
        out = np.empty((rows.count, rows.width), float_dtype(rows.x))
        for chunk in rows.chunks(8 * 8 * rows.width):
            z = rows.chunk(chunk.start, chunk.stop).astype(np.float64)
            p = softmax_rows(z)
            log_p = np.where(p > 0, np.log(p), 0.0)
            a = log_p - (p * log_p).sum(axis=1, keepdims=True)
            at = np.arange(len(z)), flat[chunk]
            p_k, a_k = p[at][:, None], a[at][:, None]
            grad = p_k * p * (a_k + 1 + a)
            grad[at] -= (p_k * (a_k + 1))[:, 0]
            if step == "policy":
                square = (p * p).sum(axis=1, keepdims=True)
                mean = (p * p * a).sum(axis=1, keepdims=True)
                grad += p * (2 * p * a - 2 * mean + p - square * (1 + a))
            out[chunk] = cast(each[chunk, None] * grad, out.dtype)
        return backend.wrap(np.moveaxis(out.reshape(*rows.batch, rows.width), -1, rows.axis)), None

    return value, pullback
