"""Matrix-based Renyi entropies: of normalised kernel matrices, their Hadamard products, and mutual information."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._backend import Array
from .._validate import check_base, check_choice
from ..neighbors._search import as_samples, check_same_length, samples_backend
from ._diffusion import check_symmetric
from ._eigen import eigenvalues
from ._matrix import check_order, divided, renyi, settled
from ._operators import PointAffinity, point_affinity
from ._width import check_sigma


@dataclass(frozen=True)
class Variables:
    """Kernels of several variables; samples over their widths, or normalised matrices."""

    func: str
    order: float
    log_base: float
    samples: list[np.ndarray] | None
    given: list[Any]
    """Widths as they were asked for."""
    widths: list[float]
    matrices: list[np.ndarray] | None

    @property
    def n(self) -> int:
        return len((self.samples or self.matrices or [])[0])

    def kernel(self, which: tuple[int, ...]) -> np.ndarray:
        """The Hadamard product with a unit diagonal; of Gaussian kernels that of the variables side by side."""
        if self.matrices is not None:
            return np.asarray(np.prod([self.matrices[i] for i in which], axis=0))
        return self._points(which).dense()

    def _points(self, which: tuple[int, ...]) -> PointAffinity:
        assert self.samples is not None
        points = np.hstack([self.samples[i] / self.widths[i] for i in which])
        return point_affinity(points, 1.0, math.sqrt(0.5), positive=True)

    def entropy(self, which: tuple[int, ...]) -> float:
        if self.order == 2 and self.samples is not None:  # tr A^2 is a sum over the elements
            ones = np.ones(self.n)
            squares = math.fsum(self._points(which).product_and_squares(ones[:, None], ones)[1])
            return max(0.0, -math.log(squares / self.n**2) / self.log_base)
        spectrum = settled(eigenvalues(self.kernel(which)))
        return float(divided(renyi(self.order), self.log_base)(spectrum)[0])

    def slope(self, which: tuple[int, ...]) -> tuple[float, np.ndarray, np.ndarray]:
        """The entropy, its gradient to the kernel, and the kernel."""
        kernel = self.kernel(which)
        values, vectors = np.linalg.eigh(kernel)
        value, slope = divided(renyi(self.order), self.log_base)(settled(values))
        return float(value), (vectors * slope) @ vectors.T, kernel


def variables_of(func: str, arrays: tuple[Array, ...], sigma: Any, order: Any, kernel: Any, base: Any) -> Variables:
    check_choice(func, "kernel", kernel, ("gaussian", "precomputed"))
    log_base, power = check_base(func, base), check_order(func, order)
    names = tuple(f"variable {i + 1}" for i in range(len(arrays)))
    samples_backend(func, **dict(zip(names, arrays, strict=True)))
    samples = [as_samples(func, name, array) for name, array in zip(names, arrays, strict=True)]
    check_same_length(func, names, samples)
    if kernel == "precomputed":
        if not isinstance(sigma, str) or sigma != "median":
            raise ValueError(f'{func}: `sigma` is not for kernel="precomputed", got {sigma!r}')
        matrices = [_normalised(func, check_symmetric(func, name, s)) for name, s in zip(names, samples, strict=True)]
        return Variables(func, power, log_base, None, [], [], matrices)
    given = list(sigma) if isinstance(sigma, list | tuple) else [sigma] * len(samples)
    if len(given) != len(samples):
        raise ValueError(f"{func}: `sigma` must be one width or {len(samples)}, got {len(given)}")
    widths = [check_sigma(func, width, s) for width, s in zip(given, samples, strict=True)]
    return Variables(func, power, log_base, samples, given, widths, None)


def _normalised(func: str, matrix: np.ndarray) -> np.ndarray:
    if not (np.diag(matrix) > 0).all():
        raise ValueError(f"{func}: kernels must have a positive diagonal")
    roots = np.sqrt(np.diag(matrix))
    return np.asarray(matrix / roots[:, None] / roots)


def matrix_renyi_entropy(
    x: Array, *more: Array, sigma: Any = "median", order: float = 1.01, kernel: str = "gaussian",
    base: float | None = 2.0,
) -> float:  # fmt: skip
    """Renyi's entropy of a kernel matrix: log(tr A^a) / (1 - a) with A_ij = K_ij / (n sqrt(K_ii K_jj)).

    Parameters
    ----------
    x, *more : array, shape (n, d) or (n,)
        Samples of one variable, or of several, whose kernels are then multiplied element by element for their joint
        entropy; or kernels (n, n) with ``kernel="precomputed"``.
    sigma : float or "median", or a list of them
        Width of the Gaussian kernel, ``exp(-|x_i - x_j|^2 / (2 sigma^2))``, for all variables or for each; "median" as
        in :func:`diffusion_spectral_entropy`.
    order : float
        a > 0; 1 is von Neumann's entropy, which the usual 1.01 is close to.
    kernel : {"gaussian", "precomputed"}
        Precomputed kernels are symmetric, and positive semidefinite: negative eigenvalues count as 0.
    base : float, optional
        Base of the logarithm: bits by default, nats for None.

    Returns
    -------
    float
        Between 0, for samples that are all the same, and log n, for samples that have nothing in common.

    Raises
    ------
    TypeError, ValueError
        For samples that are not finite or of different lengths, widths or orders that are not positive, and kernels
        that are not symmetric.

    Notes
    -----
    O(n^3) time and O(n^2) memory; O(n^2) and O(n) for order 2 of Gaussian kernels, where the trace is a sum over the
    elements. :func:`entropic.vjp` has the gradients. Backends: CPU.

    References
    ----------
    Sanchez Giraldo, Rao and Principe, IEEE Trans. Inf. Theory 61 (2015) 535; Yu, Sanchez Giraldo, Jenssen and Principe,
    IEEE Trans. Pattern Anal. Mach. Intell. 42 (2020) 2960.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> round(entropic.matrix_renyi_entropy(100.0 * np.arange(8), sigma=1.0), 6)  # 8 samples that are far apart
    3.0
    """
    variables = variables_of("matrix_renyi_entropy", (x, *more), sigma, order, kernel, base)
    return variables.entropy(tuple(range(1 + len(more))))


def matrix_mutual_information(
    x: Array, y: Array, *, sigma: Any = "median", order: float = 1.01, kernel: str = "gaussian",
    base: float | None = 2.0,
) -> float:  # fmt: skip
    """Mutual information of kernel matrices: S(A) + S(B) - S(A, B) with matrix-based Renyi entropies S.

    Parameters
    ----------
    x, y : array, shape (n, d) or (n,)
        Samples of two variables; or kernels (n, n) with ``kernel="precomputed"``.
    sigma, order, kernel, base
        As in :func:`matrix_renyi_entropy`.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As :func:`matrix_renyi_entropy`.

    Notes
    -----
    The cost is that of three entropies. :func:`entropic.vjp` has the gradients. Backends: CPU.

    References
    ----------
    Sanchez Giraldo, Rao and Principe, IEEE Trans. Inf. Theory 61 (2015) 535.

    Examples
    --------
    >>> import numpy as np, entropic
    >>> x = 100.0 * np.arange(8)
    >>> round(entropic.matrix_mutual_information(x, x, sigma=1.0), 6)
    3.0
    """
    variables = variables_of("matrix_mutual_information", (x, y), sigma, order, kernel, base)
    return variables.entropy((0,)) + variables.entropy((1,)) - variables.entropy((0, 1))
