"""Transport between Gaussians, plain and entropic."""

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
from reference.logits import finite_difference

import entropic
from entropic.transport import _gaussian
from entropic.transport._gaussian import bures_cost, gaussian_transport

INF, NAN = np.inf, np.nan


def covariance(rng, d, rank=None):
    root = rng.normal(size=(d, d if rank is None else rank))
    return root @ root.T


def sinkhorn_on_grid(grid, a, b, eps):
    """Entropic transport of masses on a grid by plain float64 iterations: value and plan."""
    cost = (grid[:, None] - grid) ** 2
    f, g = np.zeros(len(grid)), np.zeros(len(grid))
    log_a, log_b = np.log(a), np.log(b)
    for _ in range(400):
        f = -eps * scipy.special.logsumexp((g - cost) / eps + log_b, axis=1)
        g = -eps * scipy.special.logsumexp((f[:, None] - cost) / eps + log_a[:, None], axis=0)
    plan = np.exp((f[:, None] + g - cost) / eps + log_a[:, None] + log_b)
    assert np.abs(plan.sum(1) - a).sum() < 1e-13
    return (plan * cost).sum() + eps * (plan * (f[:, None] + g - cost) / eps).sum(), plan


@pytest.mark.parametrize(("sd_a", "sd_b", "eps"), [(1.0, 0.6, 1.0), (0.7, 1.2, 3.0), (0.8, 0.8, 0.5)])
def test_entropic_gaussians_against_a_grid(sd_a, sd_b, eps):
    """The grid's error is the trapezoid rule's, which for Gaussians is below rounding at this spacing."""
    grid = np.linspace(-11, 11, 221)
    a, b = (scipy.stats.norm.pdf(grid, m, s) for m, s in ((0.25, sd_a), (-0.5, sd_b)))
    a, b = a / a.sum(), b / b.sum()
    value, plan = sinkhorn_on_grid(grid, a, b, eps)
    got = gaussian_transport([0.25], [[sd_a**2]], [-0.5], [[sd_b**2]], eps=eps)
    assert got.value == pytest.approx(value, rel=1e-9)
    centred = (grid - 0.25)[:, None] * (grid + 0.5)
    assert got.cross_covariance[0, 0] == pytest.approx((plan * centred).sum(), rel=1e-8)
    middle = slice(90, 130)
    images = (plan @ grid / plan.sum(1))[middle]
    np.testing.assert_allclose(got.transport(grid[middle, None])[:, 0], images, atol=1e-8)


@pytest.mark.parametrize("d", [1, 2, 3, 6, 16])
@pytest.mark.parametrize("eps", [1e-2, 1.0, 50.0])
def test_entropic_gaussians_are_optimal(d, eps, rng):
    """exp((f + g - |x-y|^2)/eps) has the precision -2/eps between x and y, and that decides the coupling."""
    a, b = covariance(rng, d, d + 3), covariance(rng, d, d + 3)
    shift = rng.normal(size=d)
    got = gaussian_transport(np.zeros(d), a, shift, b, eps=eps)
    cross = got.cross_covariance
    precision = np.linalg.inv(np.block([[a, cross], [cross.T, b]]))
    np.testing.assert_allclose(precision[:d, d:], -2 / eps * np.eye(d), atol=1e-8 * np.abs(precision).max())
    np.testing.assert_allclose(got.map_matrix, cross.T @ np.linalg.inv(a), rtol=1e-7, atol=1e-9)
    distance = shift @ shift + np.trace(a) + np.trace(b) - 2 * np.trace(cross)
    kl = -np.linalg.slogdet(np.eye(d) - np.linalg.solve(a, cross) @ np.linalg.solve(b, cross.T))[1] / 2
    assert got.value == pytest.approx(distance + eps * kl, rel=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5, 16])
def test_plain_gaussians_are_optimal(d, rng):
    """A symmetric, semidefinite map that carries a to b is optimal (Brenier)."""
    a, b = covariance(rng, d, d + 3), covariance(rng, d, d + 3)
    mean_a, mean_b = rng.normal(size=(2, d))
    got = gaussian_transport(mean_a, a, mean_b, b)
    matrix = got.map_matrix
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-10 * np.abs(matrix).max())
    assert np.linalg.eigvalsh(matrix).min() > 0
    np.testing.assert_allclose(matrix @ a @ matrix.T, b, atol=1e-10 * np.abs(b).max())
    moved = np.eye(d) - matrix
    want = np.sum((mean_a - mean_b) ** 2) + np.trace(moved @ a @ moved.T)
    assert got.value == pytest.approx(want, rel=1e-10)
    np.testing.assert_allclose(got.cross_covariance, a @ matrix.T, atol=1e-10 * np.abs(a).max())
    root = scipy.linalg.sqrtm(a)
    traces = np.trace(a) + np.trace(b) - 2 * np.trace(scipy.linalg.sqrtm(root @ b @ root)).real
    assert got.value == pytest.approx(np.sum((mean_a - mean_b) ** 2) + traces, rel=1e-9)


def commuting(rng, a, b):
    basis = scipy.stats.ortho_group.rvs(len(a), random_state=rng) if len(a) > 1 else np.ones((1, 1))
    return (basis * a) @ basis.T, (basis * b) @ basis.T, basis


def test_commuting_covariances(rng):
    for d in (1, 2, 3, 8):
        a, b = rng.random(d) * 3, rng.random(d) * 3
        a[-1] = 0 if d == 3 else a[-1]  # a singular one
        cov_a, cov_b, basis = commuting(rng, a, b)
        zero = np.zeros(d)
        plain = gaussian_transport(zero, cov_a, zero, cov_b)
        assert plain.value == pytest.approx(np.sum((a**0.5 - b**0.5) ** 2), rel=1e-8 if d == 3 else 1e-13)
        for s2 in (0.01, 0.5, 20.0):
            root = np.sqrt(4 * a * b + s2**2)
            want = np.sum(a + b - root + s2 * (1 - np.log(2 * s2)) + s2 * np.log(root + s2))
            got = gaussian_transport(zero, cov_a, zero, cov_b, eps=2 * s2)
            assert got.value == pytest.approx(want, rel=1e-12)
            cross = (basis * (root - s2) / 2) @ basis.T
            np.testing.assert_allclose(got.cross_covariance, cross, atol=1e-13)


def test_scaled_identities():
    for d, v, w in ((1, 1.0, 4.0), (3, 0.25, 9.0), (16, 2.0, 0.5)):
        got = gaussian_transport(np.ones(d), v * np.eye(d), np.zeros(d), w * np.eye(d))
        assert got.value == pytest.approx(d * (1 + (v**0.5 - w**0.5) ** 2), rel=1e-14)
        np.testing.assert_allclose(got.map_matrix, (w / v) ** 0.5 * np.eye(d), rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(got.transport(np.full(d, 2.0)), (w / v) ** 0.5 * np.ones(d), rtol=1e-14)


def test_gaussians_that_nearly_coincide(rng):
    cov, mean = covariance(rng, 4), rng.normal(size=4)
    same = gaussian_transport(mean, cov, mean, cov)
    assert 0 <= same.value <= 1e-28 * np.trace(cov)
    assert (np.diag(bures_cost([mean, mean], [cov, 2 * cov], [mean, mean], [cov, 2 * cov])) <= 1e-27).all()
    # (sqrt(1+h) - 1)^2 tr(A), which the difference of traces would lose altogether
    h = 2.0**-24
    near = gaussian_transport(mean, cov, mean, cov * (1 + h)).value
    assert near == pytest.approx(np.expm1(np.log1p(h) / 2) ** 2 * np.trace(cov), rel=1e-6)


def test_singular_covariances(rng):
    # rank 1 each, with known directions: sigma is the product of the lengths and the cosine
    u, v = np.array([3.0, 0.0, 4.0]), np.array([0.0, 1.0, 1.0])
    zero = np.zeros(3)
    got = gaussian_transport(zero, np.outer(u, u), zero, np.outer(v, v))
    assert got.value == pytest.approx(25 + 2 - 2 * 4, rel=1e-13)
    np.testing.assert_allclose(got.cross_covariance, np.outer(u, v), atol=1e-7)
    np.testing.assert_allclose(got.transport(u), v, atol=1e-7)
    for eps in (1e-3, 1.0, 1e3):
        s2 = eps / 2
        root = np.hypot(2 * 4, s2)
        want = 27 - root + s2 + s2 * np.log((root + s2) / (2 * s2))
        entropic_plan = gaussian_transport(zero, np.outer(u, u), zero, np.outer(v, v), eps=eps)
        assert entropic_plan.value == pytest.approx(want, rel=1e-8)
        np.testing.assert_allclose(entropic_plan.transport(u), 2 * 4 / (root + s2) * v, rtol=1e-8, atol=1e-8)
    # point masses: the other Gaussian's variance is all there is, and nothing has a direction
    for eps in (0.0, 1.0):
        point = gaussian_transport(zero, np.zeros((3, 3)), u, covariance(rng, 3), eps=eps)
        assert np.isfinite(point.value)
        np.testing.assert_array_equal(point.map_matrix, np.zeros((3, 3)))
        np.testing.assert_array_equal(point.transport(v), u)
        points = gaussian_transport(zero, np.zeros((3, 3)), u, np.zeros((3, 3)), eps=eps)
        assert points.value == 25
    # supports at right angles: independent
    a, b, _ = commuting(rng, np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    apart = gaussian_transport([0, 0], a, [0, 0], b)
    assert apart.value == pytest.approx(2, rel=1e-14)
    np.testing.assert_allclose(apart.map_matrix, np.zeros((2, 2)), atol=1e-14)


def test_gaussian_scales(rng):
    """Values scale with the covariances and eps; nothing is nan in between or beyond."""
    a, b, zero = covariance(rng, 3), covariance(rng, 3), np.zeros(3)
    for eps in (0.0, 0.3):
        want = gaussian_transport(zero, a, zero, b, eps=eps)
        for scale in (1e-200, 1e-30, 1e30, 1e200):
            got = gaussian_transport(zero, a * scale, zero, b * scale, eps=eps * scale)
            assert got.value == pytest.approx(want.value * scale, rel=1e-11)
            np.testing.assert_allclose(got.map_matrix, want.map_matrix, rtol=1e-9, atol=1e-11)
    plain = gaussian_transport(zero, a, zero, b).value
    values = [gaussian_transport(zero, a, zero, b, eps=eps).value for eps in 10.0 ** np.arange(-300, 301, 20)]
    assert np.all(np.isfinite(values))
    assert np.all(np.diff(values) >= -1e-12)  # the regularised cost grows with eps
    assert values[0] == pytest.approx(plain, rel=1e-14)
    assert values[-1] == pytest.approx(np.trace(a) + np.trace(b), rel=1e-14)
    # ill-conditioned
    steep = np.diag([1.0, 1e-12, 1e-300])
    assert gaussian_transport(zero, steep, zero, steep[::-1, ::-1]).value == pytest.approx(2 * (1 - 0), rel=1e-5)


def test_gaussians_against_many_digits():
    """Float64 covariances of condition 1e8, the formula in 60 digits."""
    a = np.array([[1.0, 0.9999], [0.9999, 1.0]])
    b = np.array([[2.0, -1.99998], [-1.99998, 2.0]])
    with mpmath.workdps(60):
        mp_a, mp_b = mpmath.matrix(a.tolist()), mpmath.matrix(b.tolist())
        root = mpmath.sqrtm(mp_a)
        product = root * mp_b * root
        for eps in (0.0, 1e-3, 1.0):
            s2 = mpmath.mpf(eps) / 2
            middle = mpmath.sqrtm(4 * product + s2**2 * mpmath.eye(2))
            want = sum(mp_a[i, i] + mp_b[i, i] - mpmath.re(middle[i, i]) for i in range(2))
            if eps:
                want += 2 * s2 * (1 - mpmath.log(2 * s2)) + s2 * mpmath.log(
                    mpmath.re(mpmath.det(middle + s2 * mpmath.eye(2)))
                )
            got = gaussian_transport([0, 0], a, [0, 0], b, eps=eps).value
            assert got == pytest.approx(float(want), rel=1e-12)


def test_gaussian_batches_and_types(rng):
    means_a, means_b = rng.normal(size=(4, 1, 3)), rng.normal(size=3)
    covs_a, covs_b = np.stack([covariance(rng, 3) for _ in range(4)])[:, None], np.stack([covariance(rng, 3)] * 2)
    got = gaussian_transport(means_a, covs_a, means_b, covs_b, eps=0.1)
    assert got.value.shape == (4, 2)
    assert got.map_matrix.shape == got.cross_covariance.shape == (4, 2, 3, 3)
    points = rng.normal(size=(7, 3))
    moved, one = got.transport(points), got.transport(points[0])
    assert moved.shape == (4, 2, 7, 3)
    assert one.shape == (4, 2, 3)
    np.testing.assert_allclose(one, moved[:, :, 0], rtol=1e-12, atol=1e-14)
    for i, j in np.ndindex(4, 2):
        single = gaussian_transport(means_a[i, 0], covs_a[i, 0], means_b, covs_b[j], eps=0.1)
        assert isinstance(single.value, np.float64)
        assert got.value[i, j] == pytest.approx(single.value, rel=1e-13)
        np.testing.assert_allclose(single.transport(points), moved[i, j], rtol=1e-10, atol=1e-12)
    assert repr(got) == "GaussianTransport(batch=(4, 2), d=3, eps=0.1)"
    assert repr(gaussian_transport([0], [[1]], [2], [[1]])) == "GaussianTransport(value=4.0, d=1, eps=0.0)"
    halves = [np.asarray(x, np.float32) for x in (means_a, covs_a, means_b, covs_b)]
    single = gaussian_transport(*halves, eps=0.1)
    assert {single.value.dtype, single.map_matrix.dtype, single.mean_b.dtype} == {np.dtype(np.float32)}
    np.testing.assert_allclose(single.value, got.value, rtol=1e-5)
    assert single.transport(points.astype(np.float32)).dtype == np.float32
    assert single.transport(points).dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "options", "error", "text"),
    [
        ((1.0, [[1.0]], [0.0], [[1.0]]), {}, ValueError, r"gaussian_transport: `mean_a` must have shape \(..., d\) .*, got \(\)"),
        (([0.0], [1.0], [0.0], [[1.0]]), {}, ValueError, r"`cov_a` must have shape \(..., 1, 1\), got \(1,\)"),
        (([0.0], [[1.0]], [0.0, 1.0], np.eye(2)), {}, ValueError, r"`mean_b` must have length 1, as `mean_a` has"),
        (([0.0, 0.0], np.eye(2), [0.0, 0.0], [[1.0, 0.5], [0.4, 1.0]]), {}, ValueError, "`cov_b` must be symmetric, got entries that differ by 0.0"),
        (([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]], [0.0, 0.0], np.eye(2)), {}, ValueError, "`cov_a` must be positive semidefinite, got the eigenvalue -1"),
        (([0.0], [[NAN]], [0.0], [[1.0]]), {}, ValueError, "`cov_a` must be finite"),
        (([0.0], [[1.0]], [INF], [[1.0]]), {}, ValueError, "`mean_b` must be finite"),
        ((np.zeros((2, 1)), np.ones((2, 1, 1)), np.zeros((3, 1)), [[1.0]]), {}, ValueError, r"leading axes of all arrays must broadcast, got shapes \[\(2, 1\)"),
        (([0.0], [[1.0]], [0.0], [[1.0]]), {"eps": -1.0}, ValueError, "`eps` must be finite and not negative, got -1.0"),
        (([0.0], [[1.0]], [0.0], [[1.0]]), {"eps": NAN}, ValueError, "`eps` must be finite and not negative, got nan"),
        (([0.0], [[1.0]], [0.0], [[1.0]]), {"eps": None}, TypeError, "`eps` must be a number, got None"),
        (([0.0], [[1.0]], [0.0], [["a"]]), {}, TypeError, "`cov_b` must hold numbers"),
    ],
)  # fmt: skip
def test_gaussian_refusals(arrays, options, error, text):
    with pytest.raises(error, match=text):
        gaussian_transport(*arrays, **options)


def test_map_refusals():
    plan = gaussian_transport(np.zeros((3, 2)), np.eye(2), np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match=r"GaussianTransport.transport: `x` must have 2 columns, got shape \(4, 3\)"):
        plan.transport(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"leading axes of `x` must broadcast .* \(3,\), got shape \(2, 4, 2\)"):
        plan.transport(np.zeros((2, 4, 2)))
    with pytest.raises(ValueError, match="`x` must be finite"):
        plan.transport(np.full((4, 2), INF))


def gaussian_sets(rng, n, m, d):
    sets = []
    for size in (n, m):
        sets += [rng.normal(size=(size, d)), np.stack([covariance(rng, d, d + 2) for _ in range(size)])]
    return sets


@pytest.mark.parametrize("d", [1, 2, 3, 16])
def test_bures_cost_against_matrix_roots(d, monkeypatch, rng):
    means_a, covs_a, means_b, covs_b = gaussian_sets(rng, 4, 5, d)
    got = bures_cost(means_a, covs_a, means_b, covs_b)
    assert got.shape == (4, 5)
    for i, j in np.ndindex(4, 5):
        root = scipy.linalg.sqrtm(covs_a[i])
        middle = scipy.linalg.sqrtm(root @ covs_b[j] @ root)
        want = np.sum((means_a[i] - means_b[j]) ** 2) + np.trace(covs_a[i] + covs_b[j] - 2 * middle.real)
        assert got[i, j] == pytest.approx(want, rel=1e-9)
    for block in (1, d * d * 3, d * d * 11):
        monkeypatch.setattr(_gaussian, "_BLOCK", block)
        np.testing.assert_allclose(bures_cost(means_a, covs_a, means_b, covs_b), got, rtol=1e-13)


def test_bures_cost_commuting_and_far(rng):
    basis = scipy.stats.ortho_group.rvs(4, random_state=rng)
    a, b = rng.random((6, 4)), rng.random((5, 4)) * 9
    covs_a, covs_b = ((basis * v[:, None]) @ basis.T for v in (a, b))
    means_a, means_b = rng.integers(-9, 9, (6, 4)).astype(float), rng.integers(-9, 9, (5, 4)).astype(float)
    want = ((means_a[:, None] - means_b) ** 2).sum(-1) + ((a[:, None] ** 0.5 - b**0.5) ** 2).sum(-1)
    for far in (0.0, 2.0**50):
        np.testing.assert_allclose(bures_cost(means_a + far, covs_a, means_b + far, covs_b), want, rtol=1e-13)
    single = bures_cost(*(x.astype(np.float32) for x in (means_a, covs_a, means_b, covs_b)))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, want, rtol=1e-5)
    # diagonal covariances with zeros are exact
    diagonal = np.array([np.diag([4.0, 0.0]), np.diag([0.0, 1.0])])
    zero = np.zeros((2, 2))
    np.testing.assert_allclose(bures_cost(zero, diagonal, zero, diagonal), [[0, 5], [5, 0]], rtol=1e-15)


def test_bures_cost_gradients(rng):
    for n, m, d in ((3, 2, 1), (2, 4, 3)):
        arrays = gaussian_sets(rng, n, m, d)
        value, pullback = entropic.vjp(bures_cost, *arrays)
        np.testing.assert_array_equal(value, bures_cost(*arrays))
        g = rng.normal(size=value.shape)
        grads = pullback(g)
        for k, grad in enumerate(grads):

            def moved(v, k=k, arrays=arrays):
                v = (v + np.swapaxes(v, -1, -2)) / 2 if k % 2 else v  # covariances stay symmetric
                return bures_cost(*arrays[:k], v, *arrays[k + 1 :])

            want = finite_difference(moved, arrays[k], g, step=1e-5)
            np.testing.assert_allclose(grad, want, rtol=1e-5, atol=1e-7)
        singles = entropic.vjp(bures_cost, *(x.astype(np.float32) for x in arrays))[1](g)
        assert {grad.dtype for grad in singles} == {np.dtype(np.float32)}
    # coinciding Gaussians are at the minimum; singular ones give finite gradients
    mean, cov = arrays[0][:1], arrays[1][:1]
    for grad in entropic.vjp(bures_cost, mean, cov, mean, cov)[1](1.0):
        np.testing.assert_allclose(grad, 0, atol=1e-10)
    flat = np.zeros((1, 3, 3))
    assert all(np.isfinite(grad).all() for grad in entropic.vjp(bures_cost, mean, flat, mean, cov)[1](1.0))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({0: np.zeros(3)}, r"bures_cost: `means_a` must have shape \(n, d\) with n, d >= 1, got \(3,\)"),
        ({1: np.zeros((3, 2, 2))}, r"`covs_a` must have shape \(4, 2, 2\), got \(3, 2, 2\)"),
        ({2: np.zeros((5, 3))}, r"`means_b` must have 2 columns, as `means_a` has, got shape \(5, 3\)"),
        (
            {0: np.zeros((0, 2)), 1: np.zeros((0, 2, 2))},
            r"`means_a` must have shape \(n, d\) with n, d >= 1, got \(0, 2\)",
        ),
        (
            {3: np.full((5, 2, 2), [[1.0, 2.0], [2.0, 1.0]])},
            "`covs_b` must be positive semidefinite, got the eigenvalue",
        ),
    ],
)
def test_bures_cost_refusals(change, text, rng):
    arrays = gaussian_sets(rng, 4, 5, 2)
    for k, array in change.items():
        arrays[k] = array
    with pytest.raises(ValueError, match=text):
        bures_cost(*arrays)


def test_torch_in_torch_out(rng):
    torch = pytest.importorskip("torch")
    x, eye = torch.from_numpy(rng.normal(size=(6, 2))), torch.eye(2, dtype=torch.float64)
    plan = gaussian_transport(x[0], eye, x[1], 2 * eye)
    assert isinstance(plan.transport(x), torch.Tensor)
    assert isinstance(bures_cost(x, eye.expand(6, 2, 2), x, eye.expand(6, 2, 2)), torch.Tensor)
