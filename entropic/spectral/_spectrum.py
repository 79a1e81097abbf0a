"""The entropy of a diffusion matrix's spectrum: by all eigenvalues, within certified bounds, or by quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ._bounds import Tail, compressed_interval, entropy_of, tail_interval, widened
from ._eigen import eigenvalues
from ._lanczos import BlockLanczos
from ._operators import Affinity, Diffusion, MatrixAffinity, first_functions, stored
from ._quadrature import LARGEST_TIME, UNSEEN, Quadratures, orthogonal_probes, sampled_entropies

_BASIS_BYTES = 64e6

# Below so many points there is nothing to search for.
_FEWEST = 64

# Random vectors: at first, and where that is too few.
_PROBES = (32, 128)


@dataclass(frozen=True)
class Spectrum:
    """Entropies in nats for each t, their bounds, and whether these are as close as was asked for."""

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    method: str
    eigenvalues: np.ndarray
    converged: bool


def settled_magnitudes(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Magnitudes, of which those that are 1 but for rounding are 1, and what rounding may be."""
    rounding = 2e-15 * math.sqrt(len(values))
    magnitudes = np.abs(values)
    return np.where(magnitudes > 1 - rounding, 1.0, magnitudes), rounding


def dense_spectrum(diffusion: Diffusion, times: np.ndarray, tol: float) -> Spectrum:
    found = eigenvalues(diffusion.dense())[::-1]
    magnitudes, rounding = settled_magnitudes(found)
    # For t < 1 eigenvalues that rounding hides may count: from 0, which is the value, to all that it can hide.
    clear = np.where(magnitudes > rounding, magnitudes, 0.0)
    values = np.array([entropy_of((magnitudes if t >= 1 else clear) ** t) for t in times])
    most = np.array([entropy_of(np.maximum(magnitudes, rounding) ** t) for t in times])
    upper = np.where(times >= 1, values, np.maximum(most, values))
    return Spectrum(values, values, upper, "dense", found, bool((upper - values <= tol).all()))


class _Bounds:
    """The intersection of what is known, for each t."""

    def __init__(self, times: np.ndarray, n: int) -> None:
        self.times, self.n = times, n
        self.lower = np.zeros(len(times))
        self.upper = np.full(len(times), math.log(n))
        # Of everything below in floating point: sums of n products, each within a few units of 1e-16, to the power t.
        self._rounding = 1e-13 * (1 + math.log(n)) * np.maximum(1.0, times / 50)

    def meet(self, i: int, interval: tuple[float, float]) -> None:
        self.lower[i] = max(self.lower[i], interval[0] - self._rounding[i])
        self.upper[i] = min(self.upper[i], interval[1] + self._rounding[i])

    def width(self) -> float:
        return float((self.upper - self.lower).max())


@dataclass(frozen=True)
class _Part:
    """Eigenpairs that were found, within the trace distance `apart` of being so, and what is left beside them."""

    magnitudes: np.ndarray
    apart: float
    tail: Tail


class _Certified:
    """Block Lanczos, whose basis grows until bounds of the entropies are as close as `tol`."""

    def __init__(self, diffusion: Diffusion, times: np.ndarray) -> None:
        self.diffusion, self.times, self.n = diffusion, times, diffusion.n
        if isinstance(diffusion.affinity, MatrixAffinity):
            diffusion.product(diffusion.first_vector[:, None])
        block = diffusion.start.shape[1]
        most = max(int(min(self.n / 4, _BASIS_BYTES / (8 * self.n))) // block, 2) * block
        self.lanczos = BlockLanczos(diffusion.product, diffusion.start, diffusion.image, min(most, self.n))
        del diffusion.start, diffusion.image  # as large as a step's vectors
        self.bounds = _Bounds(times, self.n)
        self.ritz = np.ones(1)

    @property
    def square_trace(self) -> float:
        known = self.diffusion.square_trace
        assert known is not None
        return known

    def run(self, tol: float, patient: bool) -> bool:
        """Up to the basis's limit, or while it looks as if that would do."""
        looked_at, widths = 0, [self.bounds.width()]
        if self.diffusion.square_trace is None:
            self.lanczos.step()  # whose product is known: the trace comes with the next one
        while self.lanczos.room():
            self.lanczos.step()
            if self.lanczos.size < 1.15 * looked_at and self.lanczos.room():
                continue
            looked_at = self.lanczos.size
            self._tighten()
            widths.append(self.bounds.width())
            if widths[-1] <= tol:
                return True
            if not patient and _hopeless(widths, tol, looked_at, self.lanczos.most):
                return False
        return False

    def _tighten(self) -> None:
        self.ritz, _, residuals = self.lanczos.ritz()
        parts = [self._part(self.ritz[chosen], residuals[chosen]) for chosen in _choices(residuals)]
        for i, t in enumerate(self.times):
            if t >= 2:
                self.bounds.meet(i, compressed_interval(self.ritz, self.square_trace, self.n, t))
            for part in parts:
                interval = tail_interval(part.magnitudes, part.tail, t)
                self.bounds.meet(i, widened(interval, part.magnitudes, t, part.apart, self.n))

    def _part(self, values: np.ndarray, residuals: np.ndarray) -> _Part:
        error = float((residuals**2).sum())
        count, rounding = self.n - len(values), 1e-14 * math.sqrt(self.n)
        second = max(self.square_trace - float((values**2).sum()) - 2 * error, 0.0)
        second_range = (max(second - rounding, 0.0), second + rounding)
        rest = self.diffusion.trace - float(values.sum())
        if self.diffusion.positive:
            first = (max(rest - rounding, 0.0), max(rest, 0.0) + rounding)
        else:
            # sum |mu| is at least |sum mu|, and between the second moment over the largest and what equal ones have
            largest = min(1.0, math.sqrt(second_range[1]))
            high = math.sqrt(count * second_range[1])
            first = (min(max(abs(rest) - rounding, second_range[0] / largest), high), high)
        # Without the coupling to the rest, of rank 2 r at most, the eigenvalues move by its trace norm in all.
        apart = 2 * math.sqrt(len(values) * error)
        return _Part(np.minimum(np.abs(values), 1.0), apart, Tail(count, first, second_range))


def _choices(residuals: np.ndarray) -> list[np.ndarray]:
    """Which Ritz pairs count as found: fewer good ones, or more that are worse."""
    choices = [residuals <= limit for limit in (1e-3, 1e-5, 1e-7)]
    return [chosen for chosen in choices if chosen.any()]


def _hopeless(widths: list[float], tol: float, size: int, most: int) -> bool:
    """Has the width shrunk so slowly that a basis several times the largest would not do?"""
    if size < most / 2:
        return False
    power = math.log(widths[0] / widths[-1]) / math.log(size)  # width ~ size^-power
    return math.log(widths[-1] / tol) > power * math.log(4 * most / size)


def certified_spectrum(
    diffusion: Diffusion, times: np.ndarray, tol: float, patient: bool
) -> tuple[Spectrum, _Certified]:
    search = _Certified(diffusion, times)
    closed = search.run(tol, patient)
    bounds = search.bounds
    middle = (bounds.lower + bounds.upper) / 2
    order = np.argsort(-np.abs(search.ritz))
    return Spectrum(middle, bounds.lower, bounds.upper, "certified", search.ritz[order], closed), search


def lanczos_spectrum(search: _Certified, tol: float, rng: np.random.Generator) -> Spectrum:
    """What bounds leave open, by quadrature beside the eigenvectors that were found."""
    values, coefficients, residuals = search.lanczos.ritz()  # as of the last step, which may be beyond the last look
    chosen = (residuals <= 1e-6) & (np.abs(values) > 1e-3)
    vectors, n = search.lanczos.vectors(coefficients[:, chosen]), search.n
    found = values[chosen]
    traces = np.array([
        n - len(found), search.diffusion.trace - found.sum(), search.square_trace - (found**2).sum()
    ])  # fmt: skip
    magnitudes = np.minimum(np.abs(found), 1.0)
    for probes in _PROBES:
        quadratures = Quadratures(search.diffusion.product, orthogonal_probes(vectors, probes, rng))
        estimate = sampled_entropies(quadratures, magnitudes, 0, traces, search.times, tol / 8)
        value, reach = estimate.value, estimate.reach() + UNSEEN * tol
        # more probes help where chance is what is left
        if (2 * reach <= tol).all() or (2 * np.abs(estimate.change) > tol / 2).any():
            break
    lower, upper = search.bounds.lower, search.bounds.upper
    # Where both agree the narrower one counts; where they do not, the one that cannot be wrong.
    meets = (value - reach <= upper) & (value + reach >= lower)
    lower = np.where(meets, np.maximum(value - reach, lower), lower)
    upper = np.where(meets, np.minimum(value + reach, upper), upper)
    closed = bool((upper - lower <= tol).all())
    order = np.argsort(-magnitudes, kind="stable")
    return Spectrum(np.clip(value, lower, upper), lower, upper, "lanczos", found[order], closed)


def spectrum_of(
    func: str, affinity: Affinity, x: np.ndarray | None, alpha: float, times: np.ndarray, method: str, tol: float,
    rng: np.random.Generator,
) -> Spectrum:  # fmt: skip
    """By "dense", "certified", or "lanczos" where the bounds do not close; "auto" is the last. `x`: the points.

    Beyond LARGEST_TIME only eigenvalues next to 1 count, which bounds settle or nothing does.
    """
    affinity = stored(affinity)
    if method == "dense" or affinity.n < _FEWEST:
        return dense_spectrum(Diffusion(func, affinity, alpha), times, tol)
    diffusion = Diffusion(func, affinity, alpha, first_functions(x, affinity, rng))
    found, search = certified_spectrum(diffusion, times, tol, patient=method == "certified")
    if not found.converged and method != "certified" and times.max() <= LARGEST_TIME:
        return lanczos_spectrum(search, tol, rng)
    return found
