"""Gradients of the family: through the distances to the neighbours that were found, which are held fixed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from .._backend import Array, to_numpy
from .._validate import check_base, check_rng
from .._vjp import Pullback, cotangent_of, rule_for
from ..logits import logmeanexp, softmax
from ..logits._functions import cast, float_dtype
from ._dimension import local_dimensions, local_intrinsic_dimension, neighbour_distances
from ._divergence import divergence_problem, knn_divergence
from ._entropy import EntropyProblem, entropy_problem, knn_entropy, log_zeta
from ._search import as_samples, samples_backend
from ._spacing import (
    SpacingProblem,
    clamped,
    correa_gradient,
    spacing_entropy,
    spacing_problem,
)


def _direction(offset: np.ndarray, distance: np.ndarray, metric: str) -> np.ndarray:
    """Derivative of the distance |offset| by the offset, both with the coordinates last; 0 at distance 0."""
    if metric == "manhattan":
        return np.asarray(np.sign(offset))
    if metric == "chebyshev":
        widest = np.abs(offset).argmax(axis=-1)
        return np.asarray(np.sign(offset) * (widest[..., None] == np.arange(offset.shape[-1])))
    return offset / np.where(distance > 0, distance, np.inf)[..., None]


def _scatter(
    rates: np.ndarray, x: np.ndarray, y: np.ndarray, numbers: np.ndarray, distances: np.ndarray, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients to x (n, d) and y (m, d) of sum rates * distances, all (n, k), to the y with these numbers."""
    to_x, to_y = np.zeros_like(x), np.zeros_like(y)
    for j in range(rates.shape[1]):
        move = rates[:, j, None] * _direction(x - y[numbers[:, j]], distances[:, j], metric)
        to_x += move
        for c in range(x.shape[1]):
            to_y[:, c] -= np.bincount(numbers[:, j], weights=move[:, c], minlength=len(y))
    return to_x, to_y


def _over(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """values / by, and 0 where an atom makes the quotient infinite."""
    return np.asarray(np.divide(values, by, out=np.zeros(np.broadcast_shapes(values.shape, by.shape)), where=by > 0))


def _as_given(grad: np.ndarray, given: Any) -> np.ndarray:
    array = to_numpy("vjp", "x", given)
    return cast(grad.reshape(array.shape), float_dtype(array))


# ---- entropy ---------------------------------------------------------------------------------------------------------


@rule_for(knn_entropy)
def _entropy_rule(
    x: Array,
    *,
    k: Any = 3,
    metric: str = "chebyshev",
    base: float | None = None,
    ties: str = "raise",
    order: float = 1.0,
    tsallis: bool = False,
    weighted: bool = False,
    support: Any = None,
    confidence: float | None = None,
    rng: Any = None,
    wrt: tuple[str, ...] = (),
) -> tuple[Any, Pullback]:
    func = "knn_entropy"
    if confidence is not None:
        raise TypeError(f"vjp of {func}: `confidence` is not supported; its value has the gradient without it")
    stream = check_rng(func, rng)
    value = knn_entropy(
        x, k=k, metric=metric, base=base, ties=ties, order=order, tsallis=tsallis, weighted=weighted, support=support,
        rng=copy.deepcopy(stream),
    )  # fmt: skip
    backend = samples_backend(func, x=x)
    log_base = check_base(func, base)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = np.atleast_1d(cotangent_of(func, g, np.shape(value))) / log_base
        samples = as_samples(func, "x", x, 2)
        problem = entropy_problem(
            func, samples, k, metric, ties, copy.deepcopy(stream), support, weighted=bool(weighted), quiet=True
        )
        rates = cotangent * problem.weights * _volume_rates(problem, float(order), bool(tsallis))
        return (backend.wrap(_as_given(_through_volumes(problem, rates, metric), x)),)

    return value, pullback


def _volume_rates(problem: EntropyProblem, q: float, tsallis: bool) -> np.ndarray:
    """Derivatives (n, orders) of the entropies by the logarithms of the volumes."""
    if q == 1:
        return np.full(problem.log_volume.shape, 1 / len(problem.x))
    powers = (1 - q) * log_zeta(problem, q)
    # beyond order 1 an atom's power is infinite, and the value does not move with the samples
    infinite = np.isposinf(powers).any(axis=0)
    powers = np.where(infinite, 0.0, powers)
    rates = np.where(infinite, 0.0, softmax(powers, axis=0))
    return rates * np.exp(np.asarray(logmeanexp(powers, axis=0))) if tsallis else rates


def _through_volumes(problem: EntropyProblem, rates: np.ndarray, metric: str) -> np.ndarray:
    x, distances = problem.x, problem.distances
    direct = np.zeros_like(x)
    if problem.support is None:
        by_distance = rates * _over(np.array(float(x.shape[1])), distances)
    else:
        by_distance = np.zeros_like(rates)
        for c, (low, high) in enumerate(zip(*problem.support, strict=True)):
            below, above = x[:, c, None] - low, high - x[:, c, None]
            per_length = rates * _over(np.ones(1), np.minimum(distances, above) + np.minimum(distances, below))
            by_distance += per_length * ((distances < above).astype(float) + (distances < below))
            direct[:, c] = (per_length * ((distances >= below).astype(float) - (distances >= above))).sum(axis=1)
    to_x, to_neighbours = _scatter(by_distance, x, x, problem.indices, distances, metric)
    return np.asarray(direct + to_x + to_neighbours)


# ---- divergence ------------------------------------------------------------------------------------------------------


@rule_for(knn_divergence)
def _divergence_rule(
    x: Array,
    y: Array,
    *,
    k: int = 3,
    metric: str = "euclidean",
    base: float | None = None,
    ties: str = "raise",
    rng: Any = None,
    wrt: tuple[str, ...] = (),
) -> tuple[Any, Pullback]:
    func = "knn_divergence"
    problem = divergence_problem(func, x, y, k, metric, ties, rng)
    log_base = check_base(func, base)
    with np.errstate(invalid="ignore"):
        value = float(problem.log_ratios().mean()) / log_base

    def pullback(g: Any) -> tuple[Any, ...]:
        n, d = problem.x.shape
        rate = np.array(float(cotangent_of(func, g, ())) * d / n / log_base)
        inside = _scatter(
            _over(-rate, problem.within)[:, None], problem.x, problem.x, problem.neighbour_within[:, None],
            problem.within[:, None], metric,
        )  # fmt: skip
        to_x, to_y = _scatter(
            _over(rate, problem.across)[:, None], problem.x, problem.y, problem.neighbour_across[:, None],
            problem.across[:, None], metric,
        )  # fmt: skip
        grads = _as_given(to_x + inside[0] + inside[1], x), _as_given(to_y, y)
        return tuple(problem.backend.wrap(grad) for grad in grads)

    return value, pullback


# ---- dimension -------------------------------------------------------------------------------------------------------


@rule_for(local_intrinsic_dimension)
def _dimension_rule(
    x: Array,
    reference: Array | None = None,
    *,
    k: int = 20,
    method: str = "mle",
    metric: str = "euclidean",
    wrt: tuple[str, ...] = (),
) -> tuple[Any, Pullback]:
    func = "local_intrinsic_dimension"
    value = local_intrinsic_dimension(x, reference, k=k, method=method, metric=metric)
    backend = samples_backend(func, x=x, reference=reference)

    def pullback(g: Any) -> tuple[Any, ...]:
        points = as_samples(func, "x", x)
        distances, numbers = neighbour_distances(func, x, reference, k, metric)
        dimension = local_dimensions(distances, method)
        cotangent = cotangent_of(func, g, dimension.shape)
        usable = (dimension > 0) & np.isfinite(dimension)
        rates = np.where(usable, cotangent, 0.0)[:, None] * _dimension_rates(distances, dimension, method)
        rates = np.where(usable[:, None], rates, 0.0)
        if reference is None:
            to_x, to_neighbours = _scatter(rates, points, points, numbers, distances, metric)
            return (backend.wrap(_as_given(to_x + to_neighbours, x)),)
        others = as_samples(func, "reference", reference)
        to_x, to_others = _scatter(rates, points, others, numbers, distances, metric)
        return backend.wrap(_as_given(to_x, x)), backend.wrap(_as_given(to_others, reference))

    return value, pullback


def _dimension_rates(distances: np.ndarray, dimension: np.ndarray, method: str) -> np.ndarray:
    """Derivatives of each row's dimension by its distances."""
    count = distances.shape[1] - 1
    rates = np.empty_like(distances)
    if method == "mom":
        # with s = 1 - mean(T_j / T_k) the dimension is (1 - s) / s = 1 / s - 1
        slope = (dimension + 1) ** 2
        rates[:, :-1] = (slope / count / distances[:, -1])[:, None]
        rates[:, -1] = -slope * (dimension / (dimension + 1)) / distances[:, -1]
    else:
        rates[:, :-1] = (dimension**2 / count)[:, None] / distances[:, :-1]
        rates[:, -1] = -(dimension**2) / distances[:, -1]
    return rates


# ---- spacings --------------------------------------------------------------------------------------------------------


@rule_for(spacing_entropy)
def _spacing_rule(
    x: Array,
    *,
    window: int | None = None,
    method: str = "vasicek",
    axis: int = 0,
    base: float | None = None,
    ties: str = "raise",
    wrt: tuple[str, ...] = (),
) -> tuple[Any, Pullback]:
    func = "spacing_entropy"
    value = spacing_entropy(x, window=window, method=method, axis=axis, base=base, ties=ties)
    problem = spacing_problem(func, x, window, axis)
    log_base = check_base(func, base)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = cotangent_of(func, g, np.shape(value)).reshape(-1, 1) / log_base
        sorted_grads = cotangent * _by_rank(problem, method)
        moved = np.moveaxis(problem.given, problem.axis, -1)
        order = np.argsort(moved.reshape(problem.rows.shape), axis=1, kind="stable")
        grads = np.empty_like(sorted_grads)
        np.put_along_axis(grads, order, sorted_grads, axis=1)
        grad = np.moveaxis(grads.reshape(moved.shape), -1, problem.axis)
        return (problem.backend.wrap(_as_given(grad, x)),)

    return value, pullback


def _by_rank(problem: SpacingProblem, method: str) -> np.ndarray:
    """Gradients (variables, n) of the entropies by the sorted samples."""
    rows, m = problem.rows, problem.window
    if method == "correa":
        return correa_gradient(rows, m)
    variables, n = rows.shape
    if method == "van_es":
        low, high = np.arange(n - m), np.arange(m, n)
        rates = _over(np.array(1 / (n - m)), rows[:, m:] - rows[:, :-m])
    else:
        low, high = np.maximum(np.arange(n) - m, 0), np.minimum(np.arange(n) + m, n - 1)
        rates = _over(np.array(1 / n), clamped(rows, m) - clamped(rows, -m))
    grad = np.zeros((variables, n))
    for v in range(variables):
        grad[v] = np.bincount(high, weights=rates[v], minlength=n) - np.bincount(low, weights=rates[v], minlength=n)
    return grad
