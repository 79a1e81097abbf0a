"""Gradients of transport against central differences of the functions themselves."""

import numpy as np
import pytest
from reference.logits import finite_difference
from reference.transport import masses, pairwise

import entropic

INF = float("inf")
METRICS = ("sqeuclidean", "euclidean", "manhattan", "dot", "cosine")
RELAXED = {
    "balanced": {},
    "kl": {"rho": 0.7},
    "kl, two strengths": {"rho": (0.3, 2.0)},
    "rows exact": {"rho": (INF, 0.5)},
    "rows free": {"rho": (0.0, 0.5)},
}
KINKED = {
    "tv": {"rho": 0.3, "relaxation": "tv"},
    "range": {"rho": (0.8, 1.3), "relaxation": "range"},
    "partial": {"mass": 0.6},
}


def solve(cost, a=None, b=None, **options):
    return entropic.sinkhorn(cost, a, b, tol=1e-13, max_iter=100_000, **options)


def pulled(cotangent, cost, *arrays, wrt=(), **options):
    return entropic.vjp(entropic.sinkhorn, cost, *arrays, wrt=wrt, tol=1e-13, max_iter=100_000, **options)[1](cotangent)


def problem(rng, n=6, m=8):
    return rng.normal(size=(n, m)), masses(n, rng), masses(m, rng)


def moved(mass, rng):
    """A direction that keeps the total."""
    direction = rng.normal(size=mass.shape) * mass
    return direction - mass * direction.sum(-1, keepdims=True) / mass.sum(-1, keepdims=True)


def slope_along(f, x, direction, h=1e-5):
    return (f(x + h * direction) - f(x - h * direction)) / (2 * h)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RELAXED | KINKED)
def test_value(name, rng):
    options = {**(RELAXED | KINKED)[name], "eps": 0.4}
    cost, a, b = problem(rng)
    by_cost, by_a, by_b, by_eps = pulled(1.7, cost, a, b, wrt=("eps",), **options)

    def value(cost=cost, a=a, b=b, eps=options["eps"]):
        return 1.7 * solve(cost, a, b, **{**options, "eps": eps}).value

    np.testing.assert_allclose(by_cost, finite_difference(lambda x: value(cost=x), cost, 1.0), rtol=0, atol=1e-7)
    da, db = moved(a, rng), moved(b, rng)
    if name != "balanced":  # there the totals must stay equal
        da, db = rng.normal(size=a.shape) * a, rng.normal(size=b.shape) * b
    assert np.sum(by_a * da) == pytest.approx(slope_along(lambda x: value(a=x), a, da), abs=1e-7)
    assert np.sum(by_b * db) == pytest.approx(slope_along(lambda x: value(b=x), b, db), abs=1e-7)
    assert by_eps == pytest.approx(slope_along(lambda e: value(eps=e), 0.4, 1.0), rel=1e-7, abs=1e-7)


def test_value_of_other_totals(rng):
    """Scaling both sides of a balanced problem alike is a direction, too."""
    cost, a, b = problem(rng)
    a, b = 2.5 * a, 2.5 * b
    _, by_a, by_b = pulled(1.0, cost, a, b, eps=0.3)
    slope = slope_along(lambda t: solve(cost, t * a, t * b, eps=0.3).value, 1.0, 1.0)
    assert np.sum(by_a * a) + np.sum(by_b * b) == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize(("metric", "shift"), [(m, 0.0) for m in METRICS] + [(m, 1e4) for m in METRICS[:3]])
def test_value_of_points(metric, shift, rng):
    x, y, a = rng.normal(size=(5, 3)) + shift, rng.normal(size=(7, 3)) + shift, masses(5, rng)
    (by_x, by_y), _ = pulled(1.0, entropic.PointCloud(x, y, metric), a, eps=0.5)

    def value(x, y):
        return solve(entropic.PointCloud(x, y, metric), a, eps=0.5).value

    np.testing.assert_allclose(by_x, finite_difference(lambda x: value(x, y), x, 1.0), rtol=0, atol=3e-7)
    np.testing.assert_allclose(by_y, finite_difference(lambda y: value(x, y), y, 1.0), rtol=0, atol=3e-7)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "manhattan"])
def test_clouds_that_coincide(metric, rng):
    x = rng.normal(size=(6, 2))
    (by_x, by_y), = pulled(1.0, entropic.PointCloud(x, x, metric), eps=0.3)  # fmt: skip
    assert np.isfinite([by_x, by_y]).all()
    np.testing.assert_allclose(by_x, by_y, rtol=0, atol=1e-12)


def test_a_cloud_of_more_rows_than_are_held_at_once(rng):
    x, y = rng.normal(size=(2500, 2)), rng.normal(size=(2000, 2))
    result, pullback = entropic.vjp(entropic.sinkhorn, entropic.PointCloud(x, y), eps=1.0)
    ((by_x, by_y),) = pullback(1.0)
    np.testing.assert_allclose(by_x, 2 * (x / 2500 - result.apply(y)), rtol=0, atol=1e-8)
    np.testing.assert_allclose(by_y, 2 * (y / 2000 - result.apply(x, axis=0)), rtol=0, atol=1e-8)


def test_grid(rng):
    grid, a, b = entropic.Grid(4, 5), masses(20, rng), masses(20, rng)
    nothing, by_a, by_b = pulled(1.0, grid, a, b, eps=0.2)
    assert nothing is None
    for by, given, at in ((by_a, a, 0), (by_b, b, 1)):
        direction = moved(given, rng)

        def value(x, at=at):
            return solve(grid, *((x, b) if at == 0 else (a, x)), eps=0.2).value

        assert np.sum(by * direction) == pytest.approx(slope_along(value, given, direction), abs=1e-8)


# ---- plans and potentials --------------------------------------------------------------------------------------------


def loss_of(result, cotangents):
    parts = {"f": result.f, "g": result.g, "plan": result.plan(), "value": result.value,
             "transport_cost": result.transport_cost}  # fmt: skip
    return sum(np.sum(np.asarray(w) * parts[name]) for name, w in cotangents.items())


def cotangents_of(which, shape, rng):
    n, m = shape
    u, w = rng.normal(size=n), rng.normal(size=m)
    w += (u.sum() - w.sum()) / m  # balanced potentials are open to a constant that moves from f to g
    every = {"f": u, "g": w, "plan": rng.normal(size=shape), "transport_cost": 0.7, "value": -1.3}
    return {name: every[name] for name in which}


@pytest.mark.parametrize(
    "which", [["plan"], ["f", "g"], ["transport_cost"], ["f", "g", "plan", "transport_cost", "value"]]
)
@pytest.mark.parametrize("shape", [(6, 8), (9, 5)])
@pytest.mark.parametrize("name", RELAXED)
def test_implicit(name, shape, which, rng):
    options = {**RELAXED[name], "eps": 0.4}
    cost, a, b = problem(rng, *shape)
    cotangents = cotangents_of(which, shape, rng)
    by_cost, by_a, by_b, by_eps = pulled(cotangents, cost, a, b, wrt=("eps",), **options)

    def loss(cost=cost, a=a, b=b, eps=0.4):
        return loss_of(solve(cost, a, b, **{**options, "eps": eps}), cotangents)

    size = np.abs(by_cost).max()
    np.testing.assert_allclose(
        by_cost, finite_difference(lambda x: loss(cost=x), cost, 1.0), rtol=0, atol=1e-6 * (1 + size)
    )
    da, db = moved(a, rng), moved(b, rng)
    assert np.sum(by_a * da) == pytest.approx(slope_along(lambda x: loss(a=x), a, da), rel=1e-6, abs=1e-6)
    assert np.sum(by_b * db) == pytest.approx(slope_along(lambda x: loss(b=x), b, db), rel=1e-6, abs=1e-6)
    assert by_eps == pytest.approx(slope_along(lambda e: loss(eps=e), 0.4, 1.0), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["balanced", "kl"])
def test_points_without_mass(name, rng):
    """Their plan is 0, but their potentials and the gradients to their masses are not."""
    options = {**RELAXED[name], "eps": 0.5}
    cost, a, b = problem(rng)
    a[1], b[[0, 3]] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    cotangents = cotangents_of(["f", "g", "plan"], cost.shape, rng)
    by_cost, by_a, by_b = pulled(cotangents, cost, a, b, **options)

    def loss(cost=cost, a=a, b=b):
        return loss_of(solve(cost, a, b, **options), cotangents)

    np.testing.assert_allclose(by_cost, finite_difference(lambda x: loss(cost=x), cost, 1.0), rtol=0, atol=1e-6)
    # one-sided: mass comes to the empty points from the others
    for by, mass, f in ((by_a, a, lambda x: loss(a=x)), (by_b, b, lambda x: loss(b=x))):
        direction = np.where(mass > 0, -mass / mass.sum(), 1 / (mass == 0).sum())
        h = 1e-5
        slope = (-3 * f(mass) + 4 * f(mass + h * direction) - f(mass + 2 * h * direction)) / (2 * h)
        assert np.sum(by * direction) == pytest.approx(slope, rel=1e-5, abs=1e-5)


def test_forbidden_pairs(rng):
    cost, a, b = problem(rng)
    cost[0, :5] = cost[3, 2:] = INF
    allowed = np.isfinite(cost)
    cotangents = {"plan": rng.normal(size=cost.shape), "transport_cost": 0.3, "value": 1.0}
    by_cost, by_a, _ = pulled(cotangents, cost, a, b, eps=0.6)
    assert np.isfinite(by_a).all()
    np.testing.assert_array_equal(by_cost[~allowed], 0)

    def loss(shift):
        return loss_of(solve(cost + shift, a, b, eps=0.6), cotangents)

    direction = rng.normal(size=cost.shape)
    slope = slope_along(lambda t: loss(t * direction), 0.0, 1.0)
    assert np.sum(by_cost[allowed] * direction[allowed]) == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_points_through_the_plan(rng):
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(6, 2))
    weight = rng.normal(size=(5, 6))
    ((by_x, by_y),) = pulled({"plan": weight}, entropic.PointCloud(x, y), eps=0.7)

    def loss(x, y):
        return np.sum(weight * solve(entropic.PointCloud(x, y), eps=0.7).plan())

    np.testing.assert_allclose(by_x, finite_difference(lambda x: loss(x, y), x, 1.0), rtol=0, atol=1e-7)
    np.testing.assert_allclose(by_y, finite_difference(lambda y: loss(x, y), y, 1.0), rtol=0, atol=1e-7)


def test_batches_and_shared_arrays(rng):
    cost, a, b = rng.normal(size=(3, 5, 6)), masses(5, rng), np.stack([masses(6, rng) for _ in range(3)])
    cotangents = {"value": rng.normal(size=3), "plan": rng.normal(size=cost.shape)}
    by_cost, by_a, by_b = pulled(cotangents, cost, a, b, eps=0.4)
    shared = np.zeros(5)
    for k in range(3):
        one = pulled({name: w[k] for name, w in cotangents.items()}, cost[k], a, b[k], eps=0.4)
        np.testing.assert_allclose(by_cost[k], one[0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(by_b[k], one[2], rtol=0, atol=1e-9)
        shared += one[1]
    np.testing.assert_allclose(by_a, shared, rtol=0, atol=1e-9)


def test_small_eps(rng):
    """Where the plan is close to a vertex its derivative is still that of the smooth plan."""
    cost, a, b = problem(rng)
    weight = rng.normal(size=cost.shape)
    by_cost, _, _ = pulled({"plan": weight}, cost, a, b, eps=0.02)

    def loss(cost):
        return np.sum(weight * solve(cost, a, b, eps=0.02).plan())

    difference = finite_difference(loss, cost, 1.0, 1e-6)
    np.testing.assert_allclose(by_cost, difference, rtol=0, atol=1e-5 * (1 + np.abs(difference).max()))


# ---- the divergence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [None, (0.5, 1.5)])
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_divergence(metric, rho, rng):
    x, y, a, b = rng.normal(size=(5, 2)), rng.normal(size=(6, 2)), masses(5, rng), masses(6, rng)
    options = {"metric": metric, "rho": rho, "tol": 1e-13, "max_iter": 100_000}
    if rho is not None:
        b = 1.3 * b
    _, pullback = entropic.vjp(entropic.sinkhorn_divergence, x, y, a, b, eps=0.5, wrt=("eps",), **options)
    by_x, by_y, by_a, by_b, by_eps = pullback(2.0)

    def value(x=x, y=y, a=a, b=b, eps=0.5):
        return 2.0 * entropic.sinkhorn_divergence(x, y, a, b, eps=eps, **options).value

    np.testing.assert_allclose(by_x, finite_difference(lambda v: value(x=v), x, 1.0), rtol=0, atol=1e-7)
    np.testing.assert_allclose(by_y, finite_difference(lambda v: value(y=v), y, 1.0), rtol=0, atol=1e-7)
    for by, mass, f in ((by_a, a, lambda v: value(a=v)), (by_b, b, lambda v: value(b=v))):
        direction = moved(mass, rng) if rho is None else rng.normal(size=mass.shape) * mass
        assert np.sum(by * direction) == pytest.approx(slope_along(f, mass, direction), abs=1e-7)
    assert by_eps == pytest.approx(slope_along(lambda e: value(eps=e), 0.5, 1.0), abs=1e-7)


def test_divergence_of_batches(rng):
    x, y, a = rng.normal(size=(5, 2)), rng.normal(size=(3, 6, 2)), np.stack([masses(5, rng) for _ in range(3)])
    weight = rng.normal(size=3)
    for given in ((), (a,), (masses(5, rng),)):
        _, pullback = entropic.vjp(entropic.sinkhorn_divergence, x, y, *given, eps=0.5, tol=1e-12)
        grads = pullback(weight)
        total = np.zeros_like(x)
        for k in range(3):
            mine = [v[k] if v.ndim == 2 else v for v in given]
            one = entropic.vjp(entropic.sinkhorn_divergence, x, y[k], *mine, eps=0.5, tol=1e-12)[1](weight[k])
            total += one[0]
            np.testing.assert_allclose(grads[1][k], one[1], rtol=0, atol=1e-9)
        np.testing.assert_allclose(grads[0], total, rtol=0, atol=1e-9)


def test_divergence_of_a_cloud_from_itself_pulls_nowhere(rng):
    x = rng.normal(size=(8, 2))
    by_x, by_y = entropic.vjp(entropic.sinkhorn_divergence, x, x.copy(), eps=0.3, tol=1e-12)[1](1.0)
    np.testing.assert_allclose([by_x, by_y], 0, atol=1e-9)


# ---- types and refusals ----------------------------------------------------------------------------------------------


def test_types(rng):
    cost, a, b = problem(rng)
    single = [v.astype(np.float32) for v in (cost, a, b)]
    for cotangent in (1.0, {"plan": np.ones(cost.shape)}):
        grads = entropic.vjp(entropic.sinkhorn, *single, eps=0.4)[1](cotangent)
        assert [g.dtype for g in grads] == [np.float32] * 3
        wide = entropic.vjp(entropic.sinkhorn, cost, a, b, eps=0.4, tol=1e-10)[1](cotangent)
        np.testing.assert_allclose(grads[0], wide[0], rtol=0, atol=1e-5)
    by_cost, by_a = entropic.vjp(entropic.sinkhorn, [[0, 1], [1, 0]], None, eps=0.5)[1](1.0)
    assert by_cost.dtype == np.float64
    assert by_a is None
    by_cost, by_b = entropic.vjp(entropic.sinkhorn, cost, b=b, wrt=("b",), eps=0.5)[1](1.0)
    assert (by_cost.shape, by_b.shape) == (cost.shape, b.shape)


def test_gradients_have_the_shape_and_type_of_what_was_given(rng):
    x, y = rng.normal(size=5), rng.normal(size=(6, 1)).astype(np.float16)
    by_x, by_y = entropic.vjp(entropic.sinkhorn_divergence, x, y, eps=0.5)[1](1.0)
    assert (by_x.shape, by_x.dtype) == ((5,), np.float64)
    assert (by_y.shape, by_y.dtype) == ((6, 1), np.float16)
    wide = entropic.vjp(entropic.sinkhorn_divergence, x[:, None], y, eps=0.5)[1](1.0)[0]
    np.testing.assert_array_equal(by_x[:, None], wide)


def test_bfloat16_costs_get_bfloat16_gradients(rng):
    torch = pytest.importorskip("torch")
    cost = torch.from_numpy(rng.normal(size=(4, 5))).to(torch.bfloat16)
    assert entropic.vjp(entropic.sinkhorn, cost, eps=0.4)[1](1.0)[0].dtype == torch.bfloat16


def test_torch_arrays_get_torch_gradients(rng):
    torch = pytest.importorskip("torch")
    cost = torch.from_numpy(rng.normal(size=(4, 5)))
    ours = entropic.vjp(entropic.sinkhorn, cost, eps=0.4, tol=1e-12)[1](1.0)[0]
    assert isinstance(ours, torch.Tensor)
    np.testing.assert_allclose(ours, entropic.sinkhorn(cost, eps=0.4, tol=1e-12).plan(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("cotangent", "options", "error", "words"),
    [
        ({"F": 1.0}, {}, TypeError, "cotangents are of value, transport_cost, f, g, plan, got"),
        ({}, {}, ValueError, "must be of some of value, transport_cost, f, g, plan, got none"),
        (np.ones(3), {}, ValueError, r"the cotangent of value must have shape \(\), got \(3,\)"),
        ({"plan": np.ones((3, 2))}, {}, ValueError, r"the cotangent of plan must have shape \(6, 8\)"),
        ({"f": np.ones(6)}, {}, ValueError, "must have the same sum"),
        ({"plan": 1.0}, {"mass": 0.5}, TypeError, "balanced and KL-relaxed problems only"),
        ({"f": 1.0}, {"rho": 1.0, "relaxation": "tv"}, TypeError, "balanced and KL-relaxed problems only"),
        (1j, {}, TypeError, "must be real"),
    ],
)
def test_refusals(cotangent, options, error, words, rng):
    cost, a, b = problem(rng)
    _, pullback = entropic.vjp(entropic.sinkhorn, cost, a, b, eps=0.4, **options)
    with pytest.raises(error, match=words):
        pullback(cotangent)


def test_plans_too_large_to_hold_are_refused():
    x = np.zeros((5000, 1))
    _, pullback = entropic.vjp(entropic.sinkhorn, entropic.PointCloud(x, x), eps=1.0)
    with pytest.raises(ValueError, match="at most 20,000,000 entries, got 1 x 5000 x 5000"):
        pullback({"transport_cost": 1.0})


def test_cost_matrix_of_the_same_points(rng):
    """The gradient to points is that to the costs, pulled through them."""
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(6, 3))
    by_cost = pulled(1.0, pairwise(x, y), eps=0.6)[0]
    ((by_x, _),) = pulled(1.0, entropic.PointCloud(x, y), eps=0.6)
    np.testing.assert_allclose(by_x, 2 * np.einsum("ij,ijk->ik", by_cost, x[:, None] - y), rtol=0, atol=1e-9)
