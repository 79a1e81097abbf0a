"""Transport on the line."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference.logits import finite_difference

import entropic
from entropic.transport._one_dimensional import wasserstein_1d

INF, NAN = np.inf, np.nan
EPS = np.finfo(float).eps


def program(cost, a, b):
    """The least <P, C> with masses a and b, as a dense linear program."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    found = scipy.optimize.linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]))
    assert found.status == 0
    return found.fun


def masses(rng, n):
    """Uneven masses with total 1, some of them 0."""
    w = rng.random(n) ** 3
    w[rng.random(n) < 0.25] = 0
    w[rng.integers(n)] += 0.1
    return w / w.sum()


def exact_quantiles(x, y, a, b):
    """Segments (width, |x - y|) of the monotone coupling, in rational arithmetic."""
    sides = []
    for points, weights in ((x, a), (y, b)):
        weights = [Fraction(float(w)) for w in weights]
        total = sum(weights)
        ranked = sorted(zip([Fraction(float(p)) for p in points], weights, strict=True))
        sides.append([[point, w / total] for point, w in ranked if w > 0])
    left, right = sides
    segments = []
    while left and right:
        width = min(left[0][1], right[0][1])
        segments.append((width, abs(left[0][0] - right[0][0])))
        for side in (left, right):
            side[0][1] -= width
            if side[0][1] == 0:
                del side[0]
    return segments


def exact_wasserstein(x, y, a, b, p):
    segments = exact_quantiles(x, y, a, b)
    if p == INF:
        return float(max(gap for _, gap in segments))
    with mpmath.workdps(40):
        to_mp = lambda q: mpmath.mpf(q.numerator) / q.denominator  # noqa: E731
        return float(mpmath.fsum(to_mp(w) * to_mp(gap) ** p for w, gap in segments) ** (mpmath.mpf(1) / p))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (5, 1), (6, 6), (7, 4), (40, 31)])
def test_line_against_scipy(n, m, rng):
    x, y = rng.normal(size=n), rng.normal(size=m) * 2 + 1
    assert wasserstein_1d(x, y) == pytest.approx(scipy.stats.wasserstein_distance(x, y), rel=1e-14)
    a, b = masses(rng, n), masses(rng, m)
    assert wasserstein_1d(x, y, a, b) == pytest.approx(scipy.stats.wasserstein_distance(x, y, a, b), rel=1e-13)
    assert wasserstein_1d(x, y, a) == pytest.approx(scipy.stats.wasserstein_distance(x, y, a), rel=1e-13)
    assert wasserstein_1d(x, y, None, b) == pytest.approx(scipy.stats.wasserstein_distance(x, y, None, b), rel=1e-13)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_line_against_linear_program(p, rng):
    for n, m in ((1, 3), (4, 4), (6, 5), (7, 9)):
        # integer points, so that many coincide
        x, y = rng.integers(-4, 5, n).astype(float), rng.integers(-4, 5, m).astype(float)
        a, b = masses(rng, n), masses(rng, m)
        cost = np.abs(x[:, None] - y) ** p
        # HiGHS's tolerance of 1e-7 bounds the comparison, not this package
        assert wasserstein_1d(x, y, a, b, p=p) ** p == pytest.approx(program(cost, a, b), rel=1e-8, abs=1e-9)
        uniform = program(cost, np.full(n, 1 / n), np.full(m, 1 / m))
        assert wasserstein_1d(x, y, p=p) ** p == pytest.approx(uniform, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("p", [1, 1.25, 2, 3, 17, 300, INF])
def test_line_against_rational_arithmetic(p, rng):
    for n, m in ((3, 3), (12, 35), (64, 48)):
        x, y = rng.normal(size=n), rng.standard_cauchy(size=m)
        ones = np.ones(n), np.ones(m)
        assert wasserstein_1d(x, y, p=p) == pytest.approx(exact_wasserstein(x, y, *ones, p), rel=4e-15)
        a, b = masses(rng, n), masses(rng, m)
        # cumulative masses are right to an ulp of the total, which is more to the lightest segment
        lightest = float(min(width for width, _ in exact_quantiles(x, y, a, b)))
        assert wasserstein_1d(x, y, a, b, p=p) == pytest.approx(
            exact_wasserstein(x, y, a, b, p), rel=4e-15 + 4 * EPS / lightest / p
        )
        counts = rng.integers(1, 6, n).astype(float), np.ones(m)
        counts = counts[0] * m, counts[1] * counts[0].sum()
        assert wasserstein_1d(x, y, *counts, p=p) == pytest.approx(exact_wasserstein(x, y, *counts, p), rel=4e-15)


@pytest.mark.parametrize("p", [1, 2.5, 2, INF])
def test_line_with_equal_sizes_sorts(p, rng):
    x, y = rng.normal(size=(2, 101))
    gap = np.abs(np.sort(x) - np.sort(y))
    want = gap.max() if p == INF else (gap**p).mean() ** (1 / p)
    assert wasserstein_1d(x, y, p=p) == pytest.approx(want, rel=1e-14)


@pytest.mark.parametrize("p", [1, 2, 7, INF])
def test_one_measure_written_in_two_ways_is_at_distance_0(p, rng):
    """A stray mass of 1e-16 from rounded cumulative sums would be at distance 1e-8 for p = 2."""
    x = rng.normal(size=33) * 100
    assert wasserstein_1d(x, np.repeat(x, 7), p=p) == 0
    weights = masses(rng, 33)
    split = rng.dirichlet(np.ones(5), size=33)
    pieces = (weights[:, None] * split).ravel()
    assert wasserstein_1d(x, np.repeat(x, 5), weights, pieces, p=p) == 0
    order = rng.permutation(33)
    assert wasserstein_1d(x, x[order], weights, weights[order] * 3 / 3, p=p) == 0
    assert wasserstein_1d(x, x, np.full(33, 1 / 33), None, p=p) == 0


def test_small_masses_keep_their_digits():
    tiny = 1e-20
    assert wasserstein_1d([0.0, 5.0], [5.0, 8.0], [tiny, 1.0], [1.0, 0.0]) == pytest.approx(5 * tiny, rel=1e-14)
    assert wasserstein_1d([0.0, 5.0], [5.0], [tiny, 1.0], [1.0], p=2) == pytest.approx(5 * tiny**0.5, rel=1e-14)


def test_line_far_from_the_origin(rng):
    x, y = rng.integers(0, 2**20, (2, 50)) / 2**10
    near = wasserstein_1d(x, y, p=2)
    assert wasserstein_1d(x + 2.0**42, y + 2.0**42, p=2) == near
    single = wasserstein_1d((x + 2**13).astype(np.float32), (y + 2**13).astype(np.float32), p=2)
    assert single == np.float32(near)


def test_scales_that_powers_overflow(rng):
    x, y = rng.normal(size=(2, 9))
    for p in (1, 2, 50):
        for scale in (1e-300, 1e300):
            assert wasserstein_1d(x * scale, y * scale, p=p) == pytest.approx(
                wasserstein_1d(x, y, p=p) * scale, rel=1e-13
            )
        assert wasserstein_1d([1.7e308], [-1.7e308], p=p) == INF
    a, b = masses(rng, 9), masses(rng, 9)
    for scale in (1e-290, 1e290):
        assert wasserstein_1d(x, y, a * scale, b * scale) == pytest.approx(wasserstein_1d(x, y, a, b), rel=1e-13)


def test_line_batches(rng):
    x, y = rng.normal(size=(4, 1, 7)), rng.normal(size=(3, 5))
    a, b = np.stack([masses(rng, 7) for _ in range(3)]), masses(rng, 5)
    for p in (1, 2, INF):
        plain, weighted = wasserstein_1d(x, y, p=p), wasserstein_1d(x, y, a, b, p=p)
        one_side = wasserstein_1d(x, y, None, b, p=p)
        assert plain.shape == weighted.shape == one_side.shape == (4, 3)
        for i, j in np.ndindex(4, 3):
            row = x[i, 0], y[j]
            assert plain[i, j] == pytest.approx(wasserstein_1d(*row, p=p), rel=1e-15)
            assert weighted[i, j] == pytest.approx(wasserstein_1d(*row, a[j], b, p=p), rel=1e-15)
            assert one_side[i, j] == pytest.approx(wasserstein_1d(*row, None, b, p=p), rel=1e-15)
    # batches that the masses alone have, and an empty one
    assert wasserstein_1d(x[0, 0], y[0], a[:, None], b).shape == (3, 1)
    assert wasserstein_1d(x[0, 0], y[0], a).shape == (3,)
    assert wasserstein_1d(np.empty((0, 3)), y[0]).shape == (0,)


def test_line_types_and_layouts(rng):
    x, y, a = rng.normal(size=20), rng.normal(size=30), masses(rng, 20)
    want = wasserstein_1d(x, y, a, p=2)
    assert isinstance(want, np.float64)
    assert wasserstein_1d(x[::-1], np.repeat(y, 2)[::2], a[::-1], p=2) == pytest.approx(want, rel=1e-14)
    assert wasserstein_1d(x.astype(">f8"), y, a, p=2) == want
    assert wasserstein_1d(list(x), list(y), list(a), p=2) == want
    before = x.copy(), a.copy()
    for array in (x, a):
        array.flags.writeable = False
    wasserstein_1d(x, y, a)
    np.testing.assert_array_equal(before, (x, a))
    single = wasserstein_1d(x.astype(np.float32), y.astype(np.float32), a, p=2)
    assert single.dtype == np.float32
    assert single == pytest.approx(want, rel=1e-6)
    assert wasserstein_1d(x.astype(np.float32), y, a).dtype == np.float64
    assert wasserstein_1d(np.array([0, 3]), np.array([1])) == 1.5
    assert wasserstein_1d(np.broadcast_to(2.0, 6), y, p=1) == pytest.approx(np.abs(y - 2).mean(), rel=1e-14)
    # masses rounded to float32 have totals that differ by more than 1e-9
    rounded = a.astype(np.float32)
    assert abs(rounded.sum(dtype=float) - 1) > 1e-9
    assert wasserstein_1d(x, y, rounded, p=2) == pytest.approx(want, rel=1e-6)


finite = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, (3, 6), elements=finite), finite, st.sampled_from([1, 1.5, 2, 4, INF]))
def test_line_laws(points, shift, p):
    x, y, z = points
    d = wasserstein_1d(x, y, p=p)
    slack = 1e-11 * (1 + np.abs(points).max())
    assert d == wasserstein_1d(y, x, p=p)
    assert d >= abs(x.mean() - y.mean()) - slack
    assert d <= wasserstein_1d(x, z, p=p) + wasserstein_1d(z, y, p=p) + slack
    assert wasserstein_1d(x, y) - slack <= d <= wasserstein_1d(x, y, p=INF) + slack
    assert wasserstein_1d(x, x + shift, p=p) == pytest.approx(abs(shift), abs=slack)
    assert wasserstein_1d(-2 * x, -2 * y, p=p) == pytest.approx(2 * d, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(
    ("arrays", "options", "error", "text"),
    [
        (([], [1.0]), {}, ValueError, r"wasserstein_1d: `x` must hold at least one point .*, got shape \(0,\)"),
        ((1.0, [1.0]), {}, ValueError, r"`x` must hold at least one point .*, got shape \(\)"),
        (([1.0, NAN], [1.0]), {}, ValueError, "`x` must be finite"),
        (([1.0], [INF]), {}, ValueError, "`y` must be finite"),
        (([1.0], [1j]), {}, TypeError, "`y` must be real, got dtype complex128"),
        (([1.0], [1.0], [-1.0]), {}, ValueError, "`a` must not be negative, got -1"),
        (([1.0], [1.0], [NAN]), {}, ValueError, "`a` must not contain nan"),
        (([1.0], [1.0, 2.0], None, [0, 0]), {}, ValueError, "`b` must have a positive total, got only zeros"),
        (([1.0], [1.0], [0.5, 0.5]), {}, ValueError, r"`a` must have shape \(1,\), got shape \(2,\)"),
        (([1.0], [1.0], [2.0]), {}, ValueError, "`a` and `b` must have the same total, got 2 and 1"),
        (([1.0], [1.0], [1.0 + 1e-7]), {}, ValueError, "`a` and `b` must have the same total"),
        (
            (np.ones((2, 3)), np.ones((3, 3))),
            {},
            ValueError,
            r"leading axes of all arrays must broadcast, got shapes \[\(2, 3\)",
        ),
        (([1.0], [1.0]), {"p": 0.5}, ValueError, "`p` must be at least 1, got 0.5"),
        (([1.0], [1.0]), {"p": NAN}, ValueError, "`p` must be at least 1, got nan"),
        (([1.0], [1.0]), {"p": "2"}, TypeError, "`p` must be a number, got '2'"),
        (([1.0], [1.0]), {"q": 2}, TypeError, "unexpected keyword"),
    ],
)
def test_line_refusals(arrays, options, error, text):
    with pytest.raises(error, match=text):
        wasserstein_1d(*arrays, **options)


@pytest.mark.parametrize("p", [1, 1.5, 2, 5, INF])
def test_line_gradients(p, rng):
    cases = [((8,), (8,), None, None), ((2, 1, 5), (3, 4), None, None)]
    cases.append(((2, 5), (4,), np.stack([masses(rng, 5), masses(rng, 5)]), masses(rng, 4)))
    for shape_x, shape_y, a, b in cases:
        x, y = rng.normal(size=shape_x), rng.normal(size=shape_y)
        value, pullback = entropic.vjp(wasserstein_1d, x, y, a=a, b=b, p=p)
        np.testing.assert_array_equal(value, wasserstein_1d(x, y, a, b, p=p))
        g = rng.normal(size=np.shape(value))
        by_x, by_y = pullback(g)
        assert by_x.shape == shape_x
        assert by_y.shape == shape_y
        # the points move by less than lies between them, so the differences see one piece of the distance
        want_x = finite_difference(lambda v: wasserstein_1d(v, y, a, b, p=p), x, g, step=1e-6)  # noqa: B023
        want_y = finite_difference(lambda v: wasserstein_1d(x, v, a, b, p=p), y, g, step=1e-6)  # noqa: B023
        np.testing.assert_allclose(by_x, want_x, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(by_y, want_y, rtol=1e-6, atol=1e-8)
        single = entropic.vjp(wasserstein_1d, x.astype(np.float32), y, a=a, b=b, p=p)[1](g)
        assert [grad.dtype for grad in single] == [np.float32, np.float64]


@pytest.mark.parametrize("p", [1, 1.5, 2, 4])
def test_line_gradients_of_masses(p, rng):
    x, y = rng.normal(size=(2, 6)), rng.normal(size=5)
    a, b = rng.random(6) + 0.1, rng.random((2, 5)) + 0.1
    a, b = a / a.sum(), b / b.sum(axis=1, keepdims=True)
    _, pullback = entropic.vjp(wasserstein_1d, x, y, a, b=b, p=p, wrt=("b",))
    g = rng.normal(size=2)
    _, _, by_a, by_b = pullback(g)

    def scaled(a, b):  # totals must agree, and the distance sees proportions alone
        return wasserstein_1d(x, y, a / a.sum(), b / b.sum(axis=1, keepdims=True), p=p)

    np.testing.assert_allclose(by_a, finite_difference(lambda v: scaled(v, b), a, g, step=1e-6), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(by_b, finite_difference(lambda v: scaled(a, v), b, g, step=1e-6), rtol=1e-6, atol=1e-8)
    counts = entropic.vjp(wasserstein_1d, x[0], y, 7 * a, 7 * b[0], p=p)[1](1.0)[2]
    np.testing.assert_allclose(7 * counts, entropic.vjp(wasserstein_1d, x[0], y, a, b[0], p=p)[1](1.0)[2], rtol=1e-10)
    assert entropic.vjp(wasserstein_1d, x, y, None, b, p=p)[1](g)[2] is None
    with pytest.raises(ValueError, match="the masses have no gradient for p=inf"):
        entropic.vjp(wasserstein_1d, x, y, a, b, p=INF)


def test_gradients_where_the_distance_is_0(rng):
    x, w = rng.normal(size=6), masses(rng, 6)
    for p in (1, 2, 3, INF):
        grads = entropic.vjp(wasserstein_1d, x, x[::-1], p=p)[1](1.0)
        np.testing.assert_array_equal(grads, np.zeros((2, 6)))
    for grad in entropic.vjp(wasserstein_1d, x, x, w, w, p=2)[1](1.0):
        np.testing.assert_array_equal(grad, np.zeros(6))
    # half of the points coincide: a subgradient, between the one-sided derivatives
    by_x, _ = entropic.vjp(wasserstein_1d, [0.0, 1.0], [0.0, 3.0])[1](1.0)
    np.testing.assert_array_equal(by_x, [0, -0.5])


def test_torch_in_torch_out(rng):
    torch = pytest.importorskip("torch")
    x, y = torch.from_numpy(rng.normal(size=6)), torch.from_numpy(rng.normal(size=5))
    line = wasserstein_1d(x, y)
    assert isinstance(line, torch.Tensor)
    assert float(line) == wasserstein_1d(x.numpy(), y.numpy())
    assert all(isinstance(grad, torch.Tensor) for grad in entropic.vjp(wasserstein_1d, x, y)[1](1.0))
    with pytest.raises(TypeError, match="is a torch array but `y` is a numpy array"):
        wasserstein_1d(x, y.numpy())


def test_chains_of_tiny_masses_are_moved():
    """Each step is within rounding of the next, and all together are not."""
    n = 10_000
    masses = np.r_[0.5, np.full(n, 1e-16), 0.5]
    x, y = np.zeros(n + 2), np.full(n + 2, 0.5)
    x[[0, -1]] = y[[0, -1]] = -1, 1
    assert wasserstein_1d(x, y, masses, masses) == pytest.approx(5e-13, rel=1e-3)
