"""Spectra: diffusion entropies and their intervals, entropies of covariances and kernels, kernel densities."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import spectral as reference
from reference.logits import finite_difference

import entropic
from entropic import _core
from entropic.spectral._eigen import eigenvalues

LN2 = math.log(2)


def dse(x, **options):
    return float(entropic.diffusion_spectral_entropy(x, **options))


def clusters(rng, n, d, spread=4.0, count=6):
    return rng.normal(size=(n, d)) + spread * rng.normal(size=(count, d))[rng.integers(0, count, n)]


# ---- products with the kernel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["baseline", "v3", "v4"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_kernel_products(name, threads, rng):
    """Stored, as an operator, and with squared elements, at sizes about the blocks'; the same bits for any threads."""
    if name not in _core.isa_available():
        pytest.skip(f"this machine has no {name}")
    active = _core.isa_active()
    try:
        _core.force_isa(name)
        with entropic.num_threads(threads):
            for n, d, count in ((1, 1, 1), (2, 3, 16), (63, 2, 17), (65, 300, 3), (257, 5, 1), (600, 70, 33)):
                x, rates = rng.normal(size=(n, d)), rng.uniform(0.1, 1, n) / math.sqrt(d)
                v, w = rng.normal(size=(n, count)), rng.random(n)
                exact = np.exp(-reference.squares(x, x) * rates[:, None] * rates)
                kernel = _core.PointKernel(x, rates)
                np.testing.assert_allclose(kernel.dense(), exact, rtol=1e-13, atol=1e-15)
                product, squares = kernel.product(v, w)
                np.testing.assert_allclose(product, exact @ v, atol=1e-12)
                np.testing.assert_allclose(squares, exact**2 @ w, rtol=1e-12)
                alone, nothing = kernel.product(v)
                assert nothing is None
                np.testing.assert_array_equal(alone, product)
                with entropic.num_threads(1):
                    np.testing.assert_array_equal(kernel.product(v)[0], product)
                single = kernel.dense(single=True)
                np.testing.assert_array_equal(single, kernel.dense().astype(np.float32))
                product, squares = _core.single_product(single, v, w)
                scale = single.astype(np.float64) @ np.abs(v)
                np.testing.assert_array_less(np.abs(product - single.astype(np.float64) @ v), 1e-5 * scale + 1e-30)
                np.testing.assert_allclose(squares, single.astype(np.float64) ** 2 @ w, rtol=1e-6)
    finally:
        _core.force_isa(active)


def test_kernel_of_far_and_near_points():
    x = np.array([[0.0], [0.0], [1e-160], [26.0], [1e300]])
    k = _core.PointKernel(x, np.ones(5)).dense()
    assert (k[:3, :3] == 1).all()
    assert k[0, 3] == pytest.approx(math.exp(-676), rel=1e-12)
    assert (k[:4, 4] == 0).all()
    assert k[4, 4] == 1


# ---- eigenvalues -----------------------------------------------------------------------------------------------------


def symmetric_matrices(rng, n):
    """Full, of low rank, with repeated and tiny eigenvalues, graded, reducible, and with columns that are all equal."""
    a = rng.normal(size=(n, n))
    q = np.linalg.qr(a)[0]
    low, scales = rng.normal(size=(n, max(1, n // 9))), 10.0 ** rng.uniform(-20, 0, n)
    x = np.repeat(rng.normal(size=(n, 2)), 5, axis=0)[:n]
    sparse = np.where(rng.random((n, n)) < 0.02, 1.0, 0.0)
    return [
        a + a.T, low @ low.T, (q * rng.integers(0, 3, n)) @ q.T, (q * 10.0 ** -rng.uniform(0, 30, n)) @ q.T,
        np.diag(a[0]), reference.kernel(x, 1.0), (a + a.T) * scales[:, None] * scales, sparse + sparse.T,
        np.full((n, n), -2.0), 0.3 + 0.7 * np.eye(n), np.zeros((n, n)), np.kron(np.eye(n)[: n // 2], np.ones((2, 1)))
        if n % 2 else np.kron(a[: n // 2, : n // 2] + a[: n // 2, : n // 2].T, np.ones((2, 2))),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["baseline", "v3", "v4", "neon"])
def test_eigenvalues(name, rng):
    """As LAPACK's, to rounding beside the largest, at sizes about those of the blocks, and at any scale."""
    if name not in _core.isa_available():
        pytest.skip(f"this machine has no {name}")
    active = _core.isa_active()
    try:
        _core.force_isa(name)
        for n in (1, 2, 3, 31, 32, 33, 34, 63, 64, 65, 97, 130, 200):
            for matrix in symmetric_matrices(rng, n):
                if matrix.shape != (n, n):
                    continue
                both = matrix / 2 + matrix.T / 2
                scale = 2.0 ** rng.integers(-900, 900)
                found = eigenvalues(both * scale) / scale
                expected = np.linalg.eigvalsh(both)
                largest = np.abs(expected).max()
                np.testing.assert_allclose(found, expected, rtol=0, atol=2e-14 * largest)
                assert found.sum() == pytest.approx(np.trace(both), abs=2e-14 * n * largest)
    finally:
        _core.force_isa(active)


def test_eigenvalues_that_are_known():
    """Kac's matrix has -(n - 1), -(n - 3), ..., n - 1; a path 2 cos(pi k / (n + 1)); a circulant its Fourier sum."""
    n = 300
    between = np.sqrt(np.arange(1, n) * np.arange(n - 1, 0, -1.0))
    kac = np.diag(between, 1) + np.diag(between, -1)
    np.testing.assert_allclose(eigenvalues(kac), np.arange(-(n - 1), n, 2), atol=1e-11)
    path = np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
    np.testing.assert_allclose(
        eigenvalues(path), np.sort(2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))), atol=1e-14
    )
    at = np.arange(n)
    row = np.exp(-(np.minimum(at, n - at) ** 2) / 50)
    circulant = row[(at[:, None] - at) % n]
    np.testing.assert_allclose(eigenvalues(circulant), np.sort(np.fft.fft(row).real), atol=1e-13)


def test_eigenvalues_that_differ_by_rounding(rng):
    """What is beside equal diagonal elements is at the level of their last place: shifts are lost there."""
    for k in range(1, 60):
        beside = k * np.finfo(float).eps / 8
        for diagonal in (1.0, 1.9999999999999996, 2.0000000000000018):
            pair = np.array([[diagonal, beside], [beside, diagonal]])
            expected = [diagonal - beside, diagonal + beside]
            np.testing.assert_allclose(eigenvalues(pair), expected, rtol=0, atol=1e-15)
            np.testing.assert_allclose(
                eigenvalues(np.kron(np.eye(3), pair)), np.repeat(expected, 3), rtol=0, atol=1e-15
            )
    for n in rng.integers(2, 90, 300):
        q = np.linalg.qr(rng.normal(size=(n, n)))[0]
        for values in (
            1 + 1e-15 * rng.normal(size=n),
            np.sign(rng.normal(size=n)),
            1 + 10.0 ** rng.uniform(-17, -1, n),
        ):
            matrix = (q * values) @ q.T
            matrix = (matrix + matrix.T) / 2
            np.testing.assert_allclose(eigenvalues(matrix), np.linalg.eigvalsh(matrix), atol=1e-14)


@pytest.mark.parametrize("threads", [2, 3])
def test_eigenvalues_do_not_depend_on_threads(threads, rng):
    a = rng.normal(size=(5, 400, 400))
    a = a + np.swapaxes(a, 1, 2)
    with entropic.num_threads(1):
        alone = eigenvalues(a)
    with entropic.num_threads(threads):
        np.testing.assert_array_equal(eigenvalues(a), alone)
        for matrix, expected in zip(a, alone, strict=True):
            np.testing.assert_array_equal(eigenvalues(matrix), expected)
            np.testing.assert_array_equal(eigenvalues(np.asfortranarray(matrix)), expected)
    assert eigenvalues(np.zeros((0, 4, 4))).shape == (0, 4)
    assert eigenvalues(np.zeros((2, 3, 1, 1))).shape == (2, 3, 1)


# ---- diffusion entropy: exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 2, 3.5])
@pytest.mark.parametrize("sigma", [0.5, 2.0, 10.0])
def test_published_arithmetic(sigma, t, rng):
    """alpha = 0 is the published code, to its rounding and to the eps that it adds to p."""
    for x in (rng.normal(size=(300, 5)), clusters(rng, 200, 20), rng.uniform(size=(150, 256))):
        assert dse(x, sigma=sigma, t=t) == pytest.approx(reference.published_entropy(x, sigma, t), abs=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_normalisations_and_kernels(alpha, rng):
    x = clusters(rng, 120, 4)
    for t in (1, 2.5):
        for options, affinity in (
            ({"sigma": 1.5}, reference.kernel(x, 1.5)),
            ({"kernel": "adaptive", "k": 7}, reference.adaptive_affinity(x, 7)),
            ({"kernel": "knn", "k": 7}, reference.knn_affinity(x, 7)),
        ):
            expected = reference.diffusion_spectral_entropy(affinity, t, alpha)
            assert dse(x, t=t, alpha=alpha, **options) == pytest.approx(expected, abs=1e-10)
            assert dse(affinity, t=t, alpha=alpha, kernel="precomputed") == pytest.approx(expected, abs=1e-10)


def test_median_width(rng):
    x = rng.normal(size=(101, 3)) * [1, 5, 0.1] + 1e6
    distances = reference.squares(x, x)[np.triu_indices(101, 1)]
    result = entropic.diffusion_spectral_entropy(x, sigma="median")
    assert result.sigma == pytest.approx(math.sqrt(np.median(distances) / 2), rel=1e-9)
    assert float(result) == dse(x, sigma=result.sigma)
    many = rng.normal(size=(5000, 2))
    assert entropic.spectral._diffusion.check_sigma("f", "median", many) == pytest.approx(
        math.sqrt(np.median(reference.squares(many[::3], many[::3])[np.triu_indices(1667, 1)]) / 2), rel=1e-9
    )


def test_circle_and_torus():
    """Equally spaced points: the spectrum is a Fourier transform, for every alpha."""
    n, radius, sigma = 90, 2.0, 0.7
    angle = 2 * math.pi * np.arange(n) / n
    circle = radius * np.column_stack([np.cos(angle), np.sin(angle)])
    spectrum = reference.circle_spectrum(n, radius, sigma)
    for alpha in (0.0, 0.5, 1.0):
        result = entropic.diffusion_spectral_entropy(circle, sigma=sigma, alpha=alpha, t=[1, 3])
        np.testing.assert_allclose(result.eigenvalues, np.sort(spectrum)[::-1], atol=1e-14)
        for t, value in zip((1, 3), result.value, strict=True):
            assert value == pytest.approx(reference.shannon(np.abs(spectrum) ** t) / LN2, abs=1e-11)
    m = 24
    other = 0.9 * np.column_stack([np.cos(angle[:m] * n / m), np.sin(angle[:m] * n / m)])
    torus = np.hstack([np.repeat(circle, m, axis=0), np.tile(other, (n, 1))])
    product = np.outer(spectrum, reference.circle_spectrum(m, 0.9, sigma)).ravel()
    expected = reference.shannon(np.abs(product) ** 2) / LN2
    assert dse(torus, sigma=sigma, t=2, method="dense") == pytest.approx(expected, abs=1e-10)
    bounded = entropic.diffusion_spectral_entropy(torus, sigma=sigma, t=2, method="certified")
    assert bounded.lower - 1e-10 <= expected <= bounded.upper + 1e-10
    assert bounded.converged


def test_a_circle_of_many_points():
    """20,000 points, whose dense matrix has 3.2 GB: the interval holds the transform's answer."""
    n, sigma = 20_000, 0.5
    angle = 2 * math.pi * np.arange(n) / n
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    spectrum = np.abs(reference.circle_spectrum(n, 1.0, sigma))
    result = entropic.diffusion_spectral_entropy(circle, sigma=sigma, t=[1, 2, 5])
    assert result.method == "certified"
    for t, low, high in zip((1, 2, 5), result.lower, result.upper, strict=True):
        expected = reference.shannon(spectrum[spectrum > 1e-12] ** t) / LN2
        assert low - 1e-9 <= expected <= high + 1e-9
        assert high - low <= 0.01


@pytest.mark.parametrize(("n", "side", "expected"), [(100, 1.3, 4.731724235317), (2, 1.3, 0.862468045266)])
def test_simplex(n, side, expected):
    corners = np.eye(n) * side / math.sqrt(2)
    assert dse(corners, sigma=1) == pytest.approx(expected, abs=1e-11)
    spectrum = reference.simplex_spectrum(n, math.exp(-(side**2) / 2))
    assert dse(corners, sigma=1, t=2.5) == pytest.approx(reference.shannon(spectrum**2.5) / LN2, abs=1e-11)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_duplicates_and_clusters(alpha, rng):
    x = rng.normal(size=(40, 3))
    once = dse(x, sigma=1, alpha=alpha)
    assert dse(np.repeat(x, 3, axis=0), sigma=1, alpha=alpha) == pytest.approx(once, abs=1e-10)
    assert dse(np.repeat(x, 30, axis=0), sigma=1, alpha=alpha, tol=1e-3) == pytest.approx(once, abs=1e-3)
    far = np.repeat(1e3 * np.eye(5), 20, axis=0)
    assert dse(far, sigma=1, alpha=alpha) == pytest.approx(math.log2(5), abs=1e-10)
    assert dse(far, sigma=1, alpha=alpha, t=50, method="certified") == pytest.approx(math.log2(5), abs=1e-2)
    assert dse(np.zeros((30, 2)), alpha=alpha) == pytest.approx(0, abs=1e-10)
    assert dse([[1.0, 2.0]], alpha=alpha) == 0


@pytest.mark.parametrize(("sigma", "t", "tolerance"), [(2, 1, 3e-3), (2, 2, 1e-4), (1, 2, 2e-3), (1, 4, 2e-4)])
def test_gaussian_limit(sigma, t, tolerance):
    """Quantiles of a normal distribution, beside the population's eigenvalues rho^j."""
    from scipy.special import ndtri

    x = ndtri((np.arange(2000) + 0.5) / 2000)
    limit = reference.gaussian_limit([1.0], sigma, t)
    assert dse(x, sigma=sigma, t=t, method="dense") == pytest.approx(limit, abs=tolerance)


def test_time(rng):
    """t = 0 counts eigenvalues, more time leaves fewer, and at last the components; an array is one spectrum."""
    x = np.vstack([rng.normal(size=(50, 2)), rng.normal(size=(30, 2)) + 1e3])
    times = np.array([0, 0.5, 1, 1.5, 2, 4, 10, 1e4])
    result = entropic.diffusion_spectral_entropy(x, sigma=1, t=times)
    assert result.value[0] == pytest.approx(math.log2(80), abs=1e-14)
    assert (np.diff(result.value) < 1e-12).all()
    assert result.value[-1] == pytest.approx(1, abs=1e-9)
    for t, value in zip(times, result.value, strict=True):
        assert dse(x, sigma=1, t=t) == pytest.approx(value, abs=1e-12)
    assert result.t.tolist() == times.tolist()
    assert np.asarray(result).tolist() == result.value.tolist()
    for method in ("dense", "certified", "lanczos"):
        assert dse(x, t=0, method=method) == pytest.approx(math.log2(80), abs=1e-14)
    nats = entropic.diffusion_spectral_entropy(x, sigma=1, t=times, base=None)
    np.testing.assert_allclose(nats.value, result.value * LN2, rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 5), st.floats(-1, 1))
def test_laws_of_diffusion_entropy(seed, n, d, power):
    rng = np.random.default_rng(seed)
    x, sigma = rng.normal(size=(n, d)), 10**power
    value = dse(x, sigma=sigma)
    assert -1e-9 <= value <= math.log2(n) + 1e-9
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    assert dse(rng.permutation(x @ rotation + 3), sigma=sigma) == pytest.approx(value, abs=1e-7)
    assert dse(x * 2.0**40, sigma=sigma * 2.0**40) == pytest.approx(value, abs=1e-9)
    assert dse(x * 1e-200, sigma=sigma * 1e-200) == pytest.approx(value, abs=1e-7)
    assert dse(x * 1e250, sigma=sigma * 1e250) == pytest.approx(value, abs=1e-7)
    many = np.vstack([x, rng.normal(size=(100, d))])
    for scale in (1e-200, 1e250):
        scaled = {"sigma": sigma * scale, "t": 2, "method": "certified", "tol": 10}
        bounded = entropic.diffusion_spectral_entropy(many * scale, **scaled)
        assert bounded.lower - 1e-9 <= dse(many, sigma=sigma, t=2) <= bounded.upper + 1e-9
    assert dse(x, sigma=1e-300) == pytest.approx(math.log2(n), abs=1e-9)
    assert dse(x, sigma=1e300) == pytest.approx(0, abs=1e-9)


def test_kinds_of_arrays(rng):
    x = rng.normal(size=(80, 6))
    value = dse(x, sigma=2)
    wide = np.zeros((160, 12))
    wide[::2, ::-2] = x
    assert dse(wide[::2, ::-2], sigma=2) == value
    assert dse(np.asfortranarray(x), sigma=2) == value
    assert dse(x.astype(">f8"), sigma=2) == value
    assert dse(x.astype(np.float32), sigma=2) == pytest.approx(value, abs=1e-5)
    assert dse(np.arange(30), sigma=2) == dse(np.arange(30.0)[:, None], sigma=2)
    torch = pytest.importorskip("torch")
    assert dse(torch.tensor(x), sigma=2) == value


# ---- diffusion entropy: intervals ------------------------------------------------------------------------------------


def random_problem(rng, most=400):
    n, d = int(rng.integers(64, most)), int(rng.integers(1, 40))
    sigma = math.sqrt(d) * 10 ** rng.uniform(-0.8, 0.7)
    x = rng.normal(size=(n, d)) if rng.random() < 0.5 else clusters(rng, n, d)
    return x, sigma


@pytest.mark.parametrize("kernel", ["gaussian", "adaptive", "knn"])
def test_certified_intervals_hold(kernel):
    rng = np.random.default_rng(1)
    times = [0, 1, 1.3, 2, 3, 6]
    for _ in range(60):
        x, sigma = random_problem(rng)
        options = {"t": times, "alpha": rng.choice([0, 0.5, 1]), "kernel": kernel, "k": 10, "sigma": sigma}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", entropic.ConvergenceWarning)
            bounds = entropic.diffusion_spectral_entropy(x, method="certified", tol=1e-4, **options)
        exact = entropic.diffusion_spectral_entropy(x, method="dense", **options)
        assert bounds.method == "certified"
        assert (bounds.lower - 1e-11 <= exact.value).all()
        assert (exact.value <= bounds.upper + 1e-11).all()
        assert (bounds.lower <= bounds.value).all()
        assert (bounds.value <= bounds.upper).all()
        assert bounds.converged == bool((bounds.upper - bounds.lower).max() <= 1e-4)


def test_compressed_and_tail_intervals_hold():
    """For any subspace that holds the first eigenvector, and any part of the spectrum that is known exactly."""
    from entropic.spectral._bounds import Tail, compressed_interval, tail_interval, widened

    rng = np.random.default_rng(2)
    for _ in range(300):
        n = int(rng.integers(2, 50))
        k = reference.diffusion_matrix(reference.kernel(rng.normal(size=(n, 3)), 10 ** rng.uniform(-1, 1)))
        eigenvalues = np.linalg.eigvalsh(k)[::-1]
        first = np.linalg.eigh(k)[1][:, -1]
        m = int(rng.integers(1, n + 1))
        basis = np.linalg.qr(np.column_stack([first, rng.normal(size=(n, m - 1))]))[0]
        ritz = np.linalg.eigvalsh(basis.T @ k @ basis)
        t = rng.choice([2, 2.5, 3, 7])
        exact = reference.shannon(eigenvalues**t)
        low, high = compressed_interval(ritz, float((k * k).sum()), n, t)
        assert low - 1e-10 <= exact <= high + 1e-10

        t = rng.choice([1, 1.2, 2, 2.5, 5])
        exact = reference.shannon(np.abs(eigenvalues) ** t)
        rest = np.abs(eigenvalues[m:])
        tail = Tail(n - m, (rest.sum(), rest.sum()), ((rest**2).sum(), (rest**2).sum()))
        low, high = tail_interval(np.abs(eigenvalues[:m]), tail, t)
        assert low - 1e-10 <= exact <= high + 1e-10

        # Eigenvalues that are moved are still within the interval of those that they were.
        moved = np.clip(np.abs(eigenvalues) + 1e-4 * rng.normal(size=n), 0, 1)
        distance = float(np.abs(moved - np.abs(eigenvalues)).sum())
        low, high = widened((exact, exact), np.abs(eigenvalues), t, distance, n)
        assert low - 1e-10 <= reference.shannon(moved**t) <= high + 1e-10


def test_stochastic_intervals():
    """With a probability of 99 % each: of 200 intervals, most hold and none is far off; a seed gives one answer."""
    rng = np.random.default_rng(3)
    misses, widths = 0, []
    for i in range(40):
        x, sigma = random_problem(rng, 600)
        times = [1, 1.3, 2, 3, 6]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", entropic.ConvergenceWarning)
            options = {"sigma": sigma, "t": times, "tol": 1e-5}
            found = entropic.diffusion_spectral_entropy(x, method="lanczos", rng=i, **options)
            again = entropic.diffusion_spectral_entropy(x, method="lanczos", rng=i, **options)
        exact = entropic.diffusion_spectral_entropy(x, method="dense", sigma=sigma, t=times).value
        np.testing.assert_array_equal(found.value, again.value)
        reach = found.upper - found.lower
        misses += int(((exact < found.lower - 1e-11) | (exact > found.upper + 1e-11)).sum())
        assert (np.abs(found.value - exact) <= reach + 1e-9).all()
        widths.append(reach.max())
    assert misses <= 4
    assert np.median(widths) < 0.02


def test_automatic_method(rng):
    x = rng.normal(size=(1500, 10))
    easy = entropic.diffusion_spectral_entropy(x, sigma=5.0, t=2)
    assert easy.method == "certified"
    assert easy.upper - easy.lower <= 0.01
    hard = entropic.diffusion_spectral_entropy(x, sigma=1.5, t=1, tol=0.05)
    assert hard.method == "lanczos"
    assert entropic.diffusion_spectral_entropy(x[:1000], sigma=1.5).method == "dense"
    assert entropic.diffusion_spectral_entropy(x, sigma=5.0, t=[0.5, 2]).method == "dense"
    for result in (easy, hard):
        exact = dse(x, sigma=result.sigma, t=result.t, method="dense")
        assert result.lower <= exact <= result.upper
    with pytest.warns(entropic.ConvergenceWarning, match="diffusion_spectral_entropy: the interval is .* wide"):
        open_ = entropic.diffusion_spectral_entropy(x, sigma=1.5, t=1, method="certified", tol=1e-6)
    assert not open_.converged
    assert "eigenvalues" not in repr(open_)


def test_intervals_of_indefinite_kernels(rng):
    """|x| and x log |x| are not smooth at 0, where such spectra lie: quadratures converge slowly, and say so."""
    for i in range(6):
        points = rng.normal(size=(600, 3))
        random = rng.random((300, 300)) ** 8
        for x, options in ((points, {"kernel": "knn", "k": 5}), (random + random.T, {"kernel": "precomputed"})):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", entropic.ConvergenceWarning)
                found = entropic.diffusion_spectral_entropy(x, method="lanczos", rng=i, **options)
            assert found.lower - 1e-10 <= dse(x, method="dense", **options) <= found.upper + 1e-10
            assert found.upper - found.lower < 0.2
    exact = entropic.diffusion_spectral_entropy(x, method="dense", kernel="precomputed").eigenvalues
    assert len(found.eigenvalues) >= 1
    for value in found.eigenvalues:  # with their signs
        assert np.abs(exact - value).min() < 1e-6


@pytest.mark.parametrize("method", ["certified", "lanczos"])
def test_large_times(method, rng):
    for n, sigma in ((300, 0.3), (300, 1.0), (700, 0.3)):
        x = rng.normal(size=(n, 5))
        for t in (50, 250, 1000, 1e6):
            exact = dse(x, sigma=sigma, t=t, method="dense")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", entropic.ConvergenceWarning)
                found = entropic.diffusion_spectral_entropy(x, sigma=sigma, t=t, method=method)
            assert 0 <= found.lower <= exact + 1e-9
            assert exact - 1e-9 <= found.upper <= math.log2(n) + 1e-9
    apart = np.repeat([[0.0], [100.0], [200.0], [350.0]], 50, axis=0)  # four eigenvalues 1
    for t in (1e4, 1e9, 1e16):
        assert dse(apart, sigma=1.0, t=t, method="dense") == pytest.approx(2, abs=1e-9)
        found = entropic.diffusion_spectral_entropy(apart, sigma=1.0, t=t, method="certified", tol=100)
        assert found.lower <= 2 <= found.upper


def test_tight_intervals_of_points_on_a_line():
    """Where a block has little left, rounding must not come back into the basis: it cost these intervals 1e-6."""
    for seed in (52, 215, 225):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(int(rng.integers(64, 300)), 1))
        sigma = 10 ** rng.uniform(-1.5, 1.5)
        for alpha in (0.5, 1.0):
            options = {"sigma": sigma, "alpha": alpha, "t": [1, 1.5, 2, 3, 10]}
            found = entropic.diffusion_spectral_entropy(x, method="certified", tol=1e-9, **options)
            exact = entropic.diffusion_spectral_entropy(x, method="dense", **options).value
            assert (found.lower - 1e-12 <= exact).all()
            assert (exact <= found.upper + 1e-12).all()
            assert (found.lower <= found.upper).all()


def test_times_below_one():
    """Eigenvalues below rounding count as 0, and the upper bound holds what they may be."""
    assert dse(np.ones((50, 3)), sigma=1.0) == pytest.approx(0, abs=1e-12)
    y = np.random.default_rng(0).normal(size=(10, 2))
    with pytest.warns(entropic.ConvergenceWarning, match="for t < 1 eigenvalues that rounding hides may count"):
        same = entropic.diffusion_spectral_entropy(np.ones((100, 3)), sigma=1.0, t=0.1)
    assert same.value == same.lower == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", entropic.ConvergenceWarning)
        repeated = entropic.diffusion_spectral_entropy(np.repeat(y, 10, axis=0), sigma=0.5, t=0.1)
        line = entropic.diffusion_spectral_entropy(np.linspace(0, 1, 30), sigma=1.0, t=[0.05, 0.1, 0.2])
    assert repeated.value == pytest.approx(dse(y, sigma=0.5, t=0.1), abs=1e-9)
    exact = np.array([reference.diffusion_entropy_of_line(30, t) for t in (0.05, 0.1, 0.2)])
    assert (line.lower <= exact).all()
    assert (exact <= line.upper).all()


def test_far_points_and_scales(rng):
    """One point far away costs the others no digits, and neither do the ends of the range."""
    x = 1e-3 * rng.normal(size=(50, 1))
    far = np.append(x, [[1e14]], axis=0)
    alone = entropic.diffusion_spectral_entropy(x, sigma=1e-3).eigenvalues
    expected = reference.shannon(np.append(alone, 1.0)) / LN2
    assert dse(far, sigma=1e-3) == pytest.approx(expected, abs=1e-10)
    assert entropic.diffusion_spectrum(far, 3, sigma=1e-3).eigenvalues[2] == pytest.approx(alone[1], abs=1e-10)
    width = entropic.diffusion_spectral_entropy(far, sigma="median").sigma
    pairs = np.abs(far - far.T)[np.triu_indices(51, 1)]
    assert width == pytest.approx(math.sqrt(np.median(pairs**2) / 2), rel=1e-12)
    assert dse([-1.7e308, 0.0, 1.7e308], sigma=1.7e308) == pytest.approx(dse([-1.0, 0.0, 1.0], sigma=1.0), abs=1e-12)
    assert dse(np.arange(5) * 1e-315, sigma=1e-315) == pytest.approx(dse(np.arange(5.0), sigma=1.0), abs=1e-7)
    a = rng.random((100, 100))
    a = a + a.T
    for scale in (1e-300, 1e-160, 1e160, 1e305):
        for method in ("dense", "certified"):
            options = {"kernel": "precomputed", "t": [1.5, 2], "method": method, "alpha": 0.5, "tol": 10}
            plain = entropic.diffusion_spectral_entropy(a, **options)
            np.testing.assert_allclose(
                entropic.diffusion_spectral_entropy(a * scale, **options).value, plain.value, rtol=1e-7
            )
    parts = np.zeros((200, 200))
    parts[:100, :100], parts[100:, 100:] = a, a * 1e-170
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", entropic.ConvergenceWarning)
        found = entropic.diffusion_spectral_entropy(parts, kernel="precomputed", t=2, method="certified")
    assert found.lower <= dse(parts, kernel="precomputed", t=2, method="dense") <= found.upper


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_the_answer(threads, rng):
    x = rng.normal(size=(5000, 4))  # too many points to keep the matrix: all products are the package's own
    with entropic.num_threads(1):
        alone = entropic.diffusion_spectrum(x, 3, sigma=3.0).eigenvalues
    with entropic.num_threads(threads):
        np.testing.assert_allclose(entropic.diffusion_spectrum(x, 3, sigma=3.0).eigenvalues, alone, rtol=1e-14)


# ---- diffusion: information and maps ---------------------------------------------------------------------------------


def test_published_information(rng):
    x = clusters(rng, 300, 5)
    labels = np.array(["a", "b", "c"])[rng.integers(0, 3, 300)]
    expected = reference.published_information(x, labels, sigma=2.0, seed=7)
    options = {"sigma": 2.0, "rng": np.random.default_rng(7)}
    result = entropic.diffusion_spectral_mutual_information(x, labels, **options)
    assert float(result) == pytest.approx(expected, abs=1e-9)
    assert result.method == "dense"
    same = entropic.diffusion_spectral_mutual_information(x, labels, sigma=2.0, rng=7)
    assert float(same) == float(result)


def test_information_of_labels_signals_and_vectors(rng):
    y = np.arange(240) % 4
    x = 100 * np.eye(4)[y] + 1e-3 * rng.normal(size=(240, 4))
    assert float(entropic.diffusion_spectral_mutual_information(x, y)) == pytest.approx(2, abs=0.05)
    assert float(entropic.diffusion_spectral_mutual_information(x, y, t=[1, 2]).value[1]) == pytest.approx(2, abs=0.05)
    assert float(entropic.diffusion_spectral_mutual_information(x, np.zeros(240, int))) == pytest.approx(0, abs=1e-9)
    assert abs(float(entropic.diffusion_spectral_mutual_information(x, rng.permutation(y)))) < 0.1
    signal = y + 0.1 * rng.random(240)
    by_bins = float(entropic.diffusion_spectral_mutual_information(x, signal, n_bins=4))
    assert by_bins == pytest.approx(2, abs=0.05)
    edges = np.digitize(signal, np.linspace(signal.min(), signal.max(), 5)[1:-1])
    by_labels = float(entropic.diffusion_spectral_mutual_information(x, edges))
    assert by_bins == by_labels
    pytest.importorskip("sklearn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn's: the graph has four components
        by_clusters = entropic.diffusion_spectral_mutual_information(x, x, n_bins=4)
    assert float(by_clusters) == pytest.approx(2, abs=0.05)


def test_information_of_large_classes(rng):
    """Classes of more than 256 points are bounded: the interval of the sum holds the dense answer."""
    x = clusters(rng, 1200, 8)
    y = (x[:, 0] > 0).astype(int)
    dense = entropic.diffusion_spectral_mutual_information(x, y, sigma=6.0, t=2, method="dense", rng=1)
    bounded = entropic.diffusion_spectral_mutual_information(x, y, sigma=6.0, t=2, method="certified", rng=1)
    assert bounded.method == "certified"
    assert bounded.lower <= float(dense) <= bounded.upper
    assert bounded.upper - bounded.lower <= 0.02


def test_sampled_information():
    """The interval of entropies that are sampled together holds the sum of the dense ones."""
    rng = np.random.default_rng(8)
    misses, errors = 0, []
    for i in range(25):
        n, d = 900, int(rng.integers(1, 20))
        x = clusters(rng, n, d) if i % 2 else rng.normal(size=(n, d))
        y = np.digitize(x[:, 0], np.quantile(x[:, 0], [0.3, 0.6]))
        options = {"sigma": math.sqrt(d) * 10 ** rng.uniform(-0.8, 0.7), "t": [0, 1, 2, 5], "n_repeats": 2, "rng": i}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", entropic.ConvergenceWarning)
            found = entropic.diffusion_spectral_mutual_information(x, y, **options)
        again = entropic.diffusion_spectral_mutual_information(x, y, method="lanczos", tol=10, **options)
        exact = entropic.diffusion_spectral_mutual_information(x, y, method="dense", **options).value
        assert (found.method in ("lanczos", "dense"), again.method) == (True, "lanczos")
        assert (np.abs(again.value - exact) <= again.upper - again.lower).all()
        reach = (found.upper - found.lower) / 2
        misses += int((np.abs(found.value - exact) > reach).sum())
        assert (np.abs(found.value - exact) <= 2 * reach).all()
        errors.append(np.abs(found.value - exact).max())
        assert found.value[0] == pytest.approx(0, abs=1e-12)
    assert misses <= 2
    assert max(errors) > 1e-9  # some are sampled
    assert np.median(errors) < 0.01


def test_sampled_information_is_reproducible(rng):
    x, y = rng.normal(size=(700, 3)), np.arange(700) % 2

    def information(**options):
        return entropic.diffusion_spectral_mutual_information(x, y, sigma=1.0, t=2, **options)

    first = information(tol=0.1)
    assert first.method == "lanczos"
    with entropic.num_threads(1):
        assert information(tol=0.1).value == first.value
    assert information(tol=0.1, rng=1).value != first.value
    exact = information(tol=1e-4)  # which probes would not do for
    assert exact.method == "dense"
    assert first.lower <= exact.value <= first.upper
    with pytest.warns(entropic.ConvergenceWarning, match="diffusion_spectral_mutual_information: the interval"):
        assert not information(tol=1e-4, method="lanczos").converged


def test_bins_of_integers(rng):
    """Equal widths put integers where they belong, and equal signals in one bin, at any scale."""
    x = rng.normal(size=(202, 2))
    signal = np.repeat(np.arange(101), 2)
    labels = np.minimum(signal, 99)
    options = {"sigma": 1.0, "n_repeats": 1}
    for scale in (1.0, 2.0**-1000, 2.0**1000):
        by_bins = entropic.diffusion_spectral_mutual_information(x, signal * scale, n_bins=100, **options)
        assert by_bins.value == entropic.diffusion_spectral_mutual_information(x, labels, **options).value
    tiny = np.where(labels > 50, 5e-324, 0.0)
    by_bins = entropic.diffusion_spectral_mutual_information(x, tiny, n_bins=2, **options)
    assert by_bins.value == entropic.diffusion_spectral_mutual_information(x, labels > 50, **options).value


def test_diffusion_spectrum_of_repeated_eigenvalues(rng):
    """More copies than a block has vectors, nearly equal ones, and -1 beside 1."""
    for n, count, gap in ((1000, 100, 12.0), (500, 40, 12.0), (500, 20, 6.0), (500, 3, 7.0), (60, 10, 6.4)):
        x = 0.1 * rng.normal(size=(n, 1)) + gap * (np.arange(n) % count)[:, None]
        found = entropic.diffusion_spectrum(x, count, sigma=1.0)
        walk = reference.kernel(x, 1.0)
        walk /= walk.sum(axis=1, keepdims=True)
        assert found.converged
        np.testing.assert_allclose(found.eigenvalues, np.sort(np.linalg.eigvals(walk).real)[::-1][:count], atol=1e-9)
        np.testing.assert_allclose(walk @ found.vectors, found.vectors * found.eigenvalues, atol=1e-6)
        products = found.vectors.T @ (found.vectors * found.stationary[:, None])
        np.testing.assert_allclose(products, np.eye(count), atol=1e-10)
        np.testing.assert_allclose(found.vectors[:, 0], 1, rtol=1e-9)
    for n in (6, 100, 400):
        graph = np.roll(np.eye(n), 1, axis=1)  # a ring, or a star
        if n == 400:
            graph[:] = 0
            graph[0, 1:] = 1
        found = entropic.diffusion_spectrum(graph + graph.T, 3, kernel="precomputed")
        assert found.eigenvalues[:2] == pytest.approx([1, -1], abs=1e-9)
        np.testing.assert_allclose(found.vectors[:, 0], 1, rtol=1e-9)
        assert np.ptp(np.abs(found.embedding()[:, 0])) < 1e-6


@pytest.mark.parametrize("kernel", ["gaussian", "adaptive", "knn"])
def test_diffusion_spectrum(kernel, rng):
    x = clusters(rng, 700, 3)
    found = entropic.diffusion_spectrum(x, 6, kernel=kernel, sigma=2.0, k=12)
    affinity = {
        "gaussian": lambda: reference.kernel(x, 2.0),
        "adaptive": lambda: reference.adaptive_affinity(x, 12),
        "knn": lambda: reference.knn_affinity(x, 12),
    }[kernel]()
    walk = affinity / affinity.sum(axis=1, keepdims=True)
    values = np.linalg.eigvalsh(reference.diffusion_matrix(affinity))
    expected = values[np.argsort(-np.abs(values))][:6]
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-10)
    np.testing.assert_allclose(walk @ found.vectors, found.vectors * found.eigenvalues, atol=1e-6)
    np.testing.assert_allclose((found.stationary[:, None] * found.vectors**2).sum(axis=0), 1, rtol=1e-9)
    np.testing.assert_allclose(found.vectors[:, 0], found.vectors[0, 0], rtol=1e-6)
    assert found.converged
    assert (found.residuals <= 1e-8).all()
    np.testing.assert_allclose(found.embedding(2), found.vectors[:, 1:] * found.eigenvalues[1:] ** 2)


# ---- covariances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 7), (7, 50), (20, 20), (1, 5), (5, 1)])
@pytest.mark.parametrize("order", [0.5, 1, 1.01, 2, 3.7, 40, math.inf])
def test_matrix_entropy(shape, order, rng):
    x = rng.normal(size=shape) + 0.5
    for center in (True, False):
        for normalize in (True, False):
            if shape[0] == 1 and center:
                assert entropic.matrix_entropy(x, order=order, center=center, normalize=normalize) == 0
                continue
            sides = [reference.matrix_entropy(x, order, center, normalize, s) for s in ("covariance", "singular")]
            value = entropic.matrix_entropy(x, order=order, center=center, normalize=normalize)
            assert value == pytest.approx(sides[1], abs=2e-7 if order < 1 else 1e-10)
            if order >= 1:
                assert value == pytest.approx(sides[0], abs=1e-10)
    in_bits = entropic.matrix_entropy(x, order=order, base=2)
    assert in_bits == pytest.approx(entropic.matrix_entropy(x, order=order) / LN2, abs=1e-12)


def test_other_measures(rng):
    x = rng.normal(size=(60, 9)) @ rng.normal(size=(9, 9))
    singular = np.linalg.svd(x, compute_uv=False)
    assert entropic.effective_rank(x) == pytest.approx(reference.effective_rank(x, 1), rel=1e-10)
    assert entropic.effective_rank(x, power=2) == pytest.approx(reference.effective_rank(x, 2), rel=1e-10)
    assert entropic.effective_rank(x.T) == pytest.approx(entropic.effective_rank(x), rel=1e-10)
    for k in (1, 3, 9, 50):
        assert entropic.truncated_matrix_entropy(x, k) == pytest.approx(reference.truncated_entropy(x, k), abs=1e-11)
    assert entropic.truncated_matrix_entropy(x, 9) == pytest.approx(entropic.matrix_entropy(x), abs=1e-11)
    own = np.linalg.eigvalsh(np.cov(x.T))
    assert entropic.participation_ratio(x) == pytest.approx(own.sum() ** 2 / (own**2).sum(), rel=1e-11)
    assert entropic.stable_rank(x) == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-11)
    slope = np.polyfit(np.log(np.arange(1, 10)), np.log(own[::-1]), 1)[0]
    assert entropic.spectral_decay(x) == pytest.approx(slope, rel=1e-9)
    slope = np.polyfit(np.log(np.arange(1, 5)), np.log(own[::-1][:4]), 1)[0]
    assert entropic.spectral_decay(x, count=4) == pytest.approx(slope, rel=1e-9)
    rho = x.T @ x
    rho /= np.trace(rho)
    assert entropic.von_neumann_entropy(rho) == pytest.approx(reference.shannon(singular**2), abs=1e-11)
    assert entropic.von_neumann_entropy(rho, order=2) == pytest.approx(-math.log((rho**2).sum()), abs=1e-11)


def test_ranks_of_orthonormal_rows(rng):
    rows = np.linalg.qr(rng.normal(size=(30, 12)))[0].T
    assert entropic.effective_rank(rows) == pytest.approx(12, rel=1e-12)
    assert entropic.stable_rank(rows) == pytest.approx(12, rel=1e-12)
    assert entropic.participation_ratio(rows, center=False) == pytest.approx(12, rel=1e-12)
    assert entropic.matrix_entropy(rows, center=False) == pytest.approx(math.log(12), abs=1e-12)
    assert entropic.matrix_entropy(rows, center=False, order=math.inf) == pytest.approx(math.log(12), abs=1e-12)
    assert entropic.coding_rate(rows, eps=0.1) == pytest.approx(6 * math.log1p(30 / (12 * 0.01)), rel=1e-12)


def test_batches_and_degenerate_rows(rng):
    x = rng.normal(size=(2, 3, 40, 6))
    for f in (
        entropic.matrix_entropy,
        entropic.effective_rank,
        entropic.participation_ratio,
        entropic.stable_rank,
        entropic.spectral_decay,
        entropic.coding_rate,
    ):
        values = f(x)
        assert values.shape == (2, 3)
        assert values[1, 2] == pytest.approx(f(x[1, 2]), rel=1e-12)
        np.testing.assert_allclose(f(x.astype(np.float32)), values, rtol=2e-5)
    same = np.ones((5, 3))
    zeros = np.zeros((5, 3))
    assert entropic.matrix_entropy(same) == 0
    assert entropic.matrix_entropy(same, center=False) == pytest.approx(0, abs=1e-12)
    assert (entropic.matrix_entropy(zeros), entropic.effective_rank(zeros), entropic.stable_rank(zeros)) == (0, 0, 0)
    assert entropic.participation_ratio(same) == 0
    some = np.vstack([x[0, 0], zeros[:, [0, 0, 0, 1, 1, 1]]])
    one_by_one = entropic.matrix_entropy(some, center=False)
    assert one_by_one == pytest.approx(entropic.matrix_entropy(x[0, 0], center=False), abs=1e-12)
    for scale in (1e-200, 1e200):
        assert entropic.matrix_entropy(x[0, 0] * scale) == pytest.approx(entropic.matrix_entropy(x[0, 0]), abs=1e-12)


def test_many_float32_rows(rng):
    """Sums over 50,000 float32 rows, beside the same in float64."""
    x = rng.normal(size=(50_000, 20)).astype(np.float32) + np.float32(3)
    exact = reference.matrix_entropy(x.astype(float), center=False)
    assert entropic.matrix_entropy(x, center=False) == pytest.approx(exact, abs=2e-6)
    exact = reference.matrix_entropy(x.astype(float))
    assert entropic.matrix_entropy(x) == pytest.approx(exact, abs=2e-6)


def test_small_eigenvalues_of_float32_rows(rng):
    """Where roots of eigenvalues or their logarithms count, float32 rows are multiplied in float64."""
    x = np.outer(np.arange(1.0, 2001), np.arange(1.0, 65)).astype(np.float32)  # of rank 1, exactly
    assert entropic.effective_rank(x) == pytest.approx(1, abs=1e-4)
    assert entropic.matrix_entropy(x, order=0.5, center=False, normalize=False) == pytest.approx(0, abs=1e-4)
    y = (rng.normal(size=(2000, 10)) @ rng.normal(size=(10, 512))).astype(np.float32)
    singular = np.linalg.svd(y.astype(np.float64), compute_uv=False)
    assert entropic.effective_rank(y) == pytest.approx(math.exp(reference.shannon(singular)), rel=2e-5)
    z = (rng.normal(size=(1000, 64)) + 1e6).astype(np.float32)
    for measure in (entropic.participation_ratio, entropic.matrix_entropy):
        assert measure(z) == pytest.approx(measure(z.astype(np.float64)), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_measures_do_not_depend_on_the_scale(dtype, rng):
    """At the ends of the range, and for one matrix of a batch."""
    x = rng.normal(size=(6, 4))
    for wide in (x, x.T):
        for scale in (1e-37, 1e-20, 1e20, 1e36) if dtype is np.float32 else (1e-300, 1e-150, 1e150, 1e306):
            batch = np.stack([wide, wide * scale]).astype(dtype)
            for measure, options in (
                (entropic.matrix_entropy, {}), (entropic.matrix_entropy, {"normalize": False, "order": 2}),
                (entropic.effective_rank, {}), (entropic.effective_rank, {"power": 500}),
                (entropic.participation_ratio, {}), (entropic.stable_rank, {}), (entropic.spectral_decay, {"count": 3}),
            ):  # fmt: skip
                plain, scaled = measure(batch, **options)
                assert scaled == pytest.approx(plain, rel=1e-5 if dtype is np.float32 else 1e-12)
                alone = measure(batch[1], **options)  # multiplied by BLAS, of float32 in float32
                assert alone == pytest.approx(scaled, rel=1e-6 if dtype is np.float32 else 1e-12)
            size = float(np.abs(batch[1, 0, 0] / batch[0, 0, 0]))
            rate = entropic.coding_rate(batch[1], eps=0.5 * size)
            assert rate == pytest.approx(entropic.coding_rate(batch[0], eps=0.5), rel=1e-4)
    grad = entropic.vjp(entropic.participation_ratio, x * 2.0**-600)[1](1.0)[0]
    np.testing.assert_allclose(
        np.ldexp(grad, -600), entropic.vjp(entropic.participation_ratio, x)[1](1.0)[0], rtol=1e-9
    )
    tiny = np.array([[1e-40, 0], [0, 1]], np.float32)
    assert entropic.matrix_entropy(tiny, center=False) == pytest.approx(math.log(2), rel=1e-6)
    for eps, expected in ((1e-200, 2 * math.log(2e200)), (1e160, 0.0)):
        assert entropic.coding_rate(2 * np.eye(2), eps=eps) == pytest.approx(expected, abs=1e-12)


def test_nothing_but_rounding_counts_as_nothing(rng):
    for n in (2, 3, 6, 10, 1000):
        for same in (np.full((n, 3), 0.1), np.full((n, 3), 0.1, np.float32)):
            assert entropic.participation_ratio(same) == 0
            assert entropic.spectral_decay(same) == -math.inf
    assert entropic.spectral_decay(np.diag([1.0, 0, 0, 0]), center=False) == -math.inf
    stream = entropic.CovarianceStream(3, center=True)
    for _ in range(3):
        stream.update(np.full((7, 3), 0.1))
    stream.update(np.zeros((0, 3)))
    assert (entropic.participation_ratio(stream), stream.count) == (0, 21)
    # orders below 1 make much of small numbers
    assert entropic.von_neumann_entropy(np.full((100, 100), 0.01), order=0.1) == 0
    assert entropic.matrix_entropy(np.ones((100, 100)), order=0.1, center=False) == 0
    assert entropic.matrix_renyi_entropy(np.ones(100), sigma=1.0, order=0.1) == 0
    for pure in (np.outer([0.6, 0.8], [0.6, 0.8]), np.diag([1.0, 0.0]), np.full((2, 2), 0.5)):
        for order in (0.5, 1):
            grad = entropic.vjp(entropic.von_neumann_entropy, pure, order=order)[1](1.0)[0]
            assert np.abs(grad).max() < 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plane = np.diag([1.0, 1, 0])
        assert entropic.matrix_entropy(plane, order=2000, center=False) == pytest.approx(math.log(2), rel=1e-12)
    x = np.diag([3.0, 2, 1])
    grads = [
        entropic.vjp(entropic.matrix_entropy, x, order=o, center=False, normalize=False)[1](1.0)[0]
        for o in (1e13, 1e16, 1.7e308, math.inf)
    ]
    for grad in grads[:-1]:
        np.testing.assert_allclose(grad, grads[-1], atol=1e-12)
    assert entropic.coding_rate_reduction(rng.normal(size=(30, 4)), np.full((30, 2), 0.5)) == 0


def test_covariance_stream(rng):
    x = rng.normal(size=(1000, 5)) @ rng.normal(size=(5, 5)) + 1e6
    stream, other = entropic.CovarianceStream(5, center=True), entropic.CovarianceStream(5, center=True)
    for part in np.array_split(x[:700], 9):
        stream.update(part)
    other.update(x[700:])
    stream.merge(other)
    assert stream.count == 1000
    np.testing.assert_allclose(stream.matrix(), np.cov(x.T, bias=True), rtol=1e-9)
    assert entropic.matrix_entropy(stream) == pytest.approx(entropic.matrix_entropy(x, normalize=False), abs=1e-9)
    assert entropic.participation_ratio(stream) == pytest.approx(entropic.participation_ratio(x), rel=1e-9)
    unit = entropic.CovarianceStream(5, normalize=True, mean=x.mean(axis=0))
    for part in np.array_split(x, 4):
        unit.update(part)
    assert entropic.matrix_entropy(unit) == pytest.approx(entropic.matrix_entropy(x), abs=1e-9)
    plain = entropic.CovarianceStream(5)
    plain.update(x)
    assert entropic.effective_rank(plain) == pytest.approx(entropic.effective_rank(x), rel=1e-6)


def test_coding_rates(rng):
    z = rng.normal(size=(60, 8))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    labels = rng.integers(0, 3, 60)
    soft = rng.dirichlet(np.ones(4), 60)
    for eps in (0.1, 0.5, 2.0):
        assert entropic.coding_rate(z, eps=eps) == pytest.approx(reference.coding_rate(z, eps), rel=1e-11)
        assert entropic.coding_rate(z.T, eps=eps) == pytest.approx(reference.coding_rate(z.T, eps), rel=1e-11)
        for given_, weights in ((labels, np.eye(3)[labels]), (soft, soft)):
            within = reference.coding_rate_of_classes(z, eps, weights)
            assert entropic.coding_rate(z, eps=eps, labels=given_) == pytest.approx(within, rel=1e-11)
            reduction = entropic.coding_rate_reduction(z, given_, eps=eps)
            assert reduction == pytest.approx(reference.coding_rate(z, eps) - within, rel=1e-9)
    words = np.array(["p", "q", "r"])[labels]
    assert entropic.coding_rate_reduction(z, words) == entropic.coding_rate_reduction(z, labels)


# ---- kernel matrices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0.5, 1, 1.01, 2, 5])
def test_matrix_renyi(order, rng):
    x, y, z = rng.normal(size=(60, 3)), rng.normal(size=(60, 1)), rng.normal(size=60)
    kernels = [reference.kernel(v.reshape(60, -1), s) for v, s in ((x, 1.0), (y, 0.5), (z, 2.0))]
    for count in (1, 2, 3):
        value = entropic.matrix_renyi_entropy(*(x, y, z)[:count], sigma=[1.0, 0.5, 2.0][:count], order=order)
        expected = reference.matrix_renyi_entropy(kernels[:count], order)
        assert value == pytest.approx(expected, abs=1e-6 if order < 1 else 1e-10)
        by_kernel = entropic.matrix_renyi_entropy(*kernels[:count], kernel="precomputed", order=order)
        assert by_kernel == pytest.approx(expected, abs=1e-6 if order < 1 else 1e-10)
    value = entropic.matrix_mutual_information(x, y, sigma=[1.0, 0.5], order=order)
    expected = reference.matrix_mutual_information(*kernels[:2], order)
    assert value == pytest.approx(expected, abs=1e-6 if order < 1 else 1e-10)


def test_matrix_renyi_of_given_kernels():
    """Entries may be negative; eigenvalues that are count as 0 at order 2 too."""
    indefinite = np.array([[1, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1.0]])
    around = [entropic.matrix_renyi_entropy(indefinite, kernel="precomputed", order=o) for o in (2 - 1e-7, 2, 2 + 1e-7)]
    assert around[1] == pytest.approx((around[0] + around[2]) / 2, abs=1e-12)
    correlated = np.array([[1, -0.5], [-0.5, 1]])
    value = entropic.matrix_renyi_entropy(correlated, kernel="precomputed", order=1)
    assert value == pytest.approx(reference.shannon(np.array([0.25, 0.75])) / LN2, rel=1e-12)
    assert math.copysign(1, entropic.matrix_renyi_entropy([1.0], sigma=1.0)) == 1


def test_matrix_renyi_limits(rng):
    assert entropic.matrix_renyi_entropy(1e3 * np.arange(16), sigma=1.0) == pytest.approx(4, abs=1e-10)
    assert entropic.matrix_renyi_entropy(np.ones(16), sigma=1.0) == pytest.approx(0, abs=1e-10)
    x, y = rng.normal(size=(2, 80))
    near = entropic.matrix_renyi_entropy(x, order=1 + 1e-9)
    assert near == pytest.approx(entropic.matrix_renyi_entropy(x, order=1), abs=1e-7)
    joint = entropic.matrix_renyi_entropy(x, y)
    assert joint >= max(entropic.matrix_renyi_entropy(x), entropic.matrix_renyi_entropy(y)) - 1e-10
    scaled = 3 * reference.kernel(x[:, None], 1.0)  # kernels of any diagonal
    assert entropic.matrix_renyi_entropy(scaled, kernel="precomputed") == pytest.approx(
        entropic.matrix_renyi_entropy(x, sigma=1.0), abs=1e-10
    )


# ---- kernel densities ------------------------------------------------------------------------------------------------


def test_cauchy_schwarz(rng):
    x, y = rng.normal(size=(70, 3)), rng.normal(size=(45, 3)) + 0.5
    for sigma in (0.2, 1.0, 5.0):
        for unbiased in (False, True):
            value = entropic.cauchy_schwarz_divergence(x, y, sigma=sigma, unbiased=unbiased)
            expected = reference.cauchy_schwarz_divergence(x, y, sigma, unbiased)
            assert value == pytest.approx(expected, abs=1e-10)
        a, b = x[:45], y
        value = entropic.cauchy_schwarz_mutual_information(a, b, sigma_x=sigma, sigma_y=0.7)
        assert value == pytest.approx(reference.cauchy_schwarz_mutual_information(a, b, sigma, 0.7), abs=1e-10)
        for name in ("squares", "square"):
            value = entropic.cauchy_schwarz_conditional(a, b, b[::-1], sigma_x=sigma, sigma_y=0.7, denominator=name)
            expected = reference.cauchy_schwarz_conditional(a, b, b[::-1], sigma, 0.7, name == "square")
            assert value == pytest.approx(expected, abs=1e-10)
    bits = entropic.cauchy_schwarz_divergence(x, y, sigma=1.0, base=2)
    assert bits == pytest.approx(entropic.cauchy_schwarz_divergence(x, y, sigma=1.0) / LN2, rel=1e-12)


def test_cauchy_schwarz_of_gaussians(rng):
    """delta' (S + s^2)^-1 delta / 2 for two Gaussians with the covariance S; each alone and far apart."""
    x, y = rng.normal(size=(3000, 2)), rng.normal(size=(2500, 2)) + np.array([1.5, 0])
    truth = 0.5 * 1.5**2 / (1 + 0.25)
    assert entropic.cauchy_schwarz_divergence(x, y, sigma=0.5, unbiased=True) == pytest.approx(truth, abs=0.1)
    assert entropic.cauchy_schwarz_divergence(x, x, sigma=0.5) == pytest.approx(0, abs=1e-12)
    for far in (1e2, 1e4, 1e8):
        value = entropic.cauchy_schwarz_divergence([[0.0]], [[far]], sigma=1.0)
        assert value == pytest.approx(far**2 / 2, rel=1e-12)
    alone = entropic.cauchy_schwarz_divergence(1e5 * np.arange(5.0), 1e5 * np.arange(5.0) + 1, sigma=1.0, unbiased=True)
    assert math.isfinite(alone)


def test_density_entropy(rng):
    x = rng.normal(size=(150, 3))
    for sigma in (0.05, 0.5, 3.0):
        for leave in (True, False):
            value = entropic.kde_entropy(x, sigma=sigma, leave_one_out=leave)
            assert value == pytest.approx(reference.kde_entropy(x, sigma, leave), rel=1e-11)
    # Others whose sum is far below the smallest number, and not alone: log-sums of what is left.
    far = np.array([0.0, 60.0, 60.5, 1e4])
    assert entropic.kde_entropy(far, sigma=1.0) == pytest.approx(reference.kde_entropy(far[:, None], 1.0), rel=1e-12)
    for sigma, apart in ((1e-140, 14.0), (1e-149, 10.0), (1e100, 1e70), (1e149, 1e3)):
        y = np.array([0, apart, 2.5 * apart])
        value = entropic.kde_entropy(y * sigma, sigma=sigma) - math.log(sigma)
        assert value == pytest.approx(entropic.kde_entropy(y, sigma=1.0), rel=1e-12)
    twice = np.repeat(x, 2, axis=0)
    assert entropic.kde_entropy(twice, sigma=1e-3) == pytest.approx(reference.kde_entropy(twice, 1e-3), rel=1e-11)


def test_mixture_bounds(rng):
    means = 2 * rng.normal(size=(40, 2))
    weights = rng.dirichlet(np.ones(40))
    for sigma in (0.3, 1.0, 10.0):
        low, high = entropic.mixture_entropy(means, sigma=sigma, weights=3 * weights)
        assert (low, high) == pytest.approx(reference.mixture_entropy(means, sigma, weights), rel=1e-11)
        samples = means[rng.choice(40, 20_000, p=weights)] + sigma * rng.normal(size=(20_000, 2))
        logs = -reference.squares(samples, means) / (2 * sigma**2) - math.log(2 * math.pi * sigma**2)
        estimate = -float(entropic.logsumexp(logs, axis=1, b=weights).mean())
        assert low - 0.03 <= estimate <= high + 0.03
    with_zero = entropic.mixture_entropy([0.0, 5.0, 99.0], sigma=1.0, weights=[1, 1, 0])
    assert with_zero == pytest.approx(entropic.mixture_entropy([0.0, 5.0], sigma=1.0), rel=1e-14)
    heavy = entropic.mixture_entropy([0.0, 5.0], sigma=1.0, weights=[1e308, 1e308])
    assert heavy == pytest.approx(entropic.mixture_entropy([0.0, 5.0], sigma=1.0), rel=1e-14)


def test_kernel_densities_far_from_the_origin():
    x, y, z = np.arange(6) * 2.0, np.array([0.0, 4, 2, 8, 6, 2]), np.array([1.0, 3, 2, 7, 6, 1])
    widths = {"sigma_x": 1.5, "sigma_y": 1.7}
    for offset in (1e12, 1e15):
        moved = [a + offset for a in (x, y, z)]
        assert entropic.cauchy_schwarz_mutual_information(*moved[:2], **widths) == pytest.approx(
            entropic.cauchy_schwarz_mutual_information(x, y, **widths), rel=1e-12
        )
        assert entropic.cauchy_schwarz_conditional(*moved, **widths) == pytest.approx(
            entropic.cauchy_schwarz_conditional(x, y, z, **widths), rel=1e-12
        )
    assert entropic.cauchy_schwarz_divergence([0.0], [1e170], sigma=1e100) == pytest.approx(5e139, rel=1e-12)


# ---- gradients -------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(5)
A, B, C = RNG.normal(size=(9, 4)), RNG.normal(size=(9, 2)), RNG.normal(size=(9, 2))
CLASSES, SOFT = np.arange(9) % 3, RNG.dirichlet(np.ones(3), 9)
GRADIENTS = [
    *[(entropic.matrix_entropy, (RNG.normal(size=(2, 5, 4)),), {"order": o}) for o in (0.5, 1, 1.01, 2, math.inf)],
    (entropic.matrix_entropy, (A,), {"center": False, "base": 2}),
    (entropic.matrix_entropy, (RNG.normal(size=(4, 7)),), {"normalize": False}),
    (entropic.effective_rank, (A,), {}),
    (entropic.effective_rank, (A.T.copy(),), {"power": 2}),
    (entropic.truncated_matrix_entropy, (A,), {"k": 2}),
    (entropic.participation_ratio, (A,), {}),
    (entropic.stable_rank, (A,), {}),
    (entropic.spectral_decay, (A,), {"count": 3}),
    (entropic.coding_rate, (A,), {}),
    (entropic.coding_rate, (A,), {"labels": CLASSES}),
    (entropic.coding_rate_reduction, (A,), {"labels": CLASSES, "base": 2}),
    (entropic.coding_rate_reduction, (A,), {"labels": SOFT}),
    *[(entropic.diffusion_spectral_entropy, (A,), {"sigma": 1.5, "t": [1, 2, 3.5], "alpha": a}) for a in (0, 0.5, 1)],
    *[(entropic.diffusion_spectral_entropy, (x,), {"sigma": "median", "alpha": 0.5}) for x in (A, A[:8])],
    (entropic.diffusion_spectral_mutual_information, (A,), {"y": CLASSES, "sigma": "median", "rng": 0}),
    (entropic.diffusion_spectral_entropy, (A,), {"kernel": "adaptive", "k": 3, "t": [0.5, 1, 2], "alpha": 0.5}),
    (entropic.diffusion_spectral_mutual_information, (A,), {"y": CLASSES, "kernel": "adaptive", "k": 1, "rng": 0}),
    (entropic.matrix_renyi_entropy, (A, B), {"sigma": ["median", 0.7]}),
    (entropic.matrix_mutual_information, (A, B), {}),
    (entropic.diffusion_spectral_entropy, (A,), {"sigma": 1.5, "base": None}),
    (entropic.diffusion_spectral_mutual_information, (A,), {"y": CLASSES, "sigma": 1.5, "rng": 0}),
    (entropic.matrix_renyi_entropy, (A, B), {"sigma": [1.0, 0.7]}),
    (entropic.matrix_renyi_entropy, (A,), {"sigma": 1.0, "order": 2}),
    (entropic.matrix_mutual_information, (A, B), {"sigma": 1.0, "order": 1}),
    (entropic.cauchy_schwarz_divergence, (B, C[:5]), {"sigma": 0.6}),
    (entropic.cauchy_schwarz_divergence, (30 * B, C[:5] + 100), {"sigma": 0.6, "unbiased": True}),
    (entropic.cauchy_schwarz_mutual_information, (A, B), {"sigma_x": 1.0, "sigma_y": 0.5}),
    (entropic.cauchy_schwarz_conditional, (A, B, C), {"sigma_x": 1.0, "sigma_y": 0.5}),
    (entropic.cauchy_schwarz_conditional, (A, B, C), {"sigma_x": 1.0, "sigma_y": 0.5, "denominator": "square"}),
    (entropic.kde_entropy, (A,), {"sigma": 0.5}),
    (entropic.kde_entropy, (100 * A,), {"sigma": 0.5, "base": 2}),
    (entropic.kde_entropy, (A,), {"sigma": 0.5, "leave_one_out": False}),
    (entropic.mixture_entropy, (A,), {"sigma": 0.5}),
    (entropic.mixture_entropy, (A,), {"sigma": 0.5, "weights": np.arange(9.0), "base": 2}),
]


@pytest.mark.parametrize(("func", "arrays", "options"), GRADIENTS)
def test_gradients(func, arrays, options, rng):
    def value_of(*given):
        return np.asarray(func(*given, **options), dtype=float)

    value, pullback = entropic.vjp(func, *arrays, **options)
    np.testing.assert_allclose(np.asarray(value, dtype=float), value_of(*arrays), rtol=1e-10)
    cotangent = rng.normal(size=np.shape(value))
    for i, (array, grad) in enumerate(zip(arrays, pullback(cotangent), strict=True)):
        expected = finite_difference(
            lambda x, i=i: value_of(*arrays[:i], x, *arrays[i + 1 :]), array, cotangent, step=1e-6
        )
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        assert grad.dtype == np.float64
        assert pullback(cotangent)[i].shape == array.shape


def test_gradient_of_a_density_matrix(rng):
    """-(log rho + 1) and what keeps the trace; repeated eigenvalues have one gradient, whatever their basis."""
    rho = np.diag([0.25, 0.25, 0.3, 0.2])
    value, pullback = entropic.vjp(entropic.von_neumann_entropy, rho)
    np.testing.assert_allclose(pullback(1.0)[0], np.diag(-np.log(np.diag(rho)) - value), atol=1e-12)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    turned = rotation @ rho @ rotation.T
    grad = entropic.vjp(entropic.von_neumann_entropy, (turned + turned.T) / 2)[1](1.0)[0]
    np.testing.assert_allclose(grad, rotation @ np.diag(-np.log(np.diag(rho)) - value) @ rotation.T, atol=1e-9)


def test_gradients_of_diffusion_eigenvalues(rng):
    for options in ({"sigma": 1.5, "alpha": 0.5}, {"sigma": "median"}, {"kernel": "adaptive", "k": 3}):
        value, pullback = entropic.vjp(entropic.diffusion_spectrum, A, 4, **options)
        np.testing.assert_array_equal(value, entropic.diffusion_spectrum(A, 4, **options).eigenvalues)
        cotangent = rng.normal(size=4)
        expected = finite_difference(
            lambda x, options=options: entropic.diffusion_spectrum(x, 4, **options).eigenvalues, A, cotangent, step=1e-6
        )
        np.testing.assert_allclose(pullback(cotangent)[0], expected, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(pullback([1.0, 0, 0, 0])[0], 0, atol=1e-14)  # the first is always 1
    corners = np.eye(5)  # whose other eigenvalues are equal: their mean has no preferred direction
    grad = entropic.vjp(entropic.diffusion_spectrum, corners, 5, sigma=1.0)[1]([0.0, 1, 0, 0, 0])[0]
    np.testing.assert_allclose(grad, grad[0, 1] + (grad[0, 0] - grad[0, 1]) * np.eye(5), atol=1e-12)
    affinity = reference.kernel(A, 1.0)
    plain = entropic.vjp(entropic.diffusion_spectral_entropy, affinity, kernel="precomputed")[1](1.0)[0]
    scaled = entropic.vjp(entropic.diffusion_spectral_entropy, affinity * 2.0**-500, kernel="precomputed")[1](1.0)[0]
    np.testing.assert_allclose(np.ldexp(scaled, -500), plain, rtol=1e-9)


def test_gradients_at_any_scale():
    for scale in (2.0**-600, 2.0**600):
        for func, options in (
            (entropic.diffusion_spectral_entropy, {"sigma": 1.5}), (entropic.matrix_renyi_entropy, {"sigma": 1.5}),
            (entropic.matrix_renyi_entropy, {}),
        ):  # fmt: skip
            plain = entropic.vjp(func, A, **options)[1](1.0)[0]
            scaled = {name: width * scale for name, width in options.items()}
            np.testing.assert_allclose(entropic.vjp(func, A * scale, **scaled)[1](1.0)[0] * scale, plain, rtol=1e-9)
    repeated = np.repeat(RNG.normal(size=(4, 2)), 2, axis=0)
    grad = entropic.vjp(entropic.diffusion_spectral_entropy, repeated, sigma=0.7, t=0.3)[1](1.0)[0]
    assert np.abs(grad).max() < 10  # 1e7 where what rounding leaves counts


def test_labels_by_place():
    value, pullback = entropic.vjp(entropic.truncated_matrix_entropy, A, 2)
    assert value == pytest.approx(entropic.truncated_matrix_entropy(A, 2), rel=1e-12)
    assert len(pullback(1.0)) == 1
    by_place = entropic.vjp(entropic.coding_rate_reduction, A, CLASSES)
    np.testing.assert_array_equal(
        by_place[1](1.0)[0], entropic.vjp(entropic.coding_rate_reduction, A, labels=CLASSES)[1](1.0)[0]
    )
    with pytest.raises(TypeError, match="truncated_matrix_entropy: missing a required argument: 'k'"):
        entropic.vjp(entropic.truncated_matrix_entropy, A)
    torch = pytest.importorskip("torch")
    from entropic import torch as differentiable

    x = torch.tensor(A, requires_grad=True)
    differentiable.coding_rate_reduction(x, torch.tensor(CLASSES)).backward()
    np.testing.assert_allclose(x.grad.numpy(), by_place[1](1.0)[0], rtol=1e-12)


def test_gradients_of_float32_and_precomputed(rng):
    x = rng.normal(size=(12, 3))
    grad = entropic.vjp(entropic.matrix_entropy, x.astype(np.float32))[1](1.0)[0]
    assert grad.dtype == np.float32
    np.testing.assert_allclose(grad, entropic.vjp(entropic.matrix_entropy, x)[1](1.0)[0], rtol=1e-4, atol=1e-6)
    g = reference.kernel(x, 1.0)
    options = {"kernel": "precomputed", "alpha": 0.5}
    grad = entropic.vjp(entropic.diffusion_spectral_entropy, g, **options)[1](1.0)[0]
    step = 1e-6 * rng.random((12, 12))
    step = step + step.T
    change = dse(g + step, **options) - dse(g - step, **options)
    assert (grad * step).sum() == pytest.approx(change / 2, rel=1e-5)


# ---- errors ----------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(20, 2))
ISOLATED = np.diag([1.0, 0.0, 1.0])
ERRORS = [
    (lambda: dse(X, sigma=0), ValueError, "diffusion_spectral_entropy: `sigma` must be positive and finite, got 0"),
    (lambda: dse(X, sigma=-1.0), ValueError, "`sigma` must be positive and finite, got -1.0"),
    (lambda: dse(X, sigma="mean"), ValueError, "`sigma` must be one of"),
    (lambda: dse(np.ones((4, 2)), sigma="median"), ValueError, 'sigma="median" is 0'),
    (lambda: dse(X[:1], sigma="median"), ValueError, 'sigma="median" needs at least two points'),
    (lambda: dse(X, t=-1), ValueError, "`t` must be finite and not negative"),
    (lambda: dse(X, t=math.nan), ValueError, "`t` must be finite and not negative"),
    (lambda: dse(X, t=0.5, method="certified"), ValueError, "`t` must be 0 or at least 1"),
    (lambda: dse(X, alpha=2), ValueError, "`alpha` must be between 0 and 1, got 2"),
    (lambda: dse(X, method="fast"), ValueError, "`method` must be one of"),
    (lambda: dse(X, kernel="laplace"), ValueError, "`kernel` must be one of"),
    (lambda: dse(X, kernel="knn", k=20), ValueError, "`k` must be at most 19"),
    (lambda: dse(np.ones((5, 1)), kernel="adaptive", k=2), ValueError, "5 points have 2 or more others at the same"),
    (lambda: dse(X, tol=0), ValueError, "`tol` must be positive"),
    (lambda: dse([[math.nan, 1.0]]), ValueError, "`x` must be finite"),
    (lambda: dse(np.zeros((0, 2))), ValueError, "`x` must have at least 1 samples, got 0"),
    (lambda: dse(X, kernel="precomputed"), ValueError, "`x` must be a square affinity matrix"),
    (lambda: dse(np.triu(np.ones((3, 3))), kernel="precomputed"), ValueError, "must be symmetric"),
    (lambda: dse(-np.ones((3, 3)), kernel="precomputed"), ValueError, "affinities must not be negative"),
    (lambda: dse(ISOLATED, kernel="precomputed"), ValueError, "1 points have no affinity to any point"),
    (lambda: dse(X + 1j), TypeError, "`x` must be real"),
    (lambda: entropic.diffusion_spectral_mutual_information(X, [1, 2]), ValueError, "`y` must have 20 rows"),
    (lambda: entropic.diffusion_spectral_mutual_information(X, np.arange(20), kernel="knn"), ValueError, "every class must have more"),
    (lambda: entropic.diffusion_spectral_mutual_information(X, X[:, 0], n_bins=0), ValueError, "`n_bins` must be at least 1"),
    (lambda: entropic.diffusion_spectral_mutual_information(X, np.arange(20) % 2, n_repeats=0), ValueError, "`n_repeats` must be at least 1"),
    (lambda: entropic.diffusion_spectrum(X, 21), ValueError, "`count` must be at most 20"),
    (lambda: entropic.matrix_entropy(X[0]), ValueError, r"matrix_entropy: `x` must have shape \(..., n, d\), got \(2,\)"),
    (lambda: entropic.matrix_entropy(X[:0]), ValueError, "matrix_entropy: `x` must have at least 1 rows"),
    (lambda: entropic.matrix_entropy(X * math.inf), ValueError, "matrix_entropy: `x` must be finite"),
    (lambda: entropic.matrix_entropy(X, order=0), ValueError, "matrix_entropy: `order` must be positive, got 0"),
    (lambda: entropic.matrix_entropy(X, center=1), TypeError, "matrix_entropy: `center` must be a boolean, got 1"),
    (lambda: entropic.von_neumann_entropy(X), ValueError, r"von_neumann_entropy: `rho` must have shape \(..., n, n\)"),
    (lambda: entropic.von_neumann_entropy([[0, 1], [0, 1]]), ValueError, "von_neumann_entropy: `rho` must be symmetric"),
    (lambda: entropic.von_neumann_entropy([[1, 0], [0, -1]]), ValueError, "`rho` must not have negative eigenvalues, got -1"),
    (lambda: entropic.effective_rank(X, power=0), ValueError, "effective_rank: `power` must be positive"),
    (lambda: entropic.effective_rank(X, power=math.inf), ValueError, "effective_rank: `power` must be positive and finite"),
    (lambda: entropic.truncated_matrix_entropy(X, 0), ValueError, "truncated_matrix_entropy: `k` must be at least 1"),
    (lambda: entropic.spectral_decay(X[:1]), ValueError, "spectral_decay: a slope needs at least two eigenvalues"),
    (lambda: entropic.coding_rate(X, eps=0), ValueError, "coding_rate: `eps` must be positive and finite"),
    (lambda: entropic.coding_rate(X, labels=[1, 2]), ValueError, "coding_rate: `labels` must have 20 rows"),
    (lambda: entropic.coding_rate(X, labels=X[:, 0]), TypeError, "coding_rate: labels must be integers, booleans or strings"),
    (lambda: entropic.coding_rate_reduction(X, X), ValueError, "coding_rate_reduction: memberships must not be negative"),
    (lambda: entropic.CovarianceStream(0), ValueError, "CovarianceStream: `d` must be at least 1"),
    (lambda: entropic.CovarianceStream(2, center=True, normalize=True), ValueError, "CovarianceStream: with `normalize` give the `mean`"),
    (lambda: entropic.CovarianceStream(3).update(X), ValueError, r"CovarianceStream.update: `x` must have shape \(n, 3\)"),
    (lambda: entropic.CovarianceStream(3).matrix(), ValueError, "no rows have come yet"),
    (lambda: entropic.CovarianceStream(3).merge(entropic.CovarianceStream(2)), ValueError, "the streams must be of the same kind"),
    (lambda: entropic.matrix_renyi_entropy(X, X[:5]), ValueError, "`variable 1` and `variable 2` must have as many samples"),
    (lambda: entropic.matrix_renyi_entropy(X, sigma=[1.0, 2.0]), ValueError, "matrix_renyi_entropy: `sigma` must be one width or 1, got 2"),
    (lambda: entropic.matrix_mutual_information(X, X, order=-1), ValueError, "matrix_mutual_information: `order` must be positive"),
    (lambda: entropic.matrix_renyi_entropy(ISOLATED, kernel="precomputed"), ValueError, "kernels must have a positive diagonal"),
    (lambda: entropic.cauchy_schwarz_divergence(X, X[:, :1], sigma=1.0), ValueError, "`x` and `y` must have the same dimension, got 2 and 1"),
    (lambda: entropic.cauchy_schwarz_divergence(X, X, sigma=0.0), ValueError, "cauchy_schwarz_divergence: `sigma` must be positive"),
    (lambda: entropic.cauchy_schwarz_divergence(X[:1], X, sigma=1.0, unbiased=True), ValueError, "`x` must have at least 2 samples"),
    (lambda: entropic.cauchy_schwarz_mutual_information(X, X[:5], sigma_x=1.0, sigma_y=1.0), ValueError, "`x` and `y` must have as many"),
    (lambda: entropic.cauchy_schwarz_conditional(X, X, X, sigma_x=1.0, sigma_y=1.0, denominator="sum"), ValueError, "`denominator` must be"),
    (lambda: entropic.kde_entropy(X[:1], sigma=1.0), ValueError, "kde_entropy: `x` must have at least 2 samples, got 1"),
    (lambda: entropic.mixture_entropy(X, sigma=1.0, weights=-np.ones(20)), ValueError, "mixture_entropy: `weights` must be 20 numbers"),
    (lambda: entropic.vjp(entropic.diffusion_spectral_entropy, X, kernel="knn"), TypeError, "kernel=.knn. is not supported"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
