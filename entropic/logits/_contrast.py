"""Contrastive losses, bounds on the mutual information from a critic's scores, and the Plackett-Luce model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, backend_of, refuse_cuda, to_numpy
from .._validate import check_choice
from .._vjp import Pullback, cotangent_of, rule_for
from ._cross_entropy import REDUCTIONS, cross_entropy
from ._functions import LOGSUMEXP, cast, check_real, float_dtype, host_real, logcumsumexp, logmeanexp, softmax
from ._rows import check_scale, compute_dtype, over_temperature


def _contrast_problem(
    func: str, similarities: Array, positives: Any, temperature: Any, log_weights: Any, reduction: Any
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, float]:
    """Backend, the similarities, the logits of their rows, and targets as :func:`cross_entropy` takes them."""
    backend, s = host_real(func, "similarities", similarities, positives=positives, log_weights=log_weights)
    if s.ndim != 2:
        raise ValueError(f"{func}: `similarities` must have shape (anchors, candidates), got {s.shape}")
    check_choice(func, "reduction", reduction, REDUCTIONS)
    scale = check_scale(func, "temperature", temperature)
    dtype = compute_dtype(s)
    z = s.astype(dtype, copy=False) if scale == 1 else over_temperature(s, scale, dtype)[0]
    if log_weights is not None:
        w = to_numpy(func, "log_weights", log_weights)
        check_real(func, "log_weights", w)
        try:
            z = z + np.broadcast_to(w, s.shape).astype(dtype)
        except ValueError:
            raise ValueError(f"{func}: `log_weights` of shape {w.shape} does not broadcast to {s.shape}") from None
    if positives is None:
        if s.shape[0] > s.shape[1]:
            raise ValueError(f"{func}: `positives` is needed where there are more anchors than candidates, {s.shape}")
        return backend, s, z, np.arange(s.shape[0]), scale
    given = to_numpy(func, "positives", positives)
    if given.dtype != np.bool_:
        if given.dtype.kind not in "iu":
            raise TypeError(f"{func}: `positives` must be integers or a boolean mask, got dtype {given.dtype}")
        return backend, s, z, given, scale
    if given.shape != s.shape:
        raise ValueError(f"{func}: a mask of `positives` must have shape {s.shape}, got {given.shape}")
    count = given.sum(axis=1, keepdims=True)
    if not count.all():
        raise ValueError(f"{func}: row {int(np.flatnonzero(count == 0)[0])} of `positives` has none")
    return backend, s, z, given / count, scale


def info_nce(
    similarities: Array,
    positives: Array | None = None,
    *,
    temperature: float = 1.0,
    log_weights: Array | None = None,
    reduction: str = "mean",
) -> Any:
    """InfoNCE loss: the cross-entropy of picking an anchor's positive among all candidates.

    Parameters
    ----------
    similarities : array_like
        Real, shape (anchors, candidates). -inf leaves a candidate out, as an anchor's own copy.
    positives : array_like, optional
        The candidate of each anchor, (anchors,) whole numbers; or a boolean mask (anchors, candidates) of several,
        whose losses are averaged. By default candidate i is that of anchor i.
    temperature : float, optional
        Similarities are divided by it. 1 by default.
    log_weights : array_like, optional
        Added to the divided similarities: logarithms of how often a candidate counts; broadcasts. -inf drops it.
    reduction : {"mean", "sum", "none"}, optional
        Over anchors.

    Returns
    -------
    float or ndarray
        The loss, not negative. With one positive among K candidates, log K - loss is a lower bound on the mutual
        information, in nats and at most log K.

    Raises
    ------
    ValueError
        Shapes that do not go together, a positive out of range, a row of the mask without one.
    TypeError, DeviceError
        As :func:`logit_stats`.

    Notes
    -----
    -log softmax(similarities / temperature + log_weights) of the positive, by :func:`cross_entropy`: a loss near 0
    keeps its digits. One copy of the similarities. The gradient (:func:`entropic.vjp`) is that of `similarities`.
    Backends: CPU.

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> float(entropic.info_nce(np.zeros((4, 4))).round(6))  # log 4: nothing is known
    1.386294
    >>> print(f"{entropic.info_nce(20 * np.eye(4)):.5g}")
    6.1835e-09
    """
    func = "info_nce"
    backend, _, z, targets, _ = _contrast_problem(func, similarities, positives, temperature, log_weights, reduction)
    return backend.wrap(cross_entropy(z, _checked_positives(func, targets, z), reduction=reduction))


def _checked_positives(func: str, targets: np.ndarray, z: np.ndarray) -> np.ndarray:
    if targets.dtype.kind == "f":  # what a mask became
        return targets
    if targets.shape != z.shape[:1]:
        raise ValueError(f"{func}: `positives` must have shape {z.shape[:1]}, got {targets.shape}")
    if targets.size and not (targets.min() >= 0 and targets.max() < z.shape[1]):
        raise ValueError(f"{func}: `positives` must be in [0, {z.shape[1]})")
    return targets


@rule_for(info_nce)
def _info_nce_rule(
    similarities: Array, positives: Any = None, *, temperature: Any = 1.0, log_weights: Any = None,
    reduction: Any = "mean", wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:  # fmt: skip
    from .._vjp import vjp

    func = "info_nce"
    backend, s, z, targets, scale = _contrast_problem(
        func, similarities, positives, temperature, log_weights, reduction
    )
    value, pull = vjp(cross_entropy, z, _checked_positives(func, targets, z), reduction=reduction)

    def pullback(g: Any) -> tuple[Any, ...]:
        grad = pull(to_numpy(f"pullback of {func}", "cotangent", g))[0] / z.dtype.type(scale)
        return backend.wrap(cast(grad, float_dtype(s))), *(() if positives is None else (None,))

    return backend.wrap(value), pullback


# ---- bounds on the mutual information --------------------------------------------------------------------------------


def _critic(func: str, joint: Array, product: Array) -> tuple[Any, np.ndarray, np.ndarray, np.dtype]:
    backend = backend_of(func, scores_joint=joint, scores_product=product)
    refuse_cuda(func, backend, "scores_joint")
    arrays = []
    for name, given in (("scores_joint", joint), ("scores_product", product)):
        array = to_numpy(func, name, given)
        check_real(func, name, array)
        if not array.size:
            raise ValueError(f"{func}: `{name}` must not be empty")
        arrays.append(array)
    x, y = arrays
    return backend, x, y, np.result_type(compute_dtype(x), compute_dtype(y))


def _log_mean_exp(y: np.ndarray) -> float:
    """In float64, of scores in their own type."""
    if compute_dtype(y) == np.float64:
        return float(logmeanexp(y))
    return float(_core.finish_states(_core.reduce_states(y, (1 << y.ndim) - 1), LOGSUMEXP)) - math.log(y.size)


def donsker_varadhan(scores_joint: Array, scores_product: Array) -> Any:
    """Donsker-Varadhan lower bound on the mutual information, ``mean(joint) - log(mean(exp(product)))``.

    Parameters
    ----------
    scores_joint : array_like
        A critic's scores T(x, y) of pairs from the joint distribution, any shape.
    scores_product : array_like
        Its scores of pairs from the product of the marginals, any shape.

    Returns
    -------
    float
        In nats. A lower bound in expectation up to the bias of the logarithm of a mean of few samples.

    Raises
    ------
    ValueError
        An empty array.
    TypeError, DeviceError
        As :func:`logsumexp`.

    Notes
    -----
    By :func:`logmeanexp`, so scores of any size are fine. Time O(n). Gradients of both (:func:`entropic.vjp`): 1 / n,
    and minus the softmax. Backends: CPU.

    References
    ----------
    M. I. Belghazi et al., "Mutual Information Neural Estimation", ICML 2018.

    Examples
    --------
    >>> import entropic
    >>> float(entropic.donsker_varadhan([1.0, 1.0], [0.0, 0.0]))
    1.0
    """
    backend, x, y, dtype = _critic("donsker_varadhan", scores_joint, scores_product)
    value = x.mean(dtype=np.float64) - _log_mean_exp(y)
    return backend.wrap(dtype.type(value))


def nwj(scores_joint: Array, scores_product: Array) -> Any:
    """Nguyen-Wainwright-Jordan lower bound on the mutual information, ``mean(joint) - mean(exp(product - 1))``.

    Parameters
    ----------
    scores_joint, scores_product : array_like
        As in :func:`donsker_varadhan`.

    Returns
    -------
    float
        In nats; an unbiased estimate of a lower bound. -inf where the mean of exponentials is beyond the float range.

    Raises
    ------
    ValueError, TypeError, DeviceError
        As :func:`donsker_varadhan`.

    Notes
    -----
    Time O(n). Gradients of both (:func:`entropic.vjp`). Backends: CPU.

    References
    ----------
    X. Nguyen, M. J. Wainwright, M. I. Jordan, "Estimating Divergence Functionals and the Likelihood Ratio by Convex
    Risk Minimization", IEEE Trans. Inf. Theory 56 (2010).

    Examples
    --------
    >>> import entropic
    >>> float(entropic.nwj([2.0, 2.0], [1.0, 1.0]))
    1.0
    """
    backend, x, y, dtype = _critic("nwj", scores_joint, scores_product)
    with np.errstate(over="ignore"):
        value = x.mean(dtype=np.float64) - np.exp(_log_mean_exp(y) - 1)
        return backend.wrap(dtype.type(value))


def _critic_pullback(
    func: str, backend: Any, x: np.ndarray, y: np.ndarray, slope: Callable[[], np.ndarray]
) -> Pullback:
    """Of mean(x) minus a function of y with the derivative `slope`, which is 0 where all scores are -inf."""

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = float(cotangent_of(func, g, ()))
        of_y = np.zeros(y.shape) if np.isneginf(y).all() else -cotangent * slope()
        grads = np.full(x.shape, cotangent / x.size), of_y
        return tuple(
            backend.wrap(cast(np.asarray(grad), float_dtype(given))) for grad, given in zip(grads, (x, y), strict=True)
        )

    return pullback


@rule_for(donsker_varadhan)
def _donsker_varadhan_rule(
    scores_joint: Array, scores_product: Array, *, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:
    func = "donsker_varadhan"
    backend, x, y, _ = _critic(f"vjp of {func}", scores_joint, scores_product)

    def slope() -> np.ndarray:
        return np.asarray(softmax(y.astype(compute_dtype(y), copy=False)))

    return donsker_varadhan(scores_joint, scores_product), _critic_pullback(func, backend, x, y, slope)


@rule_for(nwj)
def _nwj_rule(scores_joint: Array, scores_product: Array, *, wrt: tuple[str, ...] = ()) -> tuple[Any, Pullback]:
    func = "nwj"
    backend, x, y, _ = _critic(f"vjp of {func}", scores_joint, scores_product)

    def slope() -> np.ndarray:
        return np.asarray(np.exp(y.astype(np.float64) - 1) / y.size)

    return nwj(scores_joint, scores_product), _critic_pullback(func, backend, x, y, slope)


# ---- rankings --------------------------------------------------------------------------------------------------------


def _ranked(func: str, scores: Array, ranking: Array) -> tuple[Any, np.ndarray, np.ndarray, int]:
    """Backend, scores, each row's whole order (the ranked ones first), and how many are ranked."""
    backend, s = host_real(func, "scores", scores, ranking=ranking)
    order = to_numpy(func, "ranking", ranking)
    if s.ndim == 0:
        raise ValueError(f"{func}: `scores` must have at least one dimension, got a scalar")
    if order.dtype.kind not in "iu" and order.size:
        raise TypeError(f"{func}: `ranking` must be integers, got dtype {order.dtype}")
    if order.shape[:-1] != s.shape[:-1] or order.ndim != s.ndim or order.shape[-1] > s.shape[-1]:
        raise ValueError(
            f"{func}: `ranking` must have the shape of `scores` {s.shape} or a shorter last axis, got {order.shape}"
        )
    n, ranked = s.shape[-1], order.shape[-1]
    if order.size and not (order.min() >= 0 and order.max() < n):
        raise ValueError(f"{func}: `ranking` must be in [0, {n})")
    unranked = np.ones(s.shape, bool)
    np.put_along_axis(unranked, order.astype(np.int64), False, axis=-1)
    if s.size - np.count_nonzero(unranked) != order.size:
        raise ValueError(f"{func}: `ranking` names an item twice")
    rest = np.nonzero(unranked)[-1].reshape(*s.shape[:-1], n - ranked)
    return backend, s, np.concatenate([order.astype(np.int64), rest], axis=-1), ranked


def plackett_luce_nll(scores: Array, ranking: Array) -> Any:
    """Negative log-likelihood of a ranking under the Plackett-Luce model: items are drawn by softmax, one by one.

    Parameters
    ----------
    scores : array_like
        Real, shape (..., n).
    ranking : array_like of int
        Shape (..., k) with k <= n: indices of the items, best first. With k < n only the first k places are known.

    Returns
    -------
    ndarray or scalar
        Shape (...), in the float type of `scores`; not negative.

    Raises
    ------
    ValueError
        Shapes that do not go together, an index out of range or named twice.
    TypeError, DeviceError
        As :func:`logsumexp`.

    Notes
    -----
    sum over places i < k of log sum_{j >= i} exp(s_j - s_i), each term log1p of the sum over j > i, which is a reversed
    :func:`logcumsumexp`: O(n) a row beside the sort, terms that do not cancel. Gradient of `scores`
    (:func:`entropic.vjp`). Backends: CPU.

    References
    ----------
    R. L. Plackett, "The Analysis of Permutations", J. R. Stat. Soc. C 24 (1975).

    Examples
    --------
    >>> import numpy as np, entropic
    >>> float(np.exp(entropic.plackett_luce_nll([0.0, 0.0, 0.0], [2, 0, 1])).round(12))  # 3 x 2 x 1 rankings
    6.0
    """
    func = "plackett_luce_nll"
    backend, s, order, ranked = _ranked(func, scores, ranking)
    z = _in_order(s, order)
    later = _later(z)[..., :ranked]
    with np.errstate(invalid="ignore"):
        terms = np.logaddexp(0.0, later - z[..., :ranked])
    # what has no mass is drawn with probability 0, unless it is all that is left
    terms[np.isneginf(z[..., :ranked])] = np.inf
    terms[..., s.shape[-1] - 1 :] = 0
    value = terms.sum(axis=-1)
    return backend.wrap(cast(np.asarray(value), float_dtype(s))[()])


def _in_order(s: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Scores in their ranking, less the largest: what all have in common does not count, and costs digits."""
    z: np.ndarray = np.take_along_axis(s, order, axis=-1).astype(np.float64)
    top = z.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        z -= np.where(np.isneginf(top), 0.0, top)
    return z


def _later(z: np.ndarray) -> np.ndarray:
    """log sum exp of what comes after each place."""
    if z.shape[-1] == 0:
        return z
    rest = logcumsumexp(z, reverse=True)
    return np.concatenate([rest[..., 1:], np.full((*z.shape[:-1], 1), -np.inf)], axis=-1)


@rule_for(plackett_luce_nll)
def _plackett_luce_rule(scores: Array, ranking: Array, *, wrt: tuple[str, ...] = ()) -> tuple[Any, Pullback]:
    func = "plackett_luce_nll"
    backend, s, order, ranked = _ranked(f"vjp of {func}", scores, ranking)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = cotangent_of(func, g, s.shape[:-1])[..., None]
        z = _in_order(s, order)
        grad = np.zeros(z.shape)
        if ranked:
            # exp(s_j) sum over places i <= j of 1 / (sum of what was left at i), less one for each that was drawn, as
            # far as anything with mass was left
            left = logcumsumexp(z, reverse=True)[..., :ranked]
            drawn = logcumsumexp(np.where(np.isneginf(left), -np.inf, -left))
            share = np.concatenate(
                [drawn, np.broadcast_to(drawn[..., -1:], (*z.shape[:-1], z.shape[-1] - ranked))], axis=-1
            )
            grad = np.exp(z + share)
            grad[..., :ranked] -= ~np.isneginf(left)
        by_item = np.empty(z.shape)
        np.put_along_axis(by_item, order, grad * cotangent, axis=-1)
        return backend.wrap(cast(by_item, float_dtype(s))), None

    return plackett_luce_nll(scores, ranking), pullback
