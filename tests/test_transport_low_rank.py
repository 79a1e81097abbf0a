"""Low-rank transport: closed forms, linear programs, stationarity, exact marginals, edges and errors."""

import tracemalloc

import numpy as np
import pytest

import entropic
from entropic import low_rank_sinkhorn

INF, NAN = np.inf, np.nan


def masses(rng, n):
    return rng.dirichlet(np.full(n, 3.0))


def squared(x, y):
    return ((x[:, None] - y) ** 2).sum(-1)


def clouds(rng, n, m, d=2):
    return rng.normal(size=(n, d)), 0.7 * rng.normal(size=(m, d)) + 0.5


def check_answer(found, cost, a, b, rank):
    """What holds of every answer, converged or not, in float64."""
    total, scale = np.sum(a), np.abs(cost).max()
    assert found.q.shape == (len(a), rank)
    assert found.r.shape == (len(b), rank)
    for factor, given in ((found.q, a), (found.r, b)):
        assert (factor >= 0).all()
        np.testing.assert_allclose(factor.sum(axis=1), given, rtol=0, atol=1e-13 * total)
        np.testing.assert_allclose(factor.sum(axis=0), found.weights, rtol=0, atol=1e-13 * total)
        assert not factor[np.asarray(given) == 0].any()
    plan = found.plan()
    np.testing.assert_allclose(plan, found.q / found.weights @ found.r.T, rtol=0, atol=1e-14 * total)
    off = np.abs(plan.sum(axis=1) - a).sum() + np.abs(plan.sum(axis=0) - b).sum()
    assert found.marginal_error == pytest.approx(off / total, abs=1e-13)
    assert found.marginal_error <= 1e-13
    assert found.transport_cost == pytest.approx((plan * cost).sum(), rel=1e-12, abs=1e-13 * scale * total)
    assert np.linalg.matrix_rank(plan, tol=1e-12 * total) <= rank


def test_rank_one_is_the_product(rng):
    cost, a, b = rng.random((5, 7)), masses(rng, 5), masses(rng, 7)
    for eps in (0.0, 0.3):
        found = low_rank_sinkhorn(cost, a, b, rank=1, eps=eps)
        assert found.converged
        np.testing.assert_allclose(found.plan(), np.outer(a, b), atol=1e-16)
        check_answer(found, cost, a, b, 1)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_full_rank_comes_close_to_the_optimum(n, rng):
    for _ in range(4):
        x, y = clouds(rng, n, n + 1)
        a, b, cost = masses(rng, n), masses(rng, n + 1), squared(x, y)
        best = entropic.transport_exact(cost, a, b).value
        product = a @ cost @ b
        found = low_rank_sinkhorn(cost, a, b, rank=n)
        check_answer(found, cost, a, b, n)
        assert best - 1e-12 <= found.transport_cost <= best + 0.03 * (product - best)


@pytest.mark.parametrize("start", [None, 1])
def test_between_the_optimum_and_the_product(start, rng):
    x, y = clouds(rng, 40, 30)
    a, b, cost = masses(rng, 40), masses(rng, 30), squared(x, y)
    best, product = entropic.transport_exact(cost, a, b).value, a @ cost @ b
    paid = []
    for rank in (1, 3, 8, 30):
        found = low_rank_sinkhorn(cost, a, b, rank=rank, rng=start, tol=1e-4)
        check_answer(found, cost, a, b, rank)
        paid.append(found.transport_cost)
    share = (np.array(paid) - best) / (product - best)
    assert share[0] == pytest.approx(1, abs=1e-12)
    assert (np.diff(share) < 0).all()
    assert 0 <= share[-1] <= 0.02
    assert share[1] <= 0.65  # three components of points that fill the plane


@pytest.mark.parametrize("start", [None, 0, 1])
def test_clusters_in_closed_form(start, rng):
    """Tight clusters far apart, matched one to one: within each the plan is a product, and its cost known."""
    centres, sizes = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 40.0]]), np.array([3, 5, 4])
    label = np.repeat(np.arange(3), sizes)
    x, y = (centres[label] + rng.normal(size=(12, 2)) for _ in range(2))
    block = (label[:, None] == label) / (12.0 * sizes[label])
    found = low_rank_sinkhorn(entropic.PointCloud(x, y), rank=3, rng=start, tol=1e-8)
    assert found.converged
    assert found.transport_cost == pytest.approx((block * squared(x, y)).sum(), rel=1e-4)
    np.testing.assert_allclose(found.plan(), block, atol=1e-4)
    np.testing.assert_allclose(np.sort(found.weights), np.sort(sizes) / 12, atol=1e-4)


@pytest.mark.parametrize("eps", [0.03, 0.1, 0.5])
@pytest.mark.parametrize("rank", [2, 4])
def test_first_order_conditions(eps, rank, rng):
    """With entropies the minimum is inside: gradients are additive, and the multipliers of the columns agree."""
    cost, a, b = rng.random((6, 7)), masses(rng, 6), masses(rng, 7)
    found = low_rank_sinkhorn(cost, a, b, rank=rank, eps=eps, tol=1e-10, max_iter=5000)
    check_answer(found, cost, a, b, rank)
    q, r, w = found.q, found.r, found.weights
    of_q = eps * np.log(q) + cost @ (r / w)
    of_r = eps * np.log(r) + cost.T @ (q / w)
    of_w = eps * np.log(w) - np.einsum("ik,ij,jk->k", q, cost, r) / w**2
    for slope in (of_q, of_r):
        additive = slope.mean(axis=0) + slope.mean(axis=1, keepdims=True) - slope.mean()
        np.testing.assert_allclose(slope, additive, atol=1e-4)
    assert np.ptp(of_q.mean(axis=0) + of_r.mean(axis=0) + of_w) <= 1e-4


def test_strong_entropy_is_uniform(rng):
    cost, a, b = rng.random((6, 7)), masses(rng, 6), masses(rng, 7)
    found = low_rank_sinkhorn(cost, a, b, rank=3, eps=1e4, rng=0, tol=1e-10)
    np.testing.assert_allclose(found.q, np.outer(a, np.full(3, 1 / 3)), atol=1e-5)
    np.testing.assert_allclose(found.plan(), np.outer(a, b), atol=1e-9)


@pytest.mark.parametrize("rank", [2, 6])
def test_points_and_their_matrix_agree(rank, rng):
    x, y = clouds(rng, 15, 20, d=3)
    a, b = masses(rng, 15), masses(rng, 20)
    stored = low_rank_sinkhorn(squared(x, y), a, b, rank=rank, tol=1e-5)
    for shift in (0.0, 1e6):
        found = low_rank_sinkhorn(entropic.PointCloud(x + shift, y + shift), a, b, rank=rank, tol=1e-5)
        assert found.transport_cost == pytest.approx(stored.transport_cost, rel=1e-4)
        check_answer(found, squared(x + shift, y + shift), a, b, rank)
    same = low_rank_sinkhorn(entropic.PointCloud(x, x), rank=15)
    assert 0 <= same.transport_cost <= 0.02 * squared(x, x).mean()


def test_additive_part_moves_nothing(rng):
    cost, a, b = rng.random((6, 7)), masses(rng, 6), masses(rng, 7)
    u, v = rng.normal(size=(6, 1)), rng.normal(size=7)
    plain = low_rank_sinkhorn(cost, a, b, rank=3)
    shifted = low_rank_sinkhorn(cost + u + v, a, b, rank=3)
    np.testing.assert_allclose(shifted.plan(), plain.plan(), atol=1e-6)
    expected = plain.transport_cost + a @ u[:, 0] + b @ v
    assert shifted.transport_cost == pytest.approx(expected, abs=1e-6)


def test_apply(rng):
    found = low_rank_sinkhorn(rng.random((6, 7)), rank=3)
    plan = found.plan()
    for axis, length, matrix in ((1, 7, plan), (0, 6, plan.T)):
        for shape in ((length,), (length, 2)):
            v = rng.normal(size=shape)
            np.testing.assert_allclose(found.apply(v, axis), matrix @ v, atol=1e-15)
    with pytest.raises(ValueError, match=r"apply: `v` must have shape \(7,\) or \(7, k\), got \(6,\)"):
        found.apply(np.ones(6))
    with pytest.raises(ValueError, match="apply: `axis` must be 0 or 1"):
        found.apply(np.ones(6), 2)


def test_zero_masses(rng):
    cost, a, b = rng.random((6, 7)), masses(rng, 6), masses(rng, 7)
    a[[0, 4]] = b[3] = 0
    a, b = a / a.sum(), b / b.sum()
    for rank in (1, 2, 6):  # the last is more than the rows that have mass
        found = low_rank_sinkhorn(cost, a, b, rank=rank)
        check_answer(found, cost, a, b, rank)
        kept = low_rank_sinkhorn(cost[a > 0][:, b > 0], a[a > 0], b[b > 0], rank=min(rank, 4))
        if rank <= 4:
            assert found.transport_cost == pytest.approx(kept.transport_cost, abs=1e-12)
    one = low_rank_sinkhorn(cost, np.eye(6)[2], np.eye(7)[5], rank=3)
    assert one.transport_cost == pytest.approx(cost[2, 5], rel=1e-14)


@pytest.mark.parametrize("eps", [0.0, 0.1, 1e12])
@pytest.mark.filterwarnings("ignore::entropic.ConvergenceWarning")
def test_never_nan_and_always_exact(eps, rng):
    random = rng.normal(size=(6, 5))
    for cost in (
        np.ones((6, 5)), np.zeros((6, 5)), random[:, :1] + random[0], 1e300 * random, 1e-300 * random,
        random + 1e12 * np.eye(6, 5), np.round(random),
    ):  # fmt: skip
        a, b = masses(rng, 6), masses(rng, 5)
        a[1] = 1e-300
        a /= a.sum()
        for rank in (1, 2, 5):
            check_answer(low_rank_sinkhorn(cost, a, b, rank=rank, eps=eps), cost, a, b, rank)
    for shape in ((1, 1), (1, 4), (4, 1)):
        found = low_rank_sinkhorn(np.ones(shape), rank=1)
        np.testing.assert_allclose(found.plan(), np.full(shape, 1 / max(shape)), rtol=1e-15)


def test_scales(rng):
    cost, a, b = rng.random((6, 7)), masses(rng, 6), masses(rng, 7)
    reference = low_rank_sinkhorn(cost, a, b, rank=3, eps=0.01)
    scaled = low_rank_sinkhorn(cost * 2.0**700, a, b, rank=3, eps=0.01 * 2.0**700)
    np.testing.assert_allclose(scaled.plan(), reference.plan(), atol=1e-12)
    assert scaled.transport_cost == pytest.approx(reference.transport_cost * 2.0**700, rel=1e-12)
    heavy = low_rank_sinkhorn(cost, a * 2.0**200, b * 2.0**200, rank=3, eps=0.01)
    np.testing.assert_allclose(heavy.plan() / 2.0**200, reference.plan(), atol=1e-12)


def test_memory_of_points_is_linear(rng):
    n = 20_000
    x = rng.normal(size=(n, 3)).astype(np.float32)
    tracemalloc.start()
    with pytest.warns(entropic.ConvergenceWarning):
        found = low_rank_sinkhorn(entropic.PointCloud(x, x + 1), rank=4, max_iter=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000 * n  # the cost would take 80,000 n
    assert found.q.dtype == found.r.dtype == found.weights.dtype == found.apply(np.ones(n)).dtype == np.float32
    assert found.marginal_error <= 1e-6


def test_types_and_layouts(rng):
    cost, a, b = rng.random((6, 7)), masses(rng, 6), masses(rng, 7)
    reference = low_rank_sinkhorn(cost, a, b, rank=3)
    before = cost.copy()
    view = np.repeat(cost, 2, axis=1)[::-1, ::2]
    view.flags.writeable = False
    turned = low_rank_sinkhorn(view, a[::-1], b, rank=3)
    np.testing.assert_allclose(turned.plan()[::-1], reference.plan(), atol=1e-6)
    np.testing.assert_array_equal(cost, before)
    assert low_rank_sinkhorn(np.arange(12).reshape(3, 4), rank=2).plan().dtype == np.float64
    single = low_rank_sinkhorn(cost.astype(np.float32), a, b, rank=3)
    assert single.plan().dtype == np.float32
    assert single.transport_cost == pytest.approx(reference.transport_cost, rel=1e-4)


def test_torch(rng):
    torch = pytest.importorskip("torch")
    found = low_rank_sinkhorn(torch.from_numpy(rng.random((4, 5))), rank=2)
    answers = (found.q, found.r, found.weights, found.plan(), found.apply(torch.ones(5, dtype=torch.float64)))
    assert all(isinstance(answer, torch.Tensor) for answer in answers)
    with pytest.raises(TypeError, match="torch"):
        found.apply(np.ones(5))


def test_seeds_callback_and_limit(rng):
    cost = rng.random((20, 20))
    first, second = (low_rank_sinkhorn(cost, rank=4, rng=3).plan() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(low_rank_sinkhorn(cost, rank=4, rng=4).plan() - first).max() > 1e-6
    seen = []
    found = low_rank_sinkhorn(cost, rank=4, callback=lambda *args: seen.append(args))
    assert [iteration for iteration, _ in seen] == list(range(1, found.n_iter + 1))
    uniform = np.full(20, 1 / 20)
    with pytest.warns(entropic.ConvergenceWarning, match="the callback stopped it"):
        found = low_rank_sinkhorn(cost, rank=4, callback=lambda i, _: i == 3)
    assert (found.n_iter, found.converged) == (3, False)
    check_answer(found, cost, uniform, uniform, 4)
    with pytest.warns(entropic.ConvergenceWarning, match=r"low_rank_sinkhorn: .* raise max_iter \(now 2\)"):
        found = low_rank_sinkhorn(cost, rank=4, max_iter=2)
    check_answer(found, cost, uniform, uniform, 4)
    assert "rank=4" in repr(found)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rank": 0}, ValueError, "`rank` must be at least 1, got 0"),
        ({"rank": 4}, ValueError, "`rank` must be at most 3, got 4"),
        ({"rank": 2.0}, TypeError, "`rank` must be an integer, got 2.0"),
        ({"eps": -1.0}, ValueError, "`eps` must be at least 0 and finite, got -1.0"),
        ({"eps": NAN}, ValueError, "`eps` must be at least 0 and finite"),
        ({"gamma": 0.0}, ValueError, "`gamma` must be positive and finite, got 0.0"),
        ({"tol": INF}, ValueError, "`tol` must be at least 0 and finite"),
        ({"max_iter": 0}, ValueError, "`max_iter` must be at least 1"),
        ({"callback": 3}, TypeError, "`callback` must be callable"),
        ({"rng": "x"}, TypeError, "`rng` must be a numpy.random.Generator, a seed or None"),
        ({"cost": np.full((3, 4), INF)}, ValueError, "`cost` must be finite"),
        ({"cost": np.full((3, 4), NAN)}, ValueError, "`cost` must not contain nan"),
        ({"cost": np.ones((2, 3, 4))}, ValueError, r"`cost` must have shape \(n, m\), got \(2, 3, 4\)"),
        ({"cost": np.ones((0, 4))}, ValueError, "at least one row"),
        ({"cost": entropic.PointCloud(np.ones(3), np.ones(4), "euclidean")}, ValueError, "got metric 'euclidean'"),
        ({"a": np.ones(4) / 4}, ValueError, r"`a` must have shape \(3,\)"),
        ({"b": np.array([0.5, 0.7, -0.2, 0.0])}, ValueError, "`b` must not be negative"),
        ({"a": np.array([NAN, 0.5, 0.5])}, ValueError, "`a` must not contain nan"),
        ({"a": np.zeros(3)}, ValueError, "`a` must have a positive total"),
        ({"a": np.ones(3)}, ValueError, "`a` and `b` must have the same total, got 3 and 1"),
    ],
)
def test_errors(change, error, message):
    arguments = {"cost": np.ones((3, 4)), "rank": 2} | change
    with pytest.raises(error, match=f"low_rank_sinkhorn: .*{message}"):
        low_rank_sinkhorn(arguments.pop("cost"), **arguments)
