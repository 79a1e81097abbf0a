"""Schroedinger bridges: entropic transport along a chain of times.

All times between two neighbouring prescribed ones are free, so the chain falls apart into stretches, each a problem of
two marginals. A stretch of one step is the solver's own problem. In a longer one the kernel is a product of step
kernels, applied as a run of log-sum-exp messages. The stretches' potentials put together are those of the chain.
"""

from __future__ import annotations

import operator
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .. import _core
from .._backend import Array, Backend, backend_of, refuse_cuda, to_numpy
from .._errors import ConvergenceWarning
from .._progress import Watch, check_callback, watching
from .._validate import check_rng
from ._geometry import Geometry, as_geometry, as_masses, rounding_of_totals
from ._sinkhorn import check_constraints, check_eps, check_max_iter, check_tol, solve

# Stages of the regularisation: from the spread of the costs down to eps by this factor, each to this relative error,
# which takes a few iterations and leaves the next stage in the range where extrapolation works.
_ANNEALING_FACTOR = 4.0
_ANNEALING_TOL = 1e-3
_ANNEALING_MAX_ITER = 50
# Differences of iterates that the extrapolation combines.
_MEMORY = 20


def _push(log_mass: np.ndarray, steps: Sequence[Geometry], eps: float) -> np.ndarray:
    """``log sum_i exp(log_mass_i) K_ij``, K being the product of the steps' kernels exp(-cost / eps)."""
    for step in steps:
        log_mass = -step.softmin(log_mass[None], np.array([eps]), True)[0] / eps
    return log_mass


def _pull(steps: Sequence[Geometry], log_mass: np.ndarray, eps: float) -> np.ndarray:
    """``log sum_j K_ij exp(log_mass_j)``."""
    for step in reversed(steps):
        log_mass = -step.softmin(log_mass[None], np.array([eps]), False)[0] / eps
    return log_mass


def _log(masses: np.ndarray) -> np.ndarray:
    logs = np.full(masses.size, -np.inf)
    np.log(masses, where=masses > 0, out=logs)
    return logs


def log_minus(log_mass: np.ndarray, message: np.ndarray) -> np.ndarray:
    """Their difference; -inf without mass, whether or not a path leads there."""
    difference = np.full(np.broadcast_shapes(log_mass.shape, message.shape), -np.inf)
    np.subtract(log_mass, message, where=log_mass > -np.inf, out=difference)
    return difference


class _PathLaw:
    """The law ``exp(sum_t phi_t(i_t) - sum_t C_t(i_t, i_{t+1}) / eps)`` and its messages, in float64.

    ``forward[t]`` is the log-sum over all beginnings before state i of time t, ``backward[t]`` over all ends after it.
    """

    def __init__(self, steps: Sequence[Geometry], eps: float, phi: Sequence[np.ndarray]) -> None:
        self.steps, self.eps, self.phi = steps, eps, phi
        self.forward = [np.zeros(phi[0].size)]
        for t, step in enumerate(steps):
            self.forward.append(_push(self.forward[t] + phi[t], [step], eps))
        backward = [np.zeros(phi[-1].size)]
        for t in reversed(range(len(steps))):
            backward.append(_pull(steps[t : t + 1], phi[t + 1] + backward[-1], eps))
        self.backward = backward[::-1]

    def marginal(self, t: int) -> np.ndarray:
        masses: np.ndarray = np.exp(self.forward[t] + self.phi[t] + self.backward[t])
        return masses

    def coupling(self, s: int) -> np.ndarray:
        law = self._log_ends(s, slice(None))
        law += (self.forward[s] + self.phi[s])[:, None]
        np.exp(law, out=law)
        return law

    def transition(self, s: int, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Probabilities of the states of time s + 1 given each state in `rows` of time s; rows without mass are 0."""
        law = self._log_ends(s, rows)
        ends = self.backward[s][rows]
        law -= np.where(np.isneginf(ends), 0.0, ends)[:, None]
        np.exp(law, out=law)
        return law

    def _log_ends(self, s: int, rows: np.ndarray | slice) -> np.ndarray:
        log_law: np.ndarray = np.divide(self.steps[s].x[0][rows], -self.eps, dtype=np.float64)
        log_law += self.phi[s + 1] + self.backward[s + 1]
        return log_law

    def value(self) -> float:
        """Expected cost plus eps sum P log P, which is eps ``sum_t <phi_t, marginal_t>``."""
        total = 0.0
        for t, phi in enumerate(self.phi):
            held = np.isfinite(phi)
            total += float(phi[held] @ self.marginal(t)[held])
        return self.eps * total


# ---- one stretch -----------------------------------------------------------------------------------------------------


class _Stretch:
    """Two prescribed times and the free ones between them.

    The plan of a potential f of the first time is ``source_i exp(f_i / eps) K_ij exp(end_j)``, with `end` such that
    its column sums are the target. Its row sums say what f has to become, and give the error. f is that of the states
    with mass.
    """

    def __init__(self, steps: Sequence[Geometry], source: np.ndarray, target: np.ndarray) -> None:
        self.steps, self.source, self.target = steps, source, target
        self.held = source > 0
        self.mass = source[self.held]
        self.f = np.zeros(self.mass.size)
        self.spread = float(sum(step.span[0] for step in steps))

    def end(self, f: np.ndarray, eps: float) -> np.ndarray:
        start = _log(self.source)
        start[self.held] += f / eps
        return log_minus(_log(self.target), _push(start, self.steps, eps))

    def change(self, f: np.ndarray, eps: float) -> np.ndarray:
        """Sinkhorn's step: what makes the row sums the source while `end` stays."""
        change: np.ndarray = -eps * _pull(self.steps, self.end(f, eps), eps)[self.held] - f
        return change

    def solve(self, func: str, eps: float, tol: float, max_iter: int, watch: Watch | None) -> int:
        """Find f; the number of iterations."""
        if len(self.steps) > 1:
            return self._anneal(eps, tol, max_iter, watch)
        solution, answer = solve(
            func, self.steps[0], check_constraints(func, None, "kl", None), self.source[None], self.target[None],
            eps, tol=tol, max_iter=max_iter, watch=watch,
        )  # fmt: skip
        done, f = int(answer.n_iter[0]), solution.f[0][self.held]
        if np.ptp(f) > 1e6 * (self.spread + eps):  # no plan has these marginals, and the solver's potentials ran away
            return done + self._anneal(eps, tol, max_iter, watch)
        self.f = f
        return done

    def _anneal(self, eps: float, tol: float, max_iter: int, watch: Watch | None) -> int:
        """At regularisations that come down to eps."""
        stages = [eps]
        while stages[-1] * _ANNEALING_FACTOR < self.spread:
            stages.append(stages[-1] * _ANNEALING_FACTOR)
        done, stopped = 0, False
        for stage in reversed(stages[1:]):
            most = min(_ANNEALING_MAX_ITER, max_iter - done)
            done, stopped = self._iterate(stage, _ANNEALING_TOL, done, most, watch)
            if stopped:
                return done
        return self._iterate(eps, tol, done, max_iter - done, watch)[0]

    def _iterate(self, eps: float, tol: float, done: int, most: int, watch: Watch | None) -> tuple[int, bool]:
        """Sinkhorn's steps, extrapolated (Anderson's mixing).

        The error may rise a little on the way, without which extrapolation would stall; an f whose error is beyond
        that is dropped for the plain step, which never raises it.
        """
        iterates: deque[np.ndarray] = deque(maxlen=_MEMORY + 1)
        changes: deque[np.ndarray] = deque(maxlen=_MEMORY + 1)
        candidate, lowest, extrapolated = self.f, np.inf, False
        for n in range(done + 1, done + most + 1):
            change = self.change(candidate, eps)
            with np.errstate(over="ignore"):  # a row's mass beyond the largest number is an error like any other
                error = float(np.abs(self.mass * np.expm1(change / -eps)).sum() / self.mass.sum())
            if extrapolated and error > 2 * lowest:
                candidate, extrapolated = self.f + changes[-1], False
                iterates.clear()
                changes.clear()
            else:
                self.f, lowest = candidate, min(lowest, error)
                iterates.append(candidate)
                changes.append(change)
                extrapolated = len(iterates) > 1
                candidate = candidate + change
                if extrapolated:
                    candidate = candidate + self._correction(eps, np.array(iterates), np.array(changes))
            stopped = watch is not None and watch(n, error)
            if stopped or error <= tol:
                return n, stopped
        return done + most, False

    def _correction(self, eps: float, iterates: np.ndarray, changes: np.ndarray) -> np.ndarray:
        """What turns the last step into the combination of past ones whose change is smallest, weighted by masses."""
        differences = np.diff(changes, axis=0)
        weights = np.sqrt(self.mass)
        mix = np.linalg.lstsq((differences * weights).T, changes[-1] * weights, rcond=1e-7)[0]
        correction: np.ndarray = -mix @ (np.diff(iterates, axis=0) + differences)
        # Potentials go about as far as the costs; where no law has these marginals, this would go without end.
        return correction if np.abs(correction).max() <= 10 * (self.spread + eps) else np.zeros_like(correction)


# ---- the result ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SchrodingerBridge:
    """A path law ``P(i_1, ..., i_T) = exp((sum_t f_t(i_t) - sum_t C_t(i_t, i_{t+1})) / eps)``.

    Returned by :func:`entropic.schrodinger_bridge`. It refers to the costs, without a copy.

    Attributes
    ----------
    potentials : tuple of ndarray
        f_t for each time, shape (n_t,), in float64: 0 at free times, -inf where a prescribed mass is 0.
    value : float
        Expected cost plus ``eps * sum P log P``.
    marginal_error : float
        Largest L1 distance of a marginal of this law to the prescribed one, relative to the total mass, computed in
        float64 from `potentials`.
    n_iter : int
        Iterations done.
    converged : bool
        Is `marginal_error` at most the tolerance?
    eps : float
        The regularisation.
    """

    potentials: tuple[Any, ...]
    value: float
    marginal_error: float
    n_iter: int
    converged: bool
    eps: float
    _law: _PathLaw
    _backend: Backend
    _dtype: np.dtype

    def __repr__(self) -> str:
        return (
            f"SchrodingerBridge(times={len(self.potentials)}, eps={self.eps:g}, value={self.value:.6g}, "
            f"marginal_error={self.marginal_error:.2g}, n_iter={self.n_iter}, converged={self.converged})"
        )

    def marginal(self, t: int) -> Any:
        """Mass of each state of time t (from 0), shape (n_t,). The messages are kept, so this takes O(n_t)."""
        return self._deliver(self._law.marginal(self._time("marginal", "t", t, len(self.potentials))))

    def coupling(self, s: int) -> Any:
        """Joint law of times s and s + 1, dense (n_s, n_{s+1}), with ``marginal(s)`` and ``marginal(s + 1)``."""
        return self._deliver(self._law.coupling(self._time("coupling", "s", s, len(self.potentials) - 1)))

    def joint(self, s: int, t: int) -> Any:
        """Joint law of any two times, in any order, dense (n_s, n_t).

        The coupling of the first step times the transitions of the others: one product of matrices for each time
        between. Their entries are not negative, so nothing cancels.
        """
        s = self._time("joint", "s", s, len(self.potentials))
        t = self._time("joint", "t", t, len(self.potentials))
        if s == t:
            return self._deliver(np.diag(self._law.marginal(s)))
        first, last = min(s, t), max(s, t)
        joint = self._law.coupling(first)
        for step in range(first + 1, last):
            joint = joint @ self._law.transition(step)
        return self._deliver(joint if s < t else joint.T)

    def sample(self, n: int, rng: Any = None) -> Any:
        """`n` paths drawn from the law, (n, T) in int64: the state at each time, from the transition out of the last.

        `rng` is a generator or a seed, as :func:`numpy.random.default_rng` takes it; None, the default, is a fresh one.
        """
        count = _check_index("SchrodingerBridge.sample", "n", n)
        generator = check_rng("sample", rng)
        paths = np.empty((count, len(self.potentials)), np.int64)
        start = np.zeros(count, np.int64)
        paths[:, 0] = _draw(self._law.marginal(0)[None, :], start, generator.random(count))
        for t in range(1, len(self.potentials)):
            visited, row = np.unique(paths[:, t - 1], return_inverse=True)
            paths[:, t] = _draw(self._law.transition(t - 1, visited), row, generator.random(count))
        return self._backend.wrap(paths)

    def _deliver(self, result: np.ndarray) -> Any:
        return self._backend.wrap(result.astype(self._dtype, copy=False))

    def _time(self, method: str, name: str, t: int, count: int) -> int:
        return _check_index(f"SchrodingerBridge.{method}", name, t, count - 1)


def _check_index(func: str, name: str, x: Any, most: int | None = None) -> int:
    try:
        index = operator.index(x)
    except TypeError:
        raise TypeError(f"{func}: `{name}` must be an integer, got {x!r}") from None
    if index < 0 or (most is not None and index > most):
        limit = "at least 0" if index < 0 else f"at most {most}"
        raise ValueError(f"{func}: `{name}` must be {limit}, got {index}")
    return index


def _draw(weights: np.ndarray, rows: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """For each k an index drawn from row ``rows[k]`` of `weights`: the first whose cumulated share exceeds uniform."""
    shares = np.cumsum(weights, axis=1)
    shares /= shares[:, -1:]
    # Row r lies in [r, r + 1], which makes one ascending array of all rows.
    ascending = shares + np.arange(len(shares))[:, None]
    sought = np.minimum(rows + uniform, np.nextafter(rows + 1.0, 0.0))  # the sum may round up to the row's end
    found: np.ndarray = np.searchsorted(ascending.ravel(), sought, side="right") - rows * weights.shape[1]
    return found


# ---- the solver ------------------------------------------------------------------------------------------------------


def schrodinger_bridge(
    costs: Sequence[Array] | Array,
    marginals: Sequence[Array | None] | Array,
    *,
    eps: float,
    tol: float = 1e-6,
    max_iter: int = 1000,
    callback: Callable[[int, float], Any] | None = None,
) -> SchrodingerBridge:
    """Cheapest random path with prescribed marginals: ``min E[sum of costs] + eps * sum P log P`` over path laws P.

    Parameters
    ----------
    costs : sequence of array_like, or array_like
        T - 1 arrays (n_1, n_2), ..., (n_{T-1}, n_T): ``costs[t][i, j]`` is the cost of going from state i at time t to
        state j at time t + 1, +inf where that is forbidden. One array (n, n) serves all steps.
    marginals : sequence of array_like or None
        T items: the masses (n_t,) of the states at each time, or None where they are free. At least one is given.
        Zeros are allowed. Totals that differ by rounding are scaled to that of the first one given.
    eps : float
        Regularisation, in the units of the costs.
    tol : float, optional
        Largest L1 error of a prescribed marginal, relative to the total mass.
    max_iter : int, optional
        Most iterations for each stretch between neighbouring prescribed times.
    callback : callable, optional
        Called with the number of iterations so far, over all stretches, and the error of the stretch at work; True
        stops the work.

    Returns
    -------
    SchrodingerBridge
        The path law: potentials, marginals, joint laws of any two times, sampled paths. Masses are in the costs' type
        and in the caller's library.

    Raises
    ------
    ValueError
        Shapes that do not fit, nan, costs of -inf, masses that are negative or infinite or do not match, a state with
        mass that no path of finite cost reaches or leaves, or eps, tol or max_iter out of range.
    TypeError
        Complex, masked, sparse or object arrays, or arrays of two libraries.
    DeviceError
        Device arrays.

    Warns
    -----
    ConvergenceWarning
        The marginal error is above `tol`. That is also the outcome where the forbidden pairs leave no law with these
        marginals at all.

    Notes
    -----
    The law has density ``exp((sum_t f_t(i_t) - sum_t C_t(i_t, i_{t+1})) / eps)``, potentials f_t being 0 at free
    times; it is Markov. The reference measure is the counting measure: the value is the expected cost minus eps times
    the entropy of the path law. For T = 2 and masses a, b of total 1 the value of :func:`entropic.sinkhorn`, whose
    reference is ``a b^T``, is this one minus ``eps * (sum a log a + sum b log b)``.

    A prior Markov chain with transitions Q_t makes the bridge one of minimal relative entropy to it: pass
    ``cost - eps * log(Q_t)``, which is +inf where Q_t is 0. With marginals only at both ends this is transport on a
    network, regularised towards that prior.

    Two prescribed times in a row are a problem for the solver of :func:`entropic.sinkhorn`. With free times between
    them, Sinkhorn's iteration passes log-sum-exp messages forward and backward; eps is lowered in stages from the
    spread of the costs, and iterates are extrapolated by Anderson's method. Neither the number of times nor the size
    of ``C / eps`` brings overflow. An iteration takes O(sum of n_t n_{t+1}) time; memory is O(sum of n_t) beyond the
    costs, except in the solver's Newton steps. Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    Schroedinger, "Ueber die Umkehrung der Naturgesetze", 1931. Elvander, Haasler, Jakobsson and Karlsson,
    "Multi-marginal optimal transport using partial information", Signal Processing 2020. Anderson, "Iterative
    procedures for nonlinear integral equations", J. ACM 1965.

    Examples
    --------
    Walkers on a line of five places, who start at the left and are at the right three steps later:

    >>> import numpy as np, entropic
    >>> place = np.arange(5)
    >>> cost = np.abs(place[:, None] - place) ** 2.0
    >>> bridge = entropic.schrodinger_bridge(cost, [[1, 0, 0, 0, 0], None, None, [0, 0, 0, 0, 1]], eps=1.0)
    >>> bridge.converged
    True
    >>> [round(float(bridge.marginal(t) @ place), 2) for t in range(4)]
    [0.0, 1.33, 2.67, 4.0]
    >>> bridge.sample(2, rng=0)
    array([[0, 0, 2, 4],
           [0, 0, 3, 4]])
    """
    func = "schrodinger_bridge"
    eps, tol, max_iter = check_eps(func, eps), check_tol(func, tol), check_max_iter(func, max_iter, 1000)
    check_callback(func, callback)
    steps, prescribed, backend = _read_chain(func, costs, marginals)
    _check_range(func, steps, eps)
    _check_reach(func, steps, prescribed, eps)

    stretches = [_Stretch(steps[s:t], prescribed[s], prescribed[t]) for s, t in pairwise(prescribed)]
    n_iter, stopped = 0, False
    with watching(callback, False, func) as watch:

        def count_on(n: int, error: float) -> bool:
            nonlocal stopped
            stopped = watch is not None and watch(n_iter + n, error)
            return stopped

        for stretch in stretches:
            # The error of the chain is at most the sum of those of its stretches.
            n_iter += stretch.solve(func, eps, tol / len(stretches), max_iter, watch and count_on)
            if stopped:
                break
    law = _PathLaw(steps, eps, _assemble(steps, eps, prescribed, stretches))
    error = max(float(np.abs(law.marginal(t) - masses).sum() / masses.sum()) for t, masses in prescribed.items())
    if error > tol > 0:
        advice = "the callback stopped it" if stopped else f"raise max_iter (now {max_iter}), eps or tol"
        warnings.warn(
            f"{func}: stopped with marginals that are off by {error:.3g} of the mass (tol={tol:g}); {advice}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return SchrodingerBridge(
        potentials=tuple(backend.wrap(eps * phi) for phi in law.phi),
        value=law.value(),
        marginal_error=error,
        n_iter=n_iter,
        converged=error <= tol,
        eps=eps,
        _law=law,
        _backend=backend,
        _dtype=np.result_type(*(step.dtype for step in steps)),
    )


def _assemble(
    steps: Sequence[Geometry], eps: float, prescribed: dict[int, np.ndarray], stretches: Sequence[_Stretch]
) -> list[np.ndarray]:
    """Potentials of the chain over eps; its law has the stretches' couplings, and free ends beyond them."""
    times = list(prescribed)
    first, last = times[0], times[-1]
    phi = [np.zeros(n) for n in _sizes(steps)]
    phi[first] = _log(prescribed[first])
    for (s, t), stretch in zip(pairwise(times), stretches, strict=True):
        phi[s][stretch.held] += stretch.f / eps
        phi[t] = stretch.end(stretch.f, eps)
    phi[first] = log_minus(phi[first], _push(np.zeros(phi[0].size), steps[:first], eps))
    phi[last] = log_minus(phi[last], _pull(steps[last:], np.zeros(phi[-1].size), eps))
    return phi


# ---- reading the arguments -------------------------------------------------------------------------------------------


def _sizes(steps: Sequence[Geometry]) -> list[int]:
    """Number of states at each time."""
    return [steps[0].n, *(step.m for step in steps)]


def _read_chain(
    func: str, costs: Sequence[Array] | Array, marginals: Sequence[Array | None] | Array
) -> tuple[list[Geometry], dict[int, np.ndarray], Backend]:
    """The steps, masses of the prescribed times scaled to one total, and the caller's library."""
    given = _items(func, "marginals", marginals)
    count = len(given) - 1
    if count < 1:
        raise ValueError(f"{func}: `marginals` must have at least 2 items, one for each time, got {len(given)}")
    shared = not isinstance(costs, list | tuple) and getattr(costs, "ndim", None) == 2
    named = {"costs": costs} if shared else {f"costs[{t}]": c for t, c in enumerate(_items(func, "costs", costs))}
    if not shared and len(named) != count:
        raise ValueError(
            f"{func}: `costs` must have {count} items, one less than `marginals`, or be one array, got {len(named)}"
        )
    masses = {f"marginals[{t}]": x for t, x in enumerate(given) if x is not None}
    if not masses:
        raise ValueError(f"{func}: `marginals` must prescribe the masses of at least one time, got None for all")
    backend = backend_of(func, **named, **masses)
    refuse_cuda(func, backend, next(iter(named)))
    steps = [as_geometry(f"{func}: `{name}`", cost) for name, cost in named.items()] * (count if shared else 1)
    for t, step in enumerate(steps):
        if step.batch:
            raise ValueError(f"{func}: `costs[{t}]` must have 2 dimensions, got {len(step.batch) + 2}")
        if t and steps[t - 1].m != step.n:
            wanted = (
                f"`costs` must be square to serve {count} steps"
                if shared
                else (f"`costs[{t}]` must have {steps[t - 1].m} rows, one for each column of `costs[{t - 1}]`")
            )
            raise ValueError(f"{func}: {wanted}, got shape {(step.n, step.m)}")
    sizes = _sizes(steps)
    prescribed = {t: as_masses(func, f"marginals[{t}]", x, sizes[t]) for t, x in enumerate(given) if x is not None}
    rounding = rounding_of_totals(*(to_numpy(func, name, x) for name, x in masses.items()))
    return steps, _match_totals(func, prescribed, rounding), backend


def _items(func: str, name: str, x: Any) -> list[Any]:
    """The items of a sequence, or the slices of an array along its first axis."""
    try:
        return list(x)
    except TypeError:
        raise TypeError(f"{func}: `{name}` must be a sequence of arrays, got {type(x).__qualname__}") from None


def _match_totals(func: str, prescribed: dict[int, np.ndarray], rtol: float) -> dict[int, np.ndarray]:
    """The masses, all scaled to the total of the first."""
    first = next(iter(prescribed))
    total = float(prescribed[first].sum())
    for t, masses in prescribed.items():
        if abs(masses.sum() - total) > rtol * total:
            raise ValueError(
                f"{func}: `marginals[{t}]` must have the total of `marginals[{first}]`, {total:.9g}, "
                f"got {masses.sum():.9g}"
            )
    return {t: masses * (total / masses.sum()) for t, masses in prescribed.items()}


def _check_range(func: str, steps: Sequence[Geometry], eps: float) -> None:
    """The cost of a path over eps does not overflow."""
    largest = 0.0
    for step in steps:
        low, high = (float(limit[0]) for limit in _core.transport_cost_range(step.core)[:2])
        largest += max(abs(low), abs(high)) if low <= high else 0.0  # low > high where all pairs are forbidden
    if not largest < np.finfo(np.float64).max * min(1.0, eps) / 4:
        raise ValueError(f"{func}: `eps` must be large enough for the costs over eps to be finite, got {eps:g}")


def _check_reach(func: str, steps: Sequence[Geometry], prescribed: dict[int, np.ndarray], eps: float) -> None:
    """Each state with mass lies on a path of finite cost through states that may have mass."""
    allowed = [prescribed[t] > 0 if t in prescribed else np.ones(n, bool) for t, n in enumerate(_sizes(steps))]

    def joined(t: int, log_paths: np.ndarray, where: str) -> np.ndarray:
        joined = allowed[t] & (log_paths > -np.inf)
        if not joined.any():
            raise ValueError(f"{func}: `costs` must allow a path, got none {where} at time {t}")
        if t in prescribed and not joined[allowed[t]].all():
            state = int(np.flatnonzero(allowed[t] & ~joined)[0])
            raise ValueError(
                f"{func}: `marginals[{t}]` has mass at state {state}, but no path of finite cost joins it {where}"
            )
        return joined

    reached, left = allowed[0], allowed[-1]
    for t in range(1, len(allowed)):
        reached = joined(t, _push(_log(1.0 * reached), steps[t - 1 : t], eps), "from the times before")
    for t in reversed(range(len(steps))):
        left = joined(t, _pull(steps[t : t + 1], _log(1.0 * left), eps), "to the times after")
