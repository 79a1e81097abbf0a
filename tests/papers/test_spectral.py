"""The papers that spectra and kernel densities serve, each in the few lines that its reader would write."""

import math

import numpy as np
import pytest
from reference import spectral as reference
from reference.logits import finite_difference

import entropic

# ---- diffusion -------------------------------------------------------------------------------------------------------


def test_diffusion_spectral_entropy():
    """Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion Spectral Entropy.

    K = D^-1/2 G D^-1/2 with sigma = 10; p = |lambda|^t / sum; -sum p log2 p; and the authors' kind of example, 1000
    points that are uniform in 256 dimensions.
    """
    x = np.random.default_rng(0).uniform(size=(1000, 256))
    curve = entropic.diffusion_spectral_entropy(x, t=[1, 2, 3, 5])
    assert curve.value == pytest.approx([reference.published_entropy(x, 10.0, t) for t in (1, 2, 3, 5)], abs=1e-9)
    # The older code leaves out the trivial eigenvalue; some add a floor to p.
    q = np.abs(curve.eigenvalues[1:])
    without_first = reference.shannon(q) / math.log(2)
    assert without_first > float(curve.value[0])
    p = q / q.sum() + 1e-9
    assert -(p * np.log2(p)).sum() == pytest.approx(without_first, abs=1e-4)


def test_diffusion_spectral_mutual_information(rng):
    """Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion Spectral Entropy.

    DSMI = sum_b p(b) [mean of 5 random subsets of size n_b - DSE(A | b)], labels or a signal in bins; representations
    that part the classes tell more of them than those that do not.
    """
    y = rng.integers(0, 4, 400)
    parted = 30 * rng.normal(size=(4, 8))[y] + rng.normal(size=(400, 8))
    mixed = 30 * rng.normal(size=(4, 8))[rng.permutation(y)] + rng.normal(size=(400, 8))
    found = [float(entropic.diffusion_spectral_mutual_information(z, y, rng=3)) for z in (parted, mixed)]
    assert found == pytest.approx([reference.published_information(z, y, seed=3) for z in (parted, mixed)], abs=1e-9)
    assert found[0] > 1.5
    assert abs(found[1]) < 0.1
    signal = parted[:, 0]
    edges = np.digitize(signal, np.linspace(signal.min(), signal.max(), 11)[1:-1])
    binned = entropic.diffusion_spectral_mutual_information(parted, signal, rng=3)
    assert float(binned) == pytest.approx(reference.published_information(parted, edges, seed=3), abs=1e-9)


# ---- covariances -----------------------------------------------------------------------------------------------------


def test_memorization_compression_cycles(rng):
    """Memorization-Compression Cycles Improve Generalization: log tr[(Z Z' / |Z|_F^2)^a] / (1 - a), layer by layer.

    Identical rows give 0, orthonormal rows log n; the limit a -> 1; a = 2 by traces.
    """
    layers = rng.normal(size=(6, 32, 64))  # a layer each
    values = entropic.matrix_entropy(layers, order=2, center=False, normalize=False)
    for z, value in zip(layers, values, strict=True):
        gram = z @ z.T / (z * z).sum()
        assert value == pytest.approx(-math.log((gram * gram).sum()), rel=1e-11)
    near = entropic.matrix_entropy(layers, order=1 + 1e-7, center=False, normalize=False)
    np.testing.assert_allclose(near, entropic.matrix_entropy(layers, center=False, normalize=False), atol=1e-6)
    assert entropic.matrix_entropy(np.ones((9, 5)), center=False, normalize=False) == pytest.approx(0, abs=1e-12)
    assert entropic.matrix_entropy(np.eye(9, 12), center=False, normalize=False) == pytest.approx(math.log(9))


def test_evaluation_by_matrix_entropy(rng):
    """Large Language Model Evaluation via Matrix Entropy: rows centred, then normalised; -tr A log A over log d.

    Isotropic rows reach 1; the effective rank is exp of it, as a mean of entropies or a mean of ranks.
    """
    d = 16
    isotropic = np.vstack([np.eye(d), -np.eye(d)])
    assert entropic.matrix_entropy(isotropic) / math.log(d) == pytest.approx(1, abs=1e-12)
    sentences = rng.normal(size=(5, 40, d)) * np.linspace(0.1, 3, d)
    entropies = entropic.matrix_entropy(sentences)
    for z, value in zip(sentences, entropies, strict=True):
        unit = z - z.mean(axis=0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        p = np.linalg.eigvalsh(unit.T @ unit / len(z))
        assert value == pytest.approx(-(p * np.log(p)).sum(), abs=1e-10)
    of_mean, mean_of = math.exp(entropies.mean()) / d, np.exp(entropies).mean() / d
    assert 0 < of_mean <= mean_of < 1


def test_difference_of_effective_ranks(rng):
    """Large Language Model Evaluation via Matrix Entropy (Diff-eRank): untrained less trained effective ranks."""
    untrained = rng.normal(size=(60, 24))
    trained = untrained @ np.diag(np.linspace(0.01, 1, 24) ** 2)
    unit = trained - trained.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    rank = entropic.effective_rank(trained, power=2, center=True, normalize=True)
    assert rank == pytest.approx(reference.effective_rank(unit, 2), rel=1e-10)
    assert entropic.effective_rank(untrained, power=2, center=True, normalize=True) - rank > 3


def test_von_neumann_entropy_of_representations(rng):
    """VNE: An Effective Method for Improving Deep Representation by Manipulating Eigenvalue Distribution.

    Rows l2-normalised, not centred; eigenvalues from singular values of Z / sqrt N; at most log min(N, d); its gradient
    is used both ways.
    """
    for shape in ((32, 8), (8, 32)):
        z = rng.normal(size=shape)
        unit = z / np.linalg.norm(z, axis=1, keepdims=True)
        p = np.linalg.svd(unit / math.sqrt(len(z)), compute_uv=False) ** 2
        value, pullback = entropic.vjp(entropic.matrix_entropy, z, center=False)
        assert value == pytest.approx(-(p * np.log(p)).sum(), abs=1e-10)
        assert value <= math.log(8)
        expected = finite_difference(lambda x: entropic.matrix_entropy(x, center=False), z, 1.0)
        np.testing.assert_allclose(pullback(1.0)[0], expected, atol=1e-8)
        step = 0.1 * pullback(1.0)[0]
        assert entropic.matrix_entropy(z + step, center=False) > value > entropic.matrix_entropy(z - step, center=False)


def test_uncertainty_of_truncated_spectra(rng):
    """UNComp: Uncertainty-Aware Long-Context Compressor: -sum_{i <= k} l log l / log d, k at the elbow, per head.

    Tokens centred and normalised, trace 1; k = d is the whole entropy.
    """
    heads = rng.normal(size=(2, 4, 50, 16)) * np.linspace(3, 0.1, 16)  # batch, heads, tokens, channels
    values = entropic.truncated_matrix_entropy(heads, 5) / math.log(16)
    assert values.shape == (2, 4)
    assert values[1, 3] == pytest.approx(reference.truncated_entropy(heads[1, 3], 5) / math.log(16), abs=1e-11)
    np.testing.assert_allclose(entropic.truncated_matrix_entropy(heads, 16), entropic.matrix_entropy(heads), atol=1e-12)
    assert (np.diff([entropic.truncated_matrix_entropy(heads[0, 0], k) for k in range(1, 17)]) > -1e-12).all()


def test_pruning_tokens_by_matrix_entropy(rng):
    """EntropyPrune: Matrix Entropy Guided Visual Token Pruning: one small problem for each token, thousands an image.

    Both sides of a token's covariance give one entropy, and a batch is the loop.
    """
    tokens = rng.normal(size=(576, 8, 32))  # heads by channels of each token
    values = entropic.matrix_entropy(tokens, center=True, normalize=False)
    for i in (0, 99, 575):
        for side in ("covariance", "singular"):
            expected = reference.matrix_entropy(tokens[i], center=True, normalize=False, side=side)
            assert values[i] == pytest.approx(expected, abs=1e-10)
    flipped = entropic.matrix_entropy(np.swapaxes(tokens, 1, 2), center=False, normalize=False)
    same = entropic.matrix_entropy(tokens, center=False, normalize=False)
    np.testing.assert_allclose(flipped, same, atol=1e-12)
    kept = np.argsort(-values)[:64]
    assert len(np.unique(kept)) == 64


def test_koopman_representations(rng):
    """Koopman representation: rho = (centred covariance + eps I) / trace, -tr rho log rho.

    A batch with fewer rows than columns is not a special case.
    """
    for n in (40, 5):
        z = rng.normal(size=(n, 12))
        covariance = np.cov(z.T) + 1e-3 * np.eye(12)
        p = np.linalg.eigvalsh(covariance)
        assert entropic.von_neumann_entropy(covariance) == pytest.approx(reference.shannon(p), abs=1e-11)


def test_tracing_the_representation_geometry(rng):
    """Tracing the Representation Geometry of Language Models from Pretraining to Post-training.

    RankMe, exp(-sum p log p) with p = singular values over their sum, and the slope of log eigenvalues against log i,
    from a covariance that was streamed over the tokens.
    """
    d, n = 20, 4000
    spectrum = np.arange(1, d + 1) ** -1.3
    basis = np.linalg.qr(rng.normal(size=(n, d)))[0]
    x = basis * np.sqrt(spectrum)  # uncentred moments with exactly this spectrum
    stream = entropic.CovarianceStream(d)
    for part in np.array_split(x, 11):
        stream.update(part)
    assert entropic.spectral_decay(stream) == pytest.approx(-1.3, abs=1e-9)
    assert entropic.effective_rank(stream) == pytest.approx(reference.effective_rank(x, 1), rel=1e-8)
    assert entropic.effective_rank(basis) == pytest.approx(d, rel=1e-10)


def test_maximal_coding_rate_reduction(rng):
    """Learning Diverse and Discriminative Representations via the Principle of Maximal Coding Rate Reduction.

    (1/2) log det(I + d / (m e^2) Z Z') less the same class by class; largest for classes on orthogonal subspaces.
    """
    z = np.linalg.qr(rng.normal(size=(40, 12)))[0].T  # orthonormal rows
    assert entropic.coding_rate(z, eps=0.5) == pytest.approx(6 * math.log1p(40 / (12 * 0.25)), rel=1e-12)
    labels = np.arange(12) % 3
    value, pullback = entropic.vjp(entropic.coding_rate_reduction, z, labels=labels, eps=0.5)
    mixed = z @ np.diag(np.linspace(0.1, 1, 40))
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    assert value > entropic.coding_rate_reduction(mixed[rng.permutation(12)], labels, eps=0.5) - 1e-12
    soft = rng.dirichlet(np.ones(3), 12)
    expected = reference.coding_rate(z, 0.5) - reference.coding_rate_of_classes(z, 0.5, soft)
    assert entropic.coding_rate_reduction(z, soft, eps=0.5) == pytest.approx(expected, rel=1e-9)
    expected = finite_difference(lambda x: entropic.coding_rate_reduction(x, labels, eps=0.5), z, 1.0)
    np.testing.assert_allclose(pullback(1.0)[0], expected, atol=1e-7)


def test_conditioning_of_weights(rng):
    """KappaTune: (1/2) log det(2 pi e W S W') = n / 2 log(2 pi e) + sum log s_i, and s_max / s_min; tensors in batches.

    Orthogonal weights add nothing to the entropy of what they turn.
    """
    weights = np.linalg.qr(rng.normal(size=(3, 10, 10)))[0]
    singular = np.linalg.svd(weights, compute_uv=False)
    np.testing.assert_allclose(np.log(singular).sum(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(entropic.stable_rank(weights), 10, rtol=1e-12)
    np.testing.assert_allclose(entropic.effective_rank(weights), 10, rtol=1e-12)
    scaled = weights * np.linspace(1, 3, 10)
    assert (entropic.effective_rank(scaled) < 10).all()


# ---- kernel matrices and densities -----------------------------------------------------------------------------------


def test_cauchy_schwarz_bottleneck(rng):
    """Cauchy-Schwarz Divergence Information Bottleneck for Regression.

    CS-QMI = log2 mean(Kx o Kt) + log2(mean Kx mean Kt) - 2 log2(N^-3 sum_i Kx_i. Kt_i.), and the conditional form of
    predictions and targets; equal samples give 0, and far ones stay finite.
    """
    n = 128
    x = rng.normal(size=(n, 5))
    t = x[:, :2] + 0.3 * rng.normal(size=(n, 2))
    y, predicted = x[:, :1] ** 2, x[:, :1] ** 2 + 0.2
    # the paper's kernels are exp(-d^2 / (2 s^2)): s is sqrt(2) times ours
    kx, kt = reference.kernel(x, 2.0), reference.kernel(t, 1.0)
    published = (
        math.log2((kx * kt).mean())
        + math.log2(kx.mean() * kt.mean())
        - 2 * math.log2((kx.sum(axis=1) * kt.sum(axis=1)).sum() / n**3)
    )
    ours = entropic.cauchy_schwarz_mutual_information(x, t, sigma_x=2 / math.sqrt(2), sigma_y=1 / math.sqrt(2), base=2)
    assert ours == pytest.approx(published, abs=1e-11)
    widths = {"sigma_x": 2 / math.sqrt(2), "sigma_y": 0.5, "base": 2}
    loss, pullback = entropic.vjp(entropic.cauchy_schwarz_conditional, x, y, predicted, **widths)
    expected = reference.cauchy_schwarz_conditional(x, y, predicted, 2 / math.sqrt(2), 0.5) / math.log(2)
    assert loss == pytest.approx(expected, abs=1e-11)
    assert loss > 0
    assert entropic.cauchy_schwarz_conditional(x, y, y, **widths) == pytest.approx(0, abs=1e-10)
    better = predicted - 5 * n * pullback(1.0)[2] / n
    assert entropic.cauchy_schwarz_conditional(x, y, better, **widths) < loss
    far = entropic.cauchy_schwarz_divergence(x, x + 1e4, sigma=1.0)
    assert math.isfinite(far)
    assert far > 1e7


def test_information_of_noisy_codes(rng):
    """How Does Information Bottleneck Help Deep Learning?: mean[log N(z_i; x_i) - (LSE_j log N(z_i; x_j) - log n)].

    That is what a sample of the mixture tells of its component; the pairwise bounds hold it without samples.
    """
    n, d, s = 400, 3, 0.5
    x = rng.normal(size=(n, d))
    z = x + s * rng.normal(size=(n, d))
    logs = -reference.squares(z, x) / (2 * s * s)
    estimate = float((np.diag(logs) - (entropic.logsumexp(logs, axis=1) - math.log(n))).mean())
    own = d / 2 * math.log(2 * math.pi * math.e * s * s)
    low, high = (bound - own for bound in entropic.mixture_entropy(x, sigma=s))
    assert low - 0.1 <= estimate <= high + 0.1
    pairwise = -np.mean([np.log(np.mean(np.exp(-reference.squares(x[i : i + 1], x) / (2 * s * s)))) for i in range(n)])
    assert high == pytest.approx(pairwise, abs=1e-11)


def test_entropy_and_reconstruction_on_the_sphere(rng):
    """Entropy and reconstruction: -mean_i LSE_j(kappa z_i . z_j) + log C + log n, a von Mises-Fisher density.

    log C at d = 1000, kappa = 10, where Bessel functions underflow, by their series: log of the sphere's area and of
    0F1(d / 2, kappa^2 / 4).
    """
    n, d, kappa = 60, 1000, 10.0
    z = rng.normal(size=(n, d))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    j = np.arange(60.0)
    terms = 2 * j * math.log(kappa / 2) - np.cumsum(np.log(np.maximum(j, 1))) - np.cumsum(np.log(d / 2 + j - 1))
    terms += math.log(d / 2 - 1)
    log_area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
    log_norm = log_area + float(entropic.logsumexp(terms))
    assert log_norm == pytest.approx(reference.log_von_mises_fisher(d, kappa), rel=1e-12)
    entropy = -float(entropic.logmeanexp(kappa * z @ z.T, axis=1).mean()) + log_norm
    assert entropy < log_area  # the uniform density's, than which none is larger


def test_matrix_based_renyi_of_layers(rng):
    """Understanding Convolutional Neural Networks with Information Theory: An Initial Exploration.

    Multivariate matrix-based Renyi entropies of many channels' kernels, with order 1.01: joint entropies are not below
    any single one, and mutual information with a copy is the entropy.
    """
    channels = [rng.normal(size=(50, 3)) for _ in range(5)]
    joint = [entropic.matrix_renyi_entropy(*channels[:k], sigma=2.0) for k in range(1, 6)]
    assert (np.diff(joint) > -1e-9).all()
    expected = reference.matrix_renyi_entropy([reference.kernel(c, 2.0) for c in channels], 1.01)
    assert joint[-1] == pytest.approx(expected, abs=1e-9)
    labels = np.repeat(np.eye(2), 25, axis=0)
    information = entropic.matrix_mutual_information(channels[0], labels, sigma=[2.0, 0.1])
    kernels = reference.kernel(channels[0], 2.0), reference.kernel(labels, 0.1)
    assert information == pytest.approx(reference.matrix_mutual_information(*kernels, 1.01), abs=1e-9)
