"""Entropies of spectra, of diffusion operators, kernels and covariances, and of kernel densities."""

from . import _rules  # noqa: F401  (registers the gradients)
from ._covariance import CovarianceStream
from ._density import (
    cauchy_schwarz_conditional,
    cauchy_schwarz_divergence,
    cauchy_schwarz_mutual_information,
    kde_entropy,
    mixture_entropy,
)
from ._diffusion import (
    DiffusionSpectrum,
    DSEResult,
    DSMIResult,
    diffusion_spectral_entropy,
    diffusion_spectral_mutual_information,
    diffusion_spectrum,
)
from ._matrix import (
    coding_rate,
    coding_rate_reduction,
    effective_rank,
    matrix_entropy,
    participation_ratio,
    spectral_decay,
    stable_rank,
    truncated_matrix_entropy,
    von_neumann_entropy,
)
from ._renyi import matrix_mutual_information, matrix_renyi_entropy

__all__ = [
    "CovarianceStream",
    "DSEResult",
    "DSMIResult",
    "DiffusionSpectrum",
    "cauchy_schwarz_conditional",
    "cauchy_schwarz_divergence",
    "cauchy_schwarz_mutual_information",
    "coding_rate",
    "coding_rate_reduction",
    "diffusion_spectral_entropy",
    "diffusion_spectral_mutual_information",
    "diffusion_spectrum",
    "effective_rank",
    "kde_entropy",
    "matrix_entropy",
    "matrix_mutual_information",
    "matrix_renyi_entropy",
    "mixture_entropy",
    "participation_ratio",
    "spectral_decay",
    "stable_rank",
    "truncated_matrix_entropy",
    "von_neumann_entropy",
]
