"""Inverse transport: the cost under which an observed plan is the entropic optimum."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .._backend import Array, Backend, backend_of, refuse_cuda
from .._errors import ConvergenceWarning
from .._progress import check_callback, watching
from .._validate import check_number
from ._geometry import float_array, points_array
from ._sinkhorn import check_eps, check_max_iter, check_tol, sinkhorn

# The search may go above its best of this many last objectives, as steps of Barzilai and Borwein need.
_MEMORY = 10
# Steps, relative to what the curvature under independence suggests.
_SHORTEST, _LONGEST = 1e-12, 1e4


# ---- the costs that parameters make ----------------------------------------------------------------------------------


class _Family(Protocol):
    """Costs linear in the parameters. What is additive, u_i + v_j, moves no plan and is taken out of the bases."""

    def cost(self, theta: np.ndarray) -> np.ndarray:
        """``sum_k theta_k C_k``."""

    def moments(self, plan: np.ndarray) -> np.ndarray:
        """``<C_k, plan>`` for each k."""

    def deviations(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Standard deviation of each base under ``a b^T`` (of total 1), 0 where it is rounding of an additive one."""


class _Stack:
    """Any bases (K, n, m)."""

    def __init__(self, bases: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        rows, cols = bases @ b, a @ bases
        self.size = np.abs(bases).max(axis=(1, 2))
        self.bases = bases - rows[:, :, None] - cols[:, None, :] + (rows @ a)[:, None, None]

    def cost(self, theta: np.ndarray) -> np.ndarray:
        return np.tensordot(theta, self.bases, axes=1)

    def moments(self, plan: np.ndarray) -> np.ndarray:
        return np.tensordot(self.bases, plan, axes=2)

    def deviations(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return _unless_rounding(np.sqrt(self.bases**2 @ b @ a), self.size)


class _Products:
    """The bases x_ip y_jq of a bilinear cost, which are never stored."""

    def __init__(self, x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        self.size = np.abs(x).max(axis=0), np.abs(y).max(axis=0)
        self.x, self.y = x - a @ x, y - b @ y

    def cost(self, theta: np.ndarray) -> np.ndarray:
        cost: np.ndarray = self.x @ theta @ self.y.T
        return cost

    def moments(self, plan: np.ndarray) -> np.ndarray:
        moments: np.ndarray = self.x.T @ plan @ self.y
        return moments

    def deviations(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        of_x = _unless_rounding(np.sqrt(a @ self.x**2), self.size[0])
        return np.outer(of_x, _unless_rounding(np.sqrt(b @ self.y**2), self.size[1]))


def _unless_rounding(deviations: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.where(deviations > 1e-13 * size, deviations, 0.0)


# ---- the objective ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """Parameters, and what one solution of the transport problem says of them."""

    theta: np.ndarray
    objective: float
    gradient: np.ndarray
    """Of the smooth part."""
    residual: float
    inner_tol: float


class _Objective:
    """``<c, plan> - W_eps(c) + penalty |theta|_1`` of a plan without empty rows and columns."""

    def __init__(self, plan: np.ndarray, family: _Family, eps: float, penalty: float) -> None:
        self.plan, self.family, self.eps, self.penalty = plan, family, eps, penalty
        self.a, self.b, self.total = plan.sum(axis=1), plan.sum(axis=0), float(plan.sum())
        deviations = family.deviations(self.a / self.total, self.b / self.total)
        self.identified = deviations > 0
        self.unit = self.total * np.where(self.identified, deviations, 1.0)
        # The Hessian's diagonal where the plan is a b^T.
        self.curvature = self.unit**2 / (self.total * eps)
        self.observed = family.moments(plan)
        self.potentials = np.zeros_like(self.a), np.zeros_like(self.b)

    def at(self, theta: np.ndarray, inner_tol: float) -> _Point:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the residual of the answer decides
            result = sinkhorn(
                self.family.cost(theta), self.a, self.b, eps=self.eps, tol=inner_tol, init=self.potentials
            )
        self.potentials = result.f, result.g
        plan = result.plan()
        # The dual value, whose error is of second order in that of the potentials.
        value = float(self.a @ result.f + self.b @ result.g - self.eps * (plan.sum() - self.total**2))
        objective = float(np.sum(theta * self.observed)) - value + self.penalty * float(np.abs(theta).sum())
        gradient = np.where(self.identified, self.observed - self.family.moments(plan), 0.0)
        return _Point(theta, objective, gradient, self._residual(theta, gradient), inner_tol)

    def _residual(self, theta: np.ndarray, gradient: np.ndarray) -> float:
        """Largest distance of 0 to the subdifferential, each in units of its base."""
        active = np.abs(gradient + self.penalty * np.sign(theta))
        distance = np.where(theta != 0, active, np.maximum(np.abs(gradient) - self.penalty, 0.0))
        return float((distance / self.unit).max())

    def proximal_step(self, point: _Point, step: float) -> np.ndarray:
        moved = point.theta - step * point.gradient / self.curvature
        shrunk: np.ndarray = np.sign(moved) * np.maximum(np.abs(moved) - step * self.penalty / self.curvature, 0.0)
        return shrunk


def _inner_tol(residual: float, tol: float) -> float:
    """Error of the plan that is good enough where the parameters are that far from optimal."""
    return max(min(1e-3, 0.03 * residual), 0.01 * tol, 1e-15)


def _search(
    objective: _Objective, point: _Point, step: float, recent: deque[float], tol: float
) -> tuple[_Point, float]:
    """The next point of a proximal step that is halved until the objective allows it, and the step after that."""
    inner_tol = _inner_tol(point.residual, tol)
    rounding = objective.eps * objective.total * (1e-12 + inner_tol**2)
    while True:
        new = objective.at(objective.proximal_step(point, step), inner_tol)
        move = new.theta - point.theta
        length = float(np.sum(objective.curvature * move**2))
        limit = max(recent) - 1e-4 * length / step + rounding + 1e-13 * abs(point.objective)
        if new.objective <= limit or step <= _SHORTEST:
            break
        step *= 0.5
    bend = float(np.sum(move * (new.gradient - point.gradient)))
    return new, min(max(length / bend, _SHORTEST), _LONGEST) if bend > 0 else min(2 * step, _LONGEST)


# ---- the call --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class InverseTransport:
    """Parameters of a cost, and how well they explain the plan.

    Returned by :func:`entropic.inverse_transport`.

    Attributes
    ----------
    parameters : ndarray
        theta (K,), or the matrix A (d1, d2).
    cost : ndarray
        Cost (n, m) of these parameters.
    value : float
        ``<c, plan> - W_eps(c) + penalty * sum |theta|``. The first two plus ``eps KL(plan | a b^T)`` are
        ``eps KL(plan | P)`` for P the optimal plan of the cost, so 0 where that explains all.
    gradient_norm : float
        Largest distance of 0 to a component of the subdifferential, in units of the total mass times the standard
        deviation of that base under the product of the marginals, for these parameters.
    n_iter : int
        Iterations done.
    converged : bool
        Is `gradient_norm` at most the tolerance?
    """

    parameters: Any
    cost: Any
    value: float
    gradient_norm: float
    n_iter: int
    converged: bool

    def __repr__(self) -> str:
        return (
            f"InverseTransport(parameters of shape {tuple(self.parameters.shape)}, value={self.value:.6g}, "
            f"gradient_norm={self.gradient_norm:.2g}, n_iter={self.n_iter}, converged={self.converged})"
        )


def inverse_transport(
    plan: Array,
    bases: Array | tuple[Array, Array],
    *,
    eps: float,
    penalty: float = 0.0,
    tol: float = 1e-6,
    max_iter: int = 500,
    callback: Callable[[int, float], Any] | None = None,
) -> InverseTransport:
    """Cost that explains a plan: theta that minimises ``<c, plan> - W_eps(c) + penalty * sum |theta|``.

    Here ``c = sum_k theta_k C_k``, and ``W_eps(c)`` is the least ``<P, c> + eps KL(P | a b^T)`` with the plan's
    marginals a and b. Without penalty this is the maximum likelihood of theta for pairs counted by the plan.

    Parameters
    ----------
    plan : array_like
        Observed masses (n, m), not negative, of any positive total: a plan, or counts of pairs.
    bases : array_like, or tuple of two array_like
        Base costs C of shape (K, n, m), or a tuple (x, y) of features (n, d1) and (m, d2), which stands for the
        bilinear cost ``c_ij = x_i^T A y_j``. It is a cost: pairs that attract each other have a negative one.
    eps : float
        Regularisation under which the plan is thought to have arisen. Without penalty only ``theta / eps`` can be
        known: twice the eps gives twice the parameters.
    penalty : float, optional
        Weight of the parameters' absolute values, which makes some of them zero; none by default. It adds to
        ``<c, plan>`` and so goes with the plan's total.
    tol : float, optional
        Largest `gradient_norm` that is good enough.
    max_iter : int, optional
        Most iterations, with one or a few transport problems each.
    callback : callable, optional
        Called with the iteration and the optimality residual; True stops the work.

    Returns
    -------
    InverseTransport
        Parameters, their cost, and the residual of this very answer. Arrays are float32 where all inputs are, float64
        otherwise, in the caller's library.

    Raises
    ------
    ValueError
        Masses that are negative, nan, infinite or all 0, bases that are not finite or do not fit the plan, or eps,
        penalty, tol or max_iter out of range.
    TypeError
        Complex, masked or sparse arrays, or arrays of two libraries.
    DeviceError
        Device arrays.

    Warns
    -----
    ConvergenceWarning
        `gradient_norm` is above `tol`.

    Notes
    -----
    The objective is convex, with gradient ``<C_k, plan - P_theta>`` for P_theta the optimal plan of theta. Costs that
    differ by u_i + v_j have one plan: the additive part of each base is taken out before the work, and a base that is
    nothing else keeps the parameter 0. Bases that are dependent beyond that share their effect in no particular way.

    Proximal gradient steps have the length of Barzilai and Borwein and are halved until the objective is below the
    largest of the last ten. The transport problems start from the last potentials and are solved as well as the
    present residual needs. An iteration takes the time of :func:`entropic.sinkhorn` and O(K n m), or O(n m (d1 + d2))
    with features; memory is O(K n m), or O(n m). A plan more concentrated than any finite cost makes it, such as a
    permutation, has no best parameters; they grow until the gradient is within `tol`, or to the last iteration.
    Backends: CPU; device arrays raise DeviceError.

    References
    ----------
    Galichon and Salanie, "Cupid's invisible hand", Rev. Econ. Stud. 2022. Andrade, Peyre and Poon, "Sparsistency for
    inverse optimal transport", ICLR 2024. Wright, Nowak and Figueiredo, "Sparse reconstruction by separable
    approximation", IEEE Trans. Signal Process. 2009.

    Examples
    --------
    A plan made by a bilinear cost gives its matrix back:

    >>> import numpy as np, entropic
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(30, 2)), rng.normal(size=(40, 2))
    >>> plan = entropic.sinkhorn(x @ [[-1.0, 0.0], [0.5, 2.0]] @ y.T, eps=0.5, tol=1e-10).plan()
    >>> entropic.inverse_transport(plan, (x, y), eps=0.5).parameters.round(3) + 0.0
    array([[-1. ,  0. ],
           [ 0.5,  2. ]])
    """
    func = "inverse_transport"
    eps, tol, max_iter = check_eps(func, eps), check_tol(func, tol), check_max_iter(func, max_iter, 500)
    penalty = check_number(func, "penalty", penalty)
    if not 0 <= penalty < np.inf:
        raise ValueError(f"{func}: `penalty` must be at least 0 and finite, got {penalty!r}")
    check_callback(func, callback)
    masses, base_arrays, backend = _read(func, plan, bases)
    units = _Units.of(masses, base_arrays, eps)
    with np.errstate(over="ignore", under="ignore"):
        scaled_penalty = float(np.ldexp(penalty, -units.total - units.bases))
    scaled = tuple(np.ldexp(x.astype(np.float64), -e) for x, e in zip(base_arrays, units.each, strict=True))
    scaled_plan = np.ldexp(masses.astype(np.float64), -units.total)
    objective = _Objective(*_without_empty(scaled_plan, scaled), float(np.ldexp(eps, -units.eps)), scaled_penalty)

    point = objective.at(np.zeros(objective.observed.shape), _inner_tol(1.0, tol))
    recent = deque([point.objective], maxlen=_MEMORY)
    step, n_iter, stopped = 1.0, 0, False
    with watching(callback, False, func) as watch:
        while True:
            done = stopped or n_iter == max_iter or point.residual <= tol
            if done and point.inner_tol > _inner_tol(0.0, tol):  # too coarse to end with
                point = objective.at(point.theta, _inner_tol(0.0, tol))
            elif done:
                break
            else:
                point, step = _search(objective, point, step, recent, tol)
                recent.append(point.objective)
                n_iter += 1
                stopped = watch is not None and watch(n_iter, point.residual)
    if point.residual > tol > 0:
        advice = "the callback stopped it" if stopped else f"raise max_iter (now {max_iter}), eps or tol"
        warnings.warn(
            f"{func}: stopped at an optimality residual of {point.residual:.3g} (tol={tol:g}); {advice}",
            ConvergenceWarning,
            stacklevel=2,
        )
    dtype = np.result_type(masses, *base_arrays)
    with np.errstate(over="ignore", under="ignore"):  # parameters that the type cannot hold
        parameters = np.ldexp(point.theta, units.eps - units.bases).astype(dtype)
        cost = np.ldexp(_cost(point.theta, scaled), units.eps).astype(dtype)
        value = float(np.ldexp(point.objective, units.total + units.eps)) - units.entropy(masses, eps)
    return InverseTransport(
        parameters=backend.wrap(parameters),
        cost=backend.wrap(cost),
        value=value,
        gradient_norm=point.residual,
        n_iter=n_iter,
        converged=point.residual <= tol,
    )


@dataclass(frozen=True)
class _Units:
    """Powers of two in which the total mass, each array of bases and eps are about 1, so that no square overflows."""

    total: int
    each: tuple[int, ...]
    eps: int

    @property
    def bases(self) -> int:
        return sum(self.each)

    def entropy(self, masses: np.ndarray, eps: float) -> float:
        """By how much ``eps KL(P | a b^T)`` is more than linear in the mass: a b^T grows by its square."""
        total = float(masses.sum(dtype=np.float64))
        return eps * total * (total - math.ldexp(total, -self.total) - self.total * math.log(2))

    @classmethod
    def of(cls, masses: np.ndarray, bases: tuple[np.ndarray, ...], eps: float) -> _Units:
        each = tuple(int(np.frexp(np.abs(x).max(initial=0.0))[1]) for x in bases)
        largest = int(np.frexp(masses.max())[1])
        return cls(largest, each, int(np.frexp(eps)[1]))


def _read(func: str, plan: Array, bases: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...], Backend]:
    """The plan, the bases or the two arrays of features, and the caller's library."""
    features = isinstance(bases, tuple)
    if features and len(bases) != 2:
        raise ValueError(f"{func}: `bases` must be an array (K, n, m) or a tuple (x, y), got a tuple of {len(bases)}")
    named = {"bases[0]": bases[0], "bases[1]": bases[1]} if features else {"bases": bases}
    backend = backend_of(func, plan=plan, **named)
    refuse_cuda(func, backend, "plan")
    masses = float_array(func, "plan", plan)
    if masses.ndim != 2 or masses.size == 0:
        raise ValueError(f"{func}: `plan` must have shape (n, m) with n, m >= 1, got {masses.shape}")
    if not np.isfinite(masses).all():
        raise ValueError(f"{func}: `plan` must be finite")
    if masses.min() < 0:
        raise ValueError(f"{func}: `plan` must not be negative, got {masses.min():.6g}")
    if not masses.any():
        raise ValueError(f"{func}: `plan` must have a positive total, got only zeros")
    read = tuple((points_array if features else float_array)(func, name, x) for name, x in named.items())
    if features:
        for axis, (name, x) in enumerate(zip(named, read, strict=True)):
            if x.ndim != 2 or len(x) != masses.shape[axis]:
                raise ValueError(f"{func}: `{name}` must have shape ({masses.shape[axis]}, d), got {x.shape}")
    elif read[0].ndim != 3 or read[0].shape[1:] != masses.shape or len(read[0]) == 0:
        n, m = masses.shape
        raise ValueError(f"{func}: `bases` must have shape (K, {n}, {m}) with K >= 1, got {read[0].shape}")
    elif not np.isfinite(read[0]).all():
        raise ValueError(f"{func}: `bases` must be finite")
    return masses, read, backend


def _without_empty(masses: np.ndarray, bases: tuple[np.ndarray, ...]) -> tuple[np.ndarray, _Family]:
    """The plan and its bases in float64, without rows and columns that have no mass and nothing to say."""
    rows, cols = masses.any(axis=1), masses.any(axis=0)
    plan = masses[rows][:, cols].astype(np.float64)
    total = plan.sum()
    marginals = plan.sum(axis=1) / total, plan.sum(axis=0) / total
    if len(bases) == 1:
        return plan, _Stack(bases[0][:, rows][:, :, cols].astype(np.float64), *marginals)
    x, y = bases
    return plan, _Products(x[rows].astype(np.float64), y[cols].astype(np.float64), *marginals)


def _cost(theta: np.ndarray, bases: tuple[np.ndarray, ...]) -> np.ndarray:
    """Cost of the parameters, with all that is additive in it."""
    if len(bases) == 1:
        return np.tensordot(theta, bases[0], axes=1)
    cost: np.ndarray = bases[0].astype(np.float64) @ theta @ bases[1].T
    return cost
