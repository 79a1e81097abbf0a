"""Transport with few nonzeros a column: brute force over supports, quadratic programs, duality, edges and errors."""

import itertools

import numpy as np
import pytest
import scipy.optimize

import entropic
from entropic import sparse_transport

INF, NAN = np.inf, np.nan


def masses(rng, n):
    return rng.dirichlet(np.full(n, 3.0))


def problem(rng, n, m):
    return rng.random((n, m)), masses(rng, n), masses(rng, m)


def simplex_best(scores, mass, gamma):
    """max <s, t> - gamma/2 |t|^2 over t >= 0 of this mass: the threshold is the root of a falling function."""

    def rest(threshold):
        return np.maximum(scores - threshold, 0).sum() / gamma - mass

    threshold = scipy.optimize.brentq(rest, scores.max() - 1.01 * gamma * mass, scores.max(), xtol=1e-15, rtol=1e-14)
    t = np.maximum(scores - threshold, 0) / gamma
    return scores @ t - gamma / 2 * t @ t


def semi_dual(alpha, cost, a, b, k, gamma):
    """By its definition: every column tries every support."""
    supports = [list(s) for s in itertools.combinations(range(len(a)), k)]
    scores = alpha[:, None] - cost
    return alpha @ a - sum(
        max(simplex_best(scores[s, j], b[j], gamma) for s in supports) for j in range(len(b)) if b[j] > 0
    )


def quadratic_program(cost, a, b, gamma, allowed=None):
    """The least value of <P, C> + gamma/2 |P|^2 over plans on the allowed entries, inf where there is none."""
    n, m = cost.shape
    i, j = np.nonzero(np.ones((n, m), bool) if allowed is None else allowed)
    marginals = np.concatenate([np.equal.outer(np.arange(n), i), np.equal.outer(np.arange(m), j)]).astype(float)
    given, c = np.concatenate([a, b]), cost[i, j]
    start = scipy.optimize.linprog(c, A_eq=marginals, b_eq=given)
    if start.status == 2:
        return INF
    found = scipy.optimize.minimize(
        lambda p: c @ p + gamma / 2 * p @ p,
        start.x,
        jac=lambda p: c + gamma * p,
        bounds=[(0, None)] * len(c),
        constraints={"type": "eq", "fun": lambda p: marginals[:-1] @ p - given[:-1], "jac": lambda p: marginals[:-1]},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 300},
    )
    return found.fun


def check_answer(found, cost, a, b, k, gamma):
    """What holds of every answer, converged or not, in float64."""
    plan, total = found.plan(), np.sum(a)
    assert plan.shape == np.shape(cost)
    assert (plan >= 0).all()
    assert ((plan > 0).sum(axis=0) <= k).all()
    np.testing.assert_allclose(plan.sum(axis=0), b, rtol=1e-13)
    off = np.abs(plan.sum(axis=0) - b).sum() + np.abs(plan.sum(axis=1) - a).sum()
    assert found.marginal_error == pytest.approx(off / total, rel=1e-9, abs=1e-13)
    paid = (plan * np.where(plan > 0, cost, 0)).sum()
    assert found.transport_cost == pytest.approx(paid, rel=1e-12, abs=1e-13)
    assert found.value == pytest.approx(paid + gamma / 2 * (plan**2).sum(), rel=1e-12, abs=1e-13)
    np.testing.assert_array_equal(found.tocoo().toarray(), plan)


@pytest.mark.parametrize(("n", "m", "k"), [(4, 5, 1), (4, 5, 2), (5, 3, 3), (5, 4, 4), (3, 4, 3)])
@pytest.mark.parametrize("gamma", [0.1, 2.0, 30.0])
@pytest.mark.filterwarnings("ignore::entropic.ConvergenceWarning")
def test_dual_value_is_the_semi_dual_by_its_definition(n, m, k, gamma, rng):
    cost, a, b = problem(rng, n, m)
    a[1], a[2] = 0.0, a[1] + a[2]
    found = sparse_transport(cost, a, b, k=k, gamma=gamma)
    check_answer(found, cost, a, b, k, gamma)
    assert found.dual_value == pytest.approx(semi_dual(found.f, cost, a, b, k, gamma), abs=1e-12)


@pytest.mark.filterwarnings("ignore::entropic.ConvergenceWarning")
@pytest.mark.parametrize("k", [1, 2, 3])
def test_dual_value_is_near_the_maximum(k, rng):
    cost, a, b = problem(rng, 3, 4)
    found = sparse_transport(cost, a, b, k=k, gamma=1.0)
    best = max(
        -scipy.optimize.minimize(
            lambda alpha: -semi_dual(np.append(alpha, 0.0), cost, a, b, k, 1.0), start, method="Nelder-Mead",
            options={"xatol": 1e-10, "fatol": 1e-12, "maxiter": 600},
        ).fun
        for start in (np.zeros(2), found.f[:2] - found.f[2])
    )  # fmt: skip
    assert found.dual_value == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.3, 3.0])
@pytest.mark.filterwarnings("ignore::entropic.ConvergenceWarning")
def test_against_all_supports(gamma, rng):
    n, m, k = 3, 4, 2
    possible, excess = 0, []
    for _ in range(8):
        cost, a, b = problem(rng, n, m)
        best = INF
        for chosen in itertools.product(itertools.combinations(range(n), k), repeat=m):
            allowed = np.zeros((n, m), bool)
            for j, support in enumerate(chosen):
                allowed[list(support), j] = True
            best = min(best, quadratic_program(cost, a, b, gamma, allowed))
        found = sparse_transport(cost, a, b, k=k, gamma=gamma)
        check_answer(found, cost, a, b, k, gamma)
        assert found.dual_value <= best + 1e-6
        possible += best < INF
        if found.converged:
            assert found.value >= best - 1e-5
            excess.append(found.value - best)
    assert possible - 1 <= len(excess) <= possible
    assert np.median(excess) <= 1e-3


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (5, 1), (4, 5), (6, 3)])
@pytest.mark.parametrize("gamma", [0.2, 1.0, 20.0])
def test_without_a_limit_it_is_the_quadratic_program(n, m, gamma, rng):
    cost, a, b = problem(rng, n, m)
    found = sparse_transport(cost, a, b, k=n + 3, gamma=gamma, tol=1e-9)
    assert found.converged
    check_answer(found, cost, a, b, n, gamma)
    assert found.value == pytest.approx(found.dual_value, abs=1e-8)
    if n > 1 and m > 1:
        assert found.value == pytest.approx(quadratic_program(cost, a, b, gamma), abs=1e-7)


def test_additive_costs_in_closed_form(rng):
    """All plans cost the same, and the one of least norm is a_i / m + b_j / n - 1 / (n m) where that is positive."""
    n, m = 6, 9
    a, b = (1 + 0.2 * rng.random(size) for size in (n, m))
    a, b = a / a.sum(), b / b.sum()
    cost = rng.normal(size=(n, 1)) + rng.normal(size=m)
    found = sparse_transport(cost, a, b, k=n, gamma=0.7, tol=1e-11)
    np.testing.assert_allclose(found.plan(), a[:, None] / m + b / n - 1 / (n * m), atol=1e-11)


def test_slack_limit_changes_nothing(rng):
    """Where the free plan has at most k nonzeros a column, it is the answer for k."""
    cost, a, b = problem(rng, 12, 15)
    free = sparse_transport(cost, a, b, k=12, gamma=0.5, tol=1e-9)
    k = int((free.plan() > 0).sum(axis=0).max())
    assert k < 12
    found = sparse_transport(cost, a, b, k=k, gamma=0.5, tol=1e-9)
    assert found.value == pytest.approx(free.value, abs=1e-8)
    np.testing.assert_allclose(found.plan(), free.plan(), atol=1e-6)


@pytest.mark.filterwarnings("ignore::entropic.ConvergenceWarning")
def test_one_nonzero_is_unregularised(rng):
    """With k = 1 the quadratic term is a constant: the semi-dual is that of plain transport."""
    n = 8
    cost, b = rng.random((n, n)), np.full(n, 1 / n)
    found = sparse_transport(cost, k=1, gamma=1.0)
    exact = entropic.transport_exact(cost)
    bound = exact.value + 0.5 * b @ b
    assert bound - 2e-3 <= found.dual_value <= bound + 1e-9
    # Every column of its plan is an argmin of c_j - f, up to the place of a kink.
    cost[np.arange(n), rng.permutation(n)] -= 1
    found = sparse_transport(cost, k=1, gamma=1.0)
    np.testing.assert_array_equal(found.plan() > 0, entropic.transport_exact(cost).plan.toarray() > 0)
    assert found.converged


def test_derivative_of_the_value_is_the_plan(rng):
    cost, a, b = problem(rng, 5, 6)
    found = sparse_transport(cost, a, b, k=5, gamma=1.0, tol=1e-11)
    direction, h = rng.normal(size=cost.shape), 1e-4
    up, down = (sparse_transport(cost + s * h * direction, a, b, k=5, gamma=1.0, tol=1e-11) for s in (1, -1))
    assert (up.dual_value - down.dual_value) / (2 * h) == pytest.approx((found.plan() * direction).sum(), abs=1e-6)


@pytest.mark.parametrize("k", [2, 6])
@pytest.mark.filterwarnings("ignore::entropic.ConvergenceWarning")
def test_scales(k, rng):
    cost, a, b = problem(rng, 6, 7)
    reference = sparse_transport(cost, a, b, k=k, gamma=0.5)
    for factor in (2.0**-900, 2.0**900):
        scaled = sparse_transport(cost * factor, a, b, k=k, gamma=0.5 * factor)
        np.testing.assert_array_equal(scaled.plan(), reference.plan())
        assert scaled.value == pytest.approx(reference.value * factor, rel=1e-12)
    for factor in (2.0**-300, 2.0**300):
        scaled = sparse_transport(cost, a * factor, b * factor, k=k, gamma=0.5 / factor)
        np.testing.assert_allclose(scaled.plan(), reference.plan() * factor, rtol=1e-12)
    shifted = sparse_transport(cost + np.arange(6.0)[:, None], a, b, k=k, gamma=0.5)
    np.testing.assert_allclose(shifted.f - reference.f, np.arange(6.0), atol=1e-3)


def test_zero_masses_and_forbidden_pairs(rng):
    cost, a, b = problem(rng, 5, 6)
    a[0] = b[2] = b[3] = 0
    a, b = a / a.sum(), b / b.sum()
    cost[1, 1] = cost[0, 4] = INF
    cost[0, :] = INF
    found = sparse_transport(cost, a, b, k=4, gamma=1.0)
    assert found.converged
    check_answer(found, cost, a, b, 4, 1.0)
    plan = found.plan()
    assert not plan[0].any()
    assert not plan[:, [2, 3]].any()
    assert plan[1, 1] == 0
    assert np.isfinite(found.f).all()


def test_no_plan():
    cost = np.array([[0.0, INF, INF], [0.0, INF, INF], [0.0, 1.0, 1.0]])
    for a in ([0.4, 0.4, 0.2], [0.2, 0.2, 0.6]):
        with pytest.raises(ValueError, match="infinite entries that forbid any plan"):
            sparse_transport(cost, np.array(a), np.array([0.3, 0.5, 0.2]), k=3)
    with pytest.raises(ValueError, match="infinite entries that forbid any plan"):
        sparse_transport(np.array([[0.0, INF], [1.0, INF]]), k=2)


@pytest.mark.parametrize("gamma", [1e-12, 1e-3, 1e12])
@pytest.mark.filterwarnings("ignore::entropic.ConvergenceWarning")
def test_never_nan_and_always_true(gamma, rng):
    for cost in (rng.random((6, 5)), np.ones((6, 5)), 1e12 * np.eye(6, 5), -rng.random((6, 5)) * 1e-9):
        a, b = masses(rng, 6), masses(rng, 5)
        for k in (1, 3, 6):
            found = sparse_transport(cost, a, b, k=k, gamma=gamma)
            plan = found.plan()
            assert ((plan > 0).sum(axis=0) <= k).all()
            np.testing.assert_allclose(plan.sum(axis=0), b, rtol=1e-12)
            assert found.marginal_error == pytest.approx(np.abs(plan.sum(axis=1) - a).sum(), abs=1e-12)
            assert np.isfinite([found.value, found.dual_value]).all()
            assert found.converged == (found.marginal_error <= 1e-6) or found.n_iter == 2000


def test_types_and_layouts(rng):
    cost, a, b = problem(rng, 5, 6)
    wide = sparse_transport(cost, a, b, k=5)
    single = sparse_transport(cost.astype(np.float32), a, b, k=5)
    assert single.plan().dtype == single.f.dtype == single.tocoo().dtype == np.float32
    np.testing.assert_allclose(single.plan(), wide.plan(), atol=1e-5)
    assert single.marginal_error <= 2e-6
    assert sparse_transport(np.arange(12).reshape(3, 4), k=3).plan().dtype == np.float64
    before = cost.copy()
    view = np.asfortranarray(np.repeat(cost, 2, axis=1))[::-1, ::2]
    view.flags.writeable = False
    turned = sparse_transport(view, a[::-1], b, k=5)
    np.testing.assert_allclose(turned.plan()[::-1], wide.plan(), atol=2e-6)
    np.testing.assert_array_equal(cost, before)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(6, 2))
    cloud = sparse_transport(entropic.PointCloud(x, y), a, b, k=5)
    stored = sparse_transport(((x[:, None] - y) ** 2).sum(-1), a, b, k=5)
    np.testing.assert_allclose(cloud.plan(), stored.plan(), atol=1e-8)


def test_callback_and_limit(rng):
    cost, a, b = problem(rng, 20, 20)
    seen = []
    found = sparse_transport(cost, a, b, k=20, gamma=0.1, callback=lambda *args: seen.append(args))
    assert [iteration for iteration, _ in seen] == list(range(1, found.n_iter + 1))
    assert seen[-1][1] <= 1e-6
    with pytest.warns(entropic.ConvergenceWarning, match="the callback stopped it"):
        found = sparse_transport(cost, a, b, k=20, gamma=0.1, callback=lambda i, _: i == 3)
    assert (found.n_iter, found.converged) == (3, False)
    check_answer(found, cost, a, b, 20, 0.1)
    with pytest.warns(entropic.ConvergenceWarning, match=r"sparse_transport: 2 iterations .* raise max_iter"):
        found = sparse_transport(cost, a, b, k=20, gamma=0.1, max_iter=2)
    check_answer(found, cost, a, b, 20, 0.1)
    with pytest.warns(entropic.ConvergenceWarning, match=r"no feasible plan .* raise k"):
        found = sparse_transport(np.ones((7, 2)), k=1)
    assert not found.converged
    assert "converged=False" in repr(found)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "`k` must be at least 1, got 0"),
        ({"k": 1.5}, TypeError, "`k` must be an integer, got 1.5"),
        ({"gamma": 0.0}, ValueError, "`gamma` must be positive and finite, got 0.0"),
        ({"gamma": NAN}, ValueError, "`gamma` must be positive and finite"),
        ({"gamma": "1"}, TypeError, "`gamma` must be a number"),
        ({"tol": -1.0}, ValueError, "`tol` must be at least 0"),
        ({"max_iter": 0}, ValueError, "`max_iter` must be at least 1"),
        ({"callback": 3}, TypeError, "`callback` must be callable"),
        ({"cost": np.ones(3)}, ValueError, "`cost` must have shape"),
        ({"cost": np.ones((2, 3, 4))}, ValueError, r"`cost` must have shape \(n, m\), got \(2, 3, 4\)"),
        ({"cost": np.ones((0, 4))}, ValueError, "at least one row"),
        ({"cost": np.full((3, 4), NAN)}, ValueError, "must not contain nan"),
        ({"cost": np.full((3, 4), -INF)}, ValueError, "must not contain -inf"),
        ({"cost": np.ones((3, 4), complex)}, TypeError, "must be real"),
        ({"a": np.ones(4) / 4}, ValueError, r"`a` must have shape \(3,\)"),
        ({"b": np.array([0.5, 0.7, -0.2, 0.0])}, ValueError, "`b` must not be negative"),
        ({"a": np.array([NAN, 0.5, 0.5])}, ValueError, "`a` must not contain nan"),
        ({"a": np.zeros(3)}, ValueError, "`a` must have a positive total"),
        ({"a": np.ones(3)}, ValueError, "`a` and `b` must have the same total, got 3 and 1"),
    ],
)
def test_errors(change, error, message):
    arguments = {"cost": np.ones((3, 4)), "a": None, "b": None, "k": 2} | change
    with pytest.raises(error, match=f"sparse_transport: .*{message}"):
        sparse_transport(arguments.pop("cost"), **arguments)
