"""Spectral entropies from their definitions: dense matrices, all eigenvalues, explicit pairs.

Samples are float64 arrays (n, d). Entropies of diffusion and of kernel matrices are in bits, the others in nats.
"""

import math

import mpmath
import numpy as np
from scipy.special import logsumexp


def squares(x, y):
    """|x_i - y_j|^2 from differences."""
    return ((x[:, None] - y[None]) ** 2).sum(axis=-1)


def shannon(p):
    p = np.abs(p) / np.abs(p).sum()
    p = p[p > 0]
    return -float((p * np.log(p)).sum())


# ---- diffusion -------------------------------------------------------------------------------------------------------


def kernel(x, sigma):
    return np.exp(-squares(x, x) / (2 * sigma**2))


def adaptive_affinity(x, k):
    """exp(-d_ij^2 / (s_i s_j)), s_i the distance to the k-th other point."""
    far = squares(x, x)
    scale = np.sqrt(np.sort(far, axis=1)[:, k])
    return np.exp(-far / (scale[:, None] * scale))


def knn_affinity(x, k):
    """(A + A') / 2 with ones for the k nearest others and for oneself."""
    nearest = np.argsort(squares(x, x), axis=1, kind="stable")[:, : k + 1]
    a = np.zeros((len(x), len(x)))
    np.put_along_axis(a, nearest, 1.0, axis=1)
    return (a + a.T) / 2


def diffusion_matrix(affinity, alpha=0.0):
    """Symmetric and similar to the random walk on G / (d_i d_j)^alpha."""
    d = affinity.sum(axis=1)
    w = affinity / (d[:, None] * d) ** alpha
    e = w.sum(axis=1)
    return w / np.sqrt(e[:, None] * e)


def diffusion_spectral_entropy(affinity, t, alpha=0.0):
    return shannon(np.abs(np.linalg.eigvalsh(diffusion_matrix(affinity, alpha))) ** t) / math.log(2)


def diffusion_entropy_of_line(n, t):
    """Of n points between 0 and 1 with sigma = 1, from eigenvalues of 60 digits."""
    with mpmath.workdps(60):
        g = mpmath.matrix(n, n)
        for i in range(n):
            for j in range(n):
                g[i, j] = mpmath.exp(-((mpmath.mpf(i - j) / (n - 1)) ** 2) / 2)
        root = [1 / mpmath.sqrt(mpmath.fsum(g[i, j] for j in range(n))) for i in range(n)]
        k = mpmath.matrix(n, n)
        for i in range(n):
            for j in range(n):
                k[i, j] = root[i] * g[i, j] * root[j]
        q = [abs(x) ** mpmath.mpf(t) for x in mpmath.eigsy(k, eigvals_only=True)]
        total = mpmath.fsum(q)
        return float(-mpmath.fsum(x / total * mpmath.log(x / total, 2) for x in q if x > 0))


def published_entropy(x, sigma=10.0, t=1):
    """The arithmetic of the published code: two products with dense diagonal matrices, and eps beside p."""
    norms = (x * x).sum(axis=1)
    distances = np.sqrt(np.maximum(norms[:, None] + norms - 2 * x @ x.T, 0))
    np.fill_diagonal(distances, 0)
    g = np.exp(-(distances**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    root = np.diag(1 / np.sqrt(g.sum(axis=1)))
    k = root @ g @ root
    assert np.allclose(k, k.T)
    p = np.abs(np.linalg.eigvalsh(k)) ** t
    p = p / p.sum()
    p = p + np.finfo(float).eps
    return -float((p * np.log2(p)).sum())


def published_information(x, labels, sigma=10.0, t=1, repeats=5, seed=0):
    """Classes against random sets of their size, by the published arithmetic."""
    rng = np.random.default_rng(seed)
    total = 0.0
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        sets = [rng.choice(len(x), len(rows), replace=False) for _ in range(repeats)]
        mean = np.mean([published_entropy(x[s], sigma, t) for s in sets])
        total += len(rows) / len(x) * (mean - published_entropy(x[rows], sigma, t))
    return total


# ---- exact spectra ---------------------------------------------------------------------------------------------------


def circle_spectrum(n, radius, sigma):
    """Equally spaced points on a circle: the kernel is a circulant, whose eigenvalues are the transform of a row."""
    chord = 2 * radius * np.sin(math.pi * np.arange(n) / n)
    row = np.exp(-(chord**2) / (2 * sigma**2))
    return np.fft.fft(row).real / row.sum()


def simplex_spectrum(n, g):
    """n points with the kernel value g between any two."""
    return np.append(np.full(n - 1, (1 - g) / (1 + (n - 1) * g)), 1.0)


def gaussian_limit(scales, sigma, t, alpha=0.0):
    """Entropy in bits for infinitely many points of N(0, diag scales^2): eigenvalues are products of rho_i^j."""
    total = 0.0
    for s in scales:
        narrowed = 1 / (1 / s**2 - alpha / (s**2 + sigma**2))
        q = (narrowed / (narrowed + sigma**2)) ** t
        total += (-(1 - q) * math.log2(1 - q) - q * math.log2(q)) / (1 - q)
    return total


# ---- covariances -----------------------------------------------------------------------------------------------------


def prepared(x, center=True, normalize=True):
    z = x - x.mean(axis=0) if center else x
    if normalize:
        norms = np.linalg.norm(z, axis=1, keepdims=True)
        z = np.divide(z, norms, where=norms > 0, out=np.zeros_like(z))
    return z


def matrix_entropy(x, order=1.0, center=True, normalize=True, side="covariance"):
    """Renyi's entropy of the normalised eigenvalues, by the covariance, the Gram matrix or singular values."""
    z = prepared(x, center, normalize)
    if side == "singular":
        p = np.linalg.svd(z, compute_uv=False) ** 2
    else:
        p = np.linalg.eigvalsh(z.T @ z if side == "covariance" else z @ z.T)
    p = np.clip(p, 0, None) / np.clip(p, 0, None).sum()
    if order == 1:
        return shannon(p)
    if math.isinf(order):
        return -math.log(p.max())
    return math.log((p[p > 1e-14] ** order).sum()) / (1 - order)


def effective_rank(x, power):
    return math.exp(shannon(np.linalg.svd(x, compute_uv=False) ** power))


def truncated_entropy(x, k):
    z = prepared(x)
    p = np.sort(np.clip(np.linalg.eigvalsh(z.T @ z), 0, None))[::-1] / (z * z).sum()
    return -sum(v * math.log(v) for v in p[:k] if v > 0)


def coding_rate(z, eps):
    n, d = z.shape
    return 0.5 * np.linalg.slogdet(np.eye(d) + d / (n * eps**2) * z.T @ z)[1]


def coding_rate_of_classes(z, eps, weights):
    """sum_j (tr Pi_j / 2 n) log det(I + d / (tr Pi_j eps^2) z' Pi_j z) for memberships (n, classes)."""
    n, d = z.shape
    total = 0.0
    for w in weights.T:
        size = w.sum()
        total += size / n * 0.5 * np.linalg.slogdet(np.eye(d) + d / (size * eps**2) * (z.T * w) @ z)[1]
    return total


# ---- kernel matrices -------------------------------------------------------------------------------------------------


def matrix_renyi_entropy(kernels, order):
    """In bits, of the Hadamard product of kernels, over its trace."""
    a = np.prod(kernels, axis=0)
    a = a / np.sqrt(np.outer(np.diag(a), np.diag(a))) / len(a)
    p = np.clip(np.linalg.eigvalsh(a), 0, None)
    return shannon(p) / math.log(2) if order == 1 else math.log2((p**order).sum()) / (1 - order)


def matrix_mutual_information(k, other, order):
    own = matrix_renyi_entropy([k], order) + matrix_renyi_entropy([other], order)
    return own - matrix_renyi_entropy([k, other], order)


# ---- kernel densities ------------------------------------------------------------------------------------------------


def log_mean_kernel(x, y, sigma, without_self=False):
    """log mean_ij exp(-|x_i - y_j|^2 / (4 sigma^2))."""
    scores = -squares(x, y) / (4 * sigma**2)
    if without_self:
        scores = scores[~np.eye(len(x), dtype=bool)]
    return float(logsumexp(scores)) - math.log(scores.size)


def cauchy_schwarz_divergence(x, y, sigma, unbiased=False):
    within = log_mean_kernel(x, x, sigma, unbiased) + log_mean_kernel(y, y, sigma, unbiased)
    return within - 2 * log_mean_kernel(x, y, sigma)


def cauchy_schwarz_mutual_information(x, y, sigma_x, sigma_y):
    k, kernel_y = kernel(x, math.sqrt(2) * sigma_x), kernel(y, math.sqrt(2) * sigma_y)
    across = (k.mean(axis=1) * kernel_y.mean(axis=1)).mean()
    return math.log((k * kernel_y).mean()) + math.log(k.mean() * kernel_y.mean()) - 2 * math.log(across)


def cauchy_schwarz_conditional(x, y, z, sigma_x, sigma_y, squared_sum=False):
    def between(a, b, sigma):
        return np.exp(-squares(a, b) / (4 * sigma**2))

    k = between(x, x, sigma_x)
    below = k.sum(axis=0) ** 2 if squared_sum else (k**2).sum(axis=0)

    def part(a, b):
        return math.log(((k * between(a, b, sigma_y)).sum(axis=0) / below).sum())

    return part(y, y) + part(z, z) - 2 * part(z, y)


def kde_entropy(x, sigma, leave_one_out=True):
    n, d = x.shape
    scores = -squares(x, x) / (2 * sigma**2)
    if leave_one_out:
        np.fill_diagonal(scores, -np.inf)
    log_norm = math.log(n - 1 if leave_one_out else n) + d / 2 * math.log(2 * math.pi * sigma**2)
    return log_norm - float(logsumexp(scores, axis=1).mean())


def mixture_entropy(means, sigma, weights):
    """Lower and upper bound of Kolchinsky and Tracey."""
    d = means.shape[1]
    own = d / 2 * math.log(2 * math.pi * math.e * sigma**2)
    bounds = []
    for factor in (8, 2):
        logs = logsumexp(-squares(means, means) / (factor * sigma**2), b=weights, axis=1)
        bounds.append(own - float(weights @ logs))
    return tuple(bounds)


def log_von_mises_fisher(d, kappa):
    """log of (2 pi)^(d/2) I_(d/2 - 1)(kappa) / kappa^(d/2 - 1), the integral of exp(kappa <z, mu>) over the sphere."""
    v = mpmath.mpf(d) / 2 - 1
    return float(mpmath.log((2 * mpmath.pi) ** (v + 1) * mpmath.besseli(v, kappa) / mpmath.mpf(kappa) ** v))
