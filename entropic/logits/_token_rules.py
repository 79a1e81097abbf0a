"""Gradients of token statistics: with d = (max - x) / T and p the softmax, all are p times a polynomial in d and p, and
entries at the target and at the maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array
from .._vjp import Pullback, cotangent_of, rule_for
from ._functions import LINEAR, cast, float_dtype, host_real
from ._tokens import (
    ARGMAX,
    MAX,
    S2,
    TARGET,
    VALUES,
    LogitStats,
    Options,
    Q,
    R,
    T,
    V,
    W,
    logit_stats,
    normalized_options,
)

FIELDS = VALUES


def field_cotangents(func: str, cotangent: Any, stats: LogitStats) -> dict[str, np.ndarray]:
    """By field, of shape (temperatures, rows), in nats; fields that are not named have none."""
    if not isinstance(cotangent, Mapping):
        raise TypeError(f"pullback of {func}: the cotangent must be a dict by field, such as {{'entropy': g}}")
    for name in cotangent:
        if name not in FIELDS:
            raise ValueError(f"pullback of {func}: fields with a gradient are {', '.join(FIELDS)}, got {name!r}")
        getattr(stats, name)  # one that was not asked for says so
    return {
        name: cotangent_of(func, g, stats.shape, name) / stats.scale_of(name)
        for name, g in cotangent.items()
        if g is not None
    }


def place_at(grad: np.ndarray, columns: np.ndarray, values: np.ndarray, *, add: bool) -> None:
    """Sets, or adds to, one entry of each row whose column is not -1."""
    rows = np.flatnonzero(columns >= 0)
    at = rows, columns[rows]
    grad[at] = (grad[at] if add else 0) + values[rows]


def stats_gradient(
    z: np.ndarray, states: np.ndarray, inverse: np.ndarray, g: Mapping[str, np.ndarray],
    targets: np.ndarray | None, values: np.ndarray | None, argmax: np.ndarray | None
) -> np.ndarray:  # fmt: skip
    """Gradient to a chunk of logits, as its filters left it, of fields with cotangents `g`, one a row each."""
    zeros = np.zeros(len(z))
    empty = np.isneginf(states[MAX]) & (states[R] == 0)
    by = {name: np.where(empty, 0.0, g.get(name, zeros)) for name in FIELDS}
    share = 1 / (1 + states[R])
    mean = states[T] * share
    # p (a + b d + c d^2 + e p + f value), but for the target and the maximum
    a = by["logsumexp"] - by["entropy"] * mean
    b = by["entropy"].copy()
    c = by["varentropy"]
    if c.any():
        variance = states[Q] * share - mean**2
        a += c * (mean**2 + 2 * mean - variance)
        b -= 2 * c * (mean + 1)
    e, f = 2 * by["collision"], by["expectation"]
    a -= e * (1 + states[S2]) * share**2
    if f.any():
        a -= f * (states[W] + states[V]) * share
    a -= by["max_prob"] * share
    at_target = by["logprob"]
    grad = _softmax_times(z, states, inverse, share, a - at_target, b, c, e, f, values)
    if targets is not None and at_target.any():
        # 1 - p = (r - expm1(-d)) / (1 + r) where p is nearly 1
        d = (states[MAX] - states[TARGET]) * inverse
        p = np.exp(-d) * share
        rest = a + np.where(p > 0, b * d + c * d**2, 0.0) + e * p
        if values is not None:
            rest = rest + f * values[np.maximum(targets, 0)]
        exact = np.where(p > 0, p * rest, 0.0) + at_target * (states[R] - np.expm1(-d)) * share
        place_at(grad, targets, exact.astype(grad.dtype), add=False)
    if argmax is not None and (by["max_prob"].any()):
        place_at(grad, argmax, (by["max_prob"] * share).astype(grad.dtype), add=True)
    if not np.all(inverse == 1):
        grad *= inverse[:, None].astype(grad.dtype)
    if argmax is not None and by["max_logit"].any():
        place_at(grad, argmax, by["max_logit"].astype(grad.dtype), add=True)
    grad[empty] = 0
    return grad


def _softmax_times(
    z: np.ndarray, states: np.ndarray, inverse: np.ndarray, share: np.ndarray, a: np.ndarray, b: np.ndarray,
    c: np.ndarray, e: np.ndarray, f: np.ndarray, values: np.ndarray | None
) -> np.ndarray:  # fmt: skip
    dtype = z.dtype
    if not (c.any() or e.any() or f.any()):
        scaled = z
        if not np.all(inverse == 1):
            # differences first: those of large logits are exact, and their multiples are not rounded as logits are
            top = np.where(np.isfinite(states[MAX]), states[MAX], 0.0)
            scaled = (z - top[:, None].astype(dtype)) * inverse[:, None].astype(dtype)
        grad = np.empty(z.shape, dtype)
        if grad.size:
            _core.map_rows(scaled, 2, LINEAR, np.concatenate([a, b]), grad)
        return grad

    def column(x: np.ndarray) -> np.ndarray:
        return x[:, None].astype(dtype)

    d = (column(states[MAX]) - z) * column(inverse)
    p = np.exp(-d) * column(share)
    d = np.where(p > 0, d, dtype.type(0))
    factor = column(a) + d * (column(b) + d * column(c)) + p * column(e)
    if values is not None and f.any():
        factor += column(f) * values
    product: np.ndarray = p * factor
    return product


def local_argmax(options: Options, states: np.ndarray, width: int) -> np.ndarray:
    """Places here of the maxima."""
    place = states[ARGMAX].astype(np.int64) - (options.offset or 0)
    return np.where((place >= 0) & (place < width), place, -1)


def chunk_gradient(z: np.ndarray, rows: slice, options: Options, g: Mapping[str, np.ndarray]) -> np.ndarray:
    """Gradient to unfiltered logits of a chunk of rows, summed over the temperatures."""
    total = np.zeros(z.shape, z.dtype)
    for which in range(len(options.inverse)):
        mine = {name: values[which, rows] for name, values in g.items()}
        kept, states = options.chunk_states(z, rows, which)
        inverse = options.inverse[which].reshape(-1)[rows]
        targets = options.local_targets(z.shape[1])
        targets = None if targets is None else targets.reshape(-1)[rows]
        argmax = local_argmax(options, states, z.shape[1])
        if options.filters and "logprob" in mine:
            # that of a target that was dropped is -inf and stays so
            mine["logprob"] = np.where(np.isneginf(states[TARGET]), 0.0, mine["logprob"])
        total += stats_gradient(kept, states, inverse, mine, targets, options.values, argmax)
    return total


def by_temperature(g: Mapping[str, np.ndarray], options: Options) -> dict[str, np.ndarray]:
    """Cotangents as (temperatures, rows)."""
    return {name: np.ascontiguousarray(values).reshape(len(options.inverse), -1) for name, values in g.items()}


@rule_for(logit_stats)
def _logit_stats_rule(
    logits: Array, targets: Array | None = None, *, wrt: tuple[str, ...] = (), **options: Any
) -> tuple[LogitStats, Pullback]:
    func = "logit_stats"
    backend, x = host_real(f"vjp of {func}", "logits", logits)
    stats = logit_stats(logits, targets, **options)
    rows, checked = normalized_options(func, x, targets, **options)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        g = by_temperature(field_cotangents(func, cotangent, stats), checked)
        grad = np.empty((rows.count, rows.width), float_dtype(x))
        for chunk in rows.chunks():
            z = rows.chunk(chunk.start, chunk.stop).astype(rows.dtype, copy=False)
            grad[chunk] = cast(chunk_gradient(z, chunk, checked, g), grad.dtype)
        moved = np.moveaxis(grad.reshape(*rows.batch, rows.width), -1, rows.axis)
        return (backend.wrap(moved), *(() if targets is None else (None,)))

    return stats, pullback
