"""Mutual information of every column with a target or with every other column."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array
from .._validate import check_base
from ._information import (
    TOLERATED,
    Joint,
    as_labels,
    holds_words,
    is_constant,
    ksg1_terms,
    plug_in_terms,
    ross_terms,
    transformed,
)
from ._search import as_samples, check_neighbors, check_same_length, samples_backend
from ._ties import check_ties, digamma, report_ties


class _Column:
    """One variable: its samples, or the labels that they are."""

    def __init__(self, values: np.ndarray, discrete: bool) -> None:
        self.values = values
        self.labels = as_labels("mutual_information_matrix", "x", values) if discrete else None
        self.constant = is_constant(values)


def _labelled_pair(a: _Column, b: _Column, k: int) -> float:
    """The estimate for two columns of which one at least holds labels."""
    if a.labels is not None and b.labels is not None:
        return float(plug_in_terms(a.labels, b.labels).mean())
    labels, other = (a.labels, b) if a.labels is not None else (b.labels, a)
    assert labels is not None
    if (np.bincount(labels) == 1).all():
        raise ValueError(
            "mutual_information_matrix: a column of labels has each of them once; are its values continuous?"
        )
    return float(ross_terms(other.values[:, None], labels, k).mean())


def _continuous_pairs(
    columns: list[_Column], pairs: list[tuple[int, int]], k: int, *, ranks: bool
) -> tuple[np.ndarray, int]:
    """Kraskov's estimates, and the largest number of tied samples in a pair, as `radius_and_ties` counts them."""
    n = len(columns[0].values)
    stacked = np.stack([column.values for column in columns])
    values, tied, atoms = _core.neighbor_pairs(stacked, np.array(pairs, np.int64), k, digamma(np.arange(n + 1)))
    for p in np.flatnonzero(atoms):
        joint = Joint([columns[i].values[:, None] for i in pairs[p]])
        values[p] = ksg1_terms(joint, k)[0].mean()
    matters = (atoms > 0) | (tied > TOLERATED * n)
    return values, int(np.where(matters & (not ranks), tied, atoms).max())


def _mask(func: str, name: str, discrete: Any, columns: int) -> np.ndarray:
    if discrete is None:
        return np.zeros(columns, bool)
    mask = np.asarray(discrete)
    if mask.dtype != bool or mask.shape not in ((), (columns,)):
        raise ValueError(f"{func}: `{name}` must be None, a boolean, or {columns} booleans, got {discrete!r}")
    return np.broadcast_to(mask, (columns,))


def _self_information(column: _Column) -> float:
    """What a column says about itself: its entropy if it is discrete, and everything otherwise."""
    if column.constant:
        return 0.0
    if column.labels is None:
        return math.inf
    return float(plug_in_terms(column.labels, column.labels).mean())


def mutual_information_matrix(
    x: Array,
    y: Array | None = None,
    *,
    k: int = 3,
    discrete: Any = None,
    discrete_y: Any = None,
    ties: str = "warn",
    transform: str | None = None,
    base: float | None = None,
) -> Array:
    """Mutual information of each column of x with each column of y, or of x: for choosing among features.

    Parameters
    ----------
    x : array, shape (n, d)
        Samples of d variables.
    y : array, shape (n,) or (n, q), optional
        One or several targets; by default the columns of `x` themselves.
    k : int
        Neighbours, less than n.
    discrete : bool or array of bool, shape (d,), optional
        Which columns of `x` hold labels. None by default.
    discrete_y : bool or array of bool, shape (q,), optional
        Which columns of `y` hold labels. Booleans and strings always do.
    ties : {"warn", "raise"}
        For pairs of continuous columns, as in :func:`knn_mutual_information`.
    transform : {None, "standardize", "rank"}
        Of each continuous column, first.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    array of float64, shape (d,), (d, q) or (d, d)
        Estimates of Kraskov's first form, of Ross's where one of a pair holds labels, and of the plug-in form where
        both do. A constant column has 0 with all. The diagonal for `x` alone is inf for continuous columns and the
        entropy of discrete ones.

    Raises
    ------
    TypeError, ValueError
        As in :func:`knn_mutual_information`.

    Notes
    -----
    Each column is sorted once; a pair needs a tree of its two columns, a search in it and a count on each line, O(n log
    n), and pairs are shared among the threads. The memory beside the answer is O(n d). Backends: CPU.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).normal(size=(2000, 3))
    >>> y = x[:, 0] + x[:, 1] ** 2
    >>> entropic.mutual_information_matrix(x, y).argmin()
    np.int64(2)
    """
    func = "mutual_information_matrix"
    check_ties(func, ties, ("warn", "raise"))
    log_base = check_base(func, base)
    labels_y = y is not None and holds_words(y)
    backend = samples_backend(func, x=x, y=None if labels_y else y)
    samples = as_samples(func, "x", x, 2)
    mask = _mask(func, "discrete", discrete, samples.shape[1])
    columns = _columns(func, samples, mask, transform)
    order = check_neighbors(func, k, len(samples) - 1)
    if y is None:
        pairs = [(i, j) for i in range(len(columns)) for j in range(i)]
    else:
        if labels_y:
            given = np.asarray(y)
            if given.ndim not in (1, 2):
                raise ValueError(f"{func}: `y` must have shape (n,) or (n, q), got {given.shape}")
            words = given.reshape(len(given), -1).T
            targets = np.stack([as_labels(func, "y", column) for column in words], axis=1).astype(np.float64)
            mask_y = np.ones(len(words), bool)
        else:
            targets = as_samples(func, "y", y)
            mask_y = _mask(func, "discrete_y", discrete_y, targets.shape[1])
        check_same_length(func, ("x", "y"), [samples, targets])
        d = len(columns)
        columns += _columns(func, targets, mask_y, transform)
        pairs = [(i, j) for i in range(d) for j in range(d, len(columns))]
    found, tied = _informations(columns, pairs, order, ranks=transform == "rank")
    if y is None:
        values = np.diag([_self_information(column) for column in columns])
        for (i, j), value in zip(pairs, found, strict=True):
            values[i, j] = values[j, i] = value
    else:
        values = found if np.ndim(y) == 1 else found.reshape(d, -1)
    report_ties(
        func,
        np.arange(len(samples)) < tied,
        ties,
        "are tied in a pair of columns",
        "mark columns of labels as `discrete`; knn_mutual_information has estimates for mixed columns",
    )
    return backend.wrap(values / log_base)


def _informations(
    columns: list[_Column], pairs: list[tuple[int, int]], k: int, *, ranks: bool
) -> tuple[np.ndarray, int]:
    found = np.zeros(len(pairs))
    continuous = []
    for p, (i, j) in enumerate(pairs):
        if columns[i].constant or columns[j].constant:
            continue  # what is constant tells nothing
        if columns[i].labels is None and columns[j].labels is None:
            continuous.append(p)
        else:
            found[p] = _labelled_pair(columns[i], columns[j], k)
    if not continuous:
        return found, 0
    found[continuous], tied = _continuous_pairs(columns, [pairs[p] for p in continuous], k, ranks=ranks)
    return found, tied


def _columns(func: str, samples: np.ndarray, mask: np.ndarray, transform: Any) -> list[_Column]:
    changed = transformed(func, samples, transform)
    return [
        _Column(np.ascontiguousarray((samples if label else changed)[:, i]), bool(label))
        for i, label in enumerate(mask)
    ]
