"""Transport by SciPy's exact solvers."""

import itertools

import numpy as np
import pytest

import entropic
from entropic.transport._exact import transport_exact
from entropic.transport._one_dimensional import wasserstein_1d

INF, NAN = np.inf, np.nan


def masses(rng, n):
    """Uneven masses with total 1, some of them 0 as a rule."""
    return rng.multinomial(3 * n, np.full(n, 1 / n)) / (3 * n)


def check_exact(found, cost, a, b):
    """Marginals, dual feasibility, no gap, and equality on the support: together they prove the answer."""
    cost = np.asarray(cost, float)
    scale = np.abs(cost[np.isfinite(cost)]).max()
    total = np.sum(a)
    plan = found.plan.toarray()
    assert (found.plan.data > 0).all()
    np.testing.assert_allclose(plan.sum(1), a, rtol=0, atol=1e-12 * total)
    np.testing.assert_allclose(plan.sum(0), b, rtol=0, atol=1e-12 * total)
    with np.errstate(invalid="ignore"):
        slack = cost - found.f[:, None] - found.g
    assert slack.min() >= -1e-12 * scale
    row, column = found.plan.coords
    assert (slack[row, column] * found.plan.data).sum() <= 1e-12 * scale * total
    assert found.value == pytest.approx(
        (found.plan.data * cost[row, column]).sum(), rel=1e-13, abs=1e-13 * scale * total
    )
    assert found.value == pytest.approx(found.f @ a + found.g @ b, rel=1e-12, abs=1e-12 * scale * total)
    assert np.isfinite(found.f).all()
    assert np.isfinite(found.g).all()


def costs(rng, n):
    x, y = rng.normal(size=(2, n, 2))
    line = np.sort(rng.normal(size=n))
    yield "random", rng.random((n, n))
    yield "plane", ((x[:, None] - y) ** 2).sum(-1)
    yield "line", (line[:, None] - rng.permutation(line) - 0.1) ** 2  # shortest paths with as many steps as points
    yield "distance", np.abs(line[:, None] - rng.normal(size=n))
    yield "ties", rng.integers(0, 4, (n, n)).astype(float)
    yield "integers", rng.integers(-500, 500, (n, n))
    yield "same points", ((x[:, None] - x) ** 2).sum(-1)
    yield "constant", np.full((n, n), -3.0)
    yield "zero", np.zeros((n, n))


@pytest.mark.parametrize("n", [1, 2, 7, 120])
def test_assignments(n, rng):
    for name, cost in costs(rng, n):
        found = transport_exact(cost)
        assert found.method == "assignment", name
        uniform = np.full(n, 1 / n)
        check_exact(found, cost, uniform, uniform)
        assert found.plan.nnz == n


def test_assignment_against_all_permutations(rng):
    cost = rng.normal(size=(6, 6))
    best = min(cost[range(6), list(p)].sum() for p in itertools.permutations(range(6)))
    assert transport_exact(cost).value == pytest.approx(best / 6, rel=1e-14)
    scaled = transport_exact(cost, np.full(6, 5.0), np.full(6, 5.0))
    assert scaled.method == "assignment"
    assert scaled.value == pytest.approx(5 * best, rel=1e-14)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 6), (5, 1), (6, 6), (4, 9), (30, 25)])
def test_programs(n, m, rng):
    cost = rng.normal(size=(n, m))
    a, b = masses(rng, n) + 0.01, masses(rng, m)
    a /= a.sum()
    found = transport_exact(cost, a, b)
    check_exact(found, cost, a, b)
    assert found.plan.nnz <= n + m - 1
    if n * m > 1:
        assert found.method == "linear program"
    uniform = transport_exact(cost)
    check_exact(uniform, cost, np.full(n, 1 / n), np.full(m, 1 / m))


def test_exact_on_the_line(rng):
    x, y, a, b = rng.normal(size=20), rng.normal(size=30), masses(rng, 20), masses(rng, 30)
    for p in (1, 2):
        found = transport_exact(np.abs(x[:, None] - y) ** p, a, b)
        assert found.value ** (1 / p) == pytest.approx(wasserstein_1d(x, y, a, b, p=p), rel=1e-12)


def test_forbidden_pairs(rng):
    cost = rng.random((5, 5))
    cost[rng.random((5, 5)) < 0.4] = INF
    np.fill_diagonal(cost, 2.0)
    a = masses(rng, 5)
    uniform = np.full(5, 0.2)
    check_exact(transport_exact(cost), cost, uniform, uniform)
    check_exact(transport_exact(cost, a, a), cost, a, a)
    # rows and columns without mass or without pairs
    cost[1], cost[:, 3] = INF, INF
    a = np.array([0.5, 0, 0.25, 0, 0.25])
    check_exact(transport_exact(cost, a, a), cost, a, a)
    text = "transport_exact: `cost` must leave every mass a pair, got infinite entries that forbid any plan"
    for arrays in ((cost,), (cost, uniform, a), (np.full((2, 3), INF),), (np.full((2, 2), INF),)):
        with pytest.raises(ValueError, match=text):
            transport_exact(*arrays)
    two_on_one = np.array([[1.0, INF, INF], [1.0, INF, INF], [1.0, 1.0, 1.0]])
    for arrays in ((two_on_one,), (two_on_one, [0.4, 0.3, 0.3], [0.4, 0.3, 0.3])):
        with pytest.raises(ValueError, match=text):
            transport_exact(*arrays)


def test_exact_scales(rng):
    cost, a, b = rng.random((6, 5)), masses(rng, 6), masses(rng, 5)
    want = transport_exact(cost, a, b).value
    for scale in (1e-300, 1e-12, 1e12, 1e300):
        found = transport_exact(cost * scale, a, b)
        assert found.value == pytest.approx(want * scale, rel=1e-12)
        check_exact(found, cost * scale, a, b)
        square = transport_exact(cost[:5] * scale)
        check_exact(square, cost[:5] * scale, np.full(5, 0.2), np.full(5, 0.2))
    for scale in (1e-9, 1e9):
        check_exact(transport_exact(cost, a * scale, b * scale), cost, a * scale, b * scale)
    # a total that differs by rounding is no obstacle
    check_exact(transport_exact(cost, a * (1 + 5e-10), b), cost, a * (1 + 5e-10), b * (1 + 5e-10))


def test_exact_types(rng):
    cost, a = rng.random((4, 3)), masses(rng, 4)
    found = transport_exact(cost.astype(np.float32), a)
    assert {found.f.dtype, found.g.dtype, found.plan.data.dtype} == {np.dtype(np.float32)}
    assert isinstance(found.value, float)
    assert found.value == pytest.approx(transport_exact(cost, a).value, rel=1e-6)
    assert transport_exact(np.asfortranarray(cost)[::-1], a[::-1]).value == pytest.approx(
        transport_exact(cost, a).value
    )
    assert transport_exact([[1, 2], [3, 1]]).value == 1.0
    assert repr(transport_exact([[1, 2], [3, 1]])) == (
        "ExactTransport(value=1.0, shape=(2, 2), nnz=2, method='assignment')"
    )
    cost.flags.writeable = False
    transport_exact(cost, a)
    transport_exact(cost[:3])


@pytest.mark.parametrize(
    ("arrays", "error", "text"),
    [
        (([1.0, 2.0],), ValueError, r"transport_exact: `cost` must have shape \(n, m\) .*, got \(2,\)"),
        ((np.ones((0, 3)),), ValueError, "`cost` must have at least one row"),
        (([[NAN]],), ValueError, "`cost` must not contain nan"),
        (([[-INF]],), ValueError, "`cost` must not contain -inf"),
        (([[1.0, 2.0]], [1.0], [1.0]), ValueError, r"`b` must have shape \(2,\), got shape \(1,\)"),
        (([[1.0, 2.0]], [1.0], [1.0, 1.0]), ValueError, "`a` and `b` must have the same total, got 1 and 2"),
        (
            (np.broadcast_to(0.0, (2001, 2000)),),
            ValueError,
            "at most 4000000 entries, got shape .*; use entropic.sinkhorn",
        ),
    ],
)
def test_exact_refusals(arrays, error, text):
    with pytest.raises(error, match=text):
        transport_exact(*arrays)


def test_clouds_and_torch(rng):
    torch = pytest.importorskip("torch")
    x, y, a = rng.normal(size=(7, 2)), rng.normal(size=(5, 2)), masses(rng, 7)
    cost = ((x[:, None] - y) ** 2).sum(-1)
    cloud = transport_exact(entropic.PointCloud(x, y), a)
    assert cloud.value == pytest.approx(transport_exact(cost, a).value, rel=1e-13)
    assert isinstance(transport_exact(torch.from_numpy(cost)).f, torch.Tensor)
    with pytest.raises(TypeError, match="the costs are torch arrays but `a` is a numpy array"):
        transport_exact(torch.from_numpy(cost), a)
