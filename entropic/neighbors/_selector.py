"""Feature selection as an estimator of scikit-learn, which must be installed for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .._validate import check_integer
from ._matrix import mutual_information_matrix


class MutualInformationSelector(SelectorMixin, BaseEstimator):  # type: ignore[misc]
    """Keep the features that have the most mutual information with the target.

    Parameters
    ----------
    n_features : int or float
        How many features to keep: a number, at most all of them, or a share between 0 and 1.
    n_neighbors : int
        Neighbours of the estimates; fewer where there are no more samples.
    discrete_features : None, bool or array of bool, shape (n_features_in,)
        Which features hold labels; none by default.
    discrete_target : bool
        Whether the target holds labels (classification). Strings and booleans always do.
    scaling : {"standardize", "rank", None}
        The `transform` of the continuous columns, as in :func:`entropic.knn_mutual_information`.

    Attributes
    ----------
    scores_ : array, shape (n_features_in,)
        Mutual information with the target, in nats.
    n_features_in_ : int
        Features seen by `fit`.

    Notes
    -----
    The scores are those of :func:`entropic.mutual_information_matrix`. Of features with equal scores the first are
    kept.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = np.random.default_rng(0).normal(size=(500, 4))
    >>> selector = entropic.MutualInformationSelector(n_features=1).fit(x, x[:, 2] ** 2)
    >>> selector.get_support(indices=True)
    array([2])
    """

    def __init__(
        self,
        n_features: int | float = 10,
        *,
        n_neighbors: int = 3,
        discrete_features: Any = None,
        discrete_target: bool = False,
        scaling: str | None = "standardize",
    ) -> None:
        self.n_features = n_features
        self.n_neighbors = n_neighbors
        self.discrete_features = discrete_features
        self.discrete_target = discrete_target
        self.scaling = scaling

    def fit(self, X: Any, y: Any) -> MutualInformationSelector:
        """Score the features of `X`, shape (n, d), by what they tell about `y`, shape (n,)."""
        func = "MutualInformationSelector"
        x, y = validate_data(self, X, y, dtype="numeric", ensure_min_samples=2)
        discrete = self.discrete_target or y.dtype.kind in "bOSU"
        if discrete:
            check_classification_targets(y)
        self._kept = self._how_many(func, x.shape[1])
        neighbors = min(check_integer(func, "n_neighbors", self.n_neighbors, 1), len(x) - 1)
        self.scores_ = np.asarray(
            mutual_information_matrix(
                np.asarray(x),
                np.unique(y, return_inverse=True)[1] if discrete else y,
                k=neighbors,
                discrete=self.discrete_features,
                discrete_y=discrete,
                transform=self.scaling,
            )
        )
        return self

    def _how_many(self, func: str, features: int) -> int:
        if isinstance(self.n_features, float):
            if not 0 < self.n_features <= 1:
                raise ValueError(f"{func}: `n_features` must be an integer or a share in (0, 1], got {self.n_features}")
            return max(1, math.floor(self.n_features * features + 0.5))
        return min(check_integer(func, "n_features", self.n_features, 1), features)

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        mask = np.zeros(len(self.scores_), bool)
        mask[np.argsort(-self.scores_, kind="stable")[: self._kept]] = True
        return mask

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
