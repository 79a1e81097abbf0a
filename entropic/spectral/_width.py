"""Widths of Gaussian kernels: given, or by the median rule, which has a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._validate import check_choice, check_positive
from ..transport._geometry import PointCloud, as_geometry
from ._operators import scaled_points

# Pairs among so many points give the median distance.
_MEDIAN_POINTS = 2048


@dataclass(frozen=True)
class MedianWidth:
    """Half the median squared distance is its square; the median is the mean of the squares of `pairs` (count, 2)."""

    value: float
    pairs: np.ndarray


def median_width(x: np.ndarray) -> MedianWidth:
    step = -(-len(x) // _MEDIAN_POINTS)
    some, exponent = scaled_points(x[::step])
    upper = np.triu_indices(len(some), 1)
    squares = as_geometry("median", PointCloud(some, some)).cost_rows(0, len(some)).reshape(len(some), -1)[upper]
    middle = np.unique([(len(squares) - 1) // 2, len(squares) // 2])
    at = np.argpartition(squares, middle)[middle]
    width = float(np.ldexp(math.sqrt(float(squares[at].mean()) / 2), exponent))
    return MedianWidth(width, step * np.column_stack([upper[0][at], upper[1][at]]))


def check_sigma(func: str, sigma: Any, x: np.ndarray) -> float:
    """A width, or that of the median rule."""
    if not isinstance(sigma, str):
        return check_positive(func, "sigma", sigma)
    check_choice(func, "sigma", sigma, ("median",))
    if len(x) < 2:
        raise ValueError(f'{func}: sigma="median" needs at least two points, got {len(x)}')
    width = median_width(x).value
    if not 0 < width < math.inf:
        raise ValueError(f'{func}: sigma="median" is {width}, for more than half of all pairs: give a number')
    return width


def pull_width(x: np.ndarray, sigma: Any, grad: np.ndarray) -> np.ndarray:
    """The gradient to points from that with the width held fixed, of a function of x / sigma.

    Such a function's derivatives satisfy sum x df/dx + sigma df/dsigma = 0 (Euler), about any origin.
    """
    if not isinstance(sigma, str):
        return grad
    width = median_width(x)
    unit = (x - x[0]) / width.value
    by_log_sigma = -float((unit * grad).sum())
    total, share = grad.copy(), by_log_sigma / (2 * len(width.pairs))
    for i, j in width.pairs:
        apart = unit[i] - unit[j]
        total[i] += share * apart
        total[j] -= share * apart
    return total
