"""Barycenters against Gaussians, plain loops and laws."""

import numpy as np
import pytest
from reference import transport as reference

import entropic

T = np.linspace(-4, 4, 161)


def bump(mean, variance, t=T):
    p = np.exp(-((t - mean) ** 2) / (2 * variance))
    return p / p.sum()


def test_gaussians_have_a_gaussian_barycenter():
    variances, mix, eps = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.2, 0.3]), 0.05
    means = np.array([-0.5, 0.2, 0.6])
    result = entropic.barycenter(
        entropic.Grid(T), np.stack([bump(m, v) for m, v in zip(means, variances, strict=True)]), eps=eps, mix=mix,
        tol=1e-8,
    )  # fmt: skip
    assert result.converged
    mean = result.masses @ T
    assert mean == pytest.approx(mix @ means, abs=1e-6)
    variance = result.masses @ (T - mean) ** 2
    assert variance == pytest.approx(reference.debiased_barycenter_variance(variances, mix, eps), rel=1e-4)


@pytest.mark.parametrize("debiased", [True, False])
def test_all_geometries_agree(debiased, rng):
    axes = np.linspace(0, 1, 5), np.linspace(0, 2, 4)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = rng.random((3, 20))
    weights[0, :7] = 0
    options = {"eps": 0.1, "debiased": debiased, "tol": 1e-10, "mix": [1, 2, 3]}
    grid = entropic.barycenter(entropic.Grid(*axes), weights, **options).masses
    cloud = entropic.barycenter(entropic.PointCloud(points, points), weights, **options).masses
    dense = entropic.barycenter(reference.pairwise(points, points), weights, **options).masses
    np.testing.assert_allclose(cloud, grid, atol=1e-9)
    np.testing.assert_allclose(dense, grid, atol=1e-9)
    assert grid.sum() == pytest.approx(1, abs=1e-12)


def test_one_distribution_is_its_own_debiased_barycenter(rng):
    # detail finer than the square root of eps comes back slowly, so there is little of it here
    t = np.linspace(0, 1, 30)
    p = bump(0.3, 0.01, t) + 0.5 * bump(0.7, 0.02, t)
    p /= p.sum()
    cost = reference.pairwise(t[:, None], t[:, None])
    for weights, mix in ((p[None], None), (np.stack([p, p]), None), (np.stack([p, rng.random(30)]), [1, 0])):
        result = entropic.barycenter(cost, weights, eps=1e-3, mix=mix, tol=1e-8)
        np.testing.assert_allclose(result.masses, p, atol=1e-6)


def test_the_blurred_barycenter_minimises_its_objective(rng):
    """sum_k mix_k (min <P, C> + eps sum P log P) over p: no small move improves it."""
    n, eps = 6, 0.2
    cost = reference.pairwise(*(np.linspace(0, 1, n)[:, None],) * 2)
    weights, mix = np.stack([reference.masses(n, rng) for _ in range(2)]), np.array([0.3, 0.7])
    p = entropic.barycenter(cost, weights, eps=eps, mix=mix, debiased=False, tol=1e-11).masses

    def objective(p):
        total = 0.0
        for a, w in zip(weights, mix, strict=True):
            f, g = reference.sinkhorn(cost, a, p, eps, n_iter=3000)
            plan = reference.plan(f, g, cost, a, p, eps)
            total += w * ((plan * cost).sum() + eps * (plan * np.log(plan)).sum())
        return total

    best = objective(p)
    for _ in range(10):
        move = rng.normal(size=n)
        move -= move.mean()
        assert objective(p + 1e-3 * p.min() * move) > best - 1e-12


def test_float32_and_torch_like_types(rng):
    weights = rng.random((2, 12)).astype(np.float32)
    points = rng.normal(size=(12, 2)).astype(np.float32)
    cloud = entropic.PointCloud(points, points)
    result = entropic.barycenter(cloud, weights, eps=0.5)
    assert result.masses.dtype == np.float32
    wide = entropic.barycenter(entropic.PointCloud(points.astype(float), points.astype(float)), weights, eps=0.5)
    np.testing.assert_allclose(result.masses, wide.masses, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cost": np.zeros((2, 3))}, "`cost` must be square"),
        ({"cost": [[0.0, 1.0], [2.0, 0.0]]}, "`cost` must be symmetric"),
        ({"cost": entropic.PointCloud([[0.0], [1.0]], [[0.0], [2.0]])}, "`x` and `y` must be equal"),
        ({"weights": [0.5, 0.5]}, "`weights` must have shape"),
        ({"weights": [[0.5, -0.5]]}, "`weights` must not be negative"),
        ({"weights": [[0.5, 0.5], [0, 0]]}, "`weights` must have mass in every row"),
        ({"mix": [1.0, 2.0]}, "`mix` must have shape"),
        ({"eps": -1.0}, "`eps` must be positive"),
    ],
)
def test_refusals(changes, message):
    arguments = {"cost": [[0.0, 1.0], [1.0, 0.0]], "weights": [[0.5, 0.5]], "eps": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        entropic.barycenter(arguments.pop("cost"), arguments.pop("weights"), **arguments)


def test_too_few_iterations_warn(rng):
    with pytest.warns(entropic.ConvergenceWarning, match="barycenter"):
        result = entropic.barycenter(entropic.Grid(T), np.stack([bump(0, 0.1), bump(1, 0.1)]), eps=1e-3, max_iter=3)
    assert not result.converged
    assert np.isfinite(result.masses).all()


# ---- points that move ------------------------------------------------------------------------------------------------


def test_copies_apart_have_a_copy_between(rng):
    x = rng.normal(size=(60, 2))
    shifts = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 8.0]])
    result = entropic.free_support_barycenter(list(x + shifts[:, None]), x, eps=0.1, mix=[1, 1, 2], tol=1e-7)
    assert result.converged
    np.testing.assert_allclose(result.points, x + np.array([1.0, 4.0]), atol=1e-3)


def test_it_lowers_the_sum_of_divergences(rng):
    clouds = [rng.normal(size=(40, 2)), rng.normal(size=(50, 2)) * [2, 0.5] + 3]
    start = rng.normal(size=(30, 2))

    def total(points):
        return sum(entropic.sinkhorn_divergence(points, c, eps=0.3).value for c in clouds)

    result = entropic.free_support_barycenter(clouds, start, eps=0.3, tol=2e-4, max_iter=300)
    assert result.converged
    best = total(result.points)
    assert best < total(start)
    for _ in range(5):
        assert total(result.points + 0.02 * rng.normal(size=(30, 2))) > best


def test_one_point_is_the_mean(rng):
    clouds = [rng.normal(size=(20, 3)), rng.normal(size=(10, 3)) + 2]
    weights = [reference.masses(20, rng), None]
    mean = (weights[0] @ clouds[0] + clouds[1].mean(axis=0)) / 2
    result = entropic.free_support_barycenter(clouds, np.zeros((1, 3)), eps=0.5, weights=weights)
    np.testing.assert_allclose(result.points[0], mean, atol=1e-5)


def test_free_support_refusals():
    with pytest.raises(ValueError, match="`clouds` must be a non-empty list"):
        entropic.free_support_barycenter([], np.zeros((1, 2)), eps=1.0)
    with pytest.raises(ValueError, match=r"`clouds\[0\]` must have shape"):
        entropic.free_support_barycenter([np.zeros((2, 3))], np.zeros((1, 2)), eps=1.0)
    with pytest.raises(ValueError, match="`weights` must have one entry a cloud"):
        entropic.free_support_barycenter([np.zeros((2, 2))], np.zeros((1, 2)), eps=1.0, weights=[])


def test_forbidden_pairs(rng):
    """Two halves that nothing joins: an input of one half has its barycenter there, and two have none."""
    t = np.arange(6) / 6
    cost = (t[:, None] - t) ** 2
    cost[:3, 3:] = cost[3:, :3] = np.inf
    weights = np.array([[1.0, 2, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    found = entropic.barycenter(cost, weights, mix=[1, 0], eps=0.1)
    assert found.masses[:3].sum() == pytest.approx(1)
    assert not found.masses[3:].any()
    alone = entropic.barycenter(cost[:3, :3], weights[:1, :3], eps=0.1)
    np.testing.assert_allclose(found.masses[:3], alone.masses, atol=1e-6)
    with pytest.raises(ValueError, match="leave no point that all `weights` can reach"):
        entropic.barycenter(cost, weights, eps=0.1)


def test_points_without_mass_stay(rng):
    x = rng.random((5, 2))
    found = entropic.free_support_barycenter([x, x + 1], x[:3], masses=[1, 0, 1], weights=np.ones((2, 5)), eps=0.1)
    np.testing.assert_array_equal(found.points[1], x[1])


def test_an_eps_that_costs_cannot_tell(rng):
    x = rng.random((5, 2))
    for call in (
        lambda: entropic.barycenter(entropic.PointCloud(x, x), np.ones((2, 5)), eps=1e-20),
        lambda: entropic.free_support_barycenter([x], x, eps=1e-20),
        lambda: entropic.sinkhorn_divergence(x, x + 1, eps=1e-20),
        lambda: entropic.semidual(entropic.PointCloud(x, x), np.zeros(5), eps=1e-300),
    ):
        with pytest.raises(ValueError, match="`eps` must be at least 1e-14 of the cost's range"):
            call()
