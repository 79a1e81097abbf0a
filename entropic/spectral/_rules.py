"""Gradients of the family: through eigenvalues, for which any basis of a repeated one serves, and through kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._backend import Array, backend_of, to_numpy
from .._validate import check_integer
from .._vjp import Pullback, cotangent_of, rule_for
from ..logits import softmax
from ..logits._functions import cast, float_dtype
from ..neighbors._search import Space
from . import _density, _diffusion, _matrix, _renyi
from ._covariance import CovarianceStream, Rows
from ._density import RowSums, Term, pull_others
from ._matrix import MatrixProblem, shannon
from ._operators import Affinity, Diffusion, centre_of, scaled_points
from ._spectrum import settled_magnitudes
from ._width import pull_width


def _as_given(grad: np.ndarray, given: Any) -> Any:
    array = to_numpy("vjp", "x", given)
    return backend_of("vjp", x=given).wrap(cast(grad.reshape(array.shape), float_dtype(array)))


# ---- spectra of covariances ------------------------------------------------------------------------------------------


def _register(func: Callable[..., Any], problem_of: Callable[..., MatrixProblem], name: str) -> None:
    @rule_for(func)
    def rule(x: Any, *, wrt: tuple[str, ...], **options: Any) -> tuple[Any, Pullback]:
        if isinstance(x, CovarianceStream):
            raise TypeError(f"vjp of {name}: a stream has no gradient, pass the rows")
        problem = problem_of(x, **options)
        value, slope = problem.value_and_slope()

        def pullback(g: Any) -> tuple[Any, ...]:
            to_matrix = slope * cotangent_of(name, g, np.shape(value))[..., None, None]
            if problem.rows is None:
                return (_as_given(np.ldexp(to_matrix, -np.asarray(problem.exponent)), x),)
            return (problem.backend.wrap(problem.pull(to_matrix)),)

        return value, pullback


_register(_matrix.matrix_entropy, _matrix.matrix_entropy_problem, "matrix_entropy")
_register(_matrix.von_neumann_entropy, _matrix.von_neumann_problem, "von_neumann_entropy")
_register(_matrix.effective_rank, _matrix.effective_rank_problem, "effective_rank")
_register(_matrix.truncated_matrix_entropy, _matrix.truncated_problem, "truncated_matrix_entropy")
_register(_matrix.participation_ratio, _matrix.participation_problem, "participation_ratio")
_register(_matrix.stable_rank, _matrix.stable_rank_problem, "stable_rank")
_register(_matrix.spectral_decay, _matrix.decay_problem, "spectral_decay")


def _class_gradient(func: str, rows: Rows, labels: Any, eps: Any, base: Any) -> tuple[float, np.ndarray]:
    """The rate of coding the classes one by one, and its gradient to the rows."""
    value, grad = 0.0, np.zeros(rows.z.shape)
    for share, roots, problem in _matrix.class_problems(func, rows, labels, eps, base):
        rate, slope = problem.value_and_slope()
        value += share * rate
        grad += share * roots * problem.pull(slope)
    return value, grad


@rule_for(_matrix.coding_rate)
def _coding_rate(
    z: Array, *, wrt: tuple[str, ...], eps: Any = 0.5, labels: Any = None, base: Any = None
) -> tuple[Any, Pullback]:
    func = "coding_rate"
    rows = _matrix.rate_rows(func, z)
    if labels is not None:
        value, grad = _class_gradient(func, rows, labels, eps, base)
        return value, lambda g: (_as_given(grad * cotangent_of(func, g, ()), z),)
    problem = _matrix.coding_rate_problem(func, rows, eps, base)
    rates, slope = problem.value_and_slope()

    def pullback(g: Any) -> tuple[Any, ...]:
        return (_as_given(problem.pull(slope * cotangent_of(func, g, np.shape(rates))[..., None, None]), z),)

    return rates, pullback


@rule_for(_matrix.coding_rate_reduction)
def _coding_rate_reduction(
    z: Array, *, wrt: tuple[str, ...], labels: Any, eps: Any = 0.5, base: Any = None
) -> tuple[Any, Pullback]:
    func = "coding_rate_reduction"
    rows = _matrix.rate_rows(func, z)
    inner, to_inner = _class_gradient(func, rows, labels, eps, base)
    whole = _matrix.coding_rate_problem(func, rows, eps, base)
    value, slope = whole.value_and_slope()
    grad = whole.pull(slope) - to_inner
    return value - inner, lambda g: (_as_given(grad * cotangent_of(func, g, ()), z),)


# ---- kernels of points -----------------------------------------------------------------------------------------------


def _through_kernel(x: np.ndarray, weights: np.ndarray, sigma: float) -> np.ndarray:
    """Gradient to x from that to K_ij = exp(-|x_i - x_j|^2 / (2 sigma^2)), times K: symmetric `weights`."""
    unit = (x - centre_of(x)) / sigma
    return np.asarray(-2 / sigma * (unit * weights.sum(axis=1)[:, None] - weights @ unit))


def _to_affinity(affinity: Affinity, diffusion: Diffusion, alpha: float, to_k: np.ndarray) -> np.ndarray:
    """Gradient to G from that to K_ij = s_i G_ij s_j, with s = w / sqrt(e), e = w (G w), w = (G 1)^-alpha."""
    g, s = affinity.dense(), diffusion.scale
    degrees = g.sum(axis=1)
    w = degrees**-alpha
    around = g @ w
    e = w * around
    by_log_s = 2 * s * ((to_k * g) @ s)
    by_e = -by_log_s / (2 * e)
    by_w = by_log_s / w + by_e * around + g @ (by_e * w)
    by_degree = -alpha * w / degrees * by_w
    to_g = to_k * s[:, None] * s + (by_e * w)[:, None] * w + by_degree[:, None]
    return np.asarray((to_g + to_g.T) / 2)


def _through_adaptive(x: np.ndarray, g: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The same for g_ij = exp(-|x_i - x_j|^2 / (s_i s_j)) and s_i the distance to the k-th neighbour."""
    points, exponent = scaled_points(x)
    distances, neighbours = Space(points, "euclidean").nearest(k)
    width, neighbour = distances[:, -1], neighbours[:, -1]
    rates = weights / width[:, None] / width
    grad = -4 * (points * rates.sum(axis=1)[:, None] - rates @ points)
    squares = -np.log(g, where=g > 0, out=np.zeros_like(g))  # over both widths
    by_width = 2 * (weights * squares).sum(axis=1) / width
    moves = by_width[:, None] * (points - points[neighbour]) / width[:, None]
    grad += moves
    np.subtract.at(grad, neighbour, moves)
    return np.asarray(np.ldexp(grad, -exponent))


class _Walk:
    """The diffusion matrix of points, or of affinities, with all its eigenvectors."""

    def __init__(self, func: str, kernel: _diffusion.Kernel, x: np.ndarray, alpha: float) -> None:
        self.kernel, self.x, self.alpha = kernel, x, alpha
        self.affinity = kernel.affinity(func, x)
        self.diffusion = Diffusion(func, self.affinity, alpha)
        self.eigenvalues, self.vectors = np.linalg.eigh(self.diffusion.dense())

    def pull(self, slope: np.ndarray) -> np.ndarray:
        """Gradient to x from that to the eigenvalues, with a fixed width."""
        to_g = _to_affinity(self.affinity, self.diffusion, self.alpha, (self.vectors * slope) @ self.vectors.T)
        if self.kernel.name == "precomputed":
            return np.asarray(np.ldexp(to_g, -_diffusion.range_exponent(self.x)))
        g = self.affinity.dense()
        if self.kernel.name == "adaptive":
            return _through_adaptive(self.x, g, to_g * g, self.kernel.k)
        assert self.kernel.sigma is not None
        return _through_kernel(self.x, to_g * g, self.kernel.sigma)


def _pull_entropy(problem: _diffusion.Problem, x: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    """Gradient of one diffusion entropy; `cotangent` for each t."""
    walk = _Walk(problem.func, problem.kernel, x, problem.alpha)
    settled, rounding = settled_magnitudes(walk.eigenvalues)
    slope = np.zeros(len(settled))
    for t, g in zip(np.atleast_1d(problem.times), cotangent, strict=True):
        if t > 0:
            magnitudes = settled if t >= 1 else np.where(settled > rounding, settled, 0.0)
            inner = np.where(magnitudes > 0, t * np.where(magnitudes > 0, magnitudes, 1.0) ** (t - 1), 0.0)
            slope += g / problem.log_base * shannon(magnitudes**t)[1] * inner * np.sign(walk.eigenvalues)
    return walk.pull(slope)


def _with_width(kernel: _diffusion.Kernel, sigma: Any, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """With what a width adds that depends on the points."""
    return pull_width(x, sigma, grad) if kernel.name == "gaussian" else grad


def _check_differentiable(func: str, kernel: Any) -> None:
    if kernel == "knn":
        raise TypeError(f'vjp of {func}: kernel="knn" is not supported, its affinities are constants')


@rule_for(_diffusion.diffusion_spectral_entropy)
def _diffusion_spectral_entropy(
    x: Array, *, wrt: tuple[str, ...], sigma: Any = 10.0, t: Any = 1, alpha: Any = 0.0, kernel: str = "gaussian",
    k: Any = 15, base: Any = 2.0, **options: Any,
) -> tuple[Any, Pullback]:  # fmt: skip
    func = "diffusion_spectral_entropy"
    _check_differentiable(func, kernel)
    value = _diffusion.diffusion_spectral_entropy(
        x, sigma=sigma, t=t, alpha=alpha, kernel=kernel, k=k, base=base, **options
    ).value

    def pullback(g: Any) -> tuple[Any, ...]:
        points, kept = _diffusion.check_kernel(func, x, kernel, sigma, k)
        problem = _diffusion.problem_of(func, kept, t, alpha, base, "dense", 1.0, None)
        cotangent = np.atleast_1d(cotangent_of(func, g, np.shape(value)))
        return (_as_given(_with_width(kept, sigma, points, _pull_entropy(problem, points, cotangent)), x),)

    return value, pullback


@rule_for(_diffusion.diffusion_spectrum)
def _diffusion_spectrum(
    x: Array, *, wrt: tuple[str, ...], count: Any = 10, sigma: Any = 10.0, alpha: Any = 0.0, kernel: str = "gaussian",
    k: Any = 15, **options: Any,
) -> tuple[Any, Pullback]:  # fmt: skip
    """Of the eigenvalues, u' dK u for a vector u; equal ones share theirs, whatever their basis."""
    func = "diffusion_spectrum"
    _check_differentiable(func, kernel)
    value = _diffusion.diffusion_spectrum(x, count, sigma=sigma, alpha=alpha, kernel=kernel, k=k, **options).eigenvalues

    def pullback(g: Any) -> tuple[Any, ...]:
        points, kept = _diffusion.check_kernel(func, x, kernel, sigma, k)
        walk = _Walk(func, kept, points, float(alpha))
        order = _diffusion.descending(walk.eigenvalues)
        slope = np.zeros(len(points))
        slope[order[: len(value)]] = cotangent_of(func, g, value.shape)
        same = np.abs(walk.eigenvalues[:, None] - walk.eigenvalues) < _diffusion.SAME
        shared = same @ slope / same.sum(axis=1)
        return (_as_given(_with_width(kept, sigma, points, walk.pull(shared)), x),)

    return value, pullback


@rule_for(_diffusion.diffusion_spectral_mutual_information)
def _diffusion_spectral_mutual_information(
    x: Array, *, wrt: tuple[str, ...], y: Any, sigma: Any = 10.0, t: Any = 1, n_repeats: Any = 5, n_bins: Any = None,
    alpha: Any = 0.0, kernel: str = "gaussian", k: Any = 15, base: Any = 2.0, rng: Any = None, **options: Any,
) -> tuple[Any, Pullback]:  # fmt: skip
    func = "diffusion_spectral_mutual_information"
    _check_differentiable(func, kernel)
    points, kept = _diffusion.check_kernel(func, x, kernel, sigma, k)
    problem = _diffusion.problem_of(func, kept, t, alpha, base, "dense", 1.0, rng)
    repeats = check_integer(func, "n_repeats", n_repeats, 1)
    parts = _diffusion.parts_of(func, points, y, n_bins, repeats, problem)
    found = [factor * problem.spectrum(kept.of_part(points, rows), 0).value for factor, rows in parts]
    shaped = problem.shaped(np.sum(found, axis=0) / problem.log_base)

    def pullback(g: Any) -> tuple[Any, ...]:
        cotangent = np.atleast_1d(cotangent_of(func, g, np.shape(shaped)))
        grad = np.zeros(points.shape)
        for factor, rows in parts:
            part = factor * _pull_entropy(problem, kept.of_part(points, rows), cotangent)
            if kept.name == "precomputed":
                grad[np.ix_(rows, rows)] += part
            else:
                grad[rows] += part
        return (_as_given(_with_width(kept, sigma, points, grad), x),)

    return shaped, pullback


def _renyi_gradients(variables: _renyi.Variables, parts: list[tuple[float, tuple[int, ...]]]) -> Any:
    """Value and gradients of sum factor * entropy over sets of variables with Gaussian kernels."""
    samples = variables.samples
    assert samples is not None
    value, grads = 0.0, [np.zeros(x.shape) for x in samples]
    for factor, which in parts:
        entropy, slope, kernel = variables.slope(which)
        value += factor * entropy
        for i in which:
            grads[i] += _through_kernel(samples[i], factor * slope * kernel, variables.widths[i])
    return value, [pull_width(x, sigma, grad) for x, sigma, grad in zip(samples, variables.given, grads, strict=True)]


def _renyi_rule(func: Callable[..., Any], name: str, information: bool) -> None:
    @rule_for(func)
    def rule(
        *arrays: Array, wrt: tuple[str, ...], sigma: Any = "median", order: Any = 1.01, kernel: Any = "gaussian",
        base: Any = 2.0,
    ) -> tuple[Any, Pullback]:  # fmt: skip
        if kernel != "gaussian":
            raise TypeError(f"vjp of {name}: kernel={kernel!r} is not supported")
        variables = _renyi.variables_of(name, arrays, sigma, order, kernel, base)
        whole = tuple(range(len(arrays)))
        parts = [(1.0, (0,)), (1.0, (1,)), (-1.0, (0, 1))] if information else [(1.0, whole)]
        value, grads = _renyi_gradients(variables, parts)
        return value, lambda g: tuple(
            _as_given(grad * cotangent_of(name, g, ()), x) for grad, x in zip(grads, arrays, strict=True)
        )


_renyi_rule(_renyi.matrix_renyi_entropy, "matrix_renyi_entropy", False)
_renyi_rule(_renyi.matrix_mutual_information, "matrix_mutual_information", True)


# ---- kernel densities ------------------------------------------------------------------------------------------------


def _pulled(term: Term) -> list[tuple[np.ndarray, np.ndarray]]:
    """Gradients of a term to both samples of each of its row sums."""
    weights = term.factor * np.asarray(softmax(term.exponents()))
    if term.self_left_out:
        grad = pull_others(term.parts[0], weights)
        return [(grad, np.zeros_like(grad))]
    return [sums.pull(sign * weights) for sums, sign in zip(term.parts, term.signs, strict=True)]


@rule_for(_density.cauchy_schwarz_divergence)
def _cauchy_schwarz_divergence(x: Array, y: Array, *, wrt: tuple[str, ...], **options: Any) -> tuple[Any, Pullback]:
    func = "cauchy_schwarz_divergence"
    terms, constant, log_base = _density.divergence_terms(x, y, **options)

    def pullback(g: Any) -> tuple[Any, ...]:
        (across_x, across_y), within_x, within_y = (_pulled(term)[0] for term in terms)
        rate = cotangent_of(func, g, ()) / log_base
        return (
            _as_given(rate * (across_x + within_x[0] + within_x[1]), x),
            _as_given(rate * (across_y + within_y[0] + within_y[1]), y),
        )

    return _density.total(terms, constant, log_base), pullback


@rule_for(_density.cauchy_schwarz_mutual_information)
def _cauchy_schwarz_mutual_information(
    x: Array, y: Array, *, wrt: tuple[str, ...], sigma_x: Any, sigma_y: Any, base: Any = None
) -> tuple[Any, Pullback]:
    func = "cauchy_schwarz_mutual_information"
    terms, constant, log_base = _density.information_terms(x, y, sigma_x=sigma_x, sigma_y=sigma_y, base=base)

    def pullback(g: Any) -> tuple[Any, ...]:
        (joint,), (of_x,), (of_y,), (both_x, both_y) = ([a + b for a, b in _pulled(term)] for term in terms)
        d = terms[1].parts[0].x.shape[1]
        rate = cotangent_of(func, g, ()) / log_base / 2
        return (
            _as_given(rate / sigma_x * (joint[:, :d] + of_x + both_x), x),
            _as_given(rate / sigma_y * (joint[:, d:] + of_y + both_y), y),
        )

    return _density.total(terms, constant, log_base), pullback


@rule_for(_density.cauchy_schwarz_conditional)
def _cauchy_schwarz_conditional(
    x: Array, y: Array, z: Array, *, wrt: tuple[str, ...], sigma_x: Any, sigma_y: Any, denominator: Any = "squares",
    base: Any = None,
) -> tuple[Any, Pullback]:  # fmt: skip
    func = "cauchy_schwarz_conditional"
    terms, constant, log_base = _density.conditional_terms(
        x, y, z, sigma_x=sigma_x, sigma_y=sigma_y, denominator=denominator, base=base
    )

    def pullback(g: Any) -> tuple[Any, ...]:
        pulled = [_pulled(term) for term in terms]
        (first, second), of_y, of_z = (pair[0] for pair in pulled)
        to_first, to_second = first + of_y[0] + of_y[1], second + of_z[0] + of_z[1]
        below = sum(pair[1][0] + pair[1][1] for pair in pulled)
        d = terms[0].parts[1].x.shape[1]
        rate = cotangent_of(func, g, ()) / log_base / 2
        return (
            _as_given(rate / sigma_x * (to_first[:, :d] + to_second[:, :d] + below), x),
            _as_given(rate / sigma_y * to_first[:, d:], y),
            _as_given(rate / sigma_y * to_second[:, d:], z),
        )

    return _density.total(terms, constant, log_base), pullback


@rule_for(_density.kde_entropy)
def _kde_entropy(
    x: Array, *, wrt: tuple[str, ...], sigma: Any, leave_one_out: Any = True, base: Any = None
) -> tuple[Any, Pullback]:
    func = "kde_entropy"
    problem = _density.kde_problem(x, sigma=sigma, leave_one_out=leave_one_out, base=base)

    def pullback(g: Any) -> tuple[Any, ...]:
        n = len(problem.logs)
        weights = np.full(n, -float(cotangent_of(func, g, ())) / n / problem.log_base)
        grad = pull_others(problem.sums, weights) if leave_one_out else sum(problem.sums.pull(weights))
        return (_as_given(np.asarray(grad), x),)

    return problem.value(), pullback


@rule_for(_density.mixture_entropy)
def _mixture_entropy(
    means: Array, *, wrt: tuple[str, ...], sigma: Any, weights: Any = None, base: Any = None
) -> tuple[Any, Pullback]:
    func = "mixture_entropy"
    problem = _density.mixture_problem(means, sigma=sigma, weights=weights, base=base)

    def pullback(g: Any) -> tuple[Any, ...]:
        def pulled(sums: RowSums, rate: float) -> np.ndarray:
            return np.asarray(sum(sums.pull(-rate / problem.log_base * problem.shares)))

        lower, upper = (float(rate) for rate in cotangent_of(func, g, (2,)))
        of_present = pulled(problem.lower, lower) + pulled(problem.upper, upper)
        grad = np.zeros((len(problem.present), of_present.shape[1]))
        grad[problem.present] = of_present
        return (_as_given(grad, means),)

    return problem.value(), pullback
