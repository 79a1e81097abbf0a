"""The papers that nearest neighbours serve, each in the few lines that its reader would write.

Papers on kernel densities, Cauchy-Schwarz measures and mixtures belong to the spectral family's tests.
"""

import math

import numpy as np
import pytest
from reference import neighbors as reference
from reference.logits import finite_difference
from scipy.special import digamma, gammaln, ndtr

import entropic


def gaussian_entropy(covariance):
    covariance = np.atleast_2d(covariance)
    return 0.5 * np.linalg.slogdet(2 * math.pi * math.e * covariance)[1]


def plug_in_entropy(codes):
    """Of whatever rows occur, in nats."""
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    p = counts / counts.sum()
    return -float(np.sum(p * np.log(p)))


# ---- entropies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3, 4, 8])
def test_information_bottleneck_via_lossy_compression(d, rng):
    """Information Bottleneck Analysis of Deep Neural Networks via Lossy Compression.

    h = -sum_j w_j mean log(e^psi(j) / ((n - 1) V_d r_j^d)) of whitened codes, with log det added back; I(X; L) with a
    label as the second variable is h less the mean h of the classes, here and by Ross's estimate.
    """
    n, k = 600, 12
    mixing = rng.normal(size=(d, d)) + 2 * np.eye(d)
    x = rng.normal(size=(n, d)) @ mixing
    root = np.linalg.cholesky(np.cov(x.T).reshape(d, d))
    white = np.linalg.solve(root, (x - x.mean(axis=0)).T).T
    radii = np.sort(reference.others(white, "euclidean"), axis=1)[:, :k]
    logs = digamma(np.arange(1, k + 1)) - math.log(n - 1) - reference.log_ball(d, "euclidean") - d * np.log(radii)
    weights = np.eye(k)[-1]
    if d >= 4:  # least norm with sum 1 and sum_j w_j Gamma(j + 2 l / d) / Gamma(j) = 0
        j = np.arange(1, k + 1)
        rows = [np.ones(k)] + [np.exp(gammaln(j + 2 * i / d) - gammaln(j)) for i in range(1, d // 4 + 1)]
        weights = np.linalg.pinv(np.array(rows))[:, 0]
    expected = -float(weights @ logs.mean(axis=0)) + np.log(np.diag(root)).sum()
    estimate = entropic.knn_entropy(white, k=k, weighted=True, metric="euclidean", confidence=0.95)
    shift = math.log(n - 1) - digamma(n) + np.log(np.diag(root)).sum()
    assert estimate.value + shift == pytest.approx(expected, abs=1e-9)
    assert estimate.value + shift == pytest.approx(gaussian_entropy(mixing.T @ mixing), abs=0.1 + 0.06 * d)
    assert estimate.low < estimate.value < estimate.high

    labels = rng.integers(0, 3, n)
    moved = white + 4 * labels[:, None]
    parts = [entropic.knn_entropy(moved[labels == c], k=k, metric="euclidean") for c in range(3)]
    shares = np.bincount(labels) / n
    by_entropies = entropic.knn_entropy(moved, k=k, metric="euclidean") - shares @ parts
    by_ross = entropic.knn_mutual_information(moved, labels, discrete=True)
    truth = plug_in_entropy(labels)  # clusters that hardly overlap tell the label
    assert by_ross == pytest.approx(truth, abs=0.12)
    assert by_entropies == pytest.approx(truth, abs=0.2)


def test_lossy_compression_by_kernel_density(rng):
    """Information Bottleneck Analysis of Deep Neural Networks via Lossy Compression: the leave-one-out density.

    h = -mean_i log (1 / (n - 1)) sum_{j != i} N(x_i; x_j, s^2), as log-means that cannot underflow.
    """
    n, d, s = 300, 2, 0.4
    x = rng.normal(size=(n, d)) * [1, 100]  # the second coordinate is far wider than the kernel
    logs = -((x[:, None] - x) ** 2).sum(axis=-1) / (2 * s * s) - d / 2 * math.log(2 * math.pi * s * s)
    np.fill_diagonal(logs, -np.inf)
    estimate = -(entropic.logsumexp(logs, axis=1) - math.log(n - 1)).mean()
    top = logs.max(axis=1, keepdims=True)
    plain = -(top[:, 0] + np.log(np.exp(logs - top).sum(axis=1) / (n - 1))).mean()
    assert estimate == pytest.approx(plain, rel=1e-12)
    assert math.isfinite(estimate)


def test_manifold_entropy_against_mode_collapse(rng):
    """Mode Collapse (manifold entropy): log mean_i min_j mean_d (z_i - b_j)^2 over a ring buffer of 1024.

    The gradient of each point goes to its nearest code alone.
    """
    d, batch = 64, 256
    ring, place = rng.normal(size=(1024, d)).astype(np.float32), 0
    for _ in range(6):  # more than once around the ring
        z = rng.normal(size=(batch, d)).astype(np.float32)
        distances, nearest = entropic.nearest_neighbors(z, ring, k=1)
        value = math.log((distances**2).mean() / d)
        wide = ((z[:, None].astype(float) - ring.astype(float)) ** 2).mean(axis=-1)
        assert value == pytest.approx(math.log(wide.min(axis=1).mean()), abs=1e-12)
        np.testing.assert_array_equal(nearest[:, 0], wide.argmin(axis=1))
        gradient = 2 * (z - ring[nearest[:, 0]]) / (distances**2).sum()
        i, c = 3, 5
        moved = np.zeros((batch, d))
        moved[i, c] = 1e-4

        def shifted(step, z=z, ring=ring):
            found = entropic.nearest_neighbors(z.astype(float) + step, ring, k=1)[0]
            return math.log((found**2).mean() / d)

        assert (shifted(moved) - shifted(-moved)) / 2e-4 == pytest.approx(gradient[i, c], rel=1e-3, abs=1e-9)
        ring[place : place + batch] = z
        place = (place + batch) % 1024


def test_entropy_based_block_pruning(rng):
    """Entropy-Based Block Pruning for Efficient Large Language Models: H(Z_l) - H(Z_{l-1}) by three estimators.

    Layers that shrink all activations by half lose d log 2 by each of them, and layers that rotate lose nothing.
    """
    tokens, d = 400, 512
    layers = [rng.normal(size=(tokens, d))]
    layers.append(layers[-1] @ np.linalg.qr(rng.normal(size=(d, d)))[0])
    layers.append(0.5 * layers[-1])

    def bucket(z):  # per channel, in buckets that are the same for all layers
        return np.mean([plug_in_entropy(np.floor(column / 0.05).astype(int)) for column in z.T])

    for estimate, loss in (
        (bucket, math.log(2)),
        (lambda z: entropic.knn_entropy(z, k=5, metric="euclidean"), d * math.log(2)),
        (lambda z: entropic.knn_entropy(z, k=5, order=2, metric="euclidean"), d * math.log(2)),
    ):
        h = [estimate(z) for z in layers]
        assert h[1] - h[0] == pytest.approx(0, abs=0.02 * loss)
        assert h[2] - h[1] == pytest.approx(-loss, rel=0.15)


def test_summary_statistics_for_approximate_bayesian_computation(rng):
    """Summary statistics for ABC: -psi(k) + log n + log V_p + p mean log r_k with k = 4.

    log n in the one form, psi(n) in the other; mutual information from three entropies.
    """
    n, k = 1500, 4
    covariance = np.array([[1.0, 0.6], [0.6, 1.0]])
    joint = rng.multivariate_normal(np.zeros(2), covariance, size=n)

    def published(x, head):
        p = x.shape[1]
        log_radii = np.log(reference.kth(reference.others(x, "euclidean"), k)).mean()
        return p / 2 * math.log(math.pi) - gammaln(p / 2 + 1) - digamma(k) + head + p * log_radii

    def ours(x):
        return entropic.knn_entropy(x, k=k, metric="euclidean")

    for x in (joint, joint[:, :1], joint[:, 1:]):
        assert ours(x) == pytest.approx(published(x, digamma(n)), abs=1e-10)
        assert ours(x) + math.log(n) - digamma(n) == pytest.approx(published(x, math.log(n)), abs=1e-10)
    assert ours(joint) == pytest.approx(gaussian_entropy(covariance), abs=0.08)
    information = ours(joint[:, :1]) + ours(joint[:, 1:]) - ours(joint)
    assert information == pytest.approx(-0.5 * math.log(1 - 0.36), abs=0.1)


def test_discovering_skills_by_state_entropy_of_each_coordinate(rng):
    """E2MC: (1 / (N - m)) sum log[((N + 1) / m) (u_(i+m) - u_(i))], u = Phi(z).

    That is van Es's estimate without its two constants; the gradient goes through the sort. Squares of the off-diagonal
    covariances over D are added.
    """
    n, d = 256, 128
    z = rng.normal(size=(n, d)) @ (np.eye(d) + 0.05 * rng.normal(size=(d, d)))
    u = ndtr(z)
    m = round(math.sqrt(n))
    ordered = np.sort(u, axis=0)
    published = np.log((n + 1) / m * (ordered[m:] - ordered[:-m])).mean(axis=0)
    constants = sum(1 / j for j in range(m, n + 1)) + math.log(m) - math.log(n + 1)
    values, pullback = entropic.vjp(entropic.spacing_entropy, u, method="van_es", window=m)
    np.testing.assert_allclose(values - constants, published, atol=1e-12)
    gradient = pullback(np.ones(d))[0]

    def coordinate(column):
        sorted_column = np.sort(column)
        return np.log((n + 1) / m * (sorted_column[m:] - sorted_column[:-m])).mean()

    np.testing.assert_allclose(
        gradient[:, 7], finite_difference(coordinate, u[:, 7], 1.0, step=1e-7), rtol=1e-4, atol=1e-5
    )
    covariance = np.cov(z.T)
    penalty = (covariance**2).sum() / d - (np.diag(covariance) ** 2).sum() / d
    assert -float(published.sum()) + penalty > 0  # both terms of the loss at work
    with pytest.raises(ValueError, match="equal values"):  # saturated codes: the paper adds eps inside the logarithm
        entropic.spacing_entropy(np.round(u, 1), method="van_es", window=m)


def test_adaptive_estimators_of_information_flow(rng):
    """Adaptive Estimators Show Information Compression in Deep Neural Networks.

    Equal-count bins over the values that occur, and a Gaussian density whose noise goes with the layer's maximum.
    """
    activations = np.maximum(rng.normal(size=(200, 3)), 0)  # many exact zeros
    edges = np.quantile(np.unique(activations), np.linspace(0, 1, 9)[1:-1])
    codes = np.digitize(activations, edges)
    binary = np.array([[0, 0], [0, 1], [0, 1], [1, 1]])
    assert plug_in_entropy(binary) == pytest.approx(1.5 * math.log(2))
    inputs = np.repeat(np.arange(100), 2)
    labels = inputs % 4
    # Codes as words: their information on the label is H(codes) - H(codes | label).
    words = np.unique(codes, axis=0, return_inverse=True)[1].ravel()
    conditional = np.mean([plug_in_entropy(codes[labels == c]) for c in range(4)])
    information = entropic.knn_mutual_information(words, labels, discrete=(True, True))
    assert information == pytest.approx(plug_in_entropy(codes) - conditional, abs=1e-12)

    noise = 1e-3 * activations.max()
    logs = -((activations[:, None] - activations) ** 2).sum(axis=-1) / (2 * noise)
    bound = -float(entropic.logmeanexp(logs, axis=1).mean())
    direct = -np.mean([math.log(math.fsum(map(math.exp, row)) / len(row)) for row in logs])
    assert bound == pytest.approx(direct, rel=1e-12)


# ---- mutual information ----------------------------------------------------------------------------------------------


def test_disentanglement_via_latent_quantization(rng):
    """Disentanglement via Latent Quantization: I(z_j; s_i) / H(s_i), then (mean max / sum - 1 / K) / (1 - 1 / K).

    Copied factors score 1 and independent ones 0, with codes (plug-in) and with continuous latents (Ross, k = 10).
    """
    n, factors = 2000, 3
    sources = rng.integers(0, 4, size=(n, factors))
    entropies = np.array([plug_in_entropy(column) for column in sources.T])

    def modularity(nmi):  # (latents, sources)
        share = nmi.max(axis=1) / nmi.sum(axis=1)
        return (share.mean() - 1 / factors) / (1 - 1 / factors)

    copied = sources[:, ::-1].copy()
    nmi = entropic.mutual_information_matrix(copied, sources, discrete=True, discrete_y=True) / entropies
    np.testing.assert_allclose(nmi[[0, 1, 2], [2, 1, 0]], 1, atol=1e-12)
    assert modularity(nmi) == pytest.approx(1, abs=0.01)

    continuous = copied + 0.01 * rng.normal(size=copied.shape)
    nmi = (
        entropic.mutual_information_matrix(continuous, sources, k=10, discrete_y=True, transform="standardize")
        / entropies
    )
    assert modularity(nmi) == pytest.approx(1, abs=0.03)
    by_one = entropic.knn_mutual_information(
        continuous[:, 0], sources[:, 1], k=10, discrete=True, transform="standardize"
    )
    assert nmi[0, 1] * entropies[1] == pytest.approx(by_one, abs=1e-12)
    unrelated = rng.normal(size=(n, factors))
    assert np.abs(entropic.mutual_information_matrix(unrelated, sources, k=10, discrete_y=True)).max() < 0.02


def test_trusted_reference_for_score_based_information(rng):
    """MINDE: Mutual Information Neural Diffusion Estimation, and its tests of consistency.

    Additivity, I((X1, X2); (Y1, Y2)) = I(X1; Y1) + I(X2; Y2) for independent pairs, and the data processing inequality.
    """
    n = 4000
    x = rng.normal(size=(n, 2))
    y = 0.8 * x + 0.6 * rng.normal(size=(n, 2))
    truth = -0.5 * math.log(1 - 0.64)
    single = [entropic.knn_mutual_information(x[:, i], y[:, i]) for i in range(2)]
    assert single == pytest.approx([truth, truth], abs=0.05)
    both = entropic.knn_mutual_information(x, y)
    assert both == pytest.approx(sum(single), abs=0.12)
    processed = entropic.knn_mutual_information(np.abs(x[:, 0]), y[:, 0])
    assert processed <= single[0] + 0.03
    cubic = entropic.knn_mutual_information(x[:, 0] ** 3, y[:, 0], transform="rank")
    assert cubic == pytest.approx(entropic.knn_mutual_information(x[:, 0], y[:, 0], transform="rank"), abs=1e-12)


@pytest.mark.parametrize("method", ["ksg1", "ksg2"])
def test_batches_of_small_joints(method, rng):
    """MIST: Mutual Information via Supervised Training: hundreds of thousands of small joints with a known answer."""
    correlations = np.linspace(-0.9, 0.9, 40)
    truth = -0.5 * np.log1p(-(correlations**2))
    errors = []
    for r, expected in zip(correlations, truth, strict=True):
        x = rng.normal(size=400)
        y = r * x + math.sqrt(1 - r * r) * rng.normal(size=400)
        errors.append(entropic.knn_mutual_information(x, y, method=method) - expected)
    assert abs(np.mean(errors)) < 0.02
    assert np.sqrt(np.mean(np.square(errors))) < 0.1


def test_pairs_of_columns_are_the_loop(rng):
    """MIST: Mutual Information via Supervised Training: the batch of pairs is the loop over pairs."""
    x = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
    matrix = entropic.mutual_information_matrix(x)
    for i in range(5):
        for j in range(i):
            assert matrix[i, j] == matrix[j, i]
            assert matrix[i, j] == pytest.approx(entropic.knn_mutual_information(x[:, i], x[:, j]), abs=1e-12)


def test_high_dimensional_screening(rng):
    """High-dimensional screening: very many columns against one response."""
    n, columns = 300, 2000
    x = rng.normal(size=(n, columns))
    y = np.sign(x[:, 17]) * x[:, 1234] + 0.2 * rng.normal(size=n)  # neither of the two correlates with it
    scores = entropic.mutual_information_matrix(x, y)
    assert scores.argmax() == 1234
    noise = np.delete(scores, [17, 1234])
    assert abs(noise.mean()) < 0.01
    assert np.corrcoef(x[:, 1234], y)[0, 1] ** 2 < 0.05


# ---- divergence ------------------------------------------------------------------------------------------------------


def test_gradient_information_optimization(rng):
    """GIO: Gradient Information Optimization for Training Data Selection.

    d mean_ij log|x_i - w_j| - d mean_i log rho_k(x_i) + mean_l log(k m / (l (n - 1))), k = 5, over all m orders l: the
    mean over l of Wang's estimate with the orders k and l. Adding one point is adding one column of distances.
    """
    n, m, d, k = 120, 80, 768, 5
    x, w = rng.normal(size=(n, d)), rng.normal(0.2, 1, size=(m, d))
    near = entropic.nearest_neighbors(x, k=k)[0][:, -1]
    far = entropic.nearest_neighbors(x, w, k=m)[0]
    orders = np.arange(1, m + 1)
    value = d * np.log(far).mean() - d * np.log(near).mean() + np.log(k * m / (orders * (n - 1))).mean()
    every = [
        d * np.log(reference.kth(reference.distances(x, w, "euclidean"), order)).mean()
        - d * np.log(reference.kth(reference.others(x, "euclidean"), k)).mean()
        + math.log(k * m / (order * (n - 1)))
        for order in orders
    ]
    assert value == pytest.approx(np.mean(every), rel=1e-12)

    # With the order k only it is the package's divergence.
    one = d * np.log(far[:, k - 1] / near).mean() + math.log(m / (n - 1))
    assert entropic.knn_divergence(x, w, k=k) == pytest.approx(one, abs=1e-9)

    # All m neighbours of x are all of w: the gradient to w_j is -d mean_i (x_i - w_j) / |x_i - w_j|^2 / m.
    offsets = x[:, None] - w
    gradient = -d * (offsets / (offsets**2).sum(axis=-1)[..., None]).mean(axis=0) / m

    def moved(step):
        at = w.copy()
        at[3, 11] += step
        return d * np.log(entropic.nearest_neighbors(x, at, k=m)[0]).mean()

    assert (moved(1e-4) - moved(-1e-4)) / 2e-4 == pytest.approx(gradient[3, 11], rel=1e-5)

    point = rng.normal(size=(1, d))
    added = np.log(entropic.nearest_neighbors(x, point, k=1)[0]).sum()
    again = entropic.nearest_neighbors(x, np.vstack([w, point]), k=m + 1)[0]
    assert (np.log(far).sum() + added) / (n * (m + 1)) == pytest.approx(np.log(again).mean(), abs=1e-12)


def test_gradient_information_optimization_of_gaussians(rng):
    """GIO: Gradient Information Optimization: the divergence of Gaussians, (1/2) |mean|^2, in few dimensions."""
    shift = np.array([0.8, 0.0])
    x, w = rng.normal(size=(4000, 2)), rng.normal(size=(3000, 2)) + shift
    value, pullback = entropic.vjp(entropic.knn_divergence, x, w, k=5)
    assert value == pytest.approx(0.32, abs=0.06)
    to_x, to_w = pullback(1.0)
    # The neighbours stay the same under a small enough move of w as a whole.
    step = 1e-7 * shift
    moved = entropic.knn_divergence(x, w + step, k=5) - entropic.knn_divergence(x, w - step, k=5)
    assert (to_w @ shift).sum() == pytest.approx(moved / 2e-7, rel=1e-4)
    assert (to_w @ shift).sum() > 0  # farther is more divergent
    np.testing.assert_allclose(to_x.sum(axis=0), -to_w.sum(axis=0), atol=1e-9)


# ---- dimensions ------------------------------------------------------------------------------------------------------


def test_truthfulness_by_local_intrinsic_dimension(rng):
    """Characterizing Truthfulness in Large Language Model Generations with Local Intrinsic Dimension.

    -[mean log(r_j / r_k)]^-1 with some 200 neighbours in a reference set; distances of 0 become 1e-8, infinite values
    become d, and points without a value are left out.
    """
    d, k = 6, 200
    directions = rng.normal(size=(6000, d))
    ball = directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.random((6000, 1)) ** (1 / d)
    centre = np.zeros((1, d))
    dimension = entropic.local_intrinsic_dimension(centre, ball, k=k)
    assert dimension[0] == pytest.approx(d, rel=4 / math.sqrt(k))
    radii = np.sort(reference.distances(centre, ball, "euclidean")[0])[:k]
    assert dimension[0] == pytest.approx(-1 / np.log(radii[:-1] / radii[-1]).mean(), rel=1e-12)

    # The published rules, on the distances: a query that is in the reference set, and one with all neighbours as far.
    queries = np.vstack([ball[:1], centre])
    distances = entropic.nearest_neighbors(queries, ball, k=k)[0]
    assert distances[0, 0] == 0
    floored = np.maximum(distances, 1e-8)
    published = -1 / np.log(floored[:, :-1] / floored[:, -1:]).mean(axis=1)
    assert published[1] == pytest.approx(dimension[0], rel=1e-12)
    assert 0 < published[0] < d + 1
    assert entropic.local_intrinsic_dimension(queries, ball, k=k)[0] == 0  # an atom, without the rules
    square = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    flat = entropic.local_intrinsic_dimension(np.zeros((1, 2)), square, k=4)
    assert np.where(np.isinf(flat), 2, flat).tolist() == [2]


@pytest.mark.parametrize("method", ["mle", "mom"])
def test_local_dimension_as_regularizer(method, rng):
    """LDReg: Local Dimensionality Regularized Self-Supervised Learning: -alpha mean |log LID| or of moments.

    With moments LID is m / (r_k - m), m the mean of the nearer distances; the reference set is detached.
    """
    k, alpha = 20, 0.01
    x, bank = rng.normal(size=(6, 4)), rng.normal(size=(256, 4))
    dimension, pullback = entropic.vjp(entropic.local_intrinsic_dimension, x, bank, k=k, method=method)
    radii = np.sort(reference.distances(x, bank, "euclidean"), axis=1)[:, :k]
    mean = radii[:, :-1].mean(axis=1)
    published = mean / (radii[:, -1] - mean) if method == "mom" else -1 / np.log(radii[:, :-1] / radii[:, -1:]).mean(1)
    np.testing.assert_allclose(dimension, published, rtol=1e-11)
    gradient = pullback(-alpha * np.sign(np.log(dimension)) / dimension / len(x))[0]

    def loss(at):
        found = entropic.local_intrinsic_dimension(at, bank, k=k, method=method)
        return -alpha * np.abs(np.log(found)).mean()

    np.testing.assert_allclose(gradient, finite_difference(loss, x, 1.0, step=1e-6), rtol=1e-4, atol=1e-8)


def test_chaos_as_an_interpretable_benchmark():
    """Chaos as an interpretable benchmark: correlation dimension and sample entropy, by counts at many radii.

    Henon's map has the correlation dimension 1.22 (Grassberger and Procaccia), as a slope of log C(r) in log r.
    """
    n = 4000
    orbit = np.zeros((n + 100, 2))
    for i in range(1, len(orbit)):
        orbit[i] = 1 - 1.4 * orbit[i - 1, 0] ** 2 + orbit[i - 1, 1], 0.3 * orbit[i - 1, 0]
    orbit = orbit[100:]
    radii = np.geomspace(0.01, 0.2, 8)
    sums = np.array([entropic.count_within(orbit, r, strict=True).sum() / (n * (n - 1)) for r in radii])
    assert np.polyfit(np.log(radii), np.log(sums), 1)[0] == pytest.approx(1.22, abs=0.05)

    # Sample entropy: -log of the share of pairs that match in two steps that match in the third as well.
    series, m = orbit[:1000, 0], 2
    r = 0.2 * series.std()
    words = np.lib.stride_tricks.sliding_window_view(series, m + 1)
    matches = [entropic.count_within(w, r, metric="chebyshev").sum() for w in (words[:, :m], words)]
    pairs = [(reference.others(w.copy(), "chebyshev") <= r).sum() for w in (words[:, :m], words)]
    assert matches == pairs
    assert 0.2 < -math.log(matches[1] / matches[0]) < 0.8
