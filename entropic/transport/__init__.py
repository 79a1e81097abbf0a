"""Optimal transport: entropic, relaxed, partial and exact; bridges, inverse problems and closed forms."""

from ._bridge import SchrodingerBridge, schrodinger_bridge
from ._exact import ExactTransport, transport_exact
from ._gaussian import GaussianTransport, bures_cost, gaussian_transport
from ._geometry import Grid, PointCloud
from ._inverse import InverseTransport, inverse_transport
from ._one_dimensional import wasserstein_1d
from ._sinkhorn import SinkhornResult, sinkhorn
from ._sliced import sliced_wasserstein

__all__ = [
    "ExactTransport",
    "GaussianTransport",
    "Grid",
    "InverseTransport",
    "PointCloud",
    "SchrodingerBridge",
    "SinkhornResult",
    "bures_cost",
    "gaussian_transport",
    "inverse_transport",
    "schrodinger_bridge",
    "sinkhorn",
    "sliced_wasserstein",
    "transport_exact",
    "wasserstein_1d",
]
