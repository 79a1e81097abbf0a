"""Transport on the line, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import Array, Backend, backend_of, refuse_cuda, to_numpy
from .._validate import check_number
from .._vjp import Pullback, cotangent_of, rule_for, unbroadcast
from ..logits._functions import cast, scalar_or_array
from ._geometry import batched_masses, float_array, rounding_of_totals

_EPS = float(np.finfo(np.float64).eps)


# ---- checks ----------------------------------------------------------------------------------------------------------


def check_totals(func: str, a: Array | None, b: Array | None) -> None:
    """Equal totals, up to what rounding does to masses of their type; None has total 1."""
    given = [
        np.ones(1) if masses is None else float_array(func, name, masses)
        for name, masses in zip("ab", (a, b), strict=True)
    ]
    total_a, total_b = np.broadcast_arrays(*(masses.sum(axis=-1, dtype=np.float64) for masses in given))
    apart = np.abs(total_a - total_b) > rounding_of_totals(*given) * np.maximum(total_a, total_b)
    if apart.any():
        totals = f"{total_a[apart][0]:.9g} and {total_b[apart][0]:.9g}"
        raise ValueError(f"{func}: `a` and `b` must have the same total, got {totals}")


def check_power(func: str, p: Any, *, infinite: bool) -> float:
    power = check_number(func, "p", p)
    if not power >= 1 or (power == math.inf and not infinite):
        raise ValueError(f"{func}: `p` must be at least 1{'' if infinite else ' and finite'}, got {p!r}")
    return power


def _line_points(func: str, name: str, x: Array) -> np.ndarray:
    points = float_array(func, name, x)
    if points.ndim == 0 or points.shape[-1] == 0:
        raise ValueError(f"{func}: `{name}` must hold at least one point a row, got shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{func}: `{name}` must be finite")
    return points


def _line_masses(func: str, name: str, masses: Array, n: int) -> np.ndarray:
    """Masses (..., n) as float64, with a positive total in every row."""
    array = to_numpy(func, name, masses)
    rows = batched_masses(func, name, array, array.shape[:-1], n).reshape(array.shape)
    if not rows.any(axis=-1).all():
        raise ValueError(f"{func}: `{name}` must have a positive total, got only zeros")
    return rows


# ---- the line --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matching:
    """The monotone coupling of measures on the line, cut where either cumulative mass has a step.

    Segment k carries `width[..., k]` of the unit mass from the point of rank `i[..., k]` to that of rank
    `j[..., k]`; consecutive segments differ by one step of i or of j.
    """

    i: np.ndarray
    j: np.ndarray
    width: np.ndarray
    gap: np.ndarray  # x - y on each segment
    order_x: np.ndarray | None  # the point of each rank, where it was asked for
    order_y: np.ndarray | None


def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``values[..., index]`` with an index of its own for each row of the broadcast batch."""
    if index.ndim == 1:
        return values[..., index]
    rows = np.broadcast_shapes(values.shape[:-1], index.shape[:-1])
    values, index = (np.broadcast_to(array, (*rows, array.shape[-1])) for array in (values, index))
    return np.take_along_axis(values, index, axis=-1)


def _cumulative(masses: np.ndarray) -> np.ndarray:
    """Cumulative sums that are right to the last place, by adding up what each addition rounds away."""
    sums = np.cumsum(masses, axis=-1)
    before = np.concatenate([np.zeros_like(sums[..., :1]), sums[..., :-1]], axis=-1)
    added = sums - before
    lost = (before - (sums - added)) + (masses - added)
    return np.maximum.accumulate(sums + np.cumsum(lost, axis=-1), axis=-1)


def _joined(ends: np.ndarray, from_a: np.ndarray) -> np.ndarray:
    """Ascending steps, of which those that differ by rounding alone are one: stray mass would travel any distance.

    Long chains of small masses are not: of them a step of each side, next to each other, are one.
    """
    gap = np.diff(ends, axis=-1, prepend=-1.0)
    apart = gap > 8 * _EPS * ends
    index = np.arange(ends.shape[-1])
    first = np.maximum.accumulate(np.where(apart, index, 0), axis=-1)
    is_last = np.concatenate([apart[..., 1:], np.ones_like(apart[..., :1])], axis=-1)
    last = np.minimum.accumulate(np.where(is_last, index, ends.shape[-1])[..., ::-1], axis=-1)[..., ::-1]
    start, stop = np.take_along_axis(ends, first, axis=-1), np.take_along_axis(ends, last, axis=-1)
    same_side = from_a == np.concatenate([from_a[..., :1], from_a[..., :-1]], axis=-1)
    gap = np.where(apart | same_side, np.inf, gap)
    edge = np.full_like(gap[..., :1], np.inf)
    before, after = np.concatenate([edge, gap[..., :-1]], axis=-1), np.concatenate([gap[..., 1:], edge], axis=-1)
    pair = (gap < before) & (gap <= after)
    paired = np.where(pair, np.concatenate([ends[..., :1], ends[..., :-1]], axis=-1), ends)
    return np.where(stop - start <= 64 * _EPS * stop, start, paired)


def _staircase(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks i and j and the width of each segment of the coupling of masses a (..., n) and b (..., m)."""
    # Powers of two keep the products in range and change no digit: integer masses are merged exactly.
    a, b = (np.ldexp(w, -np.frexp(w.max(axis=-1, keepdims=True))[1]) for w in (a, b))
    cum_a, cum_b = _cumulative(a), _cumulative(b)
    total_a, total_b = cum_a[..., -1:], cum_b[..., -1:]
    steps_a, steps_b = cum_a[..., :-1] * total_b, cum_b[..., :-1] * total_a
    rows = np.broadcast_shapes(steps_a.shape[:-1], steps_b.shape[:-1])
    ends = np.concatenate([np.broadcast_to(s, (*rows, s.shape[-1])) for s in (steps_a, steps_b)], axis=-1)
    order = np.argsort(ends, axis=-1, kind="stable")
    ends = np.take_along_axis(ends, order, axis=-1)
    ends = _joined(ends, order < steps_a.shape[-1])
    zero = np.zeros((*rows, 1), np.intp)
    i = np.concatenate([zero, np.cumsum(order < steps_a.shape[-1], axis=-1)], axis=-1)
    total = total_a * total_b
    width = np.diff(np.concatenate([zero, ends, total], axis=-1), axis=-1) / total
    return i, np.arange(i.shape[-1]) - i, width


def _ranked(
    points: np.ndarray, masses: np.ndarray | None, ordered: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Points in ascending order, their masses (ones for None), and the order where it is needed."""
    if masses is None and not ordered:
        return np.sort(points, axis=-1), np.ones(points.shape[-1]), None
    order = np.argsort(points, axis=-1, kind="stable")
    ranked = np.take_along_axis(points, order, axis=-1)
    return ranked, np.ones(points.shape[-1]) if masses is None else _take(masses, order), order


def match_ranks(
    x: np.ndarray, y: np.ndarray, a: np.ndarray | None, b: np.ndarray | None, *, ordered: bool = False
) -> Matching:
    x, mass_x, order_x = _ranked(x, a, ordered)
    y, mass_y, order_y = _ranked(y, b, ordered)
    i, j, width = _staircase(mass_x, mass_y)
    if a is None and b is None:  # one staircase for every row
        i, j, width = (field[width > 0] for field in (i, j, width))
    with np.errstate(over="ignore"):
        gap = _take(x, i) - _take(y, j)
    return Matching(i, j, width, gap, order_x, order_y)


def power_mean(lengths: np.ndarray, width: np.ndarray, p: float) -> np.ndarray:
    """``(sum width * lengths**p)**(1/p)`` over the last axis, without overflow."""
    lengths = np.where(width > 0, lengths, 0.0)
    longest = lengths.max(axis=-1, keepdims=True)
    if p == math.inf:
        return np.asarray(longest[..., 0])
    if p == 1:
        return np.asarray((lengths * width).sum(axis=-1))
    scale = np.where((longest > 0) & (longest < math.inf), longest, 1.0)
    mean = ((lengths / scale) ** p * width).sum(axis=-1)
    return np.asarray(scale[..., 0] * mean ** (1 / p))


def distance_of(match: Matching, p: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        return power_mean(np.abs(match.gap), match.width, p)


def _gap_rates(match: Matching, p: float, distance: np.ndarray) -> np.ndarray:
    """Derivative of the distance by the gap of each segment; 0 where the distance is 0."""
    carried = np.where(match.width > 0, match.gap, 0.0)
    if p == math.inf:
        longest = np.abs(carried).argmax(axis=-1)[..., None] == np.arange(carried.shape[-1])
        return np.where(longest, np.sign(carried), 0.0)
    size = np.where(distance > 0, distance, math.inf)[..., None]
    return match.width * np.sign(carried) * (np.abs(carried) / size) ** (p - 1) * (size < math.inf)


def _to_points(rates: np.ndarray, ranks: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sum the rates of the segments of each point, in the points' own order."""
    n = order.shape[-1]
    point = np.broadcast_to(_take(order, ranks), rates.shape).reshape(-1, rates.shape[-1])
    slot = point + n * np.arange(len(point))[:, None]
    sums = np.bincount(slot.ravel(), weights=rates.ravel(), minlength=n * len(point))
    return sums.reshape(*rates.shape[:-1], n)


def point_rates(match: Matching, p: float, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the distance by x and by y."""
    assert match.order_x is not None
    assert match.order_y is not None
    rates = _gap_rates(match, p, distance)
    return _to_points(rates, match.i, match.order_x), -_to_points(rates, match.j, match.order_y)


def _mass_rates(
    match: Matching, p: float, distance: np.ndarray, masses: np.ndarray, ranks: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Derivative of the distance by the masses of one side: the dual potential, less its mean, as masses are scaled.

    Potentials f_i + g_j = |x_i - y_j|^p along the staircase: where a step changes i alone, f alone changes.
    """
    size = np.where(distance > 0, distance, math.inf)[..., None]
    cost = (np.abs(match.gap) / size) ** p
    rise = np.where(np.diff(ranks, axis=-1) > 0, np.diff(cost, axis=-1), 0.0)
    along = np.concatenate([np.zeros_like(cost[..., :1]), np.cumsum(rise, axis=-1)], axis=-1)
    potential = np.zeros((*cost.shape[:-1], order.shape[-1]))
    np.put_along_axis(potential, np.broadcast_to(_take(order, ranks), cost.shape), along, axis=-1)
    total = masses.sum(axis=-1, keepdims=True)
    mean = (potential * masses).sum(axis=-1, keepdims=True) / total
    return np.asarray(distance[..., None] / p * (potential - mean) / total)


@dataclass(frozen=True)
class _LineProblem:
    """The checked arguments of a problem on the line."""

    backend: Backend
    points: tuple[np.ndarray, np.ndarray]
    masses: tuple[np.ndarray | None, np.ndarray | None]
    p: float
    batch: tuple[int, ...]

    def match(self, *, ordered: bool = False) -> Matching:
        x, y = (points.astype(np.float64, copy=False) for points in self.points)
        return match_ranks(x, y, *self.masses, ordered=ordered)

    def value(self) -> Any:
        distance = cast(distance_of(self.match(), self.p), np.result_type(*self.points))
        return self.backend.wrap(scalar_or_array(distance))


def _line_problem(x: Array, y: Array, a: Array | None = None, b: Array | None = None, *, p: Any) -> _LineProblem:
    func = "wasserstein_1d"
    backend = backend_of(func, x=x, y=y, a=a, b=b)
    refuse_cuda(func, backend, "x")
    points = _line_points(func, "x", x), _line_points(func, "y", y)
    n, m = (side.shape[-1] for side in points)
    masses = (
        None if a is None else _line_masses(func, "a", a, n),
        None if b is None else _line_masses(func, "b", b, m),
    )
    power = check_power(func, p, infinite=True)
    shapes = [array.shape for array in (*points, *masses) if array is not None]
    try:
        batch = np.broadcast_shapes(*(shape[:-1] for shape in shapes))
    except ValueError:
        raise ValueError(f"{func}: the leading axes of all arrays must broadcast, got shapes {shapes}") from None
    check_totals(func, a, b)
    return _LineProblem(backend, points, masses, power, batch)


def wasserstein_1d(x: Array, y: Array, a: Array | None = None, b: Array | None = None, *, p: float = 1) -> Any:
    """Wasserstein distance on the line, ``W_p = (integral |F^-1(u) - G^-1(u)|^p du)^(1/p)``, exactly.

    Parameters
    ----------
    x : array_like, shape (..., n)
        Points of the first measure, or a batch of measures along the leading axes.
    y : array_like, shape (..., m)
        Points of the second; batch axes broadcast against those of `x`.
    a : array_like, shape (n,) or (..., n), optional
        Masses of `x`, not negative; zeros are allowed. None, the default, means 1/n each.
    b : array_like, shape (m,) or (..., m), optional
        Masses of `y`, with the total of `a`; None means 1/m each. Both are scaled to total 1.
    p : float, optional
        Power of the distance, at least 1; ``inf`` gives the longest distance that mass travels. 1 by default.

    Returns
    -------
    ndarray or scalar
        The distance itself, not its p-th power, one for each row of the batch. float32 if `x` and `y` are, else
        float64; the computation is in float64.

    Raises
    ------
    ValueError
        Points or masses that are nan or infinite, negative masses, totals that differ (by more than 1e-8, or 1e-5
        where masses are float32), no points, shapes that do not fit, or `p` below 1.
    TypeError
        Arrays that are not real numbers, arrays of two libraries, or a `p` that is no number.
    DeviceError
        Device arrays.

    Notes
    -----
    The optimal plan is monotone for every p >= 1: sort both sides, merge the cumulative masses, and sum over the
    n + m - 1 segments between their steps. Cumulative masses are summed with compensation, and steps of the two sides
    that differ only by rounding are taken as one, so that equal measures written with different points are at distance
    0 for every p. Distances are differences of coordinates, and lose nothing far from the origin.

    Time O((n + m) log(n + m)) and memory O(n + m) for each row. Differentiable in `x`, `y`, `a` and `b` by
    :func:`entropic.vjp`; at ties the gradient is one of the subgradients, where the distance is 0 it is 0, and masses
    have none for ``p=inf``. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    G. Peyre, M. Cuturi, "Computational Optimal Transport", Found. Trends Mach. Learn. 11 (2019), section 2.6.

    Examples
    --------
    >>> import entropic
    >>> float(entropic.wasserstein_1d([0.0, 1.0, 3.0], [5.0, 6.0, 8.0]))
    5.0
    >>> float(entropic.wasserstein_1d([0.0, 1.0], [0.0, 1.0], [0.75, 0.25], [0.25, 0.75], p=2))
    0.7071067811865476
    """
    return _line_problem(x, y, a, b, p=p).value()


@rule_for(wasserstein_1d, keyword_arrays=("a", "b"))
def _wasserstein_1d_rule(
    x: Array, y: Array, *masses: Array | None, p: float = 1, wrt: tuple[str, ...] = (), **named: Array
) -> tuple[Any, Pullback]:
    func = "wasserstein_1d"
    problem = _line_problem(x, y, *masses, p=p, **named)
    given = dict(zip("ab", masses, strict=False)) | named
    wanted = [*"ab"[: len(masses)], *wrt]
    if problem.p == math.inf and any(given[name] is not None for name in wanted):
        raise ValueError(f"vjp of {func}: the masses have no gradient for p=inf")

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = cotangent_of(func, g, problem.batch)[..., None]
        match = problem.match(ordered=True)
        distance = distance_of(match, problem.p)

        def grad(rate: np.ndarray, array: np.ndarray) -> Any:
            return problem.backend.wrap(cast(unbroadcast(cotangent * rate, array.shape), array.dtype))

        grads = [grad(*pair) for pair in zip(point_rates(match, problem.p, distance), problem.points, strict=True)]
        sides = {"a": (problem.masses[0], match.i, match.order_x), "b": (problem.masses[1], match.j, match.order_y)}
        for name in wanted:
            own, ranks, order = sides[name]
            if own is None or order is None:
                grads.append(None)  # uniform masses are no variable
                continue
            rates = _mass_rates(match, problem.p, distance, own, ranks, order)
            grads.append(grad(rates, float_array(func, name, given[name])))
        return tuple(grads)

    return problem.value(), pullback
