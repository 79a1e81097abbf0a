"""Entropic computations for NumPy and CuPy, compiled.

Every public function is here and in the module of its family: :mod:`entropic.logits` (log-sum-exp, softmax, statistics
and losses of logits and tokens), :mod:`entropic.transport` (entropic, relaxed, partial and exact optimal transport),
:mod:`entropic.coupling` (minimum-entropy couplings, bottlenecks, messages in sequences, causal direction),
:mod:`entropic.neighbors` (entropy, mutual information, divergence and dimension of samples) and
:mod:`entropic.spectral` (entropies of diffusion operators, kernels and covariances). :mod:`entropic.torch` has those
with a gradient as functions of torch.
"""

import importlib.util as _importlib_util
import sys as _sys
from pathlib import Path as _Path

if _importlib_util.find_spec("entropic._core") is None:
    # This is the source folder, found before the installed package because Python was started in its parent: step
    # aside for the installed one.
    _here = _Path(__file__).resolve().parent
    for _entry in _sys.path:
        _folder = _Path(_entry or ".").resolve() / "entropic"
        if _folder != _here and any(_folder.glob("_core.*")):
            __path__[:] = [str(_folder)]
            break
    else:
        raise ImportError(
            f"entropic is not compiled: {_here} is the source folder, and no installed entropic was found. "
            "Install it with: python -m pip install ."
        )

from ._config import force_isa_from_environment as _force_isa_from_environment
from ._config import show_config
from ._core import version as __version__
from ._errors import ConvergenceWarning, DeviceError, TiesWarning
from ._threads import get_num_threads, num_threads, set_num_threads
from ._vjp import vjp
from .coupling import (
    BottleneckCoupling,
    BottleneckCurve,
    BottleneckEncoder,
    Coupling,
    CouplingBatch,
    EntropicDirection,
    IterativeCoupling,
    bottleneck_coupling,
    bottleneck_curve,
    bottleneck_encoder,
    coupling_lower_bound,
    entropic_direction,
    exogenous_entropy,
    minimum_entropy_coupling,
    minimum_entropy_coupling_batch,
)
from .logits import (
    LogitStats,
    LogSumExp,
    attention_entropy,
    cross_entropy,
    divergence,
    donsker_varadhan,
    entropy_change,
    info_nce,
    linear_cross_entropy,
    linear_logit_stats,
    log_softmax,
    logcumsumexp,
    logit_stats,
    logmeanexp,
    logsumexp,
    marginal_entropy,
    nwj,
    plackett_luce_nll,
    row_entropy,
    segment_logsumexp,
    semantic_entropy,
    soft_nearest_entropy,
    softmax,
    softmax_entropy,
)
from .neighbors import (
    EntropyEstimate,
    InformationEstimate,
    alpha_divergence,
    count_within,
    intrinsic_dimension,
    knn_conditional_mutual_information,
    knn_divergence,
    knn_entropy,
    knn_mutual_information,
    local_intrinsic_dimension,
    mutual_information_matrix,
    nearest_neighbors,
    spacing_entropy,
    transfer_entropy,
)
from .spectral import (
    CovarianceStream,
    DiffusionSpectrum,
    DSEResult,
    DSMIResult,
    cauchy_schwarz_conditional,
    cauchy_schwarz_divergence,
    cauchy_schwarz_mutual_information,
    coding_rate,
    coding_rate_reduction,
    diffusion_spectral_entropy,
    diffusion_spectral_mutual_information,
    diffusion_spectrum,
    effective_rank,
    kde_entropy,
    matrix_entropy,
    matrix_mutual_information,
    matrix_renyi_entropy,
    mixture_entropy,
    participation_ratio,
    spectral_decay,
    stable_rank,
    truncated_matrix_entropy,
    von_neumann_entropy,
)
from .transport import (
    Barycenter,
    ExactTransport,
    GaussianTransport,
    Grid,
    InverseTransport,
    LowRankTransport,
    PointCloud,
    SchrodingerBridge,
    SinkhornDivergence,
    SinkhornResult,
    SparseTransport,
    barycenter,
    bures_cost,
    free_support_barycenter,
    gaussian_transport,
    inverse_transport,
    low_rank_sinkhorn,
    schrodinger_bridge,
    semidual,
    sinkhorn,
    sinkhorn_divergence,
    sliced_wasserstein,
    sparse_transport,
    transport_exact,
    wasserstein_1d,
)

_force_isa_from_environment()

__all__ = [
    "Barycenter",
    "BottleneckCoupling",
    "BottleneckCurve",
    "BottleneckEncoder",
    "ConvergenceWarning",
    "Coupling",
    "CouplingBatch",
    "CovarianceStream",
    "DSEResult",
    "DSMIResult",
    "DeviceError",
    "DiffusionSpectrum",
    "EntropicDirection",
    "EntropyEstimate",
    "ExactTransport",
    "GaussianTransport",
    "Grid",
    "InformationEstimate",
    "InverseTransport",
    "IterativeCoupling",
    "LogSumExp",
    "LogitStats",
    "LowRankTransport",
    "PointCloud",
    "SchrodingerBridge",
    "SinkhornDivergence",
    "SinkhornResult",
    "SparseTransport",
    "TiesWarning",
    "__version__",
    "alpha_divergence",
    "attention_entropy",
    "barycenter",
    "bottleneck_coupling",
    "bottleneck_curve",
    "bottleneck_encoder",
    "bures_cost",
    "cauchy_schwarz_conditional",
    "cauchy_schwarz_divergence",
    "cauchy_schwarz_mutual_information",
    "coding_rate",
    "coding_rate_reduction",
    "count_within",
    "coupling_lower_bound",
    "cross_entropy",
    "diffusion_spectral_entropy",
    "diffusion_spectral_mutual_information",
    "diffusion_spectrum",
    "divergence",
    "donsker_varadhan",
    "effective_rank",
    "entropic_direction",
    "entropy_change",
    "exogenous_entropy",
    "free_support_barycenter",
    "gaussian_transport",
    "get_num_threads",
    "info_nce",
    "intrinsic_dimension",
    "inverse_transport",
    "kde_entropy",
    "knn_conditional_mutual_information",
    "knn_divergence",
    "knn_entropy",
    "knn_mutual_information",
    "linear_cross_entropy",
    "linear_logit_stats",
    "local_intrinsic_dimension",
    "log_softmax",
    "logcumsumexp",
    "logit_stats",
    "logmeanexp",
    "logsumexp",
    "low_rank_sinkhorn",
    "marginal_entropy",
    "matrix_entropy",
    "matrix_mutual_information",
    "matrix_renyi_entropy",
    "minimum_entropy_coupling",
    "minimum_entropy_coupling_batch",
    "mixture_entropy",
    "mutual_information_matrix",
    "nearest_neighbors",
    "num_threads",
    "nwj",
    "participation_ratio",
    "plackett_luce_nll",
    "row_entropy",
    "schrodinger_bridge",
    "segment_logsumexp",
    "semantic_entropy",
    "semidual",
    "set_num_threads",
    "show_config",
    "sinkhorn",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "soft_nearest_entropy",
    "softmax",
    "softmax_entropy",
    "spacing_entropy",
    "sparse_transport",
    "spectral_decay",
    "stable_rank",
    "transfer_entropy",
    "transport_exact",
    "truncated_matrix_entropy",
    "vjp",
    "von_neumann_entropy",
    "wasserstein_1d",
]


def __getattr__(name: str) -> object:
    # It needs scikit-learn, which is imported only for those who ask for it.
    if name == "MutualInformationSelector":
        from .neighbors import MutualInformationSelector

        return MutualInformationSelector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
