"""Optimal transport: entropic, relaxed, partial and exact; bridges, inverse problems and closed forms."""

from . import _rules  # noqa: F401  (registers the gradients)
from ._barycenter import Barycenter, barycenter, free_support_barycenter
from ._bridge import SchrodingerBridge, schrodinger_bridge
from ._divergence import SinkhornDivergence, semidual, sinkhorn_divergence
from ._exact import ExactTransport, transport_exact
from ._gaussian import GaussianTransport, bures_cost, gaussian_transport
from ._geometry import Grid, PointCloud
from ._inverse import InverseTransport, inverse_transport
from ._low_rank import LowRankTransport, low_rank_sinkhorn
from ._one_dimensional import wasserstein_1d
from ._sinkhorn import SinkhornResult, sinkhorn
from ._sliced import sliced_wasserstein
from ._sparse import SparseTransport, sparse_transport

__all__ = [
    "Barycenter",
    "ExactTransport",
    "GaussianTransport",
    "Grid",
    "InverseTransport",
    "LowRankTransport",
    "PointCloud",
    "SchrodingerBridge",
    "SinkhornDivergence",
    "SinkhornResult",
    "SparseTransport",
    "barycenter",
    "bures_cost",
    "free_support_barycenter",
    "gaussian_transport",
    "inverse_transport",
    "low_rank_sinkhorn",
    "schrodinger_bridge",
    "semidual",
    "sinkhorn",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "sparse_transport",
    "transport_exact",
    "wasserstein_1d",
]
