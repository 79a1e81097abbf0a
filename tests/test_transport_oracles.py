"""Sinkhorn against what is known exactly: 50 digits, closed forms, linear programs and laws."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import transport as reference
from reference.logits import finite_difference
from reference.transport import masses, problem, true_error

import entropic

INF = np.inf
METRICS = ["sqeuclidean", "euclidean", "manhattan", "dot", "cosine"]


# ---- balanced: exact answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.05, 0.3, 3.0])
@pytest.mark.parametrize("shape", [(3, 3), (4, 6), (8, 8)])
def test_fifty_digits(shape, eps, rng):
    cost, a, b = problem(*shape, rng)
    f, _, truth = reference.sinkhorn_mpmath(cost, a, b, eps)
    result = entropic.sinkhorn(cost, a, b, eps=eps, tol=1e-14)
    np.testing.assert_allclose(result.plan(), np.array(truth, float), rtol=2e-12, atol=1e-15)
    f = np.array(f, float)
    np.testing.assert_allclose(result.f - result.f[0], f - f[0], rtol=0, atol=1e-12)  # potentials up to one constant
    value = reference.objective(np.array(truth, float), cost, a, b, eps)
    assert result.value == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize("eps", [0.01, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("a", [[0.5, 0.5], [0.9, 0.1], [1e-6, 1 - 1e-6]])
def test_two_by_two(a, eps):
    cost, a, b = np.array([[0.1, 0.25], [0.3, 0.2]]), np.array(a), np.array([0.3, 0.7])
    result = entropic.sinkhorn(cost, a, b, eps=eps, tol=1e-14)
    np.testing.assert_allclose(result.plan(), reference.two_by_two(cost, a, b, eps), rtol=0, atol=1e-14)


@pytest.mark.parametrize("eps", [1e-3, 0.1, 10.0])
def test_circulant_cost_and_uniform_masses(eps, rng):
    row = rng.uniform(0, 1, 12)
    cost = np.array([np.roll(row, k) for k in range(12)])
    result = entropic.sinkhorn(cost, eps=eps, tol=1e-14)
    np.testing.assert_allclose(result.plan(), reference.circulant(cost, eps), rtol=0, atol=1e-15)


@pytest.mark.parametrize("eps", [0.02, 0.5, 20.0])
def test_a_shifted_copy_is_transported_by_the_shift(eps, rng):
    x, a, shift = rng.normal(size=(30, 3)), masses(30, rng), np.array([0.7, -0.2, 1.1])
    across, within, _ = (
        entropic.sinkhorn(entropic.PointCloud(*pair), a, a, eps=eps, tol=1e-12)
        for pair in ((x, x + shift), (x, x), (x + shift, x + shift))
    )
    assert across.value - within.value == pytest.approx(shift @ shift, rel=1e-10)
    np.testing.assert_allclose(across.plan(), within.plan(), rtol=0, atol=1e-11)


def line_gaussian(mean, variance, mass=1.0, n=400):
    """A Gaussian on an even grid that goes out to 9 standard deviations, and its points."""
    x = mean + math.sqrt(variance) * np.linspace(-9, 9, n)
    a = np.exp(-((x - mean) ** 2) / (2 * variance))
    return x[:, None], mass * a / a.sum()


def test_gaussians(rng):
    (mean_a, var_a), (mean_b, var_b), eps = (0.3, 0.8), (-0.5, 1.7), 0.6
    x, a = line_gaussian(mean_a, var_a)
    y, b = line_gaussian(mean_b, var_b)
    result = entropic.sinkhorn(entropic.PointCloud(x, y), a, b, eps=eps, tol=1e-14)
    arguments = (np.array([mean_a]), np.array([[var_a]]), np.array([mean_b]), np.array([[var_b]]), eps)
    value, cross, slope = reference.gaussian(*arguments)
    assert result.value == pytest.approx(value, abs=1e-12)
    covariance = ((x - mean_a) * a[:, None]).T @ ((result.apply(y - mean_b)) / a[:, None])
    np.testing.assert_allclose(covariance, cross, rtol=0, atol=1e-12)
    inside = np.abs(x[:, 0] - mean_a) < 3
    line = mean_b + slope[0, 0] * (x - mean_a)
    np.testing.assert_allclose(result.barycentric_map()[inside], line[inside], rtol=0, atol=1e-10)
    new = rng.uniform(-1, 1, (7, 1))
    np.testing.assert_allclose(result.map_at(new), mean_b + slope[0, 0] * (new - mean_a), rtol=0, atol=1e-10)


# ---- balanced: limits ------------------------------------------------------------------------------------------------


def test_large_eps_gives_the_product(rng):
    cost, a, b = problem(9, 14, rng)
    result = entropic.sinkhorn(cost, a, b, eps=1e9)
    np.testing.assert_allclose(result.plan(), np.outer(a, b), rtol=1e-8)


def test_small_eps_gives_the_assignment(rng):
    cost = rng.uniform(0, 1, (20, 20))
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    result = entropic.sinkhorn(cost, eps=2e-4, tol=1e-9)
    np.testing.assert_array_equal(result.top(1)[0][:, 0], columns)
    assert result.transport_cost == pytest.approx(cost[rows, columns].mean(), abs=2e-4)


def marginal_rows(n, m):
    return np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])


def test_small_eps_gives_the_linear_program(rng):
    cost, a, b = problem(12, 9, rng)
    exact = scipy.optimize.linprog(cost.ravel(), A_eq=marginal_rows(12, 9), b_eq=np.concatenate([a, b])).fun
    result = entropic.sinkhorn(cost, a, b, eps=1e-4, tol=1e-9)
    assert exact - 1e-8 <= result.transport_cost <= exact + 1e-4 * math.log(12 * 9)


def test_small_eps_gives_the_distance_of_distribution_functions(rng):
    x, y, a, b = rng.normal(size=25), rng.normal(size=31) + 0.4, masses(25, rng), masses(31, rng)
    result = entropic.sinkhorn(entropic.PointCloud(x, y, metric="euclidean"), a, b, eps=1e-3, tol=1e-9)
    exact = scipy.stats.wasserstein_distance(x, y, a, b)
    assert exact - 1e-8 <= result.transport_cost <= exact + 1e-3 * math.log(31)


# ---- relaxed: exact answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [(0.5, 0.5), (0.2, 3.0), (1e-3, 40.0)])
@pytest.mark.parametrize("cost", [-0.4, 0.0, 2.5])
def test_one_point_to_one_point(cost, rho):
    a, b, eps = 0.3, 1.9, 0.07
    result = entropic.sinkhorn(np.array([[cost]]), np.array([a]), np.array([b]), eps=eps, rho=rho, tol=1e-14)
    assert result.plan()[0, 0] == pytest.approx(reference.one_by_one_unbalanced(cost, a, b, eps, rho), rel=1e-11)


@pytest.mark.parametrize("rho", [(0.7, 0.7), (0.7, 0.2), (1.5, INF), (INF, 0.4), (0.0, 2.0)])
def test_separable_cost(rho, rng):
    alpha, beta, eps = rng.uniform(0, 1, 6), rng.uniform(-1, 1, 9), 0.15
    a, b = masses(6, rng, 1.0), masses(9, rng, 2.5)
    result = entropic.sinkhorn(alpha[:, None] + beta, a, b, eps=eps, rho=rho, tol=1e-14)
    np.testing.assert_allclose(result.plan(), reference.separable(alpha, beta, a, b, eps, rho), rtol=1e-11)


@pytest.mark.parametrize("relaxation", ["kl", "tv"])
def test_one_free_side_is_a_softmax(relaxation, rng):
    cost, a, b = problem(7, 11, rng, 1.0, 3.0)
    b[4] = 0
    result = entropic.sinkhorn(cost, a, b, eps=0.1, rho=(INF, 0), relaxation=relaxation, tol=1e-14)
    np.testing.assert_allclose(result.plan(), reference.one_sided(cost, a, b, 0.1), rtol=0, atol=1e-15)


def test_unbalanced_gaussians():
    (mean_a, var_a, mass_a), (mean_b, var_b, mass_b) = (0.3, 0.8, 1.2), (-0.5, 1.7, 0.7)
    eps, rho = 0.6, 1.9
    x, a = line_gaussian(mean_a, var_a, mass_a)
    y, b = line_gaussian(mean_b, var_b, mass_b)
    result = entropic.sinkhorn(entropic.PointCloud(x, y), a, b, eps=eps, rho=rho, tol=1e-14)
    arguments = (np.array([mean_a]), np.array([[var_a]]), np.array([mean_b]), np.array([[var_b]]), eps, rho)
    mass, mean, cov = reference.unbalanced_gaussian(*arguments, mass_a, mass_b)
    plan = result.plan()
    assert plan.sum() == pytest.approx(mass, rel=1e-11)
    points = np.stack(np.broadcast_arrays(x, y.T)).reshape(2, -1)
    weights = plan.ravel() / plan.sum()
    np.testing.assert_allclose(points @ weights, mean, rtol=0, atol=1e-11)
    np.testing.assert_allclose(np.cov(points, aweights=weights, ddof=0), cov, rtol=0, atol=1e-11)


RELAXED = {
    "kl": {"rho": 0.4},
    "kl, two strengths": {"rho": (0.1, 2.0)},
    "kl, rows exact": {"rho": (INF, 0.3)},
    "kl, rows free": {"rho": (0, 0.3)},
    "kl, nearly balanced": {"rho": 1e4},
    "tv": {"rho": 0.3, "relaxation": "tv"},
    "tv, two strengths": {"rho": (0.05, 0.5), "relaxation": "tv"},
    "tv, columns exact": {"rho": (0.2, INF), "relaxation": "tv"},
    "range": {"rho": (0.7, 1.2), "relaxation": "range"},
    "range, no lower end": {"rho": (0.0, 1.1), "relaxation": "range"},
    "partial": {"mass": 0.6},
    "partial, all of the smaller side": {"mass": 0.9},
}


@pytest.mark.parametrize("eps", [3e-4, 0.02, 0.5])
@pytest.mark.parametrize("name", RELAXED)
def test_relaxed_problems_close_the_duality_gap(name, eps, rng):
    options = RELAXED[name]
    cost, a, b = problem(13, 17, rng, 0.9, 1.0)
    rho = options.get("rho", reference.BALANCED)
    told = {**options, "rho": rho if isinstance(rho, tuple) else (rho, rho)}
    # unequal totals make potentials of the size of rho, whose rounding, in units of eps, is all that is left
    floor = 1e-16 * np.max(np.where(np.isinf(told["rho"]), 0, told["rho"])) / eps
    result = entropic.sinkhorn(cost, a, b, eps=eps, tol=max(1e-11, floor), **options)
    plan = reference.plan(result.f, result.g, cost, a, b, eps)
    primal = reference.objective(plan, cost, a, b, eps, **told)
    dual = reference.dual_objective(result.f, result.g, cost, a, b, eps, **told)
    assert primal == pytest.approx(dual, abs=1e-8 * (1 + np.max(np.minimum(told["rho"], 1e4))))
    assert result.value == pytest.approx(primal, abs=1e-9)
    np.testing.assert_allclose(result.plan(), plan, rtol=0, atol=max(1e-12, floor))
    assert result.transport_cost == pytest.approx(np.sum(plan * cost), abs=max(1e-12, floor))


@pytest.mark.parametrize("rho", [(0.5, 0.5), (0.05, 1.0), (3.0, 0.2)])
@pytest.mark.parametrize("eps", [0.01, 0.3])
def test_value_of_unbalanced_transport_by_total_mass(eps, rho, rng):
    cost, a, b = problem(20, 15, rng, 1.3, 0.6)
    result = entropic.sinkhorn(cost, a, b, eps=eps, rho=rho, tol=1e-13)
    plan, (rho1, rho2) = result.plan(), rho
    identity = rho1 * a.sum() + rho2 * b.sum() + eps * a.sum() * b.sum() - (rho1 + rho2 + eps) * plan.sum()
    assert result.value == pytest.approx(identity, abs=1e-11)
    np.testing.assert_allclose(plan.sum(axis=1), a * np.exp(-result.f / rho1), rtol=1e-9)
    np.testing.assert_allclose(plan.sum(axis=0), b * np.exp(-result.g / rho2), rtol=1e-9)


def test_partial_transport_tends_to_its_linear_program(rng):
    cost, a, b = problem(10, 12, rng, 1.0, 1.4)
    total = {"A_eq": np.ones((1, 120)), "b_eq": [0.5]}
    exact = scipy.optimize.linprog(cost.ravel(), A_ub=marginal_rows(10, 12), b_ub=np.concatenate([a, b]), **total)
    result = entropic.sinkhorn(cost, a, b, eps=1e-3, mass=0.5, tol=1e-9, max_iter=50_000)
    assert result.plan().sum() == pytest.approx(0.5, abs=1e-8)
    assert exact.fun - 1e-7 <= result.transport_cost <= exact.fun + 0.5 * 1e-3 * math.log(120)


# ---- what peers get wrong, and their answers would fail here ---------------------------------------------------------


def test_unbalanced_at_small_eps_and_two_strengths_is_the_reference(rng):
    cost, a, b = problem(12, 12, rng)
    eps, rho = 0.01, (0.5, 5.0)
    f, g = reference.sinkhorn(cost, a, b, eps, rho=rho, n_iter=20_000)
    result = entropic.sinkhorn(cost, a, b, eps=eps, rho=rho, tol=1e-12)
    np.testing.assert_allclose(result.plan(), reference.plan(f, g, cost, a, b, eps), rtol=0, atol=1e-10)


def test_a_warm_start_at_the_solution_stops_at_once(rng):
    cost, a, b = problem(40, 40, rng)
    for options in ({}, {"rho": 0.5}, {"method": "sinkhorn"}):
        cold = entropic.sinkhorn(cost, a, b, eps=0.03, tol=1e-9, max_iter=100_000, **options)
        warm = entropic.sinkhorn(cost, a, b, eps=0.03, tol=1e-8, init=(cold.f, cold.g), **options)
        assert warm.n_iter <= 2 < cold.n_iter
        np.testing.assert_allclose(warm.plan(), cold.plan(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_a_cloud_is_its_cost_matrix(metric, rng):
    x, y, a, b = rng.normal(size=(30, 4)), rng.normal(size=(23, 4)), masses(30, rng), masses(23, rng)
    cost = reference.pairwise(x, y, metric)
    eps = 0.1 * cost.std()
    cloud = entropic.sinkhorn(entropic.PointCloud(x, y, metric=metric), a, b, eps=eps, tol=1e-12)
    dense = entropic.sinkhorn(cost, a, b, eps=eps, tol=1e-12)
    assert cloud.value == pytest.approx(dense.value, rel=1e-10)
    assert cloud.value == pytest.approx(reference.objective(dense.plan(), cost, a, b, eps), rel=1e-10)
    np.testing.assert_allclose(cloud.plan(), dense.plan(), rtol=0, atol=1e-11)
    np.testing.assert_allclose(cloud.barycentric_map(), dense.barycentric_map(y), rtol=0, atol=1e-8)
    # out of sample, at the samples: the f half-step of the converged potentials changes nothing
    np.testing.assert_allclose(cloud.potential_at(x), cloud.f, rtol=0, atol=1e-10)
    new = rng.normal(size=(5, 4))
    scores = np.log(b) + (cloud.g - reference.pairwise(new, y, metric)) / eps
    log_total = reference.logsumexp(scores, axis=1)
    np.testing.assert_allclose(cloud.potential_at(new), -eps * log_total, rtol=0, atol=1e-12)
    np.testing.assert_allclose(cloud.map_at(new), np.exp(scores - log_total[:, None]) @ y, rtol=0, atol=1e-11)


# ---- the plain iteration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_iter", [1, 2, 7])
@pytest.mark.parametrize("name", ["balanced", "kl, two strengths", "tv", "range"])
def test_plain_iteration_is_the_textbook_loop(name, n_iter, rng):
    options = RELAXED.get(name, {})
    cost, a, b = problem(11, 8, rng)
    result = entropic.sinkhorn(cost, a, b, eps=0.05, method="sinkhorn", tol=0, max_iter=n_iter, **options)
    rho = options.get("rho", INF)
    told = {**options, "rho": rho if isinstance(rho, tuple) else (rho, rho)}
    f, g = reference.sinkhorn(cost, a, b, 0.05, n_iter=n_iter, **told)
    assert result.n_iter == n_iter
    np.testing.assert_allclose(result.f, f, rtol=0, atol=1e-13)
    np.testing.assert_allclose(result.g, g, rtol=0, atol=1e-13)


def test_the_plain_iteration_does_not_stop_at_a_fixed_point():
    result = entropic.sinkhorn(np.zeros((3, 4, 5)), eps=1.0, method="sinkhorn", tol=0, max_iter=9)
    np.testing.assert_array_equal(result.n_iter, [9, 9, 9])


def test_a_limit_too_small_is_told_truly(rng):
    cost, a, b = problem(50, 50, rng)
    with pytest.warns(entropic.ConvergenceWarning, match="max_iter"):
        result = entropic.sinkhorn(cost, a, b, eps=1e-3, method="sinkhorn", tol=1e-9, max_iter=3)
    assert not result.converged
    assert result.marginal_error > 1e-9
    assert true_error(result, cost, a, b) == pytest.approx(result.marginal_error, rel=1e-9)


# ---- laws ------------------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)
powers = st.floats(-6, 6)
law = settings(max_examples=25, deadline=None)
OPTIONS = [{}, {"rho": (0.3, 2.0)}, {"mass": 0.5}]


def solved(cost, a, b, eps=0.1, **options):
    return entropic.sinkhorn(cost, a, b, eps=eps, tol=1e-11, max_iter=50_000, **options)


@law
@given(seeds, st.sampled_from(OPTIONS))
def test_swapping_the_sides_transposes_the_plan(seed, options):
    cost, a, b = problem(7, 10, np.random.default_rng(seed))
    swapped = {**options, "rho": options["rho"][::-1]} if "rho" in options else options
    one, other = solved(cost, a, b, **options), solved(cost.T, b, a, **swapped)
    assert one.value == pytest.approx(other.value, abs=1e-9)
    np.testing.assert_allclose(one.plan(), other.plan().T, rtol=0, atol=1e-9)


@law
@given(seeds, powers, st.sampled_from(OPTIONS))
def test_units_of_the_cost_scale_the_value(seed, power, options):
    cost, a, b = problem(7, 10, np.random.default_rng(seed))
    factor = 10**power
    scaled = {**options, "rho": tuple(factor * r for r in options["rho"])} if "rho" in options else options
    one, other = solved(cost, a, b, **options), solved(factor * cost, a, b, factor * 0.1, **scaled)
    assert other.value == pytest.approx(factor * one.value, rel=1e-8, abs=1e-9 * factor)
    np.testing.assert_allclose(one.plan(), other.plan(), rtol=0, atol=1e-9)


@law
@given(seeds, st.floats(-1e3, 1e3))
def test_constants_and_separable_terms_of_the_cost_leave_the_plan(seed, constant):
    rng = np.random.default_rng(seed)
    cost, a, b = problem(7, 10, rng)
    rows, columns = rng.normal(size=(7, 1)), rng.normal(size=10)
    one, other = solved(cost, a, b), solved(cost + constant + rows + columns, a, b)
    assert other.value == pytest.approx(one.value + constant + a @ rows[:, 0] + b @ columns, abs=1e-9)
    np.testing.assert_allclose(one.plan(), other.plan(), rtol=0, atol=1e-9)


@law
@given(seeds, powers)
def test_the_balanced_plan_scales_with_the_mass(seed, power):
    cost, a, b = problem(7, 10, np.random.default_rng(seed))
    factor = 10**power
    one, other = solved(cost, a, b), solved(cost, factor * a, factor * b)
    np.testing.assert_allclose(other.plan() / factor, one.plan(), rtol=0, atol=1e-9)
    assert other.transport_cost == pytest.approx(factor * one.transport_cost, rel=1e-8)


@law
@given(seeds, st.sampled_from(["sqeuclidean", "euclidean"]), st.floats(0.05, 5))
def test_divergence_of_two_clouds_is_not_negative(seed, metric, eps):
    rng = np.random.default_rng(seed)
    x, y, a, b = rng.normal(size=(8, 2)), rng.normal(size=(6, 2)), masses(8, rng), masses(6, rng)
    across, first, second = (
        solved(entropic.PointCloud(p, q, metric=metric), u, v, eps).value
        for p, q, u, v in ((x, y, a, b), (x, x, a, a), (y, y, b, b))
    )
    assert across - (first + second) / 2 >= -1e-9


def test_envelope_theorem(rng):
    cost, a, b = problem(4, 5, rng)
    result = solved(cost, a, b)
    slope = finite_difference(lambda c: solved(c, a, b).value, cost, 1.0)
    np.testing.assert_allclose(result.plan(), slope, rtol=0, atol=1e-7)
    step = 1e-5
    by_eps = (solved(cost, a, b, 0.1 + step).value - solved(cost, a, b, 0.1 - step).value) / (2 * step)
    assert by_eps == pytest.approx(reference.kl(result.plan(), np.outer(a, b)), rel=1e-5)


# ---- grids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"rho": (0.3, 2.0)}])
@pytest.mark.parametrize(("p", "metric"), [(1, "manhattan"), (2, "sqeuclidean")])
def test_a_grid_is_the_cloud_of_its_points(p, metric, options, rng):
    axes = (np.linspace(0, 1, 5), np.array([0.0, 0.3, 0.4, 1.1]), np.linspace(-1, 0, 3))
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    a, b = masses(60, rng), masses(60, rng)
    a[7] = b[0] = 0
    b *= a.sum() / b.sum()
    cloud = solved(entropic.PointCloud(points, points, metric=metric), a, b, **options)
    grid = solved(entropic.Grid(*axes, p=p), a, b, **options)
    assert grid.value == pytest.approx(cloud.value, abs=1e-9)
    assert grid.transport_cost == pytest.approx(cloud.transport_cost, abs=1e-9)
    np.testing.assert_allclose(grid.plan(), cloud.plan(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(grid.apply(points), cloud.apply(points), rtol=0, atol=1e-10)
