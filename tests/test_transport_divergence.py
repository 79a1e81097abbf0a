"""The Sinkhorn divergence and the semi-dual, against plain loops, laws and finite differences."""

import numpy as np
import pytest
from reference import transport as reference
from reference.logits import finite_difference

import entropic


def plain_value(cost, a, b, eps, rho=(np.inf, np.inf)):
    f, g = reference.sinkhorn(cost, a, b, eps, rho=rho, n_iter=5000)
    return reference.objective(reference.plan(f, g, cost, a, b, eps), cost, a, b, eps, rho=rho, slack=1e-6)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "manhattan", "cosine", "dot"])
@pytest.mark.parametrize("rho", [None, 0.7, (0.4, 2.0)])
def test_three_problems(metric, rho, rng):
    x, y = rng.normal(size=(7, 3)) + 1, rng.normal(size=(6, 3)) + 1
    a, b = reference.masses(7, rng), reference.masses(6, rng, total=1.0 if rho is None else 1.4)
    eps = 1.0
    pair = (np.inf, np.inf) if rho is None else rho if isinstance(rho, tuple) else (rho, rho)
    expected = plain_value(reference.pairwise(x, y, metric), a, b, eps, pair)
    expected -= plain_value(reference.pairwise(x, x, metric), a, a, eps, (pair[0], pair[0])) / 2
    expected -= plain_value(reference.pairwise(y, y, metric), b, b, eps, (pair[1], pair[1])) / 2
    expected += eps / 2 * (a.sum() - b.sum()) ** 2
    result = entropic.sinkhorn_divergence(x, y, a, b, eps=eps, metric=metric, rho=rho, tol=1e-10)
    assert result.value == pytest.approx(expected, abs=1e-8)
    assert result.converged
    assert result.marginal_error <= 1e-10


@pytest.mark.parametrize("eps", [1e-3, 0.1, 10.0])
def test_a_shift_costs_its_square(eps, rng):
    # the plan to the shifted cloud is the plan to itself
    x, t = rng.normal(size=(60, 2)), np.array([3.0, -4.0])
    a = reference.masses(60, rng)
    result = entropic.sinkhorn_divergence(x + 1000, x + 1000 + t, a, a, eps=eps, tol=1e-10)
    assert result.value == pytest.approx(25, rel=1e-8)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("rho", [None, 0.3])
def test_nothing_between_equals_and_more_between_others(metric, rho, rng):
    x, y = rng.normal(size=(40, 2)), rng.normal(size=(50, 2)) * 1.1
    for eps in (1e-2, 1.0):
        options = {"eps": eps, "metric": metric, "rho": rho, "tol": 1e-9}
        assert abs(entropic.sinkhorn_divergence(x, x, **options).value) < 1e-10
        there = entropic.sinkhorn_divergence(x, y, **options).value
        assert there > 1e-4
        assert entropic.sinkhorn_divergence(y, x, **options).value == pytest.approx(there, rel=1e-6)


def test_one_point_each_and_clouds_without_a_diameter():
    same = np.ones((5, 2))
    assert entropic.sinkhorn_divergence(same, same, eps=0.1).value == pytest.approx(0, abs=1e-15)
    assert entropic.sinkhorn_divergence([[0.0]], [[2.0]], eps=0.1).value == pytest.approx(4, rel=1e-14)


def test_batches(rng):
    x, y = rng.normal(size=(3, 8, 2)), rng.normal(size=(9, 2))
    a = np.stack([reference.masses(8, rng) for _ in range(3)])
    b = np.stack([reference.masses(9, rng) for _ in range(3)])
    for masses in ((a, b), (None, b), (a, None), (None, None)):
        together = entropic.sinkhorn_divergence(x, y, *masses, eps=0.2, tol=1e-10).value
        assert together.shape == (3,)
        for k in range(3):
            one = [None if m is None else m[k] for m in masses]
            apart = entropic.sinkhorn_divergence(x[k], y, *one, eps=0.2, tol=1e-10).value
            assert together[k] == pytest.approx(apart, abs=1e-10)


def test_few_passes_warn(rng):
    x = rng.normal(size=(50, 2))
    with pytest.warns(entropic.ConvergenceWarning, match="sinkhorn_divergence"):
        result = entropic.sinkhorn_divergence(x, x + 1, eps=1e-3, max_iter=5)
    assert not result.converged
    assert np.isfinite(result.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 0.0}, "`eps` must be positive"),
        ({"metric": "l3"}, "`metric` must be one of"),
        ({"a": [0.5, 0.6]}, "`a` and `b` must have the same total"),
        ({"a": [0.5, -0.5]}, "`a` must not be negative"),
        ({"x": np.empty((0, 2))}, "`x` must hold at least one point"),
        ({"x": np.array([[np.nan, 0], [0, 0]])}, "`x` must be finite"),
        ({"x": np.zeros((2, 3))}, "`x` and `y` must have the same dimension"),
    ],
)
def test_refusals(changes, message):
    arguments = {"x": np.zeros((2, 2)), "y": np.ones((2, 2)), "a": None, "b": None, "eps": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        entropic.sinkhorn_divergence(
            arguments.pop("x"), arguments.pop("y"), arguments.pop("a"), arguments.pop("b"), **arguments
        )


# ---- the semi-dual ---------------------------------------------------------------------------------------------------


def test_the_semidual_by_its_formula_and_differences(rng):
    cost, a, b = reference.problem(6, 5, rng)
    g, eps = rng.normal(size=5), 0.3

    def value(g):
        f = reference.softmin_rows(g, cost, b, eps)
        return a @ f + b @ g - eps * (a.sum() - a.sum() * b.sum())

    got, gradient = entropic.semidual(cost, g, a, b, eps=eps)
    assert got == pytest.approx(value(g), abs=1e-13)
    np.testing.assert_allclose(gradient, finite_difference(value, g, 1.0), atol=1e-7)
    assert gradient.sum() == pytest.approx(0, abs=1e-14)


def test_the_semidual_at_the_optimum(rng):
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(20, 2))
    best = entropic.sinkhorn(entropic.PointCloud(x, y), eps=0.1, tol=1e-12)
    value, gradient = entropic.semidual(entropic.PointCloud(x, y), best.g, eps=0.1)
    assert value == pytest.approx(best.value, rel=1e-11)
    assert np.abs(gradient).sum() < 2e-12
    # rows at random have it on the mean
    values, gradients = zip(*(entropic.semidual(entropic.PointCloud(x[[i]], y), best.g, eps=0.1) for i in range(30)),
                            strict=True)  # fmt: skip
    assert np.mean(values) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(np.mean(gradients, axis=0), gradient, atol=1e-14)


def test_semidual_refusals():
    with pytest.raises(ValueError, match="semidual: `g` must have shape"):
        entropic.semidual(np.zeros((2, 2)), np.zeros(3), eps=1.0)
    with pytest.raises(ValueError, match="semidual: `g` must"):
        entropic.semidual(np.zeros((2, 2)), [0.0, np.nan], eps=1.0)
    with pytest.raises(ValueError, match="semidual: `g` must"):
        entropic.semidual(np.zeros((2, 2)), [0.0, np.inf], eps=1.0)
