"""Minimum-entropy couplings with certificates, couplings through a bottleneck, and entropic causal inference."""

from ._batch import CouplingBatch, minimum_entropy_coupling_batch
from ._bottleneck import (
    BottleneckCoupling,
    BottleneckCurve,
    BottleneckEncoder,
    bottleneck_coupling,
    bottleneck_curve,
    bottleneck_encoder,
)
from ._causal import EntropicDirection, entropic_direction, exogenous_entropy
from ._coupling import Coupling, coupling_lower_bound, minimum_entropy_coupling
from ._iterative import IterativeCoupling

__all__ = [
    "BottleneckCoupling",
    "BottleneckCurve",
    "BottleneckEncoder",
    "Coupling",
    "CouplingBatch",
    "EntropicDirection",
    "IterativeCoupling",
    "bottleneck_coupling",
    "bottleneck_curve",
    "bottleneck_encoder",
    "coupling_lower_bound",
    "entropic_direction",
    "exogenous_entropy",
    "minimum_entropy_coupling",
    "minimum_entropy_coupling_batch",
]
