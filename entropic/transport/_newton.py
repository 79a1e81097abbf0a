"""Newton's method on the semi-dual: the last digits of problems on which first-order steps crawl.

With f the best for g, the semi-dual's gradient is the target of each column less its marginal c, and its Hessian, in
units of eps and with plan P and row marginals r,

    -(diag(c + t) - P^T diag(1 / (r (1 + eps/rho1))) P),     t = target eps/rho2,

a Schur complement of the full system (Hessian of f and g) on the side of the columns; where there are fewer rows the
complement on their side is solved instead. Balanced problems leave a constant undetermined, which the ridge settles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core

_ROUNDING = 1e-10  # of the dual value; below it the slope decides, as in the compiled line search
_OVERSHOOT = 0.9
_MAX_STEPS = 40
_CRAWL = 6  # steps in a row, cut short, that hardly lower the error: first-order passes do better there
_LEAST_RIDGE = 1e-14  # relative to the diagonal: balanced systems are singular
_MAX_HALVINGS = 25


@dataclass(frozen=True)
class Problems:
    """Balanced or KL-relaxed problems in float64, (B, ...) each."""

    core: Any
    a: np.ndarray
    b: np.ndarray
    eps: np.ndarray
    total: np.ndarray
    rows: tuple[int, float, float]
    rho: tuple[float, float]


def _exp_of(potential: np.ndarray, rho: float) -> np.ndarray:
    return np.ones_like(potential) if math.isinf(rho) else np.exp(-potential / rho)


def _dual_part(mass: np.ndarray, potential: np.ndarray, rho: float) -> np.ndarray:
    if not math.isinf(rho):
        potential = -rho * np.expm1(-potential / rho)
    total: np.ndarray = np.einsum("bi,bi->b", mass, potential)
    return total


class _Point:
    """Where the semi-dual has been evaluated: g, the best f, and what follows from them."""

    def __init__(self, p: Problems, f: np.ndarray, g: np.ndarray) -> None:
        self.g = g
        self.f, self.cols = _core.transport_semidual(p.core, p.a, p.b, f.copy(), g, p.eps, p.rows)
        self.target = p.b * _exp_of(g, p.rho[1])
        self.gradient = self.target - self.cols
        of_rows, of_cols = _dual_part(p.a, self.f, p.rho[0]), _dual_part(p.b, g, p.rho[1])
        mass = p.eps * self.cols.sum(axis=1)
        self.value = of_rows + of_cols - mass
        self.size = np.abs(of_rows) + np.abs(of_cols) + mass
        self.error = np.abs(self.gradient).sum(axis=1) / p.total


def solve_hessian(
    plan: np.ndarray, rows: np.ndarray, cols: np.ndarray, u: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """x, y of ``[[diag(rows), P], [P^T, diag(cols)]] (x, y) = (u, w)``, by the complement on the smaller side."""
    n, m = plan.shape[1:]
    if n < m:
        y, x = solve_hessian(plan.transpose(0, 2, 1), cols, rows, w, u)
        return x, y
    scaled = plan / np.sqrt(rows)[:, :, None]
    system = -(scaled.transpose(0, 2, 1) @ scaled)
    system[:, np.arange(m), np.arange(m)] += cols
    right = w - (plan.transpose(0, 2, 1) @ (u / rows)[:, :, None])[:, :, 0]
    y = np.linalg.solve(system, right[:, :, None])[:, :, 0]
    return (u - (plan @ y[:, :, None])[:, :, 0]) / rows, y


def _direction(p: Problems, here: _Point, ridge: np.ndarray) -> np.ndarray:
    plan = _core.transport_plan(p.core, p.a, p.b, here.f, here.g, p.eps, 0, p.a.shape[1])
    damped = 1 + ridge[:, None]
    rows = plan.sum(axis=2) * (damped + p.eps[:, None] / p.rho[0])
    cols = here.cols + here.target * (p.eps[:, None] / p.rho[1]) + here.target * ridge[:, None]
    # Points without mass have neither gradient nor plan; any positive diagonal leaves them where they are.
    rows = np.where(rows > 0, rows, 1.0)
    cols = np.where(cols > 0, cols, 1.0)
    gradient = np.where(p.b > 0, here.gradient, 0.0)
    _, step = solve_hessian(plan, rows, cols, np.zeros_like(rows), gradient)
    step *= p.eps[:, None]
    return step


def newton(
    p: Problems,
    f: np.ndarray,
    g: np.ndarray,
    tol: float,
    watch: Callable[[int, float], bool] | None,
    done: int,
    most: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Potentials at which the columns' error is at most `tol`, or the best in `most` passes, and passes per problem."""
    here = _Point(p, f, g)
    ridge = np.full(len(g), 1e-3)
    alive = here.error > tol
    passes = np.ones(len(g), np.int64)
    crawled = np.zeros(len(g), np.int64)
    for _ in range(_MAX_STEPS):
        if not alive.any() or passes.max() >= most:
            break
        try:
            step = _direction(p, here, np.maximum(ridge * here.error, _LEAST_RIDGE))
        except np.linalg.LinAlgError:
            ridge *= 100
            continue
        step = np.where(alive[:, None] & np.isfinite(step).all(axis=1, keepdims=True), step, 0.0)
        slope = np.einsum("bj,bj->b", here.gradient, step)
        if (alive & ~(slope > 0)).any():  # rounding has made the system indefinite
            alive &= ridge < 1e6
            ridge = np.where(slope > 0, ridge, np.maximum(100 * ridge, _LEAST_RIDGE / here.error))
            continue
        length = np.where(alive, 1.0, 0.0)
        for _ in range(max(1, min(_MAX_HALVINGS, most - int(passes.max())))):
            there = _Point(p, here.f, here.g + length[:, None] * step)
            passes += alive
            gains = there.value >= here.value + 1e-4 * length * slope
            slope_there = np.einsum("bj,bj->b", there.gradient, step)
            hidden = (slope_there >= -_OVERSHOOT * slope) & (there.value >= here.value - _ROUNDING * here.size)
            rejected = alive & ~(gains | hidden)
            if not rejected.any():
                break
            length = np.where(rejected, 0.5 * length, length)
        else:
            alive &= ~rejected
            there = _Point(p, here.f, here.g + np.where(rejected, 0.0, length)[:, None] * step)
        ridge = np.where(length == 1, ridge / 4, np.where(length < 0.25, ridge * 4, ridge))
        # Rounding leaves a floor: a full step that no longer helps has reached it.
        alive &= ~((length == 1) & (there.error > 0.5 * here.error) & (here.error < 1e-9))
        crawled = np.where((length < 1) & (there.error > 0.8 * here.error), crawled + 1, 0)
        alive &= crawled < _CRAWL
        here = there
        alive &= here.error > tol
        done += 1
        if watch is not None and watch(done, float(here.error.max())):
            break
    return here.f, here.g, passes
