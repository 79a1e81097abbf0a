"""Entropies of a spectrum from quadratures of random vectors, with the traces that are known as controls."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ._lanczos import Product
from ._operators import Diffusion

# Of stochastic intervals: more than the 99 % that is promised, for the bias of a quadrature with few nodes.
_CONFIDENCE = 0.999

# Of `tol`, by which intervals are wider on each side: for errors so small that they say nothing in a few nodes.
UNSEEN = 0.02

# t beyond which quadratures take too many nodes.
LARGEST_TIME = 2000.0

# Vectors whose quadratures stand for the largest eigenvalues where many small problems are sampled: one step of
# subspace iteration, from the constant function and random ones.
SKETCH = 8


def _steps(times: np.ndarray) -> list[int]:
    """Numbers of nodes to look at: x^t is a polynomial of degree sqrt(2 t log(1 / error)) but for that error."""
    steps = [max(4, 2 * math.ceil(math.sqrt(18 * times.max()) / 4))]
    while steps[-1] < max(48, 2 * steps[0]):
        steps.append(2 * math.ceil(0.55 * steps[-1] + 0.5))
    return steps


class Quadratures:
    """Gauss nodes and weights with z' f(K) z ~ sum weights f(nodes), one column z each, for growing numbers of nodes.

    Plain recurrences: orthogonality is lost, which repeats nodes and shares their weight, and leaves sums alone.
    """

    def __init__(self, product: Product, columns: np.ndarray) -> None:
        self._product = product
        self._norms = np.linalg.norm(columns, axis=0)
        self._current = columns / np.where(self._norms > 0, self._norms, 1.0)
        self._previous = np.zeros_like(columns)
        self._diagonal: list[np.ndarray] = []
        self._between: list[np.ndarray] = []

    def advance(self, steps: int) -> None:
        """Up to `steps` nodes."""
        while len(self._diagonal) < steps:
            following = self._product(self._current)
            if self._between:
                following -= self._previous * self._between[-1]
            self._diagonal.append(np.einsum("ij,ij->j", self._current, following))
            following -= self._current * self._diagonal[-1]
            self._between.append(np.linalg.norm(following, axis=0))
            self._previous = self._current
            self._current = following / np.where(self._between[-1] > 0, self._between[-1], 1.0)

    def moments(self) -> np.ndarray:
        """z' z, z' K z and z' K^2 z, which the first step tells exactly."""
        first, rest = self._diagonal[0], self._between[0]
        return np.asarray(np.stack([np.ones_like(first), first, first**2 + rest**2]) * self._norms**2)

    def rules(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights (columns, nodes)."""
        self.advance(steps)
        at = np.arange(steps)
        t = np.zeros((len(self._norms), steps, steps))
        t[:, at, at] = np.stack(self._diagonal[:steps], axis=1)
        t[:, at[:-1], at[1:]] = t[:, at[1:], at[:-1]] = np.stack(self._between[:steps], axis=1)[:, :-1]
        nodes, vectors = np.linalg.eigh(t)
        return nodes, self._norms[:, None] ** 2 * vectors[:, 0] ** 2


@dataclass(frozen=True)
class Estimate:
    """Entropies in nats for each t, their variances with so many degrees of freedom, and how half of the nodes differ.

    Estimates of independent problems add up, with factors: errors by chance as squares, and those of quadratures, which
    have a sign, as they are.
    """

    value: np.ndarray
    variance: np.ndarray
    freedom: np.ndarray
    change: np.ndarray

    def __add__(self, other: Estimate) -> Estimate:
        """Degrees of freedom by Welch and Satterthwaite."""
        total = self.variance + other.variance
        shares = self.variance**2 / self.freedom + other.variance**2 / other.freedom
        freedom = np.divide(total**2, shares, where=shares > 0, out=np.full_like(total, math.inf))
        return Estimate(self.value + other.value, total, freedom, self.change + other.change)

    def times(self, factor: float) -> Estimate:
        return Estimate(factor * self.value, factor**2 * self.variance, self.freedom, factor * self.change)

    def chance(self) -> np.ndarray:
        """Half the width of an interval of more than 99 % for what is random, by Student's quantiles."""
        z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
        quantile = z + (z**3 + z) / (4 * self.freedom)  # Cornish and Fisher's expansion
        return np.asarray(quantile * np.sqrt(self.variance))

    def reach(self) -> np.ndarray:
        return np.asarray(self.chance() + np.abs(self.change))


def exactly(value: np.ndarray) -> Estimate:
    return Estimate(value, np.zeros_like(value), np.full_like(value, math.inf), np.zeros_like(value))


def _sums(magnitudes: np.ndarray, weights: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sum w q and -sum w q log q with q = magnitude^t, over the last axis; (times, ...)."""
    powers = magnitudes[None] ** times.reshape(-1, *[1] * magnitudes.ndim)
    logs = np.log(magnitudes, where=magnitudes > 0, out=np.zeros_like(magnitudes))
    plain = (weights * powers).sum(axis=-1)
    return plain, -(weights * powers * logs).sum(axis=-1) * times.reshape(-1, *[1] * (magnitudes.ndim - 1))


def sampled_entropies(
    quadratures: Quadratures, found: np.ndarray, own: int, traces: np.ndarray, times: np.ndarray, tol: float
) -> Estimate:
    """Entropies of |lambda|^t, where the trace of f(K) is the sum of three parts.

    Those are f of the magnitudes `found`; the quadratures of the first `own` columns; and the mean of the others', of
    random vectors orthogonal to all those. `traces` of 1, K and K^2 are over what is not `found`. The probes' own
    values of these have known means, so that their errors tell most of those of the other sums. Nodes are added until
    half of them give the same entropies within `tol`.
    """
    head = np.stack(_sums(found, np.ones_like(found), times))
    quadratures.advance(1)
    moments = quadratures.moments()
    controls = moments[:, own:] - (traces - moments[:, :own].sum(axis=1))[:, None]
    design = np.column_stack([np.ones(controls.shape[1]), controls.T])
    inverse = np.linalg.pinv(design, rcond=1e-12)
    freedom = len(design) - np.linalg.matrix_rank(design, rtol=1e-12)

    @functools.cache  # a look's nodes are half of a later one's
    def at(steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Entropies and the probes' parts of them, to first order: d (log S + T / S) = (dS (1 - T / S) + dT) / S."""
        nodes, weights = quadratures.rules(steps)
        plain, surprise = _sums(np.abs(nodes), weights, times)
        total = head[0] + plain[:, :own].sum(axis=1) + plain[:, own:] @ inverse[0]
        mean = (head[1] + surprise[:, :own].sum(axis=1) + surprise[:, own:] @ inverse[0]) / total
        each = (plain[:, own:] * (1 - mean)[:, None] + surprise[:, own:]) / total[:, None]
        return np.log(total) + mean, each

    for steps in _steps(times):
        # An error that falls as slowly as 1 / nodes is no more than what half of the nodes differ by.
        value, each = at(steps)
        change = value - at(steps // 2)[0]
        if (np.abs(change) <= tol).all():
            break
    residuals = each - each @ (design @ inverse).T
    variance = (residuals**2).sum(axis=1) / freedom * (inverse[0] ** 2).sum()
    return Estimate(value, variance, np.full(len(times), float(freedom)), change)


def orthogonal_probes(basis: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random signs, less what lies in the span of a basis."""
    signs = np.where(rng.random((len(basis), count)) < 0.5, -1.0, 1.0)
    return np.asarray(signs - basis @ (basis.T @ signs))


def sketched_entropies(
    diffusion: Diffusion, times: np.ndarray, probes: int, tol: float, rng: np.random.Generator
) -> Estimate:
    """For many problems, in which errors by chance average out: with few products each.

    `diffusion` has been made with SKETCH - 1 functions, whose images are known.
    """
    basis = np.linalg.qr(diffusion.image)[0]
    quadratures = Quadratures(diffusion.product, np.hstack([basis, orthogonal_probes(basis, probes, rng)]))
    quadratures.advance(1)  # which tells the trace of K^2
    traces = np.array([diffusion.n, diffusion.trace, diffusion.square_trace])
    return sampled_entropies(quadratures, np.zeros(0), SKETCH, traces, times, tol)
