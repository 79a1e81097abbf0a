"""Entropy over meanings: of clusters of sampled answers, and its soft form by similarity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .._backend import Array, Backend, to_numpy
from .._validate import check_base, check_choice
from .._vjp import Pullback, cotangent_of, rule_for
from ._functions import (
    LOGSUMEXP,
    LOGSUMEXP_VJP,
    cast,
    check_real,
    float_dtype,
    host_real,
    scalar_or_array,
    segment_logsumexp,
    softmax,
    softmax_entropy,
)
from ._rows import check_scale, compute_dtype, over_temperature

KINDS = ("mass", "count", "monte_carlo")


class _Samples(NamedTuple):
    """Samples in float64, with the number of the cluster of each, of the question of each, and of each cluster's."""

    backend: Backend
    given: np.ndarray
    log_p: np.ndarray
    scale: np.ndarray
    cluster: np.ndarray
    question: np.ndarray
    question_of: np.ndarray
    questions: int
    single: bool


def _whole(func: str, name: str, given: Any, n: int) -> np.ndarray:
    numbers = to_numpy(func, name, given)
    if numbers.dtype.kind not in "iu" and numbers.size:
        raise TypeError(f"{func}: `{name}` must be integers, got dtype {numbers.dtype}")
    if numbers.shape != (n,):
        raise ValueError(f"{func}: `{name}` must have shape ({n},), one a sample, got {numbers.shape}")
    return numbers.astype(np.int64)


def _samples(func: str, logprobs: Any, cluster_ids: Any, groups: Any, lengths: Any) -> _Samples:
    backend, x = host_real(func, "logprobs", logprobs, cluster_ids=cluster_ids, groups=groups, lengths=lengths)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"{func}: `logprobs` must have shape (samples,), at least one, got {x.shape}")
    if np.isnan(x).any() or np.isposinf(x).any():
        raise ValueError(f"{func}: `logprobs` must not hold nan or inf")
    ids = _whole(func, "cluster_ids", cluster_ids, x.size)
    question = np.zeros(x.size, np.int64) if groups is None else _whole(func, "groups", groups, x.size)
    if question.min() < 0:
        raise ValueError(f"{func}: `groups` must not be negative, got {question.min()}")
    scale = np.ones(x.size)
    if lengths is not None:
        sizes = to_numpy(func, "lengths", lengths)
        check_real(func, "lengths", sizes)
        if sizes.shape != x.shape or not ((sizes > 0) & (sizes < np.inf)).all():
            raise ValueError(f"{func}: `lengths` must be positive, one a sample, got shape {sizes.shape}")
        scale = 1.0 / sizes.astype(np.float64)
    # clusters are numbered anew, question by question
    pairs, cluster = np.unique(np.stack([question, ids], axis=1), axis=0, return_inverse=True)
    return _Samples(
        backend, x, x.astype(np.float64) * scale, scale, cluster.reshape(-1), question, pairs[:, 0],
        int(question.max()) + 1, groups is None,
    )  # fmt: skip


class _Table(NamedTuple):
    """Values of clusters as rows by question, -inf elsewhere: the questions, and which clusters are where."""

    questions: np.ndarray
    values: np.ndarray
    clusters: np.ndarray
    place: tuple[np.ndarray, np.ndarray]


def _tables(s: _Samples, values: np.ndarray) -> Iterator[_Table]:
    """Of questions with up to twice as many clusters as each other: a table is at most twice its values."""
    count = np.bincount(s.question_of, minlength=s.questions)
    column = np.arange(len(values)) - (np.cumsum(count) - count)[s.question_of]
    size = np.frexp(count)[1]
    for some in np.unique(size[count > 0]):
        questions, clusters = np.flatnonzero(size == some), np.flatnonzero(size[s.question_of] == some)
        place = np.searchsorted(questions, s.question_of[clusters]), column[clusters]
        table = np.full((len(questions), int(count[questions].max())), -np.inf)
        table[place] = values[clusters]
        yield _Table(questions, table, clusters, place)


def _cluster_scores(s: _Samples, kind: str) -> np.ndarray:
    """log of a cluster's mass, or of its number of samples."""
    if kind == "count":
        return np.log(np.bincount(s.cluster))
    return np.asarray(segment_logsumexp(s.log_p, s.cluster))


def semantic_entropy(
    logprobs: Array,
    cluster_ids: Array,
    *,
    kind: str = "mass",
    groups: Array | None = None,
    lengths: Array | None = None,
    base: float | None = None,
) -> Any:
    """Entropy over clusters of sampled answers that mean the same.

    Parameters
    ----------
    logprobs : array_like
        Shape (samples,): log-probability of each sampled answer; -inf for one without mass.
    cluster_ids : array_like of int
        Shape (samples,): which answers mean the same. Any whole numbers.
    kind : {"mass", "count", "monte_carlo"}, optional
        "mass": p(c) is the sum of a cluster's probabilities, normalised over clusters, and the value its entropy.
        "count": p(c) is a cluster's share of the samples. "monte_carlo": -mean over samples of log p(their cluster),
        with the p(c) of "mass".
    groups : array_like of int, optional
        Shape (samples,): the question of each answer, from 0; clusters of different questions are different. One
        question by default.
    lengths : array_like, optional
        Shape (samples,): divide each log-probability by the number of its tokens.
    base : float, optional
        Of the logarithm; None for nats.

    Returns
    -------
    float or ndarray
        One value, or with `groups` one a question (0 for numbers without a sample). A question whose samples have no
        mass has 0.

    Raises
    ------
    ValueError
        No sample, shapes that do not fit, nan or inf, a length or a group that is not possible.
    TypeError, DeviceError
        Ids that are not integers; device arrays.

    Notes
    -----
    By :func:`segment_logsumexp` over clusters and :func:`softmax_entropy` over questions: masses of e^-1000 do no harm.
    Time O(n log n). Gradient of `logprobs` (:func:`entropic.vjp`; 0 for "count"). Backends: CPU.

    References
    ----------
    L. Kuhn, Y. Gal, S. Farquhar, "Semantic Uncertainty", ICLR 2023. S. Farquhar et al., Nature 630 (2024).

    Examples
    --------
    >>> import numpy as np, entropic
    >>> float(entropic.semantic_entropy(np.log([0.25, 0.25, 0.5]), [0, 0, 1], base=2))
    1.0
    >>> entropic.semantic_entropy(np.full(4, -500.0), [0, 1, 7, 7], groups=[0, 0, 1, 1], base=2)
    array([1., 0.])
    """
    func = "semantic_entropy"
    log_base = check_base(func, base)
    check_choice(func, "kind", kind, KINDS)
    s = _samples(func, logprobs, cluster_ids, groups, lengths)
    scores = _cluster_scores(s, kind)
    values, surprise = np.zeros(s.questions), np.zeros(len(scores))
    for t in _tables(s, scores):
        if kind == "monte_carlo":
            log_z = _core.finish_states(_core.reduce_states(t.values, 2), LOGSUMEXP)
            with np.errstate(invalid="ignore"):
                surprise[t.clusters] = (log_z[:, None] - t.values)[t.place]
        else:
            values[t.questions] = np.where(np.isneginf(t.values).all(axis=1), 0.0, softmax_entropy(t.values))
    if kind == "monte_carlo":
        surprise[np.isneginf(scores)] = 0  # a cluster without mass is drawn with probability 0
        count = np.maximum(np.bincount(s.question, minlength=s.questions), 1)
        values = np.bincount(s.question, surprise[s.cluster], minlength=s.questions) / count
    result = cast(values / log_base, float_dtype(s.given))
    return s.backend.wrap(scalar_or_array(result[0] if s.single else result))


@rule_for(semantic_entropy)
def _semantic_entropy_rule(
    logprobs: Array, cluster_ids: Array, *, kind: str = "mass", groups: Any = None, lengths: Any = None,
    base: Any = None, wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:  # fmt: skip
    func = "semantic_entropy"
    value = semantic_entropy(logprobs, cluster_ids, kind=kind, groups=groups, lengths=lengths, base=base)
    s = _samples(f"vjp of {func}", logprobs, cluster_ids, groups, lengths)
    log_base = check_base(func, base)

    def pullback(g: Any) -> tuple[Any, ...]:
        each = cotangent_of(func, g, () if s.single else (s.questions,)).reshape(-1) / log_base
        if kind == "count":
            return s.backend.wrap(np.zeros(s.given.shape, float_dtype(s.given))), None
        scores = _cluster_scores(s, kind)
        drawn = np.bincount(s.cluster) * np.isfinite(scores)
        total = np.maximum(np.bincount(s.question, minlength=s.questions), 1)
        by_cluster = np.zeros(len(scores))
        for t in _tables(s, scores):
            p = np.nan_to_num(np.asarray(softmax(t.values, axis=1)))
            if kind == "mass":
                log_p = np.where(p > 0, np.log(p), 0.0)
                grads = -p * (log_p - (p * log_p).sum(axis=1, keepdims=True))
            else:
                counts = np.zeros(t.values.shape)
                counts[t.place] = drawn[t.clusters]
                grads = (counts.sum(axis=1, keepdims=True) * p - counts) / total[t.questions, None]
            by_cluster[t.clusters] = grads[t.place]
        share = np.where(np.isneginf(s.log_p), 0.0, np.exp(s.log_p - scores[s.cluster]))
        grad = by_cluster[s.cluster] * share * s.scale * each[s.question]
        return s.backend.wrap(cast(grad, float_dtype(s.given))), None

    return value, pullback


# ---- the soft form ---------------------------------------------------------------------------------------------------


class _Neighbors(NamedTuple):
    """Similarities, their rows less the largest (`top`) over the temperature, and the weights of the rows."""

    backend: Backend
    given: np.ndarray
    z: np.ndarray
    top: np.ndarray
    share: np.ndarray
    scale: float


def _neighbors(func: str, similarity: Any, temperature: Any, weights: Any, diagonal: Any) -> _Neighbors:
    from .._validate import check_flag

    backend, s = host_real(func, "similarity", similarity, weights=weights)
    if s.ndim < 2 or s.shape[-1] != s.shape[-2] or not s.shape[-1]:
        raise ValueError(f"{func}: `similarity` must have shape (..., n, n) with n >= 1, got {s.shape}")
    n = s.shape[-1]
    keeps = check_flag(func, "diagonal", diagonal)
    if n < 2 and not keeps:
        raise ValueError(f"{func}: without the diagonal there must be at least two samples, got {n}")
    scale = check_scale(func, "temperature", temperature)
    share = np.full(s.shape[:-1], 1 / n)
    if weights is not None:
        given = to_numpy(func, "weights", weights)
        check_real(func, "weights", given)
        if given.shape != s.shape[:-1] or not (np.isfinite(given).all() and (given >= 0).all()):
            raise ValueError(f"{func}: `weights` must be finite, not negative and of shape {s.shape[:-1]}")
        share = given.astype(np.float64)
    z = s.astype(compute_dtype(s))
    if not keeps:
        z[..., np.arange(n), np.arange(n)] = -np.inf
    z, top = over_temperature(z, scale, z.dtype)
    return _Neighbors(backend, s, z, top[..., 0], share, scale)


def soft_nearest_entropy(
    similarity: Array, temperature: float = 1.0, *, weights: Array | None = None, diagonal: bool = False
) -> Any:
    """Soft nearest-neighbour entropy, ``-(1/n) sum_i log sum_{j != i} exp(similarity_ij / temperature)``.

    Parameters
    ----------
    similarity : array_like
        Real, shape (..., n, n): how much answers i and j mean the same.
    temperature : float, optional
        Positive, 1 by default.
    weights : array_like, optional
        Shape (..., n), in place of 1/n: such as the answers' probabilities. Not normalised here.
    diagonal : bool, optional
        Count an answer among its own neighbours. False by default.

    Returns
    -------
    ndarray or scalar
        Shape (...), in the float type of the similarities. Low where answers have many neighbours; of either sign.

    Raises
    ------
    ValueError
        A matrix that is not square, fewer than two answers, weights that do not fit.
    TypeError, DeviceError
        As :func:`logit_stats`.

    Notes
    -----
    Time O(n^2), one copy; sums are float64. Gradient of `similarity` (:func:`entropic.vjp`). Backends: CPU.

    References
    ----------
    D. Nguyen, A. Payani, B. Mirzasoleiman, "Beyond Semantic Entropy: Boosting LLM Uncertainty Quantification with
    Pairwise Semantic Similarity", ACL Findings 2025.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> alike, apart = np.ones((4, 4)), np.eye(4)
    >>> bool(entropic.soft_nearest_entropy(alike) < entropic.soft_nearest_entropy(apart))
    True
    """
    func = "soft_nearest_entropy"
    p = _neighbors(func, similarity, temperature, weights, diagonal)
    log_sums = p.top + _core.finish_states(_core.reduce_states(p.z, 1 << (p.z.ndim - 1)), LOGSUMEXP)
    with np.errstate(invalid="ignore"):
        value = -(np.where(p.share == 0, 0.0, p.share * log_sums)).sum(axis=-1)
    return p.backend.wrap(scalar_or_array(cast(np.asarray(value), float_dtype(p.given))))


@rule_for(soft_nearest_entropy)
def _soft_nearest_entropy_rule(
    similarity: Array, temperature: Any = 1.0, *, weights: Any = None, diagonal: Any = False,
    wrt: tuple[str, ...] = ()
) -> tuple[Any, Pullback]:  # fmt: skip
    func = "soft_nearest_entropy"
    value = soft_nearest_entropy(similarity, temperature, weights=weights, diagonal=diagonal)
    p = _neighbors(f"vjp of {func}", similarity, temperature, weights, diagonal)

    def pullback(g: Any) -> tuple[Any, ...]:
        each = -p.share * cotangent_of(func, g, p.given.shape[:-2])[..., None] / p.scale
        grad = np.empty_like(p.z)
        _core.map_rows(p.z, 1 << (p.z.ndim - 1), LOGSUMEXP_VJP, np.ascontiguousarray(each), grad)
        return (p.backend.wrap(cast(grad, float_dtype(p.given))),)

    return value, pullback
