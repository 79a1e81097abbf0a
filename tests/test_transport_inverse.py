"""Costs recovered from plans, against the costs that made them, plain loops, and SciPy's optimisers."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from reference import transport as reference

import entropic
from entropic.transport._inverse import inverse_transport

INF, NAN = np.inf, np.nan


def masses(rng, n):
    return rng.dirichlet(np.full(n, 3.0))


def plan_of(cost, a, b, eps, n_iter=1500):
    f, g = reference.sinkhorn(cost, a, b, eps, n_iter=n_iter)
    return reference.plan(f, g, cost, a, b, eps)


def noisy_problem(rng, n=12, m=15, bases=3):
    """Counts of pairs that no parameters explain, and bases."""
    stack = rng.normal(size=(bases, n, m))
    plan = plan_of(np.tensordot(rng.normal(size=bases), stack, 1), masses(rng, n), masses(rng, m), 1.0)
    return rng.poisson(2000 * plan) / 2000.0, stack


def subgradient_distances(theta, plan, stack, eps, penalty):
    """Distance of 0 to each component of the subdifferential, by the plain loop."""
    best = plan_of(np.tensordot(theta, stack, 1), plan.sum(axis=1), plan.sum(axis=0), eps)
    gradient = np.tensordot(stack, plan - best, 2)
    return np.where(theta != 0, np.abs(gradient + penalty * np.sign(theta)), np.maximum(np.abs(gradient) - penalty, 0))


# ---- recovery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("eps", [0.5, 3.0])
def test_bilinear_cost_comes_back(d, eps, rng):
    x, y, matrix = rng.normal(size=(25, d)), rng.normal(size=(30, d + 1)), rng.normal(size=(d, d + 1))
    plan = plan_of(x @ matrix @ y.T, masses(rng, 25), masses(rng, 30), eps)
    answer = inverse_transport(plan, (x, y), eps=eps, tol=1e-10)
    assert answer.converged
    assert answer.gradient_norm <= 1e-10
    np.testing.assert_allclose(answer.parameters, matrix, atol=1e-7)
    np.testing.assert_allclose(answer.cost, x @ matrix @ y.T, atol=1e-6)
    # the plan is explained: what is left is the relative entropy of the plan to a b^T
    entropy = eps * reference.kl(plan, np.outer(plan.sum(axis=1), plan.sum(axis=0)))
    assert answer.value == pytest.approx(-entropy, abs=1e-10)
    # only the ratio to eps shows
    double = inverse_transport(plan, (x, y), eps=2 * eps, tol=1e-10)
    np.testing.assert_allclose(double.parameters, 2 * matrix, atol=2e-7)


def test_stack_and_features_agree(rng):
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(15, 2))
    plan, _ = noisy_problem(rng)
    stack = np.einsum("ip,jq->pqij", x, y).reshape(4, 12, 15)
    for penalty in (0.0, 0.05):
        by_features = inverse_transport(plan, (x, y), eps=0.7, penalty=penalty, tol=1e-9)
        by_stack = inverse_transport(plan, stack, eps=0.7, penalty=penalty, tol=1e-9)
        np.testing.assert_allclose(by_stack.parameters, by_features.parameters.ravel(), atol=1e-7)
        np.testing.assert_allclose(by_stack.cost, by_features.cost, atol=1e-6)
        assert by_stack.value == pytest.approx(by_features.value, abs=1e-9)


def test_gaussian_plan():
    """Correlation r: the density is a product times exp(r x y / ((1 - r^2) s t)), which says what the cost is."""
    s, t, r, eps = 1.3, 0.6, 0.7, 0.4
    x, y = np.linspace(-6 * s, 6 * s, 61), np.linspace(-6 * t, 6 * t, 51)
    normal = scipy.stats.multivariate_normal([0, 0], [[s * s, r * s * t], [r * s * t, t * t]])
    plan = normal.pdf(np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1))
    answer = inverse_transport(plan / plan.sum(), (x, y), eps=eps, tol=1e-10)
    np.testing.assert_allclose(answer.parameters, [[-eps * r / ((1 - r * r) * s * t)]], rtol=1e-8)


def test_additive_parts_are_not_seen(rng):
    plan, stack = noisy_problem(rng)
    plain = inverse_transport(plan, stack, eps=1.0, tol=1e-10)
    moved = stack + 5 * rng.normal(size=(3, 12, 1)) + 5 * rng.normal(size=(3, 1, 15))
    again = inverse_transport(plan, moved, eps=1.0, tol=1e-10)
    np.testing.assert_allclose(again.parameters, plain.parameters, atol=1e-8)
    assert again.value == pytest.approx(plain.value, abs=1e-10)
    additive = rng.normal(size=(12, 1)) + rng.normal(size=15)
    more = inverse_transport(plan, np.concatenate([stack, additive[None]]), eps=1.0, tol=1e-10)
    assert more.parameters[3] == 0
    np.testing.assert_allclose(more.parameters[:3], plain.parameters, atol=1e-8)


def test_empty_rows_and_columns_say_nothing(rng):
    plan, stack = noisy_problem(rng)
    plan[3], plan[:, 7] = 0, 0
    kept = inverse_transport(
        np.delete(np.delete(plan, 3, 0), 7, 1), np.delete(np.delete(stack, 3, 1), 7, 2), eps=1.0, tol=1e-9
    )
    whole = inverse_transport(plan, stack, eps=1.0, tol=1e-9)
    np.testing.assert_allclose(whole.parameters, kept.parameters, atol=1e-8)
    assert whole.cost.shape == (12, 15)


# ---- optimality ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("eps", [0.3, 2.0])
def test_optimality_conditions(penalty, eps, rng):
    plan, stack = noisy_problem(rng, bases=5)
    answer = inverse_transport(plan, stack, eps=eps, penalty=penalty, tol=1e-9)
    assert answer.converged
    distances = subgradient_distances(answer.parameters, plan, stack, eps, penalty)
    assert distances.max() <= 1e-8


def test_value_is_least(rng):
    """SciPy's minimum of the objective written down plainly, without a gradient."""
    plan, stack = noisy_problem(rng, 6, 5, bases=2)
    a, b, eps, penalty = plan.sum(axis=1), plan.sum(axis=0), 0.8, 0.03

    def objective(theta):
        cost = np.tensordot(theta, stack, 1)
        best = reference.objective(plan_of(cost, a, b, eps, 100), cost, a, b, eps)
        return np.sum(cost * plan) - best + penalty * np.abs(theta).sum()

    answer = inverse_transport(plan, stack, eps=eps, penalty=penalty, tol=1e-9)
    assert answer.value == pytest.approx(objective(answer.parameters), abs=1e-9)
    found = scipy.optimize.minimize(
        objective, [0.1, -0.1], method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-9, "maxiter": 120}
    )
    assert found.fun == pytest.approx(answer.value, abs=1e-7)
    np.testing.assert_allclose(found.x, answer.parameters, atol=1e-3)


def test_sparsity_pattern(rng):
    x, y = rng.normal(size=(80, 5)), rng.normal(size=(80, 5))
    matrix = np.zeros((5, 5))
    matrix[[0, 1, 3], [0, 2, 3]] = -1.0, 0.8, 1.2
    plan = plan_of(x @ matrix @ y.T, masses(rng, 80), masses(rng, 80), 1.0)
    noisy = rng.multinomial(20_000, plan.ravel()).reshape(80, 80) / 20_000
    assert np.count_nonzero(inverse_transport(noisy, (x, y), eps=1.0).parameters) == 25
    sparse = inverse_transport(noisy, (x, y), eps=1.0, penalty=0.05, tol=1e-8)
    np.testing.assert_array_equal(np.sign(sparse.parameters), np.sign(matrix))


def test_penalty_at_which_all_parameters_vanish(rng):
    plan, stack = noisy_problem(rng)
    independent = np.outer(plan.sum(axis=1), plan.sum(axis=0)) / plan.sum()
    threshold = np.abs(np.tensordot(stack, plan - independent, 2)).max()
    above = inverse_transport(plan, stack, eps=1.0, penalty=1.0001 * threshold)
    assert not above.parameters.any()
    assert (above.n_iter, above.converged) == (0, True)
    below = inverse_transport(plan, stack, eps=1.0, penalty=0.99 * threshold)
    assert np.count_nonzero(below.parameters) == 1
    # with no tolerance at all, the exact answer is taken for what it is
    assert inverse_transport(plan, stack, eps=1.0, penalty=2 * threshold, tol=0.0).converged


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scales(factor, rng):
    plan, stack = noisy_problem(rng)
    plain = inverse_transport(plan, stack, eps=1.0, penalty=0.05, tol=1e-9)
    heavy = inverse_transport(factor * plan, stack, eps=1.0, penalty=0.05 * factor, tol=1e-9)
    np.testing.assert_allclose(heavy.parameters, plain.parameters, atol=1e-7)
    costly = inverse_transport(plan, factor * stack, eps=factor, penalty=0.05 * factor, tol=1e-9)
    np.testing.assert_allclose(costly.parameters, plain.parameters, atol=1e-7)


# ---- what is reported, arrays and arguments --------------------------------------------------------------------------


def test_limit_of_iterations(rng):
    plan, stack = noisy_problem(rng)
    with pytest.warns(entropic.ConvergenceWarning, match=r"inverse_transport: stopped at .* raise max_iter \(now 2\)"):
        answer = inverse_transport(plan, stack, eps=0.2, tol=1e-12, max_iter=2)
    assert (answer.n_iter, answer.converged) == (2, False)
    distances = subgradient_distances(answer.parameters, plan, stack, 0.2, 0.0)
    a, b = (plan.sum(axis=axis, keepdims=True) / plan.sum() for axis in (1, 0))
    centred = stack - (stack * b).sum(2, keepdims=True)
    centred = centred - (centred * a).sum(1, keepdims=True)
    units = plan.sum() * np.sqrt((centred**2 * a * b).sum(axis=(1, 2)))
    assert answer.gradient_norm == pytest.approx((distances / units).max(), rel=1e-8)


def test_callback(rng):
    plan, stack = noisy_problem(rng)
    seen = []
    answer = inverse_transport(plan, stack, eps=0.5, callback=lambda *call: seen.append(call))
    assert [n for n, _ in seen] == list(range(1, answer.n_iter + 1))
    assert answer.gradient_norm <= 1e-6 < seen[0][1]
    with pytest.warns(entropic.ConvergenceWarning, match="the callback stopped it"):
        assert inverse_transport(plan, stack, eps=0.5, callback=lambda n, error: n == 2).n_iter == 2
    assert "converged=True" in repr(answer)


def test_plan_that_no_cost_makes():
    """A permutation: the parameters grow, and stay finite."""
    x = np.arange(6.0)
    answer = inverse_transport(np.eye(6), (x, x), eps=1.0, tol=1e-4)
    assert -100 < answer.parameters[0, 0] < -5
    # - eps KL(plan | a b^T), which no parameters reach: 6 log 1 - 6 + 36
    assert -30 < answer.value == pytest.approx(-30, abs=0.01)


def test_types_and_layouts(rng):
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(15, 3))
    plan, stack = noisy_problem(rng)
    want = inverse_transport(plan, (x, y), eps=1.0)
    single = inverse_transport(np.float32(plan), (np.float32(x), np.float32(y)), eps=1.0)
    assert (single.parameters.dtype, single.cost.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(single.parameters, want.parameters, atol=1e-5)
    assert inverse_transport(np.float32(plan), stack, eps=1.0).parameters.dtype == np.float64
    assert inverse_transport(np.arange(1, 5).reshape(2, 2), ([0, 1], [0, 1]), eps=1).parameters.dtype == np.float64
    plan.flags.writeable = False
    doubled = np.repeat(stack, 2, axis=2)[:, :, ::2]
    by_stack = inverse_transport(plan, stack, eps=1.0).parameters
    np.testing.assert_allclose(inverse_transport(np.asfortranarray(plan), doubled, eps=1.0).parameters, by_stack)
    np.testing.assert_allclose(inverse_transport(plan, list(stack), eps=1.0).parameters, by_stack)


def test_torch(rng):
    torch = pytest.importorskip("torch")
    plan, stack = noisy_problem(rng)
    answer = inverse_transport(torch.from_numpy(plan), torch.from_numpy(stack), eps=1.0)
    assert isinstance(answer.parameters, torch.Tensor)
    assert isinstance(answer.cost, torch.Tensor)
    np.testing.assert_array_equal(answer.parameters.numpy(), inverse_transport(plan, stack, eps=1.0).parameters)


PLAN, BASES = np.full((2, 3), 1 / 6), np.zeros((1, 2, 3))


@pytest.mark.parametrize(
    ("plan", "bases", "options", "error", "text"),
    [
        (PLAN, BASES, {"eps": 0}, ValueError, "`eps` must be positive and finite, got 0"),
        (PLAN, BASES, {"penalty": -1}, ValueError, "`penalty` must be at least 0 and finite, got -1"),
        (PLAN, BASES, {"penalty": "1"}, TypeError, "`penalty` must be a number, got '1'"),
        (PLAN, BASES, {"tol": -1}, ValueError, "`tol` must be at least 0"),
        (PLAN, BASES, {"max_iter": 0}, ValueError, "`max_iter` must be at least 1, got 0"),
        (PLAN, BASES, {"callback": 1}, TypeError, "`callback` must be callable or None, got 1"),
        (PLAN[0], BASES, {}, ValueError, r"`plan` must have shape \(n, m\) with n, m >= 1, got \(3,\)"),
        (PLAN[:0], BASES, {}, ValueError, r"`plan` must have shape \(n, m\) with n, m >= 1, got \(0, 3\)"),
        (-PLAN, BASES, {}, ValueError, "`plan` must not be negative, got -0.166667"),
        (PLAN * NAN, BASES, {}, ValueError, "`plan` must be finite"),
        (PLAN * 0, BASES, {}, ValueError, "`plan` must have a positive total, got only zeros"),
        (PLAN * 1j, BASES, {}, TypeError, "`plan` must be real, got dtype complex128"),
        (PLAN, BASES[0], {}, ValueError, r"`bases` must have shape \(K, 2, 3\) with K >= 1, got \(2, 3\)"),
        (PLAN, BASES[:0], {}, ValueError, r"`bases` must have shape \(K, 2, 3\) with K >= 1, got \(0, 2, 3\)"),
        (PLAN, BASES + INF, {}, ValueError, "`bases` must be finite"),
        (PLAN, (1, 2, 3), {}, ValueError, r"`bases` must be an array \(K, n, m\) or a tuple \(x, y\), got a tuple of 3"),
        (PLAN, (np.ones((3, 1)), np.ones((3, 1))), {}, ValueError, r"`bases\[0\]` must have shape \(2, d\), got \(3, 1\)"),
        (PLAN, (np.ones((2, 1)), np.ones((3, 1)) * NAN), {}, ValueError, r"`bases\[1\]` must be finite"),
    ],
)  # fmt: skip
def test_bad_arguments(plan, bases, options, error, text):
    with pytest.raises(error, match=f"inverse_transport: {text}"):
        inverse_transport(plan, bases, **{"eps": 1.0, **options})


@pytest.mark.parametrize(
    ("mass", "size", "eps"), [(1e100, 1, 1), (1e-200, 1, 1), (1, 1e-170, 1), (1, 1e170, 1), (1, 1, 1e200)]
)
def test_any_units(mass, size, eps, rng):
    bases = rng.normal(size=(2, 6, 7))
    plan = plan_of(bases[0] - 2 * bases[1], masses(rng, 6), masses(rng, 7), 0.5)
    answer = inverse_transport(plan * mass, bases * size, eps=0.5 * eps, tol=1e-9)
    assert answer.converged
    np.testing.assert_allclose(answer.parameters * size / eps, [1, -2], rtol=1e-6)
