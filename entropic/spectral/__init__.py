"""Entropies of spectra, of diffusion operators, kernels and covariances, and of kernel densities."""

from ._diffusion import (
    DiffusionSpectrum,
    DSEResult,
    DSMIResult,
    diffusion_spectral_entropy,
    diffusion_spectral_mutual_information,
    diffusion_spectrum,
)

__all__ = [
    "DSEResult",
    "DSMIResult",
    "DiffusionSpectrum",
    "diffusion_spectral_entropy",
    "diffusion_spectral_mutual_information",
    "diffusion_spectrum",
]
