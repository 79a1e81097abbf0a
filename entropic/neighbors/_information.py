"""Mutual information of samples, from nearest neighbours in the joint space and counts in the variables' own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._backend import Array
from .._validate import check_base, check_choice, check_flag, check_integer, check_rng
from ._search import Space, as_samples, check_neighbors, check_same_length, samples_backend
from ._ties import check_ties, digamma, digamma_of_counts, jitter, report_ties

METHODS = ("ksg1", "ksg2", "mixed", "mixed_paper", "tie_aware", "local_nonuniform")
TRANSFORMS = (None, "standardize", "rank")
# Where distances are equal but not 0, a sample's strict count is off by a neighbour: so many samples do not matter.
TOLERATED = 0.05
_TIED = "have their k-th neighbour at distance 0 or as far as the next one"
_TIED_ADVICE = (
    'the estimate is meant for continuous variables: use method="tie_aware" or "mixed", `discrete=True` for labels, or '
    'ties="jitter" for data that were rounded'
)


@dataclass(frozen=True)
class InformationEstimate:
    """A mutual information with what was asked for beside it; the rest is None.

    Attributes
    ----------
    value : float
        The estimate.
    p_value : float
        Share of permutations, and of the data themselves, whose estimate is at least `value`: never 0.
    null : array
        Estimates of the permuted samples.
    standard_error : float
        From the jackknife.
    corrected : float
        `value` less the jackknife's estimate of its bias.
    """

    value: float
    p_value: float | None = None
    null: np.ndarray | None = field(default=None, repr=False)
    standard_error: float | None = None
    corrected: float | None = None


# ---- what estimators share -------------------------------------------------------------------------------------------


def transformed(func: str, x: np.ndarray, transform: Any) -> np.ndarray:
    """Columns divided by their standard deviation, or replaced by their (mean) ranks."""
    if transform not in TRANSFORMS:
        raise ValueError(f"{func}: `transform` must be None, 'standardize' or 'rank', got {transform!r}")
    if transform is None:
        return x
    if transform == "standardize":
        near_one = np.ldexp(x, -np.frexp(np.abs(x).max(axis=0))[1])  # the sum of the largest numbers overflows
        centred = near_one - near_one.mean(axis=0)
        largest = np.abs(centred).max(axis=0)
        unit = centred / np.where(largest > 0, largest, 1.0)
        spread = np.sqrt((unit * unit).mean(axis=0))
        return np.ascontiguousarray(unit / np.where(spread > 0, spread, 1.0))
    return np.ascontiguousarray(np.stack([_mean_ranks(column) for column in x.T], axis=1))


def _mean_ranks(column: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def is_constant(x: np.ndarray) -> bool:
    return bool((x == x[0]).all())


def radius_and_ties(
    space: Space, k: int, most: int, exclude: int = 0, *, ranks: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the k-th neighbours, and which are 0 or, if there are `most` > k neighbours, the next one's too.

    Among ranks many distances are equal without any tie among the samples.
    """
    distances = space.distances(most, exclude)
    radius = np.ascontiguousarray(distances[:, k - 1])
    tied = radius == 0
    if most > k and not ranks:
        equal = tied | (radius == distances[:, k])
        if tied.any() or equal.mean() > TOLERATED:
            return radius, equal
    return radius, tied


class Joint:
    """Variables, the space of all of them, and their own spaces."""

    def __init__(self, variables: list[np.ndarray], spaces: list[Space] | None = None, *, ranks: bool = False) -> None:
        self.variables = variables
        self.ranks = ranks
        self.spaces = [Space(v) for v in variables] if spaces is None else spaces
        self.space = Space(np.hstack(variables))
        self.n = len(variables[0])
        self.orders: list[np.ndarray | None] = [None] * len(variables)

    def permuted(self, rng: np.random.Generator) -> Joint:
        """All variables but the first in random orders; their own spaces stay as they are."""
        orders = [rng.permutation(self.n) for _ in self.variables[1:]]
        others = [v[order] for v, order in zip(self.variables[1:], orders, strict=True)]
        joint = Joint([self.variables[0], *others], self.spaces, ranks=self.ranks)
        joint.orders[1:] = orders
        return joint

    def radius(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances to the k-th neighbours, and which samples' are tied."""
        return radius_and_ties(self.space, k, min(k + 1, self.n - 1), ranks=self.ranks)

    def counts(self, radii: list[np.ndarray], *, strict: bool) -> list[np.ndarray]:
        found = []
        for space, radius, order in zip(self.spaces, radii, self.orders, strict=True):
            if order is None:
                found.append(space.count(radius, strict=strict))
            else:
                of_points = np.empty_like(radius)
                of_points[order] = radius
                found.append(space.count(of_points, strict=strict)[order])
        return found


Terms = tuple[np.ndarray, np.ndarray]
"""Each sample's part of an estimate, and which samples are tied."""


def _atoms(joint: Joint, at_zero: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Samples with k others at the same place: the terms of the plug-in estimate there, by `_tie_aware`'s counts."""
    if at_zero.any():
        terms = np.where(at_zero, _tie_aware_terms(joint, np.zeros(joint.n)), terms)
    return terms


def ksg1_terms(joint: Joint, k: int) -> Terms:
    radius, tied = joint.radius(k)
    counts = joint.counts([radius] * len(joint.variables), strict=True)
    terms = digamma(k) + (len(counts) - 1) * digamma(joint.n) - sum(digamma_of_counts(c + 1) for c in counts)
    return _atoms(joint, radius == 0, terms), tied


def _ksg2(joint: Joint, k: int) -> Terms:
    radius, tied = joint.radius(k)
    numbers = joint.space.nearest(k)[1]
    radii = [np.abs(v[numbers] - v[:, None]).max(axis=(1, 2)) for v in joint.variables]
    counts = joint.counts(radii, strict=False)
    m = len(counts)
    terms = digamma(k) - (m - 1) / k + (m - 1) * digamma(joint.n) - sum(digamma_of_counts(c) for c in counts)
    return _atoms(joint, radius == 0, terms), tied


def _mixed(joint: Joint, k: int) -> Terms:
    """As the authors' code has it: psi of strict counts with the sample itself, and of all that is there at an atom."""
    radius, _ = joint.radius(k)
    at_zero = radius == 0
    strict = joint.counts([radius] * len(joint.variables), strict=True)
    near, counts = np.full(joint.n, k), strict
    if at_zero.any():
        zero = np.zeros(joint.n)
        near = np.where(at_zero, joint.space.count(zero, strict=False) + 1, k)
        atoms = joint.counts([zero] * len(joint.variables), strict=False)
        counts = [np.where(at_zero, atom, count) for atom, count in zip(atoms, strict, strict=True)]
    parts = sum(digamma_of_counts(c + 1) for c in counts)
    return digamma_of_counts(near) + (len(counts) - 1) * math.log(joint.n) - parts, np.zeros(joint.n, bool)


def _mixed_paper(joint: Joint, k: int) -> Terms:
    """As the paper has it, with logarithms, which are right for k that grows with n."""
    radius, _ = joint.radius(k)
    neighbours = np.where(radius == 0, joint.space.count(np.zeros(joint.n), strict=False), k)
    counts = joint.counts([radius] * len(joint.variables), strict=False)
    logs = sum(np.log(c + 1) for c in counts)
    return digamma_of_counts(neighbours) + (len(counts) - 1) * math.log(joint.n) - logs, np.zeros(joint.n, bool)


def _tie_aware_terms(joint: Joint, radius: np.ndarray) -> np.ndarray:
    neighbours = joint.space.count(radius, strict=False)
    counts = joint.counts([radius] * len(joint.variables), strict=False)
    parts = sum(digamma_of_counts(np.maximum(c, 1)) for c in counts)
    return np.asarray(digamma_of_counts(np.maximum(neighbours, 1)) + (len(counts) - 1) * digamma(joint.n) - parts)


def _tie_aware(joint: Joint, k: int) -> Terms:
    return _tie_aware_terms(joint, joint.radius(k)[0]), np.zeros(joint.n, bool)


@functools.lru_cache(maxsize=64)
def _nonuniformity_limit(k: int, d: int) -> float:
    """Log of the ratio of volumes below which a neighbourhood is not uniform: few uniform ones are below it."""
    trials = 20_000
    points = np.random.default_rng(0).uniform(-1, 1, size=(trials, k, d))
    logs = _log_box_ratio(points)
    return float(np.quantile(logs, 0.005))


def _log_box_ratio(offsets: np.ndarray) -> np.ndarray:
    """Log volume of the box along the principal axes less that along the coordinates, for offsets (n, k, d)."""
    # the neighbours with the point itself, as principal axes need the spread around their mean
    around = np.concatenate([offsets, np.zeros_like(offsets[:, :1])], axis=1)
    sides = np.abs(offsets).max(axis=1)
    scale = np.where(sides > 0, sides, 1.0)
    centred = around - around.mean(axis=1, keepdims=True)
    unit = centred / scale.max(axis=1)[:, None, None]
    _, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", unit, unit))
    rotated = np.abs(np.einsum("nki,nij->nkj", offsets, axes)).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(rotated).sum(axis=1) - np.log(sides).sum(axis=1))


def _local_nonuniform(joint: Joint, k: int) -> Terms:
    terms, tied = _ksg2(joint, k)
    d = sum(v.shape[1] for v in joint.variables)
    numbers = joint.space.nearest(k)[1]
    z = np.hstack(joint.variables)
    terms = terms.copy()
    for first in range(0, joint.n, 65536):
        rows = slice(first, first + 65536)
        offsets = z[numbers[rows]] - z[rows, None]
        ratio = _log_box_ratio(offsets)
        # a flat box has no volume; a neighbourhood that lies on a plane exactly says nothing finite
        change = (ratio < _nonuniformity_limit(k, d)) & np.isfinite(ratio)
        terms[rows] -= np.where(change, ratio, 0.0)
    return terms, tied


_TERMS: dict[str, Callable[[Joint, int], Terms]] = {
    "ksg1": ksg1_terms,
    "ksg2": _ksg2,
    "mixed": _mixed,
    "mixed_paper": _mixed_paper,
    "tie_aware": _tie_aware,
    "local_nonuniform": _local_nonuniform,
}


# ---- labels ----------------------------------------------------------------------------------------------------------


def as_labels(func: str, name: str, y: Any) -> np.ndarray:
    """Numbers 0, 1, ... for the distinct values of a vector of any sortable type."""
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{func}: `{name}` holds labels and must have shape (n,), got {values.shape}")
    if values.dtype.kind in "fcO" and (values != values).any():  # nan alone is not itself
        raise ValueError(f"{func}: `{name}` has nan among its labels")
    try:
        return np.asarray(np.unique(values, return_inverse=True)[1].reshape(-1))
    except TypeError as error:
        raise TypeError(f"{func}: `{name}` has labels that cannot be sorted: {error}") from None


def ross_terms(x: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Ross's estimate between samples and labels: the terms of the samples that have a companion of their label.

    The radius is that of the k-th neighbour within the label, or of the last where there are fewer; k and the count
    over all labels include whatever is exactly as far.
    """
    sizes = np.bincount(labels)
    kept = sizes[labels] > 1
    x, labels = x[kept], labels[kept]
    radius, neighbours = np.empty(len(x)), np.empty(len(x), np.int64)
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels))
    for members in np.split(order, ends[:-1]):
        if len(members):
            own = Space(np.ascontiguousarray(x[members]))
            far = np.ascontiguousarray(own.distances(min(k, len(members) - 1))[:, -1])
            radius[members], neighbours[members] = far, own.count(far, strict=False)
    everywhere = Space(x).count(radius, strict=False)
    of_labels = digamma_of_counts(neighbours) - digamma_of_counts(sizes[labels])
    return np.asarray(digamma(len(x)) + of_labels - digamma_of_counts(everywhere))


def plug_in_terms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log(p(a, b) / (p(a) p(b))) at each sample, with the samples' own frequencies."""
    pairs = np.unique(a * (int(b.max()) + 1) + b, return_inverse=True)[1].reshape(-1)
    joint, of_a, of_b = (np.bincount(v)[v] for v in (pairs, a, b))
    return np.asarray(np.log(joint) + math.log(len(a)) - np.log(of_a) - np.log(of_b))


# ---- mutual information ----------------------------------------------------------------------------------------------


def holds_words(y: Any) -> bool:
    """Booleans, strings and objects, which can be nothing but labels."""
    return isinstance(y, np.ndarray | list | tuple) and np.asarray(y).dtype.kind in "bOSU"


def _kinds(func: str, discrete: Any, arrays: list[Any]) -> list[bool]:
    """Which variables are labels."""
    if discrete is None:
        return [holds_words(a) for a in arrays]
    if isinstance(discrete, bool | np.bool_):
        return [False] * (len(arrays) - 1) + [bool(discrete)]
    kinds = list(discrete) if isinstance(discrete, list | tuple | np.ndarray) else []
    if len(kinds) != len(arrays) or not all(isinstance(kind, bool | np.bool_) for kind in kinds):
        raise ValueError(
            f"{func}: `discrete` must be None, a boolean for the last variable, or one for each, got {discrete!r}"
        )
    return [bool(kind) for kind in kinds]


class _Estimator:
    """Terms of the estimate for the samples as they are, permuted, or some of them."""

    def __init__(self, k: int, method: str, variables: list[np.ndarray], kinds: list[bool], ranks: bool) -> None:
        self.k, self.method, self.kinds, self.ranks = k, method, kinds, ranks
        self.variables = self._telling(variables)
        self.joint = None if any(kinds) or len(self.variables) < 2 else Joint(self.variables, ranks=ranks)

    def _telling(self, variables: list[np.ndarray]) -> list[np.ndarray]:
        """What is constant tells nothing, and only takes away from the estimate: all but those, or one that is left."""
        telling = [v for v in variables if not is_constant(v)]
        return telling if len(telling) > 1 else variables[:1]

    def terms(self) -> Terms:
        return self._of(self.variables, self.joint)

    def permuted(self, rng: np.random.Generator) -> Terms:
        if self.joint is not None:
            return _TERMS[self.method](self.joint.permuted(rng), self.k)
        first, *others = self.variables
        return self._of([first, *(rng.permutation(v) for v in others)], None)

    def without(self, left_out: np.ndarray) -> Terms:
        return self._of([np.ascontiguousarray(v[~left_out]) for v in self.variables], None)

    def _of(self, variables: list[np.ndarray], joint: Joint | None) -> Terms:
        n = len(variables[0])
        variables = self._telling(variables)
        if len(variables) < 2:
            return np.zeros(n), np.zeros(n, bool)
        if not any(self.kinds):
            return _TERMS[self.method](joint or Joint(variables, ranks=self.ranks), self.k)
        if all(self.kinds):
            return plug_in_terms(*(v[:, 0].astype(np.int64) for v in variables)), np.zeros(n, bool)
        place = self.kinds.index(True)
        labels = variables[place][:, 0].astype(np.int64)
        return ross_terms(variables[1 - place], labels, self.k), np.zeros(n, bool)


def knn_mutual_information(
    x: Array,
    y: Array,
    *more: Array,
    k: int = 3,
    method: str = "ksg1",
    discrete: Any = None,
    ties: str = "warn",
    transform: str | None = None,
    base: float | None = None,
    pointwise: bool = False,
    permutations: int = 0,
    jackknife: int = 0,
    rng: Any = None,
) -> Any:
    """Mutual information of samples: psi(k) + psi(n) - mean(psi(n_x + 1) + psi(n_y + 1)), with exact counts.

    n_x and n_y are the numbers of samples that are, in x and in y alone, nearer than the k-th neighbour in both.

    Parameters
    ----------
    x, y, *more : array, shape (n,) or (n, d)
        Samples of each variable. Three or more variables give their total correlation, the sum of their entropies less
        that of all of them.
    k : int
        Neighbours, less than n.
    method : {"ksg1", "ksg2", "mixed", "mixed_paper", "tie_aware", "local_nonuniform"}
        "ksg1" and "ksg2" are Kraskov's two estimates, with cubes and with boxes. "mixed" (Gao, Kannan, Oh and Viswanath
        2017, as their code has it; "mixed_paper" as the paper does, which is far off for small k) and "tie_aware"
        (Mesner and Shalizi 2021) are right for variables that are discrete in part too. "local_nonuniform" (Gao, Ver
        Steeg and Galstyan 2015) corrects "ksg2" where neighbours lie along a line or a plane: for strong dependence,
        which the others underestimate for want of samples. It needs a k that is not less than the dimension of all
        variables together.
    discrete : bool or sequence of bool, optional
        Whether the last variable holds labels, or each of two: Ross's estimate, or between two the plug-in one. By
        default strings and booleans are labels and numbers are not. A label of one sample only is left out.
    ties : {"warn", "raise", "jitter"}
        For "ksg1", "ksg2" and "local_nonuniform", which are made for samples without ties: what to do where a k-th
        neighbour is at distance 0, or, for more than one sample in twenty, as far as the next one. With "warn" counts
        are strict and exact as they are, and samples with k others at the same place have the tie-aware term; a
        :class:`entropic.TiesWarning` says how many are tied. "jitter" first adds noise of 1e-10 of each column's range;
        nothing is added otherwise.
    transform : {None, "standardize", "rank"}
        Of each column, first. Mutual information does not change with the scale of a variable, but an estimate does.
    base : float, optional
        Base of the logarithm, e.g. 2 for bits; nats by default.
    pointwise : bool
        Return each sample's term, whose mean is the estimate. Samples of a label of their own have nan.
    permutations : int
        Compare with that many estimates in which all variables but the first are shuffled, for a p-value.
    jackknife : int
        Leave out each of that many groups of samples in turn, for a standard error and an estimate of the bias.
    rng : numpy.random.Generator, int or None
        For "jitter" and `permutations`. A seed gives the same answer everywhere.

    Returns
    -------
    float, array of shape (n,), or InformationEstimate
        The last one with `permutations` or `jackknife`. Estimates near 0 can be negative and are not clipped. A
        constant variable has 0 with any other one, and adds nothing to a total correlation.

    Raises
    ------
    TypeError, ValueError
        For samples that are not finite, of different lengths, fewer than two, k >= n, and labels that occur once
        only, or do when a group of the jackknife is left out.

    Notes
    -----
    The search in the joint space is as in :func:`nearest_neighbors` and the counts as in :func:`count_within`, by the
    largest difference of the coordinates: for two variables of one dimension, the time is O(n log n), in all cases the
    memory O(n d). Each permutation costs a search and counts; what is indexed by a variable alone is built once.
    Backends: CPU.

    References
    ----------
    Kraskov, Stoegbauer and Grassberger, Phys. Rev. E 69 (2004) 066138; Ross, PLoS ONE 9 (2014) e87357.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=5000)
    >>> y = 0.9 * x + np.sqrt(1 - 0.9**2) * rng.normal(size=5000)
    >>> round(entropic.knn_mutual_information(x, y), 2)  # the truth is 0.83
    0.82
    """
    func = "knn_mutual_information"
    check_choice(func, "method", method, METHODS)
    check_flag(func, "pointwise", pointwise)
    check_ties(func, ties, ("warn", "raise", "jitter"))
    log_base = check_base(func, base)
    arrays = [x, y, *more]
    names = ("x", "y", *(f"more[{i}]" for i in range(len(more))))
    kinds = _kinds(func, discrete, arrays)
    if any(kinds) and more:
        raise ValueError(f"{func}: labels are for two variables, got {len(arrays)}")
    generator = check_rng(func, rng)
    continuous = {name: a for name, a, kind in zip(names, arrays, kinds, strict=True) if not kind}
    backend = samples_backend(func, **continuous) if continuous else None
    variables = []
    for name, array, kind in zip(names, arrays, kinds, strict=True):
        if kind:
            variables.append(as_labels(func, name, array)[:, None].astype(np.float64))
        else:
            samples = transformed(func, as_samples(func, name, array, 2), transform)
            variables.append(jitter(func, samples, generator) if ties == "jitter" else samples)
    check_same_length(func, names, variables)
    n = len(variables[0])
    order = check_neighbors(func, k, n - 1)
    draws, groups = check_integer(func, "permutations", permutations, 0), check_integer(func, "jackknife", jackknife, 0)
    _check_groups(func, groups, n, order)
    if pointwise and (draws or groups):
        raise ValueError(f"{func}: `pointwise` excludes `permutations` and `jackknife`")
    _check_labels(func, names, variables, kinds, groups)
    dimensions = sum(v.shape[1] for v in variables)
    if method == "local_nonuniform" and not any(kinds) and order < dimensions:
        raise ValueError(
            f"{func}: `k` must be at least {dimensions}, the dimension of all variables, "
            f'for method="local_nonuniform", got {order}'
        )
    estimator = _Estimator(order, method, variables, kinds, transform == "rank")
    terms, tied = estimator.terms()
    report_ties(func, tied, ties, _TIED, _TIED_ADVICE)
    if pointwise:
        values = _at_kept(terms, variables, kinds) / log_base
        return values if backend is None else backend.wrap(values)
    value = float(terms.mean()) / log_base
    if not draws and not groups:
        return value
    null = np.array([float(estimator.permuted(generator)[0].mean()) / log_base for _ in range(draws)])
    error, corrected = _jackknife(estimator, n, groups, value, log_base)
    return InformationEstimate(
        value,
        p_value=_share_at_least(null, value) if draws else None,
        null=null if draws else None,
        standard_error=error,
        corrected=corrected,
    )


def _share_at_least(null: np.ndarray, value: float) -> float:
    """Of the permutations and the data themselves; sums in another order differ by rounding alone, and are equal."""
    return (1 + int((null >= value - 1e-13 * max(1.0, abs(value))).sum())) / (1 + len(null))


def _check_groups(func: str, groups: int, n: int, k: int) -> None:
    if groups == 1 or groups > n:
        raise ValueError(f"{func}: `jackknife` must be 0 or between 2 and n = {n}, got {groups}")
    if groups and n - math.ceil(n / groups) <= k:
        raise ValueError(f"{func}: `jackknife` leaves at most k = {k} samples")


def _check_labels(
    func: str, names: tuple[str, ...], variables: list[np.ndarray], kinds: list[bool], groups: int
) -> None:
    if sum(kinds) != 1:
        return
    place = kinds.index(True)
    labels = variables[place][:, 0].astype(np.int64)
    if (np.bincount(labels) == 1).all():
        raise ValueError(f"{func}: every label of `{names[place]}` occurs once; are its values continuous?")
    group = np.arange(len(labels)) % max(groups, 1)
    for g in range(groups):
        if np.bincount(labels[group != g]).max() < 2:
            raise ValueError(f"{func}: `jackknife` = {groups} leaves samples of which every label occurs once")


def _at_kept(terms: np.ndarray, variables: list[np.ndarray], kinds: list[bool]) -> np.ndarray:
    """Terms in the samples' places, nan for the samples that have none."""
    if len(terms) == len(variables[0]):
        return terms
    labels = variables[kinds.index(True)][:, 0].astype(np.int64)
    values = np.full(len(labels), math.nan)
    values[np.bincount(labels)[labels] > 1] = terms
    return values


def _jackknife(
    estimator: _Estimator, n: int, groups: int, value: float, log_base: float
) -> tuple[float | None, float | None]:
    """Standard error and bias-corrected value from leaving out every groups-th sample."""
    if not groups:
        return None, None
    place = np.arange(n) % groups
    partial = np.array([float(estimator.without(place == g)[0].mean()) / log_base for g in range(groups)])
    spread = float(((partial - partial.mean()) ** 2).sum()) * (groups - 1) / groups
    return math.sqrt(spread), groups * value - (groups - 1) * float(partial.mean())


# ---- conditional -----------------------------------------------------------------------------------------------------

CONDITIONAL_METHODS = ("ksg1", "mixed_paper", "tie_aware")


def _conditional_terms(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, k: int, method: str, ranks: bool, exclude: int = 0
) -> Terms:
    """Terms of I(x; y | z), in which samples at most `exclude` places apart are no neighbours."""
    n = len(x)
    whole = Space(np.hstack([x, y, z]))
    radius, tied = radius_and_ties(whole, k, min(k + 1, n - 1 - 2 * exclude), exclude, ranks=ranks)
    at_zero = radius == 0
    spaces = [Space(np.hstack([x, z])), Space(np.hstack([y, z])), Space(z)]

    def counts(radii: np.ndarray, strict: bool) -> list[np.ndarray]:
        return [space.count(radii, strict=strict, exclude=exclude) for space in spaces]

    def aware(radii: np.ndarray) -> np.ndarray:
        near = whole.count(radii, strict=False, exclude=exclude)
        xz, yz, own = (digamma_of_counts(np.maximum(c, 1)) for c in counts(radii, False))
        return np.asarray(digamma_of_counts(np.maximum(near, 1)) - xz - yz + own)

    if method == "tie_aware":
        return aware(radius), np.zeros(n, bool)
    if method == "mixed_paper":
        near = np.where(at_zero, whole.count(np.zeros(n), strict=False, exclude=exclude), k)
        xz, yz, own = (np.log(c + 1) for c in counts(radius, False))
        return np.asarray(digamma_of_counts(near) - xz - yz + own), np.zeros(n, bool)
    xz, yz, own = (digamma_of_counts(c + 1) for c in counts(radius, True))
    terms = digamma(k) - xz - yz + own
    return np.where(at_zero, aware(np.zeros(n)), terms) if at_zero.any() else terms, tied


def _check_window(func: str, n: int, k: int, exclude: int) -> None:
    if n - 1 - 2 * exclude < k:
        raise ValueError(
            f"{func}: `theiler` = {exclude} leaves samples in the middle with {max(0, n - 1 - 2 * exclude)} candidates "
            f"of {n - 1}, fewer than k = {k}"
        )


def knn_conditional_mutual_information(
    x: Array,
    y: Array,
    z: Array,
    *,
    k: int = 3,
    method: str = "ksg1",
    ties: str = "warn",
    transform: str | None = None,
    base: float | None = None,
    pointwise: bool = False,
    rng: Any = None,
) -> Any:
    """Conditional mutual information I(x; y | z): psi(k) - mean(psi(n_xz + 1) + psi(n_yz + 1) - psi(n_z + 1)).

    The counts are of the samples that are, in the coordinates of (x, z), (y, z) and z, nearer than the k-th neighbour
    in all of them.

    Parameters
    ----------
    x, y, z : array, shape (n,) or (n, d)
        Samples. A z of shape (n, 0) has nothing to say, and the mutual information of x and y remains.
    k : int
        Neighbours, less than n.
    method : {"ksg1", "mixed_paper", "tie_aware"}
        Frenzel and Pompe's estimate, or for variables that are discrete in part those of Rahimzamani and others and of
        Mesner and Shalizi.
    ties, transform, base, pointwise, rng
        As in :func:`knn_mutual_information`.

    Returns
    -------
    float, or array of shape (n,)

    Raises
    ------
    TypeError, ValueError
        As in :func:`knn_mutual_information`.

    Notes
    -----
    One search and three counts, at the cost of :func:`nearest_neighbors` and :func:`count_within`. The bias grows with
    the dimension of z, towards 0. Backends: CPU.

    References
    ----------
    Frenzel and Pompe, Phys. Rev. Lett. 99 (2007) 204101; Mesner and Shalizi, IEEE Trans. Inf. Theory 67 (2021) 464.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=4000)
    >>> x, y = z + rng.normal(size=4000), z + rng.normal(size=4000)
    >>> round(abs(entropic.knn_conditional_mutual_information(x, y, z)), 1)
    0.0
    """
    func = "knn_conditional_mutual_information"
    check_choice(func, "method", method, CONDITIONAL_METHODS)
    check_flag(func, "pointwise", pointwise)
    backend = samples_backend(func, x=x, y=y, z=z)
    log_base = check_base(func, base)
    check_ties(func, ties, ("warn", "raise", "jitter"))
    given = {"x": x, "y": y, "z": z}
    unconditional = getattr(z, "ndim", None) == 2 and z.shape[1] == 0
    if unconditional:
        del given["z"]
    variables = [transformed(func, as_samples(func, name, a, 2), transform) for name, a in given.items()]
    check_same_length(func, ("x", "y", "z"), [*variables, z] if unconditional else variables)
    order = check_neighbors(func, k, len(variables[0]) - 1)
    if ties == "jitter":
        generator = check_rng(func, rng)
        variables = [jitter(func, v, generator) for v in variables]
    ranks = transform == "rank"
    if unconditional:
        terms, tied = _Estimator(order, method, variables, [False, False], ranks).terms()
    else:
        terms, tied = _conditional_terms(variables[0], variables[1], variables[2], order, method, ranks)
    report_ties(func, tied, ties, _TIED, _TIED_ADVICE)
    return backend.wrap(terms / log_base) if pointwise else float(terms.mean()) / log_base


def _lagged(series: np.ndarray, start: int, lags: range) -> np.ndarray:
    """Rows t = start.. of the values at t - lag for each of the lags."""
    return np.hstack([series[start - lag : len(series) - lag] for lag in lags])


def transfer_entropy(
    source: Array,
    target: Array,
    *,
    k: int = 3,
    source_lags: int = 1,
    target_lags: int = 1,
    delay: int = 1,
    theiler: int = 0,
    condition: Array | None = None,
    method: str = "ksg1",
    ties: str = "warn",
    transform: str | None = None,
    base: float | None = None,
    pointwise: bool = False,
    permutations: int = 0,
    rng: Any = None,
) -> Any:
    """Transfer entropy from a series to another: I(target's next value; source's past | target's past).

    With l = `source_lags`, m = `target_lags` and u = `delay` it is ``I(y_t; x_(t-u), ..., x_(t-u-l+1) | y_(t-1), ...,
    y_(t-m))``, beside ``c_(t-1)`` if there is a `condition`.

    Parameters
    ----------
    source, target : array, shape (n,) or (n, d)
        Simultaneous series, first values first.
    k : int
        Neighbours.
    source_lags, target_lags : int
        How many values of the past count.
    delay : int
        From the source's latest value to the target's next one, at least 1.
    theiler : int
        Moments at most that far apart are no neighbours, so that the continuity of a trajectory is not taken for
        dependence. 0 leaves out only a moment itself.
    condition : array, shape (n,) or (n, d), optional
        Further series whose last values are known.
    method, ties, base, rng
        As in :func:`knn_conditional_mutual_information`.
    transform : {None, "standardize", "rank"}
        Of the whole series, before they are cut into pasts.
    pointwise : bool
        Return the term of each moment from the first that has a whole past.
    permutations : int
        Compare with that many estimates whose source's pasts are shuffled among the moments, for a p-value.

    Returns
    -------
    float, array, or InformationEstimate
        The last one with `permutations`.

    Raises
    ------
    TypeError, ValueError
        As in :func:`knn_conditional_mutual_information`; for series of different lengths, too short for their pasts and
        k, and a `theiler` that leaves fewer than k candidates.

    Notes
    -----
    The cost is that of :func:`knn_conditional_mutual_information`. Backends: CPU.

    References
    ----------
    Schreiber, Phys. Rev. Lett. 85 (2000) 461; Wibral and others, PLoS ONE 8 (2013) e55809, for the delay.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).normal(size=5000)
    >>> y = np.roll(x, 1) + np.random.default_rng(1).normal(size=5000)
    >>> round(entropic.transfer_entropy(x, y), 2), round(entropic.transfer_entropy(y, x), 2)  # log(2) / 2 and 0
    (0.35, 0.01)
    """
    func = "transfer_entropy"
    check_choice(func, "method", method, CONDITIONAL_METHODS)
    check_flag(func, "pointwise", pointwise)
    backend = samples_backend(func, source=source, target=target, condition=condition)
    log_base = check_base(func, base)
    check_ties(func, ties, ("warn", "raise", "jitter"))
    own, others = check_integer(func, "target_lags", target_lags, 1), check_integer(func, "source_lags", source_lags, 1)
    lag, window = check_integer(func, "delay", delay, 1), check_integer(func, "theiler", theiler, 0)
    draws, generator = check_integer(func, "permutations", permutations, 0), check_rng(func, rng)
    if pointwise and draws:
        raise ValueError(f"{func}: `pointwise` excludes `permutations`")
    given = {"source": source, "target": target} | ({} if condition is None else {"condition": condition})
    series = [transformed(func, as_samples(func, name, a, 2), transform) for name, a in given.items()]
    check_same_length(func, tuple(given), series)
    if ties == "jitter":
        series = [jitter(func, s, generator) for s in series]
    start = max(own, lag + others - 1)
    moments = len(series[0]) - start
    if moments < 2:
        raise ValueError(f"{func}: {len(series[0])} values leave {max(0, moments)} moments with a past of {start}")
    order = check_neighbors(func, k, moments - 1)
    _check_window(func, moments, order, window)
    x = _lagged(series[0], start, range(lag, lag + others))
    y = series[1][start:]
    z = np.hstack([_lagged(series[1], start, range(1, own + 1)), *(_lagged(s, start, range(1, 2)) for s in series[2:])])
    ranks = transform == "rank"
    terms, tied = _conditional_terms(x, y, z, order, method, ranks, window)
    report_ties(func, tied, ties, _TIED, _TIED_ADVICE)
    if pointwise:
        return backend.wrap(terms / log_base)
    value = float(terms.mean()) / log_base
    if not draws:
        return value
    null = np.array(
        [
            float(_conditional_terms(generator.permutation(x), y, z, order, method, ranks, window)[0].mean()) / log_base
            for _ in range(draws)
        ]
    )
    return InformationEstimate(value, p_value=_share_at_least(null, value), null=null)
