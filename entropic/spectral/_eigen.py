"""Eigenvalues of symmetric matrices."""

from __future__ import annotations

import numpy as np

from .. import _core


def eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """Those of float64 matrices (..., n, n), ascending (..., n); to rounding beside the largest."""
    n = matrix.shape[-1]
    found: np.ndarray = _core.symmetric_eigenvalues(np.ascontiguousarray(matrix).reshape(-1, n, n))
    return found.reshape(*matrix.shape[:-2], n)
