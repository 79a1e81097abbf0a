"""Entropy, mutual information, divergence and dimension of samples, from exact nearest neighbours."""

from typing import Any

from . import _rules  # noqa: F401  (registers the gradients)
from ._dimension import intrinsic_dimension, local_intrinsic_dimension
from ._divergence import alpha_divergence, knn_divergence
from ._entropy import EntropyEstimate, knn_entropy
from ._information import (
    InformationEstimate,
    knn_conditional_mutual_information,
    knn_mutual_information,
    transfer_entropy,
)
from ._matrix import mutual_information_matrix
from ._search import count_within, nearest_neighbors
from ._spacing import spacing_entropy

__all__ = [
    "EntropyEstimate",
    "InformationEstimate",
    "alpha_divergence",
    "count_within",
    "intrinsic_dimension",
    "knn_conditional_mutual_information",
    "knn_divergence",
    "knn_entropy",
    "knn_mutual_information",
    "local_intrinsic_dimension",
    "mutual_information_matrix",
    "nearest_neighbors",
    "spacing_entropy",
    "transfer_entropy",
]


def __getattr__(name: str) -> Any:
    # A class of scikit-learn's, which is not needed for anything else and is not imported before.
    if name == "MutualInformationSelector":
        from ._selector import MutualInformationSelector

        return MutualInformationSelector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
